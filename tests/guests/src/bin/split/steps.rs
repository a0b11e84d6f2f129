//! User code that is single-stepped, into the kernel too: SYSCALL leaves TF alone, and so the kernel is stepped through where it is entered and left.

use test_guests::case::Case;
use test_guests::println;

use crate::debug;
use crate::entry::{
    split_entry_stack_site, split_iret_end, split_kernel_stack_site, split_syscall,
    split_sysret_site, split_sysret_site_end,
};
use crate::gates::Gates;
use crate::user::{self, End, How, INTERRUPTS, TRAP};
use crate::world::{self, KERNEL, LEAK, MASKED, USER_CODE, USER_NOTHING};
use crate::{DEBUG, INVALID_OPCODE, check, look_for_secret, programs};

/// What is stepped through is the same with the split and without, and nothing of the kernel is within reach wherever it ends.
pub(crate) fn steps(case: &mut Case, split: bool) {
    let end = step(None);
    check(case, "the end of the tour", end, |end| {
        end.is_user && end.vector == INVALID_OPCODE
    });
    case.check(
        user::registers_are_kept(),
        format_args!("registers changed on the way"),
    );
    let hits = debug::recorded();
    let (count, gates) = (hits.len() as u32, Gates::find());
    case.check(
        gates.is_some() == split,
        format_args!("gates: {}", gates.is_some()),
    );
    case.check(
        !hits.clone().any(|[rip, ..]| Gates::PLACE.has(rip)),
        format_args!("a step in a gate shows"),
    );
    let mut rips = hits.clone().map(|[rip, ..]| rip);
    case.check(
        rips.clone().any(|rip| rip >> 12 == USER_CODE >> 12) && rips.any(|rip| rip >= KERNEL),
        format_args!("user code and the kernel are not both stepped through"),
    );
    // The trap of SYSCALL itself, which the emulator leaves out, and cannot where the first instruction is a gate's.
    let entry = KERNEL + &raw const split_syscall as u64;
    let at_entry = hits.clone().filter(|[rip, ..]| *rip == entry).count();
    case.check(
        at_entry == 1 || !split && at_entry == 0,
        format_args!("{at_entry} steps at the kernel's entry"),
    );
    let same = hits.filter(|[rip, ..]| *rip != entry && !is_inside_site(*rip));
    for [rip, dr6, cs, flags] in same {
        println!("step at {rip:#x}: DR6 {dr6:#x} CS {cs:#x} flags {flags:#x}");
    }
    for last in 0..count {
        let end = step(Some(last));
        check(case, "a step as the end", end, |end| end.vector == DEBUG);
        world::take_gs();
        look_for_secret(case, LEAK, split);
    }
    let blind = debug::was_blind();
    case.check(blind == 0, format_args!("{blind} times without the kernel"));
}

fn step(last: Option<u32>) -> End {
    user::go_on_by_itself(true);
    world::mask_flags(0);
    debug::record(last);
    user::prepare(programs::tour(), USER_NOTHING, 0, TRAP | INTERRUPTS);
    let end = user::resume(How::EntryStackSite);
    user::go_on_by_itself(false);
    world::mask_flags(MASKED);
    end
}

/// Behind the first instruction of a place at which the kernel is left: with gates, that is not executed there.
fn is_inside_site(rip: u64) -> bool {
    let sites = [
        (&split_sysret_site, &split_sysret_site_end),
        (&split_entry_stack_site, &split_kernel_stack_site),
        (&split_kernel_stack_site, &split_iret_end),
    ];
    sites.iter().any(|(start, end)| {
        let [start, end] = [start, end].map(|at| core::ptr::from_ref(*at) as u64);
        [0, KERNEL]
            .iter()
            .any(|half| rip > half + start && rip < half + end)
    })
}
