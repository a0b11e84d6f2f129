//! The kernel/user split as a vCPU sees it: which view it is in, and what an EPT violation means that a view is the reason for.
//!
//! ```text
//!            LSTAR is written                  user code is fetched
//!   base ----------------------> kernel --------------------------------> user
//!     ^                         |  ^  ^                                      |
//!     |                         |  |  +--------------------------------------+
//!     +------ INIT              |  |   anything that is not user code: an event is delivered, SYSCALL's target is fetched,
//!                               |  |   user code reaches for the kernel half and gets its page fault
//!         a guarded table is    |  |
//!         written: one step in  v  | monitor trap
//!                 base ------------+
//! ```
//!
//! Every way from one view to another is here. A violation in `user` for which user code is not the reason is judged again in `kernel`, so
//! that whatever else there is (devices, sealed pages) has one place.

use alloc::vec::Vec;

use super::counters::SplitCounts;
use super::effects::Cpu;
use super::step::Step;
use super::{Vcpu, event, linear, mmio};
use crate::addr::{FRAME_SIZE, Gpa, Gva};
use crate::fault::{GuestFault, StopReason};
use crate::insn::{self, MAX_LENGTH, Operation};
use crate::msr;
use crate::split::{HALF_BYTES, HALF_OFFSET, KernelHalf, Name, Place, Side};
use crate::vmx::controls::Primary;
use crate::vmx::exit::{EptViolation, Interruption};
use crate::vmx::field;
use crate::walk::{AccessKind, PageFaultCode};

/// Pages of descriptor tables and task-state segment that are named at most.
const MOST_NAMES: usize = 48;
const TABLE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const EFER_LMA: u64 = 1 << 10;
const UPPER_HALF: u64 = 1 << 63;

/// What a vCPU keeps of the split of its VM.
#[derive(Debug)]
pub struct Divided {
    side: Side,
    /// It carries out one instruction in `base`.
    steps: bool,
    /// The top-level table that is guarded.
    reference: Gpa,
    /// Where the processor's tables were when they were named.
    segments: Segments,
    names: Vec<Name>,
}

/// Bases and limits of the tables that the processor reads on its own, at any privilege level.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Segments([(u64, u32); 3]);

impl Segments {
    fn read<C: Cpu>(cpu: &C) -> Self {
        const UNUSABLE: u32 = 1 << 16;
        let ldt = match cpu.read(field::GUEST_LDTR_ACCESS) & UNUSABLE {
            0 => (
                cpu.read(field::GUEST_LDTR_BASE).0,
                cpu.read(field::GUEST_LDTR_LIMIT),
            ),
            _ => (0, 0),
        };
        Self([
            (
                cpu.read(field::GUEST_GDTR_BASE).0,
                cpu.read(field::GUEST_GDTR_LIMIT),
            ),
            (
                cpu.read(field::GUEST_TR_BASE).0,
                cpu.read(field::GUEST_TR_LIMIT),
            ),
            ldt,
        ])
    }

    /// The pages of the kernel half that they are in.
    fn pages(&self) -> impl Iterator<Item = Gva> + '_ {
        let used = self.0.iter().filter(|(_, limit)| *limit != 0);
        let pages = used.flat_map(|(base, limit)| {
            let last = base.saturating_add(u64::from(*limit)) / FRAME_SIZE;
            (base / FRAME_SIZE..=last).map(|page| Gva(page * FRAME_SIZE))
        });
        pages.filter(|gva| gva.0 & UPPER_HALF != 0).take(MOST_NAMES)
    }
}

impl Divided {
    /// Of a vCPU that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            side: Side::Base,
            steps: false,
            reference: Gpa(0),
            segments: Segments::default(),
            names: Vec::with_capacity(MOST_NAMES),
        }
    }
}

impl Default for Divided {
    fn default() -> Self {
        Self::new()
    }
}

impl Vcpu {
    /// A WRMSR that only a VM with the split exits for: the kernel says where system calls enter it. From now on there is a kernel to
    /// keep from user code.
    #[cold]
    pub(super) fn write_lstar<C: Cpu>(
        &mut self,
        cpu: &mut C,
        number: u32,
        value: u64,
        refused: GuestFault,
    ) -> Result<Step, GuestFault> {
        let Some(divided) = self.divided.as_mut().filter(|_| number == msr::LSTAR) else {
            return Err(refused);
        };
        if !is_canonical(value) {
            return Err(GuestFault::GP0);
        }
        cpu.set_lstar(value);
        let table = Gpa(cpu.read(field::GUEST_CR3).0 & TABLE_ADDRESS);
        cpu.guard(table).map_err(GuestFault::Stop)?;
        divided.reference = table;
        if divided.side == Side::Base && !divided.steps {
            divided.enter(cpu, &mut self.counters.split, Side::Kernel);
        }
        Ok(Step::NEXT)
    }

    /// INIT: no kernel runs on the vCPU.
    pub(super) fn leave_split<C: Cpu>(&mut self, cpu: &mut C) {
        if let Some(divided) = &mut self.divided {
            divided.steps = false;
            divided.enter(cpu, &mut self.counters.split, Side::Base);
            self.want(cpu, Primary::MONITOR_TRAP, false);
        }
    }

    /// What a violation means to the split; `None` where it has nothing to do with it.
    #[cold]
    pub(super) fn split_violation<C: Cpu>(
        &mut self,
        cpu: &mut C,
        violation: &EptViolation,
    ) -> Result<Option<Step>, GuestFault> {
        let Some(divided) = &mut self.divided else {
            return Ok(None);
        };
        let is_user_code = (cpu.read(field::GUEST_SS_ACCESS) >> 5) & 3 == 3;
        let delivers = Interruption(cpu.read(field::IDT_VECTORING_INFO)).is_valid();
        match divided.side {
            Side::Base => return Ok(None),
            Side::Kernel if violation.fetch && violation.translated => {
                if is_user_code && !delivers {
                    divided.admit(cpu).map_err(GuestFault::Stop)?;
                    divided.enter(cpu, &mut self.counters.split, Side::User);
                } else if let Some(gva) = violation.gva.filter(|_| violation.kernel_executes) {
                    // As supervisor-mode execution prevention does (Intel SDM vol. 3A, "Determination of Access Rights").
                    let code = PageFaultCode::PROTECTION | PageFaultCode::FETCH;
                    event::undo_unblocking(cpu, violation.unblocked_nmi);
                    event::inject_page_fault(cpu, gva.0, code.bits());
                    return Ok(Some(Step::SAME));
                } else {
                    return Ok(None);
                }
            }
            Side::Kernel => {
                if !violation.write || cpu.place(violation.gpa) != Place::Guarded {
                    return Ok(None);
                }
                self.counters.split.steps += 1;
                divided.steps = true;
                divided.enter(cpu, &mut self.counters.split, Side::Base);
                event::undo_unblocking(cpu, violation.unblocked_nmi);
                event::reinject_interrupted(cpu);
                self.want(cpu, Primary::MONITOR_TRAP, true);
                return Ok(Some(Step::SAME));
            }
            Side::User if delivers || !is_user_code => {
                divided.enter(cpu, &mut self.counters.split, Side::Kernel)
            }
            Side::User => {
                if cpu.place(violation.gpa) != Place::Barrier {
                    return Ok(None);
                }
                let Some(gva) = violation.gva.filter(|gva| gva.0 & UPPER_HALF != 0) else {
                    let gpa = violation.gpa;
                    return Err(GuestFault::Stop(StopReason::SplitConflict { gpa }));
                };
                self.counters.split.faults += 1;
                divided.enter(cpu, &mut self.counters.split, Side::Kernel);
                event::undo_unblocking(cpu, violation.unblocked_nmi);
                let code = kernel_fault(cpu, gva);
                event::inject_page_fault(cpu, gva.0, code.bits());
                return Ok(Some(Step::SAME));
            }
        }
        event::undo_unblocking(cpu, violation.unblocked_nmi);
        event::reinject_interrupted(cpu);
        Ok(Some(Step::SAME))
    }

    /// The instruction, or the delivery, that `kernel` did not allow is done.
    #[cold]
    pub(super) fn monitor_trap<C: Cpu>(&mut self, cpu: &mut C) -> Result<Step, GuestFault> {
        self.want(cpu, Primary::MONITOR_TRAP, false);
        let Some(divided) = self.divided.as_mut().filter(|divided| divided.steps) else {
            return Ok(Step::SAME);
        };
        divided.steps = false;
        let half = read_half(cpu, divided.reference).map_err(GuestFault::Stop)?;
        cpu.admit(&half, &divided.names).map_err(GuestFault::Stop)?;
        divided.enter(cpu, &mut self.counters.split, Side::Kernel);
        Ok(Step::SAME)
    }
}

impl Divided {
    fn enter<C: Cpu>(&mut self, cpu: &mut C, counts: &mut SplitCounts, side: Side) {
        match side {
            Side::User => counts.to_user += 1,
            Side::Kernel => counts.to_kernel += 1,
            Side::Base => {}
        }
        self.side = side;
        cpu.enter_side(side);
    }

    /// Has `user` be what it is to be while user code runs with the guest's present tables.
    fn admit<C: Cpu>(&mut self, cpu: &mut C) -> Result<(), StopReason> {
        if cpu.read(field::GUEST_EFER) & EFER_LMA == 0 {
            return Err(StopReason::SplitOutsideLongMode);
        }
        let half = read_half(cpu, Gpa(cpu.read(field::GUEST_CR3).0 & TABLE_ADDRESS))?;
        let segments = Segments::read(cpu);
        if segments != self.segments {
            self.names.clear();
            for gva in segments.pages() {
                self.names.extend(name(cpu, gva));
            }
            self.segments = segments;
        }
        cpu.admit(&half, &self.names)
    }
}

/// The page at `gva` as the kernel has it; `None` where it has none, so that the processor finds none either.
fn name<C: Cpu>(cpu: &mut C, gva: Gva) -> Option<Name> {
    let gpa = linear::locate(cpu, gva, AccessKind::Read).ok()?;
    let writable = linear::locate(cpu, gva, AccessKind::Write).is_ok();
    Some(Name { gva, gpa, writable })
}

fn read_half<C: Cpu>(cpu: &mut C, table: Gpa) -> Result<KernelHalf, StopReason> {
    let mut bytes = [0; HALF_BYTES];
    let gpa = Gpa(table.0 + HALF_OFFSET);
    if cpu.read_guest(gpa, &mut bytes) {
        Ok(KernelHalf::new(bytes))
    } else {
        Err(StopReason::OutsideMemory { gpa, write: false })
    }
}

/// The error code of user code's page fault in the kernel half, which is never its own, whatever the guest's tables say. The processor tells of the walk
/// alone; what the instruction was about to do is read from it, and an instruction that is no plain store counts as a load.
fn kernel_fault<C: Cpu>(cpu: &mut C, gva: Gva) -> PageFaultCode {
    let mut code = PageFaultCode::USER;
    code.set(
        PageFaultCode::PROTECTION,
        linear::locate(cpu, gva, AccessKind::Read).is_ok(),
    );
    let behind = gva.0.wrapping_sub(Vcpu::rip(cpu).0);
    if behind < MAX_LENGTH as u64 {
        return code | PageFaultCode::FETCH;
    }
    let mut bytes = [0; MAX_LENGTH];
    let fetched = mmio::fetch_instruction(cpu, &mut bytes).unwrap_or(0);
    let fetched = bytes.get(..fetched).unwrap_or_default();
    let decoded = insn::decode(fetched, linear::code_mode(cpu));
    let is_store = decoded.is_ok_and(|insn| !matches!(insn.operation, Operation::Load { .. }));
    code.set(PageFaultCode::WRITE, is_store);
    code
}

const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}
