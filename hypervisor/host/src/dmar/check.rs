//! What must hold between entries.

use alloc::vec::Vec;

use crate::addr::Hpa;
use crate::order;

use super::error::{DmarError, Warning};
use super::scope::{Hop, ScopeKind};
use super::{Dmar, Unit};

impl Dmar {
    /// Refuses a table whose entries contradict one another where it matters, and notes where it does not.
    pub(super) fn check(&mut self) -> Result<(), DmarError> {
        if self.units.is_empty() {
            return Err(DmarError::NoUnits);
        }
        self.check_registers()?;
        self.check_catch_alls()?;
        self.note_shared_scopes();
        self.note_loose_ends();
        Ok(())
    }

    /// Registers belong to one unit, and no device writes to them.
    fn check_registers(&self) -> Result<(), DmarError> {
        let mut windows: Vec<(Hpa, Hpa)> = self.units.iter().map(window).collect();
        order::sort(&mut windows);
        let neighbours = windows.iter().zip(windows.iter().skip(1));
        for ((first, last), (second, _)) in neighbours {
            if second <= last {
                return Err(DmarError::UnitsOverlap {
                    first: *first,
                    second: *second,
                });
            }
        }
        for region in &self.reserved {
            let hit = |(first, last): &&(Hpa, Hpa)| *first <= region.limit && region.base <= *last;
            if let Some((registers, _)) = windows.iter().find(hit) {
                return Err(DmarError::RegionOverUnit {
                    base: region.base,
                    registers: *registers,
                });
            }
        }
        Ok(())
    }

    /// Of two units that both have all the rest of a segment, which one has a function is anyone's guess.
    fn check_catch_alls(&mut self) -> Result<(), DmarError> {
        let mut segments: Vec<(u16, Hpa)> = Vec::new();
        let mut early = Vec::new();
        for unit in &self.units {
            let known = segments
                .iter()
                .find(|(segment, _)| *segment == unit.segment);
            match known {
                Some((segment, first)) if unit.include_pci_all => {
                    return Err(DmarError::TwoCatchAlls {
                        segment: *segment,
                        first: *first,
                        second: unit.registers,
                    });
                }
                Some((segment, _)) => early.push(Warning::CatchAllNotLast { segment: *segment }),
                None if unit.include_pci_all => segments.push((unit.segment, unit.registers)),
                None => {}
            }
        }
        early.dedup();
        early.into_iter().for_each(|warning| self.warn(warning));
        Ok(())
    }

    /// Notes devices that two units name.
    fn note_shared_scopes(&mut self) {
        let mut claims: Vec<(u16, u8, &[Hop], Hpa)> = Vec::new();
        for unit in &self.units {
            for scope in &unit.scopes {
                let is_device = matches!(
                    scope.kind,
                    ScopeKind::Endpoint | ScopeKind::SubHierarchy | ScopeKind::Named
                );
                if is_device {
                    claims.push((unit.segment, scope.start_bus, &scope.path, unit.registers));
                }
            }
        }
        order::sort(&mut claims);
        let neighbours = claims.iter().zip(claims.iter().skip(1));
        let shared = neighbours.filter_map(|(one, other)| {
            let same = (one.0, one.1, one.2) == (other.0, other.1, other.2);
            (same && one.3 != other.3).then_some(Warning::SharedScope {
                first: one.3,
                second: other.3,
            })
        });
        let shared: Vec<Warning> = shared.collect();
        shared.into_iter().for_each(|warning| self.warn(warning));
    }

    /// Names for units and devices that the table does not have, and the reverse.
    fn note_loose_ends(&mut self) {
        let mut loose = Vec::new();
        for affinity in &self.affinities {
            let registers = affinity.registers;
            if !self.units.iter().any(|unit| unit.registers == registers) {
                loose.push(Warning::NoSuchUnit(registers));
            }
        }
        for scope in self.units.iter().flat_map(|unit| &unit.scopes) {
            let named = self.named.iter().any(|device| device.number == scope.id);
            if scope.kind == ScopeKind::Named && !named {
                loose.push(Warning::Undeclared(scope.id));
            }
        }
        loose.into_iter().for_each(|warning| self.warn(warning));
    }
}

/// A unit's first and last byte of registers; where it was read, their end was seen to exist.
fn window(unit: &Unit) -> (Hpa, Hpa) {
    let last = unit.registers.0.saturating_add(unit.size - 1);
    (unit.registers, Hpa(last))
}
