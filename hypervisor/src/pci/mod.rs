//! The machine's PCI functions: reaching their configuration space, and silencing them before anything else happens.
//!
//! What is there and what belongs together is `bulkhead_core::pci`'s to say; [`buses`] is the way to the registers.

mod buses;

pub use buses::Buses;

use crate::arch::cpu::rdtsc;
use crate::memory::Memory;
use bulkhead_core::pci::quiesce::{
    IDLE_TIMEOUT_MS, Step, TRANSACTIONS_PENDING, VIRTUAL_FUNCTION_BITS, quiesce,
};
use bulkhead_core::pci::register::{COMMAND, Command};
use bulkhead_core::pci::{
    Address, ConfigAccess, EcamWindow, Groups, Inventory, Width, enumerate, groups,
};

/// The machine's functions, silent.
pub struct Functions {
    /// The way to them.
    pub buses: Buses,
    /// What there is.
    pub inventory: Inventory,
    /// What belongs together.
    pub groups: Groups,
}

impl Functions {
    /// Finds every function and takes its bus mastering; what it has under way may still arrive.
    pub fn take_over(memory: &mut Memory, windows: &[EcamWindow]) -> Self {
        let mut buses = Buses::map(memory, windows);
        let bridges = buses.bridges();
        let inventory = enumerate(&mut buses, &bridges);
        for step in quiesce(&inventory) {
            silence(&mut buses, step);
        }
        let groups = Groups::new(&inventory);
        Self {
            buses,
            inventory,
            groups,
        }
    }

    /// Waits until every function has finished what it had under way, all together no longer than one may take, and turns on
    /// what keeps functions apart. `tsc_khz` is the clock's rate.
    pub fn settle(&mut self, tsc_khz: u32) {
        let until = rdtsc().saturating_add(u64::from(IDLE_TIMEOUT_MS) * u64::from(tsc_khz));
        for step in quiesce(&self.inventory) {
            if let Step::AwaitIdle { function, status } = step {
                await_idle(&mut self.buses, function, status, until);
            }
        }
        for setting in groups::acs_settings(&self.inventory) {
            let value = setting.value.bits().into();
            self.buses
                .write(setting.function, setting.at, Width::Word, value);
        }
    }

    /// Says what there is.
    pub fn describe(&self) {
        for warning in self.inventory.warnings() {
            log::warn!("PCI: {warning}");
        }
        let functions = self.inventory.functions();
        let groups = self.groups.all();
        log::info!(
            "PCI: {} functions in {} groups, reached by {}; none is a bus master",
            functions.len(),
            groups.len(),
            if self.buses.has_windows() {
                "memory"
            } else {
                "ports"
            }
        );
        for (number, group) in groups.iter().enumerate() {
            for function in group.iter().filter_map(|at| self.inventory.find(*at)) {
                log::debug!(
                    "PCI group {number}: {} {}, class {}{}",
                    function.address,
                    function.id,
                    function.class,
                    if function.is_assignable() {
                        ""
                    } else {
                        ", stays with the hypervisor"
                    }
                );
            }
        }
    }

    /// Lets a function use the bus by itself, or no more, whoever it belongs to: [`Iommu`](crate::iommu::Iommu) says who may. The bridges above it go on forwarding what others below them send.
    pub fn force_master(&mut self, function: Address, on: bool) {
        let Self {
            buses, inventory, ..
        } = self;
        if on && let Some(found) = inventory.find(function) {
            for bridge in inventory.ancestors(found) {
                set_master(buses, bridge.address, true);
            }
        }
        set_master(buses, function, on);
    }
}

fn set_master(buses: &mut Buses, function: Address, on: bool) {
    let raw = buses.read(function, COMMAND.into(), Width::Word) as u16;
    let mut command = Command::from_bits_retain(raw);
    command.set(Command::MASTER, on);
    buses.write(function, COMMAND.into(), Width::Word, command.bits().into());
}

fn silence(buses: &mut Buses, step: Step) {
    match step {
        Step::DisableVirtualFunctions { function, control } => {
            let found = buses.read(function, control, Width::Word) as u16;
            let off = found & !VIRTUAL_FUNCTION_BITS;
            buses.write(function, control, Width::Word, off.into());
        }
        Step::ClearMaster(function) => set_master(buses, function, false),
        // Later: units are put in front first, and nobody is waited for without.
        Step::AwaitIdle { .. } => {}
    }
}

fn await_idle(buses: &mut Buses, function: Address, status: u16, until: u64) {
    while buses.read(function, status, Width::Word) as u16 & TRANSACTIONS_PENDING != 0 {
        if rdtsc() >= until {
            log::warn!("PCI: {function} did not finish what it had under way");
            return;
        }
        core::hint::spin_loop();
    }
}
