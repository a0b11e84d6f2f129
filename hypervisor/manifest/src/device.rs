//! The `[[vm.device]]` tables of a VM: real devices, by place or by kind.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

use super::error::{Complaints, ErrorKind, quoted};
use super::fields::{Field, Fields, Listing};
use super::plan::DevicePlan;
use super::schema;
use bulkhead_host::pci::{Address, AddressFault, ClassPattern, DeviceId, Function};

/// The most real devices of a VM: its bus has places for them beside its disks, NICs and what every VM has.
pub const MAX_DEVICES: usize = 8;

static LISTING: Listing = Listing {
    schema: &schema::DEVICE,
    how: "a device under the header [[vm.device]]",
    brackets: "write [[vm.device]] with two brackets: there can be several",
    most: MAX_DEVICES,
    beyond: ErrorKind::TooManyDevices,
    noun: "devices",
};

/// How a manifest names a real device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceName {
    /// By its place.
    Address(Address),
    /// By what it is, which has to fit one function of the machine.
    Id {
        /// Vendor and device.
        id: DeviceId,
        /// How its class code begins.
        class: Option<ClassPattern>,
    },
}

impl DeviceName {
    /// Whether `function` can be meant.
    #[must_use]
    pub fn matches(&self, function: &Function) -> bool {
        match self {
            Self::Address(address) => function.address == *address,
            Self::Id { id, class } => {
                function.id == *id && class.is_none_or(|class| class.matches(function.class))
            }
        }
    }
}

/// As the manifest has it.
impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Id { id, class: None } => write!(f, "{id}"),
            Self::Id {
                id,
                class: Some(class),
            } => write!(f, "{id} of class {class}"),
        }
    }
}

/// Every `[[vm.device]]` of one VM.
pub(super) fn read_all(
    vm: &Fields<'_, '_>,
    complaints: &mut Complaints,
) -> Option<Vec<DevicePlan>> {
    vm.list(&schema::DEVICE_TABLES, &LISTING, read, complaints)
}

fn read(fields: &Fields<'_, '_>, complaints: &mut Complaints) -> Option<DevicePlan> {
    let class = match fields.optional(&schema::DEVICE_CLASS) {
        Some(field) => read_class(&field, complaints).map(Some),
        None => Some(None),
    };
    let address = fields.optional(&schema::DEVICE_ADDRESS);
    let (name, span) = match (address, fields.optional(&schema::DEVICE_ID)) {
        (Some(field), None) => {
            let address = read_address(&field, complaints);
            if let Some(class) = fields.optional(&schema::DEVICE_CLASS) {
                complaints
                    .add(ErrorKind::ClassOfAddress, class.span)
                    .found("`class` beside `address`")
                    .expected("a class only beside `id`: at an address there is one function")
                    .help("remove `class`");
                return None;
            }
            (DeviceName::Address(address?), field.span)
        }
        (None, Some(field)) => {
            let id = read_id(&field, complaints);
            let (id, class) = (id?, class?);
            (DeviceName::Id { id, class }, field.span)
        }
        (both, _) => {
            let found = if both.is_some() {
                "both `address` and `id`"
            } else {
                "neither `address` nor `id`"
            };
            complaints
                .add(ErrorKind::DeviceName, fields.span)
                .found(found)
                .expected(
                    "one of them: `address = \"0000:00:1f.2\"`, or `id = \"8086:10d3\"` with or without a `class`",
                );
            return None;
        }
    };
    Some(DevicePlan { name, span })
}

fn read_address(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<Address> {
    const HOW: &str =
        "segment, bus, device and function in hexadecimal digits, such as \"0000:00:1f.2\"";
    let text = field.string(complaints)?;
    let fault = match Address::parse(text) {
        Ok(address) => return Some(address),
        Err(fault) => fault,
    };
    let complaint = complaints.add(ErrorKind::DeviceAddress, field.span);
    complaint.found(quoted(text)).expected(match fault {
        AddressFault::Form => HOW,
        AddressFault::Device(_) => "a device number up to 1f",
        AddressFault::Function(_) => "a function number up to 7",
    });
    if fault == AddressFault::Form {
        complaint.help(match DeviceId::parse(text) {
            Some(id) => format!("to name a device by vendor and device, write `id = \"{id}\"`"),
            None => "the first column of `lspci -D` has the addresses of a machine".to_string(),
        });
    }
    None
}

fn read_id(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<DeviceId> {
    let text = field.string(complaints)?;
    let id = DeviceId::parse(text);
    if id.is_none() {
        let complaint = complaints.add(ErrorKind::DeviceId, field.span);
        complaint
            .found(quoted(text))
            .expected("vendor and device, four hexadecimal digits each, such as \"8086:10d3\"");
        match Address::parse(text) {
            Ok(address) => {
                complaint.help(format_args!(
                    "to name a device by its place, write `address = \"{address}\"`"
                ));
            }
            Err(_) => {
                complaint.help("`lspci -nn` shows the identifiers in brackets");
            }
        }
    }
    id
}

fn read_class(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<ClassPattern> {
    let text = field.string(complaints)?;
    let class = ClassPattern::parse(text);
    if class.is_none() {
        complaints
            .add(ErrorKind::DeviceClass, field.span)
            .found(quoted(text))
            .expected(
                "two, four or six hexadecimal digits, such as \"02\", \"0200\" or \"020000\"",
            );
    }
    class
}
