//! What commands are answered with, as text for a person.
//!
//! A [`Reply`] borrows what it tells and displays as whole lines; composing it takes no memory. Numbers come as the
//! [event stream](crate::events) has them.

mod list;
mod memory;
mod stats;
mod table;
#[cfg(test)]
mod tests;

use core::fmt;
use core::time::Duration;

pub use list::VmRow;
pub use memory::{MemoryDump, Unreadable};
pub use stats::{MachineStats, VmStats};

use super::command::Verb;
use super::error::{CommandError, Problem};
use crate::lifecycle::{Action, Order, Refusal};

/// An answer.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// To `list`.
    List(&'a [VmRow<'a>]),
    /// To `stats` without a VM.
    Machine(MachineStats<'a>),
    /// To `stats` with one.
    Vm(VmStats<'a>),
    /// To an order that a VM's lifecycle took.
    Done {
        /// The VM's name.
        vm: &'a str,
        /// What was ordered.
        order: Order,
        /// What is being done.
        action: Action,
        /// How long the VM has for an orderly stop.
        stop_timeout: Duration,
    },
    /// To an order that it refused.
    Refused {
        /// The VM's name.
        vm: &'a str,
        /// Why.
        refusal: Refusal,
    },
    /// To `trace`.
    Trace {
        /// The VM's name.
        vm: &'a str,
        /// Whether its exits are logged.
        on: bool,
    },
    /// To `memory`.
    Memory(MemoryDump<'a>),
    /// To `memory` where nothing is shown.
    Unreadable {
        /// The VM's name.
        vm: &'a str,
        /// Why.
        why: Unreadable,
    },
    /// To `log`: this, then the lines.
    Log {
        /// How many lines there are.
        lines: u32,
        /// How many were asked for.
        wanted: u32,
    },
    /// To `help`.
    Help(Option<Verb>),
    /// To a line that is no command.
    NoCommand(&'a CommandError),
    /// To a command for a VM that is not there, where there is no line to point into.
    NoVm(&'a Problem),
}

impl fmt::Display for Reply<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(rows) => list::write(rows, f),
            Self::Machine(stats) => stats.fmt(f),
            Self::Vm(stats) => stats.fmt(f),
            Self::Done {
                vm,
                order,
                action,
                stop_timeout,
            } => {
                write!(f, "VM \"{vm}\" ")?;
                write_done(f, *order, *action, *stop_timeout)
            }
            Self::Refused { vm, refusal } => writeln!(f, "VM \"{vm}\" {refusal}"),
            Self::Trace { vm, on: true } => writeln!(f, "the exits of VM \"{vm}\" are logged"),
            Self::Trace { vm, on: false } => {
                writeln!(f, "the exits of VM \"{vm}\" are not logged")
            }
            Self::Memory(dump) => dump.fmt(f),
            Self::Unreadable { vm, why } => writeln!(f, "VM \"{vm}\" {why}"),
            Self::Log { lines, wanted } if lines < wanted => {
                writeln!(f, "the log has {lines} lines so far:")
            }
            Self::Log { lines, .. } => writeln!(f, "the last {lines} lines of the log:"),
            Self::Help(None) => write_all_help(f),
            Self::Help(Some(verb)) => writeln!(f, "{}: {}", verb.usage(), verb.summary()),
            Self::NoCommand(error) => writeln!(f, "{error}"),
            Self::NoVm(problem) => writeln!(f, "{problem}"),
        }
    }
}

fn write_done(
    f: &mut fmt::Formatter<'_>,
    order: Order,
    action: Action,
    stop_timeout: Duration,
) -> fmt::Result {
    match (action, order) {
        (Action::LoadAndRun, _) => writeln!(f, "is being started"),
        (Action::Park, _) => writeln!(f, "is paused"),
        (Action::Unpark, _) => writeln!(f, "runs again"),
        (Action::HardStop, _) => writeln!(f, "is being stopped"),
        (Action::PressPowerButton { .. }, _) => {
            let seconds = stop_timeout.as_secs();
            let then = if order == Order::Restart {
                ", and started again"
            } else {
                ""
            };
            writeln!(
                f,
                "is asked to switch itself off; it is stopped in {seconds} s if it does not{then}"
            )
        }
        (Action::Nothing, Order::Stop { .. }) => writeln!(f, "will stay stopped"),
        (Action::Nothing, _) => writeln!(f, "will be started once it has ended"),
    }
}

fn write_all_help(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for verb in Verb::ALL {
        writeln!(f, "  {:27}{}", verb.usage(), verb.summary())?;
    }
    writeln!(
        f,
        "Enter on an empty line goes back to the VM in front; Ctrl-] twice types it a Ctrl-]."
    )
}
