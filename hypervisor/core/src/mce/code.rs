//! The architectural error codes ("Interpreting the MCA Error Codes").

use core::fmt;

/// What kind of error, by bits 15:0 of IA32_MCi_STATUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    /// No error code.
    NoError,
    /// Not classified.
    Unclassified,
    /// Parity error in microcode.
    MicrocodeParity,
    /// The signal of another processor.
    External,
    /// Redundancy check of master and slave.
    FunctionalRedundancy,
    /// Parity error inside.
    InternalParity,
    /// System management code fetched from outside its memory.
    SmmCodeAccess,
    /// The processor's own timer ran out.
    InternalTimer,
    /// Inside the processor, not classified.
    InternalUnclassified,
    /// A cache, of whatever level.
    GenericCache,
    /// A TLB.
    Tlb,
    /// The memory controller.
    MemoryController,
    /// A cache, with what was asked of it.
    Cache,
    /// Memory that serves as a cache.
    ExtendedMemory,
    /// Bus or interconnect.
    Bus,
    /// A code that the manual does not define.
    Unknown(u16),
}

impl ErrorCode {
    /// Bit 12 only says that corrections are counted differently.
    const FILTERED: u16 = 1 << 12;

    /// The class of a code.
    #[must_use]
    pub const fn of(raw: u16) -> Self {
        match raw & !Self::FILTERED {
            0 => Self::NoError,
            1 => Self::Unclassified,
            2 => Self::MicrocodeParity,
            3 => Self::External,
            4 => Self::FunctionalRedundancy,
            5 => Self::InternalParity,
            6 => Self::SmmCodeAccess,
            0x000c..=0x000f => Self::GenericCache,
            0x0010..=0x001f => Self::Tlb,
            0x0080..=0x00ff => Self::MemoryController,
            0x0100..=0x01ff => Self::Cache,
            0x0280..=0x02ff => Self::ExtendedMemory,
            0x0400 => Self::InternalTimer,
            0x0401..=0x07ff => Self::InternalUnclassified,
            0x0800..=0x0fff => Self::Bus,
            _ => Self::Unknown(raw),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoError => "no code",
            Self::Unclassified => "unclassified",
            Self::MicrocodeParity => "microcode parity",
            Self::External => "external",
            Self::FunctionalRedundancy => "functional redundancy check",
            Self::InternalParity => "internal parity",
            Self::SmmCodeAccess => "system management code access",
            Self::InternalTimer => "internal timer",
            Self::InternalUnclassified => "internal, unclassified",
            Self::GenericCache => "cache of unknown kind",
            Self::Tlb => "TLB",
            Self::MemoryController => "memory controller",
            Self::Cache => "cache",
            Self::ExtendedMemory => "memory used as cache",
            Self::Bus => "bus or interconnect",
            Self::Unknown(raw) => return write!(f, "unknown code {raw:#06x}"),
        })
    }
}
