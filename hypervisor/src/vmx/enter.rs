//! Into the guest and out of it.
//!
//! [`run`] switches to the exit stack and enters; every exit lands on `exit_entry`, saves the general
//! registers on that stack, calls the handler there and resumes, without ever unwinding to `run`'s caller
//! until the handler says so.

use crate::vm::run::Running;
use bulkhead_core::vcpu::registers::Gprs;
use core::arch::global_asm;
use core::mem::offset_of;

/// The top of the exit stack: what assembly and the handler share.
#[repr(C)]
pub struct RunFrame {
    /// The guest's general registers; the slot of RSP is unused, the VMCS has it.
    pub gpr: Gprs,
    /// The stack pointer of `run`'s caller.
    caller_rsp: u64,
    /// What the handler works on.
    pub context: *mut Running,
}

impl RunFrame {
    /// The frame of a guest about to start with `gpr`.
    #[must_use]
    pub const fn new(gpr: Gprs, context: *mut Running) -> Self {
        Self {
            gpr,
            caller_rsp: 0,
            context,
        }
    }
}

const _: () = assert!(offset_of!(RunFrame, gpr) == 0);
const _: () = assert!(size_of::<RunFrame>().is_multiple_of(16));

/// Where on the exit stack the frame lies whose `top` (one past the last byte) is given.
#[must_use]
pub const fn frame_at(top: u64) -> *mut RunFrame {
    (top - size_of::<RunFrame>() as u64) as *mut RunFrame
}

/// The value of the VMCS field HOST_RSP for a frame: just above the saved registers.
#[must_use]
pub fn host_rsp(frame: *mut RunFrame) -> u64 {
    frame as u64 + offset_of!(RunFrame, caller_rsp) as u64
}

// vmx_run(rdi = *mut RunFrame, esi = whether the VMCS was launched) -> eax: 1 when the handler stopped the guest, 0 when the entry instruction failed
//   rdi   the frame; its top is the exit stack's top, the registers lie in hardware order from RAX up
//   saved rbx, rbp, r12 to r15 on the caller's stack; everything else is the caller's to lose
// vmx_exit: RSP = HOST_RSP, all other registers are the guest's
global_asm!(
    ".globl vmx_run",
    "vmx_run:",
    "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
    "mov [rdi + {caller_rsp}], rsp",
    "mov rsp, rdi",
    // The flags keep ESI's answer: POP and LEA change none.
    "test esi, esi",
    "pop rax", "pop rcx", "pop rdx", "pop rbx", "lea rsp, [rsp + 8]", "pop rbp", "pop rsi", "pop rdi",
    "pop r8", "pop r9", "pop r10", "pop r11", "pop r12", "pop r13", "pop r14", "pop r15",
    "jnz 5f",
    "vmlaunch",
    "jmp 3f",
    "5:",
    "vmresume",
    "jmp 3f",
    ".balign 64",
    ".globl vmx_exit",
    "vmx_exit:",
    "push r15", "push r14", "push r13", "push r12", "push r11", "push r10", "push r9", "push r8",
    "push rdi", "push rsi", "push rbp", "push rsp", "push rbx", "push rdx", "push rcx", "push rax",
    "mov rdi, rsp",
    "call {handler}",
    "test al, al",
    "jz 2f",
    "pop rax", "pop rcx", "pop rdx", "pop rbx", "lea rsp, [rsp + 8]", "pop rbp", "pop rsi", "pop rdi",
    "pop r8", "pop r9", "pop r10", "pop r11", "pop r12", "pop r13", "pop r14", "pop r15",
    "vmresume",
    // Entry failed: the registers were popped, so RSP is at caller_rsp again.
    "3:",
    "mov rsp, [rsp]",
    "xor eax, eax",
    "jmp 4f",
    // The handler said stop: RSP is at the frame.
    "2:",
    "mov rsp, [rsp + {caller_rsp}]",
    "mov eax, 1",
    "4:",
    "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
    "ret",
    caller_rsp = const offset_of!(RunFrame, caller_rsp),
    handler = sym crate::vm::run::handle_exit,
);

#[allow(
    improper_ctypes,
    reason = "the assembly only passes the context's pointer on"
)]
unsafe extern "sysv64" {
    fn vmx_run(frame: *mut RunFrame, launched: u32) -> u32;
    fn vmx_exit();
}

/// The value of the VMCS field HOST_RIP.
#[must_use]
pub fn host_rip() -> u64 {
    vmx_exit as *const () as u64
}

/// VMLAUNCH or VMRESUME was refused; the VMCS's instruction-error field says why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryRefused;

/// Runs the guest of the current VMCS, which was `launched` before or not, until the handler stops it.
///
/// # Errors
/// [`EntryRefused`].
///
/// # Safety
/// `frame` must be the one whose [`host_rsp`] the VMCS has, on a stack that nothing else uses, with a context that
/// stays valid and unaliased until this returns.
pub unsafe fn run(frame: *mut RunFrame, launched: bool) -> Result<(), EntryRefused> {
    // SAFETY: the caller's promises are what the assembly needs.
    match unsafe { vmx_run(frame, u32::from(launched)) } {
        0 => Err(EntryRefused),
        _ => Ok(()),
    }
}
