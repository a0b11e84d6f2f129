//! What functions were kept from: told, up to a rate, and an end to what will not stop.
//!
//! Records are looked at from time to time, not by an interrupt: a function that faults as fast as it can costs no
//! more than one that does not.

use super::Iommu;
use super::assign::Attachment;
use super::remapper::Remapper;
use crate::events;
use alloc::vec::Vec;
use bulkhead_core::events::{DmaFault, Event};
use bulkhead_core::pci::{Address, Inventory};
use bulkhead_core::vtd::fault::FaultRecord;
use bulkhead_core::vtd::flood::{FloodLimits, Floods, Verdict};

impl Iommu {
    /// Deals with the faults recorded so far, at host TSC `now`; each is handed to `each` besides. Whether a unit had more
    /// than it has room for.
    pub fn look(&mut self, now: u64, each: &mut dyn FnMut(&FaultRecord)) -> bool {
        let Self {
            units,
            floods,
            attached,
            vms,
            functions,
            ..
        } = self;
        let mut cut: Vec<Address> = Vec::new();
        let mut lost = false;
        for Remapper {
            unit,
            number,
            segment,
            ..
        } in units
        {
            let drained = unit.faults(|record| {
                each(&record);
                let requester = Address::from_source_id(*segment, record.source.0);
                let sender = sender(&functions.inventory, attached, requester);
                match floods.fault(sender, now) {
                    Verdict::Tell { untold } => {
                        let owner = attached
                            .iter()
                            .find(|one| one.requesters.contains(&requester))
                            .and_then(|one| vms.get(usize::from(one.vm.0)));
                        let vm = owner.map_or("", |name| name.as_str());
                        log::warn!("VT-d: {record}");
                        events::send(&Event::DmaFault(DmaFault {
                            unit: *number,
                            record,
                            vm,
                            untold,
                        }));
                    }
                    Verdict::CutOff { faults } => {
                        log::error!(
                            "VT-d: device {sender} caused {faults} faults within a second; it is cut off from the bus"
                        );
                        events::send(&Event::DeviceCutOff {
                            source: record.source,
                            faults,
                        });
                        cut.push(sender);
                    }
                    Verdict::Count | Verdict::WasCutOff => {}
                }
            });
            lost |= drained.overflow;
        }
        for sender in cut {
            self.cut_off(sender);
        }
        lost
    }

    /// Takes the bus from who sends under this name, until it is taken out of its domain. A bridge is not silenced for a name
    /// that anybody on its bus may use.
    fn cut_off(&mut self, sender: Address) {
        let Self {
            attached,
            functions,
            ..
        } = self;
        let mut silent: Vec<Address> = Vec::new();
        for one in attached
            .iter_mut()
            .filter(|one| one.requesters.contains(&sender))
        {
            one.cut_off = true;
            silent.push(one.function);
        }
        let found = functions.inventory.find(sender);
        if silent.is_empty() && found.is_some_and(|found| !found.is_bridge()) {
            silent.push(sender);
        }
        for function in silent {
            functions.force_master(function, false);
        }
    }

    /// Has other limits from now on, and forgets the faults so far.
    pub fn limit_faults(&mut self, limits: FloodLimits) {
        self.floods = Floods::new(limits);
    }

    /// Lets a function that is in a domain use the bus by itself, or no more. One that was cut off is not let.
    pub fn set_master(&mut self, function: Address, on: bool) {
        let mut attached = self.attached.iter();
        let may = attached.any(|one| one.function == function && !one.cut_off && !one.is_broken)
            && self.unit_of(function).is_ok();
        self.functions.force_master(function, on && may);
    }
}

/// Who sends under a name. Ports verify the bus of what they pass on and nothing below it: a name that no function has is
/// that of the first function on the bus, so that making up names gains nothing.
fn sender(inventory: &Inventory, attached: &[Attachment], requester: Address) -> Address {
    let is_known = inventory.find(requester).is_some()
        || attached
            .iter()
            .any(|one| one.requesters.contains(&requester));
    if is_known {
        return requester;
    }
    let bus = |address: Address| (address.segment(), address.bus());
    let mut there = inventory.functions().iter();
    there
        .find(|function| bus(function.address) == bus(requester))
        .map_or(requester, |function| function.address)
}
