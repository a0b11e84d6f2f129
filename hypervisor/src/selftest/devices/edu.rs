//! The attacker: a device that transfers wherever it is told to.
//!
//! Each case begins with a pattern in every frame, so that a word that changed shows wherever it is.

use super::bench::{ATTACKER, Bench, Device, GIVEN, Seen, TscClock, VICTIM, WORDS, has_id};
use super::{Tally, Unmet, Verdict};
use crate::arch::cpu::rdtsc;
use crate::arch::exception::taken;
use crate::memory::Memory;
use crate::pcpu;
use alloc::format;
use bulkhead_core::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use bulkhead_core::ledger::{FrameRun, Request};
use bulkhead_core::pci::capability::CapabilityKind;
use bulkhead_core::pci::{Address, ConfigAccess, Width};
use bulkhead_core::table::TableMemory;
use bulkhead_core::vtd::SourceId;
use bulkhead_core::vtd::domain::IoDomain;
use bulkhead_core::vtd::fault::{Access, FaultRecord, Place};
use bulkhead_core::vtd::flood::FloodLimits;
use bulkhead_core::vtd::interrupt::message::Message;
use bulkhead_core::vtd::interrupt::{Destination, Handles, Remapped, Trigger};
use bulkhead_core::vtd::reason::FaultReason;
use bulkhead_core::vtd::second_level::DmaPerms;
use bulkhead_selftest::edu::{self, Direction, Edu};
use x86_64::instructions::interrupts;

/// As much as the device takes at a time, in whole words.
const BYTES: u32 = edu::BUFFER_BYTES & !7;
const MOVED: usize = BYTES as usize / size_of::<u64>();
/// Where the attacker's device finds what: one frame each.
const OUTBOX: Gpa = GIVEN;
const READ_ONLY: Gpa = Gpa(GIVEN.0 + 2 * FRAME_SIZE);
const INBOX: Gpa = Gpa(GIVEN.0 + 4 * FRAME_SIZE);
const FLEETING: Gpa = Gpa(GIVEN.0 + 6 * FRAME_SIZE);
/// Nothing is there.
const NOTHING: Gpa = Gpa(GIVEN.0 + 64 * FRAME_SIZE);
/// What goes wherever it should not.
const ATTACK: u64 = 0xa77a_c4ed;
/// Vectors that nothing else uses.
const OWN_VECTOR: u8 = 0x51;
const FORGED_VECTOR: u8 = 0x52;
const ANOTHERS_VECTOR: u8 = 0x53;
/// An index that nobody reserved: the last of the table.
const FREE_INDEX: u16 = 0xff;
/// How long an interrupt may take.
const PATIENCE_US: u64 = 50_000;
/// What a write to this page is: an interrupt.
const INTERRUPT_ADDRESS: u64 = 0xfee0_0000;

/// The attacker and what it may and may not reach.
struct Attacker {
    device: Device,
    outbox: Frame,
    /// Lies right behind `outbox`, and belongs to the other VM.
    victim: Frame,
    read_only: Frame,
    inbox: Frame,
    fleeting: Frame,
    /// The hypervisor's own.
    own: Frame,
}

/// Runs every case with units that translate.
pub(super) fn attack(bench: &mut Bench<'_>, tally: &mut Tally) {
    const CASES: [&str; 14] = [
        "edu-before-its-domain",
        "edu-inside-its-frames",
        "edu-another-vms-frame",
        "edu-reads-another-vms-frame",
        "edu-hypervisor-frame",
        "edu-unmapped-address",
        "edu-read-only-frame",
        "edu-after-unmap",
        "edu-across-a-page-boundary",
        "edu-own-interrupt",
        "edu-forged-interrupt",
        "edu-forged-handle",
        "edu-anothers-interrupt",
        "edu-flood",
    ];
    let attacker = match Attacker::prepare(bench) {
        Ok(attacker) => attacker,
        Err(Unmet::Failed(error)) => {
            tally.note("edu", Err(Unmet::Failed(error)));
            return;
        }
        Err(Unmet::Skipped(why)) => {
            for case in CASES {
                tally.note(case, Err(Unmet::Skipped(why)));
            }
            return;
        }
    };
    let mut cases = CASES.into_iter();
    let mut note = |verdict| {
        if let Some(case) = cases.next() {
            tally.note(case, verdict);
        }
    };
    note(attacker.before_its_domain(bench));
    let mut domain = match attacker.let_in(bench) {
        Ok(domain) => domain,
        Err(unmet) => return tally.note("edu-domain", Err(unmet)),
    };
    note(attacker.inside(bench));
    note(attacker.writes(bench, attacker.victim.start().0, Some(attacker.victim)));
    note(attacker.reads(bench));
    note(attacker.writes_own(bench));
    note(attacker.writes(bench, NOTHING.0, None));
    note(attacker.writes_read_only(bench));
    note(attacker.after_unmap(bench, &mut domain));
    note(attacker.across(bench));
    note(attacker.own_interrupt(bench));
    note(attacker.forges(
        bench,
        INTERRUPT_ADDRESS,
        FORGED_VECTOR.into(),
        FaultReason::CompatibilityBlocked,
    ));
    let message = Message::new(FREE_INDEX, false);
    note(attacker.forges(
        bench,
        message.address.into(),
        message.data,
        FaultReason::InterruptAbsent,
    ));
    note(attacker.anothers_interrupt(bench));
    note(attacker.floods(bench));
    if let Err(unmet) = bench.destroy(domain, Some(attacker.device.function)) {
        tally.note("edu-books", Err(unmet));
    }
}

/// The negative control: no unit translates, and what was blocked above lands.
pub(super) fn unprotected(bench: &mut Bench<'_>) -> Verdict {
    let attacker = Attacker::prepare(bench)?;
    for target in [attacker.victim.start().0, attacker.own.start().0] {
        attacker.load(bench, ATTACK)?;
        attacker.transfer(bench, Direction::FromDevice, target, BYTES)?;
    }
    bench.check_part(VICTIM, attacker.victim, 0..MOVED, ATTACK, 0)?;
    for index in [0, MOVED - 1] {
        if bench.memory.pool.read(attacker.own, index) != super::bench::word(ATTACK, index) {
            return Err(Unmet::Failed(
                "the hypervisor's frame did not change".into(),
            ));
        }
    }
    let before = taken(FORGED_VECTOR);
    attacker.write_word(bench, INTERRUPT_ADDRESS, FORGED_VECTOR.into())?;
    if !wait_for(bench, FORGED_VECTOR, before) {
        return Err(Unmet::Failed("the forged interrupt did not arrive".into()));
    }
    Ok("another VM's frame, the hypervisor's and an interrupt: all reached".into())
}

impl Attacker {
    fn prepare(bench: &mut Bench<'_>) -> Result<Self, Unmet> {
        let wanted = |function: &_| has_id(function, edu::VENDOR_DEVICE);
        let mut device = bench.device(&wanted, "no edu device")?;
        Edu::find(&mut device.registers, &mut TscClock(bench.tsc_khz))?;
        let one = Request::anywhere(FrameCount(1));
        // Two frames in a row, of which the other VM gets the second.
        let both = bench.frames(ATTACKER, Request::anywhere(FrameCount(2)))?;
        let second = Frame(both.first.0 + 1);
        bench.free(ATTACKER, FrameRun::new(second, FrameCount(1)))?;
        let exactly = Request {
            from: second,
            below: both.end(),
            ..one
        };
        let victim = bench.frames(VICTIM, exactly)?.first;
        let mut frame = |vm| bench.frames(vm, one).map(|run| run.first);
        let attacker = Self {
            device,
            outbox: both.first,
            victim,
            read_only: frame(ATTACKER)?,
            inbox: frame(ATTACKER)?,
            fleeting: frame(ATTACKER)?,
            own: bench
                .memory
                .pool
                .alloc()
                .ok_or(Unmet::Skipped("no frame for the hypervisor"))?,
        };
        Ok(attacker)
    }

    /// A domain with the device in it, and the frames that it is given.
    fn let_in(&self, bench: &mut Bench<'_>) -> Result<IoDomain, Unmet> {
        let mut domain = bench.domain(self.device.function)?;
        let all = DmaPerms::all();
        for (at, frame, perms) in [
            (OUTBOX, self.outbox, all),
            (READ_ONLY, self.read_only, DmaPerms::READ),
            (INBOX, self.inbox, all),
        ] {
            bench.map(&mut domain, at, one(frame), perms)?;
        }
        let Bench { memory, iommu, .. } = bench;
        iommu.attach(memory, &mut domain, self.device.function)?;
        iommu.flush(&mut domain)?;
        Ok(domain)
    }

    fn transfer(
        &self,
        bench: &Bench<'_>,
        direction: Direction,
        at: u64,
        bytes: u32,
    ) -> Result<(), Unmet> {
        let mut registers = self.device.registers;
        let mut clock = TscClock(bench.tsc_khz);
        let mut edu = Edu::find(&mut registers, &mut clock)?;
        Ok(edu.transfer(direction, at, 0, bytes)?)
    }

    /// Brings the pattern `seed` into the device, through the outbox; without remapping by the frame's own address.
    fn load(&self, bench: &mut Bench<'_>, seed: u64) -> Result<(), Unmet> {
        bench.fill(ATTACKER, self.outbox, seed);
        let at = if bench.iommu.translates() {
            OUTBOX.0
        } else {
            self.outbox.start().0
        };
        self.transfer(bench, Direction::ToDevice, at, BYTES)
    }

    fn before_its_domain(&self, bench: &mut Bench<'_>) -> Verdict {
        bench.faults();
        bench.fill(VICTIM, self.victim, 1);
        let at = self.victim.start().0;
        self.transfer(bench, Direction::FromDevice, at, BYTES)?;
        bench.check(VICTIM, self.victim, 1)?;
        self.one_fault(
            bench,
            Access::Write,
            at,
            &[FaultReason::RootAbsent, FaultReason::ContextAbsent],
        )
    }

    fn inside(&self, bench: &mut Bench<'_>) -> Verdict {
        bench.faults();
        bench.fill(ATTACKER, self.inbox, 2);
        self.load(bench, 3)?;
        self.transfer(bench, Direction::FromDevice, INBOX.0, BYTES)?;
        bench.check_part(ATTACKER, self.inbox, 0..MOVED, 3, 0)?;
        bench.faults().none()?;
        Ok(format!("{BYTES} bytes there and back"))
    }

    /// The device writes at `at`, where `victim` would be hit.
    fn writes(&self, bench: &mut Bench<'_>, at: u64, victim: Option<Frame>) -> Verdict {
        self.load(bench, ATTACK)?;
        bench.fill(VICTIM, self.victim, 4);
        bench.faults();
        self.transfer(bench, Direction::FromDevice, at, BYTES)?;
        bench.check(VICTIM, victim.unwrap_or(self.victim), 4)?;
        self.one_fault(bench, Access::Write, at, &[FaultReason::NotWritable])
    }

    /// What the device gets to read of another VM: nothing.
    fn reads(&self, bench: &mut Bench<'_>) -> Verdict {
        self.load(bench, ATTACK)?;
        bench.fill(VICTIM, self.victim, 5);
        bench.faults();
        let at = self.victim.start().0;
        self.transfer(bench, Direction::ToDevice, at, BYTES)?;
        let told = self.one_fault(bench, Access::Read, at, &[FaultReason::NotReadable])?;
        self.transfer(bench, Direction::FromDevice, INBOX.0, BYTES)?;
        for word in 0..MOVED {
            if bench
                .check_part(ATTACKER, self.inbox, word..word + 1, 5, word)
                .is_ok()
            {
                return Err(Unmet::Failed(format!("word {word} was read")));
            }
        }
        Ok(told)
    }

    fn writes_own(&self, bench: &mut Bench<'_>) -> Verdict {
        let Memory { pool, .. } = &mut *bench.memory;
        for index in 0..WORDS {
            pool.write(self.own, index, !(index as u64));
        }
        let at = self.own.start().0;
        let told = self.writes(bench, at, None)?;
        let changed =
            (0..WORDS).find(|index| bench.memory.pool.read(self.own, *index) != !(*index as u64));
        match changed {
            None => Ok(told),
            Some(index) => Err(Unmet::Failed(format!("word {index} changed"))),
        }
    }

    fn writes_read_only(&self, bench: &mut Bench<'_>) -> Verdict {
        bench.fill(ATTACKER, self.read_only, 6);
        let told = self.writes(bench, READ_ONLY.0, None)?;
        bench.check(ATTACKER, self.read_only, 6)?;
        self.transfer(bench, Direction::ToDevice, READ_ONLY.0, BYTES)?;
        self.transfer(bench, Direction::FromDevice, INBOX.0, BYTES)?;
        bench.check_part(ATTACKER, self.inbox, 0..MOVED, 6, 0)?;
        Ok(told)
    }

    fn after_unmap(&self, bench: &mut Bench<'_>, domain: &mut IoDomain) -> Verdict {
        bench.map(domain, FLEETING, one(self.fleeting), DmaPerms::all())?;
        bench.iommu.flush(domain)?;
        self.load(bench, 7)?;
        self.transfer(bench, Direction::FromDevice, FLEETING.0, BYTES)?;
        bench.check_part(ATTACKER, self.fleeting, 0..MOVED, 7, 0)?;
        bench.fill(ATTACKER, self.fleeting, 10);
        bench.unmap(domain, FLEETING, FrameCount(1))?;
        let told = self.writes(bench, FLEETING.0, None)?;
        bench.check(ATTACKER, self.fleeting, 10)?;
        Ok(told)
    }

    /// The first half of a transfer is the device's own, the second its neighbour's.
    fn across(&self, bench: &mut Bench<'_>) -> Verdict {
        self.load(bench, ATTACK)?;
        bench.fill(ATTACKER, self.outbox, 8);
        bench.fill(VICTIM, self.victim, 9);
        bench.faults();
        let half = WORDS / 2;
        let at = OUTBOX.0 + FRAME_SIZE / 2;
        self.transfer(bench, Direction::FromDevice, at, BYTES)?;
        bench.check_part(ATTACKER, self.outbox, 0..half, 8, 0)?;
        bench.check_part(ATTACKER, self.outbox, half..WORDS, ATTACK, 0)?;
        bench.check(VICTIM, self.victim, 9)?;
        let next = OUTBOX.0 + FRAME_SIZE;
        self.one_fault(bench, Access::Write, next, &[FaultReason::NotWritable])
    }

    fn own_interrupt(&self, bench: &mut Bench<'_>) -> Verdict {
        let function = self.device.function;
        bench.faults();
        let handles = allow(bench, function, OWN_VECTOR)?;
        let before = taken(OWN_VECTOR);
        set_message(bench, function, Some(Message::new(handles.index(), false)))?;
        let mut registers = self.device.registers;
        let mut clock = TscClock(bench.tsc_khz);
        let mut edu = Edu::find(&mut registers, &mut clock)?;
        edu.raise(1);
        let arrived = wait_for(bench, OWN_VECTOR, before);
        edu.acknowledge(1);
        set_message(bench, function, None)?;
        let Bench { memory, iommu, .. } = bench;
        iommu.release_interrupts(memory, function, handles)?;
        if !arrived {
            return Err(Unmet::Failed("it did not arrive".into()));
        }
        bench.faults().none()?;
        Ok("arrived".into())
    }

    /// The device writes what looks like an interrupt.
    fn forges(
        &self,
        bench: &mut Bench<'_>,
        address: u64,
        data: u32,
        reason: FaultReason,
    ) -> Verdict {
        let vectors = [OWN_VECTOR, FORGED_VECTOR, ANOTHERS_VECTOR];
        let before = vectors.map(taken);
        bench.faults();
        self.write_word(bench, address, data)?;
        if wait_for(bench, FORGED_VECTOR, before[1]) || vectors.map(taken) != before {
            return Err(Unmet::Failed("an interrupt arrived".into()));
        }
        let faults = bench.faults();
        self.only(&faults, &|fault| {
            fault.reason == reason && matches!(fault.place, Place::Interrupt(_))
        })
    }

    /// The entry is there, and it is another function's.
    fn anothers_interrupt(&self, bench: &mut Bench<'_>) -> Verdict {
        let mut others = bench.iommu.inventory().functions().iter();
        let other = others.find(|other| other.address != self.device.function);
        let other = other.ok_or(Unmet::Skipped("no other function"))?.address;
        let handles = allow(bench, other, ANOTHERS_VECTOR)?;
        let message = Message::new(handles.index(), false);
        let verdict = self.forges(
            bench,
            message.address.into(),
            message.data,
            FaultReason::SourceMismatch,
        );
        let Bench { memory, iommu, .. } = bench;
        iommu.release_interrupts(memory, other, handles)?;
        verdict
    }

    /// A device that will not stop loses the bus, and does not get it back by asking.
    fn floods(&self, bench: &mut Bench<'_>) -> Verdict {
        const LIMIT: u64 = 3;
        let function = self.device.function;
        bench.iommu.limit_faults(FloodLimits {
            period: u64::MAX,
            cut_off: LIMIT,
            told: 1,
            told_of_one: 1,
        });
        for _ in 0..LIMIT {
            if !bench.is_master(function) {
                return Err(Unmet::Failed("it was cut off too early".into()));
            }
            self.transfer(bench, Direction::FromDevice, NOTHING.0, BYTES)?;
            bench.faults();
        }
        bench.iommu.set_master(function, true);
        if bench.is_master(function) {
            return Err(Unmet::Failed("it still uses the bus".into()));
        }
        bench.fill(ATTACKER, self.inbox, 11);
        self.transfer(bench, Direction::FromDevice, INBOX.0, BYTES)?;
        bench.check(ATTACKER, self.inbox, 11)?;
        Ok(format!("cut off after {LIMIT} faults"))
    }

    /// Has the device write one word.
    fn write_word(&self, bench: &mut Bench<'_>, at: u64, value: u32) -> Result<(), Unmet> {
        bench.set_word(ATTACKER, self.outbox, value.into());
        let from = if bench.iommu.translates() {
            OUTBOX.0
        } else {
            self.outbox.start().0
        };
        self.transfer(bench, Direction::ToDevice, from, size_of::<u32>() as u32)?;
        self.transfer(bench, Direction::FromDevice, at, size_of::<u32>() as u32)
    }

    /// Sees that there was one fault, of this device, where it reached to.
    fn one_fault(
        &self,
        bench: &mut Bench<'_>,
        access: Access,
        at: u64,
        reasons: &[FaultReason],
    ) -> Verdict {
        let faults = bench.faults();
        self.only(&faults, &|fault| {
            fault.access == access
                && fault.place == Place::Page(Gpa(at))
                && reasons.contains(&fault.reason)
        })
    }

    fn only(&self, faults: &Seen, expected: &dyn Fn(&FaultRecord) -> bool) -> Verdict {
        let source = SourceId(self.device.function.source_id());
        match faults.records.as_slice() {
            _ if faults.lost => Err(Unmet::Failed("faults that were not recorded".into())),
            [] => Err(Unmet::Failed("no fault was recorded".into())),
            [fault] if fault.source == source && expected(fault) => Ok(format!("{fault}")),
            [fault, rest @ ..] => {
                let others = rest.len();
                Err(Unmet::Failed(format!("{fault}; and {others} others")))
            }
        }
    }
}

const fn one(frame: Frame) -> FrameRun {
    FrameRun::new(frame, FrameCount(1))
}

/// Lets `function` raise `vector` on this CPU.
fn allow(bench: &mut Bench<'_>, function: Address, vector: u8) -> Result<Handles, Unmet> {
    let mode = bench.iommu.interrupt_mode(function)?;
    let destination = Destination::new(pcpu::this().apic_id, mode);
    let destination = destination.ok_or(Unmet::Skipped("this CPU cannot be named"))?;
    let handles = bench.iommu.interrupts(function, 0)?;
    let entry = Remapped {
        destination,
        vector,
        trigger: Trigger::Edge,
    };
    let Bench { memory, iommu, .. } = bench;
    iommu.remap(memory, function, &handles, 0, entry)?;
    Ok(handles)
}

/// Programs the function's MSI capability with a message, or turns it off.
fn set_message(
    bench: &mut Bench<'_>,
    function: Address,
    message: Option<Message>,
) -> Result<(), Unmet> {
    const CONTROL: u16 = 2;
    const ADDRESS: u16 = 4;
    const UPPER: u16 = 8;
    let found = bench.iommu.inventory().find(function);
    let capability = found.and_then(|found| {
        found
            .capabilities
            .iter()
            .find_map(|capability| match capability.kind {
                CapabilityKind::Msi(msi) => Some((u16::from(capability.at), msi.wide)),
                _ => None,
            })
    });
    let (at, wide) = capability.ok_or(Unmet::Skipped("the device has no MSI"))?;
    let config = bench.iommu.config();
    let data = if wide { 12 } else { 8 };
    if let Some(message) = message {
        config.write(function, at + ADDRESS, Width::Dword, message.address);
        if wide {
            config.write(function, at + UPPER, Width::Dword, 0);
        }
        config.write(function, at + data, Width::Word, message.data);
    }
    // One message, and no other: the field for several is 0.
    let enable = u32::from(message.is_some());
    config.write(function, at + CONTROL, Width::Word, enable);
    Ok(())
}

/// Takes interrupts until `vector` was taken oftener than `before`, or it takes too long.
fn wait_for(bench: &Bench<'_>, vector: u8, before: u32) -> bool {
    let until = rdtsc() + PATIENCE_US * (u64::from(bench.tsc_khz) / 1_000);
    interrupts::enable();
    while taken(vector) == before && rdtsc() < until {
        core::hint::spin_loop();
    }
    interrupts::disable();
    taken(vector) != before
}
