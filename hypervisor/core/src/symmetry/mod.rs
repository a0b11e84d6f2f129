//! One set of features for a machine whose CPUs differ, as hybrid parts do.
//!
//! Each CPU fills in a [`CpuReport`]; [`Common::of`] keeps what all of them have, so that a VM sees one machine wherever
//! its vCPUs run. What was left out is data ([`Dropped`]), to be logged; what cannot be reconciled is an [`Asymmetry`].
//! `words` lists the CPUID registers that say features, `controls` brings VT-x capabilities together.

mod controls;
mod words;

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::addr::Hpa;
use crate::cpuid::CpuidResult;
use crate::ept::EptFeatures;
use crate::flags;
use crate::vmx::capability::CapabilityMsrs;

pub use controls::{ControlBits, VmxDifference};
pub use words::{FeatureBits, FeatureWords};

/// What one CPU says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuReport {
    /// CPUID's features.
    pub features: FeatureWords,
    /// VT-x; `None` where CPUID does not announce it, since its MSRs are not there then.
    pub vmx: Option<VmxReport>,
}

/// What one CPU says of its VT-x.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmxReport {
    /// The IA32_VMX_* MSRs.
    pub msrs: CapabilityMsrs,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept: u64,
}

/// What every CPU of the machine has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Common {
    /// VT-x capabilities to negotiate with.
    pub vmx: VmxReport,
    /// CPUID as guests may know it.
    pub features: FeatureWords,
    /// What some have and others lack.
    pub dropped: Vec<Dropped>,
}

/// Why the CPUs cannot run VMs together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asymmetry {
    /// There is no report at all.
    NoCpus,
    /// A CPU without VT-x.
    NoVmx {
        /// Its number.
        cpu: u32,
    },
    /// A CPU whose VT-x differs from the first CPU's beyond features.
    Vmx {
        /// Its number.
        cpu: u32,
        /// How it differs.
        difference: VmxDifference,
    },
    /// A CPU that cannot address all memory.
    AddressWidth {
        /// Its number.
        cpu: u32,
        /// Bits of its physical addresses.
        bits: u32,
        /// The end of memory.
        memory_end: Hpa,
    },
}

impl fmt::Display for Asymmetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCpus => f.write_str("no CPU reported what it can do"),
            Self::NoVmx { cpu } => write!(
                f,
                "CPU {cpu} lacks VT-x, which the first CPU has: switch that CPU off in the firmware set-up"
            ),
            Self::Vmx { cpu, difference } => write!(
                f,
                "CPU {cpu} differs from CPU 0: {difference}; one VMCS cannot serve both. \
                 Switch one kind of core off in the firmware set-up"
            ),
            Self::AddressWidth {
                cpu,
                bits,
                memory_end,
            } => write!(
                f,
                "CPU {cpu} has physical addresses of {bits} bits, and memory ends at {memory_end}: \
                 it could not reach all of it"
            ),
        }
    }
}

impl core::error::Error for Asymmetry {}

/// A feature that no guest gets, because some CPUs lack it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The feature.
    pub what: Feature,
    /// The CPUs that lack it, ascending.
    pub cpus: Vec<u32>,
}

/// A set of features, by where they are announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// In CPUID.
    Cpuid(FeatureBits),
    /// In a VMX control word.
    Control(ControlBits),
    /// In IA32_VMX_EPT_VPID_CAP.
    Ept(EptFeatures),
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpuid(bits) => bits.fmt(f),
            Self::Control(bits) => bits.fmt(f),
            Self::Ept(features) => {
                flags::write(features, f)?;
                f.write_str(" (EPT)")
            }
        }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (noun, verb) = match self.cpus.as_slice() {
            [_] => ("CPU", "lacks"),
            _ => ("CPUs", "lack"),
        };
        f.write_str(noun)?;
        for (at, cpu) in self.cpus.iter().enumerate() {
            write!(f, "{}{cpu}", if at == 0 { " " } else { ", " })?;
        }
        write!(f, " {verb} {}; no guest gets it", self.what)
    }
}

impl CpuReport {
    /// Reads CPUID on the CPU it is executed on; `vmx` are its MSRs, read where CPUID announces VT-x.
    pub fn read(host: &mut dyn FnMut(u32, u32) -> CpuidResult, vmx: Option<VmxReport>) -> Self {
        Self {
            features: FeatureWords::read(host),
            vmx,
        }
    }
}

impl Common {
    /// What all of `reports` have, which come with the CPUs' numbers in ascending order. `memory_end` is the first address after all
    /// memory.
    ///
    /// # Errors
    /// The first [`Asymmetry`], in the order of CPUs.
    pub fn of(reports: &[(u32, CpuReport)], memory_end: Hpa) -> Result<Self, Asymmetry> {
        let (cpu, first) = reports.first().ok_or(Asymmetry::NoCpus)?;
        let mut vmx = first.vmx.ok_or(Asymmetry::NoVmx { cpu: *cpu })?;
        let mut features = first.features.clone();
        for (cpu, report) in reports {
            let cpu = *cpu;
            let theirs = report.vmx.ok_or(Asymmetry::NoVmx { cpu })?;
            let difference = |difference| Asymmetry::Vmx { cpu, difference };
            vmx = VmxReport {
                msrs: vmx.msrs.common(&theirs.msrs).map_err(difference)?,
                ept: vmx.ept & theirs.ept,
            };
            features.restrict(&report.features);
            let bits = report.features.physical_bits();
            if bits < u64::BITS && memory_end.as_u64() > 1 << bits {
                return Err(Asymmetry::AddressWidth {
                    cpu,
                    bits,
                    memory_end,
                });
            }
        }
        Ok(Self {
            vmx,
            features,
            dropped: dropped(reports),
        })
    }
}

/// What each CPU lacks of what any has, CPUs that lack the same together.
fn dropped(reports: &[(u32, CpuReport)]) -> Vec<Dropped> {
    let mut all: Vec<Dropped> = Vec::new();
    for (cpu, report) in reports {
        let mut lacks = Vec::new();
        for (_, other) in reports {
            lacks.extend(other.features.beyond(&report.features).map(Feature::Cpuid));
            let (Some(theirs), Some(own)) = (other.vmx, report.vmx) else {
                continue;
            };
            lacks.extend(controls::beyond(&theirs.msrs, &own.msrs).map(Feature::Control));
            let ept = EptFeatures::from_bits_truncate(theirs.ept & !own.ept);
            lacks.extend((!ept.is_empty()).then_some(Feature::Ept(ept)));
        }
        for what in lacks {
            match all.iter_mut().find(|known| known.what == what) {
                Some(known) if known.cpus.last() == Some(cpu) => {}
                Some(known) => known.cpus.push(*cpu),
                None => all.push(Dropped {
                    what,
                    cpus: vec![*cpu],
                }),
            }
        }
    }
    all
}
