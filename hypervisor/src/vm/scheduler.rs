//! What each CPU does for ever: take the vCPUs that are given to it, choose one, run it until it gives the CPU back.
//!
//! Which one, and for how long, is `bulkhead_core::sched`'s. A vCPU stays on its CPU from the start of its VM to the end.

use super::run::{Left, Running};
use super::shared::{self, Ending, Wanted};
use super::{control, machine};
use crate::arch::cpu::{rdtsc, take_nmi};
use crate::pcpu::checks::{self, Watch};
use crate::pcpu::{self, Pcpu, call};
use crate::secmem::hooks;
use crate::vmx::enter::{self, RunFrame};
use crate::vmx::instruction;
use crate::vmx::vmcs;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::fault::StopReason;
use bulkhead_core::insn::Gprs;
use bulkhead_core::ledger::VmId;
use bulkhead_core::lifecycle::End;
use bulkhead_core::sched::{CpuScheduler, Decision, EntityId, GroupId};
use bulkhead_core::vcpu::{Activity, Readiness};
use core::sync::atomic::Ordering;

/// One CPU's vCPUs.
struct Local {
    own: &'static Pcpu,
    scheduler: CpuScheduler,
    /// By [`EntityId`]. They grow when a VM starts; their memory is counted with the vCPUs' (`models::heap_needed`).
    slots: Vec<Option<Slot>>,
    /// Whose registers the processor holds.
    loaded: Option<usize>,
    /// The VM whose vCPU ran last.
    last_vm: Option<VmId>,
}

struct Slot {
    running: Box<Running>,
    /// Kept from running by the operator.
    parked: bool,
    /// Its ticks in the guest that its CPU has counted.
    guest_ticks: u64,
}

/// Runs vCPUs on this CPU for ever. The boot CPU also has `control` look after the VMs.
pub fn run_vcpus(mut control: Option<control::Control>) -> ! {
    let own = pcpu::this();
    let mut local = Local {
        own,
        scheduler: CpuScheduler::new(machine().tsc_khz),
        slots: Vec::new(),
        loaded: None,
        last_vm: None,
    };
    own.began.store(rdtsc(), Ordering::Relaxed);
    let mut watch = Watch::new(own);
    loop {
        own.look.store(false, Ordering::SeqCst);
        call::serve(own);
        local.accept();
        local.look_around();
        let mut now = rdtsc();
        let mut duty = watch.step(now);
        let mut is_busy = false;
        if let Some(control) = &mut control {
            let control = control.step(now);
            is_busy = control.is_busy;
            duty = Some(duty.map_or(control.at, |duty| duty.min(control.at)));
            now = rdtsc();
        }
        let until = |until: u64| duty.map_or(until, |duty| duty.min(until));
        match local.scheduler.pick(now) {
            Decision::Run { entity, until: end } => local.run(entity, until(end)),
            // A CPU that has nothing better to do goes on with what it was to leave off for a while.
            Decision::Idle { .. } if is_busy => {}
            Decision::Idle { until: end } => {
                let end = end.map_or(duty, |end| Some(until(end)));
                if end.is_none_or(|end| end > now) {
                    pcpu::idle(end);
                }
            }
        }
    }
}

impl Local {
    /// Takes the vCPUs that were put into the inbox.
    fn accept(&mut self) {
        loop {
            let Some(running) = self.own.inbox.lock().pop() else {
                return;
            };
            let free = self.slots.iter().position(Option::is_none);
            let index = free.unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            let group = GroupId(running.host.vm.id.0);
            let share = running.host.vm.share;
            if self
                .scheduler
                .add(EntityId(index as u16), group, share, rdtsc())
                .is_err()
            {
                unreachable!("slot {index} is free, and its vCPU is scheduled");
            }
            if let Some(slot) = self.slots.get_mut(index) {
                *slot = Some(Slot {
                    running,
                    parked: false,
                    guest_ticks: 0,
                });
            }
        }
    }

    /// Follows what the VMs' owners want, and wakes vCPUs that something waits for.
    fn look_around(&mut self) {
        for index in 0..self.slots.len() {
            let Some(Some(slot)) = self.slots.get_mut(index) else {
                continue;
            };
            let entity = EntityId(index as u16);
            slot.running.host.traced = slot.running.host.vm.is_traced();
            if slot.running.is_asked() {
                slot.say(self.own);
            }
            match slot.running.host.vm.wanted() {
                Wanted::Run => {
                    let unparked = core::mem::take(&mut slot.parked);
                    if (unparked || slot.running.mail_waits()) && self.scheduler.wake(entity) {
                        slot.running.vcpu.counters.set_waits(rdtsc(), false);
                    }
                }
                Wanted::Parked => {
                    if !core::mem::replace(&mut slot.parked, true) {
                        self.scheduler.block(entity, None);
                        slot.running.vcpu.counters.set_waits(rdtsc(), true);
                    }
                }
                Wanted::Nothing => self.give_back(index),
            }
        }
    }

    /// Gives a vCPU back to its VM's owner.
    fn give_back(&mut self, index: usize) {
        let Some(Some(mut slot)) = self.slots.get_mut(index).map(Option::take) else {
            return;
        };
        slot.say(self.own);
        self.scheduler.remove(EntityId(index as u16));
        if self.loaded == Some(index) {
            self.loaded = None;
        }
        let running = slot.running;
        // SAFETY: the frame is a VMCS of this vCPU's.
        #[allow(unsafe_code, reason = "the VMCS is raw memory")]
        if let Err(failed) = unsafe { instruction::vmclear(running.vmcs) } {
            panic!("{failed}, of a VMCS that was in use");
        }
        let frame = enter::frame_at(self.own.exit_stack);
        // SAFETY: the exit stack is this CPU's, and not in use: no guest runs here.
        #[allow(unsafe_code, reason = "the frame lies on a raw stack")]
        unsafe {
            // The registers of whichever guest was here last.
            (*frame).gpr = Gprs([0; 16]);
        }
        let vm = running.host.vm;
        vm.returned.lock().push(running);
        if let Some(boot) = pcpu::all().first() {
            boot.kick();
        }
    }

    /// Has the processor hold the registers and the VMCS of the vCPU at `index`.
    fn switch_to(&mut self, index: usize) {
        if self.loaded == Some(index) {
            return;
        }
        if let Some(Some(before)) = self.loaded.and_then(|before| self.slots.get_mut(before)) {
            before.running.switched.save();
        }
        let had_another = self.loaded.replace(index).is_some();
        let Some(Some(Slot { running, .. })) = self.slots.get_mut(index) else {
            return;
        };
        if had_another {
            running.vcpu.counters.switches += 1;
            self.own.switches.fetch_add(1, Ordering::Relaxed);
        }
        let vm = running.host.vm;
        let last = self.last_vm.replace(vm.id);
        let from_another = last.is_some_and(|last| last != vm.id);
        if last != Some(vm.id) {
            if let Some(last) = last.and_then(shared::by_id) {
                hooks::vm_scheduled_out(last);
            }
            hooks::vm_scheduled_in(vm);
        }
        let loaded = match running.entry.take() {
            Some(entry) => {
                running.launched = false;
                vmcs::fill(running, &entry)
            }
            // SAFETY: the frame is a VMCS of this vCPU's, filled on this CPU.
            #[allow(unsafe_code, reason = "the VMCS is raw memory")]
            None => unsafe { instruction::vmptrld(running.vmcs) },
        };
        if let Err(failed) = loaded {
            panic!("{failed}, of a VMCS that was set up for it");
        }
        running.switched.load(running.vcpu.xcr0());
        if from_another {
            self.own.barrier.cross();
        }
    }

    /// Runs a vCPU until it gives the CPU back, at `until` at the latest.
    fn run(&mut self, entity: EntityId, until: u64) {
        let index = usize::from(entity.0);
        // What it takes to bring the vCPU here is its own time: one that comes often and stays briefly pays for that.
        let begin = rdtsc();
        self.switch_to(index);
        let own = self.own;
        let Some(Some(Slot { running, .. })) = self.slots.get_mut(index) else {
            return;
        };
        running.vcpu.begin(begin, until);
        running.begin(own);
        let me = running.host.me;
        running.host.vm.set_deaf(me, false);
        running.take_mail();
        running.left = Left::GaveBack;
        let unsent = running.unsent.is_waiting() && running.unsent.resume(running.host.vm);
        let ready = !unsent && running.vcpu.prepare_entry(&mut running.host) == Readiness::Enter;
        if ready && !own.look.load(Ordering::SeqCst) {
            enter(running, own.exit_stack);
        }
        running.set_running(false);
        let end = rdtsc();
        running.vcpu.end(end);
        self.scheduler.charge(entity, end.wrapping_sub(begin));
        match running.left {
            Left::GaveBack => {}
            Left::HostNmi => take_nmi(),
            Left::Stopped(reason) => {
                running.end_vm(reason);
                return;
            }
            Left::MachineCheck => {
                if !checks::left_guest(own) {
                    running.host.vm.end(Ending {
                        end: End::Hardware,
                        rip: None,
                    });
                    return;
                }
            }
        }
        if running.vcpu.activity() != Activity::Active {
            if running.halted_for_good() {
                running.end_vm(StopReason::HaltedForGood);
            } else if !running.mail_waits() && !running.unsent.is_waiting() {
                self.scheduler.block(entity, running.vcpu.next_timer(end));
            }
        }
    }
}

impl Slot {
    /// Tells everybody what the vCPU did so far.
    fn say(&mut self, own: &Pcpu) {
        let counters = &mut self.running.vcpu.counters;
        counters.settle(rdtsc());
        let guest = counters.guest_ticks().max(self.guest_ticks);
        own.guest_ticks
            .fetch_add(guest - self.guest_ticks, Ordering::Relaxed);
        self.guest_ticks = guest;
        self.running.say();
    }
}

/// Into the guest, and out again.
fn enter(running: &mut Running, exit_stack: u64) {
    let frame = enter::frame_at(exit_stack);
    let context: *mut Running = running;
    let first = RunFrame::new(running.gprs, context);
    // SAFETY: the exit stack is this CPU's, and not in use: no guest runs here.
    #[allow(unsafe_code, reason = "the frame lies on a raw stack")]
    unsafe {
        frame.write(first)
    };
    let launched = core::mem::replace(&mut running.launched, true);
    // SAFETY: the frame is the one `vmcs::fill` named on this CPU, and `running` is not touched until `run` returns.
    #[allow(unsafe_code, reason = "enters the guest")]
    let entered = unsafe { enter::run(frame, launched) };
    // SAFETY: the handler is done with the frame, which nothing has overwritten since.
    #[allow(unsafe_code, reason = "the frame lies on a raw stack")]
    let gprs = unsafe { (*frame).gpr };
    running.gprs = gprs;
    if entered.is_err() {
        running.left = Left::Stopped(StopReason::EntryRefused(instruction::entry_failure().error));
    }
}
