//! The clock as drivers read and set it.

use proptest::prelude::*;

use super::*;

const KHZ: u32 = 1_000;
const SECOND: u64 = 1_000_000;
/// 2009-02-13 23:31:30, a Friday.
const FRIDAY: u64 = 1_234_567_890;
const TIME_REGISTERS: [u8; 8] = [0, 2, 4, 6, 7, 8, 9, RTC_CENTURY_REGISTER];

fn clock() -> Rtc {
    Rtc::new(FRIDAY, 0, KHZ)
}

fn get(rtc: &mut Rtc, register: u8, now: u64) -> u8 {
    rtc.write(RTC_INDEX_PORT, register, now);
    rtc.read(RTC_DATA_PORT, now)
}

fn put(rtc: &mut Rtc, register: u8, value: u8, now: u64) {
    rtc.write(RTC_INDEX_PORT, register, now);
    rtc.write(RTC_DATA_PORT, value, now);
}

/// Second, minute, hour, weekday, day, month, year, century.
fn time(rtc: &mut Rtc, now: u64) -> [u8; 8] {
    TIME_REGISTERS.map(|register| get(rtc, register, now))
}

/// Sets the time as Linux does: with the clock held still and the divider in reset.
fn set_time(rtc: &mut Rtc, time: [u8; 8], now: u64) {
    let mode = get(rtc, STATUS_B, now);
    let divider = get(rtc, STATUS_A, now);
    put(rtc, STATUS_B, mode | 0x80, now);
    put(rtc, STATUS_A, divider | 0x70, now);
    for (register, value) in TIME_REGISTERS.into_iter().zip(time) {
        put(rtc, register, value, now);
    }
    put(rtc, STATUS_B, mode, now);
    put(rtc, STATUS_A, divider, now);
}

#[test]
fn time_runs_with_the_tsc_in_bcd() {
    let mut rtc = clock();
    assert_eq!(
        time(&mut rtc, 0),
        [0x30, 0x31, 0x23, 6, 0x13, 0x02, 0x09, 0x20]
    );
    assert_eq!(
        time(&mut rtc, 30 * 60 * SECOND),
        [0x30, 0x01, 0x00, 7, 0x14, 0x02, 0x09, 0x20]
    );
    assert_eq!(get(&mut rtc, 0, SECOND - 1), 0x30);
    assert_eq!(get(&mut rtc, 0, SECOND), 0x31);
}

#[test]
fn binary_and_12_hour_modes_show_the_same_time() {
    let mut rtc = clock();
    put(&mut rtc, STATUS_B, 0b110, 0);
    assert_eq!(time(&mut rtc, 0), [30, 31, 23, 6, 13, 2, 9, 20]);
    put(&mut rtc, STATUS_B, 0b100, 0);
    assert_eq!(get(&mut rtc, 4, 0), PM | 11);
    put(&mut rtc, STATUS_B, 0, 0);
    assert_eq!(get(&mut rtc, 4, 0), PM | 0x11);
    let hour = 3_600 * SECOND;
    let hours: Vec<u8> = [1, 2, 12, 13, 14]
        .map(|hours| get(&mut rtc, 4, hours * hour))
        .into();
    assert_eq!(hours, [0x12, 0x01, 0x11, PM | 0x12, PM | 0x01]);
}

#[test]
fn a_time_set_as_linux_does_is_shown_and_goes_on() {
    let mut rtc = clock();
    let leap = [0x58, 0x59, 0x23, 5, 0x29, 0x02, 0x24, 0x20];
    set_time(&mut rtc, leap, 7);
    assert_eq!(time(&mut rtc, 7), leap);
    assert_eq!(
        time(&mut rtc, 7 + 2 * SECOND),
        [0, 0, 0, 6, 0x01, 0x03, 0x24, 0x20]
    );
    assert_eq!(get(&mut rtc, STATUS_A, 7), DIVIDER_RUNS);
}

#[test]
fn a_part_written_while_running_moves_only_that_part() {
    let mut rtc = clock();
    put(&mut rtc, 2, 0x45, SECOND / 2);
    assert_eq!(time(&mut rtc, SECOND / 2)[..3], [0x30, 0x45, 0x23]);
}

#[test]
fn a_held_clock_stands_still_and_goes_on_unmoved_if_nothing_was_set() {
    let mut rtc = clock();
    put(&mut rtc, STATUS_B, 0x82, 0);
    let held = time(&mut rtc, 0);
    assert_eq!(time(&mut rtc, 100 * SECOND), held);
    put(&mut rtc, STATUS_B, 0x02, 100 * SECOND);
    assert_eq!(get(&mut rtc, 0, 100 * SECOND), 0x10);
}

#[test]
fn a_time_that_does_not_exist_leaves_the_clock_as_it_is() {
    let before = time(&mut clock(), 5 * SECOND);
    for (index, wrong) in [
        (0, 0x60),
        (0, 0x0a),
        (0, 0xff),
        (2, 0x60),
        (4, 0x24),
        (7, 0),
        (7, 0x29),
        (8, 0x13),
        (9, 0x9a),
        (RTC_CENTURY_REGISTER, 0xa0),
    ] {
        let mut rtc = clock();
        put(&mut rtc, index, wrong, 5 * SECOND);
        assert_eq!(time(&mut rtc, 5 * SECOND), before, "{index}: {wrong:#x}");
    }
}

#[test]
fn an_update_is_announced_just_before_it_and_ends_with_it() {
    let mut rtc = clock();
    let notice = SECOND >> UPDATE_NOTICE_SHIFT;
    for (now, busy) in [
        (0, false),
        (SECOND - notice - 1, false),
        (SECOND - notice, true),
        (SECOND - 1, true),
        (SECOND, false),
    ] {
        assert_eq!(get(&mut rtc, STATUS_A, now) & UPDATE_IN_PROGRESS != 0, busy);
    }
    put(&mut rtc, STATUS_B, 0x82, 0);
    assert_eq!(get(&mut rtc, STATUS_A, SECOND - 1) & UPDATE_IN_PROGRESS, 0);
}

#[test]
fn status_registers_say_valid_and_without_interrupt() {
    let mut rtc = clock();
    put(&mut rtc, STATUS_A, 0xff, 0);
    put(&mut rtc, STATUS_B, 0x72, 0);
    put(&mut rtc, STATUS_C, 0xff, 0);
    put(&mut rtc, STATUS_D, 0, 0);
    let status = [STATUS_A, STATUS_B, STATUS_C, STATUS_D];
    assert_eq!(
        status.map(|register| get(&mut rtc, register, 0)),
        [0x7f, 0x72, 0, VALID]
    );
}

#[test]
fn alarm_and_other_bytes_are_kept_and_the_nmi_gate_is_no_part_of_the_index() {
    let mut rtc = clock();
    let stored: Vec<u8> = (0..0x80)
        .filter(|&index| TimeRegister::at(index).is_none() && !(0x0a..=0x0d).contains(&index))
        .collect();
    for &index in &stored {
        put(&mut rtc, index | 0x80, !index, 0);
    }
    for &index in &stored {
        assert_eq!(get(&mut rtc, index, SECOND), !index);
    }
    assert_eq!(rtc.read(RTC_INDEX_PORT, 0), 0xff);
    assert_eq!(get(&mut rtc, 0, 0), 0x30);
}

#[test]
fn extreme_base_times_and_tscs_are_shown_without_overflow() {
    for (base, start, now) in [
        (u64::MAX, 0, u64::MAX),
        (0, u64::MAX, 0),
        (u64::MAX, u64::MAX, 0),
    ] {
        let mut rtc = Rtc::new(base, start, 0);
        let shown = time(&mut rtc, now);
        assert!(
            shown
                .iter()
                .all(|byte| decode(*byte, StatusB::empty()).is_some())
        );
    }
}

#[test]
fn a_million_random_accesses_never_panic() {
    let mut seed = 0x0123_4567_89ab_cdef_u64;
    let mut rtc = clock();
    for _ in 0..1_000_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let port = [RTC_INDEX_PORT, RTC_DATA_PORT][(seed & 1) as usize];
        // Half of the indexes choose a register that does more than keep a byte.
        let value = (seed >> 8) as u8 & if seed & 2 == 0 { 0x0f } else { 0xff };
        if seed & 4 == 0 {
            rtc.write(port, value, seed >> 16);
        } else {
            let _ = rtc.read(port, seed >> 16);
        }
    }
}

proptest! {
    #[test]
    fn every_time_reads_back_in_every_mode(seconds in 0_u64..253_402_300_800, mode in 0_u8..128, late in 0..SECOND) {
        let mut source = Rtc::new(seconds, 0, KHZ);
        put(&mut source, STATUS_B, mode, 0);
        let shown = time(&mut source, 0);
        let mut target = clock();
        put(&mut target, STATUS_B, mode, 0);
        set_time(&mut target, shown, 5);
        prop_assert_eq!(time(&mut target, 5 + late), shown);
        prop_assert_eq!(time(&mut target, 5 + SECOND), time(&mut source, SECOND));
    }
}
