//! Host exceptions and interrupts: NMIs and machine checks are noted for the CPU's loop, interrupts end a wait, every other
//! exception ends in the panic report.
//!
//! Each vector's stub leaves one layout on the stack, [`Context`], whatever the CPU pushed.

use super::lapic;
use crate::panic::{self, Cause};
use crate::pcpu::{self, call, checks};
use core::arch::global_asm;
use core::sync::atomic::{AtomicU32, Ordering};
use x86_64::VirtAddr;

/// Everything an exception stub leaves on the stack, lowest address first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Context {
    /// RAX, RCX, RDX, RBX, RBP, RSI, RDI, R8 to R15.
    pub gpr: [u64; 15],
    /// Exception vector.
    pub vector: u64,
    /// The CPU's error code, or 0.
    pub error: u64,
    /// Where it happened.
    pub rip: u64,
    /// Code selector.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u64,
}

/// Names of [`Context::gpr`], in order.
pub const GPR_NAMES: [&str; 15] = [
    "rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

const STUB_BYTES: usize = 16;

// One 16-byte stub a vector, of exceptions and interrupts: push a zero where the CPU pushes no error code, push the vector, go on.
// On entry: RSP -> [error code,] RIP, CS, RFLAGS, RSP, SS. Nothing else is assumed.
global_asm!(
    ".balign 16",
    ".globl exception_stubs", "exception_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    // Vectors with an error code: 8, 10 to 14, 17, 21, 29, 30.
    ".if !((vector == 8) | ((vector >= 10) & (vector <= 14)) | (vector == 17) | (vector == 21) | (vector == 29) | (vector == 30))",
    "push 0",
    ".endif",
    "push vector",
    "jmp exception_common",
    ".set vector, vector + 1",
    ".endr",
    // RSP -> vector, error, RIP, CS, RFLAGS, RSP, SS.
    "exception_common:",
    "push r15", "push r14", "push r13", "push r12", "push r11", "push r10", "push r9", "push r8",
    "push rdi", "push rsi", "push rbp", "push rbx", "push rdx", "push rcx", "push rax",
    "cld",
    "mov rdi, rsp",
    "mov rbx, rsp",
    "and rsp, -16",
    "call {handler}",
    "mov rsp, rbx",
    "pop rax", "pop rcx", "pop rdx", "pop rbx", "pop rbp", "pop rsi", "pop rdi",
    "pop r8", "pop r9", "pop r10", "pop r11", "pop r12", "pop r13", "pop r14", "pop r15",
    "add rsp, 16",
    "iretq",
    handler = sym handle,
);

/// How often each vector was taken outside of guests.
static TAKEN: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

/// How often interrupts with this vector were taken outside of guests, on any CPU.
#[must_use]
pub fn taken(vector: u8) -> u32 {
    TAKEN
        .get(usize::from(vector))
        .map_or(0, |count| count.load(Ordering::Relaxed))
}

unsafe extern "C" {
    fn exception_stubs();
}

/// Address of the stub for `vector`.
#[must_use]
pub fn stub(vector: u8) -> VirtAddr {
    let at = exception_stubs as *const () as usize + usize::from(vector) * STUB_BYTES;
    VirtAddr::new_truncate(at as u64)
}

extern "sysv64" fn handle(context: &Context) {
    const NMI: u64 = 2;
    const MACHINE_CHECK: u64 = 18;
    const FIRST_INTERRUPT: u64 = 32;
    match context.vector {
        NMI => take_nmi(),
        MACHINE_CHECK => checks::interrupted(pcpu::known(), context),
        // Whatever it is, the CPU that waited for it looks around now.
        vector @ FIRST_INTERRUPT.. => {
            if let Some(count) = TAKEN.get(vector as usize) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            if vector < lapic::FIRST_UNENDED {
                lapic::end_of_interrupt();
            }
        }
        _ => panic::report_and_stop(Cause::Exception(context)),
    }
}

/// Another CPU stops the machine, or wants something of this one at once, or it is the hardware's.
fn take_nmi() {
    panic::stop_if_reported();
    if let Some(own) = pcpu::known() {
        own.checks.note_nmi();
        call::serve(own);
    }
}
