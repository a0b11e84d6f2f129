//! The root key that a TPM keeps: for what was measured when it was sealed, and for nothing else.
//!
//! QEMU's machine has a TPM by swtpm and no VT-x: each boot ends in that error, after everything that is looked at here. Machines of one
//! scenario follow one another in one directory, so that a later one has the TPM and the firmware's variables of an earlier.

mod log;

use std::fs;

use xtask::error::IoContext;
use xtask::image::Boot;
use xtask::platform::equipment::{Equipment, TpmState};
use xtask::session::events::Event;

use crate::context::{Context, Setup};
use crate::key_search::has_key;
use crate::lab::HELLO;
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::outcome::{Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 240;
/// What every boot here ends with, unless the root key is missing.
const NO_VTX: &str = "VT-x is missing";

pub fn scenarios() -> Vec<Scenario> {
    let scenario = |name, check: fn(&Context<'_>) -> Outcome| {
        Scenario::new(name, Ground::QemuTcg, LIMIT, check)
    };
    vec![
        scenario(
            "tpm_seals_the_root_key_at_the_first_boot_and_unseals_it_at_the_second",
            first_and_second_boot,
        ),
        scenario("tpm_event_log_replays_to_the_pcrs", event_log),
        scenario(
            "tpm_is_closed_and_its_log_told_although_a_payload_is_missing",
            missing_payload,
        ),
        scenario("tpm_measures_the_image_that_came_over_pxe", image_over_pxe),
        scenario(
            "tpm_names_the_manifest_that_was_changed_until_a_reseal",
            changed_manifest,
        ),
        scenario("tpm_names_the_image_that_was_changed", changed_image),
        scenario("tpm_names_the_payload_that_was_changed", changed_payload),
        scenario("tpm_missing_is_a_named_error", no_tpm),
    ]
}

fn tpm_manifest() -> Manifest {
    let mut manifest = Manifest::of(HELLO);
    manifest.hypervisor = "root_key = \"tpm\"";
    manifest
}

/// A machine with a TPM in this state.
fn with_tpm(state: TpmState) -> Setup {
    Setup {
        equipment: Equipment {
            tpm: Some(state),
            ..Equipment::default()
        },
        ..Setup::default()
    }
}

/// Boots with a TPM in this state, and waits for the end, before which the PCRs have to be closed, whatever it is.
fn run<'a>(context: &'a Context<'_>, boot: Boot, tpm: TpmState) -> Outcome<(Machine<'a>, String)> {
    let mut machine = context.start(boot, with_tpm(tpm))?;
    let error = machine.refused()?;
    log::ensure_closed(&mut machine)?;
    Ok((machine, error))
}

/// Boots and has a root key; the event that says which.
fn boots(context: &Context<'_>, boot: Boot, tpm: TpmState, origin: &str) -> Outcome<Event> {
    let (mut machine, error) = run(context, boot, tpm)?;
    let key = machine.event("root-key", 0)?;
    machine.ensure(error.starts_with(NO_VTX), || error)?;
    machine.ensure(key.text("origin") == origin, || {
        format!("the root key was to be {origin}: {}", key.0)
    })?;
    Ok(key)
}

/// Boots and is refused the root key; the error has each of `named`, and none of `others`.
fn keeps_sealed(context: &Context<'_>, boot: Boot, named: &[&str], others: &[&str]) -> Outcome {
    let (mut machine, error) = run(context, boot, TpmState::Kept)?;
    context.note(error.clone());
    let keys = machine.count("root-key", |_| true);
    machine.ensure(keys == 0, || "there is a root key".to_owned())?;
    for part in named {
        machine.ensure(error.contains(part), || {
            format!("the error does not say {part:?}: {error}")
        })?;
    }
    for part in others {
        machine.ensure(!error.contains(part), || {
            format!("the error says {part:?}: {error}")
        })?;
    }
    Ok(())
}

fn first_and_second_boot(context: &Context<'_>) -> Outcome {
    let boot = context.boot_guest(&tpm_manifest())?;
    let made = boots(context, boot.clone(), TpmState::New, "made")?;
    let (mut machine, _) = run(context, boot, TpmState::Kept)?;
    let unsealed = machine.event("root-key", 0)?;
    let same = |key| made.text(key) == unsealed.text(key) && !made.text(key).is_empty();
    machine.ensure(
        unsealed.text("origin") == "unsealed" && same("seal") && same("fingerprint"),
        || {
            format!(
                "made at the first boot: {}; at the second: {}",
                made.0, unsealed.0
            )
        },
    )?;
    let fingerprint = unsealed.text("fingerprint").to_owned();
    let blueprint = machine.blueprint();
    let mut places = vec![
        blueprint.variables(),
        blueprint.events(),
        blueprint.dir.join("console.log"),
    ];
    let kept = blueprint.tpm_state();
    for entry in fs::read_dir(&kept).context("list", &kept)? {
        places.push(entry.context("list", &kept)?.path());
    }
    for place in places {
        let bytes = fs::read(&place).context("read", &place)?;
        machine.ensure(!has_key(&bytes, &fingerprint), || {
            format!("the root key is in {} in the clear", place.display())
        })?;
    }
    Ok(())
}

/// Measuring does not need a sealed key: an ephemeral one is in use here.
fn event_log(context: &Context<'_>) -> Outcome {
    let manifest = Manifest::of(HELLO);
    let boot = context.boot_guest(&manifest)?;
    let (mut machine, error) = run(context, boot, TpmState::New)?;
    machine.ensure(error.starts_with(NO_VTX), || error)?;
    let origin = machine.event("root-key", 0)?;
    machine.ensure(origin.text("origin") == "ephemeral", || {
        origin.0.to_string()
    })?;
    let text = manifest.to_string();
    ensure_all_measured(context, &mut machine, &text)
}

/// What comes before a file that is not there was measured, and nobody gets at the key by having a file go missing.
fn missing_payload(context: &Context<'_>) -> Outcome {
    let mut manifest = tpm_manifest();
    manifest.initrd = Some("missing.img".to_owned());
    let text = manifest.to_string();
    let files = [(HELLO, context.lab.payload(HELLO)?)];
    let boot = context.boot_unchecked(&text, &files)?;
    let (mut machine, error) = run(context, boot, TpmState::New)?;
    machine.ensure(error.contains("missing.img"), || error)?;
    let keys = machine.count("root-key", |_| true);
    machine.ensure(keys == 0, || "there is a root key".to_owned())?;
    ensure_all_measured(context, &mut machine, &text)
}

/// Over PXE no device path says which file it was: the server does.
fn image_over_pxe(context: &Context<'_>) -> Outcome {
    let setup = Setup {
        pxe: true,
        ..with_tpm(TpmState::New)
    };
    let manifest = tpm_manifest();
    let mut machine = context.start(context.boot_guest(&manifest)?, setup)?;
    let error = machine.refused()?;
    machine.ensure(error.starts_with(NO_VTX), || error)?;
    machine.ensure_console(&["from TFTP server", "nothing was started"])?;
    let key = machine.event("root-key", 0)?;
    machine.ensure(key.text("origin") == "made", || key.0.to_string())?;
    log::ensure_closed(&mut machine)?;
    let text = manifest.to_string();
    ensure_all_measured(context, &mut machine, &text)
}

/// The image, the manifest, whose text is `text`, and the guest were measured, in this order.
fn ensure_all_measured(context: &Context<'_>, machine: &mut Machine<'_>, text: &str) -> Outcome {
    let (image, payload) = (image(context)?, hello(context)?);
    log::ensure_measured(
        machine,
        &[
            ("image", 11, &image),
            ("manifest", 12, text.as_bytes()),
            ("payload `hello.elf`", 13, &payload),
        ],
    )
}

/// The bytes of `bulkhead.efi`.
fn image(context: &Context<'_>) -> Outcome<Vec<u8>> {
    Ok(fs::read(&context.lab.efi).context("read", &context.lab.efi)?)
}

/// The bytes of the guest.
fn hello(context: &Context<'_>) -> Outcome<Vec<u8>> {
    let file = context.lab.payload(HELLO)?;
    Ok(fs::read(&file).context("read", &file)?)
}

fn changed_manifest(context: &Context<'_>) -> Outcome {
    // Each medium is put together when it is booted: they share the manifest's file.
    let mut manifest = tpm_manifest();
    let first = context.boot_guest(&manifest)?;
    let made = boots(context, first, TpmState::New, "made")?;
    manifest.hypervisor = "root_key = \"tpm\"\nlog_level = \"debug\"";
    let seal = made.text("seal").to_owned();
    let reseal = format!("reseal = \"{seal}\"");
    keeps_sealed(
        context,
        context.boot_guest(&manifest)?,
        &["manifest (changed)", &reseal],
        &["image", "payload", "PCR"],
    )?;
    // The negative control: without a key that is sealed, the same change is nobody's business.
    manifest.hypervisor = "root_key = \"ephemeral\"\nlog_level = \"debug\"";
    boots(
        context,
        context.boot_guest(&manifest)?,
        TpmState::Kept,
        "ephemeral",
    )?;
    // And what was sealed is still there for what it was sealed for.
    manifest = tpm_manifest();
    let first = context.boot_guest(&manifest)?;
    let again = boots(context, first, TpmState::Kept, "unsealed")?;
    ensure(
        again.text("fingerprint") == made.text("fingerprint"),
        || format!("another key: {}", again.0),
    )?;
    // A change that was meant: one new key, which stays although the line does.
    let text = manifest
        .to_string()
        .replace("root_key", &format!("{reseal}\nroot_key"));
    let hello = context.lab.payload(HELLO)?;
    let resealed = context.boot_unchecked(text, &[(HELLO, hello)])?;
    let other = boots(context, resealed.clone(), TpmState::Kept, "made")?;
    ensure(
        other.text("seal") != seal && other.text("fingerprint") != made.text("fingerprint"),
        || format!("the old key again: {}", other.0),
    )?;
    let kept = boots(context, resealed, TpmState::Kept, "unsealed")?;
    ensure(
        kept.text("fingerprint") == other.text("fingerprint"),
        || format!("a third key: {}", kept.0),
    )
}

fn changed_image(context: &Context<'_>) -> Outcome {
    let boot = context.boot_guest(&tpm_manifest())?;
    boots(context, boot.clone(), TpmState::New, "made")?;
    // Behind the last section: no instruction changes.
    let mut image = image(context)?;
    image.extend(*b"one more");
    let changed = context.file("changed.efi", image)?;
    keeps_sealed(
        context,
        boot.with_efi(&changed),
        &["image (changed)", "PCR 4"],
        &["manifest (", "payload"],
    )
}

fn changed_payload(context: &Context<'_>) -> Outcome {
    let mut bytes = hello(context)?;
    context.file("guest.elf", &bytes)?;
    let mut manifest = tpm_manifest();
    manifest.kernel = "guest.elf".to_owned();
    boots(
        context,
        context.boot_guest(&manifest)?,
        TpmState::New,
        "made",
    )?;
    bytes.extend(*b"one more");
    context.file("guest.elf", &bytes)?;
    keeps_sealed(
        context,
        context.boot_guest(&manifest)?,
        &["payload `guest.elf` (changed)"],
        &["image", "manifest (", "PCR"],
    )
}

fn no_tpm(context: &Context<'_>) -> Outcome {
    let boot = context.boot_guest(&tpm_manifest())?;
    let mut machine = context.start(boot, Setup::default())?;
    let error = machine.refused()?;
    machine.ensure(error.contains("the firmware has no TPM 2.0"), || error)?;
    machine.ensure_events(&["boot", "plan", "halt"])
}
