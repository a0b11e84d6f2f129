//! Machine checks and NMIs of one CPU: what handlers leave, and what the CPU's loop makes of it.
//!
//! A handler takes no lock and writes no log. It decides whether the machine can go on at all, and notes the rest in
//! [`Checks`]; the CPU's loop settles it before it runs the next vCPU ([`Watch::step`]). What an error means is decided by
//! `bulkhead_core::mce`. Corrected errors raise nothing: the loop looks for them once in a while.

use super::Pcpu;
use crate::arch::exception::Context;
use crate::arch::machine_check;
use crate::panic::{self, Cause};
use crate::vm::shared::{self, Ending};
use crate::vm::{machine, ticks};
use crate::{events, memory};
use bulkhead_core::addr::{Frame, FrameCount, Hpa};
use bulkhead_core::events::Event;
use bulkhead_core::ledger::FrameRun;
use bulkhead_core::lifecycle::End;
use bulkhead_core::mce::{
    self, BankError, Consequence, Interrupted, Judgement, McgCap, McgStatus, Severity, Verdict,
};
use bulkhead_core::notice::Notices;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How often the banks are looked at, and unexpected NMIs told of.
const PERIOD_MS: u64 = 1_000;
/// How often corrected errors are told of.
const CORRECTED_PERIOD_MS: u64 = 60_000;
/// In `Checks::waiting`, beside the bits of IA32_MCG_STATUS.
const WAITS: u64 = 1 << 63;

/// What the handlers of one CPU leave for its loop.
pub struct Checks {
    /// IA32_MCG_CAP.
    cap: AtomicU64,
    /// IA32_MCG_STATUS of a machine check that the loop has to settle, and [`WAITS`]; else 0.
    waiting: AtomicU64,
    /// NMIs that no other CPU sent.
    nmis: AtomicU64,
    /// Another CPU sent one.
    nmi_is_expected: AtomicBool,
}

impl Checks {
    /// Nothing happened yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            cap: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            nmis: AtomicU64::new(0),
            nmi_is_expected: AtomicBool::new(false),
        }
    }

    /// Another CPU is about to send an NMI.
    pub fn expect_nmi(&self) {
        self.nmi_is_expected.store(true, Ordering::SeqCst);
    }

    /// An NMI came.
    pub fn note_nmi(&self) {
        if !self.nmi_is_expected.swap(false, Ordering::SeqCst) {
            self.nmis.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn cap(&self) -> McgCap {
        McgCap(self.cap.load(Ordering::Relaxed))
    }
}

/// Tells what the banks hold from before the boot, and turns them on. On the CPU that `own` is.
pub fn begin(own: &Pcpu) {
    let cap = machine_check::cap();
    own.checks.cap.store(cap.0, Ordering::Relaxed);
    for error in errors(cap) {
        tell(own, &error, &"left from before the boot");
        machine_check::clear(error.bank);
    }
    machine_check::enable(cap);
}

/// A machine check interrupted the hypervisor at `context`. Called by its handler.
pub fn interrupted(own: Option<&Pcpu>, context: &Context) {
    let cap = machine_check::cap();
    let status = machine_check::status(cap);
    let banks = machine_check::banks(cap);
    let judgement = mce::judge(cap, status, Interrupted::Hypervisor, banks);
    match own {
        Some(own) if judgement.verdict != Verdict::StopMachine => {
            own.checks
                .waiting
                .store(status.bits() | WAITS, Ordering::SeqCst);
            own.look.store(true, Ordering::SeqCst);
            machine_check::finish(cap);
        }
        _ => panic::report_and_stop(Cause::MachineCheck(context, &judgement)),
    }
}

/// A machine check had the CPU leave its guest. False where that guest cannot go on.
#[must_use]
pub fn left_guest(own: &Pcpu) -> bool {
    let cap = own.checks.cap();
    let status = machine_check::status(cap);
    let judgement = settle(own, Interrupted::Guest, status);
    machine_check::finish(cap);
    judgement.resumable
}

/// What a CPU's loop remembers of what it told.
pub struct Watch {
    own: &'static Pcpu,
    next_poll: u64,
    nmis: Notices,
    corrected: Notices,
    found: u64,
}

impl Watch {
    /// For the CPU that `own` is.
    #[must_use]
    pub fn new(own: &'static Pcpu) -> Self {
        Self {
            own,
            next_poll: 0,
            nmis: Notices::default(),
            corrected: Notices::default(),
            found: 0,
        }
    }

    /// Settles what handlers left and does what is due at host TSC `now`; says when it wants to be called again.
    pub fn step(&mut self, now: u64) -> Option<u64> {
        let own = self.own;
        let waiting = own.checks.waiting.swap(0, Ordering::SeqCst);
        if waiting != 0 {
            let status = McgStatus::from_bits_truncate(waiting);
            // What it interrupted goes on already.
            let _ = settle(own, Interrupted::Hypervisor, status);
        }
        let total = own.checks.nmis.load(Ordering::Relaxed);
        if let Some(new) = self.nmis.due(total, now, ticks(PERIOD_MS)) {
            tell_nmis(own, new, total);
        }
        let poll = self.poll(now);
        [self.nmis.next(total), poll].into_iter().flatten().min()
    }

    /// Looks for errors that raised nothing.
    fn poll(&mut self, now: u64) -> Option<u64> {
        let cap = self.own.checks.cap();
        if cap.banks() == 0 {
            return None;
        }
        if now >= self.next_poll {
            self.next_poll = now.saturating_add(ticks(PERIOD_MS));
            let mut last = None;
            // Worse ones raise a machine check, which is about to come.
            for error in errors(cap).filter(|error| is_harmless(error.severity)) {
                machine_check::clear(error.bank);
                self.found += 1;
                last = Some(error);
            }
            if let Some(error) = last
                && let Some(new) = self
                    .corrected
                    .due(self.found, now, ticks(CORRECTED_PERIOD_MS))
            {
                tell(self.own, &error, &format_args!("{new} since told last"));
            }
        }
        Some(self.next_poll)
    }
}

const fn is_harmless(severity: Severity) -> bool {
    matches!(
        severity,
        Severity::Corrected | Severity::UncorrectedNoAction
    )
}

fn errors(cap: McgCap) -> impl Iterator<Item = BankError> {
    machine_check::banks(cap).filter_map(move |bank| BankError::decode(cap, &bank))
}

/// Tells what the banks hold, empties them, and does what that means.
fn settle(own: &Pcpu, who: Interrupted, status: McgStatus) -> Judgement {
    let cap = own.checks.cap();
    let judgement = mce::judge(cap, status, who, machine_check::banks(cap));
    for error in errors(cap) {
        tell(own, &error, &judgement.verdict);
        machine_check::clear(error.bank);
    }
    match judgement.verdict {
        Verdict::Log => {}
        Verdict::StopOwner(address) => stop_owner(address),
        Verdict::StopMachine => panic!("{judgement}"),
    }
    judgement
}

/// The frame at `address` lost what it held. No lock is held by the CPU's loop.
fn stop_owner(address: Hpa) {
    // A bank's address has the key id on top where there is one.
    let keys = machine().features.ept.keys();
    let (frame, _) = keys.split(Frame::containing(address));
    let mut memory = memory::lock();
    let owner = memory.ledger.info(frame).map(|info| info.owner);
    match Consequence::of(owner) {
        Consequence::Retire => {
            let run = FrameRun::new(frame, FrameCount(1));
            match memory.ledger.claim_hypervisor(run) {
                Ok(()) => log::warn!("the frame at {address} was free, and will not be used"),
                Err(error) => log::warn!("the frame at {address} was free: {error}"),
            }
        }
        Consequence::StopVm(id) => {
            drop(memory);
            if let Some(vm) = shared::by_id(id) {
                log::error!("VM \"{}\" lost what it had at {address}", vm.name);
                vm.end(Ending {
                    end: End::Hardware,
                    rip: None,
                });
            }
        }
        Consequence::Nothing => log::warn!("nobody runs on the frame at {address}"),
        Consequence::StopMachine => {
            drop(memory);
            panic!("the hypervisor's own memory at {address} failed");
        }
    }
}

fn tell(own: &Pcpu, error: &BankError, detail: &dyn fmt::Display) {
    log::warn!("CPU {}: {error}: {detail}", own.index);
    events::send(&event(own, error, detail));
}

/// The event that tells of `error`.
pub fn event<'a>(own: &Pcpu, error: &BankError, detail: &'a dyn fmt::Display) -> Event<'a> {
    Event::MachineCheck {
        cpu: own.index as u32,
        bank: error.bank.into(),
        status: error.status,
        address: error.address.map_or(0, |address| address.0),
        detail,
    }
}

fn tell_nmis(own: &Pcpu, new: u64, total: u64) {
    let cpu = own.index;
    log::warn!("CPU {cpu}: {new} NMIs that nobody here sent, {total} so far; nothing stops");
    events::send(&Event::Nmi {
        cpu: cpu as u32,
        detail: &format_args!("{new} more, {total} so far; nothing stops"),
    });
}
