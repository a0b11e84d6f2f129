//! A command together with the VM that it is about: what the shell carries out.

use super::command::Command;
use super::error::{CommandError, Problem};
use crate::manifest::VmName;
use crate::manifest::suggest::nearest;

/// A command whose VM, where it names one, exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The command.
    pub command: Command,
    /// The index, in the manifest, of the VM that it names.
    pub vm: Option<usize>,
}

impl Request {
    /// Reads a line; `names` are the VMs, by index.
    ///
    /// # Errors
    /// The line is no command, or is about a VM that does not exist.
    pub fn parse(line: &str, names: &[VmName]) -> Result<Self, CommandError> {
        let command = Command::parse(line)?;
        Self::new(command, names).map_err(|problem| CommandError {
            column: Command::column_of_vm(line),
            problem,
        })
    }

    /// Looks for the VM that `command` names.
    ///
    /// # Errors
    /// There is none.
    pub fn new(command: Command, names: &[VmName]) -> Result<Self, Problem> {
        let Some(wanted) = command.vm() else {
            return Ok(Self { command, vm: None });
        };
        if let Some(index) = names.iter().position(|name| name == wanted) {
            return Ok(Self {
                command,
                vm: Some(index),
            });
        }
        let meant = nearest(wanted.as_str(), &mut names.iter().map(VmName::as_str));
        Err(Problem::UnknownVm {
            name: wanted.clone(),
            nearest: names
                .iter()
                .find(|name| Some(name.as_str()) == meant)
                .cloned(),
        })
    }
}
