//! The I/O APIC's window, reached in ways no driver would: the guest sees faults or values, or is stopped with a report.

use bulkhead_core::platform::IOAPIC_BASE;
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::{attempt, println};

/// Tries one access at `IOAPIC_BASE + $offset`, with RCX as the address. The line printed before it says, where the
/// hypervisor stops the VM, which access it stopped.
macro_rules! access {
    ($name:literal, $offset:literal, $($op:literal),+) => {
        println!("mmio {} at +{:#x}", $name, $offset);
        // SAFETY: device registers only; the stack and memory operands are this guest's own.
        let outcome = unsafe {
            attempt!($($op),+; in("rcx") IOAPIC_BASE.0 + $offset, out("rax") _, out("rdx") _, out("rsi") _, out("rdi") _)
        };
        println!("mmio {}: {outcome:?}", $name);
    };
}

pub(crate) fn odd_accesses(_: &mut Case, params: &Params) {
    access!("aligned read", 0x10, "mov eax, [rcx]");
    access!("read past the registers", 0x800, "mov eax, [rcx]");
    access!("write past the registers", 0x800, "mov [rcx], eax");
    access!(
        "select an absurd register",
        0x0,
        "mov dword ptr [rcx], 0xffffffff"
    );
    access!("read an absurd register", 0x10, "mov eax, [rcx]");
    access!(
        "write an absurd register",
        0x10,
        "mov dword ptr [rcx], 0xffffffff"
    );
    access!("byte read", 0x10, "mov al, [rcx]");
    access!("word read", 0x12, "mov ax, [rcx]");
    access!("misaligned read", 0x11, "mov eax, [rcx]");
    access!("quadword read", 0x10, "mov rax, [rcx]");
    access!("read across the window's end", 0xffd, "mov eax, [rcx]");
    if params.get("odd") == Some("no") {
        return;
    }
    access!("sign-extending read", 0x10, "movsx rax, byte ptr [rcx]");
    access!("exchange", 0x10, "xchg [rcx], eax");
    access!("locked add", 0x10, "lock add dword ptr [rcx], 1");
    access!(
        "compare and exchange",
        0x10,
        "xor eax, eax",
        "lock cmpxchg [rcx], edx"
    );
    access!(
        "16-byte compare and exchange",
        0x10,
        "push rbx",
        "lock cmpxchg16b [rcx]",
        "pop rbx"
    );
    access!("push from", 0x10, "push [rcx]", "pop rax");
    access!(
        "string read",
        0x10,
        "lea rdi, [rsp - 64]",
        "mov rsi, rcx",
        "movsb"
    );
    access!("add from", 0x10, "add eax, [rcx]");
}
