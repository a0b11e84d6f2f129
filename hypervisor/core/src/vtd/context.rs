//! Root and context tables: which device is in which domain.
//!
//! [`ContextTables`] is one unit's root table with a context table a bus, in the legacy format. A device without an entry
//! reaches nothing; an entry is made by [`super::domain::IoDomain::attach`] only, and always translates: the type has no
//! value for the pass-through that the hardware has. See Intel VT-d, "Root Entry" and "Context Entry".

use core::fmt;

use crate::addr::Frame;
use crate::table::TableMemory;

use super::SourceId;
use super::capability::DomainId;
use super::invalidate::{Batch, Request, Ticket, UnitId, UnitSet};

const PRESENT: u64 = 1 << 0;
const ADDRESS: u64 = !0xfff;
const DOMAIN: u32 = 8;
const WIDTH: u64 = 7;
/// Translation type: 0 is "untranslated requests, by second-level tables".
const TRANSLATION_TYPE: u64 = 3 << 2;
/// Words of an entry of either table.
const WORDS: usize = 2;

/// A root entry as in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct RawRoot(pub [u64; WORDS]);

/// A context entry as in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct RawContext(pub [u64; WORDS]);

// 256 entries of either fill a frame.
const _: () = assert!(size_of::<RawRoot>() == 16 && size_of::<RawContext>() == 16);

impl RawRoot {
    /// The entry of a bus with devices.
    #[must_use]
    pub const fn new(context_table: Frame) -> Self {
        Self([context_table.start().0 | PRESENT, 0])
    }

    /// The context table, where there is one.
    #[must_use]
    pub const fn context_table(self) -> Option<Frame> {
        let Self([low, _]) = self;
        if low & PRESENT == 0 {
            return None;
        }
        Some(Frame(low >> 12))
    }
}

/// How deep a domain's tree is, as the address-width field says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Depth {
    /// Three levels, 39-bit addresses.
    Three = 1,
    /// Four levels, 48-bit addresses.
    Four = 2,
}

/// What a context entry says: the domain that the device is in.
#[must_use = "install it for the device; the domain counts it as attached"]
#[derive(PartialEq, Eq, Debug)]
pub struct ContextEntry {
    root: Frame,
    depth: Depth,
    domain: DomainId,
}

impl ContextEntry {
    pub(super) const fn new(root: Frame, depth: Depth, domain: DomainId) -> Self {
        Self {
            root,
            depth,
            domain,
        }
    }

    /// The domain.
    #[must_use]
    pub const fn domain(&self) -> DomainId {
        self.domain
    }

    /// The entry as in memory. Faults are reported, since fault processing is not disabled.
    #[must_use]
    pub const fn encode(&self) -> RawContext {
        RawContext([
            self.root.start().0 | PRESENT,
            (self.domain.raw() as u64) << DOMAIN | self.depth as u64,
        ])
    }
}

/// What is read back from a context table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// The device reaches nothing.
    Absent,
    /// It is in the domain with this number, whose tree starts at the frame.
    Translated {
        /// The top-level table.
        root: Frame,
        /// Its depth.
        depth: Depth,
        /// The domain's number.
        domain: u16,
    },
    /// Nothing that Bulkhead writes.
    Unknown(RawContext),
}

impl RawContext {
    /// What the entry says.
    #[must_use]
    pub const fn decode(self) -> Decoded {
        let Self([low, high]) = self;
        if low & PRESENT == 0 {
            return Decoded::Absent;
        }
        let depth = match high & WIDTH {
            1 => Depth::Three,
            2 => Depth::Four,
            _ => return Decoded::Unknown(self),
        };
        if low & TRANSLATION_TYPE != 0 {
            return Decoded::Unknown(self);
        }
        Decoded::Translated {
            root: Frame((low & ADDRESS) >> 12),
            depth,
            domain: (high >> DOMAIN) as u16,
        }
    }
}

/// Why a device could not be put into a domain. Nothing was changed, and the entry comes back.
#[derive(Debug)]
pub struct InstallRejected {
    /// The device.
    pub source: SourceId,
    /// Whether it is in a domain already; otherwise no frame was left for a context table.
    pub occupied: bool,
    /// The entry, not installed.
    pub entry: ContextEntry,
}

impl fmt::Display for InstallRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source;
        match self.occupied {
            true => write!(f, "device {source} is in an I/O domain already"),
            false => write!(
                f,
                "no frame left for the context table of device {source}; reserve more memory"
            ),
        }
    }
}

impl core::error::Error for InstallRejected {}

impl InstallRejected {
    /// The device never was in the domain, which may forget about it.
    pub const fn abandon(self) -> Detached {
        Detached {
            source: self.source,
            domain: self.entry.domain,
        }
    }
}

/// Proof that a device is in its domain.
#[derive(PartialEq, Eq, Debug)]
pub struct Attached(pub SourceId);

/// Proof that a device is in no domain and nothing of it is cached.
#[must_use = "tell the domain by `IoDomain::release`"]
#[derive(PartialEq, Eq, Debug)]
pub struct Detached {
    source: SourceId,
    domain: DomainId,
}

impl Detached {
    /// The device.
    #[must_use]
    pub const fn source(&self) -> SourceId {
        self.source
    }

    /// The domain it was in.
    #[must_use]
    pub const fn domain(&self) -> DomainId {
        self.domain
    }
}

/// One unit's root and context tables.
#[derive(Debug)]
pub struct ContextTables {
    root: Frame,
    unit: UnitId,
}

impl ContextTables {
    /// Tables in which no device reaches anything, or `None` where no frame is left.
    pub fn new(memory: &mut impl TableMemory, unit: UnitId) -> Option<Self> {
        memory.alloc().map(|root| Self { root, unit })
    }

    /// The root table, for [`super::unit`].
    #[must_use]
    pub const fn root(&self) -> Frame {
        self.root
    }

    /// Puts a device into the domain that `entry` is of. It reaches its domain at the latest when the ticket is redeemed.
    ///
    /// # Errors
    /// The device has an entry, or no frame is left; nothing changed.
    pub fn install(
        &mut self,
        memory: &mut impl TableMemory,
        source: SourceId,
        entry: ContextEntry,
    ) -> Result<Ticket<Attached>, InstallRejected> {
        let rejected = |entry, occupied| InstallRejected {
            source,
            occupied,
            entry,
        };
        let table = match self.table(memory, source) {
            Some(table) => table,
            None => {
                let Some(table) = memory.alloc() else {
                    return Err(rejected(entry, false));
                };
                let RawRoot([low, high]) = RawRoot::new(table);
                let at = usize::from(source.bus()) * WORDS;
                memory.write(self.root, at + 1, high);
                memory.write(self.root, at, low);
                table
            }
        };
        let at = usize::from(source.device_function()) * WORDS;
        if memory.read(table, at) & PRESENT != 0 {
            return Err(rejected(entry, true));
        }
        let RawContext([low, high]) = entry.encode();
        // The word with the present bit last: the unit never sees half an entry.
        memory.write(table, at + 1, high);
        memory.write(table, at, low);
        // In caching mode the absent entry may be cached, and not by the domain's id.
        let batch = Batch::of(&[Request::AllContexts, Request::Domain(entry.domain)]);
        let unit = UnitSet::EMPTY.with(self.unit);
        Ok(Ticket::new(Attached(source), batch, unit))
    }

    /// Takes a device out of its domain, to be had once the unit has forgotten it; `None` where it is in none.
    pub fn remove(
        &mut self,
        memory: &mut impl TableMemory,
        source: SourceId,
        domain: DomainId,
    ) -> Option<Ticket<Detached>> {
        let table = self.table(memory, source)?;
        let at = usize::from(source.device_function()) * WORDS;
        match self.look_up(memory, source) {
            Decoded::Translated { domain: found, .. } if found == domain.raw() => {}
            _ => return None,
        }
        memory.write(table, at, 0);
        memory.write(table, at + 1, 0);
        let batch = Batch::of(&[Request::Context(domain, source), Request::Domain(domain)]);
        let unit = UnitSet::EMPTY.with(self.unit);
        Some(Ticket::new(Detached { source, domain }, batch, unit))
    }

    /// What the tables say about a device.
    pub fn look_up(&self, memory: &impl TableMemory, source: SourceId) -> Decoded {
        let Some(table) = self.table(memory, source) else {
            return Decoded::Absent;
        };
        let at = usize::from(source.device_function()) * WORDS;
        RawContext([memory.read(table, at), memory.read(table, at + 1)]).decode()
    }

    fn table(&self, memory: &impl TableMemory, source: SourceId) -> Option<Frame> {
        let at = usize::from(source.bus()) * WORDS;
        RawRoot([memory.read(self.root, at), memory.read(self.root, at + 1)]).context_table()
    }
}
