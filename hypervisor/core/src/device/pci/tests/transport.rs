//! Negotiation, status, queue set-up, and what becomes of a driver that breaks the rules.

use super::driver::*;
use super::*;

#[test]
fn features_are_settled_once_and_only_what_was_offered() {
    let mut guest = guest();
    let driver = Driver::probe(&mut guest, CONSOLE);
    let offered = driver.offered(&mut guest);
    assert_eq!(offered, VERSION_1 | INDIRECT | 1 << 29);
    assert!(driver.negotiate(&mut guest, offered));
    driver.accept(&mut guest, 0);
    driver.set(&mut guest, 8, 4, 1);
    assert_eq!(driver.common(&mut guest, 12, 4), 1);
    for wrong in [0, INDIRECT, VERSION_1 | 1, VERSION_1 | 1 << 34, u64::MAX] {
        assert!(!driver.negotiate(&mut guest, wrong), "{wrong:#x}");
    }
    driver.set(&mut guest, 0, 4, 2);
    assert_eq!(driver.common(&mut guest, 4, 4), 0);
}

#[test]
fn driver_cannot_be_ready_before_features_are_settled() {
    let mut guest = guest();
    let driver = Driver::probe(&mut guest, CONSOLE);
    driver.set_status(&mut guest, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(driver.status(&mut guest), ACKNOWLEDGE | DRIVER);
    driver.set(&mut guest, QUEUE_ENABLE, 2, 1);
    assert_eq!(driver.common(&mut guest, QUEUE_ENABLE, 2), 0);
}

#[test]
fn driver_cannot_set_or_clear_what_is_the_devices() {
    let mut guest = guest();
    let driver = Driver::probe(&mut guest, CONSOLE);
    driver.set_status(&mut guest, 0xff);
    assert_eq!(driver.status(&mut guest) & NEEDS_RESET, 0);
    driver.set_status(&mut guest, ACKNOWLEDGE);
    assert_ne!(driver.status(&mut guest) & DRIVER, 0);
}

#[test]
fn queues_report_sizes_and_those_that_do_not_exist_report_none() {
    let mut guest = guest();
    let driver = Driver::probe(&mut guest, CONSOLE);
    for (queue, size) in [(0, 64), (1, 64), (2, 0), (0xffff, 0)] {
        driver.set(&mut guest, QUEUE_SELECT, 2, queue);
        assert_eq!(driver.common(&mut guest, QUEUE_SIZE, 2), size);
    }
    assert_eq!(driver.common(&mut guest, QUEUE_VECTOR, 2), 0xffff);
    driver.set(&mut guest, QUEUE_VECTOR, 2, 0);
    driver.set(&mut guest, QUEUE_SIZE, 2, 8);
    driver.set(&mut guest, 0x20, 4, 0x1000);
    driver.set(&mut guest, QUEUE_ENABLE, 2, 1);
    assert_eq!(driver.common(&mut guest, 0x20, 4), 0);
}

#[test]
fn fields_answer_at_their_own_width() {
    let mut guest = guest();
    let driver = Driver::start(&mut guest, CONSOLE);
    for (field, size) in [
        (0x12, 4),
        (0x14, 2),
        (0x18, 1),
        (0x20, 8),
        (0x3c, 4),
        (0x21, 4),
    ] {
        assert_eq!(driver.common(&mut guest, field, size), 0, "{field:#x}");
    }
    let high = driver.common(&mut guest, 0x24, 4);
    driver.set(&mut guest, 0x24, 4, 7);
    assert_eq!(driver.common(&mut guest, 0x24, 4), high);
}

#[test]
fn nothing_is_taken_before_the_driver_is_ready_or_from_a_queue_that_is_not() {
    let mut guest = guest();
    let mut driver = Driver::probe(&mut guest, CONSOLE);
    driver.set_master(&mut guest);
    assert!(driver.negotiate(&mut guest, VERSION_1));
    driver.set_up_queues(&mut guest);
    driver.send(&mut guest, 1, &[b"early"], &[]);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::Nothing);
    assert_eq!(driver.used(&guest, 1), None);
    for queue in [2, 3] {
        assert_eq!(driver.kick(&mut guest, queue), Outcome::Nothing);
    }
    driver.set_status(&mut guest, DRIVER_OK);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::ConsoleOutput);
    assert_eq!(guest.out(driver.notify + 5, 1, 1), Outcome::Nothing);
}

#[test]
fn broken_queue_needs_a_reset_and_interrupts_for_it() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, CONSOLE);
    let mut other = Driver::start(&mut guest, RNG);
    driver.rings[1].offer(&mut guest.machine, 999);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::Nothing);
    assert_ne!(driver.status(&mut guest) & NEEDS_RESET, 0);
    assert_eq!(guest.machine.interrupts(0), [0x40]);
    assert_eq!(guest.read(driver.isr, 1), 2);
    assert_eq!(guest.bus.devices().next().unwrap().counters().failures, 1);

    // Nothing more is taken from it, by whichever way.
    driver.send(&mut guest, 0, &[], &[16]);
    guest.machine.accesses = Some(Vec::new());
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(guest.bus.push_input(b"typed", &mut guest.machine), 5);
    assert_eq!(guest.machine.accesses.take(), Some(vec![]));

    // Its neighbour works on, and it works again itself once it is reset.
    other.send(&mut guest, 0, &[], &[4]);
    assert_eq!(other.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(other.used(&guest, 0), Some(4));
    driver.restart(&mut guest);
    let at = driver.send(&mut guest, 0, &[], &[16]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(driver.used(&guest, 0), Some(5));
    assert_eq!(guest.machine.bytes(at[0], 5), b"typed");
}

#[test]
fn misaligned_queue_needs_a_reset_without_an_interrupt_to_nobody() {
    let mut guest = guest();
    let driver = Driver::probe(&mut guest, CONSOLE);
    assert!(driver.negotiate(&mut guest, VERSION_1));
    driver.set(&mut guest, 0x20, 4, 0x1001);
    driver.set(&mut guest, QUEUE_ENABLE, 2, 1);
    assert_eq!(driver.common(&mut guest, QUEUE_ENABLE, 2), 0);
    assert_ne!(driver.status(&mut guest) & NEEDS_RESET, 0);
    assert!(guest.machine.signals.is_empty());
}

#[test]
fn reset_forgets_queues_vectors_and_features() {
    let mut guest = guest();
    let driver = Driver::start(&mut guest, CONSOLE);
    driver.set_status(&mut guest, 0);
    assert_eq!(driver.status(&mut guest), 0);
    assert_eq!(driver.common(&mut guest, 0x10, 2), 0xffff);
    for queue in 0..2 {
        driver.set(&mut guest, QUEUE_SELECT, 2, queue);
        assert_eq!(driver.common(&mut guest, QUEUE_ENABLE, 2), 0);
        assert_eq!(driver.common(&mut guest, QUEUE_SIZE, 2), 64);
        assert_eq!(driver.common(&mut guest, QUEUE_VECTOR, 2), 0xffff);
        assert_eq!(driver.common(&mut guest, 0x20, 4), 0);
    }
    // The vector table is the bus's, not the device's.
    assert_eq!(guest.read(driver.vectors + 8, 4), 0x40);
}

#[test]
fn window_in_configuration_space_reaches_registers_and_notifications() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, CONSOLE);
    let window = driver.window;
    let aim = |guest: &mut Guest, bar, offset, length| {
        guest.set_config(CONSOLE, window + 4, 1, bar);
        guest.set_config(CONSOLE, window + 8, 4, offset);
        guest.set_config(CONSOLE, window + 12, 4, length);
    };
    aim(&mut guest, 0, 0x12, 2);
    assert_eq!(guest.config(CONSOLE, window + 16, 2), 2);
    aim(&mut guest, 0, 0x16, 2);
    guest.set_config(CONSOLE, window + 16, 2, 1);
    assert_eq!(driver.common(&mut guest, QUEUE_SELECT, 2), 1);
    for (bar, offset, length) in [
        (0, 0x8000, 2),
        (0, 0x7fff, 2),
        (0, 0x12, 4),
        (2, 0, 2),
        (0, u32::MAX, 2),
    ] {
        aim(&mut guest, bar, offset, length);
        assert_eq!(
            guest.config(CONSOLE, window + 16, 2),
            0,
            "{bar} {offset:#x}"
        );
    }
    aim(&mut guest, 1, 4, 2);
    driver.send(&mut guest, 1, &[b"kick"], &[]);
    let gpa = Guest::config_address(CONSOLE, window + 16);
    let outcome = guest.bus.write(gpa, 2, 1, &mut guest.machine);
    assert_eq!(outcome, Outcome::ConsoleOutput);
}

#[test]
fn driver_that_never_stops_adding_lets_others_have_their_turn() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, RNG);
    let ring = &mut driver.rings[0];
    ring.describe(&mut guest.machine, 0, (0x8000, 8, 2, 0));
    ring.offer(&mut guest.machine, 0);
    let (index, used) = ((ring.driver + 2) as usize, (ring.device + 2) as usize);
    guest.machine.meddle = Some(Box::new(move |ram| {
        ram[index] = ram[used].wrapping_add(8);
        ram[index + 1] = ram[used + 1].wrapping_add(u8::from(ram[used] > 247));
    }));
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Again);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Again);
    assert_eq!(driver.status(&mut guest) & NEEDS_RESET, 0);
    guest.machine.meddle = None;
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
}
