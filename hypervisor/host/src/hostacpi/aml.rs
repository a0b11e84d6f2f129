//! The one thing needed from AML: the sleep types in `\_S5_`.
//!
//! No interpreter: the definition `Name (_S5_, Package {..})` of small integers has one encoding (ACPI specification,
//! "AML Grammar Definition": DefName, DefPackage), and firmware does not compute it. It is searched for byte by byte,
//! in pieces, so tables of any size cost no memory.

use super::HostPhys;
use super::table::TableRef;

/// What to write into the sleep type fields of PM1a_CNT and PM1b_CNT to power off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SleepType {
    /// SLP_TYP for PM1a_CNT, at most 7.
    pub a: u8,
    /// SLP_TYP for PM1b_CNT, at most 7.
    pub b: u8,
}

const SLP_TYP_SHIFT: u32 = 10;
const SLP_TYP_MASK: u16 = 7 << SLP_TYP_SHIFT;
const SLP_EN: u16 = 1 << 13;

impl SleepType {
    /// What to write to a PM1 control register that reads `current` (ACPI specification, "PM1 Control Registers
    /// Fixed Hardware Feature Control Bits") to enter the sleep type `value`.
    #[must_use]
    pub const fn pm1_control(current: u16, value: u8) -> u16 {
        (current & !SLP_TYP_MASK) | ((value as u16) << SLP_TYP_SHIFT) & SLP_TYP_MASK | SLP_EN
    }
}

const NAME_OP: u8 = 0x08;
const ROOT_CHAR: u8 = b'\\';
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;

/// The longest encoding of what is parsed: name op, root, name, package op, length, count, two integers.
const LONGEST: usize = 1 + 1 + 4 + 1 + 4 + 1 + 5 + 5;

/// The sleep types in the first `\_S5_` package of `table`.
pub(super) fn find_s5(memory: &mut dyn HostPhys, table: TableRef) -> Option<SleepType> {
    // The last bytes of a piece may hold the beginning of the package, never all of a longest one.
    table.scan(memory, LONGEST, |piece| {
        (0..piece.len()).find_map(|at| parse(piece.get(at..)?))
    })
}

fn parse(bytes: &[u8]) -> Option<SleepType> {
    let bytes = bytes.strip_prefix(&[NAME_OP])?;
    let bytes = bytes.strip_prefix(&[ROOT_CHAR]).unwrap_or(bytes);
    let bytes = bytes.strip_prefix(b"_S5_")?.strip_prefix(&[PACKAGE_OP])?;
    // The top two bits of a package length count its further bytes.
    let (length, rest) = bytes.split_first()?;
    let (elements, rest) = rest.get(usize::from(length >> 6)..)?.split_first()?;
    let (a, rest) = integer(rest)?;
    let b = if *elements >= 2 { integer(rest)?.0 } else { a };
    (*elements >= 1 && a <= 7 && b <= 7).then_some(SleepType { a, b })
}

/// An integer constant that fits a byte, and what follows it.
fn integer(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (op, rest) = bytes.split_first()?;
    let width = match *op {
        ZERO_OP | ONE_OP => return Some((*op, rest)),
        BYTE_PREFIX => 1,
        WORD_PREFIX => 2,
        DWORD_PREFIX => 4,
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(width)?;
    let (low, high) = value.split_first()?;
    high.iter().all(|byte| *byte == 0).then_some((*low, rest))
}
