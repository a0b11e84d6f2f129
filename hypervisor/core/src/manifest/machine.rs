//! Whether the machine at hand has what a plan asks for.

use alloc::format;

use super::error::{Complaints, ErrorKind, ManifestErrors};
use super::plan::Plan;
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
    /// A complaint for each VM that no memory is left for when those before it have theirs, and
    /// for each CPU that is not there.
    pub fn fit(&self, machine: &MachineFacts) -> Result<(), ManifestErrors> {
        let mut complaints = Complaints::default();
        let mut left = machine.ram_bytes;
        for vm in &self.vms {
            match left.checked_sub(vm.memory.bytes()) {
                Some(rest) => left = rest,
                None => {
                    complaints
                        .add(ErrorKind::MachineMemory, vm.spans.memory)
                        .found(format!("{} for \"{}\"", vm.memory, vm.name))
                        .expected(format!(
                            "at most {}, which is what is left for it",
                            whole_granules(left)
                        ));
                }
            }
            let cpus = vm.cpus.iter().flatten().zip(&vm.spans.cpus);
            for (cpu, span) in cpus.filter(|(cpu, _)| **cpu >= machine.cpus) {
                complaints
                    .add(ErrorKind::MachineCpu, *span)
                    .found(format!("CPU {cpu}"))
                    .expected(format!(
                        "a number below {}: the machine has so many CPUs",
                        machine.cpus
                    ));
            }
        }
        complaints.into_result(&self.source)
    }
}

/// The most of `bytes` that a VM could be given.
fn whole_granules(bytes: u64) -> ByteSize {
    ByteSize(bytes - bytes % super::size::GRANULE.bytes())
}
