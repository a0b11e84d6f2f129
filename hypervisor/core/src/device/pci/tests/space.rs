//! Configuration space: who is there, two ways to get at it, base addresses.

use super::*;

#[test]
fn bridge_and_devices_are_found_and_nothing_else() {
    let mut guest = guest();
    assert_eq!(guest.config(0, 8, 4) >> 8, 0x06_0000);
    assert_eq!(guest.config(CONSOLE, 0, 4), 0x1043_1af4);
    assert_eq!(guest.config(RNG, 0, 4), 0x1044_1af4);
    for device in 3..32 {
        assert_eq!(guest.config(device, 0, 4), u32::MAX);
        assert_eq!(guest.config(device, 0, 2), 0xffff);
    }
    for function in 1..8 {
        let gpa = Gpa(ECAM_BASE.0 + (1 << 15 | function << 12));
        assert_eq!(guest.bus.read(gpa, 4), 0xffff_ffff);
    }
}

#[test]
fn devices_are_modern_and_have_no_legacy_interrupt() {
    let mut guest = guest();
    assert_eq!(guest.config(CONSOLE, 8, 1), 1);
    assert!(guest.config(CONSOLE, 0x2e, 2) >= 0x40);
    assert_eq!(guest.config(CONSOLE, 0x3d, 1), 0);
    assert_eq!(guest.config(CONSOLE, 0x0e, 1), 0);
    let kinds: Vec<u8> = guest
        .capabilities(CONSOLE)
        .iter()
        .map(|(_, id)| *id)
        .collect();
    assert_eq!(kinds, [0x11, 9, 9, 9, 9, 9]);
}

#[test]
fn notifications_are_in_port_space_and_everything_else_in_memory() {
    let mut guest = guest();
    for (at, id) in guest.capabilities(CONSOLE) {
        let structure = guest.config(CONSOLE, at + 3, 1);
        if id == 9 && structure < 5 {
            let bar = guest.config(CONSOLE, at + 4, 1) as u16;
            let ports = guest.config(CONSOLE, 0x10 + 4 * bar, 4) & 1;
            assert_eq!(ports == 1, structure == 2, "structure {structure}");
        }
    }
}

#[test]
fn ports_and_memory_window_show_the_same_registers() {
    let mut guest = guest();
    for device in 0..4_u8 {
        for at in 0..256_u16 {
            for size in [1, 2, 4] {
                if at % 4 + u16::from(size) > 4 {
                    continue;
                }
                let address = 1 << 31 | u32::from(device) << 11 | u32::from(at & 0xfc);
                assert_eq!(guest.out(0xcf8, 4, address), Outcome::Nothing);
                assert_eq!(guest.bus.read_port(0xcf8, 4), address);
                let value = guest.bus.read_port(0xcfc + at % 4, size);
                assert_eq!(
                    value,
                    guest.config(device, at, size),
                    "{device} {at:#x} {size}"
                );
            }
        }
    }
}

#[test]
fn configuration_ports_without_an_address_read_as_ones() {
    let mut guest = guest();
    for address in [0, 0x800, 1 << 31 | 1 << 16 | 0x800, 1 << 31 | 0x900] {
        let _ = guest.out(0xcf8, 4, address);
        assert_eq!(guest.bus.read_port(0xcfc, 4), u32::MAX, "{address:#x}");
    }
    assert_eq!(guest.bus.read_port(0xcf8, 1), 0xff);
    // Some systems probe with a byte before they use all four.
    let _ = guest.out(0xcfb, 1, 1);
    let _ = guest.out(0xcf8, 4, 0x8000_0000);
    assert_eq!(guest.bus.read_port(0xcf8, 4), 0x8000_0000);
}

#[test]
fn accesses_of_odd_sizes_or_across_registers_read_as_ones() {
    let mut guest = guest();
    let at = |offset| Guest::config_address(CONSOLE, offset);
    assert_eq!(guest.bus.read(at(0), 8), u64::MAX);
    assert_eq!(guest.bus.read(at(3), 2), 0xffff);
    assert_eq!(guest.bus.read(at(2), 4), 0xffff_ffff);
    assert_eq!(guest.bus.read(at(1), 2), 0xf41a & 0xff | 0x4300);
    assert_eq!(guest.bus.read(at(0x100), 4), 0);
}

#[test]
fn identity_cannot_be_written() {
    let mut guest = guest();
    for device in [0, CONSOLE] {
        for at in (0..256).step_by(4) {
            let before = guest.config(device, at, 4);
            if !(0x10..0x18).contains(&at) && ![4, 0x3c].contains(&at) && at < 0x40 {
                guest.set_config(device, at, 4, u32::MAX);
                assert_eq!(guest.config(device, at, 4), before, "{device} {at:#x}");
            }
        }
    }
}

#[test]
fn base_addresses_tell_their_size_and_come_back() {
    let mut guest = guest();
    for (at, size) in [
        (0x10, 0xffff_8000),
        (0x14, 0xffff_fff1),
        (0x18, 0),
        (0x30, 0),
    ] {
        let before = guest.config(CONSOLE, at, 4);
        guest.set_config(CONSOLE, at, 4, u32::MAX);
        assert_eq!(guest.config(CONSOLE, at, 4), size);
        guest.set_config(CONSOLE, at, 4, before);
        assert_eq!(guest.config(CONSOLE, at, 4), before);
    }
}

#[test]
fn firmware_gave_every_device_its_own_addresses() {
    let models = (0..MAX_DEVICES).map(|_| counting_rng()).collect();
    let mut guest = Guest::new(models);
    let mut taken = Vec::new();
    for device in 1..=MAX_DEVICES as u8 {
        let driver = Driver::probe(&mut guest, device);
        assert_eq!(driver.common(&mut guest, 0x12, 2), 1);
        taken.push((driver.common, u64::from(driver.notify)));
    }
    for (n, (common, notify)) in taken.iter().enumerate() {
        for (other_common, other_notify) in &taken[..n] {
            assert!(common.abs_diff(*other_common) >= 0x8000);
            assert!(notify.abs_diff(*other_notify) >= 16);
        }
    }
    assert_eq!(
        Bus::new((0..32).map(|_| counting_rng()).collect()).err(),
        Some(TooManyDevices(32))
    );
}

#[test]
fn moved_registers_answer_where_they_are_now() {
    let mut guest = guest();
    let old = Driver::probe(&mut guest, CONSOLE);
    guest.set_config(CONSOLE, 0x10, 4, 0xe100_0000);
    guest.set_config(CONSOLE, 0x14, 4, 0xcf00);
    let new = Driver::probe(&mut guest, CONSOLE);
    assert_eq!((new.common, new.notify), (0xe100_0000, 0xcf00));
    assert_eq!(new.common(&mut guest, 0x12, 2), 2);
    assert_eq!(guest.read(old.common + 0x12, 2), 0xffff);
    let mut new = Driver::start(&mut guest, CONSOLE);
    new.send(&mut guest, 1, &[b"moved"], &[]);
    assert_eq!(new.kick(&mut guest, 1), Outcome::ConsoleOutput);
    assert_eq!(guest.out(old.notify + 4, 2, 1), Outcome::Nothing);
}

#[test]
fn base_addresses_outside_their_windows_are_kept_and_reach_nothing() {
    let mut guest = guest();
    let last = 0xe1ff_8000;
    for address in [0, 0x1000_0000, 0xe00f_8000, 0xe200_0000, 0xffff_8000, last] {
        guest.set_config(CONSOLE, 0x10, 4, address);
        assert_eq!(guest.config(CONSOLE, 0x10, 4), address);
        let queues = guest.bus.read(Gpa(u64::from(address) + 0x12), 2);
        assert_eq!(queues == 2, address == last, "{address:#x}");
    }
    for ports in [0, 0x3f0, 0xd000, 0xfff0, 0x1_c000] {
        guest.set_config(CONSOLE, 0x14, 4, ports);
        assert_eq!(guest.config(CONSOLE, 0x14, 4), ports | 1);
        assert_eq!(guest.out(0xc004, 2, 1), Outcome::Nothing);
    }
}

#[test]
fn lower_function_answers_where_two_overlap() {
    let mut guest = guest();
    let at = guest.config(CONSOLE, 0x10, 4);
    guest.set_config(RNG, 0x10, 4, at);
    // Two queues are the console's.
    assert_eq!(guest.read(u64::from(at) + 0x12, 2), 2);
    guest.set_config(CONSOLE, 0x10, 4, 0xe180_0000);
    assert_eq!(guest.read(u64::from(at) + 0x12, 2), 1);
}

#[test]
fn command_register_turns_decoding_off() {
    let mut guest = guest();
    let mut driver = Driver::start(&mut guest, CONSOLE);
    driver.send(&mut guest, 1, &[b"x"], &[]);
    guest.set_config(CONSOLE, 4, 2, 4 | 2);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::Nothing);
    guest.set_config(CONSOLE, 4, 2, 4 | 1);
    assert_eq!(driver.common(&mut guest, 0x12, 2), 0xffff);
    assert_eq!(driver.kick(&mut guest, 1), Outcome::ConsoleOutput);
}
