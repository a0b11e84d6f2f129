//! Why each feature that an Intel CPU can have is not shown to guests: one table, for readers and for a test.

/// An output register of CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One feature bit that guests never see.
#[derive(Clone, Copy, Debug)]
pub struct Hidden {
    /// CPUID leaf.
    pub leaf: u32,
    /// CPUID subleaf.
    pub subleaf: u32,
    /// Output register.
    pub register: Register,
    /// Bit in it.
    pub bit: u32,
    /// The manual's name.
    pub name: &'static str,
    /// Why it is hidden.
    pub reason: &'static str,
}

const fn hidden(
    leaf: u32,
    subleaf: u32,
    register: Register,
    bit: u32,
    name: &'static str,
    reason: &'static str,
) -> Hidden {
    Hidden {
        leaf,
        subleaf,
        register,
        bit,
        name,
        reason,
    }
}

const NESTED: &str = "a guest cannot host guests; its VMX and SMX instructions are #UD";
const PMU: &str = "performance counters belong to the host and are not switched; leaf 0xA is zero";
const TRACE: &str =
    "branch and instruction tracing would record the hypervisor; its MSRs are not switched";
const POWER: &str = "power and thermal state is the machine's, not a VM's; its MSRs are denied";
const MACHINE_CHECK: &str = "machine checks are the hypervisor's; its bank MSRs are denied";
const ENCLAVE: &str = "enclave memory is not in the ledger, and EPT cannot see into it";
const RDT: &str = "cache and bandwidth classes are the machine's; one VM could starve another";
const TSX: &str =
    "transactional memory leaks through asynchronous aborts and is switched off on current parts";
const SUPERVISOR_STATE: &str =
    "its supervisor state would need XSAVES and IA32_XSS, which are not offered";
const BIG_STATE: &str = "its XSAVE state is 8 KiB and more; the save area here ends with AVX-512";
const SPEC_MSR: &str =
    "IA32_SPEC_CTRL and IA32_PRED_CMD are not switched at exits yet; the guest uses retpolines";
const NOT_SWITCHED: &str = "its MSRs are not switched between host and guest";
const HOST_WAIT: &str =
    "waiting instructions would idle the pCPU; HLT exits instead and the host decides";

const KEYS: &str = "the guest walk for string I/O and device accesses does not check PKRU, so a key would not protect";

use Register::{Eax, Ebx, Ecx, Edx};

/// Every hidden feature with its reason.
pub static HIDDEN: &[Hidden] = &[
    hidden(1, 0, Ecx, 2, "DTES64", PMU),
    hidden(1, 0, Ecx, 3, "MONITOR", HOST_WAIT),
    hidden(1, 0, Ecx, 4, "DS-CPL", PMU),
    hidden(1, 0, Ecx, 5, "VMX", NESTED),
    hidden(1, 0, Ecx, 6, "SMX", NESTED),
    hidden(1, 0, Ecx, 7, "EIST", POWER),
    hidden(1, 0, Ecx, 8, "TM2", POWER),
    hidden(1, 0, Ecx, 10, "CNXT-ID", POWER),
    hidden(
        1,
        0,
        Ecx,
        11,
        "SDBG",
        "silicon debugging reaches beyond the VM",
    ),
    hidden(
        1,
        0,
        Ecx,
        14,
        "xTPR",
        "changes the real chipset's interrupt routing",
    ),
    hidden(1, 0, Ecx, 15, "PDCM", PMU),
    hidden(
        1,
        0,
        Ecx,
        18,
        "DCA",
        "prefetches device writes into the real cache",
    ),
    hidden(1, 0, Edx, 7, "MCE", MACHINE_CHECK),
    hidden(1, 0, Edx, 14, "MCA", MACHINE_CHECK),
    hidden(
        1,
        0,
        Edx,
        18,
        "PSN",
        "a serial number would identify the machine",
    ),
    hidden(1, 0, Edx, 21, "DS", PMU),
    hidden(1, 0, Edx, 22, "ACPI", POWER),
    hidden(1, 0, Edx, 29, "TM", POWER),
    hidden(1, 0, Edx, 31, "PBE", PMU),
    hidden(7, 0, Ebx, 2, "SGX", ENCLAVE),
    hidden(7, 0, Ebx, 4, "HLE", TSX),
    hidden(7, 0, Ebx, 11, "RTM", TSX),
    hidden(7, 0, Ebx, 12, "RDT-M", RDT),
    hidden(
        7,
        0,
        Ebx,
        14,
        "MPX",
        "removed from current parts; its bounds state is not in the save area",
    ),
    hidden(7, 0, Ebx, 15, "RDT-A", RDT),
    hidden(7, 0, Ebx, 25, "PT", TRACE),
    hidden(7, 0, Ebx, 26, "AVX512PF", "Xeon Phi only"),
    hidden(7, 0, Ebx, 27, "AVX512ER", "Xeon Phi only"),
    hidden(7, 0, Ecx, 0, "PREFETCHWT1", "Xeon Phi only"),
    hidden(7, 0, Ecx, 3, "PKU", KEYS),
    hidden(7, 0, Ecx, 4, "OSPKE", KEYS),
    hidden(7, 0, Ecx, 5, "WAITPKG", HOST_WAIT),
    hidden(7, 0, Ecx, 7, "CET_SS", SUPERVISOR_STATE),
    hidden(
        7,
        0,
        Ecx,
        13,
        "TME_EN",
        "memory encryption keys are the machine's",
    ),
    hidden(
        7,
        0,
        Ecx,
        16,
        "LA57",
        "the loader and introspection walk four-level tables",
    ),
    hidden(
        7,
        0,
        Ecx,
        23,
        "KL",
        "key locker's wrapping key is not switched",
    ),
    hidden(
        7,
        0,
        Ecx,
        24,
        "BUS_LOCK_DETECT",
        "its IA32_DEBUGCTL bit is not switched",
    ),
    hidden(
        7,
        0,
        Ecx,
        29,
        "ENQCMD",
        "IA32_PASID is supervisor state that is not switched",
    ),
    hidden(7, 0, Ecx, 30, "SGX_LC", ENCLAVE),
    hidden(7, 0, Ecx, 31, "PKS", "IA32_PKRS is not switched"),
    hidden(7, 0, Edx, 1, "SGX-KEYS", ENCLAVE),
    hidden(7, 0, Edx, 2, "AVX512_4VNNIW", "Xeon Phi only"),
    hidden(7, 0, Edx, 3, "AVX512_4FMAPS", "Xeon Phi only"),
    hidden(7, 0, Edx, 5, "UINTR", SUPERVISOR_STATE),
    hidden(
        7,
        0,
        Edx,
        9,
        "SRBDS_CTRL",
        "IA32_MCU_OPT_CTRL is the host's",
    ),
    hidden(7, 0, Edx, 11, "RTM_ALWAYS_ABORT", TSX),
    hidden(7, 0, Edx, 13, "RTM_FORCE_ABORT", TSX),
    hidden(7, 0, Edx, 15, "HYBRID", "vCPUs of a VM are alike"),
    hidden(7, 0, Edx, 16, "TSXLDTRK", TSX),
    hidden(
        7,
        0,
        Edx,
        18,
        "PCONFIG",
        "memory encryption keys are the machine's",
    ),
    hidden(7, 0, Edx, 19, "ARCH_LBR", TRACE),
    hidden(7, 0, Edx, 20, "CET_IBT", SUPERVISOR_STATE),
    hidden(7, 0, Edx, 22, "AMX-BF16", BIG_STATE),
    hidden(7, 0, Edx, 24, "AMX-TILE", BIG_STATE),
    hidden(7, 0, Edx, 25, "AMX-INT8", BIG_STATE),
    hidden(7, 0, Edx, 26, "IBRS_IBPB", SPEC_MSR),
    hidden(7, 0, Edx, 27, "STIBP", SPEC_MSR),
    hidden(
        7,
        0,
        Edx,
        28,
        "L1D_FLUSH",
        "IA32_FLUSH_CMD is the host's; it flushes at VM switches",
    ),
    hidden(
        7,
        0,
        Edx,
        29,
        "ARCH_CAPABILITIES",
        "its bits promise MSRs that are denied",
    ),
    hidden(
        7,
        0,
        Edx,
        30,
        "CORE_CAPABILITIES",
        "its bits promise MSRs that are denied",
    ),
    hidden(7, 0, Edx, 31, "SSBD", SPEC_MSR),
    hidden(
        7,
        1,
        Eax,
        0,
        "SHA512",
        "not in the emulators that test this; allow it with a test",
    ),
    hidden(
        7,
        1,
        Eax,
        1,
        "SM3",
        "not in the emulators that test this; allow it with a test",
    ),
    hidden(
        7,
        1,
        Eax,
        2,
        "SM4",
        "not in the emulators that test this; allow it with a test",
    ),
    hidden(
        7,
        1,
        Eax,
        3,
        "RAO-INT",
        "not in the emulators that test this; allow it with a test",
    ),
    hidden(
        7,
        1,
        Eax,
        7,
        "CMPCCXADD",
        "not in the emulators that test this; allow it with a test",
    ),
    hidden(7, 1, Eax, 8, "ARCHPERFMONEXT", PMU),
    hidden(
        7,
        1,
        Eax,
        17,
        "FRED",
        "its MSRs and VMCS fields are not switched",
    ),
    hidden(7, 1, Eax, 18, "LKGS", "part of FRED"),
    hidden(
        7,
        1,
        Eax,
        19,
        "WRMSRNS",
        "not intercepted like WRMSR on the exit path yet",
    ),
    hidden(7, 1, Eax, 20, "NMI_SRC", "part of FRED"),
    hidden(7, 1, Eax, 21, "AMX-FP16", BIG_STATE),
    hidden(7, 1, Eax, 22, "HRESET", NOT_SWITCHED),
    hidden(
        7,
        1,
        Eax,
        23,
        "AVX-IFMA",
        "not in the emulators that test this; allow it with a test",
    ),
    hidden(
        7,
        1,
        Eax,
        26,
        "LAM",
        "introspection would have to untag addresses",
    ),
    hidden(
        7,
        1,
        Eax,
        27,
        "MSRLIST",
        "not intercepted like WRMSR on the exit path yet",
    ),
    hidden(
        0xd,
        1,
        Eax,
        3,
        "XSAVES",
        "there is no supervisor state to save",
    ),
    hidden(0xd, 1, Eax, 4, "XFD", BIG_STATE),
    hidden(
        0x8000_0008,
        0,
        Ebx,
        9,
        "WBNOINVD",
        "WBINVD exits and is a no-op for guest RAM; this would not",
    ),
];
