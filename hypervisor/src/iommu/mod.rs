//! The machine's VT-d units and the functions behind them: default-deny before any VM is made.
//!
//! [`Iommu::start`] brings every unit up with empty tables, so that no function reaches memory or raises an interrupt. A
//! VM's devices are let into its domain by [`Iommu::attach`]; what devices were kept from is looked at by [`Iommu::look`].
//! What the tables, the order and the limits are is `bulkhead_core::vtd`'s to say.
//!
//! | module | what it does |
//! |---|---|
//! | [`survey()`] | names the units before anything depends on them |
//! | `remapper` | one unit, up and running |
//! | `assign` | lets functions into domains, and out of them |
//! | `interrupts` | lets functions raise interrupts |
//! | `faults` | tells what functions were kept from, and cuts off what will not stop |
//! | `registers`, [`tables`] | the way to a unit's registers, and to the memory that it reads |

mod assign;
mod faults;
mod interrupts;
mod registers;
mod remapper;
mod survey;
pub mod tables;

pub use survey::survey;

use crate::memory::Memory;
use crate::pci::{Buses, Functions};
use alloc::string::String;
use alloc::vec::Vec;
use assign::Attachment;
use bulkhead_core::manifest::IommuPolicy;
use bulkhead_core::pci::inventory::Behind;
use bulkhead_core::pci::{Address, Groups, Header, Inventory};
use bulkhead_core::vtd::SourceId;
use bulkhead_core::vtd::dmar::{self, Dmar, PlatformFlags};
use bulkhead_core::vtd::flood::{FloodLimits, Floods};
use bulkhead_core::vtd::interrupt::HandleError;
use bulkhead_core::vtd::unit::UnitError;
use core::fmt;
use remapper::Remapper;
use spin::{Mutex, MutexGuard, Once};

static IOMMU: Once<Mutex<Iommu>> = Once::new();

/// Makes `iommu` what [`lock`] gives.
pub fn install(iommu: Iommu) {
    IOMMU.call_once(|| Mutex::new(iommu));
}

/// The machine's functions and units; `None` before [`install`].
pub fn lock() -> Option<MutexGuard<'static, Iommu>> {
    IOMMU.get().map(Mutex::lock)
}

/// The same, where nobody has it.
pub fn try_lock() -> Option<MutexGuard<'static, Iommu>> {
    IOMMU.get().and_then(Mutex::try_lock)
}

/// The machine's functions, and the units in front of them.
pub struct Iommu {
    functions: Functions,
    dmar: Option<Dmar>,
    /// Those that translate.
    units: Vec<Remapper>,
    attached: Vec<Attachment>,
    floods: Floods,
    /// The VMs' names, in the order of the plan.
    vms: Vec<String>,
}

/// Why a function cannot be let into a domain, or out of it.
#[derive(Debug)]
pub enum IommuError {
    /// The manifest wants VT-d.
    Required,
    /// The manifest wants VT-d, and some of the units cannot be brought up.
    Incomplete,
    /// The machine has no such function.
    NoFunction(Address),
    /// No unit that translates is in front of it.
    NoUnit(Address),
    /// It is in a domain already.
    Attached(Address),
    /// It is in none, or in another.
    NotAttached(Address),
    /// The unit in front of it remaps no interrupts, or a bridge puts its own name to them.
    NoInterrupts(Address),
    /// The unit in front of it cannot walk the domain's tables.
    Shape(Address),
    /// A function that it reaches behind the units' back is in another domain.
    Split(Address, Address),
    /// No memory is left for its bus's context table.
    NoTable(Address),
    /// The unit does not answer. Its functions are silent from here on.
    Unit(UnitError),
    /// Interrupt-remapping entries.
    Handles(HandleError),
    /// Something waits for a unit that is not there.
    Unfinished,
}

impl fmt::Display for IommuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str(
                "the manifest has iommu = \"required\", and no VT-d unit translates on this machine: turn VT-d on in the \
                 firmware set-up, or write iommu = \"auto\" and accept that only their bus-master bits hold devices back",
            ),
            Self::Incomplete => f.write_str(
                "the manifest has iommu = \"required\", and not every function has a VT-d unit in front that translates, as said above: \
                 update the firmware, or write iommu = \"auto\" and accept that only their bus-master bits hold the devices \
                 behind the others back",
            ),
            Self::NoFunction(function) => write!(f, "there is no PCI function {function}"),
            Self::NoUnit(function) => write!(
                f,
                "no VT-d unit that translates is in front of {function}: it cannot be given to a VM"
            ),
            Self::Attached(function) => write!(f, "{function} is in an I/O domain already"),
            Self::NotAttached(function) => write!(f, "{function} is not in this I/O domain"),
            Self::NoInterrupts(function) => write!(
                f,
                "the interrupts of {function} cannot be told from others': its VT-d unit remaps none, or a bridge sends them"
            ),
            Self::Shape(function) => write!(
                f,
                "the VT-d unit in front of {function} cannot walk the tables that the VM's other devices have"
            ),
            Self::Split(function, other) => write!(
                f,
                "{function} reaches {other}, which is in another I/O domain"
            ),
            Self::NoTable(function) => write!(
                f,
                "no memory is left for the VT-d tables of {function}'s bus; give VMs devices of fewer buses"
            ),
            Self::Unit(error) => error.fmt(f),
            Self::Handles(error) => error.fmt(f),
            Self::Unfinished => f.write_str("a change waits for a VT-d unit that is not there"),
        }
    }
}

impl core::error::Error for IommuError {}

impl From<UnitError> for IommuError {
    fn from(error: UnitError) -> Self {
        Self::Unit(error)
    }
}

impl From<HandleError> for IommuError {
    fn from(error: HandleError) -> Self {
        Self::Handles(error)
    }
}

impl Iommu {
    /// Brings up the units of `dmar`, unless `policy` is to leave them alone. A unit that cannot be brought up is left, with
    /// a warning, and its functions stay silent. `vms` are the names of the plan's VMs, `tsc_khz` the clock's rate.
    ///
    /// # Errors
    /// [`IommuError::Required`] and [`IommuError::Incomplete`] where the policy wants units that are not there.
    pub fn start(
        memory: &mut Memory,
        functions: Functions,
        dmar: Option<Dmar>,
        policy: IommuPolicy,
        vms: Vec<String>,
        tsc_khz: u32,
    ) -> Result<Self, IommuError> {
        let second = u64::from(tsc_khz) * 1_000;
        let mut iommu = Self {
            functions,
            dmar,
            units: Vec::new(),
            attached: Vec::new(),
            floods: Floods::new(FloodLimits::of_a_second(second)),
            vms,
        };
        let found = iommu.dmar.as_ref().filter(|_| policy != IommuPolicy::Off);
        let remaps_interrupts =
            found.is_some_and(|dmar| dmar.flags.contains(PlatformFlags::INTERRUPT_REMAPPING));
        for (number, unit) in found
            .map(|dmar| dmar.units.as_slice())
            .unwrap_or_default()
            .iter()
            .enumerate()
        {
            match Remapper::start(memory, number, unit, remaps_interrupts) {
                Ok(remapper) => iommu.units.push(remapper),
                Err(error) => log::error!(
                    "VT-d unit {number} at {}: {error}; the functions behind it stay silent, and no VM can have them",
                    unit.registers
                ),
            }
        }
        iommu.functions.settle(tsc_khz);
        iommu.functions.describe();
        iommu.describe(policy);
        let wanted = iommu.dmar.as_ref().map_or(0, |dmar| dmar.units.len());
        match policy {
            IommuPolicy::Required if !iommu.translates() => Err(IommuError::Required),
            IommuPolicy::Required if iommu.units.len() < wanted || iommu.is_bypassed() => {
                Err(IommuError::Incomplete)
            }
            IommuPolicy::Required | IommuPolicy::Auto | IommuPolicy::Off => Ok(iommu),
        }
    }

    fn describe(&self, policy: IommuPolicy) {
        let count = survey::Count(self.units.len(), "unit");
        if policy == IommuPolicy::Off {
            log::warn!("VT-d: off, as the manifest has it; only bus-master bits hold devices back");
        } else if self.translates() {
            log::info!(
                "VT-d: {count} on, no function in any domain; interrupts {}",
                if self.units.iter().all(Remapper::remaps_interrupts) {
                    "remapped, none allowed"
                } else {
                    "not remapped by all"
                }
            );
            let functions = self.inventory().functions().iter();
            for function in functions.filter(|one| self.unit_of(one.address).is_err()) {
                log::warn!(
                    "VT-d: no unit that translates is in front of {} ({}): only its bus-master bit holds it back",
                    function.address,
                    function.id
                );
            }
        }
    }

    /// The machine's functions.
    #[must_use]
    pub const fn inventory(&self) -> &Inventory {
        &self.functions.inventory
    }

    /// Which of them belong together.
    #[must_use]
    pub const fn groups(&self) -> &Groups {
        &self.functions.groups
    }

    /// The way to their configuration space.
    pub const fn config(&mut self) -> &mut Buses {
        &mut self.functions.buses
    }

    /// The functions themselves, to reset them; [`Self::set_master`] is what lets one use the bus.
    pub const fn functions(&mut self) -> &mut Functions {
        &mut self.functions
    }

    /// Whether some function has no unit in front of it.
    fn is_bypassed(&self) -> bool {
        let mut functions = self.inventory().functions().iter();
        functions.any(|function| self.unit_of(function.address).is_err())
    }

    /// Whether any unit translates.
    #[must_use]
    pub const fn translates(&self) -> bool {
        !self.units.is_empty()
    }

    /// Which unit is in front of a function, as an index into `units`.
    fn unit_of(&self, function: Address) -> Result<usize, IommuError> {
        let none = IommuError::NoUnit(function);
        let Some(dmar) = &self.dmar else {
            return Err(none);
        };
        let inventory = &self.functions.inventory;
        let bridges = |segment, source| buses_behind(inventory, segment, source);
        let source = SourceId(function.source_id());
        let unit = dmar.unit_of(function.segment(), source, &bridges);
        unit.and_then(|unit| {
            let same =
                |remapper: &Remapper| remapper.registers() == unit.registers && !remapper.is_dead;
            self.units.iter().position(same)
        })
        .ok_or(none)
    }

    /// The memory that the firmware's tables say a function must go on reaching.
    #[must_use]
    pub fn regions_of(&self, function: Address) -> Vec<dmar::ReservedRegion> {
        let inventory = &self.functions.inventory;
        let bridges = |segment, source| buses_behind(inventory, segment, source);
        let source = SourceId(function.source_id());
        self.dmar.as_ref().map_or_else(Vec::new, |dmar| {
            dmar.regions_of(function.segment(), source, &bridges)
                .cloned()
                .collect()
        })
    }
}

/// The buses behind a bridge, as the DMAR table's paths need them.
fn buses_behind(inventory: &Inventory, segment: u16, source: SourceId) -> Option<dmar::Buses> {
    let function = inventory.find(Address::from_source_id(segment, source.0))?;
    match function.header {
        Header::Bridge(Behind::Buses {
            secondary,
            subordinate,
        }) => Some(dmar::Buses {
            secondary,
            subordinate,
        }),
        _ => None,
    }
}
