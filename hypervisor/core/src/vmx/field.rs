//! VMCS fields, typed by width and access, so that a wrong read or a write to a read-only field does
//! not compile (Intel SDM vol. 3D, appendix "Field Encoding in VMCS").
//!
//! [`VmcsAccess`] is what the shell implements with VMREAD and VMWRITE; tests implement it over a map.

use core::marker::PhantomData;

/// Marks a field that VMWRITE may change.
#[derive(Clone, Copy)]
pub struct ReadWrite;
/// Marks a VM-exit information field.
#[derive(Clone, Copy)]
pub struct ReadOnly;

/// A VMCS field holding a `W`, with access `A`.
#[derive(Clone, Copy)]
pub struct Field<W, A = ReadWrite> {
    encoding: u32,
    types: PhantomData<(W, A)>,
}

impl<W, A> Field<W, A> {
    const fn new(encoding: u32) -> Self {
        Self {
            encoding,
            types: PhantomData,
        }
    }

    /// The encoding VMREAD and VMWRITE take.
    #[must_use]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }
}

/// A natural-width field: 64 bits on the processors Bulkhead runs on, a different encoding class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Natural(pub u64);

/// A width a VMCS field can have.
pub trait Width: Copy {
    /// Bits 14:13 of the field's encoding.
    const CLASS: u32;
    /// Narrows what VMREAD returned.
    fn from_raw(raw: u64) -> Self;
    /// Widens for VMWRITE.
    fn into_raw(self) -> u64;
}

macro_rules! width {
    ($type:ty, $class:literal) => {
        impl Width for $type {
            const CLASS: u32 = $class;
            #[inline(always)]
            fn from_raw(raw: u64) -> Self {
                raw as Self
            }
            #[inline(always)]
            fn into_raw(self) -> u64 {
                u64::from(self)
            }
        }
    };
}
width!(u16, 0);
width!(u64, 1);
width!(u32, 2);

impl Width for Natural {
    const CLASS: u32 = 3;
    #[inline(always)]
    fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
    #[inline(always)]
    fn into_raw(self) -> u64 {
        self.0
    }
}

/// Access to the current VMCS.
///
/// A failed VMREAD or VMWRITE means the hypervisor named a field that the processor lacks, which is
/// a broken invariant of ours; implementations stop the machine rather than return an error.
pub trait VmcsAccess {
    /// VMREAD of `encoding`.
    fn read_raw(&self, encoding: u32) -> u64;
    /// VMWRITE of `value` to `encoding`.
    fn write_raw(&mut self, encoding: u32, value: u64);

    /// Reads `field`.
    #[inline(always)]
    fn read<W: Width, A>(&self, field: Field<W, A>) -> W {
        W::from_raw(self.read_raw(field.encoding))
    }

    /// Writes `field`.
    #[inline(always)]
    fn write<W: Width>(&mut self, field: Field<W, ReadWrite>, value: W) {
        self.write_raw(field.encoding, value.into_raw());
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $width:ty, $access:ty = $encoding:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $name: Field<$width, $access> = Field::new($encoding);
            const _: () = assert!(($encoding >> 13) & 3 == <$width as Width>::CLASS, "width does not match the encoding");
        )*
        /// Name and encoding of every field known here, for dumps.
        pub const ALL: &[(&str, u32)] = &[$((stringify!($name), $encoding)),*];
    };
}

fields! {
    /// Virtual-processor identifier, tags TLB entries.
    VPID: u16, ReadWrite = 0x0000;
    /// Vector that notifies of posted interrupts.
    POSTED_INTERRUPT_VECTOR: u16, ReadWrite = 0x0002;
    /// Index in the EPTP list.
    EPTP_INDEX: u16, ReadWrite = 0x0004;
    /// Guest ES selector.
    GUEST_ES_SELECTOR: u16, ReadWrite = 0x0800;
    /// Guest CS selector.
    GUEST_CS_SELECTOR: u16, ReadWrite = 0x0802;
    /// Guest SS selector.
    GUEST_SS_SELECTOR: u16, ReadWrite = 0x0804;
    /// Guest DS selector.
    GUEST_DS_SELECTOR: u16, ReadWrite = 0x0806;
    /// Guest FS selector.
    GUEST_FS_SELECTOR: u16, ReadWrite = 0x0808;
    /// Guest GS selector.
    GUEST_GS_SELECTOR: u16, ReadWrite = 0x080a;
    /// Guest LDTR selector.
    GUEST_LDTR_SELECTOR: u16, ReadWrite = 0x080c;
    /// Guest TR selector.
    GUEST_TR_SELECTOR: u16, ReadWrite = 0x080e;
    /// Guest interrupt status: RVI in the low byte, SVI in the high byte.
    GUEST_INTERRUPT_STATUS: u16, ReadWrite = 0x0810;
    /// Host ES selector.
    HOST_ES_SELECTOR: u16, ReadWrite = 0x0c00;
    /// Host CS selector.
    HOST_CS_SELECTOR: u16, ReadWrite = 0x0c02;
    /// Host SS selector.
    HOST_SS_SELECTOR: u16, ReadWrite = 0x0c04;
    /// Host DS selector.
    HOST_DS_SELECTOR: u16, ReadWrite = 0x0c06;
    /// Host FS selector.
    HOST_FS_SELECTOR: u16, ReadWrite = 0x0c08;
    /// Host GS selector.
    HOST_GS_SELECTOR: u16, ReadWrite = 0x0c0a;
    /// Host TR selector.
    HOST_TR_SELECTOR: u16, ReadWrite = 0x0c0c;

    /// Host physical address of I/O bitmap A (ports 0 to 0x7fff).
    IO_BITMAP_A: u64, ReadWrite = 0x2000;
    /// Host physical address of I/O bitmap B (ports 0x8000 to 0xffff).
    IO_BITMAP_B: u64, ReadWrite = 0x2002;
    /// Host physical address of the MSR bitmaps.
    MSR_BITMAP: u64, ReadWrite = 0x2004;
    /// Offset added to the guest's view of the TSC.
    TSC_OFFSET: u64, ReadWrite = 0x2010;
    /// Host physical address of the virtual-APIC page.
    VIRTUAL_APIC_PAGE: u64, ReadWrite = 0x2012;
    /// Host physical address of the APIC-access page.
    APIC_ACCESS_PAGE: u64, ReadWrite = 0x2014;
    /// Host physical address of the posted-interrupt descriptor.
    POSTED_INTERRUPT_DESCRIPTOR: u64, ReadWrite = 0x2016;
    /// EPT pointer.
    EPT_POINTER: u64, ReadWrite = 0x201a;
    /// EOI-exit bitmap for vectors 0 to 63.
    EOI_EXIT_BITMAP_0: u64, ReadWrite = 0x201c;
    /// EOI-exit bitmap for vectors 64 to 127.
    EOI_EXIT_BITMAP_1: u64, ReadWrite = 0x201e;
    /// EOI-exit bitmap for vectors 128 to 191.
    EOI_EXIT_BITMAP_2: u64, ReadWrite = 0x2020;
    /// EOI-exit bitmap for vectors 192 to 255.
    EOI_EXIT_BITMAP_3: u64, ReadWrite = 0x2022;
    /// Which XSAVES components exit.
    XSS_EXITING_BITMAP: u64, ReadWrite = 0x202c;
    /// VM-function controls.
    VM_FUNCTION_CONTROLS: u64, ReadWrite = 0x2018;
    /// EPTP-list address.
    EPTP_LIST: u64, ReadWrite = 0x2024;
    /// Multiplier applied to the TSC, 16.48 fixed point.
    TSC_MULTIPLIER: u64, ReadWrite = 0x2032;
    /// Guest physical address that caused an EPT exit.
    GUEST_PHYSICAL_ADDRESS: u64, ReadOnly = 0x2400;
    /// VMCS link pointer.
    VMCS_LINK_POINTER: u64, ReadWrite = 0x2800;
    /// Guest IA32_DEBUGCTL.
    GUEST_DEBUGCTL: u64, ReadWrite = 0x2802;
    /// Guest IA32_PAT.
    GUEST_PAT: u64, ReadWrite = 0x2804;
    /// Guest IA32_EFER.
    GUEST_EFER: u64, ReadWrite = 0x2806;
    /// Guest PDPTE 0, used under PAE paging with EPT.
    GUEST_PDPTE0: u64, ReadWrite = 0x280a;
    /// Guest PDPTE 1.
    GUEST_PDPTE1: u64, ReadWrite = 0x280c;
    /// Guest PDPTE 2.
    GUEST_PDPTE2: u64, ReadWrite = 0x280e;
    /// Guest PDPTE 3.
    GUEST_PDPTE3: u64, ReadWrite = 0x2810;
    /// Host IA32_PAT.
    HOST_PAT: u64, ReadWrite = 0x2c00;
    /// Host IA32_EFER.
    HOST_EFER: u64, ReadWrite = 0x2c02;

    /// Pin-based controls.
    PIN_CONTROLS: u32, ReadWrite = 0x4000;
    /// Primary processor-based controls.
    PRIMARY_CONTROLS: u32, ReadWrite = 0x4002;
    /// Which exceptions exit.
    EXCEPTION_BITMAP: u32, ReadWrite = 0x4004;
    /// Page-fault error-code mask.
    PAGE_FAULT_ERROR_MASK: u32, ReadWrite = 0x4006;
    /// Page-fault error-code match.
    PAGE_FAULT_ERROR_MATCH: u32, ReadWrite = 0x4008;
    /// Number of CR3 targets.
    CR3_TARGET_COUNT: u32, ReadWrite = 0x400a;
    /// VM-exit controls.
    EXIT_CONTROLS: u32, ReadWrite = 0x400c;
    /// MSRs stored at exit.
    EXIT_MSR_STORE_COUNT: u32, ReadWrite = 0x400e;
    /// MSRs loaded at exit.
    EXIT_MSR_LOAD_COUNT: u32, ReadWrite = 0x4010;
    /// VM-entry controls.
    ENTRY_CONTROLS: u32, ReadWrite = 0x4012;
    /// MSRs loaded at entry.
    ENTRY_MSR_LOAD_COUNT: u32, ReadWrite = 0x4014;
    /// Event injected by the next entry.
    ENTRY_INTERRUPTION_INFO: u32, ReadWrite = 0x4016;
    /// Error code of the injected event.
    ENTRY_EXCEPTION_ERROR_CODE: u32, ReadWrite = 0x4018;
    /// Instruction length of an injected software event.
    ENTRY_INSTRUCTION_LENGTH: u32, ReadWrite = 0x401a;
    /// TPR below which a MOV to CR8 exits.
    TPR_THRESHOLD: u32, ReadWrite = 0x401c;
    /// Secondary processor-based controls.
    SECONDARY_CONTROLS: u32, ReadWrite = 0x401e;
    /// Why the last VMX instruction failed.
    INSTRUCTION_ERROR: u32, ReadOnly = 0x4400;
    /// Why the guest exited.
    EXIT_REASON: u32, ReadOnly = 0x4402;
    /// The event that exited.
    EXIT_INTERRUPTION_INFO: u32, ReadOnly = 0x4404;
    /// Error code of the event that exited.
    EXIT_INTERRUPTION_ERROR_CODE: u32, ReadOnly = 0x4406;
    /// The event whose delivery the exit interrupted.
    IDT_VECTORING_INFO: u32, ReadOnly = 0x4408;
    /// Error code of that event.
    IDT_VECTORING_ERROR_CODE: u32, ReadOnly = 0x440a;
    /// Length in bytes of the instruction that exited.
    EXIT_INSTRUCTION_LENGTH: u32, ReadOnly = 0x440c;
    /// Operands of the instruction that exited.
    EXIT_INSTRUCTION_INFO: u32, ReadOnly = 0x440e;
    /// Guest ES limit.
    GUEST_ES_LIMIT: u32, ReadWrite = 0x4800;
    /// Guest CS limit.
    GUEST_CS_LIMIT: u32, ReadWrite = 0x4802;
    /// Guest SS limit.
    GUEST_SS_LIMIT: u32, ReadWrite = 0x4804;
    /// Guest DS limit.
    GUEST_DS_LIMIT: u32, ReadWrite = 0x4806;
    /// Guest FS limit.
    GUEST_FS_LIMIT: u32, ReadWrite = 0x4808;
    /// Guest GS limit.
    GUEST_GS_LIMIT: u32, ReadWrite = 0x480a;
    /// Guest LDTR limit.
    GUEST_LDTR_LIMIT: u32, ReadWrite = 0x480c;
    /// Guest TR limit.
    GUEST_TR_LIMIT: u32, ReadWrite = 0x480e;
    /// Guest GDTR limit.
    GUEST_GDTR_LIMIT: u32, ReadWrite = 0x4810;
    /// Guest IDTR limit.
    GUEST_IDTR_LIMIT: u32, ReadWrite = 0x4812;
    /// Guest ES access rights.
    GUEST_ES_ACCESS: u32, ReadWrite = 0x4814;
    /// Guest CS access rights.
    GUEST_CS_ACCESS: u32, ReadWrite = 0x4816;
    /// Guest SS access rights.
    GUEST_SS_ACCESS: u32, ReadWrite = 0x4818;
    /// Guest DS access rights.
    GUEST_DS_ACCESS: u32, ReadWrite = 0x481a;
    /// Guest FS access rights.
    GUEST_FS_ACCESS: u32, ReadWrite = 0x481c;
    /// Guest GS access rights.
    GUEST_GS_ACCESS: u32, ReadWrite = 0x481e;
    /// Guest LDTR access rights.
    GUEST_LDTR_ACCESS: u32, ReadWrite = 0x4820;
    /// Guest TR access rights.
    GUEST_TR_ACCESS: u32, ReadWrite = 0x4822;
    /// Blocking by STI, MOV SS, SMI, NMI.
    GUEST_INTERRUPTIBILITY: u32, ReadWrite = 0x4824;
    /// Active, HLT, shutdown or wait-for-SIPI.
    GUEST_ACTIVITY: u32, ReadWrite = 0x4826;
    /// Guest IA32_SYSENTER_CS.
    GUEST_SYSENTER_CS: u32, ReadWrite = 0x482a;
    /// VMX-preemption timer, in units of 2^n TSC ticks.
    PREEMPTION_TIMER: u32, ReadWrite = 0x482e;
    /// Host IA32_SYSENTER_CS.
    HOST_SYSENTER_CS: u32, ReadWrite = 0x4c00;

    /// Bits of CR0 that the host owns.
    CR0_GUEST_HOST_MASK: Natural, ReadWrite = 0x6000;
    /// Bits of CR4 that the host owns.
    CR4_GUEST_HOST_MASK: Natural, ReadWrite = 0x6002;
    /// What the guest reads for the CR0 bits that the host owns.
    CR0_READ_SHADOW: Natural, ReadWrite = 0x6004;
    /// What the guest reads for the CR4 bits that the host owns.
    CR4_READ_SHADOW: Natural, ReadWrite = 0x6006;
    /// Details of the exit.
    EXIT_QUALIFICATION: Natural, ReadOnly = 0x6400;
    /// Guest linear address of the exit.
    GUEST_LINEAR_ADDRESS: Natural, ReadOnly = 0x640a;
    /// Guest CR0.
    GUEST_CR0: Natural, ReadWrite = 0x6800;
    /// Guest CR3.
    GUEST_CR3: Natural, ReadWrite = 0x6802;
    /// Guest CR4.
    GUEST_CR4: Natural, ReadWrite = 0x6804;
    /// Guest ES base.
    GUEST_ES_BASE: Natural, ReadWrite = 0x6806;
    /// Guest CS base.
    GUEST_CS_BASE: Natural, ReadWrite = 0x6808;
    /// Guest SS base.
    GUEST_SS_BASE: Natural, ReadWrite = 0x680a;
    /// Guest DS base.
    GUEST_DS_BASE: Natural, ReadWrite = 0x680c;
    /// Guest FS base.
    GUEST_FS_BASE: Natural, ReadWrite = 0x680e;
    /// Guest GS base.
    GUEST_GS_BASE: Natural, ReadWrite = 0x6810;
    /// Guest LDTR base.
    GUEST_LDTR_BASE: Natural, ReadWrite = 0x6812;
    /// Guest TR base.
    GUEST_TR_BASE: Natural, ReadWrite = 0x6814;
    /// Guest GDTR base.
    GUEST_GDTR_BASE: Natural, ReadWrite = 0x6816;
    /// Guest IDTR base.
    GUEST_IDTR_BASE: Natural, ReadWrite = 0x6818;
    /// Guest DR7.
    GUEST_DR7: Natural, ReadWrite = 0x681a;
    /// Guest RSP.
    GUEST_RSP: Natural, ReadWrite = 0x681c;
    /// Guest RIP.
    GUEST_RIP: Natural, ReadWrite = 0x681e;
    /// Guest RFLAGS.
    GUEST_RFLAGS: Natural, ReadWrite = 0x6820;
    /// Guest pending debug exceptions.
    GUEST_PENDING_DEBUG: Natural, ReadWrite = 0x6822;
    /// Guest IA32_SYSENTER_ESP.
    GUEST_SYSENTER_ESP: Natural, ReadWrite = 0x6824;
    /// Guest IA32_SYSENTER_EIP.
    GUEST_SYSENTER_EIP: Natural, ReadWrite = 0x6826;
    /// Host CR0.
    HOST_CR0: Natural, ReadWrite = 0x6c00;
    /// Host CR3.
    HOST_CR3: Natural, ReadWrite = 0x6c02;
    /// Host CR4.
    HOST_CR4: Natural, ReadWrite = 0x6c04;
    /// Host FS base.
    HOST_FS_BASE: Natural, ReadWrite = 0x6c06;
    /// Host GS base.
    HOST_GS_BASE: Natural, ReadWrite = 0x6c08;
    /// Host TR base.
    HOST_TR_BASE: Natural, ReadWrite = 0x6c0a;
    /// Host GDTR base.
    HOST_GDTR_BASE: Natural, ReadWrite = 0x6c0c;
    /// Host IDTR base.
    HOST_IDTR_BASE: Natural, ReadWrite = 0x6c0e;
    /// Host IA32_SYSENTER_ESP.
    HOST_SYSENTER_ESP: Natural, ReadWrite = 0x6c10;
    /// Host IA32_SYSENTER_EIP.
    HOST_SYSENTER_EIP: Natural, ReadWrite = 0x6c12;
    /// Host RSP, loaded at exit.
    HOST_RSP: Natural, ReadWrite = 0x6c14;
    /// Host RIP, loaded at exit.
    HOST_RIP: Natural, ReadWrite = 0x6c16;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    struct Map(HashMap<u32, u64>);
    impl VmcsAccess for Map {
        fn read_raw(&self, encoding: u32) -> u64 {
            self.0.get(&encoding).copied().unwrap_or(0)
        }
        fn write_raw(&mut self, encoding: u32, value: u64) {
            self.0.insert(encoding, value);
        }
    }

    #[test]
    fn encodings_are_distinct() {
        let mut seen = HashMap::new();
        for (name, encoding) in ALL {
            assert_eq!(
                seen.insert(encoding, name),
                None,
                "{name} repeats an encoding"
            );
        }
    }

    #[test]
    fn narrow_fields_drop_high_bits() {
        let mut vmcs = Map(HashMap::new());
        vmcs.write_raw(VPID.encoding(), 0xffff_0001);
        assert_eq!(vmcs.read(VPID), 1u16);
        vmcs.write(GUEST_RIP, Natural(0x1234));
        assert_eq!(vmcs.read(GUEST_RIP), Natural(0x1234));
    }
}
