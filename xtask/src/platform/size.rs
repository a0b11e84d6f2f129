//! How large a machine a manifest needs, for a run that is not told.

use bulkhead_manifest::Plan;

/// What the firmware and the hypervisor take for themselves, in MiB.
const OWN_MIB: u64 = 512;
/// A machine is not made smaller than this, in MiB.
const LEAST_MIB: u64 = 2048;
/// Machines have memory in pieces of this many MiB.
const PIECE_MIB: u64 = 256;
const MIB: u64 = 1 << 20;

/// How many processors `plan` needs: those it pins VMs to, one more when those are all and other VMs have none to share,
/// and two at least when anything in it is to run at the same time.
#[must_use]
pub fn cpus(plan: &Plan) -> u32 {
    let parallel = plan.vms.len() > 1 || plan.vms.iter().any(|vm| vm.vcpus > 1);
    let pinned: Vec<u32> = plan
        .vms
        .iter()
        .flat_map(|vm| vm.cpus.iter().flatten().copied())
        .collect();
    let highest = pinned.iter().max().map_or(0, |cpu| cpu.saturating_add(1));
    let shared = plan.vms.iter().any(|vm| vm.cpus.is_none());
    let count = highest.max(if parallel { 2 } else { 1 });
    // No CPU is pinned twice.
    if shared && pinned.len() >= count as usize {
        count.saturating_add(1)
    } else {
        count
    }
}

/// How much memory `plan` needs, in MiB: its VMs' and what their disks change, and `payload_bytes` kept for restarts.
#[must_use]
pub fn memory_mib(plan: &Plan, payload_bytes: u64) -> u64 {
    let bytes = plan.total_memory().bytes().saturating_add(payload_bytes);
    let mib = (bytes / MIB).saturating_add(OWN_MIB);
    mib.checked_next_multiple_of(PIECE_MIB)
        .unwrap_or(mib)
        .max(LEAST_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_manifest::parse;

    fn plan(vms: &[&str]) -> Plan {
        let mut text = "version = 1\n".to_owned();
        for (index, vm) in vms.iter().enumerate() {
            text +=
                &format!("[[vm]]\nname = \"vm{index}\"\nkernel = \"k\"\nmemory = \"1G\"\n{vm}\n");
        }
        parse("test.toml", &text).unwrap()
    }

    #[test]
    fn one_virtual_cpu_needs_one_cpu() {
        assert_eq!(cpus(&plan(&[""])), 1);
    }

    #[test]
    fn what_runs_at_the_same_time_gets_two() {
        assert_eq!(cpus(&plan(&["vcpus = 4"])), 2);
        assert_eq!(cpus(&plan(&["", ""])), 2);
    }

    #[test]
    fn pinned_cpus_are_there_and_others_have_one_to_share() {
        assert_eq!(cpus(&plan(&["cpus = [0]"])), 1);
        assert_eq!(cpus(&plan(&["cpus = [2]"])), 3);
        assert_eq!(cpus(&plan(&["cpus = [1]", ""])), 2);
        assert_eq!(cpus(&plan(&["vcpus = 2\ncpus = [0, 1]", ""])), 3);
    }

    #[test]
    fn memory_counts_vms_overlays_and_payloads() {
        assert_eq!(memory_mib(&plan(&[""]), 0), LEAST_MIB);
        assert_eq!(memory_mib(&plan(&["", ""]), 100 * MIB), 2816);
        let disk = "[[vm.disk]]\nimage = \"d\"\noverlay = \"512M\"";
        assert_eq!(memory_mib(&plan(&["", disk]), 100 * MIB), 3328);
    }
}
