//! What a CPU does when it goes from one VM to another, so that the second finds nothing of the first in its buffers,
//! caches and predictors. Which of these a CPU needs is decided by `bulkhead_core::mitigation`.
#![allow(unsafe_code, reason = "writes the registers that make the CPU forget")]

use crate::arch::cpu::{self, cpuid, rdmsr, wrmsr};
use bulkhead_core::mitigation::{
    self, IA32_ARCH_CAPABILITIES, IA32_SPEC_CTRL, SwitchCounters, SwitchPlan,
};
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Once;

/// One CPU's plan, and how often it was carried out.
pub struct Barrier {
    plan: Once<SwitchPlan>,
    crossed: AtomicU64,
}

impl Barrier {
    /// Without a plan yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            plan: Once::new(),
            crossed: AtomicU64::new(0),
        }
    }

    /// Decides for the CPU that runs this, and sets what stays on. `siblings_shared`: another VM may run on its sibling
    /// thread.
    pub fn prepare(&self, siblings_shared: bool) {
        let leaf7 = if cpuid(0, 0).eax >= 7 {
            cpu::cpuid_for_core(7, 0)
        } else {
            Default::default()
        };
        let capabilities = if mitigation::has_arch_capabilities(&leaf7) {
            // SAFETY: CPUID shows the register.
            unsafe { rdmsr(IA32_ARCH_CAPABILITIES) }
        } else {
            0
        };
        let plan = SwitchPlan::decide(&leaf7, capabilities, siblings_shared);
        if !plan.spec_ctrl().is_empty() {
            // SAFETY: the plan names only bits that CPUID shows. They change what is predicted, not what is computed.
            unsafe { wrmsr(IA32_SPEC_CTRL, plan.spec_ctrl().bits()) };
        }
        self.plan.call_once(|| plan);
    }

    /// The plan, once there is one.
    #[must_use]
    pub fn plan(&self) -> Option<&SwitchPlan> {
        self.plan.get()
    }

    /// Carries it out, on the CPU that it was made for. The registers of the VM before are in memory by now.
    pub fn cross(&self) {
        self.crossed.fetch_add(1, Ordering::Relaxed);
        let Some(plan) = self.plan.get() else {
            unreachable!("a CPU without a plan runs VMs");
        };
        for (msr, value) in plan.msr_writes() {
            // SAFETY: the plan names only commands that CPUID shows. They empty caches and predictors.
            unsafe { wrmsr(msr, value) };
        }
        if plan.verw() {
            cpu::clear_buffers();
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn counters(&self) -> SwitchCounters {
        let crossed = self.crossed.load(Ordering::Relaxed);
        self.plan
            .get()
            .map(|plan| SwitchCounters::after(plan, crossed))
            .unwrap_or_default()
    }
}
