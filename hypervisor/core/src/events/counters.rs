//! Counters as events have them. The console's [`Reply`](crate::console::Reply) shows the same to people.

use core::fmt;

use super::json::Object;

/// Where the machine's memory went, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// The hypervisor's code and data.
    pub image_bytes: u64,
    /// Its heap.
    pub heap_bytes: u64,
    /// The ledger of frames.
    pub ledger_bytes: u64,
    /// Page tables of all kinds.
    pub tables_bytes: u64,
    /// Kernels and initial RAM disks, kept for restarts.
    pub payload_bytes: u64,
    /// All that the hypervisor keeps.
    pub total_bytes: u64,
    /// All that the machine has.
    pub ram_bytes: u64,
}

/// Where a vCPU's time went, or that of all of a VM, in TSC ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// In the guest.
    pub guest: u64,
    /// In the hypervisor on its behalf.
    pub root: u64,
    /// It had nothing to do.
    pub idle: u64,
    /// It had something to do, and another had the CPU.
    pub steal: u64,
}

impl Ticks {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.guest
            .saturating_add(self.root)
            .saturating_add(self.idle)
            .saturating_add(self.steal)
    }

    /// Those in which it had the CPU.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.guest.saturating_add(self.root)
    }
}

/// What a VM did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// Exits by reason.
    pub exits: &'a [(&'a str, u64)],
    /// Frames by state.
    pub frames: &'a [(&'a str, u64)],
    /// Switches between its views that took an exit.
    pub view_switches: u64,
    /// What the kernel/user split did, by name.
    pub split: &'a [(&'a str, u64)],
    /// Faults injected into it or that stopped it.
    pub faults: u64,
    /// Where the time of its vCPUs went.
    pub ticks: Ticks,
    /// How often a vCPU of it was given a CPU that another had before.
    pub switches: u64,
}

/// What one vCPU did since its VM started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuCounters<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// The vCPU's number.
    pub vcpu: u32,
    /// The number of the CPU that it runs on.
    pub cpu: u32,
    /// Exits by reason.
    pub exits: &'a [(&'a str, u64)],
    /// Where its time went.
    pub ticks: Ticks,
    /// How often it was given a CPU that another had before.
    pub switches: u64,
}

/// What passed through a VM's NIC since the hypervisor began, named as the VM sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounters<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// The NIC's number.
    pub nic: u32,
    /// The segment it is on.
    pub segment: &'a str,
    /// Frames it sent that were passed on.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames it received.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that went nowhere, by reason.
    pub drops: &'a [(&'a str, u64)],
}

/// What a VM's disk did since the VM started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// The disk's number.
    pub disk: u32,
    /// Reads.
    pub reads: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// What one CPU of the machine did since it came up, in TSC ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// Its number.
    pub cpu: u32,
    /// In guests.
    pub guest_ticks: u64,
    /// In the hypervisor.
    pub root_ticks: u64,
    /// Nothing to do.
    pub idle_ticks: u64,
    /// How often it went from one vCPU to another.
    pub switches: u64,
}

/// What the machine has, and what the hypervisor did on all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineCounters<'a> {
    /// Frames by state.
    pub frames: &'a [(&'a str, u64)],
    /// Frames by owner.
    pub owners: &'a [(&'a str, u64)],
    /// Whether a fresh count of every frame gives those numbers.
    pub balanced: bool,
    /// The hypervisor's heap, in use.
    pub heap_used_bytes: u64,
    /// The hypervisor's heap, free.
    pub heap_free_bytes: u64,
    /// Frames of the pool in use, for page tables and VMX structures.
    pub pool_frames: u64,
    /// What was done against leaks at switches between VMs, by kind.
    pub mitigations: &'a [(&'a str, u64)],
}

impl MemoryUse {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.number("image_bytes", self.image_bytes)?;
        object.number("heap_bytes", self.heap_bytes)?;
        object.number("ledger_bytes", self.ledger_bytes)?;
        object.number("tables_bytes", self.tables_bytes)?;
        object.number("payload_bytes", self.payload_bytes)?;
        object.number("total_bytes", self.total_bytes)?;
        object.number("ram_bytes", self.ram_bytes)
    }
}

impl Ticks {
    fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.number("guest_ticks", self.guest)?;
        object.number("root_ticks", self.root)?;
        object.number("idle_ticks", self.idle)?;
        object.number("steal_ticks", self.steal)
    }
}

impl Counters<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.text("vm", &self.vm)?;
        object.tally("exits", self.exits)?;
        object.tally("frames", self.frames)?;
        object.number("view_switches", self.view_switches)?;
        object.tally("split", self.split)?;
        object.number("faults", self.faults)?;
        self.ticks.write(object)?;
        object.number("switches", self.switches)
    }
}

impl VcpuCounters<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.text("vm", &self.vm)?;
        object.number("vcpu", self.vcpu.into())?;
        object.number("cpu", self.cpu.into())?;
        object.tally("exits", self.exits)?;
        self.ticks.write(object)?;
        object.number("switches", self.switches)
    }
}

impl NicCounters<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.text("vm", &self.vm)?;
        object.number("nic", self.nic.into())?;
        object.text("segment", &self.segment)?;
        object.number("sent_frames", self.sent_frames)?;
        object.number("sent_bytes", self.sent_bytes)?;
        object.number("received_frames", self.received_frames)?;
        object.number("received_bytes", self.received_bytes)?;
        object.tally("drops", self.drops)
    }
}

impl DiskCounters<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.text("vm", &self.vm)?;
        object.number("disk", self.disk.into())?;
        object.number("reads", self.reads)?;
        object.number("read_bytes", self.read_bytes)?;
        object.number("writes", self.writes)?;
        object.number("written_bytes", self.written_bytes)?;
        object.number("flushes", self.flushes)?;
        object.number("errors", self.errors)
    }
}

impl CpuCounters {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.number("cpu", self.cpu.into())?;
        object.number("guest_ticks", self.guest_ticks)?;
        object.number("root_ticks", self.root_ticks)?;
        object.number("idle_ticks", self.idle_ticks)?;
        object.number("switches", self.switches)
    }
}

impl MachineCounters<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.tally("frames", self.frames)?;
        object.tally("owners", self.owners)?;
        object.truth("balanced", self.balanced)?;
        object.number("heap_used_bytes", self.heap_used_bytes)?;
        object.number("heap_free_bytes", self.heap_free_bytes)?;
        object.number("pool_frames", self.pool_frames)?;
        object.tally("mitigations", self.mitigations)
    }
}
