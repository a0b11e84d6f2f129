//! The switch from outside: small cases by name, and a million frames that nobody arranged.

use super::*;
use crate::ledger::VmId;
use crate::manifest::BitRate;
use crate::testing::Random;

const HZ: u64 = 1_000_000_000;
const BROADCAST: Mac = Mac([0xff; 6]);

fn port(number: u8, segment: u16, spoofing: Spoofing) -> PortConfig {
    PortConfig {
        vm: VmId(u16::from(number)),
        nic: 0,
        segment: SegmentId(segment),
        mac: own(number),
        spoofing,
        rate_limit: None,
    }
}

fn own(number: u8) -> MacAddress {
    MacAddress::parse(&format!("52:00:00:00:00:{number:02x}")).unwrap()
}

fn mac(number: u8) -> Mac {
    own(number).into()
}

fn switch(configs: &[PortConfig]) -> Switch {
    let mut switch = Switch::new(configs, NonZeroU64::new(HZ).unwrap()).unwrap();
    for number in 0..configs.len() {
        switch.set_link(PortId(number as u16), true);
    }
    switch
}

fn frame(destination: Mac, source: Mac) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(destination.0);
    bytes.extend(source.0);
    bytes.extend([0x08, 0x00]);
    bytes.extend([0x5a; 50]);
    bytes
}

fn arp(source: Mac, sender: Mac) -> Vec<u8> {
    let mut bytes = frame(BROADCAST, source);
    bytes[13] = 0x06;
    bytes[14..22].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    bytes[22..28].copy_from_slice(&sender.0);
    bytes
}

fn numbers(targets: Targets) -> Vec<u16> {
    targets.map(|port| port.0).collect()
}

/// Ports 0, 1, 2 and 5 on one segment, of which 2 may spoof; 3 and 4 on another.
fn two_segments() -> Switch {
    switch(&[
        port(0, 1, Spoofing::Deny),
        port(1, 1, Spoofing::Deny),
        port(2, 1, Spoofing::Allow),
        port(3, 2, Spoofing::Deny),
        port(4, 2, Spoofing::Allow),
        port(5, 1, Spoofing::Allow),
    ])
}

#[test]
fn own_addresses_need_no_learning() {
    let mut switch = two_segments();
    let targets = switch.forward(PortId(0), &frame(mac(1), mac(0)), 0);
    assert_eq!(numbers(targets), [1]);
    assert_eq!(switch.counters(PortId(0)).unwrap().sent.frames, 1);
    assert_eq!(switch.counters(PortId(0)).unwrap().sent.bytes, 64);
}

#[test]
fn groups_and_unknown_stations_flood_the_segment() {
    let mut switch = two_segments();
    for to in [
        BROADCAST,
        Mac([0x33, 0x33, 0, 0, 0, 1]),
        Mac([0x52, 9, 9, 9, 9, 9]),
        // A station of the other segment is unknown here.
        mac(3),
    ] {
        let targets = switch.forward(PortId(0), &frame(to, mac(0)), 0);
        assert_eq!(numbers(targets), [1, 2, 5], "{to:?}");
    }
}

#[test]
fn station_behind_a_bridge_is_learned_and_lost_with_the_link() {
    let mut switch = two_segments();
    let inner = Mac([0x52, 1, 1, 1, 1, 1]);
    let up = switch.forward(PortId(2), &frame(mac(0), inner), 0);
    assert_eq!(numbers(up), [0]);
    let down = switch.forward(PortId(0), &frame(inner, mac(0)), 1);
    assert_eq!(numbers(down), [2]);
    switch.set_link(PortId(2), false);
    switch.set_link(PortId(2), true);
    let down = switch.forward(PortId(0), &frame(inner, mac(0)), 2);
    assert_eq!(numbers(down), [1, 2, 5]);
}

#[test]
fn own_address_of_a_port_cannot_be_learned_elsewhere() {
    let mut switch = two_segments();
    let _ = switch.forward(PortId(2), &frame(mac(0), mac(1)), 0);
    let targets = switch.forward(PortId(0), &frame(mac(1), mac(0)), 1);
    assert_eq!(numbers(targets), [1]);
}

#[test]
fn foreign_source_is_dropped_where_spoofing_is_denied() {
    let mut switch = two_segments();
    for (bytes, passes) in [
        (frame(mac(0), mac(1)), true),
        (frame(mac(0), mac(2)), false),
        (frame(mac(0), Mac([0x52, 1, 1, 1, 1, 1])), false),
        (arp(mac(1), mac(1)), true),
        (arp(mac(1), mac(2)), false),
        (arp(mac(2), mac(1)), false),
    ] {
        let targets = switch.forward(PortId(1), &bytes, 0);
        assert_eq!(!targets.is_empty(), passes);
    }
    assert_eq!(switch.counters(PortId(1)).unwrap().drops.spoofed, 4);
}

#[test]
fn group_or_null_source_is_dropped_even_where_spoofing_is_allowed() {
    let mut switch = two_segments();
    for source in [BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0; 6])] {
        assert!(
            switch
                .forward(PortId(2), &frame(mac(0), source), 0)
                .is_empty()
        );
    }
    assert_eq!(switch.counters(PortId(2)).unwrap().drops.spoofed, 3);
}

#[test]
fn frame_to_oneself_or_to_a_stopped_vm_has_no_target() {
    let mut switch = two_segments();
    switch.set_link(PortId(1), false);
    for to in [mac(0), mac(1)] {
        assert!(switch.forward(PortId(0), &frame(to, mac(0)), 0).is_empty());
    }
    assert_eq!(switch.counters(PortId(0)).unwrap().drops.no_target, 2);
    let flood = switch.forward(PortId(0), &frame(BROADCAST, mac(0)), 0);
    assert_eq!(numbers(flood), [2, 5]);
    assert!(
        switch
            .forward(PortId(1), &frame(mac(0), mac(1)), 0)
            .is_empty()
    );
    assert_eq!(switch.counters(PortId(1)).unwrap().drops.link_down, 1);
}

#[test]
fn impossible_lengths_are_malformed() {
    let mut switch = two_segments();
    let mut long = frame(mac(1), mac(0));
    long.resize(MAX_UNTAGGED_FRAME + 1, 0);
    for bytes in [&long[..], &long[..13], &[]] {
        assert!(switch.forward(PortId(0), bytes, 0).is_empty());
    }
    assert_eq!(switch.counters(PortId(0)).unwrap().drops.malformed, 3);
    assert_eq!(
        numbers(switch.forward(PortId(0), &long[..MAX_UNTAGGED_FRAME], 0)),
        [1]
    );
}

#[test]
fn port_that_does_not_exist_reaches_nobody() {
    let mut switch = two_segments();
    for number in 6..=u16::MAX {
        let targets = switch.forward(PortId(number), &frame(mac(0), mac(1)), 0);
        assert!(targets.is_empty());
        switch.delivered(PortId(number), 1);
        switch.set_link(PortId(number), true);
        assert!(!switch.link(PortId(number)));
    }
}

#[test]
fn rate_limit_holds_within_one_percent() {
    let mut limited = port(0, 1, Spoofing::Deny);
    limited.rate_limit = Some(BitRate(10_000_000));
    let mut switch = switch(&[limited, port(1, 1, Spoofing::Deny)]);
    let bytes = frame(mac(1), mac(0));
    while !switch.forward(PortId(0), &bytes, 0).is_empty() {}
    let before = switch.counters(PortId(0)).unwrap().sent.bytes;
    for now in (0..10 * HZ).step_by(20_000) {
        let _ = switch.forward(PortId(0), &bytes, now);
    }
    let counters = switch.counters(PortId(0)).unwrap();
    let bits = (counters.sent.bytes - before) * 8;
    assert!(bits.abs_diff(100_000_000) < 1_000_000, "{bits}");
    assert!(counters.drops.over_rate > 0);
    // The other direction is the other port's business.
    let back = switch.forward(PortId(1), &frame(mac(0), mac(1)), 0);
    assert_eq!(numbers(back), [0]);
}

#[test]
fn bad_ports_are_refused() {
    let make =
        |configs: &[PortConfig]| Switch::new(configs, NonZeroU64::new(HZ).unwrap()).map(|_| ());
    let twice = [port(0, 1, Spoofing::Deny), port(0, 1, Spoofing::Allow)];
    assert_eq!(
        make(&twice),
        Err(SwitchError::SameAddress {
            first: PortId(0),
            second: PortId(1),
            mac: own(0)
        })
    );
    // On different segments they never meet.
    assert_eq!(
        make(&[port(0, 1, Spoofing::Deny), port(0, 2, Spoofing::Deny)]),
        Ok(())
    );
    let many: Vec<_> = (0..=MAX_PORTS)
        .map(|number| port(0, number as u16, Spoofing::Deny))
        .collect();
    assert_eq!(make(&many), Err(SwitchError::TooManyPorts { ports: 513 }));
    assert_eq!(make(&many[..MAX_PORTS]), Ok(()));
}

#[test]
fn ports_of_a_plan_share_a_segment_by_its_name() {
    let manifest = r#"
        version = 1

        [[vm]]
        name = "a"
        kernel = "k"
        memory = "64M"
        [[vm.nic]]
        segment = "lan"
        [[vm.nic]]
        segment = "backup"
        rate_limit = "1M"

        [[vm]]
        name = "b"
        kernel = "k"
        memory = "64M"
        [[vm.nic]]
        segment = "backup"
        mac = "52:00:00:00:00:07"
        spoofing = "allow"
    "#;
    let plan = crate::manifest::parse("test.toml", manifest).unwrap();
    let ports = PortConfig::of_plan(&plan);
    let places: Vec<_> = ports.iter().map(|p| (p.vm.0, p.nic, p.segment.0)).collect();
    assert_eq!(places, [(0, 0, 0), (0, 1, 1), (1, 0, 1)]);
    assert_eq!(ports[1].rate_limit, Some(BitRate(1_000_000)));
    assert_eq!((ports[2].mac, ports[2].spoofing), (own(7), Spoofing::Allow));
    assert!(Switch::new(&ports, NonZeroU64::new(HZ).unwrap()).is_ok());
}

trait RandomMac {
    fn mac(&mut self) -> Mac;
}

impl RandomMac for Random {
    fn mac(&mut self) -> Mac {
        match self.below(8) {
            0 => BROADCAST,
            1 => Mac([1, 0, 0x5e, 0, 0, self.below(4) as u8]),
            2 => Mac([0x52, 1, 1, 1, 0, self.below(100) as u8]),
            3 => Mac(*self.next().to_le_bytes().first_chunk().unwrap()),
            _ => mac(self.below(16) as u8),
        }
    }
}

#[test]
fn million_frames_keep_to_their_segment_and_sender() {
    const PORTS: u64 = 16;
    let mut random = Random(0x1234_5678_9abc_def1);
    let configs: Vec<_> = (0..PORTS as u8)
        .map(|number| {
            let spoofing = if number % 4 == 3 {
                Spoofing::Allow
            } else {
                Spoofing::Deny
            };
            let mut config = port(number, u16::from(number % 3), spoofing);
            config.rate_limit = number.is_multiple_of(5).then_some(BitRate(1_000_000));
            config
        })
        .collect();
    let mut switch = switch(&configs);
    let mut now = 0;
    let (mut forwarded, mut dropped, mut flooded) = (0_u64, 0_u64, 0_u64);
    for _ in 0..1_000_000 {
        now += random.below(20_000);
        let from = PortId(random.below(PORTS) as u16);
        if random.below(500) == 0 {
            let port = PortId(random.below(PORTS) as u16);
            let up = random.below(3) != 0;
            switch.set_link(port, up);
            assert_eq!(switch.link(port), up);
        }
        let own = configs[usize::from(from.0)].mac.into();
        let source = if random.below(3) == 0 {
            random.mac()
        } else {
            own
        };
        let sender = if random.below(3) == 0 {
            random.mac()
        } else {
            source
        };
        let is_arp = random.below(4) == 0;
        let mut bytes = if is_arp {
            arp(source, sender)
        } else {
            frame(random.mac(), source)
        };
        let destination = Mac(*bytes.first_chunk().unwrap());
        if random.below(8) == 0 {
            bytes.resize(random.below(1600) as usize, 0x81);
        }
        let before = *switch.counters(from).unwrap();
        let targets = switch.forward(from, &bytes, now);
        let after = *switch.counters(from).unwrap();

        let config = &configs[usize::from(from.0)];
        let denied = config.spoofing == Spoofing::Deny;
        let lies = source != own || is_arp && sender != own;
        if !targets.is_empty() {
            assert!(switch.link(from));
            assert!((MIN_FRAME..=MAX_FRAME).contains(&bytes.len()));
            assert!(source.is_station());
            assert!(!(denied && lies), "{from:?} lied and was believed");
            assert_eq!(after.sent.frames, before.sent.frames + 1);
            assert_eq!(after.sent.bytes, before.sent.bytes + bytes.len() as u64);
            assert_eq!(after.drops, before.drops);
            forwarded += 1;
        } else {
            assert_eq!(after.sent, before.sent);
            assert_eq!(after.drops.total(), before.drops.total() + 1);
            dropped += 1;
        }
        for to in targets {
            assert_ne!(to, from);
            assert!(switch.link(to));
            let target = &configs[usize::from(to.0)];
            assert_eq!(target.segment, config.segment);
        }
        let local = configs
            .iter()
            .position(|c| Mac::from(c.mac) == destination && c.segment == config.segment);
        if let (Some(owner), false) = (local, targets.is_empty()) {
            assert_eq!(numbers(targets), [owner as u16]);
        }
        flooded += u64::from(targets.count() > 1);
    }
    assert!(
        forwarded > 200_000 && dropped > 200_000 && flooded > 50_000,
        "{forwarded} forwarded, {dropped} dropped, {flooded} flooded"
    );
    assert!(switch.counters(PortId(0)).unwrap().drops.over_rate > 0);
}
