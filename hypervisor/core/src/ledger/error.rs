//! Why the ledger refused.

use core::fmt;

use crate::addr::{Frame, FrameCount};

use super::entry::{Rights, State, VmId};
use super::{FrameRun, Owner};

/// Why the ledger refused. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LedgerError {
    /// The run is empty or reaches beyond the last frame.
    BeyondEnd(FrameRun),
    /// A frame of the run has an owner already, or is no memory.
    NotAvailable(FrameRun),
    /// The frame does not belong to the one who asked.
    NotOwner(Frame),
    /// A mapping of the frame may still be cached somewhere.
    StillMapped(Frame),
    /// The frame is in another state than the operation needs.
    WrongState {
        /// The frame.
        frame: Frame,
        /// Its state.
        found: State,
        /// The state it would have to be in.
        wanted: State,
    },
    /// The holder may not do all of this with the frame.
    NoRight {
        /// The frame.
        frame: Frame,
        /// What was asked for.
        wanted: Rights,
        /// What the ledger grants.
        granted: Rights,
    },
    /// The frame is clear, and its VM's alone.
    Private(Frame),
    /// The frame was sealed as often as its version can count.
    NoVersionLeft(Frame),
    /// The frame is memory, not a device.
    NotDevice(Frame),
    /// The frame is a device's that somebody has.
    DeviceTaken(Frame),
    /// The firmware's map does not reserve the frame.
    NotReserved(Frame),
    /// More devices' registers are given away than the ledger can list.
    TooManyDevices,
    /// The frame's map count is full.
    TooManyMaps(Frame),
    /// Not enough frames are available.
    OutOfFrames {
        /// How many were wanted.
        wanted: FrameCount,
        /// How many are available in all, contiguous or not.
        available: FrameCount,
    },
    /// Frames cannot be allocated to this owner.
    BadOwner(Owner),
    /// A VM number above [`VmId::MAX`], or above what the operation knows.
    BadVm(VmId),
    /// The VM's frames are under a hardware key, which has to be erased first.
    UnderKey(VmId),
    /// A hardware key is for all frames of a VM, and these are not all, or are under one already.
    NotAllFrames(VmId),
    /// The frame is under another hardware key than those before it.
    OtherKey(Frame),
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeyondEnd(run) => {
                write!(
                    f,
                    "{} frames at {} are not all in the ledger",
                    run.count.0,
                    run.first.start()
                )
            }
            Self::NotAvailable(run) => {
                write!(
                    f,
                    "{} frames at {} are not all free",
                    run.count.0,
                    run.first.start()
                )
            }
            Self::NotOwner(frame) => write!(f, "frame {} has another owner", frame.start()),
            Self::StillMapped(frame) => {
                write!(
                    f,
                    "frame {} is still mapped; unmap and flush it first",
                    frame.start()
                )
            }
            Self::WrongState {
                frame,
                found,
                wanted,
            } => {
                write!(f, "frame {} is {found:?}, not {wanted:?}", frame.start())
            }
            Self::NoRight {
                frame,
                wanted,
                granted,
            } => write!(
                f,
                "frame {} may not be mapped {wanted:?}: the ledger grants {granted:?}",
                frame.start()
            ),
            Self::Private(frame) => write!(
                f,
                "frame {} is in use by its VM, whose memory is encrypted: it can be seen once it is sealed",
                frame.start()
            ),
            Self::NoVersionLeft(frame) => write!(
                f,
                "frame {} was sealed 4294967295 times; start its VM anew",
                frame.start()
            ),
            Self::NotDevice(frame) => write!(f, "frame {} is memory, not a device", frame.start()),
            Self::DeviceTaken(frame) => {
                write!(f, "frame {} is a device's that somebody has", frame.start())
            }
            Self::NotReserved(frame) => write!(
                f,
                "frame {} is not reserved by the firmware's memory map",
                frame.start()
            ),
            Self::TooManyDevices => {
                f.write_str("more devices are given away than the ledger can list")
            }
            Self::TooManyMaps(frame) => write!(f, "frame {} is mapped too often", frame.start()),
            Self::OutOfFrames { wanted, available } => write!(
                f,
                "{} frames wanted in one piece or in all, {} available; give VMs less memory",
                wanted.0, available.0
            ),
            Self::BadOwner(owner) => write!(f, "frames cannot be allocated to {owner:?}"),
            Self::BadVm(vm) => write!(f, "{vm} is beyond the highest number {}", VmId::MAX.0),
            Self::UnderKey(vm) => write!(f, "the frames of {vm} are under a hardware key"),
            Self::NotAllFrames(vm) => {
                write!(f, "a hardware key is for all frames of {vm}, and once")
            }
            Self::OtherKey(frame) => {
                write!(f, "frame {} is under another hardware key", frame.start())
            }
        }
    }
}

impl core::error::Error for LedgerError {}
