//! Devices that have to go on working: frames and blocks through a domain, without a fault.

use super::bench::{ATTACKER, Bench, Device, GIVEN, Shared, TscClock, has_id};
use super::{Unmet, Verdict};
use alloc::format;
use alloc::string::String;
use bulkhead_core::addr::FrameCount;
use bulkhead_core::ledger::Request;
use bulkhead_core::pci::Class;
use bulkhead_core::vtd::second_level::DmaPerms;
use bulkhead_selftest::{Access, e1000e, nvme};

/// Frames that the network controller sends to itself.
const FRAMES: u32 = 4_000;
/// Blocks that go to the disk and back.
const BLOCKS: u32 = 4_096;
/// What they hold.
const SEED: u64 = 0xb01c;

pub(super) fn nic(bench: &mut Bench<'_>) -> Verdict {
    let wanted = |function: &_| has_id(function, e1000e::VENDOR_DEVICE);
    let device = bench.device(&wanted, "no e1000e")?;
    in_domain(bench, device, e1000e::MEMORY_BYTES, &mut |access, base| {
        let done = e1000e::exchange(access, base, FRAMES, SEED)?;
        Ok(format!("{done:?}"))
    })
}

fn nvme_class() -> Class {
    let [class, subclass, interface] = nvme::CLASS;
    Class::new(u32::from_be_bytes([0, class, subclass, interface]))
}

pub(super) fn disk(bench: &mut Bench<'_>) -> Verdict {
    let device = bench.device(&|function| function.class == nvme_class(), "no NVMe disk")?;
    in_domain(bench, device, nvme::MEMORY_BYTES, &mut |access, base| {
        let done = nvme::exchange(access, base, BLOCKS, SEED)?;
        Ok(format!("{done:?}"))
    })
}

/// Runs `work` with a device that has `bytes` of memory of its own and nothing else.
fn in_domain(
    bench: &mut Bench<'_>,
    mut device: Device,
    bytes: u64,
    work: &mut dyn FnMut(&mut Access<'_>, u64) -> Result<String, Unmet>,
) -> Verdict {
    let run = bench.frames(ATTACKER, Request::anywhere(FrameCount::covering(bytes)))?;
    let mut domain = bench.domain(device.function)?;
    bench.map(&mut domain, GIVEN, run, DmaPerms::all())?;
    bench
        .iommu
        .attach(bench.memory, &mut domain, device.function)?;
    bench.iommu.flush(&mut domain)?;
    bench.faults();
    let mut memory = Shared {
        memory: bench.memory,
        vm: ATTACKER,
        at: GIVEN,
        run,
    };
    let mut access = Access {
        registers: &mut device.registers,
        memory: &mut memory,
        clock: &mut TscClock(bench.tsc_khz),
    };
    let done = work(&mut access, GIVEN.0);
    let faults = bench.faults();
    bench.destroy(domain, Some(device.function))?;
    bench.free(ATTACKER, run)?;
    let done = done?;
    faults.none()?;
    Ok(done)
}
