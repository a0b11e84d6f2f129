//! The `[hypervisor]` table.

use super::error::{Complaints, ErrorKind, quoted};
use super::fields::{Field, Fields};
use super::plan::{HypervisorOptions, IommuPolicy, SelfTest};
use super::schema;
use super::seal::SealId;

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
    let mbec = fields.choice_or_default(&schema::MBEC, complaints);
    let vmfunc = fields.choice_or_default(&schema::VMFUNC, complaints);
    let smt = fields.choice_or_default(&schema::SMT, complaints);
    let root_key = fields.choice_or_default(&schema::ROOT_KEY, complaints);
    let reseal = match fields.optional(&schema::RESEAL) {
        Some(field) => read_reseal(&field, complaints).map(Some),
        None => Some(None),
    };
    let selftest = fields.choice_or_default(&schema::SELFTEST, complaints);
    if let (Some(iommu), Some(selftest)) = (iommu, selftest) {
        check_control(iommu, selftest, &fields, complaints);
    }
    Some(HypervisorOptions {
        console: console?,
        log_level: log_level?,
        iommu: iommu?,
        apicv: apicv?,
        mbec: mbec?,
        vmfunc: vmfunc?,
        smt: smt?,
        root_key: root_key?,
        reseal: reseal?,
        selftest: selftest?,
    })
}

fn read_reseal(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<SealId> {
    let text = field.string(complaints)?;
    let id = SealId::parse(text);
    if id.is_none() {
        complaints
            .add(ErrorKind::SealIdForm, field.span)
            .found(quoted(text))
            .expected("8 hexadecimal digits, as the error about the sealed key shows them");
    }
    id
}

/// Complains about a negative control that would not be one.
fn check_control(
    iommu: IommuPolicy,
    selftest: SelfTest,
    fields: &Fields<'_, '_>,
    complaints: &mut Complaints,
) {
    if selftest != SelfTest::VtdOff || iommu == IommuPolicy::Off {
        return;
    }
    let span = fields
        .optional(&schema::SELFTEST)
        .map_or(fields.span, |field| field.span);
    complaints
        .add(ErrorKind::SelftestNeedsIommuOff, span)
        .found(format_args!("\"{selftest}\", with `iommu = \"{iommu}\"`"))
        .expected("`iommu = \"off\"` in the same table")
        .help("write it, or `selftest = \"vtd\"` for the tests with remapping");
}
