//! The views of the kernel/user split, as a processor that only remembers has them.

use super::machine::FakeCpu;
use crate::addr::Gpa;
use crate::fault::StopReason;
use crate::hypercall::HypercallError;
use crate::split::{Fetch, KernelEntry, KernelHalf, Named, Opening, Place, Side, Way};
use crate::vcpu::Sides;

impl Sides for FakeCpu {
    fn enter_side(&mut self, side: Side) {
        self.side = Some(side);
    }

    fn place(&mut self, gpa: Gpa) -> Place {
        let place = self.places.get(&(gpa.0 >> 12));
        place.copied().unwrap_or(Place::Elsewhere)
    }

    fn side(&self) -> Side {
        self.side.unwrap_or(Side::Base)
    }

    fn forget_split(&mut self) {
        self.places.clear();
    }

    fn begin_split(&mut self, _kernel: KernelEntry, table: Gpa) -> Result<Gpa, StopReason> {
        if self.split_is_lost {
            return Err(StopReason::SplitLost);
        }
        self.places.insert(table.0 >> 12, Place::Guarded);
        Ok(table)
    }

    fn cover(&mut self, half: &KernelHalf) -> Result<(), StopReason> {
        let nothing = Named {
            names: &[],
            tables: &[],
            changes: 0,
        };
        self.admit(half, &nothing)
    }

    fn conceal(&mut self, pages: &[Gpa]) -> Result<(), HypercallError> {
        if self.places.len() + pages.len() > 8 {
            return Err(HypercallError::TooMany);
        }
        let pages = pages.iter().map(|page| (page.0 >> 12, Place::Private));
        self.places.extend(pages);
        Ok(())
    }

    fn reveal(&mut self, pages: &[Gpa]) -> Result<(), HypercallError> {
        if !pages.iter().all(|page| self.is_private(*page)) {
            return Err(HypercallError::BadArgument);
        }
        for page in pages {
            self.places.remove(&(page.0 >> 12));
        }
        Ok(())
    }

    fn give_up(&mut self, gpa: Gpa) -> Result<(), StopReason> {
        assert_eq!(self.place(gpa), Place::Private);
        self.places.remove(&(gpa.0 >> 12));
        self.ram[gpa.0 as usize & !0xfff..][..0x1000].fill(0);
        Ok(())
    }

    fn is_private(&mut self, gpa: Gpa) -> bool {
        self.place(gpa) == Place::Private
    }

    fn finds_code(&self) -> bool {
        self.code.is_some()
    }

    fn find_code(&mut self, gpa: Gpa) -> Result<Fetch, StopReason> {
        let Some(code) = &mut self.code else {
            return Ok(Fetch::Elsewhere);
        };
        code.push(gpa);
        self.places.insert(gpa.0 >> 12, Place::Code);
        Ok(Fetch::Allowed)
    }

    fn lose_code(&mut self, gpa: Gpa) -> Result<(), StopReason> {
        self.places.remove(&(gpa.0 >> 12));
        Ok(())
    }

    fn changes(&mut self) -> u64 {
        self.changes
    }

    fn splits(&self) -> bool {
        self.splits
    }

    fn enter_user(
        &mut self,
        _table: Gpa,
        half: &KernelHalf,
        named: &Named<'_>,
    ) -> Result<bool, StopReason> {
        self.admit(half, named)?;
        // Another CPU's guest may change something meanwhile.
        self.changes += core::mem::take(&mut self.changes_to_come);
        let is_as_it_was = self.changes == named.changes;
        if is_as_it_was {
            self.side = Some(Side::User);
        }
        Ok(is_as_it_was)
    }

    fn switches(&self) -> bool {
        false
    }

    fn open(&mut self, _opening: &Opening<'_>) -> Result<(), StopReason> {
        unreachable!("this processor switches no views by itself")
    }

    fn makes_way(&mut self, _gpa: Gpa) -> bool {
        false
    }

    fn way(&mut self) -> Option<Way> {
        None
    }

    fn admit(&mut self, half: &KernelHalf, named: &Named<'_>) -> Result<(), StopReason> {
        if self.split_is_lost {
            return Err(StopReason::SplitLost);
        }
        let tables = half.tables().map(|(_, table)| table);
        self.admitted.push((tables.collect(), named.names.to_vec()));
        Ok(())
    }

    fn set_lstar(&mut self, value: u64) {
        self.lstar = Some(value);
    }
}
