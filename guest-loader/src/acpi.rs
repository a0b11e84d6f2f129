//! The guest's ACPI tables: RSDP, XSDT, hardware-reduced FADT, `madt` (interrupt controllers), MCFG (configuration
//! window), `wdat` (watchdog) and `dsdt` (the devices there are).
//!
//! Every number comes from `bulkhead_core::platform`, which the device models decode with. Hardware-reduced ACPI
//! (ACPI 6.5, "Hardware-reduced ACPI") is what lets a guest do without PM1 registers, SCI, PIC and PIT.

mod dsdt;
mod madt;
mod wdat;

use alloc::vec::Vec;
use core::fmt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use bulkhead_core::addr::Gpa;
use bulkhead_core::platform;

use crate::boot_area;
use crate::memory::{GuestMemory, OutOfRange};
use crate::{LoadError, PlatformDescription};

const OEM_ID: [u8; 6] = *b"BLKHD ";
const OEM_TABLE_ID: [u8; 8] = *b"BULKHEAD";
const OEM_REVISION: u32 = 1;
const TABLE_HEADER_SIZE: u32 = 36;
const TABLE_ALIGN: u64 = 64;

/// IAPC_BOOT_ARCH bit 2: no VGA. Clear bits say: no 8042, no legacy devices.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// The buses that the configuration window covers: the first and the last.
const ECAM_BUSES: (u8, u8) = (0, ((platform::ECAM_SIZE >> ECAM_BUS_SHIFT) - 1) as u8);
/// log2 of a bus's share of the configuration window.
const ECAM_BUS_SHIFT: u32 = 20;

/// Where the guest finds the RSDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RsdpAddress(pub(crate) Gpa);

/// Writes all tables and returns the RSDP's address.
pub(crate) fn write(
    platform: &PlatformDescription<'_>,
    mem: &mut dyn GuestMemory,
) -> Result<RsdpAddress, LoadError> {
    let vcpus = platform.vcpu_apic_ids;
    if vcpus.is_empty() {
        return Err(AcpiError::NoVcpu.into());
    }
    if vcpus.len() > dsdt::MAX_PROCESSORS {
        return Err(AcpiError::TooManyVcpus.into());
    }
    let mut tables = Tables {
        next: boot_area::ACPI_TABLES.start,
    };
    // The RSDP comes first, where a search finds it; it is written last, when the XSDT's address is known.
    let rsdp = tables.reserve(Rsdp::len())?;
    let dsdt = tables.add(
        dsdt::table(vcpus.len(), platform.device_windows).as_slice(),
        mem,
    )?;
    let listed = [
        tables.add(&bytes_of(&fadt(dsdt)), mem)?,
        tables.add(madt::table(vcpus).as_slice(), mem)?,
        tables.add(&bytes_of(&mcfg()), mem)?,
        tables.add(wdat::table().as_slice(), mem)?,
    ];

    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in listed {
        xsdt.add_entry(table.0);
    }
    let xsdt = tables.add(&bytes_of(&xsdt), mem)?;
    mem.write(rsdp, &bytes_of(&Rsdp::new(OEM_ID, xsdt.0)))?;
    Ok(RsdpAddress(rsdp))
}

/// Hands out places in the ACPI area, one after the other.
struct Tables {
    next: Gpa,
}

impl Tables {
    fn reserve(&mut self, len: usize) -> Result<Gpa, AcpiError> {
        let start = self.next;
        self.next = start
            .checked_add(len as u64)
            .and_then(|end| end.0.checked_next_multiple_of(TABLE_ALIGN))
            .map(Gpa)
            .filter(|&end| end <= boot_area::ACPI_TABLES.end)
            .ok_or(AcpiError::TooManyVcpus)?;
        Ok(start)
    }

    fn add(&mut self, table: &[u8], mem: &mut dyn GuestMemory) -> Result<Gpa, LoadError> {
        let place = self.reserve(table.len())?;
        mem.write(place, table)
            .map_err(|error: OutOfRange| LoadError::Memory(error))?;
        Ok(place)
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// A byte-wide register in I/O space.
fn io_register(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}

fn fadt(dsdt: Gpa) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt.0)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        // Set means: not a fixed-hardware button.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA.into();
    fadt.century = platform::RTC_CENTURY_REGISTER;
    fadt.reset_reg = io_register(platform::RESET_PORT);
    fadt.reset_value = platform::RESET_VALUE;
    fadt.sleep_control_reg = io_register(platform::POWER_SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = io_register(platform::POWER_SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let (first, last) = ECAM_BUSES;
    mcfg.add_ecam(platform::ECAM_BASE.0, 0, first, last);
    mcfg
}

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(
        signature,
        TABLE_HEADER_SIZE,
        revision,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(body);
    table
}

/// Tables that cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// The platform has no vCPU.
    NoVcpu,
    /// The vCPUs' entries do not fit in the ACPI area.
    TooManyVcpus,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVcpu => f.write_str("ACPI: the VM has no vCPU: give it at least one"),
            Self::TooManyVcpus => {
                write!(
                    f,
                    "ACPI: the vCPUs' entries exceed the {} bytes there are for tables: give the VM fewer vCPUs",
                    boot_area::ACPI_TABLES.len()
                )
            }
        }
    }
}

impl core::error::Error for AcpiError {}
