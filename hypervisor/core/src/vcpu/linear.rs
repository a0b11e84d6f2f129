//! Guest memory by linear address: through the guest's own page tables, as the instruction that exited would have
//! gone.

use super::Cpu;
use super::split::private;
use crate::addr::{FRAME_SIZE, Gpa, Gva};
use crate::insn::CpuMode;
use crate::vmx::field;
use crate::walk::{self, Access, AccessKind, GuestPhys, PageFaultCode, Paging, WalkError};

/// Why a linear address cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinearFault {
    /// The guest's tables refuse: its page fault.
    Page {
        /// The address.
        at: Gva,
        /// The error code.
        code: u32,
    },
    /// The address is not canonical: the guest's general-protection fault.
    NotCanonical,
    /// The guest's tables lead to where it has no memory; whether it was to write there.
    NoMemory(Gpa, bool),
}

/// Copies what the guest's instruction would read at `at`.
///
/// # Errors
/// What the guest's tables or its memory refuse.
pub fn read<C: Cpu>(cpu: &mut C, at: Gva, bytes: &mut [u8]) -> Result<(), LinearFault> {
    load(cpu, at, bytes, AccessKind::Read)
}

/// Copies the guest's instruction bytes at `at`.
///
/// # Errors
/// As for [`read`].
pub fn fetch<C: Cpu>(cpu: &mut C, at: Gva, bytes: &mut [u8]) -> Result<(), LinearFault> {
    load(cpu, at, bytes, AccessKind::Fetch)
}

/// Whether the guest's instruction could write `length` bytes at `at`, a page at most.
///
/// # Errors
/// As for [`read`].
pub fn probe_write<C: Cpu>(cpu: &mut C, at: Gva, length: usize) -> Result<(), LinearFault> {
    translate_for_copy(cpu, at, AccessKind::Write)?;
    let here = in_page(at, length);
    if here < length {
        translate_for_copy(cpu, Gva(at.0.wrapping_add(here as u64)), AccessKind::Write)?;
    }
    Ok(())
}

/// The operating mode that instruction bytes at RIP are decoded in.
pub fn code_mode<C: Cpu>(cpu: &C) -> CpuMode {
    const LONG: u32 = 1 << 13;
    const DEFAULT_32: u32 = 1 << 14;
    const EFER_LMA: u64 = 1 << 10;
    let rights = cpu.read(field::GUEST_CS_ACCESS);
    if rights & LONG != 0 && cpu.read(field::GUEST_EFER) & EFER_LMA != 0 {
        CpuMode::Bits64
    } else if rights & DEFAULT_32 != 0 {
        CpuMode::Bits32
    } else {
        CpuMode::Bits16
    }
}

/// A code address as wide as the guest's mode makes it: outside 64-bit mode it wraps at 32 bits, and VM entry
/// refuses one that does not.
#[cold]
pub fn code_offset<C: Cpu>(cpu: &C, address: u64) -> u64 {
    match code_mode(cpu) {
        CpuMode::Bits64 => address,
        CpuMode::Bits32 | CpuMode::Bits16 => address & 0xffff_ffff,
    }
}

/// Copies `bytes` to where the guest's instruction would write at `at`. Every page is translated before the
/// first byte is written.
///
/// # Errors
/// As for [`read`].
pub fn write<C: Cpu>(cpu: &mut C, at: Gva, bytes: &[u8]) -> Result<(), LinearFault> {
    let here = in_page(at, bytes.len());
    let (first, second) = bytes.split_at_checked(here).unwrap_or((bytes, &[]));
    let first_at = translate_for_copy(cpu, at, AccessKind::Write)?;
    let second_at = match second {
        [] => first_at,
        _ => translate_for_copy(cpu, Gva(at.0.wrapping_add(here as u64)), AccessKind::Write)?,
    };
    for (gpa, piece) in [(first_at, first), (second_at, second)] {
        if !piece.is_empty() && !cpu.write_guest(gpa, piece) {
            return Err(LinearFault::NoMemory(gpa, true));
        }
    }
    Ok(())
}

fn load<C: Cpu>(
    cpu: &mut C,
    at: Gva,
    bytes: &mut [u8],
    kind: AccessKind,
) -> Result<(), LinearFault> {
    let mut next = at;
    let mut rest = bytes;
    while !rest.is_empty() {
        let here = in_page(next, rest.len());
        let gpa = translate_for_copy(cpu, next, kind)?;
        let (piece, more) = rest.split_at_mut_checked(here).unwrap_or_default();
        if !cpu.read_guest(gpa, piece) {
            return Err(LinearFault::NoMemory(gpa, false));
        }
        next = Gva(next.0.wrapping_add(here as u64));
        rest = more;
    }
    Ok(())
}

/// How many of `length` bytes lie in the page of `at`.
fn in_page(at: Gva, length: usize) -> usize {
    length.min((FRAME_SIZE - at.page_offset()) as usize)
}

/// Where the guest's instruction would come to at `at`.
///
/// # Errors
/// As for [`read`].
pub fn translate<C: Cpu>(cpu: &mut C, at: Gva, kind: AccessKind) -> Result<Gpa, LinearFault> {
    const UPPER_HALF: u64 = 1 << 63;
    let user = (cpu.read(field::GUEST_SS_ACCESS) >> 5) & 3 == 3;
    if user && at.0 & UPPER_HALF != 0 && cpu.splits() {
        let mut code = PageFaultCode::USER | PageFaultCode::PROTECTION;
        code.set(PageFaultCode::WRITE, kind == AccessKind::Write);
        code.set(PageFaultCode::FETCH, kind == AccessKind::Fetch);
        return Err(LinearFault::Page {
            at,
            code: code.bits(),
        });
    }
    let access = Access {
        kind,
        user,
        implicit: false,
    };
    resolve(cpu, at, access)
}

/// The same where the hypervisor is to do what the instruction does: it touches private pages for nobody.
fn translate_for_copy<C: Cpu>(cpu: &mut C, at: Gva, kind: AccessKind) -> Result<Gpa, LinearFault> {
    let gpa = translate(cpu, at, kind)?;
    if cpu.splits() && cpu.is_private(gpa) {
        let user = (cpu.read(field::GUEST_SS_ACCESS) >> 5) & 3 == 3;
        let mut code = private::code(kind == AccessKind::Write);
        code.set(PageFaultCode::USER, user);
        return Err(LinearFault::Page {
            at,
            code: code.bits(),
        });
    }
    Ok(gpa)
}

/// Where `at` is for the processor itself, which reads descriptor tables as a kernel would at any privilege level.
///
/// # Errors
/// As for [`read`].
pub fn locate<C: Cpu>(cpu: &mut C, at: Gva, kind: AccessKind) -> Result<Gpa, LinearFault> {
    let access = Access {
        kind,
        user: false,
        implicit: true,
    };
    resolve(cpu, at, access)
}

/// Whether the guest's tables let user mode fetch at `at`.
pub fn is_user_modes<C: Cpu>(cpu: &mut C, at: Gva) -> bool {
    let access = Access {
        kind: AccessKind::Fetch,
        user: true,
        implicit: false,
    };
    resolve(cpu, at, access).is_ok()
}

fn resolve<C: Cpu>(cpu: &mut C, at: Gva, access: Access) -> Result<Gpa, LinearFault> {
    let paging = Paging {
        cr0: cpu.read(field::GUEST_CR0).0,
        cr3: cpu.read(field::GUEST_CR3).0,
        cr4: cpu.read(field::GUEST_CR4).0,
        efer: cpu.read(field::GUEST_EFER),
        rflags: cpu.read(field::GUEST_RFLAGS).0,
        // The guest's CPUID has the host's width, and 1 GiB pages where the host has them; a guest that uses
        // what it was not shown breaks only itself.
        physical_bits: MAX_PHYSICAL_BITS,
        gigabyte_pages: true,
    };
    match walk::walk(&mut Physical(cpu), &paging, at, access) {
        Ok(translation) => Ok(translation.gpa),
        Err(WalkError::PageFault { gva, code }) => Err(LinearFault::Page {
            at: gva,
            code: code.bits(),
        }),
        Err(WalkError::NotCanonical(_)) => Err(LinearFault::NotCanonical),
        Err(WalkError::NoMemory(gpa)) => Err(LinearFault::NoMemory(gpa, false)),
    }
}

/// The widest physical address the architecture has.
const MAX_PHYSICAL_BITS: u32 = 52;

struct Physical<'a, C>(&'a mut C);

impl<C: Cpu> GuestPhys for Physical<'_, C> {
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0
            .read_guest(gpa, &mut bytes)
            .then(|| u64::from_le_bytes(bytes))
    }
}
