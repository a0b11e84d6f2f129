//! Single instructions, in the two forms guests need: plain where they cannot fault, `try_` where they may.
#![allow(unsafe_code, reason = "each function is one instruction")]

use core::arch::asm;

use crate::attempt;
use crate::trap::Fault;

/// The registers CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the architectural names say it")]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CPUID.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let found = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    Cpuid {
        eax: found.eax,
        ebx: found.ebx,
        ecx: found.ecx,
        edx: found.edx,
    }
}

/// IN of a byte.
#[must_use]
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: port input touches no memory of this guest.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// IN of a word.
#[must_use]
pub fn inw(port: u16) -> u16 {
    let value;
    // SAFETY: as for `inb`.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// IN of a doubleword.
#[must_use]
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as for `inb`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// OUT of a byte.
pub fn outb(port: u16, value: u8) {
    // SAFETY: no device of this guest does DMA, so port output touches no memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    };
}

/// OUT of a word.
pub fn outw(port: u16, value: u16) {
    // SAFETY: as for `outb`.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
    };
}

/// OUT of a doubleword.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as for `outb`.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    };
}

/// CLI, then HLT.
pub fn halt_without_interrupts() {
    // SAFETY: the vCPU stops; an NMI returns to the caller.
    unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
}

/// STI and HLT, with nothing in between: sleeps until an interrupt came, then CLI.
pub fn halt_for_interrupt() {
    // SAFETY: the IDT has a handler for every vector.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// STI.
pub fn enable_interrupts() {
    // SAFETY: the IDT has a handler for every vector.
    unsafe { asm!("sti", options(nomem, nostack)) };
}

/// CLI.
pub fn disable_interrupts() {
    // SAFETY: delays interrupts, nothing else.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

/// RDTSC at a trace boundary: Bochs counts ticks exactly only there.
#[must_use]
pub fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe {
        asm!("jmp 2f", "2: rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(low) | (u64::from(high) << 32)
}

/// RDMSR.
///
/// # Errors
/// The fault it met.
pub fn try_rdmsr(msr: u32) -> Result<u64, Fault> {
    let (low, high): (u32, u32);
    // SAFETY: reading an MSR touches no memory.
    unsafe {
        attempt!("rdmsr"; in("ecx") msr, lateout("eax") low, lateout("edx") high, options(nostack))
    }?;
    Ok(u64::from(low) | (u64::from(high) << 32))
}

/// WRMSR.
///
/// # Errors
/// The fault it met.
///
/// # Safety
/// The value must not break this guest: bases of segments in use, system-call entry points, EFER.
pub unsafe fn try_wrmsr(msr: u32, value: u64) -> Result<(), Fault> {
    // SAFETY: the caller answers for the MSR's effect.
    unsafe {
        attempt!("wrmsr"; in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    }
}

/// VMCALL as the hypercall table lays it down.
///
/// # Errors
/// The fault it met.
pub fn try_vmcall(number: u64, arguments: [u64; 6]) -> Result<u64, Fault> {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: no hypercall writes guest memory.
    unsafe {
        attempt!("vmcall"; inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, in("r9") f, options(nostack))
    }?;
    Ok(result)
}

/// PAUSE.
pub fn pause() {
    core::hint::spin_loop();
}
