//! What a VM may have of a CPU: its [`Share`], and the virtual time that a share's weight paces.
//!
//! Virtual time runs slower for a heavier VM, so that letting the one that is least far always run first
//! divides the CPU by weight.

/// A VM's part of each CPU that it runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    weight: u16,
    cap: Option<u8>,
}

impl Share {
    /// The weight a VM has whose manifest names none.
    pub const DEFAULT_WEIGHT: u32 = 100;
    /// The largest weight.
    pub const MAX_WEIGHT: u32 = 10_000;

    /// A share of `weight`, brought into `1..=10000`, and at most `cap` percent, brought into `1..=100`.
    #[must_use]
    pub fn clamped(weight: u32, cap: Option<u8>) -> Self {
        Self {
            weight: weight.clamp(1, Self::MAX_WEIGHT) as u16,
            cap: cap.map(|percent| percent.clamp(1, 100)),
        }
    }

    /// How much it counts beside others.
    #[must_use]
    pub const fn weight(self) -> u32 {
        self.weight as u32
    }

    /// The percentage it may not exceed even when nobody else wants the CPU; `None` without limit.
    #[must_use]
    pub const fn cap(self) -> Option<u32> {
        match self.cap {
            None | Some(100) => None,
            Some(percent) => Some(percent as u32),
        }
    }

    pub(super) const fn pace(self) -> Pace {
        Pace((1 << FRACTION) / self.weight as u64)
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::clamped(Self::DEFAULT_WEIGHT, None)
    }
}

/// Binary digits after the point in [`Pace`] and [`VirtualTime`]; the largest weight is off by 2 in a million.
const FRACTION: u32 = 32;

/// How fast virtual time passes: one over the weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace(u64);

impl Pace {
    /// The pace of weight 1, which vCPUs have inside their VM.
    pub(super) const EQUAL: Self = Self(1 << FRACTION);
}

/// How far somebody is with using the CPU, its weight considered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(super) struct VirtualTime(u128);

impl VirtualTime {
    /// This time `ticks` of CPU later.
    pub(super) const fn after(self, ticks: u64, pace: Pace) -> Self {
        Self(self.0.saturating_add(Self::span(ticks, pace)))
    }

    /// This time `ticks` of CPU earlier.
    pub(super) const fn before(self, ticks: u64, pace: Pace) -> Self {
        Self(self.0.saturating_sub(Self::span(ticks, pace)))
    }

    const fn span(ticks: u64, pace: Pace) -> u128 {
        // Two 64-bit factors cannot exceed 128 bits.
        (ticks as u128) * (pace.0 as u128)
    }
}
