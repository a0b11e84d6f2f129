//! Making CPUs forget translations: the hypervisor's own, and those of VMs' views.
#![allow(unsafe_code, reason = "INVLPG and MOV to CR3")]

use crate::pcpu::call;
use bulkhead_core::addr::{Frame, Hva};
use bulkhead_core::call::Requests;
use bulkhead_core::hostpt::InvalidatePage;
use bulkhead_core::table::Invalidate;
use x86_64::VirtAddr;
use x86_64::instructions::tlb;

/// The TLB entries of the hypervisor's own page tables: all CPUs have the same tables, and each its own window in them.
pub struct HostTlb;

impl Invalidate for HostTlb {
    fn invalidate(&mut self, _root: Frame) {
        if let Err(silent) = call::everywhere(Requests::FORGET_HOST) {
            panic!("{silent}: it may still reach what is no longer mapped");
        }
    }
}

impl InvalidatePage for HostTlb {
    fn invalidate_page(&mut self, at: Hva) {
        tlb::flush(VirtAddr::new_truncate(at.0));
    }
}

/// The TLB entries and paging-structure caches of VMs' views, on all CPUs.
pub struct ViewTlb;

impl Invalidate for ViewTlb {
    fn invalidate(&mut self, root: Frame) {
        self.invalidate_all(&mut core::iter::once(root));
    }

    /// Whatever the roots: those of all VMs are forgotten.
    fn invalidate_all(&mut self, _roots: &mut dyn Iterator<Item = Frame>) {
        if let Err(silent) = call::everywhere(Requests::FORGET_VIEWS) {
            panic!("{silent}: its guests may still reach what is no longer theirs");
        }
    }
}
