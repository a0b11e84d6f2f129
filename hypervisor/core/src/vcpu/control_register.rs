//! CR0 and CR4 of a guest: which bits the host owns, what the real registers hold, which writes are refused.
//!
//! The host owns NE (VMX operation demands it), CD and NW (the caches are the machine's, and VM exits do not
//! restore these two bits), VMXE, MCE (a machine check with MCE clear would shut the processor down) and
//! every CR4 bit of a feature that the guest's CPUID does not show.

use super::registers::{GprIndex, Gprs};
use super::step::Step;
use super::{Cpu, Vcpu};
use crate::addr::Gpa;
use crate::fault::{GuestFault, StopReason};
use crate::msr;
use crate::vmx::capability::Negotiated;
use crate::vmx::controls::Entry;
use crate::vmx::exit::CrAccess;
use crate::vmx::field::{self, Natural};

const CR0_PE: u64 = 1 << 0;
const CR0_NE: u64 = 1 << 5;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
/// PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG.
const CR0_DEFINED: u64 = 0xe005_003f;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CR4_PAE: u64 = 1 << 5;
const CR4_MCE: u64 = 1 << 6;
const CR4_VMXE: u64 = 1 << 13;
const CR4_PCIDE: u64 = 1 << 17;

impl Vcpu {
    /// A write to CR0 or CR4 of what the host owns.
    pub(super) fn control_register<C: Cpu>(
        &mut self,
        cpu: &mut C,
        gprs: &Gprs,
        access: CrAccess,
    ) -> Result<Step, GuestFault> {
        let value = |cpu: &C, gpr: u8| match GprIndex::new(gpr) {
            GprIndex::RSP => cpu.read(field::GUEST_RSP).0,
            index => gprs.get(index),
        };
        match access {
            CrAccess::Write { cr: 0, gpr } => {
                write_cr0(cpu, &self.controls, value(cpu, gpr))?;
            }
            CrAccess::Write { cr: 4, gpr } => {
                write_cr4(
                    cpu,
                    &self.controls,
                    self.cpuid.allowed_cr4(),
                    value(cpu, gpr),
                )?;
            }
            // No control that makes other accesses exit is on.
            _ => return Err(GuestFault::Stop(StopReason::UnexpectedExit(28))),
        }
        Ok(Step::NEXT)
    }
}

/// CR0 bits that the host owns.
#[must_use]
pub const fn cr0_mask(controls: &Negotiated) -> u64 {
    // An unrestricted guest may clear PE and PG, whatever the fixed bits say.
    (controls.cr0_fixed0 & !(CR0_PE | CR0_PG)) | CR0_NE | CR0_CD | CR0_NW
}

/// What CR0 really holds while the guest believes in `value`.
#[must_use]
pub const fn real_cr0(value: u64, controls: &Negotiated) -> u64 {
    (value & !(CR0_CD | CR0_NW)) | (controls.cr0_fixed0 & !(CR0_PE | CR0_PG)) | CR0_NE
}

/// CR4 bits that the host owns.
#[must_use]
pub const fn cr4_mask(controls: &Negotiated, allowed: u64) -> u64 {
    controls.cr4_fixed0 | CR4_VMXE | CR4_MCE | !allowed
}

/// What CR4 really holds while the guest believes in `value`.
#[must_use]
pub const fn real_cr4(value: u64, controls: &Negotiated) -> u64 {
    value | controls.cr4_fixed0 | CR4_VMXE | CR4_MCE
}

/// Judges a MOV to CR0 that touches a bit the host owns (Intel SDM vol. 3A, "Control Registers").
///
/// # Errors
/// #GP where the processor would raise it.
pub const fn check_cr0(value: u64) -> Result<(), GuestFault> {
    let cache_ok = value & CR0_NW == 0 || value & CR0_CD != 0;
    let paging_ok = value & CR0_PG == 0 || value & CR0_PE != 0;
    if value >> 32 == 0 && cache_ok && paging_ok {
        Ok(())
    } else {
        Err(GuestFault::GP0)
    }
}

/// CR0 as the processor takes it: undefined low bits are ignored, ET is always set.
#[must_use]
pub const fn normal_cr0(value: u64) -> u64 {
    (value & CR0_DEFINED) | (1 << 4)
}

/// Judges a MOV to CR4 that touches a bit the host owns.
///
/// # Errors
/// #GP for a feature that the guest does not have.
pub const fn check_cr4(value: u64, allowed: u64) -> Result<(), GuestFault> {
    if value & !allowed == 0 {
        Ok(())
    } else {
        Err(GuestFault::GP0)
    }
}

/// Carries out a MOV to CR0 that exited.
///
/// # Errors
/// #GP where the processor would raise it, or a stop for a mode change Bulkhead does not follow.
pub fn write_cr0<C: Cpu>(cpu: &mut C, controls: &Negotiated, value: u64) -> Result<(), GuestFault> {
    check_cr0(value)?;
    let value = normal_cr0(value);
    let efer = cpu.read(field::GUEST_EFER);
    let paging = value & CR0_PG != 0;
    if paging != (cpu.read(field::GUEST_CR0).0 & CR0_PG != 0) {
        check_paging_switch(cpu, paging)?;
    }
    if paging && efer & EFER_LME == 0 && cpu.read(field::GUEST_CR4).0 & CR4_PAE != 0 {
        load_pdptes(cpu)?;
    }
    cpu.write(field::CR0_READ_SHADOW, Natural(value));
    if !paging && cpu.read(field::GUEST_CR0).0 & CR0_PG != 0 {
        // The instruction would have done this (Intel SDM vol. 3A, "Operations that Invalidate TLBs and
        // Paging-Structure Caches").
        cpu.forget_translations();
    }
    cpu.write(field::GUEST_CR0, Natural(real_cr0(value, controls)));
    // The CPU does this by itself for writes that do not exit (Intel SDM vol. 3A, "Initializing IA-32e Mode").
    let long = paging && efer & EFER_LME != 0;
    cpu.write(
        field::GUEST_EFER,
        if long {
            efer | EFER_LMA
        } else {
            efer & !EFER_LMA
        },
    );
    let entry = Entry::from_bits_retain(cpu.read(field::ENTRY_CONTROLS));
    let mut wanted = entry;
    wanted.set(Entry::IA32E, long);
    cpu.write(field::ENTRY_CONTROLS, wanted.bits());
    Ok(())
}

/// Judges switching paging on or off, of which the processor decides by itself what does not exit
/// (Intel SDM vol. 2B, "MOV—Move to/from Control Registers").
fn check_paging_switch<C: Cpu>(cpu: &C, on: bool) -> Result<(), GuestFault> {
    const CS_LONG: u32 = 1 << 13;
    let cr4 = cpu.read(field::GUEST_CR4).0;
    let lme = cpu.read(field::GUEST_EFER) & EFER_LME != 0;
    let long_code = lme && cpu.read(field::GUEST_CS_ACCESS) & CS_LONG != 0;
    let refused = if on {
        long_code || (lme && cr4 & CR4_PAE == 0)
    } else {
        long_code || cr4 & CR4_PCIDE != 0
    };
    if refused {
        Err(GuestFault::GP0)
    } else {
        Ok(())
    }
}

/// Under PAE paging the four top entries live in registers that a MOV to CR0 or CR3 loads
/// (Intel SDM vol. 3A, "PDPTE Registers").
fn load_pdptes<C: Cpu>(cpu: &mut C) -> Result<(), GuestFault> {
    const RESERVED: u64 = 0xfff0_0000_0000_01e6;
    let table = Gpa(cpu.read(field::GUEST_CR3).0 & 0xffff_ffe0);
    let mut bytes = [0; 32];
    if !cpu.read_guest(table, &mut bytes) {
        return Err(GuestFault::GP0);
    }
    let (entries, _) = bytes.as_chunks::<8>();
    let fields = [
        field::GUEST_PDPTE0,
        field::GUEST_PDPTE1,
        field::GUEST_PDPTE2,
        field::GUEST_PDPTE3,
    ];
    for entry in entries {
        let entry = u64::from_le_bytes(*entry);
        if entry & 1 != 0 && entry & RESERVED != 0 {
            return Err(GuestFault::GP0);
        }
    }
    for (field, entry) in fields.into_iter().zip(entries) {
        cpu.write(field, u64::from_le_bytes(*entry));
    }
    Ok(())
}

/// Carries out a MOV to CR4 that exited.
///
/// # Errors
/// #GP for a feature that the guest does not have.
pub fn write_cr4<C: Cpu>(
    cpu: &mut C,
    controls: &Negotiated,
    allowed: u64,
    value: u64,
) -> Result<(), GuestFault> {
    check_cr4(value, allowed)?;
    cpu.write(field::CR4_READ_SHADOW, Natural(value));
    cpu.write(field::GUEST_CR4, Natural(real_cr4(value, controls)));
    Ok(())
}

/// Carries out a WRMSR of IA32_EFER.
///
/// # Errors
/// #GP for reserved bits, and for a change of LME while paging is on.
pub fn write_efer<C: Cpu>(cpu: &mut C, value: u64) -> Result<(), GuestFault> {
    let paging = cpu.read(field::GUEST_CR0).0 & CR0_PG != 0;
    let efer = msr::validate_efer(value, cpu.read(field::GUEST_EFER), paging)?;
    cpu.write(field::GUEST_EFER, efer.bits());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmx::controls::Secondary;

    const CONTROLS: Negotiated = Negotiated {
        revision: 0,
        pin: 0,
        primary: 0,
        secondary: 0,
        exit: 0,
        entry: 0,
        preemption_timer_shift: 0,
        optional: Secondary::empty(),
        on_demand: Secondary::empty(),
        steps: true,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: u64::MAX,
        cr4_fixed0: 0x2000,
        cr4_fixed1: u64::MAX,
    };

    #[test]
    fn a_guest_in_real_mode_keeps_only_what_vmx_demands() {
        assert_eq!(real_cr0(0, &CONTROLS), CR0_NE);
        assert_eq!(cr0_mask(&CONTROLS) & (CR0_PE | CR0_PG), 0);
    }

    #[test]
    fn caches_stay_on_whatever_the_guest_writes() {
        assert_eq!(
            real_cr0(CR0_CD | CR0_NW | CR0_PE, &CONTROLS) & (CR0_CD | CR0_NW),
            0
        );
    }

    #[test]
    fn vmx_enable_is_never_the_guests() {
        assert_ne!(cr4_mask(&CONTROLS, u64::MAX) & CR4_VMXE, 0);
        assert_eq!(check_cr4(CR4_VMXE, 0x20), Err(GuestFault::GP0));
        assert_eq!(real_cr4(0, &CONTROLS), CR4_VMXE | CR4_MCE);
    }

    #[test]
    fn impossible_cr0_values_fault() {
        assert_eq!(check_cr0(CR0_PG), Err(GuestFault::GP0));
        assert_eq!(check_cr0(CR0_NW), Err(GuestFault::GP0));
        assert_eq!(check_cr0(1 << 32), Err(GuestFault::GP0));
        assert_eq!(check_cr0(CR0_PG | CR0_PE | CR0_CD | CR0_NW), Ok(()));
    }
}
