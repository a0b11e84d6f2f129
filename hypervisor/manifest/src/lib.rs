//! The manifest: what a person asks for, read into a [`Plan`] that is right by construction.
//!
//! [`parse_bytes`] takes the file as the firmware delivered it, [`parse`] its text. Both return
//! either a [`Plan`], in which every name, path, size and number has been checked, or
//! [`ManifestErrors`], in which every complaint has a place, the line it is about, what stands
//! there and what should. Whether *this machine* can run the plan is [`Plan::fit`]. The same code runs at boot and in
//! `cargo xtask manifest check`; `docs/manifest.md` describes the format to its users.
//!
//! A crate of its own, to be made small, not fast; which is why the ways into it are never inlined.
//!
//! | module | what it holds |
//! |---|---|
//! | [`plan`] | the result: [`Plan`], [`VmPlan`], [`HypervisorOptions`] and their enumerations |
//! | [`name`], [`path`], [`size`], [`rate`], [`mac`], [`digest`], [`seal`] | one checked value type each |
//! | [`schema`] | every key there is, and those reserved for later |
//! | `source`, [`error`] | places in the text, and complaints about them |
//! | `fields` | reading typed values out of TOML tables |
//! | `text`, `amount`, `cpus` | values that take more than a line to read |
//! | `hypervisor`, `vm`, `disk`, `nic`, [`device`], [`encryption`] | one TOML table, or some keys of one, each into its plan |
//! | `together` | what VMs claim from one another |
//! | [`machine`], [`payload`] | what the machine at hand can run, and whether the payloads are those meant |
//! | [`assign`] | which of the machine's devices each VM gets |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;

mod amount;
pub mod assign;
mod choice;
mod cpus;
pub mod device;
pub mod digest;
mod disk;
pub mod encryption;
pub mod error;
mod fields;
mod hypervisor;
pub mod mac;
pub mod machine;
pub mod name;
mod nic;
pub mod path;
pub mod payload;
pub mod plan;
mod quantity;
pub mod rate;
pub mod schema;
pub mod seal;
pub mod size;
mod source;
pub mod suggest;
mod syntax;
mod text;
mod together;
mod vm;

use alloc::string::String;
use alloc::vec::Vec;

use toml::de::DeTable;

pub use assign::Assigned;
pub use cpus::MAX_CPU;
pub use device::{DeviceName, MAX_DEVICES};
pub use digest::Sha256Digest;
pub use disk::MAX_DISKS;
pub use error::{ErrorKind, ManifestError, ManifestErrors};
pub use mac::MacAddress;
pub use machine::MachineFacts;
pub use name::{SegmentName, VmName};
pub use nic::MAX_NICS;
pub use path::PayloadPath;
pub use payload::{DiskImageFault, PayloadProblem, PayloadRole, check_disk_image};
pub use plan::{
    ApicVirtualization, Console, DevicePlan, DiskMode, DiskPlan, Encryption, EncryptionMode,
    Feature, HypervisorOptions, IommuPolicy, KernelFormat, LogLevel, NicPlan, Payload, Plan,
    RestartPolicy, RootKeySource, SelfTest, SmtPolicy, Spoofing, VmConsole, VmPlan,
};
pub use rate::BitRate;
pub use seal::SealId;
pub use size::ByteSize;
pub use vm::MAX_VCPUS;

use error::Complaints;
use fields::Fields;
use source::{Source, Span};

/// The `version` this parser reads.
pub const VERSION: u64 = 1;
/// The largest manifest, in bytes. The boot code need not read more of the file than one byte beyond this.
pub const MAX_BYTES: usize = 64 << 10;
/// The most VMs a manifest can name.
pub const MAX_VMS: usize = 64;

/// Reads a manifest from its bytes; `file_name` is what complaints call it.
///
/// # Errors
/// Those of [`parse`], and bytes that are not UTF-8 without a byte order mark.
#[inline(never)]
pub fn parse_bytes(file_name: &str, bytes: &[u8]) -> Result<Plan, ManifestErrors> {
    if bytes.len() > MAX_BYTES {
        return Err(too_large(file_name, bytes));
    }
    match core::str::from_utf8(bytes) {
        Ok(text) => parse(file_name, text),
        Err(fault) => Err(not_utf8(file_name, bytes, fault.valid_up_to())),
    }
}

/// Reads a manifest from its text; `file_name` is what complaints call it.
///
/// # Errors
/// Everything that is wrong with the manifest, in the order of the text.
pub fn parse(file_name: &str, text: &str) -> Result<Plan, ManifestErrors> {
    if text.len() > MAX_BYTES {
        return Err(too_large(file_name, text.as_bytes()));
    }
    let source = Source::new(file_name, String::from(text));
    let mut complaints = Complaints::default();
    if text.starts_with('\u{feff}') {
        complaints
            .add(ErrorKind::ByteOrderMark, Span::at(0))
            .found("the bytes EF BB BF before the first character")
            .expected("UTF-8 text that starts with its first character")
            .help("save the file as \"UTF-8\", not as \"UTF-8 with BOM\"");
        return Err(complaints.into_errors(&source));
    }
    let plan = match syntax::parse(text, &mut complaints) {
        Some(root) => read_root(&root, &mut complaints),
        None => None,
    };
    match plan {
        Some((hypervisor, vms)) if complaints.is_empty() => Ok(Plan {
            hypervisor,
            vms,
            source,
        }),
        _ => Err(complaints.into_errors(&source)),
    }
}

/// The top level of the file: `version`, `[hypervisor]` and the `[[vm]]`s.
fn read_root(
    root: &DeTable<'_>,
    complaints: &mut Complaints,
) -> Option<(HypervisorOptions, Vec<VmPlan>)> {
    // A manifest for another version follows other rules: complaints about its keys would mislead.
    let fields = Fields::new(&schema::ROOT, root, Span::at(0));
    if !version_is_ours(&fields, complaints) {
        return None;
    }
    fields.refuse_unknown(complaints);
    let hypervisor = match fields.optional(&schema::HYPERVISOR_TABLE) {
        Some(field) => hypervisor::read(&field, complaints),
        None => Some(HypervisorOptions::default()),
    };
    let vms = vm::read_all(&fields, complaints);
    together::check(
        hypervisor.as_ref(),
        vms.as_deref().unwrap_or_default(),
        complaints,
    );
    Some((hypervisor?, vms?))
}

fn version_is_ours(fields: &Fields<'_, '_>, complaints: &mut Complaints) -> bool {
    let Some(field) = fields.optional(&schema::VERSION_KEY) else {
        fields
            .missing(&schema::VERSION_KEY, complaints)
            .help(format_args!(
                "begin the file with the line `version = {VERSION}`"
            ));
        return false;
    };
    let Some(number) = field.integer(complaints) else {
        return false;
    };
    if number == i128::from(VERSION) {
        return true;
    }
    complaints
        .add(ErrorKind::UnsupportedVersion, field.span)
        .found(format_args!("version {number}"))
        .expected(format_args!(
            "version = {VERSION}, the only one this release reads"
        ));
    false
}

fn too_large(file_name: &str, bytes: &[u8]) -> ManifestErrors {
    let head = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let source = Source::new(file_name, String::from_utf8_lossy(head).into_owned());
    let mut complaints = Complaints::default();
    complaints
        .add(ErrorKind::TooLarge, source.end())
        .found(format_args!("a file of {} bytes", bytes.len()))
        .expected(format_args!("at most {MAX_BYTES} bytes"))
        .help("is this the manifest, and not one of the payloads?");
    complaints.into_errors(&source)
}

fn not_utf8(file_name: &str, bytes: &[u8], valid_up_to: usize) -> ManifestErrors {
    // The replacement characters come after the place complained about, so the offset stays right.
    let source = Source::new(file_name, String::from_utf8_lossy(bytes).into_owned());
    let mut complaints = Complaints::default();
    let complaint = complaints.add(ErrorKind::NotUtf8, Span::at(valid_up_to));
    complaint.expected("UTF-8 text");
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        complaint.found("the byte order mark of UTF-16");
        complaint.help("save the file as \"UTF-8\"");
    } else {
        let byte = bytes.get(valid_up_to).copied().unwrap_or_default();
        complaint.found(format_args!(
            "the byte 0x{byte:02X}, which is not UTF-8 here"
        ));
    }
    complaints.into_errors(&source)
}
