//! VM exits: the basic reason, decoded once into a typed [`Exit`]
//! (Intel SDM vol. 3C, "Basic VM-Exit Information"; vol. 3D, appendix "VMX Basic Exit Reasons").

use super::field::{self, Field, ReadOnly, VmcsAccess};
use crate::addr::{Gpa, Gva};

/// Bit 31 of the exit reason: the VM entry itself failed.
const ENTRY_FAILURE: u32 = 1 << 31;

/// Number of basic exit reasons that are counted by name.
pub const REASON_COUNT: usize = 80;

/// CPUID.
pub const CPUID: u32 = 10;
/// VMCALL.
pub const VMCALL: u32 = 18;
/// RDMSR.
pub const RDMSR: u32 = 31;
/// WRMSR.
pub const WRMSR: u32 = 32;
/// A machine check during VM entry.
pub const ENTRY_MACHINE_CHECK: u16 = 41;

/// Names of the basic exit reasons, by number; `""` where the manual reserves the number.
pub const REASON_NAMES: [&str; REASON_COUNT] = {
    let mut names = [""; REASON_COUNT];
    names[0] = "exception-or-nmi";
    names[1] = "external-interrupt";
    names[2] = "triple-fault";
    names[3] = "init";
    names[4] = "sipi";
    names[5] = "io-smi";
    names[6] = "smi";
    names[7] = "interrupt-window";
    names[8] = "nmi-window";
    names[9] = "task-switch";
    names[10] = "cpuid";
    names[11] = "getsec";
    names[12] = "hlt";
    names[13] = "invd";
    names[14] = "invlpg";
    names[15] = "rdpmc";
    names[16] = "rdtsc";
    names[17] = "rsm";
    names[18] = "vmcall";
    names[19] = "vmclear";
    names[20] = "vmlaunch";
    names[21] = "vmptrld";
    names[22] = "vmptrst";
    names[23] = "vmread";
    names[24] = "vmresume";
    names[25] = "vmwrite";
    names[26] = "vmxoff";
    names[27] = "vmxon";
    names[28] = "control-register";
    names[29] = "mov-dr";
    names[30] = "io";
    names[31] = "rdmsr";
    names[32] = "wrmsr";
    names[33] = "entry-guest-state";
    names[34] = "entry-msr-load";
    names[36] = "mwait";
    names[37] = "monitor-trap";
    names[39] = "monitor";
    names[40] = "pause";
    names[41] = "entry-machine-check";
    names[43] = "tpr-below-threshold";
    names[44] = "apic-access";
    names[45] = "virtual-eoi";
    names[46] = "gdtr-idtr";
    names[47] = "ldtr-tr";
    names[48] = "ept-violation";
    names[49] = "ept-misconfiguration";
    names[50] = "invept";
    names[51] = "rdtscp";
    names[52] = "preemption-timer";
    names[53] = "invvpid";
    names[54] = "wbinvd";
    names[55] = "xsetbv";
    names[56] = "apic-write";
    names[57] = "rdrand";
    names[58] = "invpcid";
    names[59] = "vmfunc";
    names[60] = "encls";
    names[61] = "rdseed";
    names[62] = "pml-full";
    names[63] = "xsaves";
    names[64] = "xrstors";
    names[66] = "spp";
    names[67] = "umwait";
    names[68] = "tpause";
    names[69] = "loadiwkey";
    names[72] = "enqcmd-pasid";
    names[73] = "enqcmds-pasid";
    names[74] = "bus-lock";
    names[75] = "notify";
    names
};

/// The access of an I/O instruction ("Exit Qualification for I/O Instructions").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoAccess {
    /// The port.
    pub port: u16,
    /// Bytes moved: 1, 2 or 4.
    pub size: u8,
    /// IN or INS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub repeat: bool,
}

impl IoAccess {
    /// From the exit qualification.
    #[inline]
    #[must_use]
    pub const fn decode(qualification: u64) -> Self {
        Self {
            port: (qualification >> 16) as u16,
            size: (qualification & 7) as u8 + 1,
            input: qualification & (1 << 3) != 0,
            string: qualification & (1 << 4) != 0,
            repeat: qualification & (1 << 5) != 0,
        }
    }
}

/// A control-register access ("Exit Qualification for Control-Register Accesses").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrAccess {
    /// MOV CRn, register.
    Write {
        /// n.
        cr: u8,
        /// The general register, by hardware number.
        gpr: u8,
    },
    /// MOV register, CRn.
    Read {
        /// n.
        cr: u8,
        /// The general register, by hardware number.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with this source operand.
    Lmsw(u16),
}

impl CrAccess {
    /// From the exit qualification.
    #[must_use]
    pub const fn decode(qualification: u64) -> Self {
        let cr = (qualification & 0xf) as u8;
        let gpr = ((qualification >> 8) & 0xf) as u8;
        match (qualification >> 4) & 3 {
            0 => Self::Write { cr, gpr },
            1 => Self::Read { cr, gpr },
            2 => Self::Clts,
            _ => Self::Lmsw((qualification >> 16) as u16),
        }
    }
}

/// An EPT violation ("Exit Qualification for EPT Violations").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptViolation {
    /// The guest physical address.
    pub gpa: Gpa,
    /// The linear address, when the access came from one.
    pub gva: Option<Gva>,
    /// Read access.
    pub read: bool,
    /// Write access.
    pub write: bool,
    /// Instruction fetch.
    pub fetch: bool,
    /// The access was to a translated linear address, not to a paging structure.
    pub translated: bool,
    /// An IRET that ends the guest's NMI handler met it: the blocking of NMIs is gone already.
    pub unblocked_nmi: bool,
    /// The page can be executed from supervisor-mode addresses (Intel SDM vol. 3C, "Mode-Based Execute Control for EPT").
    pub kernel_executes: bool,
}

impl EptViolation {
    fn decode(qualification: u64, gpa: u64, gva: u64) -> Self {
        let linear_valid = qualification & (1 << 7) != 0;
        Self {
            gpa: Gpa(gpa),
            gva: linear_valid.then_some(Gva(gva)),
            read: qualification & 1 != 0,
            write: qualification & 2 != 0,
            fetch: qualification & 4 != 0,
            translated: linear_valid && qualification & (1 << 8) != 0,
            unblocked_nmi: qualification & (1 << 12) != 0,
            kernel_executes: qualification & (1 << 5) != 0,
        }
    }
}

/// A VMX or SMX instruction, which no guest has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the instructions' names say it")]
pub enum VmxInstruction {
    Getsec,
    Vmclear,
    Vmlaunch,
    Vmptrld,
    Vmptrst,
    Vmread,
    Vmresume,
    Vmwrite,
    Vmxoff,
    Vmxon,
    Invept,
    Invvpid,
    Vmfunc,
}

/// Interruption information ("Information for VM Exits Due to Vectored Events").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interruption(pub u32);

impl Interruption {
    /// Type external interrupt.
    pub const EXTERNAL: u32 = 0;
    /// Type NMI.
    pub const NMI: u32 = 2;
    /// Type hardware exception.
    pub const HARDWARE_EXCEPTION: u32 = 3;
    /// Type software interrupt (INT n).
    pub const SOFTWARE_INTERRUPT: u32 = 4;
    /// Type privileged software exception (INT1).
    pub const PRIVILEGED_SOFTWARE: u32 = 5;
    /// Type software exception (INT3, INTO).
    pub const SOFTWARE_EXCEPTION: u32 = 6;

    /// Whether the field holds an event.
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & (1 << 31) != 0
    }

    /// The vector.
    #[inline]
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The event's type, bits 10:8.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> u32 {
        (self.0 >> 8) & 7
    }

    /// Whether an error code comes with it.
    #[inline]
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        self.0 & (1 << 11) != 0
    }

    /// Whether the event is a fault of an IRET that had already unblocked NMIs; at an exit only.
    #[inline]
    #[must_use]
    pub const fn unblocked_nmi(self) -> bool {
        self.0 & (1 << 12) != 0
    }

    /// The field as VM entry takes it: the bits that only an exit defines cleared.
    #[inline]
    #[must_use]
    pub const fn for_entry(self) -> u32 {
        self.0 & 0x8000_0fff
    }

    /// An external interrupt to inject.
    #[inline]
    #[must_use]
    pub const fn external(vector: u8) -> Self {
        Self((1 << 31) | vector as u32)
    }

    /// A hardware exception to inject.
    #[inline]
    #[must_use]
    pub const fn exception(vector: u8, error_code: bool) -> Self {
        Self(
            (1 << 31)
                | ((error_code as u32) << 11)
                | (Self::HARDWARE_EXCEPTION << 8)
                | vector as u32,
        )
    }

    /// An NMI to inject.
    #[inline]
    #[must_use]
    pub const fn nmi() -> Self {
        Self((1 << 31) | (Self::NMI << 8) | 2)
    }
}

/// One VM exit, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the manual's names of the reasons say it")]
pub enum Exit {
    /// An exception that the bitmap selects, or an NMI.
    Exception(Interruption),
    /// A host interrupt, already acknowledged.
    ExternalInterrupt(Interruption),
    TripleFault,
    InterruptWindow,
    NmiWindow,
    TaskSwitch,
    Cpuid,
    Hlt,
    Invd,
    Rdpmc,
    Vmcall,
    /// An instruction of VMX or SMX: the guest has neither.
    Vmx(VmxInstruction),
    Cr(CrAccess),
    Io(IoAccess),
    Rdmsr,
    Wrmsr,
    Monitor,
    Mwait,
    /// TPR fell below the threshold.
    TprBelowThreshold,
    /// A level-triggered vector's EOI under virtual-interrupt delivery.
    VirtualEoi(u8),
    /// A trap-like APIC register write under APIC virtualisation; the page offset in bytes.
    ApicWrite(u16),
    EptViolation(EptViolation),
    /// An EPT entry of ours is malformed.
    EptMisconfiguration(Gpa),
    PreemptionTimer,
    MonitorTrap,
    /// LGDT, LIDT, LLDT, LTR and their stores.
    DescriptorTable,
    Wbinvd,
    Xsetbv,
    /// VM entry failed on the guest state or an MSR; the basic reason.
    EntryFailed(u16),
    /// A reason with no handler: the VM stops.
    Unknown(u16),
}

/// I/O instruction, as [`basic_reason`] has it.
pub const IO: u32 = 30;

/// The basic reason of the current exit, for counting.
#[inline(always)]
pub fn basic_reason<V: VmcsAccess>(vmcs: &V) -> u32 {
    vmcs.read(field::EXIT_REASON)
}

impl Exit {
    /// Decodes the current exit whose raw reason field is `reason`. Reads only the fields that reason defines.
    #[inline(always)]
    pub fn decode<V: VmcsAccess>(vmcs: &V, reason: u32) -> Self {
        if reason & ENTRY_FAILURE != 0 {
            return Self::EntryFailed(reason as u16);
        }
        match reason & 0xffff {
            0 => Self::Exception(event(vmcs, field::EXIT_INTERRUPTION_INFO)),
            1 => Self::ExternalInterrupt(event(vmcs, field::EXIT_INTERRUPTION_INFO)),
            2 => Self::TripleFault,
            7 => Self::InterruptWindow,
            8 => Self::NmiWindow,
            9 => Self::TaskSwitch,
            10 => Self::Cpuid,
            11 => Self::Vmx(VmxInstruction::Getsec),
            12 => Self::Hlt,
            13 => Self::Invd,
            15 => Self::Rdpmc,
            18 => Self::Vmcall,
            19 => Self::Vmx(VmxInstruction::Vmclear),
            20 => Self::Vmx(VmxInstruction::Vmlaunch),
            21 => Self::Vmx(VmxInstruction::Vmptrld),
            22 => Self::Vmx(VmxInstruction::Vmptrst),
            23 => Self::Vmx(VmxInstruction::Vmread),
            24 => Self::Vmx(VmxInstruction::Vmresume),
            25 => Self::Vmx(VmxInstruction::Vmwrite),
            26 => Self::Vmx(VmxInstruction::Vmxoff),
            27 => Self::Vmx(VmxInstruction::Vmxon),
            28 => Self::Cr(CrAccess::decode(vmcs.read(field::EXIT_QUALIFICATION).0)),
            30 => Self::Io(IoAccess::decode(vmcs.read(field::EXIT_QUALIFICATION).0)),
            31 => Self::Rdmsr,
            32 => Self::Wrmsr,
            36 => Self::Mwait,
            39 => Self::Monitor,
            43 => Self::TprBelowThreshold,
            45 => Self::VirtualEoi(vmcs.read(field::EXIT_QUALIFICATION).0 as u8),
            37 => Self::MonitorTrap,
            46 | 47 => Self::DescriptorTable,
            48 => Self::EptViolation(EptViolation::decode(
                vmcs.read(field::EXIT_QUALIFICATION).0,
                vmcs.read(field::GUEST_PHYSICAL_ADDRESS),
                vmcs.read(field::GUEST_LINEAR_ADDRESS).0,
            )),
            49 => Self::EptMisconfiguration(Gpa(vmcs.read(field::GUEST_PHYSICAL_ADDRESS))),
            50 => Self::Vmx(VmxInstruction::Invept),
            52 => Self::PreemptionTimer,
            53 => Self::Vmx(VmxInstruction::Invvpid),
            54 => Self::Wbinvd,
            55 => Self::Xsetbv,
            56 => Self::ApicWrite((vmcs.read(field::EXIT_QUALIFICATION).0 & 0xfff) as u16),
            59 => Self::Vmx(VmxInstruction::Vmfunc),
            other => Self::Unknown(other as u16),
        }
    }
}

#[inline(always)]
fn event<V: VmcsAccess>(vmcs: &V, field: Field<u32, ReadOnly>) -> Interruption {
    Interruption(vmcs.read(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_qualification_decodes_every_part() {
        let access = IoAccess::decode((0x3f8 << 16) | (1 << 3));
        assert_eq!(
            access,
            IoAccess {
                port: 0x3f8,
                size: 1,
                input: true,
                string: false,
                repeat: false
            }
        );
        let access = IoAccess::decode((0xffff << 16) | (1 << 5) | (1 << 4) | 3);
        assert_eq!(
            access,
            IoAccess {
                port: 0xffff,
                size: 4,
                input: false,
                string: true,
                repeat: true
            }
        );
    }

    #[test]
    fn control_register_access_decodes_every_kind() {
        assert_eq!(CrAccess::decode(0x0304), CrAccess::Write { cr: 4, gpr: 3 });
        assert_eq!(CrAccess::decode(0x0f18), CrAccess::Read { cr: 8, gpr: 15 });
        assert_eq!(CrAccess::decode(0x20), CrAccess::Clts);
        assert_eq!(CrAccess::decode(0x1234_0030), CrAccess::Lmsw(0x1234));
    }

    #[test]
    fn an_injected_event_has_no_exit_only_bits() {
        let seen = Interruption(0x8000_1b0e | (1 << 12));
        assert_eq!(seen.for_entry(), 0x8000_0b0e);
        assert!(seen.has_error_code());
        assert_eq!(seen.vector(), 14);
        assert_eq!(seen.kind(), Interruption::HARDWARE_EXCEPTION);
    }

    #[test]
    fn a_violation_without_linear_address_has_none() {
        let v = EptViolation::decode(0b10, 0x5000, 0x1234);
        assert_eq!(v.gva, None);
        assert!(v.write && !v.read && !v.fetch && !v.translated);
    }

    #[test]
    fn reason_names_are_distinct() {
        let named: Vec<_> = REASON_NAMES.iter().filter(|n| !n.is_empty()).collect();
        let distinct: std::collections::HashSet<_> = named.iter().collect();
        assert_eq!(named.len(), distinct.len());
    }
}
