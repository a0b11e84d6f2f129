//! The guest `secret` at the console: what it is told, and what has to come of it.

use bulkhead_core::addr::{FRAME_SIZE, Gpa};

use crate::context::{Context, Setup};
use crate::forge;
use crate::lab::SECRET;
use crate::machine::Machine;
use crate::manifest::{Group, Manifest};
use crate::outcome::Outcome;
use crate::physical::Strings;

/// Where every guest has its secret page.
pub const PAGE: Gpa = Gpa(16 << 20);
/// A page that a sweep changes.
pub const SWEPT: Gpa = Gpa(32 << 20);

/// What a VM with the guest has of it.
pub const MEMORY_BYTES: u64 = 48 << 20;

/// What a VM's memory is kept by.
pub const OFF: &str = "encryption = \"off\"";
/// Sealed when it is paused.
pub const AT_REST: &str = "encryption = \"at-rest\"";
/// Sealed but for what it used last; less than what a sweep goes through.
pub const WINDOW: &str = "encryption = \"window\"\nwindow = \"4M\"";

/// A VM with the guest `secret`.
#[derive(Debug, Clone, Copy)]
pub struct Victim {
    pub name: &'static str,
    /// What its page's content is made from.
    pub seed: u64,
}

impl Victim {
    /// Its part of the manifest, with `keys`.
    pub fn manifest(self, keys: &str) -> Manifest {
        Manifest {
            memory: "48M",
            ..Manifest::of(SECRET)
        }
        .named(self.name)
        .with_cmdline(format!("seed={:#x}", self.seed))
        .with(keys)
    }

    /// What its page holds.
    pub fn secret(self) -> Vec<u8> {
        forge::random_bytes(self.seed, FRAME_SIZE as usize)
    }

    /// Every string of its page.
    pub fn strings(self) -> Outcome<Strings> {
        Strings::of([self.secret()])
    }

    /// Waits until it has written its page.
    pub fn ready(self, machine: &mut Machine<'_>) -> Outcome {
        machine.event_of(self.name, "vm-start", 0)?;
        // What is typed before waits for it.
        self.ensure_intact(machine)
    }

    /// Has it work over so much other memory that its page is long out of use.
    pub fn sweep(self, machine: &mut Machine<'_>) -> Outcome {
        let done = self.ask(machine, "sweep", "secret: (?:swept|0x)[^\n]*\n")?;
        machine.ensure(done.contains("swept 6144 pages"), || {
            format!("VM {} says {}", self.name, done.trim())
        })
    }

    /// Has it look at all that it wrote; whether everything is there.
    pub fn is_intact(self, machine: &mut Machine<'_>) -> Outcome<bool> {
        let verdict = self.ask(machine, "check", "secret: (?:intact|FAIL)\n")?;
        Ok(verdict.contains("intact"))
    }

    /// The same; everything has to be there.
    pub fn ensure_intact(self, machine: &mut Machine<'_>) -> Outcome {
        let intact = self.is_intact(machine)?;
        machine.ensure(intact, || format!("VM {} lost something", self.name))
    }

    /// Types `command` at its console and waits for `answer`.
    pub fn ask(self, machine: &mut Machine<'_>, command: &str, answer: &str) -> Outcome<String> {
        self.tell(machine, command)?;
        machine.expect(answer)
    }

    /// Types `command` at its console.
    pub fn tell(self, machine: &mut Machine<'_>, command: &str) -> Outcome {
        machine.switch(self.name)?;
        machine.type_line(command)
    }
}

/// Starts a machine with `vms`.
pub fn start<'a>(
    context: &'a Context<'a>,
    part: &'static str,
    vms: impl Into<Vec<Manifest>>,
) -> Outcome<Machine<'a>> {
    let setup = Setup {
        part,
        ..Setup::default()
    };
    context.start(context.boot_group(&Group::of(vms))?, setup)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::physical::STRING;

    #[test]
    fn every_string_of_a_page_is_another_one() {
        let page = Victim {
            name: "victim",
            seed: 1,
        }
        .secret();
        let strings: BTreeSet<_> = page.windows(STRING).collect();
        assert_eq!(strings.len(), page.len() - STRING + 1);
    }
}
