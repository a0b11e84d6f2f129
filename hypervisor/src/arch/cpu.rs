//! Single instructions and CPU registers.

use bulkhead_core::hostpt::HOST_PAT;
use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc, CpuidResult};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

/// IA32_FEATURE_CONTROL.
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// IA32_BIOS_SIGN_ID: the microcode revision, in the high half.
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
/// IA32_PAT.
pub const IA32_PAT: u32 = 0x277;
/// IA32_EFER.
pub const IA32_EFER: u32 = 0xc000_0080;

/// CPUID with a leaf and subleaf.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// The same for `bulkhead_core`, which has its own type for the answer.
#[must_use]
pub fn cpuid_for_core(leaf: u32, subleaf: u32) -> bulkhead_core::cpuid::CpuidResult {
    let found = cpuid(leaf, subleaf);
    bulkhead_core::cpuid::CpuidResult {
        eax: found.eax,
        ebx: found.ebx,
        ecx: found.ecx,
        edx: found.edx,
    }
}

/// The time-stamp counter, in ticks.
#[inline(always)]
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no effect but its result, and CR4.TSD does not apply at ring 0.
    unsafe { _rdtsc() }
}

/// The time-stamp counter, read after everything before it and before everything after it.
#[must_use]
pub fn rdtsc_in_order() -> u64 {
    fence();
    let now = rdtsc();
    fence();
    now
}

/// LFENCE: waits until every instruction before it is done.
pub fn fence() {
    // SAFETY: every x86_64 processor has it, and it changes nothing.
    unsafe { asm!("lfence", options(nostack, preserves_flags)) }
}

/// Writes the cache lines that hold these bytes back to memory, for a device that does not look into caches. Written to the manual
/// (Intel SDM vol. 2A, "CLFLUSH"); never run on hardware.
pub fn write_back(start: *const u8, bytes: usize) {
    const LINE: usize = 64;
    let first = start.addr() & !(LINE - 1);
    for line in (first..start.addr() + bytes).step_by(LINE) {
        // SAFETY: every x86_64 processor has CLFLUSH, which changes no memory; the caller's bytes are mapped.
        unsafe { asm!("clflush byte ptr [{}]", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: MFENCE changes nothing; later accesses come after the lines are out.
    unsafe { asm!("mfence", options(nostack, preserves_flags)) };
}

/// WBINVD: writes this CPU's caches, and those it shares, back to memory and empties them. Never run on hardware.
pub fn empty_caches() {
    // SAFETY: at ring 0; it changes no memory that anybody sees.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}

/// VERW of a writable data segment, which on processors with the microcode for it empties the buffers between core and
/// caches. Only the form with a memory operand does (Intel, "Microarchitectural Data Sampling").
pub fn clear_buffers() {
    let selector: u16;
    // SAFETY: reads the selector in DS, which names the flat data segment from `descriptor::install` on.
    unsafe {
        asm!("mov {:x}, ds", out(reg) selector, options(nomem, nostack, preserves_flags));
    }
    // SAFETY: VERW changes nothing but flags and those buffers.
    unsafe { asm!("verw word ptr [{}]", in(reg) &raw const selector, options(nostack)) }
}

/// Handles an NMI that caused a VM exit as the handler would have, and has the CPU take NMIs again: they are blocked from such an exit to
/// the next IRET (Intel SDM vol. 3C, "NMI Blocking" under "Loading Host State").
pub fn take_nmi() {
    // SAFETY: the gate of vector 2 leads to a handler that saves every register, on a stack of its own that is not in use:
    // the NMI it is for is blocked.
    unsafe { asm!("int 2", options(nostack)) }
}

/// RDMSR.
///
/// # Safety
/// The processor must have `msr`, or it raises a general-protection exception.
#[inline]
#[must_use]
pub unsafe fn rdmsr(msr: u32) -> u64 {
    // SAFETY: the caller promises that the MSR exists; reading one has no effect on memory.
    unsafe { Msr::new(msr).read() }
}

/// WRMSR.
///
/// # Safety
/// The processor must have `msr` and take `value`, and what that changes must keep every Rust
/// invariant of the hypervisor (page tables, segment bases, APIC mode).
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: passed on to the caller.
    unsafe { Msr::new(msr).write(value) }
}

/// XSETBV of XCR0.
///
/// # Safety
/// `value` must be valid for this processor (checked by `bulkhead_core::cpuid`) and CR4.OSXSAVE set.
pub unsafe fn write_xcr0(value: u64) {
    // SAFETY: the caller promises a valid value; the hypervisor itself is soft-float and keeps
    // nothing in the state that XCR0 selects.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nomem, nostack, preserves_flags));
    }
}

/// XGETBV of XCR0.
#[must_use]
fn read_xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is on since `start`, and XCR0 is always there.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Does `work` while XCR0 enables every state component that a guest may have used: what becomes of the registers
/// of a component that is not enabled, nobody promises.
pub fn with_all_xcr0<T>(work: impl FnOnce() -> T) -> T {
    let (before, all) = (read_xcr0(), crate::vm::switched::all_components());
    if before == all {
        return work();
    }
    // SAFETY: CPUID names these components.
    unsafe { write_xcr0(all) };
    let done = work();
    // SAFETY: it was the register's value.
    unsafe { write_xcr0(before) };
    done
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off only an NMI or SMI wakes the CPU, and the loop halts it again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Waits for an interrupt, which is taken here; returns with interrupts off.
pub fn wait_for_interrupt() {
    // SAFETY: the handlers of all vectors save every register and touch only atomics. An interrupt that came before is
    // taken right after HLT began, because STI holds it back for one instruction.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Whether the processor has RDTSCP, and with it IA32_TSC_AUX.
#[must_use]
pub fn has_rdtscp() -> bool {
    cpuid(0x8000_0001, 0).edx & (1 << 27) != 0
}

/// Turns on what running guests needs: no-execute, write protection, XSAVE, machine checks; and the
/// hypervisor's memory types.
pub fn start() {
    const EFER_NXE: u64 = 1 << 11;
    // SAFETY: long mode has EFER.
    let efer = unsafe { rdmsr(IA32_EFER) };
    // SAFETY: every processor with VT-x has no-execute; nothing else changes.
    unsafe { wrmsr(IA32_EFER, efer | EFER_NXE) };
    // SAFETY: the entries that the firmware's page tables use keep their meaning.
    unsafe { wrmsr(IA32_PAT, HOST_PAT) };
    // SAFETY: write protection only takes away; the coprocessor bits make vector instructions legal.
    unsafe {
        Cr0::update(|cr0| {
            cr0.insert(
                Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR | Cr0Flags::MONITOR_COPROCESSOR,
            );
            cr0.remove(Cr0Flags::TASK_SWITCHED | Cr0Flags::EMULATE_COPROCESSOR);
        });
    };
    // SAFETY: processors with VT-x and x2APIC have XSAVE; the hypervisor maps nothing global.
    unsafe {
        Cr4::update(|cr4| {
            cr4.insert(Cr4Flags::OSXSAVE | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
            cr4.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION);
            cr4.remove(Cr4Flags::PAGE_GLOBAL | Cr4Flags::PCID);
        });
    };
}

/// CR2, the last page-fault address.
#[must_use]
pub fn cr2() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// The microcode's revision, 0 where the processor does not say.
#[must_use]
pub fn microcode_revision() -> u32 {
    // SAFETY: every processor with VT-x has this register.
    (unsafe { rdmsr(IA32_BIOS_SIGN_ID) } >> 32) as u32
}

/// Whether the processor has 1 GiB pages.
#[must_use]
pub fn has_gigabyte_pages() -> bool {
    cpuid(0x8000_0001, 0).edx & (1 << 26) != 0
}

/// The width of a physical address in bits.
#[must_use]
pub fn physical_bits() -> u32 {
    cpuid(0x8000_0008, 0).eax & 0xff
}
