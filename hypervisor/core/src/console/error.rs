//! What is wrong with a line: where, what stands there, and what should.

use alloc::string::String;
use core::fmt;

use super::command::{MAX_LOG_LINES, Verb};
use crate::manifest::VmName;
use crate::manifest::name::{MAX_LENGTH, NameFault};

/// Characters of a wrong word that are repeated.
const EXCERPT: usize = 40;

/// A line that is no command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandError {
    /// The character that the problem begins at, from 1.
    pub column: usize,
    /// What it is.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// There is no word at all.
    Empty,
    /// No command begins so.
    UnknownCommand {
        /// The word.
        word: String,
        /// What was probably meant.
        nearest: Option<Verb>,
    },
    /// The VM's name is missing.
    Missing {
        /// The command.
        verb: Verb,
    },
    /// A word too many.
    Stray {
        /// The command.
        verb: Verb,
        /// The word.
        word: String,
    },
    /// A word other than those that can stand here.
    UnknownWord {
        /// The command.
        verb: Verb,
        /// The word.
        word: String,
        /// What was probably meant.
        nearest: Option<&'static str>,
    },
    /// No VM can have that name.
    NotAName {
        /// The word.
        word: String,
        /// The rule it breaks.
        fault: NameFault,
    },
    /// No VM has that name.
    UnknownVm {
        /// The name.
        name: VmName,
        /// The VM that was probably meant.
        nearest: Option<VmName>,
    },
    /// Not a number of log lines.
    NotACount {
        /// The word.
        word: String,
    },
    /// Not an address in a VM's memory.
    NotAnAddress {
        /// The word; empty where there is none.
        word: String,
    },
    /// Not a number of bytes that the page at the address has left.
    NotInPage {
        /// The word.
        word: String,
        /// The most that can be asked for there.
        most: u32,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.problem)
    }
}

impl core::error::Error for CommandError {}

impl core::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there is no command; `help` lists them"),
            Self::UnknownCommand { word, nearest } => {
                write!(f, "there is no command {word:?}; ")?;
                match nearest {
                    Some(verb) => write!(f, "did you mean `{verb}`?"),
                    None => f.write_str("`help` lists them"),
                }
            }
            Self::Missing { verb } => {
                write!(
                    f,
                    "the name of a VM is missing: `{}`; `list` shows the names",
                    verb.usage()
                )
            }
            Self::Stray { verb, word } => {
                write!(f, "{word:?} is one word too many: `{}`", verb.usage())
            }
            Self::UnknownWord {
                verb,
                word,
                nearest,
            } => {
                write!(f, "{word:?} cannot stand here: `{}`", verb.usage())?;
                match nearest {
                    Some(choice) => write!(f, "; did you mean `{choice}`?"),
                    None => Ok(()),
                }
            }
            Self::NotAName { word, fault } => {
                write!(f, "no VM can be called {word:?}: ")?;
                match fault {
                    NameFault::Empty => f.write_str("it is empty"),
                    NameFault::TooLong => write!(f, "a name has at most {MAX_LENGTH} characters"),
                    NameFault::Character(stray) => {
                        write!(f, "the character {stray:?} cannot stand where it does")
                    }
                }?;
                f.write_str("; `list` shows the names")
            }
            Self::UnknownVm { name, nearest } => {
                write!(f, "there is no VM \"{name}\"; ")?;
                match nearest {
                    Some(near) => write!(f, "did you mean \"{near}\"?"),
                    None => f.write_str("`list` shows their names"),
                }
            }
            Self::NotACount { word } => {
                write!(
                    f,
                    "{word:?} is no number of lines from 1 to {MAX_LOG_LINES}"
                )
            }
            Self::NotAnAddress { word } => write!(
                f,
                "{word:?} is no guest-physical address: `{}`, with ADDRESS in hexadecimal after 0x",
                Verb::Memory.usage()
            ),
            Self::NotInPage { word, most } => write!(
                f,
                "{word:?} is no number of bytes from 1 to {most}, which is what can be shown of the page from there"
            ),
        }
    }
}

/// The beginning of a word that is wrong, which may be as long as a line.
pub(super) fn excerpt(word: &str) -> String {
    word.chars().take(EXCERPT).collect()
}
