//! The kernel/user split of a VM, as `bulkhead_core::split` wants its effects: frames for tables, the books, flushes, the VMCS.
#![allow(
    unsafe_code,
    reason = "writes page tables through the window, and an MSR"
)]

use super::VmError;
use super::host::Host;
use super::machine;
use super::memory::VmMemory;
use super::shared;
use crate::arch::cpu::wrmsr;
use crate::memory::pool::Pool;
use crate::memory::{self, Memory, window};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Gpa, Hpa};
use bulkhead_core::backing::Backing;
use bulkhead_core::ept::{EptCaps, Eptp};
use bulkhead_core::fault::StopReason;
use bulkhead_core::hypercall::HypercallError;
use bulkhead_core::ledger::{FrameRun, Ledger, MapRight, Rights, VmId};
use bulkhead_core::manifest::{Plan, VmPlan};
use bulkhead_core::msr::LSTAR;
use bulkhead_core::split::{
    Fetch, KernelEntry, KernelHalf, Named, Opening, Pages, Place, Places, Refusal, Side, Split,
    SplitError, Way, words,
};
use bulkhead_core::table::{ENTRIES, Invalidate};
use bulkhead_core::vcpu::Sides;
use bulkhead_core::views::Views;
use bulkhead_core::vmx::capability::{Help, Negotiated, NoSplit};
use bulkhead_core::vmx::field::{self, VmcsAccess};
use guest_loader::MemoryLayout;

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

/// Tables that the views of all VMs with the split can need, on a processor that tells user code from a kernel's or one that does not.
#[must_use]
pub fn tables(plan: &Plan, tells: bool) -> FrameCount {
    let split = plan.vms.iter().filter(|vm| vm.split);
    let tables = split.map(|vm| {
        let ram = vm.memory.bytes();
        let for_code = if tells { 0 } else { Split::code_tables(ram).0 };
        Split::tables(ram, vm.vcpus, vm.split_private).0 + for_code
    });
    FrameCount(tables.fold(0, u64::saturating_add))
}

/// Whether VMs with the split run on a processor that tells user code from a kernel's.
#[must_use]
pub fn tells_user_code(vmx: &Negotiated) -> bool {
    controls(vmx).is_ok_and(|vmx| vmx.tells_user_code())
}

/// The controls of a VM with the split, whether or not they are enough for one.
///
/// # Errors
/// No VM can have it.
pub fn controls(vmx: &Negotiated) -> Result<Negotiated, NoSplit> {
    vmx.for_split(Help::Dispensable)
}

/// How much heap the split of a VM needs: the gates as they are and as they are built anew, the pages that they are made from, and the list of what the
/// views show otherwise.
#[must_use]
pub const fn heap_needed(plan: &VmPlan) -> usize {
    match plan.split {
        true => 256 << 10,
        false => 0,
    }
}

/// What EPT does for the VM of `plan`, of what the machine's can.
#[must_use]
pub fn ept_caps(caps: EptCaps, plan: &VmPlan) -> EptCaps {
    if !plan.split {
        return caps;
    }
    let caps = caps.without_accessed_dirty();
    match tells_user_code(&machine().features.vmx) {
        true => caps.with_mode_based_execute(),
        false => caps,
    }
}

/// The two views, where the plan asks for them.
///
/// # Errors
/// The processor lacks something for it, or no frame is left.
pub fn create(
    views: &mut Views,
    memory: &mut Memory,
    plan: &VmPlan,
) -> Result<Option<Box<Split>>, VmError> {
    if !plan.split {
        return Ok(None);
    }
    let machine = machine();
    let help = match plan.split_unaided {
        true => Help::Dispensable,
        false => Help::Required,
    };
    let vmx = machine.features.vmx.for_split(help);
    vmx.map_err(VmError::NoSplit)?;
    let places = Places::for_width(machine.physical_bits);
    let pool = &mut memory.pool;
    let split = Split::new(views, pool, places, plan.vcpus, plan.split_private);
    split
        .map(|split| Some(Box::new(split)))
        .map_err(VmError::Views)
}

/// The EPTP list of a VM with the split, for all its vCPUs; `None` where the processor cannot switch views by itself.
///
/// # Errors
/// No frame is left.
pub fn list(own: &mut VmMemory, pool: &mut Pool) -> Result<Option<Hpa>, VmError> {
    /// CPUID.80000001H:EDX: pages of 1 GiB, which the gates lie in.
    const GIGABYTE_PAGES: u32 = 1 << 26;
    let machine = machine();
    let vmx = controls(&machine.features.vmx);
    let has_pages = machine.cpuid(0x8000_0001, 0).edx & GIGABYTE_PAGES != 0;
    let switches = has_pages && vmx.is_ok_and(|vmx| vmx.switches_views());
    match own.split.as_deref_mut().filter(|_| switches) {
        Some(split) => split.add_list(&mut own.views, pool).map_err(VmError::Views),
        None => Ok(None),
    }
}

/// The frames that a VM has for its split, and the books.
pub struct SplitFrames<'a> {
    vm: VmId,
    backing: &'a Backing,
    layout: &'a MemoryLayout,
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
        self.invalidate_all(&mut core::iter::once(root));
    }

    /// All of the VM's.
    fn invalidate_all(&mut self, _roots: &mut dyn Iterator<Item = Frame>) {
        // A VM that nobody knows yet has no vCPUs.
        let Some(vm) = shared::by_id(self.vm) else {
            return;
        };
        if let Err(silent) = vm.lose_translations() {
            panic!("{silent}: user code of its guest may still reach what it is not to");
        }
    }
}

impl Pages for SplitFrames<'_> {
    type Tables = Pool;

    fn is_ram(&self, gpa: Gpa) -> bool {
        self.layout
            .ram_ranges()
            .any(|range| range.start <= gpa && gpa < range.end)
    }

    fn books<T>(&mut self, work: impl FnOnce(&mut Ledger<'_>, &mut Pool) -> T) -> T {
        let mut memory = memory::lock();
        let Memory { ledger, pool, .. } = &mut *memory;
        work(ledger, pool)
    }

    fn right(&mut self, page: usize, rights: Rights) -> Option<MapRight> {
        let run = self.run(page)?;
        memory::lock().ledger.grant(self.vm, run, rights).ok()
    }

    fn copy(&mut self, page: usize, bytes: &[u8]) {
        self.show(page, |entries| {
            for (index, word) in words::of_page(bytes).enumerate() {
                // SAFETY: one frame shows, which is `ENTRIES` entries.
                unsafe { entries.wrapping_add(index).write_volatile(word) };
            }
        });
    }

    fn wipe(&mut self, frame: Frame) {
        let run = FrameRun::new(frame, FrameCount(1));
        let rights = Rights::READ | Rights::WRITE;
        let right = memory::lock().ledger.grant_window(self.vm, run, rights);
        let Ok(right) = right else {
            unreachable!("a frame is wiped that the VM does not have");
        };
        let (shown, right) = window::show(right, |at, bytes| {
            // SAFETY: the frame shows, writable; what the guest writes meanwhile it writes into its own page.
            unsafe { at.write_bytes(0, bytes) };
        });
        memory::lock().ledger.surrender(right);
        if let Err(error) = shown {
            panic!("a page that a kernel is not to read cannot be wiped: {error}");
        }
    }

    fn write(&mut self, page: usize, index: usize, entry: u64) {
        assert!(index < ENTRIES, "a table has {ENTRIES} entries");
        // SAFETY: as in `copy`; other CPUs see the old entry or the new one.
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

    /// Whether its kernel's code has to be found.
    #[must_use]
    pub fn finds_code(&self) -> bool {
        self.split.as_deref().is_some_and(Split::finds_code)
    }

    /// Whether its kernel is kept from the page of `gpa`.
    #[must_use]
    pub fn is_private(&self, gpa: Gpa) -> bool {
        let split = self.split.as_deref();
        split.is_some_and(|split| split.is_private(gpa))
    }

    /// The hypervisor is about to copy from `count` pages from that of `gpa` on, or to them, for a device: of how many it may. Private pages are read for nobody,
    /// and lose what is in them when they are written to; code that was found is none any more then.
    pub(super) fn open_for_copy(
        &mut self,
        gpa: Gpa,
        count: FrameCount,
        rights: Rights,
    ) -> FrameCount {
        let writes = rights.contains(Rights::WRITE);
        let open = self.with_split(|split, views, frames| {
            while let Some(page) = split.first_code(gpa, count).filter(|_| writes) {
                if split.lose_code(page, views, frames).is_err() {
                    return FrameCount(0);
                }
            }
            while let Some(page) = split.first_private(gpa, count) {
                // What cannot be given up stays closed.
                if !writes || split.give_up(page, views, frames) != Ok(true) {
                    let first = gpa.0 - gpa.page_offset();
                    return FrameCount((page.0 - first) / FRAME_SIZE);
                }
            }
            count
        });
        open.unwrap_or(count)
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
            layout: &self.layout,
        };
        Some(work(split, &mut self.views, &mut frames))
    }

    /// Frames that the split takes, by what for.
    #[must_use]
    pub fn split_frames(&self) -> Vec<(&'static str, u64)> {
        let split = self.split.as_deref();
        let used = split.map(|split| split.frames(&self.views));
        let used = used.map(|(tables, pages)| [("tables", tables.0), ("pages", pages.0)]);
        used.into_iter().flatten().collect()
    }

    /// Makes the views of the split what they were before the guest began.
    pub fn forget_split(&mut self) {
        self.with_split(|split, views, frames| split.forget(views, frames));
    }
}

impl Sides for Host {
    fn side(&self) -> Side {
        let here = self.read(field::EPT_POINTER);
        let mut sides = Side::ALL.into_iter().zip(self.vm.sides.iter().flatten());
        let found = sides.find_map(|(side, root)| (root.raw() == here).then_some(side));
        found.unwrap_or(Side::Base)
    }

    fn enter_side(&mut self, side: Side) {
        let Some([base, kernel, _]) = &self.vm.sides else {
            unreachable!("a VM without the split has one view");
        };
        let root = match side {
            Side::Base => base,
            Side::Kernel => kernel,
            Side::User => unreachable!("`enter_user` is the way there"),
        };
        self.write(field::EPT_POINTER, root.raw());
    }

    fn place(&mut self, gpa: Gpa) -> Place {
        let side = self.side();
        let mut own = self.vm.memory.lock();
        let place =
            own.with_split(|split, views, frames| split.place_now(side, gpa, views, frames));
        place.unwrap_or(Place::Elsewhere)
    }

    fn begin_split(&mut self, kernel: KernelEntry, table: Gpa) -> Result<Gpa, StopReason> {
        let mut own = self.vm.memory.lock();
        let begun =
            own.with_split(|split, views, frames| split.begin(kernel, table, views, frames));
        self.judge(begun.unwrap_or(Ok(table)))
    }

    fn forget_split(&mut self) {
        self.vm.memory.lock().forget_split();
    }

    fn admit(&mut self, half: &KernelHalf, named: &Named<'_>) -> Result<(), StopReason> {
        let mut own = self.vm.memory.lock();
        let admitted = own.with_split(|split, views, frames| {
            split.admit(self.me, half, named, views, frames).map(drop)
        });
        self.judge(admitted.unwrap_or(Ok(())))
    }

    fn cover(&mut self, half: &KernelHalf) -> Result<(), StopReason> {
        let mut own = self.vm.memory.lock();
        let covered = own.with_split(|split, views, frames| split.cover(half, views, frames));
        self.judge(covered.unwrap_or(Ok(())))
    }

    fn conceal(&mut self, gpas: &[Gpa]) -> Result<(), HypercallError> {
        let mut own = self.vm.memory.lock();
        if own.sealed().is_some() {
            // A page may be in memory sealed alone: then there is none to wipe.
            return Err(HypercallError::Unsupported);
        }
        let concealed = own.with_split(|split, views, frames| {
            let fresh: Vec<_> = gpas.iter().filter(|gpa| !split.is_private(**gpa)).collect();
            let done = gpas
                .iter()
                .try_for_each(|gpa| split.conceal(*gpa, views, frames));
            if done.is_err() {
                // What was none before is none again; what cannot be revealed stays concealed.
                for gpa in fresh {
                    let _ = split.reveal(*gpa, views, frames);
                }
            }
            done
        });
        match concealed {
            Some(Ok(())) => Ok(()),
            None | Some(Err(Refusal::NoneAllowed)) => Err(HypercallError::Unsupported),
            Some(Err(Refusal::NotOrdinary)) => Err(HypercallError::BadArgument),
            Some(Err(Refusal::TooMany | Refusal::Views(_))) => Err(HypercallError::TooMany),
        }
    }

    fn reveal(&mut self, gpas: &[Gpa]) -> Result<(), HypercallError> {
        let mut own = self.vm.memory.lock();
        let revealed = own.with_split(|split, views, frames| {
            if !gpas.iter().all(|gpa| split.is_private(*gpa)) {
                return Err(HypercallError::BadArgument);
            }
            for gpa in gpas {
                let revealed = split.reveal(*gpa, views, frames);
                revealed.map_err(|_| HypercallError::TooMany)?;
            }
            Ok(())
        });
        revealed.unwrap_or(Err(HypercallError::Unsupported))
    }

    fn give_up(&mut self, gpa: Gpa) -> Result<(), StopReason> {
        let mut own = self.vm.memory.lock();
        let given = own.with_split(|split, views, frames| split.give_up(gpa, views, frames));
        self.judge(given.unwrap_or(Ok(false)).map(drop))
    }

    fn is_private(&mut self, gpa: Gpa) -> bool {
        self.vm.memory.lock().is_private(gpa)
    }

    fn finds_code(&self) -> bool {
        self.vm.finds_code
    }

    fn find_code(&mut self, gpa: Gpa) -> Result<Fetch, StopReason> {
        let mut own = self.vm.memory.lock();
        let found = own.with_split(|split, views, frames| split.find_code(gpa, views, frames));
        self.judge(found.unwrap_or(Ok(Fetch::Elsewhere)))
    }

    fn lose_code(&mut self, gpa: Gpa) -> Result<(), StopReason> {
        let mut own = self.vm.memory.lock();
        let lost = own.with_split(|split, views, frames| split.lose_code(gpa, views, frames));
        self.judge(lost.unwrap_or(Ok(())))
    }

    fn changes(&mut self) -> u64 {
        let mut own = self.vm.memory.lock();
        own.with_split(|split, _, _| split.changes()).unwrap_or(0)
    }

    fn splits(&self) -> bool {
        self.vm.sides.is_some()
    }

    fn enter_user(
        &mut self,
        table: Gpa,
        half: &KernelHalf,
        named: &Named<'_>,
    ) -> Result<bool, StopReason> {
        let Some([_, _, user]) = &self.vm.sides else {
            unreachable!("a VM without the split has one view");
        };
        let mut own = self.vm.memory.lock();
        let let_in = own.with_split(|split, views, frames| {
            split.let_in(self.me, table, half, named, views, frames)
        });
        let is_in = self.judge(let_in.unwrap_or(Ok(false)))?;
        if is_in {
            // While the memory is held: what a flush takes a vCPU out of, it does not come back to by what it was told before.
            self.write(field::EPT_POINTER, user.raw());
        }
        Ok(is_in)
    }

    fn switches(&self) -> bool {
        self.vm.switches.is_some()
    }

    fn open(&mut self, opening: &Opening<'_>) -> Result<(), StopReason> {
        let mut own = self.vm.memory.lock();
        let opened = own.with_split(|split, views, frames| {
            let opened = split.open(opening, views, frames)?;
            Ok(!opened && split.warn())
        });
        drop(own);
        if self.judge(opened.unwrap_or(Ok(false)))? {
            log::warn!(
                "VM \"{}\": no gates fit its kernel; going from user code to the kernel and back takes exits",
                self.vm.name
            );
        }
        Ok(())
    }

    fn makes_way(&mut self, gpa: Gpa) -> bool {
        let mut own = self.vm.memory.lock();
        own.with_split(|split, _, _| split.makes_way(gpa)) == Some(true)
    }

    fn way(&mut self) -> Option<Way> {
        let mut own = self.vm.memory.lock();
        own.with_split(|split, _, _| split.way(self.me)).flatten()
    }

    fn set_lstar(&mut self, value: u64) {
        // SAFETY: the address is canonical, as the trait wants it; the hypervisor executes no SYSCALL, and the register is switched with the vCPU.
        unsafe { wrmsr(LSTAR, value) };
    }
}

impl Host {
    /// Says why the split cannot go on, where it cannot.
    fn judge<T>(&self, done: Result<T, SplitError>) -> Result<T, StopReason> {
        done.map_err(|error| {
            log::error!("VM \"{}\": {error}", self.vm.name);
            StopReason::SplitLost
        })
    }
}
