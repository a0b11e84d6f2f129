//! Making CPUs forget translations. One CPU runs Bulkhead in this release, so there is nobody to ask.
#![allow(unsafe_code, reason = "INVLPG and MOV to CR3")]

use bulkhead_core::addr::{Frame, Hva};
use bulkhead_core::hostpt::InvalidatePage;
use bulkhead_core::table::Invalidate;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;

/// The TLB entries of the hypervisor's own page tables, on this CPU.
pub struct HostTlb;

impl Invalidate for HostTlb {
    fn invalidate(&mut self, _root: Frame) {
        // The hypervisor maps nothing global, so reloading CR3 forgets all of it.
        tlb::flush_all();
    }
}

impl InvalidatePage for HostTlb {
    fn invalidate_page(&mut self, at: Hva) {
        tlb::flush(VirtAddr::new_truncate(at.0));
    }
}
