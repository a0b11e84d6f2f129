//! What no VM's own entry can say: that no two VMs claim the same name, CPU or address.

use alloc::collections::BTreeMap;
use alloc::format;

use super::error::{Complaints, ErrorKind};
use super::mac::MacAddress;
use super::name::VmName;
use super::plan::VmPlan;

/// Complains about each claim that an earlier VM has made.
pub(super) fn check(vms: &[VmPlan], complaints: &mut Complaints) {
    check_cpus(vms, complaints);
    check_macs(vms, complaints);
}

fn check_cpus(vms: &[VmPlan], complaints: &mut Complaints) {
    let mut owners: BTreeMap<u32, &VmName> = BTreeMap::new();
    for vm in vms {
        for (cpu, span) in vm.cpus.iter().flatten().zip(&vm.spans.cpus) {
            let owner = owners.entry(*cpu).or_insert(&vm.name);
            if **owner != vm.name {
                complaints
                    .add(ErrorKind::ClaimedCpu, *span)
                    .found(format!("CPU {cpu} for \"{}\" too", vm.name))
                    .expected(format!("a CPU that \"{owner}\" does not have to itself"))
                    .help("leave `cpus` out of both VMs to have them share CPUs");
            }
        }
    }
}

fn check_macs(vms: &[VmPlan], complaints: &mut Complaints) {
    let mut owners: BTreeMap<MacAddress, &VmName> = BTreeMap::new();
    for vm in vms {
        for nic in &vm.nics {
            let Some(owner) = owners.insert(nic.mac, &vm.name) else {
                continue;
            };
            complaints
                .add(ErrorKind::DuplicateMac, nic.mac_span)
                .found(format!(
                    "{} for a NIC of \"{}\", when one of \"{owner}\" has it",
                    nic.mac, vm.name
                ))
                .expected("an address that no NIC before this one has")
                .help("give one of them another `mac`");
        }
    }
}
