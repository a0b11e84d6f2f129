//! The plan: what a manifest asks for, checked. Nothing in it has to be looked at twice.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::choice::choice;
use super::device::DeviceName;
use super::digest::Sha256Digest;
use super::mac::MacAddress;
use super::name::{SegmentName, VmName};
use super::path::PayloadPath;
use super::rate::BitRate;
use super::seal::SealId;
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
    /// Whether the CPU tells VMs' user code from their kernels'.
    pub mbec: Feature,
    /// Whether VMs switch views by themselves.
    pub vmfunc: Feature,
    /// Whether two VMs may run on threads of one core at a time.
    pub smt: SmtPolicy,
    /// Where the key comes from that VMs' keys are derived from.
    pub root_key: RootKeySource,
    /// The sealed root key that a new one takes the place of, should it be the one found.
    pub reseal: Option<SealId>,
    /// A test of the hypervisor itself, to be done instead of starting VMs.
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
    /// The physical CPUs that it has to itself, ascending, at most as many as vCPUs, none of them another VM's;
    /// `None` for the CPUs that no VM has to itself.
    pub cpus: Option<Vec<u32>>,
    /// Its part of a CPU that it shares, measured by the weights of the others there: 1 to 10,000.
    pub weight: u32,
    /// The most it gets of each CPU it runs on, in percent: 1 to 100.
    pub cap: Option<u8>,
    /// What its console is.
    pub console: VmConsole,
    /// Whether it starts when the hypervisor does.
    pub autostart: bool,
    /// What happens when it stops.
    pub restart: RestartPolicy,
    /// How its memory is kept from everybody else.
    pub encryption: Encryption,
    /// Whether its kernel is kept from its user code by views of its memory.
    pub split: bool,
    /// Whether it has that on a CPU which has nothing for it, too.
    pub split_unaided: bool,
    /// How many pages its user code may keep from its kernel.
    pub split_private: u32,
    /// How many of its exits from user code are looked at for what of its kernel is within reach, with the split or without it.
    pub split_samples: u32,
    /// How long it has to switch itself off before it is stopped: whole seconds, 1 to 3600.
    pub stop_timeout: Duration,
    /// Its disks, in the order of the manifest; at most [`MAX_DISKS`](super::MAX_DISKS).
    pub disks: Vec<DiskPlan>,
    /// Its NICs, in the order of the manifest; at most [`MAX_NICS`](super::MAX_NICS).
    pub nics: Vec<NicPlan>,
    /// The real devices it is given, in the order of the manifest; at most [`MAX_DEVICES`](super::MAX_DEVICES), none of
    /// them named by another VM in the same way.
    pub devices: Vec<DevicePlan>,
    pub(super) spans: VmSpans,
}

/// How a VM's memory is kept from everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// By page tables alone.
    Off,
    /// All of it is sealed whenever the VM is paused.
    AtRest,
    /// At most a window of it is readable at any time.
    Window {
        /// The window: a multiple of 2 MiB, at least one, no more than the VM's memory.
        size: ByteSize,
        /// How often it is counted, while the VM runs, what is sealed; the counts are events.
        samples: u32,
    },
}

impl Encryption {
    /// The word of the manifest for it.
    #[must_use]
    pub const fn mode(self) -> EncryptionMode {
        match self {
            Self::Off => EncryptionMode::Off,
            Self::AtRest => EncryptionMode::AtRest,
            Self::Window { .. } => EncryptionMode::Window,
        }
    }
}

/// Where the manifest says what a VM's plan holds; the start of the VM where it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VmSpans {
    pub(super) name: Span,
    pub(super) kernel: Span,
    pub(super) initrd: Span,
    pub(super) memory: Span,
    /// In the order of [`VmPlan::cpus`].
    pub(super) cpus: Vec<Span>,
}

/// One disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// What is on it when the VM starts.
    pub image: Payload,
    /// What becomes of writes.
    pub mode: DiskMode,
    /// The memory for changed blocks: a multiple of 2 MiB, at least one; nothing for a read-only disk.
    pub overlay: ByteSize,
    pub(super) spans: DiskSpans,
}

/// Where the manifest says what a disk's plan holds; the start of the disk where it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskSpans {
    pub(super) image: Span,
    pub(super) overlay: Span,
}

/// One NIC of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicPlan {
    /// What it is plugged into: every NIC that names the segment, and no other, is on it.
    pub segment: SegmentName,
    /// Its address, chosen or derived; no other NIC of the plan has it.
    pub mac: MacAddress,
    /// Whether it may send under other addresses.
    pub spoofing: Spoofing,
    /// The most it may send.
    pub rate_limit: Option<BitRate>,
    /// Where the address stands, or the start of the NIC.
    pub(super) mac_span: Span,
}

/// A real device that a VM is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Which one.
    pub name: DeviceName,
    /// Where the manifest names it.
    pub(super) span: Span,
}

/// A file that a VM is started from, or finds on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Where it is, seen from the manifest.
    pub path: PayloadPath,
    /// What its contents must hash to.
    pub sha256: Option<Sha256Digest>,
    /// How a kernel is to be read; an initial RAM disk or a disk's image, which is not read, has the default.
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
    /// Whether something that the CPU may have is used.
    pub enum Feature {
        /// Where the CPU has it.
        #[default]
        Auto = "auto",
        /// As if the CPU did not have it.
        Off = "off",
    }
}

choice! {
    /// Whether vCPUs of two VMs may run on threads of one core at a time, where each learns by timing what the other does.
    pub enum SmtPolicy {
        /// A core belongs to one VM at a time.
        #[default]
        Isolate = "isolate",
        /// Each thread is a CPU like any other.
        Share = "share",
    }
}

choice! {
    /// Where the root key comes from, from which every VM's keys are derived.
    pub enum RootKeySource {
        /// Made anew at each boot, and lost at its end.
        #[default]
        Ephemeral = "ephemeral",
        /// Kept by the machine's TPM for this image, this manifest and these payloads alone.
        Tpm = "tpm",
    }
}

choice! {
    /// What the hypervisor does to itself once it runs on its own page tables, to show that its protections and its report
    /// work: it provokes a failure, or has devices of the machine attack memory. No VM is started.
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
        /// A machine check in the hypervisor's own course, of which no register says anything.
        MachineCheck = "machine-check",
        /// A broken invariant on the second CPU.
        PanicOtherCpu = "panic-other-cpu",
        /// The device tests, with remapping as the manifest has it.
        Vtd = "vtd",
        /// Their negative control: the same transfers without remapping, which lets them through. The policy for the IOMMU
        /// is [`IommuPolicy::Off`] beside it.
        VtdOff = "vtd-off",
    }
}

choice! {
    /// The word for how a VM's memory is kept from everybody else.
    pub enum EncryptionMode {
        /// By page tables alone.
        #[default]
        Off = "off",
        /// All of it is sealed whenever the VM is paused.
        AtRest = "at-rest",
        /// At most a window of it is readable at any time.
        Window = "window",
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
    /// What a VM's console is, on the side of the VM.
    pub enum VmConsole {
        /// Its first serial port.
        #[default]
        Serial = "serial",
        /// A virtio console; the serial port is still there and leads nowhere.
        Virtio = "virtio",
    }
}

choice! {
    /// What becomes of what a VM writes to a disk.
    pub enum DiskMode {
        /// It is kept in memory until the VM starts anew; the image stays as it is.
        #[default]
        CopyOnWrite = "copy-on-write",
        /// The VM is told that the disk is read-only, and a write fails.
        ReadOnly = "read-only",
    }
}

choice! {
    /// Whether a NIC may send frames whose source is not its own address.
    pub enum Spoofing {
        /// Such frames are dropped and counted.
        #[default]
        Deny = "deny",
        /// The segment learns whatever addresses the NIC uses: for a VM that bridges.
        Allow = "allow",
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
    /// The memory of all VMs and their overlays together. It cannot overflow: the bounds on a VM and on their number see to that.
    #[must_use]
    pub fn total_memory(&self) -> ByteSize {
        ByteSize(
            self.vms
                .iter()
                .fold(0, |sum, vm| sum.saturating_add(vm.total_memory().bytes())),
        )
    }

    /// The name of the file the plan was read from.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.source.file_name
    }
}

impl VmPlan {
    /// Its memory and the overlays of its disks.
    #[must_use]
    pub fn total_memory(&self) -> ByteSize {
        let memory = self.memory.bytes();
        ByteSize(memory.saturating_add(self.overlays().bytes()))
    }

    /// The overlays of its disks together.
    #[must_use]
    pub fn overlays(&self) -> ByteSize {
        ByteSize(
            self.disks
                .iter()
                .fold(0, |sum, disk| sum.saturating_add(disk.overlay.bytes())),
        )
    }
}
