//! What functions were kept from: told, up to a rate, and an end to what will not stop.
//!
//! Records are looked at from time to time, not by an interrupt: a function that faults as fast as it can costs no
//! more than one that does not.

use super::Iommu;
use super::remapper::Remapper;
use crate::events;
use alloc::vec::Vec;
use bulkhead_core::events::{DmaFault, Event};
use bulkhead_core::pci::Address;
use bulkhead_core::vtd::fault::FaultRecord;
use bulkhead_core::vtd::flood::{FloodLimits, Floods, Verdict};

impl Iommu {
    /// Deals with the faults recorded so far, at host TSC `now`; each is handed to `each` besides.
    pub fn look(&mut self, now: u64, mut each: impl FnMut(&FaultRecord)) {
        let Self {
            units,
            floods,
            attached,
            vms,
            ..
        } = self;
        let mut cut: Vec<Address> = Vec::new();
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
                match floods.fault(record.source, now) {
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
                            "VT-d: device {} caused {faults} faults within a second; it is cut off from the bus",
                            record.source
                        );
                        events::send(&Event::DeviceCutOff {
                            source: record.source,
                            faults,
                        });
                        cut.push(requester);
                    }
                    Verdict::Count | Verdict::WasCutOff => {}
                }
            });
            if drained.overflow {
                log::debug!("VT-d unit {number}: further faults were not recorded");
            }
        }
        for requester in cut {
            self.cut_off(requester);
        }
    }

    /// Takes the bus from whatever comes under this name, until it is taken out of its domain.
    fn cut_off(&mut self, requester: Address) {
        let mine = self.attached.iter_mut();
        for one in mine.filter(|one| one.requesters.contains(&requester)) {
            one.cut_off = true;
            self.functions.set_master(one.function, false);
        }
        self.functions.set_master(requester, false);
    }

    /// Has other limits from now on, and forgets the faults so far.
    pub fn limit_faults(&mut self, limits: FloodLimits) {
        self.floods = Floods::new(limits);
    }

    /// Lets a function that is in a domain use the bus by itself, or no more. One that was cut off is not let.
    pub fn set_master(&mut self, function: Address, on: bool) {
        let may = self
            .attached
            .iter()
            .any(|one| one.function == function && !one.cut_off);
        self.functions.set_master(function, on && may);
    }
}
