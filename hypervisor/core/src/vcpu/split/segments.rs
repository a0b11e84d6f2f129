//! Where the tables are that the processor reads on its own.

use crate::addr::{FRAME_SIZE, Gva};
use crate::vcpu::effects::Cpu;
use crate::vmx::field;

use super::UPPER_HALF;

/// Base and limit of a table that the processor reads on its own, at any privilege level.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Extent {
    pub(super) base: u64,
    pub(super) limit: u32,
}

impl Extent {
    pub(super) fn has(self, gva: Gva) -> bool {
        gva.0.wrapping_sub(self.base) <= u64::from(self.limit)
    }

    /// The pages of the kernel half that it is in; none for a table that is not there.
    pub(super) fn pages(self) -> impl Iterator<Item = Gva> {
        let first = self.base.max(UPPER_HALF) / FRAME_SIZE;
        let last = self.base.saturating_add(u64::from(self.limit)) / FRAME_SIZE;
        let pages = (first..=last).map(|page| Gva(page * FRAME_SIZE));
        let is_there = self.limit != 0;
        pages.filter(move |_| is_there)
    }
}

/// The tables that the processor reads on its own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Segments {
    pub(super) descriptors: Extent,
    pub(super) task: Extent,
    /// The local descriptor table, which comes and goes with processes.
    pub(super) local: Extent,
    /// Where the interrupt descriptor table is.
    pub(super) interrupts: u64,
}

impl Segments {
    pub(super) fn read<C: Cpu>(cpu: &C) -> Self {
        const UNUSABLE: u32 = 1 << 16;
        let local = match cpu.read(field::GUEST_LDTR_ACCESS) & UNUSABLE {
            0 => Extent {
                base: cpu.read(field::GUEST_LDTR_BASE).0,
                limit: cpu.read(field::GUEST_LDTR_LIMIT),
            },
            _ => Extent::default(),
        };
        Self {
            descriptors: Extent {
                base: cpu.read(field::GUEST_GDTR_BASE).0,
                limit: cpu.read(field::GUEST_GDTR_LIMIT),
            },
            task: Extent {
                base: cpu.read(field::GUEST_TR_BASE).0,
                limit: cpu.read(field::GUEST_TR_LIMIT),
            },
            local,
            interrupts: cpu.read(field::GUEST_IDTR_BASE).0,
        }
    }

    /// Whether `gva` is in one of them.
    pub(super) fn has(&self, gva: Gva) -> bool {
        self.descriptors.has(gva) || self.task.has(gva) || self.local.has(gva)
    }
}
