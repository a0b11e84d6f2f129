//! What this release can run of what a plan can say: one VM, one vCPU. Going beyond that is this file's end.

use alloc::format;

use super::error::{Complaints, ErrorKind, ManifestErrors};
use super::plan::Plan;

/// How many VMs run at a time.
const VMS: usize = 1;
/// How many vCPUs a VM has.
const VCPUS: u32 = 1;
/// What a plan is told that wants more.
const EXPECTED: &str = "one VM with one vCPU, which is what this release runs";

impl Plan {
    /// Checks that this release can run the plan.
    ///
    /// # Errors
    /// A complaint for each VM beyond the first, and for each VM with more than one vCPU.
    pub fn check_release(&self) -> Result<(), ManifestErrors> {
        let mut complaints = Complaints::default();
        for vm in self.vms.iter().skip(VMS) {
            complaints
                .add(ErrorKind::ReleaseVms, vm.spans.name)
                .found(format!("a further VM, \"{}\"", vm.name))
                .expected(EXPECTED);
        }
        for vm in self.vms.iter().filter(|vm| vm.vcpus > VCPUS) {
            complaints
                .add(ErrorKind::ReleaseVcpus, vm.spans.vcpus)
                .found(format!("{} vCPUs", vm.vcpus))
                .expected(EXPECTED);
        }
        complaints.into_result(&self.source)
    }
}
