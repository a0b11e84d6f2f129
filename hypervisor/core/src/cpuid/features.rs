//! The allow-list: every processor feature a guest may see, by CPUID register.
//!
//! A bit that is not named here is not shown, whatever the CPU has; [`super::hidden`] says why for each bit
//! that a current Intel CPU can set (Intel SDM vol. 2A, "CPUID—CPU Identification").

bitflags::bitflags! {
    /// Leaf 1, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Leaf1Ecx: u32 {
        /// SSE3.
        const SSE3 = 1 << 0;
        /// Carry-less multiply.
        const PCLMULQDQ = 1 << 1;
        /// SSSE3.
        const SSSE3 = 1 << 9;
        /// Fused multiply-add.
        const FMA = 1 << 12;
        /// CMPXCHG16B.
        const CX16 = 1 << 13;
        /// Process-context identifiers.
        const PCID = 1 << 17;
        /// SSE4.1.
        const SSE4_1 = 1 << 19;
        /// SSE4.2.
        const SSE4_2 = 1 << 20;
        /// x2APIC mode: emulated, always there.
        const X2APIC = 1 << 21;
        /// MOVBE.
        const MOVBE = 1 << 22;
        /// POPCNT.
        const POPCNT = 1 << 23;
        /// TSC-deadline timer: emulated, always there.
        const TSC_DEADLINE = 1 << 24;
        /// AES instructions.
        const AES = 1 << 25;
        /// XSAVE family.
        const XSAVE = 1 << 26;
        /// Mirrors CR4.OSXSAVE.
        const OSXSAVE = 1 << 27;
        /// AVX.
        const AVX = 1 << 28;
        /// Half-precision conversion.
        const F16C = 1 << 29;
        /// RDRAND.
        const RDRAND = 1 << 30;
        /// Says that a hypervisor is present: always set.
        const HYPERVISOR = 1 << 31;
    }

    /// Leaf 1, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Leaf1Edx: u32 {
        /// x87.
        const FPU = 1 << 0;
        /// Virtual-8086 enhancements.
        const VME = 1 << 1;
        /// Debugging extensions.
        const DE = 1 << 2;
        /// 4 MiB pages.
        const PSE = 1 << 3;
        /// RDTSC.
        const TSC = 1 << 4;
        /// RDMSR and WRMSR.
        const MSR = 1 << 5;
        /// Physical address extension.
        const PAE = 1 << 6;
        /// CMPXCHG8B.
        const CX8 = 1 << 8;
        /// Local APIC: emulated, always there.
        const APIC = 1 << 9;
        /// SYSENTER.
        const SEP = 1 << 11;
        /// Memory type range registers: emulated as storage, always there (see `msr::mtrr`).
        const MTRR = 1 << 12;
        /// Global pages.
        const PGE = 1 << 13;
        /// Conditional moves.
        const CMOV = 1 << 15;
        /// Page attribute table.
        const PAT = 1 << 16;
        /// 36-bit page size extension.
        const PSE36 = 1 << 17;
        /// CLFLUSH.
        const CLFSH = 1 << 19;
        /// MMX.
        const MMX = 1 << 23;
        /// FXSAVE.
        const FXSR = 1 << 24;
        /// SSE.
        const SSE = 1 << 25;
        /// SSE2.
        const SSE2 = 1 << 26;
        /// Self snoop.
        const SS = 1 << 27;
        /// More than one logical processor in the package.
        const HTT = 1 << 28;
    }

    /// Leaf 7 subleaf 0, EBX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Leaf7Ebx: u32 {
        /// RDFSBASE and its family.
        const FSGSBASE = 1 << 0;
        /// `IA32_TSC_ADJUST`: emulated, always there.
        const TSC_ADJUST = 1 << 1;
        /// BMI1.
        const BMI1 = 1 << 3;
        /// AVX2.
        const AVX2 = 1 << 5;
        /// x87 data pointer updated only on exceptions.
        const FDP_EXCPTN_ONLY = 1 << 6;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 7;
        /// BMI2.
        const BMI2 = 1 << 8;
        /// Fast REP MOVSB and STOSB.
        const ERMS = 1 << 9;
        /// INVPCID: needs its VMX control.
        const INVPCID = 1 << 10;
        /// x87 CS and DS are deprecated.
        const ZERO_FCS_FDS = 1 << 13;
        /// AVX-512 foundation.
        const AVX512F = 1 << 16;
        /// AVX-512 DQ.
        const AVX512DQ = 1 << 17;
        /// RDSEED.
        const RDSEED = 1 << 18;
        /// ADCX and ADOX.
        const ADX = 1 << 19;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 20;
        /// AVX-512 IFMA.
        const AVX512IFMA = 1 << 21;
        /// CLFLUSHOPT.
        const CLFLUSHOPT = 1 << 23;
        /// CLWB.
        const CLWB = 1 << 24;
        /// AVX-512 CD.
        const AVX512CD = 1 << 28;
        /// SHA instructions.
        const SHA = 1 << 29;
        /// AVX-512 BW.
        const AVX512BW = 1 << 30;
        /// AVX-512 VL.
        const AVX512VL = 1 << 31;
    }

    /// Leaf 7 subleaf 0, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Leaf7Ecx: u32 {
        /// AVX-512 VBMI.
        const AVX512VBMI = 1 << 1;
        /// User-mode instruction prevention.
        const UMIP = 1 << 2;
        /// AVX-512 VBMI2.
        const AVX512VBMI2 = 1 << 6;
        /// Galois field instructions.
        const GFNI = 1 << 8;
        /// Vector AES.
        const VAES = 1 << 9;
        /// Vector carry-less multiply.
        const VPCLMULQDQ = 1 << 10;
        /// AVX-512 VNNI.
        const AVX512VNNI = 1 << 11;
        /// AVX-512 BITALG.
        const AVX512BITALG = 1 << 12;
        /// AVX-512 VPOPCNTDQ.
        const AVX512VPOPCNTDQ = 1 << 14;
        /// RDPID: needs the RDTSCP VMX control.
        const RDPID = 1 << 22;
        /// CLDEMOTE.
        const CLDEMOTE = 1 << 25;
        /// MOVDIRI.
        const MOVDIRI = 1 << 27;
        /// MOVDIR64B.
        const MOVDIR64B = 1 << 28;
    }

    /// Leaf 7 subleaf 0, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Leaf7Edx: u32 {
        /// Fast short REP MOVSB.
        const FSRM = 1 << 4;
        /// VP2INTERSECT.
        const VP2INTERSECT = 1 << 8;
        /// VERW clears buffers: works in a guest without help.
        const MD_CLEAR = 1 << 10;
        /// SERIALIZE.
        const SERIALIZE = 1 << 14;
        /// AVX-512 FP16.
        const AVX512FP16 = 1 << 23;
    }

    /// Leaf 7 subleaf 1, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Leaf7Sub1Eax: u32 {
        /// AVX-VNNI.
        const AVX_VNNI = 1 << 4;
        /// AVX-512 BF16.
        const AVX512BF16 = 1 << 5;
        /// Fast zero-length REP MOVSB.
        const FZRM = 1 << 10;
        /// Fast short REP STOSB.
        const FSRS = 1 << 11;
        /// Fast short REP CMPSB and SCASB.
        const FSRC = 1 << 12;
    }

    /// Leaf 0xD subleaf 1, EAX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct XsaveEax: u32 {
        /// XSAVEOPT.
        const XSAVEOPT = 1 << 0;
        /// XSAVEC and the compacted form.
        const XSAVEC = 1 << 1;
        /// XGETBV with ECX=1.
        const XGETBV1 = 1 << 2;
    }

    /// Leaf 0x80000001, ECX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Extended1Ecx: u32 {
        /// LAHF and SAHF in 64-bit mode.
        const LAHF64 = 1 << 0;
        /// LZCNT.
        const LZCNT = 1 << 5;
        /// PREFETCHW.
        const PREFETCHW = 1 << 8;
    }

    /// Leaf 0x80000001, EDX.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Extended1Edx: u32 {
        /// SYSCALL.
        const SYSCALL = 1 << 11;
        /// Execute disable.
        const NX = 1 << 20;
        /// 1 GiB pages.
        const PAGE_1G = 1 << 26;
        /// RDTSCP: needs its VMX control.
        const RDTSCP = 1 << 27;
        /// 64-bit mode.
        const LONG_MODE = 1 << 29;
    }
}
