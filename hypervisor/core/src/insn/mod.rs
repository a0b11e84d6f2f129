//! Decoding of the instructions that guests use on device registers: the MOV family with a memory operand.
//!
//! The exit gives the guest-physical address; [`decode`] adds what the exit does not say: direction, size,
//! register or immediate, and the instruction's length. Everything else is [`Unsupported`], and the VM stops with a
//! report (Intel SDM vol. 2, "Instruction Format" and "MOV—Move"). [`Gprs`] applies a load.

mod registers;
#[cfg(test)]
mod tests;

use core::fmt;

pub use registers::{GprIndex, Gprs};

/// Longest instruction in bytes.
pub const MAX_LENGTH: usize = 15;

/// The default sizes of the code segment that the guest runs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuMode {
    /// Real mode, virtual-8086 mode, or a 16-bit code segment.
    Bits16,
    /// A 32-bit code segment, in protected or compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// Bytes that one access transfers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Width {
    /// 1 byte.
    Byte = 1,
    /// 2 bytes.
    Word = 2,
    /// 4 bytes.
    Dword = 4,
    /// 8 bytes.
    Qword = 8,
}

impl Width {
    /// The number of bytes.
    #[inline]
    #[must_use]
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// A mask of the bits that fit.
    #[inline]
    #[must_use]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }
}

/// A general-purpose register operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// The low bits of the register with this hardware number.
    Low(GprIndex),
    /// Bits 15:8 of RAX, RCX, RDX or RBX: AH, CH, DH, BH.
    High(GprIndex),
}

/// How a load fills the bits that memory does not give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extend {
    /// MOV: the destination has the memory operand's size.
    None,
    /// MOVZX.
    Zero,
    /// MOVSX and MOVSXD.
    Sign,
}

/// What a store writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// A register.
    Register(Register),
    /// An immediate, sign-extended to 64 bits.
    Immediate(u64),
}

/// The operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Memory to register.
    Load {
        /// Destination.
        to: Register,
        /// Size of the destination.
        to_width: Width,
        /// How the destination's upper bits are made.
        extend: Extend,
    },
    /// Register or immediate to memory.
    Store {
        /// What is written.
        from: Source,
    },
}

/// A decoded access to one device register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmioInsn {
    /// Bytes of the instruction.
    pub length: u8,
    /// Bytes of memory it touches.
    pub width: Width,
    /// What it does.
    pub operation: Operation,
}

/// The bytes are not a memory MOV that the decoder knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unsupported {
    /// The instruction goes on beyond the bytes given, or beyond 15 bytes.
    Truncated,
    /// LOCK, REP or REPNE.
    Prefix(u8),
    /// This opcode (0x0fxx for two-byte opcodes).
    Opcode(u16),
    /// The operand is a register, so it cannot have touched memory.
    NoMemoryOperand,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the instruction is longer than the bytes fetched"),
            Self::Prefix(prefix) => write!(
                f,
                "prefix {prefix:#04x} on a device access; use a plain MOV"
            ),
            Self::Opcode(opcode) => {
                write!(f, "opcode {opcode:#x} on a device access; use a plain MOV")
            }
            Self::NoMemoryOperand => {
                f.write_str("the instruction at RIP touches no memory; was it overwritten?")
            }
        }
    }
}

impl core::error::Error for Unsupported {}

/// Decodes the instruction that starts `bytes`.
///
/// # Errors
/// [`Unsupported`] names why the bytes are not a known memory MOV.
pub fn decode(bytes: &[u8], mode: CpuMode) -> Result<MmioInsn, Unsupported> {
    let mut cursor = Cursor {
        bytes: bytes.get(..MAX_LENGTH).unwrap_or(bytes),
        at: 0,
    };
    let (prefixes, opcode) = Prefixes::read(&mut cursor, mode)?;
    let opcode = match opcode {
        0x0f => 0x0f00 | u16::from(cursor.byte()?),
        one => u16::from(one),
    };
    let operand = prefixes.operand_width(mode);
    let (width, operation) = match opcode {
        0x88 | 0x89 => {
            let width = if opcode == 0x88 { Width::Byte } else { operand };
            let reg = cursor.modrm(&prefixes, mode)?;
            (
                width,
                Operation::Store {
                    from: Source::Register(prefixes.register(reg, width)),
                },
            )
        }
        0x8a | 0x8b => {
            let width = if opcode == 0x8a { Width::Byte } else { operand };
            let reg = cursor.modrm(&prefixes, mode)?;
            (width, plain_load(prefixes.register(reg, width), width))
        }
        0xa0..=0xa3 => {
            let width = if opcode & 1 == 0 {
                Width::Byte
            } else {
                operand
            };
            cursor.skip(prefixes.address_width(mode).bytes())?;
            let accumulator = Register::Low(GprIndex::RAX);
            let operation = if opcode < 0xa2 {
                plain_load(accumulator, width)
            } else {
                Operation::Store {
                    from: Source::Register(accumulator),
                }
            };
            (width, operation)
        }
        0xc6 | 0xc7 => {
            let width = if opcode == 0xc6 { Width::Byte } else { operand };
            let reg = cursor.modrm(&prefixes, mode)?;
            // /7 with a memory operand is undefined, /1 to /6 are reserved.
            if reg & 7 != 0 {
                return Err(Unsupported::Opcode(opcode));
            }
            (
                width,
                Operation::Store {
                    from: Source::Immediate(cursor.immediate(width)?),
                },
            )
        }
        0x0fb6 | 0x0fb7 | 0x0fbe | 0x0fbf => {
            let width = if opcode & 1 == 0 {
                Width::Byte
            } else {
                Width::Word
            };
            let extend = if opcode < 0x0fb8 {
                Extend::Zero
            } else {
                Extend::Sign
            };
            let reg = cursor.modrm(&prefixes, mode)?;
            (
                width,
                Operation::Load {
                    to: prefixes.register(reg, operand),
                    to_width: operand,
                    extend,
                },
            )
        }
        0x63 if mode == CpuMode::Bits64 => {
            let reg = cursor.modrm(&prefixes, mode)?;
            let width = operand.min(Width::Dword);
            let extend = if operand == Width::Qword {
                Extend::Sign
            } else {
                Extend::None
            };
            (
                width,
                Operation::Load {
                    to: prefixes.register(reg, operand),
                    to_width: operand,
                    extend,
                },
            )
        }
        _ => return Err(Unsupported::Opcode(opcode)),
    };
    Ok(MmioInsn {
        length: cursor.at as u8,
        width,
        operation,
    })
}

const fn plain_load(to: Register, width: Width) -> Operation {
    Operation::Load {
        to,
        to_width: width,
        extend: Extend::None,
    }
}

/// The prefixes that matter.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    /// REX, or 0: an existing REX has bit 6 set.
    rex: u8,
    operand_size: bool,
    address_size: bool,
}

impl Prefixes {
    /// Reads prefixes up to the first opcode byte, which comes back beside them.
    fn read(cursor: &mut Cursor<'_>, mode: CpuMode) -> Result<(Self, u8), Unsupported> {
        let mut prefixes = Self::default();
        loop {
            let byte = cursor.byte()?;
            match byte {
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
                0xf0 | 0xf2 | 0xf3 => return Err(Unsupported::Prefix(byte)),
                0x40..=0x4f if mode == CpuMode::Bits64 => {
                    // A REX that is not right before the opcode is ignored.
                    prefixes.rex = byte;
                    continue;
                }
                opcode => return Ok((prefixes, opcode)),
            }
            prefixes.rex = 0;
        }
    }

    const fn operand_width(&self, mode: CpuMode) -> Width {
        match (mode, self.rex & 8 != 0, self.operand_size) {
            (CpuMode::Bits64, true, _) => Width::Qword,
            (CpuMode::Bits64 | CpuMode::Bits32, _, false) | (CpuMode::Bits16, _, true) => {
                Width::Dword
            }
            (CpuMode::Bits64 | CpuMode::Bits32, _, true) | (CpuMode::Bits16, _, false) => {
                Width::Word
            }
        }
    }

    const fn address_width(&self, mode: CpuMode) -> Width {
        match (mode, self.address_size) {
            (CpuMode::Bits64, false) => Width::Qword,
            (CpuMode::Bits64, true) | (CpuMode::Bits32, false) | (CpuMode::Bits16, true) => {
                Width::Dword
            }
            (CpuMode::Bits32, true) | (CpuMode::Bits16, false) => Width::Word,
        }
    }

    /// The register that ModRM's reg field names, REX.R included.
    fn register(&self, reg: u8, width: Width) -> Register {
        if width == Width::Byte && self.rex == 0 && reg & 4 != 0 {
            return Register::High(GprIndex::new(reg & 3));
        }
        Register::Low(GprIndex::new(reg))
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, Unsupported> {
        let byte = self
            .bytes
            .get(self.at)
            .copied()
            .ok_or(Unsupported::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, count: usize) -> Result<(), Unsupported> {
        (0..count).try_for_each(|_| self.byte().map(drop))
    }

    /// Reads an immediate for an operand of `width`: at most 4 bytes, sign-extended.
    fn immediate(&mut self, width: Width) -> Result<u64, Unsupported> {
        let low = self.byte()?;
        if width == Width::Byte {
            return Ok(i64::from(low as i8) as u64);
        }
        let word = u16::from_le_bytes([low, self.byte()?]);
        if width == Width::Word {
            return Ok(i64::from(word as i16) as u64);
        }
        let high = u16::from_le_bytes([self.byte()?, self.byte()?]);
        let dword = u32::from(high) << 16 | u32::from(word);
        Ok(i64::from(dword as i32) as u64)
    }

    /// Reads ModRM, SIB and displacement of a memory operand; the reg field with REX.R.
    fn modrm(&mut self, prefixes: &Prefixes, mode: CpuMode) -> Result<u8, Unsupported> {
        let modrm = self.byte()?;
        let (kind, rm) = (modrm >> 6, modrm & 7);
        if kind == 3 {
            return Err(Unsupported::NoMemoryOperand);
        }
        if prefixes.address_width(mode) == Width::Word {
            let displacement = match (kind, rm) {
                (0, 6) | (2, _) => 2,
                (1, _) => 1,
                _ => 0,
            };
            self.skip(displacement)?;
        } else {
            let base = if rm == 4 { self.byte()? & 7 } else { rm };
            let displacement = match (kind, base) {
                (0, 5) | (2, _) => 4,
                (1, _) => 1,
                _ => 0,
            };
            self.skip(displacement)?;
        }
        Ok(modrm >> 3 & 7 | (prefixes.rex & 4) << 1)
    }
}
