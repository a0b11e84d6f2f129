//! Resets as they are carried out, on machines whose functions forget when they are reset.

use super::super::access::{ConfigAccess, Extent, Width};
use super::super::reset::{AFTER_BUS_RESET_MS, BUS_RESET_MS, FUNCTION_RESET_MS, Reset, choose};
use super::super::reset_run::{Progress, ResetRun};
use super::super::testing::fake::Fake;
use super::super::testing::machines::{desktop, q35};
use super::super::testing::{at, inventory_of};
use super::super::{Address, Groups, Inventory};

/// A machine whose functions lose everything when they are reset, and answer again only later.
struct Forgetful {
    fake: Fake,
    /// For how long a function does not answer, in milliseconds.
    slow: u64,
    now: u64,
    /// Functions that do not answer before then.
    away: Vec<(Address, u64)>,
    /// Reads after which nothing is pending.
    pending: u32,
    accesses_while_away: u32,
    was_reset: Vec<Address>,
}

impl Forgetful {
    fn new(fake: Fake, slow: u64) -> Self {
        Self {
            fake,
            slow,
            now: 1_000,
            away: Vec::new(),
            pending: 0,
            accesses_while_away: 0,
            was_reset: Vec::new(),
        }
    }

    fn is_away(&self, function: Address) -> bool {
        let away = self.away.iter().find(|(away, _)| *away == function);
        away.is_some_and(|(_, until)| self.now < *until)
    }

    fn forget(&mut self, function: Address) {
        let space = self.fake.functions.get_mut(&function).unwrap();
        for at in (4..6).chain(0xc..0xe).chain(0x10..0x28) {
            space.bytes[at] = 0;
        }
        self.was_reset.push(function);
        self.away.push((function, self.now + self.slow));
    }
}

impl ConfigAccess for Forgetful {
    fn extent(&self, function: Address) -> Extent {
        self.fake.extent(function)
    }

    fn read(&mut self, function: Address, at: u16, width: Width) -> u32 {
        if self.is_away(function) {
            self.accesses_while_away += 1;
            return u32::MAX;
        }
        // Device status of the e1000e.
        if at == 0xea && self.pending > 0 {
            self.pending -= 1;
            return 1 << 5;
        }
        self.fake.read(function, at, width)
    }

    fn write(&mut self, function: Address, at: u16, width: Width, value: u32) {
        if self.is_away(function) {
            self.accesses_while_away += 1;
            return;
        }
        if at == 0xe8 && value & 1 << 15 != 0 {
            assert_eq!(self.fake.functions[&function].command() & 4, 0);
            self.forget(function);
            return;
        }
        if at == 0x3e && value & 1 << 6 != 0 {
            let inventory = inventory_of(&mut self.fake.clone());
            let bridge = function;
            let behind = inventory.functions().iter().filter(|function| {
                let mut above = inventory.ancestors(function);
                above.any(|above| above.address == bridge)
            });
            let behind: Vec<_> = behind.map(|function| function.address).collect();
            behind
                .into_iter()
                .for_each(|function| self.forget(function));
        }
        // What a fake takes for a moving base address is a restored one here, with decoding off.
        let space = self.fake.functions.get_mut(&function).unwrap();
        let bytes = match width {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
        };
        let at = usize::from(at);
        assert!(
            !(0x10..0x28).contains(&at) || space.command() & 2 == 0 || space.bytes[0xe] & 1 == 1
        );
        space.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
}

fn run(
    machine: &mut Forgetful,
    inventory: &Inventory,
    resets: &[(Address, Reset)],
) -> (Progress, u64) {
    let from = machine.now;
    let mut run = ResetRun::begin(inventory, resets, machine, from);
    loop {
        let now = machine.now;
        let progress = run.step(machine, now);
        if progress != Progress::Pending {
            return (progress, machine.now - from);
        }
        machine.now += 1;
    }
}

#[test]
fn a_function_comes_back_where_it_was_and_silent() {
    let inventory = inventory_of(&mut q35());
    let nic = at("00:02.0");
    let groups = Groups::new(&inventory);
    let chosen = choose(&inventory, &groups, nic).unwrap();
    assert_eq!(chosen, Reset::Express { control: 0xe8 });
    let mut machine = Forgetful::new(q35(), u64::from(FUNCTION_RESET_MS));
    machine.pending = 5;
    let before = machine.fake.functions[&nic].bytes.clone();
    let (progress, took) = run(&mut machine, &inventory, &[(nic, chosen)]);
    assert_eq!(progress, Progress::Done);
    // It was left alone for as long as it takes, after what it had under way.
    assert!(took >= u64::from(FUNCTION_RESET_MS) + 4, "{took}");
    assert_eq!(machine.accesses_while_away, 0);
    let space = &machine.fake.functions[&nic];
    assert_eq!(space.bytes[0x10..0x28], before[0x10..0x28]);
    assert_eq!(space.command(), 0x402);
    assert_eq!(machine.was_reset, [nic]);
}

#[test]
fn a_function_that_is_late_is_waited_for_and_a_dead_one_is_lost() {
    let inventory = inventory_of(&mut q35());
    let nic = at("00:02.0");
    let resets = [(nic, Reset::Express { control: 0xe8 })];
    let mut late = Forgetful::new(q35(), 700);
    let (progress, took) = run(&mut late, &inventory, &resets);
    assert_eq!(progress, Progress::Done);
    assert!((700..710).contains(&took));
    let mut dead = Forgetful::new(q35(), u64::MAX / 2);
    let (progress, took) = run(&mut dead, &inventory, &resets);
    assert_eq!(progress, Progress::Lost(nic));
    assert!(took < 1_200, "{took}");
}

#[test]
fn what_never_gets_idle_is_reset_all_the_same() {
    let inventory = inventory_of(&mut q35());
    let nic = at("00:02.0");
    let mut machine = Forgetful::new(q35(), 0);
    machine.pending = u32::MAX;
    let (progress, took) = run(
        &mut machine,
        &inventory,
        &[(nic, Reset::Express { control: 0xe8 })],
    );
    assert_eq!(progress, Progress::Done);
    assert_eq!(took, 150);
}

#[test]
fn a_bus_is_held_released_and_left_alone() {
    let inventory = inventory_of(&mut desktop());
    let groups = Groups::new(&inventory);
    let function = at("0c:00.0");
    let chosen = choose(&inventory, &groups, function);
    let Ok(Reset::SecondaryBus(bridge)) = chosen else {
        panic!("{chosen:?}")
    };
    let mut machine = Forgetful::new(desktop(), u64::from(AFTER_BUS_RESET_MS));
    let before = machine.fake.functions[&function].bytes.clone();
    let (progress, took) = run(&mut machine, &inventory, &[(function, chosen.unwrap())]);
    assert_eq!(progress, Progress::Done);
    assert!(
        took >= u64::from(BUS_RESET_MS + AFTER_BUS_RESET_MS),
        "{took}"
    );
    assert_eq!(machine.fake.functions[&bridge].bytes[0x3e] & 0x40, 0);
    assert_eq!(
        machine.fake.functions[&function].bytes[0x10..0x28],
        before[0x10..0x28]
    );
    assert!(machine.was_reset.contains(&function));
}
