//! x87, SSE and AVX registers, loaded and read back through an XSAVE area (Intel SDM vol. 1, "XSAVE Area").
//!
//! The guest itself is built for soft floating point and never touches them.

use core::arch::asm;

use test_guests::cpu;
use test_guests::random::Random;

const FEATURES: u32 = 1;
const XSAVE: u32 = 1 << 26;
const AVX: u32 = 1 << 28;
const X87_AND_SSE: u64 = 0b11;
const X87_SSE_AND_AVX: u64 = 0b111;
const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
/// CR4.OSFXSR and CR4.OSXMMEXCPT.
const CR4_SSE: u64 = (1 << 9) | (1 << 10);
const CR4_OSXSAVE: u64 = 1 << 18;

/// Enough for x87, SSE and AVX in the standard format.
const WORDS: usize = 104;
/// Offsets in 8-byte words.
const MXCSR: usize = 3;
const ST0: usize = 4;
const XMM0: usize = 20;
const XMM_END: usize = 52;
const HEADER: usize = 64;
const YMM_HIGH: usize = 72;
/// Control word with every exception masked, and all eight registers in use.
const CONTROL: u64 = 0x37f | (0xff << 32);
const MXCSR_DEFAULT: u64 = 0x1f80;
const MXCSR_ROUNDING_SHIFT: u32 = 13;
/// The upper two bytes of an x87 register: sign 0, exponent of 1.
const ONE: u64 = 0x3fff;
const INTEGER_BIT: u64 = 1 << 63;

#[derive(Clone)]
#[repr(C, align(64))]
struct Area([u64; WORDS]);

/// What the registers were loaded with.
pub(crate) struct Extended {
    loaded: Area,
    components: u64,
}

impl Extended {
    /// Loads all of them with values from `random`.
    pub(crate) fn load(random: &mut Random) -> Self {
        let components = enable();
        let mut area = Area([0; WORDS]);
        area.0[0] = CONTROL;
        area.0[MXCSR] = MXCSR_DEFAULT | ((random.next() & 3) << MXCSR_ROUNDING_SHIFT);
        for register in area.0[ST0..XMM0].chunks_exact_mut(2) {
            register[0] = random.next() | INTEGER_BIT;
            register[1] = ONE;
        }
        area.0[XMM0..XMM_END].fill_with(|| random.next());
        area.0[HEADER] = components;
        if components == X87_SSE_AND_AVX {
            area.0[YMM_HIGH..].fill_with(|| random.next());
        }
        let at = area.0.as_ptr();
        if components == 0 {
            // SAFETY: a legacy area as FXRSTOR wants it, whose values are all legal.
            unsafe { asm!("fxrstor64 [{}]", in(reg) at, options(readonly, nostack)) };
        } else {
            // SAFETY: an area with a header that names only components enabled in XCR0, whose values are all legal.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) at, in("eax") components as u32, in("edx") 0, options(readonly, nostack));
            }
        }
        Self {
            loaded: area,
            components,
        }
    }

    /// Calls `differs` with the offset of each word of the XSAVE area that changed.
    pub(crate) fn compare(&self, differs: impl Fn(usize)) {
        let mut area = Area([0; WORDS]);
        let at = area.0.as_mut_ptr();
        if self.components == 0 {
            // SAFETY: the area is large enough and aligned.
            unsafe { asm!("fxsave64 [{}]", in(reg) at, options(nostack)) };
        } else {
            // SAFETY: the area is large enough for the components named, and aligned.
            unsafe {
                asm!("xsave64 [{}]", in(reg) at, in("eax") self.components as u32, in("edx") 0, options(nostack));
            }
        }
        // The mask beside MXCSR is the processor's own.
        area.0[MXCSR] &= 0xffff_ffff;
        let compared = (0..1).chain(MXCSR..XMM_END).chain(YMM_HIGH..WORDS);
        for index in compared {
            if area.0[index] != self.loaded.0[index] {
                differs(index * 8);
            }
        }
    }
}

/// Makes the registers usable; returns the components of XCR0, or 0 where there is no XSAVE.
fn enable() -> u64 {
    let features = cpu::cpuid(FEATURES, 0).ecx;
    let cr4 = match features & XSAVE {
        0 => CR4_SSE,
        _ => CR4_SSE | CR4_OSXSAVE,
    };
    // SAFETY: nothing in this guest relied on these registers being unusable.
    unsafe {
        asm!(
            "mov {scratch}, cr0", "and {scratch}, {clear}", "or {scratch}, {mp}", "mov cr0, {scratch}",
            "mov {scratch}, cr4", "or {scratch}, {cr4}", "mov cr4, {scratch}",
            scratch = out(reg) _, clear = in(reg) !(CR0_EM | CR0_TS), mp = in(reg) CR0_MP, cr4 = in(reg) cr4,
            options(nostack),
        );
    }
    let components = match (features & XSAVE, features & AVX) {
        (0, _) => return 0,
        (_, 0) => X87_AND_SSE,
        _ => X87_SSE_AND_AVX,
    };
    // SAFETY: the components are ones that CPUID offers, x87 among them.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") components as u32, in("edx") 0, options(nomem, nostack));
    }
    components
}
