//! Programs that a scenario calls, above all `cargo xtask`: bounded in time, output kept, nothing left behind.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::error::IoContext;
use xtask::tie;

use crate::context::Context;
use crate::outcome::{Failure, Outcome};

const TICK: Duration = Duration::from_millis(50);
/// How long a program may take to clean up after itself.
const GRACE: Duration = Duration::from_secs(10);

/// A program that ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
    /// How long it took.
    pub took: Duration,
}

impl Finished {
    /// Fails unless the exit code is `code`.
    pub fn ensure_code(&self, code: i32) -> Outcome {
        crate::outcome::ensure(self.code == Some(code), || {
            format!(
                "the exit code is {:?}, not {code}; its last words:\n{}\n{}",
                self.code,
                xtask::exec::tail(&self.output, 15),
                xtask::exec::tail(&self.errors, 15)
            )
        })
    }
}

/// A program under way; ended when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
}

impl Context<'_> {
    /// `cargo xtask ARGUMENTS`, with the hypervisor under test where the subcommand takes one.
    pub fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.lab.xtask);
        command
            .current_dir(self.lab.workspace.root())
            .args(arguments);
        if matches!(arguments.first(), Some(&("run" | "image" | "bench"))) {
            command.arg("--efi").arg(&self.lab.efi);
        }
        command
    }

    /// Starts `command`, its output going to `PART.out` and `PART.err` in the scenario's directory.
    pub fn spawn(&self, part: &str, mut command: Command) -> Outcome<Running> {
        let dir = self.dir()?;
        tie::to_parent(&mut command, Signal::SIGTERM);
        let create = |path: &Path| File::create(path).context("create", path);
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&dir.join(format!("{part}.out")))?)
            .stderr(create(&dir.join(format!("{part}.err")))?)
            .spawn()
            .context("start", Path::new(command.get_program()))?;
        Ok(Running {
            child,
            started: Instant::now(),
        })
    }

    /// Runs `command` to its end.
    pub fn run(&self, part: &str, command: Command) -> Outcome<Finished> {
        let running = self.spawn(part, command)?;
        self.finish(part, running)
    }

    /// Waits for the end of what was started as `part`.
    pub fn finish(&self, part: &str, mut running: Running) -> Outcome<Finished> {
        let dir = self.dir()?;
        let read = |path: &Path| {
            let bytes = fs::read(path).context("read", path)?;
            Ok::<_, Failure>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let limit = self.left();
        let status = running.wait(limit, || self.interrupted.load(Ordering::Relaxed))?;
        let (output, errors) = (
            read(&dir.join(format!("{part}.out")))?,
            read(&dir.join(format!("{part}.err")))?,
        );
        let Some(code) = status else {
            return Err(Failure::Unmet(format!(
                "`{part}` did not end in time; its last words:\n{}",
                xtask::exec::tail(&errors, 15)
            )));
        };
        Ok(Finished {
            code,
            output,
            errors,
            took: running.started.elapsed(),
        })
    }
}

impl Running {
    /// Sends it `signal`.
    pub fn signal(&self, signal: Signal) -> Outcome {
        let pid = i32::try_from(self.child.id()).unwrap_or(i32::MAX);
        kill(Pid::from_raw(pid), signal)
            .map_err(|error| Failure::Unmet(format!("cannot signal the program: {error}")))
    }

    /// Waits for its end: `None` when it runs after `limit`, else its exit code, when it has one.
    fn wait(
        &mut self,
        limit: Duration,
        interrupted: impl Fn() -> bool,
    ) -> Outcome<Option<Option<i32>>> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self
                .child
                .try_wait()
                .map_err(|error| Failure::Unmet(format!("cannot watch the program: {error}")))?;
            match ended {
                Some(status) => return Ok(Some(status.code())),
                None if interrupted() => return Err(xtask::Error::Interrupted.into()),
                None if Instant::now() >= deadline => return Ok(None),
                None => std::thread::sleep(TICK),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The tool ends its emulator when asked to end; SIGKILL is for one that does not listen.
        let never = || false;
        if matches!(self.wait(Duration::ZERO, never), Ok(None)) {
            let _ = self.signal(Signal::SIGTERM);
            if !matches!(self.wait(GRACE, never), Ok(Some(_))) {
                let _ = self.child.kill();
            }
            let _ = self.child.wait();
        }
    }
}

/// The command lines of running emulators whose machine has its files in `dir`.
pub fn emulators_of(dir: &Path) -> Vec<String> {
    let signs = ["bochsrc", "boot.img"].map(|file| dir.join(file).display().to_string());
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok())
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| signs.iter().any(|sign| line.contains(sign)))
        .collect()
}
