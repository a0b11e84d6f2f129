//! The VMs' owner, on the boot CPU: starts, ends and starts again, looks at the console, follows the clock.
//!
//! [`Control::step`] does a little and comes back: the boot CPU runs vCPUs too. What a VM does next is decided by its
//! `Lifecycle`; this module carries it out. What an operator types is `command`'s, what the numbers are `report`'s.

use super::command::Asked;
use super::destroy::{Destroy, Freed};
use super::load::Load;
use super::report::{MachineNumbers, VmNumbers};
use super::shared::{Ending, VmBus, Wanted};
use super::{Vm, VmError, ticks, uptime};
use crate::arch::cpu::{self, rdtsc};
use crate::arch::power::PowerOff;
use crate::console::terminal::{Terminal, try_exchange};
use crate::console::{CONSOLE, EVENTS};
use crate::pcpu::call;
use crate::secmem::hooks;
use crate::secmem::sealed::Sealed;
use crate::vmx::operation;
use crate::{events, iommu, memory};
use alloc::vec::Vec;
use bulkhead_core::addr::FrameCount;
use bulkhead_core::call::Requests;
use bulkhead_core::events::Event;
use bulkhead_core::fault::StopReason;
use bulkhead_core::ledger::Audit;
use bulkhead_core::lifecycle::{Action, End, Lifecycle, Order, Refusal, State};
use core::fmt::Display;
use core::sync::atomic::Ordering;
use core::time::Duration;
use guest_loader::EntryState;

/// The console is looked at so many times a second.
const LOOKS_PER_SECOND: u64 = 500;
/// Frames that are counted at a time: a fraction of a millisecond.
pub(super) const AUDIT_FRAMES: FrameCount = FrameCount(1 << 13);
/// How long a stopped guest's last words may wait for a terminal that takes none.
const LAST_WORDS_MS: u64 = 2_000;

/// Everything the boot CPU looks after.
pub struct Control {
    pub(super) vms: Vec<Controlled>,
    pub(super) terminal: Terminal,
    /// A command whose answer is being gathered.
    pub(super) asked: Option<Asked>,
    /// Host TSC at which the VMs were listed last.
    pub(super) listed: u64,
    power: PowerOff,
    next_look: u64,
    /// Nothing goes on until an operator says so.
    rests: bool,
}

/// When [`Control::step`] wants to be called again.
#[derive(Clone, Copy, Debug)]
pub struct Duty {
    /// The host TSC.
    pub at: u64,
    /// It would go on at once if the CPU had nothing else to do.
    pub is_busy: bool,
}

pub(super) struct Controlled {
    pub(super) vm: Vm,
    pub(super) life: Lifecycle,
    /// The ticks that it had used when it was listed last.
    pub(super) listed: u64,
    work: Work,
    audit: Audit,
    /// Its vCPUs are with their CPUs.
    out: bool,
    /// Host TSC at which they were back, until the VM is reported on.
    back: Option<u64>,
    /// It is to be loaded once what there is to do is done.
    to_load: bool,
    /// It was loaded before: memory that it keeps holds what a run left.
    used: bool,
    /// Host TSC from which to which it ran last.
    ran: (u64, Option<u64>),
    /// Host TSC since which it is paused.
    paused: Option<u64>,
    /// It was said of this pause that all its memory is sealed.
    told_sealed: bool,
    owed: Owed,
    /// What ended the run before.
    last: Option<End>,
}

/// What its devices are still to be told, once nobody has them. The boot CPU does not wait for them: they are locked by vCPUs
/// as often as the guest likes, and other VMs' vCPUs have their turns here.
#[derive(Clone, Copy, Default, Debug)]
struct Owed {
    /// The power button was pressed.
    button: bool,
    /// Its vCPUs may run again, and its watchdog's time with them.
    unpark: bool,
}

/// What is being done with a VM, a piece at a time.
enum Work {
    None,
    /// Sealing its memory, now that it is paused.
    Seal,
    /// Giving its memory back.
    Destroy(Destroy),
    /// Counting the machine's frames, now that the VM holds none, or those only that it keeps.
    Count,
    /// Giving it memory and loading its guest.
    Load(Load),
}

impl Control {
    /// Looks after `vms`, none of which runs yet.
    #[must_use]
    pub fn new(vms: Vec<Vm>, power: PowerOff) -> Self {
        let shared = vms.iter().map(|vm| vm.shared).collect();
        Self {
            vms: vms.into_iter().map(Controlled::new).collect(),
            terminal: Terminal::new(shared),
            asked: None,
            listed: rdtsc(),
            power,
            next_look: 0,
            rests: false,
        }
    }

    /// Starts the VMs that start with the machine.
    pub fn start(&mut self) {
        let now = rdtsc();
        for vm in self.vms.iter_mut().filter(|vm| vm.vm.plan.autostart) {
            // A VM that never ran can be started.
            let _ = vm.order(Order::Start, now);
        }
    }

    /// Does what is due at host TSC `now`, and says when it wants to be called again.
    pub fn step(&mut self, now: u64) -> Duty {
        let mut is_busy = false;
        if now >= self.next_look {
            let period = ticks(1_000) / LOOKS_PER_SECOND;
            self.next_look = now.saturating_add(period);
            EVENTS.lock().pump();
            if let Some(mut iommu) = iommu::try_lock() {
                iommu.look(now, &mut |_| {});
            }
            for vm in &mut self.vms {
                vm.look(now);
            }
            if let Some(command) = self.terminal.look() {
                self.command(command, now);
                is_busy = true;
            }
        }
        is_busy |= self.gather(now);
        for (index, vm) in self.vms.iter_mut().enumerate() {
            is_busy |= vm.step(now);
            if matches!(vm.work, Work::Load(_)) {
                self.terminal.forget(index);
            }
        }
        self.rest();
        // The CPU's vCPUs get as much of it as this took, whatever made it take long.
        let done = rdtsc();
        let fair = done.saturating_add(done.saturating_sub(now));
        let at = if is_busy {
            fair
        } else {
            self.next_look.max(fair)
        };
        Duty { at, is_busy }
    }

    /// What follows where no VM runs or will by itself: switches the machine off, unless an operator wants it so.
    fn rest(&mut self) {
        let rests = self.vms.iter().all(Controlled::is_at_rest);
        if rests && !self.vms.iter().any(|vm| vm.life.awaits_operator()) {
            self.switch_off();
        }
        if rests && !self.rests {
            log::info!("no VM runs; `start` at the prompt, which Ctrl-] opens, starts one");
        }
        self.rests = rests;
    }

    fn switch_off(&self) -> ! {
        log::info!("every VM has stopped; switching the machine off");
        let mut audit = Audit::default();
        let balanced = loop {
            if let Some(balanced) = audit.step(&memory::lock().ledger, AUDIT_FRAMES) {
                break balanced;
            }
        };
        MachineNumbers::gather(balanced).send();
        events::send(&Event::MachineOff {
            reason: &"every VM has stopped",
        });
        CONSOLE.lock().serial.flush();
        EVENTS.lock().flush();
        if let Err(silent) = call::elsewhere(Requests::LEAVE) {
            log::warn!("{silent}");
        }
        operation::turn_off();
        self.power.now();
        cpu::stop()
    }
}

impl Controlled {
    fn new(vm: Vm) -> Self {
        Self {
            life: Lifecycle::new(vm.plan.restart, vm.plan.stop_timeout),
            vm,
            listed: 0,
            work: Work::None,
            audit: Audit::default(),
            out: false,
            back: None,
            to_load: false,
            used: false,
            ran: (0, Some(0)),
            paused: None,
            told_sealed: false,
            owed: Owed::default(),
            last: None,
        }
    }

    /// Whether its CPUs have its vCPUs.
    pub(super) const fn is_out(&self) -> bool {
        self.out
    }

    /// Whether frames of its may be bad that a machine check hit: nobody is to read them.
    pub(super) fn is_lost(&self) -> bool {
        let is_cleared = matches!(self.work, Work::Load(_)) && self.last == Some(End::Hardware);
        is_cleared || self.vm.shared.is_hit()
    }

    /// How long it has run, or had when it ended.
    pub(super) fn ran(&self, now: u64) -> Duration {
        let (from, to) = self.ran;
        uptime(to.unwrap_or(now).saturating_sub(from))
    }

    const fn is_at_rest(&self) -> bool {
        matches!(self.life.state(), State::Stopped) && !self.out && matches!(self.work, Work::None)
    }

    /// An operator's order, at host TSC `now`.
    pub(super) fn order(&mut self, order: Order, now: u64) -> Result<Action, Refusal> {
        let action = self.life.order(order, uptime(now))?;
        self.apply(action, now);
        Ok(action)
    }

    /// What is looked at many times a second.
    fn look(&mut self, now: u64) {
        try_exchange(self.vm.shared);
        if self.is_to_be_sealed() {
            self.work = Work::Seal;
        }
        // One that is still to be unparked has its watchdog's time put forward first.
        if self.life.state() == State::Running && !self.owed.unpark {
            self.watch(now);
        }
    }

    /// Ends a VM whose watchdog ran out.
    fn watch(&self, now: u64) {
        let shared = self.vm.shared;
        let timeout_ms = {
            let Some(devices) = shared.visit_devices() else {
                return;
            };
            if !devices.watchdog_expired(now) {
                return;
            }
            devices.watchdog_ms()
        };
        if shared.wanted() != Wanted::Nothing {
            events::send(&Event::Watchdog {
                vm: self.vm.plan.name.as_str(),
                timeout: Duration::from_millis(timeout_ms.into()),
            });
        }
        shared.end(Ending {
            end: End::Watchdog,
            rip: None,
        });
    }

    /// A piece of what is to be done; true where more is to be done at once.
    fn step(&mut self, now: u64) -> bool {
        if self.out && self.vm.shared.returned.lock().len() == self.vm.shared.vcpus.len() {
            self.out = false;
            self.ran.1 = Some(now);
            self.back = Some(now);
        }
        if let Some(back) = self.back {
            let patience = ticks(LAST_WORDS_MS);
            let last_words = try_exchange(self.vm.shared);
            if (last_words || now.saturating_sub(back) > patience) && self.vm.disconnect() {
                self.back = None;
                self.ended(now);
            }
        }
        let action = self.life.tick(uptime(now));
        self.apply(action, now);
        self.pay(now);
        self.work(now)
    }

    fn apply(&mut self, action: Action, now: u64) {
        let shared = self.vm.shared;
        let vm = self.vm.plan.name.as_str();
        match action {
            Action::Nothing => {}
            Action::LoadAndRun if !matches!(self.work, Work::None) => self.to_load = true,
            Action::LoadAndRun => self.begin_load(),
            Action::Park => {
                // Where it is still to be unparked, its pause goes on.
                if !core::mem::take(&mut self.owed.unpark) {
                    self.paused = Some(now);
                    shared.park(true);
                }
                events::send(&Event::VmPause { vm });
            }
            Action::Unpark => self.unpark(),
            Action::PressPowerButton { unpark } => {
                self.owed.button = true;
                if unpark {
                    self.unpark();
                }
            }
            Action::HardStop => shared.end(Ending {
                end: End::Operator,
                rip: None,
            }),
        }
    }

    fn unpark(&mut self) {
        self.owed.unpark = true;
        self.told_sealed = false;
        if matches!(self.work, Work::Seal) {
            self.work = Work::None;
        }
        events::send(&Event::VmResume {
            vm: self.vm.plan.name.as_str(),
        });
    }

    /// Tells the devices what they are to be told, unless somebody has them.
    fn pay(&mut self, now: u64) {
        if !self.owed.button && !self.owed.unpark {
            return;
        }
        let shared = self.vm.shared;
        let Some(mut devices) = shared.visit_devices() else {
            return;
        };
        let Owed { button, unpark } = core::mem::take(&mut self.owed);
        if button {
            devices.press_power_button(&mut VmBus(shared));
        }
        if !unpark {
            return;
        }
        if let Some(since) = self.paused.take() {
            devices.postpone_watchdog(now.saturating_sub(since));
        }
        drop(devices);
        shared.park(false);
    }

    fn begin_load(&mut self) {
        // What ends it from here on ends the life that begins.
        *self.vm.shared.ending.lock() = None;
        self.vm.shared.hit.store(false, Ordering::SeqCst);
        self.work = Work::Load(Load::begin(self.used));
        self.used = true;
    }

    /// The next piece of work; true where there is more.
    fn work(&mut self, now: u64) -> bool {
        match &mut self.work {
            Work::None => return false,
            Work::Seal => self.seal(),
            Work::Destroy(destroy) => {
                let freed = destroy.step(&mut self.vm.shared.memory.lock());
                if let Some(freed) = freed {
                    self.destroyed(freed);
                }
            }
            Work::Count => {
                let balanced = self.audit.step(&memory::lock().ledger, AUDIT_FRAMES);
                if let Some(balanced) = balanced {
                    self.counted(balanced);
                }
            }
            Work::Load(load) => match load.step(&mut self.vm) {
                Ok(None) => {}
                Ok(Some(entry)) => self.start(entry, now),
                Err(error) => self.fail(&error),
            },
        }
        !matches!(self.work, Work::None)
    }

    /// Seals a piece of a paused VM's memory. What its devices have copied meanwhile, for what is typed to it say, is sealed once it is
    /// looked at again, and not told of again.
    fn seal(&mut self) {
        if self.vm.shared.is_hit() {
            self.work = Work::None;
            return;
        }
        let mut own = self.vm.shared.memory.lock();
        let more = hooks::vm_paused(&mut own);
        let readable = own.sealed().map_or(0, Sealed::readable);
        drop(own);
        match more {
            Ok(true) => return,
            Ok(false) if readable == 0 && !self.told_sealed => {
                self.told_sealed = true;
                events::send(&Event::VmSealed {
                    vm: self.vm.plan.name.as_str(),
                });
            }
            Ok(false) => {}
            Err(reason) => super::memory::stop(self.vm.shared.id, reason),
        }
        self.work = Work::None;
    }

    /// Whether it is paused and has memory that is to be sealed.
    fn is_to_be_sealed(&self) -> bool {
        let shared = self.vm.shared;
        let is_paused = self.life.state() == State::Paused && !self.owed.unpark;
        is_paused
            && matches!(self.work, Work::None)
            && !shared.is_in_guest()
            && !shared.is_hit()
            && (shared.memory.lock().sealed())
                .is_some_and(|sealed| !self.told_sealed || sealed.readable() > 0)
    }

    /// Nothing of it runs, or will without being loaded: gives its memory back, unless it keeps that. Frames that a machine
    /// check hit may be bad: nobody touches them, and nobody else gets them, before somebody starts the VM.
    fn release(&mut self) {
        let is_hit = self.vm.shared.is_hit();
        if is_hit || self.vm.keeps_memory() {
            let mut own = self.vm.shared.memory.lock();
            hooks::vm_destroyed(&mut own);
            let frames = own.backing().taken();
            drop(own);
            if is_hit {
                events::send(&Event::VmMemoryKept {
                    vm: self.vm.plan.name.as_str(),
                    frames,
                });
            }
            self.count();
        } else {
            self.work = Work::Destroy(Destroy::begin());
        }
    }

    fn destroyed(&mut self, Freed { frames, scrubbed }: Freed) {
        events::send(&Event::VmDestroyed {
            vm: self.vm.plan.name.as_str(),
            freed: frames,
            scrubbed,
        });
        self.count();
    }

    fn count(&mut self) {
        self.audit = Audit::default();
        self.work = Work::Count;
    }

    fn counted(&mut self, balanced: bool) {
        self.work = Work::None;
        events::send(&Event::Machine(MachineNumbers::gather(balanced).counters()));
        if core::mem::take(&mut self.to_load) {
            self.begin_load();
        }
    }

    /// The guest is loaded: runs it.
    fn start(&mut self, entry: EntryState, now: u64) {
        self.work = Work::None;
        let name = self.vm.plan.name.as_str();
        if let Some(end) = self.last {
            let count = self.life.restarts() + 1;
            log::info!("VM \"{name}\" starts again (restart {count})");
            events::send(&Event::VmRestart {
                vm: name,
                reason: &end,
                count,
            });
        } else {
            log::info!("starting VM \"{name}\"");
        }
        events::send(&Event::VmStart { vm: name });
        self.paused = None;
        self.told_sealed = false;
        self.vm.start(entry, self.last == Some(End::Watchdog));
        self.out = true;
        self.ran = (rdtsc(), None);
        let action = self.life.started(uptime(rdtsc()));
        self.apply(action, now);
    }

    /// The guest cannot be loaded.
    fn fail(&mut self, error: &VmError) {
        // Whoever ended the VM meanwhile knows better than the loader, which had to do without a page.
        let ending = self.vm.shared.ending.lock().take();
        let reason: &dyn Display = match &ending {
            Some(ending) => &ending.end,
            None => error,
        };
        log::error!("VM \"{}\" cannot be started: {reason}", self.vm.plan.name);
        self.stopped(reason, ending.map(|ending| ending.end));
        if self.vm.shared.is_hit() {
            self.last = Some(End::Hardware);
        }
        self.life.failed();
        self.release();
    }

    /// All vCPUs came back, and what the guest wrote was taken.
    fn ended(&mut self, now: u64) {
        let vcpus = core::mem::take(&mut *self.vm.shared.returned.lock());
        let ending = self.vm.shared.ending.lock().take();
        let mut ending = ending.unwrap_or(Ending {
            end: End::Operator,
            rip: None,
        });
        if self.vm.shared.is_hit() {
            // Whatever came first: it is not started again by itself.
            ending.end = End::Hardware;
        }
        drop(vcpus);
        self.owed = Owed::default();
        self.report(ending);
        self.last = Some(ending.end);
        self.release();
        let action = self.life.ended(ending.end, uptime(now));
        if let State::BackOff { until } = self.life.state() {
            let delay = until.saturating_sub(uptime(now));
            log::warn!(
                "VM \"{}\" starts again in {} s: it ended {} times in a row soon after its start",
                self.vm.plan.name,
                delay.as_secs(),
                self.life.ends_in_a_row()
            );
            events::send(&Event::VmBackOff {
                vm: self.vm.plan.name.as_str(),
                reason: &ending.end,
                in_a_row: self.life.ends_in_a_row(),
                delay,
            });
        }
        self.apply(action, now);
    }

    fn report(&self, ending: Ending) {
        let vm = self.vm.plan.name.as_str();
        let Ending { end, rip } = ending;
        CONSOLE.lock().fresh_line();
        match rip {
            Some(rip) if end.is_crash() => {
                log::warn!("VM \"{vm}\" is stopped at {rip}: {end}");
                events::send(&Event::GuestFault {
                    vm,
                    what: end.name(),
                    rip: rip.0,
                    detail: &end,
                });
            }
            _ => log::info!("VM \"{vm}\": {end}"),
        }
        self.stopped(&end, Some(end));
        VmNumbers::gather(&self.vm).send();
    }

    /// Says that it runs no more, and names the page where one was tampered with.
    fn stopped(&self, reason: &dyn Display, end: Option<End>) {
        let vm = self.vm.plan.name.as_str();
        if let Some(End::Guest(StopReason::Integrity { gpa })) = end {
            events::send(&Event::Integrity { vm, gpa });
        }
        events::send(&Event::VmStop { vm, reason });
    }
}
