//! What an EPT violation means that a view of the split's is the reason for.

use super::kernel::kernel_fault;
use super::segments::Segments;
use super::{CR0_PG, Stepping, UPPER_HALF, enter, private};
use crate::addr::{FRAME_SIZE, Gpa, Gva};
use crate::fault::{GuestFault, StopReason};
use crate::split::{Fetch, Place, Side};
use crate::vcpu::effects::Cpu;
use crate::vcpu::step::Step;
use crate::vcpu::{Vcpu, event, linear};
use crate::vmx::controls::Primary;
use crate::vmx::exit::{EptViolation, Interruption};
use crate::vmx::field;
use crate::walk::{AccessKind, PageFaultCode};

/// What a violation is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// Nothing of the split's.
    NotOurs,
    /// The view, or which one it is, is another now: the access, or the delivery, is made again.
    Again,
    /// The guest gets a page fault.
    PageFault(Gva, PageFaultCode),
}

impl Vcpu {
    /// What a violation means to the split; `None` where it has nothing to do with it.
    #[cold]
    pub(in crate::vcpu) fn split_violation<C: Cpu>(
        &mut self,
        cpu: &mut C,
        violation: &EptViolation,
    ) -> Result<Option<Step>, GuestFault> {
        if self.divided.is_none() {
            return Ok(None);
        }
        let is_user_code = (cpu.read(field::GUEST_SS_ACCESS) >> 5) & 3 == 3;
        let delivers = Interruption(cpu.read(field::IDT_VECTORING_INFO)).is_valid();
        let runs_user_code = is_user_code && !delivers;
        let meaning = match cpu.side() {
            Side::Base => Meaning::NotOurs,
            Side::Kernel if violation.fetch && violation.translated => {
                self.fetch_in_kernel(cpu, violation, runs_user_code)?
            }
            Side::Kernel => self.access_in_kernel(cpu, violation, runs_user_code, delivers)?,
            Side::User if runs_user_code => self.access_in_user(cpu, violation)?,
            Side::User => {
                enter(cpu, &mut self.counters.split, Side::Kernel);
                Meaning::Again
            }
        };
        if meaning == Meaning::NotOurs {
            return Ok(None);
        }
        event::undo_unblocking(cpu, violation.unblocked_nmi);
        match meaning {
            Meaning::PageFault(gva, code) => event::inject_page_fault(cpu, gva.0, code.bits()),
            _ => event::reinject_interrupted(cpu),
        }
        Ok(Some(Step::SAME))
    }

    /// Something is fetched that `kernel` does not let anybody execute.
    fn fetch_in_kernel<C: Cpu>(
        &mut self,
        cpu: &mut C,
        violation: &EptViolation,
        runs_user_code: bool,
    ) -> Result<Meaning, GuestFault> {
        let (Some(divided), Some(gva)) = (&mut self.divided, violation.gva) else {
            return Ok(Meaning::NotOurs);
        };
        if cpu.read(field::GUEST_CR0).0 & CR0_PG == 0 {
            // Then every address counts as user mode's, and this kernel is about to hand over to another.
            divided.hand_over(cpu);
            enter(cpu, &mut self.counters.split, Side::Base);
            return Ok(Meaning::Again);
        }
        if runs_user_code {
            return self.resume_user_code(cpu);
        }
        let fetch = kernel_fetch(cpu, violation, gva).map_err(GuestFault::Stop)?;
        Ok(match fetch {
            Fetch::Elsewhere => Meaning::NotOurs,
            // As supervisor-mode execution prevention does (Intel SDM vol. 3A, "Determination of Access Rights").
            Fetch::Refused => {
                Meaning::PageFault(gva, PageFaultCode::PROTECTION | PageFaultCode::FETCH)
            }
            Fetch::Allowed => {
                self.counters.split.code += 1;
                Meaning::Again
            }
        })
    }

    /// `kernel` does not allow a read or a write.
    fn access_in_kernel<C: Cpu>(
        &mut self,
        cpu: &mut C,
        violation: &EptViolation,
        runs_user_code: bool,
        delivers: bool,
    ) -> Result<Meaning, GuestFault> {
        let stepping = match cpu.place(violation.gpa) {
            Place::Guarded if violation.write => Stepping::Guarded(written(cpu, violation)),
            Place::Code if violation.write => Stepping::Code(written(cpu, violation)),
            Place::Private if runs_user_code => return self.resume_user_code(cpu),
            Place::Private => {
                if let Some(fault) = private::refused(violation, delivers) {
                    return Ok(fault);
                }
                cpu.give_up(violation.gpa).map_err(GuestFault::Stop)?;
                return Ok(Meaning::Again);
            }
            Place::Open if !violation.fetch => return Ok(Meaning::Again),
            _ => return Ok(Meaning::NotOurs),
        };
        if let Some(divided) = &mut self.divided {
            divided.stepping = Some(stepping);
        }
        self.counters.split.steps += 1;
        enter(cpu, &mut self.counters.split, Side::Base);
        self.want(cpu, Primary::MONITOR_TRAP, true);
        Ok(Meaning::Again)
    }

    /// `user` does not allow user code something.
    fn access_in_user<C: Cpu>(
        &mut self,
        cpu: &mut C,
        violation: &EptViolation,
    ) -> Result<Meaning, GuestFault> {
        match cpu.place(violation.gpa) {
            Place::Barrier => {}
            Place::Open if !violation.fetch => return Ok(Meaning::Again),
            _ => return Ok(Meaning::NotOurs),
        }
        let Some(gva) = violation.gva.filter(|gva| gva.0 & UPPER_HALF != 0) else {
            let gpa = violation.gpa;
            return Err(GuestFault::Stop(StopReason::SplitConflict { gpa }));
        };
        // The processor itself, for a table that the kernel exchanged on a way without exits.
        let segments = Segments::read(cpu);
        let named = self.divided.as_ref().and_then(|divided| divided.named);
        if segments.has(gva) && named.map(|named| named.segments) != Some(segments) {
            return self.resume_user_code(cpu);
        }
        self.counters.split.faults += 1;
        enter(cpu, &mut self.counters.split, Side::Kernel);
        Ok(Meaning::PageFault(gva, kernel_fault(cpu, gva)))
    }

    /// User code goes on, in `user`.
    fn resume_user_code<C: Cpu>(&mut self, cpu: &mut C) -> Result<Meaning, GuestFault> {
        if let Some(divided) = &mut self.divided {
            let entered = divided.enter_user(cpu).map_err(GuestFault::Stop)?;
            self.counters.split.to_user += u64::from(entered);
        }
        Ok(Meaning::Again)
    }
}

/// What a fetch of the kernel's is that `kernel` does not allow.
fn kernel_fetch<C: Cpu>(
    cpu: &mut C,
    violation: &EptViolation,
    gva: Gva,
) -> Result<Fetch, StopReason> {
    if !cpu.finds_code() {
        let is_users = violation.kernel_executes || cpu.is_private(violation.gpa);
        return Ok(match is_users {
            true => Fetch::Refused,
            false => Fetch::Elsewhere,
        });
    }
    match linear::is_user_modes(cpu, gva) {
        true => Ok(Fetch::Refused),
        false => cpu.find_code(violation.gpa),
    }
}

/// The pages that an access writes to of which one was refused: a few bytes around a page's end may be in two.
fn written<C: Cpu>(cpu: &mut C, violation: &EptViolation) -> [Gpa; 2] {
    /// The longest operand that is not a string.
    const LONGEST: u64 = 64;
    let other = violation.gva.and_then(|gva| {
        let offset = gva.page_offset();
        let other = match offset {
            ..LONGEST => gva.0.wrapping_sub(offset + 1),
            _ if offset >= FRAME_SIZE - LONGEST => gva.0.wrapping_add(FRAME_SIZE - offset),
            _ => return None,
        };
        linear::locate(cpu, Gva(other), AccessKind::Read).ok()
    });
    [violation.gpa, other.unwrap_or(violation.gpa)]
}
