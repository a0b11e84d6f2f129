//! From the firmware's list of CPUs to those that run VMs, with what all of them have.
//!
//! A CPU that does not start or lacks what VMs need is left out, with a warning; the others keep their numbers. CPUs that
//! cannot be used together are an error.

use super::facts::Facts;
use super::payload::Loaded;
use crate::events;
use crate::memory::window::CpuWindow;
use crate::memory::{Memory, reserve};
use crate::pcpu::start::{self, Arrival, Seed};
use crate::pcpu::{self, Pcpu};
use crate::vm::VmError;
use alloc::vec::Vec;
use bulkhead_core::addr::{FrameCount, Hpa};
use bulkhead_core::events::Event;
use bulkhead_core::hostpt::Window;
use bulkhead_core::manifest::SmtPolicy;
use bulkhead_core::placement::{Demand, Placement, PlacementError};
use bulkhead_core::secmem::tmemk::{Registers, Unusable};
use bulkhead_core::symmetry::{Asymmetry, Common, CpuReport, VmxReport};
use bulkhead_core::topology::IdLayout;
use bulkhead_core::vmx::capability::Wishes;

/// The CPUs that came up.
pub struct Gathered {
    /// What all of them have.
    pub common: Common,
    /// Bytes of an XSAVE area that is large enough for each.
    pub xsave_bytes: usize,
    /// How their identifiers are made up.
    pub layout: IdLayout,
    /// The memory encryption of all of them.
    pub tmemk: Result<Registers, Unusable>,
    /// The further ones.
    waiting: Vec<&'static Pcpu>,
}

/// Makes the machine's CPUs known, and takes what each needs; the seeds are in their order.
///
/// # Errors
/// The pool is empty.
pub fn install(
    facts: &Facts,
    memory: &mut Memory,
    windows: Vec<Window>,
    tops: &[reserve::Stacks],
    wishes: Wishes,
    smt: SmtPolicy,
) -> Result<Vec<Seed>, VmError> {
    let mut cpus = Vec::with_capacity(facts.cpus.len());
    let mut seeds = Vec::with_capacity(facts.cpus.len());
    let each = facts.cpus.iter().zip(windows).zip(tops);
    for (index, ((apic_id, window), tops)) in each.enumerate() {
        let region = memory
            .pool
            .take_run(FrameCount(1))
            .ok_or(VmError::OutOfPool)?;
        seeds.push(Seed {
            stack: tops.main,
            exceptions: tops.exceptions,
            vmxon: region.first.start(),
            wishes,
            siblings_shared: smt == SmtPolicy::Share,
        });
        let window = CpuWindow::new(window, memory.pool.view());
        cpus.push(Pcpu::new(index, *apic_id, tops.exit, window));
    }
    pcpu::install(cpus);
    Ok(seeds)
}

/// Brings up the CPUs after the first, for which the seeds are and whose VT-x is `vmx`, up to where each said what it has.
/// `page` is where they begin, and `memory_end` the end of what they have to reach.
///
/// # Errors
/// CPUs that cannot run VMs together.
pub fn gather(
    seeds: Vec<Seed>,
    vmx: VmxReport,
    facts: &Facts,
    page: Option<Hpa>,
    memory_end: Hpa,
) -> Result<Gathered, Asymmetry> {
    let own = Arrival::of_this_cpu(vmx);
    let mut layout = own.layout;
    let mut xsave_bytes = own.xsave_bytes;
    let mut tmemk = Ok(own.tmemk);
    let mut reports: Vec<(u32, CpuReport)> = Vec::from([(0, own.report)]);
    let mut waiting = Vec::new();
    if page.is_none() && !seeds.is_empty() {
        log::warn!(
            "no page below 1 MiB is left for the code that further CPUs start in: only CPU 0 is used"
        );
    }
    let further = pcpu::all().iter().skip(1).zip(seeds);
    for ((cpu, seed), page) in further.zip(core::iter::repeat(page)) {
        let Some(page) = page else {
            break;
        };
        let (arrival, skew) = match start::arrive(cpu, seed, page, facts.tsc_khz) {
            Ok(arrived) => arrived,
            Err(error) => {
                log::warn!("{error}; the machine goes on without it");
                continue;
            }
        };
        if skew.is_certain() {
            log::warn!(
                "the time-stamp counter of CPU {} is {skew}, compared with the first CPU's: a VM with vCPUs on both may see \
                 time go backwards",
                cpu.index
            );
        } else {
            log::debug!("the time-stamp counter of CPU {} is {skew}", cpu.index);
        }
        if arrival.microcode != own.microcode {
            log::warn!(
                "CPU {} runs microcode {:#x}, and the first CPU {:#x}",
                cpu.index,
                arrival.microcode,
                own.microcode
            );
        }
        layout = layout.coarser(arrival.layout);
        xsave_bytes = xsave_bytes.max(arrival.xsave_bytes);
        if arrival.tmemk != own.tmemk {
            tmemk = Err(Unusable::Differs {
                cpu: cpu.index as u32,
            });
        }
        reports.push((cpu.index as u32, arrival.report));
        waiting.push(cpu);
    }
    let common = Common::of(&reports, memory_end)?;
    for dropped in &common.dropped {
        log::warn!("{dropped}");
    }
    Ok(Gathered {
        common,
        xsave_bytes,
        layout,
        tmemk,
        waiting,
    })
}

/// Lets all that came up run VMs, after the machine is known.
pub fn admit(gathered: &Gathered) {
    for &cpu in &gathered.waiting {
        if let Err(error) = start::admit(cpu) {
            log::warn!("{error}; the machine goes on without it");
        }
    }
    let online = || pcpu::all().iter().filter(|cpu| cpu.is_online());
    for cpu in online() {
        events::send(&Event::CpuOnline {
            cpu: cpu.index as u32,
            apic_id: cpu.apic_id,
        });
    }
    log::info!(
        "CPUs that run: {} of {}",
        online().count(),
        pcpu::all().len()
    );
    let mut told = None;
    for cpu in online() {
        let plan = cpu.barrier.plan();
        // Most machines have one kind of CPU, and one plan.
        if let Some(plan) = plan.filter(|plan| told != Some(*plan)) {
            let level = if plan.gaps().is_empty() {
                log::Level::Info
            } else {
                log::Level::Warn
            };
            log::log!(level, "from CPU {} on, {plan}", cpu.index);
        }
        told = plan.or(told);
    }
}

/// Where the vCPUs run.
///
/// # Errors
/// What a VM asks for and the machine cannot give.
pub fn place(loaded: &Loaded, layout: IdLayout) -> Result<Placement, PlacementError> {
    let locations: Vec<_> = pcpu::all()
        .iter()
        .map(|cpu| cpu.is_online().then(|| layout.locate(cpu.apic_id)))
        .collect();
    let demands: Vec<_> = loaded
        .plan
        .vms
        .iter()
        .map(|vm| Demand {
            name: vm.name.as_str(),
            vcpus: vm.vcpus,
            cpus: vm.cpus.as_deref(),
            weight: vm.weight,
        })
        .collect();
    Placement::decide(&demands, &locations, loaded.plan.hypervisor.smt)
}
