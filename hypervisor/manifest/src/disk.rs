//! The `[[vm.disk]]` tables of a VM.

use alloc::vec::Vec;

use super::amount;
use super::error::{Complaints, ErrorKind};
use super::fields::{Field, Fields, Listing};
use super::payload;
use super::plan::{DiskMode, DiskPlan, DiskSpans};
use super::schema;
use super::size::ByteSize;

/// The most disks of a VM.
pub const MAX_DISKS: usize = 8;
/// The memory for changed blocks of a disk that says nothing of it.
pub const DEFAULT_OVERLAY: ByteSize = ByteSize(64 << 20);

static LISTING: Listing = Listing {
    schema: &schema::DISK,
    how: "a disk under the header [[vm.disk]]",
    brackets: "write [[vm.disk]] with two brackets: there can be several",
    most: MAX_DISKS,
    beyond: ErrorKind::TooManyDisks,
    noun: "disks",
};

/// Every `[[vm.disk]]` of one VM.
pub(super) fn read_all(vm: &Fields<'_, '_>, complaints: &mut Complaints) -> Option<Vec<DiskPlan>> {
    vm.list(&schema::DISK_TABLES, &LISTING, read, complaints)
}

fn read(fields: &Fields<'_, '_>, complaints: &mut Complaints) -> Option<DiskPlan> {
    let image = fields
        .required(&schema::DISK_IMAGE_PAYLOAD, complaints)
        .and_then(|field| payload::read(&field, &payload::DISK_IMAGE_KEYS, complaints));
    let mode = fields.choice_or_default(&schema::DISK_MODE, complaints);
    let overlay = match fields.optional(&schema::DISK_OVERLAY) {
        Some(field) => read_overlay(&field, mode, complaints),
        None if mode == Some(DiskMode::ReadOnly) => Some(ByteSize(0)),
        None => Some(DEFAULT_OVERLAY),
    };
    Some(DiskPlan {
        image: image?,
        mode: mode?,
        overlay: overlay?,
        spans: DiskSpans {
            image: fields.span_of(&schema::DISK_IMAGE_PAYLOAD),
            overlay: fields.span_of(&schema::DISK_OVERLAY),
        },
    })
}

fn read_overlay(
    field: &Field<'_, '_>,
    mode: Option<DiskMode>,
    complaints: &mut Complaints,
) -> Option<ByteSize> {
    let overlay = amount::read_size(field, complaints);
    if mode == Some(DiskMode::ReadOnly) {
        complaints
            .add(ErrorKind::OverlayOfReadOnly, field.span)
            .found("`overlay` beside `mode = \"read-only\"`")
            .expected("memory for changed blocks only where blocks can change")
            .help("remove one of the two keys");
        return None;
    }
    overlay
}
