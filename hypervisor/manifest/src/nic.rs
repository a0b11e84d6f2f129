//! The `[[vm.nic]]` tables of a VM.

use alloc::format;
use alloc::vec::Vec;

use super::amount;
use super::error::{Complaints, ErrorKind, quoted};
use super::fields::{Field, Fields, Listing};
use super::mac::{MacAddress, MacFault};
use super::name::{SegmentName, VmName};
use super::plan::NicPlan;
use super::schema;
use super::text;

/// The most NICs of a VM. A derived [`MacAddress`] has room for the number of so many.
pub const MAX_NICS: usize = 8;

static LISTING: Listing = Listing {
    schema: &schema::NIC,
    how: "a NIC under the header [[vm.nic]]",
    brackets: "write [[vm.nic]] with two brackets: there can be several",
    most: MAX_NICS,
    beyond: ErrorKind::TooManyNics,
    noun: "NICs",
};

/// Every `[[vm.nic]]` of the VM `name`, which is unknown where it is wrong.
pub(super) fn read_all(
    vm: &Fields<'_, '_>,
    name: Option<&VmName>,
    complaints: &mut Complaints,
) -> Option<Vec<NicPlan>> {
    let mut index = 0;
    let read = |fields: &Fields<'_, '_>, complaints: &mut Complaints| {
        let derived = name.map(|name| MacAddress::derive(name, index));
        index += 1;
        read(fields, derived, complaints)
    };
    vm.list(&schema::NIC_TABLES, &LISTING, read, complaints)
}

fn read(
    fields: &Fields<'_, '_>,
    derived: Option<MacAddress>,
    complaints: &mut Complaints,
) -> Option<NicPlan> {
    let segment = fields
        .required(&schema::NIC_SEGMENT, complaints)
        .and_then(|field| text::read_name(&field, SegmentName::parse, complaints));
    let mac = match fields.optional(&schema::NIC_MAC) {
        Some(field) => read_mac(&field, complaints),
        None => derived,
    };
    let spoofing = fields.choice_or_default(&schema::NIC_SPOOFING, complaints);
    let rate_limit = match fields.optional(&schema::NIC_RATE_LIMIT) {
        Some(field) => amount::read_rate(&field, complaints).map(Some),
        None => Some(None),
    };
    Some(NicPlan {
        segment: segment?,
        mac: mac?,
        spoofing: spoofing?,
        rate_limit: rate_limit?,
        mac_span: fields.span_of(&schema::NIC_MAC),
    })
}

fn read_mac(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<MacAddress> {
    const HOW: &str =
        "six pairs of hexadecimal digits with `:` between them, such as \"52:54:00:12:34:56\"";
    let text = field.string(complaints)?;
    let (kind, found, expected) = match MacAddress::parse(text) {
        Ok(mac) => return Some(mac),
        Err(MacFault::Form) => (ErrorKind::MacForm, quoted(text), HOW),
        Err(MacFault::Group) => (
            ErrorKind::MacNotUnicast,
            format!("{}, the address of a group", quoted(text)),
            "the address of one NIC: its first pair is even",
        ),
        Err(MacFault::Zero) => (
            ErrorKind::MacNotUnicast,
            format!("{}, the address of nobody", quoted(text)),
            "the address of one NIC",
        ),
    };
    let complaint = complaints.add(kind, field.span);
    complaint.found(found).expected(expected);
    match MacAddress::parse(&text.replace('-', ":")) {
        Ok(mac) => complaint.help(format_args!("did you mean \"{mac}\"?")),
        Err(_) => complaint.help("leave `mac` out to have an address derived from the VM's name"),
    };
    None
}
