//! The capability lists of a function, read into types (PCI Local Bus Specification 3.0, "Capabilities List"; PCI
//! Express Base Specification, "PCI Express Extended Capabilities").
//!
//! A list is a chain of pointers that the device chose: it is followed while it leads to places not seen before.

use alloc::vec::Vec;

use super::access::{Config, Extent};
use super::inventory::Warning;
use super::register;

/// The identifier of power management (PCI Code and ID Assignment Specification, "Capability IDs"), and of those that follow.
pub const ID_POWER: u8 = 0x01;
/// Message signalled interrupts.
pub const ID_MSI: u8 = 0x05;
/// PCI Express.
pub const ID_EXPRESS: u8 = 0x10;
/// MSI-X.
pub const ID_MSIX: u8 = 0x11;
const ID_ADVANCED_FEATURES: u8 = 0x13;

const ID_ACS: u16 = 0x0d;
const ID_ATS: u16 = 0x0f;
const ID_SRIOV: u16 = 0x10;
const ID_PASID: u16 = 0x1b;

/// Where the first extended capability is.
const FIRST_EXTENDED: u16 = 0x100;

/// A capability and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability {
    /// The offset of its header.
    pub at: u8,
    /// What it is.
    pub kind: CapabilityKind,
}

/// What a capability of the first 256 bytes is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapabilityKind {
    /// Power management.
    Power,
    /// Message signalled interrupts.
    Msi(Msi),
    /// Message signalled interrupts by a table.
    MsiX(MsiX),
    /// PCI Express.
    Express(Express),
    /// Advanced features: a reset for functions that are not PCI Express.
    AdvancedFeatures {
        /// The function can be reset by itself.
        reset: bool,
    },
    /// Another one, by its identifier.
    Unknown(u8),
}

/// The MSI capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Msi {
    /// The address has 64 bits.
    pub wide: bool,
    /// Each message can be masked.
    pub maskable: bool,
}

/// The MSI-X capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsiX {
    /// How many vectors there are: 1 to 2048.
    pub vectors: u16,
    /// Where the vectors are.
    pub table: InBar,
    /// Where the pending bits are.
    pub pending: InBar,
}

/// A place in what a base address decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InBar {
    /// Which base address; one above 5 is none.
    pub bar: u8,
    /// How far into it, a multiple of 8.
    pub offset: u32,
}

/// The PCI Express capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Express {
    /// Its version: before 2 it is shorter.
    pub version: u8,
    /// What part of the fabric the function is.
    pub port: PortType,
    /// What it can, as the device capabilities register has it.
    pub device: u32,
    /// The function can be reset by itself.
    pub reset: bool,
}

/// What part of the fabric a PCI Express function is ("PCI Express Capabilities Register", Device/Port Type).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortType {
    /// An endpoint.
    Endpoint,
    /// An endpoint that uses ports or locked requests.
    LegacyEndpoint,
    /// A port of the root complex.
    RootPort,
    /// The port of a switch that faces the root complex.
    Upstream,
    /// A port of a switch that faces devices.
    Downstream,
    /// A bridge to a conventional bus.
    ToConventional,
    /// A bridge from a conventional bus.
    FromConventional,
    /// An endpoint within the root complex.
    Integrated,
    /// An event collector of the root complex.
    EventCollector,
    /// One that the specification did not know.
    Unknown(u8),
}

impl PortType {
    /// The type of these four bits.
    #[must_use]
    pub const fn new(raw: u8) -> Self {
        match raw {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::Upstream,
            6 => Self::Downstream,
            7 => Self::ToConventional,
            8 => Self::FromConventional,
            9 => Self::Integrated,
            10 => Self::EventCollector,
            raw => Self::Unknown(raw),
        }
    }

    /// Whether a link to one device leaves from here.
    #[must_use]
    pub const fn faces_a_device(self) -> bool {
        matches!(self, Self::RootPort | Self::Downstream)
    }
}

/// An extended capability and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedCapability {
    /// The offset of its header.
    pub at: u16,
    /// What it is.
    pub kind: ExtendedKind,
}

/// What an extended capability is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtendedKind {
    /// Access control services: the bits that it has.
    Acs(Acs),
    /// Address translation services: the device may ask the IOMMU, and be believed afterwards.
    Ats,
    /// Process address spaces.
    Pasid,
    /// Virtual functions.
    SrIov {
        /// How many there can be.
        total: u16,
        /// They are there now: firmware left them on.
        enabled: bool,
    },
    /// Another one.
    Unknown {
        /// Its identifier.
        id: u16,
        /// Its version.
        version: u8,
    },
}

bitflags::bitflags! {
    /// Access control services (PCI Express Base Specification, "ACS Capability Register"); its control register has the
    /// same bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Acs: u16 {
        /// A request must come from a bus behind the port.
        const SOURCE_VALIDATION = 1;
        /// Requests that claim to be translated are refused.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// Requests to a peer go up to the IOMMU instead.
        const REQUEST_REDIRECT = 1 << 2;
        /// So do completions.
        const COMPLETION_REDIRECT = 1 << 3;
        /// What comes from behind the port goes up, even if it is for behind the port.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// Which peers are reached is said by a vector.
        const EGRESS_CONTROL = 1 << 5;
        /// Translated requests to a peer go there directly.
        const DIRECT_TRANSLATED = 1 << 6;
    }
}

/// Where a list has been: one bit for each place that a pointer can name.
#[derive(Default)]
struct Seen([u64; 16]);

impl Seen {
    /// Notes a place; false where the list was there before.
    fn insert(&mut self, at: u16) -> bool {
        let (word, bit) = (usize::from(at / 256), 1 << (at / 4 % 64));
        let Some(word) = self.0.get_mut(word) else {
            return false;
        };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

/// Reads the capabilities in the first 256 bytes.
pub(super) fn read_list(config: &mut Config<'_>, warnings: &mut Vec<Warning>) -> Vec<Capability> {
    let mut found = Vec::new();
    if config.u16(register::STATUS) & register::HAS_CAPABILITIES == 0 {
        return found;
    }
    let function = config.function();
    let mut seen = Seen::default();
    let mut at = config.u8(register::CAPABILITIES) & !3;
    while at != 0 {
        if at < register::HEADER_BYTES || !seen.insert(at.into()) {
            let at = at.into();
            warnings.push(Warning::CapabilityList { function, at });
            break;
        }
        let [id, next] = config.u16(at).to_le_bytes();
        if id == 0xff {
            let at = at.into();
            warnings.push(Warning::CapabilityList { function, at });
            break;
        }
        found.extend(read_one(config, at, id).map(|kind| Capability { at, kind }));
        at = next & !3;
    }
    found
}

/// What the capability `id` at `at` is; nothing where it does not fit before the end.
fn read_one(config: &mut Config<'_>, at: u8, id: u8) -> Option<CapabilityKind> {
    const MSI_WIDE: u16 = 1 << 7;
    const MSI_MASKABLE: u16 = 1 << 8;
    const AF_RESET: u8 = 3;
    const EXPRESS_RESET: u32 = 1 << 28;
    let bytes = match id {
        ID_POWER => 8,
        ID_MSI => 10,
        ID_MSIX | ID_EXPRESS => 12,
        ID_ADVANCED_FEATURES => 6,
        _ => return Some(CapabilityKind::Unknown(id)),
    };
    if u16::from(at) + bytes > register::LEGACY_BYTES {
        return None;
    }
    let flags = config.u16(at + 2);
    Some(match id {
        ID_POWER => CapabilityKind::Power,
        ID_MSI => CapabilityKind::Msi(Msi {
            wide: flags & MSI_WIDE != 0,
            maskable: flags & MSI_MASKABLE != 0,
        }),
        ID_MSIX => {
            let mut place = |at: u8| {
                let raw = config.u32(at);
                InBar {
                    bar: (raw & 7) as u8,
                    offset: raw & !7,
                }
            };
            CapabilityKind::MsiX(MsiX {
                vectors: (flags & 0x7ff) + 1,
                table: place(at + 4),
                pending: place(at + 8),
            })
        }
        ID_EXPRESS => {
            let device = config.u32(at + 4);
            CapabilityKind::Express(Express {
                version: (flags & 0xf) as u8,
                port: PortType::new((flags >> 4 & 0xf) as u8),
                device,
                reset: device & EXPRESS_RESET != 0,
            })
        }
        _ => CapabilityKind::AdvancedFeatures {
            reset: config.u8(at + 3) & AF_RESET == AF_RESET,
        },
    })
}

/// Reads the capabilities beyond the first 256 bytes, where they can be reached.
pub(super) fn read_extended(
    config: &mut Config<'_>,
    warnings: &mut Vec<Warning>,
) -> Vec<ExtendedCapability> {
    let mut found = Vec::new();
    if config.extent() == Extent::Legacy {
        return found;
    }
    let function = config.function();
    let mut seen = Seen::default();
    let mut at = FIRST_EXTENDED;
    loop {
        let header = config.u32(at);
        // An empty list is a zero header, or nobody answers beyond 256 bytes.
        if at == FIRST_EXTENDED && (header == 0 || header == u32::MAX) {
            break;
        }
        if !seen.insert(at) || header == u32::MAX {
            warnings.push(Warning::CapabilityList { function, at });
            break;
        }
        if let Some(kind) = read_one_extended(config, at, header) {
            found.push(ExtendedCapability { at, kind });
        }
        at = (header >> 20) as u16 & !3;
        if at == 0 {
            break;
        }
        if at < FIRST_EXTENDED {
            warnings.push(Warning::CapabilityList { function, at });
            break;
        }
    }
    found
}

fn read_one_extended(config: &mut Config<'_>, at: u16, header: u32) -> Option<ExtendedKind> {
    const VF_ENABLE: u16 = 1;
    let id = header as u16;
    let bytes = match id {
        ID_ACS | ID_ATS | ID_PASID => 8,
        ID_SRIOV => 0x40,
        _ => {
            let version = (header >> 16 & 0xf) as u8;
            return Some(ExtendedKind::Unknown { id, version });
        }
    };
    if at + bytes > register::EXTENDED_BYTES {
        return None;
    }
    Some(match id {
        ID_ACS => ExtendedKind::Acs(Acs::from_bits_truncate(config.u16(at + 4))),
        ID_ATS => ExtendedKind::Ats,
        ID_PASID => ExtendedKind::Pasid,
        _ => ExtendedKind::SrIov {
            total: config.u16(at + 0xe),
            enabled: config.u16(at + SRIOV_CONTROL) & VF_ENABLE != 0,
        },
    })
}

/// How far into its capability the control register of access control services is.
pub(super) const ACS_CONTROL: u16 = 6;
/// How far into its capability the control register of virtual functions is.
pub(super) const SRIOV_CONTROL: u16 = 8;
