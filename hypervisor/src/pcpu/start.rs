//! Bringing further CPUs up, one at a time and in two steps, so that the features to run with can be chosen in between.
//!
//! [`arrive`]: INIT, two start-up interrupts, from real mode to the hypervisor's own tables; the CPU says what it has, and
//! waits. [`admit`]: VMX operation with what all have in common, and the scheduler's loop.

use super::{Pcpu, checks};
use crate::arch::cpu::{self, rdtsc, rdtsc_in_order};
use crate::arch::descriptor::{self, StackTops};
use crate::arch::{lapic, startup};
use crate::boot::gate::{self, Unsuitable};
use crate::secmem::tmemk;
use crate::vm::{self, scheduler};
use crate::vmx::operation::{self, Unfit};
use bulkhead_core::addr::Hpa;
use bulkhead_core::secmem::tmemk::Registers;
use bulkhead_core::skew::Skew;
use bulkhead_core::symmetry::{CpuReport, VmxReport};
use bulkhead_core::topology::IdLayout;
use bulkhead_core::vmx::capability::Wishes;
use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use spin::Mutex;

/// From INIT to the first start-up interrupt (Intel SDM vol. 3A, "MP Initialization Example").
const AFTER_INIT_MS: u64 = 10;
/// Between the two start-up interrupts.
const AFTER_STARTUP_US: u64 = 200;
/// How long a CPU may take for each step.
const PATIENCE_MS: u64 = 1_000;
/// Messages to and fro that the time-stamp counters are compared by.
const ROUNDS: u32 = 64;
/// Instead of a round: no more of them.
const NO_MORE: u32 = u32::MAX;

/// How far the CPU that is being started came.
static STAGE: AtomicU8 = AtomicU8::new(0);
const STARTING: u8 = 0;
const ARRIVED: u8 = 1;
const ONLINE: u8 = 2;
const REFUSED: u8 = 3;

/// What the CPU that is being started works with.
static SEED: Mutex<Option<Seed>> = Mutex::new(None);
/// What it says of itself.
static ARRIVAL: Mutex<Option<Arrival>> = Mutex::new(None);
/// Why it refused.
static REFUSAL: Mutex<Option<Refusal>> = Mutex::new(None);

/// The round that the first CPU asks in, the one the other answered in, and the other's counter then.
static ASKED: AtomicU32 = AtomicU32::new(0);
static ANSWERED: AtomicU32 = AtomicU32::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);

/// What a CPU is started with.
pub struct Seed {
    /// Top of its stack.
    pub stack: u64,
    /// The stacks of its exceptions.
    pub exceptions: StackTops,
    /// Its VMXON region.
    pub vmxon: Hpa,
    /// What is wished for.
    pub wishes: Wishes,
    /// Another VM may run on its sibling thread.
    pub siblings_shared: bool,
}

/// What a CPU that came up says of itself.
pub struct Arrival {
    /// Its features.
    pub report: CpuReport,
    /// How its identifier is made up.
    pub layout: IdLayout,
    /// Bytes of an XSAVE area with every component that it has.
    pub xsave_bytes: usize,
    /// Its microcode's revision.
    pub microcode: u32,
    /// Its memory encryption.
    pub tmemk: Registers,
}

impl Arrival {
    /// Of the CPU that runs this, whose VT-x is `vmx`.
    #[must_use]
    pub fn of_this_cpu(vmx: VmxReport) -> Self {
        let mut host = cpu::cpuid_for_core;
        Self {
            report: CpuReport::read(&mut host, Some(vmx)),
            layout: IdLayout::read(&mut host),
            xsave_bytes: cpu::cpuid(0xd, 0).ecx as usize,
            microcode: cpu::microcode_revision(),
            tmemk: tmemk::registers(),
        }
    }
}

/// Why a CPU of the machine cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    /// It lacks something besides VT-x.
    Unsuitable(Unsuitable),
    /// Its VT-x.
    Unfit(Unfit),
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
            Some(Refusal::Unsuitable(lack)) => write!(f, "cannot be used: {lack}"),
            Some(Refusal::Unfit(unfit)) => write!(f, "cannot run VMs: {unfit}"),
        }
    }
}

impl core::error::Error for StartError {}

/// Starts `cpu` by the code at `page`, waits until it says what it has, and compares its time-stamp counter.
///
/// # Errors
/// It did not come up, or is unfit. It does not take part in anything then.
pub fn arrive(
    cpu: &'static Pcpu,
    seed: Seed,
    page: Hpa,
    tsc_khz: u32,
) -> Result<(Arrival, Skew), StartError> {
    STAGE.store(STARTING, Ordering::SeqCst);
    ASKED.store(0, Ordering::SeqCst);
    ANSWERED.store(0, Ordering::SeqCst);
    startup::hand_over(seed.stack, core::ptr::from_ref(cpu) as u64, begin);
    *SEED.lock() = Some(seed);
    lapic::send_init(cpu.apic_id);
    wait_us(AFTER_INIT_MS * 1000, tsc_khz);
    let vector = (page.0 >> 12) as u8;
    for _ in 0..2 {
        if STAGE.load(Ordering::SeqCst) == STARTING {
            lapic::send_startup(cpu.apic_id, vector);
            wait_us(AFTER_STARTUP_US, tsc_khz);
        }
    }
    let arrived = wait_for(cpu, ARRIVED, tsc_khz).and_then(|()| {
        let skew = compare_counters(tsc_khz).ok_or(failure(cpu, None))?;
        let arrival = ARRIVAL.lock().take().ok_or(failure(cpu, None))?;
        Ok((arrival, skew))
    });
    if matches!(arrived, Err(StartError { why: None, .. })) {
        // Coming up later it would take what the next one is started with.
        lapic::send_init(cpu.apic_id);
        wait_us(AFTER_INIT_MS * 1000, tsc_khz);
    }
    arrived
}

/// Lets `cpu`, which arrived, run VMs.
///
/// # Errors
/// It could not enter VMX operation.
pub fn admit(cpu: &'static Pcpu) -> Result<(), StartError> {
    STAGE.store(ARRIVED, Ordering::SeqCst);
    cpu.admitted.store(true, Ordering::SeqCst);
    lapic::send(cpu.apic_id, lapic::KICK_VECTOR);
    wait_for(cpu, ONLINE, vm::tsc_khz())
}

fn failure(cpu: &Pcpu, why: Option<Refusal>) -> StartError {
    StartError {
        cpu: cpu.index,
        apic_id: cpu.apic_id,
        why,
    }
}

/// Waits until the CPU that is being started gets to `stage`.
fn wait_for(cpu: &Pcpu, stage: u8, tsc_khz: u32) -> Result<(), StartError> {
    let begin = rdtsc();
    let patience = ticks_us(PATIENCE_MS * 1000, tsc_khz);
    loop {
        match STAGE.load(Ordering::SeqCst) {
            REFUSED => return Err(failure(cpu, *REFUSAL.lock())),
            reached if reached == stage => return Ok(()),
            _ if rdtsc().wrapping_sub(begin) > patience => return Err(failure(cpu, None)),
            _ => spin_loop(),
        }
    }
}

fn wait_us(microseconds: u64, tsc_khz: u32) {
    let wait = ticks_us(microseconds, tsc_khz);
    let begin = rdtsc();
    while rdtsc().wrapping_sub(begin) < wait {
        spin_loop();
    }
}

/// Ticks of a TSC that [`vm::ticks`] does not know yet.
fn ticks_us(microseconds: u64, tsc_khz: u32) -> u64 {
    u64::from(tsc_khz) * microseconds / 1000
}

/// Sends messages to and fro; `None` where the other CPU stops to answer.
fn compare_counters(tsc_khz: u32) -> Option<Skew> {
    let patience = ticks_us(PATIENCE_MS * 1000, tsc_khz);
    let mut skew = Skew::default();
    for round in 1..=ROUNDS {
        let before = rdtsc_in_order();
        ASKED.store(round, Ordering::SeqCst);
        while ANSWERED.load(Ordering::SeqCst) != round {
            if rdtsc().wrapping_sub(before) > patience {
                return None;
            }
        }
        let after = rdtsc_in_order();
        skew = skew.observe(before, SEEN.load(Ordering::SeqCst), after);
    }
    ASKED.store(NO_MORE, Ordering::SeqCst);
    Some(skew)
}

/// The other end of [`compare_counters`].
fn answer_with_counter() {
    let mut answered = 0;
    loop {
        match ASKED.load(Ordering::SeqCst) {
            NO_MORE => return,
            asked if asked != answered => {
                SEEN.store(rdtsc_in_order(), Ordering::SeqCst);
                ANSWERED.store(asked, Ordering::SeqCst);
                answered = asked;
            }
            _ => {}
        }
    }
}

/// Where a further CPU arrives, on its own stack.
#[allow(unsafe_code, reason = "the CPU's address arrives through assembly")]
extern "sysv64" fn begin(argument: u64) -> ! {
    // SAFETY: `arrive` handed over the address of this CPU's `Pcpu`, which lives for ever.
    let own: &'static Pcpu = unsafe { &*(argument as *const Pcpu) };
    cpu::start();
    let Some(seed) = SEED.lock().take() else {
        unreachable!("a CPU starts without being started");
    };
    own.descriptors
        .call_once(|| descriptor::install(seed.exceptions));
    super::become_cpu(own);
    match prepare(own, &seed) {
        Ok(arrival) => *ARRIVAL.lock() = Some(arrival),
        Err(refusal) => refuse(refusal),
    }
    STAGE.store(ARRIVED, Ordering::SeqCst);
    answer_with_counter();
    while !own.admitted.load(Ordering::SeqCst) {
        cpu::wait_for_interrupt();
    }
    // SAFETY: the frame was taken from the pool for this CPU's VMXON alone.
    #[allow(unsafe_code, reason = "gives a frame to VMXON")]
    let on = unsafe { operation::turn_on(&vm::machine().features, seed.vmxon) };
    if let Err(unfit) = on {
        refuse(Refusal::Unfit(unfit));
    }
    own.go_online();
    STAGE.store(ONLINE, Ordering::SeqCst);
    scheduler::run_vcpus(None)
}

/// Everything but VMX operation.
fn prepare(own: &'static Pcpu, seed: &Seed) -> Result<Arrival, Refusal> {
    gate::check().map_err(Refusal::Unsuitable)?;
    let vmx = operation::examine(seed.wishes).map_err(Refusal::Unfit)?;
    lapic::quiet();
    checks::begin(own);
    own.barrier.prepare(seed.siblings_shared);
    Ok(Arrival::of_this_cpu(vmx))
}

/// Stops this CPU, which cannot be used. It stays where it takes machine checks: where one is broadcast, a CPU that does
/// not take it shuts the machine down.
fn refuse(refusal: Refusal) -> ! {
    *REFUSAL.lock() = Some(refusal);
    STAGE.store(REFUSED, Ordering::SeqCst);
    cpu::stop()
}
