//! A network card; `role=` says what this guest is on its segment.
//!
//! - `ping` finds the guest that answers and bounces `count=` frames of `length=` bytes; prints
//!   `net: <n> round trips, <ticks> ticks each`;
//! - `pong` answers such frames until it hears nothing for `quiet=` ticks; prints `net: answered <n>`;
//! - `listen` takes every frame for `ticks=`; prints `net: heard <n> frames, <n> forged`;
//! - `forge` sends `count=` frames under an address that is not its own; prints `net: forged <n>`;
//! - `flood` sends as fast as it can, for ever.
//!
//! Frames carry a local experimental type, and a number.

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::virtio::net::{BROADCAST, FRAME_BYTES, Frame, Mac, Net};
use test_guests::{cpu, println};

/// "Local Experimental EtherType 1" of IEEE 802.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// What a `forge` guest claims to be: an address of the locally administered kind that no VM has.
const FORGED: Mac = [0x02, 0xf0, 0x0d, 0xf0, 0x0d, 0x00];
const DEFAULT_COUNT: u64 = 1000;
const DEFAULT_TICKS: u64 = 500_000_000;
/// How long an answer may take, in ticks, and how long before somebody is asked again.
const LIMIT: u64 = 2_000_000_000;
const ASK_AGAIN: u64 = 20_000_000;
/// A flood says every so many frames that it goes on.
const ALIVE_FRAMES: u64 = 1 << 14;

pub(crate) fn roles(case: &mut Case, params: &Params) {
    let mut net = match Net::open(0, None) {
        Ok(net) => net,
        Err(error) => {
            case.check(false, format_args!("{error}"));
            return;
        }
    };
    println!("net: address {:x?}", net.mac);
    match params.get("role") {
        Some("ping") => ping(case, params, &mut net),
        Some("pong") => pong(case, params, &mut net),
        Some("listen") => listen(params, &mut net),
        Some("forge") => forge(case, params, &mut net),
        Some("flood") => flood(case, &mut net),
        role => case.check(false, format_args!("no role {role:?}")),
    }
}

fn ping(case: &mut Case, params: &Params, net: &mut Net) {
    let count = params.number("count").unwrap_or(DEFAULT_COUNT);
    let length = params.number("length").unwrap_or(*FRAME_BYTES.start());
    let Some(peer) = find_peer(net) else {
        case.check(false, format_args!("nobody answers"));
        return;
    };
    let start = cpu::ticks();
    for number in 1..=count {
        let sent = net.send(&frame(net, peer, number), length);
        let back = sent.ok().and_then(|()| hear(net, LIMIT));
        let right = back.is_some_and(|(frame, bytes)| {
            frame.from == peer
                && frame.to == net.mac
                && frame.word == number.to_le_bytes()
                && bytes == length
        });
        if !right {
            case.check(false, format_args!("frame {number}: {sent:?}, {back:x?}"));
            return;
        }
    }
    let ticks = cpu::ticks().wrapping_sub(start);
    let each = ticks.checked_div(count).unwrap_or(0);
    println!("net: {count} round trips, {each} ticks each");
}

/// Asks everybody until somebody answers.
fn find_peer(net: &mut Net) -> Option<Mac> {
    let start = cpu::ticks();
    while cpu::ticks().wrapping_sub(start) < LIMIT {
        net.send(&frame(net, BROADCAST, 0), *FRAME_BYTES.start())
            .ok()?;
        let mut found = None;
        // Answers to several questions may come: the last of them ends the search.
        while let Some((frame, _)) = hear(net, ASK_AGAIN) {
            found = Some(frame.from);
        }
        if found.is_some() {
            return found;
        }
    }
    None
}

fn pong(case: &mut Case, params: &Params, net: &mut Net) {
    let quiet = params.number("quiet").unwrap_or(LIMIT);
    let mut answered = 0_u64;
    while let Some((heard, length)) = hear(net, quiet) {
        let answer = Frame {
            to: heard.from,
            from: net.mac,
            ..heard
        };
        let sent = net.send(&answer, length);
        case.check(sent.is_ok(), format_args!("answer: {sent:?}"));
        answered += 1;
    }
    println!("net: answered {answered}");
    case.check(answered > 0, format_args!("nobody asked"));
}

fn listen(params: &Params, net: &mut Net) {
    let ticks = params.number("ticks").unwrap_or(DEFAULT_TICKS);
    let start = cpu::ticks();
    let (mut heard, mut forged) = (0_u64, 0_u64);
    println!("net: listening");
    while cpu::ticks().wrapping_sub(start) < ticks {
        if let Some((frame, _)) = hear(net, ASK_AGAIN) {
            heard += 1;
            forged += u64::from(frame.from == FORGED);
        }
    }
    println!("net: heard {heard} frames, {forged} forged");
}

fn forge(case: &mut Case, params: &Params, net: &mut Net) {
    let count = params.number("count").unwrap_or(DEFAULT_COUNT);
    for number in 0..count {
        let frame = Frame {
            from: FORGED,
            ..frame(net, BROADCAST, number)
        };
        let sent = net.send(&frame, *FRAME_BYTES.start());
        case.check(sent.is_ok(), format_args!("frame {number}: {sent:?}"));
    }
    println!("net: forged {count}");
}

fn flood(case: &mut Case, net: &mut Net) {
    for number in 1_u64.. {
        let sent = net.send(&frame(net, BROADCAST, number), *FRAME_BYTES.end());
        if sent.is_err() {
            case.check(false, format_args!("frame {number}: {sent:?}"));
            return;
        }
        if number.is_multiple_of(ALIVE_FRAMES) {
            println!("net: flood alive {number}");
        }
    }
}

fn frame(net: &Net, to: Mac, number: u64) -> Frame {
    Frame {
        to,
        from: net.mac,
        ether_type: ETHER_TYPE,
        word: number.to_le_bytes(),
    }
}

/// The next frame of ours, within `limit` ticks.
fn hear(net: &mut Net, limit: u64) -> Option<(Frame, u64)> {
    let start = cpu::ticks();
    loop {
        match net.take() {
            Some(heard) if heard.0.ether_type == ETHER_TYPE => return Some(heard),
            _ if cpu::ticks().wrapping_sub(start) > limit => return None,
            _ => cpu::pause(),
        }
    }
}
