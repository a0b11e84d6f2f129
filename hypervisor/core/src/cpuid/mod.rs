//! CPUID as a guest sees it: an allow-list over the host's answers, built once, looked up by index at each exit.
//!
//! [`CpuidTable::build`] runs the policy ([`features`], [`hidden`]) for one vCPU; [`CpuidTable::lookup`] is the exit
//! path. The shell supplies the host's CPUID as a closure, so that the policy runs on the host in tests.
//!
//! Besides Bulkhead's own signature at leaf 0x40000000, leaf 0x40000100 answers `KVMKVMKVM` with an empty feature
//! set. Linux gives up x2APIC mode without interrupt remapping unless the hypervisor is one it knows (`x2apic_available`),
//! and looks for known signatures at every 0x100 leaves; KVM's with no features asks nothing else of us.

mod build;
pub mod features;
pub mod hidden;
mod xstate;

#[cfg(test)]
mod tests;

pub use xstate::Xcr0;

use features::{Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, XsaveEax};
use xstate::XState;

use crate::fault::GuestFault;
use crate::hypercall;

/// Highest basic leaf: the frequency leaves are always given, nothing above them is.
pub const MAX_BASIC: u32 = 0x16;
/// Highest extended leaf.
pub const MAX_EXTENDED: u32 = 0x8000_0008;
/// First leaf of the range that no CPU answers.
pub const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// Last leaf of that range.
pub const HYPERVISOR_LAST: u32 = 0x4fff_ffff;
/// Where the KVM signature stands.
const KVM_BASE: u32 = HYPERVISOR_BASE + 0x100;

/// Cache leaves kept; CPUs have four.
const CACHES: usize = 8;

/// What one CPUID execution returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl CpuidResult {
    const ZERO: Self = Self {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };

    /// A leaf whose EBX, ECX, EDX spell `signature`.
    const fn signature(eax: u32, signature: &[u8; 12]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *signature;
        Self {
            eax,
            ebx: u32::from_le_bytes([a, b, c, d]),
            ecx: u32::from_le_bytes([e, f, g, h]),
            edx: u32::from_le_bytes([i, j, k, l]),
        }
    }
}

bitflags::bitflags! {
    /// Instructions that are #UD in a guest unless a VMX control enables them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VmxInstructions: u32 {
        /// "Enable RDTSCP": RDTSCP and RDPID.
        const RDTSCP = 1 << 0;
        /// "Enable INVPCID".
        const INVPCID = 1 << 1;
    }
}

/// What a vCPU's table depends on besides the host's CPUID.
#[derive(Clone, Copy, Debug)]
pub struct CpuidConfig {
    /// The vCPU's x2APIC identifier.
    pub apic_id: u32,
    /// vCPUs of the VM, at least 1.
    pub vcpus: u32,
    /// The guest's TSC frequency as calibrated, not as CPUID claims.
    pub tsc_khz: u32,
    /// Instructions that the VMX controls enable.
    pub instructions: VmxInstructions,
}

/// The guest state that CPUID reflects.
#[derive(Clone, Copy, Debug)]
pub struct CpuidDynamic {
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// XCR0 as the guest set it.
    pub xcr0: u64,
}

/// The core crystal clock announced in leaf 0x15, which also drives the APIC timer: the TSC divided by a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crystal {
    /// log2 of TSC ticks in a crystal tick.
    pub shift: u32,
    /// Its frequency.
    pub hz: u32,
}

impl Crystal {
    /// The fastest crystal that leaf 0x15 can express for a TSC of `tsc_khz`.
    #[must_use]
    pub fn for_tsc(tsc_khz: u32) -> Self {
        let tsc_hz = u64::from(tsc_khz) * 1000;
        let shift = (u64::BITS - tsc_hz.leading_zeros()).saturating_sub(u32::BITS);
        Self {
            shift,
            hz: (tsc_hz >> shift) as u32,
        }
    }
}

/// One vCPU's CPUID.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    basic: [CpuidResult; MAX_BASIC as usize + 1],
    extended: [CpuidResult; (MAX_EXTENDED & 0xff) as usize + 1],
    caches: [CpuidResult; CACHES],
    features1: CpuidResult,
    xsave: XsaveEax,
    xstate: XState,
    apic_id: u32,
    vcpus: u32,
}

impl CpuidTable {
    /// The answer to CPUID with `leaf` in EAX and `subleaf` in ECX.
    ///
    /// A leaf above the highest answers as the highest basic one (Intel SDM vol. 2A, "CPUID—CPU Identification"); in the range set aside
    /// for hypervisors, unknown leaves are zero.
    #[inline]
    #[must_use]
    pub fn lookup(&self, leaf: u32, subleaf: u32, dynamic: &CpuidDynamic) -> CpuidResult {
        match leaf {
            1 | 4 | 7 | 0xb | 0xd => self.lookup_varying(leaf, subleaf, dynamic),
            HYPERVISOR_BASE..=HYPERVISOR_LAST => hypervisor_leaf(leaf),
            0x8000_0000..=MAX_EXTENDED => self
                .extended
                .get((leaf & 0xff) as usize)
                .copied()
                .unwrap_or(CpuidResult::ZERO),
            _ => self
                .basic
                .get(leaf.min(MAX_BASIC) as usize)
                .copied()
                .unwrap_or(CpuidResult::ZERO),
        }
    }

    /// The answer to a basic leaf that depends on nothing but `leaf`, where it is one.
    #[inline(always)]
    #[must_use]
    pub fn fixed(&self, leaf: u32) -> Option<&CpuidResult> {
        match leaf {
            1 | 4 | 7 | 0xb | 0xd => None,
            _ => self.basic.get(leaf as usize),
        }
    }

    fn lookup_varying(&self, leaf: u32, subleaf: u32, dynamic: &CpuidDynamic) -> CpuidResult {
        let plain = self
            .basic
            .get(leaf as usize)
            .copied()
            .unwrap_or(CpuidResult::ZERO);
        match (leaf, subleaf) {
            (1, _) => {
                let mut ecx = Leaf1Ecx::from_bits_retain(plain.ecx);
                ecx.set(Leaf1Ecx::OSXSAVE, dynamic.cr4 & CR4_OSXSAVE != 0);
                CpuidResult {
                    ecx: ecx.bits(),
                    ..plain
                }
            }
            (4, _) => self
                .caches
                .get(subleaf as usize)
                .copied()
                .unwrap_or(CpuidResult::ZERO),
            (7, 0) => plain,
            (7, 1) => self.features1,
            (0xb, _) => self.topology(subleaf),
            (0xd, 1) => {
                let compacts = self.xsave.contains(XsaveEax::XSAVEC);
                let ebx = if compacts {
                    self.xstate.compacted_size(dynamic.xcr0)
                } else {
                    0
                };
                CpuidResult {
                    eax: self.xsave.bits(),
                    ebx,
                    ..CpuidResult::ZERO
                }
            }
            (0xd, _) => self.xstate.subleaf(subleaf, dynamic.xcr0),
            _ => CpuidResult::ZERO,
        }
    }

    /// The XCR0 bits a guest may set; also the state that is switched for it.
    #[must_use]
    pub const fn allowed_xcr0(&self) -> Xcr0 {
        self.xstate.allowed()
    }

    /// Checks a value for XSETBV with ECX=0.
    ///
    /// # Errors
    /// #GP for components that are not offered and for combinations that the architecture forbids.
    pub fn validate_xcr0(&self, value: u64) -> Result<Xcr0, GuestFault> {
        self.xstate.validate(value)
    }

    /// The CR4 bits a guest may set: those of the features it sees.
    #[must_use]
    pub fn allowed_cr4(&self) -> u64 {
        let leaf1 = self.basic.get(1).copied().unwrap_or(CpuidResult::ZERO);
        let leaf7 = self.basic.get(7).copied().unwrap_or(CpuidResult::ZERO);
        let (ecx1, edx1) = (
            Leaf1Ecx::from_bits_retain(leaf1.ecx),
            Leaf1Edx::from_bits_retain(leaf1.edx),
        );
        let (ebx7, ecx7) = (
            Leaf7Ebx::from_bits_retain(leaf7.ebx),
            Leaf7Ecx::from_bits_retain(leaf7.ecx),
        );
        [
            (true, CR4_ALWAYS),
            (edx1.contains(Leaf1Edx::VME), CR4_VME | CR4_PVI),
            (ecx1.contains(Leaf1Ecx::PCID), CR4_PCIDE),
            (ecx1.contains(Leaf1Ecx::XSAVE), CR4_OSXSAVE),
            (ebx7.contains(Leaf7Ebx::FSGSBASE), CR4_FSGSBASE),
            (ebx7.contains(Leaf7Ebx::SMEP), CR4_SMEP),
            (ebx7.contains(Leaf7Ebx::SMAP), CR4_SMAP),
            (ecx7.contains(Leaf7Ecx::UMIP), CR4_UMIP),
        ]
        .into_iter()
        .filter(|(shown, _)| *shown)
        .fold(0, |mask, (_, bits)| mask | bits)
    }

    /// Leaf 0xB: one thread a core, all cores in one package.
    fn topology(&self, subleaf: u32) -> CpuidResult {
        const SMT: u32 = 1;
        const CORE: u32 = 2;
        let (shift, count, kind) = match subleaf {
            0 => (0, 1, SMT),
            1 => (
                self.vcpus
                    .checked_next_power_of_two()
                    .unwrap_or(1 << 31)
                    .ilog2(),
                self.vcpus & 0xffff,
                CORE,
            ),
            _ => (0, 0, 0),
        };
        CpuidResult {
            eax: shift,
            ebx: count,
            ecx: kind << 8 | subleaf & 0xff,
            edx: self.apic_id,
        }
    }
}

const fn hypervisor_leaf(leaf: u32) -> CpuidResult {
    match leaf {
        HYPERVISOR_BASE => CpuidResult::signature(HYPERVISOR_BASE + 1, b"BulkheadHv\0\0"),
        0x4000_0001 => CpuidResult {
            eax: hypercall::ABI_VERSION,
            ebx: hypercall::FEATURES.bits() as u32,
            ecx: 0,
            edx: 0,
        },
        KVM_BASE => CpuidResult::signature(KVM_BASE + 1, b"KVMKVMKVM\0\0\0"),
        _ => CpuidResult::ZERO,
    }
}

const CR4_VME: u64 = 1 << 0;
const CR4_PVI: u64 = 1 << 1;
/// TSD, DE, PSE, PAE, PGE, PCE, OSFXSR, OSXMMEXCPT: every 64-bit CPU has them.
const CR4_ALWAYS: u64 = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
