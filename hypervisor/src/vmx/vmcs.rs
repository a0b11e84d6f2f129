//! Fills a VMCS: controls from negotiation, host state from this CPU, guest state from the loader.
//!
//! Each field is written here when a vCPU's CPU first loads it; `bulkhead_core::vcpu` changes some while the VM runs.

use super::enter;
use super::instruction::{self, Current, VmxFailed};
use crate::arch::cpu::{self, rdmsr};
use crate::arch::descriptor::HostDescriptors;
use crate::arch::lapic;
use crate::pcpu;
use crate::vm::{self, run::Running};
use bulkhead_core::addr::Hpa;
use bulkhead_core::ept::Eptp;
use bulkhead_core::vcpu::control_register::{cr0_mask, cr4_mask, real_cr0, real_cr4};
use bulkhead_core::vmx::capability::Negotiated;
use bulkhead_core::vmx::controls::{Entry, Secondary};
use bulkhead_core::vmx::field::{self, Field, Natural, VmcsAccess};
use guest_loader::{EntryMode, EntryState, Segment};
use x86_64::registers::control::{Cr0, Cr4};

/// Everything a VMCS is filled from.
struct Setup<'a> {
    controls: &'a Negotiated,
    bitmaps: Bitmaps,
    apic_page: Hpa,
    posted: Hpa,
    eptp: Eptp,
    /// The VM has the kernel/user split.
    splits: bool,
    /// Its EPTP list, where it switches views by itself.
    switches: Option<Hpa>,
    /// TLB tag, not 0.
    vpid: u16,
    host: &'a HostDescriptors,
    exit_stack: u64,
    entry: &'a EntryState,
    /// CR4 bits that the guest's CPUID allows.
    allowed_cr4: u64,
    /// Added to the host's TSC.
    tsc_offset: u64,
}

/// The bitmaps of every vCPU: which MSRs and ports exit.
#[derive(Clone, Copy, Debug)]
pub struct Bitmaps {
    /// MSRs.
    pub msr: Hpa,
    /// MSRs of VMs with the kernel/user split.
    pub split_msr: Hpa,
    /// Ports: bitmap A; B is the next frame.
    pub io: Hpa,
}

/// The machine-check, debug and alignment-check vectors: the first is the host's business; the other two can
/// keep the CPU delivering exceptions forever without an exit if a guest arranges it.
const EXCEPTIONS: u32 = (1 << 18) | (1 << 1) | (1 << 17);
/// IA32_PAT as a reset leaves it.
const RESET_PAT: u64 = 0x0007_0406_0007_0406;
/// RFLAGS and DR7 as a reset leaves them.
const RESET_DR7: u64 = 0x400;

/// Clears `running`'s VMCS, makes it current on this CPU and fills it, so that the guest starts as `entry` says.
///
/// # Errors
/// VMCLEAR or VMPTRLD failed.
pub fn fill(running: &Running, entry: &EntryState) -> Result<(), VmxFailed> {
    let machine = vm::machine();
    let own = pcpu::this();
    let Some(host_tables) = own.descriptors.get() else {
        unreachable!("a CPU without descriptor tables runs no VM");
    };
    let Running {
        vcpu,
        host: owner,
        vmcs,
        ..
    } = running;
    let port = owner.vm.vcpus.get(owner.me as usize);
    let posted = port.map_or(Hpa(0), |port| {
        Hpa(core::ptr::from_ref(port.mailbox.posted()) as u64)
    });
    let setup = Setup {
        controls: vcpu.controls(),
        bitmaps: machine.bitmaps,
        apic_page: Hpa(core::ptr::from_ref(vcpu.apic.page()) as u64),
        posted,
        eptp: owner.vm.eptp,
        splits: owner.vm.sides.is_some(),
        switches: owner.vm.switches,
        vpid: vm::vpid(owner.vm.id, owner.me),
        host: host_tables,
        exit_stack: own.exit_stack,
        entry,
        allowed_cr4: vcpu.cpuid.allowed_cr4(),
        tsc_offset: vcpu.tsc_offset(),
    };
    // SAFETY: `vm::Vm` took the frame for this vCPU's VMCS alone; it is mapped where its addresses are equal.
    unsafe { (vmcs.0 as *mut u32).write_volatile(setup.controls.revision) };
    // SAFETY: as above, and it starts with the revision.
    unsafe { instruction::vmclear(*vmcs) }?;
    // SAFETY: as above.
    unsafe { instruction::vmptrld(*vmcs) }?;
    // The tag was another run's of this vCPU, whose memory was given back since.
    instruction::forget_guests();
    let mut vmcs = Current;
    controls(&mut vmcs, &setup);
    host(&mut vmcs, &setup);
    guest(&mut vmcs, &setup);
    Ok(())
}

fn controls(vmcs: &mut Current, setup: &Setup<'_>) {
    let n = setup.controls;
    vmcs.write(field::PIN_CONTROLS, n.pin);
    vmcs.write(field::PRIMARY_CONTROLS, n.primary);
    vmcs.write(field::SECONDARY_CONTROLS, n.secondary);
    vmcs.write(field::EXIT_CONTROLS, n.exit);
    let long = if setup.entry.mode == EntryMode::Long64 {
        Entry::IA32E.bits()
    } else {
        0
    };
    vmcs.write(field::ENTRY_CONTROLS, n.entry | long);
    vmcs.write(field::VPID, setup.vpid);
    vmcs.write(field::EPT_POINTER, setup.eptp.raw());
    vmcs.write(field::IO_BITMAP_A, setup.bitmaps.io.0);
    vmcs.write(field::IO_BITMAP_B, setup.bitmaps.io.0 + 4096);
    let msr_bitmap = match setup.splits {
        true => setup.bitmaps.split_msr,
        false => setup.bitmaps.msr,
    };
    vmcs.write(field::MSR_BITMAP, msr_bitmap.0);
    if n.switches_views() {
        /// VM function 0 (Intel SDM vol. 3C, "VM-Function Controls").
        const EPTP_SWITCHING: u64 = 1;
        let list = setup.switches.unwrap_or(Hpa(0));
        let functions = setup.switches.map_or(0, |_| EPTP_SWITCHING);
        vmcs.write(field::VM_FUNCTION_CONTROLS, functions);
        vmcs.write(field::EPTP_LIST, list.0);
    }
    vmcs.write(field::VIRTUAL_APIC_PAGE, setup.apic_page.0);
    vmcs.write(field::TPR_THRESHOLD, 0);
    vmcs.write(field::EXCEPTION_BITMAP, EXCEPTIONS);
    vmcs.write(field::PAGE_FAULT_ERROR_MASK, 0);
    vmcs.write(field::PAGE_FAULT_ERROR_MATCH, 0);
    vmcs.write(field::CR3_TARGET_COUNT, 0);
    vmcs.write(field::EXIT_MSR_STORE_COUNT, 0);
    vmcs.write(field::EXIT_MSR_LOAD_COUNT, 0);
    vmcs.write(field::ENTRY_MSR_LOAD_COUNT, 0);
    vmcs.write(field::ENTRY_INTERRUPTION_INFO, 0);
    vmcs.write(field::TSC_OFFSET, setup.tsc_offset);
    if n.optional.contains(Secondary::TSC_SCALING) {
        vmcs.write(field::TSC_MULTIPLIER, 1 << 48);
    }
    if n.apicv() {
        vmcs.write(field::GUEST_INTERRUPT_STATUS, 0);
        for bitmap in [
            field::EOI_EXIT_BITMAP_0,
            field::EOI_EXIT_BITMAP_1,
            field::EOI_EXIT_BITMAP_2,
            field::EOI_EXIT_BITMAP_3,
        ] {
            vmcs.write(bitmap, 0);
        }
    }
    if n.posts_interrupts() {
        vmcs.write(field::POSTED_INTERRUPT_VECTOR, lapic::POSTED_VECTOR.into());
        vmcs.write(field::POSTED_INTERRUPT_DESCRIPTOR, setup.posted.0);
    }
    vmcs.write(field::PREEMPTION_TIMER, 0);
}

fn host(vmcs: &mut Current, setup: &Setup<'_>) {
    let tables = setup.host;
    for selector in [
        field::HOST_SS_SELECTOR,
        field::HOST_DS_SELECTOR,
        field::HOST_ES_SELECTOR,
    ] {
        vmcs.write(selector, tables.data);
    }
    vmcs.write(field::HOST_CS_SELECTOR, tables.code);
    vmcs.write(field::HOST_FS_SELECTOR, 0);
    vmcs.write(field::HOST_GS_SELECTOR, 0);
    vmcs.write(field::HOST_TR_SELECTOR, tables.task);
    vmcs.write(field::HOST_CR0, Natural(Cr0::read_raw()));
    let (cr3, _) = x86_64::registers::control::Cr3::read_raw();
    vmcs.write(field::HOST_CR3, Natural(cr3.start_address().as_u64()));
    vmcs.write(field::HOST_CR4, Natural(Cr4::read_raw()));
    vmcs.write(field::HOST_FS_BASE, Natural(0));
    vmcs.write(field::HOST_GS_BASE, Natural(pcpu::gs_base()));
    vmcs.write(field::HOST_TR_BASE, Natural(tables.tss_base));
    vmcs.write(field::HOST_GDTR_BASE, Natural(tables.gdt_base));
    vmcs.write(field::HOST_IDTR_BASE, Natural(tables.idt_base));
    vmcs.write(field::HOST_SYSENTER_CS, 0);
    vmcs.write(field::HOST_SYSENTER_ESP, Natural(0));
    vmcs.write(field::HOST_SYSENTER_EIP, Natural(0));
    // SAFETY: every processor with long mode has both registers.
    vmcs.write(field::HOST_PAT, unsafe { rdmsr(cpu::IA32_PAT) });
    // SAFETY: as above.
    vmcs.write(field::HOST_EFER, unsafe { rdmsr(cpu::IA32_EFER) });
    vmcs.write(
        field::HOST_RSP,
        Natural(enter::host_rsp(enter::frame_at(setup.exit_stack))),
    );
    vmcs.write(field::HOST_RIP, Natural(enter::host_rip()));
}

/// The four VMCS fields of one segment register.
struct SegmentFields {
    selector: Field<u16>,
    limit: Field<u32>,
    access: Field<u32>,
    base: Field<Natural>,
}

macro_rules! segment_fields {
    ($selector:ident, $limit:ident, $access:ident, $base:ident) => {
        SegmentFields {
            selector: field::$selector,
            limit: field::$limit,
            access: field::$access,
            base: field::$base,
        }
    };
}

fn guest(vmcs: &mut Current, setup: &Setup<'_>) {
    let entry = setup.entry;
    let segments = [
        (
            segment_fields!(
                GUEST_CS_SELECTOR,
                GUEST_CS_LIMIT,
                GUEST_CS_ACCESS,
                GUEST_CS_BASE
            ),
            entry.cs,
        ),
        (
            segment_fields!(
                GUEST_SS_SELECTOR,
                GUEST_SS_LIMIT,
                GUEST_SS_ACCESS,
                GUEST_SS_BASE
            ),
            entry.data,
        ),
        (
            segment_fields!(
                GUEST_DS_SELECTOR,
                GUEST_DS_LIMIT,
                GUEST_DS_ACCESS,
                GUEST_DS_BASE
            ),
            entry.data,
        ),
        (
            segment_fields!(
                GUEST_ES_SELECTOR,
                GUEST_ES_LIMIT,
                GUEST_ES_ACCESS,
                GUEST_ES_BASE
            ),
            entry.data,
        ),
        (
            segment_fields!(
                GUEST_FS_SELECTOR,
                GUEST_FS_LIMIT,
                GUEST_FS_ACCESS,
                GUEST_FS_BASE
            ),
            entry.fs_gs,
        ),
        (
            segment_fields!(
                GUEST_GS_SELECTOR,
                GUEST_GS_LIMIT,
                GUEST_GS_ACCESS,
                GUEST_GS_BASE
            ),
            entry.fs_gs,
        ),
        (
            segment_fields!(
                GUEST_LDTR_SELECTOR,
                GUEST_LDTR_LIMIT,
                GUEST_LDTR_ACCESS,
                GUEST_LDTR_BASE
            ),
            entry.ldtr,
        ),
        (
            segment_fields!(
                GUEST_TR_SELECTOR,
                GUEST_TR_LIMIT,
                GUEST_TR_ACCESS,
                GUEST_TR_BASE
            ),
            entry.tr,
        ),
    ];
    for (
        fields,
        Segment {
            selector,
            base,
            limit,
            access_rights,
        },
    ) in segments
    {
        vmcs.write(fields.selector, selector);
        vmcs.write(fields.limit, limit);
        vmcs.write(fields.access, access_rights);
        vmcs.write(fields.base, Natural(base));
    }
    vmcs.write(field::GUEST_GDTR_BASE, Natural(entry.gdtr.base));
    vmcs.write(field::GUEST_GDTR_LIMIT, entry.gdtr.limit.into());
    vmcs.write(field::GUEST_IDTR_BASE, Natural(entry.idtr.base));
    vmcs.write(field::GUEST_IDTR_LIMIT, entry.idtr.limit.into());

    let controls = setup.controls;
    vmcs.write(field::CR0_GUEST_HOST_MASK, Natural(cr0_mask(controls)));
    vmcs.write(field::CR0_READ_SHADOW, Natural(entry.cr0));
    vmcs.write(field::GUEST_CR0, Natural(real_cr0(entry.cr0, controls)));
    vmcs.write(
        field::CR4_GUEST_HOST_MASK,
        Natural(cr4_mask(controls, setup.allowed_cr4)),
    );
    vmcs.write(field::CR4_READ_SHADOW, Natural(entry.cr4));
    vmcs.write(field::GUEST_CR4, Natural(real_cr4(entry.cr4, controls)));
    vmcs.write(field::GUEST_CR3, Natural(entry.cr3.0));
    vmcs.write(field::GUEST_EFER, entry.efer);
    vmcs.write(field::GUEST_PAT, RESET_PAT);
    vmcs.write(field::GUEST_DR7, Natural(RESET_DR7));
    vmcs.write(field::GUEST_DEBUGCTL, 0);
    vmcs.write(field::GUEST_RSP, Natural(entry.registers.rsp));
    vmcs.write(field::GUEST_RIP, Natural(entry.registers.rip));
    vmcs.write(field::GUEST_RFLAGS, Natural(entry.registers.rflags));
    vmcs.write(field::GUEST_SYSENTER_CS, 0);
    vmcs.write(field::GUEST_SYSENTER_ESP, Natural(0));
    vmcs.write(field::GUEST_SYSENTER_EIP, Natural(0));
    vmcs.write(field::GUEST_PENDING_DEBUG, Natural(0));
    vmcs.write(field::GUEST_INTERRUPTIBILITY, 0);
    vmcs.write(field::GUEST_ACTIVITY, 0);
    vmcs.write(field::VMCS_LINK_POINTER, u64::MAX);
}
