//! [`PageCipher`]: AES-256-XTS (IEEE 1619) of whole pages, each page one data unit.

use alloc::boxed::Box;

use crate::block::{Block, Direction, Page};
use crate::cpu::{Implementation, Path};
use crate::keys::XtsKey;
use crate::soft;
use crate::vector::{Form, SaveArea, XtsSchedule};

/// Encrypts and decrypts pages with one key. The number of a data unit, the tweak, is the caller's: it should be another one for each
/// page and each version of it, because equal pages with equal tweaks are equal when encrypted.
///
/// Confidentiality only: what was changed decrypts to something. [`PageMac`](crate::PageMac) finds that out.
pub struct PageCipher(Keys);

enum Keys {
    Vector(Form, Box<XtsSchedule>),
    Soft(Box<soft::Xts>),
}

impl PageCipher {
    /// Expands `key` for `implementation`.
    #[must_use]
    pub fn new(implementation: Implementation, key: &XtsKey, area: &mut SaveArea) -> Self {
        let form = match implementation.path() {
            Path::Vaes => Form::Vaes,
            Path::AesNi => Form::AesNi,
            Path::Soft => {
                let xts = soft::Xts::new(&key.data, &key.tweak);
                return Self(Keys::Soft(Box::new(xts)));
            }
        };
        let mut schedule = Box::new(XtsSchedule::ZERO);
        schedule.fill(&key.data, &key.tweak, area);
        Self(Keys::Vector(form, schedule))
    }

    /// Encrypts `page` where it is.
    pub fn encrypt(&self, tweak: u128, page: &mut Page, area: &mut SaveArea) {
        self.apply(Direction::Encrypt, tweak, page.as_chunks_mut().0, area);
    }

    /// Decrypts `page` where it is.
    pub fn decrypt(&self, tweak: u128, page: &mut Page, area: &mut SaveArea) {
        self.apply(Direction::Decrypt, tweak, page.as_chunks_mut().0, area);
    }

    /// Encrypts `from` into `to`.
    pub fn encrypt_into(&self, tweak: u128, from: &Page, to: &mut Page, area: &mut SaveArea) {
        self.apply_into(Direction::Encrypt, tweak, from, to, area);
    }

    /// Decrypts `from` into `to`.
    pub fn decrypt_into(&self, tweak: u128, from: &Page, to: &mut Page, area: &mut SaveArea) {
        self.apply_into(Direction::Decrypt, tweak, from, to, area);
    }

    /// One data unit of any number of whole blocks.
    fn apply(&self, direction: Direction, tweak: u128, blocks: &mut [Block], area: &mut SaveArea) {
        let tweak = tweak.to_le_bytes();
        match &self.0 {
            Keys::Vector(form, schedule) => schedule.apply(*form, direction, &tweak, blocks, area),
            Keys::Soft(xts) => xts.apply(direction, &tweak, blocks),
        }
    }

    fn apply_into(
        &self,
        direction: Direction,
        tweak: u128,
        from: &Page,
        to: &mut Page,
        area: &mut SaveArea,
    ) {
        let tweak = tweak.to_le_bytes();
        match &self.0 {
            Keys::Vector(form, schedule) => {
                let places = (from.as_chunks().0, to.as_chunks_mut().0);
                schedule.apply_into(*form, direction, &tweak, places, area);
            }
            Keys::Soft(xts) => {
                to.copy_from_slice(from);
                xts.apply(direction, &tweak, to.as_chunks_mut().0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
