//! What a chain may be, rule by rule, and what copies may do.

use super::*;
use crate::device::virtio::testing::{INDIRECT, NEXT, WRITE};

/// What popping a chain of these descriptors, of which number 0 is the head, gives.
fn popped(descriptors: &[(u64, u32, u16, u16)]) -> Result<Option<Chain>, QueueError> {
    let (mut machine, mut ring, mut queue) = plain();
    for (index, descriptor) in (0..).zip(descriptors) {
        ring.describe(&mut machine, index, *descriptor);
    }
    ring.offer(&mut machine, 0);
    queue.pop(&mut machine)
}

fn error(descriptors: &[(u64, u32, u16, u16)]) -> QueueError {
    popped(descriptors).unwrap_err()
}

#[test]
fn chain_is_read_and_written_as_one_run_of_bytes() {
    let (mut machine, mut ring, mut queue) = plain();
    let (head, at) = ring.send(&mut machine, &[b"abc", b"defgh"], &[2, 4]);
    let chain = queue.pop(&mut machine).unwrap().unwrap();
    assert_eq!(
        (chain.head(), chain.readable_len(), chain.writable_len()),
        (head, 8, 6)
    );
    let mut bytes = [0; 5];
    chain.read(&mut machine, 2, &mut bytes).unwrap();
    assert_eq!(&bytes, b"cdefg");
    chain.write(&mut machine, 1, b"wxyz").unwrap();
    assert_eq!(machine.bytes(at[2], 2), b"\0w");
    assert_eq!(machine.bytes(at[3], 4), b"xyz\0");
    queue.complete(&mut machine, chain.head(), 5).unwrap();
    assert_eq!(ring.used(&machine), Some((head, 5)));
    assert_eq!(ring.used(&machine), None);
    assert!(queue.pop(&mut machine).unwrap().is_none());
}

#[test]
fn copies_beyond_a_chain_are_refused_whole() {
    let (mut machine, mut ring, mut queue) = plain();
    let (_, at) = ring.send(&mut machine, &[b"abcd"], &[4]);
    let chain = queue.pop(&mut machine).unwrap().unwrap();
    for (offset, bytes) in [(0, 5), (4, 1), (5, 0), (u32::MAX, 1), (1, 4)] {
        let mut into = vec![0; bytes];
        let short = Err(QueueError::TooShort);
        assert_eq!(chain.read(&mut machine, offset, &mut into), short);
        assert_eq!(chain.write(&mut machine, offset, &vec![7; bytes]), short);
    }
    assert_eq!(machine.bytes(at[1], 4), [0; 4]);
    assert_eq!(chain.read(&mut machine, 4, &mut []), Ok(()));
}

#[test]
fn what_the_driver_rewrites_after_the_pop_changes_nothing() {
    let (mut machine, mut ring, mut queue) = plain();
    let (head, at) = ring.send(&mut machine, &[], &[4]);
    let chain = queue.pop(&mut machine).unwrap().unwrap();
    ring.describe(&mut machine, head, (0x8000, 0x1000, 0, 0));
    chain.write(&mut machine, 0, b"good").unwrap();
    assert_eq!(machine.bytes(at[0], 4), b"good");
    assert_eq!(chain.writable_len(), 4);
}

#[test]
fn each_descriptor_is_read_once() {
    let (mut machine, mut ring, mut queue) = plain();
    ring.send(&mut machine, &[b"a", b"b"], &[1]);
    machine.accesses = Some(Vec::new());
    let chain = queue.pop(&mut machine).unwrap().unwrap();
    let mut byte = [0];
    chain.read(&mut machine, 1, &mut byte).unwrap();
    let reads: Vec<u64> = machine
        .accesses
        .take()
        .unwrap()
        .into_iter()
        .filter(|access| access.bytes.len() == 16)
        .map(|access| access.at - ring.descriptors)
        .collect();
    assert_eq!(reads, [0, 16, 32]);
}

#[test]
fn indirect_table_may_end_a_chain() {
    let (mut machine, mut ring, mut queue) = plain();
    machine.put(0x9000, b"directtable");
    ring.describe(&mut machine, 0, (0x9000, 6, NEXT, 5));
    // "Write" means nothing on the descriptor of a table.
    ring.describe(&mut machine, 5, (0x8000, 48, INDIRECT | WRITE, 9));
    Ring::describe_in(&mut machine, 0x8000, 0, (0x9006, 5, NEXT, 2));
    Ring::describe_in(&mut machine, 0x8000, 2, (0xa000, 3, WRITE, 0));
    ring.offer(&mut machine, 0);
    let chain = queue.pop(&mut machine).unwrap().unwrap();
    assert_eq!(
        (chain.head(), chain.readable_len(), chain.writable_len()),
        (0, 11, 3)
    );
    let mut bytes = [0; 11];
    chain.read(&mut machine, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"directtable");
}

#[test]
fn indirect_tables_are_refused_where_they_may_not_be() {
    let table = |bytes, flags| error(&[(0x8000, bytes, flags, 1), (0x9000, 1, 0, 0)]);
    assert_eq!(table(16, INDIRECT | NEXT), QueueError::Indirect);
    for bytes in [0, 8, 17, u32::MAX] {
        assert_eq!(table(bytes, INDIRECT), QueueError::IndirectLength(bytes));
    }
    let (mut machine, mut ring, mut queue) = with(Features::VERSION_1);
    ring.describe(&mut machine, 0, (0x8000, 16, INDIRECT, 0));
    ring.offer(&mut machine, 0);
    assert_eq!(queue.pop(&mut machine).unwrap_err(), QueueError::Indirect);

    let (mut machine, mut ring, mut queue) = plain();
    ring.describe(&mut machine, 0, (0x8000, 16, INDIRECT, 0));
    Ring::describe_in(&mut machine, 0x8000, 0, (0x8000, 16, INDIRECT, 0));
    ring.offer(&mut machine, 0);
    assert_eq!(queue.pop(&mut machine).unwrap_err(), QueueError::Indirect);
}

#[test]
fn next_must_stay_within_its_table() {
    assert_eq!(error(&[(0x8000, 1, NEXT, 16)]), QueueError::Descriptor(16));
    let (mut machine, mut ring, mut queue) = plain();
    ring.describe(&mut machine, 0, (0x8000, 32, INDIRECT, 0));
    Ring::describe_in(&mut machine, 0x8000, 0, (0x9000, 1, NEXT, 2));
    ring.offer(&mut machine, 0);
    assert_eq!(
        queue.pop(&mut machine).unwrap_err(),
        QueueError::Descriptor(2)
    );
}

#[test]
fn head_must_be_a_descriptor() {
    let (mut machine, mut ring, mut queue) = plain();
    ring.offer(&mut machine, 16);
    assert_eq!(
        queue.pop(&mut machine).unwrap_err(),
        QueueError::Descriptor(16)
    );
}

#[test]
fn loops_end() {
    assert_eq!(error(&[(0x8000, 1, NEXT, 0)]), QueueError::TooLong);
    let two = [(0x8000, 1, NEXT, 1), (0x9000, 1, NEXT, 0)];
    assert_eq!(error(&two), QueueError::TooLong);
    let (mut machine, mut ring, mut queue) = plain();
    ring.describe(&mut machine, 0, (0x10000, 16 * 4096, INDIRECT, 0));
    Ring::describe_in(&mut machine, 0x10000, 0, (0x9000, 1, NEXT, 0));
    ring.offer(&mut machine, 0);
    assert_eq!(queue.pop(&mut machine).unwrap_err(), QueueError::TooLong);
}

#[test]
fn chain_may_have_as_many_buffers_as_there_is_room_and_no_more() {
    for (count, fits) in [
        (MAX_SEGMENTS as u16, true),
        (MAX_SEGMENTS as u16 + 1, false),
    ] {
        let (mut machine, mut ring, mut queue) = plain();
        ring.describe(
            &mut machine,
            0,
            (0x8000, 16 * u32::from(count), INDIRECT, 0),
        );
        for index in 0..count {
            let flags = if index + 1 < count { NEXT } else { 0 };
            Ring::describe_in(&mut machine, 0x8000, index, (0x9000, 1, flags, index + 1));
        }
        ring.offer(&mut machine, 0);
        match queue.pop(&mut machine) {
            Ok(Some(chain)) => assert!(fits && chain.readable_len() == u32::from(count)),
            other => assert!(!fits && other.unwrap_err() == QueueError::TooLong),
        }
    }
}

#[test]
fn buffers_have_bytes_do_not_wrap_and_are_not_too_many() {
    assert_eq!(error(&[(0x8000, 0, 0, 0)]), QueueError::EmptyBuffer);
    let top = u64::MAX - 3;
    assert_eq!(error(&[(top, 4, 0, 0)]), QueueError::BufferWraps(Gpa(top)));
    assert!(popped(&[(top, 3, 0, 0)]).unwrap().is_some());
    assert_eq!(
        error(&[(0, MAX_CHAIN_BYTES + 1, 0, 0)]),
        QueueError::TooLarge
    );
    let halves = [(0, MAX_CHAIN_BYTES, NEXT, 1), (0, 1, WRITE, 0)];
    assert_eq!(error(&halves), QueueError::TooLarge);
    assert_eq!(
        error(&[(0, 1, NEXT, 1), (0, u32::MAX, 0, 0)]),
        QueueError::TooLarge
    );
}

#[test]
fn buffers_to_write_come_last() {
    let wrong = [(0x8000, 1, WRITE | NEXT, 1), (0x8000, 1, 0, 0)];
    assert_eq!(error(&wrong), QueueError::ReadableAfterWritable);
}

#[test]
fn memory_that_is_not_the_vms_is_an_error_and_never_reached() {
    let beyond = RAM as u64;
    let chain = popped(&[(beyond - 2, 4, NEXT, 1), (beyond, 4, WRITE, 0)]);
    let chain = chain.unwrap().unwrap();
    let mut machine = Machine::new(RAM);
    let mut bytes = [0; 4];
    let outside = |at| Err(QueueError::OutsideMemory(Gpa(at)));
    assert_eq!(chain.read(&mut machine, 0, &mut bytes), outside(beyond - 2));
    assert_eq!(chain.write(&mut machine, 0, &bytes), outside(beyond));
    for part in 0..3 {
        let mut parts = [Gpa(0x1000), Gpa(0x2000), Gpa(0x3000)];
        parts[part] = Gpa(beyond);
        let mut queue = Queue::new(16);
        let [descriptors, driver, device] = parts;
        queue.set_addresses(descriptors, driver, device);
        queue.enable(Features::VERSION_1).unwrap();
        queue.grant();
        machine.put_u16(0x2002, 1);
        let result = queue
            .pop(&mut machine)
            .and_then(|_| queue.complete(&mut machine, 0, 0));
        assert!(result.is_err(), "part {part}");
    }
}
