//! Why a unit refused a request: the published reason codes.
//!
//! Those from 0x30 on are of the scalable mode, which Bulkhead does not use: seen, they are news about the unit.
//! See Intel VT-d, "Fault Reason Encodings".

use core::fmt;

macro_rules! reasons {
    ($($raw:literal $name:ident $text:literal)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum FaultReason {
            $(#[doc = concat!($text, ".")] $name,)*
            /// Nothing that is published.
            Unknown(u8),
        }

        impl FaultReason {
            /// The reason with this code.
            #[must_use]
            pub const fn from_raw(raw: u8) -> Self {
                match raw {
                    $($raw => Self::$name,)*
                    _ => Self::Unknown(raw),
                }
            }

            /// Its code.
            #[must_use]
            pub const fn raw(self) -> u8 {
                match self {
                    $(Self::$name => $raw,)*
                    Self::Unknown(raw) => raw,
                }
            }
        }

        impl fmt::Display for FaultReason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::Unknown(raw) => write!(f, "unknown reason {raw:#x}"),
                }
            }
        }
    };
}

reasons! {
    0x01 RootAbsent "its bus has no root entry"
    0x02 ContextAbsent "it is in no domain"
    0x03 ContextInvalid "its context entry is programmed wrongly"
    0x04 AddressBeyondWidth "the address exceeds the domain's width"
    0x05 NotWritable "the page is not mapped for writing"
    0x06 NotReadable "the page is not mapped for reading"
    0x07 PageTableAccess "a second-level table cannot be read"
    0x08 RootAccess "the root table cannot be read"
    0x09 ContextAccess "a context table cannot be read"
    0x0a RootReserved "a root entry has reserved bits set"
    0x0b ContextReserved "a context entry has reserved bits set"
    0x0c PageTableReserved "a second-level entry has reserved bits set"
    0x0d TranslationBlocked "its context entry allows no translation requests"
    0x0e InterruptRange "the translated address is in the interrupt range"
    0x20 InterruptReserved "the interrupt request has reserved bits set"
    0x21 InterruptIndex "the index is beyond the interrupt-remapping table"
    0x22 InterruptAbsent "there is no interrupt-remapping entry at the index"
    0x23 InterruptTableAccess "the interrupt-remapping table cannot be read"
    0x24 InterruptEntryReserved "the interrupt-remapping entry has reserved bits set"
    0x25 CompatibilityBlocked "interrupts in the compatibility format are blocked"
    0x26 SourceMismatch "the interrupt is another device's"
    0x27 PostedAccess "the posted-interrupt descriptor cannot be reached"
    0x28 PostedReserved "the posted-interrupt descriptor has reserved bits set"
    0x30 ScalableRootPointer "scalable mode: invalid root table address"
    0x31 ScalableRootMode "scalable mode: request with PASID under a legacy root table"
    0x32 ScalablePageGroup "scalable mode: page group request under a legacy root table"
    0x38 ScalableRootAccess "scalable mode: root entry cannot be read"
    0x39 ScalableRootAbsent "scalable mode: root entry absent"
    0x3a ScalableRootReserved "scalable mode: root entry has reserved bits set"
    0x40 ScalableContextAccess "scalable mode: context entry cannot be read"
    0x41 ScalableContextAbsent "scalable mode: context entry absent"
    0x42 ScalableContextReserved "scalable mode: context entry has reserved bits set"
    0x43 ScalableContextInvalid "scalable mode: invalid context entry"
    0x44 ScalableTranslationRequest "scalable mode: translation requests are not enabled"
    0x45 ScalablePasidDisabled "scalable mode: PASIDs are not enabled"
    0x46 ScalablePasidTooLarge "scalable mode: PASID beyond the directory"
    0x47 ScalablePageRequest "scalable mode: page requests are not enabled"
    0x48 ScalableDefaultPasid "scalable mode: invalid default PASID"
    0x50 DirectoryAccess "scalable mode: PASID directory entry cannot be read"
    0x51 DirectoryAbsent "scalable mode: PASID directory entry absent"
    0x52 DirectoryReserved "scalable mode: PASID directory entry has reserved bits set"
    0x58 PasidAccess "scalable mode: PASID entry cannot be read"
    0x59 PasidAbsent "scalable mode: PASID entry absent"
    0x5a PasidReserved "scalable mode: PASID entry has reserved bits set"
    0x5b PasidInvalid "scalable mode: invalid PASID entry"
    0x5c PasidExecute "scalable mode: execute requests are not enabled"
    0x5d PasidSupervisor "scalable mode: supervisor requests are not enabled"
    0x70 FirstLevelAccess "scalable mode: first-level entry cannot be read"
    0x71 FirstLevelAbsent "scalable mode: first-level entry absent"
    0x72 FirstLevelReserved "scalable mode: first-level entry has reserved bits set"
    0x73 FirstLevelPointer "scalable mode: first-level table cannot be read"
    0x78 SecondLevelAccess "scalable mode: second-level entry cannot be read"
    0x79 SecondLevelPermission "scalable mode: second-level entry lacks the permission"
    0x7a SecondLevelReserved "scalable mode: second-level entry has reserved bits set"
    0x7b SecondLevelPointer "scalable mode: second-level table cannot be read"
    0x7c SecondLevelUpdate "scalable mode: second-level entry cannot be marked accessed"
    0x80 NotCanonical "scalable mode: address not canonical"
    0x81 NotUser "scalable mode: page not for user accesses"
    0x82 NotExecutable "scalable mode: page not executable"
    0x83 BeyondHardware "scalable mode: address beyond the hardware's width"
    0x84 BeyondSecondLevel "scalable mode: address beyond the second level's width"
    0x85 ScalableNotWritable "scalable mode: page not writable"
    0x86 ScalableNotReadable "scalable mode: page not readable"
    0x87 ScalableInterruptRange "scalable mode: address in the interrupt range"
    0x90 FirstLevelUpdate "scalable mode: first-level entry cannot be marked accessed"
    0x91 FirstLevelUpdateFailed "scalable mode: marking a first-level entry failed"
}

impl FaultReason {
    /// Whether an interrupt was refused; otherwise it was a memory access.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        matches!(self.raw(), 0x20..=0x2f)
    }
}
