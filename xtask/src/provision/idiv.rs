//! Bochs' 64-bit signed division: checked by execution, replaced when wrong.
//!
//! Debian's build of Bochs 3.1 miscompiles `long_idiv` (a strict-aliasing violation in its source), so
//! IDIV with a 64-bit operand returns garbage and Linux dies of a divide error. [`mend`] runs the
//! function, as found by its dynamic symbol, on a table of cases in a child process. When an answer is wrong it
//! overwrites the function and runs the same table again.
//!
//! Neighbours: `bochs` calls this while it provisions the emulator.
#![allow(unsafe_code)] // Executes foreign machine code, in a child process, to learn whether it is right.

use std::io;

use memmap2::{Mmap, MmapMut};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};
use object::{Object, ObjectSegment};

use super::function::{Function, FunctionError};

/// `void long_idiv(Bit128s *quotient, Bit64s *remainder, const Bit128s *dividend, Bit64s divisor)`.
const SYMBOL: &str = "_Z9long_idivP7Bit128sPlPKS_l";
/// Seconds after which a function that does not return counts as wrong.
const TIME_LIMIT: u32 = 5;
/// Fills what the replacement leaves of the old function: `int3`.
const FILLER: u8 = 0xcc;

/// Why the emulator's division could neither be shown right nor be mended.
#[derive(Debug, thiserror::Error)]
pub enum IdivError {
    /// The function cannot be tested or replaced, because it is not there to be found.
    #[error("{0}")]
    Function(#[from] FunctionError),
    /// Memory for the self-test could not be mapped.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The self-test's child process could not be run.
    #[error("the self-test could not run ({0})")]
    Child(#[from] nix::Error),
    /// The function is shorter than its replacement.
    #[error("the function has {have} bytes and its replacement needs {need}")]
    TooShort {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The replacement does not pass either.
    #[error("the replaced function still gives wrong answers")]
    StillWrong,
}

/// What [`mend`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every case was right; nothing was changed.
    WasRight,
    /// Cases were wrong; the function in the given file was replaced and passes now.
    Mended,
}

/// Tests the division in the emulator whose file is `file`, and replaces it when it is wrong.
///
/// # Errors
/// When the function cannot be found, tested or mended.
pub fn mend(file: &mut [u8]) -> Result<Outcome, IdivError> {
    if divides_correctly(file)? {
        return Ok(Outcome::WasRight);
    }
    let body = Function::find(file, SYMBOL)?.body_mut(file)?;
    let code = replacement();
    let have = body.len();
    let Some((head, rest)) = body.split_at_mut_checked(code.len()) else {
        return Err(IdivError::TooShort {
            have,
            need: code.len(),
        });
    };
    head.copy_from_slice(code);
    rest.fill(FILLER);
    if divides_correctly(file)? {
        Ok(Outcome::Mended)
    } else {
        Err(IdivError::StillWrong)
    }
}

/// Lays the image out as the loader would, without relocating it: the function and its callee
/// reach each other by relative calls, and touch nothing that a relocation changes.
fn load(file: &[u8]) -> Result<Mmap, IdivError> {
    let elf = object::File::parse(file).map_err(FunctionError::Elf)?;
    let end = elf
        .segments()
        .filter_map(|s| s.address().checked_add(s.size()))
        .max()
        .unwrap_or(0);
    let length = usize::try_from(end).map_err(|_| FunctionError::NoSymbol(SYMBOL))?;
    let mut memory = MmapMut::map_anon(length)?;
    for segment in elf.segments() {
        let data = segment.data().map_err(FunctionError::Elf)?;
        let start =
            usize::try_from(segment.address()).map_err(|_| FunctionError::NoSymbol(SYMBOL))?;
        let end = start
            .checked_add(data.len())
            .ok_or(FunctionError::NoSymbol(SYMBOL))?;
        memory
            .get_mut(start..end)
            .ok_or(FunctionError::NoSymbol(SYMBOL))?
            .copy_from_slice(data);
    }
    Ok(memory.make_exec()?)
}

/// Bochs' `Bit128s`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bit128s {
    lo: u64,
    hi: i64,
}
const _: () = assert!(size_of::<Bit128s>() == 16);

impl Bit128s {
    const fn new(value: i128) -> Self {
        Self {
            lo: value as u64,
            hi: (value >> 64) as i64,
        }
    }

    const fn value(self) -> i128 {
        ((self.hi as i128) << 64) | self.lo as i128
    }
}

type LongIdiv = unsafe extern "sysv64" fn(*mut Bit128s, *mut i64, *const Bit128s, i64);

/// Runs the function of the image `file` on every case, in a child that cannot harm this process.
fn divides_correctly(file: &[u8]) -> Result<bool, IdivError> {
    let function = Function::find(file, SYMBOL)?;
    let image = load(file)?;
    let entry = image
        .get(function.address..)
        .ok_or(FunctionError::NoSymbol(SYMBOL))?
        .as_ptr();
    // SAFETY: the address is the start of the function of this signature, in an executable mapping that outlives the
    // child's use of it; that its code may be wrong is why it is called only in the child below.
    let divide: LongIdiv = unsafe { std::mem::transmute::<*const u8, LongIdiv>(entry) };
    // SAFETY: the child only does arithmetic on its stack and leaves by `_exit`; it allocates nothing and takes no lock.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            let status = loop {
                match waitpid(child, None) {
                    Err(nix::Error::EINTR) => {}
                    other => break other?,
                }
            };
            Ok(matches!(status, WaitStatus::Exited(_, 0)))
        }
        ForkResult::Child => {
            alarm::set(TIME_LIMIT);
            let code = i32::from(!every_case_is_right(divide));
            // SAFETY: ends the child at once, running none of the parent's exit handlers.
            unsafe { nix::libc::_exit(code) }
        }
    }
}

/// Operands that reach every sign, the carries between the halves, and the widest values.
const VALUES: [i64; 15] = [
    1,
    -1,
    2,
    -3,
    7,
    10,
    -10,
    1_000,
    999_999_937,
    -4_294_967_296,
    4_294_967_297,
    i64::MAX,
    i64::MIN,
    i64::MAX - 1,
    i64::MIN + 1,
];

fn every_case_is_right(divide: LongIdiv) -> bool {
    let highs = VALUES.iter().chain(&[0]);
    highs
        .flat_map(|&high| {
            VALUES.iter().chain(&[0]).map(move |&low| Bit128s {
                lo: low as u64,
                hi: high,
            })
        })
        .all(|dividend| {
            VALUES.iter().all(|&divisor| {
                let mut quotient = Bit128s::new(0);
                let mut remainder = 0;
                // SAFETY: all three pointers are to live locals; a callee that breaks its contract harms only the child.
                unsafe {
                    divide(
                        &raw mut quotient,
                        &raw mut remainder,
                        &raw const dividend,
                        divisor,
                    )
                };
                let wide = i128::from(divisor);
                quotient.value() == dividend.value().wrapping_div(wide)
                    && i128::from(remainder) == dividend.value().wrapping_rem(wide)
            })
        })
}

// The replacement: position-independent, calls nothing, clobbers only what the System V ABI lets a callee clobber.
//
//   rdi quotient   rsi remainder   rdx dividend, later DIV's high half   rcx divisor, then its magnitude
//   r8  sign of the divisor, then of the quotient (0 or -1)   r11 sign of the dividend (0 or -1)
//   r10 low and r9 high half of the dividend's magnitude; r9 later the quotient's high half
//
// Two DIVs make a 128-by-64-bit division: the first one's remainder is below the divisor, so the second cannot overflow.
core::arch::global_asm!(
    ".pushsection .text.bulkhead_long_idiv, \"ax\"",
    ".globl bulkhead_long_idiv",
    ".globl bulkhead_long_idiv_end",
    "bulkhead_long_idiv:",
    "endbr64",
    "mov r10, [rdx]",
    "mov r9, [rdx + 8]",
    "mov r11, r9",
    "sar r11, 63",
    "xor r10, r11",
    "xor r9, r11",
    "sub r10, r11",
    "sbb r9, r11",
    "mov r8, rcx",
    "sar r8, 63",
    "xor rcx, r8",
    "sub rcx, r8",
    "xor edx, edx",
    "mov rax, r9",
    "div rcx",
    "mov r9, rax",
    "mov rax, r10",
    "div rcx",
    "xor rdx, r11",
    "sub rdx, r11",
    "mov [rsi], rdx",
    "xor r8, r11",
    "xor rax, r8",
    "xor r9, r8",
    "sub rax, r8",
    "sbb r9, r8",
    "mov [rdi], rax",
    "mov [rdi + 8], r9",
    "ret",
    "bulkhead_long_idiv_end:",
    ".popsection",
);

// SAFETY: both are labels in the assembly above.
unsafe extern "C" {
    static bulkhead_long_idiv: u8;
    static bulkhead_long_idiv_end: u8;
}

/// The replacement's machine code.
fn replacement() -> &'static [u8] {
    let start = &raw const bulkhead_long_idiv;
    let length = (&raw const bulkhead_long_idiv_end).addr() - start.addr();
    // SAFETY: the two labels delimit the routine, which is never written.
    unsafe { std::slice::from_raw_parts(start, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replacement_divides_correctly_and_fits() {
        // SAFETY: the label is the entry of a routine of this signature.
        let divide: LongIdiv = unsafe { std::mem::transmute(&raw const bulkhead_long_idiv) };
        assert!(every_case_is_right(divide));
        assert!(replacement().len() <= 142, "{} bytes", replacement().len());
    }

    #[test]
    fn a_wrong_division_is_noticed() {
        unsafe extern "sysv64" fn wrong(
            quotient: *mut Bit128s,
            remainder: *mut i64,
            _: *const Bit128s,
            divisor: i64,
        ) {
            // SAFETY: the caller passes live pointers.
            unsafe { *quotient = Bit128s::new(0) };
            // SAFETY: as above.
            unsafe { *remainder = divisor };
        }
        assert!(!every_case_is_right(wrong));
    }

    #[test]
    fn a_file_without_the_function_is_refused() {
        let mut file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(
            mend(&mut file),
            Err(IdivError::Function(FunctionError::NoSymbol(SYMBOL)))
        ));
    }
}
