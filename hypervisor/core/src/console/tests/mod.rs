//! The commands in both their forms, and the terminal, by example and under a million hostile inputs.

mod command;
mod hostile;
mod mux;
mod wire;

use super::command::Command;
use super::range::MemoryRange;
use crate::addr::Gpa;
use crate::manifest::VmName;

/// A generator of numbers that look random and are the same every time (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

fn name(text: &str) -> VmName {
    VmName::parse(text).unwrap()
}

fn names() -> Vec<VmName> {
    ["web", "db", "bare-metal"].map(name).into()
}

/// Every kind of command, with each choice that it has.
fn commands() -> Vec<Command> {
    let vm = || name("web");
    let mut commands = vec![
        Command::List,
        Command::Stats { vm: None },
        Command::Stats { vm: Some(vm()) },
        Command::Start { vm: vm() },
        Command::Stop {
            vm: vm(),
            hard: false,
        },
        Command::Stop {
            vm: name(&"n".repeat(32)),
            hard: true,
        },
        Command::Pause { vm: vm() },
        Command::Resume { vm: vm() },
        Command::Restart { vm: vm() },
        Command::Log { lines: 1 },
        Command::Log { lines: 1000 },
        Command::Switch { vm: vm() },
        Command::Help { topic: None },
    ];
    for (gpa, bytes) in [(0, 1), (0x12_3456_7f00, 256), (u64::MAX, 1)] {
        commands.extend(
            MemoryRange::new(Gpa(gpa), bytes).map(|range| Command::Memory { vm: vm(), range }),
        );
    }
    commands.extend([None, Some(false), Some(true)].map(|on| Command::Trace { vm: vm(), on }));
    commands.extend(super::Verb::ALL.map(|verb| Command::Help { topic: Some(verb) }));
    commands
}
