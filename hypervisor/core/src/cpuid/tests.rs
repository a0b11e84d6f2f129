//! The policy over a made-up host with every feature, and over a Tiger Lake-like one.

use std::collections::HashMap;

use proptest::prelude::*;

use super::features::Leaf7Edx;
use super::hidden::{HIDDEN, Register};
use super::*;

const AT_RESET: CpuidDynamic = CpuidDynamic { cr4: 0, xcr0: 1 };

fn config(vcpus: u32, apic_id: u32) -> CpuidConfig {
    CpuidConfig {
        apic_id,
        vcpus,
        tsc_khz: 2_400_000,
        instructions: VmxInstructions::all(),
    }
}

/// A host that claims every bit of every leaf that it has.
fn boastful(leaf: u32, subleaf: u32) -> CpuidResult {
    match (leaf, subleaf) {
        (0, _) => CpuidResult {
            eax: 0x20,
            ..CpuidResult::signature(0, b"GenuntelineI")
        },
        (1, _) => CpuidResult {
            eax: 0x806c1,
            ebx: 0x0710_0800,
            ecx: !0,
            edx: !0,
        },
        (4, 0) => CpuidResult {
            eax: 0x1c00_4121,
            ebx: 0x2c0_003f,
            ecx: 63,
            edx: 0,
        },
        (4, 1) => CpuidResult {
            eax: 0x1c03_c163,
            ebx: 0x2c0_003f,
            ecx: 0x2fff,
            edx: 4,
        },
        (4, _) => CpuidResult::ZERO,
        (0xd, 2) => CpuidResult {
            eax: 256,
            ebx: 576,
            ..CpuidResult::ZERO
        },
        (0xd, 5) => CpuidResult {
            eax: 64,
            ebx: 1088,
            ..CpuidResult::ZERO
        },
        (0xd, 6) => CpuidResult {
            eax: 512,
            ebx: 1152,
            ..CpuidResult::ZERO
        },
        (0xd, 7) => CpuidResult {
            eax: 1024,
            ebx: 1664,
            ..CpuidResult::ZERO
        },
        (0xd, 9) => CpuidResult {
            eax: 8,
            ebx: 2688,
            ..CpuidResult::ZERO
        },
        (0x8000_0000, _) => CpuidResult {
            eax: 0x8000_0008,
            ..CpuidResult::ZERO
        },
        (0x8000_0008, _) => CpuidResult {
            eax: 0x3927,
            ebx: !0,
            ..CpuidResult::ZERO
        },
        _ => CpuidResult {
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
        },
    }
}

fn table(vcpus: u32, apic_id: u32) -> CpuidTable {
    CpuidTable::build(&mut boastful, &config(vcpus, apic_id))
}

fn look(table: &CpuidTable, leaf: u32, subleaf: u32) -> CpuidResult {
    table.lookup(leaf, subleaf, &AT_RESET)
}

#[test]
fn no_hidden_feature_shows_even_where_the_host_has_all() {
    let table = table(4, 2);
    for entry in HIDDEN {
        let result = look(&table, entry.leaf, entry.subleaf);
        let register = match entry.register {
            Register::Eax => result.eax,
            Register::Ebx => result.ebx,
            Register::Ecx => result.ecx,
            Register::Edx => result.edx,
        };
        assert_eq!(register & 1 << entry.bit, 0, "{} shows", entry.name);
        assert!(!entry.reason.is_empty());
    }
}

#[test]
fn hidden_features_are_listed_once() {
    let mut seen = HashMap::new();
    for entry in HIDDEN {
        let place = (entry.leaf, entry.subleaf, entry.register as u32, entry.bit);
        assert_eq!(seen.insert(place, entry.name), None, "{}", entry.name);
    }
}

#[test]
fn every_defined_bit_of_the_feature_registers_is_allowed_or_explained() {
    // Bits that the manual leaves reserved in the registers below.
    let registers = [
        (1, 0, Register::Ecx, Leaf1Ecx::all().bits(), 1 << 16),
        (
            1,
            0,
            Register::Edx,
            Leaf1Edx::all().bits(),
            1 << 10 | 1 << 20 | 1 << 30,
        ),
        (7, 0, Register::Ebx, Leaf7Ebx::all().bits(), 1 << 22),
        (
            7,
            0,
            Register::Ecx,
            Leaf7Ecx::all().bits(),
            1 << 15 | 0x3e << 16 | 1 << 26,
        ),
        (
            7,
            0,
            Register::Edx,
            Leaf7Edx::all().bits(),
            1 << 0 | 1 << 6 | 1 << 7 | 1 << 12 | 1 << 17 | 1 << 21,
        ),
    ];
    for (leaf, subleaf, register, allowed, reserved) in registers {
        let explained = HIDDEN
            .iter()
            .filter(|entry| {
                (entry.leaf, entry.subleaf, entry.register) == (leaf, subleaf, register)
            })
            .fold(0, |mask, entry| mask | 1 << entry.bit);
        assert_eq!(
            allowed & explained,
            0,
            "leaf {leaf:#x} {register:?} allows what it hides"
        );
        assert_eq!(
            !(allowed | explained | reserved),
            0,
            "leaf {leaf:#x} {register:?} leaves bits undecided"
        );
    }
}

#[test]
fn hypervisor_leaves_carry_both_signatures_and_nothing_else() {
    let table = table(1, 0);
    let text = |leaf| {
        let CpuidResult { ebx, ecx, edx, .. } = look(&table, leaf, 0);
        [ebx, ecx, edx].map(u32::to_le_bytes).concat()
    };
    assert_eq!(text(0x4000_0000), b"BulkheadHv\0\0");
    assert_eq!(look(&table, 0x4000_0000, 0).eax, 0x4000_0001);
    assert_eq!(look(&table, 0x4000_0001, 0).eax, hypercall::ABI_VERSION);
    assert_eq!(text(0x4000_0100), b"KVMKVMKVM\0\0\0");
    for leaf in [0x4000_0002, 0x4000_0101, 0x4000_0200, 0x4fff_ffff] {
        assert_eq!(look(&table, leaf, 0), CpuidResult::ZERO, "{leaf:#x}");
    }
    assert_ne!(look(&table, 1, 0).ecx & 1 << 31, 0);
}

#[test]
fn leaves_out_of_range_answer_as_the_highest_basic_leaf() {
    let table = table(1, 0);
    let highest = look(&table, MAX_BASIC, 0);
    assert_eq!(look(&table, 0, 0).eax, MAX_BASIC);
    for leaf in [
        0x17,
        0x1f,
        0x3fff_ffff,
        0x5000_0000,
        0x8000_0009,
        0x8fff_ffff,
        u32::MAX,
    ] {
        assert_eq!(look(&table, leaf, 7), highest, "{leaf:#x}");
    }
}

#[test]
fn performance_trace_enclave_and_resource_leaves_are_zero() {
    let table = table(2, 1);
    for leaf in [3, 5, 8, 9, 0xa, 0xc, 0xe, 0xf, 0x10, 0x11, 0x12, 0x13, 0x14] {
        for subleaf in [0, 1, 2, u32::MAX] {
            assert_eq!(look(&table, leaf, subleaf), CpuidResult::ZERO, "{leaf:#x}");
        }
    }
}

#[test]
fn frequency_leaves_give_the_calibrated_tsc_exactly() {
    for tsc_khz in [100_000, 999_999, 2_400_003, 4_294_967, 4_294_968, 5_700_000] {
        let table = CpuidTable::build(
            &mut boastful,
            &CpuidConfig {
                tsc_khz,
                ..config(1, 0)
            },
        );
        let leaf = look(&table, 0x15, 0);
        // Linux computes in kHz and 32 bits: crystal kHz times numerator must fit.
        let khz = leaf.ecx / 1000;
        let computed = khz.checked_mul(leaf.ebx).unwrap() / leaf.eax;
        assert!(tsc_khz - computed <= leaf.ebx, "{tsc_khz} gave {computed}");
        let crystal = Crystal::for_tsc(tsc_khz);
        assert_eq!((1 << crystal.shift, crystal.hz), (leaf.ebx, leaf.ecx));
        assert_eq!(look(&table, 0x16, 0).eax, tsc_khz / 1000);
    }
}

#[test]
fn osxsave_mirrors_cr4() {
    let table = table(1, 0);
    let on = CpuidDynamic {
        cr4: CR4_OSXSAVE,
        xcr0: 7,
    };
    assert_eq!(look(&table, 1, 0).ecx & 1 << 27, 0);
    assert_ne!(table.lookup(1, 0, &on).ecx & 1 << 27, 0);
}

#[test]
fn protection_keys_are_nowhere() {
    let table = table(1, 0);
    let tried = CpuidDynamic {
        cr4: 1 << 22,
        xcr0: 7,
    };
    assert_eq!(table.lookup(7, 0, &tried).ecx & (1 << 3 | 1 << 4), 0);
    assert_eq!(table.allowed_cr4() & 1 << 22, 0);
    assert_eq!(table.validate_xcr0(0x207), Err(GuestFault::GP0));
    assert_eq!(look(&table, 0xd, 9), CpuidResult::ZERO);
}

#[test]
fn vmx_enabled_instructions_hide_without_their_control() {
    let none = CpuidConfig {
        instructions: VmxInstructions::empty(),
        ..config(1, 0)
    };
    let table = CpuidTable::build(&mut boastful, &none);
    assert_eq!(look(&table, 7, 0).ebx & 1 << 10, 0);
    assert_eq!(look(&table, 7, 0).ecx & 1 << 22, 0);
    assert_eq!(look(&table, 0x8000_0001, 0).edx & 1 << 27, 0);
}

#[test]
fn emulated_features_show_even_where_the_host_lacks_them() {
    let bare = |leaf, _| match leaf {
        0 => CpuidResult {
            eax: 1,
            ..CpuidResult::ZERO
        },
        _ => CpuidResult::ZERO,
    };
    let mut bare: Box<dyn FnMut(u32, u32) -> CpuidResult> = Box::new(bare);
    let table = CpuidTable::build(&mut *bare, &config(1, 0));
    let leaf1 = look(&table, 1, 0);
    assert_eq!(
        leaf1.ecx,
        (Leaf1Ecx::HYPERVISOR | Leaf1Ecx::X2APIC | Leaf1Ecx::TSC_DEADLINE).bits()
    );
    assert_eq!(leaf1.edx, (Leaf1Edx::APIC | Leaf1Edx::MTRR).bits());
    assert_eq!(look(&table, 7, 0).ebx, Leaf7Ebx::TSC_ADJUST.bits());
    assert_eq!(look(&table, 0xd, 0).ecx, 576);
}

#[test]
fn topology_and_caches_agree_with_the_vcpu_count() {
    let table = table(6, 5);
    assert_eq!(look(&table, 1, 0).ebx >> 24, 5);
    assert_eq!(look(&table, 1, 0).ebx >> 16 & 0xff, 8);
    assert_ne!(look(&table, 1, 0).edx & 1 << 28, 0);
    assert_eq!(
        look(&table, 0xb, 0),
        CpuidResult {
            eax: 0,
            ebx: 1,
            ecx: 0x100,
            edx: 5
        }
    );
    assert_eq!(
        look(&table, 0xb, 1),
        CpuidResult {
            eax: 3,
            ebx: 6,
            ecx: 0x201,
            edx: 5
        }
    );
    assert_eq!(
        look(&table, 0xb, 2),
        CpuidResult {
            eax: 0,
            ebx: 0,
            ecx: 2,
            edx: 5
        }
    );
    let (l1, l3) = (look(&table, 4, 0), look(&table, 4, 1));
    assert_eq!((l1.eax >> 14 & 0xfff, l1.eax >> 26), (0, 7));
    assert_eq!((l3.eax >> 14 & 0xfff, l3.eax >> 26), (7, 7));
    assert_eq!(look(&table, 4, 2), CpuidResult::ZERO);
    assert_eq!(look(&self::table(1, 0), 0xb, 1).eax, 0);
    assert_eq!(look(&self::table(1, 0), 1, 0).edx & 1 << 28, 0);
}

#[test]
fn xsave_sizes_follow_xcr0_in_both_forms() {
    let table = table(1, 0);
    let sizes = |xcr0| {
        let dynamic = CpuidDynamic { cr4: 0, xcr0 };
        (
            table.lookup(0xd, 0, &dynamic).ebx,
            table.lookup(0xd, 1, &dynamic).ebx,
        )
    };
    assert_eq!(sizes(0x1), (576, 576));
    assert_eq!(sizes(0x7), (832, 832));
    assert_eq!(sizes(0xe7), (2688, 2432));
    assert_eq!(look(&table, 0xd, 0).eax, 0xe7);
    assert_eq!(look(&table, 0xd, 0).ecx, 2688);
    assert_eq!(look(&table, 0xd, 1).eax, 7);
    assert_eq!(
        look(&table, 0xd, 2),
        CpuidResult {
            eax: 256,
            ebx: 576,
            ..CpuidResult::ZERO
        }
    );
    for subleaf in [3, 4, 8, 10, 17, 63, u32::MAX] {
        assert_eq!(look(&table, 0xd, subleaf), CpuidResult::ZERO);
    }
}

#[test]
fn xcr0_is_validated_as_xsetbv_does() {
    let table = table(1, 0);
    for good in [0x1, 0x3, 0x7, 0xe7] {
        assert_eq!(table.validate_xcr0(good).map(|xcr0| xcr0.bits()), Ok(good));
    }
    for bad in [0, 0x2, 0x5, 0x9, 0x27, 0xe3, 0x47, 0x807, 0x60007, 1 << 63] {
        assert_eq!(table.validate_xcr0(bad), Err(GuestFault::GP0), "{bad:#x}");
    }
}

#[test]
fn cr4_allows_only_what_cpuid_shows() {
    let cr4 = table(1, 0).allowed_cr4();
    for bit in [6, 12, 13, 14, 15, 19, 22, 23, 24, 25, 32, 63] {
        assert_eq!(cr4 & 1 << bit, 0, "bit {bit}");
    }
    for bit in [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 16, 17, 18, 20, 21] {
        assert_ne!(cr4 & 1 << bit, 0, "bit {bit}");
    }
}

#[test]
fn address_widths_stay_within_four_level_paging() {
    assert_eq!(look(&table(1, 0), 0x8000_0008, 0).eax, 0x3027);
}

proptest! {
    #[test]
    fn any_leaf_and_state_is_answered(leaf in any::<u32>(), subleaf in any::<u32>(), cr4 in any::<u64>(), xcr0 in any::<u64>()) {
        let table = table(3, 1);
        let dynamic = CpuidDynamic { cr4, xcr0 };
        for leaf in [leaf, leaf & 0x1f, 0x4000_0000 | leaf & 0x1ff, 0x8000_0000 | leaf & 0xf] {
            let first = table.lookup(leaf, subleaf, &dynamic);
            prop_assert_eq!(first, table.lookup(leaf, subleaf, &dynamic));
        }
    }
}
