//! Physical CPUs: what each has of its own, and the one way to it.
//!
//! [`this`] gives the CPU that runs the caller its [`Pcpu`], through the GS base that VM exits restore. What is not atomic
//! or behind a lock in there is written once, before the CPU runs VMs. [`start`] brings further CPUs up, [`call`] has all of
//! them do something and waits until they did, [`barrier`] keeps what one VM left from the next, [`checks`] deals with machine
//! checks and NMIs.

pub mod barrier;
pub mod call;
pub mod checks;
pub mod start;

use crate::arch::cpu::{self, rdmsr, wrmsr};
use crate::arch::descriptor::HostDescriptors;
use crate::arch::lapic;
use crate::memory::window::CpuWindow;
use crate::vm::run::Running;
use crate::vm::shared::{self, VmShared};
use alloc::boxed::Box;
use alloc::vec::Vec;
use barrier::Barrier;
use bulkhead_core::call::Slip;
use bulkhead_core::ledger::VmId;
use bulkhead_core::mitigation::SwitchCounters;
use checks::Checks;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use spin::{Mutex, Once};

const IA32_GS_BASE: u32 = 0xc000_0101;

/// One physical CPU. The first field is where GS points: its own address.
#[repr(C)]
pub struct Pcpu {
    this: AtomicU64,
    /// Its number: 0 is the boot CPU.
    pub index: usize,
    /// Its x2APIC identifier.
    pub apic_id: u32,
    /// Top of the stack on which its VM exits are handled.
    pub exit_stack: u64,
    /// Its window.
    pub window: Mutex<CpuWindow>,
    /// vCPUs that it is to run from now on.
    pub inbox: Mutex<Vec<Box<Running>>>,
    /// What other CPUs want of it.
    pub slip: Slip,
    /// Its machine checks and NMIs.
    pub checks: Checks,
    /// What it does between two VMs.
    pub barrier: Barrier,
    /// Its tables, once it has them.
    pub descriptors: Once<HostDescriptors>,
    /// It may enter VMX operation: what to do that with is known.
    pub admitted: AtomicBool,
    /// It runs VMs, or would.
    pub online: AtomicBool,
    /// Something happened that its scheduler has to see before a vCPU goes on.
    pub look: AtomicBool,
    /// Host TSC since which it runs VMs, or would.
    pub began: AtomicU64,
    /// Ticks in guests, as far as they were counted.
    pub guest_ticks: AtomicU64,
    /// Ticks without a vCPU to run, up to the last time it waited.
    pub idle_ticks: AtomicU64,
    /// Host TSC since which it waits for something to do, 0 while it does not.
    pub idle_since: AtomicU64,
    /// How often it was given to another vCPU than before.
    pub switches: AtomicU64,
    /// One more than the number of the VM whose vCPU it runs or ran last, 0 before the first.
    guest: AtomicU32,
}

static PCPUS: Once<Vec<Pcpu>> = Once::new();

impl Pcpu {
    /// CPU number `index`, not running yet.
    #[must_use]
    pub fn new(index: usize, apic_id: u32, exit_stack: u64, window: CpuWindow) -> Self {
        Self {
            this: AtomicU64::new(0),
            index,
            apic_id,
            exit_stack,
            window: Mutex::new(window),
            inbox: Mutex::new(Vec::with_capacity(bulkhead_core::manifest::MAX_VMS)),
            slip: Slip::new(),
            checks: Checks::new(),
            barrier: Barrier::new(),
            descriptors: Once::new(),
            admitted: AtomicBool::new(false),
            online: AtomicBool::new(false),
            look: AtomicBool::new(false),
            began: AtomicU64::new(0),
            guest_ticks: AtomicU64::new(0),
            idle_ticks: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            guest: AtomicU32::new(0),
        }
    }

    /// It is about to run a vCPU of `vm`.
    pub fn set_guest(&self, vm: VmId) {
        self.guest.store(u32::from(vm.0) + 1, Ordering::SeqCst);
    }

    /// The VM whose vCPU it runs or ran last.
    #[must_use]
    pub fn guest(&self) -> Option<&'static VmShared> {
        let number = self.guest.load(Ordering::SeqCst).checked_sub(1)?;
        shared::by_id(VmId(number as u16))
    }

    /// Whether it runs VMs, or would.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::SeqCst)
    }

    /// From here on others may ask it for something.
    pub fn go_online(&self) {
        self.online.store(true, Ordering::SeqCst);
    }

    /// Has the CPU look at its letter-boxes soon, wherever it is.
    pub fn kick(&self) {
        self.look.store(true, Ordering::SeqCst);
        if self.index != this().index {
            lapic::send(self.apic_id, lapic::KICK_VECTOR);
        }
    }
}

/// Makes `cpus` the machine's CPUs.
pub fn install(cpus: Vec<Pcpu>) {
    for cpu in PCPUS.call_once(|| cpus) {
        // Where it is now, it stays.
        cpu.this
            .store(core::ptr::from_ref(cpu) as u64, Ordering::Relaxed);
    }
}

/// Every CPU, started or not.
#[must_use]
pub fn all() -> &'static [Pcpu] {
    PCPUS.get().map_or(&[], Vec::as_slice)
}

/// Makes [`this`] on this CPU give `cpu`.
#[allow(unsafe_code, reason = "sets the GS base")]
pub fn become_cpu(cpu: &'static Pcpu) {
    // SAFETY: every processor with long mode has this register; nothing else of the hypervisor's uses GS.
    unsafe { wrmsr(IA32_GS_BASE, core::ptr::from_ref(cpu) as u64) };
}

/// The address [`this`] finds, for the host half of a VMCS.
#[must_use]
pub fn gs_base() -> u64 {
    this().this.load(Ordering::Relaxed)
}

/// The CPU that runs the caller.
#[inline(always)]
#[must_use]
#[allow(unsafe_code, reason = "follows the GS base")]
pub fn this() -> &'static Pcpu {
    let address: *const Pcpu;
    // SAFETY: `become_cpu` pointed GS at a `Pcpu`, whose first field is its own address, before anything calls this; VM
    // exits restore it.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) address, options(nostack, preserves_flags, readonly, pure));
    }
    // SAFETY: as above; the CPUs are never freed.
    unsafe { &*address }
}

/// The CPU that runs the caller, where [`become_cpu`] may not have been called on it yet.
#[must_use]
#[allow(unsafe_code, reason = "reads the GS base")]
pub fn known() -> Option<&'static Pcpu> {
    // SAFETY: every processor with long mode has this register.
    let base = unsafe { rdmsr(IA32_GS_BASE) };
    all()
        .iter()
        .find(|cpu| core::ptr::from_ref(*cpu) as u64 == base)
}

/// What all CPUs did between VMs.
#[must_use]
pub fn switch_counters() -> SwitchCounters {
    all()
        .iter()
        .map(|cpu| cpu.barrier.counters())
        .fold(SwitchCounters::default(), SwitchCounters::and)
}

/// Waits until something happens, or host TSC `until`. Interrupts are taken meanwhile, and only here.
pub fn idle(until: Option<u64>) {
    let begin = cpu::rdtsc();
    if let Some(until) = until {
        lapic::set_deadline(until);
    }
    let own = this();
    own.idle_since.store(begin, Ordering::Relaxed);
    if !own.look.load(Ordering::SeqCst) {
        cpu::wait_for_interrupt();
    }
    lapic::set_deadline(0);
    own.idle_since.store(0, Ordering::Relaxed);
    let idle = cpu::rdtsc().wrapping_sub(begin);
    own.idle_ticks.fetch_add(idle, Ordering::Relaxed);
}
