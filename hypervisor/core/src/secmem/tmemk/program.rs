//! What PCONFIG reads, and what it answers (Intel SDM vol. 2B, "PCONFIG—Platform Configuration", leaf MKTME_KEY_PROGRAM).

use core::fmt;
use core::mem::offset_of;

use super::HardwareKeyId;

/// MKTME_KEY_PROGRAM_STRUCT: what becomes of one key. There is nothing secret in it: the processor makes the key.
#[repr(C, align(256))]
#[derive(Debug)]
pub struct KeyProgram {
    key_id: u16,
    /// KEYID_CTRL, which is not aligned.
    control: [u8; 4],
    ignored: [u8; 58],
    /// KEY_FIELD_1 and KEY_FIELD_2: what is mixed into the processor's random numbers. Nothing: RDSEED has the same source.
    mixed_in: [[u64; 8]; 2],
}

const _: () = assert!(
    offset_of!(KeyProgram, key_id) == 0
        && offset_of!(KeyProgram, control) == 2
        && offset_of!(KeyProgram, ignored) == 6
        && offset_of!(KeyProgram, mixed_in) == 64
        && size_of::<[u64; 8]>() == 64
        && size_of::<KeyProgram>() == 256
        && align_of::<KeyProgram>() == 256
);

/// Bits 7:0 of KEYID_CTRL.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Command {
    /// The processor makes the key: nobody ever knows it.
    SetKeyRandom = 1,
    /// Forgets the key; the id is another name of the machine's own key.
    ClearKey = 2,
}

/// Bits 23:8 of KEYID_CTRL, numbered as bits 63:48 of IA32_TME_ACTIVATE. Clearing a key wants one, too.
const AES_XTS_256: u8 = 1 << 2;

impl KeyProgram {
    /// Has the processor make a key for `id`.
    pub(super) const fn make_key(id: HardwareKeyId) -> Self {
        Self::new(id, Command::SetKeyRandom)
    }

    /// Has the key of `id` forgotten.
    pub(super) const fn clear_key(id: HardwareKeyId) -> Self {
        Self::new(id, Command::ClearKey)
    }

    const fn new(id: HardwareKeyId, command: Command) -> Self {
        Self {
            key_id: id.number(),
            control: [command as u8, AES_XTS_256, 0, 0],
            ignored: [0; 58],
            mixed_in: [[0; 8]; 2],
        }
    }

    /// The key id it is for.
    #[must_use]
    pub const fn key_id(&self) -> u16 {
        self.key_id
    }

    /// KEYID_CTRL.
    #[must_use]
    pub const fn control(&self) -> u32 {
        u32::from_le_bytes(self.control)
    }
}

/// Why PCONFIG did not do what it was asked for. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramError {
    /// INVALID_PROG_CMD, from processors that do not raise an exception instead; as the next two.
    Command,
    /// ENTROPY_ERROR: the processor had no random numbers left.
    NoEntropy,
    /// INVALID_KEYID.
    KeyId,
    /// INVALID_ENC_ALG.
    Algorithm,
    /// DEVICE_BUSY: somebody else is changing the table of keys.
    Busy,
    /// A number that the manual does not have.
    Unknown(u64),
}

impl ProgramError {
    /// What RAX says after PCONFIG.
    ///
    /// # Errors
    /// Unless it says that the key was programmed.
    pub const fn check(rax: u64) -> Result<(), Self> {
        Err(match rax {
            0 => return Ok(()),
            1 => Self::Command,
            2 => Self::NoEntropy,
            3 => Self::KeyId,
            4 => Self::Algorithm,
            5 => Self::Busy,
            _ => Self::Unknown(rax),
        })
    }

    /// Whether trying again can help.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::NoEntropy | Self::Busy)
    }
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = match self {
            Self::Command => 1,
            Self::NoEntropy => 2,
            Self::KeyId => 3,
            Self::Algorithm => 4,
            Self::Busy => 5,
            Self::Unknown(raw) => *raw,
        };
        write!(f, "PCONFIG failed with {number}")
    }
}

impl core::error::Error for ProgramError {}
