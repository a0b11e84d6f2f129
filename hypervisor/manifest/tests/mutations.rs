//! A million damaged manifests: the parser may refuse them, never panic, and what it says holds together.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its files fails"
)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use bulkhead_manifest::{
    DiskMode, IommuPolicy, MAX_DEVICES, MAX_DISKS, MAX_NICS, MAX_VMS, MachineFacts, ManifestErrors,
    Plan, parse_bytes,
};

const ROUNDS: u32 = 1_000_000;
/// Seeds longer than this would spend the time on one manifest that a hundred could have.
const MAX_SEED: usize = 1400;

/// Pieces that mean something to TOML or to the manifest.
const TOKENS: [&[u8]; 35] = [
    b"[[vm]]\n",
    b"[vm]\n",
    b"[vm.kernel]\n",
    b"[[vm.disk]]\n",
    b"[[vm.nic]]\n",
    b"[[vm.device]]\n",
    b"[hypervisor]\n",
    b"version = 1\n",
    b"\n",
    b"\r\n",
    b"\"",
    b"'",
    b"\"\"\"",
    b"[",
    b"]",
    b"{",
    b"}",
    b"=",
    b".",
    b",",
    b"#",
    b"\\",
    b"\\u0000",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    "ö\u{2028}".as_bytes(),
    b"-",
    b"0x",
    b"99999999999999999999",
    b"1e9",
    b"inf",
    b"true",
    b"\"256M\"",
    b"..",
];

/// Marsaglia's xorshift64*: the same damage on every run and machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }
}

fn seeds(directories: &[&str]) -> Vec<Vec<u8>> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let files = directories
        .iter()
        .map(|name| fs::read_dir(manifests.join(name)).unwrap());
    let mut paths: Vec<_> = files.flatten().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    paths.sort();
    let mut seeds: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    seeds.retain(|seed| seed.len() <= MAX_SEED);
    assert!(!seeds.is_empty());
    seeds
}

fn damage(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let until = (at + random.below(24)).min(bytes.len());
    match random.below(8) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..until)),
        2 => bytes.insert(at, random.next() as u8),
        3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        4 if at < bytes.len() => bytes[at] = random.next() as u8,
        5 => {
            let copy = bytes[at..until].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        6 => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len() + 1);
            let piece = &other[from..(from + random.below(64)).min(other.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
        _ => {
            let token = TOKENS[random.below(TOKENS.len())];
            bytes.splice(at..at, token.iter().copied());
        }
    }
}

fn all_differ<T: Ord>(mut items: impl Iterator<Item = T>) -> bool {
    let mut seen = BTreeSet::new();
    items.all(|item| seen.insert(item))
}

/// What every plan keeps to.
fn check_plan(plan: &Plan) {
    assert!((1..=MAX_VMS).contains(&plan.vms.len()));
    for vm in &plan.vms {
        assert!(vm.memory.bytes() >= 2 << 20 && vm.memory.bytes() % (2 << 20) == 0);
        assert!((1..=64).contains(&vm.vcpus));
        assert!(
            vm.cmdline.len() < 2048 && vm.cmdline.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        );
        assert!(
            vm.kernel
                .path
                .components()
                .all(|part| !part.is_empty() && part != "..")
        );
        if let Some(cpus) = &vm.cpus {
            assert!(!cpus.is_empty() && cpus.is_sorted_by(|a, b| a < b));
            assert!(cpus.len() <= vm.vcpus as usize);
        }
        assert!((1..=10_000).contains(&vm.weight));
        assert!(vm.cap.is_none_or(|percent| (1..=100).contains(&percent)));
        assert!((1..=3600).contains(&vm.stop_timeout.as_secs()));
        assert!(vm.disks.len() <= MAX_DISKS && vm.nics.len() <= MAX_NICS);
        assert!(vm.devices.len() <= MAX_DEVICES);
        assert!(vm.devices.is_empty() || plan.hypervisor.iommu != IommuPolicy::Off);
        for disk in &vm.disks {
            let overlay = disk.overlay.bytes();
            assert_eq!(overlay == 0, disk.mode == DiskMode::ReadOnly);
            assert_eq!(overlay % (2 << 20), 0);
        }
        for nic in &vm.nics {
            let [first, ..] = nic.mac.octets();
            assert!(first & 1 == 0 && nic.mac.octets() != [0; 6]);
        }
    }
    assert!(all_differ(
        plan.vms.iter().flat_map(|vm| vm.cpus.iter().flatten())
    ));
    assert!(all_differ(
        plan.vms
            .iter()
            .flat_map(|vm| vm.nics.iter().map(|nic| nic.mac))
    ));
    assert!(all_differ(
        plan.vms
            .iter()
            .flat_map(|vm| vm.devices.iter().map(|device| device.name))
    ));
    let empty = MachineFacts {
        ram_bytes: 0,
        cpus: 0,
    };
    assert!(plan.fit(&empty).is_err());
}

/// What every refusal keeps to; `text` is a buffer.
fn check_errors(errors: &ManifestErrors, text: &mut String) {
    assert!(!errors.errors().is_empty() && errors.count() >= errors.errors().len());
    assert!(
        errors
            .errors()
            .iter()
            .all(|error| error.line > 0 && error.column > 0)
    );
    text.clear();
    write!(text, "{errors}").unwrap();
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text}"
    );
}

#[test]
fn a_million_damaged_manifests_are_read_or_refused_without_a_panic() {
    let good = seeds(&["good"]);
    let all = seeds(&["good", "bad", "misfit"]);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut text = String::new();
    let (mut read, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let seeds = if random.below(2) == 0 { &good } else { &all };
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(3) {
            damage(&mut bytes, &all, &mut random);
        }
        match parse_bytes("m", &bytes) {
            Ok(plan) => {
                check_plan(&plan);
                read += 1;
            }
            Err(errors) => {
                check_errors(&errors, &mut text);
                refused += 1;
            }
        }
    }
    // Damage that never, or always, gets past the syntax would test little.
    assert!(read > ROUNDS / 100, "{read} read");
    assert!(refused > ROUNDS / 2, "{refused} refused");
}
