//! Payloads: reading how a manifest names them, and telling at that line what is wrong with them once they are looked for.

use alloc::format;
use alloc::string::String;
use core::fmt::{self, Display};

use super::digest::{DigestFault, Sha256Digest};
use super::error::{Complaints, ErrorKind, ManifestErrors, quoted};
use super::fields::Field;
use super::path::{self, PathFault, PayloadPath};
use super::plan::{KernelFormat, Payload, Plan, VmPlan};
use super::schema::{self, Key, Table};

/// Which payload of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadRole {
    /// The kernel.
    Kernel,
    /// The initial RAM disk.
    Initrd,
    /// The image of this disk, counted from 0.
    Disk(usize),
}

/// What is wrong with it.
#[derive(Clone, Copy)]
pub enum PayloadProblem<'a> {
    /// There is no such file.
    Missing,
    /// It could not be read, for this reason.
    Unreadable(&'a dyn Display),
    /// It hashes to something else than the manifest says.
    WrongDigest(Sha256Digest),
    /// Its contents are not what they should be.
    Rejected(&'a dyn Display),
}

impl Plan {
    /// The complaint about `problem` with a payload of `vm`, which is one of this plan's.
    #[must_use]
    #[inline(never)]
    pub fn payload_error(
        &self,
        vm: &VmPlan,
        role: PayloadRole,
        problem: PayloadProblem<'_>,
    ) -> ManifestErrors {
        let (payload, span, what) = match role {
            PayloadRole::Kernel => (
                Some(&vm.kernel),
                vm.spans.kernel,
                "a kernel that can be booted",
            ),
            PayloadRole::Initrd => (
                vm.initrd.as_ref(),
                vm.spans.initrd,
                "an initial RAM disk that can be booted",
            ),
            PayloadRole::Disk(index) => {
                let disk = vm.disks.get(index);
                (
                    disk.map(|disk| &disk.image),
                    disk.map_or(vm.spans.name, |disk| disk.spans.image),
                    "a disk image of whole sectors of 512 bytes",
                )
            }
        };
        let path = payload.map_or("", |payload| payload.path.as_str());
        let mut complaints = Complaints::default();
        let (kind, found, expected) = match problem {
            PayloadProblem::Missing => (
                ErrorKind::PayloadMissing,
                format!("no file {}", quoted(path)),
                String::from("a file with that path, seen from where the manifest is"),
            ),
            PayloadProblem::Unreadable(reason) => (
                ErrorKind::PayloadUnreadable,
                format!("{}: {reason}", quoted(path)),
                String::from("a file that can be read"),
            ),
            PayloadProblem::WrongDigest(actual) => (
                ErrorKind::PayloadDigest,
                format!("{} with the SHA-256 {actual}", quoted(path)),
                match payload.and_then(|payload| payload.sha256) {
                    Some(pinned) => format!("the SHA-256 {pinned}"),
                    None => String::from("the SHA-256 that the manifest pins"),
                },
            ),
            PayloadProblem::Rejected(reason) => (
                ErrorKind::PayloadRejected,
                format!("{}: {reason}", quoted(path)),
                String::from(what),
            ),
        };
        complaints.add(kind, span).found(found).expected(expected);
        complaints.into_errors(&self.source)
    }
}

/// What every disk consists of.
const SECTOR_BYTES: u64 = 512;

/// Why a file is not the image of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskImageFault {
    /// It is empty.
    Empty,
    /// It ends with a part of a sector: so many bytes.
    PartOfSector(u64),
}

/// Checks that a file of so many `bytes` can be the image of a disk.
///
/// # Errors
/// Says what is wrong with the size.
pub fn check_disk_image(bytes: u64) -> Result<(), DiskImageFault> {
    match bytes % SECTOR_BYTES {
        0 if bytes == 0 => Err(DiskImageFault::Empty),
        0 => Ok(()),
        rest => Err(DiskImageFault::PartOfSector(rest)),
    }
}

impl Display for DiskImageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty"),
            Self::PartOfSector(rest) => {
                write!(f, "{rest} bytes are left over beyond the last whole sector")
            }
        }
    }
}

impl core::error::Error for DiskImageFault {}

/// The keys of a payload given as a table.
pub(super) struct PayloadKeys {
    table: &'static Table,
    path: &'static Key,
    sha256: &'static Key,
    format: Option<&'static Key>,
}

pub(super) static KERNEL_KEYS: PayloadKeys = PayloadKeys {
    table: &schema::KERNEL,
    path: &schema::KERNEL_PATH,
    sha256: &schema::KERNEL_SHA256,
    format: Some(&schema::KERNEL_FORMAT),
};

pub(super) static INITRD_KEYS: PayloadKeys = PayloadKeys {
    table: &schema::INITRD,
    path: &schema::INITRD_PATH,
    sha256: &schema::INITRD_SHA256,
    format: None,
};

pub(super) static DISK_IMAGE_KEYS: PayloadKeys = PayloadKeys {
    table: &schema::DISK_IMAGE,
    path: &schema::DISK_IMAGE_PATH,
    sha256: &schema::DISK_IMAGE_SHA256,
    format: None,
};

/// A payload: its path alone, or a table with its path and more.
pub(super) fn read(
    field: &Field<'_, '_>,
    keys: &'static PayloadKeys,
    complaints: &mut Complaints,
) -> Option<Payload> {
    if field.value.is_str() {
        let path = read_path(field, complaints)?;
        return Some(Payload {
            path,
            sha256: None,
            format: KernelFormat::default(),
        });
    }
    let expected = "a path in quotes, or a table with the key `path`";
    let fields = field.table(keys.table, expected, complaints)?;
    let path = fields
        .required(keys.path, complaints)
        .and_then(|field| read_path(&field, complaints));
    let sha256 = match fields.optional(keys.sha256) {
        Some(field) => read_digest(&field, complaints).map(Some),
        None => Some(None),
    };
    let format = match keys.format {
        Some(key) => fields.choice_or_default(key, complaints),
        None => Some(KernelFormat::default()),
    };
    Some(Payload {
        path: path?,
        sha256: sha256?,
        format: format?,
    })
}

fn read_path(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<PayloadPath> {
    let text = field.string(complaints)?;
    let fault = match PayloadPath::parse(text) {
        Ok(path) => return Some(path),
        Err(fault) => fault,
    };
    let kind = match fault {
        PathFault::Empty => ErrorKind::EmptyPath,
        PathFault::TooLong => ErrorKind::LongPath,
        PathFault::Absolute => ErrorKind::AbsolutePath,
        PathFault::Drive => ErrorKind::DrivePath,
        PathFault::Backslash => ErrorKind::BackslashPath,
        PathFault::Parent => ErrorKind::ParentPath,
        PathFault::EmptyPart => ErrorKind::EmptyPathPart,
        PathFault::TrimmedPart => ErrorKind::TrimmedPathPart,
        PathFault::Character(_) => ErrorKind::PathCharacter,
    };
    let complaint = complaints.add(kind, field.span);
    complaint
        .found(quoted(text))
        .expected("a path relative to the manifest, such as \"boot/vmlinuz\"");
    match fault {
        PathFault::TooLong => complaint.help(format_args!(
            "at most {} bytes, and {} between two slashes",
            path::MAX_LENGTH,
            path::MAX_COMPONENT
        )),
        PathFault::Backslash => complaint.help("separate the parts with `/`"),
        PathFault::Absolute | PathFault::Drive | PathFault::Parent => {
            complaint.help("put the file beside the manifest, or in a directory below it")
        }
        PathFault::Character(stray) => {
            complaint.help(format_args!("rename the file without {stray:?}"))
        }
        PathFault::Empty | PathFault::EmptyPart | PathFault::TrimmedPart => complaint,
    };
    None
}

fn read_digest(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<Sha256Digest> {
    let text = field.string(complaints)?;
    let (kind, found) = match Sha256Digest::parse(text) {
        Ok(digest) => return Some(digest),
        Err(DigestFault::Length(length)) => (
            ErrorKind::DigestLength,
            format!("{length} digits: {}", quoted(text)),
        ),
        Err(DigestFault::Character(stray)) => (
            ErrorKind::DigestCharacter,
            format!("the character {stray:?} in {}", quoted(text)),
        ),
    };
    complaints
        .add(kind, field.span)
        .found(found)
        .expected("64 hexadecimal digits, as `sha256sum FILE` prints them");
    None
}
