//! Private pages: what user code says of them, and what a kernel's access to one means.

use alloc::vec::Vec;

use super::UPPER_HALF;
use super::violation::Meaning;
use crate::addr::{FRAME_SIZE, Gva};
use crate::hypercall::{Hypercall, HypercallError};
use crate::vcpu::effects::Cpu;
use crate::vcpu::{Vcpu, linear};
use crate::vmx::exit::EptViolation;
use crate::walk::{AccessKind, PageFaultCode};

/// The most pages of one hypercall.
const MOST_PAGES: u64 = 64;

impl Vcpu {
    /// User code has `count` pages at `at` be private, or no longer: all of them or none.
    #[cold]
    pub(in crate::vcpu) fn private_pages<C: Cpu>(
        &self,
        cpu: &mut C,
        call: Hypercall,
        at: Gva,
        count: u64,
    ) -> Result<(), HypercallError> {
        if self.divided.is_none() {
            return Err(HypercallError::Unsupported);
        }
        let is_range = at.page_offset() == 0 && (1..=MOST_PAGES).contains(&count);
        let end = at.0.checked_add(count.saturating_mul(FRAME_SIZE));
        if !is_range || end.is_none_or(|end| end & UPPER_HALF != 0) {
            return Err(HypercallError::BadArgument);
        }
        let mut pages = Vec::with_capacity(count as usize);
        for number in 0..count {
            let page = Gva(at.0 + number * FRAME_SIZE);
            let found = linear::translate(cpu, page, AccessKind::Write);
            pages.push(found.map_err(|_| HypercallError::BadArgument)?);
        }
        match call {
            Hypercall::Conceal => cpu.conceal(&pages),
            _ => cpu.reveal(&pages),
        }
    }
}

/// The page fault that the kernel's access is refused with, which `kernel` did not allow because the page is private: it reads, or it writes
/// by an address that is user code's. Everything else, the processor's own accesses among it, puts the page to another use.
///
/// It is that of a kernel that a protection key would keep from the page: Linux takes it for an address that is not to be used, where it expects such
/// addresses, and for a mistake of its own elsewhere.
pub(super) fn refused(violation: &EptViolation, delivers: bool) -> Option<Meaning> {
    let gva = violation
        .gva
        .filter(|_| violation.translated && !delivers)?;
    let is_users = gva.0 & UPPER_HALF == 0;
    (is_users || !violation.write).then(|| Meaning::PageFault(gva, code(violation.write)))
}

/// The error code of that page fault.
pub(in crate::vcpu) fn code(write: bool) -> PageFaultCode {
    let mut code = PageFaultCode::PROTECTION | PageFaultCode::PROTECTION_KEY;
    code.set(PageFaultCode::WRITE, write);
    code
}
