//! An I/O domain: what a VM's devices can reach.
//!
//! [`IoDomain`] is the second-level tree of one VM. Like a view ([`crate::ept`]) it maps only what a [`MapRight`] of its
//! VM covers; what is unmapped comes back as [`Unmapped`], which opens only with an [`IoFlushed`], and that is had only
//! when every unit with devices of the domain has completed an invalidation begun after the unmapping:
//!
//! ```text
//!   unmap_run --> Unmapped ------------------------------------+--> right, for the ledger
//!   ticket    --> Ticket<Flush> --each unit--> settle --> IoFlushed
//! ```
//!
//! Table memory of a domain whose shape is not coherent is written back by the shell's [`TableMemory`].
//! Neighbours: [`super::context`] points units here, [`super::unit`] works tickets off.

use core::fmt;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa};
use crate::ledger::{FrameRun, Holder, Holding, MapRight, Rights, VmId};
use crate::secmem::tmemk::KeyTag;
use crate::table::{Flushed, Invalidate, Leaf, Stale, Table, TableError, TableMemory};

use super::capability::{CapabilityError, Depths, DomainId, TreeShape};
use super::context::{ContextEntry, Depth, Detached};
use super::invalidate::{Ticket, UnitId, UnitSet};
use super::pending::Pending;
use super::second_level::{DmaAttr, DmaPerms, SecondLevel};

/// Where a write is an interrupt and never reaches memory: 0xfee0_0000 to 0xfeef_ffff, in page numbers.
const INTERRUPT_PAGES: core::ops::Range<u64> = 0xfee00..0xfef00;

/// The tree, in the depth that the units walk.
#[derive(Debug)]
enum Tree {
    Three(Table<SecondLevel<3>>),
    Four(Table<SecondLevel<4>>),
}

/// The same expression for either depth.
macro_rules! either {
    ($tree:expr, $table:ident => $body:expr) => {
        match $tree {
            Tree::Three($table) => $body,
            Tree::Four($table) => $body,
        }
    };
}

/// One VM's domain.
#[derive(Debug)]
pub struct IoDomain {
    id: DomainId,
    tree: Tree,
    vm: VmId,
    holding: Holding,
    shape: TreeShape,
    pending: Pending,
    /// Units that may have cached something of this domain.
    units: UnitSet,
    devices: u32,
    /// Counts the changes that a flush must come after.
    changes: u64,
    /// How many changes the last ticket covers, while that has not come back.
    unsettled: Option<u64>,
}

/// Where a run was mapped and the right to it, to be had after a flush.
#[must_use = "flush, then call `flushed`; dropping this loses the frames inside for good"]
#[derive(Debug)]
pub struct Unmapped(StaleRun);

#[derive(Debug)]
enum StaleRun {
    Three(Stale<SecondLevel<3>, (Gpa, MapRight)>),
    Four(Stale<SecondLevel<4>, (Gpa, MapRight)>),
}

impl Unmapped {
    /// Where the run was mapped, and the right to it; emptied tables go back to `memory`.
    ///
    /// # Errors
    /// `self` where the proof is another domain's or older than the unmapping.
    pub fn flushed(
        self,
        proof: &IoFlushed,
        memory: &mut impl TableMemory,
    ) -> Result<(Gpa, MapRight), Self> {
        match self.0 {
            StaleRun::Three(stale) => stale
                .flushed(&proof.0.flushed, memory)
                .map_err(|stale| Self(StaleRun::Three(stale))),
            StaleRun::Four(stale) => stale
                .flushed(&proof.0.flushed, memory)
                .map_err(|stale| Self(StaleRun::Four(stale))),
        }
    }
}

/// What a ticket of a domain locks.
#[derive(Debug)]
pub struct Flush {
    flushed: Flushed,
    root: Frame,
    changes: u64,
}

/// Proof that no unit holds anything of a domain from before its ticket.
#[derive(Debug)]
pub struct IoFlushed(Flush);

/// Makes the token that a [`Ticket`] keeps locked: the units' answers, not this, are what it stands for.
struct Locked;

impl Invalidate for Locked {
    fn invalidate(&mut self, _root: Frame) {}
}

/// A mapping that was refused, with the right that was not used up.
#[derive(Debug)]
pub struct IoRejected {
    /// Why.
    pub error: IoError,
    /// The right, unused.
    pub right: MapRight,
}

/// Why a domain could not be made or changed. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoError {
    /// The page tables said no.
    Table(TableError<Gpa>),
    /// The units cannot have this domain.
    Capability(CapabilityError),
    /// The right is for somebody else's page tables.
    WrongHolder(Holder),
    /// The permissions exceed the right.
    ExceedsRight {
        /// What was asked for.
        wanted: Rights,
        /// What the right allows.
        allowed: Rights,
    },
    /// A page without any permission cannot be told from an absent one.
    NoPermission,
    /// The range includes addresses that mean interrupts.
    InterruptRange(Gpa),
    /// The frames are under a hardware key, which devices do not know.
    UnderKey(Gpa),
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(error) => write!(f, "I/O domain: {error}"),
            Self::Capability(error) => write!(f, "I/O domain: {error}"),
            Self::WrongHolder(holder) => write!(f, "I/O domain: the map right is {holder:?}'s"),
            Self::ExceedsRight { wanted, allowed } => write!(
                f,
                "I/O domain: {wanted:?} asked for, the ledger allows {allowed:?}"
            ),
            Self::UnderKey(at) => write!(f, "I/O domain: memory at {at} is under a hardware key"),
            Self::NoPermission => write!(f, "I/O domain: a mapping without any permission"),
            Self::InterruptRange(at) => {
                write!(
                    f,
                    "I/O domain: memory at {at} overlaps 0xfee00000-0xfeefffff, where writes are interrupts"
                )
            }
        }
    }
}

impl core::error::Error for IoError {}

impl From<TableError<Gpa>> for IoError {
    fn from(error: TableError<Gpa>) -> Self {
        Self::Table(error)
    }
}

impl IoDomain {
    /// An empty domain of `vm`, which units of `shape` can walk.
    ///
    /// # Errors
    /// The units share no depth, have no id left for this VM, or there is no frame for the root.
    pub fn new(vm: VmId, shape: TreeShape, memory: &mut impl TableMemory) -> Result<Self, IoError> {
        let id = shape.domain_of(vm).map_err(IoError::Capability)?;
        let tree = if shape.depths.contains(Depths::FOUR) {
            Tree::Four(Table::new(memory, shape.largest_page)?)
        } else if shape.depths.contains(Depths::THREE) {
            Tree::Three(Table::new(memory, shape.largest_page)?)
        } else {
            let error = CapabilityError::NoKnownDepth(shape.depths);
            return Err(IoError::Capability(error));
        };
        Ok(Self {
            id,
            tree,
            vm,
            holding: Holding::new(Holder::Vm(vm)),
            shape,
            pending: Pending::default(),
            units: UnitSet::EMPTY,
            devices: 0,
            changes: 0,
            unsettled: None,
        })
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> DomainId {
        self.id
    }

    /// Whether units of this kind can walk its tables.
    #[must_use]
    pub fn suits(&self, unit: TreeShape) -> bool {
        self.shape.meet(unit) == self.shape
    }

    /// Whose devices are in it.
    #[must_use]
    pub const fn vm(&self) -> VmId {
        self.vm
    }

    /// How many frames are mapped.
    #[must_use]
    pub const fn mapped(&self) -> FrameCount {
        self.holding.frames()
    }

    /// How many devices are in it.
    #[must_use]
    pub const fn devices(&self) -> u32 {
        self.devices
    }

    /// Lets one device behind `unit` into the domain: the entry to install for it.
    pub fn attach(&mut self, unit: UnitId) -> ContextEntry {
        self.units = self.units.with(unit);
        self.devices = self.devices.saturating_add(1);
        let depth = match &self.tree {
            Tree::Three(_) => Depth::Three,
            Tree::Four(_) => Depth::Four,
        };
        ContextEntry::new(self.root(), depth, self.id)
    }

    /// Takes note that a device is out of the domain, as every unit knows by now.
    ///
    /// # Errors
    /// The proof, where it is another domain's.
    pub fn release(&mut self, gone: Detached) -> Result<(), Detached> {
        if gone.domain() != self.id {
            return Err(gone);
        }
        self.devices = self.devices.saturating_sub(1);
        Ok(())
    }

    /// Maps the frames of `right` at `gpa`, in the largest pages that alignment and units allow.
    ///
    /// # Errors
    /// The right comes back with the reason; nothing is mapped.
    pub fn map(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        right: MapRight,
        perms: DmaPerms,
    ) -> Result<(), IoRejected> {
        let FrameRun { first, count } = right.run();
        let attr = DmaAttr {
            perms,
            snoop: self.shape.snoop,
        };
        let mapped = self.check(gpa, &right, perms).and_then(|()| {
            either!(&mut self.tree, table => table.map(memory, gpa, first, count, attr))
                .map_err(IoError::from)
        });
        match mapped {
            Ok(()) => {
                self.holding.deposit(right);
                if self.shape.flush_after_map {
                    self.changed(gpa, count);
                }
                Ok(())
            }
            Err(error) => Err(IoRejected { error, right }),
        }
    }

    /// Takes out the first contiguous run within `count` frames from `gpa`: where it was and, once flushed, the right to
    /// it. `None` where nothing is mapped; call until then to empty a range, and flush once for all.
    ///
    /// # Errors
    /// A bad range, or no frame left to split a large page; nothing changed.
    pub fn unmap_run(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        count: FrameCount,
    ) -> Result<Option<Unmapped>, IoError> {
        let holding = &mut self.holding;
        let mut place = None;
        let mut wrap = |run: crate::table::Run<Gpa, DmaAttr>| {
            place = Some((run.input, run.count));
            let frames = FrameRun::new(run.frame, run.count);
            let right = holding.withdraw(frames, run.attr.perms.rights(), KeyTag::NONE);
            (run.input, right)
        };
        let stale = match &mut self.tree {
            Tree::Three(table) => table
                .unmap_run(memory, gpa, count)?
                .map(|stale| StaleRun::Three(stale.map(&mut wrap))),
            Tree::Four(table) => table
                .unmap_run(memory, gpa, count)?
                .map(|stale| StaleRun::Four(stale.map(&mut wrap))),
        };
        if let Some((at, frames)) = place {
            self.changed(at, frames);
        }
        Ok(stale.map(Unmapped))
    }

    /// The page that holds `gpa`, or `None` where nothing is mapped.
    pub fn translate(&self, memory: &impl TableMemory, gpa: Gpa) -> Option<Leaf<Gpa, DmaAttr>> {
        either!(&self.tree, table => table.translate(memory, gpa))
    }

    /// Whether units may not see all of what was mapped, or still see what was unmapped.
    #[must_use]
    pub const fn needs_flush(&self) -> bool {
        self.unsettled.is_some() || !self.pending.is_empty()
    }

    /// What every unit of the domain is to forget by now: page by page for few ranges, all of the domain for many.
    pub fn ticket(&mut self) -> Ticket<Flush> {
        if self.unsettled.is_some() {
            // Nobody showed that the last ticket's ranges were forgotten.
            self.pending.add_everything();
        }
        let batch = self.pending.take(self.id, self.shape.page_selective);
        self.unsettled = (!batch.is_empty()).then_some(self.changes);
        let proof = Flush {
            flushed: either!(&self.tree, table => table.flush(&mut Locked)),
            root: self.root(),
            changes: self.changes,
        };
        Ticket::new(proof, batch, self.units)
    }

    /// Takes a ticket back when every unit has completed it, for the proof of that.
    ///
    /// # Errors
    /// The ticket, where a unit has not completed it or it is another domain's.
    #[expect(
        clippy::result_large_err,
        reason = "a ticket comes back whole; nothing is allocated for it"
    )]
    pub fn settle(&mut self, ticket: Ticket<Flush>) -> Result<IoFlushed, Ticket<Flush>> {
        if ticket.proof().root != self.root() {
            return Err(ticket);
        }
        let flush = ticket.redeem()?;
        // An older ticket than the last one says nothing of the last one's ranges.
        if self.unsettled == Some(flush.changes) {
            self.unsettled = None;
        }
        Ok(IoFlushed(flush))
    }

    /// Frees the tables of an empty domain without devices.
    ///
    /// # Errors
    /// `self` where a device is attached, something is mapped, or the proof is older than the last change.
    #[expect(
        clippy::result_large_err,
        reason = "a domain that is not destroyed comes back whole"
    )]
    pub fn destroy(self, memory: &mut impl TableMemory, proof: &IoFlushed) -> Result<(), Self> {
        let current = proof.0.changes == self.changes && proof.0.root == self.root();
        if self.devices != 0 || !current {
            return Err(self);
        }
        match self.tree {
            Tree::Three(table) => table.destroy(memory, &mut Locked).map_err(Tree::Three),
            Tree::Four(table) => table.destroy(memory, &mut Locked).map_err(Tree::Four),
        }
        .map_err(|tree| Self { tree, ..self })
    }

    fn root(&self) -> Frame {
        either!(&self.tree, table => table.root())
    }

    fn changed(&mut self, gpa: Gpa, count: FrameCount) {
        self.changes += 1;
        self.pending.add(gpa, count);
    }

    fn check(&self, gpa: Gpa, right: &MapRight, perms: DmaPerms) -> Result<(), IoError> {
        if right.holder() != self.holding.holder() {
            return Err(IoError::WrongHolder(right.holder()));
        }
        if perms.is_empty() {
            return Err(IoError::NoPermission);
        }
        if right.tag().is_key() {
            return Err(IoError::UnderKey(gpa));
        }
        let (wanted, allowed) = (perms.rights(), right.rights());
        if !allowed.contains(wanted) {
            return Err(IoError::ExceedsRight { wanted, allowed });
        }
        let first = gpa.0 / FRAME_SIZE;
        let limit = 1 << (self.shape.address_bits.clamp(12, 64) - 12);
        let out_of_range = IoError::Table(TableError::OutOfRange(gpa));
        let end = first.checked_add(right.run().count.0).ok_or(out_of_range)?;
        if end > limit {
            return Err(out_of_range);
        }
        if first < INTERRUPT_PAGES.end && end > INTERRUPT_PAGES.start {
            return Err(IoError::InterruptRange(gpa));
        }
        Ok(())
    }
}
