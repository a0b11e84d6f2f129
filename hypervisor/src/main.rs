//! Bulkhead, the UEFI binary: every effect. What to do is decided in `bulkhead_core`.
//!
//! [`main`] walks the boot list of `docs/boot-flow.md` up to the end of boot services, [`boot::handover`] from there
//! to the first VM.
#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod boot;
mod console;
mod events;
mod iommu;
mod memory;
mod panic;
mod pci;
mod pcpu;
mod secmem;
mod selftest;
mod tpm;
mod vm;
mod vmx;

use alloc::boxed::Box;
use alloc::string::ToString;
use boot::handover::Handover;
use boot::source::Source;
use bulkhead_core::events::Event;
use bulkhead_core::manifest::{ApicVirtualization, Feature, RootKeySource, SelfTest};
use bulkhead_core::tpm::What;
use bulkhead_core::vmx::capability::Wishes;
use console::CONSOLE;
use core::fmt::Display;
use memory::reserve::Wants;
use tpm::Measured;
use uefi::{Status, entry};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first watchdog code that is not the firmware's own ("UEFI Specification", "EFI_BOOT_SERVICES.SetWatchdogTimer()").
const WATCHDOG_CODE: u64 = 0x1_0000;

#[entry]
fn main() -> Status {
    if memory::heap::start().is_err() {
        return Status::OUT_OF_RESOURCES;
    }
    CONSOLE.lock().start(boot::facts::screen());
    events::start();
    console::install_logger();
    log::info!("Bulkhead {VERSION}, a Type-1 hypervisor");
    events::send(&Event::Boot { version: VERSION });
    match prepare() {
        Ok(handover) => boot::handover::leave_firmware(handover),
        Err(Refusal(error)) => refuse(error.as_ref()),
    }
}

/// Why nothing can be started, in words: an error of any kind. Not `dyn Error`, which would have each error's fields
/// printed for programmers, too, in an image that has no room for it.
pub struct Refusal(pub Box<dyn Display>);

impl<E: Display + 'static> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// Everything that needs the firmware: files, the plan, the feature gate, memory.
fn prepare() -> Result<Handover, Refusal> {
    // The firmware resets a machine whose boot takes five minutes: payloads over a slow network may, and errors are to be read.
    let _ = uefi::boot::set_watchdog_timer(0, WATCHDOG_CODE, None);
    // Closes its PCRs on every way out of here.
    let mut measured = Measured::begin();
    let mut source = Source::of_image()?;
    log::info!(
        "reading {} from {}",
        boot::payload::MANIFEST,
        source.describe()
    );
    measure_image(&mut source, &mut measured);
    let loaded = boot::payload::load(&mut source, &mut measured)?;
    console::set_level(loaded.plan.hypervisor.log_level);
    CONSOLE.lock().choose(loaded.plan.hypervisor.console);
    boot::payload::print_plan(&loaded.plan);
    // An ephemeral one is missed only by VMs that are encrypted.
    let root_key = match tpm::root_key::obtain(&loaded.plan.hypervisor, measured) {
        Err(error) if loaded.plan.hypervisor.root_key == RootKeySource::Tpm => {
            return Err(error.into());
        }
        obtained => obtained,
    };
    let hypervisor = &loaded.plan.hypervisor;
    let wishes = Wishes {
        apicv: hypervisor.apicv == ApicVirtualization::Auto,
        mbec: hypervisor.mbec == Feature::Auto,
        vmfunc: hypervisor.vmfunc == Feature::Auto,
    };
    let tables = boot::acpi::read();
    // Before the processor is judged: a machine with VT-d and no VT-x is told about its units, too.
    iommu::survey(tables.dmar.as_ref(), arch::lapic::has_x2apic());
    boot::gate::check()?;
    let dmar = boot::gate::accept(tables.dmar, hypervisor.iommu)?;
    let tests_devices = matches!(hypervisor.selftest, SelfTest::Vtd | SelfTest::VtdOff);
    let vmx = match vmx::operation::examine(wishes) {
        // A machine that cannot run VMs may still show its devices and units.
        Err(error) if !(dmar.is_some() || tests_devices) || !boot::gate::shows_devices() => {
            return Err(error.into());
        }
        examined => examined,
    };
    let features = vmx.as_ref().ok();
    let features =
        features.and_then(|report| vmx::operation::Features::negotiate(report, wishes).ok());
    let tells = features.is_some_and(|features| vm::split::tells_user_code(&features.vmx));
    let facts = boot::facts::Facts::gather(&tables.facts)?;
    log::info!("{facts}");
    memory::heap::extend(vm::models::heap_needed(&loaded))?;
    let reserved = memory::reserve::reserve(Wants {
        cpus: facts.cpus.len(),
        vcpus: loaded.plan.vms.iter().map(|vm| vm.vcpus).sum(),
        units: dmar.as_ref().map_or(0, |dmar| dmar.units.len()),
        windows: tables.windows.len(),
        devices: loaded.plan.vms.iter().map(|vm| vm.devices.len()).sum(),
        encrypted: secmem::sealed::encrypted_bytes(&loaded.plan),
        views: vm::split::tables(&loaded.plan, tells),
        selftest: if tests_devices {
            selftest::POOL_FRAMES
        } else {
            0
        },
    })?;
    Ok(Handover {
        loaded,
        root_key,
        wishes,
        vmx,
        facts,
        dmar,
        windows: tables.windows,
        reserved,
    })
}

/// Measures the file that the firmware loaded this program from. What it really loaded, it measured itself, into PCR 4.
fn measure_image(source: &mut Source, measured: &mut Measured) {
    if !measured.has_tpm() {
        return;
    }
    let measure = |bytes: &[u8]| {
        measured.add(What::Image, bytes);
    };
    if let Err(error) = source.look_at_image(measure) {
        log::warn!("{error}");
        measured.miss(What::Image, uefi::Status::NOT_FOUND);
    }
}

/// Says why nothing starts, and stops.
pub fn refuse(error: &dyn Display) -> ! {
    fail(error, "nothing was started")
}

/// Says why the machine cannot go on, and stops; `consequence` is what that means for the VMs.
pub fn fail(error: &dyn Display, consequence: &str) -> ! {
    log::error!("{}", error.to_string().trim_end());
    log::error!("{consequence}");
    events::send(&Event::Halt {
        error: &error.to_string(),
    });
    CONSOLE.lock().serial.flush();
    console::EVENTS.lock().flush();
    arch::cpu::stop()
}
