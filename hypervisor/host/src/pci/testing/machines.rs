//! The machines.

use alloc::vec;

use super::super::capability::Acs;
use super::fake::{Fake, Space};

const ROOT_PORT: u16 = 4;
const UPSTREAM: u16 = 5;
const DOWNSTREAM: u16 = 6;
const TO_CONVENTIONAL: u16 = 7;
const INTEGRATED: u16 = 9;
const ENDPOINT: u16 = 0;

/// All that a port needs.
pub const FULL: Acs = Acs::SOURCE_VALIDATION
    .union(Acs::TRANSLATION_BLOCKING)
    .union(Acs::REQUEST_REDIRECT)
    .union(Acs::COMPLETION_REDIRECT)
    .union(Acs::UPSTREAM_FORWARDING);

/// QEMU's q35 with a network card, a DMA engine and an NVMe disk.
pub fn q35() -> Fake {
    let e1000e = Space::new(0x8086_10d3, 0x02_0000)
        .bar(0, 0xfeb4_0000, 0x2_0000)
        .bar(1, 0xfeb6_0000, 0x2_0000)
        .bar(2, 0xc041, 0x20)
        .bar(3, 0xfeb8_0000, 0x4000)
        .rom(0xfeb0_0000, 0x4_0000)
        .capability(0xc8, 0x01, &[0x22, 0xc8, 0, 0x20])
        .capability(0xd0, 0x05, &[0x80, 0])
        .express(0xe0, ENDPOINT, true)
        .msix(0xa0, 5, 3, 0x2003)
        .extended(0x01, &[0; 0x40])
        .extended(0x03, &[0; 8]);
    let edu = Space::new(0x1234_11e8, 0x00_ff00)
        .bar(0, 0xfea0_0000, 0x10_0000)
        .capability(0x40, 0x05, &[0x80, 0]);
    let nvme = Space::new(0x1b36_0010, 0x01_0802)
        .bar64(0, 0x10_0000_0000, 0x4000)
        .express(0x80, INTEGRATED, true)
        .msix(0x40, 65, 0x2000, 0x3000)
        .capability(0x60, 0x01, &[3, 0, 8, 0]);
    let ahci = Space::new(0x8086_2922, 0x01_0601)
        .several()
        .bar(4, 0xc081, 0x20)
        .bar(5, 0xfebd_5000, 0x1000)
        .capability(0x80, 0x05, &[0x80, 0])
        .capability(0xa8, 0x12, &[0x10, 0]);
    Fake::default()
        .with("00:00.0", Space::new(0x8086_29c0, 0x06_0000))
        .with("00:02.0", e1000e)
        .with("00:03.0", edu)
        .with("00:04.0", nvme)
        .with("00:1f.0", Space::new(0x8086_2918, 0x06_0100).several())
        .with("00:1f.2", ahci)
        .with(
            "00:1f.3",
            Space::new(0x8086_2930, 0x0c_0500).bar(4, 0x701, 0x40),
        )
}

fn port(kind: u16, secondary: u8, subordinate: u8) -> Space {
    Space::bridge(0x8086_a110, secondary, subordinate).express(0x40, kind, false)
}

fn endpoint() -> Space {
    Space::new(0x8086_1533, 0x02_0000).express(0x40, ENDPOINT, false)
}

/// Switches with access control services, in part and without; ports alike; and a conventional bus.
pub fn desktop() -> Fake {
    Fake::default()
        // Good from top to bottom.
        .with("00:01.0", port(ROOT_PORT, 1, 4).acs(FULL))
        .with("01:00.0", port(UPSTREAM, 2, 4))
        .with("02:00.0", port(DOWNSTREAM, 3, 3).acs(FULL))
        .with("02:01.0", port(DOWNSTREAM, 4, 4).acs(FULL))
        .with("03:00.0", endpoint())
        .with("04:00.0", endpoint())
        // A switch whose second port redirects nothing.
        .with("00:02.0", port(ROOT_PORT, 5, 8).acs(FULL))
        .with("05:00.0", port(UPSTREAM, 6, 8))
        .with("06:00.0", port(DOWNSTREAM, 7, 7).acs(FULL))
        .with(
            "06:01.0",
            port(DOWNSTREAM, 8, 8).acs(Acs::SOURCE_VALIDATION),
        )
        .with("07:00.0", endpoint())
        .with("08:00.0", endpoint())
        // A root port without, and a card with two functions.
        .with("00:03.0", port(ROOT_PORT, 9, 9))
        .with("09:00.0", endpoint().several())
        .with("09:00.1", endpoint())
        // A conventional bus.
        .with("00:04.0", port(ROOT_PORT, 10, 11).acs(FULL))
        .with("0a:00.0", port(TO_CONVENTIONAL, 11, 11))
        .with("0b:00.0", Space::new(0x10ec_8139, 0x02_0000))
        .with("0b:01.0", Space::new(0x1274_5000, 0x04_0100))
        // Two ports in one device that keep to themselves, one with a card that does too.
        .with(
            "00:1c.0",
            port(ROOT_PORT, 12, 12)
                .several()
                .acs(Acs::SOURCE_VALIDATION),
        )
        .with("00:1c.1", port(ROOT_PORT, 13, 13).acs(FULL))
        .with("0c:00.0", endpoint())
        .with("0d:00.0", endpoint().several().acs(Acs::empty()))
        .with("0d:00.1", endpoint().acs(Acs::REQUEST_REDIRECT))
}

/// Loops, inversions, overlaps and nonsense.
pub fn hostile() -> Fake {
    let mut ones = Space::new(0x1234_0001, 0x02_0000);
    let length = ones.bytes.len();
    ones.put(4, &vec![0xff; length - 4]);
    let mut odd = Space::new(0x1234_0002, 0x02_0000);
    odd.put(4, &[0; 2]);
    odd.allow(4, &[0; 2]);
    // A size with a hole, and the lower half of a base address that has no upper one.
    odd.put(0x10, &0xff0f_0000_u32.to_le_bytes());
    odd.put(0x24, &0xffff_0004_u32.to_le_bytes());
    let mut looped = endpoint().capability(0x80, 0x09, &[]);
    looped.put(0x81, &[0x40]);
    let mut low = endpoint();
    low.put(0x41, &[0x10]);
    let mut extended_loop = endpoint().acs(FULL).extended(0x0b, &[0; 8]);
    extended_loop.put(0x110 + 2, &[0x01, 0x10]);
    let mut extended_low = endpoint().acs(FULL);
    extended_low.put(0x102, &[0x01, 0x04]);
    Fake::default()
        .with("00:00.0", ones)
        .with("00:01.0", odd)
        .with("00:02.0", looped)
        .with("00:03.0", low)
        .with("00:04.0", extended_loop)
        .with("00:05.0", extended_low)
        .with("00:06.0", endpoint().msix(0xf4, 2048, 7, 7))
        .with("00:07.0", endpoint().msix(0x90, 2048, 0xffff_fff8, 0))
        // Bridges: inverted, to itself, over a good one, and one behind which another leads back.
        .with("00:10.0", Space::bridge(0x1234_1000, 9, 3))
        .with("00:11.0", Space::bridge(0x1234_1001, 0, 5))
        .with("00:12.0", Space::bridge(0x1234_1002, 0x20, 0x2f))
        .with("00:13.0", Space::bridge(0x1234_1003, 0x28, 0x3f))
        .with("20:00.0", Space::bridge(0x1234_1004, 0x20, 0x20))
        .with("20:01.0", Space::bridge(0x1234_1005, 0x21, 0xff))
        .with("20:02.0", Space::bridge(0x1234_1006, 0, 0))
        .with("04:00.0", endpoint())
        .with("28:00.0", endpoint())
        .with("00:1e.0", {
            let mut unknown = endpoint();
            unknown.put(0x0e, &[0x05]);
            unknown
        })
        .with("00:1f.0", Space::new(0x0001_ffff, 0))
}
