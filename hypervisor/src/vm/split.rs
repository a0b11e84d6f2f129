//! The kernel/user split of a VM, as `bulkhead_core::split` wants its effects: frames for tables, the books, flushes, the VMCS.
#![allow(
    unsafe_code,
    reason = "writes page tables through the window, and an MSR"
)]

use super::VmError;
use super::host::Host;
use super::machine;
use super::memory::VmMemory;
use super::shared::VcpuPort;
use crate::arch::cpu::wrmsr;
use crate::memory::pool::Pool;
use crate::memory::{self, Memory, tlb::ViewTlb, window};
use alloc::boxed::Box;
use bulkhead_core::addr::{Frame, FrameCount, Gpa};
use bulkhead_core::backing::Backing;
use bulkhead_core::ept::{EptCaps, Eptp};
use bulkhead_core::fault::StopReason;
use bulkhead_core::ledger::{FrameRun, Ledger, MapRight, Rights, VmId};
use bulkhead_core::manifest::VmPlan;
use bulkhead_core::msr::LSTAR;
use bulkhead_core::split::{KernelHalf, Name, Pages, Place, Places, Side, Split, SplitError};
use bulkhead_core::table::{ENTRIES, Invalidate};
use bulkhead_core::vcpu::Sides;
use bulkhead_core::views::Views;
use bulkhead_core::vmx::field::{self, VmcsAccess};
use core::sync::atomic::Ordering;

/// What the VMCS points to each view of a VM with the split with, by [`Side`].
pub type SideRoots = [Eptp; Side::COUNT];

/// Frames that a VM needs for the split, beside its memory.
#[must_use]
pub fn frames(plan: &VmPlan) -> FrameCount {
    match plan.split {
        true => Split::pages(plan.vcpus),
        false => FrameCount(0),
    }
}

/// What EPT does for the VM of `plan`, of what the machine's can.
#[must_use]
pub const fn ept_caps(caps: EptCaps, plan: &VmPlan) -> EptCaps {
    match plan.split {
        true => caps.with_mode_based_execute().without_accessed_dirty(),
        false => caps,
    }
}

/// The two views, where the plan asks for them.
///
/// # Errors
/// The processor cannot tell a kernel's code from user code, or no frame is left.
pub fn create(
    views: &mut Views,
    memory: &mut Memory,
    plan: &VmPlan,
) -> Result<Option<Box<Split>>, VmError> {
    if !plan.split {
        return Ok(None);
    }
    let machine = machine();
    if machine.features.vmx.for_split().is_none() {
        return Err(VmError::NoModeBasedExecute);
    }
    let places = Places::for_width(machine.physical_bits);
    let split = Split::new(views, &mut memory.pool, places, plan.vcpus);
    split
        .map(|split| Some(Box::new(split)))
        .map_err(VmError::Views)
}

/// The frames that a VM has for its split, and the books.
pub struct SplitFrames<'a> {
    vm: VmId,
    backing: &'a Backing,
}

impl SplitFrames<'_> {
    /// Frame `page` of them: they are the last that its backing has.
    fn run(&self, page: usize) -> Option<FrameRun> {
        let first = self.backing.split_page(page)?;
        self.backing.piece(first, FrameCount(1))
    }

    /// Shows page `page` while `work` writes to it.
    fn show(&mut self, page: usize, work: impl FnOnce(*mut u64)) {
        let right = self.run(page).and_then(|run| {
            let rights = Rights::READ | Rights::WRITE;
            let mut memory = memory::lock();
            memory.ledger.grant_window(self.vm, run, rights).ok()
        });
        let Some(right) = right else {
            unreachable!("a page of the split's is written that the VM does not have");
        };
        let (shown, right) = window::show(right, |at, _| work(at.cast()));
        memory::lock().ledger.surrender(right);
        if let Err(error) = shown {
            panic!("a page of the split's cannot be shown: {error}");
        }
    }
}

impl Invalidate for SplitFrames<'_> {
    fn invalidate(&mut self, root: Frame) {
        ViewTlb.invalidate(root);
    }

    fn invalidate_all(&mut self, roots: &mut dyn Iterator<Item = Frame>) {
        ViewTlb.invalidate_all(roots);
    }
}

impl Pages for SplitFrames<'_> {
    type Tables = Pool;

    fn books<T>(&mut self, work: impl FnOnce(&mut Ledger<'_>, &mut Pool) -> T) -> T {
        let mut memory = memory::lock();
        let Memory { ledger, pool, .. } = &mut *memory;
        work(ledger, pool)
    }

    fn right(&mut self, page: usize) -> Option<MapRight> {
        let run = self.run(page)?;
        memory::lock().ledger.grant(self.vm, run, Rights::READ).ok()
    }

    fn fill(&mut self, page: usize, entry: u64) {
        self.show(page, |entries| {
            for index in 0..ENTRIES {
                // SAFETY: one frame shows, which is `ENTRIES` entries.
                unsafe { entries.wrapping_add(index).write_volatile(entry) };
            }
        });
    }

    fn write(&mut self, page: usize, index: usize, entry: u64) {
        assert!(index < ENTRIES, "a table has {ENTRIES} entries");
        // SAFETY: as in `fill`; other CPUs see the old entry or the new one.
        self.show(page, |entries| unsafe {
            entries.wrapping_add(index).write_volatile(entry);
        });
    }
}

impl VmMemory {
    /// What the VMCS points to each view with, where the VM has the split.
    #[must_use]
    pub fn side_roots(&self) -> Option<SideRoots> {
        let split = self.split.as_deref()?;
        Some(
            Side::ALL.map(|side| match self.views.eptp(split.view(side)) {
                Some(root) => root,
                None => unreachable!("the views of the split are never removed"),
            }),
        )
    }

    /// Works on the split, with the views and frames that are its to change; `None` where there is none.
    fn with_split<T>(
        &mut self,
        work: impl FnOnce(&mut Split, &mut Views, &mut SplitFrames<'_>) -> T,
    ) -> Option<T> {
        let split = self.split.as_deref_mut()?;
        let mut frames = SplitFrames {
            vm: self.vm,
            backing: &self.backing,
        };
        Some(work(split, &mut self.views, &mut frames))
    }

    /// Makes the views of the split what they were before the guest began.
    pub fn forget_split(&mut self) {
        self.with_split(|split, views, frames| split.forget(views, frames));
    }
}

impl Sides for Host {
    fn enter_side(&mut self, side: Side) {
        let Some(roots) = &self.vm.sides else {
            unreachable!("a VM without the split has one view");
        };
        if let Some(port) = self.vm.vcpus.get(self.me as usize) {
            port.in_user.store(side == Side::User, Ordering::SeqCst);
        }
        let [base, kernel, user] = roots;
        let root = match side {
            Side::Base => base,
            Side::Kernel => kernel,
            Side::User => user,
        };
        self.write(field::EPT_POINTER, root.raw());
    }

    fn place(&mut self, gpa: Gpa) -> Place {
        let mut own = self.vm.memory.lock();
        let place = own.with_split(|split, _, _| split.place(gpa));
        place.unwrap_or(Place::Elsewhere)
    }

    fn guard(&mut self, table: Gpa) -> Result<(), StopReason> {
        let mut own = self.vm.memory.lock();
        // Another kernel takes over: nobody runs user code of the one before. `admit` says so while it has the memory.
        let is_alone = !self.vm.vcpus.iter().any(VcpuPort::is_in_user);
        let guarded = own.with_split(|split, views, frames| {
            if is_alone && split.guarded() != Some(table) {
                split.forget(views, frames);
            }
            split.guard(table, views, frames)
        });
        self.judge(guarded.unwrap_or(Ok(())))
    }

    fn admit(&mut self, half: &KernelHalf, names: &[Name]) -> Result<(), StopReason> {
        let mut own = self.vm.memory.lock();
        if let Some(port) = self.vm.vcpus.get(self.me as usize) {
            port.in_user.store(true, Ordering::SeqCst);
        }
        let admitted = own.with_split(|split, views, frames| {
            let changed = split.admit(self.me, half, names, views, frames);
            changed.map(drop)
        });
        self.judge(admitted.unwrap_or(Ok(())))
    }

    fn set_lstar(&mut self, value: u64) {
        // SAFETY: the address is canonical, as the trait wants it; the hypervisor executes no SYSCALL, and the register is switched with the vCPU.
        unsafe { wrmsr(LSTAR, value) };
    }
}

impl Host {
    /// Says why the split cannot go on, where it cannot.
    fn judge(&self, done: Result<(), SplitError>) -> Result<(), StopReason> {
        done.map_err(|error| {
            log::error!("VM \"{}\": {error}", self.vm.name);
            StopReason::SplitLost
        })
    }
}
