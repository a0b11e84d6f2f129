use super::*;
use proptest::prelude::*;

/// A head with SHA-1 and SHA-256.
fn head() -> Vec<u8> {
    let mut inner = SPEC_ID.to_vec();
    inner.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    inner.extend(2u32.to_le_bytes());
    inner.extend([4, 0, 20, 0, 0x0b, 0, 32, 0]);
    inner.push(0);
    let mut bytes = 0u32.to_le_bytes().to_vec();
    bytes.extend(NO_ACTION.to_le_bytes());
    bytes.extend([0; SHA1_BYTES]);
    bytes.extend((inner.len() as u32).to_le_bytes());
    bytes.extend(inner);
    bytes
}

fn add(log: &mut Vec<u8>, pcr: u32, kind: u32, measured: &[u8], data: &[u8]) -> usize {
    let place = log.len();
    log.extend(pcr.to_le_bytes());
    log.extend(kind.to_le_bytes());
    log.extend(2u32.to_le_bytes());
    log.extend([4, 0]);
    log.extend([0x11; SHA1_BYTES]);
    log.extend([0x0b, 0]);
    log.extend(Digest::of(&[measured]).0);
    log.extend((data.len() as u32).to_le_bytes());
    log.extend(data);
    place
}

/// A log of three events, and where the last one begins.
fn sample() -> (Vec<u8>, usize) {
    let mut log = head();
    add(&mut log, 4, 0x8000_0003, b"loader", b"path");
    add(&mut log, 11, 0x0d, b"image", b"image");
    let last = add(&mut log, 11, 4, &[0; 4], &[0; 4]);
    (log, last)
}

#[test]
fn replaying_does_what_the_chip_did() {
    let (bytes, _) = sample();
    let values = EventLog::parse(&bytes).unwrap().replay().unwrap();
    let extend = |old: Digest, what: &[u8]| Digest::of(&[&old.0, &Digest::of(&[what]).0]);
    let zero = Digest::default();
    assert_eq!(values.get(4), Some(&extend(zero, b"loader")));
    let image = extend(zero, b"image");
    assert_eq!(values.get(11), Some(&extend(image, &[0; 4])));
    assert_eq!(values.get(12), None);
}

#[test]
fn events_arrive_whole() {
    let (bytes, _) = sample();
    let log = EventLog::parse(&bytes).unwrap();
    let events: Vec<_> = log.events().map(Result::unwrap).collect();
    assert_eq!(events.len(), 3);
    assert_eq!(
        (events[0].pcr, events[0].kind, events[0].data),
        (4, 0x8000_0003, &b"path"[..])
    );
    assert_eq!(events[1].sha256, Some(Digest::of(&[b"image"])));
}

#[test]
fn what_is_noted_without_action_changes_no_pcr_but_where_the_start_was_from() {
    let mut bytes = head();
    add(&mut bytes, 0, NO_ACTION, b"", b"StartupLocality\0\x03");
    add(&mut bytes, 7, NO_ACTION, b"x", b"a remark");
    add(&mut bytes, 0, 8, b"version", b"1.0");
    let values = EventLog::parse(&bytes).unwrap().replay().unwrap();
    let mut first = Digest::default();
    first.0[31] = 3;
    let expected = Digest::of(&[&first.0, &Digest::of(&[b"version"]).0]);
    assert_eq!(values.get(0), Some(&expected));
    assert_eq!(values.get(7), None);
}

#[test]
fn the_end_is_found_from_where_the_last_event_begins() {
    let (mut bytes, last) = sample();
    let whole = bytes.len();
    bytes.extend([0xff; 500]);
    assert_eq!(length(&bytes, last), Ok(whole));
    assert_eq!(length(&bytes, 0), Ok(head().len()));
    assert!(length(&bytes, last + 1).is_err());
    assert!(length(&bytes[..whole - 1], last).is_err());
}

#[test]
fn a_log_that_is_none_is_refused() {
    let (bytes, _) = sample();
    assert_eq!(
        EventLog::parse(&bytes[1..]).unwrap_err(),
        LogError { at: 0 }
    );
    assert!(EventLog::parse(&[]).is_err());
    let mut unknown = bytes.clone();
    // The first algorithm of the first event.
    unknown[head().len() + 12] = 0x99;
    let log = EventLog::parse(&unknown).unwrap();
    assert_eq!(
        log.replay(),
        Err(LogError {
            at: head().len() + 12
        })
    );
    assert_eq!(log.events().count(), 1);
}

proptest! {
    #[test]
    fn damaged_logs_are_survived(at in 0usize..400, to in any::<u8>(), cut in 0usize..400, last in 0usize..500) {
        let (mut bytes, _) = sample();
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(bytes.len().saturating_sub(cut % 200));
        let _ = length(&bytes, last);
        if let Ok(log) = EventLog::parse(&bytes) {
            let _ = log.replay();
        }
    }
}
