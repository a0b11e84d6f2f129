//! The TPM of a running machine: swtpm as a process of its own, which ends with the session.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::TICK;
use super::process::Process;
use crate::error::{Error, IoContext, Result};
use crate::exec;
use crate::paths::{Workspace, create_dir, fresh_dir};
use crate::platform::Machine;
use crate::platform::equipment::TpmState;
use crate::provision::swtpm::Swtpm;

/// How long swtpm may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Lines of its log that an error repeats.
const TAIL_LINES: usize = 15;

/// Starts the TPM of `machine`, if it has one.
///
/// # Errors
/// When swtpm cannot be had, or does not listen in time.
pub(super) fn start(workspace: &Workspace, machine: &Machine) -> Result<Option<Process>> {
    let Some(state) = machine.equipment.tpm else {
        return Ok(None);
    };
    let swtpm = Swtpm::provision(workspace)?;
    let dir = machine.tpm_state();
    match state {
        TpmState::New => fresh_dir(dir.clone())?,
        TpmState::Kept => create_dir(dir.clone())?,
    };
    let socket = machine.dir.join(Machine::TPM_SOCKET);
    if socket.exists() {
        fs::remove_file(&socket).context("remove", &socket)?;
    }
    let log = machine.dir.join("tpm.log");
    let mut command = swtpm.command(&dir, Machine::TPM_SOCKET.as_ref());
    command.current_dir(&machine.dir);
    let mut process = Process::start(command, &log)?;
    let deadline = Instant::now() + START_LIMIT;
    while !socket.exists() {
        if process.ended()?.is_some() || Instant::now() >= deadline {
            let said = fs::read_to_string(&log).unwrap_or_default();
            return Err(Error::Run(format!(
                "swtpm did not start:\n{}",
                exec::tail(&said, TAIL_LINES)
            )));
        }
        thread::sleep(TICK);
    }
    Ok(Some(process))
}
