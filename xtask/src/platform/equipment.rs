//! What else is in a machine: its IOMMU, devices for tests of it, its TPM.

/// What a machine has beside processors, memory, serial ports and what it boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equipment {
    /// Has an IOMMU, where the platform has one.
    pub iommu: bool,
    /// Further devices; QEMU's machines only.
    pub devices: &'static [Device],
    /// Has a TPM 2.0; QEMU's machines only.
    pub tpm: Option<TpmState>,
}

/// What a TPM, and the variables of the firmware beside it, know of earlier runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmState {
    /// Nothing: both are new.
    New,
    /// What the last machine in the same directory left there.
    Kept,
}

impl Default for Equipment {
    fn default() -> Self {
        Self {
            iommu: true,
            devices: &[],
            tpm: None,
        }
    }
}

/// A device to do DMA with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// QEMU's `edu`, which reads and writes wherever it is told to. A conventional PCI device, on the root bus.
    Edu,
    /// An e1000e on a network that reaches the emulator and nothing else. Behind a root port of its own, which keeps
    /// it from other devices.
    Nic,
    /// An empty NVMe disk, behind a root port of its own.
    Nvme,
}

/// The address of QEMU's own end of the network that a [`Device::Nic`] is on; it answers pings.
pub const GATEWAY: &str = "10.0.2.2";

impl Device {
    /// The slot on the root bus of the device or its root port: low ones are given to what a machine boots from.
    #[must_use]
    pub const fn slot(self) -> u8 {
        match self {
            Self::Edu => 0x10,
            Self::Nic => 0x11,
            Self::Nvme => 0x12,
        }
    }

    /// What it is called on the bus, as `bus << 8 | device << 3 | function`; of its root port, where it has one.
    #[must_use]
    pub const fn source(self) -> u16 {
        (self.slot() as u16) << 3
    }

    /// The bytes of the disk, where it is one.
    #[must_use]
    pub const fn disk_bytes(self) -> Option<u64> {
        match self {
            Self::Edu | Self::Nic => None,
            Self::Nvme => Some(64 << 20),
        }
    }
}
