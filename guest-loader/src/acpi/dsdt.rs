//! DSDT: the devices that a guest cannot find by itself, in ACPI's own code (ACPI 6.5, "ACPI Source Language
//! Reference").

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Equal,
    Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local,
    Memory32Fixed, Method, Name, Notify, OpRegion, OpRegionSpace, Or, Package, Path,
    ResourceTemplate, Return, Scope, Store, Uuid, Zero,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};
use bulkhead_core::platform;

use super::bytes_of;
use crate::GpaRange;

/// AML revision 2: integers have 64 bits.
const REVISION: u8 = 2;
/// Processor devices that a name of three hexadecimal digits can tell apart.
pub(super) const MAX_PROCESSORS: usize = 0x1000;

/// What `Notify` tells a control-method power button of a press (ACPI 6.5, "Control Method Power Button").
const BUTTON_PRESSED: u8 = 0x80;
/// The host bridge's `_OSC` interface (PCI Firmware Specification 3.3, "_OSC Interface for PCI Host Bridge Devices").
const OSC_PCI_HOST_BRIDGE: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
/// `_OSC` status: the interface's identifier is not known.
const OSC_UNRECOGNIZED_UUID: u8 = 1 << 2;

/// The table of a VM with so many vCPUs, [`MAX_PROCESSORS`] at most, and real devices whose memory is in `windows`.
pub(super) fn table(vcpus: usize, windows: &[GpaRange]) -> Sdt {
    let mut aml = soft_off();
    let mut devices = Vec::new();
    for uid in 0..vcpus.min(MAX_PROCESSORS) {
        devices.extend(processor(uid));
    }
    devices.extend(com1());
    devices.extend(real_time_clock());
    devices.extend(power_button());
    devices.extend(event_device());
    devices.extend(motherboard());
    devices.extend(host_bridge(windows));
    aml.extend(Scope::raw(Path::new("\\_SB_"), devices));
    super::table(*b"DSDT", REVISION, &aml)
}

/// The value that a guest writes to sleep control to switch itself off.
fn soft_off() -> Vec<u8> {
    let s5 = platform::S5_SLEEP_TYPE;
    bytes_of(&Name::new(
        "_S5_".into(),
        &Package::new(vec![&s5, &s5, &0_u8, &0_u8]),
    ))
}

fn device(name: &str, children: Vec<&dyn Aml>) -> Vec<u8> {
    bytes_of(&Device::new(Path::new(name), children))
}

fn resources(children: Vec<&dyn Aml>) -> Name {
    Name::new("_CRS".into(), &ResourceTemplate::new(children))
}

/// A hardware id of the form "PNP0501".
fn plug_and_play(id: &str) -> Name {
    Name::new("_HID".into(), &EISAName::new(id))
}

/// A vCPU: the object that MADT's entry of the same unique id belongs to.
fn processor(uid: usize) -> Vec<u8> {
    device(
        &format!("C{uid:03X}"),
        vec![
            &Name::new("_HID".into(), &"ACPI0007"),
            &Name::new("_UID".into(), &uid),
        ],
    )
}

/// The console.
fn com1() -> Vec<u8> {
    let ports = IO::new(
        platform::COM1_BASE,
        platform::COM1_BASE,
        1,
        platform::COM1_PORTS as u8,
    );
    let interrupt = Interrupt::new(true, true, false, false, platform::COM1_GSI);
    device(
        "COM1",
        vec![
            &plug_and_play("PNP0501"),
            &Name::new("_UID".into(), &1_u8),
            &resources(vec![&ports, &interrupt]),
        ],
    )
}

/// The clock has no interrupt: drivers then offer no alarm.
fn real_time_clock() -> Vec<u8> {
    let ports = IO::new(platform::RTC_INDEX_PORT, platform::RTC_INDEX_PORT, 1, 2);
    device(
        "RTC0",
        vec![&plug_and_play("PNP0B00"), &resources(vec![&ports])],
    )
}

fn power_button() -> Vec<u8> {
    device("PWRB", vec![&plug_and_play("PNP0C0C")])
}

/// The generic event device: its method reads the event register, which clears it, and passes the events on.
fn event_device() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, platform::EVENT_GSI);
    let (register, button) = (Path::new("EVTS"), Path::new("\\_SB_.PWRB"));
    let read = Store::new(&Local(0), &register);
    let pressed = And::new(&Zero {}, &Local(0), &platform::EVENT_POWER_BUTTON);
    let notify = Notify::new(&button, &BUTTON_PRESSED);
    device(
        "GED0",
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &resources(vec![&interrupt]),
            &OpRegion::new(
                "EVTR".into(),
                OpRegionSpace::SystemIO,
                &platform::EVENT_PORT,
                &1_u8,
            ),
            &Field::new(
                "EVTR".into(),
                FieldAccessType::Byte,
                FieldLockRule::NoLock,
                FieldUpdateRule::WriteAsZeroes,
                vec![FieldEntry::Named(*b"EVTS", 8)],
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&read, &If::new(&pressed, vec![&notify])],
            ),
        ],
    )
}

/// What is taken without being a device of its own: the configuration window, which guests use only where it is listed
/// here, and the power block's ports.
fn motherboard() -> Vec<u8> {
    let first = platform::POWER_SLEEP_CONTROL_PORT;
    let power = IO::new(first, first, 1, (platform::EVENT_PORT - first + 1) as u8);
    let ecam = Memory32Fixed::new(
        true,
        platform::ECAM_BASE.0 as u32,
        platform::ECAM_SIZE as u32,
    );
    device(
        "MBRD",
        vec![&plug_and_play("PNP0C02"), &resources(vec![&power, &ecam])],
    )
}

/// The PCI Express host bridge with its one bus. Its functions signal by MSI-X alone, so that there is no `_PRT`.
fn host_bridge(windows: &[GpaRange]) -> Vec<u8> {
    let config = IO::new(
        platform::PCI_CONFIG_ADDRESS_PORT,
        platform::PCI_CONFIG_ADDRESS_PORT,
        1,
        8,
    );
    let (io_first, io_last) = (
        platform::PCI_IO_BASE,
        platform::PCI_IO_BASE + (platform::PCI_IO_PORTS - 1),
    );
    let (memory_first, memory_last) = (
        platform::PCI_MMIO_BASE.0 as u32,
        (platform::PCI_MMIO_BASE.0 + platform::PCI_MMIO_SIZE - 1) as u32,
    );
    let mut crs: Vec<Encoded> = Vec::new();
    let own: [&dyn Aml; 4] = [
        &AddressSpace::new_bus_number(0_u16, 0),
        &config,
        &AddressSpace::new_io(io_first, io_last, None),
        &AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            memory_first,
            memory_last,
            None,
        ),
    ];
    crs.extend(own.map(|resource| Encoded(bytes_of(resource))));
    for window in windows.iter().filter(|window| !window.is_empty()) {
        // 64 bits wide also where it is below 4 GiB.
        crs.push(Encoded(bytes_of(&AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            window.start.0,
            window.end.0 - 1,
            None,
        ))));
    }
    let crs = crs.iter().map(|resource| resource as &dyn Aml).collect();
    device(
        "PCI0",
        vec![
            &plug_and_play("PNP0A08"),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0_u8),
            &Name::new("_SEG".into(), &0_u8),
            &Name::new("_BBN".into(), &0_u8),
            &resources(crs),
            &operating_system_capabilities(),
        ],
    )
}

/// `_OSC`: the guest may control whatever it asks for; there is no firmware that would compete.
fn operating_system_capabilities() -> Encoded {
    let (known, capabilities) = (Uuid::new(OSC_PCI_HOST_BRIDGE), Arg(3));
    let status = Path::new("STAT");
    Encoded(bytes_of(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![
            &If::new(
                &Equal::new(&Arg(0), &known),
                vec![&Return::new(&capabilities)],
            ),
            &CreateDWordField::new(&status, &capabilities, &0_u8),
            &Or::new(&status, &status, &OSC_UNRECOGNIZED_UUID),
            &Return::new(&capabilities),
        ],
    )))
}

/// Code that is encoded already, to stand among what is not.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}
