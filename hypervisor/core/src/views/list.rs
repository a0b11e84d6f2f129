//! The page that VMFUNC switches views by: 512 EPT pointers, of a vCPU, or of several that may switch to the same views.
//!
//! What the page says is all there is to know: which view is at which index is read back from it. An entry without a view is
//! zero, which is no valid EPT pointer, so that a guest that asks for it exits (Intel SDM vol. 3C, "EPTP Switching").

use crate::addr::{FRAME_SIZE, Frame, Hpa};
use crate::ept::Eptp;
use crate::table::{ENTRIES, TableMemory};

/// The number of an EPTP list of a VM, from 0: one is made for each vCPU that is to have VMFUNC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ListId(pub(super) usize);

/// An index into an EPTP list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Slot(u16);

impl Slot {
    /// How many there are.
    pub const COUNT: u16 = 512;

    /// The slot of this index, as a guest has it in ECX; `None` beyond the list.
    #[must_use]
    pub const fn new(index: u32) -> Option<Self> {
        if index < Self::COUNT as u32 {
            Some(Self(index as u16))
        } else {
            None
        }
    }

    /// Its index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }
}

const _: () = assert!(Slot::COUNT as usize == ENTRIES && ENTRIES * 8 == FRAME_SIZE as usize);

/// One list.
#[derive(Debug)]
pub(super) struct EptpList {
    page: Frame,
}

impl EptpList {
    const NOTHING: u64 = 0;

    /// A list without views; `None` where there is no frame for it.
    pub(super) fn new(memory: &mut dyn TableMemory) -> Option<Self> {
        let page = memory.alloc()?;
        Some(Self { page })
    }

    /// What the VMCS field "EPTP-list address" holds.
    pub(super) const fn address(&self) -> Hpa {
        self.page.start()
    }

    /// The root of the view in `slot`.
    pub(super) fn root(&self, memory: &dyn TableMemory, slot: Slot) -> Option<Frame> {
        let raw = memory.read(self.page, slot.index());
        (raw != Self::NOTHING).then(|| Eptp::root_of(raw))
    }

    pub(super) fn set(&self, memory: &mut dyn TableMemory, slot: Slot, view: Option<Eptp>) {
        memory.write(
            self.page,
            slot.index(),
            view.map_or(Self::NOTHING, Eptp::raw),
        );
    }

    pub(super) fn free(self, memory: &mut dyn TableMemory) {
        memory.free(self.page);
    }
}
