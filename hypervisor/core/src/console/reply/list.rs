//! The table of all VMs.

use core::fmt::{self, Display};

use super::table::{Percent, Right, width};
use crate::lifecycle::State;
use crate::manifest::ByteSize;

/// What the table says of one VM.
#[derive(Clone, Copy, Debug)]
pub struct VmRow<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether its console is in front.
    pub front: bool,
    /// Where it is in its life.
    pub state: State,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its memory.
    pub memory: ByteSize,
    /// The ticks its vCPUs had a CPU since the table was last asked for.
    pub used_ticks: u64,
    /// The ticks that have gone by since then.
    pub passed_ticks: u64,
    /// How often it was started after the first time.
    pub restarts: u32,
}

const COLUMNS: usize = 6;
const TITLES: [&str; COLUMNS] = ["NAME", "STATE", "VCPUS", "MEMORY", "CPU %", "RESTARTS"];
/// Names and states are words, the rest are numbers.
const LEFT: [bool; COLUMNS] = [true, true, false, false, false, false];

impl VmRow<'_> {
    fn cells<T>(&self, with: impl FnOnce([&dyn Display; COLUMNS]) -> T) -> T {
        let used = Percent {
            part: self.used_ticks,
            of: self.passed_ticks,
        };
        with([
            &self.name,
            &self.state,
            &self.vcpus,
            &self.memory,
            &used,
            &self.restarts,
        ])
    }
}

pub(super) fn write(rows: &[VmRow<'_>], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut widths = TITLES.map(str::len);
    for row in rows {
        row.cells(|cells| {
            for (widest, cell) in widths.iter_mut().zip(cells) {
                *widest = width(cell).max(*widest);
            }
        });
    }
    write_line(f, false, TITLES.each_ref().map(|title| title as _), widths)?;
    rows.iter()
        .try_for_each(|row| row.cells(|cells| write_line(f, row.front, cells, widths)))
}

fn write_line(
    f: &mut fmt::Formatter<'_>,
    front: bool,
    cells: [&dyn Display; COLUMNS],
    widths: [usize; COLUMNS],
) -> fmt::Result {
    f.write_str(if front { "*" } else { " " })?;
    let mut gap = " ";
    for ((cell, wide), left) in cells.into_iter().zip(widths).zip(LEFT) {
        f.write_str(gap)?;
        if left {
            let missing = wide.saturating_sub(width(cell));
            write!(f, "{cell}{:missing$}", "")?;
        } else {
            Right(cell, wide).fmt(f)?;
        }
        gap = "  ";
    }
    f.write_str("\n")
}
