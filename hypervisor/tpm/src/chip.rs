//! A TPM as one uses it: each call is a command, or a few that belong together; nothing is left in the TPM afterwards.

use crate::command::{self, Command, Handle};
use crate::error::{Fault, TpmError};
use crate::pcr::{PcrSet, PcrValues};
use crate::response::{Answer, MOST_TICKET_BYTES};
use crate::wire::{MOST_BYTES, Writer};
use crate::{DIGEST_BYTES, Digest};
use alloc::boxed::Box;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// How often a command is given to a TPM that says it is busy: with the pauses for some five seconds, which is what a TPM may take
/// for its self-test, or for making a key.
const ATTEMPTS: u32 = 500;
/// Bytes of an answer to `TPM2_GetRandom`, at most: what any TPM gives at once.
const RANDOM_BYTES: usize = 32;
/// The most bytes of a part of a sealed object. Of 32 sealed bytes a TPM makes some 160 private ones, 80 public ones, and 120 about how
/// they were made.
pub const MOST_OBJECT_BYTES: usize = 240;

// The largest answer fits, `TPM2_Create`'s: header, parameter size, the object's three parts, their digest, the ticket, the
// authorisation area. The others have no three of such parts, or, with what PCRs hold, eight of their digests.
const _: () = assert!(
    10 + 4 + 3 * (2 + MOST_OBJECT_BYTES) + (2 + DIGEST_BYTES) + MOST_TICKET_BYTES + 5 <= MOST_BYTES
);

/// The way to a TPM.
pub trait Transport {
    /// Sends `command`, and puts the answer at the front of `answer`.
    ///
    /// # Errors
    /// The firmware's status, when the TPM did not get the command.
    fn submit(&mut self, command: &[u8], answer: &mut [u8]) -> Result<(), usize>;

    /// Waits for some milliseconds.
    fn pause(&mut self);
}

/// A TPM behind a [`Transport`].
pub struct Tpm<'t> {
    transport: &'t mut dyn Transport,
}

/// A sealed object outside the TPM: only the TPM that made it can load it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedObject {
    /// `TPMT_PUBLIC`: what it is, with its policy.
    pub public: Vec<u8>,
    /// `TPM2B_PRIVATE`: the secret, encrypted by the TPM.
    pub private: Vec<u8>,
    /// `TPMS_CREATION_DATA`: what the PCRs held when it was made.
    pub creation: Vec<u8>,
    /// `TPMT_TK_CREATION`: the TPM's word for that.
    pub ticket: Vec<u8>,
}

impl SealedObject {
    /// Whether it says that it was made when the PCRs had the values `pcrs`.
    #[must_use]
    pub fn was_made_with(&self, pcrs: &PcrValues) -> bool {
        let mut expected = Writer::new();
        pcrs.write_creation(&mut expected);
        self.creation.starts_with(expected.bytes())
    }
}

/// A key, wiped when dropped.
pub type Secret = Box<Zeroizing<[u8; DIGEST_BYTES]>>;

impl<'t> Tpm<'t> {
    /// The TPM that `transport` leads to.
    pub fn new(transport: &'t mut dyn Transport) -> Self {
        Self { transport }
    }

    /// What the PCRs of `set` hold.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn pcrs(&mut self, set: PcrSet) -> Result<PcrValues, TpmError> {
        let mut values = PcrValues::default();
        loop {
            let left = set.without(values.set());
            if left.is_empty() {
                return Ok(values);
            }
            // A TPM answers with some of those asked for, eight as a rule, and with one at least.
            self.perform(&command::pcr_read(left), |answer| {
                answer.parameters()?.pcr_values(left, &mut values)
            })?;
        }
    }

    /// Fills `bytes` with random ones of the TPM's.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn random(&mut self, bytes: &mut [u8]) -> Result<(), TpmError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let wanted = rest.len().min(RANDOM_BYTES);
            let got = self.perform(&command::get_random(wanted as u16), |answer| {
                let random = answer.parameters()?.sized("randomBytes", 1..=wanted)?;
                for (to, from) in rest.iter_mut().zip(random) {
                    *to = *from;
                }
                Ok(random.len())
            })?;
            filled += got;
        }
        Ok(())
    }

    /// Has the TPM encrypt `secret`, to be had back when the PCRs hold `pcrs`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn seal(
        &mut self,
        secret: &[u8; DIGEST_BYTES],
        pcrs: &PcrValues,
    ) -> Result<SealedObject, TpmError> {
        self.below_root(|tpm, root| {
            let create = command::create_sealed(root, secret, &pcrs.policy(), pcrs.set());
            tpm.create(&create)
        })
    }

    /// Gets back what `object` holds, if the PCRs of `set` hold what its policy asks for, and the object was made as it says.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn unseal(&mut self, object: &SealedObject, set: PcrSet) -> Result<Secret, TpmError> {
        let creation = Digest::of(&[&object.creation]);
        self.below_root(|tpm, root| {
            let load = command::load(root, &object.private, &object.public);
            tpm.with(&load, |tpm, loaded| {
                let secret = tpm.with(&command::start_policy_session(), |tpm, session| {
                    tpm.perform(&command::policy_pcr(session, set), |_| Ok(()))?;
                    tpm.perform(&command::unseal(loaded, session), |answer| {
                        let whole = DIGEST_BYTES..=DIGEST_BYTES;
                        let data = answer.parameters()?.sized("outData", whole)?;
                        let mut secret = Secret::default();
                        secret.copy_from_slice(data);
                        Ok(secret)
                    })
                })?;
                let certify = command::certify_creation(loaded, &creation, &object.ticket);
                tpm.perform(&certify, |_| Ok(()))?;
                Ok(secret)
            })
        })
    }

    fn create(&mut self, create: &Command) -> Result<SealedObject, TpmError> {
        self.perform(create, |answer| {
            let mut parameters = answer.parameters()?;
            let mut part = |what| parameters.sized(what, 1..=MOST_OBJECT_BYTES);
            let private = part("outPrivate")?.to_vec();
            let public = part("outPublic")?.to_vec();
            let creation = part("creationData")?.to_vec();
            parameters.sized("creationHash", DIGEST_BYTES..=DIGEST_BYTES)?;
            Ok(SealedObject {
                public,
                private,
                creation,
                ticket: parameters.ticket()?.to_vec(),
            })
        })
    }

    /// What `job` does below the storage root key.
    fn below_root<R>(
        &mut self,
        job: impl FnOnce(&mut Self, Handle) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        self.with(&command::create_primary(), job)
    }

    /// What `job` does with what `making` makes, which is flushed in any case.
    fn with<R>(
        &mut self,
        making: &Command,
        job: impl FnOnce(&mut Self, Handle) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        let handle = self.perform(making, |answer| Ok(answer.handle()?.0))?;
        let done = job(self, handle);
        // A session is gone once it was used; and what matters of two errors is the first.
        let _ = self.perform(&command::flush_context(handle), |_| Ok(()));
        done
    }

    /// Gives `command` to the TPM, again while it is busy, and has `read` read its answer.
    fn perform<R>(
        &mut self,
        command: &Command,
        read: impl FnOnce(Answer<'_>) -> Result<R, Fault>,
    ) -> Result<R, TpmError> {
        let mut answer = Box::new(Zeroizing::new([0; MOST_BYTES]));
        let opened = self.converse(command, answer.as_mut_slice());
        opened.and_then(read).map_err(|fault| TpmError {
            command: command.code(),
            fault,
        })
    }

    fn converse<'a>(
        &mut self,
        command: &Command,
        answer: &'a mut [u8],
    ) -> Result<Answer<'a>, Fault> {
        let mut attempts = 1;
        loop {
            self.transport
                .submit(command.bytes(), answer)
                .map_err(Fault::Transport)?;
            match Answer::open(answer, command.has_sessions()) {
                Err(Fault::Refused(code)) if code.is_passing() && attempts < ATTEMPTS => {
                    attempts += 1;
                    self.transport.pause();
                }
                _ => return Answer::open(answer, command.has_sessions()),
            }
        }
    }
}

#[cfg(test)]
pub mod testing {
    //! Sealing in ways that only an attacker does.

    use super::*;
    use crate::command::{Command, Handle};

    /// Creates by the command that `create` makes for the storage root key.
    pub fn seal_by(
        tpm: &mut Tpm<'_>,
        create: impl FnOnce(Handle) -> Command,
    ) -> Result<SealedObject, TpmError> {
        tpm.below_root(|tpm, root| tpm.create(&create(root)))
    }
}
