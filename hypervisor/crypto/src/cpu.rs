//! What the processor can do, and which implementation that leads to.

use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// Features of the processor that the implementations are made of.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CpuFeatures: u8 {
        /// AES-NI.
        const AES = 1 << 0;
        /// Carry-less multiplication in XMM registers.
        const PCLMULQDQ = 1 << 1;
        /// YMM registers: AVX and AVX2, and an XCR0 that enables them.
        const AVX2 = 1 << 2;
        /// AES in YMM registers.
        const VAES = 1 << 3;
        /// Carry-less multiplication in YMM registers.
        const VPCLMULQDQ = 1 << 4;
    }
}

/// What CPUID says, of which [`CpuFeatures::from_cpuid`] takes what it needs; Intel SDM vol. 2A, "CPUID—CPU Identification".
#[derive(Clone, Copy, Debug)]
pub struct CpuidLeaves {
    /// ECX of leaf 1.
    pub leaf1_ecx: u32,
    /// EBX of leaf 7, subleaf 0; 0 where there is no leaf 7.
    pub leaf7_ebx: u32,
    /// ECX of leaf 7, subleaf 0; 0 where there is no leaf 7.
    pub leaf7_ecx: u32,
    /// XCR0 as it is whenever an operation is called; 0 without CR4.OSXSAVE.
    pub xcr0: u64,
}

impl CpuFeatures {
    const VAES_FORM: Self = Self::XMM_FORM
        .union(Self::AVX2)
        .union(Self::VAES)
        .union(Self::VPCLMULQDQ);
    const XMM_FORM: Self = Self::AES.union(Self::PCLMULQDQ);

    /// The features that these leaves tell of.
    #[must_use]
    pub const fn from_cpuid(cpuid: CpuidLeaves) -> Self {
        const SSE_AND_AVX_STATE: u64 = 0b110;
        let mut features = Self::empty();
        if cpuid.leaf1_ecx & 1 << 25 != 0 {
            features = features.union(Self::AES);
        }
        if cpuid.leaf1_ecx & 1 << 1 != 0 {
            features = features.union(Self::PCLMULQDQ);
        }
        let avx = cpuid.leaf1_ecx & 1 << 28 != 0;
        let avx2 = cpuid.leaf7_ebx & 1 << 5 != 0;
        if avx && avx2 && cpuid.xcr0 & SSE_AND_AVX_STATE == SSE_AND_AVX_STATE {
            features = features.union(Self::AVX2);
        }
        if cpuid.leaf7_ecx & 1 << 9 != 0 {
            features = features.union(Self::VAES);
        }
        if cpuid.leaf7_ecx & 1 << 10 != 0 {
            features = features.union(Self::VPCLMULQDQ);
        }
        features
    }
}

/// A way to do what this crate does. They differ in speed only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Path {
    /// VAES and VPCLMULQDQ in YMM registers.
    Vaes,
    /// AES-NI and PCLMULQDQ in XMM registers.
    AesNi,
    /// No instructions but the general ones, in constant time.
    Soft,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vaes => "VAES",
            Self::AesNi => "AES-NI",
            Self::Soft => "soft",
        })
    }
}

/// The path that was chosen for a processor. Only [`Implementation::choose`] makes one, so none names instructions
/// that the processor does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Implementation(Path);

impl Implementation {
    /// The fastest way that `features` allow. For a machine whose processors differ, give what all of them have.
    #[must_use]
    pub const fn choose(features: CpuFeatures) -> Self {
        Self(if features.contains(CpuFeatures::VAES_FORM) {
            Path::Vaes
        } else if features.contains(CpuFeatures::XMM_FORM) {
            Path::AesNi
        } else {
            Path::Soft
        })
    }

    /// Which one it is.
    #[must_use]
    pub const fn path(self) -> Path {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: CpuidLeaves = CpuidLeaves {
        leaf1_ecx: 1 << 25 | 1 << 1 | 1 << 28,
        leaf7_ebx: 1 << 5,
        leaf7_ecx: 1 << 9 | 1 << 10,
        xcr0: 0b111,
    };

    fn path(cpuid: CpuidLeaves) -> Path {
        Implementation::choose(CpuFeatures::from_cpuid(cpuid)).path()
    }

    #[test]
    fn a_processor_with_everything_gets_the_wide_form() {
        assert_eq!(path(EVERYTHING), Path::Vaes);
    }

    #[test]
    fn anything_missing_for_the_wide_form_leaves_the_narrow_one() {
        let without = [
            CpuidLeaves {
                leaf7_ebx: 0,
                ..EVERYTHING
            },
            CpuidLeaves {
                leaf7_ecx: 1 << 9,
                ..EVERYTHING
            },
            CpuidLeaves {
                leaf7_ecx: 1 << 10,
                ..EVERYTHING
            },
            CpuidLeaves {
                leaf1_ecx: 1 << 25 | 1 << 1,
                ..EVERYTHING
            },
            CpuidLeaves {
                xcr0: 0b011,
                ..EVERYTHING
            },
            CpuidLeaves {
                xcr0: 0b101,
                ..EVERYTHING
            },
            CpuidLeaves {
                xcr0: 0,
                ..EVERYTHING
            },
        ];
        for cpuid in without {
            assert_eq!(path(cpuid), Path::AesNi, "{cpuid:x?}");
        }
    }

    #[test]
    fn anything_missing_for_the_narrow_form_leaves_the_soft_one() {
        for leaf1_ecx in [0, 1 << 28, 1 << 28 | 1 << 1, 1 << 28 | 1 << 25] {
            assert_eq!(
                path(CpuidLeaves {
                    leaf1_ecx,
                    ..EVERYTHING
                }),
                Path::Soft
            );
        }
    }
}
