//! `docs/manifest.md` and `docs/examples` against the parser they describe.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its files fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bulkhead_manifest::schema::{Presence, TABLES};
use bulkhead_manifest::{
    ApicVirtualization, Console, DiskMode, EncryptionMode, ErrorKind, Feature, IommuPolicy,
    KernelFormat, LogLevel, RestartPolicy, RootKeySource, SelfTest, SmtPolicy, Spoofing, VmConsole,
    parse,
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn page() -> String {
    fs::read_to_string(repository("docs/manifest.md")).unwrap()
}

/// The keys of the schema that are reserved, or those that are not.
fn keys(reserved: bool) -> BTreeSet<String> {
    let all = TABLES.iter().flat_map(|table| table.keys);
    all.filter(|key| (key.presence == Presence::Reserved) == reserved)
        .map(|key| key.to_string())
        .collect()
}

/// The sections that describe a key, each with the key.
fn sections(page: &str) -> Vec<(&str, &str)> {
    let sections = page.split("\n### `").skip(1);
    sections
        .map(|section| {
            section
                .split("\n## ")
                .next()
                .unwrap()
                .split_once('`')
                .unwrap()
        })
        .collect()
}

/// What stands in backticks in `text`.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The blocks of TOML of the page.
fn toml_blocks(page: &str) -> Vec<&str> {
    page.split("```toml\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect()
}

#[test]
fn every_key_has_its_section_and_every_section_its_key() {
    let page = page();
    let described = sections(&page);
    let unique: BTreeSet<String> = described.iter().map(|(key, _)| (*key).to_owned()).collect();
    assert_eq!(unique.len(), described.len());
    assert_eq!(unique, keys(false));
}

#[test]
fn the_table_of_reserved_keys_is_the_schemas() {
    let page = page();
    let (_, rest) = page.split_once("\n## Reserved keys\n").unwrap();
    let section = rest.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<String> = rows
        .map(|row| code(row).next().unwrap().to_owned())
        .collect();
    assert_eq!(documented, keys(true));
}

#[test]
fn every_section_says_type_necessity_and_gives_an_example() {
    let page = page();
    let all = || TABLES.iter().flat_map(|table| table.keys);
    for (key, section) in sections(&page) {
        let presence = all()
            .find(|candidate| candidate.to_string() == key)
            .unwrap()
            .presence;
        let line = |start| section.lines().find(|line: &&str| line.starts_with(start));
        let kind = line("- Type: ").unwrap_or_else(|| panic!("no type for {key}"));
        assert_eq!(
            kind.contains("Required"),
            presence == Presence::Required,
            "{key}"
        );
        assert_eq!(
            kind.contains("Optional") || kind.contains("Default"),
            presence == Presence::Optional,
            "{key}"
        );
        assert!(line("- Example: ").is_some(), "no example for {key}");
    }
}

#[test]
fn every_word_is_documented_with_its_default() {
    let page = page();
    let check = |key: &str, words: Vec<&str>, default: &str| {
        let (_, section) = *sections(&page)
            .iter()
            .find(|(name, _)| *name == key)
            .unwrap();
        let line = |start| {
            section
                .lines()
                .find(|line: &&str| line.starts_with(start))
                .unwrap()
        };
        let quoted = |word: &str| format!("\"{word}\"");
        let allowed: Vec<_> = code(line("- Allowed: ")).map(str::to_owned).collect();
        assert_eq!(
            allowed,
            words.iter().map(|word| quoted(word)).collect::<Vec<_>>(),
            "{key}"
        );
        assert!(code(line("- Type: ")).eq([quoted(default)]), "{key}");
    };
    check(
        "hypervisor.console",
        Console::words().collect(),
        Console::default().as_str(),
    );
    check(
        "hypervisor.log_level",
        LogLevel::words().collect(),
        LogLevel::default().as_str(),
    );
    check(
        "hypervisor.iommu",
        IommuPolicy::words().collect(),
        IommuPolicy::default().as_str(),
    );
    check(
        "hypervisor.apicv",
        ApicVirtualization::words().collect(),
        ApicVirtualization::default().as_str(),
    );
    for key in ["hypervisor.mbec", "hypervisor.vmfunc"] {
        check(key, Feature::words().collect(), Feature::default().as_str());
    }
    check(
        "hypervisor.smt",
        SmtPolicy::words().collect(),
        SmtPolicy::default().as_str(),
    );
    check(
        "hypervisor.root_key",
        RootKeySource::words().collect(),
        RootKeySource::default().as_str(),
    );
    check(
        "vm.console",
        VmConsole::words().collect(),
        VmConsole::default().as_str(),
    );
    check(
        "vm.disk.mode",
        DiskMode::words().collect(),
        DiskMode::default().as_str(),
    );
    check(
        "vm.nic.spoofing",
        Spoofing::words().collect(),
        Spoofing::default().as_str(),
    );
    check(
        "hypervisor.selftest",
        SelfTest::words().collect(),
        SelfTest::default().as_str(),
    );
    check(
        "vm.kernel.format",
        KernelFormat::words().collect(),
        KernelFormat::default().as_str(),
    );
    check(
        "vm.encryption",
        EncryptionMode::words().collect(),
        EncryptionMode::default().as_str(),
    );
    check(
        "vm.restart",
        RestartPolicy::words().collect(),
        RestartPolicy::default().as_str(),
    );
}

#[test]
fn the_manifests_of_the_page_are_good_and_the_full_one_has_every_key() {
    let page = page();
    let blocks = toml_blocks(&page);
    assert_eq!(blocks.len(), 2);
    for block in &blocks {
        parse("manifest.md", block).unwrap_or_else(|errors| panic!("{errors}"));
    }
    for table in TABLES {
        for name in table.usable_names() {
            assert!(blocks[1].contains(name), "{name}");
        }
    }
}

/// An otherwise minimal manifest with the `example` of `key`.
fn manifest_with(key: &str, example: &str) -> String {
    /// What each table needs, less what the example itself gives.
    fn required(table: &str, given: Option<&str>) -> String {
        let lines: &[(&str, &str)] = match table {
            "disk" => &[("image", "image = \"root.img\"")],
            "nic" => &[("segment", "segment = \"lan\"")],
            // One of two: `class` stands beside `id` alone.
            "device" if given == Some("address") => &[],
            "device" => &[("id", "id = \"8086:10d3\"")],
            _ => &[
                ("name", "name = \"demo\""),
                ("kernel", "kernel = \"vmlinuz\""),
                ("memory", "memory = \"256M\""),
            ],
        };
        let wanted = lines.iter().filter(|(name, _)| Some(*name) != given);
        wanted.map(|(_, line)| format!("{line}\n")).collect()
    }
    let vm = |given| required("vm", given);
    match key.split('.').collect::<Vec<_>>().as_slice() {
        ["hypervisor"] => format!("version = 1\n{example}\n[[vm]]\n{}", vm(None)),
        ["hypervisor", _] => {
            format!("version = 1\n[hypervisor]\n{example}\n[[vm]]\n{}", vm(None))
        }
        ["vm", list @ ("disk" | "nic" | "device"), own, ..] => format!(
            "version = 1\n[[vm]]\n{}[[vm.{list}]]\n{example}\n{}",
            vm(None),
            required(list, Some(own))
        ),
        ["vm", own @ ("window" | "window_samples")] => {
            // What the one needs beside it.
            let window = match *own {
                "window" => "",
                _ => "window = \"16M\"\n",
            };
            let mode = "encryption = \"window\"";
            format!(
                "version = 1\n[[vm]]\n{example}\n{window}{mode}\n{}",
                vm(None)
            )
        }
        ["vm", own, ..] => format!("version = 1\n[[vm]]\n{example}\n{}", vm(Some(own))),
        _ => format!("version = 1\n[[vm]]\n{}", vm(None)),
    }
}

#[test]
fn the_examples_of_the_sections_are_good() {
    let page = page();
    for (key, section) in sections(&page) {
        let line = section
            .lines()
            .find_map(|line| line.strip_prefix("- Example: `"))
            .unwrap();
        let example = line.strip_suffix('`').unwrap();
        let text = manifest_with(key, example);
        parse(key, &text).unwrap_or_else(|errors| panic!("{errors}{text}"));
        assert!(text.contains(example) || !key.contains('.'), "{key}");
    }
}

#[test]
fn every_kind_of_error_is_listed_by_its_name() {
    let page = page();
    let (_, errors) = page.split_once("\n## Errors\n").unwrap();
    let (_, prose) = errors.split_once("The names of errors").unwrap();
    let listed: BTreeSet<&str> = code(prose).collect();
    let kinds: BTreeSet<&str> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(listed, kinds);
}

#[test]
fn the_errors_shown_are_those_of_the_parser() {
    let page = page();
    let (_, block) = page
        .split_once("<!-- several-errors -->\n```text\n")
        .unwrap();
    let shown = block.split("```").next().unwrap();
    let manifest = repository("hypervisor/manifest/tests/manifests/bad/several-errors.toml");
    let errors = parse("bulkhead.toml", &fs::read_to_string(manifest).unwrap()).unwrap_err();
    assert!(errors.to_string().starts_with(shown), "{errors}");
}

#[test]
fn the_examples_on_file_are_good() {
    let mut count = 0;
    for entry in fs::read_dir(repository("docs/examples")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        parse(path.to_str().unwrap(), &text).unwrap_or_else(|errors| panic!("{errors}"));
        count += 1;
    }
    assert!(count >= 8);
}
