//! The CPUID registers that announce features, and what a machine's CPUs have of them in common.

use core::fmt;

use bitflags::Flags;

use crate::cpuid::features::{
    Extended1Ecx, Extended1Edx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, Leaf7Sub1Eax,
    XsaveEax,
};
use crate::cpuid::{CpuidResult, Xcr0};
use crate::flags;

/// A register of CPUID's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    const fn get(self, answer: &CpuidResult) -> u32 {
        match self {
            Self::Eax => answer.eax,
            Self::Ebx => answer.ebx,
            Self::Ecx => answer.ecx,
            Self::Edx => answer.edx,
        }
    }

    const fn set(self, answer: &mut CpuidResult, value: u32) {
        match self {
            Self::Eax => answer.eax = value,
            Self::Ebx => answer.ebx = value,
            Self::Ecx => answer.ecx = value,
            Self::Edx => answer.edx = value,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Eax => "EAX",
            Self::Ebx => "EBX",
            Self::Ecx => "ECX",
            Self::Edx => "EDX",
        }
    }
}

/// How two CPUs' values become one.
#[derive(Clone, Copy, Debug)]
enum Merge {
    /// Features: what both have. Bits that announce that something is gone are set where either has them.
    Features { gone: u32 },
    /// The smaller number.
    Least,
    /// The smaller number in each byte.
    LeastBytes,
}

impl Merge {
    fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Self::Features { gone } => a & b | (a | b) & gone,
            Self::Least => a.min(b),
            Self::LeastBytes => {
                let ([a, b, c, d], [e, f, g, h]) = (a.to_le_bytes(), b.to_le_bytes());
                u32::from_le_bytes([a.min(e), b.min(f), c.min(g), d.min(h)])
            }
        }
    }
}

/// One register of one leaf.
struct Word {
    leaf: u32,
    subleaf: u32,
    register: Register,
    merge: Merge,
    /// The bits whose lack a guest notices: those it may see and that are not emulated on every CPU.
    seen: u32,
    names: fn(u32, &mut fmt::Formatter<'_>) -> fmt::Result,
}

const fn features(
    leaf: u32,
    subleaf: u32,
    register: Register,
    seen: u32,
    names: fn(u32, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> Word {
    Word {
        leaf,
        subleaf,
        register,
        merge: Merge::Features { gone: 0 },
        seen,
        names,
    }
}

const fn number(leaf: u32, merge: Merge) -> Word {
    Word {
        leaf,
        subleaf: 0,
        register: Register::Eax,
        merge,
        seen: 0,
        names: raw,
    }
}

const LEAF1_ECX_EMULATED: Leaf1Ecx = Leaf1Ecx::X2APIC
    .union(Leaf1Ecx::TSC_DEADLINE)
    .union(Leaf1Ecx::OSXSAVE)
    .union(Leaf1Ecx::HYPERVISOR);
const LEAF1_EDX_EMULATED: Leaf1Edx = Leaf1Edx::APIC.union(Leaf1Edx::MTRR).union(Leaf1Edx::HTT);
const LEAF7_EBX_GONE: Leaf7Ebx = Leaf7Ebx::FDP_EXCPTN_ONLY.union(Leaf7Ebx::ZERO_FCS_FDS);

/// Every register that is brought together. Guests see fewer; the rest is the hypervisor's own.
const WORDS: [Word; 19] = [
    number(0, Merge::Least),
    features(
        1,
        0,
        Register::Ecx,
        Leaf1Ecx::all().difference(LEAF1_ECX_EMULATED).bits(),
        named::<Leaf1Ecx>,
    ),
    features(
        1,
        0,
        Register::Edx,
        Leaf1Edx::all().difference(LEAF1_EDX_EMULATED).bits(),
        named::<Leaf1Edx>,
    ),
    number(7, Merge::Least),
    Word {
        merge: Merge::Features {
            gone: LEAF7_EBX_GONE.bits(),
        },
        ..features(
            7,
            0,
            Register::Ebx,
            Leaf7Ebx::all()
                .difference(LEAF7_EBX_GONE.union(Leaf7Ebx::TSC_ADJUST))
                .bits(),
            named::<Leaf7Ebx>,
        )
    },
    features(
        7,
        0,
        Register::Ecx,
        Leaf7Ecx::all().bits(),
        named::<Leaf7Ecx>,
    ),
    features(
        7,
        0,
        Register::Edx,
        Leaf7Edx::all().bits(),
        named::<Leaf7Edx>,
    ),
    features(
        7,
        1,
        Register::Eax,
        Leaf7Sub1Eax::all().bits(),
        named::<Leaf7Sub1Eax>,
    ),
    features(7, 1, Register::Edx, 0, raw),
    features(7, 2, Register::Edx, 0, raw),
    features(0xd, 0, Register::Eax, Xcr0::all().bits() as u32, xcr0),
    features(0xd, 0, Register::Edx, 0, raw),
    features(
        0xd,
        1,
        Register::Eax,
        XsaveEax::all().bits(),
        named::<XsaveEax>,
    ),
    features(0xd, 1, Register::Ecx, 0, raw),
    number(0x8000_0000, Merge::Least),
    features(
        0x8000_0001,
        0,
        Register::Ecx,
        Extended1Ecx::all().bits(),
        named::<Extended1Ecx>,
    ),
    features(
        0x8000_0001,
        0,
        Register::Edx,
        Extended1Edx::all().bits(),
        named::<Extended1Edx>,
    ),
    features(0x8000_0007, 0, Register::Edx, 0, raw),
    number(ADDRESS_WIDTHS, Merge::LeastBytes),
];

/// The leaf whose EAX holds the widths of physical and linear addresses.
const ADDRESS_WIDTHS: u32 = 0x8000_0008;

/// CPUID's announcements of one CPU, or of all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeatureWords([u32; WORDS.len()]);

impl FeatureWords {
    /// Reads them on the CPU it is executed on. Leaves that the CPU lacks count as zero.
    pub fn read(host: &mut dyn FnMut(u32, u32) -> CpuidResult) -> Self {
        let (basic, extended) = (host(0, 0).eax, host(0x8000_0000, 0).eax);
        let subleaves7 = if basic >= 7 { host(7, 0).eax } else { 0 };
        Self(WORDS.each_ref().map(|word| {
            let there = match word.leaf {
                leaf @ 0x8000_0000.. => leaf <= extended.max(0x8000_0000),
                7 => 7 <= basic && word.subleaf <= subleaves7,
                leaf => leaf <= basic,
            };
            if there {
                word.register.get(&host(word.leaf, word.subleaf))
            } else {
                0
            }
        }))
    }

    /// Keeps what `other` has too.
    pub(super) fn restrict(&mut self, other: &Self) {
        for ((own, theirs), word) in self.0.iter_mut().zip(&other.0).zip(&WORDS) {
            *own = word.merge.apply(*own, *theirs);
        }
    }

    /// What of `answer`, given by the CPU at hand for this leaf, all CPUs have. Registers that say no features stay.
    #[must_use]
    pub fn apply(&self, leaf: u32, subleaf: u32, answer: CpuidResult) -> CpuidResult {
        let mut answer = answer;
        for (value, word) in self.0.iter().zip(&WORDS) {
            // Leaves below without subleaves answer the same for each.
            let whole = matches!(word.leaf, 0 | 1 | 0x8000_0000..);
            if word.leaf == leaf && (whole || word.subleaf == subleaf) {
                let own = word.register.get(&answer);
                word.register
                    .set(&mut answer, word.merge.apply(own, *value));
            }
        }
        answer
    }

    /// Bits of a physical address.
    #[must_use]
    pub fn physical_bits(&self) -> u32 {
        /// What CPUs have that do not say (Intel SDM vol. 3A, "Enumeration of Paging Features by CPUID").
        const UNSAID: u32 = 36;
        let said = self
            .0
            .iter()
            .zip(&WORDS)
            .find(|(_, word)| word.leaf == ADDRESS_WIDTHS)
            .map_or(0, |(value, _)| value & 0xff);
        if said == 0 { UNSAID } else { said }
    }

    /// What guests could see of `self` if it were not for `other`.
    pub(super) fn beyond(&self, other: &Self) -> impl Iterator<Item = FeatureBits> {
        let words = self.0.iter().zip(&other.0).zip(0..);
        words.filter_map(|((own, theirs), word)| {
            let seen = WORDS.get(usize::from(word))?.seen;
            let bits = own & !theirs & seen;
            (bits != 0).then_some(FeatureBits { word, bits })
        })
    }
}

/// Features of one CPUID register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureBits {
    /// The place in [`WORDS`].
    word: u8,
    bits: u32,
}

impl fmt::Display for FeatureBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(word) = WORDS.get(usize::from(self.word)) else {
            return raw(self.bits, f);
        };
        (word.names)(self.bits, f)?;
        write!(f, " (CPUID.{:X}H", word.leaf)?;
        if word.subleaf != 0 {
            write!(f, ".{}", word.subleaf)?;
        }
        write!(f, ":{})", word.register.name())
    }
}

fn named<F: Flags<Bits = u32>>(bits: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    flags::write(&F::from_bits_retain(bits), f)
}

fn xcr0(bits: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("XCR0 ")?;
    flags::write(&Xcr0::from_bits_retain(bits.into()), f)
}

fn raw(bits: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{bits:#x}")
}
