//! The guest's ACPI tables: RSDP, XSDT, hardware-reduced FADT, MADT and a DSDT with the devices there are.
//!
//! Every number comes from `bulkhead_core::platform`, which the device models decode with. Hardware-reduced ACPI
//! (ACPI 6.5, "Hardware-reduced ACPI") is what lets a guest do without PM1 registers, SCI, PIC and PIT.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
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
/// AML revision 2: integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// MADT revision of ACPI 6.3 and later.
const MADT_REVISION: u8 = 5;
const TABLE_ALIGN: u64 = 64;

/// IAPC_BOOT_ARCH bit 2: no VGA. Clear bits say: no 8042, no legacy devices.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
/// IAPC_BOOT_ARCH bit 5: no CMOS real-time clock.
const BOOT_ARCH_NO_RTC: u16 = 1 << 5;

const MADT_LOCAL_APIC: u8 = 0;
const MADT_IO_APIC: u8 = 1;
const MADT_LOCAL_X2APIC: u8 = 9;
/// Largest id a local APIC structure can name; the structure of the x2APIC is for those beyond.
const MAX_XAPIC_ID: u32 = 254;
const MADT_CPU_ENABLED: u32 = 1;

/// Where the guest finds the RSDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RsdpAddress(pub(crate) Gpa);

/// Writes all tables and returns the RSDP's address.
pub(crate) fn write(
    platform: &PlatformDescription<'_>,
    mem: &mut impl GuestMemory,
) -> Result<RsdpAddress, LoadError> {
    if platform.vcpu_apic_ids.is_empty() {
        return Err(AcpiError::NoVcpu.into());
    }
    let mut tables = Tables {
        next: boot_area::ACPI_TABLES.start,
    };
    // The RSDP comes first, where a search finds it; it is written last, when the XSDT's address is known.
    let rsdp = tables.reserve(Rsdp::len())?;
    let dsdt = tables.add(dsdt().as_slice(), mem)?;
    let fadt = tables.add(&bytes_of(&fadt(dsdt)), mem)?;
    let madt = tables.add(madt(platform.vcpu_apic_ids).as_slice(), mem)?;

    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt.0);
    xsdt.add_entry(madt.0);
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

    fn add(&mut self, table: &[u8], mem: &mut impl GuestMemory) -> Result<Gpa, LoadError> {
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
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_RTC).into();
    fadt.reset_reg = io_register(platform::RESET_PORT);
    fadt.reset_value = platform::RESET_VALUE;
    fadt.sleep_control_reg = io_register(platform::POWER_SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = io_register(platform::POWER_SLEEP_STATUS_PORT);
    fadt.finalize()
}

fn madt(apic_ids: &[u32]) -> Sdt {
    let mut body = Vec::new();
    body.extend((platform::LAPIC_BASE.0 as u32).to_le_bytes());
    // Flags: PCAT_COMPAT is clear, there are no 8259s to mask.
    body.extend(0_u32.to_le_bytes());
    for (&apic_id, uid) in apic_ids.iter().zip(0_u32..) {
        body.extend(madt_cpu(apic_id, uid));
    }
    body.extend([MADT_IO_APIC, 12, platform::IOAPIC_ID, 0]);
    body.extend((platform::IOAPIC_BASE.0 as u32).to_le_bytes());
    body.extend(platform::IOAPIC_GSI_BASE.to_le_bytes());
    table(*b"APIC", MADT_REVISION, &body)
}

/// A vCPU's interrupt controller structure, in the form its APIC id calls for.
fn madt_cpu(apic_id: u32, uid: u32) -> Vec<u8> {
    let mut entry = Vec::with_capacity(16);
    match (u8::try_from(apic_id), u8::try_from(uid)) {
        (Ok(small_id), Ok(small_uid)) if apic_id <= MAX_XAPIC_ID => {
            entry.extend([MADT_LOCAL_APIC, 8, small_uid, small_id]);
            entry.extend(MADT_CPU_ENABLED.to_le_bytes());
        }
        _ => {
            entry.extend([MADT_LOCAL_X2APIC, 16, 0, 0]);
            entry.extend(apic_id.to_le_bytes());
            entry.extend(MADT_CPU_ENABLED.to_le_bytes());
            entry.extend(uid.to_le_bytes());
        }
    }
    entry
}

fn dsdt() -> Sdt {
    let s5 = platform::S5_SLEEP_TYPE;
    let s5_name = Name::new("_S5_".into(), &Package::new(vec![&s5, &s5, &0_u8, &0_u8]));

    let com1_hid = Name::new("_HID".into(), &EISAName::new("PNP0501"));
    let com1_uid = Name::new("_UID".into(), &1_u8);
    let com1_ports = IO::new(
        platform::COM1_BASE,
        platform::COM1_BASE,
        1,
        platform::COM1_PORTS as u8,
    );
    let com1_interrupt = Interrupt::new(true, true, false, false, platform::COM1_GSI);
    let com1_crs = Name::new(
        "_CRS".into(),
        &ResourceTemplate::new(vec![&com1_ports, &com1_interrupt]),
    );
    let com1 = Device::new(Path::new("COM1"), vec![&com1_hid, &com1_uid, &com1_crs]);
    let system_bus = Scope::new(Path::new("\\_SB_"), vec![&com1]);

    let mut aml = bytes_of(&s5_name);
    aml.extend(bytes_of(&system_bus));
    table(*b"DSDT", DSDT_REVISION, &aml)
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
