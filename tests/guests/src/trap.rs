//! Exceptions and interrupts: [`crate::attempt!`] runs an instruction that may fault and says what happened.
//!
//! An exception inside an attempt resumes after it and becomes a [`Fault`]; outside one it ends the guest with a report.
//! Interrupts (vectors from 32) and NMIs are counted. Each vCPU has attempts and counts of its own.
#![allow(unsafe_code, reason = "IDT and the entry stubs")]

use core::arch::{asm, global_asm};
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::smp::{self, MAX_VCPUS};
use crate::{apic, power};

/// `#DB`.
pub const DEBUG: u8 = 1;
/// `#UD`.
pub const INVALID_OPCODE: u8 = 6;
/// `#GP`.
pub const GENERAL_PROTECTION: u8 = 13;
/// `#PF`.
pub const PAGE_FAULT: u8 = 14;
/// `#AC`.
pub const ALIGNMENT_CHECK: u8 = 17;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
const FIRST_INTERRUPT: u64 = 32;
const VECTORS: usize = 256;

/// An exception that an [`crate::attempt!`] met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 where it has none.
    pub error: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exception {} error {:#x}", self.vector, self.error)
    }
}

/// What happened on one vCPU.
struct Seen {
    /// Where an exception resumes; 0 where none is expected.
    resume: AtomicU64,
    /// The last expected fault: 0, or bit 63 set, vector in bits 39:32, error code in bits 31:0.
    fault: AtomicU64,
    counts: [AtomicU32; VECTORS],
}

const FAULT_VALID: u64 = 1 << 63;

static SEEN: [Seen; MAX_VCPUS] = [const {
    Seen {
        resume: AtomicU64::new(0),
        fault: AtomicU64::new(0),
        counts: [const { AtomicU32::new(0) }; VECTORS],
    }
}; MAX_VCPUS];

/// What happened on the vCPU that asks.
fn seen() -> &'static Seen {
    SEEN.get(smp::current()).unwrap_or(&SEEN[0])
}

/// Where [`crate::attempt!`] leaves its resume point.
#[must_use]
pub fn resume_slot() -> *mut u64 {
    seen().resume.as_ptr()
}

/// Runs instructions that may fault: `Err(Fault)` where one did. Takes the instructions, then the `asm!` operands;
/// the caller writes the `unsafe` block. Register operands hold nothing useful after a fault.
#[macro_export]
macro_rules! attempt {
    ($($op:expr),+ ; $($operands:tt)*) => {{
        core::arch::asm!(
            "lea {resume_at}, [rip + 3f]",
            "mov [{resume_slot}], {resume_at}",
            $($op,)+
            "3:",
            resume_at = out(reg) _,
            resume_slot = in(reg) $crate::trap::resume_slot(),
            $($operands)*
        );
        $crate::trap::take_fault()
    }};
}

/// Ends an attempt: what it met.
///
/// # Errors
/// The fault, where there was one.
pub fn take_fault() -> Result<(), Fault> {
    let seen = seen();
    seen.resume.store(0, Relaxed);
    match seen.fault.swap(0, Relaxed) {
        0 => Ok(()),
        fault => Err(Fault {
            vector: (fault >> 32) as u8,
            error: fault & 0xffff_ffff,
        }),
    }
}

/// How often `vector` arrived at this vCPU since the guest started.
#[must_use]
pub fn count(vector: u8) -> u32 {
    count_on(smp::current(), vector)
}

/// How often `vector` arrived at vCPU `vcpu` since the guest started.
#[must_use]
pub fn count_on(vcpu: usize, vector: u8) -> u32 {
    SEEN.get(vcpu)
        .and_then(|seen| seen.counts.get(usize::from(vector)))
        .map_or(0, |count| count.load(Relaxed))
}

#[repr(C)]
struct TrapFrame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

#[repr(C, packed)]
struct IdtPointer {
    limit: u16,
    base: u64,
}

#[repr(C, align(16))]
struct Gate([u64; 2]);

const CODE_SELECTOR: u64 = 0x08;
/// Present 64-bit interrupt gate.
const INTERRUPT_GATE: u64 = 0x8e00;
const STUB_SIZE: u64 = 16;

static IDT: [[AtomicU64; 2]; VECTORS] = [const { [const { AtomicU64::new(0) }; 2] }; VECTORS];
const _: () = assert!(size_of_val(&IDT) == VECTORS * size_of::<Gate>());

unsafe extern "C" {
    safe static trap_stubs: u8;
}

/// Builds and loads the IDT.
pub fn install() {
    let stubs = &raw const trap_stubs as u64;
    for (gate, n) in IDT.iter().zip(0..) {
        fill(gate, stubs + n * STUB_SIZE);
    }
    load();
}

/// Loads the IDT that [`install`] built.
pub(crate) fn load() {
    load_idt((&raw const IDT) as u64, (size_of_val(&IDT) - 1) as u16);
}

/// Sends `vector` to `handler` itself, which finds on the stack what the CPU pushed.
pub fn set_handler(vector: u8, handler: unsafe extern "C" fn() -> !) {
    if let Some(gate) = IDT.get(usize::from(vector)) {
        fill(gate, handler as usize as u64);
    }
}

fn fill([low, high]: &[AtomicU64; 2], at: u64) {
    low.store(
        (at & 0xffff)
            | (CODE_SELECTOR << 16)
            | (INTERRUPT_GATE << 32)
            | ((at >> 16 & 0xffff) << 48),
        Relaxed,
    );
    high.store(at >> 32, Relaxed);
}

/// Loads an empty IDT: the next exception is a triple fault.
pub fn remove() {
    load_idt(0, 0);
}

fn load_idt(base: u64, limit: u16) {
    let pointer = IdtPointer { limit, base };
    // SAFETY: the IDT at `base` is static and complete, or empty on purpose.
    unsafe {
        asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags))
    };
}

/// Called by every stub.
extern "C" fn trap(frame: &mut TrapFrame) {
    let seen = seen();
    if let Some(count) = seen.counts.get(frame.vector as usize) {
        count.fetch_add(1, Relaxed);
    }
    if frame.vector == u64::from(NMI) {
        return;
    }
    if frame.vector >= FIRST_INTERRUPT {
        apic::end_of_interrupt();
        return;
    }
    match seen.resume.swap(0, Relaxed) {
        0 => report(frame),
        resume => {
            seen.fault.store(
                FAULT_VALID | (frame.vector << 32) | (frame.error & 0xffff_ffff),
                Relaxed,
            );
            frame.rip = resume;
        }
    }
}

fn report(frame: &TrapFrame) -> ! {
    let cr2: u64;
    // SAFETY: reading CR2 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack, preserves_flags)) };
    crate::println!(
        "case runtime: FAIL exception {} error {:#x} at {:#x} rsp {:#x} cr2 {cr2:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        frame.rsp
    );
    power::off()
}

// Each stub leaves the vector above an error code (the CPU's, or 0 where it pushes none) and joins `trap_common`, which
// saves the general registers as `TrapFrame` has them. 22 words from an aligned stack keep it aligned for the call.
global_asm!(
    r#"
    .section .text.trap_stubs, "ax", @progbits
    .balign 16
    .globl trap_stubs
trap_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    cld
    call {trap}
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
    "#,
    trap = sym trap,
);
