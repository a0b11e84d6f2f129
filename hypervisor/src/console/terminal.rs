//! The serial port as a terminal for every VM and the prompt: what is typed goes in, what guests write comes out.
//!
//! `bulkhead_core::console::Mux`, inside [`CONSOLE`], says what goes where. [`exchange`] is any CPU's; [`Terminal`] is the boot
//! CPU's alone, which never waits for a VM's devices.

use super::{CONSOLE, Console, Show};
use crate::vm::shared::{VmBus, VmShared};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_core::console::mux::Sink;
use bulkhead_core::console::{CommandError, Mux, Request, Routing};
use bulkhead_core::device::board::Devices;
use core::fmt;

/// Bytes that may wait for the serial port before guests' consoles are told to hold their own.
const BACKLOG: usize = 16 << 10;
/// Pieces of a guest's output that are moved at a look: one guest's flood leaves time for the others.
const PIECES: usize = 8;
const PIECE_BYTES: usize = 512;
/// Typed bytes that are taken at a look.
const TYPED_AT_ONCE: usize = 64;
/// Typed bytes that wait for a guest to take them: a large paste. What comes after them is thrown away: the port is always
/// read, or a guest that takes its input slowly could keep the escape key from being seen; only what is typed ahead of an answer waits there.
pub const TYPED_AHEAD: usize = 16 << 10;
const BELL: &[u8] = b"\x07";

/// Moves what a VM's guest wrote to the terminal, as far as there is room; true where nothing is left.
pub fn exchange(vm: &VmShared) -> bool {
    move_output(vm, &mut vm.devices.lock())
}

/// The same where nobody has the VM's devices; false, and nothing is done, where somebody has.
pub fn try_exchange(vm: &VmShared) -> bool {
    if vm.is_hit() {
        // Its last words may lie in the frame that is bad.
        return true;
    }
    let devices = vm.visit_devices();
    devices.is_some_and(|mut devices| move_output(vm, &mut devices))
}

/// The devices are held throughout, or two of the VM's vCPUs could change the order of what they take.
fn move_output(vm: &VmShared, devices: &mut Devices) -> bool {
    let index = usize::from(vm.id.0);
    let mut bytes = [0; PIECE_BYTES];
    for _ in 0..PIECES {
        if !CONSOLE.lock().has_room(index) {
            return false;
        }
        let count = devices.take_output(&mut bytes, &mut VmBus(vm));
        if count == 0 {
            return true;
        }
        CONSOLE
            .lock()
            .output(index, bytes.get(..count).unwrap_or_default());
    }
    false
}

impl Console {
    /// Whether output of a VM can be taken now. What is not shown at once is kept elsewhere.
    fn has_room(&self, vm: usize) -> bool {
        let shown = self.mux.as_ref().is_some_and(|mux| mux.shows(vm));
        !shown || self.serial.waiting() < BACKLOG
    }

    fn output(&mut self, vm: usize, bytes: &[u8]) {
        if let Some(mux) = &mut self.mux {
            mux.output(vm, bytes, &mut Show(&mut self.serial));
        }
    }

    /// Takes a typed byte, if there is one, to where it belongs.
    fn take_typed(&mut self) -> Option<Routing> {
        let mux = self.mux.as_mut()?;
        let byte = self.serial.receive()?;
        Some(mux.typed(byte, &mut Show(&mut self.serial)))
    }

    fn is_answering(&self) -> bool {
        self.mux.as_ref().is_some_and(Mux::is_answering)
    }
}

/// The operator's side of the terminal.
pub struct Terminal {
    vms: Vec<Seat>,
    answer: Option<Answer>,
}

/// A VM, and what was typed to it that it has no room for yet.
struct Seat {
    vm: &'static VmShared,
    typed: VecDeque<u8>,
    /// The bell rang since there was room last: once is enough, whatever is lost.
    rang: bool,
}

/// Text for the operator. Its lines end with a line feed.
#[derive(Default)]
pub struct Answer {
    text: Vec<u8>,
    shown: usize,
}

impl Answer {
    /// Adds lines that are text already, or none of them where there is no memory for all.
    pub fn add_all(&mut self, pieces: &[&[u8]]) {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if self.text.try_reserve_exact(length).is_ok() {
            for piece in pieces {
                self.text.extend_from_slice(piece);
            }
        }
    }
}

impl fmt::Write for Answer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Terminal {
    /// A terminal for `vms`, the first in front.
    #[must_use]
    pub fn new(vms: Vec<&'static VmShared>) -> Self {
        let names = vms.iter().map(|vm| vm.name.clone()).collect();
        CONSOLE.lock().mux = Some(Mux::new(names));
        let seat = |vm| Seat {
            vm,
            typed: VecDeque::with_capacity(TYPED_AHEAD),
            rang: false,
        };
        Self {
            vms: vms.into_iter().map(seat).collect(),
            answer: None,
        }
    }

    /// Feeds the serial port, and takes what was typed: to the VM in front, or to the prompt. Gives the command that was, if
    /// one was; its answer is due.
    pub fn look(&mut self) -> Option<Result<Request, CommandError>> {
        CONSOLE.lock().serial.pump();
        self.show_answer();
        let command = self.take_typed();
        for seat in &mut self.vms {
            seat.deliver();
        }
        command
    }

    /// Answers the command that was given last.
    pub fn answer(&mut self, answer: Answer) {
        self.answer = Some(answer);
        self.show_answer();
    }

    /// Forgets what was typed to a VM that starts anew.
    pub fn forget(&mut self, vm: usize) {
        if let Some(seat) = self.vms.get_mut(vm) {
            seat.typed.clear();
        }
    }

    fn take_typed(&mut self) -> Option<Result<Request, CommandError>> {
        for _ in 0..TYPED_AT_ONCE {
            let routing = {
                let mut console = CONSOLE.lock();
                // What is typed ahead of an answer waits in the port.
                if console.is_answering() {
                    return None;
                }
                console.take_typed()?
            };
            match routing {
                Routing::Nothing => {}
                Routing::ToVm { vm, byte } => self.type_to(vm, byte),
                Routing::Command(command) => return Some(command),
            }
        }
        None
    }

    fn type_to(&mut self, vm: usize, byte: u8) {
        let Some(seat) = self.vms.get_mut(vm) else {
            return;
        };
        if seat.typed.len() < TYPED_AHEAD {
            seat.typed.push_back(byte);
            seat.rang = false;
        } else if !core::mem::replace(&mut seat.rang, true) {
            Show(&mut CONSOLE.lock().serial).show(BELL);
        }
    }

    /// Shows as many lines of the answer as there is room for; after the last one the prompt comes back.
    fn show_answer(&mut self) {
        let Some(answer) = &mut self.answer else {
            return;
        };
        let mut guard = CONSOLE.lock();
        let console = &mut *guard;
        while console.serial.waiting() < BACKLOG {
            let left = answer.text.get(answer.shown..).unwrap_or_default();
            let Some(line) = left
                .split(|byte| *byte == b'\n')
                .next()
                .filter(|_| !left.is_empty())
            else {
                self.answer = None;
                if let Some(mux) = &mut console.mux {
                    mux.answered(&mut Show(&mut console.serial));
                }
                return;
            };
            console.serial.write(line);
            console.serial.write(b"\r\n");
            answer.shown += line.len() + 1;
        }
    }
}

impl Seat {
    /// Types what waits, as far as the guest has room; nothing where somebody has the VM's devices.
    fn deliver(&mut self) {
        if self.typed.is_empty() {
            return;
        }
        let Some(mut devices) = self.vm.visit_devices() else {
            return;
        };
        for _ in 0..PIECE_BYTES {
            let Some(byte) = self.typed.front() else {
                return;
            };
            if !devices.push_input(*byte, &mut VmBus(self.vm)) {
                return;
            }
            self.typed.pop_front();
        }
    }
}
