//! The event stream: what the hypervisor tells a program, as one JSON object a line on the second serial port.
//!
//! [`Event`] is what there is to tell; [`Event::write_json`] puts it into a line without
//! allocating, so that the panic path can use it too. Events that are mostly numbers have a type of their own in
//! [`counters`]; `json` writes the object. `docs/events.md` describes the stream to those who read it. Writing the bytes
//! to the port is the shell's.

pub mod counters;
pub mod iommu;
mod json;
pub mod secmem;
mod split;
#[cfg(test)]
mod tests;
pub mod tpm;

use core::fmt::{self, Display, Write};
use core::time::Duration;

use crate::addr::{FrameCount, Gpa};
use crate::ledger::KeyId;
use crate::vtd::SourceId;

pub use counters::{
    Counters, CpuCounters, DiskCounters, MachineCounters, MemoryUse, NicCounters, Ticks,
    VcpuCounters,
};
pub use iommu::{DmaFault, SelfTestCase, VtdCosts};
use json::Object;
pub use secmem::{SecmemCounters, SecmemSample};
pub use split::SplitSample;
pub use tpm::{LogPiece, Measured, PcrValue, RootKeyOrigin};

/// One thing worth telling.
///
/// Texts that are composed come as [`Display`], so that composing them needs no memory.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// The hypervisor runs.
    Boot {
        /// Its version.
        version: &'a str,
    },
    /// The manifest was read and checked.
    Plan {
        /// How many VMs it names.
        vms: usize,
        /// What they are given together.
        memory_bytes: u64,
    },
    /// Something that boots was measured into the TPM.
    Measurement(Measured<'a>),
    /// There is a root key.
    RootKey(RootKeyOrigin<'a>),
    /// What a PCR holds when all was measured.
    TpmPcr(PcrValue<'a>),
    /// A piece of the firmware's log of measurements.
    TpmLog(LogPiece<'a>),
    /// Where the machine's memory went.
    Memory(MemoryUse),
    /// A processor of the machine is ready to run vCPUs.
    CpuOnline {
        /// Its number.
        cpu: u32,
        /// The identifier of its local APIC.
        apic_id: u32,
    },
    /// A VM begins to run.
    VmStart {
        /// Its name.
        vm: &'a str,
    },
    /// A VM runs no more.
    VmStop {
        /// Its name.
        vm: &'a str,
        /// Why.
        reason: &'a dyn Display,
    },
    /// What a stopped VM had of the machine's memory was given back.
    VmDestroyed {
        /// Its name.
        vm: &'a str,
        /// Frames that belong to nobody now.
        freed: FrameCount,
        /// Frames of those that were zeroed.
        scrubbed: FrameCount,
    },
    /// A machine check hit a VM, which runs no more: it keeps its frames.
    VmMemoryKept {
        /// Its name.
        vm: &'a str,
        /// How many.
        frames: FrameCount,
    },
    /// A VM that stopped is about to begin anew.
    VmRestart {
        /// Its name.
        vm: &'a str,
        /// Why it stopped.
        reason: &'a dyn Display,
        /// The restarts so far, this one included.
        count: u32,
    },
    /// A VM that ended soon after its start, again, is not started at once.
    VmBackOff {
        /// Its name.
        vm: &'a str,
        /// Why it stopped.
        reason: &'a dyn Display,
        /// How many times in a row it did so.
        in_a_row: u32,
        /// How long it is left stopped.
        delay: Duration,
    },
    /// No vCPU of a VM runs any more, until it is resumed.
    VmPause {
        /// Its name.
        vm: &'a str,
    },
    /// A VM's vCPUs run again.
    VmResume {
        /// Its name.
        vm: &'a str,
    },
    /// All of a paused VM's memory is sealed.
    VmSealed {
        /// Its name.
        vm: &'a str,
    },
    /// A VM's watchdog ran out.
    Watchdog {
        /// The VM's name.
        vm: &'a str,
        /// How long the guest had not reset it.
        timeout: Duration,
    },
    /// A guest did what it may not.
    GuestFault {
        /// The VM's name.
        vm: &'a str,
        /// The kind of fault, one word.
        what: &'a str,
        /// The guest's instruction pointer.
        rip: u64,
        /// The particulars.
        detail: &'a dyn Display,
    },
    /// A sealed page of a VM is not what was sealed there.
    Integrity {
        /// The VM's name.
        vm: &'a str,
        /// Where it has the page.
        gpa: Gpa,
    },
    /// An encrypted VM has a key for the life that it begins.
    SecmemStart {
        /// Its name.
        vm: &'a str,
        /// The key's number.
        key: KeyId,
    },
    /// What was found of an encrypted VM's memory at one of its exits.
    SecmemSample {
        /// Its name.
        vm: &'a str,
        /// What was found.
        sample: SecmemSample,
    },
    /// What of its kernel half was within reach of a VM's user code at an exit.
    SplitSample {
        /// Its name.
        vm: &'a str,
        /// What was found.
        sample: SplitSample,
    },
    /// What happened to an encrypted VM's memory in the life that ended.
    Secmem {
        /// Its name.
        vm: &'a str,
        /// What happened.
        counters: SecmemCounters,
    },
    /// An encrypted VM's key was wiped.
    SecmemEnd {
        /// Its name.
        vm: &'a str,
        /// The key's number.
        key: KeyId,
    },
    /// What a VM did so far.
    Counters(Counters<'a>),
    /// What one vCPU did so far.
    Vcpu(VcpuCounters<'a>),
    /// What passed through a NIC so far.
    Nic(NicCounters<'a>),
    /// What a disk did so far.
    Disk(DiskCounters<'a>),
    /// What a CPU of the machine did so far.
    Cpu(CpuCounters),
    /// What the machine has and did so far.
    Machine(MachineCounters<'a>),
    /// An operator gave a command.
    Command {
        /// The command, or what was typed instead of one.
        line: &'a dyn Display,
        /// What came of it: `ok`, or what was wrong.
        outcome: &'a dyn Display,
    },
    /// A processor reported an error of the hardware.
    MachineCheck {
        /// The CPU's number.
        cpu: u32,
        /// The bank that has the report.
        bank: u32,
        /// The bank's status register.
        status: u64,
        /// The bank's address register, 0 where it says nothing.
        address: u64,
        /// What follows from it.
        detail: &'a dyn Display,
    },
    /// A non-maskable interrupt that is no guest's.
    Nmi {
        /// The CPU's number.
        cpu: u32,
        /// What follows from it.
        detail: &'a dyn Display,
    },
    /// A device was kept from something.
    DmaFault(DmaFault<'a>),
    /// A device that would not stop lost its way to the bus.
    DeviceCutOff {
        /// Its requester id.
        source: SourceId,
        /// Its faults within a second.
        faults: u64,
    },
    /// What a step with second-level tables cost.
    VtdCosts(VtdCosts<'a>),
    /// How a case of a self-test ended.
    SelfTest(SelfTestCase<'a>),
    /// The machine is about to be switched off or reset.
    MachineOff {
        /// Why.
        reason: &'a dyn Display,
    },
    /// The hypervisor refuses to start anything.
    Halt {
        /// The error, by name and in words.
        error: &'a dyn Display,
    },
    /// The hypervisor itself is broken and stops all CPUs.
    Panic {
        /// What it found.
        message: &'a dyn Display,
    },
}

impl Event<'_> {
    /// The names of all events.
    pub const NAMES: [&'static str; 41] = [
        "boot",
        "measurement",
        "plan",
        "root-key",
        "tpm-pcr",
        "tpm-log",
        "memory",
        "cpu-online",
        "vm-start",
        "vm-stop",
        "vm-destroyed",
        "vm-memory-kept",
        "vm-restart",
        "vm-back-off",
        "vm-pause",
        "vm-resume",
        "vm-sealed",
        "watchdog",
        "guest-fault",
        "integrity",
        "secmem-start",
        "secmem-sample",
        "split-sample",
        "secmem",
        "secmem-end",
        "counters",
        "vcpu",
        "nic",
        "disk",
        "cpu",
        "machine",
        "command",
        "machine-check",
        "nmi",
        "dma-fault",
        "device-cut-off",
        "vtd-costs",
        "self-test",
        "machine-off",
        "halt",
        "panic",
    ];

    /// What the key `event` says.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Boot { .. } => "boot",
            Self::Plan { .. } => "plan",
            Self::Measurement(_) => "measurement",
            Self::RootKey(_) => "root-key",
            Self::TpmPcr(_) => "tpm-pcr",
            Self::TpmLog(_) => "tpm-log",
            Self::Memory(_) => "memory",
            Self::CpuOnline { .. } => "cpu-online",
            Self::VmStart { .. } => "vm-start",
            Self::VmStop { .. } => "vm-stop",
            Self::VmDestroyed { .. } => "vm-destroyed",
            Self::VmMemoryKept { .. } => "vm-memory-kept",
            Self::VmRestart { .. } => "vm-restart",
            Self::VmBackOff { .. } => "vm-back-off",
            Self::VmPause { .. } => "vm-pause",
            Self::VmResume { .. } => "vm-resume",
            Self::VmSealed { .. } => "vm-sealed",
            Self::Watchdog { .. } => "watchdog",
            Self::GuestFault { .. } => "guest-fault",
            Self::Integrity { .. } => "integrity",
            Self::SecmemStart { .. } => "secmem-start",
            Self::SecmemSample { .. } => "secmem-sample",
            Self::SplitSample { .. } => "split-sample",
            Self::Secmem { .. } => "secmem",
            Self::SecmemEnd { .. } => "secmem-end",
            Self::Counters(_) => "counters",
            Self::Vcpu(_) => "vcpu",
            Self::Nic(_) => "nic",
            Self::Disk(_) => "disk",
            Self::Cpu(_) => "cpu",
            Self::Machine(_) => "machine",
            Self::Command { .. } => "command",
            Self::MachineCheck { .. } => "machine-check",
            Self::Nmi { .. } => "nmi",
            Self::DmaFault(_) => "dma-fault",
            Self::DeviceCutOff { .. } => "device-cut-off",
            Self::VtdCosts(_) => "vtd-costs",
            Self::SelfTest(_) => "self-test",
            Self::MachineOff { .. } => "machine-off",
            Self::Halt { .. } => "halt",
            Self::Panic { .. } => "panic",
        }
    }

    /// Writes the event as one line, its end included; `tsc` is now, `seq` counts the lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, tsc: u64, seq: u64, out: &mut dyn Write) -> fmt::Result {
        let mut object = Object::open(out, self.name())?;
        object.number("t", tsc)?;
        object.number("n", seq)?;
        match self {
            Self::Boot { version } => object.text("version", version)?,
            Self::Plan { vms, memory_bytes } => {
                object.number("vms", *vms as u64)?;
                object.number("memory_bytes", *memory_bytes)?;
            }
            Self::Measurement(measured) => measured.write(&mut object)?,
            Self::RootKey(key) => key.write(&mut object)?,
            Self::TpmPcr(value) => value.write(&mut object)?,
            Self::TpmLog(piece) => piece.write(&mut object)?,
            Self::Memory(memory) => memory.write(&mut object)?,
            Self::CpuOnline { cpu, apic_id } => {
                object.number("cpu", u64::from(*cpu))?;
                object.number("apic_id", u64::from(*apic_id))?;
            }
            Self::VmStart { vm }
            | Self::VmPause { vm }
            | Self::VmResume { vm }
            | Self::VmSealed { vm } => {
                object.text("vm", vm)?;
            }
            Self::VmStop { vm, reason } => {
                object.text("vm", vm)?;
                object.text("reason", reason)?;
            }
            Self::VmDestroyed {
                vm,
                freed,
                scrubbed,
            } => {
                object.text("vm", vm)?;
                object.number("freed", freed.0)?;
                object.number("scrubbed", scrubbed.0)?;
            }
            Self::VmMemoryKept { vm, frames } => {
                object.text("vm", vm)?;
                object.number("frames", frames.0)?;
            }
            Self::VmRestart { vm, reason, count } => {
                object.text("vm", vm)?;
                object.text("reason", reason)?;
                object.number("count", u64::from(*count))?;
            }
            Self::VmBackOff {
                vm,
                reason,
                in_a_row,
                delay,
            } => {
                object.text("vm", vm)?;
                object.text("reason", reason)?;
                object.number("in_a_row", u64::from(*in_a_row))?;
                object.number("delay_ms", milliseconds(*delay))?;
            }
            Self::Watchdog { vm, timeout } => {
                object.text("vm", vm)?;
                object.number("timeout_ms", milliseconds(*timeout))?;
            }
            Self::GuestFault {
                vm,
                what,
                rip,
                detail,
            } => {
                object.text("vm", vm)?;
                object.text("what", what)?;
                object.hex("rip", *rip)?;
                object.text("detail", detail)?;
            }
            Self::Integrity { vm, gpa } => {
                object.text("vm", vm)?;
                object.hex("gpa", gpa.0)?;
            }
            Self::SecmemStart { vm, key } | Self::SecmemEnd { vm, key } => {
                object.text("vm", vm)?;
                object.number("key", key.0.into())?;
            }
            Self::SecmemSample { vm, sample } => {
                object.text("vm", vm)?;
                sample.write(&mut object)?;
            }
            Self::SplitSample { vm, sample } => {
                object.text("vm", vm)?;
                sample.write(&mut object)?;
            }
            Self::Secmem { vm, counters } => {
                object.text("vm", vm)?;
                counters.write(&mut object)?;
            }
            Self::Counters(counters) => counters.write(&mut object)?,
            Self::Vcpu(counters) => counters.write(&mut object)?,
            Self::Nic(counters) => counters.write(&mut object)?,
            Self::Disk(counters) => counters.write(&mut object)?,
            Self::Cpu(counters) => counters.write(&mut object)?,
            Self::Machine(counters) => counters.write(&mut object)?,
            Self::Command { line, outcome } => {
                object.text("line", line)?;
                object.text("outcome", outcome)?;
            }
            Self::MachineCheck {
                cpu,
                bank,
                status,
                address,
                detail,
            } => {
                object.number("cpu", u64::from(*cpu))?;
                object.number("bank", u64::from(*bank))?;
                object.hex("status", *status)?;
                object.hex("address", *address)?;
                object.text("detail", detail)?;
            }
            Self::Nmi { cpu, detail } => {
                object.number("cpu", u64::from(*cpu))?;
                object.text("detail", detail)?;
            }
            Self::DmaFault(fault) => fault.write(&mut object)?,
            Self::DeviceCutOff { source, faults } => {
                object.text("source", source)?;
                object.number("faults", *faults)?;
            }
            Self::VtdCosts(costs) => costs.write(&mut object)?,
            Self::SelfTest(case) => case.write(&mut object)?,
            Self::MachineOff { reason } => object.text("reason", reason)?,
            Self::Halt { error } => object.text("error", error)?,
            Self::Panic { message } => object.text("message", message)?,
        }
        object.close()
    }
}

/// A duration as events have it.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
