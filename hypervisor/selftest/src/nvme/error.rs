//! What the NVMe controller did not do, or did otherwise.

use core::fmt;

use crate::Difference;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The controller to be no longer ready.
    Disable,
    /// The controller to be ready.
    Enable,
    /// The command with this opcode to complete.
    Command(u8),
}

/// What did not come, or came wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// The controller lacks 4 KiB pages, the NVM command set or queues of eight, or does not answer at all.
    Unsupported,
    /// It did not happen in time.
    TimedOut(Step),
    /// The controller has given up; it does when it cannot reach its queues.
    Fatal,
    /// A command failed.
    Failed {
        /// Its opcode.
        opcode: u8,
        /// Status code and, from bit 8, its type ("Status Field Definition").
        status: u16,
    },
    /// A completion of a command that was not under way.
    Stray(u16),
    /// The controller has no namespace 1.
    NoNamespace,
    /// Blocks of the namespace are not of 512 to 4096 bytes, or carry metadata.
    Format {
        /// Bytes of metadata.
        metadata: u16,
        /// The block's size as a power of two.
        shift: u8,
    },
    /// The namespace has only so many blocks.
    TooSmall(u64),
    /// A block came back with other contents.
    Content {
        /// Its number.
        block: u32,
        /// Where.
        difference: Difference,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("lacks what the test needs"),
            Self::TimedOut(Step::Disable) => f.write_str("does not stop"),
            Self::TimedOut(Step::Enable) => f.write_str("does not get ready"),
            Self::TimedOut(Step::Command(opcode)) => {
                write!(f, "did not complete command {opcode:#x}")
            }
            Self::Fatal => f.write_str("has given up (fatal status)"),
            Self::Failed { opcode, status } => {
                write!(f, "failed command {opcode:#x} with status {status:#x}")
            }
            Self::Stray(identifier) => write!(f, "completed command {identifier}, not under way"),
            Self::NoNamespace => f.write_str("has no namespace 1"),
            Self::Format { metadata, shift } => write!(
                f,
                "has blocks of 2^{shift} bytes with {metadata} of metadata"
            ),
            Self::TooSmall(blocks) => write!(f, "has only {blocks} blocks"),
            Self::Content { block, difference } => write!(f, "block {block}: {difference}"),
        }
    }
}

impl core::error::Error for Error {}
