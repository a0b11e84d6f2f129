//! Which of the machine's devices each VM gets: the names of the manifest against what is there.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::error::{Complaints, ErrorKind, ManifestErrors};
use super::plan::{DevicePlan, Plan, VmPlan};
use crate::pci::{Address, Function, Groups, Inventory};

/// The most functions that a complaint names.
const MAX_NAMED: usize = 8;

/// The functions that one VM gets, in the order of the manifest.
pub type Assigned = Vec<Address>;

impl Plan {
    /// Finds the functions that the VMs are to get: for each VM of the plan, in its order. Every function is in at most
    /// one VM, and so is every group of them.
    ///
    /// # Errors
    /// A complaint for each device that is not there, of which there are several, which another name means too, which
    /// no VM can have, or which reaches a device that is not its VM's.
    pub fn assign(
        &self,
        inventory: &Inventory,
        groups: &Groups,
    ) -> Result<Vec<Assigned>, ManifestErrors> {
        let mut complaints = Complaints::default();
        let mut owners: BTreeMap<Address, &VmPlan> = BTreeMap::new();
        let mut found = Vec::new();
        for vm in &self.vms {
            let mut functions = Vec::new();
            for device in &vm.devices {
                if let Some(function) = find(vm, device, inventory, &mut complaints)
                    && claim(vm, device, function, &mut owners, &mut complaints)
                {
                    functions.push((device, function.address));
                }
            }
            found.push(functions);
        }
        // A device that could not be found would only be missed once more in its group.
        if complaints.is_empty() {
            for (vm, functions) in self.vms.iter().zip(&found) {
                for (device, function) in functions {
                    let group = groups.of(*function).unwrap_or_default();
                    check_group(vm, device, group, inventory, &owners, &mut complaints);
                }
            }
        }
        complaints.into_result(&self.source)?;
        let addresses = |functions: Vec<(_, Address)>| {
            functions.into_iter().map(|(_, address)| address).collect()
        };
        Ok(found.into_iter().map(addresses).collect())
    }
}

/// The one function that `device` means.
fn find<'i>(
    vm: &VmPlan,
    device: &DevicePlan,
    inventory: &'i Inventory,
    complaints: &mut Complaints,
) -> Option<&'i Function> {
    let functions = inventory.functions().iter();
    let meant: Vec<_> = functions
        .filter(|function| device.name.matches(function))
        .collect();
    let wanted = format!("{} for \"{}\"", device.name, vm.name);
    match meant.as_slice() {
        [function] if function.is_assignable() => Some(function),
        [function] => {
            complaints
                .add(ErrorKind::MachineDeviceKept, device.span)
                .found(format!("{wanted}, which is {}", describe(function)))
                .expected("a device, not one of the bridges that hold the machine together")
                .help(format!("the machine can give away {}", list(inventory)));
            None
        }
        [] => {
            complaints
                .add(ErrorKind::MachineDeviceMissing, device.span)
                .found(wanted)
                .expected("a device that the machine has")
                .help(format!("it can give away {}", list(inventory)));
            None
        }
        several => {
            let addresses = join(
                several
                    .iter()
                    .map(|function| format!("`address = \"{}\"`", function.address)),
                " or ",
            );
            complaints
                .add(ErrorKind::MachineDeviceAmbiguous, device.span)
                .found(format!("{wanted}, of which there are {}", several.len()))
                .expected("a name that means one function")
                .help(format!("write {addresses}"));
            None
        }
    }
}

/// Gives `function` to `vm`, unless somebody has it.
fn claim<'p>(
    vm: &'p VmPlan,
    device: &DevicePlan,
    function: &Function,
    owners: &mut BTreeMap<Address, &'p VmPlan>,
    complaints: &mut Complaints,
) -> bool {
    let Some(owner) = owners.insert(function.address, vm) else {
        return true;
    };
    complaints
        .add(ErrorKind::MachineDeviceDoubled, device.span)
        .found(format!(
            "{} for \"{}\", when \"{}\" has {}",
            device.name, vm.name, owner.name, function.address
        ))
        .expected("a device that no [[vm.device]] before this one means")
        .help("remove one of the two");
    false
}

/// Complains unless every device of `group` is the VM's. Bridges are nobody's.
fn check_group(
    vm: &VmPlan,
    device: &DevicePlan,
    group: &[Address],
    inventory: &Inventory,
    owners: &BTreeMap<Address, &VmPlan>,
    complaints: &mut Complaints,
) {
    let members = group.iter().filter_map(|address| inventory.find(*address));
    let strangers: Vec<_> = members
        .filter(|member| !member.is_bridge())
        .filter(|member| {
            owners
                .get(&member.address)
                .is_none_or(|owner| owner.name != vm.name)
        })
        .collect();
    if strangers.is_empty() {
        return;
    }
    let named = join(
        strangers.iter().map(|member| {
            let whose = match owners.get(&member.address) {
                Some(owner) => format!(", of \"{}\"", owner.name),
                None => String::new(),
            };
            format!("{} ({}{whose})", member.address, member.id)
        }),
        ", ",
    );
    let kept = strangers.iter().find(|member| !member.is_assignable());
    let complaint = complaints.add(ErrorKind::MachineDeviceGroup, device.span);
    complaint
        .found(format!(
            "{} for \"{}\", which reaches {named} past the IOMMU",
            device.name, vm.name
        ))
        .expected("all devices that reach each other in one VM");
    match kept {
        Some(kept) => complaint.help(format!(
            "{} stays with the hypervisor, so no VM can have this device; use one in another slot",
            kept.address
        )),
        None => complaint.help(format!(
            "give \"{}\" {} too, or use a device in another slot",
            vm.name,
            join(
                strangers
                    .iter()
                    .map(|member| format!("`address = \"{}\"`", member.address)),
                ", "
            )
        )),
    };
}

/// What can be given away, as far as a line bears it.
fn list(inventory: &Inventory) -> String {
    let functions = inventory.functions().iter();
    let assignable: Vec<_> = functions
        .filter(|function| function.is_assignable())
        .collect();
    if assignable.is_empty() {
        return String::from("no device at all");
    }
    join(assignable.iter().map(|function| describe(function)), ", ")
}

fn describe(function: &Function) -> String {
    format!(
        "{} ({}, class {})",
        function.address, function.id, function.class
    )
}

/// The first [`MAX_NAMED`] of `items`, and how many more there are.
fn join(items: impl ExactSizeIterator<Item = String>, between: &str) -> String {
    let more = items.len().saturating_sub(MAX_NAMED);
    let named: Vec<String> = items.take(MAX_NAMED).collect();
    let mut text = named.join(between);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
