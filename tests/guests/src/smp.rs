//! Application processors: started by INIT and start-up interrupts, then asleep until they are given a [`Job`].
//!
//! vCPUs are numbered from 0, the one that boots, in the order they are started. [`current`] tells them apart by the stack
//! in use, so nothing needs to be set up before it works.
//!
//! | step | mode | registers |
//! |---|---|---|
//! | `smp_trampoline`, copied to `TRAMPOLINE` | real mode, CS base there | - |
//! | `smp_protected` | 32-bit protected, paging off | - |
//! | `smp_long` | 64-bit, on the guest's tables | EDI = number, from `smp_next` |
#![allow(
    unsafe_code,
    reason = "entry code in assembly, and its copy below 1 MiB"
)]

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::apic::{self, Command};
use crate::timer::{sleep_until, spin_until};
use crate::trap::{self, Fault};
use crate::{cpu, power};

/// Most vCPUs that a guest uses.
pub const MAX_VCPUS: usize = 8;
/// Wakes a vCPU that waits for a job, or one that waits for another to finish.
pub const WAKE_VECTOR: u8 = 0xf0;
/// How long a vCPU may take to come up, in ticks. It may have to wait for a share of its CPU.
pub const START_LIMIT: u64 = 2_000_000_000;

/// What a vCPU is given to do; its argument is the vCPU's number.
pub type Job = fn(usize);

/// RAM below 1 MiB that neither the loader nor a guest uses.
const TRAMPOLINE: u64 = 0x6_0000;
/// The page that a start-up interrupt names.
pub const TRAMPOLINE_PAGE: u8 = (TRAMPOLINE >> 12) as u8;
const TRAMPOLINE_SIZE: usize = 64;
const TRAMPOLINE_GDT: u64 = TRAMPOLINE + 56;
/// Limit and 32-bit base.
const GDT_POINTER_SIZE: usize = 6;
const STACK_SIZE: u64 = 1 << 15;

struct Vcpu {
    apic_id: AtomicU32,
    starts: AtomicU32,
    job: AtomicPtr<()>,
}

static VCPUS: [Vcpu; MAX_VCPUS] = [const {
    Vcpu {
        apic_id: AtomicU32::new(u32::MAX),
        starts: AtomicU32::new(0),
        job: AtomicPtr::new(core::ptr::null_mut()),
    }
}; MAX_VCPUS];

unsafe extern "C" {
    safe static smp_trampoline: [u8; TRAMPOLINE_SIZE];
    safe static smp_stacks: u8;
    safe static smp_next: AtomicU32;
    safe static gdt_pointer: u8;
}

/// The number of the vCPU that asks.
#[must_use]
pub fn current() -> usize {
    let here: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags)) };
    match here.checked_sub(&raw const smp_stacks as u64) {
        Some(offset) if offset < STACK_SIZE * (MAX_VCPUS as u64 - 1) => {
            (offset / STACK_SIZE) as usize + 1
        }
        _ => 0,
    }
}

/// Readies this vCPU, the first, to start others: x2APIC mode, and the trampoline in its place.
///
/// # Errors
/// The fault that refused x2APIC mode.
pub fn prepare() -> Result<(), Fault> {
    apic::enable()?;
    if let Some(first) = VCPUS.first() {
        first.apic_id.store(apic::id(), Ordering::Relaxed);
        first.starts.store(1, Ordering::Relaxed);
    }
    // SAFETY: RAM that nothing else uses; the trampoline is as long as the symbol says.
    unsafe {
        core::ptr::copy_nonoverlapping(
            smp_trampoline.as_ptr(),
            TRAMPOLINE as *mut u8,
            TRAMPOLINE_SIZE,
        );
    }
    // SAFETY: the GDT pointer has more bytes than are copied, and its place in the trampoline is kept free.
    unsafe {
        core::ptr::copy_nonoverlapping(
            &raw const gdt_pointer,
            TRAMPOLINE_GDT as *mut u8,
            GDT_POINTER_SIZE,
        );
    }
    Ok(())
}

/// Starts the vCPU with `apic_id` as number `vcpu`, whatever it does; whether it came up.
///
/// # Errors
/// The fault that refused an interrupt command.
pub fn start(vcpu: usize, apic_id: u32) -> Result<bool, Fault> {
    let Some(slot) = VCPUS.get(vcpu) else {
        return Ok(false);
    };
    let before = slot.starts.load(Ordering::Acquire);
    slot.job.store(core::ptr::null_mut(), Ordering::Release);
    smp_next.store(vcpu as u32, Ordering::Release);
    apic::send(Command::init().to(apic_id))?;
    apic::send(Command::startup(TRAMPOLINE_PAGE).to(apic_id))?;
    apic::send(Command::startup(TRAMPOLINE_PAGE).to(apic_id))?;
    Ok(spin_until(START_LIMIT, || {
        slot.starts.load(Ordering::Acquire) != before
    }))
}

/// The identifier that vCPU `vcpu` found in its local APIC.
#[must_use]
pub fn apic_id(vcpu: usize) -> u32 {
    VCPUS
        .get(vcpu)
        .map_or(u32::MAX, |slot| slot.apic_id.load(Ordering::Relaxed))
}

/// How often vCPU `vcpu` came up.
#[must_use]
pub fn starts(vcpu: usize) -> u32 {
    VCPUS
        .get(vcpu)
        .map_or(0, |slot| slot.starts.load(Ordering::Acquire))
}

/// Gives vCPU `vcpu` something to do.
///
/// # Errors
/// The fault that refused to wake it.
pub fn give(vcpu: usize, job: Job) -> Result<(), Fault> {
    if let Some(slot) = VCPUS.get(vcpu) {
        slot.job.store(job as *mut (), Ordering::Release);
        apic::send(Command::interrupt(WAKE_VECTOR).to(apic_id(vcpu)))?;
    }
    Ok(())
}

/// Whether vCPU `vcpu` has nothing to do.
#[must_use]
pub fn is_idle(vcpu: usize) -> bool {
    VCPUS
        .get(vcpu)
        .is_none_or(|slot| slot.job.load(Ordering::Acquire).is_null())
}

/// Sleeps until vCPU `vcpu` has done its job, for `limit` ticks at most; whether it has. It wakes vCPU 0 when it has.
#[must_use]
pub fn wait_for(vcpu: usize, limit: u64) -> bool {
    sleep_until(limit, || is_idle(vcpu))
}

/// Gives vCPU `vcpu` a job and waits for its end; whether it ended within `limit` ticks.
///
/// # Errors
/// The fault that refused to wake it.
pub fn run(vcpu: usize, limit: u64, job: Job) -> Result<bool, Fault> {
    give(vcpu, job)?;
    Ok(wait_for(vcpu, limit))
}

/// What every started vCPU does.
extern "C" fn smp_main(vcpu: u32) -> ! {
    trap::load();
    let vcpu = vcpu as usize;
    let (Ok(()), Some(slot)) = (apic::enable(), VCPUS.get(vcpu)) else {
        power::halt()
    };
    slot.apic_id.store(apic::id(), Ordering::Relaxed);
    slot.starts.fetch_add(1, Ordering::Release);
    loop {
        sleep_until(u64::MAX, || !is_idle(vcpu));
        let job = slot.job.load(Ordering::Acquire);
        // SAFETY: `give` stored a `Job` there, and nothing else stores anything but null, which `is_idle` rules out.
        let job: Job = unsafe { core::mem::transmute(job) };
        job(vcpu);
        cpu::disable_interrupts();
        slot.job.store(core::ptr::null_mut(), Ordering::Release);
        // Nobody to wake is no harm: vCPU 0 also looks when its timer comes.
        let _ = apic::send(Command::interrupt(WAKE_VECTOR).to(apic_id(0)));
    }
}

global_asm!(
    r#"
    .section .text.smp, "ax", @progbits
    .code16
    .globl smp_trampoline
smp_trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl (smp_gdt - smp_trampoline)
    movl $0x31, %eax
    movl %eax, %cr0
    ljmpl $0x18, $smp_protected
    .skip 56 - (. - smp_trampoline)
smp_gdt:
    .skip 64 - (. - smp_trampoline)

    .code32
smp_protected:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl %eax, %fs
    movl %eax, %gs
    movl $0x20, %eax
    movl %eax, %cr4
    movl $page_tables, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmp $0x08, $smp_long

    # The stack of vCPU n ends where that of n + 1 begins; that of vCPU 1 is the first.
    .code64
smp_long:
    movl smp_next(%rip), %edi
    movl %edi, %eax
    shll $15, %eax
    leaq smp_stacks(%rip), %rsp
    addq %rax, %rsp
    xorl %ebp, %ebp
    call {main}
    ud2

    .section .data.smp, "aw", @progbits
    .balign 4
    .globl smp_next
smp_next:
    .long 0

    .section .bss.smp_stacks, "aw", @nobits
    .balign 16
    .globl smp_stacks
smp_stacks:
    .skip 7 * 32768
    "#,
    main = sym smp_main,
    options(att_syntax)
);

const _: () = assert!(STACK_SIZE == 32768 && MAX_VCPUS == 8);
