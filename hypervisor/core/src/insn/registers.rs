//! The guest's general-purpose registers as instructions read and write them.

use super::{Extend, MmioInsn, Operation, Register, Source, Width};

/// A register's hardware number: RAX 0, RCX 1, RDX 2, RBX 3, RSP 4, RBP 5, RSI 6, RDI 7, R8 to R15.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct GprIndex(u8);

impl GprIndex {
    /// RAX.
    pub const RAX: Self = Self(0);
    /// RCX.
    pub const RCX: Self = Self(1);
    /// RDX.
    pub const RDX: Self = Self(2);
    /// RBX.
    pub const RBX: Self = Self(3);
    /// RSP, which the VMCS holds: keep the array's copy current around a decode.
    pub const RSP: Self = Self(4);
    /// RSI.
    pub const RSI: Self = Self(6);
    /// RDI.
    pub const RDI: Self = Self(7);

    /// The register with the low four bits of `number`.
    #[inline]
    #[must_use]
    pub const fn new(number: u8) -> Self {
        Self(number & 15)
    }

    /// The hardware number, below 16.
    #[inline]
    #[must_use]
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

/// The sixteen registers by hardware number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Gprs(pub [u64; 16]);

impl Gprs {
    /// All 64 bits of a register.
    #[inline]
    #[must_use]
    pub fn get(&self, index: GprIndex) -> u64 {
        self.0.get(index.number()).copied().unwrap_or(0)
    }

    /// Replaces all 64 bits of a register.
    #[inline]
    pub fn set(&mut self, index: GprIndex, value: u64) {
        if let Some(slot) = self.0.get_mut(index.number()) {
            *slot = value;
        }
    }

    /// A register operand, zero-extended.
    #[must_use]
    pub fn read(&self, register: Register, width: Width) -> u64 {
        match register {
            Register::Low(index) => self.get(index) & width.mask(),
            Register::High(index) => self.get(index) >> 8 & 0xff,
        }
    }

    /// Writes a register operand: 32 bits clear the upper half, fewer leave the rest alone.
    pub fn write(&mut self, register: Register, width: Width, value: u64) {
        let (index, shift) = match register {
            Register::Low(index) => (index, 0),
            Register::High(index) => (index, 8),
        };
        let merged = match width {
            Width::Qword => value,
            Width::Dword => value & width.mask(),
            Width::Word | Width::Byte => {
                let mask = width.mask() << shift;
                self.get(index) & !mask | value << shift & mask
            }
        };
        self.set(index, merged);
    }

    /// The value that `insn` stores; `None` where it loads.
    #[must_use]
    pub fn store_value(&self, insn: &MmioInsn) -> Option<u64> {
        match insn.operation {
            Operation::Store {
                from: Source::Register(register),
            } => Some(self.read(register, insn.width)),
            Operation::Store {
                from: Source::Immediate(value),
            } => Some(value & insn.width.mask()),
            Operation::Load { .. } => None,
        }
    }

    /// Completes `insn` with the bytes that the device returned; nothing happens where it stores.
    pub fn complete_load(&mut self, insn: &MmioInsn, from_device: u64) {
        let Operation::Load {
            to,
            to_width,
            extend,
        } = insn.operation
        else {
            return;
        };
        let raw = from_device & insn.width.mask();
        let value = match extend {
            Extend::None | Extend::Zero => raw,
            Extend::Sign => {
                let unused = 64 - 8 * insn.width.bytes() as u32;
                ((raw << unused) as i64 >> unused) as u64
            }
        };
        self.write(to, to_width, value);
    }
}
