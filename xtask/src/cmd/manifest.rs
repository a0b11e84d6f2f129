//! `cargo xtask manifest`: what the hypervisor would say about a manifest, said on the desk.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bulkhead_core::manifest::{MAX_BYTES, Plan, VmPlan, parse_bytes};
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

/// Reads the manifest at `path` into a plan that this release can run. Complaints name the file as `path` does.
///
/// # Errors
/// [`Error::Manifest`] with every complaint, or with why the file cannot be read.
pub fn read(path: &Path) -> Result<Plan> {
    let bytes = read_bounded(path).map_err(|error| Error::Manifest(error.to_string()))?;
    let plan = parse_bytes(&path.display().to_string(), &bytes)
        .and_then(|plan| plan.check_release().map(|()| plan));
    plan.map_err(|errors| Error::Manifest(errors.to_string().trim_end().to_owned()))
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
        Some(cpus) => format!("CPUs {cpus:?}"),
        None => "any CPU".to_owned(),
    };
    format!(
        "{}: {}{initrd}, {} of memory, {} vCPU on {cpus}, restart {}",
        vm.name, vm.kernel.path, vm.memory, vm.vcpus, vm.restart
    )
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
            "demo: vmlinuz with initrd.img, 1G of memory, 1 vCPU on any CPU, restart on-crash";
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
    fn what_this_release_cannot_run_is_refused_here_too() {
        let file = written(
            "version = 1\n[[vm]]\nname = \"a\"\nkernel = \"k\"\nmemory = \"2M\"\nvcpus = 2\n",
        );
        assert!(
            read(file.path())
                .unwrap_err()
                .to_string()
                .contains("error[release-vcpus]")
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
