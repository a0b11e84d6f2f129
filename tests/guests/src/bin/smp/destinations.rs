//! Whom an interrupt reaches, by every way to name destinations, and that those who do not exist get none.

use core::sync::atomic::{AtomicU32, Ordering};

use test_guests::apic::{self, Command};
use test_guests::case::Case;
use test_guests::params::Params;
use test_guests::smp::MAX_VCPUS;
use test_guests::trap::{self, NMI};
use test_guests::{cpu, smp};

use crate::{LIMIT, Vcpus};

const VECTOR: u8 = 0x60;
/// An interrupt that nobody should get has this long to arrive, in ticks.
const SETTLE: u64 = 2_000_000;
const BROADCAST: u32 = u32::MAX;

/// How often each vCPU got something.
type Counts = [u32; MAX_VCPUS];

/// Expected additions to [`Counts`].
fn counts(vector: u8) -> Counts {
    core::array::from_fn(|vcpu| trap::count_on(vcpu, vector))
}

/// The logical destination that names `id` alone (Intel SDM vol. 3A, "Logical Destination Mode in x2APIC Mode").
const fn logical(id: u32) -> u32 {
    ((id >> 4) << 16) | (1 << (id & 15))
}

pub(crate) fn all_reach_whom_they_name(case: &mut Case, _: &Params, vcpus: &Vcpus) {
    let interrupt = Command::interrupt(VECTOR);
    let everyone = (1 << vcpus.count()) - 1;
    let others = everyone & !1;
    reaches(case, "self shorthand", interrupt.to_self(), 1);
    reaches(case, "all shorthand", interrupt.to_all(), everyone);
    reaches(case, "others shorthand", interrupt.to_others(), others);
    reaches(case, "broadcast id", interrupt.to(BROADCAST), everyone);
    reaches(case, "own id", interrupt.to(apic::id()), 1);
    let mut cluster = logical(apic::id());
    for (vcpu, id) in vcpus.others() {
        reaches(case, "id", interrupt.to(id), 1 << vcpu);
        reaches(
            case,
            "logical",
            interrupt.to_logical(logical(id)),
            1 << vcpu,
        );
        if logical(id) >> 16 == cluster >> 16 {
            cluster |= logical(id);
        }
    }
    reaches(
        case,
        "logical cluster",
        interrupt.to_logical(cluster),
        everyone,
    );
    let sender = vcpus.count() - 1;
    if sender > 0 {
        // From another vCPU: what it calls self is not this one.
        from_another(case, sender);
    }
}

static RECIPIENTS: AtomicU32 = AtomicU32::new(0);

fn from_another(case: &mut Case, sender: usize) {
    let before = counts(VECTOR);
    RECIPIENTS.store(0, Ordering::Relaxed);
    let sent = smp::run(sender, LIMIT, |_| {
        for command in [
            Command::interrupt(VECTOR).to_self(),
            Command::interrupt(VECTOR).to(smp::apic_id(0)),
        ] {
            if apic::send(command).is_ok() {
                RECIPIENTS.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    case.check(
        sent == Ok(true) && RECIPIENTS.load(Ordering::Relaxed) == 2,
        format_args!("vCPU {sender} cannot send: {sent:?}"),
    );
    expect(case, "from another vCPU", VECTOR, before, 1 | (1 << sender));
}

pub(crate) fn strangers_get_nothing(case: &mut Case, _: &Params, vcpus: &Vcpus) {
    let next = vcpus.count() as u32;
    for id in [next, 64, 254, 255, 256, 65536, 0x8000_0000, 0xffff_fffe] {
        reaches(case, "stranger", Command::interrupt(VECTOR).to(id), 0);
        reaches(case, "INIT to a stranger", Command::init().to(id), 0);
        let startup = Command::startup(smp::TRAMPOLINE_PAGE).to(id);
        reaches(case, "start-up of a stranger", startup, 0);
    }
    for mask in [0, 0xffff_0000, 0xfffe_0001, 1 << 15] {
        reaches(
            case,
            "logical stranger",
            Command::interrupt(VECTOR).to_logical(mask),
            0,
        );
    }
    for (vcpu, _) in vcpus.others() {
        case.check(
            smp::starts(vcpu) == 1,
            format_args!("vCPU {vcpu} was started anew"),
        );
    }
}

pub(crate) fn nmi(case: &mut Case, _: &Params, vcpus: &Vcpus) {
    for (vcpu, id) in vcpus.others() {
        let before = counts(NMI);
        sent(case, "NMI", Command::nmi().to(id));
        expect(case, "NMI", NMI, before, 1 << vcpu);
    }
    let before = counts(NMI);
    sent(case, "NMI to all others", Command::nmi().to_others());
    let others = ((1 << vcpus.count()) - 1) & !1;
    expect(case, "NMI to all others", NMI, before, others);
}

/// Sends `command`; the vCPUs in the set `who`, and no others, get one interrupt.
fn reaches(case: &mut Case, what: &str, command: Command, who: u32) {
    let before = counts(VECTOR);
    sent(case, what, command);
    expect(case, what, VECTOR, before, who);
}

fn sent(case: &mut Case, what: &str, command: Command) {
    let outcome = apic::send(command);
    case.check(
        outcome.is_ok(),
        format_args!("{what} {:#x}: {outcome:?}", command.0),
    );
}

/// Waits until each vCPU of the set `who` got one more `vector` than `before`, then some time to see that nobody else did.
fn expect(case: &mut Case, what: &str, vector: u8, before: Counts, who: u32) {
    let start = cpu::ticks();
    cpu::enable_interrupts();
    let holds = loop {
        let passed = cpu::ticks().wrapping_sub(start);
        let got = arrived(before, counts(vector));
        if got == Some(who) && (who != 0 || passed > SETTLE) {
            break true;
        }
        if passed > LIMIT {
            break false;
        }
        core::hint::spin_loop();
    };
    cpu::disable_interrupts();
    case.check(
        holds,
        format_args!(
            "{what}: reached {:?}, not the set {who:#b}",
            arrived(before, counts(vector))
        ),
    );
}

/// The set of vCPUs that got exactly one more; none where one got more than that.
fn arrived(before: Counts, after: Counts) -> Option<u32> {
    let mut set = 0;
    for (vcpu, (before, after)) in before.into_iter().zip(after).enumerate() {
        match after.wrapping_sub(before) {
            0 => {}
            1 => set |= 1 << vcpu,
            _ => return None,
        }
    }
    Some(set)
}
