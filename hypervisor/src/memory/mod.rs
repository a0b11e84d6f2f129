//! The hypervisor's own memory: heap, stacks, page tables, and the window through which it reaches guests.
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

use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Hpa, Hva};
use bulkhead_core::hostpt::{self, HostAttr, HostError, HostTables, Window};
use bulkhead_core::ledger::{
    FrameRun, Ledger, LedgerError, MapRight, MemoryRange, Owner, Rights, SCRUB_FRAMES, Scrub,
    State, VmId,
};
use bulkhead_core::table::PageSize;
use core::fmt;
use pool::Pool;
use reserve::Reserved;
use tlb::HostTlb;

/// Where guest memory shows while it is copied: far above every physical address, so that it cannot meet an
/// identity mapping.
const WINDOW: Hva = Hva(0x7f00_0000_0000);

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
    window: Window,
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
    ) -> Result<Self, MemoryError> {
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
        for run in [reserved.heap, reserved.ledger_run, reserved.pool_run] {
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
        let window = tables.window(&mut pool, WINDOW, FrameCount(SCRUB_FRAMES))?;
        Ok(Self {
            ledger,
            pool,
            tables,
            image: image.run(),
            sections,
            ledger_run: reserved.ledger_run,
            shows_screen,
            window,
        })
    }

    /// Shows the frames of `right` while `copy` runs; it gets where they show and how many bytes they are.
    /// Where the window refuses the right, it ends.
    pub fn with_window<T>(
        &mut self,
        right: MapRight,
        copy: impl FnOnce(*mut u8, usize) -> T,
    ) -> Result<(T, MapRight), HostError> {
        let bytes = (right.run().count.0 * FRAME_SIZE) as usize;
        match self.window.open(&mut self.pool, right) {
            Ok(at) => {
                let result = copy(at.0 as *mut u8, bytes);
                match self.window.close(&mut self.pool, &mut HostTlb) {
                    Some(right) => Ok((result, right)),
                    None => unreachable!("the window was open"),
                }
            }
            Err(rejected) => {
                self.ledger.surrender(rejected.right);
                Err(rejected.error)
            }
        }
    }

    /// Zeroes what is dirty of `run`.
    ///
    /// # Errors
    /// The run leaves the ledger.
    pub fn scrub(&mut self, run: FrameRun) -> Result<(), LedgerError> {
        let Self {
            ledger,
            pool,
            window,
            ..
        } = self;
        ledger.scrub(run, &mut Scrubber { pool, window })
    }

    /// How many of the frames in `runs`, which are `vm`'s, are in each state, by name, those there are any of.
    pub fn frames_by_state(&self, vm: VmId, runs: &[FrameRun]) -> Vec<(&'static str, u64)> {
        let mut counts = [0; State::COUNT];
        for (run, owner, state) in runs.iter().flat_map(|run| self.ledger.runs(*run)) {
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

/// Zeroes frames through the window.
struct Scrubber<'a> {
    pool: &'a mut Pool,
    window: &'a mut Window,
}

#[allow(unsafe_code, reason = "writes through the window")]
impl Scrub for Scrubber<'_> {
    fn scrub(&mut self, right: MapRight) -> MapRight {
        let bytes = (right.run().count.0 * FRAME_SIZE) as usize;
        match self.window.open(self.pool, right) {
            Ok(at) => {
                // SAFETY: the window shows these frames, writable, and nothing else refers to them.
                unsafe { (at.0 as *mut u8).write_bytes(0, bytes) };
                match self.window.close(self.pool, &mut HostTlb) {
                    Some(right) => right,
                    None => unreachable!("the window was open"),
                }
            }
            Err(rejected) => panic!("frames cannot be scrubbed: {}", rejected.error),
        }
    }
}

/// The frames that hold `bytes` bytes from `start`.
#[must_use]
pub const fn frames_of(start: u64, bytes: u64) -> FrameRun {
    let first = Frame::containing(Hpa(start));
    FrameRun::new(first, FrameCount::covering(start + bytes - first.start().0))
}
