//! Behaviour of the local APIC as a guest sees it through its MSRs.

use proptest::prelude::*;

use super::*;
use crate::fault::GuestFault;

const SVR: u32 = 0x80f;
const TPR: u32 = 0x808;
const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_ERROR: u32 = 0x837;
const SELF_IPI: u32 = 0x83f;

fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(0, 0);
    assert_eq!(apic.write_msr(SVR, 0x1ff, 0), Ok(ApicEffect::TimerChanged));
    apic
}

fn read(apic: &LocalApic, msr: u32) -> u64 {
    apic.read_msr(msr, 0).unwrap()
}

/// A write that must be accepted, whatever its effect.
fn write(apic: &mut LocalApic, msr: u32, value: u64, now: u64) {
    let accepted = apic.write_msr(msr, value, now);
    assert!(accepted.is_ok(), "{msr:#x} = {value:#x} gave {accepted:?}");
}

#[test]
fn starts_in_x2apic_mode_and_software_disabled() {
    let mut apic = LocalApic::new(17, 0);
    assert_eq!(read(&apic, 0x1b), 0xfee0_0c00);
    assert_eq!(read(&LocalApic::new(0, 0), 0x1b), 0xfee0_0d00);
    assert_eq!(read(&apic, 0x802), 17);
    assert_eq!(read(&apic, 0x80d), 0x1_0002);
    assert_eq!(read(&apic, 0x803) >> 16, 5);
    assert_eq!(read(&apic, LVT_TIMER), 0x1_0000);
    assert!(!apic.raise(0x40, Trigger::Edge));
    assert_eq!(apic.highest_pending(), None);
}

#[test]
fn highest_vector_goes_first_and_blocks_its_class() {
    let mut apic = enabled();
    for vector in [0x31, 0x85, 0x82] {
        assert!(apic.raise(vector, Trigger::Edge));
    }
    assert_eq!(apic.highest_pending(), Some(0x85));
    apic.accept(0x85);
    assert_eq!(read(&apic, PPR), 0x80);
    assert_eq!(apic.highest_pending(), None);
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.highest_pending(), Some(0x82));
    apic.accept(0x82);
    apic.raise(0x91, Trigger::Edge);
    assert_eq!(apic.highest_pending(), Some(0x91));
}

#[test]
fn task_priority_holds_back_lower_classes() {
    let mut apic = enabled();
    apic.raise(0x45, Trigger::Edge);
    assert_eq!(apic.write_msr(TPR, 0x40, 0), Ok(ApicEffect::Recheck));
    assert_eq!(apic.highest_pending(), None);
    assert_eq!(apic.tpr_threshold(), 4);
    assert_eq!(apic.write_msr(TPR, 0x3f, 0), Ok(ApicEffect::Recheck));
    assert_eq!(apic.highest_pending(), Some(0x45));
    assert_eq!(apic.tpr_threshold(), 0);
    assert_eq!(apic.write_msr(TPR, 0x100, 0), Err(GuestFault::GP0));
}

#[test]
fn end_of_a_level_interrupt_names_its_vector() {
    let mut apic = enabled();
    apic.raise(0x50, Trigger::Level);
    apic.accept(0x50);
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicEffect::LevelEoi(0x50)));
    apic.raise(0x50, Trigger::Edge);
    apic.accept(0x50);
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicEffect::Recheck));
    assert_eq!(apic.write_msr(EOI, 0, 0), Ok(ApicEffect::Recheck));
    assert_eq!(apic.write_msr(EOI, 1, 0), Err(GuestFault::GP0));
}

#[test]
fn deadline_in_the_past_fires_at_once() {
    let mut apic = enabled();
    write(&mut apic, LVT_TIMER, 0x400ec, 0);
    assert_eq!(apic.write_msr(0x6e0, 900, 1000), Ok(ApicEffect::Recheck));
    assert_eq!(apic.highest_pending(), Some(0xec));
    assert_eq!(read(&apic, 0x6e0), 0);
}

#[test]
fn deadline_fires_when_reached_and_only_once() {
    let mut apic = enabled();
    write(&mut apic, LVT_TIMER, 0x400ec, 0);
    assert_eq!(
        apic.write_msr(0x6e0, 2000, 1000),
        Ok(ApicEffect::TimerChanged)
    );
    assert_eq!(apic.next_deadline(), Some(2000));
    assert!(!apic.on_time(1999));
    assert!(apic.on_time(2000));
    assert_eq!(apic.next_deadline(), None);
    assert!(!apic.on_time(3000));
}

#[test]
fn deadline_that_passes_while_masked_is_lost() {
    let mut apic = enabled();
    write(&mut apic, LVT_TIMER, 0x400ec, 0);
    assert_eq!(
        apic.write_msr(0x6e0, 2000, 1000),
        Ok(ApicEffect::TimerChanged)
    );
    write(&mut apic, LVT_TIMER, 0x500ec, 1500);
    write(&mut apic, LVT_TIMER, 0x400ec, 2500);
    assert_eq!(apic.next_deadline(), None);
    assert!(!apic.on_time(3000));
    assert_eq!(read(&apic, 0x6e0), 0);
}

#[test]
fn masked_timer_needs_no_host_timer_until_unmasked() {
    let mut apic = enabled();
    write(&mut apic, LVT_TIMER, 0x500ec, 0);
    write(&mut apic, 0x6e0, 2000, 1000);
    assert_eq!(apic.next_deadline(), None);
    assert_eq!(
        apic.write_msr(LVT_TIMER, 0x400ec, 0),
        Ok(ApicEffect::TimerChanged)
    );
    assert_eq!(apic.next_deadline(), Some(2000));
}

#[test]
fn periodic_timer_counts_through_its_registers() {
    let mut apic = enabled();
    write(&mut apic, LVT_TIMER, 0x200ec, 0);
    write(&mut apic, 0x83e, 0b1011, 0);
    write(&mut apic, 0x838, 100, 1000);
    assert_eq!(apic.read_msr(0x839, 1030), Ok(70));
    assert!(apic.on_time(1100));
    assert_eq!(apic.next_deadline(), Some(1200));
    write(&mut apic, 0x838, 0, 1150);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn self_ipis_stay_inside() {
    let mut apic = enabled();
    assert_eq!(apic.write_msr(SELF_IPI, 0x61, 0), Ok(ApicEffect::Recheck));
    assert_eq!(apic.highest_pending(), Some(0x61));
    assert_eq!(apic.write_msr(ICR, 0x4_4071, 0), Ok(ApicEffect::Recheck));
    assert_eq!(apic.highest_pending(), Some(0x71));
    assert_eq!(read(&apic, ICR), 0x4_4071);
}

#[test]
fn ipis_to_absurd_ids_are_requests_that_select_nobody() {
    let mut apic = enabled();
    let Ok(ApicEffect::Ipi(request)) = apic.write_msr(ICR, 0xdead_beef << 32 | 0x4041, 0) else {
        panic!("an IPI was expected");
    };
    assert!((0..256).all(|id| !request.destination.selects(id, 0)));
}

#[test]
fn illegal_vectors_show_in_the_error_status_and_its_interrupt() {
    let mut apic = enabled();
    write(&mut apic, LVT_ERROR, 0xfe, 0);
    write(&mut apic, SELF_IPI, 5, 0);
    assert_eq!(apic.highest_pending(), Some(0xfe));
    assert_eq!(read(&apic, ESR), 0);
    write(&mut apic, ESR, 0, 0);
    assert_eq!(read(&apic, ESR), 1 << 5);
    write(&mut apic, ESR, 0, 0);
    assert_eq!(read(&apic, ESR), 0);
    assert!(!apic.raise(3, Trigger::Edge));
    write(&mut apic, ESR, 0, 0);
    assert_eq!(read(&apic, ESR), 1 << 6);
    assert_eq!(apic.write_msr(ESR, 1, 0), Err(GuestFault::GP0));
}

#[test]
fn illegal_error_vector_does_not_recurse() {
    let mut apic = enabled();
    write(&mut apic, LVT_ERROR, 0x03, 0);
    write(&mut apic, SELF_IPI, 5, 0);
    write(&mut apic, ESR, 0, 0);
    assert_eq!(read(&apic, ESR), 1 << 5 | 1 << 6);
}

#[test]
fn software_disable_masks_every_entry() {
    let mut apic = enabled();
    write(&mut apic, LVT_TIMER, 0x400ec, 0);
    write(&mut apic, SVR, 0xff, 0);
    assert_eq!(read(&apic, LVT_TIMER), 0x500ec);
    write(&mut apic, LVT_TIMER, 0x400ec, 0);
    assert_eq!(read(&apic, LVT_TIMER), 0x500ec);
}

#[test]
fn reserved_and_read_only_registers_fault() {
    let mut apic = enabled();
    for msr in [
        0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x820, 0x82f, 0x831, 0x839, 0x840, 0x8ff,
    ] {
        assert_eq!(apic.write_msr(msr, 0, 0), Err(GuestFault::GP0), "{msr:#x}");
    }
    for msr in [
        0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x840, 0x8ff,
    ] {
        assert_eq!(apic.read_msr(msr, 0), Err(GuestFault::GP0), "{msr:#x}");
    }
    for (msr, value) in [
        (SVR, 0x1000),
        (LVT_TIMER, 0x8_0000),
        (LVT_TIMER, 0x6_00ec),
        (LVT_TIMER, 0x1_00ec | 1 << 32),
        (LVT_ERROR, 0x400),
        (0x835, 0x2_0000),
        (0x83e, 4),
        (SELF_IPI, 0x100),
    ] {
        assert_eq!(
            apic.write_msr(msr, value, 0),
            Err(GuestFault::GP0),
            "{msr:#x} {value:#x}"
        );
    }
}

#[test]
fn transitions_to_xapic_mode_fault_and_disabling_resets() {
    let mut apic = enabled();
    assert_eq!(apic.write_msr(0x1b, 0xfee0_0900, 0), Err(GuestFault::GP0));
    assert_eq!(apic.write_msr(0x1b, 0xfee0_0500, 0), Err(GuestFault::GP0));
    assert_eq!(apic.write_msr(0x1b, 0xfee0_0d01, 0), Err(GuestFault::GP0));
    assert_eq!(
        apic.write_msr(0x1b, 1 << 52 | 0xfee0_0d00, 0),
        Err(GuestFault::GP0)
    );
    assert_eq!(apic.write_msr(0x1b, 0xfee0_0d00, 0), Ok(ApicEffect::None));
    apic.raise(0x40, Trigger::Edge);
    assert_eq!(
        apic.write_msr(0x1b, 0xfee0_0100, 0),
        Ok(ApicEffect::Disabled)
    );
    assert_eq!(apic.highest_pending(), None);
    assert_eq!(apic.read_msr(SVR, 0), Err(GuestFault::GP0));
    assert_eq!(apic.write_msr(0x1b, 0xfee0_0d00, 0), Err(GuestFault::GP0));
    assert_eq!(apic.write_msr(0x1b, 0xfee0_0900, 0), Err(GuestFault::GP0));
}

#[test]
fn an_interrupt_that_did_not_arrive_is_requested_again() {
    let mut apic = enabled();
    for vector in [0x41, 0x51] {
        apic.raise(vector, Trigger::Edge);
        apic.accept(vector);
    }
    apic.unaccept(0x51);
    assert_eq!(apic.processor_priority(), 0x40);
    assert_eq!(apic.page.get(Reg::PPR), 0x40);
    assert_eq!(apic.highest_pending(), Some(0x51));
    assert_eq!(apic.requested_and_serving(), (0x51, 0x41));
    apic.unaccept(0x61);
    assert_eq!(apic.requested_and_serving(), (0x51, 0x41), "never accepted");
}

#[test]
fn resync_follows_a_page_that_hardware_changed() {
    let mut apic = enabled();
    apic.page.set_bit(Reg::IRR, 0xe7);
    apic.page.set_bit(Reg::ISR, 0x31);
    assert_eq!(apic.highest_pending(), None);
    apic.resync();
    assert_eq!(apic.highest_pending(), Some(0xe7));
    assert_eq!(apic.processor_priority(), 0x30);
}

#[test]
fn a_million_random_accesses_never_panic_and_keep_the_summaries() {
    // xorshift: cheap, and the same run after run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut apic = enabled();
    let mut now = 0_u64;
    for _ in 0..1_000_000 {
        let choice = next();
        let value = next() >> (next() & 63);
        now = now.wrapping_add(choice >> 54);
        match choice & 7 {
            0 => {
                let _ = apic.raise(
                    value as u8,
                    if choice & 8 == 0 {
                        Trigger::Edge
                    } else {
                        Trigger::Level
                    },
                );
            }
            1 => {
                if let Some(vector) = apic.highest_pending() {
                    assert!(vector >= 16 && apic.page.bit(Reg::IRR, vector));
                    apic.accept(vector);
                }
            }
            2 => {
                let _ = apic.on_time(now);
            }
            3 => {
                let _ = apic.read_msr(0x800 + (choice >> 8 & 0xff) as u32, now);
            }
            4 => apic.tsc_stepped(value),
            _ => {
                let msr = match choice >> 4 & 15 {
                    0 => 0x6e0,
                    _ => 0x800 + (choice >> 8 & 0x3f) as u32,
                };
                let _ = apic.write_msr(msr, value, now);
            }
        }
        let _ = apic.next_deadline();
        if choice & 0xf_f000 == 0 {
            let before = (apic.irr_words, apic.isr_words);
            apic.resync();
            assert_eq!(before, (apic.irr_words, apic.isr_words));
        }
    }
}

proptest! {
    #[test]
    fn pending_matches_a_sorted_model(vectors in proptest::collection::vec(16_u8.., 0..40), tpr in any::<u8>()) {
        let mut apic = enabled();
        apic.set_task_priority(tpr);
        for vector in &vectors {
            apic.raise(*vector, Trigger::Edge);
        }
        let model = vectors.iter().copied().max().filter(|vector| vector >> 4 > tpr >> 4);
        prop_assert_eq!(apic.highest_pending(), model);
    }
}
