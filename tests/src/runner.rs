//! Runs scenarios two at a time, prints each verdict as it is reached, and the total as the last line.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use xtask::cmd::test::Totals;

use crate::context::Context;
use crate::lab::Lab;
use crate::outcome::{Failure, Outcome};
use crate::scenario::Scenario;

/// Emulators that run at a time: each keeps a processor busy.
const AT_A_TIME: usize = 2;

/// What became of the scenarios so far.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    /// Not run, for want of a machine to run them on.
    skipped: usize,
}

/// Runs `scenarios` until `interrupted`; whether all that this machine has a place for passed. Without a lab there is
/// nothing to run.
pub fn run(lab: Option<&Lab>, scenarios: &[Scenario], interrupted: &AtomicBool) -> bool {
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    if let Some(lab) = lab {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME.min(processors) {
                scope.spawn(|| {
                    while !interrupted.load(Ordering::Relaxed)
                        && let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        work(lab, scenario, &tally, interrupted);
                    }
                });
            }
        });
    }
    conclude(
        &tally.into_inner().unwrap_or_else(PoisonError::into_inner),
        scenarios.len(),
    )
}

fn work(lab: &Lab, scenario: &Scenario, tally: &Mutex<Tally>, interrupted: &AtomicBool) {
    if let Some(obstacle) = scenario.ground.obstacle() {
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        println!("skip  {}: {obstacle}", scenario.name);
        tally.skipped += 1;
        return;
    }
    let context = Context::new(lab, scenario, interrupted);
    let started = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| scenario.check(&context)))
        .unwrap_or_else(|_| Err(Failure::Unmet("the harness itself panicked".to_owned())));
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    report(scenario, &context, &outcome, started.elapsed());
    match outcome {
        Ok(()) => tally.passed += 1,
        Err(failure) => {
            if failure.is_interruption() {
                interrupted.store(true, Ordering::Relaxed);
            }
            tally.failed.push(scenario.name.clone());
        }
    }
}

/// Prints one verdict; the caller holds the lock that keeps verdicts apart.
fn report(scenario: &Scenario, context: &Context<'_>, outcome: &Outcome, took: Duration) {
    let seconds = took.as_secs_f32();
    match outcome {
        Ok(()) => println!("ok    {} ({seconds:.1} s)", scenario.name),
        Err(_) => println!("FAIL  {} ({seconds:.1} s)", scenario.name),
    }
    for line in context.notes() {
        println!("      {line}");
    }
    if let Err(failure) = outcome {
        for line in failure.to_string().lines() {
            println!("      | {line}");
        }
    }
}

fn conclude(tally: &Tally, chosen: usize) -> bool {
    let not_run = chosen - tally.passed - tally.failed.len() - tally.skipped;
    if !tally.failed.is_empty() {
        println!("failed: {}", tally.failed.join(", "));
    }
    if not_run > 0 {
        println!("{not_run} scenarios were not run");
    }
    let totals = Totals {
        passed: tally.passed as u64,
        failed: tally.failed.len() as u64,
        skipped: tally.skipped as u64,
    };
    println!("{totals}");
    tally.failed.is_empty() && not_run == 0
}
