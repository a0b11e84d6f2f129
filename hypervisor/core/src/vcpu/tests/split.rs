//! The kernel/user split: each way from one view to another, and what each carries over.

use super::machine::*;
use crate::addr::{Gpa, Gva};
use crate::bus::{Signal, Signals};
use crate::fault::StopReason;
use crate::split::{Name, Place, Side};
use crate::vcpu::{Action, Readiness};
use crate::vmx::exit::Interruption;
use crate::vmx::field;

const LSTAR: u32 = 0xc000_0082;
const ENTRY: u64 = 0xffff_ffff_8100_0000;
const GENERAL_PROTECTION: Interruption = Interruption::exception(13, true);
pub(super) const PAGE_FAULT: Interruption = Interruption::exception(14, true);
const MONITOR_TRAP: u32 = 1 << 27;
pub(super) const MONITOR_TRAP_EXIT: u32 = 37;

/// The guest's top-level table and where its kernel half begins.
const TOP: usize = 0x1000;
const HALF: usize = TOP + 0x800;
/// A level-3 table of the kernel half, and those below it.
const TABLE: u64 = 0xa000;
const MIDDLE: u64 = 0xb000;
pub(super) const LOW: u64 = 0xc000;
/// Where the kernel half begins; its first pages are there.
const KERNEL: u64 = 0xffff_8000_0000_0000;
/// A page that the kernel may write to, one that it may only read, and none.
pub(super) const WRITABLE: u64 = KERNEL;
pub(super) const READABLE: u64 = KERNEL + 0x1000;
const ABSENT: u64 = KERNEL + 0x3000;
/// Frames of the first two.
pub(super) const FRAMES: [u64; 2] = [0xd000, 0xe000];

/// Exit qualifications, as the manual has them: a translated access with its kind.
pub(super) const READ: u64 = 0x181;
pub(super) const WRITE: u64 = 0x182;
pub(super) const FETCH: u64 = 0x184;
/// The same of the walk to it.
pub(super) const WALK: u64 = 0x081;
/// The page may be executed in supervisor mode.
const KERNEL_EXECUTES: u64 = 1 << 5;

/// MOV EAX, [RBX] and MOV [RBX], EAX.
const LOAD: [u8; 2] = [0x8b, 0x03];
const STORE: [u8; 2] = [0x89, 0x03];

/// Bases and limits of GDT, TSS and LDT.
type Tables = [(u64, u32); 3];

/// A guest that has a kernel half, and has not said where system calls enter it.
fn booting() -> Machine {
    let mut machine = Machine::with_split();
    for (at, entry) in [
        // User code may use what is in the lower half.
        (TOP, 0x2007),
        (0x2000, 0x87),
        (HALF, TABLE | 3),
        (TABLE as usize, MIDDLE | 3),
        (MIDDLE as usize, LOW | 3),
        (LOW as usize, FRAMES[0] | 3),
        (LOW as usize + 8, FRAMES[1] | 1),
    ] {
        machine.put(at, &entry.to_le_bytes());
    }
    // Write protection holds for the kernel too.
    machine.cpu.set_natural(field::GUEST_CR0, 0x8001_0031);
    machine.cpu.set(field::GUEST_LDTR_ACCESS, 1 << 16);
    machine
}

/// One whose kernel runs in `kernel`.
pub(super) fn divided() -> Machine {
    let mut machine = booting();
    assert_eq!(machine.wrmsr(LSTAR, ENTRY), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    machine.cpu.set_natural(field::GUEST_RIP, CODE);
    machine
}

/// One whose user code runs in `user`, without the kernel half.
pub(super) fn in_user() -> Machine {
    let mut machine = divided();
    run_user_code(&mut machine);
    assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::User));
    machine.cpu.places.insert(TABLE >> 12, Place::Barrier);
    machine
}

pub(super) fn run_user_code(machine: &mut Machine) {
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xa0fb);
    machine.cpu.set(field::GUEST_SS_ACCESS, 0xc0f3);
}

pub(super) fn run_kernel_code(machine: &mut Machine) {
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xa09b);
    machine.cpu.set(field::GUEST_SS_ACCESS, 0xc093);
}

pub(super) fn violate(machine: &mut Machine, qualification: u64, gva: u64, gpa: u64) -> Action {
    machine.cpu.set(field::GUEST_PHYSICAL_ADDRESS, gpa);
    machine.cpu.set_natural(field::GUEST_LINEAR_ADDRESS, gva);
    machine.exit_with(reason::EPT_VIOLATION, qualification)
}

fn stopped(action: Action) -> StopReason {
    match action {
        Action::Stop(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_guest_boots_in_the_base_view_until_it_says_where_system_calls_enter() {
    let mut machine = booting();
    assert_eq!(machine.cpu.side, None);
    let rip = machine.rip();
    assert_eq!(machine.wrmsr(LSTAR, ENTRY), Action::Resume);
    assert_eq!((machine.cpu.lstar, machine.rip()), (Some(ENTRY), rip + 2));
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    assert_eq!(machine.cpu.places.get(&1), Some(&Place::Guarded));
    assert_eq!(machine.vcpu.counters.split.to_kernel, 1);
    assert!(machine.cpu.admitted.is_empty());
}

#[test]
fn a_later_write_guards_the_tables_of_its_own_time() {
    let mut machine = divided();
    machine.cpu.set_natural(field::GUEST_CR3, 0x5018);
    assert_eq!(machine.wrmsr(LSTAR, ENTRY + 64), Action::Resume);
    assert_eq!(machine.cpu.lstar, Some(ENTRY + 64));
    assert_eq!(machine.cpu.places.get(&5), Some(&Place::Guarded));
    assert_eq!(machine.vcpu.counters.split.to_kernel, 1, "it was there");
}

#[test]
fn an_entry_that_no_address_is_faults_and_changes_nothing() {
    let mut machine = booting();
    let rip = machine.rip();
    for entry in [1 << 47, 0x8000_0000_0000_0000, 0xffff_7fff_ffff_ffff] {
        assert_eq!(machine.wrmsr(LSTAR, entry), Action::Resume);
        assert_eq!(machine.injected(), Some(GENERAL_PROTECTION), "{entry:#x}");
        assert_eq!((machine.rip(), machine.cpu.lstar), (rip, None));
    }
    assert_eq!(machine.cpu.side, None);
    assert!(machine.cpu.places.is_empty());
}

#[test]
fn other_msrs_are_refused_as_without_the_split() {
    let mut machine = booting();
    for msr in [0xc000_0081, 0xc000_0083, 0xdead_beef] {
        assert_eq!(machine.wrmsr(msr, 0), Action::Resume);
        assert_eq!(machine.injected(), Some(GENERAL_PROTECTION), "{msr:#x}");
    }
    assert_eq!((machine.cpu.side, machine.cpu.lstar), (None, None));
}

#[test]
fn a_vm_without_the_split_has_one_view() {
    let mut machine = Machine::new();
    assert_eq!(machine.wrmsr(LSTAR, ENTRY), Action::Resume);
    assert_eq!(machine.injected(), Some(GENERAL_PROTECTION));
    assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
    machine.cpu.places.insert(0xf, Place::Barrier);
    for (kind, stop) in [
        (
            FETCH,
            StopReason::ExecutedOutsideMemory { gpa: Gpa(0xf000) },
        ),
        (
            READ,
            StopReason::OutsideMemory {
                gpa: Gpa(0xf000),
                write: false,
            },
        ),
    ] {
        assert_eq!(stopped(violate(&mut machine, kind, KERNEL, 0xf000)), stop);
    }
    assert_eq!((machine.cpu.side, machine.cpu.lstar), (None, None));
}

#[test]
fn before_system_calls_are_set_up_a_violation_is_as_without_the_split() {
    let mut machine = booting();
    run_user_code(&mut machine);
    let gpa = Gpa(CODE);
    assert_eq!(
        stopped(violate(&mut machine, FETCH, CODE, CODE)),
        StopReason::ExecutedOutsideMemory { gpa }
    );
    assert_eq!(machine.cpu.side, None);
}

#[test]
fn user_code_enters_the_user_view_without_the_kernel_half() {
    let mut machine = divided();
    run_user_code(&mut machine);
    machine.put(HALF + 255 * 8, &0x7_7067_u64.to_le_bytes());
    assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::User));
    assert_eq!(
        machine.cpu.admitted,
        [(vec![Gpa(TABLE), Gpa(0x7_7000)], vec![])]
    );
    assert_eq!((machine.rip(), machine.injected()), (CODE, None));
    assert_eq!(machine.vcpu.counters.split.to_user, 1);
}

#[test]
fn the_pages_of_descriptor_tables_and_task_state_are_named_as_the_kernel_has_them() {
    let name = |gva, gpa, writable| Name {
        executable: false,
        gva: Gva(gva),
        gpa: Gpa(gpa),
        writable,
    };
    let writable = name(WRITABLE, FRAMES[0], true);
    let readable = name(READABLE, FRAMES[1], false);
    let cases: [(Tables, &[Name]); 6] = [
        ([(WRITABLE + 0x40, 0x7f), (0, 0), (0, 0)], &[writable]),
        // The last byte counts, and a page after it does not.
        ([(WRITABLE + 0xf80, 0x7f), (0, 0), (0, 0)], &[writable]),
        (
            [(WRITABLE + 0xf80, 0x80), (0, 0), (0, 0)],
            &[writable, readable],
        ),
        // One page of two tables is one name.
        (
            [(READABLE, 0x67), (WRITABLE, 0x67), (READABLE, 0xf)],
            &[readable, writable],
        ),
        // A page that is not there, and pages that are not the kernel's.
        ([(ABSENT, 0x7f), (0x6000, 0x67), (0x8000, 0xf)], &[]),
        ([(u64::MAX - 0x10, u32::MAX), (0, 0), (0, 0)], &[]),
    ];
    for ([gdt, tss, ldt], names) in cases {
        let mut machine = divided();
        run_user_code(&mut machine);
        let cpu = &mut machine.cpu;
        cpu.set_natural(field::GUEST_GDTR_BASE, gdt.0);
        cpu.set(field::GUEST_GDTR_LIMIT, gdt.1);
        cpu.set_natural(field::GUEST_TR_BASE, tss.0);
        cpu.set(field::GUEST_TR_LIMIT, tss.1);
        cpu.set_natural(field::GUEST_LDTR_BASE, ldt.0);
        cpu.set(field::GUEST_LDTR_LIMIT, ldt.1);
        cpu.set(field::GUEST_LDTR_ACCESS, 0x82);
        assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
        assert_eq!(
            machine.cpu.admitted[0].1, names,
            "{gdt:x?} {tss:x?} {ldt:x?}"
        );
    }
}

#[test]
fn a_segment_register_that_moved_has_its_pages_named_anew() {
    let mut machine = in_user();
    for (unusable, names) in [(0x82, 1), (1 << 16, 0)] {
        run_kernel_code(&mut machine);
        assert_eq!(violate(&mut machine, WALK, ENTRY, TABLE), Action::Resume);
        run_user_code(&mut machine);
        machine.cpu.set_natural(field::GUEST_LDTR_BASE, WRITABLE);
        machine.cpu.set(field::GUEST_LDTR_LIMIT, 0x17);
        machine.cpu.set(field::GUEST_LDTR_ACCESS, unusable);
        assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
        assert_eq!(machine.cpu.admitted.last().unwrap().1.len(), names);
    }
}

#[test]
fn a_system_calls_target_is_fetched_in_the_kernel_view() {
    let mut machine = in_user();
    // The processor has changed to CPL 0, and does not find the way to the first instruction.
    run_kernel_code(&mut machine);
    machine.cpu.set_natural(field::GUEST_RIP, ENTRY);
    assert_eq!(violate(&mut machine, WALK, ENTRY, TABLE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    assert_eq!((machine.rip(), machine.injected()), (ENTRY, None));
    assert_eq!(machine.vcpu.counters.split.to_kernel, 2);
    assert_eq!(machine.vcpu.counters.split.faults, 0);
}

#[test]
fn an_event_whose_delivery_the_user_view_ended_is_delivered_in_the_kernel_view() {
    let breakpoint = Interruption(1 << 31 | Interruption::SOFTWARE_EXCEPTION << 8 | 3);
    let system_call = Interruption(1 << 31 | Interruption::SOFTWARE_INTERRUPT << 8 | 0x80);
    for event in [
        Interruption::external(0x41),
        Interruption::nmi(),
        Interruption::exception(1, false),
        GENERAL_PROTECTION,
        breakpoint,
        system_call,
    ] {
        let mut machine = in_user();
        machine.cpu.set(field::IDT_VECTORING_INFO, event.0);
        machine.cpu.set(field::IDT_VECTORING_ERROR_CODE, 0x18);
        machine.cpu.set(field::EXIT_INSTRUCTION_LENGTH, 2);
        if event == Interruption::nmi() {
            machine.block(BLOCKED_BY_NMI);
        }
        assert_eq!(violate(&mut machine, WALK, KERNEL, TABLE), Action::Resume);
        assert_eq!(machine.cpu.side, Some(Side::Kernel));
        assert_eq!(machine.injected(), Some(event));
        let cpu = &machine.cpu;
        if event == GENERAL_PROTECTION {
            assert_eq!(cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 0x18);
        }
        if [breakpoint, system_call].contains(&event) {
            assert_eq!(cpu.read(field::ENTRY_INSTRUCTION_LENGTH), 2);
        }
        assert_eq!(cpu.cr2, 0);
    }
}

#[test]
fn user_code_that_reaches_for_the_kernel_half_gets_its_page_fault() {
    for (code, gva, error) in [
        (LOAD, WRITABLE + 8, 0b00101),
        (STORE, WRITABLE + 8, 0b00111),
        (LOAD, READABLE + 8, 0b00101),
        (LOAD, ABSENT, 0b00100),
        (STORE, ABSENT, 0b00110),
    ] {
        let mut machine = in_user();
        machine.put(CODE as usize, &code);
        let before = machine.vcpu.counters.split;
        assert_eq!(violate(&mut machine, WALK, gva, TABLE), Action::Resume);
        assert_eq!(machine.injected(), Some(PAGE_FAULT));
        assert_eq!(machine.cpu.cr2, gva);
        let pushed = machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE);
        assert_eq!(pushed, error, "{code:x?} at {gva:#x}");
        assert_eq!(machine.rip(), CODE);
        assert_eq!(machine.cpu.side, Some(Side::Kernel));
        let counts = machine.vcpu.counters.split;
        assert_eq!(counts.faults, before.faults + 1);
        assert_eq!(counts.to_kernel, before.to_kernel + 1);
    }
}

#[test]
fn user_code_that_jumps_into_the_kernel_half_gets_its_page_fault() {
    for (gva, error) in [(WRITABLE, 0b10101), (ABSENT, 0b10100)] {
        let mut machine = in_user();
        machine.cpu.set_natural(field::GUEST_RIP, gva);
        assert_eq!(violate(&mut machine, WALK, gva, TABLE), Action::Resume);
        assert_eq!(machine.injected(), Some(PAGE_FAULT));
        assert_eq!((machine.cpu.cr2, machine.rip()), (gva, gva));
        let pushed = machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE);
        assert_eq!(pushed, error);
        assert_eq!(machine.cpu.side, Some(Side::Kernel));
    }
}

#[test]
fn what_is_a_page_of_users_and_a_table_of_the_kernels_stops_the_vm() {
    for (qualification, gva) in [(READ, 0x9000), (WALK, 0x9000), (FETCH, CODE), (1, 0)] {
        let mut machine = in_user();
        let gpa = Gpa(TABLE + 0x10);
        assert_eq!(
            stopped(violate(&mut machine, qualification, gva, gpa.0)),
            StopReason::SplitConflict { gpa }
        );
    }
}

#[test]
fn a_violation_in_the_user_view_that_is_not_the_splits_is_judged_as_any() {
    let mut machine = in_user();
    machine.cpu.encrypted.insert(9, Ok(()));
    assert_eq!(violate(&mut machine, READ, 0x9000, 0x9000), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::User), "brought");
    let (gpa, write) = (Gpa(0x7_0000), true);
    assert_eq!(
        stopped(violate(&mut machine, WRITE, 0x7_0000, gpa.0)),
        StopReason::OutsideMemory { gpa, write }
    );
}

#[test]
fn a_kernel_that_jumps_to_a_user_page_gets_its_page_fault() {
    let mut machine = divided();
    let kernels = FETCH | KERNEL_EXECUTES;
    assert_eq!(violate(&mut machine, kernels, CODE, CODE), Action::Resume);
    assert_eq!(machine.injected(), Some(PAGE_FAULT));
    assert_eq!(machine.cpu.read(field::ENTRY_EXCEPTION_ERROR_CODE), 0x11);
    assert_eq!((machine.cpu.cr2, machine.rip()), (CODE, CODE));
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    assert!(machine.cpu.admitted.is_empty());
    // Where the page cannot be executed at all, the split is not the reason.
    let gpa = Gpa(CODE);
    assert_eq!(
        stopped(violate(&mut machine, FETCH, CODE, CODE)),
        StopReason::ExecutedOutsideMemory { gpa }
    );
}

#[test]
fn a_write_to_the_guarded_table_is_one_step_in_the_base_view() {
    // By an instruction, and by the processor, which notes that an entry was used.
    for qualification in [WRITE, WALK | 2] {
        let mut machine = divided();
        let at = HALF as u64 + 8;
        assert_eq!(violate(&mut machine, qualification, at, at), Action::Resume);
        assert_eq!(machine.cpu.side, Some(Side::Base));
        assert!(machine.wants(MONITOR_TRAP));
        assert_eq!((machine.rip(), machine.injected()), (CODE, None));
        assert_eq!(machine.vcpu.counters.split.steps, 1);
        machine.put(at as usize, &0x5003_u64.to_le_bytes());
        assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
        assert_eq!(machine.cpu.side, Some(Side::Kernel));
        assert!(!machine.wants(MONITOR_TRAP));
        let half = vec![Gpa(TABLE), Gpa(0x5000)];
        assert_eq!(machine.cpu.admitted, [(half, vec![])]);
    }
}

#[test]
fn the_guarded_table_is_the_one_of_system_calls_whatever_process_runs() {
    let mut machine = divided();
    machine.cpu.set_natural(field::GUEST_CR3, 0x5000);
    let at = HALF as u64;
    assert_eq!(violate(&mut machine, WRITE, at, at), Action::Resume);
    assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
    assert_eq!(machine.cpu.admitted, [(vec![Gpa(TABLE)], vec![])]);
}

#[test]
fn a_guarded_write_where_the_kernel_is_no_more_is_the_last_one() {
    let mut machine = booting();
    assert_eq!(machine.wrmsr(LSTAR, READABLE), Action::Resume);
    let at = HALF as u64 + 8;
    // The entry is where it was; nowhere, as on the way to another kernel; and elsewhere, as in that.
    for (table, entry, guarded) in [
        (TOP, TABLE, true),
        (0x5000, 0, false),
        (0x5000, 0x6003, false),
    ] {
        machine.cpu.places.insert(1, Place::Guarded);
        machine.cpu.set_natural(field::GUEST_CR3, table as u64);
        machine.put(
            table + 0x800,
            &(entry | (u64::from(guarded) * 3)).to_le_bytes(),
        );
        machine.cpu.admitted.clear();
        assert_eq!(violate(&mut machine, WRITE, at, at), Action::Resume);
        assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
        assert_eq!(machine.cpu.side, Some(Side::Kernel));
        assert_eq!(
            machine.cpu.places.is_empty(),
            !guarded,
            "{table:#x} {entry:#x}"
        );
        assert_eq!(machine.cpu.admitted.is_empty(), !guarded);
    }
    assert_eq!(machine.wrmsr(LSTAR, READABLE), Action::Resume);
    assert_eq!(machine.cpu.places.get(&5), Some(&Place::Guarded));
}

#[test]
fn a_kernel_that_switches_paging_off_is_no_more() {
    let mut machine = divided();
    machine.cpu.set_natural(field::GUEST_CR0, 0x31);
    assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::Base));
    assert!(machine.cpu.places.is_empty());
}

#[test]
fn a_delivery_that_writes_to_the_guarded_table_is_done_in_the_step() {
    let mut machine = divided();
    let event = Interruption::external(0x41);
    machine.cpu.set(field::IDT_VECTORING_INFO, event.0);
    assert_eq!(
        violate(&mut machine, WALK | 2, KERNEL, HALF as u64),
        Action::Resume
    );
    assert_eq!(machine.cpu.side, Some(Side::Base));
    assert_eq!(machine.injected(), Some(event));
    machine.cpu.set(field::IDT_VECTORING_INFO, 0);
    assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
    assert_eq!(
        (machine.cpu.side, machine.injected()),
        (Some(Side::Kernel), None)
    );
}

#[test]
fn a_step_that_meets_something_else_is_a_step_all_the_same() {
    let mut machine = divided();
    let at = HALF as u64;
    assert_eq!(violate(&mut machine, WRITE, at, at), Action::Resume);
    machine.cpu.encrypted.insert(0xf, Ok(()));
    assert_eq!(violate(&mut machine, READ, 0xf000, 0xf000), Action::Resume);
    assert_eq!(machine.exit(reason::CPUID), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::Base));
    assert!(machine.wants(MONITOR_TRAP));
    assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    // A trap that nobody asked for changes nothing.
    let admitted = machine.cpu.admitted.len();
    assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
    assert_eq!(machine.cpu.admitted.len(), admitted);
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
}

#[test]
fn an_iret_whose_guarded_write_exits_leaves_nmis_blocked() {
    const UNBLOCKED_NMI: u64 = 1 << 12;
    let mut machine = divided();
    let at = HALF as u64;
    assert_eq!(
        violate(&mut machine, WALK | 2 | UNBLOCKED_NMI, KERNEL, at),
        Action::Resume
    );
    let blocking = machine.cpu.read(field::GUEST_INTERRUPTIBILITY);
    assert_eq!(blocking, BLOCKED_BY_NMI);
}

#[test]
fn init_takes_the_vcpu_back_to_the_base_view() {
    for stepping in [false, true] {
        let mut machine = divided();
        if stepping {
            let at = HALF as u64;
            assert_eq!(violate(&mut machine, WRITE, at, at), Action::Resume);
        }
        machine.cpu.signal(0, Signal::Init);
        assert_eq!(machine.run_again(), Readiness::Enter);
        assert_eq!(machine.cpu.side, Some(Side::Base));
        assert!(!machine.wants(MONITOR_TRAP));
        assert_eq!(machine.exit(MONITOR_TRAP_EXIT), Action::Resume);
        assert_eq!(machine.cpu.side, Some(Side::Base), "no step is left");
        let gpa = Gpa(CODE);
        assert_eq!(
            stopped(violate(&mut machine, FETCH, CODE, CODE)),
            StopReason::ExecutedOutsideMemory { gpa }
        );
    }
}

#[test]
fn user_code_outside_long_mode_stops_the_vm() {
    let mut machine = divided();
    run_user_code(&mut machine);
    machine.cpu.set(field::GUEST_EFER, 0x801);
    assert_eq!(
        stopped(violate(&mut machine, FETCH, CODE, CODE)),
        StopReason::SplitOutsideLongMode
    );
    assert!(machine.cpu.admitted.is_empty());
}

#[test]
fn compatibility_mode_is_long_mode() {
    let mut machine = divided();
    run_user_code(&mut machine);
    machine.cpu.set(field::GUEST_CS_ACCESS, 0xc0fb);
    assert_eq!(violate(&mut machine, FETCH, CODE, CODE), Action::Resume);
    assert_eq!(machine.cpu.side, Some(Side::User));
}

#[test]
fn a_top_level_table_outside_memory_stops_the_vm() {
    let mut machine = divided();
    run_user_code(&mut machine);
    machine.cpu.set_natural(field::GUEST_CR3, 0x20_0000);
    let (gpa, write) = (Gpa(0x20_0800), false);
    assert_eq!(
        stopped(violate(&mut machine, FETCH, CODE, CODE)),
        StopReason::OutsideMemory { gpa, write }
    );
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
}

#[test]
fn a_half_that_cannot_be_hidden_stops_the_vm_before_user_code_runs() {
    let mut machine = divided();
    run_user_code(&mut machine);
    machine.cpu.split_is_lost = true;
    assert_eq!(
        stopped(violate(&mut machine, FETCH, CODE, CODE)),
        StopReason::SplitLost
    );
    assert_eq!(machine.cpu.side, Some(Side::Kernel));
    let mut machine = booting();
    machine.cpu.split_is_lost = true;
    assert_eq!(stopped(machine.wrmsr(LSTAR, ENTRY)), StopReason::SplitLost);
    assert_eq!(machine.cpu.side, None);
}
