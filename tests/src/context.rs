//! What one scenario works with: its directory, its remaining time, boot media, machines, and notes for the report.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use xtask::error::IoContext;
use xtask::image::{Boot, Entry};
use xtask::platform::equipment::Equipment;
use xtask::session::{Config, Session};

use crate::lab::Lab;
use crate::machine::Machine;
use crate::manifest::{Group, Manifest};
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

/// The directory of manifest and payloads on a boot medium.
const HOME: &str = "bulkhead";

/// How a machine is started.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Names the machine's directory below the scenario's; empty for a scenario's only machine.
    pub part: &'static str,
    /// Boot over PXE.
    pub pxe: bool,
    /// Its memory.
    pub memory_mib: u64,
    /// Its processors.
    pub cpus: u32,
    /// What else is in it.
    pub equipment: Equipment,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            part: "",
            pxe: false,
            memory_mib: 1024,
            cpus: 1,
            equipment: Equipment::default(),
        }
    }
}

/// A scenario under way.
#[derive(Debug)]
pub struct Context<'a> {
    /// What all scenarios share.
    pub lab: &'a Lab,
    /// Raised when the whole run is to end.
    pub interrupted: &'a AtomicBool,
    name: &'a str,
    ground: Ground,
    deadline: Instant,
    notes: Mutex<Vec<String>>,
}

impl<'a> Context<'a> {
    /// Starts the clock of `scenario`.
    pub fn new(lab: &'a Lab, scenario: &'a Scenario, interrupted: &'a AtomicBool) -> Self {
        Self {
            lab,
            interrupted,
            name: &scenario.name,
            ground: scenario.ground,
            deadline: Instant::now() + scenario.limit,
            notes: Mutex::default(),
        }
    }

    /// The scenario's name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The scenario's directory, created when missing.
    pub fn dir(&self) -> Outcome<PathBuf> {
        Ok(self.lab.workspace.run_dir(self.name)?)
    }

    /// How much of its time is left.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Adds a line to the report, such as a measured figure.
    pub fn note(&self, line: impl Into<String>) {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line.into());
    }

    /// The lines added so far.
    pub fn notes(&self) -> Vec<String> {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts `bytes` into the scenario's directory under `name`.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> Outcome<PathBuf> {
        let path = self.dir()?.join(name);
        fs::write(&path, bytes).context("write", &path)?;
        Ok(path)
    }

    /// A medium for `manifest`, whose kernel is a test guest or a file in the scenario's directory.
    pub fn boot_guest(&self, manifest: &Manifest) -> Outcome<Boot> {
        self.boot_with_payloads(manifest.to_string(), [manifest])
    }

    /// The same for several VMs.
    pub fn boot_group(&self, group: &Group) -> Outcome<Boot> {
        self.boot_with_payloads(group.to_string(), &group.vms)
    }

    /// A medium with the manifest `text` and all that `vms` boot.
    fn boot_with_payloads<'m>(
        &self,
        text: String,
        vms: impl IntoIterator<Item = &'m Manifest>,
    ) -> Outcome<Boot> {
        let dir = self.dir()?;
        let mut payloads = BTreeMap::new();
        for vm in vms {
            let initrd = vm.initrd.as_deref();
            let images = vm.images.iter().copied();
            for path in [vm.kernel.as_str()].into_iter().chain(initrd).chain(images) {
                let own = dir.join(path);
                let source = match own.is_file() {
                    true => own,
                    false => self.lab.payload(path)?,
                };
                payloads.insert(path, source);
            }
        }
        self.boot_unchecked(text, &Vec::from_iter(payloads))
    }

    /// What `cargo xtask` boots for the manifest `text`: checked on the host, payloads found or fetched.
    pub fn boot(&self, text: &str) -> Outcome<Boot> {
        let path = self.file("bulkhead.toml", text)?;
        self.boot_manifest(&path)
    }

    /// The same for the manifest at `path`.
    pub fn boot_manifest(&self, path: &Path) -> Outcome<Boot> {
        let manifest = xtask::manifest::Manifest::read(path)?;
        Ok(Boot::gather(&self.lab.workspace, &self.lab.efi, &manifest)?)
    }

    /// A medium with the manifest `text` and `payloads` (path beside it, content), none of which the host looks at.
    pub fn boot_unchecked(
        &self,
        text: impl AsRef<[u8]>,
        payloads: &[(&str, PathBuf)],
    ) -> Outcome<Boot> {
        let mut files = vec![Entry {
            path: format!("{HOME}/bulkhead.toml"),
            source: self.file("bulkhead.toml", text)?,
        }];
        files.extend(payloads.iter().map(|(path, source)| Entry {
            path: format!("{HOME}/{path}"),
            source: source.clone(),
        }));
        Ok(Boot::from_parts(&self.lab.efi, files))
    }

    /// Starts a machine.
    pub fn start(&self, boot: Boot, setup: Setup) -> Outcome<Machine<'_>> {
        let name = if setup.part.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}/{}", self.name, setup.part)
        };
        let config = Config {
            name,
            emulator: self.lab.emulator(self.ground)?,
            boot,
            pxe: setup.pxe,
            cpus: setup.cpus,
            memory_mib: setup.memory_mib,
            fixed_clock: true,
            equipment: setup.equipment,
        };
        let session = Session::start(&self.lab.workspace, config, Box::new(|_| {}))?;
        Ok(Machine::new(session, self))
    }
}
