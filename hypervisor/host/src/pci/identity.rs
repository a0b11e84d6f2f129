//! What a function says it is: vendor, device and class; and the patterns a manifest names it by.

use core::fmt;

use super::address::hex;

/// Vendor and device identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// Who made it.
    pub vendor: u16,
    /// What it is, by its maker's numbers.
    pub device: u16,
}

impl DeviceId {
    /// Reads `8086:10d3`: four hexadecimal digits each.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (vendor, device) = text.split_once(':')?;
        Some(Self {
            vendor: hex(vendor, 4)?,
            device: hex(device, 4)?,
        })
    }

    /// The two as the configuration register has them.
    pub(super) const fn from_register(raw: u32) -> Self {
        Self {
            vendor: raw as u16,
            device: (raw >> 16) as u16,
        }
    }
}

/// As `8086:10d3`.
impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A class code: 8 bits each of class, subclass and programming interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u32);

impl Class {
    /// The class code in the lower 24 bits of `raw`.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw & 0xff_ffff)
    }

    /// The 24 bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The class: 0x02 is a network controller.
    #[must_use]
    pub const fn base(self) -> u8 {
        (self.0 >> 16) as u8
    }
}

/// As `020000`.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The beginning of a class code: `02`, `0200` or `020000`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassPattern {
    /// The bits that are given, the others zero.
    bits: u32,
    /// How many of a class code's three bytes are given.
    bytes: u8,
}

impl ClassPattern {
    /// Reads two, four or six hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bytes = match text.len() {
            2 => 1,
            4 => 2,
            6 => 3,
            _ => return None,
        };
        let bits = u32::from_str_radix(text, 16).ok().filter(|_| plain)?;
        Some(Self {
            bits: bits << Self::missing_bits(bytes),
            bytes,
        })
    }

    const fn missing_bits(bytes: u8) -> u32 {
        24 - 8 * bytes as u32
    }

    /// Whether `class` begins like this.
    #[must_use]
    pub const fn matches(self, class: Class) -> bool {
        let missing = Self::missing_bits(self.bytes);
        class.bits() >> missing == self.bits >> missing
    }
}

/// The digits that are given.
impl fmt::Display for ClassPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = 2 * usize::from(self.bytes);
        write!(
            f,
            "{:0digits$x}",
            self.bits >> Self::missing_bits(self.bytes)
        )
    }
}

impl fmt::Debug for ClassPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
