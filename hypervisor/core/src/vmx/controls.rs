//! The five VMX control words as flags (Intel SDM vol. 3C, "VM-Execution Control Fields",
//! "VM-Exit Control Fields", "VM-Entry Control Fields").

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Pin: u32 {
        /// External interrupts exit.
        const EXTERNAL_INTERRUPT = 1 << 0;
        /// NMIs exit.
        const NMI = 1 << 3;
        /// NMI blocking is tracked for the guest.
        const VIRTUAL_NMI = 1 << 5;
        /// The preemption timer counts in the guest.
        const PREEMPTION_TIMER = 1 << 6;
        /// Posted interrupts are processed.
        const POSTED_INTERRUPTS = 1 << 7;
    }
}

bitflags! {
    /// Primary processor-based VM-execution controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Primary: u32 {
        /// Exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW = 1 << 2;
        /// RDTSC is offset.
        const TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT = 1 << 7;
        /// INVLPG exits.
        const INVLPG = 1 << 9;
        /// MWAIT exits.
        const MWAIT = 1 << 10;
        /// RDPMC exits.
        const RDPMC = 1 << 11;
        /// RDTSC exits.
        const RDTSC = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE = 1 << 16;
        /// The tertiary controls count.
        const TERTIARY = 1 << 17;
        /// MOV to CR8 exits.
        const CR8_LOAD = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE = 1 << 20;
        /// CR8 is the virtual-APIC page's TPR.
        const TPR_SHADOW = 1 << 21;
        /// Exit as soon as the guest can take an NMI.
        const NMI_WINDOW = 1 << 22;
        /// MOV DR exits.
        const MOV_DR = 1 << 23;
        /// Every I/O instruction exits.
        const UNCONDITIONAL_IO = 1 << 24;
        /// The I/O bitmaps decide.
        const IO_BITMAPS = 1 << 25;
        /// Exit after one instruction.
        const MONITOR_TRAP = 1 << 27;
        /// The MSR bitmaps decide.
        const MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR = 1 << 29;
        /// PAUSE exits.
        const PAUSE = 1 << 30;
        /// The secondary controls count.
        const SECONDARY = 1 << 31;
    }
}

bitflags! {
    /// Secondary processor-based VM-execution controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Secondary: u32 {
        /// Accesses to the APIC page are virtualised.
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        /// Extended page tables.
        const EPT = 1 << 1;
        /// LGDT, SIDT and their like exit.
        const DESCRIPTOR_TABLE = 1 << 2;
        /// RDTSCP works.
        const RDTSCP = 1 << 3;
        /// RDMSR and WRMSR of the x2APIC range are virtualised.
        const VIRTUALIZE_X2APIC = 1 << 4;
        /// TLB entries are tagged.
        const VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD = 1 << 6;
        /// Real mode and unpaged mode run in the guest.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// APIC reads are virtualised.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Pending virtual interrupts are delivered by the CPU.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// A tight PAUSE loop exits.
        const PAUSE_LOOP = 1 << 10;
        /// RDRAND exits.
        const RDRAND = 1 << 11;
        /// INVPCID works.
        const INVPCID = 1 << 12;
        /// VMFUNC works.
        const VMFUNC = 1 << 13;
        /// The VMCS is shadowed.
        const VMCS_SHADOWING = 1 << 14;
        /// ENCLS exits.
        const ENCLS = 1 << 15;
        /// RDSEED exits.
        const RDSEED = 1 << 16;
        /// Page-modification logging.
        const PML = 1 << 17;
        /// EPT violations can become #VE.
        const EPT_VIOLATION_VE = 1 << 18;
        /// VMX is hidden from processor trace.
        const CONCEAL_FROM_PT = 1 << 19;
        /// XSAVES and XRSTORS work.
        const XSAVES = 1 << 20;
        /// Mode-based execute control for EPT.
        const MBEC = 1 << 22;
        /// Sub-page write permissions.
        const SPP = 1 << 23;
        /// The TSC is scaled.
        const TSC_SCALING = 1 << 25;
        /// TPAUSE, UMONITOR, UMWAIT work.
        const USER_WAIT = 1 << 26;
    }
}

bitflags! {
    /// VM-exit controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Exit: u32 {
        /// DR7 and DEBUGCTL are saved.
        const SAVE_DEBUG = 1 << 2;
        /// The host is in 64-bit mode.
        const HOST_64 = 1 << 9;
        /// External interrupts are acknowledged at exit.
        const ACK_INTERRUPT = 1 << 15;
        /// The guest's PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// The host's PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// The guest's EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// The host's EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// What is left of the preemption timer is saved.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
    }
}

bitflags! {
    /// VM-entry controls.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Entry: u32 {
        /// DR7 and DEBUGCTL are loaded.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in IA-32e mode.
        const IA32E = 1 << 9;
        /// The guest's PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// The guest's EFER is loaded.
        const LOAD_EFER = 1 << 15;
    }
}
