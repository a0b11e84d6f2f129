//! What all CPUs know of one VM: its memory, its devices, and the way to each of its vCPUs.
//!
//! A vCPU's own state is not here: it belongs to the CPU that runs it. [`VmShared`] lives as long as the machine.

use crate::arch::cpu::rdtsc;
use crate::arch::lapic;
use crate::memory::guest::GuestSpace;
use crate::pcpu::call::{self, NoAnswer};
use crate::pcpu::{self, Pcpu};
use crate::secmem::sealed::Sealed;
use crate::vmx::instruction::{self, Current};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::addr::{Gpa, Gva, Hpa};
use bulkhead_core::bus::{GuestRam, Signal, Signals};
use bulkhead_core::call::{Losses, Requests};
use bulkhead_core::console::ExitTrace;
use bulkhead_core::device::board::{Devices, Start};
use bulkhead_core::ept::Eptp;
use bulkhead_core::ledger::VmId;
use bulkhead_core::lifecycle::End;
use bulkhead_core::manifest::{VmName, VmPlan};
use bulkhead_core::sched::Share;
use bulkhead_core::vcpu::DeviceAccess;
use bulkhead_core::vcpu::counters::Counters;
use bulkhead_core::vcpu::mail::Mailbox;
use bulkhead_core::vmx::field::{self, VmcsAccess};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use spin::mutex::Mutex;
use spin::{MutexGuard, Once};

use super::memory::{Serving, SharedMemory, VmMemory};
use super::run::Running;
use super::split::{self, SideRoots};
use super::{VmError, ticks};

// One bit of `deaf` for each vCPU.
const _: () = assert!(bulkhead_core::manifest::MAX_VCPUS <= u64::BITS);

/// What the CPUs do with a VM's vCPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Wanted {
    /// Give them back.
    Nothing = 0,
    /// Keep them, and let them wait.
    Parked = 1,
    /// Run them.
    Run = 2,
}

static ALL: Once<Vec<&'static VmShared>> = Once::new();

/// Makes `vms`, in the order of their numbers, what [`by_id`] gives.
pub fn install(vms: Vec<&'static VmShared>) {
    ALL.call_once(|| vms);
}

/// The VM with this number.
#[must_use]
pub fn by_id(id: VmId) -> Option<&'static VmShared> {
    ALL.get()?.get(usize::from(id.0)).copied()
}

/// How a VM's run ended, and where.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Why.
    pub end: End,
    /// The guest's instruction pointer, where a guest's deed ended it.
    pub rip: Option<Gva>,
}

/// The way to one vCPU.
pub struct VcpuPort {
    /// What waits for it.
    pub mailbox: Mailbox,
    /// The CPU that it was placed on.
    pub pcpu: usize,
    /// It is in the guest, or about to be.
    pub running: AtomicBool,
    /// What it did, as its CPU last said.
    counters: Mutex<Counters>,
    /// Its CPU is to say it again.
    asked: AtomicBool,
}

/// A VM's devices, as all CPUs reach them. Whoever has them may bring pages for a while, and wait for other CPUs to forget some.
pub type SharedDevices = Mutex<Devices, Serving>;

/// One VM, as every CPU sees it.
pub struct VmShared {
    /// Its number.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// Bytes of RAM.
    pub size: u64,
    /// Its frames and its `base` view.
    pub memory: &'static Mutex<VmMemory, Serving>,
    /// What its VMCSs point to the view with.
    pub eptp: Eptp,
    /// And to each view of the kernel/user split, where it has that.
    pub sides: Option<SideRoots>,
    /// Where its EPTP list is, where its vCPUs switch views without an exit.
    pub switches: Option<Hpa>,
    /// Its kernel's code has to be found, because the CPU does not tell it from user code's.
    pub finds_code: bool,
    /// Its devices.
    pub devices: SharedDevices,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuPort>,
    /// Its part of each CPU that it runs on.
    pub share: Share,
    /// vCPUs that its CPUs gave back.
    pub returned: Mutex<Vec<Box<Running>>>,
    /// How its run ended, the first reason.
    pub ending: Mutex<Option<Ending>>,
    /// A machine check hit it since it was started: nobody touches its frames, and nobody else gets them, before it is started again.
    pub hit: AtomicBool,
    /// Some exits are samples.
    pub sampled: AtomicBool,
    /// How many exits from user code are still to be looked at for what of the kernel is within reach.
    pub split_samples: AtomicU32,
    /// The next sample of these is not before this tick.
    pub sample_due: AtomicU64,
    /// How often a vCPU got a CPU that another VM's had.
    pub scheduled_in: AtomicU64,
    /// How often another VM's vCPU got a CPU that a vCPU of this one had.
    pub scheduled_out: AtomicU64,
    /// How often its view lost translations.
    pub losses: Losses,
    /// vCPUs that nothing but another vCPU can wake, one bit each.
    deaf: AtomicU64,
    wanted: AtomicU8,
    /// Its exits are logged.
    traced: AtomicBool,
    /// Which of them.
    trace: Mutex<ExitTrace>,
    /// Host TSC since which the boot CPU finds the devices taken, 0 where it does not.
    missed: AtomicU64,
}

/// Milliseconds for which the boot CPU only tries to get a VM's devices. Vcpus whose turns with them overlap never leave them free; then
/// it waits its turn, which the lock's order bounds.
const TRY_MS: u64 = 10;

impl VmShared {
    /// A VM none of whose vCPUs run.
    ///
    /// # Errors
    /// No frame is left for an EPTP list.
    pub fn new(
        id: VmId,
        plan: &VmPlan,
        memory: &'static SharedMemory,
        devices: Devices,
        placement: &[usize],
        share: Share,
    ) -> Result<Self, VmError> {
        let mut own = memory.lock();
        let switches = split::list(&mut own, &mut crate::memory::lock().pool)?;
        let (eptp, sampled) = (own.eptp(), own.sealed().is_some_and(Sealed::is_sampled));
        let sides = own.side_roots();
        let finds_code = own.finds_code();
        drop(own);
        Ok(Self {
            id,
            name: plan.name.clone(),
            size: plan.memory.bytes(),
            memory,
            eptp,
            sides,
            switches,
            finds_code,
            devices: Mutex::new(devices),
            vcpus: placement
                .iter()
                .map(|cpu| VcpuPort {
                    mailbox: Mailbox::default(),
                    pcpu: *cpu,
                    running: AtomicBool::new(false),
                    counters: Mutex::default(),
                    asked: AtomicBool::new(false),
                })
                .collect(),
            share,
            returned: Mutex::new(Vec::with_capacity(placement.len())),
            ending: Mutex::new(None),
            hit: AtomicBool::new(false),
            sampled: AtomicBool::new(sampled || plan.split_samples > 0),
            split_samples: AtomicU32::new(plan.split_samples),
            sample_due: AtomicU64::new(0),
            scheduled_in: AtomicU64::new(0),
            scheduled_out: AtomicU64::new(0),
            losses: Losses::default(),
            deaf: AtomicU64::new(0),
            wanted: AtomicU8::new(Wanted::Nothing as u8),
            traced: AtomicBool::new(false),
            trace: Mutex::default(),
            missed: AtomicU64::new(0),
        })
    }

    /// The devices for the boot CPU, which looks after every VM: `None` where somebody has them, for it to come back later.
    #[must_use]
    pub fn visit_devices(&self) -> Option<MutexGuard<'_, Devices>> {
        let mut devices = self.devices.try_lock();
        if devices.is_none() {
            let now = rdtsc();
            match self.missed.load(Ordering::Relaxed) {
                0 => self.missed.store(now, Ordering::Relaxed),
                since if now.saturating_sub(since) < ticks(TRY_MS) => {}
                _ => devices = Some(self.devices.lock()),
            }
        }
        if devices.is_some() {
            self.missed.store(0, Ordering::Relaxed);
        }
        devices
    }

    /// What its CPUs are to do.
    #[inline]
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        const RUN: u8 = Wanted::Run as u8;
        const PARKED: u8 = Wanted::Parked as u8;
        match self.wanted.load(Ordering::SeqCst) {
            RUN => Wanted::Run,
            PARKED => Wanted::Parked,
            _ => Wanted::Nothing,
        }
    }

    /// Lets the vCPUs run that their CPUs are about to be given, unless the run ended before it began: while the guest was loaded.
    pub fn open(&self) {
        // Held until it is written: an end that comes now finds `Run` there to overwrite.
        let ending = self.ending.lock();
        let wanted = match *ending {
            None => Wanted::Run,
            Some(_) => Wanted::Nothing,
        };
        self.wanted.store(wanted as u8, Ordering::SeqCst);
    }

    /// Parks the vCPUs, or lets them run again; nothing where the VM's run has ended.
    pub fn park(&self, parked: bool) {
        let wanted = if parked { Wanted::Parked } else { Wanted::Run };
        let change = |old| (old != Wanted::Nothing as u8).then_some(wanted as u8);
        let changed = self
            .wanted
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
        if changed.is_ok() {
            self.kick();
        }
    }

    /// Whether a vCPU of its is in the guest, or about to be.
    #[must_use]
    pub fn is_in_guest(&self) -> bool {
        let mut ports = self.vcpus.iter();
        ports.any(|port| port.running.load(Ordering::SeqCst))
    }

    /// Its view lost translations: no vCPU of its runs with them afterwards. CPUs where none runs now learn of it before they enter one.
    ///
    /// # Errors
    /// A CPU that did not answer.
    pub fn lose_translations(&self) -> Result<(), NoAnswer> {
        self.losses.note();
        let running = (self.vcpus.iter()).filter(|port| port.running.load(Ordering::SeqCst));
        let cpus = running.fold(0, |cpus, port| cpus | 1 << port.pcpu);
        call::among(cpus, Requests::FORGET_VIEW)
    }

    /// Has this CPU forget what the views show. With the split, a vCPU of the VM that runs here is taken out of `user`: it is admitted anew when it
    /// runs user code.
    #[inline(never)]
    pub fn forget_view(&self) {
        let Some([_, kernel, user]) = &self.sides else {
            instruction::forget_view(super::machine().features.ept.features(), self.eptp);
            return;
        };
        let here = pcpu::this().index;
        let mut ports = self.vcpus.iter();
        // Then its VMCS is the current one.
        let runs = ports.any(|port| port.pcpu == here && port.running.load(Ordering::SeqCst));
        if runs && Current.read(field::EPT_POINTER) == user.raw() {
            Current.write(field::EPT_POINTER, kernel.raw());
        }
        instruction::forget_views();
    }

    /// Has its CPUs look around.
    fn kick(&self) {
        for cpu in self.vcpus.iter().filter_map(VcpuPort::cpu) {
            cpu.kick();
        }
    }

    /// Has its CPUs say what its vCPUs did; [`VmShared::has_said`] tells when they have.
    pub fn ask_counters(&self) {
        for port in &self.vcpus {
            port.asked.store(true, Ordering::SeqCst);
        }
        self.kick();
    }

    /// Whether the answer to [`VmShared::ask_counters`] is complete.
    #[must_use]
    pub fn has_said(&self) -> bool {
        !self
            .vcpus
            .iter()
            .any(|port| port.asked.load(Ordering::SeqCst))
    }

    /// Has its exits logged, or no more.
    pub fn set_trace(&self, on: bool) {
        self.trace.lock().set(on);
        self.traced.store(on, Ordering::Relaxed);
        self.kick();
    }

    /// Whether its exits are logged.
    #[inline]
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Whether to log the exit that just happened, and how many before it were not: [`ExitTrace::admit`].
    #[must_use]
    pub fn admit_trace(&self, now: Duration) -> Option<u64> {
        self.trace.lock().admit(now)
    }

    /// Whether a machine check hit it since it was started: no byte of its memory is to be read.
    #[must_use]
    pub fn is_hit(&self) -> bool {
        self.hit.load(Ordering::SeqCst)
    }

    /// Ends the VM's run, unless something else did before.
    pub fn end(&self, ending: Ending) {
        if ending.end == End::Hardware {
            self.hit.store(true, Ordering::SeqCst);
        }
        self.ending.lock().get_or_insert(ending);
        self.wanted.store(Wanted::Nothing as u8, Ordering::SeqCst);
        self.kick();
    }

    /// Its memory.
    #[must_use]
    pub const fn space(&self) -> GuestSpace<'_> {
        GuestSpace {
            memory: self.memory,
            size: self.size,
        }
    }

    /// Leaves `signal` for vCPU `to`, and has its CPU see it where that is needed; true where that CPU is the caller's,
    /// which has to look for itself.
    pub fn post(&self, to: u32, signal: Signal) -> bool {
        let Some(port) = self.vcpus.get(to as usize) else {
            return false;
        };
        let notify = port.mailbox.post(signal);
        let Some(cpu) = port.cpu() else { return false };
        if cpu.index == pcpu::this().index {
            return true;
        }
        if notify {
            self.notify(port, cpu);
        }
        false
    }

    fn notify(&self, port: &VcpuPort, cpu: &Pcpu) {
        let in_guest = port.running.load(Ordering::SeqCst);
        let by_processor = super::machine().features.vmx.posts_interrupts();
        if in_guest && by_processor && !port.mailbox.needs_software() {
            lapic::send(cpu.apic_id, lapic::POSTED_VECTOR);
        } else {
            cpu.kick();
        }
    }

    /// Notes that vCPU `id` is deaf, or no longer; true where all are: nothing can wake the VM.
    pub fn set_deaf(&self, id: u32, is_deaf: bool) -> bool {
        let bit = 1_u64.checked_shl(id).unwrap_or(0);
        let all = u64::MAX >> (64 - self.vcpus.len().clamp(1, 64));
        if !is_deaf {
            self.deaf.fetch_and(!bit, Ordering::SeqCst);
            return false;
        }
        let deaf = self.deaf.fetch_or(bit, Ordering::SeqCst) | bit;
        // A vCPU that was deaf clears its bit before it takes its mail: one that took it meanwhile shows now.
        deaf == all && !self.mail_waits() && self.deaf.load(Ordering::SeqCst) == all
    }

    fn mail_waits(&self) -> bool {
        self.vcpus.iter().any(|port| port.mailbox.is_waiting())
    }

    /// Puts everything but memory, and how the run ended, into the state before the first run.
    pub fn reset(&self, start: Start) {
        self.devices.lock().restart(start);
        for port in &self.vcpus {
            let _ = port.mailbox.take();
            port.running.store(false, Ordering::SeqCst);
            port.asked.store(false, Ordering::SeqCst);
            *port.counters.lock() = Counters::default();
        }
        self.deaf.store(0, Ordering::SeqCst);
    }
}

impl VcpuPort {
    /// What the vCPU did, as its CPU last said.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.lock().clone()
    }

    /// Whether its CPU is to say what it did.
    #[inline]
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Its CPU says what it did.
    pub fn say(&self, counters: &Counters) {
        self.counters.lock().clone_from(counters);
        self.asked.store(false, Ordering::SeqCst);
    }

    fn cpu(&self) -> Option<&'static Pcpu> {
        pcpu::all().get(self.pcpu)
    }
}

/// What device models of a VM reach when none of its vCPUs is at an exit.
pub struct VmBus<'a>(pub &'a VmShared);

impl GuestRam for VmBus<'_> {
    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        self.0.space().read(gpa, bytes).is_ok()
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        self.0.space().write_bytes(gpa, bytes).is_ok()
    }
}

impl Signals for VmBus<'_> {
    fn vcpus(&self) -> u32 {
        self.0.vcpus.len() as u32
    }

    fn signal(&mut self, to: u32, signal: Signal) {
        if self.0.post(to, signal) {
            pcpu::this().look.store(true, Ordering::Relaxed);
        }
    }
}

/// The VM's devices, behind their lock.
pub struct Locked<'a>(pub &'a SharedDevices);

impl DeviceAccess for Locked<'_> {
    #[inline(always)]
    fn with<T>(&mut self, work: impl FnOnce(&mut Devices) -> T) -> T {
        work(&mut self.0.lock())
    }
}
