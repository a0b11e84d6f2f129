//! TME-MK: registers read, PCONFIG executed on one CPU of each package, caches emptied. **Never run on hardware.**
//!
//! [`install`] says once, at boot, whether it is used; [`take`] and [`erase`] give a VM's frames a key and take it from
//! them. Anything unexpected leaves it unused. What is allowed, and in which order, is `bulkhead_core::secmem::tmemk`'s.
#![allow(unsafe_code, reason = "MSRs and PCONFIG")]

use crate::arch::cpu;
use crate::memory;
use crate::pcpu::{self, Pcpu, call};
use bulkhead_core::call::Requests;
use bulkhead_core::ledger::{FrameRun, LedgerError, VmId};
use bulkhead_core::secmem::tmemk::{
    Engines, HardwareKey, HardwareKeys, KeyIds, KeyProgram, KeyTag, ProgramError, Registers,
    Unusable,
};
use bulkhead_core::topology::IdLayout;
use core::arch::asm;
use core::fmt::Display;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use spin::Mutex;

static KEYS: Mutex<Option<Keys>> = Mutex::new(None);

/// What the CPU that is asked to is to give to PCONFIG, and what PCONFIG said then.
static PROGRAM: AtomicPtr<KeyProgram> = AtomicPtr::new(ptr::null_mut());
static ANSWER: AtomicU64 = AtomicU64::new(NO_ANSWER);
const NO_ANSWER: u64 = u64::MAX;

struct Keys {
    keys: HardwareKeys,
    packages: Packages,
}

/// All CPUs, whose identifiers tell their packages.
struct Packages(IdLayout);

/// What the CPU that runs this says of TME-MK.
#[must_use]
pub fn registers() -> Registers {
    // SAFETY: `Registers::read` asks only for registers that CPUID announces.
    Registers::read(&mut cpu::cpuid_for_core, |msr| unsafe { cpu::rdmsr(msr) })
}

/// Makes `keys` what VMs get theirs from, now that all CPUs that will run do, and says whether there are any. `layout` tells
/// packages apart.
pub fn install(keys: Result<KeyIds, Unusable>, layout: IdLayout) {
    let keys = keys.and_then(|keys| match pcpu::all().iter().all(Pcpu::is_online) {
        true => Ok(keys),
        false => Err(Unusable::CpuAsleep),
    });
    let outcome: &dyn Display = match &keys {
        Ok(keys) => keys,
        Err(why) => why,
    };
    log::info!("TME-MK: {outcome}");
    *KEYS.lock() = keys.ok().map(|keys| Keys {
        keys: HardwareKeys::new(keys),
        packages: Packages(layout),
    });
}

/// A key for `vm`, under which all its frames are from now on: `runs`, which nobody maps. They are dirty. `None` where there is no
/// TME-MK, no key left, or something unexpected happened.
#[must_use]
pub fn take(vm: VmId, runs: &[FrameRun]) -> Option<HardwareKey> {
    let mut own = KEYS.lock();
    let Keys { keys, packages } = own.as_mut()?;
    keys.make(packages, |tag| rekey(vm, runs, tag))
        .inspect_err(|error| log::warn!("TME-MK: no key for {vm}: {error}"))
        .ok()
}

/// Erases the key of `vm`, whose frames are `runs` and whose view is empty and forgotten by every CPU. The ledger lets none of
/// them go before.
pub fn erase(key: HardwareKey, vm: VmId, runs: &[FrameRun]) {
    let mut own = KEYS.lock();
    let Some(Keys { keys, packages }) = own.as_mut() else {
        unreachable!("a key was made without TME-MK");
    };
    if let Err(error) = keys.erase(key, packages, |tag| rekey(vm, runs, tag)) {
        log::error!("TME-MK: the key of {vm} stays: {error}");
    }
}

fn rekey(vm: VmId, runs: &[FrameRun], tag: KeyTag) -> Result<(), LedgerError> {
    memory::lock().ledger.rekey(vm, runs, tag)
}

/// What another CPU asked this one for, as the first of its package: one PCONFIG.
pub fn program_here() {
    let program = PROGRAM.load(Ordering::SeqCst);
    if !program.is_null() {
        // SAFETY: `Packages::program` keeps it where it is until this CPU has answered, and is only called with keys of `KeyIds`.
        let answer = unsafe { pconfig(program) };
        ANSWER.store(answer, Ordering::SeqCst);
    }
}

impl Engines for Packages {
    fn cpus(&self) -> usize {
        pcpu::all().len()
    }

    fn leads(&self, cpu: usize) -> bool {
        let package = |cpu: &Pcpu| self.0.locate(cpu.apic_id).package;
        let Some((own, before)) = pcpu::all().get(..=cpu).and_then(|cpus| cpus.split_last()) else {
            return false;
        };
        before.iter().all(|other| package(other) != package(own))
    }

    fn program(&mut self, cpu: usize, program: &KeyProgram) -> Result<(), ProgramError> {
        ANSWER.store(NO_ANSWER, Ordering::SeqCst);
        PROGRAM.store(ptr::from_ref(program).cast_mut(), Ordering::SeqCst);
        if let Err(silent) = call::on(cpu, Requests::PROGRAM_KEY) {
            panic!("{silent}: it may still read what it was given");
        }
        PROGRAM.store(ptr::null_mut(), Ordering::SeqCst);
        ProgramError::check(ANSWER.load(Ordering::SeqCst))
    }

    fn empty_caches(&mut self) {
        if let Err(silent) = call::everywhere(Requests::EMPTY_CACHES) {
            panic!("{silent}: its caches may still hold what is a VM's");
        }
    }
}

/// PCONFIG, leaf MKTME_KEY_PROGRAM (Intel SDM vol. 2B, "PCONFIG—Platform Configuration"); what RAX says then.
///
/// # Safety
/// The processor has PCONFIG with TME-MK as a target, IA32_TME_ACTIVATE is locked with encryption on, and `program` names a key
/// id and an algorithm that it allows; otherwise there is an exception. No frame that anybody maps is under that key id.
unsafe fn pconfig(program: *const KeyProgram) -> u64 {
    const MKTME_KEY_PROGRAM: u64 = 0;
    let answer: u64;
    // SAFETY: the caller's promises; `KeyProgram` has the alignment wanted. RBX, which the compiler keeps to itself, is as it was.
    unsafe {
        asm!("xchg rbx, {program}", "pconfig", "xchg rbx, {program}",
             program = inout(reg) program => _, inout("rax") MKTME_KEY_PROGRAM => answer,
             options(nostack));
    }
    answer
}
