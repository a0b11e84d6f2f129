//! Boot media: the USB image and the PXE directory, judged by foreign tools and booted by a firmware.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xtask::error::IoContext;
use xtask::image::Boot;

use super::linux::{DEMO, DEMO_KERNEL, DEMO_PAYLOADS, PROMPT};
use crate::context::{Context, Setup};
use crate::manifest::{Manifest, sha256};
use crate::outcome::{Failure, Outcome, ensure};
use crate::scenario::{Ground, Scenario};

const INITRD: &str = "initrd-busybox.img";
/// The most `bulkhead.efi` may have.
const EFI_LIMIT: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// The first entry of the partition table, and in it the first and the last sector ("UEFI Specification", "GPT Partition
/// Entry Array").
const FIRST_ENTRY: u64 = 2 * SECTOR;
const ENTRY_SECTORS: std::ops::Range<usize> = 32..48;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "usb_image_is_clean_and_boots_to_a_shell",
            Ground::Vmx,
            600,
            usb_image,
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new(
            "usb_stick_without_vtx_ends_in_the_named_error_after_all_was_checked",
            Ground::QemuTcg,
            180,
            |context| names_missing_vtx(context, false),
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new(
            "pxe_without_vtx_ends_in_the_named_error_after_all_was_checked",
            Ground::QemuTcg,
            240,
            |context| names_missing_vtx(context, true),
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new(
            "pxe_directory_holds_what_the_manifest_names",
            Ground::Host,
            60,
            pxe_directory,
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new("hypervisor_is_no_larger_than_1_mib", Ground::Host, 10, size),
    ]
}

/// `cargo xtask image --usb`, `sgdisk`, `fsck.vfat`, and the image by itself on a machine.
fn usb_image(context: &Context<'_>) -> Outcome {
    let image = context.dir()?.join("stick.img");
    let shown = image.display().to_string();
    context
        .run("image", context.xtask(&["image", "--usb", &shown]))?
        .ensure_code(0)?;
    let verdict = context.lab.disk_tools.verify_partitions(&image)?;
    ensure(
        verdict.contains("No problems found") && !verdict.contains("Warning"),
        || format!("sgdisk -v says\n{verdict}"),
    )?;
    let volume = context.dir()?.join("volume.img");
    extract_partition(&image, &volume)?;
    let verdict = context.lab.disk_tools.check_volume(&volume)?;
    let complaint = ["Dirty", "differ", "orphan", "wrong", "Warning", "bad"]
        .into_iter()
        .find(|word| verdict.contains(word));
    ensure(complaint.is_none(), || {
        format!("fsck.vfat -n says {complaint:?}:\n{verdict}")
    })?;

    let mut machine = context.start(Boot::written(&image), Setup::default())?;
    machine.expect("Linux version 6.")?;
    machine.expect(PROMPT)?;
    machine.send("poweroff -f")?;
    machine.off()?;
    Ok(())
}

/// Copies the first partition of `image` into the file `volume`.
fn extract_partition(image: &Path, volume: &Path) -> Outcome {
    let mut disk = File::open(image).context("open", image)?;
    let mut entry = [0; 128];
    disk.seek(SeekFrom::Start(FIRST_ENTRY))
        .context("seek in", image)?;
    disk.read_exact(&mut entry).context("read", image)?;
    let (sectors, _) = entry[ENTRY_SECTORS].as_chunks::<8>();
    let [first, last] = sectors else {
        return Err(Failure::Unmet(
            "the partition entry is too short".to_owned(),
        ));
    };
    let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    let count = last.saturating_sub(first) + 1;
    disk.seek(SeekFrom::Start(first * SECTOR))
        .context("seek in", image)?;
    let mut out = File::create(volume).context("create", volume)?;
    let copied =
        std::io::copy(&mut disk.take(count * SECTOR), &mut out).context("write", volume)?;
    ensure(copied == count * SECTOR, || {
        format!(
            "the partition ends {copied} bytes after its start, not {}",
            count * SECTOR
        )
    })
}

/// On a machine without VT-x everything is read and checked; then the error names what is missing.
fn names_missing_vtx(context: &Context<'_>, pxe: bool) -> Outcome {
    let (kernel, initrd) = (
        context.lab.payload(DEMO_KERNEL)?,
        context.lab.payload(INITRD)?,
    );
    let digest = |path: &PathBuf| {
        fs::read(path)
            .context("read", path)
            .map(|bytes| sha256(&bytes))
    };
    let mut manifest = Manifest::of(DEMO_KERNEL)
        .with_kernel_keys(format!("sha256 = \"{}\"", digest(&kernel)?))
        .with_cmdline("console=ttyS0");
    manifest.memory = "256M";
    manifest.initrd = Some(INITRD.to_owned());
    let text = manifest.to_string().replace(
        &format!("initrd = \"{INITRD}\""),
        &format!(
            "initrd = {{ path = \"{INITRD}\", sha256 = \"{}\" }}",
            digest(&initrd)?
        ),
    );
    let setup = Setup {
        pxe,
        ..Setup::default()
    };
    let mut machine = context.start(context.boot(&text)?, setup)?;
    let error = machine.refused()?;
    machine.ensure(error.starts_with("VT-x is missing"), || {
        format!("the event names another error: {error}")
    })?;
    let kernel_line = format!("bulkhead/{DEMO_KERNEL}: ");
    let initrd_line = format!("bulkhead/{INITRD}: ");
    machine.ensure_console(&[
        "Bulkhead ",
        &kernel_line,
        "SHA-256 as the manifest says",
        &initrd_line,
        "SHA-256 as the manifest says",
        // The emulated unit of the platform.
        "VT-d: 1 unit of ",
        "VT-d unit 0 at 0xfed90000",
        "error: ",
        "VT-x is missing",
        "nothing was started",
    ])?;
    machine.ensure_events(&["boot", "plan", "halt"])
}

fn pxe_directory(context: &Context<'_>) -> Outcome {
    let dir = context.dir()?.join("tftp");
    if dir.exists() {
        fs::remove_dir_all(&dir).context("empty", &dir)?;
    }
    let shown = dir.display().to_string();
    context
        .run("image", context.xtask(&["image", "--pxe", &shown]))?
        .ensure_code(0)?;
    let same = |place: &str, source: &Path| {
        let place = dir.join(place);
        let (a, b) = (
            fs::read(&place).context("read", &place)?,
            fs::read(source).context("read", source)?,
        );
        ensure(a == b, || {
            format!("{} is not {}", place.display(), source.display())
        })
    };
    same("bulkhead.efi", &context.lab.efi)?;
    same(
        "bulkhead/bulkhead.toml",
        &context.lab.workspace.root().join(DEMO),
    )?;
    for name in DEMO_PAYLOADS {
        same(&format!("bulkhead/{name}"), &context.lab.payload(name)?)?;
    }
    Ok(())
}

fn size(context: &Context<'_>) -> Outcome {
    let efi = &context.lab.efi;
    let bytes = fs::metadata(efi).context("look at", efi)?.len();
    context.note(format!("bulkhead.efi has {bytes} of {EFI_LIMIT} bytes"));
    ensure(bytes > 0 && bytes <= EFI_LIMIT, || {
        format!("bulkhead.efi has {bytes} bytes, more than {EFI_LIMIT}")
    })
}
