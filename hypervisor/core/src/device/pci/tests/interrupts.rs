//! MSI-X: who gets which vector, what waits behind which mask.

use super::driver::interrupt;
use super::*;

/// A guest whose entropy source completes one request at each call; the message goes to vCPU 0 as 0x41.
fn prepared() -> (Guest, Driver) {
    let mut guest = guest();
    let driver = Driver::start(&mut guest, RNG);
    (guest, driver)
}

fn request(guest: &mut Guest, driver: &mut Driver) {
    driver.send(guest, 0, &[], &[8]);
    assert_eq!(driver.kick(guest, 0), Outcome::Nothing);
    assert_eq!(driver.used(guest, 0), Some(8));
}

#[test]
fn completion_interrupts_the_vcpu_that_the_table_names() {
    let (mut guest, mut driver) = prepared();
    request(&mut guest, &mut driver);
    assert_eq!(guest.machine.interrupts(0), [0x41]);
    driver.set_vector(&mut guest, 1, 1, 0x55);
    request(&mut guest, &mut driver);
    assert_eq!(guest.machine.signals, [(1, interrupt(0x55))]);
}

#[test]
fn masked_vector_waits_and_comes_when_it_is_unmasked() {
    let (mut guest, mut driver) = prepared();
    guest.write(driver.vectors + 16 + 12, 4, 1);
    request(&mut guest, &mut driver);
    request(&mut guest, &mut driver);
    assert!(guest.machine.interrupts(0).is_empty());
    assert_eq!(guest.read(driver.pending, 4), 2);
    assert_eq!(guest.read(driver.pending, 8), 2);
    guest.write(driver.vectors + 16 + 12, 4, 0);
    assert_eq!(guest.machine.interrupts(0), [0x41]);
    assert_eq!(guest.read(driver.pending, 4), 0);
}

#[test]
fn function_mask_holds_all_vectors_back() {
    let (mut guest, mut driver) = prepared();
    guest.set_config(RNG, driver.msix + 2, 2, 0xc000);
    request(&mut guest, &mut driver);
    assert!(guest.machine.interrupts(0).is_empty());
    guest.set_config(RNG, driver.msix + 2, 2, 0x8000);
    assert_eq!(guest.machine.interrupts(0), [0x41]);
}

#[test]
fn vectors_are_masked_until_the_driver_says_otherwise() {
    let mut guest = guest();
    let driver = Driver::probe(&mut guest, CONSOLE);
    for vector in 0..3 {
        assert_eq!(guest.read(driver.vectors + 16 * vector + 12, 4), 1);
    }
    // A table of three: two queues and the configuration.
    assert_eq!(guest.config(CONSOLE, driver.msix + 2, 2), 2);
    guest.write(driver.vectors + 48, 4, 0xfee0_0000);
    assert_eq!(guest.read(driver.vectors + 48, 4), 0);
}

#[test]
fn table_takes_words_and_double_words() {
    let mut guest = guest();
    let driver = Driver::probe(&mut guest, CONSOLE);
    guest.write(driver.vectors, 8, 0x1234_5678_fee0_1003);
    assert_eq!(guest.read(driver.vectors, 4), 0xfee0_1000);
    assert_eq!(guest.read(driver.vectors + 4, 4), 0x1234_5678);
    guest.write(driver.vectors + 8, 8, 0xffff_fffe_0000_4041);
    assert_eq!(guest.read(driver.vectors + 8, 8), 0x4041);
    guest.write(driver.vectors + 8, 2, 0x99);
    assert_eq!(guest.read(driver.vectors + 8, 4), 0x4041);
    guest.write(driver.pending, 8, u64::MAX);
    assert_eq!(guest.read(driver.pending, 8), 0);
}

#[test]
fn messages_to_anything_but_a_local_apic_are_dropped() {
    let (mut guest, mut driver) = prepared();
    guest.write(driver.vectors + 16, 4, 0x1000);
    request(&mut guest, &mut driver);
    guest.write(driver.vectors + 16, 4, 0xfee0_9000);
    request(&mut guest, &mut driver);
    assert!(guest.machine.signals.is_empty());
    assert!(guest.machine.bytes(0x1000, 4).iter().all(|byte| *byte == 0));
}

#[test]
fn device_without_bus_mastering_neither_works_nor_interrupts() {
    let (mut guest, mut driver) = prepared();
    guest.set_config(RNG, 4, 2, 3);
    driver.send(&mut guest, 0, &[], &[8]);
    guest.machine.accesses = Some(Vec::new());
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(guest.machine.accesses.take(), Some(vec![]));
    assert!(guest.machine.interrupts(0).is_empty());
    driver.set_master(&mut guest);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(guest.machine.interrupts(0), [0x41]);
}

#[test]
fn queue_without_a_vector_is_silent() {
    let (mut guest, mut driver) = prepared();
    driver.set(&mut guest, driver::QUEUE_SELECT, 2, 0);
    for vector in [0xffff, 2, 0x100] {
        driver.set(&mut guest, driver::QUEUE_VECTOR, 2, vector);
        assert_eq!(driver.common(&mut guest, driver::QUEUE_VECTOR, 2), 0xffff);
    }
    request(&mut guest, &mut driver);
    assert!(guest.machine.interrupts(0).is_empty());
}

#[test]
fn without_msix_the_status_register_tells_and_forgets() {
    let (mut guest, mut driver) = prepared();
    guest.set_config(RNG, driver.msix + 2, 2, 0);
    request(&mut guest, &mut driver);
    assert!(guest.machine.interrupts(0).is_empty());
    assert_eq!(guest.read(driver.isr, 1), 1);
    assert_eq!(guest.read(driver.isr, 1), 0);
}
