//! Who gets the CPU: shares by weight, caps, and what a VM that does nothing costs.

use std::time::Duration;

use crate::context::{Context, Setup};
use crate::lab::BURN;
use crate::machine::Machine;
use crate::manifest::{Group, Manifest};
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 300;
/// How long shares are watched.
const WATCHED: Duration = Duration::from_secs(20);
/// Shares are watched until so many ticks are over, at least.
const ENOUGH_TICKS: u64 = 1_000_000_000;
/// How far, in percent, a ratio of weights may be off, and a cap.
const WEIGHT_TOLERANCE: f64 = 5.0;
const CAP_TOLERANCE: f64 = 3.0;
/// The most that an idle VM may cost, in percent of all ticks.
const IDLE_LIMIT: f64 = 0.5;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "sched_two_busy_vms_share_a_cpu_by_their_weights",
            Ground::Vmx,
            LIMIT,
            weights,
        ),
        Scenario::new("sched_a_cap_holds_on_an_idle_cpu", Ground::Vmx, LIMIT, cap),
        Scenario::new(
            "sched_a_cap_holds_beside_a_busy_vm",
            Ground::Vmx,
            LIMIT,
            cap_in_company,
        ),
        Scenario::new(
            "sched_idle_vms_cost_next_to_nothing",
            Ground::Vmx,
            LIMIT,
            idle,
        ),
        Scenario::new(
            "sched_pinned_vms_have_their_cpus_to_themselves",
            Ground::Vmx,
            LIMIT,
            pinned,
        ),
    ]
}

/// What a VM used between two looks.
struct Used {
    /// Ticks that passed.
    passed: u64,
    guest: u64,
    root: u64,
}

impl Used {
    /// Ticks in the guest, in percent of all.
    fn share(&self) -> f64 {
        self.guest as f64 * 100.0 / self.passed.max(1) as f64
    }

    /// Ticks in the guest and in the hypervisor for it, in percent of all.
    fn cost(&self) -> f64 {
        (self.guest + self.root) as f64 * 100.0 / self.passed.max(1) as f64
    }
}

fn weights(context: &Context<'_>) -> Outcome {
    let mut machine = start(
        context,
        1,
        vec![
            busy("heavy").with("weight = 200"),
            busy("light").with("weight = 100"),
        ],
    )?;
    let [heavy, light] = watch(context, &mut machine, ["heavy", "light"])?;
    let ratio = heavy.share() / light.share();
    context.note(format!("2:1 by weight gives {ratio:.3}:1"));
    machine.ensure(
        (ratio / 2.0 - 1.0).abs() * 100.0 <= WEIGHT_TOLERANCE,
        || format!("weights of 2:1 give {ratio:.3}:1"),
    )?;
    let both = heavy.share() + light.share();
    machine.ensure(both > 95.0, || {
        format!("together they get {both:.1} % of the CPU")
    })
}

fn cap(context: &Context<'_>) -> Outcome {
    let mut machine = start(context, 1, vec![busy("capped").with("cap = 25")])?;
    let [used] = watch(context, &mut machine, ["capped"])?;
    holds(context, &machine, &used)
}

fn cap_in_company(context: &Context<'_>) -> Outcome {
    let vms = vec![
        busy("capped").with("cap = 25").with("weight = 1000"),
        busy("other"),
    ];
    let mut machine = start(context, 1, vms)?;
    let [capped, other] = watch(context, &mut machine, ["capped", "other"])?;
    machine.ensure(other.share() > 70.0, || {
        format!("the other VM gets {:.1} %", other.share())
    })?;
    holds(context, &machine, &capped)
}

fn holds(context: &Context<'_>, machine: &Machine<'_>, used: &Used) -> Outcome {
    let share = used.cost();
    context.note(format!("a cap of 25 % gives {share:.2} %"));
    machine.ensure((share / 25.0 - 1.0).abs() * 100.0 <= CAP_TOLERANCE, || {
        format!("a cap of 25 % gives {share:.2} %")
    })
}

fn idle(context: &Context<'_>) -> Outcome {
    let vms = vec![
        busy("busy"),
        guest("ticking", "mode=idle hz=10"),
        guest("halted", "mode=halt"),
    ];
    let mut machine = start(context, 1, vms)?;
    let [busy, ticking, halted] = watch(context, &mut machine, ["busy", "ticking", "halted"])?;
    context.note(format!(
        "idle with a timer {:.3} %, halted {:.4} %, busy {:.2} %",
        ticking.cost(),
        halted.cost(),
        busy.share()
    ));
    machine.ensure(ticking.cost() < IDLE_LIMIT, || {
        format!("an idle VM costs {:.3} %", ticking.cost())
    })?;
    machine.ensure(halted.guest == 0 && halted.cost() < 0.01, || {
        format!("a halted VM costs {:.4} %", halted.cost())
    })?;
    machine.ensure(busy.share() > 98.0, || {
        format!("the busy VM gets {:.2} %", busy.share())
    })
}

fn pinned(context: &Context<'_>) -> Outcome {
    let vms = [
        busy("first").with("cpus = [0]"),
        busy("second").with("cpus = [1]"),
    ];
    let mut machine = start(context, 2, vms)?;
    let used: [Used; 2] = watch(context, &mut machine, ["first", "second"])?;
    for (used, vm) in used.iter().zip(["first", "second"]) {
        machine.ensure(used.share() > 98.0, || {
            format!("VM {vm} gets {:.2} % of its own CPU", used.share())
        })?;
        let counters = machine.counters(vm)?;
        machine.ensure(counters.number("switches") == Some(0), || {
            format!("another vCPU had its CPU: {}", counters.0)
        })?;
    }
    Ok(())
}

fn busy(name: &'static str) -> Manifest {
    guest(name, "mode=busy")
}

fn guest(name: &'static str, cmdline: &str) -> Manifest {
    Manifest::of(BURN).named(name).with_cmdline(cmdline)
}

fn start<'a>(
    context: &'a Context<'a>,
    cpus: u32,
    vms: impl Into<Vec<Manifest>>,
) -> Outcome<Machine<'a>> {
    let group = Group::of(vms);
    let setup = Setup {
        cpus,
        ..Setup::default()
    };
    let mut machine = context.start(context.boot_group(&group)?, setup)?;
    for vm in 0..group.vms.len() {
        machine.event("vm-start", vm)?;
    }
    // Past their start, which is not the work that is watched.
    machine.expect("burn: [a-z]+\n")?;
    machine.watch(Duration::from_secs(1))?;
    Ok(machine)
}

/// What each VM uses while nobody does anything else.
fn watch<const COUNT: usize>(
    context: &Context<'_>,
    machine: &mut Machine<'_>,
    vms: [&str; COUNT],
) -> Outcome<[Used; COUNT]> {
    let before = Ticks::of(machine, vms)?;
    loop {
        machine.ensure(!context.left().is_zero(), || {
            format!("{ENOUGH_TICKS} ticks did not pass in time")
        })?;
        machine.watch(WATCHED.min(context.left()))?;
        let after = Ticks::of(machine, vms)?;
        let used: Vec<_> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after.since(before))
            .collect();
        if used.iter().all(|used| used.passed > ENOUGH_TICKS) {
            return used
                .try_into()
                .map_err(|_| machine.failure("a VM has no counters"));
        }
    }
}

/// What a VM's counters say at one look.
struct Ticks {
    now: u64,
    guest: u64,
    root: u64,
}

impl Ticks {
    fn of<const COUNT: usize>(machine: &mut Machine<'_>, vms: [&str; COUNT]) -> Outcome<Vec<Self>> {
        let mut all = Vec::new();
        for vm in vms {
            let counters = machine.counters(vm)?;
            let number = |key| {
                let missing = || machine.failure(&format!("`counters` has no `{key}`"));
                counters.number(key).ok_or_else(missing)
            };
            all.push(Self {
                now: number("t")?,
                guest: number("guest_ticks")?,
                root: number("root_ticks")?,
            });
        }
        Ok(all)
    }

    fn since(&self, before: &Self) -> Used {
        Used {
            passed: self.now.saturating_sub(before.now),
            guest: self.guest.saturating_sub(before.guest),
            root: self.root.saturating_sub(before.root),
        }
    }
}
