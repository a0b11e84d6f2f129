//! Every scenario, one module a subject.

mod bench;
mod devices;
mod examples;
mod faults;
mod guests;
mod hostile;
mod interface;
mod life;
mod linux;
mod manifests;
mod media;
mod payloads;
mod sched;
mod secmem;
mod selftest;
mod smp;
mod split;
mod tpm;
mod vtd;

use xtask::{Result, Workspace};

use crate::scenario::Scenario;

/// All scenarios, those that take longest first, so that none of them runs alone at the end.
///
/// # Errors
/// When the directory of bad manifests cannot be read.
pub fn all(workspace: &Workspace) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    scenarios.extend(bench::scenarios());
    scenarios.extend(linux::scenarios());
    scenarios.extend(examples::scenarios());
    scenarios.extend(split::scenarios());
    scenarios.extend(smp::scenarios());
    scenarios.extend(faults::scenarios());
    scenarios.extend(secmem::scenarios());
    scenarios.extend(sched::scenarios());
    scenarios.extend(devices::scenarios());
    scenarios.extend(vtd::scenarios());
    scenarios.extend(tpm::scenarios());
    scenarios.extend(media::scenarios());
    scenarios.extend(interface::scenarios());
    scenarios.extend(guests::scenarios());
    scenarios.extend(life::scenarios());
    scenarios.extend(hostile::scenarios());
    scenarios.extend(payloads::scenarios());
    scenarios.extend(selftest::scenarios());
    scenarios.extend(manifests::scenarios(workspace)?);
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_for_a_directory() {
        let scenarios = all(&Workspace::locate()).unwrap();
        let names: BTreeSet<_> = scenarios.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names.len(), scenarios.len());
        let fits = |name: &&str| {
            name.bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        };
        assert!(names.iter().all(fits), "{names:?}");
    }
}
