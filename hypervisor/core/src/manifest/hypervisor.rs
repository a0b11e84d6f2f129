//! The `[hypervisor]` table.

use super::error::Complaints;
use super::fields::Field;
use super::plan::HypervisorOptions;
use super::schema;

pub(super) fn read(
    field: &Field<'_, '_>,
    complaints: &mut Complaints,
) -> Option<HypervisorOptions> {
    let fields = field.table(&schema::HYPERVISOR, "the table [hypervisor]", complaints)?;
    // Each is read before any is looked at, so that one bad value does not hide the next.
    let console = fields.choice_or_default(&schema::CONSOLE, complaints);
    let log_level = fields.choice_or_default(&schema::LOG_LEVEL, complaints);
    let iommu = fields.choice_or_default(&schema::IOMMU, complaints);
    let apicv = fields.choice_or_default(&schema::APICV, complaints);
    let smt = fields.choice_or_default(&schema::SMT, complaints);
    let selftest = fields.choice_or_default(&schema::SELFTEST, complaints);
    Some(HypervisorOptions {
        console: console?,
        log_level: log_level?,
        iommu: iommu?,
        apicv: apicv?,
        smt: smt?,
        selftest: selftest?,
    })
}
