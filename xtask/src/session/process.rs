//! The emulator's process: a group of its own, killed on every way out.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::{Error, IoContext, Result};
use crate::{exec, tie};

/// A running emulator; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output going to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command, log: &std::path::Path) -> Result<Self> {
        let out = File::create(log).context("create", log)?;
        let errors = out.try_clone().context("open", log)?;
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .process_group(0);
        // Not even SIGKILL to this process leaves an emulator behind.
        tie::to_parent(&mut command, Signal::SIGKILL);
        let child = command.spawn().map_err(|e| {
            exec::not_started(
                &command,
                &e,
                "delete target/cache to provision the emulator again",
            )
        })?;
        Ok(Self {
            child,
            status: None,
        })
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let lost = |e| Error::Run(format!("cannot watch the emulator: {e}"));
            self.status = self.child.try_wait().map_err(lost)?;
        }
        Ok(self.status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.child.id()) {
            // Fails when every member has ended already.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 100 & echo $!; wait"]);
        let process = Process::start(command, &log).unwrap();
        let grandchild = loop {
            if let Ok(pid) = std::fs::read_to_string(&log).unwrap().trim().parse::<i32>() {
                break Pid::from_raw(pid);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        drop(process);
        let gone = (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            let state =
                std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        });
        assert!(gone);
    }
}
