//! What peers cost on the same emulator: Bochs 3.1, CPU model `tigerlake`, one CPU, ticks are instructions.
//!
//! KVM: Linux 6.1 with its default mitigations, medians of 4,000. Xen: 4.17 with its defaults, minima of 1,000, the cost
//! of timing (3 ticks, 34 for RDMSR) not subtracted; its RDMSR is of 0x1B, the cheapest one. Where a port of Bulkhead's
//! was not measured there, the figure is the cheapest port that the peer's hypervisor handles itself: KVM's read of the
//! PIT, Xen's of 0xCF8.

use serde::Serialize;

/// One operation's round trip elsewhere, and the most it may cost here.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peer {
    /// The operation, as the guest names it.
    pub name: &'static str,
    /// The most it may cost Bulkhead, in ticks.
    pub limit: Option<u64>,
    /// The most exits it may take.
    pub exit_limit: Option<f64>,
    /// Linux KVM.
    pub kvm: Option<u64>,
    /// Xen.
    pub xen: Option<u64>,
}

const fn peer(name: &'static str, limit: Option<u64>, kvm: Option<u64>, xen: Option<u64>) -> Peer {
    Peer {
        name,
        limit,
        exit_limit: None,
        kvm,
        xen,
    }
}

/// An operation that no peer was measured at, and that is limited in exits.
const fn own(name: &'static str, exit_limit: f64) -> Peer {
    Peer {
        exit_limit: Some(exit_limit),
        ..peer(name, None, None, None)
    }
}

/// Every operation with a figure to compare with.
pub const PEERS: &[Peer] = &[
    peer("cpuid", Some(150), Some(1132), Some(974)),
    peer("vmcall", Some(120), Some(1171), Some(915)),
    peer("vmcall-unknown", Some(120), Some(1171), Some(915)),
    peer("rdmsr-0x1a0", Some(150), Some(1246), Some(902)),
    peer("wrmsr-tsc-deadline", Some(250), Some(789), None),
    peer("wrmsr-tpr", None, Some(2), None),
    peer("port-read-uart", Some(250), Some(1452), Some(1218)),
    peer("port-write-uart", Some(250), Some(1452), Some(1218)),
    peer("port-read-0x40", Some(250), Some(1452), Some(1218)),
    peer("port-write-0x21", Some(250), Some(2014), Some(1422)),
    peer("xsetbv", None, Some(1139), None),
    peer("mmio-read-ioapic", None, None, Some(15414)),
    peer("rdtsc", None, Some(1), None),
    // One for the notification; the interrupt is delivered without.
    own("virtio-block", 1.0),
];

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/performance.md"
    ));
    /// What the document's rows are called here.
    const ROWS: [(&str, &str); 5] = [
        ("CPUID", "cpuid"),
        ("VMCALL", "vmcall"),
        ("RDMSR, emulated", "rdmsr-0x1a0"),
        ("arming the TSC deadline", "wrmsr-tsc-deadline"),
        ("port access handled in the hypervisor", "port-read-0x40"),
    ];

    #[test]
    fn the_document_shows_the_same_limits_and_peers() {
        for (label, name) in ROWS {
            let row = DOCUMENT
                .lines()
                .find_map(|line| line.strip_prefix(&format!("| {label} |")))
                .unwrap_or_else(|| panic!("no row for {label}"));
            let figures: Vec<Option<u64>> = row
                .split('|')
                .map(|cell| cell.split([' ', ',']).find_map(|word| word.parse().ok()))
                .collect();
            let peer = PEERS.iter().find(|peer| peer.name == name).unwrap();
            assert_eq!(figures[1..4], [peer.limit, peer.kvm, peer.xen], "{label}");
        }
    }
}
