//! Each kind of device, as its driver and the VM's surroundings see it.

use super::*;

#[test]
fn console_output_arrives_in_order_and_is_completed() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, CONSOLE);
    driver.send(&mut guest, 1, &[b"hello, ", b"wor"], &[]);
    driver.send(&mut guest, 1, &[b"ld\n"], &[]);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::ConsoleOutput);
    assert_eq!(guest.machine.interrupts(0), [0x42]);
    assert_eq!(driver.used(&guest, 1), Some(0));
    assert_eq!(driver.used(&guest, 1), Some(0));
    assert!(guest.bus.has_output());
    let mut out = [0; 64];
    assert_eq!(guest.bus.take_output(&mut out, &mut guest.machine), 13);
    assert_eq!(&out[..13], b"hello, world\n");
    assert!(!guest.bus.has_output());
}

#[test]
fn output_that_nobody_takes_waits_without_loss() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, CONSOLE);
    let text: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
    driver.send(&mut guest, 1, &[&text], &[]);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::ConsoleOutput);
    assert_eq!(driver.used(&guest, 1), None);
    let mut got = Vec::new();
    let mut out = [0; 1000];
    loop {
        let count = guest.bus.take_output(&mut out, &mut guest.machine);
        if count == 0 {
            break;
        }
        got.extend_from_slice(&out[..count]);
    }
    assert!(got == text);
    assert_eq!(driver.used(&guest, 1), Some(0));
    assert_eq!(guest.machine.interrupts(0), [0x42]);
}

#[test]
fn reset_drops_the_chain_that_waits_and_keeps_what_was_said() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, CONSOLE);
    driver.send(&mut guest, 1, &[&[b'a'; 6000]], &[]);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::ConsoleOutput);
    driver.restart(&mut guest);
    let mut out = [0; 8192];
    let mut got = 0;
    for _ in 0..4 {
        got += guest.bus.take_output(&mut out, &mut guest.machine);
    }
    assert_eq!(got, 4096);
    assert_eq!(driver.used(&guest, 1), None);
}

#[test]
fn typed_bytes_fill_the_drivers_buffers() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, CONSOLE);
    let at = driver.send(&mut guest, 0, &[], &[3]);
    let more = driver.send(&mut guest, 0, &[], &[64]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(guest.bus.push_input(b"uname\n", &mut guest.machine), 6);
    assert_eq!(guest.machine.interrupts(0), [0x41]);
    assert_eq!(driver.used(&guest, 0), Some(3));
    assert_eq!(driver.used(&guest, 0), Some(3));
    assert_eq!(guest.machine.bytes(at[0], 3), b"una");
    assert_eq!(guest.machine.bytes(more[0], 4), b"me\n\0");
}

#[test]
fn bytes_typed_before_the_driver_is_ready_wait_up_to_a_limit() {
    let mut guest = guest();
    let typed = [b'x'; 2000];
    assert_eq!(guest.bus.push_input(&typed, &mut guest.machine), 1024);
    assert_eq!(guest.bus.push_input(&typed, &mut guest.machine), 0);
    let mut driver = Driver::start(&mut guest, CONSOLE);
    driver.send(&mut guest, 0, &[], &[100]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(driver.used(&guest, 0), Some(100));
}

#[test]
fn vm_without_a_console_takes_no_input() {
    let mut guest = Guest::new(vec![counting_rng()]);
    assert_eq!(guest.bus.push_input(b"x", &mut guest.machine), 0);
    let mut out = [0; 4];
    assert_eq!(guest.bus.take_output(&mut out, &mut guest.machine), 0);
    assert!(!guest.bus.has_output());
    assert_eq!(
        guest.bus.transmit(0, &mut out, &mut guest.machine),
        Transmission::Nothing
    );
    assert!(!guest.bus.receive(0, b"frame", &mut guest.machine));
    guest.bus.transmit_done(0, &mut guest.machine);
}

#[test]
fn entropy_fills_requests_up_to_its_limit() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, RNG);
    let at = driver.send(&mut guest, 0, &[], &[4]);
    driver.send(&mut guest, 0, &[], &[5000]);
    driver.send(&mut guest, 0, &[b"nothing to write"], &[]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(guest.machine.bytes(at[0], 4), [1, 2, 3, 4]);
    let used: Vec<_> = std::iter::from_fn(|| driver.used(&guest, 0)).collect();
    assert_eq!(used, [4, 256, 0]);
}

#[test]
fn source_without_entropy_gives_none() {
    let dry = Model::Entropy(Rng::new(Box::new(|bytes| {
        bytes.fill(0xee);
        false
    })));
    let mut guest = Guest::new(vec![console(), dry]);
    let mut driver = Driver::start(&mut guest, RNG);
    let at = driver.send(&mut guest, 0, &[], &[4]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(driver.used(&guest, 0), Some(0));
    assert_eq!(guest.machine.bytes(at[0], 4), [0; 4]);
}

#[test]
fn frames_leave_after_a_kick_and_their_driver_hears_of_it_once() {
    let mut guest = full_guest();
    let mut driver = Driver::start(&mut guest, NET);
    for payload in [b"first", b"other"] {
        driver.send(&mut guest, 1, &[&[0; 12], payload], &[]);
    }
    assert_eq!(driver.kick(&mut guest, 1), Outcome::Transmit(0));
    let mut frame = [0; 1600];
    for payload in [b"first", b"other"] {
        assert_eq!(
            guest.bus.transmit(0, &mut frame, &mut guest.machine),
            Transmission::Frame(5)
        );
        assert_eq!(&frame[..5], payload);
    }
    assert_eq!(
        guest.bus.transmit(0, &mut frame, &mut guest.machine),
        Transmission::Nothing
    );
    assert!(guest.machine.signals.is_empty());
    guest.bus.transmit_done(0, &mut guest.machine);
    assert_eq!(guest.machine.interrupts(0), [0x42]);
}

#[test]
fn frames_arrive_at_the_card_they_are_for_while_it_has_buffers() {
    let mut guest = Guest::new(vec![nic(1), console(), nic(2)]);
    let _first = Driver::start(&mut guest, 1);
    let mut second = Driver::start(&mut guest, 3);
    let at = second.send(&mut guest, 0, &[], &[1600]);
    assert!(!guest.bus.receive(0, b"frame", &mut guest.machine));
    assert!(guest.bus.receive(1, b"frame", &mut guest.machine));
    assert!(!guest.bus.receive(1, b"frame", &mut guest.machine));
    assert!(!guest.bus.receive(2, b"frame", &mut guest.machine));
    assert_eq!(guest.machine.interrupts(0), [0x41]);
    assert_eq!(second.used(&guest, 0), Some(17));
    assert_eq!(guest.machine.bytes(at[0] + 12, 5), b"frame");
    second.send(&mut guest, 1, &[&[0; 12], b"reply"], &[]);
    assert_eq!(second.kick(&mut guest, 1), Outcome::Transmit(1));
}

#[test]
fn endless_sender_is_told_to_wait_its_turn() {
    let mut guest = full_guest();
    let mut driver = Driver::start(&mut guest, NET);
    driver.send(&mut guest, 1, &[&[0; 12], b"again"], &[]);
    let ring = &driver.rings[1];
    let (index, used) = ((ring.driver + 2) as usize, (ring.device + 2) as usize);
    guest.machine.meddle = Some(Box::new(move |ram| {
        ram[index] = ram[used].wrapping_add(2);
        ram[index + 1] = ram[used + 1].wrapping_add(u8::from(ram[used] > 253));
    }));
    assert_eq!(driver.kick(&mut guest, 1), Outcome::Transmit(0));
    let mut frame = [0; 1600];
    let mut sent = 0;
    let end = loop {
        match guest.bus.transmit(0, &mut frame, &mut guest.machine) {
            Transmission::Frame(_) => sent += 1,
            end => break end,
        }
    };
    assert_eq!((sent, end), (64, Transmission::Enough));
    guest.bus.transmit_done(0, &mut guest.machine);
    assert_eq!(
        guest.bus.transmit(0, &mut frame, &mut guest.machine),
        Transmission::Frame(5)
    );
}

#[test]
fn block_request_takes_one_kick_and_one_interrupt() {
    let mut guest = full_guest();
    let mut driver = Driver::start(&mut guest, DISK);
    assert_eq!(guest.read(driver.own, 4), 16);
    let header = |kind: u32, sector: u64| [u64::from(kind), sector].map(u64::to_le_bytes).concat();
    let status = driver.send(&mut guest, 0, &[&header(1, 3), &[7; 512]], &[1])[2];
    guest.machine.put(status, &[0xff]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(guest.machine.bytes(status, 1), [0]);
    assert_eq!(guest.machine.interrupts(0), [0x41]);
    let at = driver.send(&mut guest, 0, &[&header(0, 3)], &[512, 1]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    assert_eq!(guest.machine.bytes(at[1], 512), [7; 512]);
    assert_eq!(guest.machine.interrupts(0), [0x41]);
}

#[test]
fn restarted_vm_finds_its_bus_as_firmware_leaves_it() {
    let fresh: Vec<u32> = {
        let mut guest = full_guest();
        (0..256)
            .map(|n| guest.config(1 + n as u8 / 64, n % 64 * 4, 4))
            .collect()
    };
    let mut guest = full_guest();
    for device in 1..=4 {
        let mut driver = Driver::start(&mut guest, device);
        let last = driver.rings.len() - 1;
        driver.send(&mut guest, last, &[&[0; 16]], &[512, 1]);
        let _ = driver.kick(&mut guest, last as u16);
        guest.set_config(device, 0x10, 4, 0xe180_0000);
    }
    assert_eq!(
        guest.bus.push_input(b"typed too late", &mut guest.machine),
        14
    );
    guest.bus.restart();
    guest.machine.signals.clear();
    let again: Vec<u32> = (0..256)
        .map(|n| guest.config(1 + n as u8 / 64, n % 64 * 4, 4))
        .collect();
    assert_eq!(fresh, again);
    for transport in guest.bus.devices() {
        assert_eq!(transport.counters(), Default::default());
        assert!(transport.status().is_empty());
    }
    let mut driver = Driver::start(&mut guest, CONSOLE);
    assert_eq!(guest.read(driver.vectors + 16 * 2, 4), 0xfee0_0000);
    driver.send(&mut guest, 0, &[], &[16]);
    assert_eq!(driver.kick(&mut guest, 0), Outcome::ConsoleOutput);
    assert_eq!(driver.used(&guest, 0), None);
}

#[test]
fn notifications_and_interrupts_are_counted() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, RNG);
    for _ in 0..3 {
        driver.send(&mut guest, 0, &[], &[4]);
        assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    }
    assert_eq!(driver.kick(&mut guest, 0), Outcome::Nothing);
    let counters = guest.bus.devices().nth(1).unwrap().counters();
    assert_eq!((counters.notifications, counters.interrupts), (4, 3));
}
