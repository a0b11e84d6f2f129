//! What a CPU must forget when it goes from one VM to another, by what it says it can forget and need not:
//! [`SwitchPlan::decide`].
//!
//! Written to Intel's guidance, by title: "Speculative Execution Side Channel Mitigations" (IBPB, STIBP, IBRS), "L1 Terminal Fault",
//! "Microarchitectural Data Sampling", "Intel TSX Asynchronous Abort", "Processor MMIO Stale Data Vulnerabilities", "Register File Data
//! Sampling"; the bits are in Intel SDM vol. 4, "IA-32 Architectural MSRs", and vol. 2A, "CPUID—CPU Identification".
//! A CPU that does not say that it is free of something is taken to have it. Never run on hardware: emulators have no
//! buffers to leak from.
//!
//! The plan is for switches between VMs. Entries into the VM that ran last on this CPU do nothing: what they could reach is
//! the hypervisor's own data and, with `smt = "isolate"`, nobody else's.

use core::fmt;

use bitflags::bitflags;

use crate::cpuid::CpuidResult;
use crate::flags;

/// IA32_SPEC_CTRL.
pub const IA32_SPEC_CTRL: u32 = 0x48;
/// IA32_PRED_CMD.
pub const IA32_PRED_CMD: u32 = 0x49;
/// IA32_ARCH_CAPABILITIES.
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// IA32_FLUSH_CMD.
pub const IA32_FLUSH_CMD: u32 = 0x10b;

const PRED_CMD_IBPB: u64 = 1 << 0;
const FLUSH_CMD_L1D: u64 = 1 << 0;

bitflags! {
    /// IA32_SPEC_CTRL.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct SpecCtrl: u64 {
        /// Indirect branches of less privileged code do not steer more privileged code's.
        const IBRS = 1 << 0;
        /// Indirect branches of one thread do not steer its sibling's.
        const STIBP = 1 << 1;
    }

    /// CPUID leaf 7, EDX: what can be done.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Means: u32 {
        const MD_CLEAR = 1 << 10;
        const IBRS_IBPB = 1 << 26;
        const STIBP = 1 << 27;
        const L1D_FLUSH = 1 << 28;
        const ARCH_CAPABILITIES = 1 << 29;
    }

    /// IA32_ARCH_CAPABILITIES: what need not be done.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ArchCapabilities: u64 {
        const RDCL_NO = 1 << 0;
        const IBRS_ALL = 1 << 1;
        const SKIP_L1DFL_VMENTRY = 1 << 3;
        const MDS_NO = 1 << 5;
        const TAA_NO = 1 << 8;
        const SBDR_SSDP_NO = 1 << 13;
        const FBSDP_NO = 1 << 14;
        const PSDP_NO = 1 << 15;
        const FB_CLEAR = 1 << 17;
        const RFDS_NO = 1 << 27;
        const RFDS_CLEAR = 1 << 28;
    }

    /// What is done at a switch.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Actions: u8 {
        const IBPB = 1 << 0;
        const L1D_FLUSH = 1 << 1;
        const VERW = 1 << 2;
    }

    /// What a CPU leaks between VMs and has no means against; newer microcode may bring them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Gaps: u8 {
        /// Branch predictions: no IBPB.
        const BRANCH_PREDICTION = 1 << 0;
        /// The first-level data cache (L1TF): no flush command.
        const L1_DATA = 1 << 1;
        /// Store, fill and load buffers (MDS, TAA): VERW does not clear them.
        const BUFFERS = 1 << 2;
        /// Branch predictions of the sibling thread: no STIBP.
        const SIBLING_PREDICTION = 1 << 3;
    }
}

/// RTM (CPUID leaf 7, EBX): without transactions nothing aborts.
const LEAF7_EBX_RTM: u32 = 1 << 11;

/// Whether the CPU has IA32_ARCH_CAPABILITIES, by its CPUID leaf 7.
#[must_use]
pub const fn has_arch_capabilities(leaf7: &CpuidResult) -> bool {
    leaf7.edx & Means::ARCH_CAPABILITIES.bits() != 0
}

/// What one CPU does at each switch between VMs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwitchPlan {
    actions: Actions,
    spec_ctrl: SpecCtrl,
    gaps: Gaps,
}

impl SwitchPlan {
    /// Decides for a CPU by its CPUID leaf 7 and its IA32_ARCH_CAPABILITIES, 0 where it has none. `siblings_shared`: another VM may
    /// run on the sibling thread.
    #[must_use]
    pub fn decide(leaf7: &CpuidResult, arch_capabilities: u64, siblings_shared: bool) -> Self {
        let means = Means::from_bits_truncate(leaf7.edx);
        let free_of = ArchCapabilities::from_bits_truncate(arch_capabilities);
        let mut plan = Self {
            actions: Actions::empty(),
            spec_ctrl: SpecCtrl::empty(),
            gaps: Gaps::empty(),
        };
        plan.need(
            true,
            means.contains(Means::IBRS_IBPB),
            Actions::IBPB,
            Gaps::BRANCH_PREDICTION,
        );

        let l1tf = !free_of
            .intersects(ArchCapabilities::RDCL_NO.union(ArchCapabilities::SKIP_L1DFL_VMENTRY));
        plan.need(
            l1tf,
            means.contains(Means::L1D_FLUSH),
            Actions::L1D_FLUSH,
            Gaps::L1_DATA,
        );

        let clears = means.contains(Means::MD_CLEAR)
            || free_of.intersects(ArchCapabilities::FB_CLEAR.union(ArchCapabilities::RFDS_CLEAR));
        let rtm = leaf7.ebx & LEAF7_EBX_RTM != 0;
        let sampled = !free_of.contains(ArchCapabilities::MDS_NO)
            || rtm && !free_of.contains(ArchCapabilities::TAA_NO);
        plan.need(sampled, clears, Actions::VERW, Gaps::BUFFERS);
        // Many CPUs are free of these without saying so, hence no gap; VERW costs those little.
        let no_stale_data = ArchCapabilities::SBDR_SSDP_NO
            .union(ArchCapabilities::FBSDP_NO)
            .union(ArchCapabilities::PSDP_NO)
            .union(ArchCapabilities::RFDS_NO);
        if clears && !free_of.contains(no_stale_data) {
            plan.actions |= Actions::VERW;
        }

        // Enhanced IBRS is meant to stay on, and protects siblings too.
        if means.contains(Means::IBRS_IBPB) && free_of.contains(ArchCapabilities::IBRS_ALL) {
            plan.spec_ctrl |= SpecCtrl::IBRS;
        }
        if siblings_shared && means.contains(Means::STIBP) {
            plan.spec_ctrl |= SpecCtrl::STIBP;
        }
        if siblings_shared && plan.spec_ctrl.is_empty() {
            plan.gaps |= Gaps::SIBLING_PREDICTION;
        }
        plan
    }

    fn need(&mut self, wanted: bool, there: bool, action: Actions, gap: Gaps) {
        self.actions
            .set(action, self.actions.contains(action) || wanted && there);
        self.gaps
            .set(gap, self.gaps.contains(gap) || wanted && !there);
    }

    /// The MSR writes of a switch, in order, before [`Self::verw`].
    pub fn msr_writes(&self) -> impl Iterator<Item = (u32, u64)> {
        let writes = [
            (Actions::IBPB, (IA32_PRED_CMD, PRED_CMD_IBPB)),
            (Actions::L1D_FLUSH, (IA32_FLUSH_CMD, FLUSH_CMD_L1D)),
        ];
        let actions = self.actions;
        writes
            .into_iter()
            .filter_map(move |(action, write)| actions.contains(action).then_some(write))
    }

    /// Whether a switch ends with VERW of a writable data segment, after the last access to what the VM before left.
    #[must_use]
    pub const fn verw(&self) -> bool {
        self.actions.contains(Actions::VERW)
    }

    /// What IA32_SPEC_CTRL holds from the start on, and while guests run; nothing is written where it is empty.
    #[must_use]
    pub const fn spec_ctrl(&self) -> SpecCtrl {
        self.spec_ctrl
    }

    /// What is left open.
    #[must_use]
    pub const fn gaps(&self) -> Gaps {
        self.gaps
    }
}

impl fmt::Display for SwitchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("between VMs: ")?;
        if self.actions.is_empty() {
            f.write_str("nothing")?;
        }
        flags::write(&self.actions, f)?;
        if !self.spec_ctrl.is_empty() {
            f.write_str("; always: ")?;
            flags::write(&self.spec_ctrl, f)?;
        }
        if !self.gaps.is_empty() {
            f.write_str("; no means against leaks of ")?;
            flags::write(&self.gaps, f)?;
            f.write_str(" (look for newer microcode)")?;
        }
        Ok(())
    }
}

/// How often a CPU switched between VMs, and what it did then.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SwitchCounters {
    /// Switches between VMs.
    pub vm_switches: u64,
    /// Branch predictor barriers.
    pub ibpb: u64,
    /// Flushes of the first-level data cache.
    pub l1d_flush: u64,
    /// Buffers cleared by VERW.
    pub verw: u64,
}

impl SwitchCounters {
    /// What a CPU did that went from one VM to another `vm_switches` times, and carried out all of `plan` each time.
    #[must_use]
    pub fn after(plan: &SwitchPlan, vm_switches: u64) -> Self {
        let each = |action| {
            if plan.actions.contains(action) {
                vm_switches
            } else {
                0
            }
        };
        Self {
            vm_switches,
            ibpb: each(Actions::IBPB),
            l1d_flush: each(Actions::L1D_FLUSH),
            verw: each(Actions::VERW),
        }
    }

    /// What two CPUs did.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            vm_switches: self.vm_switches.wrapping_add(other.vm_switches),
            ibpb: self.ibpb.wrapping_add(other.ibpb),
            l1d_flush: self.l1d_flush.wrapping_add(other.l1d_flush),
            verw: self.verw.wrapping_add(other.verw),
        }
    }

    /// Each counter with its name.
    #[must_use]
    pub const fn entries(&self) -> [(&'static str, u64); 4] {
        [
            ("vm_switches", self.vm_switches),
            ("ibpb", self.ibpb),
            ("l1d_flush", self.l1d_flush),
            ("verw", self.verw),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(means: Means, free_of: ArchCapabilities, shared: bool) -> SwitchPlan {
        SwitchPlan::decide(&leaf7(means, false), free_of.bits(), shared)
    }

    fn leaf7(means: Means, rtm: bool) -> CpuidResult {
        CpuidResult {
            ebx: if rtm { LEAF7_EBX_RTM } else { 0 },
            edx: means.bits(),
            ..CpuidResult::default()
        }
    }

    /// What a CPU says that is free of everything.
    fn clean() -> ArchCapabilities {
        ArchCapabilities::all().difference(
            ArchCapabilities::FB_CLEAR | ArchCapabilities::RFDS_CLEAR | ArchCapabilities::IBRS_ALL,
        )
    }

    #[test]
    fn a_cpu_that_says_nothing_gets_every_means_it_has() {
        let plan = plan(Means::all(), ArchCapabilities::empty(), false);
        assert_eq!(
            plan.msr_writes().collect::<Vec<_>>(),
            [(0x49, 1), (0x10b, 1)]
        );
        assert!(plan.verw());
        assert_eq!(plan.gaps(), Gaps::empty());
        assert_eq!(plan.spec_ctrl(), SpecCtrl::empty());
    }

    #[test]
    fn an_old_cpu_without_means_has_every_gap() {
        let plan = plan(Means::empty(), ArchCapabilities::empty(), true);
        assert_eq!(plan.msr_writes().count(), 0);
        assert!(!plan.verw());
        assert_eq!(plan.gaps(), Gaps::all());
        assert!(plan.to_string().contains("L1_DATA"));
    }

    #[test]
    fn a_clean_cpu_only_forgets_branches() {
        let plan = plan(Means::all(), clean(), false);
        assert_eq!(plan.msr_writes().collect::<Vec<_>>(), [(0x49, 1)]);
        assert!(!plan.verw());
        assert_eq!(plan.to_string(), "between VMs: IBPB");
    }

    #[test]
    fn either_statement_spares_the_l1_flush() {
        for bit in [
            ArchCapabilities::RDCL_NO,
            ArchCapabilities::SKIP_L1DFL_VMENTRY,
        ] {
            let flushes = |free_of| {
                plan(Means::all(), free_of, false)
                    .msr_writes()
                    .any(|(msr, _)| msr == IA32_FLUSH_CMD)
            };
            assert!(!flushes(bit));
            assert!(flushes(ArchCapabilities::all().difference(
                ArchCapabilities::RDCL_NO | ArchCapabilities::SKIP_L1DFL_VMENTRY
            )));
        }
    }

    #[test]
    fn each_leak_through_buffers_asks_for_verw() {
        for bit in [
            ArchCapabilities::MDS_NO,
            ArchCapabilities::SBDR_SSDP_NO,
            ArchCapabilities::FBSDP_NO,
            ArchCapabilities::PSDP_NO,
            ArchCapabilities::RFDS_NO,
        ] {
            let free_of = clean().difference(bit);
            assert!(plan(Means::all(), free_of, false).verw(), "{bit:?}");
        }
        let transactional = |free_of: ArchCapabilities| {
            SwitchPlan::decide(&leaf7(Means::all(), true), free_of.bits(), false).verw()
        };
        assert!(!transactional(clean()));
        assert!(transactional(clean().difference(ArchCapabilities::TAA_NO)));
        assert!(
            !plan(
                Means::all(),
                clean().difference(ArchCapabilities::TAA_NO),
                false
            )
            .verw()
        );
    }

    #[test]
    fn verw_is_no_use_where_nothing_says_that_it_clears() {
        let free_of = clean().difference(ArchCapabilities::MDS_NO);
        let without = plan(Means::all().difference(Means::MD_CLEAR), free_of, false);
        assert!(!without.verw());
        assert_eq!(without.gaps(), Gaps::BUFFERS);
        let free_of = free_of | ArchCapabilities::FB_CLEAR;
        let with = plan(Means::all().difference(Means::MD_CLEAR), free_of, false);
        assert!(with.verw());
    }

    #[test]
    fn siblings_are_kept_from_steering_each_other_only_where_they_are_shared() {
        let shared = plan(Means::all(), clean(), true);
        assert_eq!(shared.spec_ctrl(), SpecCtrl::STIBP);
        let enhanced = clean() | ArchCapabilities::IBRS_ALL;
        assert_eq!(
            plan(Means::all(), enhanced, false).spec_ctrl(),
            SpecCtrl::IBRS
        );
        let none = plan(Means::IBRS_IBPB, clean(), true);
        assert_eq!(none.gaps(), Gaps::SIBLING_PREDICTION);
    }

    #[test]
    fn counters_count_what_was_done() {
        let leaky = plan(Means::all(), ArchCapabilities::empty(), false);
        let clean = plan(Means::all(), clean(), false);
        let counters = SwitchCounters::after(&leaky, 1).and(SwitchCounters::after(&clean, 1));
        assert_eq!(
            counters.entries(),
            [
                ("vm_switches", 2),
                ("ibpb", 2),
                ("l1d_flush", 1),
                ("verw", 1)
            ]
        );
    }
}
