//! Samples of what user code has of its kernel within reach, with the split or without.
#![allow(unsafe_code, reason = "reads page tables through the window")]

use super::host::Host;
use super::memory::VmMemory;
use crate::arch::cpu::rdtsc;
use crate::events;
use crate::memory::{self, window};
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use bulkhead_core::events::{Event, SplitSample};
use bulkhead_core::ledger::{FrameRun, Rights};
use bulkhead_core::split::Side;
use bulkhead_core::split::reach::{self, Table};
use bulkhead_core::vcpu::Sides;
use bulkhead_core::views::ViewId;
use bulkhead_core::vmx::field::{self, VmcsAccess};
use core::sync::atomic::Ordering;

/// A vCPU exited: a sample where it is time for one and user code ran. Whether there will be others.
pub fn vm_exited(host: &Host) -> bool {
    /// Ticks between two samples, so that the few there are show a guest at many moments.
    const BETWEEN: u64 = 1 << 24;
    let left = host.vm.split_samples.load(Ordering::Relaxed);
    let is_user_code = (host.read(field::GUEST_SS_ACCESS) >> 5) & 3 == 3;
    // One that was just taken out of `user` runs none before it is admitted anew.
    let is_there = host.vm.sides.is_none() || host.side() == Side::User;
    if left == 0 || !is_user_code || !is_there {
        return left > 0;
    }
    let now = rdtsc();
    if now < host.vm.sample_due.load(Ordering::Relaxed) {
        return true;
    }
    host.vm.sample_due.store(now + BETWEEN, Ordering::Relaxed);
    host.vm.split_samples.store(left - 1, Ordering::Relaxed);
    let root = Gpa(host.read(field::GUEST_CR3).0 & !(FRAME_SIZE - 1) & !(1 << 63));
    let in_user = host.side() == Side::User;
    let sample = host.vm.memory.lock().look(host.side(), root);
    events::send(&Event::SplitSample {
        vm: host.vm.name.as_str(),
        sample: SplitSample {
            vcpu: host.me,
            in_user,
            ..sample
        },
    });
    left > 1
}

impl VmMemory {
    /// What of the kernel half at `root` is within reach in a view.
    fn look(&self, side: Side, root: Gpa) -> SplitSample {
        let view = self
            .split
            .as_ref()
            .map_or(ViewId::BASE, |split| split.view(side));
        let tables = memory::lock().pool.view();
        let mut read = |frame, table: &mut Table| {
            let run = FrameRun::new(frame, FrameCount(1));
            let right = memory::lock()
                .ledger
                .grant_window(self.vm, run, Rights::READ);
            let Ok(right) = right else { return false };
            let (shown, right) = window::show(right, |at, _| {
                for (index, entry) in table.iter_mut().enumerate() {
                    // SAFETY: one frame shows, which is as many entries as `table`; the guest may write to it meanwhile.
                    *entry = unsafe { at.cast::<u64>().wrapping_add(index).read_volatile() };
                }
            });
            memory::lock().ledger.surrender(right);
            shown.is_ok()
        };
        let found = reach::reach(&self.views, &tables, view, root, &mut read);
        let names = self.split.iter().flat_map(|split| split.named());
        let named: Vec<_> = names
            .filter_map(|name| {
                let leaf = self.views.translate(&tables, view, name.gpa)?;
                let into = (name.gpa.0 - leaf.input.0) / FRAME_SIZE;
                Some(Frame(leaf.frame.0 + into))
            })
            .collect();
        let unnamed = found.frames.iter().filter(|frame| !named.contains(frame));
        SplitSample {
            frames: found.frames.len() as u64,
            unnamed: unnamed.count() as u64,
            pages: found.pages,
            tables: found.tables,
            is_cut: found.is_cut,
            ..SplitSample::default()
        }
    }
}
