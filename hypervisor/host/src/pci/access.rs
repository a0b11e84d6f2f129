//! Reaching the host's configuration space: the trait that the shell implements, by memory window or by ports.

use super::address::Address;

/// How much of a function's configuration space can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// 256 bytes, by ports.
    Legacy,
    /// 4096 bytes, by the enhanced mechanism.
    Extended,
}

/// The width of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

/// The configuration space of every function of the machine.
///
/// `at` is always a multiple of the width and within the function's [`Extent`]. Reading what is not there gives all
/// ones, as on the bus; writing it does nothing. Accesses are made in the order of the calls.
pub trait ConfigAccess {
    /// How much of `function` the machine can reach.
    fn extent(&self, function: Address) -> Extent;

    /// The register at `at`, in the low bits.
    fn read(&mut self, function: Address, at: u16, width: Width) -> u32;

    /// Writes the low bits of `value` to the register at `at`.
    fn write(&mut self, function: Address, at: u16, width: Width, value: u32);
}

/// One function's configuration space.
pub(super) struct Config<'a> {
    access: &'a mut dyn ConfigAccess,
    function: Address,
}

impl<'a> Config<'a> {
    pub(super) const fn new(access: &'a mut dyn ConfigAccess, function: Address) -> Self {
        Self { access, function }
    }

    pub(super) const fn function(&self) -> Address {
        self.function
    }

    pub(super) fn extent(&self) -> Extent {
        self.access.extent(self.function)
    }

    pub(super) fn u8(&mut self, at: impl Into<u16>) -> u8 {
        self.access.read(self.function, at.into(), Width::Byte) as u8
    }

    pub(super) fn u16(&mut self, at: impl Into<u16>) -> u16 {
        self.access.read(self.function, at.into(), Width::Word) as u16
    }

    pub(super) fn u32(&mut self, at: impl Into<u16>) -> u32 {
        self.access.read(self.function, at.into(), Width::Dword)
    }

    pub(super) fn set_u16(&mut self, at: impl Into<u16>, value: u16) {
        self.access
            .write(self.function, at.into(), Width::Word, value.into());
    }

    pub(super) fn set_u32(&mut self, at: impl Into<u16>, value: u32) {
        self.access
            .write(self.function, at.into(), Width::Dword, value);
    }
}
