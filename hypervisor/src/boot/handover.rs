//! From boot services to our own page tables, stacks and exception handlers, and on to the VMs.

use super::cpus;
use super::facts::Facts;
use super::payload::{Loaded, VmFiles};
use crate::arch::{cpu, descriptor, lapic, startup};
use crate::console::{CONSOLE, EVENTS};
use crate::iommu::{self, Iommu, IommuError};
use crate::memory::reserve::{self, Reserved};
use crate::memory::{self, Memory, Surroundings, frames_of, heap};
use crate::pci::Functions;
use crate::pcpu::start::Seed;
use crate::pcpu::{self, Pcpu, checks};
use crate::secmem::{self, sealed, tmemk};
use crate::selftest::devices::{self, DeviceTests};
use crate::tpm::root_key::RootKeyError;
use crate::vm::control::Control;
use crate::vm::{self, Machine, Vm, VmError, network, passthrough, scheduler, shared};
use crate::vmx::operation::{self, Features, Unfit};
use crate::{Refusal, events, fail, panic, refuse};
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::addr::{FRAME_SIZE, Hpa};
use bulkhead_core::events::{Event, MemoryUse};
use bulkhead_core::hostpt::{Access, Window};
use bulkhead_core::ledger::{FrameRun, OwnerClass, VmId};
use bulkhead_core::manifest::{Assigned, MachineFacts, SelfTest, SmtPolicy};
use bulkhead_core::order;
use bulkhead_core::pci::EcamWindow;
use bulkhead_core::placement::Placement;
use bulkhead_core::secmem::tmemk::{KeyIds, Unusable};
use bulkhead_core::switch::PortConfig;
use bulkhead_core::symmetry::VmxReport;
use bulkhead_core::table::PageSize;
use bulkhead_core::vmx::capability::Wishes;
use bulkhead_core::vtd::dmar::Dmar;
use bulkhead_crypto::RootKey;
use core::arch::asm;
use core::convert::Infallible;
use core::mem;
use uefi::boot;
use x86_64::instructions::interrupts;

/// What the first half of the boot hands to the second.
pub struct Handover {
    /// The plan and its files.
    pub loaded: Loaded,
    /// What the keys of VMs come from, or why there is nothing.
    pub root_key: Result<Box<RootKey>, RootKeyError>,
    /// What was wished for when features were negotiated.
    pub wishes: Wishes,
    /// What the first CPU's VT-x offers, or why it cannot run VMs: then the devices are shown, and nothing else.
    pub vmx: Result<VmxReport, Unfit>,
    /// The machine.
    pub facts: Facts,
    /// Its VT-d units.
    pub dmar: Option<Dmar>,
    /// Its windows to configuration space.
    pub windows: Vec<EcamWindow>,
    /// Memory taken from the firmware.
    pub reserved: Reserved,
}

/// The second half's state, found by [`on_own_stack`] on the new stack.
struct Owned {
    loaded: Loaded,
    root_key: Result<Box<RootKey>, RootKeyError>,
    wishes: Wishes,
    vmx: Result<VmxReport, Unfit>,
    facts: Facts,
    dmar: Option<Dmar>,
    ecam: Vec<EcamWindow>,
    memory: Memory,
    windows: Vec<Window>,
    tops: Vec<reserve::Stacks>,
    start_page: Option<FrameRun>,
}

/// Ends boot services, builds and loads our own page tables, changes to our own stack. Does not come back.
#[allow(
    unsafe_code,
    reason = "leaves the firmware and changes page tables and stack"
)]
pub fn leave_firmware(handover: Handover) -> ! {
    let Handover {
        loaded,
        root_key,
        wishes,
        vmx,
        facts,
        dmar,
        windows: ecam,
        reserved,
    } = handover;
    let payloads = payload_runs(&loaded);
    let framebuffer = CONSOLE
        .lock()
        .framebuffer()
        .map(|(start, bytes)| frames_of(start, bytes));
    let tops = reserved.tops.clone();
    let Some(first) = tops.first().copied() else {
        unreachable!("there are stacks for the CPU that runs this");
    };
    let start_page = reserved.start_page;
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
        start_code: start_page,
        cpus: facts.cpus.len(),
    };
    let built = Memory::build(reserved, reserve::ranges(&map), &around);
    // Giving the map back would call the firmware.
    mem::forget(map);
    let (memory, windows) = match built {
        Ok(built) => built,
        Err(error) => refuse(&error),
    };
    if !memory.shows_screen {
        CONSOLE.lock().lose_screen();
    }
    cpu::start();
    describe_image(&memory);
    let root = memory.root();
    // The firmware's tables still let the page be written; ours do not.
    let start_page = start_page.filter(|page| {
        // SAFETY: the page was taken below 1 MiB for this; `Memory::build` mapped it executable.
        unsafe { startup::write(page.first.start(), root) }
    });
    let owned = Box::into_raw(Box::new(Owned {
        loaded,
        root_key,
        wishes,
        vmx,
        facts,
        dmar,
        ecam,
        memory,
        windows,
        tops,
        start_page,
    }));
    // SAFETY: the tables map this code, the heap that holds `owned`, and the new stack, all where their addresses are
    // equal; the firmware's stack is never returned to.
    unsafe {
        asm!("mov cr3, {root}", "mov rsp, {stack}", "xor ebp, ebp", "call {next}", "ud2",
             root = in(reg) root.0, stack = in(reg) first.main, next = sym on_own_stack,
             in("rdi") owned, options(noreturn));
    }
}

#[allow(unsafe_code, reason = "takes what `leave_firmware` left")]
extern "sysv64" fn on_own_stack(owned: *mut Owned) -> ! {
    // SAFETY: `leave_firmware` made this pointer from a box and gave it to this call alone.
    let owned = unsafe { Box::from_raw(owned) };
    match after_firmware(*owned) {
        Ok(never) => match never {},
        Err(Refusal(error)) => refuse(error.as_ref()),
    }
}

/// Exceptions, ledger facts, CPUs, VMX operation, VMs.
fn after_firmware(owned: Owned) -> Result<Infallible, Refusal> {
    let Owned {
        loaded,
        root_key,
        wishes,
        vmx,
        facts,
        dmar,
        ecam,
        mut memory,
        windows,
        tops,
        start_page,
    } = owned;
    let (own, mut seeds) = become_first_cpu(&facts, &mut memory, windows, &tops, wishes, &loaded)?;
    // Before anything that takes time: until then devices reach whatever the firmware let them.
    let iommu = take_over_devices(&mut memory, dmar, &ecam, &facts, &loaded);
    report_memory(&memory, &loaded, &facts);
    let mut iommu = iommu?;
    let selftest = loaded.plan.hypervisor.selftest;
    if let Some(tests) = DeviceTests::of(selftest) {
        devices::run(tests, &mut memory, &mut iommu, facts.tsc_khz);
    }
    let vmx = vmx?;
    iommu::install(iommu);
    if !matches!(selftest, SelfTest::None | SelfTest::PanicOtherCpu) {
        crate::selftest::run(selftest, &mut memory);
        panic!("self-test {selftest} was not stopped: a protection does not hold");
    }
    let books = memory.ledger.books();
    let ram_bytes = books.available().bytes().unwrap_or(0);
    loaded.plan.fit(&MachineFacts {
        ram_bytes,
        cpus: facts.cpus.len() as u32,
    })?;
    let vmxon = seeds.remove(0).vmxon;
    let memory_end = memory.ledger.frames().bytes().map_or(Hpa(u64::MAX), Hpa);
    let page = start_page.map(|page| page.first.start());
    let gathered = cpus::gather(seeds, vmx, &facts, page, memory_end)?;
    let keys = gathered
        .tmemk
        .and_then(|registers| KeyIds::find(&registers, memory_end, &facts.mtrrs))
        .and_then(|keys| match facts.leaves_cpus {
            true => Err(Unusable::CpuAsleep),
            false => Ok(keys),
        });
    let mut features = Features::negotiate(&gathered.common.vmx, wishes)?;
    if let Ok(keys) = &keys {
        features.ept = features.ept.with_keys(keys.field());
    }
    // SAFETY: the frame was taken for this CPU's VMXON and is zeroed.
    #[allow(unsafe_code, reason = "gives a frame to VMXON")]
    unsafe { operation::turn_on(&features, vmxon) }?;
    describe_vmx(&features);
    let bitmaps = vm::build_bitmaps(&mut memory, features.vmx.apicv())?;
    memory::install(memory);
    vm::install(Machine {
        features,
        common: gathered.common.features.clone(),
        xsave_bytes: gathered.xsave_bytes,
        tsc_khz: facts.tsc_khz,
        mtrrs: facts.mtrrs.clone(),
        physical_bits: gathered.common.features.physical_bits(),
        bitmaps,
        epoch: facts.epoch,
    });
    if sealed::encrypted_bytes(&loaded.plan) > 0 {
        secmem::keys::install(root_key?);
    } else {
        // Wiped: nothing is derived from it.
        drop(root_key);
    }
    own.go_online();
    cpus::admit(&gathered);
    tmemk::install(keys, gathered.layout);
    if selftest == SelfTest::PanicOtherCpu {
        crate::selftest::fail_elsewhere();
        return Err(
            "self-test panic-other-cpu needs a second CPU, whose report stops this one".into(),
        );
    }
    let placement = cpus::place(&loaded, gathered.layout)?;
    let assigned = passthrough::assign(&loaded.plan)?;
    match create_vms(loaded, &placement, &assigned) {
        Ok(vms) => {
            shared::install(vms.iter().map(|vm| vm.shared).collect());
            CONSOLE.lock().serial.go_asynchronous();
            EVENTS.lock().go_asynchronous();
            let mut control = Control::new(vms, facts.power);
            control.start();
            scheduler::run_vcpus(Some(control))
        }
        Err(error) => fail(&error, "no VM runs"),
    }
}

/// Silences every function and puts the units in front of them.
fn take_over_devices(
    memory: &mut Memory,
    dmar: Option<Dmar>,
    windows: &[EcamWindow],
    facts: &Facts,
    loaded: &Loaded,
) -> Result<Iommu, IommuError> {
    let functions = Functions::take_over(memory, windows);
    let plan = &loaded.plan;
    let names = plan.vms.iter().map(|vm| vm.name.as_str().into()).collect();
    let policy = plan.hypervisor.iommu;
    Iommu::start(memory, functions, dmar, policy, names, facts.tsc_khz)
}

/// The first CPU's number, tables and checks; the seeds are in the order of CPUs.
fn become_first_cpu(
    facts: &Facts,
    memory: &mut Memory,
    windows: Vec<Window>,
    tops: &[reserve::Stacks],
    wishes: Wishes,
    loaded: &Loaded,
) -> Result<(&'static Pcpu, Vec<Seed>), VmError> {
    let smt = loaded.plan.hypervisor.smt;
    let seeds = cpus::install(facts, memory, windows, tops, wishes, smt)?;
    let own = &pcpu::all()[0];
    let exceptions = tops[0].exceptions;
    own.descriptors
        .call_once(|| descriptor::install(exceptions));
    pcpu::become_cpu(own);
    lapic::quiet();
    checks::begin(own);
    own.barrier.prepare(smt == SmtPolicy::Share);
    Ok((own, seeds))
}

fn describe_vmx(features: &Features) {
    log::info!(
        "VMX on: {} APIC virtualisation{}, EPT pages up to {}",
        if features.vmx.apicv() {
            "with"
        } else {
            "without"
        },
        if features.vmx.posts_interrupts() {
            " and posted interrupts"
        } else {
            ""
        },
        match features.ept.largest_page() {
            PageSize::Size4K => "4 KiB",
            PageSize::Size2M => "2 MiB",
            PageSize::Size1G => "1 GiB",
        }
    );
}

/// Makes the plan's VMs.
fn create_vms(
    loaded: Loaded,
    placement: &Placement,
    assigned: &[Assigned],
) -> Result<Vec<Vm>, VmError> {
    let Loaded { plan, files } = loaded;
    let ports = PortConfig::of_plan(&plan);
    let mut vms = Vec::with_capacity(plan.vms.len());
    for (index, (plan, files)) in plan.vms.into_iter().zip(files).enumerate() {
        let cpus: Vec<_> = placement
            .cpus_of(index)
            .iter()
            .map(|cpu| *cpu as usize)
            .collect();
        let functions = assigned.get(index).map_or(&[][..], Vec::as_slice);
        let id = VmId(index as u16);
        vms.push(Vm::create(id, plan, files, &cpus, functions)?);
    }
    network::install(&ports, &vms, vm::tsc_khz()).map_err(VmError::Network)?;
    Ok(vms)
}

/// The frames that hold the payloads, whole pages as the firmware gave them; those of several VMs once.
fn payload_runs(loaded: &Loaded) -> Vec<FrameRun> {
    let files = loaded.files.iter().flat_map(VmFiles::all);
    let mut runs: Vec<_> = files
        .map(|bytes| frames_of(bytes.as_ptr() as u64, bytes.len().max(1) as u64))
        .collect();
    order::sort_by_key(&mut runs, |run| run.first);
    runs.dedup();
    runs
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
        heap_bytes: heap::blocks().map(|(_, bytes)| bytes).sum(),
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
