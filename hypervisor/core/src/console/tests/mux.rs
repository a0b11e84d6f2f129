//! The terminal.

use super::super::command::Command;
use super::super::mux::{ESCAPE_KEY, Mux, Routing};
use super::{name, names};

/// A terminal that keeps what it shows, and VMs that keep what they are sent.
struct Desk {
    mux: Mux,
    shown: Vec<u8>,
    sent: Vec<(usize, u8)>,
    commands: Vec<String>,
}

impl Desk {
    fn new(vms: usize) -> Self {
        Self {
            mux: Mux::new(names().into_iter().take(vms).collect()),
            shown: Vec::new(),
            sent: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Types `bytes` and answers each command with its canonical line.
    fn type_all(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let shown = &mut self.shown;
            let mut sink = |bytes: &[u8]| shown.extend_from_slice(bytes);
            match self.mux.typed(*byte, &mut sink) {
                Routing::Nothing => {}
                Routing::ToVm { vm, byte } => self.sent.push((vm, byte)),
                Routing::Command(request) => {
                    let answer = match request {
                        Ok(request) => {
                            if let (Command::Switch { .. }, Some(vm)) =
                                (&request.command, request.vm)
                            {
                                assert!(self.mux.switch(vm, &mut sink));
                            }
                            request.command.to_string()
                        }
                        Err(error) => error.to_string(),
                    };
                    self.commands.push(answer);
                    self.mux.answered(&mut sink);
                }
            }
        }
    }

    fn output(&mut self, vm: usize, bytes: &[u8]) {
        let shown = &mut self.shown;
        self.mux.output(vm, bytes, &mut |bytes: &[u8]| {
            shown.extend_from_slice(bytes)
        });
    }

    fn log(&mut self, line: &str) {
        let shown = &mut self.shown;
        self.mux
            .before_log(&mut |bytes: &[u8]| shown.extend_from_slice(bytes));
        shown.extend_from_slice(line.as_bytes());
        self.mux
            .after_log(&mut |bytes: &[u8]| shown.extend_from_slice(bytes));
    }

    /// What was shown since the last look.
    fn look(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.shown)).unwrap()
    }
}

#[test]
fn a_single_vm_has_the_terminal_to_itself() {
    let mut desk = Desk::new(1);
    let every: Vec<u8> = (0..=255).filter(|byte| *byte != ESCAPE_KEY).collect();
    desk.type_all(&every);
    let sent: Vec<u8> = desk.sent.iter().map(|(_, byte)| *byte).collect();
    assert_eq!(sent, every);
    desk.output(0, &every);
    assert_eq!(desk.shown, every);
}

#[test]
fn the_escape_key_opens_the_prompt_and_an_empty_line_closes_it() {
    let mut desk = Desk::new(1);
    desk.output(0, b"login: ");
    desk.type_all(b"\x1d");
    assert_eq!(desk.look(), "login: \r\nbulkhead> ");
    desk.type_all(b"list\r");
    assert_eq!(desk.look(), "list\r\nbulkhead> ");
    assert_eq!(desk.commands, ["list"]);
    desk.type_all(b"\rx");
    assert_eq!(desk.look(), "\r\n");
    assert_eq!(desk.sent, [(0, b'x')]);
}

#[test]
fn the_escape_key_twice_is_typed_to_the_vm() {
    let mut desk = Desk::new(1);
    desk.type_all(b"\x1d\x1da");
    assert_eq!(desk.sent, [(0, ESCAPE_KEY), (0, b'a')]);
    desk.type_all(b"\x1dlis\x1d");
    assert_eq!(desk.sent.len(), 2, "a line was begun: it is only dropped");
    assert!(!desk.mux.prompt_is_open());
    desk.type_all(b"\x1dlist\r");
    assert_eq!(desk.commands, ["list"]);
}

#[test]
fn control_c_drops_a_line_first_and_the_prompt_then() {
    let mut desk = Desk::new(1);
    desk.type_all(b"\x1dnonsense\x03");
    assert!(desk.look().ends_with("nonsense^C\r\nbulkhead> "));
    desk.type_all(b"\x03");
    assert!(!desk.mux.prompt_is_open());
    assert!(desk.commands.is_empty() && desk.sent.is_empty());
}

#[test]
fn a_line_feed_after_a_return_ends_no_second_line() {
    let mut desk = Desk::new(1);
    desk.type_all(b"\x1dlist\r\n");
    assert!(desk.mux.prompt_is_open());
    desk.type_all(b"\r\n");
    assert!(desk.sent.is_empty(), "the line feed went to the VM");
    desk.type_all(b"\n");
    assert_eq!(desk.sent, [(0, b'\n')]);
    desk.type_all(b"\x1dlist\nstats\n\n");
    assert_eq!(desk.commands, ["list", "list", "stats"]);
    assert!(!desk.mux.prompt_is_open());
}

#[test]
fn a_vm_behind_is_heard_when_it_comes_to_the_front() {
    let mut desk = Desk::new(3);
    desk.output(1, b"db is ready\r\n");
    desk.output(0, b"web is ready\r\n");
    assert_eq!(desk.look(), "web is ready\r\n");
    desk.type_all(b"\x1dswitch db\r");
    assert_eq!(
        desk.look(),
        "bulkhead> switch db\r\n[console of VM \"db\"; Ctrl-] opens the prompt]\r\ndb is ready\r\n"
    );
    assert_eq!(desk.mux.front(), 1);
    desk.type_all(b"x");
    assert_eq!(desk.sent, [(1, b'x')]);
    assert_eq!(desk.mux.unseen(1), (0, 0));
}

#[test]
fn the_vm_in_front_is_held_back_while_the_prompt_is_open() {
    let mut desk = Desk::new(2);
    desk.type_all(b"\x1dli");
    desk.look();
    desk.output(0, b"working\r\n");
    assert_eq!(desk.look(), "");
    desk.type_all(b"st\r");
    assert_eq!(desk.look(), "st\r\nbulkhead> ");
    desk.type_all(b"\r");
    assert_eq!(desk.look(), "\r\nworking\r\n");
}

#[test]
fn lost_output_is_counted_and_said() {
    let mut desk = Desk::new(2);
    desk.output(1, &[b'a'; 5]);
    desk.output(1, &[b'b'; 8192]);
    assert_eq!(desk.mux.unseen(1), (8192, 5));
    desk.type_all(b"\x1dswitch db\r");
    let shown = desk.look();
    let (_, after) = shown
        .split_once("[5 bytes of output were lost]\r\n")
        .unwrap();
    assert_eq!(after, "b".repeat(8192));
}

#[test]
fn a_log_line_moves_the_line_being_typed_below_itself() {
    let mut desk = Desk::new(1);
    desk.log("bulkhead: one\r\n");
    assert_eq!(desk.look(), "bulkhead: one\r\n");
    desk.type_all(b"\x1dstop w");
    desk.look();
    desk.log("bulkhead: two\r\n");
    assert_eq!(desk.look(), "\r\x1b[Kbulkhead: two\r\nbulkhead> stop w");
    desk.type_all(b"eb\r");
    assert_eq!(desk.commands, ["stop web"]);
}

#[test]
fn log_lines_within_an_answer_do_not_prompt() {
    let mut mux = Mux::new(names());
    let mut shown = Vec::new();
    let mut sink = |bytes: &[u8]| shown.extend_from_slice(bytes);
    for byte in *b"\x1dlist" {
        assert_eq!(mux.typed(byte, &mut sink), Routing::Nothing);
    }
    assert!(matches!(
        mux.typed(b'\r', &mut sink),
        Routing::Command(Ok(_))
    ));
    mux.before_log(&mut sink);
    mux.after_log(&mut sink);
    assert_eq!(mux.typed(b'x', &mut sink), Routing::Nothing);
    mux.answered(&mut sink);
    assert_eq!(shown, b"bulkhead> list\r\nbulkhead> ");
}

#[test]
fn a_wrong_line_is_answered_and_the_prompt_stays() {
    let mut desk = Desk::new(2);
    desk.type_all(b"\x1dswitch bd\r");
    assert_eq!(
        desk.commands,
        ["column 8: there is no VM \"bd\"; did you mean \"db\"?"]
    );
    assert!(desk.mux.prompt_is_open());
    assert_eq!(desk.mux.front(), 0);
}

#[test]
fn a_vm_that_does_not_exist_cannot_be_reached() {
    let mut mux = Mux::new(Vec::new());
    let mut sink = |_: &[u8]| {};
    assert_eq!(mux.typed(b'x', &mut sink), Routing::Nothing);
    mux.output(7, b"x", &mut sink);
    assert!(!mux.switch(0, &mut sink));
    let mut mux = Mux::new(vec![name("web")]);
    assert!(!mux.switch(1, &mut sink));
    assert_eq!(mux.front(), 0);
}
