//! The plan: what a manifest asks for, checked. Nothing in it has to be looked at twice.

use alloc::string::String;
use alloc::vec::Vec;

use super::choice::choice;
use super::digest::Sha256Digest;
use super::name::VmName;
use super::path::PayloadPath;
use super::size::ByteSize;
use super::source::{Source, Span};

/// A manifest, read and checked. Only the parser makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the hypervisor itself does.
    pub hypervisor: HypervisorOptions,
    /// The VMs, in the order of the manifest; there is at least one.
    pub vms: Vec<VmPlan>,
    /// The text, for complaints made later than parsing.
    pub(super) source: Source,
}

/// What the hypervisor itself does; the default is what a manifest without `[hypervisor]` gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HypervisorOptions {
    /// Where the log goes.
    pub console: Console,
    /// How much is logged.
    pub log_level: LogLevel,
    /// Whether VMs may run without an IOMMU.
    pub iommu: IommuPolicy,
    /// Whether the CPU's APIC virtualisation is used.
    pub apicv: ApicVirtualization,
    /// A failure to provoke instead of starting VMs.
    pub selftest: SelfTest,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmPlan {
    /// What it is called; no other VM of the plan has the name.
    pub name: VmName,
    /// What it boots.
    pub kernel: Payload,
    /// Its initial RAM disk.
    pub initrd: Option<Payload>,
    /// Its kernel's command line: printable ASCII.
    pub cmdline: String,
    /// Its memory: a multiple of 2 MiB, at least one.
    pub memory: ByteSize,
    /// How many virtual CPUs it has; at least one.
    pub vcpus: u32,
    /// The physical CPUs its vCPUs may run on, ascending, none twice; `None` for any.
    pub cpus: Option<Vec<u32>>,
    /// What happens when it stops.
    pub restart: RestartPolicy,
    pub(super) spans: VmSpans,
}

/// Where the manifest says what a VM's plan holds; the start of the VM where it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VmSpans {
    pub(super) name: Span,
    pub(super) kernel: Span,
    pub(super) initrd: Span,
    pub(super) memory: Span,
    pub(super) vcpus: Span,
    /// In the order of [`VmPlan::cpus`].
    pub(super) cpus: Vec<Span>,
}

/// A file that a VM is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where it is, seen from the manifest.
    pub path: PayloadPath,
    /// What its contents must hash to.
    pub sha256: Option<Sha256Digest>,
    /// How a kernel is to be read; an initial RAM disk, which is not read, has the default.
    pub format: KernelFormat,
}

choice! {
    /// Where the hypervisor's log goes.
    pub enum Console {
        /// The first serial port and the firmware's framebuffer.
        #[default]
        Both = "both",
        /// The first serial port.
        Serial = "serial",
        /// The firmware's framebuffer.
        Framebuffer = "framebuffer",
    }
}

choice! {
    /// How much is logged: this level and those before it.
    pub enum LogLevel {
        /// What stopped something.
        Error = "error",
        /// What may stop something.
        Warn = "warn",
        /// What a person watching wants to know.
        #[default]
        Info = "info",
        /// What explains a decision.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

choice! {
    /// Whether VMs may run without an IOMMU between the devices and memory.
    pub enum IommuPolicy {
        /// Used where the machine has one and this release drives it.
        #[default]
        Auto = "auto",
        /// Nothing starts without it.
        Required = "required",
        /// Left as the firmware set it up.
        Off = "off",
    }
}

choice! {
    /// Whether the CPU's own APIC virtualisation is used.
    pub enum ApicVirtualization {
        /// Used where the CPU has it.
        #[default]
        Auto = "auto",
        /// Every access to the APIC is emulated in software.
        Off = "off",
    }
}

choice! {
    /// A failure that the hypervisor provokes in itself once it runs on its own page tables, to show that its protections
    /// and its report work. Nothing else is started.
    pub enum SelfTest {
        /// None: VMs start.
        #[default]
        None = "none",
        /// A broken invariant.
        Panic = "panic",
        /// A write to the hypervisor's own code.
        WriteCode = "write-code",
        /// A jump into the hypervisor's own data.
        ExecuteData = "execute-data",
        /// A stack that runs over its guard page.
        StackOverflow = "stack-overflow",
        /// A read of memory that the hypervisor does not map: a free frame.
        ReadUnmapped = "read-unmapped",
    }
}

choice! {
    /// What happens when a VM stops.
    pub enum RestartPolicy {
        /// It stays stopped.
        Never = "never",
        /// It starts anew after a reboot, a triple fault, or being stopped for a fault of its own; it stays off once powered off.
        #[default]
        OnCrash = "on-crash",
        /// It starts anew, whatever stopped it.
        Always = "always",
    }
}

choice! {
    /// How a kernel image is read.
    pub enum KernelFormat {
        /// By what the image itself says it is.
        #[default]
        Auto = "auto",
        /// As a Linux bzImage, by the 64-bit boot protocol.
        BzImage = "bzimage",
        /// As an ELF file, by its PVH entry.
        Elf = "elf",
        /// As code to be placed at 1 MiB and entered at its first byte.
        Flat = "flat",
    }
}

impl Plan {
    /// The memory of all VMs together. It cannot overflow: the bounds on a VM and on their number see to that.
    #[must_use]
    pub fn total_memory(&self) -> ByteSize {
        ByteSize(
            self.vms
                .iter()
                .fold(0, |sum, vm| sum.saturating_add(vm.memory.bytes())),
        )
    }

    /// The name of the file the plan was read from.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.source.file_name
    }
}
