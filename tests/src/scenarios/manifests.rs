//! Bad manifests at boot: the console shows what `cargo xtask manifest check` shows, and nothing starts.
//!
//! The manifests and their expected texts are those of the parser's own snapshot tests.

use std::fs;
use std::path::{Path, PathBuf};

use xtask::error::IoContext;
use xtask::{Result, Workspace};

use crate::context::{Context, Setup};
use crate::lab::HELLO;
use crate::manifest::Manifest;
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const BAD: &str = "hypervisor/manifest/tests/manifests/bad";
const LIMIT: u64 = 120;
/// One of each sort, at every run: syntax, keys, values, whole files, what two VMs claim. The others with `--long`.
const ALWAYS: [&str; 8] = [
    "several-errors",
    "syntax-several",
    "syntax-deep-nesting",
    "unknown-key-vm",
    "too-many-errors",
    "not-utf8",
    "path-parent",
    "cpus-of-another-vm",
];

pub fn scenarios(workspace: &Workspace) -> Result<Vec<Scenario>> {
    let dir = workspace.root().join(BAD);
    let mut scenarios = Vec::new();
    for entry in fs::read_dir(&dir).context("list", &dir)? {
        let path = entry.context("list", &dir)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            scenarios.push(refusal(path));
        }
    }
    scenarios.sort_by(|a, b| a.name.cmp(&b.name));
    scenarios.push(Scenario::new(
        "manifest_check_refuses_every_bad_manifest_with_its_text",
        Ground::Host,
        120,
        move |context| check_all(context, &dir),
    ));
    scenarios.push(Scenario::new(
        "manifest_that_asks_for_more_than_the_machine_has_is_refused_at_boot",
        Ground::Vmx,
        LIMIT,
        misfit,
    ));
    Ok(scenarios)
}

fn refusal(path: PathBuf) -> Scenario {
    let stem = stem(&path);
    let name = format!("manifest_{}_is_refused_at_boot", stem.replace('-', "_"));
    let scenario = Scenario::new(name, Ground::Vmx, LIMIT, move |context| {
        refused(context, &path)
    });
    if ALWAYS.contains(&stem.as_str()) {
        scenario
    } else {
        scenario.only_when_long()
    }
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The text on file for the manifest at `path`, as it reads for a file called `name`.
fn expected(path: &Path, name: &str) -> Outcome<String> {
    let snapshot = path.with_extension("txt");
    let text = fs::read_to_string(&snapshot).context("read", &snapshot)?;
    Ok(text.replace(&format!("{}.toml:", stem(path)), &format!("{name}:")))
}

fn refused(context: &Context<'_>, path: &Path) -> Outcome {
    let manifest = fs::read(path).context("read", path)?;
    let expected = expected(path, "bulkhead.toml")?;
    let boot = context.boot_unchecked(manifest, &[])?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.refused()?;
    let console = machine.console();
    machine.ensure(console.contains(expected.trim_end()), || {
        format!("the console does not show this:\n{expected}")
    })?;
    machine.ensure_events(&["boot", "halt"])
}

/// Every bad manifest through `cargo xtask manifest check`.
fn check_all(context: &Context<'_>, dir: &Path) -> Outcome {
    let mut refused = 0;
    for entry in fs::read_dir(dir).context("list", dir)? {
        let path = entry.context("list", dir)?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let shown = path.display().to_string();
        let done = context.run("check", context.xtask(&["manifest", "check", &shown]))?;
        done.ensure_code(2)?;
        let snapshot = path.with_extension("txt");
        let expected = fs::read_to_string(&snapshot).context("read", &snapshot)?;
        // The tool names the file as it was named to it, and the snapshot by its name alone.
        let said = (done.errors + &done.output).replace(&format!("{}/", dir.display()), "");
        crate::outcome::ensure(said.contains(expected.trim_end()), || {
            format!("{shown}: `manifest check` says\n{said}\nand not\n{expected}")
        })?;
        refused += 1;
    }
    context.note(format!("{refused} manifests refused"));
    crate::outcome::ensure(refused >= 25, || {
        format!("only {refused} bad manifests are there")
    })
}

/// In order by itself, but not on this machine of 1 GiB and one CPU.
fn misfit(context: &Context<'_>) -> Outcome {
    let payloads = [(HELLO, context.lab.payload(HELLO)?)];
    let mut manifest = Manifest::of(HELLO);
    manifest.memory = "8G";
    let text = manifest.to_string() + "vcpus = 2\ncpus = [0, 3]\n";
    let boot = context.boot_unchecked(text, &payloads)?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.refused()?;
    machine.ensure_console(&[
        "error[machine-memory]: the machine has not enough memory",
        "memory = \"8G\"",
        "error[machine-cpu]: the machine has no such CPU",
        "cpus = [0, 3]",
    ])
}
