//! What the firmware and the processor know about the machine, gathered before boot services end.
#![allow(unsafe_code, reason = "the framebuffer arrives as a raw address")]

use crate::arch::cpu::{self, cpuid, rdtsc};
use crate::arch::power::PowerOff;
use crate::console::screen::Screen;
use crate::memory::Memory;
use alloc::vec::Vec;
use bulkhead_core::device::rtc::DateTime;
use bulkhead_core::hostacpi::HostAcpi;
use bulkhead_core::mtrr::{MtrrError, Mtrrs};
use core::fmt;
use core::time::Duration;
use uefi::boot;
use uefi::proto::console::gop::{GraphicsOutput, PixelFormat};
use uefi::proto::pi::mp::MpServices;

/// How long the TSC is compared with the firmware's clock.
const CALIBRATION: Duration = Duration::from_millis(10);
/// CPUID's figure is believed when it is this close to the measured one, in parts per thousand.
const TOLERANCE_PERMILLE: u64 = 10;

/// CPUs beyond this many are left alone.
pub const MAX_CPUS: usize = 64;
/// No processor counts more slowly.
const SLOWEST_KHZ: u32 = 1_000;

/// The machine.
#[derive(Debug)]
pub struct Facts {
    /// TSC frequency in kHz.
    pub tsc_khz: u32,
    /// The local APIC identifiers of the CPUs, the one that runs this first.
    pub cpus: Vec<u32>,
    /// Whether there are more CPUs than are used.
    pub leaves_cpus: bool,
    /// Width of a physical address in bits.
    pub physical_bits: u32,
    /// Memory types.
    pub mtrrs: Mtrrs,
    /// How to switch it off.
    pub power: PowerOff,
    /// The time by the firmware's clock: seconds since 1970, and the TSC then.
    pub epoch: (u64, u64),
}

impl Facts {
    /// Asks the firmware, whose tables say `acpi`, and the processor.
    ///
    /// # Errors
    /// The MTRRs hold what the manual forbids, or the firmware's clock cannot be right.
    pub fn gather(acpi: &HostAcpi) -> Result<Self, FactsError> {
        let physical_bits = cpu::physical_bits();
        // SAFETY: `Mtrrs::read` asks only for registers that the capability register says exist, and every processor
        // with VT-x has MTRRs.
        let mtrrs = Mtrrs::read(physical_bits, |msr| unsafe { cpu::rdmsr(msr) })
            .map_err(FactsError::Mtrr)?;
        let (cpus, leaves_cpus) = processors(acpi);
        Ok(Self {
            tsc_khz: tsc_khz()?,
            cpus,
            leaves_cpus,
            physical_bits,
            mtrrs,
            power: PowerOff::from_acpi(acpi),
            epoch: (unix_seconds(), rdtsc()),
        })
    }

    /// Bytes of RAM the machine has.
    #[must_use]
    pub fn ram_bytes(&self, memory: &Memory) -> u64 {
        memory.ledger.books().memory().bytes().unwrap_or(0)
    }
}

/// Why the machine's facts cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FactsError {
    /// A memory-type register.
    Mtrr(MtrrError),
    /// The time-stamp counter's measured frequency in kHz.
    Clock(u64),
}

impl fmt::Display for FactsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mtrr(error) => error.fmt(f),
            Self::Clock(khz) => write!(
                f,
                "the time-stamp counter would run at {khz} kHz by the firmware's clock, which cannot be; the firmware's \
                 Stall service does not wait"
            ),
        }
    }
}

impl core::error::Error for FactsError {}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "machine: TSC {}.{:03} MHz, {} CPU{}, {}-bit physical addresses, microcode {:#x}",
            self.tsc_khz / 1000,
            self.tsc_khz % 1000,
            self.cpus.len(),
            if self.cpus.len() == 1 { "" } else { "s" },
            self.physical_bits,
            cpu::microcode_revision()
        )
    }
}

/// The screen the firmware set up, if it is a plain 32-bit framebuffer.
#[must_use]
pub fn screen() -> Option<Screen> {
    let handle = boot::get_handle_for_protocol::<GraphicsOutput>().ok()?;
    let params = boot::OpenProtocolParams {
        handle,
        agent: boot::image_handle(),
        controller: None,
    };
    // SAFETY: looked up without taking it from the firmware's console, which stops drawing once
    // boot services end; until then the two may overwrite each other's text, nothing worse.
    let mut gop = unsafe {
        boot::open_protocol::<GraphicsOutput>(params, boot::OpenProtocolAttributes::GetProtocol)
    }
    .ok()?;
    let mode = gop.current_mode_info();
    if !matches!(mode.pixel_format(), PixelFormat::Rgb | PixelFormat::Bgr) {
        return None;
    }
    let (width, height) = mode.resolution();
    let mut framebuffer = gop.frame_buffer();
    let (base, bytes) = (framebuffer.as_mut_ptr().cast::<u32>(), framebuffer.size());
    if bytes == 0 || base.is_null() {
        return None;
    }
    // SAFETY: the firmware describes this as its framebuffer, which stays where it is after boot services.
    Some(unsafe {
        Screen::new(
            base,
            bytes,
            width as u32,
            height as u32,
            mode.stride() as u32,
        )
    })
}

/// The TSC's frequency in kHz: CPUID's where it agrees with the firmware's clock, else the measured one.
///
/// Some emulators and early steppings report a frequency in leaf 0x15 that the counter does not have.
/// The machine's CPUs by the MADT, or by the firmware's own list where there are no tables.
/// Whether there are more than are used comes with them.
fn processors(acpi: &HostAcpi) -> (Vec<u32>, bool) {
    let own = own_apic_id();
    let mut cpus = Vec::from([own]);
    let mut leaves_some = false;
    let mut add = |id: u32| {
        if cpus.contains(&id) {
            return;
        }
        if cpus.len() < MAX_CPUS {
            cpus.push(id);
        } else {
            leaves_some = true;
        }
    };
    if let Some(madt) = &acpi.madt {
        for processor in madt.processors.iter().filter(|processor| processor.enabled) {
            add(processor.apic_id);
        }
    } else {
        for id in listed_by_firmware() {
            add(id);
        }
    }
    (cpus, leaves_some)
}

/// This CPU's x2APIC identifier (Intel SDM vol. 2A, "CPUID—CPU Identification", leaf 0BH; leaf 1 before it).
fn own_apic_id() -> u32 {
    if cpuid(0, 0).eax >= 0xb {
        let leaf = cpuid(0xb, 0);
        if leaf.ebx != 0 {
            return leaf.edx;
        }
    }
    cpuid(1, 0).ebx >> 24
}

/// The processors that the firmware's multiprocessor service knows and calls usable.
fn listed_by_firmware() -> Vec<u32> {
    let Ok(handle) = boot::get_handle_for_protocol::<MpServices>() else {
        return Vec::new();
    };
    let Ok(service) = boot::open_protocol_exclusive::<MpServices>(handle) else {
        return Vec::new();
    };
    let Ok(count) = service.get_number_of_processors() else {
        return Vec::new();
    };
    (0..count.total)
        .filter_map(|number| service.get_processor_info(number).ok())
        .filter(|info| info.is_enabled() && info.is_healthy())
        .filter_map(|info| u32::try_from(info.processor_id).ok())
        .collect()
}

/// Seconds since 1970 by the firmware's clock, taken for UTC; 0 where it has none.
fn unix_seconds() -> u64 {
    let Ok(time) = uefi::runtime::get_time() else {
        log::warn!("the firmware has no clock; VMs begin in 1970");
        return 0;
    };
    let date = DateTime {
        year: time.year(),
        month: time.month(),
        day: time.day(),
        hour: time.hour(),
        minute: time.minute(),
        second: time.second(),
    };
    let zone = time.time_zone().map_or(0, i64::from) * 60;
    let seconds = date.to_unix().unwrap_or(0) + zone;
    u64::try_from(seconds).unwrap_or(0)
}

fn tsc_khz() -> Result<u32, FactsError> {
    let start = rdtsc();
    boot::stall(CALIBRATION);
    let measured = rdtsc().wrapping_sub(start) / CALIBRATION.as_millis() as u64;
    let khz = match claimed_tsc_khz() {
        Some(claimed)
            if claimed.abs_diff(measured).saturating_mul(1000)
                <= claimed.saturating_mul(TOLERANCE_PERMILLE) =>
        {
            claimed
        }
        _ => measured,
    };
    match u32::try_from(khz) {
        Ok(khz) if khz >= SLOWEST_KHZ => Ok(khz),
        _ => Err(FactsError::Clock(khz)),
    }
}

/// Intel SDM vol. 3B, "Determining the Processor Base Frequency": leaf 0x15, crystal clock and ratio.
fn claimed_tsc_khz() -> Option<u64> {
    if cpuid(0, 0).eax < 0x15 {
        return None;
    }
    let leaf = cpuid(0x15, 0);
    if leaf.eax == 0 || leaf.ebx == 0 || leaf.ecx == 0 {
        return None;
    }
    Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax) / 1000)
}
