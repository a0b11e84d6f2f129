//! Commands as bytes: the few that measuring, sealing and unsealing take ("Trusted Platform Module Library", part 3).
//!
//! Each builder names the structure of its fields; what a reader looks up there stands in the same order.

use crate::Digest;
use crate::pcr::{PcrSet, SHA256};
use crate::wire::Writer;
use core::fmt;

/// `TPM_CC`: which command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandCode(pub u32);

/// The commands used ("TPM_CC", in part 2).
pub(crate) mod code {
    use super::CommandCode;

    pub(crate) const CREATE_PRIMARY: CommandCode = CommandCode(0x131);
    pub(crate) const CERTIFY_CREATION: CommandCode = CommandCode(0x14a);
    pub(crate) const CREATE: CommandCode = CommandCode(0x153);
    pub(crate) const LOAD: CommandCode = CommandCode(0x157);
    pub(crate) const UNSEAL: CommandCode = CommandCode(0x15e);
    pub(crate) const FLUSH_CONTEXT: CommandCode = CommandCode(0x165);
    pub(crate) const START_AUTH_SESSION: CommandCode = CommandCode(0x176);
    pub(crate) const GET_RANDOM: CommandCode = CommandCode(0x17b);
    pub(crate) const PCR_READ: CommandCode = CommandCode(0x17e);
    pub(crate) const POLICY_PCR: CommandCode = CommandCode(0x17f);
}

impl fmt::Display for CommandCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            code::CREATE_PRIMARY => "CreatePrimary",
            code::CERTIFY_CREATION => "CertifyCreation",
            code::CREATE => "Create",
            code::LOAD => "Load",
            code::UNSEAL => "Unseal",
            code::FLUSH_CONTEXT => "FlushContext",
            code::START_AUTH_SESSION => "StartAuthSession",
            code::GET_RANDOM => "GetRandom",
            code::PCR_READ => "PCR_Read",
            code::POLICY_PCR => "PolicyPCR",
            Self(other) => return write!(f, "TPM command {other:#x}"),
        };
        write!(f, "TPM2_{name}")
    }
}

/// Something that the TPM holds under a number until it is flushed: an object or a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handle(pub(crate) u32);

/// `TPM_RH_OWNER`: the storage hierarchy.
const OWNER: Handle = Handle(0x4000_0001);
/// `TPM_RH_NULL`.
const NO_HANDLE: Handle = Handle(0x4000_0007);
/// `TPM_RS_PW`: authorisation by a password in the command.
const PASSWORD: Handle = Handle(0x4000_0009);

/// `TPM_ST_NO_SESSIONS` and `TPM_ST_SESSIONS`.
pub(crate) const NO_SESSIONS: u16 = 0x8001;
pub(crate) const SESSIONS: u16 = 0x8002;

/// Algorithms and curves ("TPM_ALG_ID" and "TPM_ECC_CURVE", in part 2).
const AES: u16 = 0x0006;
const KEYED_HASH: u16 = 0x0008;
const NULL: u16 = 0x0010;
const ECC: u16 = 0x0023;
const CFB: u16 = 0x0043;
const NIST_P256: u16 = 0x0003;
/// `TPM_SE_POLICY`.
const POLICY_SESSION: u8 = 0x01;

bitflags::bitflags! {
    /// `TPMA_OBJECT`.
    #[derive(Clone, Copy)]
    struct Attributes: u32 {
        const FIXED_TPM = 1 << 1;
        const FIXED_PARENT = 1 << 4;
        const SENSITIVE_DATA_ORIGIN = 1 << 5;
        const USER_WITH_AUTH = 1 << 6;
        const ADMIN_WITH_POLICY = 1 << 7;
        const NO_DA = 1 << 10;
        const RESTRICTED = 1 << 16;
        const DECRYPT = 1 << 17;
    }
}

/// A command as it goes to the TPM.
pub(crate) struct Command {
    code: CommandCode,
    sessions: bool,
    bytes: Writer,
}

impl Command {
    /// The header, whose size is filled in at the end, and the handles.
    fn begin(code: CommandCode, tag: u16, handles: &[Handle]) -> Self {
        let mut bytes = Writer::new();
        bytes.u16(tag).u32(0).u32(code.0);
        for handle in handles {
            bytes.u32(handle.0);
        }
        Self {
            code,
            sessions: tag == SESSIONS,
            bytes,
        }
    }

    /// The same with an authorisation area of one `TPMS_AUTH_COMMAND`: for the first handle by `session`, with neither nonce nor HMAC.
    fn authorised(code: CommandCode, handles: &[Handle], session: Handle) -> Self {
        const AREA_BYTES: u32 = 9;
        let mut command = Self::begin(code, SESSIONS, handles);
        command.bytes.u32(AREA_BYTES).u32(session.0);
        command.bytes.sized(&[]).u8(0).sized(&[]);
        command
    }

    fn end(mut self) -> Self {
        let size = self.bytes.bytes().len() as u32;
        self.bytes.patch(2, size);
        self
    }

    pub(crate) const fn code(&self) -> CommandCode {
        self.code
    }

    /// Whether it has an authorisation area, which its answer has then, too.
    pub(crate) const fn has_sessions(&self) -> bool {
        self.sessions
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.bytes()
    }
}

pub(crate) fn get_random(bytes: u16) -> Command {
    let mut command = Command::begin(code::GET_RANDOM, NO_SESSIONS, &[]);
    command.bytes.u16(bytes);
    command.end()
}

pub(crate) fn pcr_read(set: PcrSet) -> Command {
    let mut command = Command::begin(code::PCR_READ, NO_SESSIONS, &[]);
    set.write(&mut command.bytes);
    command.end()
}

/// Makes the storage root key, the same one each time: the ECC template of "TCG TPM v2.0 Provisioning Guidance", "Storage Root Key",
/// which every system software of the machine uses.
pub(crate) fn create_primary() -> Command {
    let mut command = Command::authorised(code::CREATE_PRIMARY, &[OWNER], PASSWORD);
    let attributes = Attributes::FIXED_TPM
        | Attributes::FIXED_PARENT
        | Attributes::SENSITIVE_DATA_ORIGIN
        | Attributes::USER_WITH_AUTH
        | Attributes::NO_DA
        | Attributes::RESTRICTED
        | Attributes::DECRYPT;
    let mut public = public_area(ECC, attributes, &[]);
    public.u16(AES).u16(128).u16(CFB);
    public.u16(NULL).u16(NIST_P256).u16(NULL);
    public.sized(&[0; 32]).sized(&[0; 32]);
    creation(&mut command.bytes, &[], &public);
    command.bytes.u32(0);
    command.end()
}

/// Seals `secret` below `parent`: only a session that satisfies `policy` gets it back, and no password does. The TPM notes what
/// the PCRs of `set` hold meanwhile.
pub(crate) fn create_sealed(
    parent: Handle,
    secret: &[u8],
    policy: &Digest,
    set: PcrSet,
) -> Command {
    let mut command = Command::authorised(code::CREATE, &[parent], PASSWORD);
    let attributes = Attributes::FIXED_TPM
        | Attributes::FIXED_PARENT
        | Attributes::ADMIN_WITH_POLICY
        | Attributes::NO_DA;
    let mut public = public_area(KEYED_HASH, attributes, &policy.0);
    public.u16(NULL).sized(&[]);
    creation(&mut command.bytes, secret, &public);
    set.write(&mut command.bytes);
    command.end()
}

pub(crate) fn load(parent: Handle, private: &[u8], public: &[u8]) -> Command {
    let mut command = Command::authorised(code::LOAD, &[parent], PASSWORD);
    command.bytes.sized(private).sized(public);
    command.end()
}

/// Has the TPM check that `object` was made as `ticket` says, when the creation data was what hashes to `hash`. Nothing is signed.
pub(crate) fn certify_creation(object: Handle, hash: &Digest, ticket: &[u8]) -> Command {
    let handles = [NO_HANDLE, object];
    let mut command = Command::authorised(code::CERTIFY_CREATION, &handles, PASSWORD);
    command
        .bytes
        .sized(&[])
        .sized(&hash.0)
        .u16(NULL)
        .put(ticket);
    command.end()
}

/// A policy session, neither salted nor bound: it proves what the PCRs hold, and hides nothing on the way to the TPM.
pub(crate) fn start_policy_session() -> Command {
    // A nonce makes answers of salted sessions differ; this session has no key that one could go into.
    const NONCE: [u8; 16] = [0; 16];
    let handles = [NO_HANDLE, NO_HANDLE];
    let mut command = Command::begin(code::START_AUTH_SESSION, NO_SESSIONS, &handles);
    command.bytes.sized(&NONCE).sized(&[]);
    command.bytes.u8(POLICY_SESSION).u16(NULL).u16(SHA256);
    command.end()
}

/// Puts the values that `set` has now into `session`'s policy.
pub(crate) fn policy_pcr(session: Handle, set: PcrSet) -> Command {
    let mut command = Command::begin(code::POLICY_PCR, NO_SESSIONS, &[session]);
    command.bytes.sized(&[]);
    set.write(&mut command.bytes);
    command.end()
}

pub(crate) fn unseal(object: Handle, session: Handle) -> Command {
    Command::authorised(code::UNSEAL, &[object], session).end()
}

pub(crate) fn flush_context(handle: Handle) -> Command {
    let mut command = Command::begin(code::FLUSH_CONTEXT, NO_SESSIONS, &[]);
    command.bytes.u32(handle.0);
    command.end()
}

/// The fields of a `TPMT_PUBLIC` that come before those of its type.
fn public_area(kind: u16, attributes: Attributes, policy: &[u8]) -> Writer {
    let mut public = Writer::new();
    public.u16(kind).u16(SHA256).u32(attributes.bits());
    public.sized(policy);
    public
}

/// The parameters of both creating commands up to the PCRs to be noted: `TPM2B_SENSITIVE_CREATE` without a password, the public
/// area, no outside information.
fn creation(to: &mut Writer, secret: &[u8], public: &Writer) {
    const TWO_COUNTS: usize = 4;
    to.u16((TWO_COUNTS + secret.len()) as u16);
    to.sized(&[]).sized(secret);
    to.sized(public.bytes()).sized(&[]);
}
