//! What peers cost on the same emulator: Bochs 3.1, CPU model `tigerlake`, one CPU, ticks are instructions.
//!
//! KVM: Linux 6.1 with its default mitigations, medians of 4,000. Xen: 4.17 with its defaults, minima of 1,000, the cost
//! of timing (3 ticks, 34 for RDMSR) not subtracted.

use serde::Serialize;

/// One operation's round trip elsewhere, and the most it may cost here.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peer {
    /// The operation, as the guest names it.
    pub name: &'static str,
    /// The most it may cost Bulkhead.
    pub limit: Option<u64>,
    /// Linux KVM.
    pub kvm: Option<u64>,
    /// Xen.
    pub xen: Option<u64>,
}

const fn peer(name: &'static str, limit: Option<u64>, kvm: Option<u64>, xen: Option<u64>) -> Peer {
    Peer {
        name,
        limit,
        kvm,
        xen,
    }
}

/// Every operation with a figure to compare with.
pub const PEERS: &[Peer] = &[
    peer("cpuid", Some(150), Some(1132), Some(974)),
    peer("vmcall", Some(120), Some(1172), Some(967)),
    peer("vmcall-unknown", Some(120), Some(1172), Some(915)),
    peer("rdmsr-0x1a0", Some(150), Some(1246), Some(960)),
    peer("wrmsr-tsc-deadline", Some(250), Some(789), None),
    peer("wrmsr-tpr", None, Some(2), None),
    peer("port-read-uart", Some(250), Some(3436), None),
    peer("port-write-uart", Some(250), Some(3436), None),
    peer("port-read-0x40", Some(250), Some(1452), None),
    peer("port-write-0x21", Some(250), Some(2014), Some(1422)),
    peer("xsetbv", None, Some(1139), None),
    peer("mmio-read-ioapic", None, None, Some(15414)),
    peer("rdtsc", None, Some(1), None),
];
