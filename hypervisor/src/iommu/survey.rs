//! Naming the units and what each can do, while the firmware still shows it.

use super::registers::Mapped;
use bulkhead_core::table::PageSize;
use bulkhead_core::vtd::capability::{Chosen, InterruptMode, InvalidationWay};
use bulkhead_core::vtd::dmar::{Dmar, DmarError, Unit};
use core::fmt;

/// The firmware surely maps what lies below, where addresses are equal.
const MAPPED_BELOW: u64 = 1 << 32;

/// Says which units there are, what each can do, and what is wrong with them. `x2apic` is whether the processors have that mode.
pub fn survey(dmar: Option<&Result<Dmar, DmarError>>, x2apic: bool) {
    let dmar = match dmar {
        None => {
            log::info!("VT-d: none");
            return;
        }
        Some(Err(error)) => {
            log::warn!("{error}");
            return;
        }
        Some(Ok(dmar)) => dmar,
    };
    for warning in &dmar.warnings {
        log::warn!("{warning}");
    }
    log::info!(
        "VT-d: {} of {}-bit addresses, {}",
        Count(dmar.units.len(), "unit"),
        dmar.address_width,
        Count(dmar.reserved.len(), "reserved region")
    );
    for (number, unit) in dmar.units.iter().enumerate() {
        describe(number, unit, x2apic);
    }
    for region in &dmar.reserved {
        log::info!(
            "VT-d: reserved region {} to {} of segment {}, for {}; given away only with them",
            region.base,
            region.limit,
            region.segment,
            Count(region.scopes.len(), "device")
        );
    }
}

fn describe(number: usize, unit: &Unit, x2apic: bool) {
    let at = unit.registers;
    if at.0.saturating_add(unit.size) > MAPPED_BELOW {
        log::warn!("VT-d unit {number} at {at}: above 4 GiB, where the firmware may not map it");
        return;
    }
    match Chosen::read(&mut Mapped::new(at), x2apic) {
        Ok(chosen) => log::info!(
            "VT-d unit {number} at {at}, segment {}{}: {}",
            unit.segment,
            if unit.include_pci_all {
                ", all functions that no other names"
            } else {
                ""
            },
            Abilities(&chosen)
        ),
        Err(error) => log::warn!("VT-d unit {number} at {at}: {error}"),
    }
}

/// So many of something.
pub(super) struct Count(pub(super) usize, pub(super) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, what) = self;
        write!(f, "{count} {what}{}", if *count == 1 { "" } else { "s" })
    }
}

/// What a unit can do, in words.
struct Abilities<'a>(&'a Chosen);

impl fmt::Display for Abilities<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = &self.0.tree;
        write!(
            f,
            "{}-bit guest addresses, pages up to {}, {} domains, {}coherent, {} invalidation, {}, {}",
            tree.address_bits,
            match tree.largest_page {
                PageSize::Size4K => "4 KiB",
                PageSize::Size2M => "2 MiB",
                PageSize::Size1G => "1 GiB",
            },
            tree.domains,
            if tree.coherent { "" } else { "not " },
            match self.0.invalidation {
                InvalidationWay::Queued => "queued",
                InvalidationWay::Registers(_) => "register",
            },
            match self.0.interrupts {
                Some(InterruptMode::X2apic) => "remaps interrupts to x2APIC ids",
                Some(InterruptMode::Xapic) => "remaps interrupts to 8-bit APIC ids",
                None => "remaps no interrupts",
            },
            Count(self.0.fault_records.count as usize, "fault record")
        )
    }
}
