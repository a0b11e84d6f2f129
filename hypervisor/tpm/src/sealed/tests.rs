use super::*;
use crate::measurement::SEALED_PCRS;
use proptest::prelude::*;
use std::format;
use std::string::ToString;
use std::vec;

fn sample(payloads: usize) -> SealedKey {
    let mut pcrs = PcrValues::default();
    for pcr in SEALED_PCRS.iter() {
        pcrs.put(pcr, Digest([pcr; 32]));
    }
    let mut measurements = vec![
        Measurement {
            what: What::Image,
            digest: Digest([1; 32]),
        },
        Measurement {
            what: What::Manifest,
            digest: Digest([2; 32]),
        },
    ];
    measurements.extend((0..payloads).map(|number| Measurement {
        what: What::Payload(format!("payloads/file-{number}")),
        digest: Digest([number as u8; 32]),
    }));
    SealedKey {
        pcrs,
        object: SealedObject {
            public: vec![3; 48],
            private: vec![4; 160],
            creation: vec![5; 120],
            ticket: vec![6; 40],
        },
        measurements,
        complete: true,
    }
}

#[test]
fn it_reads_back_as_it_was_written() {
    let sealed = sample(5);
    assert_eq!(SealedKey::decode(&sealed.encode()), Ok(sealed));
}

#[test]
fn what_does_not_fit_is_left_out_and_that_is_noted() {
    let sealed = sample(500);
    let bytes = sealed.encode();
    assert!(bytes.len() <= MOST_BYTES && bytes.len() > MOST_BYTES - 100);
    let read = SealedKey::decode(&bytes).unwrap();
    assert!(!read.complete);
    let kept = read.measurements.len();
    assert!(kept > 40 && read.measurements == sealed.measurements[..kept]);
}

#[test]
fn other_bytes_are_told_apart() {
    let bytes = sample(1).encode();
    assert_eq!(SealedKey::decode(b""), Err(SealedKeyError::NotOne));
    assert_eq!(
        SealedKey::decode(b"BulkBeer and more"),
        Err(SealedKeyError::NotOne)
    );
    let mut newer = bytes.clone();
    newer[9] = 2;
    let error = SealedKey::decode(&newer).unwrap_err();
    assert_eq!(error, SealedKeyError::Version(2));
    assert!(error.to_string().contains("version 2"));
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(
        SealedKey::decode(&longer),
        Err(SealedKeyError::Damaged(bytes.len()))
    );
}

#[test]
fn names_that_a_terminal_would_obey_are_refused() {
    let good = sample(1).encode();
    let at = good.windows(6).position(|name| name == b"file-0").unwrap();
    for byte in (0..=u8::MAX).filter(|byte| !(0x20..0x7f).contains(byte)) {
        let mut bytes = good.clone();
        bytes[at] = byte;
        let read = SealedKey::decode(&bytes);
        assert!(
            matches!(read, Err(SealedKeyError::Damaged(_))),
            "{byte:#04x}"
        );
    }
    // U+202E turns the rest of a line around.
    let mut bytes = good.clone();
    bytes[at..at + 3].copy_from_slice("\u{202e}".as_bytes());
    assert!(SealedKey::decode(&bytes).is_err());
}

#[test]
fn names_longer_than_any_path_are_refused() {
    let named = |length| {
        let mut sealed = sample(1);
        sealed.measurements[2].what = What::Payload("x".repeat(length));
        sealed
    };
    let longest = named(MOST_NAME_BYTES);
    let mut bytes = longest.encode();
    assert_eq!(SealedKey::decode(&bytes), Ok(longest));
    let length = MOST_NAME_BYTES + 1;
    let at = bytes.windows(2).position(|two| two == b"xx").unwrap();
    bytes[at - 2..at].copy_from_slice(&(length as u16).to_be_bytes());
    bytes.insert(at, b'x');
    assert!(matches!(
        SealedKey::decode(&bytes),
        Err(SealedKeyError::Damaged(_))
    ));
    // Nor is one written: it goes unnamed, like what has no room.
    let read = SealedKey::decode(&named(length).encode()).unwrap();
    assert!(!read.complete && read.measurements.len() == 2);
}

#[test]
fn the_name_goes_by_the_bytes() {
    let bytes = sample(1).encode();
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_eq!(id(&bytes), id(&bytes.clone()));
    assert_ne!(id(&bytes), id(&other));
    // SHA-256 of nothing begins so.
    assert_eq!(id(b""), 0xe3b0_c442);
}

#[test]
fn a_key_cut_short_anywhere_is_refused() {
    let bytes = sample(2).encode();
    for length in 0..bytes.len() {
        assert!(SealedKey::decode(&bytes[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn mutations_are_survived(at in 0usize..700, to in any::<u8>()) {
        let mut bytes = sample(3).encode();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(sealed) = SealedKey::decode(&bytes) {
            prop_assert_eq!(sealed.encode(), bytes);
        }
    }

    #[test]
    fn random_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"BulkSeal\0\x01".to_vec();
        bytes.extend(tail);
        let _ = SealedKey::decode(&bytes);
    }
}
