//! The gates' addresses, used by others: the kernel maps something there, user code reaches for them, and a top-level table looks like one that gates know.

use test_guests::case::Case;
use test_guests::println;

use crate::gates::{GIBS, Gates};
use crate::user::{self, SYSCALL};
use crate::world::{self, FORGED_SLOT, LEAK};
use crate::{
    JUMP, NOT_YOURS_TO_READ, NOT_YOURS_TO_RUN, NOT_YOURS_TO_WRITE, PAGE_FAULT, READ, WRITE, check,
    interrupts, read_secret, round_trip,
};

/// CALL RDI.
const CALL: [u8; 2] = [0xff, 0xd7];

/// The kernel gives user code a page where the gates are: it does not get in their way, and user code does not get it.
pub(crate) fn mapped(case: &mut Case, split: bool) {
    round_trip(case, SYSCALL);
    for (gib, at) in GIBS.into_iter().zip([Gates::PLACE.code, Gates::PLACE.data]) {
        world::map_secret_at(gib, true);
        if split {
            case.check(Gates::find().is_some(), format_args!("the gates went away"));
        }
        for (code, error) in [
            (&READ[..], NOT_YOURS_TO_READ),
            (&JUMP, NOT_YOURS_TO_RUN),
            (&CALL, NOT_YOURS_TO_RUN),
            (&WRITE, NOT_YOURS_TO_WRITE),
        ] {
            let end = user::run(code, at, 0);
            println!("split: user code at {at:#x}: {end}");
            if split {
                // In the second GiB, what is first is not named, and there is a table all the same.
                check(case, "the kernel's page at a gate", end, |end| {
                    end.is_user
                        && (end.vector, end.cr2) == (PAGE_FAULT, at)
                        && end.error & !1 == error & !1
                });
            } else {
                check(case, "the kernel's page, without the split", end, |end| {
                    end.is_user && end.vector != PAGE_FAULT
                });
            }
        }
        if split {
            read_secret(case, LEAK, split);
        }
        round_trip(case, SYSCALL);
        interrupts(case, split);
        world::map_secret_at(gib, false);
        world::set_secret();
        world::use_first_tables();
        round_trip(case, SYSCALL);
    }
}

/// User code reaches for each page of the gates'.
pub(crate) fn reached(case: &mut Case, split: bool) {
    round_trip(case, SYSCALL);
    const PAGES: u64 = 8;
    let mut present = 0;
    for gates in [Gates::PLACE.code, Gates::PLACE.data] {
        for at in (gates..).step_by(4096).take(PAGES as usize) {
            for (code, error) in [
                (&READ[..], NOT_YOURS_TO_READ),
                (&WRITE, NOT_YOURS_TO_WRITE),
                (&JUMP, NOT_YOURS_TO_RUN),
                (&CALL, NOT_YOURS_TO_RUN),
            ] {
                let end = user::run(code, at, 0);
                check(case, "a page of the gates'", end, |end| {
                    end.is_user
                        && (end.vector, end.cr2) == (PAGE_FAULT, at)
                        && end.error & !1 == error & !1
                });
                present += end.error & 1;
            }
        }
    }
    println!("split: {present} faults tell of a page");
    case.check(
        (present > 0) == split,
        format_args!("{present} faults tell of a page"),
    );
    round_trip(case, SYSCALL);
    read_secret(case, LEAK, split);
}

/// Top-level tables that gates would take for one another, if they looked less closely: each time one that was not looked at.
pub(crate) fn forged(case: &mut Case, split: bool) {
    round_trip(case, SYSCALL);
    for blocks in 1..=world::FORGED {
        world::use_forged_tables(blocks);
        read_secret(case, world::slot(FORGED_SLOT), split);
        read_secret(case, LEAK, split);
        round_trip(case, SYSCALL);
        world::use_first_tables();
        round_trip(case, SYSCALL);
    }
}
