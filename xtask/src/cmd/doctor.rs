//! `cargo xtask doctor`: what this machine has and lacks, and which platform a run would choose.

use std::fs;
use std::process::Command;

use crate::build::{BARE, UEFI};
use crate::error::Result;
use crate::exec;
use crate::paths::Workspace;
use crate::platform::{Platform, kvm};
use crate::provision::bochs::Bochs;
use crate::provision::qemu::Qemu;
use crate::provision::swtpm::Swtpm;
use crate::provision::{apt, payload, targets};

/// One line of the report.
struct Finding {
    good: bool,
    what: String,
    says: String,
}

/// Prints the report; looks, and changes nothing.
///
/// # Errors
/// When no platform can be chosen at all.
pub fn run(workspace: &Workspace) -> Result<()> {
    println!("machine");
    show(&host());
    println!("toolchain");
    show(&toolchain(workspace));
    println!("provisioned below {}", workspace.show(&workspace.cache()));
    show(&provisioned(workspace));
    println!("platforms");
    show(&platforms());
    let (platform, reason) = Platform::choose(None)?;
    println!("`cargo xtask run` would choose {platform}: {reason}");
    Ok(())
}

fn host() -> Vec<Finding> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .unwrap_or("unknown");
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    vec![
        finding(
            release.contains("ID=debian"),
            "system",
            name.trim_matches('"'),
        ),
        finding(true, "processors", &processors.to_string()),
        match apt::mirror() {
            Ok(mirror) => finding(true, "Debian mirror", &mirror),
            Err(error) => finding(false, "Debian mirror", &error.to_string()),
        },
        tool("dpkg-deb", "unpacks packages"),
    ]
}

fn toolchain(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = vec![
        tool("rustup", "adds missing Rust targets"),
        tool("cargo", "builds"),
    ];
    for target in [UEFI, BARE] {
        findings.push(match targets::has(workspace, target) {
            Ok(true) => finding(true, target, "installed"),
            Ok(false) => finding(false, target, "added on first use"),
            Err(error) => finding(false, target, &error.to_string()),
        });
    }
    findings
}

fn provisioned(workspace: &Workspace) -> Vec<Finding> {
    let there = |what: &str, good: bool| {
        finding(
            good,
            what,
            if good {
                "there"
            } else {
                "fetched on first use"
            },
        )
    };
    let mut findings = vec![
        there("Bochs", Bochs::place(workspace).exists()),
        there("QEMU", Qemu::place(workspace).exists()),
        there("swtpm", Swtpm::place(workspace).exists()),
    ];
    findings.extend(
        payload::known().map(|name| there(&name, workspace.payloads().join(&name).exists())),
    );
    findings
}

fn platforms() -> Vec<Finding> {
    let kvm = kvm::Facts::gather();
    let note = if kvm.node && kvm.obstacle().is_some() {
        "; /dev/kvm is there but proves nothing"
    } else {
        ""
    };
    vec![
        match kvm.obstacle() {
            None => finding(
                true,
                "kvm",
                "VT-x nests: VT-x, EPT and VT-d, near real speed",
            ),
            Some(obstacle) => finding(false, "kvm", &format!("{obstacle}{note}")),
        },
        finding(true, "bochs", "emulates VT-x and EPT; no VT-d"),
        finding(
            true,
            "qemu-tcg",
            "emulates VT-d, USB and PXE, has a TPM by swtpm; no VT-x, so no guests",
        ),
    ]
}

fn tool(name: &str, purpose: &str) -> Finding {
    match exec::output(Command::new(name).arg("--version"), "") {
        Ok(text) => finding(
            true,
            name,
            String::from_utf8_lossy(&text)
                .lines()
                .next()
                .unwrap_or_default(),
        ),
        Err(_) => finding(false, name, &format!("missing; {purpose}")),
    }
}

fn finding(good: bool, what: &str, says: &str) -> Finding {
    Finding {
        good,
        what: what.to_owned(),
        says: says.to_owned(),
    }
}

fn show(findings: &[Finding]) {
    for Finding { good, what, says } in findings {
        println!("  {} {what}: {says}", if *good { "has  " } else { "lacks" });
    }
}
