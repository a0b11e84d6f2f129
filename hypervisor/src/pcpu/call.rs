//! Having every CPU do something at once, and knowing that they did: TLB shootdown, and the stop.
//!
//! A caller raises a flag at each other CPU, interrupts it, and waits for the flag to fall. A CPU serves flags between two
//! vCPUs and while it waits in a call of its own, so two callers cannot wait for each other. A CPU that does not answer in
//! time is a broken machine: nothing may be reused that it could still reach.

use super::Pcpu;
use crate::arch::cpu::rdtsc;
use crate::arch::lapic;
use crate::vmx::instruction;
use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU32, Ordering};
use x86_64::instructions::tlb;

/// How long a CPU may take to answer: beyond the longest time that the hypervisor works without looking.
const PATIENCE_MS: u64 = 1_000;

/// What a CPU can be asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Request {
    /// Forget the hypervisor's own translations.
    ForgetHost = 1 << 0,
    /// Forget what EPT and linear addresses of guests mean.
    ForgetGuests = 1 << 1,
}

/// The flags of one CPU.
pub struct Requests(AtomicU32);

impl Requests {
    /// None raised.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

/// A CPU that did not do what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoAnswer {
    /// Its number.
    pub cpu: usize,
    /// What it was asked.
    pub request: Request,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CPU {} did not answer {:?} within {PATIENCE_MS} ms",
            self.cpu, self.request
        )
    }
}

impl core::error::Error for NoAnswer {}

/// Has every CPU that runs do `request`, this one included, and waits until all did.
///
/// # Errors
/// The first that did not in time.
pub fn everywhere(request: Request) -> Result<(), NoAnswer> {
    let own = super::this();
    for cpu in others(own) {
        cpu.requests.0.fetch_or(request as u32, Ordering::SeqCst);
        cpu.look.store(true, Ordering::SeqCst);
        lapic::send(cpu.apic_id, lapic::KICK_VECTOR);
    }
    carry_out(request as u32);
    let ticks = u64::from(crate::vm::tsc_khz()) * PATIENCE_MS;
    let begin = rdtsc();
    for cpu in others(own) {
        while cpu.requests.0.load(Ordering::SeqCst) & request as u32 != 0 {
            if rdtsc().wrapping_sub(begin) > ticks {
                return Err(NoAnswer {
                    cpu: cpu.index,
                    request,
                });
            }
            serve(own);
            spin_loop();
        }
    }
    Ok(())
}

/// Does what other CPUs asked of `own`, which is the caller's.
pub fn serve(own: &Pcpu) {
    let wanted = own.requests.0.load(Ordering::SeqCst);
    if wanted != 0 {
        carry_out(wanted);
        // Only now: the caller takes a fallen flag for a promise.
        own.requests.0.fetch_and(!wanted, Ordering::SeqCst);
    }
}

fn others(own: &Pcpu) -> impl Iterator<Item = &'static Pcpu> {
    let own = own.index;
    super::all()
        .iter()
        .map(|cpu| &**cpu)
        .filter(move |cpu| cpu.index != own && cpu.online.load(Ordering::SeqCst))
}

fn carry_out(wanted: u32) {
    if wanted & Request::ForgetHost as u32 != 0 {
        // The hypervisor maps nothing global, so reloading CR3 forgets all of it.
        tlb::flush_all();
    }
    if wanted & Request::ForgetGuests as u32 != 0 {
        let forgotten = instruction::invept_all().and_then(|()| instruction::invvpid_all());
        if let Err(failed) = forgotten {
            panic!("{failed}, which this processor has");
        }
    }
}
