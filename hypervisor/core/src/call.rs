//! What CPUs have each other do, and how long one waits for another.
//!
//! [`Slip`] is where a CPU finds what it is asked for; the asker sees there that it was done. [`Patience`] says when an asker
//! goes from waiting to interrupting to giving up. [`Losses`] is for what a CPU has to know only before it runs a vCPU. The interrupts
//! are the shell's.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;

use crate::flags;

bitflags! {
    /// What a CPU can be asked to do.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Requests: u32 {
        /// Forget the hypervisor's own translations.
        const FORGET_HOST = 1 << 0;
        /// Leave VMX operation and stop for good.
        const LEAVE = 1 << 1;
        /// Break an invariant, as a self-test.
        const FAIL = 1 << 2;
        /// Forget the translations of all VMs' views.
        const FORGET_VIEWS = 1 << 3;
        /// Write the caches back to memory and empty them.
        const EMPTY_CACHES = 1 << 4;
        /// Program a key of TME-MK, as the first CPU of a package.
        const PROGRAM_KEY = 1 << 5;
        /// Forget the translations of the view that its guest has.
        const FORGET_VIEW = 1 << 6;
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        flags::write(self, f)
    }
}

/// What one CPU is asked for. Any CPU asks; only the one it belongs to takes and answers.
#[derive(Debug, Default)]
pub struct Slip {
    wanted: AtomicU32,
    /// Taken, and not done yet.
    taken: AtomicU32,
}

impl Slip {
    /// Nothing wanted.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            wanted: AtomicU32::new(0),
            taken: AtomicU32::new(0),
        }
    }

    /// Asks for `requests`. Everything the asker did before is seen by who carries them out.
    pub fn ask(&self, requests: Requests) {
        self.wanted.fetch_or(requests.bits(), Ordering::SeqCst);
    }

    /// What is to be done now. What is asked for from here on is done once more.
    #[must_use]
    pub fn take(&self) -> Requests {
        let wanted = self.wanted.load(Ordering::SeqCst);
        // First noted as taken, so that no asker sees it in neither place.
        self.taken.fetch_or(wanted, Ordering::SeqCst);
        self.wanted.fetch_and(!wanted, Ordering::SeqCst);
        Requests::from_bits_truncate(wanted)
    }

    /// `requests`, which were taken, are done.
    pub fn done(&self, requests: Requests) {
        self.taken.fetch_and(!requests.bits(), Ordering::SeqCst);
    }

    /// Whether `requests` that the caller asked for are done.
    #[must_use]
    pub fn is_done(&self, requests: Requests) -> bool {
        // In the order in which they move, so that none is missed on its way.
        let wanted = self.wanted.load(Ordering::SeqCst);
        let taken = self.taken.load(Ordering::SeqCst);
        (wanted | taken) & requests.bits() == 0
    }
}

/// Counts how often a VM's view lost translations that CPUs may have cached.
///
/// Who takes translations away notes the loss first and then asks those CPUs to forget them where a vCPU of the VM runs. A CPU says
/// first that a vCPU runs, then looks for losses, and forgets before it enters. Whichever is later sees the other.
#[derive(Debug, Default)]
pub struct Losses(AtomicU64);

/// The losses that a vCPU's CPU knew of when it was entered last.
#[derive(Debug, Default)]
pub struct KnownLosses(u64);

impl Losses {
    /// Something was lost.
    pub fn note(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether something was lost since `known`, which then knows.
    #[must_use]
    pub fn are_new(&self, known: &mut KnownLosses) -> bool {
        let now = self.0.load(Ordering::SeqCst);
        core::mem::replace(&mut known.0, now) != now
    }
}

/// What an asker does about a CPU that has not answered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Wait on.
    Wait,
    /// Interrupt it, whatever it does: once.
    Interrupt,
    /// Take it for broken.
    GiveUp,
}

/// How long an asker waits, in ticks since it asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    asked: u64,
    interrupt_after: u64,
    give_up_after: u64,
    interrupted: bool,
}

impl Patience {
    /// A CPU that works long without looking, or waits for a lock that the asker holds, is interrupted after this.
    pub const INTERRUPT_MS: u64 = 2;
    /// No CPU takes as long as this when it is interrupted.
    pub const GIVE_UP_MS: u64 = 1_000;

    /// Asked at `now` on a machine whose counter runs at `tsc_khz`.
    #[must_use]
    pub const fn new(now: u64, tsc_khz: u32) -> Self {
        Self {
            asked: now,
            interrupt_after: Self::INTERRUPT_MS * tsc_khz as u64,
            give_up_after: Self::GIVE_UP_MS * tsc_khz as u64,
            interrupted: false,
        }
    }

    /// What to do at `now`.
    pub const fn step(&mut self, now: u64) -> Step {
        let waited = now.saturating_sub(self.asked);
        if waited > self.give_up_after {
            return Step::GiveUp;
        }
        if waited > self.interrupt_after && !self.interrupted {
            self.interrupted = true;
            return Step::Interrupt;
        }
        Step::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_done_only_after_it_was_carried_out() {
        let slip = Slip::new();
        assert!(slip.is_done(Requests::all()));
        slip.ask(Requests::FORGET_HOST);
        assert!(!slip.is_done(Requests::FORGET_HOST));
        let taken = slip.take();
        assert_eq!(taken, Requests::FORGET_HOST);
        assert!(!slip.is_done(Requests::FORGET_HOST));
        slip.done(taken);
        assert!(slip.is_done(Requests::FORGET_HOST));
    }

    #[test]
    fn what_is_asked_while_it_is_carried_out_is_done_once_more() {
        let slip = Slip::new();
        slip.ask(Requests::FORGET_HOST);
        let first = slip.take();
        slip.ask(Requests::FORGET_HOST);
        slip.done(first);
        assert!(!slip.is_done(Requests::FORGET_HOST));
        let second = slip.take();
        assert_eq!(second, Requests::FORGET_HOST);
        slip.done(second);
        assert!(slip.is_done(Requests::FORGET_HOST));
    }

    #[test]
    fn one_request_does_not_wait_for_another() {
        let slip = Slip::new();
        slip.ask(Requests::FORGET_HOST | Requests::LEAVE);
        let _ = slip.take();
        slip.done(Requests::FORGET_HOST);
        assert!(slip.is_done(Requests::FORGET_HOST));
        assert!(!slip.is_done(Requests::LEAVE));
    }

    #[test]
    fn no_vcpu_runs_with_what_was_lost_whoever_of_two_cpus_is_faster() {
        const ROUNDS: u64 = 20_000;
        let (losses, slip) = (Losses::default(), Slip::new());
        // What the view says, and what nobody may hold an older one than.
        let (view, proven) = (AtomicU64::new(0), AtomicU64::new(0));
        let running = AtomicU64::new(0);
        // Noted, not asserted there: whoever waits for a thread that has gone waits for ever.
        let wrong = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut known = KnownLosses::default();
                let mut cached = 0;
                while proven.load(Ordering::SeqCst) < ROUNDS {
                    running.store(1, Ordering::SeqCst);
                    if losses.are_new(&mut known) {
                        cached = view.load(Ordering::SeqCst);
                    }
                    for _ in 0..3 {
                        let is_old = cached < proven.load(Ordering::SeqCst);
                        wrong.fetch_add(is_old.into(), Ordering::SeqCst);
                        let taken = slip.take();
                        if !taken.is_empty() {
                            cached = view.load(Ordering::SeqCst);
                            slip.done(taken);
                        }
                    }
                    running.store(0, Ordering::SeqCst);
                }
            });
            for round in 1..=ROUNDS {
                view.store(round, Ordering::SeqCst);
                losses.note();
                if running.load(Ordering::SeqCst) != 0 {
                    slip.ask(Requests::FORGET_VIEW);
                    // One that runs no more is told by what was noted.
                    while !slip.is_done(Requests::FORGET_VIEW)
                        && running.load(Ordering::SeqCst) != 0
                    {
                        core::hint::spin_loop();
                    }
                }
                proven.store(round, Ordering::SeqCst);
            }
        });
        assert_eq!(wrong.into_inner(), 0);
    }

    #[test]
    fn no_request_is_ever_in_neither_place() {
        let slip = Slip::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut served = 0;
                while served < 10_000 {
                    let taken = slip.take();
                    if !taken.is_empty() {
                        served += 1;
                        slip.done(taken);
                    }
                }
            });
            let carried_out = || slip.is_done(Requests::FORGET_HOST);
            for _ in 0..10_000 {
                slip.ask(Requests::FORGET_HOST);
                while !carried_out() {
                    core::hint::spin_loop();
                }
            }
        });
        assert!(slip.is_done(Requests::all()));
    }

    #[test]
    fn an_asker_waits_then_interrupts_once_then_gives_up() {
        let mut patience = Patience::new(1_000, 10);
        assert_eq!(patience.step(1_000), Step::Wait);
        assert_eq!(patience.step(1_020), Step::Wait);
        assert_eq!(patience.step(1_021), Step::Interrupt);
        assert_eq!(patience.step(1_022), Step::Wait);
        assert_eq!(patience.step(11_000), Step::Wait);
        assert_eq!(patience.step(11_001), Step::GiveUp);
    }
}
