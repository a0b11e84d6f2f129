//! What the network controller did not do, or did otherwise.

use core::fmt;

use crate::Difference;

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The end of a reset.
    Reset,
    /// The link, which loopback needs as well.
    Link,
    /// The frame with this number to be fetched.
    Transmit(u32),
    /// It to come back.
    Receive(u32),
}

impl Step {
    pub(super) fn unless(self, happened: bool) -> Result<(), Error> {
        if happened {
            Ok(())
        } else {
            Err(Error::TimedOut(self))
        }
    }
}

/// What did not come, or came wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// It did not happen within 2 s.
    TimedOut(Step),
    /// A frame of `length` bytes came back in another shape.
    Shape {
        /// Its number, from 0.
        frame: u32,
        /// Bytes sent.
        length: u32,
        /// Bytes received.
        received: u16,
        /// The descriptor's errors.
        errors: u8,
    },
    /// A frame came back with other contents.
    Content {
        /// Its number, from 0.
        frame: u32,
        /// Where.
        difference: Difference,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(Step::Reset) => f.write_str("did not end its reset"),
            Self::TimedOut(Step::Link) => f.write_str("has no link"),
            Self::TimedOut(Step::Transmit(frame)) => write!(f, "did not fetch frame {frame}"),
            Self::TimedOut(Step::Receive(frame)) => write!(f, "did not bring back frame {frame}"),
            Self::Shape {
                frame,
                length,
                received,
                errors,
            } => write!(
                f,
                "brought back frame {frame} with {received} bytes instead of {length}, errors {errors:#x}"
            ),
            Self::Content { frame, difference } => write!(f, "frame {frame}: {difference}"),
        }
    }
}

impl core::error::Error for Error {}
