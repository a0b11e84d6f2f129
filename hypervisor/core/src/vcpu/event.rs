//! Delivering exceptions and interrupts: what the next VM entry injects, and what has to wait for a window.

use super::{Cpu, Vcpu, linear};
use crate::apic::{LocalApic, Reg};
use crate::fault::GuestFault;
use crate::vmx::controls::Primary;
use crate::vmx::exit::Interruption;
use crate::vmx::field::{self, Natural};

const GENERAL_PROTECTION: u8 = 13;
const INVALID_OPCODE: u8 = 6;
const DOUBLE_FAULT: u8 = 8;
const PAGE_FAULT: u8 = 14;
pub(super) const RFLAGS_TF: u64 = 1 << 8;
pub(super) const RFLAGS_IF: u64 = 1 << 9;
/// Resume: no instruction breakpoint on the next instruction. An EPT violation saves it set, as any fault does.
const RFLAGS_RF: u64 = 1 << 16;
/// Blocking by STI and by MOV SS, in the interruptibility state.
pub(super) const BLOCKED_BY_STI_OR_MOV_SS: u32 = 0b11;
/// Single step, among the pending debug exceptions.
const PENDING_BS: u64 = 1 << 14;
/// Blocking by NMI, in the interruptibility state.
const BLOCKED_BY_NMI: u32 = 1 << 3;

/// Injects the exception that `fault` names at the next entry. A [`GuestFault::Stop`] is the caller's business.
pub(super) fn inject_fault<C: Cpu>(cpu: &mut C, fault: GuestFault) {
    match fault {
        GuestFault::Gp(code) => inject_exception(cpu, GENERAL_PROTECTION, Some(code)),
        GuestFault::Ud => inject_exception(cpu, INVALID_OPCODE, None),
        GuestFault::Stop(_) => {}
    }
}

/// Injects a page fault at `address`.
pub(super) fn inject_page_fault<C: Cpu>(cpu: &mut C, address: u64, code: u32) {
    cpu.set_cr2(address);
    inject_exception(cpu, PAGE_FAULT, Some(code));
}

/// Injects a double fault.
pub(super) fn inject_double_fault<C: Cpu>(cpu: &mut C) {
    inject_exception(cpu, DOUBLE_FAULT, Some(0));
}

fn inject_exception<C: Cpu>(cpu: &mut C, vector: u8, code: Option<u32>) {
    const CR0_PE: u64 = 1;
    // Real mode pushes no error codes, and VM entry refuses to deliver one there.
    let code = code.filter(|_| cpu.read(field::GUEST_CR0).0 & CR0_PE != 0);
    cpu.write(
        field::ENTRY_INTERRUPTION_INFO,
        Interruption::exception(vector, code.is_some()).0,
    );
    if let Some(code) = code {
        cpu.write(field::ENTRY_EXCEPTION_ERROR_CODE, code);
    }
}

/// Injects again the event whose delivery the exit interrupted, if there was one
/// (Intel SDM vol. 3C, "Information for VM Exits That Occur During Event Delivery").
pub(super) fn reinject_interrupted<C: Cpu>(cpu: &mut C) {
    let event = Interruption(cpu.read(field::IDT_VECTORING_INFO));
    if !event.is_valid() {
        return;
    }
    if event.kind() == Interruption::NMI {
        unblock_nmi(cpu);
    }
    inject_raw(cpu, event, field::IDT_VECTORING_ERROR_CODE);
}

/// Ends the NMI blocking that an interrupted delivery set: the entry that delivers the NMI again would fail.
fn unblock_nmi<C: Cpu>(cpu: &mut C) {
    let blocked = cpu.read(field::GUEST_INTERRUPTIBILITY);
    cpu.write(field::GUEST_INTERRUPTIBILITY, blocked & !BLOCKED_BY_NMI);
}

/// Blocks NMIs again where an IRET that exited had `unblocked` them: it has not ended the guest's NMI handler (Intel SDM vol. 3C,
/// "Resuming Guest Software or Reflecting an Exception").
pub(super) fn undo_unblocking<C: Cpu>(cpu: &mut C, unblocked: bool) {
    if unblocked && !Interruption(cpu.read(field::IDT_VECTORING_INFO)).is_valid() {
        let blocked = cpu.read(field::GUEST_INTERRUPTIBILITY);
        cpu.write(field::GUEST_INTERRUPTIBILITY, blocked | BLOCKED_BY_NMI);
    }
}

/// Gives the guest the exception that exited to us. It takes the place of any event that it interrupted: #DB and #AC are
/// benign beside everything (Intel SDM vol. 3A, "Interrupt 8—Double Fault Exception (#DF)"), and an
/// exception or a software interrupt comes again with its instruction.
pub(super) fn reflect<C: Cpu>(cpu: &mut C, event: Interruption) {
    undo_unblocking(cpu, event.unblocked_nmi());
    inject_raw(cpu, event, field::EXIT_INTERRUPTION_ERROR_CODE);
}

fn inject_raw<C: Cpu>(cpu: &mut C, event: Interruption, code: field::Field<u32, field::ReadOnly>) {
    cpu.write(field::ENTRY_INTERRUPTION_INFO, event.for_entry());
    if event.has_error_code() {
        let code = cpu.read(code);
        cpu.write(field::ENTRY_EXCEPTION_ERROR_CODE, code);
    }
    if matches!(
        event.kind(),
        Interruption::SOFTWARE_INTERRUPT
            | Interruption::PRIVILEGED_SOFTWARE
            | Interruption::SOFTWARE_EXCEPTION
    ) {
        let length = cpu.read(field::EXIT_INSTRUCTION_LENGTH);
        cpu.write(field::ENTRY_INSTRUCTION_LENGTH, length);
    }
}

/// Whether the next entry already carries an event.
pub(super) fn entry_is_taken<C: Cpu>(cpu: &C) -> bool {
    Interruption(cpu.read(field::ENTRY_INTERRUPTION_INFO)).is_valid()
}

/// Whether the guest takes a maskable interrupt at its next instruction.
pub(super) fn is_open<C: Cpu>(cpu: &C) -> bool {
    cpu.read(field::GUEST_RFLAGS).0 & RFLAGS_IF != 0
        && cpu.read(field::GUEST_INTERRUPTIBILITY) & BLOCKED_BY_STI_OR_MOV_SS == 0
}

/// Whether the guest takes an NMI at its next instruction.
pub(super) fn takes_nmi<C: Cpu>(cpu: &C) -> bool {
    let blocked = BLOCKED_BY_NMI | BLOCKED_BY_STI_OR_MOV_SS;
    cpu.read(field::GUEST_INTERRUPTIBILITY) & blocked == 0
}

impl Vcpu {
    /// Keeps the interrupt or NMI whose delivery the exit interrupted for later: unlike an exception, nothing raises
    /// it again.
    pub(super) fn put_back_interrupted<C: Cpu>(&mut self, cpu: &mut C) {
        let event = Interruption(cpu.read(field::IDT_VECTORING_INFO));
        if !event.is_valid() {
            return;
        }
        match event.kind() {
            Interruption::EXTERNAL => {
                self.apic.resync();
                self.apic.unaccept(event.vector());
                self.attention = true;
            }
            Interruption::NMI => {
                unblock_nmi(cpu);
                self.nmi_pending = true;
                self.attention = true;
            }
            _ => {}
        }
    }

    /// Puts what is pending into the next entry, or asks for an exit as soon as the guest can take it.
    pub(super) fn deliver_pending<C: Cpu>(&mut self, cpu: &mut C) {
        if self.nmi_pending {
            self.deliver_nmi(cpu);
        }
        if self.hardware_delivery {
            self.publish(cpu);
            return;
        }
        let Some(vector) = self.apic.highest_pending() else {
            cpu.write(field::TPR_THRESHOLD, self.apic.tpr_threshold());
            self.want(cpu, Primary::INTERRUPT_WINDOW, false);
            return;
        };
        if !entry_is_taken(cpu) && is_open(cpu) {
            self.apic.accept(vector);
            cpu.write(
                field::ENTRY_INTERRUPTION_INFO,
                Interruption::external(vector).0,
            );
            let more = self.apic.highest_pending().is_some();
            self.want(cpu, Primary::INTERRUPT_WINDOW, more);
        } else {
            self.want(cpu, Primary::INTERRUPT_WINDOW, true);
        }
        cpu.write(field::TPR_THRESHOLD, self.apic.tpr_threshold());
    }

    fn deliver_nmi<C: Cpu>(&mut self, cpu: &mut C) {
        if !entry_is_taken(cpu) && takes_nmi(cpu) {
            cpu.write(field::ENTRY_INTERRUPTION_INFO, Interruption::nmi().0);
            self.nmi_pending = false;
        }
        self.want(cpu, Primary::NMI_WINDOW, self.nmi_pending);
    }

    /// Turns a window-exiting control on or off, if it is not as wanted.
    pub(super) fn want<C: Cpu>(&mut self, cpu: &mut C, window: Primary, on: bool) {
        let mut controls = self.primary;
        controls.set(window, on);
        if controls != self.primary {
            self.primary = controls;
            cpu.write(field::PRIMARY_CONTROLS, controls.bits());
        }
    }

    /// Hands the highest request and the highest interrupt in service to the processor, and has the end of
    /// level-triggered ones exit (Intel SDM vol. 3C, "Virtual-Interrupt Delivery" and "EOI Virtualization").
    fn publish<C: Cpu>(&mut self, cpu: &mut C) {
        self.apic.resync();
        let (requested, serving) = self.apic.requested_and_serving();
        cpu.write(
            field::GUEST_INTERRUPT_STATUS,
            u16::from(requested) | (u16::from(serving) << 8),
        );
        let levels = level_triggered(&self.apic);
        if levels != self.eoi_exits {
            self.eoi_exits = levels;
            for (bitmap, vectors) in EOI_EXIT_BITMAPS.into_iter().zip(levels) {
                cpu.write(bitmap, vectors);
            }
        }
    }
}

const EOI_EXIT_BITMAPS: [field::Field<u64>; 4] = [
    field::EOI_EXIT_BITMAP_0,
    field::EOI_EXIT_BITMAP_1,
    field::EOI_EXIT_BITMAP_2,
    field::EOI_EXIT_BITMAP_3,
];

/// One bit for each vector that arrived level-triggered last, as the EOI-exit bitmaps have them.
fn level_triggered(apic: &LocalApic) -> [u64; 4] {
    [0, 2, 4, 6].map(|word| {
        let half = |word| u64::from(apic.page().get(Reg(Reg::TMR.0 + word)));
        half(word) | half(word + 1) << 32
    })
}

/// Skips the instruction that exited, with what retiring it entails.
#[inline(always)]
pub(super) fn advance<C: Cpu>(cpu: &mut C) {
    let length = cpu.read(field::EXIT_INSTRUCTION_LENGTH);
    advance_by(cpu, length);
}

/// Skips `length` bytes of instruction, with what retiring it entails; 0 is one repetition of several.
#[inline(always)]
pub(super) fn advance_by<C: Cpu>(cpu: &mut C, length: u32) {
    skip(cpu, length);
    if is_debugged(cpu) {
        retire_debugged(cpu, length);
    }
}

/// What [`advance_by`] does where the guest is not debugged, without a call.
#[inline(always)]
pub(super) fn skip<C: Cpu>(cpu: &mut C, length: u32) {
    let from = cpu.read(field::GUEST_RIP).0;
    let mut to = from.wrapping_add(u64::from(length));
    if (from ^ to) >> 32 != 0 {
        to = linear::code_offset(cpu, to);
    }
    cpu.write(field::GUEST_RIP, Natural(to));
    let blocked = cpu.read(field::GUEST_INTERRUPTIBILITY);
    if blocked & BLOCKED_BY_STI_OR_MOV_SS != 0 {
        cpu.write(
            field::GUEST_INTERRUPTIBILITY,
            blocked & !BLOCKED_BY_STI_OR_MOV_SS,
        );
    }
}

/// Whether retiring an instruction means something for debugging: [`retire_debugged`] says what.
#[inline(always)]
pub(super) fn is_debugged<C: Cpu>(cpu: &C) -> bool {
    cpu.read(field::GUEST_RFLAGS).0 & (RFLAGS_TF | RFLAGS_RF) != 0
}

/// What retiring `length` bytes of instruction means for debugging: the breakpoint on it is behind the guest, the
/// one on the next is ahead, and a single step traps (Intel SDM vol. 3B, "Instruction-Breakpoint Exception Condition").
#[cold]
pub(super) fn retire_debugged<C: Cpu>(cpu: &mut C, length: u32) {
    let flags = cpu.read(field::GUEST_RFLAGS).0;
    if length != 0 {
        cpu.write(field::GUEST_RFLAGS, Natural(flags & !RFLAGS_RF));
    }
    if flags & RFLAGS_TF != 0 {
        single_step(cpu);
    }
}

/// Whether a debug trap is on its way, which a halted guest wakes for.
pub(super) fn debug_trap_waits<C: Cpu>(cpu: &C) -> bool {
    const ENABLED_BREAKPOINT: u64 = 1 << 12;
    cpu.read(field::GUEST_PENDING_DEBUG).0 & (PENDING_BS | ENABLED_BREAKPOINT) != 0
}

/// A single step that trapped in an interrupt shadow stays pending: VM entry demands it there
/// (Intel SDM vol. 3C, "Checks on Guest Non-Register State"), and what is injected takes its place.
pub(super) fn keep_single_step<C: Cpu>(cpu: &mut C) {
    let blocked = cpu.read(field::GUEST_INTERRUPTIBILITY) & BLOCKED_BY_STI_OR_MOV_SS != 0;
    if blocked && cpu.read(field::GUEST_RFLAGS).0 & RFLAGS_TF != 0 {
        single_step(cpu);
    }
}

/// The trap that a single-stepped instruction raises after it, which the CPU does not see us emulate.
fn single_step<C: Cpu>(cpu: &mut C) {
    const DEBUGCTL_BTF: u64 = 1 << 1;
    if cpu.read(field::GUEST_DEBUGCTL) & DEBUGCTL_BTF == 0 {
        let pending = cpu.read(field::GUEST_PENDING_DEBUG).0;
        cpu.write(field::GUEST_PENDING_DEBUG, Natural(pending | PENDING_BS));
    }
}
