//! The assembly routines, and for each a function that cannot be called wrongly.
//!
//! | file | what it has | registers it uses |
//! |---|---|---|
//! | `state.S` | keeping and returning vector registers | those of the routine |
//! | `keys.S` | AES-256 key schedules | XMM0 to XMM3 |
//! | `xts_aesni.S` | XTS, eight blocks at a time | XMM0 to XMM15 |
//! | `xts_vaes.S` | XTS, sixteen blocks at a time | YMM0 to YMM15, so all of ZMM0 to ZMM15 |
//! | `tag_clmul.S` | the tag | XMM0 to XMM7 |
//! | `tag_vpclmul.S` | the tag, two blocks in a register | YMM0 to YMM11, so all of ZMM0 to ZMM11 |
//!
//! They are assembly because the UEFI target is soft-float: its compiler has no vector intrinsics. The routines follow the System V
//! calling convention, on every target, and push nothing. What they promise about the vector registers, and what they need
//! for it, is told at [`SaveArea`].
//!
//! A routine's time depends on the number of blocks and on nothing else: there is no table and no branch on data.
#![allow(unsafe_code)] // Calls of assembly, whose every pointer comes from a reference made here.

mod save;

pub use save::SaveArea;

use crate::block::{Block, Direction};
use core::arch::global_asm;
use core::mem::offset_of;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Round keys of AES-256.
const ROUND_KEYS: usize = 15;
/// Blocks that the tag's routines take at a time, and powers of the hash key that they need.
pub const TAG_GROUP: usize = 8;
/// XCR0: the opmask registers, the upper halves of ZMM0 to ZMM15, and ZMM16 to ZMM31; Intel SDM vol. 1, "Enabling the XSAVE
/// Feature Set and XSAVE-Enabled Features". Software can only enable all three.
const AVX512_STATE: u32 = 0b111 << 5;

/// One AES-256 key's round keys, each twice, for one direction.
#[repr(C, align(64))]
pub struct RoundKeys([[u8; 32]; ROUND_KEYS]);

impl Drop for RoundKeys {
    fn drop(&mut self) {
        wipe(self.0.as_flattened_mut());
    }
}

impl ZeroizeOnDrop for RoundKeys {}

/// In no line: a length that is known becomes as many instructions.
#[inline(never)]
fn wipe(bytes: &mut [u8]) {
    bytes.zeroize();
}

/// What the routines of XTS read.
#[derive(ZeroizeOnDrop)]
#[repr(C)]
pub struct XtsSchedule {
    encrypt: RoundKeys,
    decrypt: RoundKeys,
    tweak: RoundKeys,
}

/// What the routines of the tag read.
#[derive(ZeroizeOnDrop)]
#[repr(C)]
pub struct TagSchedule {
    /// The hash key to the power of [`TAG_GROUP`], and so on down to 1.
    powers: [Block; TAG_GROUP],
    cipher: RoundKeys,
}

/// A constant in each lane of a YMM register.
#[repr(C, align(32))]
struct Lanes([u64; 4]);

/// What x^128 is in the field of XTS: x^7 + x^2 + x + 1.
static XTS_POLYNOMIAL: Lanes = Lanes([0x87, 0, 0x87, 0]);
/// What x^-64 is in the field of POLYVAL, less the lowest bit: x^63 + x^62 + x^57.
static POLYVAL_POLYNOMIAL: Lanes = Lanes([0xc2 << 56, 0, 0xc2 << 56, 0]);

const _: () = {
    assert!(size_of::<RoundKeys>() == 512);
    assert!(offset_of!(XtsSchedule, encrypt) == 0);
    assert!(offset_of!(TagSchedule, powers) == 0);
    assert!(align_of::<TagSchedule>() >= 16);
};

global_asm!(
    include_str!("state.S"),
    include_str!("keys.S"),
    include_str!("xts_aesni.S"),
    include_str!("xts_vaes.S"),
    include_str!("tag_clmul.S"),
    include_str!("tag_vpclmul.S"),
    AVX512_STATE = const AVX512_STATE,
    XTS_POLYNOMIAL = sym XTS_POLYNOMIAL,
    POLYVAL_POLYNOMIAL = sym POLYVAL_POLYNOMIAL,
    ENCRYPT = const offset_of!(XtsSchedule, encrypt),
    DECRYPT = const offset_of!(XtsSchedule, decrypt),
    TWEAK = const offset_of!(XtsSchedule, tweak),
    POWERS = const offset_of!(TagSchedule, powers),
    CIPHER = const offset_of!(TagSchedule, cipher),
);

unsafe extern "sysv64" {
    fn bulkhead_crypto_aes256_expand(
        key: *const [u8; 32],
        encrypt: *mut RoundKeys,
        area: *mut SaveArea,
    );
    fn bulkhead_crypto_aes256_invert(
        encrypt: *const RoundKeys,
        decrypt: *mut RoundKeys,
        area: *mut SaveArea,
    );
}

/// Declares routines of one signature, and the type of a pointer to one of them.
macro_rules! routines {
    ($(#[$doc:meta])* $kind:ident $parameters:tt: $($routine:ident)*) => {
        $(#[$doc])*
        type $kind = unsafe extern "sysv64" fn $parameters;

        unsafe extern "sysv64" {
            $(fn $routine $parameters;)*
        }
    };
}

routines! {
    /// XTS in either form and direction.
    XtsRoutine(
        schedule: *const XtsSchedule,
        tweak: *const Block,
        from: *const Block,
        to: *mut Block,
        blocks: usize,
        area: *mut SaveArea
    ):
    bulkhead_crypto_xts_encrypt_aesni bulkhead_crypto_xts_decrypt_aesni
    bulkhead_crypto_xts_encrypt_vaes bulkhead_crypto_xts_decrypt_vaes
}

routines! {
    /// The tag in either form.
    TagRoutine(
        schedule: *const TagSchedule,
        groups: *const [Block; TAG_GROUP],
        count: usize,
        last: *const [Block; 2],
        tag: *mut Block,
        area: *mut SaveArea
    ):
    bulkhead_crypto_tag_clmul bulkhead_crypto_tag_vpclmul
}

/// The vector registers to compute in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// 128 bits: AES-NI and PCLMULQDQ.
    AesNi,
    /// 256 bits: VAES and VPCLMULQDQ.
    Vaes,
}

const fn xts_routine(form: Form, direction: Direction) -> XtsRoutine {
    match (form, direction) {
        (Form::AesNi, Direction::Encrypt) => bulkhead_crypto_xts_encrypt_aesni,
        (Form::AesNi, Direction::Decrypt) => bulkhead_crypto_xts_decrypt_aesni,
        (Form::Vaes, Direction::Encrypt) => bulkhead_crypto_xts_encrypt_vaes,
        (Form::Vaes, Direction::Decrypt) => bulkhead_crypto_xts_decrypt_vaes,
    }
}

impl RoundKeys {
    const ZERO: Self = Self([[0; 32]; ROUND_KEYS]);

    fn expand(&mut self, key: &[u8; 32], area: &mut SaveArea) {
        // SAFETY: the routine reads 32 bytes of the key, writes 15 round keys of 32 bytes, and uses what it keeps in the area:
        // references to just these, the latter two exclusive and aligned by their types.
        unsafe { bulkhead_crypto_aes256_expand(key, self, area) }
    }

    fn invert(&mut self, encrypt: &Self, area: &mut SaveArea) {
        // SAFETY: as in `expand`; the routine reads the round keys of `encrypt`, which are not those that it writes.
        unsafe { bulkhead_crypto_aes256_invert(encrypt, self, area) }
    }
}

impl XtsSchedule {
    /// To be filled in its place: a schedule that is moved leaves a copy behind.
    pub const ZERO: Self = Self {
        encrypt: RoundKeys::ZERO,
        decrypt: RoundKeys::ZERO,
        tweak: RoundKeys::ZERO,
    };

    /// Expands both keys. The processor has AES-NI, or this is an invalid opcode.
    pub fn fill(&mut self, data: &[u8; 32], tweak: &[u8; 32], area: &mut SaveArea) {
        self.encrypt.expand(data, area);
        self.decrypt.invert(&self.encrypt, area);
        self.tweak.expand(tweak, area);
    }

    /// Encrypts or decrypts `blocks` where they are. The processor has what `form` says, or this is an invalid opcode.
    pub fn apply(
        &self,
        form: Form,
        direction: Direction,
        tweak: &Block,
        blocks: &mut [Block],
        area: &mut SaveArea,
    ) {
        let to = blocks.as_mut_ptr();
        // SAFETY: the routine reads the schedule and the tweak, and reads and writes as many blocks as there are, each before it
        // writes it: `to` is the only pointer to them in use. All other references are to what the routine takes, the area's exclusive.
        unsafe { xts_routine(form, direction)(self, tweak, to, to, blocks.len(), area) }
    }

    /// As [`Self::apply`], from one place to another: as many blocks as the shorter one has.
    pub fn apply_into(
        &self,
        form: Form,
        direction: Direction,
        tweak: &Block,
        (from, to): (&[Block], &mut [Block]),
        area: &mut SaveArea,
    ) {
        let count = from.len().min(to.len());
        // SAFETY: as in `apply`; no more blocks are read and written than both slices have, and they do not overlap.
        unsafe {
            xts_routine(form, direction)(self, tweak, from.as_ptr(), to.as_mut_ptr(), count, area);
        }
    }
}

impl TagSchedule {
    /// To be filled in its place.
    pub const ZERO: Self = Self {
        powers: [[0; 16]; TAG_GROUP],
        cipher: RoundKeys::ZERO,
    };

    /// Expands the cipher's key, and takes the powers of the hash key, the highest first, from `powers`.
    /// The processor has AES-NI, or this is an invalid opcode.
    pub fn fill(
        &mut self,
        powers: impl FnOnce(&mut [Block; TAG_GROUP]),
        cipher: &[u8; 32],
        area: &mut SaveArea,
    ) {
        powers(&mut self.powers);
        self.cipher.expand(cipher, area);
    }

    /// Puts the tag of `groups` and the two `last` blocks into `tag`.
    /// The processor has what `form` says, or this is an invalid opcode.
    pub fn apply(
        &self,
        form: Form,
        groups: &[[Block; TAG_GROUP]],
        last: &[Block; 2],
        tag: &mut Block,
        area: &mut SaveArea,
    ) {
        let routine: TagRoutine = match form {
            Form::AesNi => bulkhead_crypto_tag_clmul,
            Form::Vaes => bulkhead_crypto_tag_vpclmul,
        };
        let count = groups.len();
        // SAFETY: the routine reads the schedule, `count` groups and the two blocks, writes 16 bytes of the tag, and uses what it keeps
        // in the area: references to just these, the latter two exclusive, the schedule and the area aligned by their types.
        unsafe { routine(self, groups.as_ptr(), count, last, tag, area) }
    }
}

#[cfg(test)]
mod tests;
