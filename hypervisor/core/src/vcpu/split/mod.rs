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
//! `violation` has what an access means that a view does not allow, `segments` where the processor's own tables are, `kernel` what is read of the guest's
//! kernel, `succession` how one kernel follows another, `private` what user code keeps from it. A violation in `user` for which user code is not the reason is judged
//! again in `kernel`, so that whatever else there is (devices, sealed pages) has one place.

mod kernel;
pub(super) mod private;
mod segments;
mod succession;
mod violation;

use alloc::vec::Vec;

use kernel::{Page, name, read_half, read_word};
use segments::{Extent, Segments};

use super::counters::SplitCounts;
use super::effects::Cpu;
use super::step::Step;
use super::{Vcpu, event};
use crate::addr::{FRAME_SIZE, Gpa, Gva};
use crate::fault::{GuestFault, StopReason};
use crate::split::{KernelHalf, Name, Named, Opening, Side, Way};
use crate::vmx::controls::{Primary, Secondary};
use crate::vmx::exit::Interruption;
use crate::vmx::field::{self, Natural};

/// Pages of each descriptor table, or of the task-state segment, that are named at most.
const MOST_NAMES: usize = 17;
/// Pages of the kernel's code that ways out of it are looked for in: Linux has all of them beside where system calls enter.
const TEXT_PAGES: usize = 3;
const TABLE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// #NP, #SS and #GP.
const IRET_EXCEPTIONS: u32 = 1 << 11 | 1 << 12 | 1 << 13;
const CR0_PG: u64 = 1 << 31;
const EFER_LMA: u64 = 1 << 10;
const UPPER_HALF: u64 = 1 << 63;

/// The instruction that a vCPU carries out before it exits again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stepping {
    /// One that writes to what `kernel` guards, in `base`: to these pages, or the one twice.
    Guarded([Gpa; 2]),
    /// One that writes to a page of the kernel's code, in `base`: it may lie in that page itself, which can be executed or written to in `kernel`.
    Code([Gpa; 2]),
    /// One that loads or stores a descriptor table's register.
    DescriptorTable,
}

/// What names depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reasons {
    segments: Segments,
    way: Option<Way>,
    /// [`Sides::changes`](super::Sides::changes).
    changes: u64,
}

/// What a vCPU keeps of the split of its VM.
#[derive(Debug)]
pub struct Divided {
    /// It carries out one instruction that something is done for before and after.
    stepping: Option<Stepping>,
    /// Instructions exit that exchange descriptor tables.
    watches: bool,
    /// The top-level table that is guarded.
    reference: Gpa,
    /// Where the guest wants SYSCALL to enter its kernel, and SYSENTER: the processor's registers may say a gate.
    syscall: u64,
    sysenter: u64,
    /// Where in memory SYSCALL enters it, if the kernel's tables said.
    entered_at: Option<Gpa>,
    /// A way without exits was looked for.
    looked: bool,
    /// What was named, and what for.
    named: Option<Reasons>,
    names: Vec<Name>,
    /// How many of them are not the local descriptor table's alone.
    lasting: usize,
    /// The guest's tables on the way to those.
    tables: Vec<Gpa>,
}

impl Divided {
    /// Of a vCPU that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stepping: None,
            watches: false,
            reference: Gpa(0),
            syscall: 0,
            sysenter: 0,
            entered_at: None,
            looked: false,
            named: None,
            names: Vec::with_capacity(MOST_NAMES),
            lasting: 0,
            tables: Vec::new(),
        }
    }
}

impl Default for Divided {
    fn default() -> Self {
        Self::new()
    }
}

impl Vcpu {
    /// The instruction, or the delivery, that `kernel` did not allow is done.
    #[cold]
    pub(super) fn monitor_trap<C: Cpu>(&mut self, cpu: &mut C) -> Result<Step, GuestFault> {
        self.want(cpu, Primary::MONITOR_TRAP, false);
        let Some(divided) = &mut self.divided else {
            return Ok(Step::SAME);
        };
        let stepped = divided.stepping.take();
        if let Some(Stepping::Guarded(pages) | Stepping::Code(pages)) = stepped {
            if cpu.finds_code() {
                for page in pages {
                    cpu.lose_code(page).map_err(GuestFault::Stop)?;
                }
            }
            let makes_way = pages.iter().any(|page| cpu.makes_way(*page));
            if matches!(stepped, Some(Stepping::Code(_))) && !makes_way {
                enter(cpu, &mut self.counters.split, Side::Kernel);
                return Ok(Step::SAME);
            }
            if divided.is_gone(cpu) {
                divided.hand_over(cpu);
                enter(cpu, &mut self.counters.split, Side::Kernel);
                return Ok(Step::SAME);
            }
            let half = read_half(cpu, divided.reference).map_err(GuestFault::Stop)?;
            cpu.cover(&half).map_err(GuestFault::Stop)?;
            if makes_way {
                divided.open(cpu, &half).map_err(GuestFault::Stop)?;
            }
            enter(cpu, &mut self.counters.split, Side::Kernel);
        }
        // What else the instruction was for comes with it: `name` sees what is there now.
        if stepped.is_some() && divided.named.is_some() {
            divided.name(cpu);
            let table = Gpa(cpu.read(field::GUEST_CR3).0 & TABLE_ADDRESS);
            let half = read_half(cpu, table).map_err(GuestFault::Stop)?;
            let has_all = divided
                .names
                .iter()
                .all(|name| half.table_of(name.gva).is_some());
            match has_all {
                true => cpu.admit(&half, &divided.named()),
                false => cpu.cover(&half),
            }
            .map_err(GuestFault::Stop)?;
        }
        Ok(Step::SAME)
    }

    /// A descriptor table is exchanged while one is named that does not last: the new one is named instead, after the instruction.
    #[cold]
    pub(super) fn descriptor_table<C: Cpu>(
        &mut self,
        cpu: &mut C,
        reason: u32,
    ) -> Result<Step, GuestFault> {
        let Some(divided) = &mut self.divided else {
            return Err(GuestFault::Stop(StopReason::UnexpectedExit(reason)));
        };
        divided.watch(cpu, false);
        divided.stepping = Some(Stepping::DescriptorTable);
        self.want(cpu, Primary::MONITOR_TRAP, true);
        Ok(Step::SAME)
    }

    /// A VMFUNC that exited: a gate's, because views are just being changed, switches nothing, and what follows exits where it has to. Any other is
    /// not for the guest to use.
    #[cold]
    pub(super) fn vmfunc<C: Cpu>(&mut self, cpu: &mut C) -> Result<Step, GuestFault> {
        let way = self.divided.as_ref().and_then(|_| cpu.way());
        match way {
            Some(way) if way.is_gate(Self::rip(cpu)) => Ok(Step::NEXT),
            _ => Err(GuestFault::Ud),
        }
    }

    /// An exception that an IRET may raise, where gates have some: one of theirs is made to look as if it were the kernel's own, which its
    /// handlers know. Whatever was being delivered, a second contributory exception makes it a double fault (Intel SDM vol. 3A, "Interrupt 8—Double
    /// Fault Exception (#DF)").
    #[cold]
    pub(super) fn iret_exception<C: Cpu>(&mut self, cpu: &mut C, event: Interruption) {
        const CONTRIBUTORY: u32 = 1 << 0 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14;
        let way = self.divided.as_ref().and_then(|_| cpu.way());
        if let Some(own) = way.and_then(|way| way.iret_of(Self::rip(cpu))) {
            cpu.write(field::GUEST_RIP, Natural(own.0));
        }
        let first = Interruption(cpu.read(field::IDT_VECTORING_INFO));
        let is_second = first.is_valid()
            && first.kind() == Interruption::HARDWARE_EXCEPTION
            && CONTRIBUTORY >> (first.vector() & 31) & 1 != 0;
        if is_second {
            event::inject_double_fault(cpu);
        } else {
            self.put_back_interrupted(cpu);
            event::reflect(cpu, event);
        }
    }

    /// Whether a debug exception is a single step through a gate, which the guest's kernel would not know what to make of: the trap comes again
    /// behind it.
    pub(super) fn is_step_in_gate<C: Cpu>(&self, cpu: &mut C, cause: u64) -> bool {
        const SINGLE_STEP: u64 = 1 << 14;
        const CAUSES: u64 = 0xf | 1 << 13 | SINGLE_STEP;
        let way = self.divided.as_ref().and_then(|_| cpu.way());
        cause & CAUSES == SINGLE_STEP && way.is_some_and(|way| way.is_gate(Self::rip(cpu)))
    }
}

/// Has the vCPU be in the view of `side`.
fn enter<C: Cpu>(cpu: &mut C, counts: &mut SplitCounts, side: Side) {
    match side {
        Side::Kernel => counts.to_kernel += 1,
        Side::Base | Side::User => {}
    }
    cpu.enter_side(side);
}

impl Divided {
    /// Has `user` be what it is to be while user code runs with the guest's present tables, and has the vCPU enter it; false where these were changed
    /// meanwhile, and the next fetch of user code's is to exit again.
    fn enter_user<C: Cpu>(&mut self, cpu: &mut C) -> Result<bool, StopReason> {
        if cpu.read(field::GUEST_EFER) & EFER_LMA == 0 {
            return Err(StopReason::SplitOutsideLongMode);
        }
        let table = Gpa(cpu.read(field::GUEST_CR3).0 & TABLE_ADDRESS);
        let half = read_half(cpu, table)?;
        if !self.looked && cpu.way().is_none() {
            self.looked = true;
            self.open(cpu, &half)?;
        }
        self.name(cpu);
        cpu.enter_user(table, &half, &self.named())
    }

    /// Brings up to date what is named, and where the kernel is entered. A local descriptor table is listed apart: there are guests in which it changes
    /// all the time.
    fn name<C: Cpu>(&mut self, cpu: &mut C) {
        let way = cpu.way();
        let segments = Segments::read(cpu);
        // On a way without exits nobody else would see it go.
        self.watch(cpu, segments.local.limit != 0 && way.is_some());
        let changes = cpu.changes();
        let reasons = Reasons {
            segments,
            way,
            changes,
        };
        let before = self.named.replace(reasons);
        if before == self.named {
            return;
        }
        let lasts = |reasons: Reasons| Reasons {
            segments: Segments {
                local: Extent::default(),
                ..reasons.segments
            },
            ..reasons
        };
        if before.map(lasts) != self.named.map(lasts) {
            self.set_entry_points(cpu, way);
            self.names.clear();
            self.tables.clear();
            self.list_names(cpu, &segments, way);
            self.lasting = self.names.len();
        }
        self.names.truncate(self.lasting);
        let lasting = self.tables.len();
        self.list(cpu, segments.local);
        // The kernel frees a local descriptor table after it loaded another one, which exits. Tables on the way to it are those of memory that is
        // allocated and freed all the time, and every write would be a step.
        self.tables.truncate(lasting);
    }

    fn named(&self) -> Named<'_> {
        Named {
            names: &self.names,
            tables: &self.tables,
            changes: self.named.map_or(0, |named| named.changes),
        }
    }

    /// Lists the pages of a table.
    fn list<C: Cpu>(&mut self, cpu: &mut C, table: Extent) {
        for gva in table.pages().take(MOST_NAMES) {
            self.list_page(cpu, gva);
        }
    }

    /// Lists a page, and the tables on the way there.
    fn list_page<C: Cpu>(&mut self, cpu: &mut C, gva: Gva) {
        if self.names.iter().any(|name| name.gva == gva) {
            return;
        }
        if let Some((name, tables)) = name(cpu, gva) {
            self.names.push(name);
            for table in tables.into_iter().flatten() {
                if !self.tables.contains(&table) {
                    self.tables.push(table);
                }
            }
        }
    }

    /// Has instructions exit that exchange descriptor tables, or no longer.
    fn watch<C: Cpu>(&mut self, cpu: &mut C, watch: bool) {
        if self.watches != watch {
            self.watches = watch;
            let controls = cpu.read(field::SECONDARY_CONTROLS);
            let mut controls = Secondary::from_bits_retain(controls);
            controls.set(Secondary::DESCRIPTOR_TABLE, watch);
            cpu.write(field::SECONDARY_CONTROLS, controls.bits());
        }
    }

    /// Whether it carries out an instruction in `base`.
    fn steps(&self) -> bool {
        matches!(
            self.stepping,
            Some(Stepping::Guarded(_) | Stepping::Code(_))
        )
    }

    /// Lists what the processor needs whatever user code runs.
    fn list_names<C: Cpu>(&mut self, cpu: &mut C, segments: &Segments, way: Option<Way>) {
        self.list(cpu, segments.descriptors);
        self.list(cpu, segments.task);
        let Some(way) = way else { return };
        let idt = segments.interrupts;
        if idt & UPPER_HALF != 0 {
            self.names.push(Name {
                gva: Gva(idt & !(FRAME_SIZE - 1)),
                gpa: way.idt,
                writable: false,
                executable: false,
            });
        }
        // The stacks that events switch to (Intel SDM vol. 3A, "Task Management in 64-bit Mode").
        const RSP0: u64 = 4;
        const IST1: u64 = 0x24;
        let task = segments.task.base;
        for offset in core::iter::once(RSP0).chain((0..7).map(|ist| IST1 + 8 * ist)) {
            let top = read_word(cpu, Gva(task.wrapping_add(offset))).unwrap_or(0);
            let page = Gva(top.wrapping_sub(1) & !(FRAME_SIZE - 1));
            if top & UPPER_HALF != 0 {
                self.list_page(cpu, page);
            }
        }
    }

    /// Has the processor enter the kernel through gates, where `way` has some for it.
    fn set_entry_points<C: Cpu>(&self, cpu: &mut C, way: Option<Way>) {
        let syscall = way.filter(|way| way.syscall_of.0 == self.syscall);
        cpu.set_lstar(syscall.map_or(self.syscall, |way| way.syscall.0));
        let mut exceptions = cpu.read(field::EXCEPTION_BITMAP);
        exceptions &= !IRET_EXCEPTIONS;
        if way.is_some() {
            exceptions |= IRET_EXCEPTIONS;
        }
        cpu.write(field::EXCEPTION_BITMAP, exceptions);
        let sysenter = way.filter(|way| way.sysenter_of == Some(Gva(self.sysenter)));
        let sysenter = sysenter.and_then(|way| way.sysenter);
        let sysenter = sysenter.map_or(self.sysenter, |gate| gate.0);
        cpu.write(field::GUEST_SYSENTER_EIP, Natural(sysenter));
    }

    /// Looks for a way without exits, or has the one there is be what it has to be now. Whatever the kernel has in a way that is not understood, it
    /// goes on with exits.
    fn open<C: Cpu>(&mut self, cpu: &mut C, half: &KernelHalf) -> Result<(), StopReason> {
        if !cpu.switches() {
            return Ok(());
        }
        let syscall = Gva(self.syscall);
        let idt = Gva(cpu.read(field::GUEST_IDTR_BASE).0);
        let Some(top) = half.table_of(syscall) else {
            return Ok(());
        };
        let first = syscall.0 & !(FRAME_SIZE - 1);
        let mut pages = Vec::with_capacity(TEXT_PAGES + 2);
        for number in 0..TEXT_PAGES as u64 {
            pages.extend(Page::read(
                cpu,
                Gva(first.wrapping_add(number * FRAME_SIZE)),
            ));
        }
        if pages.len() < TEXT_PAGES || idt.page_offset() != 0 {
            return Ok(());
        }
        let (Some(idt), Some(top)) = (Page::read(cpu, idt), Page::read_physical(cpu, top)) else {
            return Ok(());
        };
        let text: Vec<_> = pages.iter().map(Page::as_read).collect();
        let opening = Opening {
            syscall,
            sysenter: (self.sysenter != 0).then_some(Gva(self.sysenter)),
            idt: idt.as_read(),
            top: top.as_read(),
            text: &text,
        };
        cpu.open(&opening)
    }
}
