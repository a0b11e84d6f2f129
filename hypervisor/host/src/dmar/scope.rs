//! Device scopes: which device an entry is about (VT-d specification, "Device Scope Structure").
//!
//! A scope names a device by the way to it: a start bus, then one [`Hop`] for each bridge passed, then the device. That
//! stays right however buses are numbered; [`resolve`] turns it into the [`SourceId`] of now.

use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;

use crate::hostacpi::table::byte;

use super::SourceId;
use super::error::{Fault, Warning};
use super::owner::Bridges;

/// What sort of device a scope names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScopeKind {
    /// One PCI function.
    Endpoint,
    /// A bridge and everything below it.
    SubHierarchy,
    /// An I/O APIC.
    IoApic,
    /// An HPET that raises its interrupts by messages.
    Hpet,
    /// A device that ACPI enumerates; a [`NamedDevice`](super::NamedDevice) has its path.
    Named,
    /// What the specification does not define.
    Unknown(u8),
}

impl From<u8> for ScopeKind {
    fn from(raw: u8) -> Self {
        match raw {
            1 => Self::Endpoint,
            2 => Self::SubHierarchy,
            3 => Self::IoApic,
            4 => Self::Hpet,
            5 => Self::Named,
            _ => Self::Unknown(raw),
        }
    }
}

bitflags! {
    /// Properties of an integrated device; they mean something in
    /// [`DeviceProperties`](super::DeviceProperties) only.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ScopeFlags: u8 {
        /// Its requests without PASID must not be translated in two stages.
        const NO_NESTING = 1 << 0;
        /// Page walks for its requests without PASID must not snoop.
        const NO_WALK_SNOOP = 1 << 1;
        /// Its requests without PASID must not be made to snoop.
        const NO_PAGE_SNOOP = 1 << 2;
        /// Its cache of translations is hardened against the software that runs on it.
        const CACHE_HARDENED = 1 << 3;
        /// It works only with its cache of translations on.
        const CACHE_REQUIRED = 1 << 4;
    }
}

/// A device and function on whatever bus the way has reached.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Hop(u8);

impl Hop {
    /// That function, or `None` where a bus has no such device or a device no such function.
    #[must_use]
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        match SourceId::new(0, device, function) {
            Some(id) => Some(Self(id.0 as u8)),
            None => None,
        }
    }

    /// The function it means on `bus`.
    #[must_use]
    pub const fn on(self, bus: u8) -> SourceId {
        SourceId((bus as u16) << 8 | self.0 as u16)
    }
}

/// The buses behind a bridge, as its registers have them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buses {
    /// The bus directly behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
}

impl Buses {
    /// Whether `bus` is one of them.
    #[must_use]
    pub fn contains(self, bus: u8) -> bool {
        (self.secondary..=self.subordinate).contains(&bus)
    }
}

/// Why a path leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathError {
    /// There is no hop in it.
    Empty,
    /// It goes on behind this function, which is no bridge that buses have been given to.
    NoBridge(SourceId),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the path to a device is empty"),
            Self::NoBridge(at) => {
                write!(
                    f,
                    "the path to a device leads through {at}, no set-up bridge"
                )
            }
        }
    }
}

impl core::error::Error for PathError {}

/// The function that `path` leads to from `start_bus`. `bridge` reads a function's bus numbers: `None` where it is no
/// bridge or not there.
///
/// # Errors
/// [`PathError`] where a bridge on the way is missing or has no bus behind it.
pub fn resolve(
    path: &[Hop],
    start_bus: u8,
    bridge: &dyn Fn(SourceId) -> Option<Buses>,
) -> Result<SourceId, PathError> {
    let (last, way) = path.split_last().ok_or(PathError::Empty)?;
    let mut bus = start_bus;
    for hop in way {
        let at = hop.on(bus);
        // Numbers grow on the way down; a bridge that was given none reads 0.
        bus = bridge(at)
            .map(|buses| buses.secondary)
            .filter(|below| *below > bus)
            .ok_or(PathError::NoBridge(at))?;
    }
    Ok(last.on(bus))
}

/// A device, or a bridge with what is below it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// What sort of device.
    pub kind: ScopeKind,
    /// Properties of an integrated device.
    pub flags: ScopeFlags,
    /// The I/O APIC's id, the HPET's number, or the named device's number; 0 for PCI devices.
    pub id: u8,
    /// The bus where the path begins.
    pub start_bus: u8,
    /// The way from there: at least one hop.
    pub path: Vec<Hop>,
}

/// Bytes before the path.
const PATH: usize = 6;

impl Scope {
    /// Which function this is now, in `segment`.
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(&self, segment: u16, bridges: &Bridges) -> Result<SourceId, PathError> {
        resolve(&self.path, self.start_bus, &|at| bridges(segment, at))
    }

    /// The scopes from `first` to the end of `entry`, which begins at `offset` in the table.
    pub(super) fn list(
        entry: &[u8],
        first: usize,
        offset: usize,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<Self>, Fault> {
        let mut scopes = Vec::new();
        let mut rest = entry.get(first..).ok_or(Fault::TooShort)?;
        while let Some(raw) = byte(rest, 0) {
            let at = offset + entry.len() - rest.len();
            if rest.iter().all(|byte| *byte == 0) {
                Warning::Padding { offset: at }.note(warnings);
                break;
            }
            let length = byte(rest, 1).map_or(0, usize::from);
            let (this, further) = rest
                .split_at_checked(length)
                .filter(|_| length > PATH)
                .ok_or(Fault::ScopeLength(at))?;
            let kind = ScopeKind::from(raw);
            let scope = Self::read(kind, this);
            if let ScopeKind::Unknown(kind) = kind {
                Warning::UnknownScope { offset: at, kind }.note(warnings);
                scopes.extend(scope);
            } else {
                scopes.push(scope.ok_or(Fault::ScopePath(at))?);
            }
            rest = further;
        }
        Ok(scopes)
    }

    /// One scope; `None` where its path is none.
    fn read(kind: ScopeKind, bytes: &[u8]) -> Option<Self> {
        let (hops, []) = bytes.get(PATH..)?.as_chunks() else {
            return None;
        };
        let path: Option<Vec<Hop>> = hops
            .iter()
            .map(|[device, function]| Hop::new(*device, *function))
            .collect();
        Some(Self {
            kind,
            flags: ScopeFlags::from_bits_retain(byte(bytes, 2)?),
            id: byte(bytes, 4)?,
            start_bus: byte(bytes, 5)?,
            path: path.filter(|path| !path.is_empty())?,
        })
    }
}
