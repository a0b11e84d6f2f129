//! EPT violations: the split's are another view's, a sealed page is brought back, an access to a device register is carried out, anything else ends the VM.

use super::registers::{GprIndex, Gprs};
use super::{Cpu, CpuBus, DeviceAccess, Step, Then, Vcpu, event, linear};
use crate::addr::{FRAME_SIZE, Gva};
use crate::device::board::{Devices, PortOutcome};
use crate::fault::{GuestFault, StopReason};
use crate::insn::{self, CpuMode, MAX_LENGTH, Operation};
use crate::vmx::exit::EptViolation;
use crate::vmx::field;

impl Vcpu {
    pub(super) fn ept_violation<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        gprs: &mut Gprs,
        devices: &mut D,
        violation: EptViolation,
    ) -> Result<Step, GuestFault> {
        if self.divided.is_some()
            && let Some(step) = self.split_violation(cpu, &violation)?
        {
            return Ok(step);
        }
        let EptViolation {
            gpa,
            write,
            fetch,
            translated,
            unblocked_nmi,
            ..
        } = violation;
        if let Some(brought) = cpu.bring(gpa) {
            brought.map_err(GuestFault::Stop)?;
            event::undo_unblocking(cpu, unblocked_nmi);
            event::reinject_interrupted(cpu);
            return Ok(Step::SAME);
        }
        if fetch {
            return Err(GuestFault::Stop(StopReason::ExecutedOutsideMemory { gpa }));
        }
        let answered =
            |devices: &mut D| Devices::owns(gpa) || devices.with(|devices| devices.reaches(gpa));
        if !translated || !answered(devices) {
            return Err(GuestFault::Stop(StopReason::OutsideMemory { gpa, write }));
        }
        // What the violation interrupted is delivered first; the access happens again afterwards.
        event::reinject_interrupted(cpu);
        if event::entry_is_taken(cpu) {
            return Ok(Step::SAME);
        }
        let mut bytes = [0; MAX_LENGTH];
        let fetched = match fetch_instruction(cpu, &mut bytes) {
            Ok(count) => bytes.get(..count).unwrap_or_default(),
            Err(fault) => return self.page_fault(cpu, fault),
        };
        let undecoded = GuestFault::Stop(StopReason::UndecodedAccess { gpa });
        let insn = insn::decode(fetched, linear::code_mode(cpu)).map_err(|_| undecoded)?;
        gprs.set(GprIndex::RSP, cpu.read(field::GUEST_RSP).0);
        let size = insn.width.bytes() as u8;
        let mut outcome = PortOutcome::Nothing;
        match gprs.store_value(&insn) {
            Some(value) => {
                outcome = devices
                    .with(|devices| devices.write_register(gpa, size, value, &mut CpuBus(cpu)));
            }
            None => {
                let value = devices.with(|devices| devices.read_register(gpa, size));
                gprs.complete_load(&insn, value);
                if matches!(insn.operation, Operation::Load { .. }) {
                    cpu.write(field::GUEST_RSP, field::Natural(gprs.get(GprIndex::RSP)));
                }
            }
        }
        if outcome == PortOutcome::Again {
            return Ok(Step::Same(Then::Leave));
        }
        event::advance_by(cpu, insn.length.into());
        Ok(match outcome {
            PortOutcome::ConsoleOutput => Step::Same(Then::Poll),
            PortOutcome::Transmit(nic) => Step::Same(Then::Transmit(nic)),
            _ => Step::SAME,
        })
    }
}

/// The instruction's bytes, as many as can be had: at this exit the CPU does not say how long it is
/// (Intel SDM vol. 3C, "Information for VM Exits Due to Instruction Execution").
pub(super) fn fetch_instruction<C: Cpu>(
    cpu: &mut C,
    bytes: &mut [u8; MAX_LENGTH],
) -> Result<usize, linear::LinearFault> {
    let rip = cpu.read(field::GUEST_RIP).0;
    let at = Gva(match linear::code_mode(cpu) {
        CpuMode::Bits64 => rip,
        CpuMode::Bits32 | CpuMode::Bits16 => {
            cpu.read(field::GUEST_CS_BASE).0.wrapping_add(rip) & 0xffff_ffff
        }
    });
    // The page after the instruction need not be there: take what its own page holds, then the rest if it can be had.
    let here = MAX_LENGTH.min((FRAME_SIZE - at.page_offset()) as usize);
    linear::fetch(cpu, at, bytes.get_mut(..here).unwrap_or_default())?;
    let rest = Gva(at.0.wrapping_add(here as u64));
    match linear::fetch(cpu, rest, bytes.get_mut(here..).unwrap_or_default()) {
        Ok(()) => Ok(MAX_LENGTH),
        Err(_) => Ok(here),
    }
}
