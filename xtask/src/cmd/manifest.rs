//! `cargo xtask manifest`: what the hypervisor would say about a manifest, said on the desk.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_manifest::{MAX_BYTES, Plan, VmPlan, parse_bytes};
use clap::Subcommand;

use crate::error::{Error, IoContext, Result};

/// What can be done with a manifest.
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    /// Check FILE with the parser that runs at boot, and say what it asks for.
    Check {
        /// The manifest.
        file: PathBuf,
    },
}

/// Runs `command`.
///
/// # Errors
/// [`Error::Manifest`] with every complaint, or with why the file cannot be read.
pub fn run(command: &ManifestCommand) -> Result<()> {
    let ManifestCommand::Check { file } = command;
    let plan = read(file)?;
    println!("{}: in order", plan.file_name());
    for vm in &plan.vms {
        println!("  {}", summary(vm));
    }
    Ok(())
}

/// Reads the manifest at `path`. Complaints name the file as `path` does.
///
/// # Errors
/// [`Error::Manifest`] with every complaint, or with why the file cannot be read.
pub fn read(path: &Path) -> Result<Plan> {
    let bytes = read_bounded(path).map_err(|error| Error::Manifest(error.to_string()))?;
    parse_bytes(&path.display().to_string(), &bytes)
        .map_err(|errors| Error::Manifest(errors.to_string().trim_end().to_owned()))
}

/// The file's bytes, one more than the parser takes at most: a disk image named by mistake is not read whole.
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let bound = MAX_BYTES as u64 + 1;
    let file = File::open(path).context("open", path)?;
    file.take(bound)
        .read_to_end(&mut bytes)
        .context("read", path)?;
    Ok(bytes)
}

/// One line that says what a VM is given.
fn summary(vm: &VmPlan) -> String {
    let initrd = vm
        .initrd
        .as_ref()
        .map_or(String::new(), |initrd| format!(" with {}", initrd.path));
    let cpus = match &vm.cpus {
        Some(cpus) => format!("on CPUs {cpus:?}"),
        None => "on shared CPUs".to_owned(),
    };
    let mut line = format!(
        "{}: {}{initrd}, {} of memory, {} {cpus}",
        vm.name,
        vm.kernel.path,
        vm.memory,
        counted(vm.vcpus as usize, "vCPU"),
    );
    if !vm.disks.is_empty() {
        line += &format!(
            ", {} with overlays of {}",
            counted(vm.disks.len(), "disk"),
            vm.overlays()
        );
    }
    for nic in &vm.nics {
        line += &format!(", NIC {} on \"{}\"", nic.mac, nic.segment);
    }
    line += &format!(", restart {}", vm.restart);
    line
}

/// `count` of the things called `noun`.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_good_manifest_is_summed_up() {
        let file = written(
            "version = 1\n[[vm]]\nname = \"demo\"\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\nmemory = \"1G\"\n",
        );
        let plan = read(file.path()).unwrap();
        let line =
            "demo: vmlinuz with initrd.img, 1G of memory, 1 vCPU on shared CPUs, restart on-crash";
        assert_eq!(summary(&plan.vms[0]), line);
        run(&ManifestCommand::Check {
            file: file.path().to_owned(),
        })
        .unwrap();
    }

    #[test]
    fn a_bad_manifest_ends_with_the_exit_code_for_it_and_names_the_file() {
        let file = written("version = 7\n");
        let error = read(file.path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let place = format!("{}:1:11: error[unsupported-version]", file.path().display());
        assert!(error.to_string().starts_with(&place), "{error}");
    }

    #[test]
    fn disks_and_nics_are_summed_up_with_the_addresses_they_get() {
        let file = written(
            "version = 1\n[[vm]]\nname = \"a\"\nkernel = \"k\"\nmemory = \"2M\"\nvcpus = 2\ncpus = [1]\n\
             disk = [{ image = \"root.img\" }]\nnic = [{ segment = \"lan\", mac = \"52:54:00:00:00:01\" }]\n",
        );
        assert_eq!(
            summary(&read(file.path()).unwrap().vms[0]),
            "a: k, 2M of memory, 2 vCPUs on CPUs [1], 1 disk with overlays of 64M, \
             NIC 52:54:00:00:00:01 on \"lan\", restart on-crash"
        );
    }

    #[test]
    fn a_missing_or_oversized_file_is_a_bad_manifest() {
        assert_eq!(
            read(Path::new("/nowhere/demo.toml"))
                .unwrap_err()
                .exit_code(),
            2
        );
        let file = written(&"#".repeat(MAX_BYTES + 100));
        let error = read(file.path()).unwrap_err();
        assert!(error.to_string().contains("error[too-large]"), "{error}");
    }
}
