//! A million inputs from somebody who means harm, or whose cat walks over the keyboard.

use super::super::command::{Command, Verb};
use super::super::mux::{Mux, Routing};
use super::super::request::Request;
use super::super::wire::{Frame, WireError, decode};
use super::{Random, commands, names};

#[test]
fn a_million_hostile_lines_are_read_or_refused() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let names = names();
    let words: Vec<&str> = Verb::ALL
        .iter()
        .map(|verb| verb.as_str())
        .chain([
            "web",
            "db",
            "hard",
            "on",
            "off",
            "5",
            "1000",
            "0x1ff0",
            "-1",
            "",
            "é\u{2003}",
            "\0",
            "\u{1d}",
        ])
        .collect();
    let mut read = 0;
    for _ in 0..1_000_000 {
        let mut line = String::new();
        for _ in 0..random.below(5) {
            match random.below(8) {
                0 => line.extend(char::from_u32(random.below(0x11_0000) as u32)),
                1 => line.push(random.below(128) as u8 as char),
                _ => line.push_str(random.pick(&words)),
            }
            if random.below(8) != 0 {
                line.push(' ');
            }
        }
        match Request::parse(&line, &names) {
            Ok(request) => {
                read += 1;
                let canonical = request.command.to_string();
                assert_eq!(Command::parse(&canonical), Ok(request.command));
                assert!(request.vm.is_none_or(|vm| vm < names.len()));
            }
            Err(error) => {
                let column = error.column;
                assert!(
                    (1..=line.chars().count() + 2).contains(&column),
                    "{line:?}: {column}"
                );
            }
        }
    }
    assert!(read > 10_000, "only {read} lines were commands");
}

#[test]
fn a_million_hostile_frames_are_read_or_refused() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let commands = commands();
    let (mut read, mut refused) = (0, 0);
    for _ in 0..1_000_000 {
        let mut bytes = Frame::of(&random.pick(&commands)).as_bytes().to_vec();
        for _ in 0..random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        if random.below(4) == 0 {
            bytes.truncate(random.below(bytes.len() + 1));
        }
        match decode(&bytes) {
            Ok((command, used)) => {
                read += 1;
                assert_eq!(Frame::of(&command).as_bytes(), &bytes[..used]);
            }
            Err(WireError::Incomplete { needed }) => assert!(needed > bytes.len()),
            Err(_) => refused += 1,
        }
    }
    assert!(read > 100_000 && refused > 100_000, "{read}, {refused}");
}

#[test]
fn a_million_hostile_keys_and_writes_leave_the_terminal_usable() {
    let mut random = Random(0xd1b5_4a32_d192_ed03);
    let mut mux = Mux::new(names());
    let keys = *b"\x1d\x1d\r\n\x03\x04\x08\x15\x1b[O listwebdbsch";
    let mut shown = 0_usize;
    let mut commands = 0;
    for _ in 0..1_000_000 {
        let mut sink = |bytes: &[u8]| shown += bytes.len();
        match random.below(16) {
            0 => {
                let bytes = vec![b'x'; random.below(300)];
                mux.output(random.below(5), &bytes, &mut sink);
            }
            1 => {
                mux.before_log(&mut sink);
                mux.after_log(&mut sink);
            }
            2 => mux.answered(&mut sink),
            3 if random.below(50) == 0 => {
                let vm = random.below(5);
                assert_eq!(mux.switch(vm, &mut sink), vm < 3);
            }
            3..8 => {
                let byte = random.below(256) as u8;
                check(&mux.typed(byte, &mut sink), &mut commands);
            }
            _ => check(&mux.typed(random.pick(&keys), &mut sink), &mut commands),
        }
        assert!(mux.front() < 3);
        assert!((0..3).all(|vm| mux.unseen(vm).0 <= 8192));
    }
    assert!(commands > 1000 && shown > 1_000_000, "{commands}, {shown}");
    // Whatever state that left it in, three interrupts and an escape reach the prompt.
    let mut sink = |_: &[u8]| {};
    for byte in *b"\x1d\x1d\x03\x03" {
        check(&mux.typed(byte, &mut sink), &mut commands);
    }
    while mux.prompt_is_open() {
        check(&mux.typed(0x1d, &mut sink), &mut commands);
    }
    for byte in *b"\x1dlist" {
        assert_eq!(mux.typed(byte, &mut sink), Routing::Nothing);
    }
    let Routing::Command(Ok(request)) = mux.typed(b'\r', &mut sink) else {
        panic!("the prompt does not take a command");
    };
    assert_eq!(request.command, Command::List);
}

fn check(routing: &Routing, commands: &mut u32) {
    match routing {
        Routing::Nothing => {}
        Routing::ToVm { vm, .. } => assert!(*vm < 3),
        Routing::Command(request) => {
            *commands += 1;
            if let Ok(request) = request {
                assert!(request.vm.is_none_or(|vm| vm < 3));
            }
        }
    }
}
