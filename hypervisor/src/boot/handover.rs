//! From boot services to our own page tables, stacks and exception handlers, and on to the VMs.

use super::facts::Facts;
use super::payload::{Loaded, VmFiles};
use crate::arch::{cpu, descriptor, lapic};
use crate::console::{CONSOLE, EVENTS};
use crate::memory::reserve::{self, Reserved};
use crate::memory::{Memory, Surroundings, frames_of, heap};
use crate::vm::{After, Machine, Vm};
use crate::vmx::operation::{self, Features};
use crate::{events, fail, panic, refuse};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, FrameCount};
use bulkhead_core::events::{Event, MemoryUse};
use bulkhead_core::hostpt::Access;
use bulkhead_core::ledger::{FrameRun, OwnerClass, VmId};
use bulkhead_core::manifest::{MachineFacts, SelfTest};
use bulkhead_core::table::PageSize;
use core::arch::asm;
use core::convert::Infallible;
use core::error::Error;
use core::mem;
use spin::Mutex;
use uefi::boot;
use x86_64::instructions::interrupts;

/// What the first half of the boot hands to the second.
pub struct Handover {
    /// The plan and its files.
    pub loaded: Loaded,
    /// Negotiated features.
    pub features: Features,
    /// The machine.
    pub facts: Facts,
    /// Memory taken from the firmware.
    pub reserved: Reserved,
}

/// The second half's state, found by [`on_own_stack`] on the new stack.
struct Owned {
    loaded: Loaded,
    features: Features,
    facts: Facts,
    memory: Memory,
    tops: reserve::Stacks,
}

/// Ends boot services, builds and loads our own page tables, changes to our own stack. Does not come back.
#[allow(
    unsafe_code,
    reason = "leaves the firmware and changes page tables and stack"
)]
pub fn leave_firmware(handover: Handover) -> ! {
    let Handover {
        loaded,
        features,
        facts,
        reserved,
    } = handover;
    let payloads = payload_runs(&loaded);
    let framebuffer = CONSOLE
        .lock()
        .framebuffer()
        .map(|(start, bytes)| frames_of(start, bytes));
    let tops = reserved.tops;
    log::info!("leaving the firmware");
    // SAFETY: every protocol was closed when its guard was dropped; nothing of the firmware's memory is referred
    // to from here on but what `reserved` and `loaded` hold, which is loader data.
    let map = unsafe { boot::exit_boot_services(None) };
    // The firmware's exception table is not mapped by the tables to come.
    interrupts::disable();
    let around = Surroundings {
        payloads: &payloads,
        framebuffer,
        gigabyte_pages: cpu::has_gigabyte_pages(),
    };
    let built = Memory::build(reserved, reserve::ranges(&map), &around);
    // Giving the map back would call the firmware.
    mem::forget(map);
    let memory = match built {
        Ok(memory) => memory,
        Err(error) => refuse(&error),
    };
    if !memory.shows_screen {
        CONSOLE.lock().lose_screen();
    }
    cpu::start();
    describe_image(&memory);
    let root = memory.root();
    let owned = Box::into_raw(Box::new(Owned {
        loaded,
        features,
        facts,
        memory,
        tops,
    }));
    // SAFETY: the tables map this code, the heap that holds `owned`, and the new stack, all where their addresses are
    // equal; the firmware's stack is never returned to.
    unsafe {
        asm!("mov cr3, {root}", "mov rsp, {stack}", "xor ebp, ebp", "call {next}", "ud2",
             root = in(reg) root.0, stack = in(reg) tops.main, next = sym on_own_stack,
             in("rdi") owned, options(noreturn));
    }
}

#[allow(unsafe_code, reason = "takes what `leave_firmware` left")]
extern "sysv64" fn on_own_stack(owned: *mut Owned) -> ! {
    // SAFETY: `leave_firmware` made this pointer from a box and gave it to this call alone.
    let owned = unsafe { Box::from_raw(owned) };
    match after_firmware(*owned) {
        Ok(never) => match never {},
        Err(error) => refuse(error.as_ref()),
    }
}

/// Exceptions, ledger facts, VMX operation, VMs.
fn after_firmware(owned: Owned) -> Result<Infallible, Box<dyn Error>> {
    let Owned {
        loaded,
        features,
        facts,
        mut memory,
        tops,
    } = owned;
    let descriptors = descriptor::install(tops.exceptions);
    lapic::quiet();
    report_memory(&memory, &loaded, &facts);
    let selftest = loaded.plan.hypervisor.selftest;
    if selftest != SelfTest::None {
        crate::selftest::run(selftest, &mut memory);
        panic!("self-test {selftest} was not stopped: a protection does not hold");
    }
    let books = memory.ledger.books();
    let ram_bytes = books.available().bytes().unwrap_or(0);
    loaded.plan.fit(&MachineFacts {
        ram_bytes,
        cpus: facts.cpus,
    })?;
    turn_on_vmx(&mut memory, &features)?;
    let machine = Machine {
        features,
        descriptors,
        exit_stack: tops.exit,
        tsc_khz: facts.tsc_khz,
        mtrrs: facts.mtrrs.clone(),
        physical_bits: facts.physical_bits,
    };
    if let Err(error) = run_vms(&loaded, memory, &machine) {
        fail(error.as_ref(), "no VM runs");
    }
    log::info!("every VM has stopped; switching the machine off");
    events::send(&Event::MachineOff {
        reason: &"every VM has stopped",
    });
    CONSOLE.lock().serial.flush();
    EVENTS.lock().flush();
    facts.power.now();
    cpu::stop()
}

#[allow(unsafe_code, reason = "gives a frame to VMXON")]
fn turn_on_vmx(memory: &mut Memory, features: &Features) -> Result<(), Box<dyn Error>> {
    let region = memory
        .pool
        .take_run(FrameCount(1))
        .ok_or(crate::vm::VmError::OutOfPool)?;
    // SAFETY: the frame was just taken for this and is zeroed.
    unsafe { operation::turn_on(features, region.first.start()) }?;
    log::info!(
        "VMX on: {} APIC virtualisation, EPT pages up to {}",
        if features.vmx.apicv() {
            "with"
        } else {
            "without"
        },
        match features.ept.largest_page() {
            PageSize::Size4K => "4 KiB",
            PageSize::Size2M => "2 MiB",
            PageSize::Size1G => "1 GiB",
        }
    );
    Ok(())
}

/// Runs the plan's VMs, one after the other's rest, until none is left that wants to run.
fn run_vms(loaded: &Loaded, memory: Memory, machine: &Machine) -> Result<(), Box<dyn Error>> {
    let memory = Arc::new(Mutex::new(memory));
    let plans = loaded
        .plan
        .vms
        .iter()
        .cloned()
        .zip(loaded.files.iter().cloned());
    for ((plan, files), id) in plans.zip(0..) {
        log::info!("starting VM \"{}\"", plan.name);
        let mut vm = Vm::create(VmId(id), plan, files, &memory, machine)?;
        CONSOLE.lock().serial.go_asynchronous();
        EVENTS.lock().go_asynchronous();
        while let After::Restart(reason) = vm.run(machine)? {
            vm.reset(reason)?;
        }
    }
    Ok(())
}

/// The frames that hold the payloads, whole pages as the firmware gave them.
fn payload_runs(loaded: &Loaded) -> Vec<FrameRun> {
    let files = loaded.files.iter().flat_map(VmFiles::all);
    files
        .map(|bytes| frames_of(bytes.as_ptr() as u64, bytes.len().max(1) as u64))
        .collect()
}

/// Tells the panic report where the image and its code lie.
fn describe_image(memory: &Memory) {
    let span = |run: FrameRun| (run.first.0 * FRAME_SIZE, run.end().0 * FRAME_SIZE);
    let code = memory
        .sections
        .iter()
        .find(|section| section.access == Access::ReadExecute);
    if let Some(code) = code {
        panic::describe_image(span(memory.image), span(code.run));
    }
}

/// Says what the hypervisor keeps of the machine's memory.
fn report_memory(memory: &Memory, loaded: &Loaded, facts: &Facts) {
    let bytes = |run: FrameRun| run.count.0 * FRAME_SIZE;
    let books = memory.ledger.books();
    let payload_bytes = payload_runs(loaded).into_iter().map(bytes).sum();
    let kept = books.owned_by(OwnerClass::Hypervisor).bytes().unwrap_or(0);
    let usage = MemoryUse {
        image_bytes: bytes(memory.image),
        heap_bytes: heap::HEAP_BYTES as u64,
        ledger_bytes: bytes(memory.ledger_run),
        tables_bytes: memory.pool.used().bytes().unwrap_or(0),
        payload_bytes,
        total_bytes: kept + payload_bytes,
        ram_bytes: facts.ram_bytes(memory),
    };
    log::info!(
        "memory: {} KiB kept of {} MiB (image {}, heap {}, ledger {}, tables {}, payloads {} KiB)",
        usage.total_bytes >> 10,
        usage.ram_bytes >> 20,
        usage.image_bytes >> 10,
        usage.heap_bytes >> 10,
        usage.ledger_bytes >> 10,
        usage.tables_bytes >> 10,
        usage.payload_bytes >> 10
    );
    events::send(&Event::Memory(usage));
}
