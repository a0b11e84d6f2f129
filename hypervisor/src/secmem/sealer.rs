//! Encrypting and decrypting frames, seen through this CPU's window.

use super::keys::{self, Keys};
use crate::arch::cpu;
use crate::memory::pool::Pool;
use crate::memory::{self, Memory, stack, window};
use crate::vm::shared;
use bulkhead_core::addr::Frame;
use bulkhead_core::hostpt::HostError;
use bulkhead_core::ledger::{Ledger, MapRight, VmId};
use bulkhead_core::secmem::{Place, Sealer, Tag};
use bulkhead_core::table::Invalidate;
use bulkhead_crypto::{Implementation, Page, Path, SaveArea};

/// The effects of sealing, for one VM.
pub struct FrameSealer<'a> {
    /// What its pages are sealed with.
    pub keys: &'a Keys,
    /// Whose they are.
    pub vm: VmId,
    /// Ticks in cipher and tag while pages were unsealed.
    pub unseal_ticks: u64,
    /// Ticks in cipher and tag while pages were sealed.
    pub seal_ticks: u64,
}

impl Invalidate for FrameSealer<'_> {
    fn invalidate(&mut self, _root: Frame) {
        // A VM that nobody knows yet has no vCPUs.
        let Some(vm) = shared::by_id(self.vm) else {
            return;
        };
        if let Err(silent) = vm.lose_translations() {
            panic!("{silent}: its guest may still reach what is to be sealed");
        }
    }
}

impl Sealer for FrameSealer<'_> {
    type Tables = Pool;

    fn books<T>(&mut self, work: impl FnOnce(&mut Ledger<'_>, &mut Pool) -> T) -> T {
        let mut memory = memory::lock();
        let Memory { ledger, pool, .. } = &mut *memory;
        work(ledger, pool)
    }

    fn encrypt(&mut self, place: Place, right: MapRight) -> (Tag, MapRight) {
        let begin = cpu::rdtsc();
        let sealed = on_page(right, |page, area| {
            self.keys.cipher.encrypt(place.tweak(), page, area);
            self.keys.mac.tag(place, page, area)
        });
        self.seal_ticks += cpu::rdtsc().wrapping_sub(begin);
        sealed
    }

    fn verify(&mut self, place: Place, tag: Tag, right: MapRight) -> (bool, MapRight) {
        let (verified, right) = window::look_at_page(right, |page, area| {
            with_vectors(|| self.keys.mac.verify(place, page, tag, area).is_ok())
        });
        (shown(verified), right)
    }

    fn decrypt(&mut self, place: Place, tag: Tag, right: MapRight) -> (bool, MapRight) {
        let begin = cpu::rdtsc();
        let decrypted = on_page(right, |page, area| {
            let is_whole = self.keys.mac.verify(place, page, tag, area).is_ok();
            if is_whole {
                self.keys.cipher.decrypt(place.tweak(), page, area);
            }
            is_whole
        });
        self.unseal_ticks += cpu::rdtsc().wrapping_sub(begin);
        decrypted
    }
}

/// Works on the page that `right` is to.
fn on_page<T>(right: MapRight, work: impl FnOnce(&mut Page, &mut SaveArea) -> T) -> (T, MapRight) {
    let (done, right) = window::show_page(right, |page, area| with_vectors(|| work(page, area)));
    (shown(done), right)
}

/// Runs cipher or tag. Whatever vector state a guest left in the registers survives: the routines keep what they
/// use, in as much of each register as XCR0 enables, so XCR0 enables all of it meanwhile. The fallback without routines computes on
/// the stack, which is wiped.
fn with_vectors<T>(work: impl FnOnce() -> T) -> T {
    match keys::implementation().map(Implementation::path) {
        Some(Path::Vaes) => cpu::with_all_xcr0(work),
        Some(Path::AesNi) => work(),
        Some(Path::Soft) | None => {
            let done = apart(work);
            stack::wipe::<{ keys::STACK_KIB }>();
            done
        }
    }
}

/// Runs `work` below the caller's part of the stack, where what it leaves can be wiped.
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

fn shown<T>(done: Result<T, HostError>) -> T {
    match done {
        Ok(done) => done,
        Err(error) => panic!("a frame that is being sealed or unsealed cannot be shown: {error}"),
    }
}
