//! Devices that the firmware reserved memory for (VT-d specification, "BIOS and OS Handling of RMRR").
//!
//! Such a device reaches that memory at its host address whatever domain it is in, so a VM can have it only where the VM
//! has no RAM at those addresses.

use core::fmt;
use core::ops::Range;

use crate::addr::{FRAME_SIZE, Frame, FrameCount, Gpa, Hpa};
use crate::ledger::FrameRun;
use crate::pci::Address;

/// Memory that the firmware reserved for a device is at addresses where its VM has RAM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overlaps {
    /// The device.
    pub function: Address,
    /// The first byte reserved.
    pub first: Hpa,
    /// The last.
    pub last: Hpa,
}

impl fmt::Display for Overlaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            function,
            first,
            last,
        } = self;
        write!(
            f,
            "the firmware keeps {first} to {last} for {function}, where its VM has RAM: use another device, or \
             give the VM less memory than that address"
        )
    }
}

impl core::error::Error for Overlaps {}

/// The frames of the region from `first` to `last`, to be mapped at their own address for `function`, in a VM with RAM in
/// `ram`.
///
/// # Errors
/// [`Overlaps`].
pub fn frames(
    function: Address,
    first: Hpa,
    last: Hpa,
    ram: impl Iterator<Item = Range<Gpa>>,
) -> Result<FrameRun, Overlaps> {
    let overlaps = Overlaps {
        function,
        first,
        last,
    };
    let (from, to) = (first.0 / FRAME_SIZE, last.0 / FRAME_SIZE);
    let count = to.checked_sub(from).ok_or(overlaps)? + 1;
    let taken =
        |ram: Range<Gpa>| from < ram.end.0.div_ceil(FRAME_SIZE) && ram.start.0 / FRAME_SIZE <= to;
    match ram.into_iter().any(taken) {
        true => Err(overlaps),
        false => Ok(FrameRun::new(Frame(from), FrameCount(count))),
    }
}
