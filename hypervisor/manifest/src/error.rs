//! What is wrong with a manifest: each complaint with its kind, its place, what stands there and what should.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Display, Write};

use super::source::{Source, Span};

/// The most complaints kept; more are only counted.
pub const MAX_ERRORS: usize = 24;
/// The most characters of the manifest's line shown with a complaint.
const EXCERPT_WIDTH: usize = 100;
/// Stands for what is left out of a line or a value.
const CUT: &str = "...";
/// The most characters of a value quoted in a complaint.
const QUOTE_WIDTH: usize = 48;

/// Declares [`ErrorKind`], its names and its titles in one table.
macro_rules! error_kinds {
    ($($variant:ident, $name:literal, $title:literal;)+) => {
        /// The kinds of complaint there are.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorKind {
            $(#[doc = concat!("`", $name, "`: ", $title, ".")] $variant,)+
        }

        impl ErrorKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The short name shown in brackets; it does not change between releases.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// What is wrong, in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)+
                }
            }
        }
    };
}

error_kinds! {
    TooLarge, "too-large", "the manifest is too large";
    NotUtf8, "not-utf8", "the manifest is not UTF-8 text";
    ByteOrderMark, "byte-order-mark", "the manifest starts with a byte order mark";
    Syntax, "syntax", "this is not TOML";
    DuplicateKey, "duplicate-key", "a key or a header stands twice";
    MissingKey, "missing-key", "a key is missing";
    UnsupportedVersion, "unsupported-version", "this version of the manifest is not known";
    UnknownKey, "unknown-key", "there is no such key";
    ReservedKey, "reserved-key", "this key is reserved for a later release";
    WrongType, "wrong-type", "the value is of the wrong type";
    UnknownValue, "unknown-value", "the value is none of those allowed";
    OutOfRange, "out-of-range", "the number is out of range";
    NoVm, "no-vm", "the manifest names no VM";
    TooManyVms, "too-many-vms", "the manifest names too many VMs";
    EmptyName, "empty-name", "the name is empty";
    LongName, "long-name", "the name is too long";
    NameCharacter, "name-character", "the name has a character that names cannot have";
    DuplicateName, "duplicate-name", "two VMs have the same name";
    EmptyPath, "empty-path", "the path is empty";
    LongPath, "long-path", "the path is too long";
    AbsolutePath, "absolute-path", "the path is absolute";
    DrivePath, "drive-path", "the path names a drive";
    BackslashPath, "backslash-path", "the path has a backslash";
    ParentPath, "parent-path", "the path leaves the manifest's directory";
    EmptyPathPart, "empty-path-part", "the path has an empty part";
    TrimmedPathPart, "trimmed-path-part", "a part of the path begins or ends with what FAT drops";
    PathCharacter, "path-character", "the path has a character that FAT or TFTP does not take";
    DigestLength, "digest-length", "the SHA-256 has the wrong length";
    DigestCharacter, "digest-character", "the SHA-256 has a character that is no hexadecimal digit";
    LongCmdline, "long-cmdline", "the command line is too long";
    CmdlineCharacter, "cmdline-character", "the command line has a character that is not printable ASCII";
    SizeNumber, "size-number", "the size does not start with a whole number";
    SizeUnitMissing, "size-unit-missing", "the size has no unit";
    SizeUnit, "size-unit", "the size has an unknown unit";
    SizeTooSmall, "size-too-small", "the size is too small";
    SizeTooLarge, "size-too-large", "the size is too large";
    SizeUnaligned, "size-unaligned", "the size is not a multiple of 2 MiB";
    NoCpus, "no-cpus", "the CPU set is empty";
    DuplicateCpu, "duplicate-cpu", "the CPU set names a CPU twice";
    SpareCpus, "spare-cpus", "the VM has more CPUs than vCPUs";
    ClaimedCpu, "claimed-cpu", "two VMs have the same CPU to themselves";
    TooManyDisks, "too-many-disks", "the VM has too many disks";
    OverlayOfReadOnly, "overlay-of-read-only", "a read-only disk has memory for changed blocks";
    TooManyNics, "too-many-nics", "the VM has too many NICs";
    MacForm, "mac-form", "this is not a MAC address";
    MacNotUnicast, "mac-not-unicast", "the MAC address is not that of one NIC";
    DuplicateMac, "duplicate-mac", "two NICs have the same MAC address";
    RateNumber, "rate-number", "the rate does not start with a whole number";
    RateUnitMissing, "rate-unit-missing", "the rate has no unit";
    RateUnit, "rate-unit", "the rate has an unknown unit";
    RateTooSmall, "rate-too-small", "the rate is too small";
    RateTooLarge, "rate-too-large", "the rate is too large";
    TooManyDevices, "too-many-devices", "the VM has too many devices";
    DeviceName, "device-name", "the device has no name, or two";
    DeviceAddress, "device-address", "this is not the address of a PCI function";
    DeviceId, "device-id", "this is not the identifier of a PCI device";
    DeviceClass, "device-class", "this is not a PCI class";
    ClassOfAddress, "class-of-address", "a class stands beside an address";
    DuplicateDevice, "duplicate-device", "a device is given away twice";
    DeviceWithoutIommu, "device-without-iommu", "a device is given away with the IOMMU off";
    SealIdForm, "seal-id-form", "this does not name a sealed root key";
    SelftestNeedsIommuOff, "selftest-needs-iommu-off", "the self-test shows what happens with the IOMMU off";
    EncryptionBesideDevice, "encryption-beside-device", "the VM's memory cannot be sealed beside a real device";
    WindowWithoutMode, "window-without-mode", "a key of the window stands where there is no window";
    WindowBeyondMemory, "window-beyond-memory", "the window is larger than the VM's memory";
    SplitBesideWindow, "split-beside-window", "the VM's memory cannot have a window and the kernel/user split";
    MachineMemory, "machine-memory", "the machine has not enough memory";
    MachineCpu, "machine-cpu", "the machine has no such CPU";
    MachineNoCpuLeft, "machine-no-cpu-left", "the machine has no CPU left for the VM";
    MachineDeviceMissing, "machine-device-missing", "the machine has no such device";
    MachineDeviceAmbiguous, "machine-device-ambiguous", "the machine has several such devices";
    MachineDeviceDoubled, "machine-device-doubled", "two names mean the same device";
    MachineDeviceKept, "machine-device-kept", "the device stays with the hypervisor";
    MachineDeviceGroup, "machine-device-group", "the device cannot be kept apart from another";
    PayloadMissing, "payload-missing", "the file is not beside the manifest";
    PayloadUnreadable, "payload-unreadable", "the file cannot be read";
    PayloadDigest, "payload-digest", "the file is not the one the manifest names";
    PayloadRejected, "payload-rejected", "the file cannot be used";
}

/// One complaint about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// What kind of complaint it is.
    pub kind: ErrorKind,
    /// The line, counted from 1.
    pub line: usize,
    /// The column in characters, counted from 1.
    pub column: usize,
    /// What stands there.
    pub found: String,
    /// What should stand there.
    pub expected: String,
    /// What to do about it, where that is not obvious.
    pub help: Option<String>,
    excerpt: Excerpt,
}

/// Everything that is wrong with a manifest, in the order of its text; there is at least one complaint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestErrors {
    file_name: String,
    errors: Vec<ManifestError>,
    omitted: usize,
}

impl ManifestErrors {
    /// The name the manifest was given to the parser under.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The complaints, in the order of the text.
    #[must_use]
    pub fn errors(&self) -> &[ManifestError] {
        &self.errors
    }

    /// How many complaints there are, those beyond [`MAX_ERRORS`] included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.errors.len().saturating_add(self.omitted)
    }
}

impl core::error::Error for ManifestErrors {}

/// Every complaint as `FILE:LINE:COLUMN: error[KIND]: TITLE`, the line it is about and the particulars; then their number.
impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            error.write(&self.file_name, f)?;
        }
        match self.count() {
            1 => writeln!(f, "{}: 1 error", self.file_name),
            count if self.omitted == 0 => writeln!(f, "{}: {count} errors", self.file_name),
            count => writeln!(
                f,
                "{}: {count} errors, {} of them not shown",
                self.file_name, self.omitted
            ),
        }
    }
}

impl ManifestError {
    fn write(&self, file_name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            line,
            column,
            found,
            expected,
            help,
            excerpt,
        } = self;
        writeln!(
            f,
            "{file_name}:{line}:{column}: error[{}]: {}",
            kind.name(),
            kind.title()
        )?;
        writeln!(f, "{line:>5} | {}", excerpt.text)?;
        writeln!(
            f,
            "      | {:indent$}{:^<width$}",
            "",
            "",
            indent = excerpt.indent,
            width = excerpt.width
        )?;
        writeln!(f, "      = found: {found}")?;
        writeln!(f, "      = expected: {expected}")?;
        match help {
            Some(help) => writeln!(f, "      = help: {help}"),
            None => Ok(()),
        }
    }
}

/// The part of a line that is shown, and where in it the carets go; in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    indent: usize,
    width: usize,
}

impl Excerpt {
    /// Shows `line` around the `width` characters from `column` on, counted from 0. Every
    /// character takes one cell, so that the carets stand below what they mean and no control
    /// character of a manifest reaches a terminal.
    fn new(line: &str, column: usize, width: usize) -> Self {
        let first = if column < EXCERPT_WIDTH {
            0
        } else {
            column - EXCERPT_WIDTH / 2
        };
        let mut text = String::from(if first == 0 { "" } else { CUT });
        let indent = column - first + text.len();
        let mut rest = line.chars().skip(first);
        text.extend(rest.by_ref().take(EXCERPT_WIDTH).map(|c| match c {
            '\t' => ' ',
            c if c.is_control() || is_invisible(c) => '?',
            c => c,
        }));
        let shown = text.chars().count();
        if rest.next().is_some() {
            text.push_str(CUT);
        }
        Self {
            text,
            indent,
            width: width.min(shown.saturating_sub(indent)).max(1),
        }
    }
}

/// Characters that reorder or hide the text around them: a complaint must show what the parser saw.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// `text` in quotes, escaped and cut to a length that a line can bear.
pub(super) fn quoted(text: &str) -> String {
    let mut quote = String::from("\"");
    for (index, c) in text.chars().enumerate() {
        if index == QUOTE_WIDTH {
            quote.push_str(CUT);
            break;
        }
        match c {
            '"' | '\\' => quote.extend(['\\', c]),
            c if c.is_control() || is_invisible(c) => quote.extend(c.escape_unicode()),
            c => quote.push(c),
        }
    }
    quote.push('"');
    quote
}

/// A complaint still in terms of the text's bytes.
#[derive(Debug)]
pub(super) struct Complaint {
    kind: ErrorKind,
    span: Span,
    found: String,
    expected: String,
    help: Option<String>,
}

impl Complaint {
    fn new(kind: ErrorKind, span: Span) -> Self {
        Self {
            kind,
            span,
            found: String::new(),
            expected: String::new(),
            help: None,
        }
    }

    pub(super) fn found(&mut self, found: impl Display) -> &mut Self {
        write_into(&mut self.found, &found);
        self
    }

    pub(super) fn expected(&mut self, expected: impl Display) -> &mut Self {
        write_into(&mut self.expected, &expected);
        self
    }

    pub(super) fn help(&mut self, help: impl Display) -> &mut Self {
        write_into(self.help.get_or_insert_default(), &help);
        self
    }

    fn into_error(self, source: &Source) -> ManifestError {
        let place = source.place(self.span);
        ManifestError {
            kind: self.kind,
            line: place.line,
            column: place.column,
            found: self.found,
            expected: self.expected,
            help: self.help,
            excerpt: Excerpt::new(place.text, place.column.saturating_sub(1), place.width),
        }
    }
}

/// One for all texts: there are a hundred and more.
#[inline(never)]
fn write_into(text: &mut String, what: &dyn Display) {
    text.clear();
    // A text takes everything.
    let _ = write!(text, "{what}");
}

/// The first [`MAX_ERRORS`] complaints in the order of the text; those beyond are counted.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    kept: Vec<Complaint>,
    /// Takes the particulars of a complaint that is only counted.
    spare: Option<Complaint>,
    omitted: usize,
}

impl Complaints {
    /// Adds a complaint about `span`; the caller says the particulars.
    pub(super) fn add(&mut self, kind: ErrorKind, span: Span) -> &mut Complaint {
        let complaint = Complaint::new(kind, span);
        // Tables are read in the order of the schema, not of the text.
        let index = self.kept.partition_point(|earlier| earlier.span <= span);
        if self.kept.len() >= MAX_ERRORS {
            self.omitted = self.omitted.saturating_add(1);
            if index >= MAX_ERRORS {
                return self.spare.insert(complaint);
            }
            self.kept.truncate(MAX_ERRORS - 1);
        }
        self.kept.insert_mut(index, complaint)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// All is well, or the complaints with their places looked up in `source`.
    pub(super) fn into_result(self, source: &Source) -> Result<(), ManifestErrors> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.into_errors(source))
        }
    }

    /// The complaints with their places looked up in `source`.
    pub(super) fn into_errors(self, source: &Source) -> ManifestErrors {
        ManifestErrors {
            file_name: source.file_name.clone(),
            errors: self
                .kept
                .into_iter()
                .map(|complaint| complaint.into_error(source))
                .collect(),
            omitted: self.omitted,
        }
    }
}
