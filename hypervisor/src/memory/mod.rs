//! The hypervisor's own memory: heap, stacks, page tables, and the windows through which it reaches guests.
//!
//! [`Reserved`] is taken from the firmware before boot services end. [`Memory`] is what the
//! hypervisor lives on afterwards: the ledger, its page tables, its pool of frames. Decisions are in
//! `bulkhead_core::{ledger, hostpt, table}`.

pub mod guest;
pub mod heap;
pub mod pool;
pub mod reserve;
pub mod stack;
pub mod tlb;
pub mod window;

use crate::arch::cpu;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Hpa, Hva};
use bulkhead_core::hostpt::{self, HostAttr, HostError, HostTables, Window};
use bulkhead_core::ledger::{
    FrameRun, Ledger, LedgerError, MemoryRange, Owner, Rights, SCRUB_FRAMES, State, VmId,
};
use bulkhead_core::table::PageSize;
use core::fmt;
use pool::Pool;
use reserve::Reserved;
use spin::{Mutex, MutexGuard, Once};

/// Where guest memory shows while the first CPU copies it: far above every physical address, so that it cannot meet an
/// identity mapping. Those of further CPUs follow, each in a page table of its own.
const WINDOW: Hva = Hva(0x7f00_0000_0000);
const WINDOW_STEP: u64 = SCRUB_FRAMES * FRAME_SIZE;

static MEMORY: Once<Mutex<Memory>> = Once::new();

/// Makes `memory` what [`lock`] gives.
pub fn install(memory: Memory) {
    MEMORY.call_once(|| Mutex::new(memory));
}

/// The hypervisor's memory, for as long as the guard lives.
///
/// # Panics
/// Before [`install`].
pub fn lock() -> MutexGuard<'static, Memory> {
    match MEMORY.get() {
        Some(memory) => memory.lock(),
        None => panic!("memory is used before it was set up"),
    }
}

/// What the hypervisor lives on.
pub struct Memory {
    /// Who owns which frame.
    pub ledger: Ledger<'static>,
    /// Frames for tables and VMX structures.
    pub pool: Pool,
    /// The hypervisor's own page tables.
    pub tables: HostTables,
    /// The image.
    pub image: FrameRun,
    /// Its sections.
    pub sections: Vec<hostpt::pe::Section>,
    /// The ledger's own frames.
    pub ledger_run: FrameRun,
    /// Whether the framebuffer is mapped.
    pub shows_screen: bool,
    /// Frames that VMs will take when they are started.
    promised: FrameCount,
}

/// Why the hypervisor cannot set up its own memory.
#[derive(Debug)]
pub enum MemoryError {
    /// The ledger refused.
    Ledger(LedgerError),
    /// The page tables refused.
    Tables(HostError),
    /// The image's sections are not what a PE loader makes.
    Image(hostpt::pe::PeError),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ledger(error) => error.fmt(f),
            Self::Tables(error) => error.fmt(f),
            Self::Image(error) => write!(f, "the image as the firmware loaded it: {error}"),
        }
    }
}

impl core::error::Error for MemoryError {}

impl From<LedgerError> for MemoryError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<HostError> for MemoryError {
    fn from(error: HostError) -> Self {
        Self::Tables(error)
    }
}

/// What has to be mapped besides what was reserved.
pub struct Surroundings<'a> {
    /// Kernels and initial RAM disks, read-only.
    pub payloads: &'a [FrameRun],
    /// The framebuffer.
    pub framebuffer: Option<FrameRun>,
    /// Whether the processor has 1 GiB pages.
    pub gigabyte_pages: bool,
    /// Code below 1 MiB that further CPUs start in.
    pub start_code: Option<FrameRun>,
    /// How many CPUs there are, each with a window of its own.
    pub cpus: usize,
}

impl Memory {
    /// Enters every frame into the ledger and builds the hypervisor's page tables; they are not in use yet.
    ///
    /// # Errors
    /// What the firmware's map or the image's headers make impossible.
    pub fn build(
        reserved: Reserved,
        ranges: impl Iterator<Item = MemoryRange>,
        around: &Surroundings<'_>,
    ) -> Result<(Self, Vec<Window>), MemoryError> {
        let mut ledger = Ledger::new(reserved.ledger, ranges);
        let mut pool = reserved.pool;
        let largest = if around.gigabyte_pages {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        };
        let mut tables = HostTables::new(&mut pool, largest)?;

        let image = hostpt::pe::Image::parse(reserved.image_header, reserved.image)
            .map_err(MemoryError::Image)?;
        ledger.claim_hypervisor(image.run())?;
        let mut sections = Vec::new();
        for section in image.sections() {
            let section = section.map_err(MemoryError::Image)?;
            sections.push(section);
            let attr = HostAttr {
                access: section.access,
                ..HostAttr::DATA
            };
            let right = ledger.grant_own(section.run, section.access.rights())?;
            tables
                .identity(&mut pool, right, attr)
                .map_err(|rejected| rejected.error)?;
        }
        let own = [reserved.ledger_run, reserved.pool_run];
        for run in reserved.heap.into_iter().chain(own) {
            ledger.claim_hypervisor(run)?;
            let right = ledger.grant_own(run, Rights::READ | Rights::WRITE)?;
            tables
                .identity(&mut pool, right, HostAttr::DATA)
                .map_err(|rejected| rejected.error)?;
        }
        for run in reserved.stacks {
            ledger.claim_hypervisor(run)?;
            let right = ledger.grant_own(run, Rights::READ | Rights::WRITE)?;
            let guard = tables
                .stack(&mut pool, right)
                .map_err(|rejected| rejected.error)?;
            // The guard's frame stays the hypervisor's and is never mapped.
            ledger.surrender(guard);
        }
        if let Some(run) = around.start_code {
            ledger.claim_hypervisor(run)?;
            let right = ledger.grant_own(run, Rights::READ | Rights::EXECUTE)?;
            let attr = HostAttr {
                access: hostpt::Access::ReadExecute,
                ..HostAttr::DATA
            };
            tables
                .identity(&mut pool, right, attr)
                .map_err(|rejected| rejected.error)?;
        }
        for &run in around.payloads {
            ledger.claim_payload(run)?;
            let right = ledger.grant_own(run, Rights::READ)?;
            tables
                .identity(&mut pool, right, HostAttr::RODATA)
                .map_err(|rejected| rejected.error)?;
        }
        // A framebuffer that the firmware describes wrongly costs the screen, not the boot.
        let shows_screen = around.framebuffer.is_some_and(|run| {
            ledger.grant_device(run).is_ok_and(|right| {
                tables
                    .identity(&mut pool, right, HostAttr::FRAMEBUFFER)
                    .is_ok()
            })
        });
        let mut windows = Vec::with_capacity(around.cpus);
        for cpu in 0..around.cpus as u64 {
            let at = Hva(WINDOW.0 + cpu * WINDOW_STEP);
            windows.push(tables.window(&mut pool, at, FrameCount(SCRUB_FRAMES))?);
        }
        let memory = Self {
            ledger,
            pool,
            tables,
            image: image.run(),
            sections,
            ledger_run: reserved.ledger_run,
            shows_screen,
            promised: FrameCount(0),
        };
        Ok((memory, windows))
    }

    /// Maps device registers where their addresses are equal, for as long as the machine runs.
    ///
    /// # Errors
    /// A frame is memory, beyond what the processor can name, or mapped already, or no frame is left for tables.
    pub fn map_device(&mut self, run: FrameRun, attr: HostAttr) -> Result<(), MemoryError> {
        let limit = 1 << (cpu::physical_bits().clamp(32, 52) - 12);
        let end = run.first.0.checked_add(run.count.0);
        if end.is_none_or(|end| end > limit) {
            return Err(LedgerError::BeyondEnd(run).into());
        }
        let right = self.ledger.grant_device(run)?;
        let Self { tables, pool, .. } = self;
        tables.identity(pool, right, attr).map_err(|rejected| {
            self.ledger.surrender(rejected.right);
            rejected.error.into()
        })
    }

    /// Promises `count` frames to a VM, for each of its lives: no VM is refused its memory because of another one.
    ///
    /// # Errors
    /// With what was promised before it is more than there is.
    pub fn promise(&mut self, count: FrameCount) -> Result<(), LedgerError> {
        let available = self.ledger.available_to_vms().0;
        let available = available.saturating_sub(self.promised.0);
        if count.0 > available {
            return Err(LedgerError::OutOfFrames {
                wanted: count,
                available: FrameCount(available),
            });
        }
        self.promised.0 += count.0;
        Ok(())
    }

    /// A VM took the `count` frames that were promised to it, and keeps them.
    pub fn redeem(&mut self, count: FrameCount) {
        self.promised.0 -= count.0;
    }

    /// Zeroes what is dirty of `run`, through this CPU's window, and says how many frames that were.
    ///
    /// # Errors
    /// The run leaves the ledger.
    pub fn scrub(&mut self, run: FrameRun) -> Result<FrameCount, LedgerError> {
        self.ledger.scrub(run, &mut window::Scrubber)
    }

    /// How many of the frames in `runs`, which are `vm`'s, are in each state, by name, those there are any of.
    pub fn frames_by_state(
        &self,
        vm: VmId,
        runs: impl Iterator<Item = FrameRun>,
    ) -> Vec<(&'static str, u64)> {
        let mut counts = [0; State::COUNT];
        for (run, owner, state) in runs.flat_map(|run| self.ledger.runs(run)) {
            if owner == Owner::Vm(vm)
                && let Some(count) = counts.get_mut(state as usize)
            {
                *count += run.count.0;
            }
        }
        State::ALL
            .into_iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| (state.name(), count))
            .collect()
    }

    /// The physical address of the top-level table.
    #[must_use]
    pub const fn root(&self) -> Hpa {
        self.tables.root()
    }
}

/// The frames that hold `bytes` bytes from `start`.
#[must_use]
pub const fn frames_of(start: u64, bytes: u64) -> FrameRun {
    let first = Frame::containing(Hpa(start));
    let end = start.saturating_add(bytes);
    FrameRun::new(first, FrameCount::covering(end - first.start().0))
}
