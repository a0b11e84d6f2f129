//! Whether the machine at hand has what a plan asks for.

use alloc::format;

use super::error::{Complaints, ErrorKind, ManifestErrors};
use super::plan::{Plan, VmPlan};
use super::size::ByteSize;

/// What a machine has to give to VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// The memory that VMs can have, in bytes: what the hypervisor keeps is already taken off.
    pub ram_bytes: u64,
    /// How many physical CPUs there are; they count from 0.
    pub cpus: u32,
}

impl Plan {
    /// Checks that `machine` has the memory and the CPUs the plan names.
    ///
    /// # Errors
    /// A complaint for each VM that no memory is left for when those before it have theirs, for each CPU that is not
    /// there, and for each VM that no CPU is left for. A VM that does not start by itself counts like any other, so that
    /// it can be started at any time.
    #[inline(never)]
    pub fn fit(&self, machine: &MachineFacts) -> Result<(), ManifestErrors> {
        let mut complaints = Complaints::default();
        let mut left = machine.ram_bytes;
        let claimed = self.vms.iter().filter_map(|vm| vm.cpus.as_deref());
        let claimed = claimed.flatten().filter(|cpu| **cpu < machine.cpus).count();
        for vm in &self.vms {
            match left.checked_sub(vm.total_memory().bytes()) {
                Some(rest) => left = rest,
                None => complain_memory(vm, left, &mut complaints),
            }
            if vm.cpus.is_none() && claimed >= machine.cpus as usize {
                complaints
                    .add(ErrorKind::MachineNoCpuLeft, vm.spans.name)
                    .found(format_args!(
                        "\"{}\" without `cpus`, on a machine whose every CPU another VM has to itself",
                        vm.name
                    ))
                    .expected("at least one CPU that no VM has to itself")
                    .help("take a CPU out of the `cpus` of another VM");
            }
            let cpus = vm.cpus.iter().flatten().zip(&vm.spans.cpus);
            for (cpu, span) in cpus.filter(|(cpu, _)| **cpu >= machine.cpus) {
                complaints
                    .add(ErrorKind::MachineCpu, *span)
                    .found(format_args!("CPU {cpu}"))
                    .expected(format_args!(
                        "a number below {}: the machine has so many CPUs",
                        machine.cpus
                    ));
            }
        }
        complaints.into_result(&self.source)
    }
}

/// Complains that a VM is to have more than the `left` bytes.
fn complain_memory(vm: &VmPlan, left: u64, complaints: &mut Complaints) {
    let overlays = vm.overlays();
    let found = if overlays == ByteSize(0) {
        format!("{} for \"{}\"", vm.memory, vm.name)
    } else {
        format!(
            "{} for \"{}\": {} of memory, and overlays of {overlays}",
            vm.total_memory(),
            vm.name,
            vm.memory
        )
    };
    // The memory is to blame where it alone is too much; else the first overlay that is.
    let mut sum = vm.memory.bytes();
    let mut span = vm.spans.memory;
    for disk in &vm.disks {
        if sum > left {
            break;
        }
        sum = sum.saturating_add(disk.overlay.bytes());
        span = disk.spans.overlay;
    }
    complaints
        .add(ErrorKind::MachineMemory, span)
        .found(found)
        .expected(format_args!(
            "at most {}, which the hypervisor, the payloads and the VMs before it leave",
            whole_granules(left)
        ));
}

/// The most of `bytes` that a VM could be given.
fn whole_granules(bytes: u64) -> ByteSize {
    ByteSize(bytes - bytes % super::size::GRANULE.bytes())
}
