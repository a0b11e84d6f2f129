//! Addresses, identifiers and classes as text.

use super::super::{Address, AddressFault, Class, ClassPattern, DeviceId};

#[test]
fn an_address_reads_back_as_it_is_shown() {
    for text in ["0000:00:00.0", "0000:00:1f.2", "ffff:ff:1f.7"] {
        assert_eq!(Address::parse(text).unwrap().to_string(), text);
    }
    let short = Address::parse("3A:0b.1").unwrap();
    assert_eq!(short.to_string(), "0000:3a:0b.1");
    assert_eq!((short.segment(), short.bus()), (0, 0x3a));
    assert_eq!((short.device(), short.function()), (0x0b, 1));
    assert_eq!(short.source_id(), 0x3a59);
    assert_eq!(Address::from_source_id(0, 0x3a59), short);
    assert_eq!(Address::new(0, 0, 32, 0), None);
    assert_eq!(Address::new(0, 0, 0, 8), None);
}

#[test]
fn each_rule_of_an_address_has_its_fault() {
    use AddressFault::{Device, Form, Function};
    let cases = [
        ("", Form),
        ("0:1f.2", Form),
        ("00:1f", Form),
        ("00:1f.02", Form),
        ("00.1f.2", Form),
        ("000:00:1f.2", Form),
        (":00:1f.2", Form),
        ("0:0000:00:1f.2", Form),
        ("00:+f.2", Form),
        ("00:1f.ö", Form),
        ("00:20.0", Device(0x20)),
        ("00:1f.8", Function(8)),
    ];
    for (text, fault) in cases {
        assert_eq!(Address::parse(text), Err(fault), "{text:?}");
    }
}

#[test]
fn identifiers_are_four_digits_twice() {
    let id = DeviceId::parse("8086:10D3").unwrap();
    assert_eq!((id.vendor, id.device), (0x8086, 0x10d3));
    assert_eq!(id.to_string(), "8086:10d3");
    for text in ["", "8086", "8086:", "8086:10d", "8086:10d3:02", "+086:10d3"] {
        assert_eq!(DeviceId::parse(text), None, "{text:?}");
    }
}

#[test]
fn a_class_pattern_matches_what_begins_like_it() {
    let nvme = Class::new(0x01_0802);
    for (text, matches) in [
        ("01", true),
        ("0108", true),
        ("010802", true),
        ("0106", false),
    ] {
        let pattern = ClassPattern::parse(text).unwrap();
        assert_eq!(pattern.to_string(), text);
        assert_eq!(pattern.matches(nvme), matches, "{text}");
    }
    assert!(!ClassPattern::parse("00").unwrap().matches(nvme));
    for text in ["", "0", "010", "01080", "0108020", "+1", "0x", "ü"] {
        assert_eq!(ClassPattern::parse(text), None, "{text:?}");
    }
}
