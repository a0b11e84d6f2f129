//! The commands, read from a line of text and written as one.
//!
//! [`Command::parse`] takes any text; what it cannot read is a [`CommandError`] with the place. [`Command`] displays as the
//! line that is read as itself again. Whether there is a VM of the name, [`Request`](super::Request) asks.

use core::fmt;
use core::str::FromStr;

use super::error::{CommandError, Problem, excerpt};
use crate::lifecycle::Order;
use crate::manifest::VmName;
use crate::manifest::suggest::nearest;

/// Lines of the log that `log` shows when it is not told how many.
pub const DEFAULT_LOG_LINES: u32 = 20;
/// The most lines that `log` can be asked for.
pub const MAX_LOG_LINES: u32 = 1000;

/// The word a command begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// `list`
    List,
    /// `stats`
    Stats,
    /// `start`
    Start,
    /// `stop`
    Stop,
    /// `pause`
    Pause,
    /// `resume`
    Resume,
    /// `restart`
    Restart,
    /// `log`
    Log,
    /// `switch`
    Switch,
    /// `trace`
    Trace,
    /// `help`
    Help,
}

impl Verb {
    /// Every verb, in the order that `help` lists them.
    pub const ALL: [Self; 11] = [
        Self::List,
        Self::Stats,
        Self::Start,
        Self::Stop,
        Self::Pause,
        Self::Resume,
        Self::Restart,
        Self::Log,
        Self::Switch,
        Self::Trace,
        Self::Help,
    ];

    /// The word itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Stats => "stats",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Restart => "restart",
            Self::Log => "log",
            Self::Switch => "switch",
            Self::Trace => "trace",
            Self::Help => "help",
        }
    }

    /// How the command is written: capitals stand for something else, brackets for what can be left out.
    #[must_use]
    pub const fn usage(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Stats => "stats [VM]",
            Self::Start => "start VM",
            Self::Stop => "stop VM [hard]",
            Self::Pause => "pause VM",
            Self::Resume => "resume VM",
            Self::Restart => "restart VM",
            Self::Log => "log [LINES]",
            Self::Switch => "switch VM",
            Self::Trace => "trace VM [on|off]",
            Self::Help => "help [COMMAND]",
        }
    }

    /// What the command does, in one line.
    #[must_use]
    pub const fn summary(self) -> &'static str {
        match self {
            Self::List => "every VM with its state, its size and what it uses",
            Self::Stats => "counters of the machine, or of one VM",
            Self::Start => "start a VM that is stopped, or that is in back-off",
            Self::Stop => {
                "press a VM's power button, and stop it when its time is over; hard: stop it now"
            }
            Self::Pause => "let none of a VM's vCPUs run",
            Self::Resume => "let a paused VM run again",
            Self::Restart => "stop a VM in order, then start it",
            Self::Log => "the last lines of the hypervisor's log",
            Self::Switch => "show a VM's console, and type to it",
            Self::Trace => {
                "write a VM's exits to the log, or no more; without on or off: say which"
            }
            Self::Help => "this list, or one command",
        }
    }

    /// The verb that is spelt `word`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == word)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something an operator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Every VM with its state.
    List,
    /// Counters.
    Stats {
        /// Of this VM, or of the machine.
        vm: Option<VmName>,
    },
    /// Start a VM.
    Start {
        /// Which.
        vm: VmName,
    },
    /// Stop a VM.
    Stop {
        /// Which.
        vm: VmName,
        /// Whether it is not asked first.
        hard: bool,
    },
    /// Let no vCPU of a VM run.
    Pause {
        /// Which.
        vm: VmName,
    },
    /// Let a paused VM run again.
    Resume {
        /// Which.
        vm: VmName,
    },
    /// Stop a VM in order, then start it.
    Restart {
        /// Which.
        vm: VmName,
    },
    /// The end of the log.
    Log {
        /// How many lines of it: 1 to [`MAX_LOG_LINES`].
        lines: u32,
    },
    /// Bring a VM's console to the front.
    Switch {
        /// Which.
        vm: VmName,
    },
    /// Log a VM's exits.
    Trace {
        /// Which.
        vm: VmName,
        /// Whether to; `None` asks whether they are.
        on: Option<bool>,
    },
    /// What commands there are.
    Help {
        /// The one that is asked about.
        topic: Option<Verb>,
    },
}

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// Says which word is wrong, and what should be there.
    pub fn parse(line: &str) -> Result<Self, CommandError> {
        let mut words = Words::new(line);
        let word = words.next().ok_or(CommandError {
            column: 1,
            problem: Problem::Empty,
        })?;
        let verb = Verb::from_word(word.text).ok_or_else(|| {
            let mut known = Verb::ALL.iter().map(|verb| verb.as_str());
            word.wrong(Problem::UnknownCommand {
                word: excerpt(word.text),
                nearest: nearest(word.text, &mut known).and_then(Verb::from_word),
            })
        })?;
        let command = Self::read_arguments(verb, &mut words)?;
        match words.next() {
            None => Ok(command),
            Some(stray) => Err(stray.wrong(Problem::Stray {
                verb,
                word: excerpt(stray.text),
            })),
        }
    }

    fn read_arguments(verb: Verb, words: &mut Words<'_>) -> Result<Self, CommandError> {
        Ok(match verb {
            Verb::List => Self::List,
            Verb::Stats => Self::Stats {
                vm: words.next().map(Word::name).transpose()?,
            },
            Verb::Start => Self::Start {
                vm: words.vm(verb)?,
            },
            Verb::Stop => Self::Stop {
                vm: words.vm(verb)?,
                hard: words.one_of(verb, &[("hard", true)])?.unwrap_or(false),
            },
            Verb::Pause => Self::Pause {
                vm: words.vm(verb)?,
            },
            Verb::Resume => Self::Resume {
                vm: words.vm(verb)?,
            },
            Verb::Restart => Self::Restart {
                vm: words.vm(verb)?,
            },
            Verb::Log => Self::Log {
                lines: words.next().map_or(Ok(DEFAULT_LOG_LINES), Word::lines)?,
            },
            Verb::Switch => Self::Switch {
                vm: words.vm(verb)?,
            },
            Verb::Trace => Self::Trace {
                vm: words.vm(verb)?,
                on: words.one_of(verb, &[("on", true), ("off", false)])?,
            },
            Verb::Help => Self::Help {
                topic: words.one_of(verb, &Verb::ALL.map(|verb| (verb.as_str(), verb)))?,
            },
        })
    }

    /// The word it begins with.
    #[must_use]
    pub const fn verb(&self) -> Verb {
        match self {
            Self::List => Verb::List,
            Self::Stats { .. } => Verb::Stats,
            Self::Start { .. } => Verb::Start,
            Self::Stop { .. } => Verb::Stop,
            Self::Pause { .. } => Verb::Pause,
            Self::Resume { .. } => Verb::Resume,
            Self::Restart { .. } => Verb::Restart,
            Self::Log { .. } => Verb::Log,
            Self::Switch { .. } => Verb::Switch,
            Self::Trace { .. } => Verb::Trace,
            Self::Help { .. } => Verb::Help,
        }
    }

    /// The VM it is about, if about one.
    #[must_use]
    pub const fn vm(&self) -> Option<&VmName> {
        match self {
            Self::List | Self::Log { .. } | Self::Help { .. } => None,
            Self::Stats { vm } => vm.as_ref(),
            Self::Start { vm }
            | Self::Stop { vm, .. }
            | Self::Pause { vm }
            | Self::Resume { vm }
            | Self::Restart { vm }
            | Self::Switch { vm }
            | Self::Trace { vm, .. } => Some(vm),
        }
    }

    /// What it orders its VM's [`Lifecycle`](crate::lifecycle::Lifecycle) to do, if anything.
    #[must_use]
    pub const fn order(&self) -> Option<Order> {
        match self {
            Self::Start { .. } => Some(Order::Start),
            Self::Stop { hard, .. } => Some(Order::Stop { hard: *hard }),
            Self::Pause { .. } => Some(Order::Pause),
            Self::Resume { .. } => Some(Order::Resume),
            Self::Restart { .. } => Some(Order::Restart),
            Self::List
            | Self::Stats { .. }
            | Self::Log { .. }
            | Self::Switch { .. }
            | Self::Trace { .. }
            | Self::Help { .. } => None,
        }
    }

    /// Where a line names its VM: it is the second word of every command that has one.
    pub(super) fn column_of_vm(line: &str) -> usize {
        let mut words = Words::new(line);
        words.next();
        words.next().map_or(1, |word| word.column)
    }
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        Self::parse(line)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb().as_str())?;
        if let Some(vm) = self.vm() {
            write!(f, " {vm}")?;
        }
        match self {
            Self::Stop { hard: true, .. } => f.write_str(" hard"),
            Self::Log { lines } => write!(f, " {lines}"),
            Self::Trace { on: Some(on), .. } => f.write_str(if *on { " on" } else { " off" }),
            Self::Help { topic: Some(topic) } => write!(f, " {topic}"),
            _ => Ok(()),
        }
    }
}

/// The words of a line, each with its column.
struct Words<'l> {
    left: &'l str,
    /// Characters before `left`.
    before: usize,
}

impl<'l> Words<'l> {
    const fn new(line: &'l str) -> Self {
        Self {
            left: line,
            before: 0,
        }
    }

    fn next(&mut self) -> Option<Word<'l>> {
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

    fn vm(&mut self, verb: Verb) -> Result<VmName, CommandError> {
        let column = self.before + 2;
        self.next()
            .ok_or(CommandError {
                column,
                problem: Problem::Missing { verb },
            })?
            .name()
    }

    /// One of a few words, or none.
    fn one_of<T: Copy>(
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
struct Word<'l> {
    text: &'l str,
    /// Where it begins, from 1.
    column: usize,
}

impl Word<'_> {
    fn name(self) -> Result<VmName, CommandError> {
        VmName::parse(self.text).map_err(|fault| {
            self.wrong(Problem::NotAName {
                word: excerpt(self.text),
                fault,
            })
        })
    }

    fn lines(self) -> Result<u32, CommandError> {
        // `u32::from_str` takes a sign, which a count has not.
        let digits = self.text.bytes().all(|byte| byte.is_ascii_digit());
        let count = self.text.parse().ok().filter(|_| digits);
        count
            .filter(|count| (1..=MAX_LOG_LINES).contains(count))
            .ok_or_else(|| {
                self.wrong(Problem::NotACount {
                    word: excerpt(self.text),
                })
            })
    }

    const fn wrong(&self, problem: Problem) -> CommandError {
        CommandError {
            column: self.column,
            problem,
        }
    }
}
