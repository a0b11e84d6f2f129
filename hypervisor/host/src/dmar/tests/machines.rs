//! Tables that say what those of real machines say, rebuilt entry by entry; the last one is of no machine.

use super::{Builder, bridge, endpoint, flagged, scope};

/// QEMU's q35 with `intel-iommu`: one unit has everything, the I/O APIC is on a bus that does not exist.
pub(super) fn q35(device_iotlb: bool) -> Builder {
    let io_apic = scope(3, 0, 0xff, &[(0, 0)]);
    let table = Builder::new(47, 1).drhd(1, 0, 0, 0xfed9_0000, &[io_apic]);
    match device_iotlb {
        true => table.atsr(1, 0, &[]),
        false => table,
    }
}

/// A Skylake laptop: the graphics have a unit of their own and stolen memory, USB has a firmware's keyboard buffer,
/// two I2C controllers are ACPI's.
pub(super) fn skylake() -> Builder {
    let rest = [
        scope(3, 2, 0xf0, &[(0x1f, 0)]),
        scope(4, 0, 0, &[(0x1f, 0)]),
        scope(5, 1, 0, &[(0x15, 0)]),
        scope(5, 2, 0, &[(0x15, 1)]),
    ];
    Builder::new(0x26, 3)
        .drhd(0, 0, 0, 0xfed9_0000, &[endpoint(0, 2, 0)])
        .drhd(1, 0, 0, 0xfed9_1000, &rest)
        .rmrr(0x7115_5000, 0x7117_4fff, &[endpoint(0, 0x14, 0)])
        .rmrr(0x7380_0000, 0x7fff_ffff, &[endpoint(0, 2, 0)])
        .andd(1, b"\\_SB.PCI0.I2C0\0\0\0\0\0\0")
        .andd(2, b"\\_SB.PCI0.I2C1\0\0\0\0\0\0")
}

/// A Tiger Lake laptop: each Thunderbolt root port has its unit.
pub(super) fn tiger_lake() -> Builder {
    let rest = [scope(3, 2, 0, &[(0x1e, 7)]), scope(4, 0, 0, &[(0x1e, 6)])];
    Builder::new(0x26, 5)
        .drhd(0, 0, 0, 0xfed9_0000, &[endpoint(0, 2, 0)])
        .drhd(0, 0, 0, 0xfed8_4000, &[bridge(0, 7, 0)])
        .drhd(0, 0, 0, 0xfed8_5000, &[bridge(0, 7, 1)])
        .drhd(1, 0, 0, 0xfed9_1000, &rest)
        .rmrr(0x8380_0000, 0x87bf_ffff, &[endpoint(0, 2, 0)])
}

/// A client SoC with units of 64 KiB and devices that need their own caches of translations.
pub(super) fn caching_soc() -> Builder {
    let rest = [scope(3, 2, 0, &[(0x1e, 7)]), scope(4, 0, 0, &[(0x1e, 6)])];
    let engines = [endpoint(0, 5, 0), endpoint(0, 10, 0), endpoint(0, 11, 0)];
    let caching = [endpoint(0, 2, 0), endpoint(0, 5, 0), endpoint(0, 11, 0)];
    let properties = [
        flagged(0x1f, 1, 0, 0, &[(2, 0)]),
        flagged(0x1f, 1, 0, 0, &[(5, 0)]),
        flagged(0x1c, 1, 0, 0, &[(11, 0)]),
    ];
    Builder::new(0x25, 5)
        .drhd(0, 4, 0, 0xfc80_0000, &[endpoint(0, 2, 0)])
        .drhd(0, 4, 0, 0xfc81_0000, &engines)
        .drhd(1, 4, 0, 0xfc82_0000, &rest)
        .satc(1, &caching)
        .sidp(&properties)
}

/// A workstation with one socket: high-definition audio apart, two I/O APICs, ATS behind two ports.
pub(super) fn haswell_ep() -> Builder {
    let rest = [
        scope(3, 1, 0xf0, &[(0x1f, 7)]),
        scope(3, 2, 0, &[(5, 4)]),
        scope(4, 0, 0xf0, &[(0xf, 0)]),
    ];
    Builder::new(0x2d, 3)
        .drhd(0, 0, 0, 0xfbff_d000, &[endpoint(0, 0x1b, 0)])
        .drhd(1, 0, 0, 0xfbff_c000, &rest)
        .atsr(0, 0, &[bridge(0, 1, 0), bridge(0, 3, 0)])
        .rhsa(0xfbff_c000, 0)
}

/// A server with two sockets: a unit for each root complex, named by the root ports that begin it.
pub(super) fn two_sockets() -> Builder {
    let mut dma_engines: Vec<Vec<u8>> = (0..8).map(|nr| endpoint(0x80, 4, nr)).collect();
    dma_engines.insert(0, scope(3, 0xf, 0x80, &[(5, 4)]));
    dma_engines.push(bridge(0x80, 0, 0));
    let complex = |io_apic, bus| [scope(3, io_apic, bus, &[(5, 4)]), bridge(bus, 0, 0)];
    let rest = [
        scope(3, 8, 0, &[(0x1f, 7)]),
        scope(3, 9, 0, &[(5, 4)]),
        scope(4, 0, 0, &[(0x1f, 6)]),
    ];
    let ports =
        |buses: &[u8]| -> Vec<Vec<u8>> { buses.iter().map(|bus| bridge(*bus, 0, 0)).collect() };
    Builder::new(0x2d, 1)
        .drhd(0, 0, 0, 0xd37f_c000, &dma_engines)
        .drhd(0, 0, 0, 0xe0ff_c000, &complex(0x10, 0x85))
        .drhd(0, 0, 0, 0xee7f_c000, &complex(0x11, 0xae))
        .drhd(0, 0, 0, 0xaaff_c000, &complex(0xa, 0x17))
        .drhd(1, 0, 0, 0x9d7f_c000, &rest)
        .rmrr(0x7546_0000, 0x7547_0fff, &[endpoint(0, 0x14, 0)])
        .atsr(0, 0, &ports(&[0x17, 0x3a, 0x5d]))
        .atsr(0, 0, &ports(&[0x80, 0x85, 0xae, 0xd7]))
        .rhsa(0x9d7f_c000, 0)
        .rhsa(0xaaff_c000, 0)
        .rhsa(0xd37f_c000, 1)
        .rhsa(0xe0ff_c000, 1)
        .rhsa(0xee7f_c000, 1)
}

/// Two segments, each with a unit for all of it; in the second a device behind two bridges has its own.
pub(super) fn two_segments() -> Builder {
    let deep = scope(1, 0, 0, &[(1, 0), (2, 0), (3, 4)]);
    Builder::new(51, 1)
        .drhd(1, 0, 0, 0x1000_0000_0000, &[scope(3, 0, 0, &[(0x1f, 7)])])
        .drhd(0, 1, 1, 0x1000_0010_0000, &[deep])
        .drhd(1, 0, 1, 0x1000_0020_0000, &[scope(3, 1, 0, &[(0x1f, 7)])])
}

/// All of them.
pub(super) fn all() -> Vec<Vec<u8>> {
    let tables = [
        q35(false),
        q35(true),
        skylake(),
        tiger_lake(),
        caching_soc(),
        haswell_ep(),
        two_sockets(),
        two_segments(),
    ];
    tables.into_iter().map(Builder::bytes).collect()
}
