//! Who is typed to and who is shown: one terminal for all VMs and the prompt.
//!
//! [`Mux::typed`] takes each byte that arrives and answers with a [`Routing`]; [`Mux::output`] takes what a VM writes. What
//! the terminal is to show is given to a [`Sink`]. The VM in front writes straight through; the others, and all of them while
//! the prompt is open, write into a backlog that is shown when they come to the front. The memory for all of it is taken once.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use super::backlog::Backlog;
use super::error::CommandError;
use super::line::{Edit, Line};
use super::request::Request;
use crate::manifest::VmName;

/// Ctrl-], which opens the prompt.
pub const ESCAPE_KEY: u8 = 0x1d;
/// What the prompt says.
pub const PROMPT: &str = "bulkhead> ";

/// Moves to the start of the line and erases it (ECMA-48, "EL - ERASE IN LINE").
const ERASE_LINE: &[u8] = b"\r\x1b[K";
const BELL: &[u8] = b"\x07";

/// What shows bytes on the terminal.
pub trait Sink {
    /// Shows them, as they are.
    fn show(&mut self, bytes: &[u8]);
}

impl<F: FnMut(&[u8])> Sink for F {
    fn show(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}

/// What becomes of a typed byte.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Routing {
    /// Nothing further.
    Nothing,
    /// It is typed to a VM.
    ToVm {
        /// The VM's index.
        vm: usize,
        /// The byte.
        byte: u8,
    },
    /// It ended a line. Show the answer, its last line ended too, then call [`Mux::answered`].
    Command(Result<Request, CommandError>),
}

/// The terminal's state. VMs are known by their index in the manifest.
#[derive(Debug)]
pub struct Mux {
    names: Vec<VmName>,
    backlogs: Vec<Backlog>,
    front: usize,
    prompt: Prompt,
    line: Line,
    /// The terminal's cursor is in the first column, as far as is known.
    fresh_line: bool,
    /// A line feed now belongs to the carriage return before it.
    after_return: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Prompt {
    Closed,
    /// Open, and nothing was typed since.
    Opened,
    Open,
    /// Open, and the answer to a command is being shown.
    Answering,
}

impl Mux {
    /// A terminal for the VMs called `names`, the first in front.
    #[must_use]
    pub fn new(names: Vec<VmName>) -> Self {
        let backlogs = names.iter().map(|_| Backlog::new()).collect();
        Self {
            names,
            backlogs,
            front: 0,
            prompt: Prompt::Closed,
            line: Line::new(),
            fresh_line: true,
            after_return: false,
        }
    }

    /// The VMs' names, by index.
    #[must_use]
    pub fn names(&self) -> &[VmName] {
        &self.names
    }

    /// The index of the VM in front.
    #[must_use]
    pub const fn front(&self) -> usize {
        self.front
    }

    /// Whether what is typed goes to the prompt.
    #[must_use]
    pub fn prompt_is_open(&self) -> bool {
        self.prompt != Prompt::Closed
    }

    /// Whether a command was given whose answer is still to be shown.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.prompt == Prompt::Answering
    }

    /// What was typed at the prompt: until the answer was shown, the command.
    #[must_use]
    pub fn line(&self) -> &str {
        self.line.text()
    }

    /// Whether what a VM writes is shown at once.
    #[must_use]
    pub fn shows(&self, vm: usize) -> bool {
        vm == self.front && self.prompt == Prompt::Closed
    }

    /// How many bytes of a VM's output are kept unseen, and how many were lost.
    #[cfg(test)]
    pub(super) fn unseen(&self, vm: usize) -> (usize, u64) {
        self.backlogs.get(vm).map_or((0, 0), Backlog::size)
    }

    /// A byte was typed.
    pub fn typed(&mut self, byte: u8, sink: &mut impl Sink) -> Routing {
        let after_return = core::mem::replace(&mut self.after_return, false);
        if after_return && byte == b'\n' {
            return Routing::Nothing;
        }
        match self.prompt {
            Prompt::Closed if byte == ESCAPE_KEY => {
                self.open(sink);
                Routing::Nothing
            }
            Prompt::Closed => self.to_front(byte),
            Prompt::Opened if byte == ESCAPE_KEY => {
                self.close(sink);
                self.to_front(byte)
            }
            Prompt::Open | Prompt::Answering if byte == ESCAPE_KEY => {
                self.close(sink);
                Routing::Nothing
            }
            Prompt::Answering => Routing::Nothing,
            Prompt::Opened | Prompt::Open => {
                self.prompt = Prompt::Open;
                self.after_return = byte == b'\r';
                self.edit(byte, sink)
            }
        }
    }

    /// The answer to a command was shown: prompts for the next one, unless the command closed the prompt.
    pub fn answered(&mut self, sink: &mut impl Sink) {
        if self.prompt == Prompt::Answering {
            self.prompt = Prompt::Open;
            self.line.clear();
            self.show(PROMPT.as_bytes(), sink);
        }
    }

    /// Brings a VM to the front, closes the prompt and shows what the VM wrote unseen. False where there is no such VM.
    pub fn switch(&mut self, vm: usize, sink: &mut impl Sink) -> bool {
        let Some(name) = self.names.get(vm) else {
            return false;
        };
        self.front = vm;
        let mut text = Text {
            fresh_line: &mut self.fresh_line,
            sink,
        };
        // A sink takes everything.
        let _ = text.begin_line().and_then(|()| {
            write!(
                text,
                "[console of VM \"{name}\"; Ctrl-] opens the prompt]\r\n"
            )
        });
        self.close(sink);
        true
    }

    /// A VM wrote `bytes`.
    pub fn output(&mut self, vm: usize, bytes: &[u8], sink: &mut impl Sink) {
        if self.shows(vm) {
            self.show(bytes, sink);
        } else if let Some(backlog) = self.backlogs.get_mut(vm) {
            backlog.push(bytes);
        }
    }

    /// A log line is about to be shown: takes the line being typed away.
    pub fn before_log(&mut self, sink: &mut impl Sink) {
        if self.line_is_shown() {
            self.show(ERASE_LINE, sink);
        }
    }

    /// A log line was shown: shows the line being typed again.
    pub fn after_log(&mut self, sink: &mut impl Sink) {
        self.fresh_line = true;
        if self.line_is_shown() {
            self.show(PROMPT.as_bytes(), sink);
            sink.show(self.line.text().as_bytes());
        }
    }

    fn line_is_shown(&self) -> bool {
        matches!(self.prompt, Prompt::Opened | Prompt::Open)
    }

    fn to_front(&self, byte: u8) -> Routing {
        if self.front < self.names.len() {
            Routing::ToVm {
                vm: self.front,
                byte,
            }
        } else {
            Routing::Nothing
        }
    }

    fn open(&mut self, sink: &mut impl Sink) {
        self.prompt = Prompt::Opened;
        self.line.clear();
        if !self.fresh_line {
            self.show(b"\r\n", sink);
        }
        self.show(PROMPT.as_bytes(), sink);
    }

    /// Leaves the prompt, if it is open, and shows what the VM in front wrote unseen.
    fn close(&mut self, sink: &mut impl Sink) {
        self.prompt = Prompt::Closed;
        self.line.clear();
        let Some(backlog) = self.backlogs.get_mut(self.front) else {
            return;
        };
        let mut text = Text {
            fresh_line: &mut self.fresh_line,
            sink,
        };
        let (_, lost) = backlog.size();
        let _ = text.begin_line();
        if lost > 0 {
            let _ = write!(text, "[{lost} bytes of output were lost]\r\n");
        }
        for piece in backlog.pieces() {
            text.show(piece);
        }
        backlog.clear();
    }

    fn edit(&mut self, byte: u8, sink: &mut impl Sink) -> Routing {
        match self.line.typed(byte) {
            Edit::Nothing => {}
            Edit::Full => sink.show(BELL),
            Edit::Added => self.show(&[byte], sink),
            Edit::Erased(count) => (0..count).for_each(|_| sink.show(b"\x08 \x08")),
            Edit::Enter => return self.enter(sink),
            Edit::Interrupt if self.line.text().is_empty() => self.close(sink),
            Edit::Interrupt => {
                self.line.clear();
                self.show(b"^C\r\n", sink);
                self.show(PROMPT.as_bytes(), sink);
            }
        }
        Routing::Nothing
    }

    fn enter(&mut self, sink: &mut impl Sink) -> Routing {
        if self.line.text().trim().is_empty() {
            self.close(sink);
            return Routing::Nothing;
        }
        self.show(b"\r\n", sink);
        let request = Request::parse(self.line.text(), &self.names);
        self.prompt = Prompt::Answering;
        Routing::Command(request)
    }

    fn show(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        Text {
            fresh_line: &mut self.fresh_line,
            sink,
        }
        .show(bytes);
    }
}

/// Shows text, and remembers whether it ended its line.
struct Text<'a, S: Sink> {
    fresh_line: &'a mut bool,
    sink: &'a mut S,
}

impl<S: Sink> Text<'_, S> {
    fn show(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            *self.fresh_line = *last == b'\n';
            self.sink.show(bytes);
        }
    }

    fn begin_line(&mut self) -> fmt::Result {
        if *self.fresh_line {
            Ok(())
        } else {
            self.write_str("\r\n")
        }
    }
}

impl<S: Sink> Write for Text<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.show(text.as_bytes());
        Ok(())
    }
}
