//! The `[hypervisor]` table.

use super::choice::Choice;
use super::error::Complaints;
use super::fields::{Field, Fields};
use super::plan::HypervisorOptions;
use super::schema::{self, Key};

pub(super) fn read(
    field: &Field<'_, '_>,
    complaints: &mut Complaints,
) -> Option<HypervisorOptions> {
    let fields = field.table(&schema::HYPERVISOR, "the table [hypervisor]", complaints)?;
    // Each is read before any is looked at, so that one bad value does not hide the next.
    let console = choice_or_default(&fields, &schema::CONSOLE, complaints);
    let log_level = choice_or_default(&fields, &schema::LOG_LEVEL, complaints);
    let iommu = choice_or_default(&fields, &schema::IOMMU, complaints);
    let apicv = choice_or_default(&fields, &schema::APICV, complaints);
    Some(HypervisorOptions {
        console: console?,
        log_level: log_level?,
        iommu: iommu?,
        apicv: apicv?,
    })
}

/// The word under `key`, or the default without one; nothing after a complaint.
pub(super) fn choice_or_default<C: Choice + Default>(
    fields: &Fields<'_, '_>,
    key: &'static Key,
    complaints: &mut Complaints,
) -> Option<C> {
    match fields.optional(key) {
        Some(field) => field.choice(complaints),
        None => Some(C::default()),
    }
}
