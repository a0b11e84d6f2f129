//! Which of the machine's devices each VM gets: the names of the manifest against what is there.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::error::{Complaints, ErrorKind, ManifestErrors};
use super::plan::{DevicePlan, Plan, VmPlan};
use bulkhead_host::pci::{Address, Function, Groups, Inventory};

/// The most functions that a complaint names.
const MAX_NAMED: usize = 8;

/// Which VM has which function, as far as is known.
type Owners<'p> = Vec<(Address, &'p VmPlan)>;

/// The functions that one VM gets, in the order of the manifest.
pub type Assigned = Vec<Address>;

impl Plan {
    /// Finds the functions that the VMs are to get: for each VM of the plan, in its order. Every function is in at most
    /// one VM, and so is every group of them.
    ///
    /// # Errors
    /// A complaint for each device that is not there, of which there are several, which another name means too, which
    /// no VM can have, or which reaches a device that is not its VM's.
    #[inline(never)]
    pub fn assign(
        &self,
        inventory: &Inventory,
        groups: &Groups,
    ) -> Result<Vec<Assigned>, ManifestErrors> {
        let mut complaints = Complaints::default();
        let mut owners = Owners::new();
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

fn owner_of<'p>(owners: &Owners<'p>, function: Address) -> Option<&'p VmPlan> {
    let mut found = owners.iter().filter(|(owned, _)| *owned == function);
    found.next().map(|(_, vm)| *vm)
}

/// A complaint of a device's. One for all: the image has to stay small.
#[inline(never)]
fn complain(
    complaints: &mut Complaints,
    (kind, device): (ErrorKind, &DevicePlan),
    found: String,
    expected: &'static str,
    help: String,
) {
    complaints
        .add(kind, device.span)
        .found(found)
        .expected(expected)
        .help(help);
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
            complain(
                complaints,
                (ErrorKind::MachineDeviceKept, device),
                format!("{wanted}, which is {}", describe(function)),
                "a device, not one of the bridges that hold the machine together",
                format!("the machine can give away {}", list(inventory)),
            );
            None
        }
        [] => {
            complain(
                complaints,
                (ErrorKind::MachineDeviceMissing, device),
                wanted,
                "a device that the machine has",
                format!("it can give away {}", list(inventory)),
            );
            None
        }
        several => {
            let addresses = join(several, " or ", &as_written);
            complain(
                complaints,
                (ErrorKind::MachineDeviceAmbiguous, device),
                format!("{wanted}, of which there are {}", several.len()),
                "a name that means one function",
                format!("write {addresses}"),
            );
            None
        }
    }
}

/// Gives `function` to `vm`, unless somebody has it.
fn claim<'p>(
    vm: &'p VmPlan,
    device: &DevicePlan,
    function: &Function,
    owners: &mut Owners<'p>,
    complaints: &mut Complaints,
) -> bool {
    let mut had = owners
        .iter_mut()
        .filter(|(owned, _)| *owned == function.address);
    let Some((_, owner)) = had.next() else {
        owners.push((function.address, vm));
        return true;
    };
    // A third name is told of the second.
    let owner = core::mem::replace(owner, vm);
    complain(
        complaints,
        (ErrorKind::MachineDeviceDoubled, device),
        format!(
            "{} for \"{}\", when \"{}\" has {}",
            device.name, vm.name, owner.name, function.address
        ),
        "a device that no [[vm.device]] before this one means",
        String::from("remove one of the two"),
    );
    false
}

/// Complains unless every device of `group` is the VM's. Bridges are nobody's.
fn check_group(
    vm: &VmPlan,
    device: &DevicePlan,
    group: &[Address],
    inventory: &Inventory,
    owners: &Owners<'_>,
    complaints: &mut Complaints,
) {
    let members = group.iter().filter_map(|address| inventory.find(*address));
    let strangers: Vec<_> = members
        .filter(|member| !member.is_bridge())
        .filter(|member| owner_of(owners, member.address).is_none_or(|owner| owner.name != vm.name))
        .collect();
    if strangers.is_empty() {
        return;
    }
    let named = join(&strangers, ", ", &|member| {
        let whose = match owner_of(owners, member.address) {
            Some(owner) => format!(", of \"{}\"", owner.name),
            None => String::new(),
        };
        format!("{} ({}{whose})", member.address, member.id)
    });
    let kept = strangers.iter().find(|member| !member.is_assignable());
    let help = match kept {
        Some(kept) => format!(
            "{} stays with the hypervisor, so no VM can have this device; use one in another slot",
            kept.address
        ),
        None => format!(
            "give \"{}\" {} too, or use a device in another slot",
            vm.name,
            join(&strangers, ", ", &as_written)
        ),
    };
    complain(
        complaints,
        (ErrorKind::MachineDeviceGroup, device),
        format!(
            "{} for \"{}\", which reaches {named} past the IOMMU",
            device.name, vm.name
        ),
        "all devices that reach each other in one VM",
        help,
    );
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
    join(&assignable, ", ", &describe)
}

fn describe(function: &Function) -> String {
    format!(
        "{} ({}, class {})",
        function.address, function.id, function.class
    )
}

/// How a manifest names the function at its address.
fn as_written(function: &Function) -> String {
    format!("`address = \"{}\"`", function.address)
}

/// What `describe` says of the first [`MAX_NAMED`] of `functions`, and how many more there are.
fn join(functions: &[&Function], between: &str, describe: &dyn Fn(&Function) -> String) -> String {
    let mut text = String::new();
    for (index, function) in functions.iter().take(MAX_NAMED).enumerate() {
        if index > 0 {
            text.push_str(between);
        }
        text.push_str(&describe(function));
    }
    let more = functions.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}
