//! Who is behind which unit (VT-d specification, "DMA Remapping Hardware Unit Definition Structure").
//!
//! What is named itself goes first, then what is below a named bridge, then the segment's unit for all the rest.

use super::SourceId;
use super::scope::{Buses, Scope, ScopeKind};
use super::{Dmar, ReservedRegion, Unit};

/// The buses behind a bridge of a segment: `None` where that function is no bridge, or not there.
pub type Bridges<'a> = dyn Fn(u16, SourceId) -> Option<Buses> + 'a;

/// How a scope means a function; the lesser, the more exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Match {
    /// By name.
    Itself,
    /// As one of those below a bridge that leads to so many further buses.
    Below(u8),
}

impl Scope {
    /// How this scope means the function `source` of `segment`, if it does.
    fn matches(&self, segment: u16, source: SourceId, bridges: &Bridges) -> Option<Match> {
        // Interrupt controllers have source ids of their own, which may be a function's by accident.
        let subtree = match self.kind {
            ScopeKind::Endpoint | ScopeKind::Named => false,
            ScopeKind::SubHierarchy => true,
            ScopeKind::IoApic | ScopeKind::Hpet | ScopeKind::Unknown(_) => return None,
        };
        let device = self.resolve(segment, bridges).ok()?;
        if device == source {
            return Some(Match::Itself);
        }
        let buses = bridges(segment, device).filter(|_| subtree)?;
        // A bridge that was given no buses reads 0, which is not a bus below it.
        let below = buses.secondary > device.bus() && buses.contains(source.bus());
        below.then(|| Match::Below(buses.subordinate - buses.secondary))
    }
}

/// How any of `scopes` means the function, as exactly as can be.
fn best(scopes: &[Scope], segment: u16, source: SourceId, bridges: &Bridges) -> Option<Match> {
    scopes
        .iter()
        .filter_map(|scope| scope.matches(segment, source, bridges))
        .min()
}

impl Dmar {
    /// The unit that a function's DMA and message interrupts go through, or `None` where no unit has it: then
    /// nothing confines it.
    ///
    /// A virtual function is behind the unit of its physical function, whose id is the one to ask with.
    #[must_use]
    #[inline(never)]
    pub fn unit_of(&self, segment: u16, source: SourceId, bridges: &Bridges) -> Option<&Unit> {
        let here = || {
            self.units
                .iter()
                .filter(move |unit| unit.segment == segment)
        };
        let named = here()
            .filter_map(|unit| Some((best(&unit.scopes, segment, source, bridges)?, unit)))
            .min_by_key(|(how, _)| *how)
            .map(|(_, unit)| unit);
        named.or_else(|| here().find(|unit| unit.include_pci_all))
    }

    /// The reserved regions that a function must go on reaching.
    pub fn regions_of<'a>(
        &'a self,
        segment: u16,
        source: SourceId,
        bridges: &'a Bridges<'a>,
    ) -> impl Iterator<Item = &'a ReservedRegion> {
        self.reserved.iter().filter(move |region| {
            region.segment == segment && best(&region.scopes, segment, source, bridges).is_some()
        })
    }

    /// The unit that remaps the interrupts of the I/O APIC with this id, and the source id they come with.
    #[must_use]
    pub fn io_apic(&self, id: u8, bridges: &Bridges) -> Option<(&Unit, SourceId)> {
        self.interrupter(ScopeKind::IoApic, id, bridges)
    }

    /// The unit that remaps the message interrupts of the HPET with this number, and the source id they come with.
    #[must_use]
    pub fn hpet(&self, number: u8, bridges: &Bridges) -> Option<(&Unit, SourceId)> {
        self.interrupter(ScopeKind::Hpet, number, bridges)
    }

    fn interrupter(&self, kind: ScopeKind, id: u8, bridges: &Bridges) -> Option<(&Unit, SourceId)> {
        self.units.iter().find_map(|unit| {
            let mut scopes = unit.scopes.iter();
            let scope = scopes.find(|scope| scope.kind == kind && scope.id == id)?;
            Some((unit, scope.resolve(unit.segment, bridges).ok()?))
        })
    }
}
