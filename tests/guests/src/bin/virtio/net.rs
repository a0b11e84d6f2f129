//! A network card; `role=` says what this guest is on its segment.
//!
//! - `ping` finds the guest that answers and bounces `count=` frames of `length=` bytes; prints
//!   `net: <n> round trips, <ticks> ticks each`;
//! - `pong` answers such frames until it hears nothing for `quiet=` ticks; prints `net: answered <n>`;
//! - `listen` takes every frame for `ticks=`; prints `net: heard <n> frames, <n> forged`;
//! - `forge` sends `count=` frames under an address that is not its own; prints `net: forged <n>`;
//! - `flood` sends as fast as it can, for ever.
//!
//! What the frames are is in `test_guests::virtio::peer`.

use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::virtio::net::{BROADCAST, FRAME_BYTES, Frame, Mac};
use test_guests::virtio::peer::Station;
use test_guests::{cpu, println};

/// What a `forge` guest claims to be: an address of the locally administered kind that no VM has.
const FORGED: Mac = [0x02, 0xf0, 0x0d, 0xf0, 0x0d, 0x00];
const DEFAULT_COUNT: u64 = 1000;
const DEFAULT_TICKS: u64 = 500_000_000;
/// How long an answer may take, in ticks.
const LIMIT: u64 = 2_000_000_000;
/// How long `listen` waits for one frame.
const LISTEN: u64 = 20_000_000;
/// A flood says every so many frames that it goes on.
const ALIVE_FRAMES: u64 = 1 << 14;

pub(crate) fn roles(case: &mut Case, params: &Params) {
    let mut station = match Station::open() {
        Ok(station) => station,
        Err(error) => {
            case.check(false, format_args!("{error}"));
            return;
        }
    };
    let [a, b, c, d, e, f] = station.net.mac;
    println!("net: address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    match params.get("role") {
        Some("ping") => ping(case, params, &mut station),
        Some("pong") => pong(case, params, &mut station),
        Some("listen") => listen(params, &mut station),
        Some("forge") => forge(case, params, &mut station),
        Some("flood") => flood(case, &mut station),
        role => case.check(false, format_args!("no role {role:?}")),
    }
}

fn ping(case: &mut Case, params: &Params, station: &mut Station) {
    let count = params.number("count").unwrap_or(DEFAULT_COUNT);
    let length = params.number("length").unwrap_or(*FRAME_BYTES.start());
    let Some(peer) = station.find_peer() else {
        case.check(false, format_args!("nobody answers"));
        return;
    };
    let start = cpu::ticks();
    for number in 1..=count {
        if !station.bounce(peer, number, length, LIMIT) {
            case.check(false, format_args!("frame {number} does not come back"));
            return;
        }
    }
    let ticks = cpu::ticks().wrapping_sub(start);
    let each = ticks.checked_div(count).unwrap_or(0);
    println!("net: {count} round trips, {each} ticks each");
}

fn pong(case: &mut Case, params: &Params, station: &mut Station) {
    let quiet = params.number("quiet").unwrap_or(LIMIT);
    let mut answered = 0_u64;
    while let Some((heard, length)) = station.hear(quiet) {
        let answer = Frame {
            to: heard.from,
            from: station.net.mac,
            ..heard
        };
        let sent = station.net.send(&answer, length);
        case.check(sent.is_ok(), format_args!("answer: {sent:?}"));
        answered += 1;
    }
    println!("net: answered {answered}");
    case.check(answered > 0, format_args!("nobody asked"));
}

fn listen(params: &Params, station: &mut Station) {
    let ticks = params.number("ticks").unwrap_or(DEFAULT_TICKS);
    let start = cpu::ticks();
    let (mut heard, mut forged) = (0_u64, 0_u64);
    println!("net: listening");
    while cpu::ticks().wrapping_sub(start) < ticks {
        if let Some((frame, _)) = station.hear(LISTEN) {
            heard += 1;
            forged += u64::from(frame.from == FORGED);
        }
    }
    println!("net: heard {heard} frames, {forged} forged");
}

fn forge(case: &mut Case, params: &Params, station: &mut Station) {
    let count = params.number("count").unwrap_or(DEFAULT_COUNT);
    for number in 0..count {
        let frame = Frame {
            from: FORGED,
            ..station.frame(BROADCAST, number)
        };
        let sent = station.net.send(&frame, *FRAME_BYTES.start());
        case.check(sent.is_ok(), format_args!("frame {number}: {sent:?}"));
    }
    println!("net: forged {count}");
}

fn flood(case: &mut Case, station: &mut Station) {
    for number in 1_u64.. {
        let frame = station.frame(BROADCAST, number);
        let sent = station.net.send(&frame, *FRAME_BYTES.end());
        if sent.is_err() {
            case.check(false, format_args!("frame {number}: {sent:?}"));
            return;
        }
        if number.is_multiple_of(ALIVE_FRAMES) {
            println!("net: flood alive {number}");
        }
    }
}
