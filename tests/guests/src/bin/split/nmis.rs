//! NMIs, sent by the first vCPU to the second, which is in user code and on the ways between it and the kernel all the time.
//!
//! The kernel is the second vCPU's alone. Each NMI says where it arrived; of some the handler has NMIs come that interrupt it.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};

use test_guests::apic::{self, Command};
use test_guests::case::Case;
use test_guests::{cpu, println, smp, timer};

use crate::debug;
use crate::entry::Nested;
use crate::gates::Gates;
use crate::user::{self, End, How, marker};
use crate::world::{self, LEAK, SECRET, USER_STACK_TOP};
use crate::{BREAKPOINT, INVALID_OPCODE, NOT_YOURS_TO_READ, READ, programs};

const VICTIM: usize = 1;
const NMIS: u32 = 600;
/// Of so many, one is followed by another at once.
const PAIR: u32 = 2;
/// Of so many, one is handled with NMIs let in.
const OPEN: u32 = 3;
/// Handlers that interrupt one another, at most.
const DEEPEST: u32 = 8;
/// How long an NMI may take.
const LIMIT: u64 = 10_000_000;

static ARRIVED: AtomicU32 = AtomicU32::new(0);
static IN_GATES: AtomicU32 = AtomicU32::new(0);
static IN_USER: AtomicU32 = AtomicU32::new(0);
static IN_HANDLER: AtomicU32 = AtomicU32::new(0);
static DEPTH: AtomicU32 = AtomicU32::new(0);
static HAS_GATES: AtomicBool = AtomicBool::new(false);
static SPLIT: AtomicBool = AtomicBool::new(false);
static READY: AtomicBool = AtomicBool::new(false);
static DONE: AtomicBool = AtomicBool::new(false);
/// How the loop ended: vector and RIP; and what reading the secret brought then: vector, error code and RAX.
static LOOP: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static AFTERWARDS: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// The first vCPU's part.
pub(crate) fn nmis(case: &mut Case, split: bool) {
    SPLIT.store(split, SeqCst);
    let started = smp::prepare().and_then(|()| smp::start(VICTIM, 1));
    let given = started.and_then(|up| smp::give(VICTIM, victim).map(|()| up));
    let ready = given == Ok(true) && timer::spin_until(smp::START_LIMIT, || READY.load(SeqCst));
    case.check(ready, format_args!("no second vCPU: {given:?}"));
    if !ready {
        return;
    }
    let mut sent = 0;
    for number in 0..NMIS {
        // The second comes while the first is handled.
        let pair = number.is_multiple_of(PAIR);
        for _ in 0..if pair { 2 } else { 1 } {
            sent += 1;
            let command = apic::send(Command::nmi().to(smp::apic_id(VICTIM)));
            let arrives = || ARRIVED.load(SeqCst) == sent;
            if command.is_err() || !timer::spin_until(LIMIT, arrives) {
                case.check(false, format_args!("NMI {sent} is lost: {command:?}"));
                break;
            }
        }
        let handled = timer::spin_until(LIMIT, || DEPTH.load(SeqCst) == 0);
        if !handled || DONE.load(SeqCst) || ARRIVED.load(SeqCst) != sent {
            case.check(false, format_args!("NMI {sent} is the last"));
            break;
        }
        // Another place of the loop each time.
        for _ in 0..number * 37 % 211 {
            cpu::pause();
        }
    }
    world::set_user_word(1, 1);
    let done = timer::spin_until(LIMIT, || DONE.load(SeqCst));
    case.check(done, format_args!("user code goes on and on"));
    let [vector, rip] = LOOP.each_ref().map(|word| word.load(SeqCst));
    case.check(
        vector == INVALID_OPCODE,
        format_args!("the loop ended by vector {vector:#x} at {rip:#x}"),
    );
    let afterwards = AFTERWARDS.each_ref().map(|word| word.load(SeqCst));
    let [vector, _, result] = afterwards;
    let holds = match split {
        true => afterwards[..2] == [14, NOT_YOURS_TO_READ],
        false => (vector, result) == (BREAKPOINT, SECRET),
    };
    case.check(holds, format_args!("afterwards: {afterwards:#x?}"));
    let [arrived, gates, users, handlers] =
        [&ARRIVED, &IN_GATES, &IN_USER, &IN_HANDLER].map(|count| count.load(SeqCst));
    println!(
        "split: {sent} NMIs sent, {arrived} arrived: {gates} in gates, {users} in user code, {handlers} in handlers"
    );
    case.check(arrived == sent, format_args!("{arrived} of {sent} NMIs"));
    case.check((gates > 0) == split, format_args!("{gates} in gates"));
    case.check(
        HAS_GATES.load(SeqCst) == split,
        format_args!("gates are there, or are not"),
    );
    case.check(handlers > 0, format_args!("none in a handler"));
    let blind = debug::was_blind();
    case.check(blind == 0, format_args!("{blind} times without the kernel"));
}

/// The second vCPU's.
fn victim(_: usize) {
    world::build();
    user::return_by_sites();
    user::run(&[0xcc], 0, 0);
    HAS_GATES.store(Gates::find().is_some(), SeqCst);
    const RDX: usize = 3;
    const R10: usize = 9;
    const R14: usize = 13;
    /// RBX, RBP, R8 to R10, R12, R13, R15.
    const UNCHANGED: [usize; 8] = [1, 6, 7, 8, R10, 11, 12, 14];
    let sum = UNCHANGED.iter().fold(USER_STACK_TOP, |sum, register| {
        sum ^ marker(*register as u64)
    });
    world::set_user_word(0, marker(R10 as u64));
    user::prepare(programs::checked_loop(), LEAK, 0, 0);
    let found = if SPLIT.load(SeqCst) { 7 } else { SECRET };
    user::set_register(RDX, found);
    user::set_register(R14, sum);
    user::go_on_by_itself(true);
    READY.store(true, SeqCst);
    let End { vector, rip, .. } = user::resume(How::Iret);
    user::go_on_by_itself(false);
    store(&LOOP, [vector, rip]);
    let end = user::run(&READ, LEAK, 0);
    store(&AFTERWARDS, [end.vector, end.error, end.result]);
    DONE.store(true, SeqCst);
    loop {
        cpu::pause();
    }
}

fn store<const N: usize>(to: &[AtomicU64; N], from: [u64; N]) {
    to.iter()
        .zip(from)
        .for_each(|(to, from)| to.store(from, SeqCst));
}

/// One arrived.
pub(crate) fn arrive(frame: &Nested) {
    let number = ARRIVED.fetch_add(1, SeqCst);
    debug::look();
    let depth = DEPTH.fetch_add(1, SeqCst);
    if depth > 0 {
        IN_HANDLER.fetch_add(1, SeqCst);
    } else if frame.cs & 3 == 3 {
        IN_USER.fetch_add(1, SeqCst);
    } else if Gates::PLACE.has(frame.rip) {
        IN_GATES.fetch_add(1, SeqCst);
    }
    if number.is_multiple_of(OPEN) && depth < DEEPEST {
        let_in();
        for _ in 0..2_000 {
            cpu::pause();
        }
    }
    DEPTH.fetch_sub(1, SeqCst);
}

/// Has an NMI come that waits: a debug exception's IRET lets it.
fn let_in() {
    // SAFETY: the debug exception that follows clears the flag again.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop") };
}
