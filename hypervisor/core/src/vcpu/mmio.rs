//! EPT violations: an access to a device register is carried out, anything else ends the VM.

use super::devices::Devices;
use super::registers::{GprIndex, Gprs};
use super::{Cpu, Step, Vcpu, event, linear};
use crate::addr::Gva;
use crate::fault::{GuestFault, StopReason};
use crate::insn::{self, CpuMode, Operation};
use crate::vmx::exit::EptViolation;
use crate::vmx::field;

/// The longest instruction, in bytes.
const MAX_INSTRUCTION: usize = 15;

impl Vcpu {
    pub(super) fn ept_violation<C: Cpu>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        devices: &mut Devices,
        violation: EptViolation,
    ) -> Result<Step, GuestFault> {
        let EptViolation {
            gpa,
            write,
            fetch,
            translated,
            ..
        } = violation;
        if !Devices::owns(gpa) || fetch || !translated {
            return Err(GuestFault::Stop(StopReason::OutsideMemory { gpa, write }));
        }
        // What the violation interrupted is delivered first; the access happens again afterwards.
        event::reinject_interrupted(cpu);
        if event::entry_is_taken(cpu) {
            return Ok(Step::Same);
        }
        let mut bytes = [0; MAX_INSTRUCTION];
        let length = cpu.read(field::EXIT_INSTRUCTION_LENGTH) as usize;
        let fetched = match fetch_instruction(cpu, &mut bytes, length) {
            Ok(count) => bytes.get(..count).unwrap_or_default(),
            Err(fault) => return self.page_fault(cpu, fault),
        };
        let undecoded = GuestFault::Stop(StopReason::UndecodedAccess { gpa });
        let insn = insn::decode(fetched, mode(cpu)).map_err(|_| undecoded)?;
        gprs.set(GprIndex::RSP, cpu.read(field::GUEST_RSP).0);
        match gprs.store_value(&insn) {
            Some(value) => {
                devices.write_register(gpa, value as u32, &mut self.apic);
                self.nmi_pending |= devices.take_nmi();
                self.attention = true;
            }
            None => {
                let value = devices.read_register(gpa);
                gprs.complete_load(&insn, value.into());
                if matches!(insn.operation, Operation::Load { .. }) {
                    cpu.write(field::GUEST_RSP, field::Natural(gprs.get(GprIndex::RSP)));
                }
            }
        }
        event::advance_by(cpu, insn.length.into());
        Ok(Step::Same)
    }
}

/// The instruction's bytes, as many as can be had; the CPU's own figure for its length when it gives one.
fn fetch_instruction<C: Cpu>(
    cpu: &mut C,
    bytes: &mut [u8; MAX_INSTRUCTION],
    length: usize,
) -> Result<usize, linear::LinearFault> {
    let base = if mode(cpu) == CpuMode::Bits64 {
        0
    } else {
        cpu.read(field::GUEST_CS_BASE).0
    };
    let at = Gva(base.wrapping_add(cpu.read(field::GUEST_RIP).0));
    let whole = if (1..=MAX_INSTRUCTION).contains(&length) {
        length
    } else {
        MAX_INSTRUCTION
    };
    // The page after the instruction need not be there: take what its own page holds, then the rest if it can be had.
    let here = whole.min((0x1000 - at.page_offset()) as usize);
    linear::fetch(cpu, at, bytes.get_mut(..here).unwrap_or_default())?;
    let rest = Gva(at.0.wrapping_add(here as u64));
    match linear::fetch(cpu, rest, bytes.get_mut(here..whole).unwrap_or_default()) {
        Ok(()) => Ok(whole),
        Err(_) => Ok(here),
    }
}

fn mode<C: Cpu>(cpu: &C) -> CpuMode {
    const LONG: u32 = 1 << 13;
    const DEFAULT_32: u32 = 1 << 14;
    const EFER_LMA: u64 = 1 << 10;
    let rights = cpu.read(field::GUEST_CS_ACCESS);
    if rights & LONG != 0 && cpu.read(field::GUEST_EFER) & EFER_LMA != 0 {
        CpuMode::Bits64
    } else if rights & DEFAULT_32 != 0 {
        CpuMode::Bits32
    } else {
        CpuMode::Bits16
    }
}
