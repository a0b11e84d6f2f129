//! Every key a manifest can have. The parser reads by these tables, and `docs/manifest.md` is checked against them.

use core::fmt;

use Presence::{Optional, Required, Reserved};

/// Whether a key has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Required,
    /// It has a default, or nothing means none.
    Optional,
    /// Never in this release: what it will ask for must not be silently left undone.
    Reserved,
}

/// One key of one table.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// The dotted name of its table; empty for the top level.
    pub table: &'static str,
    /// The key itself.
    pub name: &'static str,
    /// Whether it has to be there.
    pub presence: Presence,
}

/// The dotted name, such as `vm.kernel.path`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table {
            "" => f.write_str(self.name),
            table => write!(f, "{table}.{}", self.name),
        }
    }
}

/// One table of the manifest and the keys it takes.
#[derive(Debug)]
pub struct Table {
    /// How a person would write its header.
    pub title: &'static str,
    /// Its keys, in the order the documentation has them.
    pub keys: &'static [&'static Key],
}

/// Every table there is.
pub const TABLES: &[&Table] = &[
    &ROOT,
    &HYPERVISOR,
    &VM,
    &KERNEL,
    &INITRD,
    &DISK,
    &DISK_IMAGE,
    &NIC,
    &DEVICE,
];

/// Declares the keys of one table as constants, and the table over them.
macro_rules! table {
    ($(#[$doc:meta])* $table:ident, $path:literal, $title:literal: $($key:ident = $presence:ident $name:literal,)+) => {
        $(
            #[doc = concat!("The key `", $name, "` of `", $title, "`.")]
            pub static $key: Key = Key { table: $path, name: $name, presence: $presence };
        )+
        $(#[$doc])*
        pub static $table: Table = Table { title: $title, keys: &[$(&$key),+] };
    };
}

table! {
    /// The top level of the file.
    ROOT, "", "the top level":
    VERSION_KEY = Required "version",
    HYPERVISOR_TABLE = Optional "hypervisor",
    VM_TABLES = Required "vm",
}

table! {
    /// What the hypervisor itself does.
    HYPERVISOR, "hypervisor", "[hypervisor]":
    CONSOLE = Optional "console",
    LOG_LEVEL = Optional "log_level",
    IOMMU = Optional "iommu",
    APICV = Optional "apicv",
    MBEC = Optional "mbec",
    VMFUNC = Optional "vmfunc",
    SMT = Optional "smt",
    ROOT_KEY = Optional "root_key",
    RESEAL = Optional "reseal",
    SELFTEST = Optional "selftest",
}

table! {
    /// One VM.
    VM, "vm", "[[vm]]":
    NAME = Required "name",
    KERNEL_PAYLOAD = Required "kernel",
    INITRD_PAYLOAD = Optional "initrd",
    CMDLINE = Optional "cmdline",
    MEMORY = Required "memory",
    VCPUS = Optional "vcpus",
    CPUS = Optional "cpus",
    WEIGHT = Optional "weight",
    CAP = Optional "cap",
    VM_CONSOLE = Optional "console",
    AUTOSTART = Optional "autostart",
    RESTART = Optional "restart",
    STOP_TIMEOUT = Optional "stop_timeout",
    DISK_TABLES = Optional "disk",
    NIC_TABLES = Optional "nic",
    DEVICE_TABLES = Optional "device",
    ENCRYPTION = Optional "encryption",
    WINDOW = Optional "window",
    WINDOW_SAMPLES = Optional "window_samples",
    SPLIT = Optional "split",
    SPLIT_UNAIDED = Optional "split_unaided",
    SPLIT_PRIVATE = Optional "split_private",
    SPLIT_SAMPLES = Optional "split_samples",
    ISOLATION = Reserved "isolation",
}

table! {
    /// The kernel of a VM, where more than its path is given.
    KERNEL, "vm.kernel", "vm.kernel":
    KERNEL_PATH = Required "path",
    KERNEL_SHA256 = Optional "sha256",
    KERNEL_FORMAT = Optional "format",
}

table! {
    /// The initial RAM disk of a VM, where more than its path is given.
    INITRD, "vm.initrd", "vm.initrd":
    INITRD_PATH = Required "path",
    INITRD_SHA256 = Optional "sha256",
}

table! {
    /// One disk of a VM.
    DISK, "vm.disk", "[[vm.disk]]":
    DISK_IMAGE_PAYLOAD = Required "image",
    DISK_MODE = Optional "mode",
    DISK_OVERLAY = Optional "overlay",
}

table! {
    /// The image of a disk, where more than its path is given.
    DISK_IMAGE, "vm.disk.image", "vm.disk.image":
    DISK_IMAGE_PATH = Required "path",
    DISK_IMAGE_SHA256 = Optional "sha256",
}

table! {
    /// One NIC of a VM.
    NIC, "vm.nic", "[[vm.nic]]":
    NIC_SEGMENT = Required "segment",
    NIC_MAC = Optional "mac",
    NIC_SPOOFING = Optional "spoofing",
    NIC_RATE_LIMIT = Optional "rate_limit",
}

table! {
    /// One real device of a VM.
    DEVICE, "vm.device", "[[vm.device]]":
    DEVICE_ADDRESS = Optional "address",
    DEVICE_ID = Optional "id",
    DEVICE_CLASS = Optional "class",
}

impl Table {
    /// The key called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().copied().find(|key| key.name == name)
    }

    /// The names a manifest may use today.
    pub fn usable_names(&self) -> impl Iterator<Item = &'static str> {
        self.keys
            .iter()
            .filter(|key| key.presence != Reserved)
            .map(|key| key.name)
    }
}
