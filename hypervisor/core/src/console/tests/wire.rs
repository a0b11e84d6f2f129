//! Frames of bytes.

use super::super::command::{Command, Verb};
use super::super::wire::{Frame, MAX_FRAME, WireError, decode};
use super::{commands, name};

#[test]
fn every_command_comes_out_of_its_frame() {
    for command in commands() {
        let frame = Frame::of(&command);
        let bytes = frame.as_bytes();
        assert!(bytes.len() <= MAX_FRAME);
        assert_eq!(decode(bytes), Ok((command, bytes.len())));
    }
}

#[test]
fn frames_follow_each_other_in_a_stream() {
    let mut stream = Vec::new();
    for command in commands() {
        stream.extend_from_slice(Frame::of(&command).as_bytes());
    }
    let mut read = Vec::new();
    let mut left = &stream[..];
    while !left.is_empty() {
        let (command, used) = decode(left).unwrap();
        read.push(command);
        left = &left[used..];
    }
    assert_eq!(read, commands());
}

#[test]
fn the_bytes_are_those_that_the_format_promises() {
    let stop = Command::Stop {
        vm: name("db"),
        hard: true,
    };
    assert_eq!(Frame::of(&stop).as_bytes(), [6, 0, 1, 4, 2, b'd', b'b', 1]);
    let log = Command::Log { lines: 0x0102 };
    assert_eq!(Frame::of(&log).as_bytes(), [6, 0, 1, 8, 2, 1, 0, 0]);
    let help = Command::Help {
        topic: Some(Verb::Trace),
    };
    assert_eq!(Frame::of(&help).as_bytes(), [3, 0, 1, 11, 10]);
}

#[test]
fn any_beginning_of_a_frame_asks_for_the_rest() {
    for command in commands() {
        let frame = Frame::of(&command);
        let bytes = frame.as_bytes();
        for end in 0..bytes.len() {
            let needed = if end < 2 { 2 } else { bytes.len() };
            assert_eq!(
                decode(&bytes[..end]),
                Err(WireError::Incomplete { needed }),
                "{command} cut at {end}"
            );
        }
    }
}

#[test]
fn frames_that_no_command_has_are_refused_by_name() {
    for (bytes, error) in [
        (&[1, 0, 1][..], WireError::Length(1)),
        (&[0xff, 0xff, 1, 1], WireError::Length(0xffff)),
        (&[2, 0, 2, 1], WireError::Version(2)),
        (&[2, 0, 1, 0], WireError::Code(0)),
        (&[2, 0, 1, 13], WireError::Code(13)),
        (&[3, 0, 1, 11, 13], WireError::Code(13)),
        (&[3, 0, 1, 1, 0], WireError::Long),
        (&[2, 0, 1, 3], WireError::Short),
        (&[4, 0, 1, 3, 2, b'd'], WireError::Short),
        (&[3, 0, 1, 3, 0], WireError::Name),
        (&[4, 0, 1, 3, 1, b'D'], WireError::Name),
        (&[4, 0, 1, 3, 1, 0xff], WireError::Name),
        (&[5, 0, 1, 4, 1, b'd', 2], WireError::Operand(2)),
        (&[5, 0, 1, 10, 1, b'd', 3], WireError::Operand(3)),
        (&[6, 0, 1, 8, 0, 0, 0, 0], WireError::Operand(0)),
        (&[6, 0, 1, 8, 0xe9, 3, 0, 0], WireError::Operand(1001)),
        (
            &[
                16, 0, 1, 12, 1, b'd', 0xff, 0xf, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
            ],
            WireError::Operand(2),
        ),
    ] {
        assert_eq!(decode(bytes), Err(error), "{bytes:?}: {error}");
    }
}
