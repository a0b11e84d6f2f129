//! What no VM's own entry can say: that no two VMs claim the same CPU, address or device.

use alloc::vec::Vec;

use super::device::DeviceName;
use super::error::{Complaints, ErrorKind};
use super::name::VmName;
use super::plan::{HypervisorOptions, IommuPolicy, VmPlan};

/// Complains about each claim that an earlier VM has made, and each that `hypervisor` rules out.
pub(super) fn check(
    hypervisor: Option<&HypervisorOptions>,
    vms: &[VmPlan],
    complaints: &mut Complaints,
) {
    check_cpus(vms, complaints);
    check_macs(vms, complaints);
    check_devices(vms, complaints);
    if hypervisor.is_some_and(|options| options.iommu == IommuPolicy::Off) {
        refuse_devices(vms, complaints);
    }
}

/// Who claims what. A list, for there is little: a map of each kind would be a map's code each.
struct Claims<'p, C>(Vec<(C, &'p VmName)>);

impl<'p, C: PartialEq> Claims<'p, C> {
    /// Notes that `vm` claims `what`, and says who did before.
    fn claim(&mut self, what: C, vm: &'p VmName) -> Option<&'p VmName> {
        match self.0.iter_mut().find(|(claimed, _)| *claimed == what) {
            Some((_, owner)) => Some(core::mem::replace(owner, vm)),
            None => {
                self.0.push((what, vm));
                None
            }
        }
    }
}

fn check_cpus(vms: &[VmPlan], complaints: &mut Complaints) {
    let mut claims = Claims(Vec::new());
    for vm in vms {
        for (cpu, span) in vm.cpus.iter().flatten().zip(&vm.spans.cpus) {
            // No VM names a CPU twice.
            if let Some(owner) = claims.claim(*cpu, &vm.name) {
                complaints
                    .add(ErrorKind::ClaimedCpu, *span)
                    .found(format_args!("CPU {cpu} for \"{}\" too", vm.name))
                    .expected(format_args!(
                        "a CPU that \"{owner}\" does not have to itself"
                    ))
                    .help("leave `cpus` out of both VMs to have them share CPUs");
            }
        }
    }
}

fn check_macs(vms: &[VmPlan], complaints: &mut Complaints) {
    let mut claims = Claims(Vec::new());
    for vm in vms {
        for nic in &vm.nics {
            let Some(owner) = claims.claim(nic.mac, &vm.name) else {
                continue;
            };
            complaints
                .add(ErrorKind::DuplicateMac, nic.mac_span)
                .found(format_args!(
                    "{} for a NIC of \"{}\", when one of \"{owner}\" has it",
                    nic.mac, vm.name
                ))
                .expected("an address that no NIC before this one has")
                .help("give one of them another `mac`");
        }
    }
}

fn check_devices(vms: &[VmPlan], complaints: &mut Complaints) {
    let mut claims = Claims(Vec::new());
    for vm in vms {
        for device in &vm.devices {
            let Some(owner) = claims.claim(device.name, &vm.name) else {
                continue;
            };
            complaints
                .add(ErrorKind::DuplicateDevice, device.span)
                .found(format_args!(
                    "{} for \"{}\", when \"{owner}\" has it",
                    device.name, vm.name
                ))
                .expected("a device that no [[vm.device]] before this one names")
                .help(match device.name {
                    DeviceName::Address(_) => "remove one of the two",
                    DeviceName::Id { .. } => {
                        "where the machine has several of them, name each by its `address`"
                    }
                });
        }
    }
}

fn refuse_devices(vms: &[VmPlan], complaints: &mut Complaints) {
    for vm in vms {
        for device in &vm.devices {
            complaints
                .add(ErrorKind::DeviceWithoutIommu, device.span)
                .found(format_args!(
                    "{} for \"{}\", with `iommu = \"off\"`",
                    device.name, vm.name
                ))
                .expected("an IOMMU between the device and the memory of others")
                .help("write `iommu = \"required\"`, or remove the device");
        }
    }
}
