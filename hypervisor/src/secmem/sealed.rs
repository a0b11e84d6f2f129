//! What an encrypted VM has beside its frames and its view.

use super::keys::{self, KeyError, Keys};
use super::sealer::FrameSealer;
use crate::arch::cpu::rdtsc;
use crate::memory::window;
use crate::vm::machine;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, FrameCount, Gpa};
use bulkhead_core::backing::Backing;
use bulkhead_core::events::{SecmemCounters, SecmemSample};
use bulkhead_core::fault::StopReason;
use bulkhead_core::ledger::{KeyId, VmId};
use bulkhead_core::manifest::{Encryption, Plan, VmName, VmPlan};
use bulkhead_core::secmem::tmemk::HardwareKey;
use bulkhead_core::secmem::{Life, Mapper, PageMap, RamRange, Records, Refusal, Space};
use bulkhead_core::views::Views;
use guest_loader::MemoryLayout;

/// Of so many exits that are no plain ones, one is a sample.
const EXITS_A_SAMPLE: u32 = 64;
/// Samples begin once the VM used so many times its window: before that the window is most of what it used.
const WINDOWS_BEFORE_SAMPLES: u64 = 12;
/// Sealed pages that are looked at in each sample.
const LOOKED_AT: u64 = 16;

/// The sealing of one VM's memory, in all its lives.
pub struct Sealed {
    vm: VmId,
    name: VmName,
    window: Option<FrameCount>,
    ram: Vec<RamRange>,
    /// Between two lives.
    records: Option<Records>,
    alive: Option<Alive>,
    /// The key that the memory controllers have for its frames in this life, besides.
    hardware: Option<HardwareKey>,
    samples: Samples,
}

/// One life.
struct Alive {
    life: Life<Keys>,
    space: Space,
    ticks: Ticks,
}

/// Where the time for pages went, in ticks.
#[derive(Clone, Copy, Default)]
struct Ticks {
    unseal: u64,
    seal: u64,
    other: u64,
}

/// Which exits are samples.
struct Samples {
    left: u32,
    /// Exits until the next one.
    until: u32,
    random: u64,
}

impl Sealed {
    /// For VM `vm`; `None` where the plan asks for no encryption.
    #[must_use]
    pub fn of_plan(vm: VmId, plan: &VmPlan, layout: &MemoryLayout) -> Option<Self> {
        let (window, samples) = match plan.encryption {
            Encryption::Off => return None,
            Encryption::AtRest => (None, 0),
            Encryption::Window { size, samples } => {
                (Some(FrameCount::covering(size.bytes())), samples)
            }
        };
        let pages = FrameCount::covering(plan.total_memory().bytes()).0;
        let ram = layout.ram_ranges().map(|range| RamRange {
            gpa: range.start,
            count: FrameCount(range.len() / FRAME_SIZE),
        });
        Some(Self {
            vm,
            name: plan.name.clone(),
            window,
            ram: ram.collect(),
            records: Some(Records::new(pages, window)),
            alive: None,
            hardware: None,
            samples: Samples {
                left: samples,
                until: EXITS_A_SAMPLE,
                random: 0x9e37_79b9_7f4a_7c15,
            },
        })
    }

    /// What its VM is called.
    #[must_use]
    pub const fn name(&self) -> &VmName {
        &self.name
    }

    /// Keeps the memory controllers' key for its frames, where there is one.
    pub fn set_hardware_key(&mut self, key: Option<HardwareKey>) {
        self.hardware = key;
    }

    /// That key, to be erased.
    pub const fn take_hardware_key(&mut self) -> Option<HardwareKey> {
        self.hardware.take()
    }

    /// Begins a life in memory that is all zero and mapped nowhere: a new key.
    ///
    /// # Errors
    /// There is no key.
    pub fn begin(&mut self) -> Result<KeyId, KeyError> {
        let life = window::with_save_area(|area| keys::begin_life(self.vm, area))?;
        let number = life.id();
        let records = self.records.take();
        let Some(records) = records else {
            unreachable!("a life begins while another goes on");
        };
        self.alive = Some(Alive {
            space: Space::new(self.vm, number, self.window, records),
            life,
            ticks: Ticks::default(),
        });
        Ok(number)
    }

    /// Ends a life: its key is wiped. What it was, and what happened in it; `None` where none goes on.
    pub fn end(&mut self) -> Option<SecmemCounters> {
        let counters = self.counters()?;
        let Alive { life, space, .. } = self.alive.take()?;
        drop(life);
        self.records = Some(space.end());
        Some(counters)
    }

    /// What happened in this life.
    #[must_use]
    pub fn counters(&self) -> Option<SecmemCounters> {
        let Alive { life, space, ticks } = self.alive.as_ref()?;
        Some(SecmemCounters {
            key: life.id(),
            counts: space.counts(),
            touched: space.touched(),
            readable: space.readable(),
            unseal_ticks: ticks.unseal,
            seal_ticks: ticks.seal,
            other_ticks: ticks.other,
        })
    }

    /// How many pages are readable.
    #[must_use]
    pub fn readable(&self) -> u64 {
        self.alive
            .as_ref()
            .map_or(0, |alive| alive.space.readable())
    }

    /// Where pages are.
    #[must_use]
    pub fn map<'a>(&'a self, backing: &'a Backing) -> PageMap<'a> {
        PageMap {
            backing,
            ram: &self.ram,
        }
    }

    /// Makes a page readable.
    ///
    /// # Errors
    /// Why the VM cannot go on.
    pub fn bring(
        &mut self,
        page: u64,
        views: &mut Views,
        backing: &Backing,
    ) -> Result<(), StopReason> {
        let gpa = self.map(backing).gpa(page);
        self.work(views, backing, |space, mapper, sealer| {
            space.present(page, mapper, sealer).map(drop)
        })
        .map_err(|refusal| reason(&refusal, gpa))
    }

    /// Seals a piece of what is readable; true where there is more.
    ///
    /// # Errors
    /// Why the VM cannot go on.
    pub fn seal(&mut self, views: &mut Views, backing: &Backing) -> Result<bool, StopReason> {
        self.work(views, backing, |space, mapper, sealer| {
            space.seal_some(mapper, sealer)
        })
        .map_err(|refusal| reason(&refusal, Gpa(0)))
    }

    /// Works on the present life, and counts the ticks that it takes.
    fn work<T>(
        &mut self,
        views: &mut Views,
        backing: &Backing,
        work: impl FnOnce(&mut Space, &mut Mapper<'_>, &mut FrameSealer<'_>) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let begin = rdtsc();
        let Some(Alive { life, space, ticks }) = &mut self.alive else {
            return Err(Refusal::NoPage);
        };
        let mut mapper = Mapper {
            views,
            mtrrs: &machine().mtrrs,
            pages: PageMap {
                backing,
                ram: &self.ram,
            },
        };
        let mut sealer = FrameSealer {
            keys: life.key(),
            vm: self.vm,
            unseal_ticks: 0,
            seal_ticks: 0,
        };
        let done = work(space, &mut mapper, &mut sealer);
        let all = rdtsc().wrapping_sub(begin);
        ticks.unseal += sealer.unseal_ticks;
        ticks.seal += sealer.seal_ticks;
        ticks.other += all.saturating_sub(sealer.unseal_ticks + sealer.seal_ticks);
        done
    }

    /// Whether exits of the VM are to be told to [`Sealed::sample`].
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.samples.left > 0
    }

    /// The VM exited. Where that exit is a sample: what is sealed by the ledger, and whether what lies in some of these frames is what was
    /// sealed there.
    pub fn sample(&mut self, backing: &Backing) -> Option<SecmemSample> {
        let Alive { life, space, .. } = self.alive.as_ref()?;
        let samples = &mut self.samples;
        let window = self.window?;
        if samples.left == 0 || space.touched() < WINDOWS_BEFORE_SAMPLES * window.0 {
            return None;
        }
        samples.until -= 1;
        if samples.until > 0 {
            return None;
        }
        samples.until = EXITS_A_SAMPLE;
        samples.left -= 1;
        let pages = PageMap {
            backing,
            ram: &self.ram,
        };
        let mut sealer = FrameSealer {
            keys: life.key(),
            vm: self.vm,
            unseal_ticks: 0,
            seal_ticks: 0,
        };
        let survey = space.survey(pages, &mut sealer);
        let (mut verified, mut failed) = (0, 0);
        while verified + failed < LOOKED_AT.min(survey.sealed) {
            // xorshift64: which pages are looked at is nobody's secret.
            samples.random ^= samples.random << 13;
            samples.random ^= samples.random >> 7;
            samples.random ^= samples.random << 17;
            match space.check(samples.random % pages.pages(), pages, &mut sealer) {
                Some(true) => verified += 1,
                Some(false) => failed += 1,
                None => {}
            }
        }
        Some(SecmemSample {
            touched: survey.touched,
            sealed: survey.sealed,
            readable: survey.readable,
            verified,
            failed,
        })
    }
}

/// How much heap the sealing of a VM needs.
#[must_use]
pub fn heap_needed(plan: &VmPlan) -> usize {
    let window = match plan.encryption {
        Encryption::Off => return 0,
        Encryption::AtRest => None,
        Encryption::Window { size, .. } => Some(FrameCount::covering(size.bytes())),
    };
    let pages = FrameCount::covering(plan.total_memory().bytes()).0;
    // Keys and their schedules beside it.
    Records::bytes(pages, window) as usize + (16 << 10)
}

/// Bytes of RAM of the VMs that are encrypted.
#[must_use]
pub fn encrypted_bytes(plan: &Plan) -> u64 {
    let encrypted = plan
        .vms
        .iter()
        .filter(|vm| vm.encryption != Encryption::Off);
    encrypted.fold(0, |sum, vm| sum.saturating_add(vm.memory.bytes()))
}

/// What the VM is stopped for; particulars that no event has go to the log.
fn reason(refusal: &Refusal, gpa: Gpa) -> StopReason {
    match refusal {
        Refusal::Tampered { gpa, .. } => {
            log::error!("{refusal}");
            StopReason::Integrity { gpa: *gpa }
        }
        _ => {
            log::error!("the page at {gpa} cannot be brought back: {refusal}");
            StopReason::PageLost { gpa }
        }
    }
}
