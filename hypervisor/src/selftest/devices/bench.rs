//! The machine as the device tests have it.
#![allow(unsafe_code, reason = "reaches device registers and shown frames")]

use super::Unmet;
use crate::arch::cpu::rdtsc;
use crate::iommu::Iommu;
use crate::iommu::tables::IoTables;
use crate::memory::{Memory, frames_of, window};
use alloc::format;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use bulkhead_core::hostpt::HostAttr;
use bulkhead_core::ledger::{FrameRun, Owner, Request, Rights, VmId};
use bulkhead_core::pci::register::{COMMAND, Command};
use bulkhead_core::pci::{Address, ConfigAccess, DeviceId, Function, Width};
use bulkhead_core::vtd::domain::IoDomain;
use bulkhead_core::vtd::fault::FaultRecord;
use bulkhead_core::vtd::second_level::DmaPerms;
use bulkhead_selftest::{Clock, DmaMemory, Registers};
use core::ptr;

/// The VM whose device attacks, and the one that it attacks.
pub(super) const ATTACKER: VmId = VmId(0);
pub(super) const VICTIM: VmId = VmId(1);
/// Where a device finds what it was given: no frame's own address.
pub(super) const GIVEN: Gpa = Gpa(0x70_0000_0000);

/// Everything.
pub(super) struct Bench<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) iommu: &'a mut Iommu,
    pub(super) tsc_khz: u32,
}

/// What units recorded.
pub(super) struct Seen {
    pub(super) records: Vec<FaultRecord>,
    /// There was more.
    pub(super) lost: bool,
}

impl Seen {
    /// Nothing at all was recorded.
    pub(super) fn none(&self) -> Result<(), Unmet> {
        match self.records.first() {
            None if !self.lost => Ok(()),
            None => Err(Unmet::Failed("faults that were not recorded".into())),
            Some(fault) => Err(Unmet::Failed(format!("{fault}"))),
        }
    }
}

/// A device under test, its registers mapped.
#[derive(Clone, Copy)]
pub(super) struct Device {
    pub(super) function: Address,
    pub(super) registers: Mapped,
}

/// Registers where physical addresses are mapped as they are.
#[derive(Clone, Copy)]
pub(super) struct Mapped {
    base: *mut u8,
    bytes: u64,
}

impl Mapped {
    fn at<T>(&self, at: u32) -> *mut T {
        let fits = u64::from(at) + size_of::<T>() as u64 <= self.bytes;
        assert!(fits, "a register beyond the base address");
        self.base.wrapping_add(at as usize).cast()
    }
}

impl Registers for Mapped {
    fn read32(&mut self, at: u32) -> u32 {
        // SAFETY: within a base address of the device, which `Bench::device` mapped; aligned by the driver.
        unsafe { self.at::<u32>(at).read_volatile() }
    }

    fn write32(&mut self, at: u32, value: u32) {
        // SAFETY: as above; what the device then does to memory is what the units are there for.
        unsafe { self.at::<u32>(at).write_volatile(value) }
    }

    fn write64(&mut self, at: u32, value: u64) {
        // SAFETY: as above.
        unsafe { self.at::<u64>(at).write_volatile(value) }
    }
}

/// The processor's clock.
pub(super) struct TscClock(pub(super) u32);

impl Clock for TscClock {
    fn now_us(&mut self) -> u64 {
        rdtsc() / (u64::from(self.0) / 1_000).max(1)
    }

    fn pause(&mut self) {
        core::hint::spin_loop();
    }
}

/// Frames of a VM, as its device names them.
pub(super) struct Shared<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) vm: VmId,
    pub(super) at: Gpa,
    pub(super) run: FrameRun,
}

impl DmaMemory for Shared<'_> {
    fn read(&mut self, at: u64, into: &mut [u8]) {
        let (run, offset, length) = self.find(at, into.len());
        let target = into.as_mut_ptr();
        copy(self.memory, self.vm, run, &mut |shown| {
            // SAFETY: `find` saw that the bytes lie in the run, which is shown; the device may write meanwhile: they are
            // copied, never referred to.
            unsafe { ptr::copy_nonoverlapping(shown.wrapping_add(offset), target, length) };
        });
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let (run, offset, length) = self.find(at, bytes.len());
        let source = bytes.as_ptr();
        copy(self.memory, self.vm, run, &mut |shown| {
            // SAFETY: as above, the other way round.
            unsafe { ptr::copy_nonoverlapping(source, shown.wrapping_add(offset), length) };
        });
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
}

impl Shared<'_> {
    /// The frames that hold these bytes, and where in them.
    fn find(&self, at: u64, length: usize) -> (FrameRun, usize, usize) {
        let first = at.saturating_sub(self.at.0);
        let last = first.saturating_add(length as u64);
        let all = self.run.count.0 * FRAME_SIZE;
        assert!(at >= self.at.0 && last <= all, "outside the shared frames");
        let frame = Frame(self.run.first.0 + first / FRAME_SIZE);
        let offset = (first % FRAME_SIZE) as usize;
        let count = FrameCount::covering((offset + length) as u64);
        (FrameRun::new(frame, count), offset, length)
    }
}

/// Shows frames of `vm` while `work` runs.
fn copy(memory: &mut Memory, vm: VmId, run: FrameRun, work: &mut dyn FnMut(*mut u8)) {
    let right = memory
        .ledger
        .grant_window(vm, run, Rights::READ | Rights::WRITE);
    match right {
        Ok(right) => {
            let (shown, right) = window::show(right, |shown, _| work(shown));
            memory.ledger.surrender(right);
            if let Err(error) = shown {
                panic!("frames of the test cannot be shown: {error}");
            }
        }
        Err(error) => panic!("frames of the test cannot be shown: {error}"),
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        memory: &'a mut Memory,
        iommu: &'a mut Iommu,
        tsc_khz: u32,
    ) -> Result<Self, Unmet> {
        if tsc_khz < 1_000 {
            return Err(Unmet::Skipped("the clock is too slow to wait by"));
        }
        Ok(Self {
            memory,
            iommu,
            tsc_khz,
        })
    }

    /// The first function that is `wanted`, decoding memory and mapped. It may use the bus from here on.
    pub(super) fn device(
        &mut self,
        wanted: &dyn Fn(&Function) -> bool,
        missing: &'static str,
    ) -> Result<Device, Unmet> {
        let mut functions = self.iommu.inventory().functions().iter();
        let found = functions.find(|function| wanted(function));
        let found = found.ok_or(Unmet::Skipped(missing))?;
        let bar = found.bar(0).filter(|bar| bar.kind.is_memory());
        let bar = *bar.ok_or(Unmet::Skipped("the device has no memory base address"))?;
        let function = found.address;
        self.memory
            .map_device(frames_of(bar.base, bar.size), HostAttr::DEVICE)?;
        let config = self.iommu.config();
        let raw = config.read(function, COMMAND.into(), Width::Word) as u16;
        let command = Command::from_bits_retain(raw) | Command::MEMORY;
        let raw = u32::from(command.bits());
        config.write(function, COMMAND.into(), Width::Word, raw);
        self.iommu.functions().force_master(function, true);
        Ok(Device {
            function,
            registers: Mapped {
                base: ptr::with_exposed_provenance_mut(bar.base as usize),
                bytes: bar.size,
            },
        })
    }

    /// Whether the function may use the bus by itself.
    pub(super) fn is_master(&mut self, function: Address) -> bool {
        let raw = self
            .iommu
            .config()
            .read(function, COMMAND.into(), Width::Word) as u16;
        Command::from_bits_retain(raw).contains(Command::MASTER)
    }

    /// `count` frames in a row of `vm`, zeroed.
    pub(super) fn frames(&mut self, vm: VmId, request: Request) -> Result<FrameRun, Unmet> {
        let run = self.memory.ledger.alloc_run(Owner::Vm(vm), request)?;
        self.memory.scrub(run)?;
        Ok(run)
    }

    /// Gives frames back.
    pub(super) fn free(&mut self, vm: VmId, run: FrameRun) -> Result<(), Unmet> {
        Ok(self.memory.ledger.free(Owner::Vm(vm), run)?)
    }

    /// An empty domain of the attacker's for `function`.
    pub(super) fn domain(&mut self, function: Address) -> Result<IoDomain, Unmet> {
        let shape = self.iommu.shape_for(&[function])?;
        let mut tables = IoTables::new(&mut self.memory.pool, shape.coherent);
        Ok(IoDomain::new(ATTACKER, shape, &mut tables)?)
    }

    /// Maps frames of the attacker's where its device finds them. Seen by the units after the next flush.
    pub(super) fn map(
        &mut self,
        domain: &mut IoDomain,
        at: Gpa,
        run: FrameRun,
        perms: DmaPerms,
    ) -> Result<(), Unmet> {
        let Memory { ledger, pool, .. } = &mut *self.memory;
        let right = ledger.grant(ATTACKER, run, perms.rights())?;
        // Coherent or not: written back is never wrong.
        let mut tables = IoTables::new(pool, false);
        if let Err(rejected) = domain.map(&mut tables, at, right, perms) {
            ledger.surrender(rejected.right);
            return Err(rejected.error.into());
        }
        Ok(())
    }

    /// Takes everything within `count` frames from `at` out of the domain: the frames are not reached any more, and
    /// nothing maps them.
    pub(super) fn unmap(
        &mut self,
        domain: &mut IoDomain,
        at: Gpa,
        count: FrameCount,
    ) -> Result<(), Unmet> {
        let mut stale = Vec::new();
        let mut tables = IoTables::new(&mut self.memory.pool, false);
        while let Some(run) = domain.unmap_run(&mut tables, at, count)? {
            stale.push(run);
        }
        let flushed = self.iommu.flush(domain)?;
        let Memory { ledger, pool, .. } = &mut *self.memory;
        let mut tables = IoTables::new(pool, false);
        for run in stale {
            match run.flushed(&flushed, &mut tables) {
                Ok((_, right)) => ledger.surrender(right),
                Err(_) => return Err(Unmet::Failed("a flush proves nothing".into())),
            }
        }
        Ok(())
    }

    /// Ends a domain: everything unmapped, no device in it, its tables given back.
    pub(super) fn destroy(
        &mut self,
        mut domain: IoDomain,
        function: Option<Address>,
    ) -> Result<(), Unmet> {
        if let Some(function) = function {
            self.iommu.detach(self.memory, &mut domain, function)?;
        }
        let all = FrameCount(1 << 27);
        self.unmap(&mut domain, Gpa(0), all)?;
        let flushed = self.iommu.flush(&mut domain)?;
        let mut tables = IoTables::new(&mut self.memory.pool, false);
        let left = domain.destroy(&mut tables, &flushed);
        left.map_err(|_| Unmet::Failed("the domain is not empty".into()))
    }

    /// What units recorded since the last time.
    pub(super) fn faults(&mut self) -> Seen {
        let mut records = Vec::new();
        let lost = self
            .iommu
            .look(rdtsc(), &mut |record| records.push(*record));
        Seen { records, lost }
    }

    /// Fills a frame with words that no other frame has.
    pub(super) fn fill(&mut self, vm: VmId, frame: Frame, seed: u64) {
        let run = FrameRun::new(frame, FrameCount(1));
        copy(self.memory, vm, run, &mut |shown| {
            for index in 0..WORDS {
                // SAFETY: the frame is shown, writable, and `index` within it.
                unsafe {
                    shown
                        .cast::<u64>()
                        .wrapping_add(index)
                        .write_volatile(word(seed, index))
                };
            }
        });
    }

    /// Writes the first word of a frame.
    pub(super) fn set_word(&mut self, vm: VmId, frame: Frame, value: u64) {
        let run = FrameRun::new(frame, FrameCount(1));
        copy(self.memory, vm, run, &mut |shown| {
            // SAFETY: as above.
            unsafe { shown.cast::<u64>().write_volatile(value) };
        });
    }

    /// Sees that a frame holds what [`Self::fill`] gave it with this seed; names the first word that is not so, otherwise.
    pub(super) fn check(&mut self, vm: VmId, frame: Frame, seed: u64) -> Result<(), Unmet> {
        self.check_part(vm, frame, 0..WORDS, seed, 0)
    }

    /// The same for some words of it, which are to be those of the pattern from word `first` on.
    pub(super) fn check_part(
        &mut self,
        vm: VmId,
        frame: Frame,
        words: core::ops::Range<usize>,
        seed: u64,
        first: usize,
    ) -> Result<(), Unmet> {
        let run = FrameRun::new(frame, FrameCount(1));
        let mut wrong = None;
        copy(self.memory, vm, run, &mut |shown| {
            wrong = words.clone().enumerate().find_map(|(number, index)| {
                // SAFETY: as above.
                let found = unsafe { shown.cast::<u64>().wrapping_add(index).read_volatile() };
                (found != word(seed, first + number)).then_some((index, found))
            });
        });
        wrong.map_or(Ok(()), |(index, found)| {
            Err(Unmet::Failed(format!(
                "word {index} of {frame:?} is {found:#x}"
            )))
        })
    }
}

/// Words of a frame.
pub(super) const WORDS: usize = FRAME_SIZE as usize / size_of::<u64>();

/// Word `index` of the pattern `seed`.
pub(super) const fn word(seed: u64, index: usize) -> u64 {
    (seed << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether a function has this identifier.
pub(super) fn has_id(function: &Function, (vendor, device): (u16, u16)) -> bool {
    function.id == DeviceId { vendor, device }
}
