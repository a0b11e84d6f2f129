//! Bringing further CPUs up, one at a time: INIT, two start-up interrupts, and from real mode to the scheduler's loop.

use super::Pcpu;
use crate::arch::cpu::{self, rdtsc};
use crate::arch::descriptor::{self, StackTops};
use crate::arch::{lapic, startup};
use crate::events;
use crate::vm::{self, scheduler};
use crate::vmx::operation::{self, Features, Unfit};
use bulkhead_core::addr::Hpa;
use bulkhead_core::events::Event;
use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use spin::Mutex;

/// From INIT to the first start-up interrupt (Intel SDM vol. 3A, "MP Initialization Example").
const AFTER_INIT_MS: u64 = 10;
/// Between the two start-up interrupts.
const AFTER_STARTUP_US: u64 = 200;
/// How long a CPU may take to say that it runs.
const PATIENCE_MS: u64 = 1_000;

/// How far the CPU that is being started came.
static STAGE: AtomicU8 = AtomicU8::new(0);
const STARTING: u8 = 0;
const UP: u8 = 1;
const REFUSED: u8 = 2;
/// The host TSC that the CPU saw when it came up.
static FIRST_TSC: AtomicU64 = AtomicU64::new(0);
/// Why the CPU that is being started refused.
static REFUSAL: Mutex<Option<Refusal>> = Mutex::new(None);

/// What a CPU is started with.
pub struct Seed {
    /// Top of its stack.
    pub stack: u64,
    /// The stacks of its exceptions.
    pub exceptions: StackTops,
    /// Its VMXON region.
    pub vmxon: Hpa,
}

/// Why a CPU of the machine cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    /// Its VT-x.
    Unfit(Unfit),
    /// Its VT-x has not what the first CPU's has.
    Unlike,
}

/// A CPU that could not be brought up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StartError {
    cpu: usize,
    apic_id: u32,
    why: Option<Refusal>,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, apic_id, why } = self;
        write!(f, "CPU {cpu} (local APIC {apic_id}) ")?;
        match why {
            None => write!(f, "did not start within {PATIENCE_MS} ms"),
            Some(Refusal::Unfit(unfit)) => write!(f, "cannot run VMs: {unfit}"),
            Some(Refusal::Unlike) => f.write_str("has other VT-x features than the first CPU"),
        }
    }
}

impl core::error::Error for StartError {}

/// What the CPU that is being started works with: its seed and its features.
static SEED: Mutex<Option<Seed>> = Mutex::new(None);

/// Starts `cpu` by the code at `page` and waits until it is ready to run vCPUs.
///
/// # Errors
/// It did not come up, or is unfit.
pub fn start(cpu: &'static Pcpu, seed: Seed, page: Hpa) -> Result<(), StartError> {
    let fail = |why| StartError {
        cpu: cpu.index,
        apic_id: cpu.apic_id,
        why,
    };
    STAGE.store(STARTING, Ordering::SeqCst);
    startup::hand_over(seed.stack, core::ptr::from_ref(cpu) as u64, begin);
    *SEED.lock() = Some(seed);
    lapic::send_init(cpu.apic_id);
    wait_us(AFTER_INIT_MS * 1000);
    let vector = (page.0 >> 12) as u8;
    for _ in 0..2 {
        if STAGE.load(Ordering::SeqCst) == STARTING {
            lapic::send_startup(cpu.apic_id, vector);
            wait_us(AFTER_STARTUP_US);
        }
    }
    let sent = rdtsc();
    let patience = u64::from(vm::tsc_khz()) * PATIENCE_MS;
    loop {
        match STAGE.load(Ordering::SeqCst) {
            UP => break,
            REFUSED => return Err(fail(*REFUSAL.lock())),
            _ if rdtsc().wrapping_sub(sent) > patience => return Err(fail(None)),
            _ => spin_loop(),
        }
    }
    let now = rdtsc();
    let seen = FIRST_TSC.load(Ordering::SeqCst);
    if seen > now {
        log::warn!(
            "CPU {}'s time-stamp counter is ahead of the first CPU's by at least {} ticks; a VM with vCPUs on both may \
             see time go backwards",
            cpu.index,
            seen - now
        );
    }
    events::send(&Event::CpuOnline {
        cpu: cpu.index as u32,
        apic_id: cpu.apic_id,
    });
    Ok(())
}

fn wait_us(microseconds: u64) {
    let ticks = u64::from(vm::tsc_khz()) * microseconds / 1000;
    let begin = rdtsc();
    while rdtsc().wrapping_sub(begin) < ticks {
        spin_loop();
    }
}

/// Where a further CPU arrives, on its own stack.
#[allow(unsafe_code, reason = "the CPU's number arrives through assembly")]
extern "sysv64" fn begin(argument: u64) -> ! {
    // SAFETY: `start` handed over the address of this CPU's `Pcpu`, which lives for ever.
    let own: &'static Pcpu = unsafe { &*(argument as *const Pcpu) };
    cpu::start();
    super::become_cpu(own);
    match prepare(own) {
        Ok(()) => {
            FIRST_TSC.store(rdtsc(), Ordering::SeqCst);
            STAGE.store(UP, Ordering::SeqCst);
            scheduler::run_cpu(None)
        }
        Err(refusal) => {
            *REFUSAL.lock() = Some(refusal);
            STAGE.store(REFUSED, Ordering::SeqCst);
            cpu::stop()
        }
    }
}

fn prepare(own: &'static Pcpu) -> Result<(), Refusal> {
    let Some(seed) = SEED.lock().take() else {
        unreachable!("a CPU starts without being started");
    };
    own.descriptors
        .call_once(|| descriptor::install(seed.exceptions));
    super::become_cpu(own);
    lapic::quiet();
    let machine = vm::machine();
    let features = operation::negotiate(machine.wishes).map_err(Refusal::Unfit)?;
    if !alike(&features, &machine.features) {
        return Err(Refusal::Unlike);
    }
    // SAFETY: the frame was taken from the pool for this CPU's VMXON alone.
    #[allow(unsafe_code, reason = "gives a frame to VMXON")]
    unsafe { operation::turn_on(&features, seed.vmxon) }.map_err(Refusal::Unfit)
}

/// Whether a VMCS made for one CPU means the same on the other.
fn alike(one: &Features, other: &Features) -> bool {
    one.vmx == other.vmx && one.ept == other.ept
}
