//! Every class of MSR number, read and written, held against the policy's own table: what it denies is #GP.

use bulkhead_core::msr::{Access, classify};
use test_guests::apic;
use test_guests::case::Case;
use test_guests::cpu::{try_rdmsr, try_wrmsr};
use test_guests::params::Params;
use test_guests::trap::{Fault, GENERAL_PROTECTION};

use test_guests::random::{Random, SEED};

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
    let mut random = Random::new(SEED);
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

/// Reads an MSR, writes back what it read, then writes wild values: each time what the MSR's class says.
fn poke(case: &mut Case, msr: u32) {
    let class = classify(msr);
    let read = try_rdmsr(msr);
    expect(case, "rdmsr", msr, demand(msr, class.read), read.map(drop));
    if OWN_STATE.contains(&msr) {
        return;
    }
    let restores = demand(msr, class.write);
    if let Ok(value) = read {
        // SAFETY: the value it had.
        expect(case, "wrmsr same", msr, restores, unsafe {
            try_wrmsr(msr, value)
        });
    }
    let wild = match class.write {
        Access::Denied => Demand::Fault,
        // Whether a value is legal is up to the register.
        Access::Emulated | Access::PassThrough => Demand::Either,
    };
    for value in WILD_VALUES {
        // SAFETY: the registers this guest runs by are excluded above; it uses no FS, GS, system call or PAT entry but 0.
        expect(case, "wrmsr wild", msr, wild, unsafe {
            try_wrmsr(msr, value)
        });
    }
    if let Ok(value) = read {
        // SAFETY: the value it had.
        expect(case, "wrmsr back", msr, restores, unsafe {
            try_wrmsr(msr, value)
        });
    }
}

/// What an access has to end in.
#[derive(Clone, Copy)]
enum Demand {
    Success,
    Fault,
    Either,
}

/// What reading, or writing a legal value, has to end in. The x2APIC's registers each have rules of their own.
fn demand(msr: u32, access: Access) -> Demand {
    match access {
        Access::Denied => Demand::Fault,
        Access::Emulated if X2APIC.contains(&msr) => Demand::Either,
        Access::Emulated | Access::PassThrough => Demand::Success,
    }
}

fn expect(case: &mut Case, what: &str, msr: u32, demand: Demand, result: Result<(), Fault>) {
    let gp = Err(Fault {
        vector: GENERAL_PROTECTION,
        error: 0,
    });
    let holds = match demand {
        Demand::Success => result.is_ok(),
        Demand::Fault => result == gp,
        Demand::Either => result.is_ok() || result == gp,
    };
    case.check(holds, format_args!("{what} {msr:#x}: {result:?}"));
}
