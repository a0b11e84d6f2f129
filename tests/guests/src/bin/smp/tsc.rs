//! The vCPUs' TSCs agree: what one read is never later than what another reads afterwards.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{cpu, println, smp};

use crate::{LIMIT, Vcpus};

const DEFAULT_READINGS: u64 = 20_000;

static READINGS: AtomicU64 = AtomicU64::new(0);
/// The latest reading of all vCPUs.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// The vCPU that read it.
static READER: AtomicU32 = AtomicU32::new(0);
static HANDOVERS: AtomicU32 = AtomicU32::new(0);
static BACKWARDS: AtomicU32 = AtomicU32::new(0);
static WORST: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU32 = AtomicU32::new(0);

/// All vCPUs read `tsc=` times each, at the same time. Prints `smp: tsc <n> readings, <n> after another vCPU's, 0 backwards`.
pub(crate) fn never_goes_backwards(case: &mut Case, params: &Params, vcpus: &Vcpus) {
    READINGS.store(
        params.number("tsc").unwrap_or(DEFAULT_READINGS),
        Ordering::Relaxed,
    );
    READY.store(vcpus.count() as u32, Ordering::Release);
    for (vcpu, _) in vcpus.others() {
        let given = smp::give(vcpu, read);
        case.check(given.is_ok(), format_args!("cannot wake: {given:?}"));
    }
    read(0);
    for (vcpu, _) in vcpus.others() {
        case.check(
            smp::wait_for(vcpu, LIMIT),
            format_args!("vCPU {vcpu} does not end"),
        );
    }
    let backwards = BACKWARDS.load(Ordering::Relaxed);
    let handovers = HANDOVERS.load(Ordering::Relaxed);
    case.check(
        backwards == 0,
        format_args!("the worst step back is {}", WORST.load(Ordering::Relaxed)),
    );
    case.check(
        handovers > 0 || vcpus.count() == 1,
        format_args!("no vCPU read after another"),
    );
    println!(
        "smp: tsc {} readings, {handovers} after another vCPU's, {backwards} backwards",
        READINGS.load(Ordering::Relaxed) * vcpus.count() as u64
    );
}

fn read(vcpu: usize) {
    READY.fetch_sub(1, Ordering::AcqRel);
    test_guests::timer::spin_until(LIMIT, || READY.load(Ordering::Acquire) == 0);
    for _ in 0..READINGS.load(Ordering::Relaxed) {
        let latest = LATEST.load(Ordering::Acquire);
        let now = cpu::ticks();
        if now < latest {
            BACKWARDS.fetch_add(1, Ordering::Relaxed);
            WORST.fetch_max(latest - now, Ordering::Relaxed);
        }
        LATEST.fetch_max(now, Ordering::AcqRel);
        if READER.swap(vcpu as u32, Ordering::Relaxed) != vcpu as u32 {
            HANDOVERS.fetch_add(1, Ordering::Relaxed);
        }
    }
}
