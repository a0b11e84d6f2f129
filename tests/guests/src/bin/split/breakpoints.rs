//! Breakpoints in gates: each instruction of theirs, and each word, interrupts user code's way into the kernel or back.

use test_guests::case::Case;
use test_guests::println;

use crate::debug::{self, BREAKPOINTS, Breakpoints, Hit};
use crate::entry::split_syscall;
use crate::gates::{Gates, Range};
use crate::user::{self, End, How};
use crate::world::{self, KERNEL, LEAK, USER_NOTHING};
use crate::{
    BREAKPOINT, DEBUG, INVALID_OPCODE, PAGE_FAULT, check, look_for_secret, programs, round_trip,
};

/// VMFUNC, as the low bytes of a word.
const VMFUNC: u64 = 0xd4_010f;
const VMFUNC_LENGTH: u64 = 3;
/// How many times the tour comes to one of them in the ways out: at SYSRET, at IRET from the entry stack, with which it begins, too, and at IRET from the
/// kernel's stack.
const WAYS: u32 = 4;
/// Of a page of ways out, what is looked at.
const MOST_WAYS: u64 = 0x200;

/// Where gates are, with the split, once user code ran; without, where they would be.
fn find_gates(case: &mut Case, split: bool) -> Gates {
    user::run(&[0xcc], 0, 0);
    let gates = Gates::find();
    case.check(
        gates.is_some() == split,
        format_args!("gates: {}", gates.is_some()),
    );
    gates.unwrap_or(Gates::PLACE)
}

/// Each instruction of each gate that [`tour`](programs::tour) goes through.
pub(crate) fn execution(case: &mut Case, split: bool) {
    let at = find_gates(case, split);
    let entry = Range {
        start: KERNEL + &raw const split_syscall as u64,
        length: 4,
    };
    let none = Range {
        start: 0,
        length: 0,
    };
    let debug_stub = match split {
        true => at.debug_stub(),
        false => Some(none),
    };
    case.check(debug_stub.is_some(), format_args!("no stub of #DB's own"));
    let debug_stub = debug_stub.unwrap_or(none);
    let ways = Range {
        start: at.ways(),
        length: MOST_WAYS,
    };
    for (what, range, switches, always) in [
        ("the kernel's entry", entry, 0, true),
        ("SYSCALL", at.syscall(), 1, false),
        ("INT3", at.stub(BREAKPOINT), 1, false),
        ("#PF", at.stub(PAGE_FAULT), 1, false),
        ("#UD", at.stub(INVALID_OPCODE), 1, false),
        ("the ways out", ways, WAYS, false),
    ] {
        let (mut hits, mut switched) = (0, 0);
        let mut passed = Passed::default();
        for four in (range.start..range.start + range.length).step_by(4) {
            // A debug exception on the way to its own handler has no end, with gates or without.
            if four.wrapping_sub(debug_stub.start) < debug_stub.length {
                continue;
            }
            let addresses = [0, 1, 2, 3].map(|byte| four + byte);
            let end = tour(addresses, Breakpoints::Execution, None);
            is_whole(case, end);
            let mut count = 0;
            for hit in debug::recorded() {
                case.check(
                    is_of_instruction(hit, addresses),
                    format_args!("{what}: {hit:#x?}"),
                );
                switched += u32::from(split && passed.goes_on(hit[0]));
                count += 1;
            }
            hits += count;
            // And with each as the end, in the middle of the gate.
            for last in 0..count {
                let end = tour(addresses, Breakpoints::Execution, Some(last));
                is_cut(case, end);
                look_for_secret(case, LEAK, split);
            }
            look_for_secret(case, LEAK, split);
        }
        println!("split: {what}: {hits} breakpoints, {switched} around VMFUNC");
        let wanted = if split { switches } else { 0 };
        case.check(
            switched == wanted && (hits > 0) == (split || always),
            format_args!("{what}: {hits} breakpoints, {switched} around VMFUNC"),
        );
    }
    let blind = debug::was_blind();
    case.check(blind == 0, format_args!("{blind} times without the kernel"));
    user::go_on_by_itself(false);
    round_trip(case, user::SYSCALL);
}

/// The words that gates keep registers in, where they look for a top-level table, and the entry stack.
pub(crate) fn data(case: &mut Case, split: bool) {
    let at = find_gates(case, split);
    let [rax, rcx] = at.words();
    // Behind the frame of an exception: the first that its entry pushes.
    let pushed = world::entry_stack_top() - 48;
    let addresses = [rax, rcx, pushed, at.seen(world::first_table())];
    let end = tour(addresses, Breakpoints::Data, None);
    is_whole(case, end);
    let hits = debug::recorded();
    let count = hits.len() as u32;
    for (number, what) in ["RAX's word", "RCX's word", "the entry stack", "a table"]
        .iter()
        .enumerate()
    {
        let is_hit = |hit: &Hit| hit[1] >> number & 1 != 0;
        let times = hits.clone().filter(is_hit).count();
        let in_gates = hits.clone().filter(is_hit).filter(|hit| at.has(hit[0]));
        let in_gates = in_gates.count();
        println!("split: {what}: {times} times, {in_gates} in gates");
        // Written to and read; on the stack, by the kernel as well; a table is looked for at each way out.
        let holds = match (split, number) {
            (true, 0 | 1) => (times, in_gates) == (2, 2),
            (true, 2) => in_gates > 0,
            (true, _) => (times, in_gates) == (WAYS as usize, WAYS as usize),
            (false, 2) => times > 0 && in_gates == 0,
            (false, _) => times == 0,
        };
        case.check(holds, format_args!("{what}: {times}, {in_gates} in gates"));
    }
    for last in 0..count {
        let end = tour(addresses, Breakpoints::Data, Some(last));
        is_cut(case, end);
        look_for_secret(case, LEAK, split);
    }
    let blind = debug::was_blind();
    case.check(blind == 0, format_args!("{blind} times without the kernel"));
    round_trip(case, user::SYSCALL);
}

fn tour(addresses: [u64; 4], kind: Breakpoints, last: Option<u32>) -> End {
    user::prepare(programs::tour(), USER_NOTHING, 0, 0);
    user::go_on_by_itself(true);
    debug::record(last);
    debug::set_breakpoints(addresses, kind);
    let end = user::resume(How::EntryStackSite);
    debug::set_breakpoints([0; 4], Breakpoints::None);
    user::go_on_by_itself(false);
    end
}

fn is_whole(case: &mut Case, end: End) {
    check(case, "the end of the tour", end, |end| {
        end.is_user && end.vector == INVALID_OPCODE
    });
    case.check(
        user::registers_are_kept(),
        format_args!("registers changed on the way"),
    );
}

fn is_cut(case: &mut Case, end: End) {
    check(case, "a breakpoint as the end", end, |end| {
        end.vector == DEBUG
    });
    world::take_gs();
}

/// A breakpoint at its own address, and at no other.
fn is_of_instruction([rip, dr6, cs, _]: Hit, addresses: [u64; 4]) -> bool {
    let mut numbers = (0..4).zip(addresses);
    let own = numbers.find_map(|(number, at)| (at == rip).then_some(1 << number));
    own == Some(dr6 & BREAKPOINTS) && cs & 3 == 0
}

/// The VMFUNC that was last come to.
#[derive(Default)]
struct Passed(Option<u64>);

impl Passed {
    /// Whether `rip` is right behind a VMFUNC that was come to before.
    fn goes_on(&mut self, rip: u64) -> bool {
        if world::read(rip) & 0xff_ffff == VMFUNC {
            self.0 = Some(rip);
        }
        self.0 == Some(rip.wrapping_sub(VMFUNC_LENGTH))
    }
}
