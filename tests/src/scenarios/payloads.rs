//! Bad payloads at boot: a clear error that names the file, and nothing starts. Good ones by the same way: they start.

use std::fs;
use std::path::PathBuf;

use xtask::error::IoContext;

use super::linux::{DEMO_KERNEL, DEMO_PAYLOADS};
use crate::context::{Context, Setup};
use crate::forge;
use crate::lab::HELLO;
use crate::manifest::{Manifest, sha256};
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 120;
/// More than the VM's memory.
const OVERSIZED: usize = 48 << 20;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "payload_that_is_missing_is_refused",
            Ground::Vmx,
            LIMIT,
            missing,
        ),
        Scenario::new(
            "payload_with_the_wrong_sha256_is_refused",
            Ground::Vmx,
            LIMIT,
            wrong_digest,
        ),
        Scenario::new(
            "payload_with_the_right_sha256_starts",
            Ground::Vmx,
            LIMIT,
            right_digest,
        ),
        Scenario::new(
            "truncated_bzimage_is_refused",
            Ground::Vmx,
            LIMIT,
            truncated_bzimage,
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new(
            "absurd_bzimage_is_refused",
            Ground::Vmx,
            LIMIT,
            absurd_bzimage,
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new("garbage_elf_is_refused", Ground::Vmx, LIMIT, garbage_elf),
        Scenario::new(
            "overlapping_elf_is_refused",
            Ground::Vmx,
            LIMIT,
            overlapping_elf,
        ),
        Scenario::new(
            "oversized_initrd_is_refused",
            Ground::Vmx,
            LIMIT,
            oversized_initrd,
        ),
        Scenario::new("empty_kernel_is_refused", Ground::Vmx, LIMIT, empty_kernel),
        Scenario::new(
            "unknown_kernel_format_is_refused",
            Ground::Vmx,
            LIMIT,
            unknown_format,
        ),
    ]
}

/// Boots `manifest` with `payloads`; the log has to say each of `words`, in this order, and nothing starts.
fn refused(
    context: &Context<'_>,
    manifest: &Manifest,
    payloads: &[(&str, PathBuf)],
    words: &[&str],
) -> Outcome {
    let boot = context.boot_unchecked(manifest.to_string(), payloads)?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.refused()?;
    machine.ensure_console(words)?;
    machine.ensure_events(&["boot", "halt"])
}

/// Boots the one kernel `bytes`, called `name`.
fn refused_kernel(context: &Context<'_>, name: &str, bytes: &[u8], words: &[&str]) -> Outcome {
    let file = context.file(name, bytes)?;
    let mut manifest = Manifest::of(name);
    manifest.memory = "128M";
    refused(context, &manifest, &[(name, file)], words)
}

fn missing(context: &Context<'_>) -> Outcome {
    refused(
        context,
        &Manifest::of("not-there.elf"),
        &[],
        &[
            "bulkhead.toml:5:",
            "error[payload-missing]",
            "not-there.elf",
        ],
    )
}

fn wrong_digest(context: &Context<'_>) -> Outcome {
    let hello = context.lab.payload(HELLO)?;
    let digest = sha256(b"something else");
    let manifest = Manifest::of(HELLO).with_kernel_keys(format!("sha256 = \"{digest}\""));
    let found = sha256(&fs::read(&hello).context("read", &hello)?);
    refused(
        context,
        &manifest,
        &[(HELLO, hello)],
        &["bulkhead.toml:5:", "error[payload-digest]", &found],
    )
}

/// The same image as above but for the digest: what was refused there starts here.
fn right_digest(context: &Context<'_>) -> Outcome {
    let hello = context.lab.payload(HELLO)?;
    let digest = sha256(&fs::read(&hello).context("read", &hello)?);
    let manifest = Manifest::of(HELLO).with_kernel_keys(format!("sha256 = \"{digest}\""));
    let boot = context.boot_unchecked(manifest.to_string(), &[(HELLO, hello)])?;
    let mut machine = context.start(boot, Setup::default())?;
    machine.expect("case hello: ok\n")?;
    machine.off()?;
    machine.ensure_events(&["vm-start", "vm-stop", "machine-off"])
}

fn demo_kernel(context: &Context<'_>) -> Outcome<Vec<u8>> {
    let place = context.lab.payload(DEMO_KERNEL)?;
    Ok(fs::read(&place).context("read", &place)?)
}

fn truncated_bzimage(context: &Context<'_>) -> Outcome {
    let kernel = demo_kernel(context)?;
    let words = [
        "bulkhead.toml:5:",
        "error[payload-rejected]",
        "its header needs",
    ];
    refused_kernel(
        context,
        "truncated.bzimage",
        &kernel[..kernel.len() / 2],
        &words,
    )
}

fn absurd_bzimage(context: &Context<'_>) -> Outcome {
    let spoilt = forge::absurd_bzimage(&demo_kernel(context)?)?;
    let words = ["bulkhead.toml:5:", "error[payload-rejected]", "memory"];
    refused_kernel(context, "absurd.bzimage", &spoilt, &words)
}

fn garbage_elf(context: &Context<'_>) -> Outcome {
    let words = ["bulkhead.toml:5:", "error[payload-rejected]", "ELF: "];
    refused_kernel(context, "garbage.elf", &forge::garbage_elf(), &words)
}

fn overlapping_elf(context: &Context<'_>) -> Outcome {
    let hello = context.lab.payload(HELLO)?;
    let spoilt = forge::overlapping_elf(&fs::read(&hello).context("read", &hello)?)?;
    let words = ["bulkhead.toml:5:", "error[payload-rejected]", "overlap"];
    refused_kernel(context, "overlapping.elf", &spoilt, &words)
}

fn empty_kernel(context: &Context<'_>) -> Outcome {
    let words = ["bulkhead.toml:5:", "error[payload-rejected]", "0 bytes"];
    refused_kernel(context, "empty.elf", &[], &words)
}

fn unknown_format(context: &Context<'_>) -> Outcome {
    let words = [
        "bulkhead.toml:5:",
        "error[payload-rejected]",
        "neither a bzImage nor an ELF file",
    ];
    refused_kernel(context, "poem.txt", &[b'.'; 5000], &words)
}

fn oversized_initrd(context: &Context<'_>) -> Outcome {
    let initrd = context.file("oversized.img", vec![0; OVERSIZED])?;
    let mut manifest = Manifest::of(HELLO);
    manifest.initrd = Some("oversized.img".to_owned());
    let payloads = [
        (HELLO, context.lab.payload(HELLO)?),
        ("oversized.img", initrd),
    ];
    let words = ["bulkhead.toml:6:", "error[payload-rejected]", "initrd: "];
    refused(context, &manifest, &payloads, &words)
}
