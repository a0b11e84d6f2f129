//! What a switch between vCPUs moves and VT-x does not: vector and x87 registers, debug registers, CR2, the MSRs that pass
//! through. It stays in the processor until another vCPU comes.
#![allow(unsafe_code, reason = "saves and loads CPU registers")]

use super::machine;
use crate::arch::cpu::{self, rdmsr, wrmsr};
use alloc::alloc::{alloc_zeroed, dealloc, handle_alloc_error};
use bulkhead_core::msr::{SWITCHED_MSRS, TSC_AUX};
use core::alloc::Layout;
use core::arch::asm;
use core::ptr::NonNull;
use core::slice;
use zeroize::Zeroize;

/// MXCSR after reset, checked by XRSTOR even when SSE is put in its initial state.
const MXCSR: u32 = 0x1f80;
const MXCSR_OFFSET: usize = 24;
/// Legacy region and header of an XSAVE area.
const AREA_MIN: usize = 576;
const DR6_AT_RESET: u64 = 0xffff_0ff0;

/// An XSAVE area for every component that the processor has.
struct Area {
    at: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the area belongs to this value alone.
unsafe impl Send for Area {}

impl Area {
    /// Every component in its initial state.
    fn new() -> Self {
        let bytes = machine().xsave_bytes.max(AREA_MIN);
        let Ok(layout) = Layout::from_size_align(bytes, 64) else {
            panic!("the processor's XSAVE area has no size");
        };
        // SAFETY: the size is not 0.
        let at = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(at) else {
            handle_alloc_error(layout);
        };
        // SAFETY: the legacy region, which the area begins with, holds MXCSR there, aligned.
        let mxcsr = unsafe { at.add(MXCSR_OFFSET) };
        // SAFETY: as above.
        unsafe { mxcsr.cast::<u32>().write(MXCSR) };
        Self { at, layout }
    }
}

impl Drop for Area {
    /// Wipes the registers: they are their VM's, and whoever gets the memory next is not.
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: the area is this value's alone, as long as the layout says, and was zeroed when it was allocated.
        let bytes = unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.layout.size()) };
        bytes.zeroize();
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}

/// One vCPU's registers while another has the CPU; wiped when it is dropped.
pub struct Switched {
    msrs: [u64; SWITCHED_MSRS.len()],
    cr2: u64,
    debug: [u64; 4],
    dr6: u64,
    area: Area,
}

impl Drop for Switched {
    #[inline(never)]
    fn drop(&mut self) {
        self.msrs.zeroize();
        self.debug.zeroize();
        self.cr2.zeroize();
    }
}

impl Switched {
    /// As a vCPU starts.
    #[must_use]
    pub fn new() -> Self {
        Self {
            msrs: [0; SWITCHED_MSRS.len()],
            cr2: 0,
            debug: [0; 4],
            dr6: DR6_AT_RESET,
            area: Area::new(),
        }
    }

    /// Takes the registers from the processor.
    pub fn save(&mut self) {
        for (slot, msr) in self.msrs.iter_mut().zip(SWITCHED_MSRS) {
            if exists(msr) {
                // SAFETY: these exist in long mode, TSC_AUX with RDTSCP.
                *slot = unsafe { rdmsr(msr) };
            }
        }
        self.cr2 = cpu::cr2();
        let [d0, d1, d2, d3] = &mut self.debug;
        // SAFETY: reading debug registers at CPL 0 with DR7.GD clear, as VM exits leave it.
        unsafe {
            asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6",
                 out(reg) *d0, out(reg) *d1, out(reg) *d2, out(reg) *d3, out(reg) self.dr6,
                 options(nomem, nostack, preserves_flags));
        }
        // SAFETY: CPUID names these components.
        unsafe { cpu::write_xcr0(all_components()) };
        // SAFETY: the area has room for all components, is aligned, and is this vCPU's alone.
        unsafe {
            asm!("xsave64 [{}]", in(reg) self.area.at.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX,
                 options(nostack));
        }
    }

    /// Gives the registers to the processor, and XCR0 the value `xcr0`, which the vCPU has.
    pub fn load(&self, xcr0: u64) {
        for (value, msr) in self.msrs.iter().zip(SWITCHED_MSRS) {
            if exists(msr) {
                // SAFETY: as in `save`; the values were read there or are 0, and the hypervisor uses none of these.
                unsafe { wrmsr(msr, *value) };
            }
        }
        // SAFETY: CR2 matters only to a page-fault handler, and no page fault is being handled.
        unsafe { asm!("mov cr2, {}", in(reg) self.cr2, options(nomem, nostack, preserves_flags)) };
        let [d0, d1, d2, d3] = self.debug;
        // SAFETY: the hypervisor uses no debug registers; DR7, which would arm them, is switched by VT-x. VM exits
        // leave bits 63:32 of DR6 zero.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}",
                 in(reg) d0, in(reg) d1, in(reg) d2, in(reg) d3, in(reg) self.dr6,
                 options(nomem, nostack, preserves_flags));
        }
        // SAFETY: CPUID names these components.
        unsafe { cpu::write_xcr0(all_components()) };
        // SAFETY: the area holds what XSAVE wrote or the initial state; nothing of the hypervisor lives in vector registers.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) self.area.at.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX,
                 options(nostack));
        }
        // SAFETY: the CPUID policy accepted the value when the guest set it; 1 before that.
        unsafe { cpu::write_xcr0(xcr0) };
    }
}

fn exists(msr: u32) -> bool {
    msr != TSC_AUX || cpu::has_rdtscp()
}

/// The state components that every CPU has, for XCR0. No guest has others.
#[must_use]
pub fn all_components() -> u64 {
    let leaf = machine().cpuid(0xd, 0);
    (u64::from(leaf.edx) << 32) | u64::from(leaf.eax)
}
