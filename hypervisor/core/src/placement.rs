//! Which CPU each vCPU runs on, decided once when the machine starts: [`Placement::decide`].
//!
//! A VM with `cpus` has those CPUs to itself. All others share what is left, spread by weight. Unless the manifest says
//! `smt = "share"`, no two VMs ever run on threads of one core: the threads beside a VM's own CPU are that VM's or
//! nobody's, and VMs that share use one thread of each core. [`crate::sched`] divides each CPU then.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::manifest::SmtPolicy;
use crate::order::sort_by_key;
use crate::topology::Location;

/// What a VM asks for.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The VM's name, for complaints.
    pub name: &'a str,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// The CPUs it has to itself; `None`: those that no VM has to itself.
    pub cpus: Option<&'a [u32]>,
    /// Its weight beside others.
    pub weight: u32,
}

/// Where every vCPU runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// By VM, then by vCPU.
    vms: Vec<Vec<u32>>,
}

/// A demand that this machine cannot meet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PlacementError {
    /// A CPU that the machine lacks.
    Absent {
        /// The VM that asks for it.
        vm: String,
        /// The CPU.
        cpu: u32,
        /// How many the machine has.
        cpus: usize,
    },
    /// A CPU that the machine has, and that did not come up.
    Unusable {
        /// The VM that asks for it.
        vm: String,
        /// The CPU.
        cpu: u32,
    },
    /// A CPU that two VMs want to themselves, or one VM twice.
    PinnedTwice {
        /// The VM that asks for it.
        vm: String,
        /// The CPU.
        cpu: u32,
        /// The VM that has it already.
        owner: String,
    },
    /// A CPU on a core that another VM has to itself.
    SiblingOfPinned {
        /// The VM that asks for it.
        vm: String,
        /// The CPU.
        cpu: u32,
        /// The VM that has the core already.
        owner: String,
        /// That VM's CPU on the core.
        sibling: u32,
    },
    /// No CPU that the VM could run on.
    NoneLeft {
        /// The VM.
        vm: String,
    },
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { vm, cpu, cpus } => write!(
                f,
                "VM '{vm}' asks for CPU {cpu}, but this machine has {cpus}, counted from 0: change `cpus`"
            ),
            Self::Unusable { vm, cpu } => write!(
                f,
                "VM '{vm}' asks for CPU {cpu}, which cannot be used, as the log says further up: change `cpus`"
            ),
            Self::PinnedTwice { vm, cpu, owner } => write!(
                f,
                "VM '{vm}' asks for CPU {cpu}, which VM '{owner}' has to itself: name another CPU in `cpus`"
            ),
            Self::SiblingOfPinned {
                vm,
                cpu,
                owner,
                sibling,
            } => write!(
                f,
                "VM '{vm}' asks for CPU {cpu}, which is on one core with CPU {sibling} of VM '{owner}': \
                 name a CPU of another core, or set `smt = \"share\"`"
            ),
            Self::NoneLeft { vm } => write!(
                f,
                "no CPU is left for VM '{vm}': other VMs' `cpus` take all, or, without `smt = \"share\"`, \
                 a thread of every core"
            ),
        }
    }
}

impl core::error::Error for PlacementError {}

impl Placement {
    /// Places every VM's vCPUs on a machine whose CPUs, in the order of their numbers, are where `cpus` says; `None`
    /// stands for one that cannot be used.
    ///
    /// # Errors
    /// [`PlacementError`]: the first demand, in the order of `vms`, that cannot be met.
    pub fn decide(
        vms: &[Demand<'_>],
        cpus: &[Option<Location>],
        smt: SmtPolicy,
    ) -> Result<Self, PlacementError> {
        let owners = owners(vms, cpus, smt)?;
        let mut shared = Spread::new(&owners, cpus, smt);
        let mut placed = vec![Vec::new(); vms.len()];
        // Heavy ones first: the light ones then even out what is left.
        let mut order: Vec<_> = vms.iter().zip(&mut placed).collect();
        sort_by_key(&mut order, |(vm, _)| core::cmp::Reverse(vm.weight));
        for (vm, place) in order {
            *place = match vm.cpus {
                Some(cpus) => cpus
                    .iter()
                    .copied()
                    .cycle()
                    .take(vm.vcpus as usize)
                    .collect(),
                None => shared.place(vm),
            };
        }
        let short = |(vm, place): &(&Demand<'_>, &Vec<u32>)| place.len() < vm.vcpus as usize;
        match vms.iter().zip(&placed).find(short) {
            Some((vm, _)) => Err(PlacementError::NoneLeft { vm: vm.name.into() }),
            None => Ok(Self { vms: placed }),
        }
    }

    /// The CPU of each vCPU of a VM, by its place in the list of VMs.
    #[must_use]
    pub fn cpus_of(&self, vm: usize) -> &[u32] {
        self.vms.get(vm).map_or(&[], Vec::as_slice)
    }

    /// The vCPUs on a CPU, each as its VM's place in the list and its number there.
    pub fn on(&self, cpu: u32) -> impl Iterator<Item = (usize, usize)> {
        self.vms.iter().enumerate().flat_map(move |(vm, cpus)| {
            let on = move |(vcpu, at): (usize, &u32)| (*at == cpu).then_some((vm, vcpu));
            cpus.iter().enumerate().filter_map(on)
        })
    }
}

/// Whether a CPU that may not be usable is a thread of the core at `at`.
fn same_core(cpu: Option<Location>, at: Location) -> bool {
    cpu.is_some_and(|cpu| cpu.same_core(at))
}

/// For each CPU the VM that has it to itself.
fn owners<'a>(
    vms: &[Demand<'a>],
    cpus: &[Option<Location>],
    smt: SmtPolicy,
) -> Result<Vec<Option<&'a str>>, PlacementError> {
    let mut owners: Vec<Option<(usize, &str)>> = vec![None; cpus.len()];
    for (index, vm) in vms.iter().enumerate() {
        for &cpu in vm.cpus.unwrap_or_default() {
            let (Some(owner), Some(at)) = (owners.get(cpu as usize), cpus.get(cpu as usize)) else {
                return Err(PlacementError::Absent {
                    vm: vm.name.into(),
                    cpu,
                    cpus: cpus.len(),
                });
            };
            let Some(at) = at else {
                return Err(PlacementError::Unusable {
                    vm: vm.name.into(),
                    cpu,
                });
            };
            if let Some((_, owner)) = owner {
                return Err(PlacementError::PinnedTwice {
                    vm: vm.name.into(),
                    cpu,
                    owner: (*owner).into(),
                });
            }
            let beside = owners
                .iter()
                .zip(cpus)
                .zip(0..)
                .find_map(|((owner, other), sibling)| {
                    let (owned_by, name) = (*owner)?;
                    (owned_by != index && same_core(*other, *at)).then_some((name, sibling))
                });
            if let Some((owner, sibling)) = beside
                && smt == SmtPolicy::Isolate
            {
                return Err(PlacementError::SiblingOfPinned {
                    vm: vm.name.into(),
                    cpu,
                    owner: owner.into(),
                    sibling,
                });
            }
            if let Some(owner) = owners.get_mut(cpu as usize) {
                *owner = Some((index, vm.name));
            }
        }
    }
    Ok(owners
        .into_iter()
        .map(|owner| owner.map(|(_, name)| name))
        .collect())
}

/// A CPU that VMs share, and what is on it so far.
#[derive(Clone, Copy)]
struct Load {
    cpu: u32,
    /// Of the VMs here; the scheduler gives a VM its weight once on each CPU.
    weight: u64,
    vcpus: u32,
}

/// The CPUs that VMs share.
struct Spread(Vec<Load>);

impl Spread {
    fn new(owners: &[Option<&str>], cpus: &[Option<Location>], smt: SmtPolicy) -> Self {
        let threads = || owners.iter().zip(cpus).zip(0..);
        let alone = |cpu: u32, at: Location| {
            !threads().any(|((owner, other), number)| {
                same_core(*other, at) && (owner.is_some() || number < cpu)
            })
        };
        let usable = |cpu: u32, at: &Option<Location>| {
            at.is_some_and(|at| smt == SmtPolicy::Share || alone(cpu, at))
        };
        let free = threads().filter(|((owner, at), cpu)| owner.is_none() && usable(*cpu, at));
        let load = |(_, cpu)| Load {
            cpu,
            weight: 0,
            vcpus: 0,
        };
        Self(free.map(load).collect())
    }

    /// Places a VM's vCPUs on the least loaded CPUs, two on one CPU only when there are more vCPUs than CPUs.
    fn place(&mut self, vm: &Demand<'_>) -> Vec<u32> {
        let mut place: Vec<u32> = Vec::new();
        for _ in 0..vm.vcpus {
            let own = |cpu: u32| place.iter().filter(|at| **at == cpu).count();
            let least = self
                .0
                .iter_mut()
                .min_by_key(|load| (own(load.cpu), load.weight, load.vcpus, load.cpu));
            let Some(load) = least else {
                break;
            };
            if own(load.cpu) == 0 {
                load.weight = load.weight.saturating_add(vm.weight.into());
            }
            load.vcpus = load.vcpus.saturating_add(1);
            place.push(load.cpu);
        }
        place
    }
}

#[cfg(test)]
mod tests;
