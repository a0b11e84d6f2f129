//! Rust's standard library for the targets that the hypervisor and the test guests are built for.
//!
//! rustup adds a missing target. Where it cannot, the library's source is taken from Debian's `rust-src`
//! of exactly the compiler's version and built along.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, IoContext, Result};
use crate::exec;
use crate::paths::{Workspace, create_dir, fresh_dir};
use crate::provision::CacheLock;
use crate::provision::apt::{self, PrivateApt};
use crate::ui::Step;

/// The Debian suites that may carry the source of the compiler's version.
const SOURCE_SUITES: [&str; 2] = ["trixie-backports", "forky"];
const HINT: &str = "install Rust with rustup";

/// Whether cargo has to build the standard library itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildStd {
    /// The target's library is installed.
    No,
    /// The library's source is installed.
    Yes,
}

/// Makes sure that `target` can be built for, and says how.
///
/// # Errors
/// When neither rustup nor Debian provides what is needed.
pub fn ensure(workspace: &Workspace, target: &'static str) -> Result<BuildStd> {
    let sysroot = sysroot(workspace)?;
    if is_installed(&sysroot, target) {
        return Ok(BuildStd::No);
    }
    let _lock = CacheLock::take(workspace)?;
    if is_installed(&sysroot, target) {
        return Ok(BuildStd::No);
    }
    let step = Step::start(format!("Adding the Rust target {target}"));
    let mut rustup = Command::new("rustup");
    rustup
        .current_dir(workspace.root())
        .args(["target", "add", target]);
    let refused = match exec::output(&mut rustup, HINT) {
        Ok(_) => {
            step.done("added by rustup");
            return Ok(BuildStd::No);
        }
        Err(error) => error,
    };
    if source_of(&sysroot).is_dir() {
        step.done("not to be had from rustup; building the standard library from its source");
        return Ok(BuildStd::Yes);
    }
    step.detail("not to be had from rustup; fetching the library's source from Debian");
    let version = compiler_version(workspace)?;
    for suite in SOURCE_SUITES {
        if install_source(workspace, &sysroot, suite, &version)? {
            step.done(&format!(
                "source of {version} from {suite}; building the standard library along"
            ));
            return Ok(BuildStd::Yes);
        }
    }
    Err(Error::Unavailable {
        what: format!(
            "the Rust target {target} cannot be added ({refused}), and Debian has no rust-src {version}"
        ),
        hint: format!("run `rustup target add {target}` where rustup has a network"),
    })
}

/// Whether the standard library for `target` is installed; for `doctor`.
///
/// # Errors
/// When there is no Rust compiler.
pub fn has(workspace: &Workspace, target: &str) -> Result<bool> {
    Ok(is_installed(&sysroot(workspace)?, target))
}

fn is_installed(sysroot: &Path, target: &str) -> bool {
    sysroot
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .is_dir()
}

fn source_of(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust")
}

/// Puts the library's source below `sysroot` when `suite` has exactly `version` of it.
fn install_source(
    workspace: &Workspace,
    sysroot: &Path,
    suite: &str,
    version: &str,
) -> Result<bool> {
    let apt = PrivateApt::open(&workspace.cache(), "rust-src", &[suite])?;
    if !apt
        .version("rust-src", suite)?
        .is_some_and(|found| is_version(&found, version))
    {
        return Ok(false);
    }
    let package = apt.download("rust-src", suite)?;
    let tree = fresh_dir(workspace.cache().join("rust-src.partial"))?;
    apt::unpack(&[package], &tree)?;
    let unpacked = tree.join("usr/src").join(format!("rustc-{version}"));
    let place = create_dir(source_of(sysroot))?;
    exec::output(
        Command::new("cp")
            .arg("-r")
            .arg(unpacked.join("library"))
            .arg(&place),
        "coreutils are missing",
    )?;
    fs::remove_dir_all(&tree).context("remove", &tree)?;
    apt.discard()?;
    Ok(true)
}

/// Whether the Debian version `found` packages the upstream release `wanted`.
fn is_version(found: &str, wanted: &str) -> bool {
    let upstream = found.split(['+', '-', '~']).next().unwrap_or_default();
    upstream == wanted
}

fn sysroot(workspace: &Workspace) -> Result<PathBuf> {
    let printed = rustc(workspace, &["--print", "sysroot"])?;
    Ok(PathBuf::from(printed.trim()))
}

fn compiler_version(workspace: &Workspace) -> Result<String> {
    let printed = rustc(workspace, &["--version"])?;
    Ok(printed
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned())
}

fn rustc(workspace: &Workspace, arguments: &[&str]) -> Result<String> {
    let printed = exec::output(
        Command::new("rustc")
            .args(arguments)
            .current_dir(workspace.root()),
        HINT,
    )?;
    Ok(String::from_utf8_lossy(&printed).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_upstream_version_counts() {
        assert!(is_version("1.95.0+dfsg1-1~bpo13+1", "1.95.0"));
        assert!(is_version("1.95.0-1", "1.95.0"));
        assert!(!is_version("1.95.01-1", "1.95.0"));
        assert!(!is_version("1.94.1+dfsg-1", "1.94.0"));
    }
}
