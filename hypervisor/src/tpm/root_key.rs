//! The root key: from the processor, the firmware and the TPM at each boot, or the one that the TPM keeps.
//!
//! The sealed key lies in a variable of the firmware's that no operating system sees. It is no secret; who deletes it has a new root
//! key made, and who replaces it is found out.

use super::Measured;
use super::firmware;
use super::memory_overwrite;
use crate::arch::random;
use crate::events::send;
use crate::memory::stack;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::events::{Event, RootKeyOrigin};
use bulkhead_core::manifest::{HypervisorOptions, RootKeySource};
use bulkhead_core::tpm::measurement::What;
use bulkhead_core::tpm::root_key::{self, Entropy, Step};
use bulkhead_core::tpm::{Secret, Tpm, sealed};
use bulkhead_crypto::RootKey;
use core::fmt;
use uefi::proto::rng::Rng;
use uefi::runtime::{self, VariableAttributes, VariableVendor};
use uefi::{CStr16, Status, boot, cstr16, guid};

const VARIABLE: &CStr16 = cstr16!("BulkheadRootKey");
const VENDOR: VariableVendor = VariableVendor(guid!("904d637c-624f-42d1-a406-134624fb8048"));

/// Half of what the firmware gives an application at least ("UEFI Specification", "x64 Platforms").
const WIPED_STACK_KIB: usize = 64;

/// Why there is no root key.
pub enum RootKeyError {
    /// Nothing on this machine is random.
    NoEntropy,
    /// The manifest wants a TPM to keep it, and there is none.
    NoTpm,
    /// Something that the key is to be bound to was not measured.
    NotMeasured(What, Status),
    /// The firmware's variable could not be read or written.
    Variable(Status),
    /// The TPM would give it out again, for no PCR could be closed.
    NotClosed,
    /// The TPM keeps it back.
    Sealed(root_key::RootKeyError),
}

impl From<root_key::RootKeyError> for RootKeyError {
    fn from(error: root_key::RootKeyError) -> Self {
        Self::Sealed(error)
    }
}

impl fmt::Display for RootKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEntropy => f.write_str(
                "there is nothing to make a root key of: the processor has neither RDSEED nor RDRAND that works, and neither the firmware \
                 nor a TPM gives random numbers",
            ),
            Self::NoTpm => f.write_str(
                "`root_key = \"tpm\"` in the manifest: the firmware has no TPM 2.0; turn it on in the firmware's settings, or write \
                 `root_key = \"ephemeral\"`",
            ),
            Self::NotMeasured(what, status) => write!(
                f,
                "`root_key = \"tpm\"` in the manifest: {what} could not be measured ({status}), so no key can be bound to it"
            ),
            Self::Variable(status) => write!(
                f,
                "the firmware's variable BulkheadRootKey cannot be used ({status}); free room for variables in the firmware's settings"
            ),
            Self::NotClosed => f.write_str(
                "`root_key = \"tpm\"` in the manifest: no PCR could be closed, so the TPM would give the root key to whoever asks next; \
                 switch the machine off and on, or update its firmware",
            ),
            Self::Sealed(error) => error.fmt(f),
        }
    }
}

/// The root key, as the manifest wants it, and the event that says where it comes from. Nobody can ask the TPM for it after this.
///
/// # Errors
/// [`RootKeyError`].
pub fn obtain(
    options: &HypervisorOptions,
    measured: Measured,
) -> Result<Box<RootKey>, RootKeyError> {
    let obtained = obtain_and_close(options, measured);
    // What the firmware's driver left there, too: a command with the key in it lies in its buffers.
    stack::wipe::<WIPED_STACK_KIB>();
    obtained
}

#[inline(never)]
fn obtain_and_close(
    options: &HypervisorOptions,
    mut measured: Measured,
) -> Result<Box<RootKey>, RootKeyError> {
    let (origin, seal, mut key) = match options.root_key {
        RootKeySource::Ephemeral => ("ephemeral", None, fresh(&mut measured)?),
        RootKeySource::Tpm => {
            if !measured.has_tpm() {
                return Err(RootKeyError::NoTpm);
            }
            if let Some((what, status)) = &measured.missed {
                return Err(RootKeyError::NotMeasured(what.clone(), *status));
            }
            memory_overwrite::request();
            let stored = stored()?;
            let reseal = options.reseal.map(|id| id.0);
            let (origin, seal, key) = match root_key::decide(stored.as_deref(), reseal) {
                Step::Make => {
                    let (seal, key) = make(&mut measured)?;
                    ("made", seal, key)
                }
                Step::Unseal(stored) => {
                    let (mut tpm, list) = parts(&mut measured)?;
                    let key = root_key::unseal(&mut tpm, stored, list)?;
                    ("unsealed", sealed::id(stored), key)
                }
            };
            log::info!("root key {seal:08x}: {origin}, kept by the TPM");
            (origin, Some(seal), key)
        }
    };
    send(&Event::RootKey(RootKeyOrigin {
        origin,
        seal,
        // One that nobody meets again has none: what is printed of it would make two boots differ by some instructions.
        fingerprint: seal.map(|_| root_key::fingerprint(&key)),
    }));
    let key = RootKey::take(&mut key);
    match (options.root_key, measured.close()) {
        (RootKeySource::Tpm, false) => Err(RootKeyError::NotClosed),
        _ => Ok(key),
    }
}

/// Makes a root key, has the TPM seal it, and stores that. What was stored before stays until the TPM has given the new one back.
fn make(measured: &mut Measured) -> Result<(u32, Secret), RootKeyError> {
    let key = fresh(measured)?;
    let (mut tpm, list) = parts(measured)?;
    let sealed = root_key::make(&mut tpm, &key, list)?;
    store(&sealed).map_err(RootKeyError::Variable)?;
    // A key that the next boot does not find would be lost with all that it opens.
    match stored()? {
        Some(found) if found == sealed => Ok((sealed::id(&sealed), key)),
        _ => Err(RootKeyError::Variable(Status::COMPROMISED_DATA)),
    }
}

/// Puts `sealed` in the place of what is stored.
fn store(sealed: &[u8]) -> Result<(), Status> {
    let attributes = VariableAttributes::NON_VOLATILE | VariableAttributes::BOOTSERVICE_ACCESS;
    let write = || {
        let written = runtime::set_variable(VARIABLE, &VENDOR, attributes, sealed);
        written.map_err(|error| error.status())
    };
    match write() {
        // One that has other attributes, which somebody else gave it, cannot be written over.
        Err(Status::INVALID_PARAMETER) => {
            runtime::delete_variable(VARIABLE, &VENDOR).map_err(|error| error.status())?;
            write()
        }
        written => written,
    }
}

/// The TPM, and what it was told.
fn parts(
    measured: &mut Measured,
) -> Result<(Tpm<'_>, &[bulkhead_core::tpm::Measurement]), RootKeyError> {
    let firmware = measured.firmware.as_mut().ok_or(RootKeyError::NoTpm)?;
    Ok((Tpm::new(firmware), &measured.list))
}

/// The sealed key of an earlier boot.
fn stored() -> Result<Option<Vec<u8>>, RootKeyError> {
    match runtime::get_variable_boxed(VARIABLE, &VENDOR) {
        Ok((bytes, _)) => Ok(Some(bytes.into_vec())),
        Err(error) if error.status() == Status::NOT_FOUND => Ok(None),
        Err(error) => Err(RootKeyError::Variable(error.status())),
    }
}

/// A new key.
#[inline(never)]
fn fresh(measured: &mut Measured) -> Result<Secret, RootKeyError> {
    let entropy = entropy(measured);
    let key = root_key::mix(&entropy).ok_or(RootKeyError::NoEntropy)?;
    log::info!("root key: of random bytes from {entropy}");
    Ok(key)
}

/// Random bytes from wherever there are some.
#[inline(never)]
fn entropy(measured: &mut Measured) -> Entropy {
    let mut found = Entropy::default();
    // Each is drawn where it stays until it is wiped.
    if !random::fill(found.processor.insert([0; 32])) {
        found.processor = None;
    }
    let rng = boot::get_handle_for_protocol::<Rng>().ok();
    if let Some(mut rng) = rng.and_then(firmware::open::<Rng>)
        && rng.get_rng(None, found.firmware.insert([0; 32])).is_err()
    {
        found.firmware = None;
    }
    if let Some(firmware) = &mut measured.firmware
        && Tpm::new(firmware)
            .random(found.tpm.insert([0; 32]))
            .is_err()
    {
        found.tpm = None;
    }
    found
}
