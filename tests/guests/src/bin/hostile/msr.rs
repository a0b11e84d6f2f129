//! Every class of MSR number, read and written.

use test_guests::apic;
use test_guests::case::Case;
use test_guests::cpu::{try_rdmsr, try_wrmsr};
use test_guests::params::Params;
use test_guests::trap::{Fault, GENERAL_PROTECTION};

use crate::random::Random;

const ARCHITECTURAL: core::ops::Range<u32> = 0..0x2000;
const SYNTHETIC: core::ops::Range<u32> = 0x4000_0000..0x4000_0200;
const EXTENDED: core::ops::Range<u32> = 0xc000_0000..0xc000_2000;
const X2APIC: core::ops::Range<u32> = 0x800..0x900;
const RANDOM_NUMBERS: u32 = 2000;

const FEATURE_CONTROL: u32 = 0x3a;
const FEATURE_CONTROL_VMX: u64 = (1 << 1) | (1 << 2);
const VMX_CAPABILITIES: core::ops::RangeInclusive<u32> = 0x480..=0x491;
/// Registers whose new value would change how this guest itself runs, even though the value is legal.
const OWN_STATE: [u32; 6] = [
    apic::ICR,
    apic::SELF_IPI,
    apic::APIC_BASE,
    apic::TSC_DEADLINE,
    0xc000_0080,
    0xc000_0101,
];
const WILD_VALUES: [u64; 4] = [u64::MAX, 0, 0xdead_beef_0000_0001, 1 << 63];

pub(crate) fn every_class(case: &mut Case, _: &Params) {
    let mut random = Random::new();
    for msr in ARCHITECTURAL.chain(SYNTHETIC).chain(EXTENDED) {
        poke(case, msr);
    }
    for _ in 0..RANDOM_NUMBERS {
        poke(case, random.next() as u32);
    }
    match apic::enable() {
        Ok(()) => X2APIC.for_each(|msr| poke(case, msr)),
        Err(fault) => case.check(false, format_args!("x2APIC mode refused: {fault}")),
    }

    for msr in VMX_CAPABILITIES {
        case.check(
            try_rdmsr(msr).is_err(),
            format_args!("VMX capability MSR {msr:#x} is readable"),
        );
    }
    if let Ok(value) = try_rdmsr(FEATURE_CONTROL) {
        case.check(
            value & FEATURE_CONTROL_VMX == 0,
            format_args!("feature control {value:#x} offers VMX"),
        );
    }
}

/// Reads an MSR, writes back what it read, then writes wild values: each time #GP or nothing.
fn poke(case: &mut Case, msr: u32) {
    let read = try_rdmsr(msr);
    expect_gp_or_ok(case, "rdmsr", msr, read.map(drop));
    if OWN_STATE.contains(&msr) {
        return;
    }
    if let Ok(value) = read {
        // SAFETY: the value it had.
        expect_gp_or_ok(case, "wrmsr same", msr, unsafe { try_wrmsr(msr, value) });
    }
    for value in WILD_VALUES {
        // SAFETY: the registers this guest runs by are excluded above; it uses no FS, GS, system call or PAT entry but 0.
        expect_gp_or_ok(case, "wrmsr wild", msr, unsafe { try_wrmsr(msr, value) });
    }
    if let Ok(value) = read {
        // SAFETY: the value it had.
        expect_gp_or_ok(case, "wrmsr back", msr, unsafe { try_wrmsr(msr, value) });
    }
}

fn expect_gp_or_ok(case: &mut Case, what: &str, msr: u32, result: Result<(), Fault>) {
    if let Err(fault) = result {
        let is_gp = fault
            == (Fault {
                vector: GENERAL_PROTECTION,
                error: 0,
            });
        case.check(is_gp, format_args!("{what} {msr:#x}: {fault}"));
    }
}
