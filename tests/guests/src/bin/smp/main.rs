//! Several vCPUs: started, interrupted by each other in every way, stopped deaf and started again.
//!
//! Parameters: `case=<name>` for one case (else all but `init-bsp`), `vcpus=<n>` where a number of vCPUs is expected,
//! `ipi=<n>` rounds of interrupts, `masked=<n>` interrupts to a vCPU that has them off, `faults=<n>` exceptions of each vCPU, `cycles=<n>` restarts of a vCPU, `tsc=<n>` readings of the TSC. Prints
//! `smp: <n> vCPUs, this one has x2APIC id <id>`, then from each vCPU that comes up `smp: vCPU <n> has x2APIC id <id>`,
//! then the cases.
#![no_std]
#![no_main]

mod destinations;
mod faults;
mod hotplug;
mod masked;
mod round_trip;
mod tsc;

use test_guests::case::Case;
use test_guests::cpu::{self, Cpuid};
use test_guests::params::Params;
use test_guests::smp::{self, MAX_VCPUS};
use test_guests::{acpi, apic, guest, println, timer};

guest!(main);

/// How long to wait for what has to happen, in ticks: long, because the vCPUs may share a CPU.
pub(crate) const LIMIT: u64 = 2_000_000_000;
/// CPUID leaf with the x2APIC identifier in EDX (Intel SDM vol. 2A, "CPUID", extended topology enumeration).
const TOPOLOGY_LEAF: u32 = 0xb;

/// The vCPUs in use: number 0 is the one that booted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vcpus {
    ids: [u32; MAX_VCPUS],
    count: usize,
}

impl Vcpus {
    /// Those that the MADT names, the one asking first.
    fn find(params: &Params) -> Self {
        let mut vcpus = Self {
            ids: [apic::id(); MAX_VCPUS],
            count: 1,
        };
        for id in acpi::apic_ids(params) {
            if let Some(place) = vcpus.ids.get_mut(vcpus.count).filter(|_| id != apic::id()) {
                *place = id;
                vcpus.count += 1;
            }
        }
        vcpus
    }

    /// The others, as number and identifier.
    pub(crate) fn others(&self) -> impl Iterator<Item = (usize, u32)> {
        self.ids.into_iter().enumerate().take(self.count).skip(1)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

type CaseFn = fn(&mut Case, &Params, &Vcpus);

/// Cases in the order they run; the last only when asked for, because afterwards the first vCPU may be gone.
const CASES: &[(&str, CaseFn)] = &[
    ("start", start),
    ("ipi", round_trip::ping_pong),
    ("masked", masked::none_arrives_while_off),
    ("faults", faults::each_is_handled_once),
    ("destinations", destinations::all_reach_whom_they_name),
    ("strangers", destinations::strangers_get_nothing),
    ("nmi", destinations::nmi),
    ("tsc", tsc::never_goes_backwards),
    ("hotplug", hotplug::cycle),
    ("init-bsp", hotplug::init_first),
];
const ONLY_WHEN_ASKED: &str = "init-bsp";

fn main(params: &Params) {
    if let Err(fault) = smp::prepare() {
        println!("case smp: FAIL x2APIC mode refused: {fault}");
        return;
    }
    let vcpus = Vcpus::find(params);
    println!(
        "smp: {} vCPUs, this one has x2APIC id {}",
        vcpus.count(),
        apic::id()
    );
    // Wakes this vCPU should what it waits for never come.
    if let Err(fault) = timer::arm(cpu::ticks().saturating_add(LIMIT)) {
        println!("case smp: FAIL TSC-deadline timer: {fault}");
        return;
    }
    let wanted = params.get("case");
    let mut started = false;
    for &(name, run) in CASES {
        if wanted.map_or(name != ONLY_WHEN_ASKED, |wanted| wanted == name) {
            let mut case = Case::start(name);
            if !started && name != "start" {
                start(&mut case, params, &vcpus);
            }
            started = true;
            run(&mut case, params, &vcpus);
            case.finish();
        }
    }
}

/// Every other vCPU comes up, says who it is, and is who it should be.
fn start(case: &mut Case, params: &Params, vcpus: &Vcpus) {
    let expected = params.number("vcpus").map_or(vcpus.count(), |n| n as usize);
    case.check(
        vcpus.count() == expected && expected <= MAX_VCPUS,
        format_args!("there are {} vCPUs, not {expected}", vcpus.count()),
    );
    for (vcpu, id) in vcpus.others() {
        let up = smp::start(vcpu, id);
        case.check(
            up == Ok(true),
            format_args!("vCPU {vcpu} does not start: {up:?}"),
        );
        let told = smp::run(vcpu, LIMIT, say_hello);
        case.check(
            told == Ok(true),
            format_args!("vCPU {vcpu} says nothing: {told:?}"),
        );
        case.check(
            smp::apic_id(vcpu) == id,
            format_args!("vCPU {vcpu} has id {}, not {id}", smp::apic_id(vcpu)),
        );
    }
}

fn say_hello(vcpu: usize) {
    let Cpuid { edx, .. } = cpu::cpuid(TOPOLOGY_LEAF, 0);
    println!(
        "smp: vCPU {vcpu} has x2APIC id {}, by CPUID {edx}",
        apic::id()
    );
}
