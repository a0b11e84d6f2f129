//! The commands as bytes, for a transport that carries no lines.
//!
//! A frame is the length of what follows it, as a little-endian `u16`; the version of this format; the command's code;
//! its operands. A name is its length in one byte and its characters; a number is a little-endian `u32`, an address a
//! little-endian `u64`; a choice is one byte. Every command has exactly one frame and every frame that is accepted is the frame of its command.
//!
//! | code | command | operands |
//! |---|---|---|
//! | 1 | `list` | |
//! | 2 | `stats` | name; empty for the machine |
//! | 3 | `start` | name |
//! | 4 | `stop` | name; 0, or 1 for `hard` |
//! | 5 | `pause` | name |
//! | 6 | `resume` | name |
//! | 7 | `restart` | name |
//! | 8 | `log` | number of lines |
//! | 9 | `switch` | name |
//! | 10 | `trace` | name; 0 to ask, 1 for `off`, 2 for `on` |
//! | 11 | `help` | a code of this table; 0 for all |
//! | 12 | `memory` | name; address; number of bytes |

use core::fmt;

use super::command::{Command, MAX_LOG_LINES, Verb};
use super::range::MemoryRange;
use crate::addr::Gpa;
use crate::manifest::VmName;
use crate::manifest::name::MAX_LENGTH;

/// The version of the format.
pub const VERSION: u8 = 1;
/// The longest frame: length, version, code, a name, an address, a number.
pub const MAX_FRAME: usize = 2 + 2 + 1 + MAX_LENGTH + 8 + 4;

/// A command's frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    bytes: [u8; MAX_FRAME],
    length: usize,
}

/// Why bytes are no frame. After any but [`WireError::Incomplete`] the two ends disagree: give the connection up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// The frame goes on: it has this many bytes in all, as far as can be told.
    Incomplete {
        /// How many.
        needed: usize,
    },
    /// No frame is so long or so short.
    Length(u16),
    /// Another version of the format.
    Version(u8),
    /// No command has the code.
    Code(u8),
    /// The operands end too early.
    Short,
    /// Bytes follow the last operand.
    Long,
    /// The name is none.
    Name,
    /// An operand that has no such value.
    Operand(u32),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete { needed } => {
                write!(f, "the frame goes on: wait until there are {needed} bytes")
            }
            Self::Length(length) => write!(
                f,
                "the frame says it is {length} bytes long; a command has 2 to {}",
                MAX_FRAME - 2
            ),
            Self::Version(version) => write!(
                f,
                "the frame is of version {version}; this release speaks {VERSION}"
            ),
            Self::Code(code) => write!(f, "no command has the code {code}"),
            Self::Short => f.write_str("the frame ends within an operand"),
            Self::Long => f.write_str("bytes follow the frame's last operand"),
            Self::Name => f.write_str("an operand is no VM's name: send it as the manifest has it"),
            Self::Operand(value) => write!(f, "an operand cannot be {value}"),
        }
    }
}

impl core::error::Error for WireError {}

impl Frame {
    /// The frame of `command`.
    #[must_use]
    pub fn of(command: &Command) -> Self {
        let mut frame = Self {
            bytes: [0; MAX_FRAME],
            length: 2,
        };
        frame.put(&[VERSION, code_of(command.verb())]);
        match command {
            Command::List => {}
            Command::Stats { vm } => frame.put_name(vm.as_ref().map_or("", VmName::as_str)),
            Command::Start { vm }
            | Command::Pause { vm }
            | Command::Resume { vm }
            | Command::Restart { vm }
            | Command::Switch { vm } => frame.put_name(vm.as_str()),
            Command::Stop { vm, hard } => {
                frame.put_name(vm.as_str());
                frame.put(&[u8::from(*hard)]);
            }
            Command::Log { lines } => frame.put(&lines.to_le_bytes()),
            Command::Trace { vm, on } => {
                frame.put_name(vm.as_str());
                frame.put(&[on.map_or(0, |on| 1 + u8::from(on))]);
            }
            Command::Help { topic } => frame.put(&[topic.map_or(0, code_of)]),
            Command::Memory { vm, range } => {
                frame.put_name(vm.as_str());
                frame.put(&range.gpa().0.to_le_bytes());
                frame.put(&range.bytes().to_le_bytes());
            }
        }
        let [first, second, ..] = &mut frame.bytes;
        [*first, *second] = ((frame.length - 2) as u16).to_le_bytes();
        frame
    }

    /// The bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// [`MAX_FRAME`] is the longest command's length: nothing is ever cut off.
    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }

    fn put_name(&mut self, name: &str) {
        self.put(&[name.len() as u8]);
        self.put(name.as_bytes());
    }
}

/// Reads the frame that `bytes` begin with, and says how many of them it was.
///
/// # Errors
/// More bytes are needed, or these are no frame.
pub fn decode(bytes: &[u8]) -> Result<(Command, usize), WireError> {
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Err(WireError::Incomplete { needed: 2 });
    };
    let length = u16::from_le_bytes(*length);
    let body = usize::from(length);
    if !(2..=MAX_FRAME - 2).contains(&body) {
        return Err(WireError::Length(length));
    }
    let mut operands = Operands(
        rest.get(..body)
            .ok_or(WireError::Incomplete { needed: 2 + body })?,
    );
    let version = operands.byte()?;
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let code = operands.byte()?;
    let verb = verb_of(code).ok_or(WireError::Code(code))?;
    let command = operands.command(verb)?;
    if operands.0.is_empty() {
        Ok((command, 2 + body))
    } else {
        Err(WireError::Long)
    }
}

/// The code of `verb`: its place in [`Verb::ALL`], from 1. A new verb is added at the end.
fn code_of(verb: Verb) -> u8 {
    let index = Verb::ALL.iter().position(|known| *known == verb);
    index.map_or(0, |index| index as u8 + 1)
}

fn verb_of(code: u8) -> Option<Verb> {
    let index = usize::from(code).checked_sub(1)?;
    Verb::ALL.get(index).copied()
}

/// What is left of a frame.
struct Operands<'b>(&'b [u8]);

impl Operands<'_> {
    fn command(&mut self, verb: Verb) -> Result<Command, WireError> {
        Ok(match verb {
            Verb::List => Command::List,
            Verb::Stats => Command::Stats {
                vm: self.optional_name()?,
            },
            Verb::Start => Command::Start { vm: self.name()? },
            Verb::Stop => Command::Stop {
                vm: self.name()?,
                hard: match self.byte()? {
                    0 => false,
                    1 => true,
                    other => return Err(WireError::Operand(other.into())),
                },
            },
            Verb::Pause => Command::Pause { vm: self.name()? },
            Verb::Resume => Command::Resume { vm: self.name()? },
            Verb::Restart => Command::Restart { vm: self.name()? },
            Verb::Log => Command::Log {
                lines: self.lines()?,
            },
            Verb::Switch => Command::Switch { vm: self.name()? },
            Verb::Trace => Command::Trace {
                vm: self.name()?,
                on: match self.byte()? {
                    0 => None,
                    1 => Some(false),
                    2 => Some(true),
                    other => return Err(WireError::Operand(other.into())),
                },
            },
            Verb::Help => Command::Help {
                topic: match self.byte()? {
                    0 => None,
                    code => Some(verb_of(code).ok_or(WireError::Code(code))?),
                },
            },
            Verb::Memory => Command::Memory {
                vm: self.name()?,
                range: self.range()?,
            },
        })
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        let (first, rest) = self.0.split_first().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn chunk<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], WireError> {
        let (chunk, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*chunk)
    }

    fn range(&mut self) -> Result<MemoryRange, WireError> {
        let gpa = Gpa(u64::from_le_bytes(self.chunk()?));
        let bytes = u32::from_le_bytes(self.chunk()?);
        MemoryRange::new(gpa, bytes).ok_or(WireError::Operand(bytes))
    }

    fn lines(&mut self) -> Result<u32, WireError> {
        let lines = u32::from_le_bytes(self.chunk()?);
        if (1..=MAX_LOG_LINES).contains(&lines) {
            Ok(lines)
        } else {
            Err(WireError::Operand(lines))
        }
    }

    fn name(&mut self) -> Result<VmName, WireError> {
        self.optional_name()?.ok_or(WireError::Name)
    }

    fn optional_name(&mut self) -> Result<Option<VmName>, WireError> {
        let length = usize::from(self.byte()?);
        let (name, rest) = self.0.split_at_checked(length).ok_or(WireError::Short)?;
        self.0 = rest;
        if name.is_empty() {
            return Ok(None);
        }
        let name = core::str::from_utf8(name).map_err(|_| WireError::Name)?;
        VmName::parse(name).map(Some).map_err(|_| WireError::Name)
    }
}
