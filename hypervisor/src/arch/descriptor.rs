//! GDT, TSS and IDT of the host, with own stacks for the exceptions that must never share one.
//!
//! NMI, double fault and machine check run on IST stacks: they can arrive while the current stack is
//! the thing that is broken.

use super::exception;
use alloc::boxed::Box;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::{interrupts, tables};
use x86_64::registers::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

/// The top (one past the last byte) of each stack a CPU needs.
#[derive(Clone, Copy, Debug)]
pub struct StackTops {
    /// NMI.
    pub nmi: u64,
    /// Double fault.
    pub double_fault: u64,
    /// Machine check.
    pub machine_check: u64,
}

const IST_NMI: u16 = 0;
const IST_DOUBLE_FAULT: u16 = 1;
const IST_MACHINE_CHECK: u16 = 2;

/// The selectors and bases that the host half of a VMCS repeats.
#[derive(Clone, Copy, Debug)]
pub struct HostDescriptors {
    /// 64-bit code.
    pub code: u16,
    /// Flat data.
    pub data: u16,
    /// The TSS.
    pub task: u16,
    /// Linear address of the TSS.
    pub tss_base: u64,
    /// Linear address of the GDT.
    pub gdt_base: u64,
    /// Linear address of the IDT.
    pub idt_base: u64,
}

/// Builds and loads this CPU's tables. They live until the machine is switched off.
pub fn install(stacks: StackTops) -> HostDescriptors {
    interrupts::disable();
    let mut tss = Box::new(TaskStateSegment::new());
    // The TSS is a packed structure: its table is written as a whole, by value, in the order of the
    // IST_ constants.
    let mut table = tss.interrupt_stack_table;
    for (slot, top) in table
        .iter_mut()
        .zip([stacks.nmi, stacks.double_fault, stacks.machine_check])
    {
        *slot = VirtAddr::new_truncate(top);
    }
    tss.interrupt_stack_table = table;
    let tss: &'static TaskStateSegment = Box::leak(tss);
    let gdt: &'static mut GlobalDescriptorTable = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
    gdt.load();
    load_segments(code, data, task);
    // Only now: the gates take the code selector in force, which must be ours and not the firmware's.
    idt().load();
    HostDescriptors {
        code: code.0,
        data: data.0,
        task: task.0,
        tss_base: core::ptr::from_ref(tss) as u64,
        gdt_base: tables::sgdt().base.as_u64(),
        idt_base: tables::sidt().base.as_u64(),
    }
}

fn load_segments(code: SegmentSelector, data: SegmentSelector, task: SegmentSelector) {
    // SAFETY: the selector names the 64-bit code descriptor just loaded.
    unsafe { CS::set_reg(code) };
    // SAFETY: the selector names the flat data descriptor just loaded; same for the four below.
    unsafe { SS::set_reg(data) };
    // SAFETY: as above.
    unsafe { DS::set_reg(data) };
    // SAFETY: as above.
    unsafe { ES::set_reg(data) };
    // SAFETY: a null selector is allowed in FS and GS in 64-bit mode; nothing uses their bases.
    unsafe { FS::set_reg(SegmentSelector::NULL) };
    // SAFETY: as above.
    unsafe { GS::set_reg(SegmentSelector::NULL) };
    // SAFETY: the selector names a TSS that is never freed and not yet busy.
    unsafe { tables::load_tss(task) };
}

/// The table that all CPUs share: each has its own stacks, found through its TSS.
fn idt() -> &'static InterruptDescriptorTable {
    static IDT: Once<Box<InterruptDescriptorTable>> = Once::new();
    IDT.call_once(build_idt)
}

fn build_idt() -> Box<InterruptDescriptorTable> {
    let mut idt = Box::new(InterruptDescriptorTable::new());
    macro_rules! handler {
        ($($entry:ident: $vector:literal),*) => {
            $(
                // SAFETY: the stub saves every register and matches what the CPU pushes for this vector.
                unsafe { idt.$entry.set_handler_addr(exception::stub($vector)) };
            )*
        };
    }
    handler!(
        divide_error: 0, debug: 1, breakpoint: 3, overflow: 4, bound_range_exceeded: 5,
        invalid_opcode: 6, device_not_available: 7, invalid_tss: 10, segment_not_present: 11,
        stack_segment_fault: 12, general_protection_fault: 13, page_fault: 14,
        x87_floating_point: 16, alignment_check: 17, simd_floating_point: 19, virtualization: 20,
        cp_protection_exception: 21
    );
    for vector in 32..=u8::MAX {
        // SAFETY: as above.
        unsafe { idt[vector].set_handler_addr(exception::stub(vector)) };
    }
    // SAFETY: as above, and the IST stack is this exception's alone.
    let options = unsafe {
        idt.non_maskable_interrupt
            .set_handler_addr(exception::stub(2))
    };
    // SAFETY: the index names a stack of at least one page with a guard page below.
    unsafe { options.set_stack_index(IST_NMI) };
    // SAFETY: as above.
    let options = unsafe { idt.double_fault.set_handler_addr(exception::stub(8)) };
    // SAFETY: as above.
    unsafe { options.set_stack_index(IST_DOUBLE_FAULT) };
    // SAFETY: as above.
    let options = unsafe { idt.machine_check.set_handler_addr(exception::stub(18)) };
    // SAFETY: as above.
    unsafe { options.set_stack_index(IST_MACHINE_CHECK) };
    idt
}
