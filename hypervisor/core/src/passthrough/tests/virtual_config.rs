//! What a guest sees and can do: what it should, and nothing else whatever it tries.

use super::super::virtual_config::{Effect, Reach, VirtualConfig};
use crate::addr::{Gpa, Hpa};
use crate::pci::access::{ConfigAccess, Width};
use crate::pci::bar::BarKind;
use crate::pci::capability::PortType;
use crate::pci::enumerate::{HostBridge, enumerate};
use crate::pci::inventory::Function;
use crate::pci::register::Command;
use crate::pci::testing::fake::{Fake, Space};
use crate::pci::testing::machines::{desktop, hostile, q35};
use crate::pci::testing::{self, at, inventory_of};
use crate::pci::{Address, Extent, Inventory};
use crate::testing::Random;

fn q35_function(place: &str) -> Function {
    inventory_of(&mut q35()).find(at(place)).unwrap().clone()
}

fn view(place: &str) -> VirtualConfig {
    VirtualConfig::new(&q35_function(place)).unwrap()
}

/// The guest's view as a machine of its own, so that it is found as a guest finds it.
struct Guest<'a>(&'a mut VirtualConfig);

impl ConfigAccess for Guest<'_> {
    fn extent(&self, _: Address) -> Extent {
        Extent::Extended
    }

    fn read(&mut self, function: Address, at: u16, width: Width) -> u32 {
        let size = bytes(width);
        if function == testing::at("00:05.0") {
            self.0.read(at, size)
        } else {
            u32::MAX >> (32 - 8 * u32::from(size))
        }
    }

    fn write(&mut self, function: Address, at: u16, width: Width, value: u32) {
        if function == testing::at("00:05.0") {
            let _ = self.0.write(at, bytes(width), value);
        }
    }
}

const fn bytes(width: Width) -> u8 {
    match width {
        Width::Byte => 1,
        Width::Word => 2,
        Width::Dword => 4,
    }
}

fn as_the_guest_finds_it(config: &mut VirtualConfig) -> Inventory {
    let range = HostBridge {
        segment: 0,
        first_bus: 0,
        last_bus: 0,
    };
    enumerate(&mut Guest(config), &[range])
}

#[test]
fn a_guest_finds_the_device_without_what_is_the_hosts() {
    let host = q35_function("00:02.0");
    let mut config = VirtualConfig::new(&host).unwrap();
    let inventory = as_the_guest_finds_it(&mut config);
    assert_eq!(inventory.warnings(), []);
    let [seen] = inventory.functions() else {
        panic!("{} functions", inventory.functions().len())
    };
    assert_eq!((seen.id, seen.class), (host.id, host.class));
    assert_eq!(seen.subsystem, host.subsystem);
    let sizes = |function: &Function| -> Vec<_> {
        let bars = function.bars.iter();
        bars.map(|bar| (bar.index, bar.kind, bar.size)).collect()
    };
    assert_eq!(sizes(seen), sizes(&host));
    assert!(seen.bars.iter().all(|bar| bar.base == 0));
    assert_eq!((seen.rom, seen.extended.len()), (None, 0));
    let places = |function: &Function| -> Vec<_> {
        function.capabilities.iter().map(|found| found.at).collect()
    };
    assert_eq!(places(seen), places(&host));
    let express = seen.express().unwrap();
    assert_eq!(express.port, PortType::Integrated);
    assert!(express.reset);
    // Neither link nor slot.
    assert!((0xec..0x100).step_by(4).all(|at| config.read(at, 4) == 0));
    // A vendor's own, and what nobody knows, is not there.
    let disk = view("00:1f.2");
    assert_eq!((disk.read(0x34, 1), disk.read(0x81, 1)), (0x80, 0));
    assert_eq!(disk.read(0xa8, 4), 0);
}

#[test]
fn bridges_are_not_given_away() {
    let inventory = inventory_of(&mut desktop());
    let bridge = inventory.find(at("00:01.0")).unwrap();
    assert!(VirtualConfig::new(bridge).is_err());
}

#[test]
fn memory_is_mapped_where_the_guest_puts_it_but_for_the_table() {
    let mut config = view("00:04.0");
    config.place(0, 0xe000_0000).unwrap();
    assert_eq!(config.mappings(), []);
    assert_eq!(config.write(4, 2, 2), Effect::Command);
    assert_eq!(config.command(), Command::MEMORY);
    let parts = |config: &VirtualConfig| -> Vec<_> {
        let mappings = config.mappings().into_iter();
        mappings
            .map(|part| (part.gpa, part.hpa, part.bytes, part.reach))
            .collect()
    };
    // 65 vectors take 0x410 bytes at 0x2000; the pending bits, on the next page, are no danger.
    let expected = |base| {
        let host = 0x10_0000_0000;
        [
            (Gpa(base), Hpa(host), 0x2000, Reach::Direct),
            (
                Gpa(base + 0x2000),
                Hpa(host + 0x2000),
                0x1000,
                Reach::Trapped,
            ),
            (
                Gpa(base + 0x3000),
                Hpa(host + 0x3000),
                0x1000,
                Reach::Direct,
            ),
        ]
    };
    assert_eq!(parts(&config), expected(0xe000_0000));
    assert_eq!(config.msix_table(), Some((0, 0x2000..0x2410)));
    assert_eq!(config.write(0x14, 4, 0x20), Effect::Bars);
    assert_eq!(parts(&config), expected(0x20_e000_0000));
    config.restart();
    assert_eq!(config.mappings(), []);
    let _ = config.write(4, 2, 2);
    assert_eq!(parts(&config), expected(0xe000_0000));
}

#[test]
fn a_base_address_is_placed_only_where_it_can_be() {
    let mut config = view("00:02.0");
    assert!(config.place(0, 0xe000_1000).is_err());
    assert!(config.place(0, 0x1_0000_0000).is_err());
    assert!(config.place(2, 0x1_0000).is_err());
    assert!(config.place(4, 0).is_err());
    config.place(2, 0x1000).unwrap();
    assert_eq!(config.ports(), []);
    let _ = config.write(4, 1, 1);
    let [ports] = config.ports()[..] else {
        panic!("{:?}", config.ports())
    };
    assert_eq!(
        (ports.guest, ports.host, ports.count),
        (0x1000, 0xc040, 0x20)
    );
}

#[test]
fn what_the_firmware_gave_no_place_is_not_mapped() {
    let space = Space::new(0x1234_5678, 0x02_0000)
        .bar(0, 0, 0x1000)
        .bar(1, 1, 0x20);
    let mut fake = Fake::default().with("00:02.0", space);
    let inventory = inventory_of(&mut fake);
    let mut config = VirtualConfig::new(&inventory.functions()[0]).unwrap();
    let _ = config.write(4, 2, 3);
    assert_eq!(config.bars().len(), 2);
    assert_eq!((config.mappings(), config.ports()), (vec![], vec![]));
}

#[test]
fn less_than_a_page_is_trapped() {
    let mut space = Space::new(0x1234_5678, 0x02_0000);
    space = space.bar(0, 0xfea0_0400, 0x400);
    let mut fake = Fake::default().with("00:02.0", space);
    let inventory = inventory_of(&mut fake);
    let mut config = VirtualConfig::new(&inventory.functions()[0]).unwrap();
    let _ = config.write(4, 2, 2);
    let reaches: Vec<_> = config.mappings().iter().map(|part| part.reach).collect();
    assert_eq!(reaches, [Reach::Trapped]);
}

#[test]
fn interrupts_are_what_the_guest_sets() {
    let mut config = view("00:02.0");
    assert_eq!(config.write(0xd4, 4, 0xfee0_1003), Effect::Msi);
    assert_eq!(config.write(0xdc, 2, 0x4041), Effect::Msi);
    assert_eq!(config.write(0xd2, 2, 0xffff), Effect::Msi);
    let msi = config.msi().unwrap();
    assert_eq!((msi.address, msi.data), (0xfee0_1000, 0x4041));
    assert!(msi.enabled && !msi.masked);
    // One message, however many are asked for.
    assert_eq!(config.read(0xd2, 2), 0x81);
    assert_eq!(config.write(0xa2, 2, 0xffff), Effect::MsiX);
    assert_eq!(config.read(0xa2, 2), 0xc004);
    let msix = config.msix().unwrap();
    assert!(msix.enabled && msix.masked);
}

#[test]
fn a_reset_forgets_what_the_guest_set() {
    let mut config = view("00:02.0");
    config.place(0, 0xe000_0000).unwrap();
    let _ = config.write(4, 2, 6);
    let _ = config.write(0x10, 4, 0xd000_0000);
    assert_eq!(config.write(0xe8, 2, 0x1000), Effect::Nothing);
    assert_eq!(config.write(0xe9, 1, 0x80), Effect::Reset);
    assert_eq!(
        (config.command(), config.read(0x10, 4)),
        (Command::empty(), 0xe000_0000)
    );
    assert_eq!(config.read(0xe8, 2), 0);
    for (at, size, value) in [(0xe8, 4, 0x8000), (0xe8, 2, 0xffff)] {
        assert_eq!(config.write(at, size, value), Effect::Reset);
    }
    assert_ne!(config.write(0xe8, 1, 0x80), Effect::Reset);
    assert_ne!(config.write(0xea, 2, 0x8000), Effect::Reset);
}

#[test]
fn any_access_of_any_width_is_harmless() {
    let rounds = if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    };
    let mut random = Random(0xfeed_5eed_0123_4567);
    let machines = [q35(), desktop(), hostile()].map(|mut fake| inventory_of(&mut fake));
    let functions: Vec<_> = machines.iter().flat_map(Inventory::functions).collect();
    let mut views: Vec<_> = functions
        .iter()
        .filter_map(|function| Some((*function, VirtualConfig::new(function).ok()?)))
        .collect();
    assert!(views.len() > 20);
    let mut effects = 0;
    for round in 0..rounds {
        let index = random.below(views.len() as u64) as usize;
        let (function, config) = &mut views[index];
        let at = match random.below(4) {
            0 => random.next() as u16,
            1 => 4 + random.below(0x24) as u16,
            _ => random.below(0x108) as u16,
        };
        let size = random.of(&[0, 1, 1, 2, 2, 4, 4, 8, 255]);
        let value = random.next() as u32;
        let value = random.of(&[0, 6, u32::MAX, value]);
        effects += usize::from(config.write(at, size, value) != Effect::Nothing);
        let read = config.read(at, size);
        assert!(size != 1 || read < 0x100);
        assert_eq!(config.read(0, 2), u32::from(function.id.vendor));
        if at >= 0x100 && matches!(size, 1 | 2 | 4) && at % 4 + u16::from(size) <= 4 {
            assert_eq!(read, 0);
        }
        if round % 8 == 0 {
            check_mappings(function, config);
        }
    }
    assert!(effects > rounds / 100, "{effects} effects");
}

/// What is mapped is the function's own, and the table is never mapped directly.
fn check_mappings(function: &Function, config: &VirtualConfig) {
    for part in config.mappings() {
        let bar = function.bar(part.bar).unwrap();
        assert!(part.hpa.0 >= bar.base);
        assert!(part.hpa.0 + part.bytes <= bar.base + bar.size);
        if part.reach == Reach::Direct {
            assert!(part.gpa.is_aligned(4096) && part.hpa.is_aligned(4096));
            assert_eq!(part.bytes % 4096, 0);
            if let Some((index, table)) = config.msix_table()
                && index == part.bar
            {
                let start = part.hpa.0 - bar.base;
                assert!(start + part.bytes <= table.start || start >= table.end);
            }
        }
    }
    for ports in config.ports() {
        let bar = function.bar(ports.bar).unwrap();
        assert_eq!((bar.kind, bar.base), (BarKind::Io, ports.host.into()));
    }
    let _ = (config.msi(), config.msix(), config.command());
}
