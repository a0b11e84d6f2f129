//! The MSR policy as a guest meets it.

use super::*;

struct Guest {
    state: MsrState,
    apic: LocalApic,
}

impl Guest {
    fn new() -> Self {
        Self {
            state: MsrState::new(39, 0xa4),
            apic: LocalApic::new(0, 0),
        }
    }

    fn read(&self, msr: u32) -> Result<u64, GuestFault> {
        read(msr, &self.state, &self.apic, 1000)
    }

    fn write(&mut self, msr: u32, value: u64) -> Result<MsrEffect, GuestFault> {
        write(msr, value, &mut self.state, &mut self.apic, 1000)
    }
}

#[test]
fn registers_that_linux_reads_unguarded_do_not_fault() {
    let guest = Guest::new();
    assert_eq!(guest.read(0x1a0), Ok(0x1801));
    assert_eq!(guest.read(0x8b), Ok(0xa4 << 32));
    assert_eq!(guest.read(0x17), Ok(0));
    assert_eq!(guest.read(0x3a), Ok(1));
    assert_eq!(guest.read(0x1b), Ok(0xfee0_0d00));
    assert_eq!(guest.read(0xfe), Ok(0x508));
    assert_eq!(guest.read(0x2ff), Ok(0xc06));
    assert_eq!(guest.read(0x277), Ok(PAT_AT_RESET));
    assert_eq!(guest.read(0x3b), Ok(0));
    assert_eq!(guest.read(0x10), Ok(1000));
    assert_eq!(guest.read(0x1d9), Ok(0));
}

#[test]
fn everything_not_listed_is_denied_both_ways() {
    let mut guest = Guest::new();
    for msr in (0..0x2000)
        .chain(0x4000_0000..0x4000_0100)
        .chain(0xc000_0000..0xc000_2000)
        .chain([u32::MAX])
    {
        let class = classify(msr);
        if class.read == Access::Denied {
            assert_eq!(guest.read(msr), Err(GuestFault::GP0), "read {msr:#x}");
        }
        if class.write == Access::Denied {
            for value in [0, 1, u64::MAX] {
                assert_eq!(
                    guest.write(msr, value),
                    Err(GuestFault::GP0),
                    "write {msr:#x}"
                );
            }
        }
    }
}

#[test]
fn virtualisation_speculation_and_power_registers_are_denied() {
    let denied = [
        0x33, 0x48, 0x49, 0xce, 0x10a, 0x10b, 0x140, 0x179, 0x1b0, 0x480, 0x491, 0x570, 0x606,
        0x770, 0xda0,
    ];
    for msr in denied {
        assert_eq!(classify(msr), Class::DENIED, "{msr:#x}");
    }
}

#[test]
fn only_switched_registers_pass_both_ways() {
    let in_vmcs = [0x174, 0x175, 0x176, FS_BASE, GS_BASE];
    for msr in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
        if classify(msr) == Class::PASS {
            assert!(
                in_vmcs.contains(&msr) || SWITCHED_MSRS.contains(&msr),
                "{msr:#x}"
            );
        }
    }
    assert!(
        SWITCHED_MSRS
            .iter()
            .all(|msr| classify(*msr) == Class::PASS)
    );
}

#[test]
fn misc_enable_keeps_what_is_not_the_guests() {
    let mut guest = Guest::new();
    assert_eq!(guest.write(0x1a0, 0x40_1800), Ok(MsrEffect::None));
    assert_eq!(guest.read(0x1a0), Ok(0x1800));
    assert_eq!(guest.write(0x1a0, 1 << 34 | 1), Ok(MsrEffect::None));
    assert_eq!(guest.read(0x1a0), Ok(0x1801));
    assert_eq!(guest.write(0x1a0, 1 << 63), Err(GuestFault::GP0));
}

#[test]
fn tsc_and_its_adjustment_move_together() {
    let mut guest = Guest::new();
    assert_eq!(guest.write(0x10, 1500), Ok(MsrEffect::TscStepped(500)));
    assert_eq!(guest.read(0x3b), Ok(500));
    assert_eq!(
        guest.write(0x3b, 0),
        Ok(MsrEffect::TscStepped(500_u64.wrapping_neg()))
    );
    assert_eq!(guest.read(0x3b), Ok(0));
}

#[test]
fn pat_refuses_reserved_types() {
    let mut guest = Guest::new();
    let value = 0x0407_0506_0007_0106;
    assert_eq!(guest.write(0x277, value), Ok(MsrEffect::SetPat(value)));
    assert_eq!(guest.state.pat(), value);
    for bad in [2, 3 << 8, 8 << 16, 0xff << 56] {
        assert_eq!(guest.write(0x277, bad), Err(GuestFault::GP0));
    }
}

#[test]
fn efer_follows_the_long_mode_rules() {
    let long = (Efer::LME | Efer::LMA | Efer::SCE).bits();
    assert_eq!(
        validate_efer(0xd01, long, true),
        Ok(Efer::from_bits_retain(0xd01))
    );
    assert_eq!(
        validate_efer(0x901, long, true),
        Ok(Efer::from_bits_retain(0xd01))
    );
    assert_eq!(validate_efer(0x801, long, true), Err(GuestFault::GP0));
    assert_eq!(validate_efer(0x500, 0, false), Ok(Efer::LME));
    assert_eq!(validate_efer(0x1000, 0, false), Err(GuestFault::GP0));
    assert_eq!(Guest::new().write(EFER, 1 << 15), Err(GuestFault::GP0));
    assert_eq!(
        Guest::new().write(EFER, 0xd01),
        Ok(MsrEffect::SetEfer(0xd01))
    );
}

#[test]
fn only_switching_off_is_accepted_for_the_old_kvm_clock() {
    let mut guest = Guest::new();
    assert_eq!(guest.write(0x12, 0), Ok(MsrEffect::None));
    assert_eq!(guest.write(0x12, 0x1001), Err(GuestFault::GP0));
    assert_eq!(guest.read(0x12), Err(GuestFault::GP0));
}

#[test]
fn apic_registers_reach_the_apic() {
    let mut guest = Guest::new();
    assert_eq!(
        guest.write(0x80f, 0x1ff),
        Ok(MsrEffect::Apic(ApicEffect::TimerChanged))
    );
    assert_eq!(
        guest.write(0x832, 0x400ec),
        Ok(MsrEffect::Apic(ApicEffect::TimerChanged))
    );
    assert_eq!(
        guest.write(0x6e0, 2000),
        Ok(MsrEffect::Apic(ApicEffect::TimerChanged))
    );
    assert_eq!(guest.read(0x6e0), Ok(2000));
    assert_eq!(guest.apic.next_deadline(), Some(2000));
}

#[test]
fn random_numbers_and_values_never_panic() {
    let mut seed = 0x1234_5678_9abc_def1_u64;
    let mut guest = Guest::new();
    for _ in 0..300_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let msr = match seed & 3 {
            0 => (seed >> 32) as u32,
            1 => (seed >> 32) as u32 & 0x1fff,
            2 => 0xc000_0000 | (seed >> 32) as u32 & 0x1fff,
            _ => 0x200 | (seed >> 32) as u32 & 0xff,
        };
        let value = seed.rotate_left(17) >> (seed >> 58);
        let _ = guest.write(msr, value);
        let _ = guest.read(msr);
    }
}
