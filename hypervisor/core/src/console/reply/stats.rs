//! Counters of a VM and of the machine.

use core::fmt;
use core::time::Duration;

use super::table::Percent;
use crate::events::{Counters, CpuCounters, DiskCounters, MachineCounters, NicCounters};
use crate::lifecycle::State;

/// Exit reasons that are listed one by one, the most frequent first.
const TOP: usize = 10;

/// What `stats` tells of a VM.
#[derive(Clone, Copy, Debug)]
pub struct VmStats<'a> {
    /// Where it is in its life.
    pub state: State,
    /// How long its vCPUs have run, or had run when it stopped.
    pub uptime: Duration,
    /// How often it was started after the first time.
    pub restarts: u32,
    /// What all of it did since it started.
    pub counters: Counters<'a>,
    /// Its NICs.
    pub nics: &'a [NicCounters<'a>],
    /// Its disks.
    pub disks: &'a [DiskCounters<'a>],
}

impl fmt::Display for VmStats<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters {
            vm, exits, ticks, ..
        } = self.counters;
        let (seconds, tenths) = (self.uptime.as_secs(), self.uptime.subsec_millis() / 100);
        writeln!(
            f,
            "VM \"{vm}\": {}, {seconds}.{tenths} s since its start, {} restarts, {} faults",
            self.state, self.restarts, self.counters.faults
        )?;
        write_exits(f, exits)?;
        let share = |part| Percent {
            part,
            of: ticks.total(),
        };
        writeln!(
            f,
            "ticks: guest {} ({} %), hypervisor {} ({} %), idle {} ({} %), stolen {} ({} %); {} switches",
            ticks.guest,
            share(ticks.guest),
            ticks.root,
            share(ticks.root),
            ticks.idle,
            share(ticks.idle),
            ticks.steal,
            share(ticks.steal),
            self.counters.switches,
        )?;
        writeln!(f, "frames: {}", Tally(self.counters.frames))?;
        for nic in self.nics {
            writeln!(
                f,
                "nic {} on \"{}\": sent {} frames, {} bytes; received {} frames, {} bytes; dropped: {}",
                nic.nic,
                nic.segment,
                nic.sent_frames,
                nic.sent_bytes,
                nic.received_frames,
                nic.received_bytes,
                Tally(nic.drops),
            )?;
        }
        for disk in self.disks {
            writeln!(
                f,
                "disk {}: {} reads, {} bytes; {} writes, {} bytes; {} flushes, {} errors",
                disk.disk,
                disk.reads,
                disk.read_bytes,
                disk.writes,
                disk.written_bytes,
                disk.flushes,
                disk.errors,
            )?;
        }
        Ok(())
    }
}

/// What `stats` tells of the machine.
#[derive(Clone, Copy, Debug)]
pub struct MachineStats<'a> {
    /// Memory and mitigations.
    pub machine: MachineCounters<'a>,
    /// Each CPU.
    pub cpus: &'a [CpuCounters],
}

impl fmt::Display for MachineStats<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(f, "frames by state: {}", Tally(machine.frames))?;
        writeln!(f, "frames by owner: {}", Tally(machine.owners))?;
        writeln!(
            f,
            "books: {}",
            if machine.balanced {
                "balanced"
            } else {
                "NOT BALANCED: the ledger is broken; report this"
            }
        )?;
        writeln!(
            f,
            "heap: {} bytes used, {} bytes free",
            machine.heap_used_bytes, machine.heap_free_bytes
        )?;
        for cpu in self.cpus {
            let all = cpu.guest_ticks.saturating_add(cpu.root_ticks);
            let share = |part| Percent {
                part,
                of: all.saturating_add(cpu.idle_ticks),
            };
            writeln!(
                f,
                "CPU {}: guests {} %, hypervisor {} %, idle {} %; {} switches",
                cpu.cpu,
                share(cpu.guest_ticks),
                share(cpu.root_ticks),
                share(cpu.idle_ticks),
                cpu.switches,
            )?;
        }
        writeln!(f, "mitigations: {}", Tally(machine.mitigations))
    }
}

/// Names with numbers, in a row.
struct Tally<'a>(&'a [(&'a str, u64)]);

impl fmt::Display for Tally<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, (name, count)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {count}")?;
        }
        Ok(())
    }
}

/// The most frequent reasons, and the rest in one line.
fn write_exits(f: &mut fmt::Formatter<'_>, exits: &[(&str, u64)]) -> fmt::Result {
    let total = exits
        .iter()
        .fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    writeln!(f, "exits: {total}")?;
    let mut left = total;
    let mut listed = None;
    for _ in 0..TOP {
        let Some((rank, name)) = most_frequent_below(exits, listed) else {
            return Ok(());
        };
        writeln!(f, "  {name:20}{:>14}", rank.0)?;
        left = left.saturating_sub(rank.0);
        listed = Some(rank);
    }
    if left > 0 {
        writeln!(f, "  {:20}{left:>14}", "others")?;
    }
    Ok(())
}

/// A reason's place in the order of frequency: of equals, the one that comes later ranks higher.
type Rank = (u64, usize);

/// The reason that follows `listed` in that order.
fn most_frequent_below<'a>(
    exits: &[(&'a str, u64)],
    listed: Option<Rank>,
) -> Option<(Rank, &'a str)> {
    let ranked = exits
        .iter()
        .enumerate()
        .map(|(index, (name, count))| ((*count, index), *name));
    ranked
        .filter(|(rank, _)| rank.0 > 0 && listed.is_none_or(|listed| *rank < listed))
        .max_by_key(|(rank, _)| *rank)
}
