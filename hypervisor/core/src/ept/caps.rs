//! What this processor's EPT and VPID can do.
//!
//! Intel SDM vol. 3D, appendix "VMX Capability Reporting Facility", "VPID and EPT Capabilities"
//! (IA32_VMX_EPT_VPID_CAP).

use core::fmt;

use bitflags::bitflags;

use crate::flags;
use crate::secmem::tmemk::KeyField;
use crate::table::PageSize;

use super::EptPerms;

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EptFeatures: u64 {
        /// Pages that can be executed but not read.
        const EXECUTE_ONLY = 1 << 0;
        /// Four-level tables.
        const WALK_4 = 1 << 6;
        /// Five-level tables.
        const WALK_5 = 1 << 7;
        /// Tables in uncacheable memory.
        const TABLES_UNCACHEABLE = 1 << 8;
        /// Tables in write-back memory.
        const TABLES_WRITE_BACK = 1 << 14;
        /// 2 MiB pages.
        const PAGE_2M = 1 << 16;
        /// 1 GiB pages.
        const PAGE_1G = 1 << 17;
        /// The INVEPT instruction.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags.
        const ACCESSED_DIRTY = 1 << 21;
        /// Violations tell more about the guest's own paging.
        const VIOLATION_INFO = 1 << 22;
        /// Supervisor shadow-stack control.
        const SHADOW_STACK = 1 << 23;
        /// INVEPT of one EPT root.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT of everything.
        const INVEPT_ALL = 1 << 26;
        /// The INVVPID instruction.
        const INVVPID = 1 << 32;
        /// INVVPID of one address.
        const INVVPID_ADDRESS = 1 << 40;
        /// INVVPID of one VPID.
        const INVVPID_SINGLE = 1 << 41;
        /// INVVPID of all VPIDs.
        const INVVPID_ALL = 1 << 42;
        /// INVVPID of one VPID except global pages.
        const INVVPID_SINGLE_KEEP_GLOBALS = 1 << 43;
    }
}

impl EptFeatures {
    /// What Bulkhead cannot do without.
    const REQUIRED: Self = Self::WALK_4
        .union(Self::TABLES_WRITE_BACK)
        .union(Self::INVEPT)
        .union(Self::INVEPT_ALL)
        .union(Self::INVVPID)
        .union(Self::INVVPID_ALL);
}

/// The negotiated capabilities: everything required is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptCaps {
    features: EptFeatures,
    keys: KeyField,
    mode_based_execute: bool,
}

/// A required capability is missing; the field says which ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptCapError {
    /// What is missing.
    pub missing: EptFeatures,
}

impl fmt::Display for EptCapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this processor's EPT/VPID lacks ")?;
        flags::write(&self.missing, f)?;
        write!(f, " (IA32_VMX_EPT_VPID_CAP); Bulkhead cannot run VMs on it")
    }
}

impl core::error::Error for EptCapError {}

impl EptCaps {
    /// Decodes the register's value.
    ///
    /// # Errors
    /// [`EptCapError`] naming what is missing.
    pub const fn negotiate(raw: u64) -> Result<Self, EptCapError> {
        let features = EptFeatures::from_bits_truncate(raw);
        let missing = EptFeatures::REQUIRED.difference(features);
        if missing.is_empty() {
            Ok(Self {
                features,
                keys: KeyField::NONE,
                mode_based_execute: false,
            })
        } else {
            Err(EptCapError { missing })
        }
    }

    /// The same where addresses have `keys` on top.
    #[must_use]
    pub const fn with_keys(self, keys: KeyField) -> Self {
        Self { keys, ..self }
    }

    /// The same where VMs run with mode-based execute control, so that [`EptPerms::USER_EXECUTE`] counts (Intel SDM vol. 3C,
    /// "Mode-Based Execute Control for EPT"; a VM-execution control, not a bit of this register).
    #[must_use]
    pub const fn with_mode_based_execute(self) -> Self {
        Self {
            mode_based_execute: true,
            ..self
        }
    }

    /// The same where VMs run without accessed and dirty flags. With them the processor takes each read of a guest's page tables for a write (Intel SDM
    /// vol. 3C, "Accessed and Dirty Flags for EPT"), so that a table could not be kept from being written and still be used.
    #[must_use]
    pub const fn without_accessed_dirty(self) -> Self {
        Self {
            features: self.features.difference(EptFeatures::ACCESSED_DIRTY),
            ..self
        }
    }

    /// Whether [`EptPerms::USER_EXECUTE`] counts; else [`EptPerms::EXECUTE`] is for user mode too.
    #[must_use]
    pub const fn has_mode_based_execute(self) -> bool {
        self.mode_based_execute
    }

    /// All that is there.
    #[must_use]
    pub const fn features(self) -> EptFeatures {
        self.features
    }

    /// Which bits of an entry's address are a hardware key's.
    #[must_use]
    pub const fn keys(self) -> KeyField {
        self.keys
    }

    /// The largest page.
    #[must_use]
    pub const fn largest_page(self) -> PageSize {
        if self
            .features
            .contains(EptFeatures::PAGE_1G.union(EptFeatures::PAGE_2M))
        {
            PageSize::Size1G
        } else if self.features.contains(EptFeatures::PAGE_2M) {
            PageSize::Size2M
        } else {
            PageSize::Size4K
        }
    }

    /// Whether entries have accessed and dirty flags.
    #[must_use]
    pub const fn has_accessed_dirty(self) -> bool {
        self.features.contains(EptFeatures::ACCESSED_DIRTY)
    }

    /// Whether an entry can have these permissions without being misconfigured (Intel SDM vol. 3C,
    /// "EPT Misconfigurations").
    #[must_use]
    pub const fn allows(self, perms: EptPerms) -> bool {
        let perms = match self.mode_based_execute {
            true => perms,
            false => perms.difference(EptPerms::USER_EXECUTE),
        };
        if perms.contains(EptPerms::READ) {
            return true;
        }
        let execute_only = self.features.contains(EptFeatures::EXECUTE_ONLY);
        !perms.is_empty() && !perms.contains(EptPerms::WRITE) && execute_only
    }
}
