//! What goes wrong between Bulkhead and a TPM, and what to do about it.

use crate::command::{CommandCode, code};
use core::fmt;

/// A command that did not do what it was to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TpmError {
    /// The command.
    pub command: CommandCode,
    /// What became of it.
    pub fault: Fault,
}

/// What became of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The firmware did not bring it to the TPM; its status.
    Transport(usize),
    /// The TPM refused it.
    Refused(ResponseCode),
    /// The TPM's answer is none to this command.
    Malformed {
        /// The byte of the answer that is wrong, or missing.
        at: usize,
        /// What stands there, as the specification names it.
        what: &'static str,
    },
    /// The TPM has no bank of SHA-256.
    NoBank,
}

/// `TPM_RC`: why a TPM refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseCode(pub u32);

impl ResponseCode {
    /// `RC_FMT1`.
    const FORMAT_ONE: u32 = 0x80;

    /// The code of what is wrong, without the number of the handle, session or parameter it is about ("Response Code Formats",
    /// in part 1).
    const fn base(self) -> u32 {
        if self.is_about_input() {
            self.0 & 0xbf
        } else {
            self.0
        }
    }

    /// The TPM asks to be asked again: `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_RETRY`.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(self.0, 0x908 | 0x90a | 0x922)
    }

    /// PCRs do not hold what a policy asks for: `TPM_RC_POLICY_FAIL`; or changed after it was looked: `TPM_RC_PCR_CHANGED`.
    #[must_use]
    pub const fn is_policy(self) -> bool {
        matches!(self.base(), 0x9d | 0x128)
    }

    /// Something is wrong with what the command came with: `RC_FMT1`.
    const fn is_about_input(self) -> bool {
        self.0 & Self::FORMAT_ONE != 0
    }
}

impl TpmError {
    /// PCRs do not hold what a policy asks for.
    #[must_use]
    pub const fn is_policy(&self) -> bool {
        matches!(self.fault, Fault::Refused(code) if code.is_policy())
    }

    /// What was to be loaded is not this TPM's, or damaged.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        matches!(self.fault, Fault::Refused(code) if code.is_about_input())
            && self.command.0 == code::LOAD.0
    }

    /// The TPM does not know an object as one that it made as it is said to have.
    #[must_use]
    pub const fn is_forged(&self) -> bool {
        matches!(self.fault, Fault::Refused(code) if code.is_about_input())
            && self.command.0 == code::CERTIFY_CREATION.0
    }
}

impl fmt::Display for ResponseCode {
    /// None of the advice is to clear the TPM: that loses what everybody else has sealed with it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.base() {
            0x100 => "the firmware did not start it",
            0x101 => {
                "it failed its self-test; switch the machine off and on, and have the TPM replaced if it stays so"
            }
            0x85 | 0x120 => {
                "its storage hierarchy is turned off; turn it on in the firmware's settings"
            }
            0x8e | 0xa2 => {
                "its owner has a password, and Bulkhead has none; have the owner set an empty one (`tpm2_changeauth -c owner`), which \
                 loses no key"
            }
            0x921 => {
                "it is locked after too many wrong passwords; leave the machine on until it lets go, some hours at most, or have who knows \
                 the lockout password end it"
            }
            0x902 | 0x903 => "it has no memory left; switch the machine off and on",
            0x9d => "a policy is not satisfied",
            0x9f => "the object is not its own, or damaged",
            0x128 => "a PCR changed meanwhile",
            _ if self.is_passing() => "it stayed busy; switch the machine off and on",
            _ => "see \"TPM_RC\" in part 2 of the TPM library specification",
        };
        write!(f, "{:#05x}: {meaning}", self.0)
    }
}

impl fmt::Display for TpmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, fault } = self;
        match fault {
            Fault::Transport(status) => write!(
                f,
                "the firmware did not carry out {command} (status {status:#x}); switch the machine off and on, or update its firmware"
            ),
            Fault::Refused(code) => write!(f, "the TPM refused {command} with {code}"),
            Fault::Malformed { at, what } => write!(
                f,
                "the TPM's answer to {command} is wrong at byte {at} ({what}); do not trust this TPM before that is explained"
            ),
            Fault::NoBank => f.write_str(
                "the TPM's SHA-256 PCR bank is off; turn it on in the firmware's settings",
            ),
        }
    }
}

impl core::error::Error for TpmError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn no_advice_costs_other_peoples_keys() {
        for code in 1..0x1000 {
            let text = ResponseCode(code).to_string();
            assert!(!text.to_lowercase().contains("clear"), "{text}");
        }
    }

    #[test]
    fn refusals_that_a_person_can_end_say_how() {
        for (code, advice) in [
            (0x98e, "empty"),
            (0x9a2, "empty"),
            (0x921, "leave the machine on"),
            (0x185, "turn it on"),
            (0x902, "off and on"),
        ] {
            let text = ResponseCode(code).to_string();
            assert!(text.contains(advice), "{text}");
        }
    }
}
