//! A machine with a few PCI functions, to give away or not.

use bulkhead_host::pci::{Address, ConfigAccess, Extent, HostBridge, Inventory, Width, enumerate};

/// Functions by place, vendor and device, class, header type and bus numbers: the machine of the unassignable.
const FUNCTIONS: [(&str, u32, u32, u8, u32); 9] = [
    ("00:00.0", 0x29c0_8086, 0x06_0000, 0, 0),
    ("00:02.0", 0x10d3_8086, 0x02_0000, 0, 0),
    ("00:03.0", 0x0010_1b36, 0x01_0802, 0, 0),
    ("00:04.0", 0x0010_1b36, 0x01_0802, 0, 0),
    ("00:1c.0", 0x244e_8086, 0x06_0400, 1, 0x01_01_00),
    ("00:1f.0", 0x2918_8086, 0x06_0100, 0x80, 0),
    ("00:1f.2", 0x2922_8086, 0x01_0601, 0, 0),
    ("01:00.0", 0x8168_10ec, 0x02_0000, 0x80, 0),
    ("01:00.1", 0x8169_10ec, 0x02_0000, 0, 0),
];

/// A machine whose functions have a header and nothing else.
struct Machine;

impl ConfigAccess for Machine {
    fn extent(&self, _: Address) -> Extent {
        Extent::Legacy
    }

    fn read(&mut self, function: Address, at: u16, width: Width) -> u32 {
        let found = FUNCTIONS
            .iter()
            .find(|(place, ..)| Address::parse(place) == Ok(function));
        let dword = match (found, at & !3) {
            (None, _) => u32::MAX,
            (Some((_, id, ..)), 0) => *id,
            (Some((_, _, class, ..)), 8) => class << 8,
            (Some((.., header, _)), 0xc) => u32::from(*header) << 16,
            (Some((.., 1, buses)), 0x18) => *buses,
            _ => 0,
        };
        let value = dword >> (8 * (at % 4));
        match width {
            Width::Byte => value & 0xff,
            Width::Word => value & 0xffff,
            Width::Dword => value,
        }
    }

    fn write(&mut self, _: Address, _: u16, _: Width, _: u32) {}
}

/// What the machine has.
pub fn inventory() -> Inventory {
    let bridge = HostBridge {
        segment: 0,
        first_bus: 0,
        last_bus: 0xff,
    };
    enumerate(&mut Machine, &[bridge])
}
