//! The `[[vm]]` tables.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::amount;
use super::cpus;
use super::device;
use super::disk;
use super::encryption;
use super::error::{Complaints, ErrorKind, quoted};
use super::fields::{Field, Fields, Listing};
use super::nic;
use super::payload;
use super::plan::{Encryption, VmPlan, VmSpans};
use super::schema;
use super::text;
use super::{MAX_VMS, VmName};

/// The most virtual CPUs of a VM.
pub const MAX_VCPUS: u32 = 64;
/// The highest weight.
pub const MAX_WEIGHT: u32 = 10_000;
/// The weight of a VM that says nothing of it.
pub const DEFAULT_WEIGHT: u32 = 100;
/// The most pages that a VM's user code may keep from its kernel.
pub const MAX_PRIVATE: u32 = 64;
/// The longest that a VM can be given to switch itself off, in seconds.
pub const MAX_STOP_TIMEOUT_S: u32 = 3600;
/// How long a VM is given that says nothing of it, in seconds.
pub const DEFAULT_STOP_TIMEOUT_S: u32 = 30;

static LISTING: Listing = Listing {
    schema: &schema::VM,
    how: "a VM under the header [[vm]]",
    brackets: "write [[vm]] with two brackets: there can be several",
    most: MAX_VMS,
    beyond: ErrorKind::TooManyVms,
    noun: "VMs",
};

/// Every `[[vm]]` of the manifest.
pub(super) fn read_all(root: &Fields<'_, '_>, complaints: &mut Complaints) -> Option<Vec<VmPlan>> {
    let nothing = match root.optional(&schema::VM_TABLES) {
        None => Some((root.span, "no [[vm]]")),
        Some(list) => match list.value.as_array() {
            Some(array) if array.is_empty() => Some((list.span, "an empty list")),
            _ => None,
        },
    };
    if let Some((span, found)) = nothing {
        complaints
            .add(ErrorKind::NoVm, span)
            .found(found)
            .expected(LISTING.how);
        return None;
    }
    let mut names = Vec::new();
    let read =
        |fields: &Fields<'_, '_>, complaints: &mut Complaints| read(fields, &mut names, complaints);
    root.list(&schema::VM_TABLES, &LISTING, read, complaints)
}

/// One `[[vm]]`. Every key is read before any is looked at, so that one fault does not hide the next.
fn read(
    fields: &Fields<'_, '_>,
    names: &mut Vec<VmName>,
    complaints: &mut Complaints,
) -> Option<VmPlan> {
    let name = fields
        .required(&schema::NAME, complaints)
        .and_then(|field| read_name(&field, names, complaints));
    let kernel = fields
        .required(&schema::KERNEL_PAYLOAD, complaints)
        .and_then(|field| payload::read(&field, &payload::KERNEL_KEYS, complaints));
    let initrd = match fields.optional(&schema::INITRD_PAYLOAD) {
        Some(field) => payload::read(&field, &payload::INITRD_KEYS, complaints).map(Some),
        None => Some(None),
    };
    let cmdline = match fields.optional(&schema::CMDLINE) {
        Some(field) => text::read_cmdline(&field, complaints),
        None => Some(String::new()),
    };
    let memory = fields
        .required(&schema::MEMORY, complaints)
        .and_then(|field| amount::read_size(&field, complaints));
    let vcpus = fields.integer_or(&schema::VCPUS, 1..=MAX_VCPUS, 1, complaints);
    let cpus = match fields.optional(&schema::CPUS) {
        Some(field) => cpus::read(&field, vcpus, complaints).map(Some),
        None => Some(None),
    };
    let weight = fields.integer_or(&schema::WEIGHT, 1..=MAX_WEIGHT, DEFAULT_WEIGHT, complaints);
    let cap = match fields.optional(&schema::CAP) {
        Some(field) => field
            .integer_in(1..=100, complaints)
            .map(|percent| Some(percent as u8)),
        None => Some(None),
    };
    let console = fields.choice_or_default(&schema::VM_CONSOLE, complaints);
    let autostart = match fields.optional(&schema::AUTOSTART) {
        Some(field) => field.boolean(complaints),
        None => Some(true),
    };
    let restart = fields.choice_or_default(&schema::RESTART, complaints);
    let stop_timeout_s = fields.integer_or(
        &schema::STOP_TIMEOUT,
        1..=MAX_STOP_TIMEOUT_S,
        DEFAULT_STOP_TIMEOUT_S,
        complaints,
    );
    let disks = disk::read_all(fields, complaints);
    let nics = nic::read_all(fields, name.as_ref(), complaints);
    let devices = device::read_all(fields, complaints);
    let encryption = encryption::read(fields, memory, devices.as_deref(), complaints);
    let split = read_split(fields, encryption, complaints);
    let split_unaided = match fields.optional(&schema::SPLIT_UNAIDED) {
        Some(field) => field.boolean(complaints),
        None => Some(false),
    };
    let split_private = fields.integer_or(&schema::SPLIT_PRIVATE, 0..=MAX_PRIVATE, 0, complaints);
    let split_samples = fields.integer_or(
        &schema::SPLIT_SAMPLES,
        0..=encryption::MAX_SAMPLES,
        0,
        complaints,
    );

    let (cpus, cpu_spans) = cpus?.map(|set| (set.cpus, set.spans)).unzip();
    Some(VmPlan {
        name: name?,
        kernel: kernel?,
        initrd: initrd?,
        cmdline: cmdline?,
        memory: memory?,
        vcpus: vcpus?,
        cpus,
        weight: weight?,
        cap: cap?,
        console: console?,
        autostart: autostart?,
        restart: restart?,
        encryption: encryption?,
        split: split?,
        split_unaided: split_unaided?,
        split_private: split_private?,
        split_samples: split_samples?,
        stop_timeout: Duration::from_secs(u64::from(stop_timeout_s?)),
        disks: disks?,
        nics: nics?,
        devices: devices?,
        spans: VmSpans {
            name: fields.span_of(&schema::NAME),
            kernel: fields.span_of(&schema::KERNEL_PAYLOAD),
            initrd: fields.span_of(&schema::INITRD_PAYLOAD),
            memory: fields.span_of(&schema::MEMORY),
            cpus: cpu_spans.unwrap_or_default(),
        },
    })
}

/// Whether the VM has the kernel/user split, which does without what a window is moved by: the processor's notes of which pages were used.
fn read_split(
    fields: &Fields<'_, '_>,
    encryption: Option<Encryption>,
    complaints: &mut Complaints,
) -> Option<bool> {
    let Some(field) = fields.optional(&schema::SPLIT) else {
        return Some(false);
    };
    let split = field.boolean(complaints)?;
    if split && matches!(encryption, Some(Encryption::Window { .. })) {
        complaints
            .add(ErrorKind::SplitBesideWindow, field.span)
            .found("`split = true`, with `encryption = \"window\"`")
            .expected("one of the two")
            .help("write `encryption = \"at-rest\"`, or remove `split`");
        return None;
    }
    Some(split)
}

/// The VM's name, which it shares with none of `names`.
fn read_name(
    field: &Field<'_, '_>,
    names: &mut Vec<VmName>,
    complaints: &mut Complaints,
) -> Option<VmName> {
    let name = text::read_name(field, VmName::parse, complaints)?;
    if names.contains(&name) {
        complaints
            .add(ErrorKind::DuplicateName, field.span)
            .found(quoted(name.as_str()))
            .expected("a name that no VM before this one has");
        return None;
    }
    names.push(name.clone());
    Some(name)
}
