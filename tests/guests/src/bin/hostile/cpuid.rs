//! Every CPUID leaf: nothing faults, and what the hypervisor promises to hide is hidden.

use bulkhead_core::cpuid::Xcr0;
use bulkhead_core::cpuid::features::{
    Extended1Ecx, Extended1Edx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, Leaf7Sub1Eax,
    XsaveEax,
};
use bulkhead_core::cpuid::hidden::{HIDDEN, Register};
use test_guests::case::Case;
use test_guests::cpu::{Cpuid, cpuid};
use test_guests::params::Params;

use test_guests::random::{Random, SEED};

const RANGES: [core::ops::RangeInclusive<u32>; 4] = [
    0..=0x40,
    0x4000_0000..=0x4000_0100,
    0x8000_0000..=0x8000_0040,
    0xffff_fff0..=u32::MAX,
];
const SUBLEAVES: u32 = 4;
const RANDOM_LEAVES: u32 = 1000;
const SIGNATURE: [u8; 12] = *b"BulkheadHv\0\0";

const FEATURES: u32 = 1;
const EXTENDED_FEATURES: u32 = 7;
const XSAVE: u32 = 0xd;
const EXTENDED: u32 = 0x8000_0000;
/// Basic leaves that answer zero: among them performance counters (0xA), cache classes (0xF, 0x10), SGX (0x12), PT (0x14).
const ZERO: [u32; 13] = [3, 5, 8, 9, 0xa, 0xc, 0xe, 0xf, 0x10, 0x11, 0x12, 0x13, 0x14];
/// Hypervisor leaves that mean nothing.
const UNKNOWN_HYPERVISOR: core::ops::RangeInclusive<u32> = 0x4000_0002..=0x4000_00ff;
const NOTHING: Cpuid = Cpuid {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

pub(crate) fn every_leaf(case: &mut Case, _: &Params) {
    let mut random = Random::new(SEED);
    for leaf in RANGES.into_iter().flatten() {
        for subleaf in 0..SUBLEAVES {
            let _ = cpuid(leaf, subleaf);
        }
        let _ = cpuid(leaf, u32::MAX);
    }
    for _ in 0..RANDOM_LEAVES {
        let leaf = random.next();
        let _ = cpuid(leaf as u32, (leaf >> 32) as u32);
    }
    hidden_features(case);
    allowed_features(case);
    empty_leaves(case);
    beyond_the_highest(case);
    signature(case);
}

/// Every feature that the policy names as hidden.
fn hidden_features(case: &mut Case) {
    for hidden in HIDDEN {
        let found = cpuid(hidden.leaf, hidden.subleaf);
        let register = match hidden.register {
            Register::Eax => found.eax,
            Register::Ebx => found.ebx,
            Register::Ecx => found.ecx,
            Register::Edx => found.edx,
        };
        case.check(
            register & (1 << hidden.bit) == 0,
            format_args!(
                "leaf {:#x}.{} offers {}",
                hidden.leaf, hidden.subleaf, hidden.name
            ),
        );
    }
}

/// Nothing but the allow-lists, and what is emulated is there whatever the CPU has.
fn allowed_features(case: &mut Case) {
    let basic = cpuid(FEATURES, 0);
    let structured = cpuid(EXTENDED_FEATURES, 0);
    let more = cpuid(EXTENDED_FEATURES, 1);
    let xsave = cpuid(XSAVE, 1);
    let state = cpuid(XSAVE, 0);
    let extended = cpuid(EXTENDED + 1, 0);
    for (name, found, allowed) in [
        ("1 ECX", basic.ecx, Leaf1Ecx::all().bits()),
        ("1 EDX", basic.edx, Leaf1Edx::all().bits()),
        ("7.0 EBX", structured.ebx, Leaf7Ebx::all().bits()),
        ("7.0 ECX", structured.ecx, Leaf7Ecx::all().bits()),
        ("7.0 EDX", structured.edx, Leaf7Edx::all().bits()),
        ("7.1 EAX", more.eax, Leaf7Sub1Eax::all().bits()),
        ("7.1 EBX", more.ebx, 0),
        ("7.1 ECX", more.ecx, 0),
        ("7.1 EDX", more.edx, 0),
        ("0xd.0 EAX", state.eax, Xcr0::all().bits() as u32),
        ("0xd.0 EDX", state.edx, 0),
        ("0xd.1 EAX", xsave.eax, XsaveEax::all().bits()),
        ("0xd.1 ECX", xsave.ecx, 0),
        ("0xd.1 EDX", xsave.edx, 0),
        ("0x80000001 EAX", extended.eax, 0),
        ("0x80000001 EBX", extended.ebx, 0),
        ("0x80000001 ECX", extended.ecx, Extended1Ecx::all().bits()),
        ("0x80000001 EDX", extended.edx, Extended1Edx::all().bits()),
    ] {
        case.check(
            found & !allowed == 0,
            format_args!("leaf {name} shows {:#x} unasked", found & !allowed),
        );
    }
    let always = Leaf1Ecx::HYPERVISOR | Leaf1Ecx::X2APIC | Leaf1Ecx::TSC_DEADLINE;
    case.check(
        Leaf1Ecx::from_bits_retain(basic.ecx).contains(always),
        format_args!("leaf 1 ECX {:#x} lacks some of {always:?}", basic.ecx),
    );
}

fn empty_leaves(case: &mut Case) {
    for leaf in ZERO.into_iter().chain(UNKNOWN_HYPERVISOR) {
        for subleaf in 0..SUBLEAVES {
            let found = cpuid(leaf, subleaf);
            case.check(
                found == NOTHING,
                format_args!("leaf {leaf:#x}.{subleaf} is {found:x?}"),
            );
        }
    }
    let found = cpuid(EXTENDED_FEATURES, 2);
    case.check(found == NOTHING, format_args!("leaf 7.2 is {found:x?}"));
}

/// A leaf above the highest answers as the highest basic one.
fn beyond_the_highest(case: &mut Case) {
    let highest = cpuid(0, 0).eax;
    let highest_extended = cpuid(EXTENDED, 0).eax;
    let expected = cpuid(highest, 0);
    let beyond = [
        highest + 1..=0x40,
        highest_extended + 1..=EXTENDED + 0x40,
        0xffff_fff0..=u32::MAX,
    ];
    for leaf in beyond.into_iter().flatten() {
        let found = cpuid(leaf, 0);
        case.check(
            found == expected,
            format_args!("leaf {leaf:#x} is {found:x?}, not leaf {highest:#x}"),
        );
    }
}

fn signature(case: &mut Case) {
    let found = cpuid(0x4000_0000, 0);
    let mut signature = [0; 12];
    for (bytes, register) in signature
        .chunks_exact_mut(4)
        .zip([found.ebx, found.ecx, found.edx])
    {
        bytes.copy_from_slice(&register.to_le_bytes());
    }
    case.check(
        signature == SIGNATURE,
        format_args!("leaf 0x40000000 is signed {signature:x?}"),
    );
}
