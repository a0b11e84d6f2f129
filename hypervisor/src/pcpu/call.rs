//! Having CPUs do something at once, and knowing that they did: TLB shootdown, and the stop of the machine.
//!
//! A caller asks on each CPU's slip ([`bulkhead_core::call`]), interrupts it, and waits for the answer. A CPU looks there
//! between two vCPUs and while it waits in a call of its own, so two callers cannot wait for each other. One that works long, or
//! waits for a lock that the caller holds, gets an NMI, which is served wherever it is. A CPU that does not answer in time
//! is a broken machine: nothing may be reused that it could still reach.

use super::Pcpu;
use crate::arch::cpu::{self, rdtsc};
use crate::arch::lapic;
use crate::boot::facts::MAX_CPUS;
use crate::secmem::tmemk;
use crate::vm;
use crate::vmx::{instruction, operation};
use bulkhead_core::call::{Patience, Requests, Step};
use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::Ordering;
use x86_64::instructions::tlb;

/// A CPU that did not do what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoAnswer {
    /// Its number.
    pub cpu: usize,
    /// What it was asked.
    pub requests: Requests,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CPU {} did not answer {} within {} ms",
            self.cpu,
            self.requests,
            Patience::GIVE_UP_MS
        )
    }
}

impl core::error::Error for NoAnswer {}

/// Has every CPU that runs VMs do `requests`, this one included, and waits until all did.
///
/// # Errors
/// The first that did not in time.
pub fn everywhere(requests: Requests) -> Result<(), NoAnswer> {
    carry_out(requests);
    elsewhere(requests)
}

/// Has every other CPU that runs VMs do `requests`, and waits until all did.
///
/// # Errors
/// The first that did not in time.
pub fn elsewhere(requests: Requests) -> Result<(), NoAnswer> {
    let Some(own) = super::known() else {
        // Not even the CPU that runs this is set up, so no other is.
        return Ok(());
    };
    for cpu in others(own) {
        ask(cpu, requests);
    }
    others(own).try_for_each(|cpu| wait(own, cpu, requests))
}

// One bit for each CPU of a set.
const _: () = assert!(MAX_CPUS <= u64::BITS as usize);

/// Has the CPUs whose numbers' bits are set in `cpus` do `requests`, the caller's too if it is one of them, and waits until all did.
/// Those that run no VMs are left out.
///
/// # Errors
/// The first that did not in time.
pub fn among(cpus: u64, requests: Requests) -> Result<(), NoAnswer> {
    let own = super::this();
    let mut chosen = others(own).filter(|cpu| cpus & 1 << cpu.index != 0);
    for cpu in chosen.clone() {
        ask(cpu, requests);
    }
    if cpus & 1 << own.index != 0 {
        carry_out(requests);
    }
    chosen.try_for_each(|cpu| wait(own, cpu, requests))
}

/// Has CPU number `index` do `requests`, whichever that is, and waits until it did.
///
/// # Errors
/// It did not in time, or runs no VMs.
pub fn on(index: usize, requests: Requests) -> Result<(), NoAnswer> {
    let own = super::this();
    if index == own.index {
        carry_out(requests);
        return Ok(());
    }
    let silent = NoAnswer {
        cpu: index,
        requests,
    };
    let cpu = others(own).find(|cpu| cpu.index == index).ok_or(silent)?;
    ask(cpu, requests);
    wait(own, cpu, requests)
}

/// Has CPU number `index`, which is another one, do `requests`. False where it runs no VMs.
pub fn ask_one(index: usize, requests: Requests) -> bool {
    let other = others(super::this()).find(|cpu| cpu.index == index);
    if let Some(cpu) = other {
        ask(cpu, requests);
    }
    other.is_some()
}

/// Does what other CPUs asked of `own`, which is the caller's.
pub fn serve(own: &Pcpu) {
    let requests = own.slip.take();
    if requests.is_empty() {
        return;
    }
    carry_out(requests.difference(Requests::LEAVE));
    if requests.contains(Requests::LEAVE) {
        own.online.store(false, Ordering::SeqCst);
        operation::turn_off();
        own.slip.done(requests);
        cpu::stop();
    }
    own.slip.done(requests);
}

fn ask(cpu: &Pcpu, requests: Requests) {
    cpu.slip.ask(requests);
    cpu.kick();
}

fn wait(own: &Pcpu, cpu: &Pcpu, requests: Requests) -> Result<(), NoAnswer> {
    let mut patience = Patience::new(rdtsc(), vm::tsc_khz());
    while !cpu.slip.is_done(requests) {
        match patience.step(rdtsc()) {
            Step::Wait => {}
            Step::Interrupt => {
                cpu.checks.expect_nmi();
                lapic::send_nmi(cpu.apic_id);
            }
            Step::GiveUp => {
                return Err(NoAnswer {
                    cpu: cpu.index,
                    requests,
                });
            }
        }
        serve(own);
        spin_loop();
    }
    Ok(())
}

fn others(own: &Pcpu) -> impl Iterator<Item = &'static Pcpu> + Clone + use<> {
    let own = own.index;
    super::all()
        .iter()
        .filter(move |cpu| cpu.index != own && cpu.is_online())
}

fn carry_out(requests: Requests) {
    if requests.contains(Requests::FAIL) {
        panic!("provoked on another CPU by selftest = \"panic-other-cpu\"");
    }
    if requests.contains(Requests::FORGET_HOST) {
        // The hypervisor maps nothing global, so reloading CR3 forgets all of it.
        tlb::flush_all();
    }
    if requests.contains(Requests::FORGET_VIEWS) {
        instruction::forget_views();
    }
    if requests.contains(Requests::FORGET_VIEW)
        && let Some(vm) = super::this().guest()
    {
        vm.forget_view();
    }
    if requests.contains(Requests::EMPTY_CACHES) {
        cpu::empty_caches();
    }
    if requests.contains(Requests::PROGRAM_KEY) {
        tmemk::program_here();
    }
}
