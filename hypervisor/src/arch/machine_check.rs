//! The machine-check registers of this CPU. What they mean is `bulkhead_core::mce`'s.

use super::cpu::{cpuid, rdmsr, wrmsr};
use bulkhead_core::mce::{
    BankMsrs, BankRegisters, IA32_MCG_CAP, IA32_MCG_CTL, IA32_MCG_STATUS, McgCap, McgStatus,
    StatusFlags,
};

/// What this CPU has: no banks where CPUID shows no machine-check architecture.
#[must_use]
pub fn cap() -> McgCap {
    const MCE: u32 = 1 << 7;
    const MCA: u32 = 1 << 14;
    if cpuid(1, 0).edx & (MCE | MCA) == MCE | MCA {
        // SAFETY: CPUID shows the architecture, to which this register belongs.
        McgCap(unsafe { rdmsr(IA32_MCG_CAP) })
    } else {
        McgCap(0)
    }
}

/// Turns every kind of error of every bank on (Intel SDM vol. 3B, "Machine-Check Initialization").
pub fn enable(cap: McgCap) {
    if cap.has_control() {
        // SAFETY: the capability register says that this one exists; all ones turn everything on.
        unsafe { wrmsr(IA32_MCG_CTL, u64::MAX) };
    }
    for bank in 0..cap.banks() {
        // SAFETY: the bank exists; a kind of error that it does not know is a bit that it ignores.
        unsafe { wrmsr(BankMsrs::of(bank).control, u64::MAX) };
    }
}

/// How the machine check that is being handled came.
#[must_use]
pub fn status(cap: McgCap) -> McgStatus {
    if cap.banks() == 0 {
        return McgStatus::empty();
    }
    // SAFETY: a CPU with banks has this register.
    McgStatus::from_bits_truncate(unsafe { rdmsr(IA32_MCG_STATUS) })
}

/// Lets the next machine check come: one that came before would have shut the machine down.
pub fn finish(cap: McgCap) {
    if cap.banks() != 0 {
        // SAFETY: a CPU with banks has this register, and takes 0.
        unsafe { wrmsr(IA32_MCG_STATUS, 0) };
    }
}

/// What every bank says. Registers that a bank says are not valid may not even be there, and read as 0.
pub fn banks(cap: McgCap) -> impl Iterator<Item = BankRegisters> {
    (0..cap.banks()).map(|bank| {
        let msrs = BankMsrs::of(bank);
        // SAFETY: the bank exists.
        let status = unsafe { rdmsr(msrs.status) };
        let flags = StatusFlags::from_bits_truncate(status);
        let read = |msr, valid| {
            if flags.contains(StatusFlags::VALID | valid) {
                // SAFETY: the bank exists, and says that the register holds something.
                unsafe { rdmsr(msr) }
            } else {
                0
            }
        };
        BankRegisters {
            bank,
            status,
            address: read(msrs.address, StatusFlags::ADDRESS_VALID),
            misc: read(msrs.misc, StatusFlags::MISC_VALID),
        }
    })
}

/// Empties a bank, for the next error.
pub fn clear(bank: u8) {
    // SAFETY: the callers got the number from `banks`; 0 is the only value that a bank's status takes.
    unsafe { wrmsr(BankMsrs::of(bank).status, 0) };
}
