//! Building a vCPU's table: the policy applied leaf by leaf to the host's answers.

use super::features::{
    Extended1Ecx, Extended1Edx, Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Leaf7Edx, Leaf7Sub1Eax,
    XsaveEax,
};
use super::xstate::XState;
use super::{
    CACHES, CpuidConfig, CpuidResult, CpuidTable, Crystal, HYPERVISOR_BASE, MAX_BASIC,
    MAX_EXTENDED, VmxInstructions,
};

impl CpuidTable {
    /// Runs the policy over the host's CPUID, which `host` executes for a leaf and subleaf.
    #[inline(never)]
    #[must_use]
    pub fn build(host: &mut dyn FnMut(u32, u32) -> CpuidResult, config: &CpuidConfig) -> Self {
        let host_max = host(0, 0).eax;
        let mut host = |leaf: u32, subleaf: u32| {
            let absent = leaf <= HYPERVISOR_BASE && leaf > host_max;
            if absent {
                CpuidResult::ZERO
            } else {
                host(leaf, subleaf)
            }
        };
        let mut table = Self {
            basic: [CpuidResult::ZERO; MAX_BASIC as usize + 1],
            extended: [CpuidResult::ZERO; (MAX_EXTENDED & 0xff) as usize + 1],
            caches: [CpuidResult::ZERO; CACHES],
            features1: CpuidResult::ZERO,
            xsave: XsaveEax::from_bits_truncate(host(0xd, 1).eax),
            xstate: XState::build(&mut host),
            apic_id: config.apic_id,
            vcpus: config.vcpus.max(1),
        };
        table.fill_identity(&mut host);
        table.fill_features(&mut host, config);
        table.fill_caches(&mut host);
        table.fill_frequencies(config.tsc_khz);
        table.fill_extended(&mut host, config);
        table
    }

    fn set_basic(&mut self, leaf: usize, result: CpuidResult) {
        if let Some(slot) = self.basic.get_mut(leaf) {
            *slot = result;
        }
    }

    fn fill_identity(&mut self, host: &mut dyn FnMut(u32, u32) -> CpuidResult) {
        self.set_basic(
            0,
            CpuidResult {
                eax: MAX_BASIC,
                ..host(0, 0)
            },
        );
        self.set_basic(2, host(2, 0));
        // Leaf 6: only "the APIC timer runs in every power state", which an emulated timer does.
        self.set_basic(
            6,
            CpuidResult {
                eax: 1 << 2,
                ..CpuidResult::ZERO
            },
        );
    }

    fn fill_features(
        &mut self,
        host: &mut dyn FnMut(u32, u32) -> CpuidResult,
        config: &CpuidConfig,
    ) {
        let leaf = host(1, 0);
        let mut ecx = Leaf1Ecx::from_bits_truncate(leaf.ecx) - Leaf1Ecx::OSXSAVE;
        ecx |= Leaf1Ecx::HYPERVISOR | Leaf1Ecx::X2APIC | Leaf1Ecx::TSC_DEADLINE;
        let mut edx = Leaf1Edx::from_bits_truncate(leaf.edx) | Leaf1Edx::APIC | Leaf1Edx::MTRR;
        edx.set(Leaf1Edx::HTT, self.vcpus > 1);
        let logical = self
            .vcpus
            .checked_next_power_of_two()
            .unwrap_or(u32::MAX)
            .min(0x80);
        let ebx = self.apic_id << 24 | logical << 16 | leaf.ebx & 0xff00;
        self.set_basic(
            1,
            CpuidResult {
                eax: leaf.eax,
                ebx,
                ecx: ecx.bits(),
                edx: edx.bits(),
            },
        );

        let leaf = host(7, 0);
        let mut ebx = Leaf7Ebx::from_bits_truncate(leaf.ebx) | Leaf7Ebx::TSC_ADJUST;
        let mut ecx = Leaf7Ecx::from_bits_truncate(leaf.ecx);
        if !config.instructions.contains(VmxInstructions::INVPCID) {
            ebx -= Leaf7Ebx::INVPCID;
        }
        if !config.instructions.contains(VmxInstructions::RDTSCP) {
            ecx -= Leaf7Ecx::RDPID;
        }
        let edx = Leaf7Edx::from_bits_truncate(leaf.edx);
        let max_subleaf = leaf.eax.min(1);
        self.set_basic(
            7,
            CpuidResult {
                eax: max_subleaf,
                ebx: ebx.bits(),
                ecx: ecx.bits(),
                edx: edx.bits(),
            },
        );
        if max_subleaf == 1 {
            let eax = Leaf7Sub1Eax::from_bits_truncate(host(7, 1).eax).bits();
            self.features1 = CpuidResult {
                eax,
                ..CpuidResult::ZERO
            };
        }
    }

    /// Leaf 4, with the sharing that the vCPU topology has: private L1 and L2, one L3 for all.
    fn fill_caches(&mut self, host: &mut dyn FnMut(u32, u32) -> CpuidResult) {
        const TYPE: u32 = 0x1f;
        const LEVEL: u32 = 0xe0;
        let others = self.vcpus.checked_next_power_of_two().unwrap_or(u32::MAX) - 1;
        for (subleaf, slot) in self.caches.iter_mut().enumerate() {
            let leaf = host(4, subleaf as u32);
            if leaf.eax & TYPE == 0 {
                break;
            }
            let sharing = if (leaf.eax & LEVEL) >> 5 >= 3 {
                others.min(0xfff)
            } else {
                0
            };
            let eax = leaf.eax & 0x3fff | sharing << 14 | others.min(0x3f) << 26;
            *slot = CpuidResult { eax, ..leaf };
        }
    }

    fn fill_frequencies(&mut self, tsc_khz: u32) {
        let crystal = Crystal::for_tsc(tsc_khz);
        self.set_basic(
            0x15,
            CpuidResult {
                eax: 1,
                ebx: 1 << crystal.shift,
                ecx: crystal.hz,
                edx: 0,
            },
        );
        let mhz = (tsc_khz / 1000).min(0xffff);
        self.set_basic(
            0x16,
            CpuidResult {
                eax: mhz,
                ebx: mhz,
                ecx: 100,
                edx: 0,
            },
        );
    }

    fn fill_extended(
        &mut self,
        host: &mut dyn FnMut(u32, u32) -> CpuidResult,
        config: &CpuidConfig,
    ) {
        let host_max = host(0x8000_0000, 0).eax;
        let mut copy = |leaf: u32| {
            if leaf <= host_max {
                host(leaf, 0)
            } else {
                CpuidResult::ZERO
            }
        };
        let features = copy(0x8000_0001);
        let mut edx = Extended1Edx::from_bits_truncate(features.edx);
        if !config.instructions.contains(VmxInstructions::RDTSCP) {
            edx -= Extended1Edx::RDTSCP;
        }
        let widths = copy(0x8000_0008).eax;
        let (physical, linear) = ((widths & 0xff).max(36), (widths >> 8 & 0xff).clamp(32, 48));
        self.extended = [
            CpuidResult {
                eax: MAX_EXTENDED,
                ..CpuidResult::ZERO
            },
            CpuidResult {
                ecx: Extended1Ecx::from_bits_truncate(features.ecx).bits(),
                edx: edx.bits(),
                ..CpuidResult::ZERO
            },
            copy(0x8000_0002),
            copy(0x8000_0003),
            copy(0x8000_0004),
            CpuidResult::ZERO,
            CpuidResult {
                ecx: copy(0x8000_0006).ecx,
                ..CpuidResult::ZERO
            },
            // Invariant TSC: the host refuses to start on a TSC that is not.
            CpuidResult {
                edx: 1 << 8,
                ..CpuidResult::ZERO
            },
            CpuidResult {
                eax: linear << 8 | physical,
                ..CpuidResult::ZERO
            },
        ];
    }
}
