//! The moments of a VM's life at which its memory's sealing has something to do.
//!
//! | moment | what is done |
//! |---|---|
//! | [`vm_created`] | room for tags and for the window, once |
//! | [`vm_taken`] | the memory controllers' key for this life's frames, where they take one |
//! | [`vm_populated`] | a key of its own for this life; all pages fresh, none mapped |
//! | [`vm_scheduled_in`], [`vm_scheduled_out`] | counted; between two VMs of a CPU nothing of either is left in its window |
//! | [`vm_exited`] | samples, where the manifest asks for some |
//! | [`vm_paused`] | whatever is readable is sealed, a piece at a time |
//! | [`vm_destroyed`] | the key is wiped, before the first frame is given back |
//! | [`vm_unmapped`] | the memory controllers' key is erased |

use super::keys::KeyError;
use super::sealed::Sealed;
use super::tmemk;
use crate::events;
use crate::memory;
use crate::pcpu;
use crate::vm::memory::VmMemory;
use crate::vm::shared::VmShared;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::events::Event;
use bulkhead_core::fault::StopReason;
use bulkhead_core::ledger::VmId;
use bulkhead_core::manifest::VmPlan;
use core::sync::atomic::Ordering;
use guest_loader::MemoryLayout;

/// A VM is made; it has no memory yet. Its sealing, where the plan asks for it.
#[must_use]
pub fn vm_created(vm: VmId, plan: &VmPlan, layout: &MemoryLayout) -> Option<Box<Sealed>> {
    Sealed::of_plan(vm, plan, layout).map(Box::new)
}

/// A VM has all its frames, which nobody maps and which are not zeroed yet.
pub fn vm_taken(own: &mut VmMemory) {
    if own.sealed().is_none() {
        return;
    }
    let runs: Vec<_> = own.backing().runs().collect();
    let key = tmemk::take(own.vm(), &runs);
    if let Some(sealed) = own.sealed_mut() {
        sealed.set_hardware_key(key);
    }
}

/// A VM's frames are mapped by nobody, and about to be given back or given up.
pub fn vm_unmapped(own: &mut VmMemory) {
    let key = own.sealed_mut().and_then(Sealed::take_hardware_key);
    if let Some(key) = key {
        let runs: Vec<_> = own.backing().runs().collect();
        tmemk::erase(key, own.vm(), &runs);
    }
}

/// A VM has all its frames, zeroed; where it has no sealing, the operator may look at them. True where its view is to stay empty.
///
/// # Errors
/// There is no key.
pub fn vm_populated(own: &mut VmMemory) -> Result<bool, KeyError> {
    let Some(sealed) = own.sealed_mut() else {
        let mut memory = memory::lock();
        for run in own.backing().runs() {
            let opened = memory.ledger.open_to_operator(own.vm(), run);
            assert!(
                opened.is_ok(),
                "frames that a VM was just given are not its"
            );
        }
        return Ok(false);
    };
    let key = sealed.begin()?;
    let vm = sealed.name().as_str();
    events::send(&Event::SecmemStart { vm, key });
    Ok(true)
}

/// A vCPU of the VM has this CPU from now on.
pub fn vm_scheduled_in(vm: &VmShared) {
    vm.scheduled_in.fetch_add(1, Ordering::Relaxed);
}

/// Another VM's vCPU has this CPU from now on, whose window shows nothing.
pub fn vm_scheduled_out(vm: &VmShared) {
    vm.scheduled_out.fetch_add(1, Ordering::Relaxed);
    debug_assert!(!pcpu::this().window.is_locked());
}

/// A vCPU of the VM, whose exits are sampled, exited; whether there will be other samples.
#[cold]
pub fn vm_exited(vm: &VmShared) -> bool {
    let (sample, goes_on) = vm.memory.lock().sample();
    if let Some(sample) = sample {
        events::send(&Event::SecmemSample {
            vm: vm.name.as_str(),
            sample,
        });
    }
    goes_on
}

/// No vCPU of the VM runs: seals a piece of its memory. True where there is more.
///
/// # Errors
/// Why the VM cannot go on.
pub fn vm_paused(own: &mut VmMemory) -> Result<bool, StopReason> {
    own.seal()
}

/// A VM's run has ended, and nothing of it runs: its key goes, before its frames are given back where they are.
pub fn vm_destroyed(own: &mut VmMemory) {
    let Some(sealed) = own.sealed_mut() else {
        return;
    };
    let ended = sealed.end();
    let vm = sealed.name().as_str();
    if let Some(counters) = ended {
        events::send(&Event::Secmem { vm, counters });
        events::send(&Event::SecmemEnd {
            vm,
            key: counters.key,
        });
    }
}
