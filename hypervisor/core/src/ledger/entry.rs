//! One ledger entry: 16 bytes that say everything about a frame.

use core::fmt;

use bitflags::bitflags;

/// A VM's number: its place in the plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VmId(pub u16);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {}", self.0)
    }
}

/// The key a sealed frame is encrypted under; 0 is no key. No number is used twice within a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct KeyId(pub u32);

bitflags! {
    /// What a holder may do with a frame through a mapping.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Rights: u8 {
        /// Read it.
        const READ = 1 << 0;
        /// Write it.
        const WRITE = 1 << 1;
        /// Fetch instructions from it, in any mode.
        const EXECUTE = 1 << 2;
    }
}

/// Who owns a frame. Exactly one of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Owner {
    /// Nobody: it can be allocated, or it is no memory at all.
    Nobody,
    /// The hypervisor. No VM can map it.
    Hypervisor,
    /// The firmware: reserved, runtime services, ACPI.
    Firmware,
    /// A device's registers.
    Mmio,
    /// A kernel or initrd as loaded; read, measured, copied, then freed.
    Payload,
    /// A VM.
    Vm(VmId),
}

/// What state a frame is in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum State {
    /// No memory that anyone described.
    Absent = 0,
    /// Zeroed, nobody's.
    Free = 1,
    /// Holds somebody's old bytes; scrub before use.
    Dirty = 2,
    /// Readable to its owner.
    Clear = 3,
    /// Encrypted and authenticated; nobody can map it.
    Sealed = 4,
    /// Readable to its owner and to one borrower.
    Shared = 5,
    /// Not memory: a device.
    Device = 6,
}

impl State {
    /// How many states there are.
    pub const COUNT: usize = 7;
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Absent,
        Self::Free,
        Self::Dirty,
        Self::Clear,
        Self::Sealed,
        Self::Shared,
        Self::Device,
    ];

    /// Its name in counters and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Free => "free",
            Self::Dirty => "dirty",
            Self::Clear => "clear",
            Self::Sealed => "sealed",
            Self::Shared => "shared",
            Self::Device => "device",
        }
    }
}

/// What the ledger says about one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameInfo {
    /// Its owner.
    pub owner: Owner,
    /// Its state.
    pub state: State,
    /// What its owner may do with it.
    pub rights: Rights,
    /// The VM it is shared with, and what that VM may do.
    pub borrower: Option<(VmId, Rights)>,
    /// Whether the hypervisor's operator may read it while it is clear.
    pub open: bool,
    /// The key it is sealed under.
    pub key: KeyId,
    /// Counts how often it was sealed for its owner: tells one sealing from the one before.
    pub version: u32,
    /// Mappings that may still be cached, the borrower's included.
    pub maps: u32,
}

/// The ledger's entry of one frame. All bytes zero is [`Entry::ABSENT`], so zeroed memory is a valid
/// slice of entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Entry {
    version: u32,
    /// What its state needs: the borrower of a shared frame, the key of a sealed one. No frame is both.
    detail: u32,
    owner: OwnerTag,
    maps: u16,
    borrower_maps: u16,
    state: State,
    /// The owner's rights in the low half, with [`Entry::OPEN`]; the borrower's in the high half.
    rights: u8,
}

const _: () = assert!(size_of::<Entry>() == 16 && align_of::<Entry>() <= 16);
const _: () = assert!(Rights::all().bits() < Entry::OPEN);

/// An owner in 16 bits: the five owners that are no VM, then the VMs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct OwnerTag(u16);

impl OwnerTag {
    const NOBODY: Self = Self(0);
    const FIRST_VM: u16 = 5;

    const fn of(owner: Owner) -> Self {
        Self(match owner {
            Owner::Nobody => 0,
            Owner::Hypervisor => 1,
            Owner::Firmware => 2,
            Owner::Mmio => 3,
            Owner::Payload => 4,
            Owner::Vm(VmId(id)) => id.saturating_add(Self::FIRST_VM),
        })
    }

    const fn owner(self) -> Owner {
        match self.0 {
            0 => Owner::Nobody,
            1 => Owner::Hypervisor,
            2 => Owner::Firmware,
            3 => Owner::Mmio,
            4 => Owner::Payload,
            id => Owner::Vm(VmId(id - Self::FIRST_VM)),
        }
    }
}

/// Owner and state of a frame, quick to compare: what books and runs go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    owner: OwnerTag,
    state: State,
}

impl Kind {
    pub(super) const fn get(self) -> (Owner, State) {
        (self.owner.owner(), self.state)
    }
}

impl VmId {
    /// The highest number that an entry can hold.
    pub const MAX: Self = Self(u16::MAX - OwnerTag::FIRST_VM);
}

impl Entry {
    /// In `rights`: the operator may read the frame while it is clear.
    const OPEN: u8 = 1 << 3;

    /// A frame nobody described.
    pub const ABSENT: Self = Self {
        version: 0,
        detail: 0,
        owner: OwnerTag::NOBODY,
        maps: 0,
        borrower_maps: 0,
        state: State::Absent,
        rights: 0,
    };

    /// Everything the entry says.
    #[must_use]
    pub const fn info(&self) -> FrameInfo {
        let borrower = match self.state {
            State::Shared => Some((
                VmId(self.detail as u16),
                Rights::from_bits_truncate(self.rights >> 4),
            )),
            _ => None,
        };
        let key = match self.state {
            State::Sealed => KeyId(self.detail),
            _ => KeyId(0),
        };
        FrameInfo {
            owner: self.owner(),
            state: self.state,
            rights: self.rights(),
            borrower,
            open: self.is_open(),
            key,
            version: self.version,
            maps: self.maps as u32 + self.borrower_maps as u32,
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        Kind {
            owner: self.owner,
            state: self.state,
        }
    }

    pub(super) const fn owner(&self) -> Owner {
        self.owner.owner()
    }

    pub(super) const fn state(&self) -> State {
        self.state
    }

    pub(super) const fn rights(&self) -> Rights {
        Rights::from_bits_truncate(self.rights & 0xf)
    }

    pub(super) const fn is_open(&self) -> bool {
        self.rights & Self::OPEN != 0
    }

    /// Lets the operator read the frame while it is clear.
    pub(super) const fn open(&mut self) {
        self.rights |= Self::OPEN;
    }

    #[cfg(test)]
    pub(super) const fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    /// Whether it can be sealed once more under a key it was sealed under before.
    pub(super) const fn has_version_left(&self) -> bool {
        self.version < u32::MAX
    }

    pub(super) const fn is_mapped(&self) -> bool {
        self.maps != 0 || self.borrower_maps != 0
    }

    pub(super) const fn borrower_maps(&self) -> u16 {
        self.borrower_maps
    }

    pub(super) const fn is_available(&self) -> bool {
        self.owner.0 == OwnerTag::NOBODY.0 && matches!(self.state, State::Free | State::Dirty)
    }

    pub(super) const fn is_dirty(&self) -> bool {
        matches!(self.state, State::Dirty)
    }

    /// The entry of a frame as the firmware's map describes it.
    pub(super) const fn described(owner: Owner, state: State, rights: Rights) -> Self {
        Self {
            owner: OwnerTag::of(owner),
            state,
            rights: rights.bits(),
            ..Self::ABSENT
        }
    }

    pub(super) const fn scrubbed(&mut self) {
        self.state = match self.owner() {
            Owner::Nobody => State::Free,
            _ => State::Clear,
        };
    }

    /// Gives an available frame to `owner`; a dirty one stays dirty until scrubbed.
    pub(super) const fn take(&mut self, owner: Owner) {
        self.set_owner(owner, Rights::all());
        if matches!(self.state, State::Free) {
            self.state = State::Clear;
        }
    }

    /// Gives an available frame, with its bytes as they are, to `owner`.
    pub(super) const fn claim(&mut self, owner: Owner) {
        let rights = match owner {
            Owner::Payload => Rights::READ,
            _ => Rights::all(),
        };
        self.set_owner(owner, rights);
        self.state = State::Clear;
    }

    pub(super) const fn free(&mut self) {
        self.set_owner(Owner::Nobody, Rights::empty());
        self.state = State::Dirty;
        self.detail = 0;
    }

    const fn set_owner(&mut self, owner: Owner, rights: Rights) {
        self.owner = OwnerTag::of(owner);
        self.rights = rights.bits();
        // The count is as long as the owner has the frame, or the sealings of one VM could use it up for another. So that
        // (key, page, version) is never repeated: a VM takes all its frames before it has the key of a life, and gives them back
        // after that key was wiped; while it has it, a page has one frame, whose version only rises.
        self.version = 0;
    }

    /// What the frame holds is lost.
    pub(super) const fn forget(&mut self) {
        if matches!(self.state, State::Clear) {
            self.state = State::Dirty;
        }
    }

    pub(super) const fn seal(&mut self, key: KeyId) {
        self.detail = key.0;
        self.version = self.version.wrapping_add(1);
        self.state = State::Sealed;
    }

    pub(super) const fn unseal(&mut self) {
        self.detail = 0;
        self.state = State::Clear;
    }

    /// What the frame holds is no longer wanted.
    pub(super) const fn discard(&mut self) {
        self.detail = 0;
        self.state = State::Dirty;
    }

    pub(super) const fn share(&mut self, to: VmId, rights: Rights) {
        self.detail = to.0 as u32;
        self.rights = (self.rights & 0xf) | (rights.bits() << 4);
        self.state = State::Shared;
    }

    pub(super) const fn unshare(&mut self) {
        self.detail = 0;
        self.rights &= 0xf;
        self.state = State::Clear;
    }

    /// Counts one more mapping, the borrower's or not; says whether there was room in the count.
    pub(super) fn add_map(&mut self, borrowed: bool) -> bool {
        let count = if borrowed {
            &mut self.borrower_maps
        } else {
            &mut self.maps
        };
        match count.checked_add(1) {
            Some(more) => {
                *count = more;
                true
            }
            None => false,
        }
    }

    pub(super) fn remove_map(&mut self, borrowed: bool) {
        let count = if borrowed {
            &mut self.borrower_maps
        } else {
            &mut self.maps
        };
        debug_assert!(*count > 0, "a map right was surrendered twice");
        *count = count.saturating_sub(1);
    }
}
