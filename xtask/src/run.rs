//! `cargo xtask run`: boots a manifest and watches the console until something decides the outcome.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regex::Regex;

use crate::error::{IoContext, Result};
use crate::image::Boot;
use crate::manifest::{self, Manifest};
use crate::paths::Workspace;
use crate::platform::equipment::Equipment;
use crate::platform::{Platform, size};
use crate::session::console::Sink;
use crate::session::{Cleaner, Config, End, Keys, Session, TICK};
use crate::terminal::Keyboard;
use crate::{build, symbolize, ui};

/// The hypervisor's first line has this word; what comes before it is the firmware's.
const BANNER: &[u8] = b"Bulkhead";

/// What the command line asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// The manifest; the demo's without one.
    pub manifest: Option<PathBuf>,
    /// The platform; the best one without.
    pub platform: Option<Platform>,
    /// Processors of the machine; what the manifest needs without.
    pub cpus: Option<u32>,
    /// Memory of the machine in MiB; what the manifest needs without.
    pub memory_mib: Option<u64>,
    /// Print the console, do not connect the keyboard.
    pub headless: bool,
    /// Succeed at the first match in the console's output.
    pub until: Option<Regex>,
    /// What to type at the next prompts.
    pub send: Vec<Keys>,
    /// Give up after this long.
    pub timeout: Option<Duration>,
    /// Also write the console's text to this file.
    pub log: Option<PathBuf>,
    /// Boot over PXE.
    pub pxe: bool,
    /// A hypervisor binary to use instead of building it.
    pub efi: Option<PathBuf>,
}

/// Boots, watches, and returns when the run has succeeded.
///
/// # Errors
/// A bad manifest before anything is booted; a time-out, a failure of the hypervisor or the emulator after.
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let path = options
        .manifest
        .clone()
        .unwrap_or_else(|| workspace.root().join(manifest::DEMO));
    let manifest = Manifest::read(&path)?;
    let (platform, reason) = Platform::choose(options.platform)?;
    ui::note(&format!("platform {platform}: {reason}"));
    // A payload that is not there is said before minutes of building.
    let efi = build::hypervisor_at(workspace, options.efi.as_deref())?;
    let boot = Boot::gather(workspace, &efi, &manifest)?;
    build::hypervisor_or(workspace, options.efi.as_deref())?;
    let emulator = platform.provision(workspace)?;
    let interactive = !options.headless && stdin().is_terminal() && stdout().is_terminal();
    let cpus = options.cpus.unwrap_or_else(|| size::cpus(manifest.plan()));
    let memory_mib = options
        .memory_mib
        .unwrap_or_else(|| size::memory_mib(manifest.plan(), boot.payload_bytes(&manifest)));
    let config = Config {
        name: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        emulator,
        boot,
        pxe: options.pxe,
        cpus,
        memory_mib,
        fixed_clock: false,
        equipment: Equipment::default(),
    };
    let mut session = Session::start(
        workspace,
        config,
        sink(interactive, options.log.as_deref())?,
    )?;
    ui::note(&format!(
        "started with {} CPU(s) and {} MiB; files in {}",
        cpus,
        memory_mib,
        workspace.show(session.dir())
    ));
    let keyboard = interactive
        .then(|| Keyboard::connect(session.console()))
        .transpose()?;
    if keyboard.is_some() {
        ui::note("the console is yours; Ctrl-] opens Bulkhead's prompt, Ctrl-\\ ends the run\r");
    }
    let outcome = watch(&mut session, options, keyboard.as_ref());
    drop(keyboard);
    symbolize::explain(&session.console_text(), &efi);
    outcome
}

/// Types what is to be typed and waits for what decides the run.
fn watch(session: &mut Session, options: &Options, keyboard: Option<&Keyboard>) -> Result<()> {
    let deadline = options.timeout.map(|limit| Instant::now() + limit);
    let mut pending: VecDeque<&Keys> = options.send.iter().collect();
    loop {
        let seen = session.console().len();
        session.check_interrupted()?;
        if keyboard.is_some_and(Keyboard::wants_to_quit) {
            return Ok(());
        }
        if let Some(keys) = pending.front()
            && session.at_prompt()
        {
            session.type_keys(keys)?;
            pending.pop_front();
        }
        if pending.is_empty() && found(session, options) {
            return Ok(());
        }
        if let Some(end) = session.end()? {
            session.drain();
            let matched = pending.is_empty() && found(session, options);
            return if matched {
                Ok(())
            } else {
                conclude(session, options, &pending, &end)
            };
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let seconds = options.timeout.unwrap_or_default().as_secs();
            return Err(session.failure(&format!("time is over after {seconds} s")));
        }
        let _ = session.console().wait(seen, TICK);
    }
}

fn found(session: &mut Session, options: &Options) -> bool {
    options
        .until
        .as_ref()
        .is_some_and(|wanted| session.find(wanted).is_some())
}

/// Whether the machine's own end is a success.
fn conclude(
    session: &Session,
    options: &Options,
    pending: &VecDeque<&Keys>,
    end: &End,
) -> Result<()> {
    if matches!(end, End::Refused(_) | End::Panicked(_) | End::Gone(false)) {
        return Err(session.failure(&end.to_string()));
    }
    if let Some(keys) = pending.front() {
        return Err(session.failure(&format!("{end}, before `{keys}` could be typed")));
    }
    if let Some(wanted) = &options.until {
        return Err(session.failure(&format!("{end}, and /{wanted}/ never appeared")));
    }
    ui::note(&end.to_string());
    Ok(())
}

/// Where the console's bytes go: to the screen, and as text to `log`.
fn sink(interactive: bool, log: Option<&Path>) -> Result<Sink> {
    let mut log = log
        .map(|path| File::create(path).context("create", path))
        .transpose()?;
    let mut cleaner = Cleaner::default();
    let mut tail: Vec<u8> = Vec::new();
    let mut raw = false;
    Ok(Box::new(move |bytes| {
        let text = cleaner.clean(bytes);
        if let Some(file) = &mut log {
            // The run goes on without its log; `console.log` in its directory still has everything.
            let _ = file.write_all(&text);
        }
        let mut screen = stdout().lock();
        // The firmware clears the screen and moves the cursor about: its bytes reach a terminal only as text.
        let shown = if raw {
            screen.write_all(bytes)
        } else if interactive {
            screen.write_all(&with_returns(&text))
        } else {
            screen.write_all(&text)
        };
        let _ = shown.and_then(|()| screen.flush());
        if interactive && !raw {
            tail.extend_from_slice(&text);
            raw = tail.windows(BANNER.len()).any(|window| window == BANNER);
            tail.drain(..tail.len().saturating_sub(BANNER.len()));
        }
    }))
}

/// A terminal in raw mode needs a carriage return before each new line.
fn with_returns(text: &[u8]) -> Vec<u8> {
    text.iter()
        .flat_map(|byte| {
            if *byte == b'\n' {
                vec![b'\r', b'\n']
            } else {
                vec![*byte]
            }
        })
        .collect()
}
