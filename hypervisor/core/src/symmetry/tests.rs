//! Machines of two kinds of core, and what must not be mixed.

use super::*;
use crate::vmx::capability::{Negotiated, Wishes};
use crate::vmx::controls::{Pin, Secondary};
use proptest::prelude::*;

const ALLOWED: u64 = 0xffff_ffff_0000_0000;

fn vmx() -> VmxReport {
    VmxReport {
        msrs: CapabilityMsrs {
            basic: 0x12 | 4096 << 32 | 6 << 50 | 1 << 55,
            pin: ALLOWED | 0x16,
            primary: ALLOWED | 0x0401_e172,
            secondary: ALLOWED,
            exit: ALLOWED | 0x0003_6dff,
            entry: ALLOWED | 0x11ff,
            misc: 4 << 16 | 1 << 6 | 5,
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: u64::MAX,
            cr4_fixed0: 0x2000,
            cr4_fixed1: u64::MAX,
        },
        ept: u64::MAX,
    }
}

/// A CPU that has everything, less what `change` takes away.
fn cpu(change: impl Fn(u32, u32, &mut CpuidResult)) -> CpuReport {
    let mut host = |leaf, subleaf| {
        let mut answer = CpuidResult {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        };
        match leaf {
            0 => answer.eax = 0x20,
            7 if subleaf == 0 => answer.eax = 2,
            0x8000_0000 => answer.eax = 0x8000_0008,
            0x8000_0008 => answer.eax = 48 << 8 | 46,
            _ => {}
        }
        change(leaf, subleaf, &mut answer);
        answer
    };
    CpuReport::read(&mut host, Some(vmx()))
}

fn full() -> CpuReport {
    cpu(|_, _, _| {})
}

const MEMORY_END: Hpa = Hpa(1 << 34);

/// What CPUs numbered from 0 have in common.
fn of(reports: &[CpuReport], memory_end: Hpa) -> Result<Common, Asymmetry> {
    let numbered: Vec<_> = (0..).zip(reports.iter().cloned()).collect();
    Common::of(&numbered, memory_end)
}

#[test]
fn equal_cpus_lose_nothing() {
    let common = of(&[full(), full(), full()], MEMORY_END).unwrap();
    assert_eq!(common.features, full().features);
    assert_eq!(common.vmx, vmx());
    assert_eq!(common.dropped, []);
}

#[test]
fn a_feature_that_one_cpu_lacks_is_nobodys_and_named() {
    let small = || {
        cpu(|leaf, subleaf, answer| match (leaf, subleaf) {
            (1, _) => answer.ecx &= !(1 << 28),
            (7, 0) => answer.ebx &= !(1 << 5),
            (0xd, 0) => answer.eax &= !4,
            _ => {}
        })
    };
    let common = of(&[full(), small(), full(), small()], MEMORY_END).unwrap();
    let texts: Vec<String> = common.dropped.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "CPUs 1, 3 lack AVX (CPUID.1H:ECX); no guest gets it",
            "CPUs 1, 3 lack AVX2 (CPUID.7H:EBX); no guest gets it",
            "CPUs 1, 3 lack XCR0 AVX (CPUID.DH:EAX); no guest gets it",
        ]
    );
    let everything = CpuidResult {
        eax: 7,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
    };
    let shown = common.features.apply(1, 0, everything);
    assert_eq!(shown.ecx, !(1 << 28));
    assert_eq!((shown.eax, shown.ebx), (7, u32::MAX));
    assert_eq!(common.features.apply(1, 9, everything).ecx, !(1 << 28));
    assert_eq!(common.features.apply(0xd, 0, everything).eax, 3);
    assert_eq!(common.features.apply(0xd, 2, everything), everything);
    assert_eq!(common.features.apply(0x16, 0, everything), everything);
}

#[test]
fn a_bit_that_says_something_is_gone_counts_where_any_cpu_sets_it() {
    let older = cpu(|leaf, subleaf, answer| {
        if (leaf, subleaf) == (7, 0) {
            answer.ebx &= !(1 << 13);
        }
    });
    let common = of(&[older, full()], MEMORY_END).unwrap();
    let answer = common.features.apply(7, 0, CpuidResult::default());
    assert_eq!(answer.ebx, 1 << 6 | 1 << 13);
    assert_eq!(common.dropped, []);
}

#[test]
fn numbers_of_leaves_and_address_widths_are_the_least() {
    let short = cpu(|leaf, subleaf, answer| match (leaf, subleaf) {
        (0, _) => answer.eax = 0x16,
        (0x8000_0008, _) => answer.eax = 57 << 8 | 39,
        _ => {}
    });
    let common = of(&[full(), short], MEMORY_END).unwrap();
    let answer = |eax| CpuidResult {
        eax,
        ..CpuidResult::default()
    };
    assert_eq!(common.features.apply(0, 0, answer(0x20)).eax, 0x16);
    let widths = common.features.apply(0x8000_0008, 0, answer(57 << 8 | 46));
    assert_eq!(widths.eax, 48 << 8 | 39);
    assert_eq!(common.features.physical_bits(), 39);
}

#[test]
fn leaves_a_cpu_does_not_have_are_empty_not_the_last_ones_answer() {
    let old = cpu(|leaf, _, answer| match leaf {
        0 => answer.eax = 4,
        0x8000_0000 => answer.eax = 0x8000_0001,
        _ => {}
    });
    let common = of(&[old], MEMORY_END).unwrap();
    let ones = CpuidResult {
        ecx: u32::MAX,
        ..CpuidResult::default()
    };
    assert_eq!(common.features.apply(7, 0, ones).ecx, 0);
    assert_eq!(common.features.physical_bits(), 36);
}

#[test]
fn controls_that_one_cpu_lacks_are_nobodys_and_forced_ones_are_everybodys() {
    let mut other = full();
    if let Some(vmx) = &mut other.vmx {
        vmx.msrs.secondary &= !(u64::from(Secondary::VIRTUALIZE_X2APIC.bits()) << 32);
        vmx.msrs.pin |= u64::from(Pin::EXTERNAL_INTERRUPT.bits());
        vmx.msrs.misc = 2 << 16 | 1 << 6 | 7;
        vmx.msrs.cr0_fixed0 = 1;
        vmx.msrs.cr4_fixed1 = 0xffff;
        vmx.ept &= !EptFeatures::PAGE_1G.bits();
    }
    let common = of(&[full(), other], MEMORY_END).unwrap();
    let msrs = common.vmx.msrs;
    let negotiated = Negotiated::from_msrs(&msrs, Wishes::ALL).unwrap();
    assert!(!negotiated.apicv());
    assert_ne!(msrs.pin & u64::from(Pin::EXTERNAL_INTERRUPT.bits()), 0);
    assert_eq!(msrs.misc, 2 << 16 | 1 << 6 | 7);
    assert_eq!((msrs.cr0_fixed0, msrs.cr4_fixed1), (0x8000_0021, 0xffff));
    let texts: Vec<String> = common.dropped.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "CPU 1 lacks VIRTUALIZE_X2APIC (secondary VMX controls); no guest gets it",
            "CPU 1 lacks PAGE_1G (EPT); no guest gets it",
        ]
    );
}

#[test]
fn what_cannot_be_reconciled_is_named() {
    assert_eq!(of(&[], MEMORY_END), Err(Asymmetry::NoCpus));
    let without = CpuReport {
        vmx: None,
        ..full()
    };
    let error = of(&[full(), full(), without], MEMORY_END).unwrap_err();
    assert_eq!(error, Asymmetry::NoVmx { cpu: 2 });
    assert!(error.to_string().contains("CPU 2"));

    let with_basic = |basic| CpuReport {
        vmx: Some(VmxReport {
            msrs: CapabilityMsrs {
                basic,
                ..vmx().msrs
            },
            ..vmx()
        }),
        ..full()
    };
    let other = with_basic(0x13 | 4096 << 32 | 6 << 50);
    assert_eq!(
        of(&[full(), other], MEMORY_END),
        Err(Asymmetry::Vmx {
            cpu: 1,
            difference: VmxDifference::Revision {
                expected: 0x12,
                found: 0x13
            }
        })
    );
    let other = with_basic(0x12 | 4096 << 32);
    assert_eq!(
        of(&[full(), other], MEMORY_END),
        Err(Asymmetry::Vmx {
            cpu: 1,
            difference: VmxDifference::MemoryType {
                expected: 6,
                found: 0
            }
        })
    );
}

#[test]
fn a_narrow_cpu_matters_only_where_memory_is_beyond_it() {
    let narrow = || {
        cpu(|leaf, _, answer| {
            if leaf == 0x8000_0008 {
                answer.eax = 48 << 8 | 36;
            }
        })
    };
    assert!(of(&[full(), narrow()], Hpa(1 << 36)).is_ok());
    assert_eq!(
        of(&[full(), narrow()], Hpa((1 << 36) + 1)),
        Err(Asymmetry::AddressWidth {
            cpu: 1,
            bits: 36,
            memory_end: Hpa((1 << 36) + 1)
        })
    );
}

fn any_msrs() -> impl Strategy<Value = CapabilityMsrs> {
    any::<[u64; 11]>().prop_map(
        |[
            basic,
            pin,
            primary,
            secondary,
            exit,
            entry,
            misc,
            a,
            b,
            c,
            d,
        ]| {
            CapabilityMsrs {
                basic: basic & !0x7fff_ffff & !(0xf << 50),
                pin,
                primary,
                secondary,
                exit,
                entry,
                misc,
                cr0_fixed0: a,
                cr0_fixed1: b,
                cr4_fixed0: c,
                cr4_fixed1: d,
            }
        },
    )
}

proptest! {
    #[test]
    fn the_order_of_cpus_makes_no_difference(a in any_msrs(), b in any_msrs(), c in any_msrs()) {
        prop_assert_eq!(a.common(&b), b.common(&a));
        prop_assert_eq!(a.common(&a), Ok(a));
        let left = a.common(&b).and_then(|ab| ab.common(&c));
        let right = b.common(&c).and_then(|bc| a.common(&bc));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn no_cpu_is_asked_for_a_feature_it_lacks(words in prop::collection::vec(any::<u32>(), 64), reach: u64) {
        let mut at = 0;
        let mut report = || {
            let mut host = |_, _| {
                at += 4;
                let word = |i: usize| words[(at + i) % words.len()];
                CpuidResult { eax: word(0), ebx: word(1), ecx: word(2), edx: word(3) }
            };
            CpuReport::read(&mut host, Some(vmx()))
        };
        let reports = [report(), report()];
        if let Ok(common) = of(&reports, Hpa(reach)) {
            for cpu in &reports {
                prop_assert_eq!(common.features.beyond(&cpu.features).count(), 0);
            }
        }
    }
}

#[test]
fn a_cpu_keeps_its_number_where_one_before_it_is_missing() {
    let without = CpuReport {
        vmx: None,
        ..full()
    };
    assert_eq!(
        Common::of(&[(0, full()), (3, without)], MEMORY_END),
        Err(Asymmetry::NoVmx { cpu: 3 })
    );
}
