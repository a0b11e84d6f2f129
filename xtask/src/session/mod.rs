//! A machine that runs: started, watched, typed into, and gone when the [`Session`] is dropped.
//!
//! `run` drives one for the command line; the end-to-end tests drive theirs with [`Session::expect`]
//! and [`Session::send_line`].

mod chip;
mod clean;
pub mod console;
pub mod events;
mod keys;
mod process;
pub mod prompt;
mod screen;

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;

pub use clean::Cleaner;
use console::{Console, Sink};
use events::{Event, EventLog};
pub use keys::Keys;
use process::Process;

use crate::error::{Error, IoContext, Result};
use crate::exec;
use crate::image::{self, Boot};
use crate::paths::Workspace;
use crate::platform::equipment::Equipment;
use crate::platform::{Emulator, Machine, Medium};

/// How long an emulator may take until it opens the console.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for more output before looking at everything else again.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// What the console may still say after the machine has ended.
const DRAIN: Duration = Duration::from_millis(500);
/// How long a typed line's echo may take.
const ECHO_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the console that an error repeats.
const TAIL_LINES: usize = 15;

/// How to start a session.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names the directory below `target/run`; when it is in use, a numbered one beside it is taken.
    pub name: String,
    /// The emulator.
    pub emulator: Emulator,
    /// What to boot.
    pub boot: Boot,
    /// Boot over PXE instead of from a disk.
    pub pxe: bool,
    /// Processors of the machine.
    pub cpus: u32,
    /// Memory of the machine in MiB.
    pub memory_mib: u64,
    /// Start the clock at the same moment in every run.
    pub fixed_clock: bool,
    /// What else is in the machine.
    pub equipment: Equipment,
}

/// A running machine; nothing of it is left when this is dropped.
#[derive(Debug)]
pub struct Session {
    machine: Machine,
    emulator: Emulator,
    console: Console,
    process: Process,
    /// The TPM's, which the machine's end does not wait for.
    _tpm: Option<Process>,
    events: EventLog,
    interrupted: Arc<AtomicBool>,
    /// Where [`Session::expect`] goes on looking.
    cursor: usize,
    /// Where the output since the last typed line begins.
    typed: usize,
    _claim: File,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Switched off, with the hypervisor's reason.
    Off(String),
    /// The hypervisor refused to start anything, with its error.
    Refused(String),
    /// The hypervisor failed, with its message.
    Panicked(String),
    /// The emulator ended; `true` when that was the machine's doing.
    Gone(bool),
}

impl Session {
    /// Puts the boot medium together and starts the machine. `sink` gets the console's bytes as they come.
    ///
    /// # Errors
    /// When the medium cannot be made or the emulator does not start.
    pub fn start(workspace: &Workspace, config: Config, sink: Sink) -> Result<Self> {
        let (dir, claim) = claim(workspace, &config.name)?;
        let medium = if config.pxe {
            let tree = dir.join("tftp");
            if tree.is_dir() {
                fs::remove_dir_all(&tree).context("empty", &tree)?;
            }
            image::pxe(&config.boot, &tree)?;
            Medium::Tftp(tree)
        } else {
            let file = dir.join("boot.img");
            image::usb(&config.boot, &file)?;
            Medium::Disk(file)
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| no_console(&e))?;
        let machine = Machine {
            cpus: config.cpus,
            memory_mib: config.memory_mib,
            medium,
            dir,
            console_port: listener.local_addr().map_err(|e| no_console(&e))?.port(),
            fixed_clock: config.fixed_clock,
            equipment: config.equipment,
        };
        for stale in [
            machine.events(),
            machine.refusals(),
            machine.dir.join("bochs.log"),
        ] {
            if stale.exists() {
                fs::remove_file(&stale).context("remove", &stale)?;
            }
        }
        let log_path = machine.dir.join("console.log");
        let log = File::create(&log_path).context("create", &log_path)?;
        let interrupted = watch_signals()?;
        let tpm = chip::start(workspace, &machine)?;
        let mut process =
            Process::start(config.emulator.command(&machine)?, &machine.emulator_log())?;
        if config.emulator.has_screen() {
            screen::forget(machine.emulator_log());
        }
        let stream = accept(&listener, &mut process, &machine, &interrupted)?;
        let console = Console::follow(stream, log, sink).map_err(|e| no_console(&e))?;
        let events = EventLog::new(machine.events());
        Ok(Self {
            machine,
            emulator: config.emulator,
            console,
            process,
            _tpm: tpm,
            events,
            interrupted,
            cursor: 0,
            typed: 0,
            _claim: claim,
        })
    }

    /// Waits until the console's text after the last match matches `wanted`; returns what was matched.
    ///
    /// # Errors
    /// [`Error::Run`] with the console's last lines when the time is over or the machine ended first.
    pub fn expect(&mut self, wanted: &Regex, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut ended: Option<(End, Instant)> = None;
        loop {
            let seen = self.console.len();
            if let Some(found) = self.find(wanted) {
                return Ok(found);
            }
            self.check_interrupted()?;
            match &ended {
                None => ended = self.end()?.map(|end| (end, Instant::now() + DRAIN)),
                Some((end, drained)) if Instant::now() >= *drained => {
                    return Err(self.failure(&format!(
                        "the machine ended ({end}) before /{wanted}/ appeared"
                    )));
                }
                Some(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!(
                    "/{wanted}/ did not appear within {} s",
                    limit.as_secs()
                )));
            }
            let _ = self.console.wait(seen, TICK);
        }
    }

    /// Waits for a prompt, then types `line` and Enter.
    ///
    /// # Errors
    /// When no prompt comes within `limit`, or the machine ended.
    pub fn send_line(&mut self, line: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !self.at_prompt() {
            self.check_interrupted()?;
            if let Some(end) = self.end()? {
                return Err(self.failure(&format!(
                    "the machine ended ({end}) before `{line}` could be typed"
                )));
            }
            if Instant::now() >= deadline {
                return Err(self.failure(&format!(
                    "no prompt for `{line}` within {} s",
                    limit.as_secs()
                )));
            }
            thread::sleep(TICK);
        }
        self.type_line(line)
    }

    /// Types `line` and Enter at once; [`Session::expect`] goes on after its echo.
    ///
    /// # Errors
    /// When the machine hung up.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.type_keys(&Keys::line(line))
    }

    /// Types `keys` at once; [`Session::expect`] goes on after the echo of what can be shown of them.
    ///
    /// # Errors
    /// When the machine hung up.
    pub fn type_keys(&mut self, keys: &Keys) -> Result<()> {
        self.cursor = self.console.len();
        self.console
            .type_bytes(keys.bytes())
            .map_err(|e| Error::Run(format!("cannot type into the console: {e}")))?;
        // What matters comes after the echo. A machine that echoes nothing is not waited for long.
        let deadline = Instant::now() + ECHO_LIMIT;
        let shown = keys.shown();
        while Instant::now() < deadline && self.end()?.is_none() {
            let seen = self.console.len();
            if let Some(length) = prompt::echo_length(&self.console.text_from(self.cursor), &shown)
            {
                self.cursor += length;
                break;
            }
            let _ = self.console.wait(seen, TICK);
        }
        self.typed = self.cursor;
        Ok(())
    }

    /// Whether the console shows a prompt that waits for input.
    #[must_use]
    pub fn at_prompt(&self) -> bool {
        let length = self.console.len();
        prompt::is_waiting(&self.console.text_from(self.typed)) && {
            // Half a line can look like a prompt: it is one when nothing follows.
            thread::sleep(prompt::QUIET);
            self.console.len() == length
        }
    }

    /// How the machine ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the emulator's state cannot be learnt.
    pub fn end(&mut self) -> Result<Option<End>> {
        let told = self
            .events
            .refresh()
            .iter()
            .find_map(|event| match event.name() {
                "machine-off" => Some(End::Off(event.text("reason").to_owned())),
                "halt" => Some(End::Refused(event.text("error").to_owned())),
                "panic" => Some(End::Panicked(event.text("message").to_owned())),
                _ => None,
            });
        if told.is_some() {
            return Ok(told);
        }
        Ok(self
            .process
            .ended()?
            .map(|status| End::Gone(self.emulator.ended_well(status, &self.machine))))
    }

    /// Waits until an event satisfies `wanted`.
    ///
    /// # Errors
    /// When the time is over or the emulator ended first.
    pub fn expect_event(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event> {
        let deadline = Instant::now() + limit;
        loop {
            let gone = self.process.ended()?.is_some();
            if let Some(event) = self.events.refresh().iter().find(|event| wanted(event)) {
                return Ok(event.clone());
            }
            self.check_interrupted()?;
            if gone || Instant::now() >= deadline {
                return Err(self.failure("the awaited event did not come"));
            }
            thread::sleep(TICK);
        }
    }

    /// Waits until the emulator has ended by itself; `true` when that was the machine's doing.
    ///
    /// # Errors
    /// When the time is over first.
    pub fn expect_gone(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.ended()? {
                return Ok(self.emulator.ended_well(status, &self.machine));
            }
            self.check_interrupted()?;
            if Instant::now() >= deadline {
                return Err(self.failure("the emulator still runs"));
            }
            thread::sleep(TICK);
        }
    }

    /// Every event so far.
    pub fn events(&mut self) -> Vec<Event> {
        self.events.refresh().to_vec()
    }

    /// Everything the console said, without terminal control.
    #[must_use]
    pub fn console_text(&self) -> String {
        self.console.text_from(0)
    }

    /// The console, for those who need more than lines.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The number of the emulator's process, for those who look into it from outside.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The machine's description, which says where its files are.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The directory with the run's image, logs and events.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.machine.dir
    }

    /// Fails when Ctrl-C or a termination signal arrived.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Waits for the console to fall silent after the machine has ended.
    pub fn drain(&self) {
        let deadline = Instant::now() + DRAIN;
        while Instant::now() < deadline {
            let _ = self.console.wait(self.console.len(), TICK);
        }
    }

    /// The error that says `what` and repeats the console's last lines.
    #[must_use]
    pub fn failure(&self, what: &str) -> Error {
        let console = exec::tail(&self.console_text(), TAIL_LINES);
        let emulator = fs::read_to_string(self.machine.emulator_log()).unwrap_or_default();
        let mut text = what.to_owned();
        if console.is_empty() {
            text.push_str("\nthe console is empty; the emulator said:\n");
            text.push_str(&exec::tail(&emulator, TAIL_LINES));
        } else {
            text.push_str("\nlast lines of the console:\n");
            text.push_str(&console);
        }
        text.push_str(&format!(
            "\neverything is in {}",
            self.machine.dir.display()
        ));
        Error::Run(text)
    }

    /// Looks for `wanted` after the last match, without waiting; on a match, goes on after it.
    pub fn find(&mut self, wanted: &Regex) -> Option<String> {
        let text = self.console.text_from(self.cursor);
        let found = wanted.find(&text)?;
        self.cursor += found.end();
        Some(found.as_str().to_owned())
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off(reason) => write!(f, "switched off: {reason}"),
            Self::Refused(error) => write!(f, "Bulkhead refused to start: {error}"),
            Self::Panicked(message) => write!(f, "Bulkhead panicked: {message}"),
            Self::Gone(true) => f.write_str("the machine is off"),
            Self::Gone(false) => f.write_str("the emulator failed"),
        }
    }
}

/// Takes the run directory `name`, or a numbered one beside it, for as long as the returned file is open.
fn claim(workspace: &Workspace, name: &str) -> Result<(PathBuf, File)> {
    let mut number = 1;
    loop {
        let dir = workspace.run_dir(&if number == 1 {
            name.to_owned()
        } else {
            format!("{name}-{number}")
        })?;
        let path = dir.join("lock");
        let file = File::create(&path).context("create", &path)?;
        if file.try_lock().is_ok() {
            return Ok((dir, file));
        }
        number += 1;
    }
}

fn accept(
    listener: &TcpListener,
    process: &mut Process,
    machine: &Machine,
    interrupted: &AtomicBool,
) -> Result<TcpStream> {
    listener.set_nonblocking(true).map_err(|e| no_console(&e))?;
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).map_err(|e| no_console(&e))?;
            stream.set_nodelay(true).map_err(|e| no_console(&e))?;
            return Ok(stream);
        }
        if interrupted.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if process.ended()?.is_some() || Instant::now() >= deadline {
            let said = fs::read_to_string(machine.emulator_log()).unwrap_or_default();
            return Err(Error::Run(format!(
                "the emulator did not start:\n{}",
                exec::tail(&said, TAIL_LINES)
            )));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A flag that Ctrl-C and termination signals raise, from now on instead of ending the process.
///
/// # Errors
/// When the system refuses to watch.
pub fn watch_signals() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .map_err(|e| Error::Run(format!("cannot watch for signals: {e}")))?;
    }
    Ok(flag)
}

fn no_console(error: &std::io::Error) -> Error {
    Error::Run(format!(
        "cannot open a local socket for the console: {error}"
    ))
}
