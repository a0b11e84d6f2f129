//! Where a function is: segment, bus, device and function number.

use core::fmt;

/// The highest device number of a bus.
const MAX_DEVICE: u8 = 31;
/// The highest function number of a device.
const MAX_FUNCTION: u8 = 7;

/// The place of a function on the machine's buses. Ordered as the buses are numbered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    segment: u16,
    bus: u8,
    /// Device number in the upper five bits, function number in the lower three: so it travels on the bus.
    device_function: u8,
}

/// Why a text is no address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressFault {
    /// Not `00:1f.2`, nor `0000:00:1f.2`.
    Form,
    /// A device number above 1f.
    Device(u8),
    /// A function number above 7.
    Function(u8),
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("a PCI address is written like \"0000:00:1f.2\""),
            Self::Device(device) => write!(
                f,
                "there is no device {device:x} on a bus: the last is {MAX_DEVICE:x}"
            ),
            Self::Function(function) => {
                write!(
                    f,
                    "no device has a function {function:x}: the last is {MAX_FUNCTION}"
                )
            }
        }
    }
}

impl core::error::Error for AddressFault {}

impl Address {
    /// The function at this place; `None` for a device number above 31 or a function number above 7.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > MAX_DEVICE || function > MAX_FUNCTION {
            return None;
        }
        Some(Self {
            segment,
            bus,
            device_function: device << 3 | function,
        })
    }

    /// The function that the requests with this source identifier come from.
    #[must_use]
    pub const fn from_source_id(segment: u16, id: u16) -> Self {
        let [bus, device_function] = id.to_be_bytes();
        Self {
            segment,
            bus,
            device_function,
        }
    }

    /// Reads `0000:00:1f.2`, or `00:1f.2` for segment 0: hexadecimal digits, as many as there.
    ///
    /// # Errors
    /// [`AddressFault`] says which rule `text` breaks.
    pub fn parse(text: &str) -> Result<Self, AddressFault> {
        let (rest, function) = text.rsplit_once('.').ok_or(AddressFault::Form)?;
        let (rest, device) = rest.rsplit_once(':').ok_or(AddressFault::Form)?;
        let (segment, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
        let segment = hex(segment, 4).ok_or(AddressFault::Form)?;
        let [_, bus] = hex(bus, 2).ok_or(AddressFault::Form)?.to_be_bytes();
        let [_, device] = hex(device, 2).ok_or(AddressFault::Form)?.to_be_bytes();
        let [_, function] = hex(function, 1).ok_or(AddressFault::Form)?.to_be_bytes();
        if device > MAX_DEVICE {
            return Err(AddressFault::Device(device));
        }
        Self::new(segment, bus, device, function).ok_or(AddressFault::Function(function))
    }

    /// The segment group: the machine's set of 256 buses.
    #[must_use]
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device on its bus, at most 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device_function >> 3
    }

    /// The function of its device, at most 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.device_function & MAX_FUNCTION
    }

    /// What its requests are known by within its segment: bus, device and function (PCI Express Base Specification,
    /// "Transaction Descriptor").
    #[must_use]
    pub const fn source_id(self) -> u16 {
        u16::from_be_bytes([self.bus, self.device_function])
    }
}

/// Exactly `digits` hexadecimal digits.
pub(super) fn hex(text: &str, digits: usize) -> Option<u16> {
    // A number may also begin with a sign.
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if plain {
        u16::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

/// As `0000:00:1f.2`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.segment,
            self.bus,
            self.device(),
            self.function()
        )
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
