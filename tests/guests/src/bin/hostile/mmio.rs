//! The I/O APIC's window, reached in ways no driver would: accesses of odd widths find what the model has there and change
//! nothing; those by odd instructions get the guest stopped with a report.

use bulkhead_core::platform::{IOAPIC_BASE, IOAPIC_PINS};
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{attempt, println};

/// What RAX holds before each access, so that an access shows which bytes it wrote.
const MARK: u64 = 0x5a5a_5a5a_5a5a_5a5a;
/// The version register: version 0x20, and the highest redirection entry.
const VERSION: u64 = 0x20 | (IOAPIC_PINS as u64 - 1) << 16;
const VERSION_INDEX: u32 = 1;
/// Indirect registers: identifier, version, arbitration; from 0x10 two for each redirection entry.
const REGISTERS: usize = 0x10 + 2 * IOAPIC_PINS as usize;

/// Tries one access at `IOAPIC_BASE + $offset`, with RCX as the address, and expects `$rax` in RAX. The line printed before
/// it says, where the hypervisor stops the VM, which access it stopped.
macro_rules! access {
    ($case:ident, $name:literal, $offset:literal, $rax:expr, $($op:literal),+) => {{
        println!("mmio {} at +{:#x}", $name, $offset);
        let found: u64;
        // SAFETY: device registers only; the stack and memory operands are this guest's own.
        let outcome = unsafe {
            attempt!($($op),+; in("rcx") IOAPIC_BASE.0 + $offset, inout("rax") MARK => found, out("rdx") _, out("rsi") _,
                out("rdi") _)
        };
        $case.check(
            outcome.is_ok() && found == $rax,
            format_args!("{}: {outcome:?}, RAX {found:#x} instead of {:#x}", $name, $rax),
        );
    }};
}

/// As `access!`, for instructions that the hypervisor does not carry out.
macro_rules! stopped {
    ($case:ident, $name:literal, $($op:literal),+) => {{
        println!("mmio {}", $name);
        // SAFETY: as in `access!`.
        let outcome = unsafe {
            attempt!($($op),+; in("rcx") IOAPIC_BASE.0 + 0x10, out("rax") _, out("rdx") _, out("rsi") _, out("rdi") _)
        };
        $case.check(false, format_args!("{}: {outcome:?}, and the VM goes on", $name));
    }};
}

pub(crate) fn odd_accesses(case: &mut Case, params: &Params) {
    let before = registers();
    select(VERSION_INDEX);
    access!(case, "aligned read", 0x10, VERSION, "mov eax, [rcx]");
    access!(
        case,
        "byte read",
        0x10,
        MARK & !0xff | 0x20,
        "mov al, [rcx]"
    );
    access!(case, "word read", 0x12, MARK & !0xffff, "mov ax, [rcx]");
    access!(case, "misaligned read", 0x11, 0, "mov eax, [rcx]");
    access!(case, "quadword read", 0x10, VERSION, "mov rax, [rcx]");
    access!(
        case,
        "sign-extending read",
        0x10,
        0x20,
        "movsx rax, byte ptr [rcx]"
    );
    access!(case, "read past the registers", 0x800, 0, "mov eax, [rcx]");
    access!(
        case,
        "read across the window's end",
        0xffd,
        0,
        "mov eax, [rcx]"
    );
    access!(
        case,
        "write past the registers",
        0x800,
        MARK,
        "mov [rcx], eax"
    );
    access!(case, "misaligned write", 0x11, MARK, "mov [rcx], eax");
    access!(
        case,
        "write to a read-only register",
        0x10,
        MARK,
        "mov [rcx], eax"
    );
    access!(case, "version again", 0x10, VERSION, "mov eax, [rcx]");
    access!(
        case,
        "select an absurd register",
        0x0,
        MARK,
        "mov dword ptr [rcx], 0xffffffff"
    );
    access!(case, "read back the selection", 0x0, 0xff, "mov eax, [rcx]");
    access!(case, "read an absurd register", 0x10, 0, "mov eax, [rcx]");
    access!(
        case,
        "write an absurd register",
        0x10,
        MARK,
        "mov dword ptr [rcx], 0xffffffff"
    );
    let after = registers();
    for ((index, was), is) in before.iter().enumerate().zip(after) {
        case.check(
            *was == is,
            format_args!("register {index:#x} changed from {was:#x} to {is:#x}"),
        );
    }
    if params.get("odd") == Some("no") {
        return;
    }
    stopped!(case, "exchange", "xchg [rcx], eax");
    stopped!(case, "locked add", "lock add dword ptr [rcx], 1");
    stopped!(
        case,
        "compare and exchange",
        "xor eax, eax",
        "lock cmpxchg [rcx], edx"
    );
    stopped!(
        case,
        "16-byte compare and exchange",
        "push rbx",
        "lock cmpxchg16b [rcx]",
        "pop rbx"
    );
    stopped!(
        case,
        "string read",
        "lea rdi, [rsp - 64]",
        "mov rsi, rcx",
        "movsb"
    );
}

/// All indirect registers.
fn registers() -> [u32; REGISTERS] {
    core::array::from_fn(|index| {
        select(index as u32);
        let window = (IOAPIC_BASE.0 + 0x10) as *const u32;
        // SAFETY: reads a device register.
        unsafe { window.read_volatile() }
    })
}

fn select(index: u32) {
    let selector = IOAPIC_BASE.0 as *mut u32;
    // SAFETY: writes a device register that selects another.
    unsafe { selector.write_volatile(index) };
}
