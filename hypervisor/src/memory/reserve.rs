//! What the hypervisor takes from the firmware before boot services end, so that nothing has to be found afterwards.
#![allow(unsafe_code, reason = "page allocations arrive as raw pointers")]

use super::pool::Pool;
use super::{frames_of, heap, stack};
use crate::arch::descriptor::StackTops;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, FrameCount, Hpa, SIZE_1G, SIZE_2M};
use bulkhead_core::ledger::{Entry, FrameRun, MemoryRange};
use core::slice;
use uefi::boot::{self, AllocateType, MemoryType};
use uefi::mem::memory_map::MemoryMap;
use uefi::proto::loaded_image::LoadedImage;

/// Frames for page tables, EPT tables, VMX regions and bitmaps: a base, and one for each so many frames of the machine,
/// which is far more than tables of large pages need.
const POOL_BASE: u64 = 96;
const FRAMES_PER_POOL_FRAME: u64 = 8192;
/// Frames for each further CPU: its VMXON region, the page table of its window.
const POOL_PER_CPU: u64 = 2;
/// Frames for each vCPU: its VMCS.
const POOL_PER_VCPU: u64 = 1;
/// Frames for each VT-d unit: root table, queue, answers, interrupts, and a context table for each of some buses.
const POOL_PER_UNIT: u64 = 32;
/// Frames for each window to configuration space: the page tables that show it.
const POOL_PER_WINDOW: u64 = 2;
/// Frames for each real device of a VM: the page tables that show its registers and, at the first, those of its VM's domain.
const POOL_PER_DEVICE: u64 = 32;
/// Frames for each 2 MiB of encrypted memory: the table of a view that shows it page by page. One for each GiB comes to that.
const POOL_PER_2_MIB: u64 = 1;
/// The pool holds the page tables that a CPU in protected mode loads: 32 bits name them.
const POOL_LIMIT: u64 = 1 << 32;
/// A start-up interrupt names a page below this.
const START_LIMIT: u64 = 1 << 20;
/// Frames of the stack the boot code and the control code run on.
const MAIN_STACK: FrameCount = FrameCount(32);
/// Frames of the stack the scheduler of a further CPU runs on.
const SCHEDULER_STACK: FrameCount = FrameCount(16);
/// Frames of each exception stack.
const EXCEPTION_STACK: FrameCount = FrameCount(8);
/// Frames of the stack VM exits are handled on.
const EXIT_STACK: FrameCount = FrameCount(16);

/// The tops of one CPU's stacks, one past the last byte.
#[derive(Clone, Copy, Debug)]
pub struct Stacks {
    /// Scheduler; on the first CPU also boot and control code.
    pub main: u64,
    /// VM exits.
    pub exit: u64,
    /// Exceptions that need a stack of their own.
    pub exceptions: StackTops,
}

/// Memory taken from the firmware.
pub struct Reserved {
    /// The ledger's entries.
    pub ledger: &'static mut [Entry],
    /// The frames that hold them.
    pub ledger_run: FrameRun,
    /// Frames to hand out.
    pub pool: Pool,
    /// The frames that the pool hands out.
    pub pool_run: FrameRun,
    /// The heap's blocks.
    pub heap: Vec<FrameRun>,
    /// The stacks, each with its guard page lowest.
    pub stacks: Vec<FrameRun>,
    /// The stacks' tops, for each CPU.
    pub tops: Vec<Stacks>,
    /// A page below 1 MiB, where further CPUs begin; `None` where there are none, or no such page.
    pub start_page: Option<FrameRun>,
    /// Where the image lies.
    pub image: Hpa,
    /// The image's first page.
    pub image_header: &'static [u8],
}

/// What the machine has and the plan wants, as far as memory has to be set aside for it.
#[derive(Clone, Copy, Debug)]
pub struct Wants {
    /// CPUs of the machine.
    pub cpus: usize,
    /// vCPUs of all VMs.
    pub vcpus: u32,
    /// VT-d units.
    pub units: usize,
    /// Windows to configuration space.
    pub windows: usize,
    /// Real devices of all VMs.
    pub devices: usize,
    /// Bytes of encrypted RAM of all VMs.
    pub encrypted: u64,
    /// Tables of further views of all VMs.
    pub views: FrameCount,
    /// Frames for what a self-test does.
    pub selftest: u64,
}

/// Takes everything.
///
/// # Errors
/// The firmware's status when it has no memory or does not know the image.
pub fn reserve(wants: Wants) -> uefi::Result<Reserved> {
    let Wants {
        cpus,
        vcpus,
        units,
        windows,
        devices,
        encrypted,
        views,
        selftest,
    } = wants;
    let image = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle())?;
    let (image_base, _) = image.info();
    let image_base = image_base.cast::<u8>();
    // SAFETY: the firmware loaded the image there; its headers are at least a page, and stay.
    let image_header = unsafe { slice::from_raw_parts(image_base, FRAME_SIZE as usize) };

    let map = boot::memory_map(MemoryType::LOADER_DATA)?;
    let entries = bulkhead_core::ledger::memory_map::frames_needed(ranges(&map)).0 as usize;
    let ledger_run = take(FrameCount::covering((entries * size_of::<Entry>()) as u64))?;
    let ledger_start = (ledger_run.first.0 * FRAME_SIZE) as *mut Entry;
    for index in 0..entries {
        // SAFETY: the run was sized for this many entries and is ours alone.
        let entry = unsafe { ledger_start.add(index) };
        // SAFETY: as above; the memory holds no value yet that would have to be dropped.
        unsafe { entry.write(Entry::ABSENT) };
    }
    // SAFETY: every entry was just written; nothing else refers to the run.
    let ledger = unsafe { slice::from_raw_parts_mut(ledger_start, entries) };

    let pool_frames = POOL_BASE
        + entries as u64 / FRAMES_PER_POOL_FRAME
        + POOL_PER_CPU * cpus.saturating_sub(1) as u64
        + POOL_PER_VCPU * u64::from(vcpus)
        + POOL_PER_UNIT * units as u64
        + POOL_PER_WINDOW * windows as u64
        + POOL_PER_DEVICE * devices as u64
        + POOL_PER_2_MIB * encrypted.div_ceil(SIZE_2M)
        + encrypted.div_ceil(SIZE_1G)
        + views.0
        + selftest;
    let pool_run = take_below(FrameCount(pool_frames), POOL_LIMIT)?;
    // SAFETY: the run is ours alone; the firmware maps all memory where its addresses are equal, and so do
    // the tables built from it.
    let pool = unsafe { Pool::new(pool_run) };

    let mut stacks = Vec::new();
    let mut stack = |frames: FrameCount| -> uefi::Result<u64> {
        let run = take(FrameCount(frames.0 + 1))?;
        let top = run.end().0 * FRAME_SIZE;
        stack::register((run.first.0 + 1) * FRAME_SIZE, top);
        stacks.push(run);
        Ok(top)
    };
    let mut tops = Vec::with_capacity(cpus);
    for cpu in 0..cpus {
        let main = if cpu == 0 {
            MAIN_STACK
        } else {
            SCHEDULER_STACK
        };
        tops.push(Stacks {
            main: stack(main)?,
            exit: stack(EXIT_STACK)?,
            exceptions: StackTops {
                nmi: stack(EXCEPTION_STACK)?,
                double_fault: stack(EXCEPTION_STACK)?,
                machine_check: stack(EXCEPTION_STACK)?,
            },
        });
    }
    let start_page = if cpus > 1 {
        take_below(FrameCount(1), START_LIMIT).ok()
    } else {
        None
    };
    Ok(Reserved {
        ledger,
        ledger_run,
        pool,
        pool_run,
        heap: heap::blocks()
            .map(|(start, bytes)| frames_of(start, bytes))
            .collect(),
        stacks,
        tops,
        start_page,
        image: Hpa(image_base as u64),
        image_header,
    })
}

/// The firmware's memory map as the ledger takes it.
pub fn ranges(map: &impl MemoryMap) -> impl Iterator<Item = MemoryRange> + '_ {
    map.entries()
        .map(|entry| MemoryRange::from_uefi(entry.ty.0, entry.phys_start, entry.page_count))
}

fn take(frames: FrameCount) -> uefi::Result<FrameRun> {
    allocate(AllocateType::AnyPages, frames)
}

/// Frames that end at or below `limit`.
fn take_below(frames: FrameCount, limit: u64) -> uefi::Result<FrameRun> {
    allocate(AllocateType::MaxAddress(limit - 1), frames)
}

fn allocate(place: AllocateType, frames: FrameCount) -> uefi::Result<FrameRun> {
    let start = boot::allocate_pages(place, MemoryType::LOADER_DATA, frames.0 as usize)?;
    Ok(frames_of(start.as_ptr() as u64, frames.0 * FRAME_SIZE))
}
