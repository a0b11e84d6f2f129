//! What a remapping unit can do, and what of it Bulkhead uses.
//!
//! [`Capability`] and [`ExtendedCapability`] are typed views of the two registers; [`Chosen::choose`] turns them into
//! one record that the rest goes by, or names what is missing. What concerns tables is in [`super::shape`]. See Intel VT-d, "Capability Register" and "Extended Capability Register".

use core::fmt;

use crate::ledger::VmId;
use crate::table::PageSize;

use super::registers::{self, FAULT_RECORD_BYTES, IOTLB_FROM_ADDRESS, Reg64, UnitRegisters};

pub use super::shape::{Depths, DomainId, TreeShape};

const fn field(raw: u64, low: u32, width: u32) -> u64 {
    raw >> low & ((1 << width) - 1)
}

const fn bit(raw: u64, at: u32) -> bool {
    field(raw, at, 1) == 1
}

/// The capability register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capability(pub u64);

impl Capability {
    /// How many domain ids there are (ND), or `None` for the reserved encoding.
    #[must_use]
    pub const fn domains(self) -> Option<u32> {
        match field(self.0, 0, 3) {
            7 => None,
            nd => Some(1 << (4 + 2 * nd)),
        }
    }

    /// Whether the write buffer must be flushed after tables changed (RWBF).
    #[must_use]
    pub const fn needs_write_buffer_flush(self) -> bool {
        bit(self.0, 4)
    }

    /// Whether there is a protected low-memory region (PLMR).
    #[must_use]
    pub const fn protects_low_memory(self) -> bool {
        bit(self.0, 5)
    }

    /// Whether there is a protected high-memory region (PHMR).
    #[must_use]
    pub const fn protects_high_memory(self) -> bool {
        bit(self.0, 6)
    }

    /// Whether absent entries may be cached too (CM), as emulated units have it.
    #[must_use]
    pub const fn caching_mode(self) -> bool {
        bit(self.0, 7)
    }

    /// The depths of tables (SAGAW).
    #[must_use]
    pub const fn depths(self) -> Depths {
        Depths::from_bits_truncate(field(self.0, 8, 5) as u8)
    }

    /// The widest guest address in bits (MGAW).
    #[must_use]
    pub const fn address_bits(self) -> u8 {
        field(self.0, 16, 6) as u8 + 1
    }

    /// The largest page of a second-level table (SLLPS).
    #[must_use]
    pub const fn largest_page(self) -> PageSize {
        match field(self.0, 34, 2) {
            3 => PageSize::Size1G,
            1 => PageSize::Size2M,
            // 1 GiB without 2 MiB pages is nothing the table code could cut down.
            _ => PageSize::Size4K,
        }
    }

    /// Where the fault recording registers are, and how many (FRO, NFR).
    #[must_use]
    pub const fn fault_records(self) -> FaultRecords {
        FaultRecords {
            first: field(self.0, 24, 10) as u32 * 16,
            count: field(self.0, 40, 8) as u32 + 1,
        }
    }

    /// The largest address mask of page-selective invalidation (PSI, MAMV), or `None` where there is none.
    #[must_use]
    pub const fn page_selective(self) -> Option<u8> {
        if bit(self.0, 39) {
            Some(field(self.0, 48, 6) as u8)
        } else {
            None
        }
    }

    /// Whether interrupts can be posted (PI).
    #[must_use]
    pub const fn posts_interrupts(self) -> bool {
        bit(self.0, 59)
    }
}

/// The extended capability register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedCapability(pub u64);

impl ExtendedCapability {
    /// Whether the unit's table walks see the processors' caches (C).
    #[must_use]
    pub const fn coherent(self) -> bool {
        bit(self.0, 0)
    }

    /// Whether invalidations can be queued (QI).
    #[must_use]
    pub const fn queued_invalidation(self) -> bool {
        bit(self.0, 1)
    }

    /// Whether interrupts can be remapped (IR).
    #[must_use]
    pub const fn interrupt_remapping(self) -> bool {
        bit(self.0, 3)
    }

    /// Whether interrupts can go to 32-bit x2APIC ids (EIM).
    #[must_use]
    pub const fn extended_interrupts(self) -> bool {
        bit(self.0, 4)
    }

    /// Whether a device can be passed through untranslated (PT). Bulkhead never does that.
    #[must_use]
    pub const fn pass_through(self) -> bool {
        bit(self.0, 6)
    }

    /// Whether a page can make its accesses snoop (SC).
    #[must_use]
    pub const fn snoop_control(self) -> bool {
        bit(self.0, 7)
    }

    /// The invalidate address register; the IOTLB invalidate register follows it (IRO).
    #[must_use]
    pub const fn invalidate_address(self) -> Reg64 {
        Reg64(field(self.0, 8, 10) as u32 * 16)
    }
}

/// The fault recording registers of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultRecords {
    /// The offset of the first.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// How cached translations are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidationWay {
    /// By descriptors in a queue in memory.
    Queued,
    /// By registers, one at a time; the field is the invalidate address register.
    Registers(Reg64),
}

/// How long the destination of a remapped interrupt is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterruptMode {
    /// An 8-bit APIC id.
    Xapic,
    /// A 32-bit x2APIC id.
    X2apic,
}

/// What Bulkhead uses of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// What the unit's second-level tables look like.
    pub tree: TreeShape,
    /// Whether the write buffer is flushed before each invalidation.
    pub write_buffer_flush: bool,
    /// How translations are invalidated.
    pub invalidation: InvalidationWay,
    /// How interrupts are remapped, if they can be.
    pub interrupts: Option<InterruptMode>,
    /// Whether interrupts may be posted.
    pub posted: bool,
    /// The fault recording registers.
    pub fault_records: FaultRecords,
    /// Whether there are protected memory regions, which firmware may have left on.
    pub protected_memory: bool,
}

/// Why Bulkhead cannot use a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapabilityError {
    /// The registers read as all ones or as nothing: no unit is at the address.
    NotThere,
    /// The tables it walks have neither three nor four levels.
    NoKnownDepth(Depths),
    /// Its guest addresses are narrower than 32 bits.
    NarrowAddresses(u8),
    /// The number of domains is a reserved encoding.
    DomainCount,
    /// A VM's domain would have an id that the unit lacks.
    TooFewDomains {
        /// The VM.
        vm: VmId,
        /// How many ids there are.
        domains: u32,
    },
    /// It cannot remap interrupts, so a device could raise any interrupt.
    NoInterruptRemapping,
    /// The processors' APICs are in x2APIC mode, and it cannot address those.
    NoExtendedInterrupts,
}

impl fmt::Display for CapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VT-d unit: ")?;
        match self {
            Self::NotThere => write!(f, "no registers at its address; the DMAR table is wrong"),
            Self::NoKnownDepth(depths) => write!(
                f,
                "it walks tables of {depths:?} levels, Bulkhead has THREE and FOUR"
            ),
            Self::NarrowAddresses(bits) => {
                write!(f, "guest addresses have {bits} bits, 32 are needed")
            }
            Self::DomainCount => write!(f, "its number of domains is a reserved value"),
            Self::TooFewDomains { vm, domains } => write!(
                f,
                "{domains} domain ids are too few for {vm}; give devices to earlier VMs"
            ),
            Self::NoInterruptRemapping => write!(
                f,
                "no interrupt remapping: a device could raise any interrupt; pass none through"
            ),
            Self::NoExtendedInterrupts => write!(
                f,
                "no extended interrupt mode, but the APICs are in x2APIC mode"
            ),
        }
    }
}

impl core::error::Error for CapabilityError {}

impl Chosen {
    /// Reads a unit's capabilities and chooses.
    ///
    /// # Errors
    /// As [`Chosen::choose`], and [`CapabilityError::NotThere`].
    pub fn read(registers: &mut impl UnitRegisters, x2apic: bool) -> Result<Self, CapabilityError> {
        let version = registers.read32(registers::VERSION);
        if version == 0 || version == u32::MAX {
            return Err(CapabilityError::NotThere);
        }
        let capability = Capability(registers.read64(registers::CAPABILITY));
        let extended = ExtendedCapability(registers.read64(registers::EXTENDED_CAPABILITY));
        Self::choose(capability, extended, x2apic)
    }

    /// What is used of a unit on a machine whose APICs are in x2APIC mode or not.
    ///
    /// # Errors
    /// What Bulkhead cannot do without. Lacking interrupt remapping is no error here: see
    /// [`Chosen::remapped_interrupts`].
    pub fn choose(
        capability: Capability,
        extended: ExtendedCapability,
        x2apic: bool,
    ) -> Result<Self, CapabilityError> {
        let depths = capability.depths();
        if !depths.intersects(Depths::THREE | Depths::FOUR) {
            return Err(CapabilityError::NoKnownDepth(depths));
        }
        let address_bits = capability.address_bits();
        if address_bits < 32 {
            return Err(CapabilityError::NarrowAddresses(address_bits));
        }
        let domains = capability.domains().ok_or(CapabilityError::DomainCount)?;
        // Remapping interrupts takes the queue: its cache has no register to be invalidated by.
        let remaps = extended.interrupt_remapping() && extended.queued_invalidation();
        let interrupts = match (remaps, extended.extended_interrupts()) {
            (false, _) => None,
            (true, true) => Some(InterruptMode::X2apic),
            (true, false) if x2apic => return Err(CapabilityError::NoExtendedInterrupts),
            (true, false) => Some(InterruptMode::Xapic),
        };
        Ok(Self {
            tree: TreeShape {
                depths,
                address_bits,
                largest_page: capability.largest_page(),
                snoop: extended.snoop_control(),
                coherent: extended.coherent(),
                flush_after_map: capability.caching_mode() || capability.needs_write_buffer_flush(),
                page_selective: capability.page_selective(),
                domains,
            },
            write_buffer_flush: capability.needs_write_buffer_flush(),
            invalidation: if extended.queued_invalidation() {
                InvalidationWay::Queued
            } else {
                InvalidationWay::Registers(extended.invalidate_address())
            },
            interrupts,
            posted: interrupts.is_some() && capability.posts_interrupts(),
            fault_records: capability.fault_records(),
            protected_memory: capability.protects_low_memory() || capability.protects_high_memory(),
        })
    }

    /// How interrupts are remapped: what a passed-through device takes.
    ///
    /// # Errors
    /// [`CapabilityError::NoInterruptRemapping`].
    pub fn remapped_interrupts(&self) -> Result<InterruptMode, CapabilityError> {
        self.interrupts.ok_or(CapabilityError::NoInterruptRemapping)
    }

    /// How many bytes of registers are used: the shell maps at least these.
    #[must_use]
    pub fn register_bytes(&self) -> u32 {
        let records = self.fault_records.first + self.fault_records.count * FAULT_RECORD_BYTES;
        let iotlb = match self.invalidation {
            InvalidationWay::Queued => 0,
            InvalidationWay::Registers(address) => address.0 + IOTLB_FROM_ADDRESS + 8,
        };
        records.max(iotlb).max(registers::INTERRUPT_TABLE.0 + 8)
    }
}
