//! What mapping and unmapping takes: frames of tables, and invalidations.

use super::bench::{ATTACKER, Bench, GIVEN};
use super::{Unmet, Verdict};
use crate::events;
use alloc::format;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, FrameCount, Gpa};
use bulkhead_core::events::{Event, VtdCosts};
use bulkhead_core::ledger::{FrameRun, Request};
use bulkhead_core::table::PageSize;
use bulkhead_core::vtd::domain::IoDomain;
use bulkhead_core::vtd::second_level::DmaPerms;

/// Pages that lie apart.
const SCATTERED: u64 = 1_024;
const ALL: DmaPerms = DmaPerms::all();

/// A large run and many small ones, mapped and unmapped in a domain with a device.
pub(super) fn measure(bench: &mut Bench<'_>) -> Verdict {
    let function = bench
        .device(&|function| function.is_assignable(), "no device")?
        .function;
    let used = bench.memory.pool.used();
    let mut domain = bench.domain(function)?;
    bench.iommu.attach(bench.memory, &mut domain, function)?;
    let large = contiguous(bench, &mut domain)?;
    scattered(bench, &mut domain)?;
    bench.destroy(domain, Some(function))?;
    // The context table of the device's bus stays.
    let left = bench.memory.pool.used().0 - used.0;
    if left > 1 {
        return Err(Unmet::Failed(format!("{left} frames of tables are lost")));
    }
    Ok(format!(
        "1 GiB in pages of {large:?}, {SCATTERED} pages apart"
    ))
}

fn contiguous(bench: &mut Bench<'_>, domain: &mut IoDomain) -> Result<PageSize, Unmet> {
    let mut request = Request {
        align: PageSize::Size1G,
        ..Request::anywhere(PageSize::Size1G.frames())
    };
    let run = match bench.frames(ATTACKER, request) {
        Ok(run) => run,
        Err(_) => {
            request.align = PageSize::Size2M;
            bench.frames(ATTACKER, request)?
        }
    };
    step(bench, domain, "map-1g", &mut |bench, domain| {
        bench.map(domain, GIVEN, run, ALL)?;
        bench.iommu.flush(domain)?;
        Ok(())
    })?;
    let tables = &bench.memory.pool;
    let size = domain.translate(tables, GIVEN).map(|leaf| leaf.size);
    step(bench, domain, "unmap-1g", &mut |bench, domain| {
        bench.unmap(domain, GIVEN, run.count)
    })?;
    bench.free(ATTACKER, run)?;
    Ok(size.unwrap_or(PageSize::Size4K))
}

fn scattered(bench: &mut Bench<'_>, domain: &mut IoDomain) -> Result<(), Unmet> {
    let mut runs: Vec<FrameRun> = Vec::new();
    for _ in 0..SCATTERED {
        runs.push(bench.frames(ATTACKER, Request::anywhere(FrameCount(1)))?);
    }
    step(bench, domain, "map-1024-scattered", &mut |bench, domain| {
        for (run, number) in runs.iter().zip(0..) {
            let at = Gpa(GIVEN.0 + 2 * number * FRAME_SIZE);
            bench.map(domain, at, *run, ALL)?;
        }
        bench.iommu.flush(domain)?;
        Ok(())
    })?;
    step(
        bench,
        domain,
        "unmap-1024-scattered",
        &mut |bench, domain| bench.unmap(domain, GIVEN, FrameCount(2 * SCATTERED)),
    )?;
    for run in runs {
        bench.free(ATTACKER, run)?;
    }
    Ok(())
}

/// Does `work` and tells what it took.
fn step(
    bench: &mut Bench<'_>,
    domain: &mut IoDomain,
    what: &str,
    work: &mut dyn FnMut(&mut Bench<'_>, &mut IoDomain) -> Result<(), Unmet>,
) -> Result<(), Unmet> {
    let frames = bench.memory.pool.used().0;
    let before = bench.iommu.invalidations();
    work(bench, domain)?;
    let after = bench.iommu.invalidations();
    events::send(&Event::VtdCosts(VtdCosts {
        what,
        table_frames: bench.memory.pool.used().0.abs_diff(frames),
        submissions: after.submissions - before.submissions,
        requests: after.requests - before.requests,
        waits: after.polls - before.polls,
    }));
    Ok(())
}
