//! Private pages: what user code says of them, and what a kernel's access to one means.

use alloc::vec::Vec;

use super::UPPER_HALF;
use crate::addr::{FRAME_SIZE, Gva};
use crate::hypercall::{Hypercall, HypercallError};
use crate::vcpu::effects::Cpu;
use crate::vcpu::{Vcpu, event, linear};
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

/// Whether the kernel's access, which `kernel` did not allow because the page is private, is to be refused with a page fault: it reads, or it writes
/// by an address that is user code's. Everything else, the processor's own accesses among it, puts the page to another use.
pub(super) const fn is_refused(violation: &EptViolation, delivers: bool) -> bool {
    let is_users = match violation.gva {
        Some(gva) => gva.0 & UPPER_HALF == 0,
        None => false,
    };
    violation.translated && !delivers && (is_users || !violation.write)
}

/// The page fault of a kernel that a protection key would keep from the page: Linux takes it for an address that is not to be used, where it expects such
/// addresses, and for a mistake of its own elsewhere.
pub(super) fn refuse<C: Cpu>(cpu: &mut C, violation: &EptViolation, gva: Gva) {
    event::undo_unblocking(cpu, violation.unblocked_nmi);
    event::inject_page_fault(cpu, gva.0, code(violation.write).bits());
}

/// Of that page fault.
pub(in crate::vcpu) fn code(write: bool) -> PageFaultCode {
    let mut code = PageFaultCode::PROTECTION | PageFaultCode::PROTECTION_KEY;
    code.set(PageFaultCode::WRITE, write);
    code
}
