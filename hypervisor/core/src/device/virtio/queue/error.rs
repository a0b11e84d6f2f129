//! How a driver can break a virtqueue.

use core::fmt;

use crate::addr::Gpa;

/// A driver broke the rules of its queue. The device asks to be reset, and works again after that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueError {
    /// A part of the queue is misaligned or runs over the end of the address space.
    Layout(Gpa),
    /// A ring, a descriptor table or a buffer is not memory of the VM.
    OutsideMemory(Gpa),
    /// The available index is further ahead than the queue has entries.
    AvailableIndex {
        /// The driver's index.
        available: u16,
        /// How far the device is.
        taken: u16,
    },
    /// A head, or a descriptor's `next`, names no descriptor.
    Descriptor(u16),
    /// More descriptors than a chain may have: too long, or a loop.
    TooLong,
    /// The buffers hold more bytes than a chain may have.
    TooLarge,
    /// A descriptor without bytes.
    EmptyBuffer,
    /// A buffer runs over the end of the address space.
    BufferWraps(Gpa),
    /// A buffer to read follows one to write.
    ReadableAfterWritable,
    /// An indirect table that was not negotiated, is inside another, or has a `next`.
    Indirect,
    /// An indirect table's length is not that of one or more descriptors.
    IndirectLength(u32),
    /// The chain's buffers are too small for what the request is.
    TooShort,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(at) => write!(
                f,
                "the part of a virtqueue at {at} is misaligned or wraps around"
            ),
            Self::OutsideMemory(at) => {
                write!(f, "a virtqueue names {at}, which is no memory of the VM")
            }
            Self::AvailableIndex { available, taken } => write!(
                f,
                "a virtqueue's available index is {available}, further ahead of {taken} than the queue is long"
            ),
            Self::Descriptor(index) => write!(f, "a virtqueue has no descriptor {index}"),
            Self::TooLong => f.write_str("a descriptor chain is too long, or never ends"),
            Self::TooLarge => f.write_str("a descriptor chain holds too many bytes"),
            Self::EmptyBuffer => f.write_str("a descriptor has no bytes"),
            Self::BufferWraps(at) => write!(f, "the buffer at {at} wraps around"),
            Self::ReadableAfterWritable => f.write_str("a readable buffer follows a writable one"),
            Self::Indirect => f.write_str("an indirect descriptor table where there can be none"),
            Self::IndirectLength(bytes) => {
                write!(
                    f,
                    "an indirect descriptor table of {bytes} bytes, not a multiple of 16"
                )
            }
            Self::TooShort => f.write_str("a descriptor chain is too short for its request"),
        }?;
        f.write_str("; the device works again after its driver resets it")
    }
}

impl core::error::Error for QueueError {}
