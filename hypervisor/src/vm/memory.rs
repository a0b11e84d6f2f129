//! A VM's memory: its frames, the views that show them to the guest, and the one way to a page that is to be copied.
//!
//! Frames, and what the views show, last for one life of the VM: [`populate`](super::populate) makes them, [`destroy`](super::destroy) gives
//! them back. The base view's root stays, because the VMCSs name it. Which page lies in which frame is
//! [`bulkhead_core::backing`]'s; copying is [`crate::memory::guest`]'s and [`disk`](super::disk)'s.

use super::shared::{self, Ending};
use super::{VmError, machine, split};
use crate::memory::{self, Memory};
use crate::pcpu::{self, call};
use crate::secmem::hooks;
use crate::secmem::sealed::Sealed;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use bulkhead_core::backing::Backing;
use bulkhead_core::ept::{Ept, Eptp};
use bulkhead_core::events::SecmemSample;
use bulkhead_core::fault::StopReason;
use bulkhead_core::ledger::{FrameRun, MapRight, Rights, SCRUB_FRAMES, VmId};
use bulkhead_core::lifecycle::End;
use bulkhead_core::manifest::VmPlan;
use bulkhead_core::split::Split;
use bulkhead_core::views::{ViewId, Views};
use core::hint::spin_loop;
use guest_loader::MemoryLayout;
use spin::RelaxStrategy;
use spin::mutex::Mutex;

/// How a CPU waits for a VM's memory or devices: it does what other CPUs ask of it, because whoever has them may wait for just
/// that, to know that no CPU reaches what was unmapped.
pub struct Serving;

impl RelaxStrategy for Serving {
    /// Out of the way: a port access that finds the devices free shall not save registers for this call.
    #[cold]
    #[inline(never)]
    fn relax() {
        call::serve(pcpu::this());
        spin_loop();
    }
}

/// A VM's memory, as all CPUs reach it.
pub type SharedMemory = Mutex<VmMemory, Serving>;

/// The memory of one VM.
pub struct VmMemory {
    pub(super) vm: VmId,
    pub(super) layout: MemoryLayout,
    pub(super) views: Views,
    pub(super) backing: Backing,
    /// Where its kernel is kept from its user code.
    pub(super) split: Option<Box<Split>>,
    /// Where it is encrypted.
    sealed: Option<Box<Sealed>>,
}

/// Why a page cannot be copied from or to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoCopy {
    /// The VM has no such page.
    NoPage,
    /// The VM cannot go on.
    Stop(StopReason),
}

/// A run of the VM's frames and where it has it.
pub struct Piece {
    /// Where.
    pub gpa: Gpa,
    /// The frames.
    pub run: FrameRun,
}

impl VmMemory {
    /// The memory of a VM that does not live yet: an empty base view, no frames, and the promise that there will be enough.
    ///
    /// # Errors
    /// The machine has less memory than was promised to VMs, this one included.
    pub fn new(vm: VmId, layout: MemoryLayout, plan: &VmPlan) -> Result<Self, VmError> {
        let overlays = plan.disks.iter();
        let backing = Backing::new(
            FrameCount::covering(plan.memory.bytes()),
            overlays.map(|disk| FrameCount::covering(disk.overlay.bytes())),
        );
        let backing = backing.with_split(split::frames(plan));
        let mut memory = memory::lock();
        memory.promise(backing.wanted()).map_err(VmError::Ledger)?;
        let caps = split::ept_caps(machine().features.ept, plan);
        let base = Ept::new(vm, caps, &mut memory.pool).map_err(VmError::Ept)?;
        let mut views = Views::new(base);
        let split = split::create(&mut views, &mut memory, plan)?;
        Ok(Self {
            vm,
            layout,
            views,
            split,
            backing,
            sealed: hooks::vm_created(vm, plan, &layout),
        })
    }

    /// Whose it is.
    #[must_use]
    pub const fn vm(&self) -> VmId {
        self.vm
    }

    /// Its pages' frames.
    #[must_use]
    pub const fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Its sealing, where it is encrypted.
    pub fn sealed_mut(&mut self) -> Option<&mut Sealed> {
        self.sealed.as_deref_mut()
    }

    /// Its sealing, where it is encrypted.
    #[must_use]
    pub fn sealed(&self) -> Option<&Sealed> {
        self.sealed.as_deref()
    }

    /// Makes the page at `gpa` readable, where it is encrypted RAM; `None` where it is not.
    ///
    /// # Errors
    /// Why the VM cannot go on.
    pub fn bring(&mut self, gpa: Gpa) -> Option<Result<(), StopReason>> {
        let page = self.sealed.as_ref()?.map(&self.backing).page_at(gpa)?;
        Some(self.bring_page(page))
    }

    fn bring_page(&mut self, page: u64) -> Result<(), StopReason> {
        match &mut self.sealed {
            Some(sealed) => sealed.bring(page, &mut self.views, &self.backing),
            None => Ok(()),
        }
    }

    /// Seals a piece of what is readable, where it is encrypted; true where there is more.
    ///
    /// # Errors
    /// Why the VM cannot go on.
    pub fn seal(&mut self) -> Result<bool, StopReason> {
        match &mut self.sealed {
            Some(sealed) => sealed.seal(&mut self.views, &self.backing),
            None => Ok(false),
        }
    }

    /// The VM exited: a sample where it is time for one, and whether there will be others.
    pub fn sample(&mut self) -> (Option<SecmemSample>, bool) {
        match &mut self.sealed {
            Some(sealed) => (sealed.sample(&self.backing), sealed.is_sampled()),
            None => (None, false),
        }
    }

    /// Whether it has all its frames.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.backing.taken() == self.backing.wanted()
    }

    /// What its VMCSs point to its view with, in every life.
    #[must_use]
    pub fn eptp(&self) -> Eptp {
        match self.views.eptp(ViewId::BASE) {
            Some(base) => base,
            None => unreachable!("the base view is never removed"),
        }
    }

    /// How many of its frames are in each state, by name, those there are any of.
    #[must_use]
    pub fn frames_by_state(&self) -> Vec<(&'static str, u64)> {
        memory::lock().frames_by_state(self.vm, self.backing.runs())
    }

    /// The hypervisor's right to copy from or to the RAM at `gpa`: to the frames of `bytes` bytes, or of as many of them
    /// as can be had at once. As long as it is out, they stay readable.
    ///
    /// # Errors
    /// There is no RAM, or the VM cannot go on.
    pub fn right_to_ram(
        &mut self,
        gpa: Gpa,
        bytes: usize,
        rights: Rights,
    ) -> Result<MapRight, NoCopy> {
        if let Some(brought) = self.bring(gpa) {
            brought.map_err(NoCopy::Stop)?;
        }
        let wanted = FrameCount::covering(gpa.page_offset().saturating_add(bytes as u64));
        let wanted = self.open_for_copy(gpa, wanted, rights);
        if wanted.0 == 0 {
            return Err(NoCopy::NoPage);
        }
        let mut memory = memory::lock();
        let run = self.page_for_copy(&memory, gpa).ok_or(NoCopy::NoPage)?;
        let most = match self.sealed {
            Some(_) => FrameCount(1),
            None => FrameCount(SCRUB_FRAMES),
        };
        let run = FrameRun::new(run.first, wanted.min(run.count).min(most));
        let right = memory.ledger.grant_window(self.vm, run, rights);
        right.map_err(|_| NoCopy::NoPage)
    }

    /// The hypervisor's right to copy from or to block `block` of disk `disk`'s overlay. As long as it is out, the block stays readable.
    ///
    /// # Errors
    /// There is no such block, or the VM cannot go on.
    pub fn right_to_overlay(
        &mut self,
        disk: usize,
        block: u32,
        rights: Rights,
    ) -> Result<MapRight, NoCopy> {
        let page = self.backing.overlay_page(disk, block);
        let page = page.ok_or(NoCopy::NoPage)?;
        self.bring_page(page).map_err(NoCopy::Stop)?;
        let run = self.backing.piece(page, FrameCount(1));
        let run = run.ok_or(NoCopy::NoPage)?;
        let mut memory = memory::lock();
        let right = memory.ledger.grant_window(self.vm, run, rights);
        right.map_err(|_| NoCopy::NoPage)
    }

    /// The frame that shows at `gpa` in the view, and those that follow in the same page of the view.
    fn page_for_copy(&self, memory: &Memory, gpa: Gpa) -> Option<FrameRun> {
        let leaf = self.views.translate(&memory.pool, ViewId::BASE, gpa)?;
        let into_page = (gpa.0 - leaf.input.0) / FRAME_SIZE;
        Some(FrameRun::new(
            Frame(leaf.frame.0 + into_page),
            FrameCount(leaf.size.frames().0 - into_page),
        ))
    }

    /// Where the guest has page `page` and those that follow it in memory, `most` of them; `None` where that is no RAM.
    pub(super) fn piece(&self, page: u64, most: FrameCount) -> Option<Piece> {
        let mut first = 0;
        for range in self.layout.ram_ranges() {
            let end = first + range.len() / FRAME_SIZE;
            if page < end {
                let room = FrameCount(end - page);
                return Some(Piece {
                    gpa: Gpa(range.start.0 + (page - first) * FRAME_SIZE),
                    run: self.backing.piece(page, most.min(room))?,
                });
            }
            first = end;
        }
        None
    }

    /// All RAM, piece by piece.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> {
        let mut page = 0;
        core::iter::from_fn(move || {
            let piece = self.piece(page, self.backing.ram())?;
            page += piece.run.count.0;
            Some(piece)
        })
    }

    /// The first address above all RAM.
    pub(super) fn ram_end(&self) -> Gpa {
        let ends = self.layout.ram_ranges().map(|range| range.end);
        ends.max().unwrap_or_default()
    }
}

/// Ends the run of VM `vm`, which cannot go on, where the hypervisor copied on its behalf.
#[cold]
pub fn stop(vm: VmId, reason: StopReason) {
    if let Some(vm) = shared::by_id(vm) {
        vm.end(Ending {
            end: End::Guest(reason),
            rip: None,
        });
    }
}
