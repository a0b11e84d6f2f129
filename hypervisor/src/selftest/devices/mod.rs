//! The device tests: a device attacks what it was not given, and works with what it was.
//!
//! QEMU's educational device transfers whatever it is told to, wherever: it is the attacker. A network controller and a
//! disk are the devices that have to go on working. Every attack is judged by the words in memory afterwards and by the
//! fault that the unit recorded, exactly one. They need no VT-x. With remapping off the same transfers land:
//! [`DeviceTests::Unprotected`] shows that they are attacks.
//!
//! | module | what it holds |
//! |---|---|
//! | `bench` | the machine as the tests have it: devices, frames of two VMs, what units recorded |
//! | `edu` | the attacker's cases |
//! | `workload` | the network controller's and the disk's |
//! | `costs` | what mapping and unmapping takes |

mod bench;
mod costs;
mod edu;
mod workload;

use crate::arch::cpu;
use crate::console::{CONSOLE, EVENTS};
use crate::events;
use crate::iommu::Iommu;
use crate::memory::Memory;
use alloc::string::{String, ToString};
use bench::Bench;
use bulkhead_core::events::{Event, SelfTestCase};
use bulkhead_core::manifest::SelfTest;
use core::fmt::{self, Display};

/// Which tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceTests {
    /// With units that translate.
    Remapped,
    /// Without: the negative control.
    Unprotected,
}

impl DeviceTests {
    /// Those that a manifest asks for.
    #[must_use]
    pub const fn of(selftest: SelfTest) -> Option<Self> {
        match selftest {
            SelfTest::Vtd => Some(Self::Remapped),
            SelfTest::VtdOff => Some(Self::Unprotected),
            _ => None,
        }
    }
}

/// How a case ended, when it did not end well.
enum Unmet {
    /// What was wrong.
    Failed(String),
    /// What it needs and the machine has not.
    Skipped(&'static str),
}

/// What was seen where a case ended well.
type Verdict = Result<String, Unmet>;

impl<E: Display> From<E> for Unmet {
    fn from(error: E) -> Self {
        failed(&error)
    }
}

/// One for all errors: every other line of a case may end it.
#[inline(never)]
fn failed(error: &dyn Display) -> Unmet {
    Unmet::Failed(error.to_string())
}

/// How many cases ended how.
#[derive(Default)]
struct Tally {
    ok: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    fn note(&mut self, case: &str, verdict: Verdict) {
        let (outcome, detail) = match verdict {
            Ok(detail) => ("ok", detail),
            Err(Unmet::Failed(detail)) => ("failed", detail),
            Err(Unmet::Skipped(detail)) => ("skipped", detail.into()),
        };
        match outcome {
            "ok" => {
                self.ok += 1;
                log::info!("self-test vtd: {case}: ok");
            }
            "failed" => {
                self.failed += 1;
                log::error!("self-test vtd: {case}: failed: {detail}");
            }
            _ => {
                self.skipped += 1;
                log::warn!("self-test vtd: {case}: skipped: {detail}");
            }
        }
        events::send(&Event::SelfTest(SelfTestCase {
            case,
            outcome,
            detail: &detail,
        }));
        // A report is long, and nothing else empties the queue.
        EVENTS.lock().flush();
    }
}

impl Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "self-test vtd: {} ok, {} failed, {} skipped",
            self.ok, self.failed, self.skipped
        )
    }
}

/// Runs the tests and stops the machine.
pub fn run(tests: DeviceTests, memory: &mut Memory, iommu: &mut Iommu, tsc_khz: u32) -> ! {
    let mut tally = Tally::default();
    match Bench::new(memory, iommu, tsc_khz) {
        Err(unmet) => tally.note("bench", Err(unmet)),
        Ok(mut bench) if tests == DeviceTests::Remapped => {
            edu::attack(&mut bench, &mut tally);
            tally.note("nic-frames", workload::nic(&mut bench));
            tally.note("disk-blocks", workload::disk(&mut bench));
            tally.note("costs", costs::measure(&mut bench));
        }
        Ok(mut bench) => tally.note("edu-without-remapping", edu::unprotected(&mut bench)),
    }
    log::info!("{tally}");
    CONSOLE.lock().serial.flush();
    EVENTS.lock().flush();
    cpu::stop()
}
