//! Frames out and in, by name and in hundreds of thousands that nobody arranged.

use super::super::Features;
use super::super::buffers::{Buffer, broken_ring, gather, offer, scatter, split};
use super::super::testing::{Machine, Ring};
use super::*;
use crate::testing::Random;

/// Where the transmit queue's rings are; the receive queue's are at 0.
const TRANSMIT_RING: u64 = 0x3000;
const DATA: u64 = 2 * TRANSMIT_RING;
const RAM: usize = 0xa000;
const FULL: usize = HEADER_BYTES + MAX_FRAME;

struct Bench {
    guest: Machine,
    receive: Ring,
    transmit: Ring,
    queues: [Queue; 2],
    nic: Nic,
}

impl Bench {
    fn new() -> Self {
        let receive = Ring::new(0, QUEUE_SIZE);
        let transmit = Ring::new(TRANSMIT_RING, QUEUE_SIZE);
        Self {
            guest: Machine::new(RAM),
            queues: [&receive, &transmit].map(|ring| ring.queue(Features::VERSION_1)),
            receive,
            transmit,
            nic: Nic::new(MacAddress::parse("52:00:00:00:00:01").unwrap()),
        }
    }

    fn sent(&mut self) -> Result<Option<Vec<u8>>, QueueError> {
        let mut frame = [0xcc; MAX_FRAME];
        self.queues.iter_mut().for_each(Queue::grant);
        let length = self
            .nic
            .transmit(&mut self.queues, &mut self.guest, &mut frame)?;
        Ok(length.map(|length| frame[..length].to_vec()))
    }

    fn bring(&mut self, frame: &[u8]) -> Result<bool, QueueError> {
        self.queues.iter_mut().for_each(Queue::grant);
        self.nic.receive(&mut self.queues, &mut self.guest, frame)
    }
}

fn buffer(at: u64, bytes: usize, writable: bool) -> Buffer {
    Buffer {
        at,
        bytes: bytes as u32,
        writable,
    }
}

#[test]
fn frames_go_out_one_by_one_without_their_headers() {
    let mut bench = Bench::new();
    let data: Vec<u8> = (0..200).collect();
    for (head, start) in [(0, 0), (2, 100)] {
        let at = DATA + start as u64 * 16;
        bench.guest.put(at, &[0; HEADER_BYTES]);
        bench.guest.put(at + 500, &data[start..start + 100]);
        let chain = [
            buffer(at, HEADER_BYTES, false),
            buffer(at + 500, 100, false),
        ];
        offer(&mut bench.transmit, &mut bench.guest, head, &chain);
    }
    assert_eq!(bench.sent(), Ok(Some(data[..100].to_vec())));
    assert_eq!(bench.transmit.used(&bench.guest), Some((0, 0)));
    assert_eq!(bench.transmit.used(&bench.guest), None);
    assert_eq!(bench.sent(), Ok(Some(data[100..].to_vec())));
    assert_eq!(bench.sent(), Ok(None));
}

#[test]
fn frames_that_cannot_be_sent_are_counted_and_passed_over() {
    let mut bench = Bench::new();
    for (bytes, flags, kind) in [
        (HEADER_BYTES - 1, 0, 0),
        (FULL + 1, 0, 0),
        (100, 1, 0),
        (100, 0, 4),
    ] {
        bench.guest.put(DATA, &[flags, kind]);
        offer(
            &mut bench.transmit,
            &mut bench.guest,
            0,
            &[buffer(DATA, bytes, false)],
        );
        assert_eq!(bench.sent(), Ok(None));
        assert!(bench.transmit.used(&bench.guest).is_some());
    }
    // A chain with nothing to read.
    offer(
        &mut bench.transmit,
        &mut bench.guest,
        0,
        &[buffer(DATA, 100, true)],
    );
    bench.guest.put(DATA + 256, &[0; FULL]);
    offer(
        &mut bench.transmit,
        &mut bench.guest,
        1,
        &[buffer(DATA + 256, FULL, false)],
    );
    assert_eq!(bench.sent(), Ok(Some(vec![0; MAX_FRAME])));
    assert_eq!(bench.nic.counters().bad_frames, 5);
}

#[test]
fn frame_that_arrives_has_a_plain_header() {
    let mut bench = Bench::new();
    offer(
        &mut bench.receive,
        &mut bench.guest,
        0,
        &[buffer(DATA, 1600, true)],
    );
    assert_eq!(bench.bring(b"a frame that is brought"), Ok(true));
    assert_eq!(bench.receive.used(&bench.guest), Some((0, 35)));
    assert_eq!(
        bench.guest.bytes(DATA, 35),
        b"\0\0\0\0\0\0\0\0\0\0\x01\0a frame that is brought"
    );
    assert_eq!(bench.bring(b"no buffer for this one"), Ok(false));
}

#[test]
fn small_buffer_goes_back_empty_and_untouched() {
    let mut bench = Bench::new();
    offer(
        &mut bench.receive,
        &mut bench.guest,
        0,
        &[buffer(DATA, 111, true)],
    );
    offer(
        &mut bench.receive,
        &mut bench.guest,
        1,
        &[buffer(DATA, 112, true)],
    );
    assert_eq!(bench.bring(&[0xaa; 100]), Ok(false));
    assert_eq!(bench.receive.used(&bench.guest), Some((0, 0)));
    assert_eq!(bench.guest.bytes(DATA, 111), [0; 111]);
    assert_eq!(bench.bring(&[0xaa; 100]), Ok(true));
    assert_eq!(bench.nic.counters().small_buffers, 1);
}

#[test]
fn new_buffers_need_no_notification() {
    let mut bench = Bench::new();
    let effect = bench
        .nic
        .notify(RECEIVE, &mut bench.queues, &mut bench.guest);
    assert_eq!(effect, Ok(Effect::Nothing));
    // VIRTQ_USED_F_NO_NOTIFY in the used ring's flags.
    assert_eq!(bench.guest.bytes(0x2000, 2), [1, 0]);
    let effect = bench
        .nic
        .notify(TRANSMIT, &mut bench.queues, &mut bench.guest);
    assert_eq!(effect, Ok(Effect::Transmit));
    assert_eq!(bench.guest.bytes(TRANSMIT_RING + 0x2000, 2), [0, 0]);
}

#[test]
fn configuration_holds_address_and_link() {
    let nic = Bench::new().nic;
    let mut bytes = [0xff; 10];
    nic.read_config(0, &mut bytes);
    assert_eq!(bytes, [0x52, 0, 0, 0, 0, 1, 1, 0, 0xff, 0xff]);
    nic.read_config(5, &mut bytes[..1]);
    assert_eq!(bytes[0], 1);
    assert_eq!(nic.features(), 1 << 5 | 1 << 16);
    assert_eq!(nic.queue_sizes(), [256, 256]);
}

#[test]
fn hundred_thousand_chains_out_match_what_was_offered() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut bench = Bench::new();
    let (mut sent, mut bad) = (0_u32, 0);
    for _ in 0..100_000 {
        let length = match random.below(8) {
            0 => random.below(20),
            1 => FULL as u64 - 4 + random.below(8),
            2 => random.below(8000),
            _ => random.below(1600),
        } as u32;
        let mut at = DATA;
        let pieces = 1 + random.below(40) as usize;
        let mut chain = split(&mut random, length, pieces, false, &mut at);
        if chain.is_empty() || random.one_in(8) {
            chain.push(buffer(at, 7, true));
        }
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        if !random.one_in(8) {
            bytes.iter_mut().take(2).for_each(|byte| *byte = 0);
        }
        let readable = chain.partition_point(|buffer| !buffer.writable);
        scatter(&mut bench.guest, &chain[..readable], &bytes);
        offer(&mut bench.transmit, &mut bench.guest, 0, &chain);
        let proper = (HEADER_BYTES..=FULL).contains(&bytes.len()) && bytes[..2] == [0, 0];
        let expected = proper.then(|| bytes[HEADER_BYTES..].to_vec());
        assert_eq!(bench.sent(), Ok(expected));
        assert_eq!(bench.transmit.used(&bench.guest), Some((0, 0)));
        sent += u32::from(proper);
        bad += u64::from(!proper);
        assert_eq!(bench.nic.counters().bad_frames, bad);
    }
    assert!(sent > 30_000 && bad > 20_000, "{sent} {bad}");
}

#[test]
fn hundred_thousand_frames_in_fill_the_buffers_and_nothing_else() {
    let mut random = Random(0x0fed_cba9_8765_4321);
    let mut bench = Bench::new();
    let (mut taken, mut small) = (0_u32, 0);
    for step in 0..100_000_u32 {
        let room = random.below(2000) as u32 + 1;
        let mut at = DATA;
        let pieces = 1 + random.below(40) as usize;
        let mut chain = split(&mut random, random_readable(step), 2, false, &mut at);
        let readable = chain.len();
        chain.extend(split(&mut random, room, pieces, true, &mut at));
        let fill = !(step as u8);
        bench.guest.ram[DATA as usize..].fill(fill);
        let frame: Vec<u8> = (0..random.below(MAX_FRAME as u64 + 1))
            .map(|_| random.next() as u8)
            .collect();
        offer(&mut bench.receive, &mut bench.guest, 0, &chain);
        let fits = frame.len() + HEADER_BYTES <= room as usize;
        assert_eq!(bench.bring(&frame), Ok(fits));
        let written = if fits { frame.len() + HEADER_BYTES } else { 0 };
        assert_eq!(bench.receive.used(&bench.guest), Some((0, written as u32)));
        let mut expected = vec![fill; room as usize];
        if fits {
            expected[..HEADER_BYTES].copy_from_slice(&RECEIVED);
            expected[HEADER_BYTES..written].copy_from_slice(&frame);
            taken += 1;
        } else {
            small += 1;
        }
        assert!(gather(&bench.guest, &chain[readable..]) == expected);
        for buffer in &chain[readable..] {
            bench.guest.ram[buffer.at as usize..][..buffer.bytes as usize].fill(fill);
        }
        let rest = &bench.guest.ram[DATA as usize..];
        assert!(rest == [fill; RAM - DATA as usize]);
    }
    assert_eq!(bench.nic.counters().small_buffers, small);
    assert!(taken > 30_000 && small > 20_000, "{taken} {small}");
}

/// Buffers to read have no place in a receive queue, but they are no reason to fail.
const fn random_readable(step: u32) -> u32 {
    if step.is_multiple_of(5) { 9 } else { 0 }
}

#[test]
fn two_hundred_thousand_broken_rings_harm_nobody() {
    let mut random = Random(0x0bad_5eed_0bad_5eed);
    let mut bench = Bench::new();
    let (mut errors, mut fine) = (0, 0);
    for step in 0..200_000_u32 {
        let base = if step & 1 == 0 { 0 } else { TRANSMIT_RING };
        let ring = broken_ring(&mut random, &mut bench.guest, base);
        bench.queues[step as usize & 1] = ring.queue(Features::VERSION_1 | Features::INDIRECT);
        let result = if step & 1 == 0 {
            let frame = [0x5a; MAX_FRAME];
            bench
                .bring(&frame[..random.below(MAX_FRAME as u64) as usize])
                .map(|_| ())
        } else {
            bench.sent().map(|frame| {
                assert!(frame.is_none_or(|frame| frame.len() <= MAX_FRAME));
            })
        };
        match result {
            Ok(()) => fine += 1,
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 10_000 && fine > 10_000, "{errors} {fine}");
}
