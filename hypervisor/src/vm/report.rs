//! Numbers of VMs and of the machine, gathered for the event stream and for the console's answers.
//!
//! What vCPUs did comes from [`VcpuPort`](super::shared::VcpuPort)s, where their CPUs leave it: ask for it first where it
//! has to be of now.

use super::Vm;
use crate::arch::cpu::rdtsc;
use crate::events;
use crate::memory::{self, heap};
use crate::pcpu::{self, Pcpu};
use alloc::vec::Vec;
use bulkhead_core::addr::FrameCount;
use bulkhead_core::events::{
    Counters as CounterEvent, CpuCounters, Event, MachineCounters, Ticks, VcpuCounters,
};
use bulkhead_core::ledger::{Books, OwnerClass, State};
use bulkhead_core::vcpu::counters::Counters;
use core::sync::atomic::Ordering;

/// Names with numbers.
type Tally = Vec<(&'static str, u64)>;

/// What a VM did since it started, or from its last start to its end.
pub struct VmNumbers<'a> {
    vm: &'a Vm,
    sum: Counters,
    exits: Tally,
    split: Tally,
    frames: Tally,
}

impl<'a> VmNumbers<'a> {
    /// The numbers as they are.
    #[must_use]
    pub fn gather(vm: &'a Vm) -> Self {
        let mut sum = Counters::default();
        for port in &vm.shared.vcpus {
            sum.merge(&port.counters());
        }
        let own = vm.shared.memory.lock();
        Self {
            exits: sum.exits().collect(),
            split: sum.split.named().chain(own.split_frames()).collect(),
            sum,
            frames: own.frames_by_state(),
            vm,
        }
    }

    /// All vCPUs together.
    #[must_use]
    pub fn counters(&self) -> CounterEvent<'_> {
        CounterEvent {
            vm: self.vm.plan.name.as_str(),
            exits: &self.exits,
            frames: &self.frames,
            view_switches: self.sum.split.to_user + self.sum.split.to_kernel,
            split: &self.split,
            faults: self.sum.faults,
            ticks: ticks(&self.sum),
            switches: self.sum.switches,
        }
    }

    /// Writes them to the event stream.
    pub fn send(&self) {
        events::send(&Event::Counters(self.counters()));
        for (id, port) in (0..).zip(&self.vm.shared.vcpus) {
            let counters = port.counters();
            let exits: Tally = counters.exits().collect();
            events::send(&Event::Vcpu(VcpuCounters {
                vm: self.vm.plan.name.as_str(),
                vcpu: id,
                cpu: port.pcpu as u32,
                exits: &exits,
                ticks: ticks(&counters),
                switches: counters.switches,
            }));
        }
        self.vm.report_devices();
    }
}

/// The ticks that a VM's vCPUs had a CPU.
#[must_use]
pub fn used_ticks(vm: &Vm) -> u64 {
    let vcpus = vm.shared.vcpus.iter();
    vcpus.fold(0, |sum, port| {
        sum.saturating_add(ticks(&port.counters()).used())
    })
}

fn ticks(counters: &Counters) -> Ticks {
    Ticks {
        guest: counters.guest_ticks(),
        root: counters.root_ticks(),
        idle: counters.idle_ticks(),
        steal: counters.steal_ticks(),
    }
}

/// What the machine has and did.
pub struct MachineNumbers {
    frames: Tally,
    owners: Tally,
    balanced: bool,
    heap: (u64, u64),
    pool: FrameCount,
    mitigations: Tally,
    /// Each of its CPUs.
    pub cpus: Vec<CpuCounters>,
}

impl MachineNumbers {
    /// The numbers as they are; `balanced` says what an audit of the ledger found.
    #[must_use]
    pub fn gather(balanced: bool) -> Self {
        // Before anything here takes a part of it.
        let heap = heap::usage();
        let (books, pool) = {
            let memory = memory::lock();
            (*memory.ledger.books(), memory.pool.used())
        };
        let now = rdtsc();
        let mitigations = pcpu::switch_counters().entries();
        Self {
            frames: by_state(&books),
            owners: by_owner(&books),
            balanced,
            heap,
            pool,
            mitigations: mitigations
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .collect(),
            cpus: pcpu::all()
                .iter()
                .map(|cpu| cpu_counters(cpu, now))
                .collect(),
        }
    }

    /// Memory and mitigations.
    #[must_use]
    pub fn counters(&self) -> MachineCounters<'_> {
        let (heap_used_bytes, heap_free_bytes) = self.heap;
        MachineCounters {
            frames: &self.frames,
            owners: &self.owners,
            balanced: self.balanced,
            heap_used_bytes,
            heap_free_bytes,
            pool_frames: self.pool.0,
            mitigations: &self.mitigations,
        }
    }

    /// Writes them to the event stream.
    pub fn send(&self) {
        for cpu in &self.cpus {
            events::send(&Event::Cpu(*cpu));
        }
        events::send(&Event::Machine(self.counters()));
    }
}

fn by_state(books: &Books) -> Tally {
    let counts = State::ALL.map(|state| (state.name(), books.in_state(state).0));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn by_owner(books: &Books) -> Tally {
    let counts = OwnerClass::ALL.map(|owner| (owner.name(), books.owned_by(owner).0));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn cpu_counters(cpu: &Pcpu, now: u64) -> CpuCounters {
    let read = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let waits = match read(&cpu.idle_since) {
        0 => 0,
        since => now.saturating_sub(since),
    };
    let idle_ticks = read(&cpu.idle_ticks).saturating_add(waits);
    let guest_ticks = read(&cpu.guest_ticks);
    let all = match read(&cpu.began) {
        0 => 0,
        began => now.saturating_sub(began),
    };
    CpuCounters {
        cpu: cpu.index as u32,
        guest_ticks,
        root_ticks: all.saturating_sub(idle_ticks).saturating_sub(guest_ticks),
        idle_ticks,
        switches: read(&cpu.switches),
    }
}
