//! Machine checks: what the banks say, and what becomes of the machine (Intel SDM vol. 3B, "Machine-Check Architecture").
//!
//! The shell reads the registers of each bank; [`BankError::decode`] names one bank's error and its [`Severity`], and
//! [`judge`] turns all of a CPU's into one [`Verdict`]. Deciding is total: a value the manual does not define is fatal.
//! A frame gone bad under a guest stops its owner ([`Consequence`]); an error in the hypervisor's own course stops the machine.

mod code;

#[cfg(test)]
mod tests;

use core::fmt;

use bitflags::bitflags;

use crate::addr::{FRAME_SIZE, Hpa};
use crate::ledger::{Owner, VmId};

pub use code::ErrorCode;

/// IA32_MCG_CAP.
pub const IA32_MCG_CAP: u32 = 0x179;
/// IA32_MCG_STATUS.
pub const IA32_MCG_STATUS: u32 = 0x17a;
/// IA32_MCG_CTL.
pub const IA32_MCG_CTL: u32 = 0x17b;

/// The MSRs of a bank: control, status, address and further information.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BankMsrs {
    /// IA32_MCi_CTL.
    pub control: u32,
    /// IA32_MCi_STATUS.
    pub status: u32,
    /// IA32_MCi_ADDR.
    pub address: u32,
    /// IA32_MCi_MISC.
    pub misc: u32,
}

impl BankMsrs {
    /// Those of bank number `bank`.
    #[must_use]
    pub fn of(bank: u8) -> Self {
        let first = 0x400 + 4 * u32::from(bank);
        Self {
            control: first,
            status: first + 1,
            address: first + 2,
            misc: first + 3,
        }
    }
}

/// IA32_MCG_CAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct McgCap(pub u64);

impl McgCap {
    /// How many banks there are that have MSRs: behind those of 32 banks the VMX capability registers begin.
    #[must_use]
    pub const fn banks(self) -> u8 {
        const MOST: u8 = 32;
        if self.0 as u8 > MOST {
            MOST
        } else {
            self.0 as u8
        }
    }

    /// Whether there is IA32_MCG_CTL, which turns all of it on (MCG_CTL_P).
    #[must_use]
    pub const fn has_control(self) -> bool {
        self.0 & 1 << 8 != 0
    }

    /// Whether uncorrected errors may be recoverable (MCG_SER_P).
    #[must_use]
    pub const fn recovers(self) -> bool {
        self.0 & 1 << 24 != 0
    }
}

bitflags! {
    /// IA32_MCG_STATUS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct McgStatus: u64 {
        /// The interrupted program could be resumed.
        const RESTART_IP_VALID = 1 << 0;
        /// The interrupted instruction has to do with the error.
        const ERROR_IP_VALID = 1 << 1;
        /// A machine check is being handled.
        const IN_PROGRESS = 1 << 2;
        /// Only this CPU was told.
        const LOCAL = 1 << 3;
    }

    /// The flags of IA32_MCi_STATUS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct StatusFlags: u64 {
        /// Recovery is required before going on (AR).
        const ACTION_REQUIRED = 1 << 55;
        /// A machine check was raised for it (S).
        const SIGNALED = 1 << 56;
        /// The processor's state may be corrupt (PCC).
        const CONTEXT_CORRUPT = 1 << 57;
        /// IA32_MCi_ADDR holds an address.
        const ADDRESS_VALID = 1 << 58;
        /// IA32_MCi_MISC holds something.
        const MISC_VALID = 1 << 59;
        /// This kind of error was enabled.
        const ENABLED = 1 << 60;
        /// Not corrected (UC).
        const UNCORRECTED = 1 << 61;
        /// An error before it was lost.
        const OVERFLOW = 1 << 62;
        /// The bank holds an error.
        const VALID = 1 << 63;
    }
}

/// One bank's registers. Where [`StatusFlags`] say that address or further information are not valid, they are not looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BankRegisters {
    /// Its number.
    pub bank: u8,
    /// IA32_MCi_STATUS.
    pub status: u64,
    /// IA32_MCi_ADDR.
    pub address: u64,
    /// IA32_MCi_MISC.
    pub misc: u64,
}

/// How bad an error is ("UCR Error Classification").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The bank holds none.
    None,
    /// The hardware mended it, or it was not enabled and is spurious.
    Corrected,
    /// Data is lost, and nobody has used it yet (UCNA, SRAO).
    UncorrectedNoAction,
    /// The data at this address was used, and must not be used again (SRAR).
    ActionRequired(Hpa),
    /// Nothing can be relied on.
    Fatal,
}

/// An error found in a bank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BankError {
    /// The bank's number.
    pub bank: u8,
    /// What kind of error.
    pub code: ErrorCode,
    /// How bad.
    pub severity: Severity,
    /// Its physical address, where the bank says one.
    pub address: Option<Hpa>,
    /// IA32_MCi_STATUS, for the log.
    pub status: u64,
}

impl BankError {
    /// What a bank says; `None` where it holds no error.
    #[must_use]
    pub fn decode(cap: McgCap, bank: &BankRegisters) -> Option<Self> {
        let flags = StatusFlags::from_bits_truncate(bank.status);
        let reach = Reach::of(flags, bank);
        let severity = severity(cap, flags, reach);
        (severity != Severity::None).then_some(Self {
            bank: bank.bank,
            code: ErrorCode::of(bank.status as u16),
            severity,
            address: reach.map(|reach| reach.start),
            status: bank.status,
        })
    }
}

impl fmt::Display for BankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::None => "no",
            Severity::Corrected => "corrected",
            Severity::UncorrectedNoAction => "uncorrected, not yet used",
            Severity::ActionRequired(_) => "uncorrected and used",
            Severity::Fatal => "fatal",
        };
        write!(
            f,
            "machine-check bank {}: {severity} error, {}",
            self.bank, self.code
        )?;
        match self.address {
            Some(address) => write!(f, ", at {address}")?,
            None => f.write_str(", no address")?,
        }
        write!(f, " (status {:#018x})", self.status)
    }
}

/// The physical memory that an error is about.
#[derive(Clone, Copy)]
struct Reach {
    start: Hpa,
    /// Whether it lies within one frame.
    one_frame: bool,
}

impl Reach {
    /// "IA32_MCi_MISC MSRs": which bits of the address count, and that it is a physical one.
    fn of(flags: StatusFlags, bank: &BankRegisters) -> Option<Self> {
        const LEAST_BIT: u64 = 0x3f;
        const MODE_SHIFT: u32 = 6;
        const MODE: u64 = 0x7;
        const PHYSICAL: u64 = 2;
        let valid = StatusFlags::ADDRESS_VALID.union(StatusFlags::MISC_VALID);
        if !flags.contains(valid) || bank.misc >> MODE_SHIFT & MODE != PHYSICAL {
            return None;
        }
        let size = 1_u64 << (bank.misc & LEAST_BIT);
        Some(Self {
            start: Hpa(bank.address & !(size - 1)),
            one_frame: size <= FRAME_SIZE,
        })
    }
}

/// "UCR Error Classification" and "Machine-Check Error Handling" as a table, worst last.
fn severity(cap: McgCap, flags: StatusFlags, reach: Option<Reach>) -> Severity {
    let has = |flag| flags.contains(flag);
    if !has(StatusFlags::VALID) {
        return Severity::None;
    }
    if !has(StatusFlags::UNCORRECTED) {
        return Severity::Corrected;
    }
    if has(StatusFlags::CONTEXT_CORRUPT) {
        return Severity::Fatal;
    }
    if !has(StatusFlags::ENABLED) {
        return Severity::Corrected;
    }
    if !cap.recovers() {
        return Severity::Fatal;
    }
    match (
        has(StatusFlags::SIGNALED),
        has(StatusFlags::ACTION_REQUIRED),
    ) {
        (_, false) => Severity::UncorrectedNoAction,
        // What was lost may have been worse, and an unknown or large place has many owners.
        (true, true) if !has(StatusFlags::OVERFLOW) => match reach {
            Some(reach) if reach.one_frame => Severity::ActionRequired(reach.start),
            _ => Severity::Fatal,
        },
        _ => Severity::Fatal,
    }
}

/// What the machine check interrupted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupted {
    /// A guest.
    Guest,
    /// The hypervisor.
    Hypervisor,
}

/// What happens now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Log it and go on.
    Log,
    /// What [`Consequence::of`] says of who owns the frame at this address.
    StopOwner(Hpa),
    /// Stop everything.
    StopMachine,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log => f.write_str("logged, nothing stops"),
            Self::StopOwner(address) => write!(f, "the owner of the frame at {address} is stopped"),
            Self::StopMachine => f.write_str("the machine is stopped"),
        }
    }
}

/// What a frame gone bad means for the one who owns it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consequence {
    /// Nobody relies on what it held. Nobody may be given it either.
    Retire,
    /// This VM has lost part of its memory: it is stopped, and not started again by itself.
    StopVm(VmId),
    /// What was lost is read when a VM is started, if ever, or by the firmware.
    Nothing,
    /// The hypervisor has lost part of itself.
    StopMachine,
}

impl Consequence {
    /// By who owns the frame; `None` for an address that is in no ledger.
    #[must_use]
    pub const fn of(owner: Option<Owner>) -> Self {
        match owner {
            Some(Owner::Nobody) => Self::Retire,
            Some(Owner::Vm(vm)) => Self::StopVm(vm),
            Some(Owner::Payload | Owner::Firmware | Owner::Mmio) | None => Self::Nothing,
            Some(Owner::Hypervisor) => Self::StopMachine,
        }
    }
}

/// The verdict of one CPU, and the error that led to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// What happens.
    pub verdict: Verdict,
    /// The worst error found; `None` where no bank of this CPU holds one, as on CPUs that were only told.
    pub cause: Option<BankError>,
    /// Whether what was interrupted can go on. A guest that cannot is stopped too, whoever owns the frame.
    pub resumable: bool,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Some(cause) => write!(f, "{cause}: {}", self.verdict),
            None => write!(
                f,
                "machine check, and no bank holds an error: {}",
                self.verdict
            ),
        }
    }
}

/// Decides what a machine check that interrupted `interrupted` means for the machine.
#[must_use]
pub fn judge(
    cap: McgCap,
    status: McgStatus,
    interrupted: Interrupted,
    banks: impl IntoIterator<Item = BankRegisters>,
) -> Judgement {
    let resumable = status.contains(McgStatus::RESTART_IP_VALID);
    // An address that this CPU itself used concerns its own course; others merely see the bank they share.
    let used_here = !resumable || status.contains(McgStatus::ERROR_IP_VALID);
    let mut worst = Judgement {
        // Without any error this CPU was only told of another's.
        verdict: if resumable {
            Verdict::Log
        } else {
            Verdict::StopMachine
        },
        cause: None,
        resumable,
    };
    for cause in banks
        .into_iter()
        .filter_map(|bank| BankError::decode(cap, &bank))
    {
        let verdict = match cause.severity {
            Severity::None | Severity::Corrected | Severity::UncorrectedNoAction if resumable => {
                Verdict::Log
            }
            Severity::ActionRequired(address)
                if interrupted == Interrupted::Guest || !used_here =>
            {
                Verdict::StopOwner(address)
            }
            _ => Verdict::StopMachine,
        };
        worst = worst.worse(Judgement {
            verdict,
            cause: Some(cause),
            resumable,
        });
    }
    worst
}

impl Judgement {
    /// The worse of two. Two bad frames may have two owners, which one verdict cannot name.
    fn worse(self, other: Self) -> Self {
        match (self.verdict, other.verdict) {
            // Not resumable, and here is why.
            (_, _) if self.cause.is_none() => other,
            (Verdict::StopMachine, _) | (Verdict::StopOwner(_), Verdict::Log) => self,
            (Verdict::StopOwner(a), Verdict::StopOwner(b))
                if a.0 / FRAME_SIZE == b.0 / FRAME_SIZE =>
            {
                self
            }
            (Verdict::StopOwner(_), Verdict::StopOwner(_)) => Self {
                verdict: Verdict::StopMachine,
                ..other
            },
            (Verdict::Log, _) | (_, Verdict::StopMachine) => other,
        }
    }
}
