//! Building the hypervisor and the bare-metal test guests with cargo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, IoContext, Result};
use crate::exec;
use crate::paths::{Workspace, create_dir};
use crate::provision::targets::{self, BuildStd};
use crate::ui::Step;

/// The hypervisor's target.
pub const UEFI: &str = "x86_64-unknown-uefi";
/// The test guests' target.
pub const BARE: &str = "x86_64-unknown-none";

/// Line tables go into the PDB, not into the binary: a panic's backtrace gets names at no cost.
const LINE_TABLES: [&str; 2] = ["--config", "profile.release.debug=\"line-tables-only\""];

/// Builds `bulkhead.efi` and returns its path; its PDB lies beside it.
///
/// # Errors
/// When the target cannot be had or the build fails.
pub fn hypervisor(workspace: &Workspace) -> Result<PathBuf> {
    hypervisor_or(workspace, None)
}

/// Where the hypervisor's binary is or will be: `given`, or else where [`hypervisor`] puts it.
///
/// # Errors
/// When the given one is not there.
pub fn hypervisor_at(workspace: &Workspace, given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(file) if file.is_file() => Ok(file.to_path_buf()),
        Some(file) => Err(Error::BadCall(format!(
            "{}: there is no such file",
            file.display()
        ))),
        None => Ok(workspace
            .cargo_target()
            .join(UEFI)
            .join("release/bulkhead.efi")),
    }
}

/// The binary `given`, or else a freshly built one.
///
/// # Errors
/// When the given one is not there, or the build fails.
pub fn hypervisor_or(workspace: &Workspace, given: Option<&Path>) -> Result<PathBuf> {
    if given.is_none() {
        compile(workspace, "bulkhead", UEFI, &LINE_TABLES)?;
    }
    hypervisor_at(workspace, given)
}

/// Builds the test guests and puts each into the payloads as `NAME.elf`; returns their paths.
///
/// # Errors
/// When the target cannot be had or the build fails.
pub fn guests(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    compile(workspace, "test-guests", BARE, &[])?;
    let output = workspace.cargo_target().join(BARE).join("release");
    let payloads = create_dir(workspace.payloads())?;
    let mut placed = Vec::new();
    for name in guest_names(workspace)? {
        let file = guest_payload(&name);
        let place = payloads.join(&file);
        let partial = payloads.join(format!(".{file}.partial"));
        fs::copy(output.join(&name), &partial).context("copy", &output.join(&name))?;
        fs::rename(&partial, &place).context("rename", &partial)?;
        placed.push(place);
    }
    Ok(placed)
}

/// What the test guest `name` is called among the payloads.
#[must_use]
pub fn guest_payload(name: &str) -> String {
    format!("{name}.elf")
}

/// The names of the test guests: one binary for each entry of `tests/guests/src/bin`.
///
/// # Errors
/// When the directory cannot be read.
pub fn guest_names(workspace: &Workspace) -> Result<Vec<String>> {
    let dir = workspace.root().join("tests/guests/src/bin");
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).context("list", &dir)? {
        let path = entry.context("list", &dir)?.path();
        if let (true, Some(stem)) = (is_binary(&path), path.file_stem()) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Cargo's rule: a source file, or a directory with a `main.rs`.
fn is_binary(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "rs") || path.join("main.rs").is_file()
}

fn compile(
    workspace: &Workspace,
    package: &str,
    target: &'static str,
    options: &[&str],
) -> Result<()> {
    let how = targets::ensure(workspace, target)?;
    let step = Step::start(format!("Building {package} for {target}"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace.root())
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            package,
            "--target",
            target,
        ])
        .arg("--target-dir")
        .arg(workspace.cargo_target())
        .args(options);
    if how == BuildStd::Yes {
        cargo.env("RUSTC_BOOTSTRAP", "1").args([
            "-Zbuild-std=core,alloc,compiler_builtins",
            "-Zbuild-std-features=compiler-builtins-mem",
        ]);
    }
    exec::passthrough(&mut cargo, "install Rust with rustup")?;
    step.done("built");
    Ok(())
}
