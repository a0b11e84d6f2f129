//! Every CPUID leaf: nothing faults, and what the hypervisor promises to hide is hidden.

use test_guests::case::Case;
use test_guests::cpu::cpuid;
use test_guests::params::Params;

use crate::random::Random;

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
const VMX: u32 = 1 << 5;
const SMX: u32 = 1 << 6;
const HYPERVISOR: u32 = 1 << 31;
const X2APIC: u32 = 1 << 21;

pub(crate) fn every_leaf(case: &mut Case, _: &Params) {
    let mut random = Random::new();
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

    let features = cpuid(FEATURES, 0).ecx;
    case.check(features & VMX == 0, format_args!("CPUID offers VMX"));
    case.check(features & SMX == 0, format_args!("CPUID offers SMX"));
    case.check(
        features & HYPERVISOR != 0,
        format_args!("CPUID does not say there is a hypervisor"),
    );
    case.check(
        features & X2APIC != 0,
        format_args!("CPUID does not offer the x2APIC"),
    );

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
