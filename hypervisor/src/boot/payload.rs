//! The manifest and the files it names, read and checked before anything starts.

use super::source::{Source, SourceError};
use crate::events;
use crate::memory::heap;
use crate::tpm::Measured;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bulkhead_core::addr::Gpa;
use bulkhead_core::events::Event;
use bulkhead_core::manifest::{
    self, KernelFormat, ManifestErrors, Payload, PayloadProblem, PayloadRole, Plan, Sha256Digest,
    VmPlan,
};
use bulkhead_core::tpm::What;
use core::fmt;
use core::iter;
use guest_loader::{GuestMemory, LoadRequest, MemoryLayout, OutOfRange, PlatformDescription};
use sha2::{Digest, Sha256};

/// Where the manifest lies, from the root of the boot volume or TFTP server.
pub const MANIFEST: &str = "bulkhead/bulkhead.toml";
/// The directory that payload paths are relative to.
const DIRECTORY: &str = "bulkhead";
/// What complaints call the manifest.
const MANIFEST_NAME: &str = "bulkhead.toml";

/// The files that one VM is given.
#[derive(Clone)]
pub struct VmFiles {
    /// The kernel image.
    pub kernel: &'static [u8],
    /// The initial RAM disk.
    pub initrd: Option<&'static [u8]>,
    /// The images of its disks, in the order of the plan.
    pub disks: Vec<&'static [u8]>,
}

impl VmFiles {
    /// Every one of them.
    pub fn all(&self) -> impl Iterator<Item = &'static [u8]> {
        let disks = self.disks.iter().copied();
        iter::once(self.kernel).chain(self.initrd).chain(disks)
    }
}

/// What the boot volume holds, checked.
pub struct Loaded {
    /// The parsed manifest.
    pub plan: Plan,
    /// One entry for each VM of the plan, in its order.
    pub files: Vec<VmFiles>,
}

/// Why nothing starts.
#[derive(Debug)]
pub enum LoadError {
    /// The manifest cannot be read.
    Source(SourceError),
    /// The manifest, or a file that it names, is wrong; the text says where.
    Manifest(ManifestErrors),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(error) => error.fmt(f),
            // The complaints start on a line of their own, so that they read as on the host.
            Self::Manifest(errors) => write!(f, "the manifest cannot be used\n{errors}"),
        }
    }
}

impl core::error::Error for LoadError {}

/// Reads the manifest, then every file it names; each is measured before anything looks into it.
///
/// # Errors
/// The first file that cannot be used, or everything that is wrong with the manifest.
pub fn load(source: &mut Source, measured: &mut Measured) -> Result<Loaded, LoadError> {
    let text = source.read(MANIFEST).map_err(LoadError::Source)?;
    measured.add(What::Manifest, text);
    let plan = parse(text)?;
    let mut files = Vec::new();
    let source = &mut Library {
        source,
        measured,
        read: Vec::new(),
    };
    for vm in &plan.vms {
        let kernel = fetch(source, &plan, vm, PayloadRole::Kernel, &vm.kernel)?;
        let initrd = match &vm.initrd {
            Some(payload) => Some(fetch(source, &plan, vm, PayloadRole::Initrd, payload)?),
            None => None,
        };
        let mut disks = Vec::new();
        for (index, disk) in vm.disks.iter().enumerate() {
            disks.push(fetch_disk(source, &plan, vm, index, &disk.image)?);
        }
        let loaded = VmFiles {
            kernel,
            initrd,
            disks,
        };
        rehearse(&plan, vm, &loaded)?;
        files.push(loaded);
    }
    Ok(Loaded { plan, files })
}

/// The files read so far: what several VMs are given is read and measured once, for nobody changes it.
struct Library<'a> {
    source: &'a mut Source,
    measured: &'a mut Measured,
    read: Vec<(String, File)>,
}

/// A file in memory.
#[derive(Clone, Copy)]
struct File {
    bytes: &'static [u8],
    /// Its SHA-256, where somebody needed it.
    sha256: Option<[u8; 32]>,
}

impl Library<'_> {
    /// The file that the manifest calls `path`.
    fn read(&mut self, path: &str) -> Result<File, SourceError> {
        if let Some((_, file)) = self.read.iter().find(|(known, _)| known == path) {
            return Ok(*file);
        }
        let bytes = self.source.read(&format!("{DIRECTORY}/{path}"))?;
        let digest = self.measured.add(What::Payload(path.into()), bytes);
        let file = File {
            bytes,
            sha256: digest.map(|digest| digest.0),
        };
        self.read.push((path.into(), file));
        Ok(file)
    }
}

/// Parses on scratch memory: what a hostile manifest can make the parser hold exceeds the heap; what is kept does not.
fn parse(text: &[u8]) -> Result<Plan, LoadError> {
    let scratch = heap::Scratch::begin();
    let parsed = manifest::parse_bytes(MANIFEST_NAME, text).map_err(LoadError::Manifest);
    drop(scratch);
    match parsed {
        Ok(plan) => Ok(plan.clone()),
        Err(error) => Err(error),
    }
}

fn fetch(
    source: &mut Library<'_>,
    plan: &Plan,
    vm: &VmPlan,
    role: PayloadRole,
    payload: &Payload,
) -> Result<&'static [u8], LoadError> {
    let complain =
        |problem: PayloadProblem<'_>| LoadError::Manifest(plan.payload_error(vm, role, problem));
    let path = payload.path.as_str();
    let File { bytes, sha256 } = source.read(path).map_err(|error| match &error {
        SourceError::Missing(_) => complain(PayloadProblem::Missing),
        other => complain(PayloadProblem::Unreadable(other)),
    })?;
    if let Some(expected) = &payload.sha256 {
        let found = Sha256Digest(sha256.unwrap_or_else(|| Sha256::digest(bytes).into()));
        if found != *expected {
            return Err(complain(PayloadProblem::WrongDigest(found)));
        }
        log::info!(
            "{DIRECTORY}/{path}: {} bytes, SHA-256 as the manifest says",
            bytes.len()
        );
    } else {
        log::info!("{DIRECTORY}/{path}: {} bytes", bytes.len());
    }
    Ok(bytes)
}

/// Reads the image of the VM's disk `index`, which has to be one.
fn fetch_disk(
    source: &mut Library<'_>,
    plan: &Plan,
    vm: &VmPlan,
    index: usize,
    image: &Payload,
) -> Result<&'static [u8], LoadError> {
    let role = PayloadRole::Disk(index);
    let bytes = fetch(source, plan, vm, role, image)?;
    match manifest::check_disk_image(bytes.len() as u64) {
        Ok(()) => Ok(bytes),
        Err(fault) => {
            let problem = PayloadProblem::Rejected(&fault);
            Err(LoadError::Manifest(plan.payload_error(vm, role, problem)))
        }
    }
}

/// Memory that holds nothing: loading into it shows whether loading works.
struct NoMemory(u64);

impl GuestMemory for NoMemory {
    fn size(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _gpa: Gpa, _bytes: &[u8]) -> Result<(), OutOfRange> {
        Ok(())
    }
}

/// Loads the VM's files into nothing, so that what cannot boot is refused while nothing has been touched.
fn rehearse(plan: &Plan, vm: &VmPlan, files: &VmFiles) -> Result<(), LoadError> {
    let rejected = |role, error: &dyn fmt::Display| {
        LoadError::Manifest(plan.payload_error(vm, role, PayloadProblem::Rejected(error)))
    };
    let layout = MemoryLayout::new(vm.memory.bytes())
        .map_err(|error| rejected(PayloadRole::Kernel, &error))?;
    let ids = apic_ids(vm);
    let platform = PlatformDescription {
        vcpu_apic_ids: &ids,
        device_windows: &[],
    };
    let request = load_request(vm, files, &layout, &platform);
    match guest_loader::load(&request, &mut NoMemory(layout.size())) {
        Ok(_) => Ok(()),
        Err(error @ guest_loader::LoadError::Initrd(_)) => {
            Err(rejected(PayloadRole::Initrd, &error))
        }
        Err(error) => Err(rejected(PayloadRole::Kernel, &error)),
    }
}

/// What the loader is asked for.
pub fn load_request<'a>(
    vm: &'a VmPlan,
    files: &VmFiles,
    memory: &'a MemoryLayout,
    platform: &'a PlatformDescription<'a>,
) -> LoadRequest<'static, 'a> {
    LoadRequest {
        kernel: files.kernel,
        format: match vm.kernel.format {
            KernelFormat::Auto => guest_loader::KernelFormat::Auto,
            KernelFormat::BzImage => guest_loader::KernelFormat::BzImage,
            KernelFormat::Elf => guest_loader::KernelFormat::Elf,
            KernelFormat::Flat => guest_loader::KernelFormat::Flat,
        },
        initrd: files.initrd,
        cmdline: &vm.cmdline,
        memory,
        platform,
    }
}

/// The x2APIC identifiers of a VM's vCPUs: their numbers.
#[must_use]
pub fn apic_ids(vm: &VmPlan) -> Vec<u32> {
    (0..vm.vcpus).collect()
}

/// Shows the plan, a line for each VM.
pub fn print_plan(plan: &Plan) {
    events::send(&Event::Plan {
        vms: plan.vms.len(),
        memory_bytes: plan.total_memory().bytes(),
    });
    log::info!(
        "plan: {} VM{}, {} in all",
        plan.vms.len(),
        if plan.vms.len() == 1 { "" } else { "s" },
        plan.total_memory()
    );
    for vm in &plan.vms {
        log::info!(
            "plan: VM \"{}\": {}, {} vCPU{}, kernel {}, restart {}",
            vm.name,
            vm.memory,
            vm.vcpus,
            if vm.vcpus == 1 { "" } else { "s" },
            vm.kernel.path,
            vm.restart
        );
    }
}
