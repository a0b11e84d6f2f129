//! The words of a line that was typed, read one after the other as what a command takes.
//!
//! [`Command`](super::Command) says which; what is none of it is a [`CommandError`] with the word's place.

use alloc::string::String;

use super::command::{MAX_LOG_LINES, Verb};
use super::error::{CommandError, Problem, excerpt};
use super::range::MemoryRange;
use crate::addr::Gpa;
use crate::manifest::VmName;
use crate::manifest::suggest::nearest;

/// The words of a line, each with its column.
pub(super) struct Words<'l> {
    left: &'l str,
    /// Characters before `left`.
    before: usize,
}

impl<'l> Words<'l> {
    pub(super) const fn new(line: &'l str) -> Self {
        Self {
            left: line,
            before: 0,
        }
    }

    pub(super) fn next(&mut self) -> Option<Word<'l>> {
        let trimmed = self.left.trim_start();
        let spaces = self.left.chars().count() - trimmed.chars().count();
        let (text, left) = trimmed
            .find(char::is_whitespace)
            .map_or((trimmed, ""), |end| trimmed.split_at(end));
        let column = self.before + spaces + 1;
        self.before += spaces + text.chars().count();
        self.left = left;
        (!text.is_empty()).then_some(Word { text, column })
    }

    pub(super) fn vm(&mut self, verb: Verb) -> Result<VmName, CommandError> {
        let column = self.before + 2;
        self.next()
            .ok_or(CommandError {
                column,
                problem: Problem::Missing { verb },
            })?
            .name()
    }

    /// An address and, where it follows, a number of bytes.
    pub(super) fn range(&mut self) -> Result<MemoryRange, CommandError> {
        let column = self.before + 2;
        let gpa = self.next().map_or_else(
            || {
                Err(CommandError {
                    column,
                    problem: Problem::NotAnAddress {
                        word: String::new(),
                    },
                })
            },
            Word::address,
        )?;
        self.next()
            .map_or(Ok(MemoryRange::at(gpa)), |word| word.range_at(gpa))
    }

    /// One of a few words, or none.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        verb: Verb,
        choices: &[(&'static str, T)],
    ) -> Result<Option<T>, CommandError> {
        let Some(word) = self.next() else {
            return Ok(None);
        };
        let found = choices.iter().find(|(choice, _)| *choice == word.text);
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            word.wrong(Problem::UnknownWord {
                verb,
                word: excerpt(word.text),
                nearest: nearest(word.text, &mut choices.iter().map(|(choice, _)| *choice)),
            })
        })
    }
}

/// A word of a line.
pub(super) struct Word<'l> {
    pub(super) text: &'l str,
    /// Where it begins, from 1.
    pub(super) column: usize,
}

impl Word<'_> {
    pub(super) fn name(self) -> Result<VmName, CommandError> {
        VmName::parse(self.text).map_err(|fault| {
            self.wrong(Problem::NotAName {
                word: excerpt(self.text),
                fault,
            })
        })
    }

    pub(super) fn lines(self) -> Result<u32, CommandError> {
        self.count()
            .filter(|count| (1..=MAX_LOG_LINES).contains(count))
            .ok_or_else(|| {
                self.wrong(Problem::NotACount {
                    word: excerpt(self.text),
                })
            })
    }

    /// A number without a sign, which `u32::from_str` would take.
    fn count(&self) -> Option<u32> {
        let digits = self.text.bytes().all(|byte| byte.is_ascii_digit());
        self.text.parse().ok().filter(|_| digits)
    }

    /// Hexadecimal digits after `0x`.
    fn address(self) -> Result<Gpa, CommandError> {
        self.text
            .strip_prefix("0x")
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Gpa)
            .ok_or_else(|| {
                self.wrong(Problem::NotAnAddress {
                    word: excerpt(self.text),
                })
            })
    }

    fn range_at(self, gpa: Gpa) -> Result<MemoryRange, CommandError> {
        self.count()
            .and_then(|bytes| MemoryRange::new(gpa, bytes))
            .ok_or_else(|| {
                self.wrong(Problem::NotInPage {
                    word: excerpt(self.text),
                    most: MemoryRange::most_at(gpa),
                })
            })
    }

    pub(super) const fn wrong(&self, problem: Problem) -> CommandError {
        CommandError {
            column: self.column,
            problem,
        }
    }
}
