//! The code that a further CPU begins with: from real mode below 1 MiB to 64-bit mode in the image.
//!
//! [`write()`] copies it to a page, with the few numbers that it needs behind it; a start-up interrupt names the page.
//! CPUs are started one at a time, each finding its stack and its argument in [`HANDOVER`].

use super::cpu::IA32_EFER;
use bulkhead_core::addr::{FRAME_SIZE, Hpa};
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use x86_64::registers::control::{Cr0Flags, Cr4Flags};
use x86_64::registers::model_specific::EferFlags;

/// What the CPU that is being started takes along: its stack's top, and the argument of the function that it calls.
#[repr(C)]
pub struct Handover {
    stack: AtomicU64,
    argument: AtomicU64,
    entry: AtomicU64,
}

static HANDOVER: Handover = Handover {
    stack: AtomicU64::new(0),
    argument: AtomicU64::new(0),
    entry: AtomicU64::new(0),
};

/// The numbers behind the code.
#[repr(C)]
struct Numbers {
    /// GDT: nothing, 64-bit code.
    gdt: [u64; 2],
    gdt_limit: u16,
    gdt_base: [u8; 4],
    reserved: u16,
    /// CR3.
    root: u32,
    /// Where 64-bit mode begins, for the far jump: offset and selector.
    long_offset: u32,
    long_selector: u16,
    reserved2: [u16; 3],
    /// Address of `start_long` in the image.
    image: u64,
}

/// Where in the page they lie.
const NUMBERS: usize = 0x100;
/// 64-bit code, marked as accessed: the page is read-only by the time it is used.
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
const SELECTOR: u16 = 8;

/// CR4: what 64-bit mode needs.
const CR4_ON: u32 = Cr4Flags::PHYSICAL_ADDRESS_EXTENSION.bits() as u32;
/// IA32_EFER: 64-bit mode, and the no-execute bit that the tables have.
const EFER_ON: u32 =
    EferFlags::LONG_MODE_ENABLE.bits() as u32 | EferFlags::NO_EXECUTE_ENABLE.bits() as u32;
/// CR0: protection and paging, also of what the hypervisor itself writes.
const CR0_ON: u32 = Cr0Flags::PROTECTED_MODE_ENABLE.bits() as u32
    | Cr0Flags::WRITE_PROTECT.bits() as u32
    | Cr0Flags::PAGING.bits() as u32;
/// CR0: caches off, as INIT leaves it.
const CR0_OFF: u32 =
    Cr0Flags::CACHE_DISABLE.bits() as u32 | Cr0Flags::NOT_WRITE_THROUGH.bits() as u32;

// start_code: real mode, cs:ip = (page >> 4):0; all other registers are what INIT left
//   ds             = cs: the numbers are at NUMBERS of it
//   eax, ecx, edx  lost
//   esp            not used: nothing here pushes
// start_code_long: 64-bit mode, cs = SELECTOR, the hypervisor's tables, caches on; no stack yet
//   rax            the address of `start_long`
// start_long: the same, in the image
//   rsp            = HANDOVER.stack
//   rdi            = HANDOVER.argument, the function's first
//   rbp            = 0: a backtrace ends here
//   rax            = HANDOVER.entry, which is called and does not return
global_asm!(
    ".globl start_code, start_code_long, start_code_end",
    ".code16",
    "start_code:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "data32 lgdt [{numbers} + {gdtr}]",
    // CR0 comes last: it turns protection, paging and with them 64-bit mode on together.
    "mov eax, cr4",
    "or eax, {cr4_on}",
    "mov cr4, eax",
    "mov eax, [{numbers} + {root}]",
    "mov cr3, eax",
    "mov ecx, {efer}",
    "rdmsr",
    "or eax, {efer_on}",
    "wrmsr",
    "mov eax, cr0",
    "and eax, {cr0_keep}",
    "or eax, {cr0_on}",
    "mov cr0, eax",
    // JMP m16:32, which assemblers do not agree how to write in 16-bit code.
    ".byte 0x66, 0xff, 0x2e",
    ".2byte {numbers} + {long}",
    ".code64",
    "start_code_long:",
    // Relative to here, so this finds the copy.
    "lea rax, [rip + start_code]",
    "mov rax, [rax + {numbers} + {image}]",
    "jmp rax",
    "start_code_end:",
    // In the image: the stack, the argument, and on to Rust.
    ".globl start_long",
    "start_long:",
    "mov rsp, [rip + {handover} + {stack}]",
    "mov rdi, [rip + {handover} + {argument}]",
    "xor ebp, ebp",
    "mov rax, [rip + {handover} + {entry}]",
    "call rax",
    "ud2",
    cr4_on = const CR4_ON,
    efer = const IA32_EFER,
    efer_on = const EFER_ON,
    cr0_keep = const !CR0_OFF,
    cr0_on = const CR0_ON,
    numbers = const NUMBERS,
    gdtr = const offset_of!(Numbers, gdt_limit),
    root = const offset_of!(Numbers, root),
    long = const offset_of!(Numbers, long_offset),
    image = const offset_of!(Numbers, image),
    handover = sym HANDOVER,
    stack = const offset_of!(Handover, stack),
    argument = const offset_of!(Handover, argument),
    entry = const offset_of!(Handover, entry),
);

unsafe extern "C" {
    fn start_code();
    fn start_code_long();
    fn start_code_end();
    fn start_long();
}

const _: () = assert!(size_of::<Numbers>() + NUMBERS < FRAME_SIZE as usize);

/// Writes the code and its numbers to the page at `page`; false where the tables at `root` lie beyond what a CPU in
/// protected mode can load.
///
/// # Safety
/// The page must be below 1 MiB, writable where its addresses are equal, and the hypervisor's alone; `root` must map it,
/// executable, and the image.
#[must_use]
pub unsafe fn write(page: Hpa, root: Hpa) -> bool {
    let (Ok(root), Ok(base)) = (u32::try_from(root.0), u32::try_from(page.0)) else {
        return false;
    };
    let code = start_code as *const u8;
    let length = start_code_end as *const () as usize - code as usize;
    let long = start_code_long as *const () as usize - code as usize;
    assert!(length <= NUMBERS, "the start code runs into its numbers");
    // SAFETY: the caller gives the page, and the code is that long.
    unsafe { core::ptr::copy_nonoverlapping(code, page.0 as *mut u8, length) };
    let numbers = Numbers {
        gdt: [0, CODE_64],
        gdt_limit: 15,
        gdt_base: (base + NUMBERS as u32).to_le_bytes(),
        reserved: 0,
        root,
        long_offset: base + long as u32,
        long_selector: SELECTOR,
        reserved2: [0; 3],
        image: start_long as *const () as u64,
    };
    let at = (page.0 as usize + NUMBERS) as *mut Numbers;
    // SAFETY: the numbers lie within the page, behind the code, aligned.
    unsafe { at.write(numbers) };
    true
}

/// What the next CPU that starts finds.
pub fn hand_over(stack: u64, argument: u64, entry: extern "sysv64" fn(u64) -> !) {
    HANDOVER.stack.store(stack, Ordering::SeqCst);
    HANDOVER.argument.store(argument, Ordering::SeqCst);
    HANDOVER
        .entry
        .store(entry as *const () as u64, Ordering::SeqCst);
}
