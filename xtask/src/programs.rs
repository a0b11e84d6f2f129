//! The C programs of `tests/programs`, which run in a Linux guest: each directory there is one, of all sources in it.
//!
//! They are compiled by the machine's own compiler and linked statically, so that they run in any RAM disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{IoContext, Result};
use crate::exec;
use crate::paths::{Workspace, create_dir};

const SOURCES: &str = "tests/programs";
const COMPILER: &str = "gcc";
const HINT: &str = "install the Debian packages gcc and libc6-dev";
const OPTIONS: [&str; 8] = [
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
    "-static",
    // 32-bit code in them has to reach everything.
    "-no-pie",
];

/// Compiles all programs.
///
/// # Errors
/// When one cannot be compiled.
pub fn build(workspace: &Workspace) -> Result<()> {
    let sources = workspace.root().join(SOURCES);
    for entry in fs::read_dir(&sources).context("list", &sources)? {
        let dir = entry.context("list", &sources)?.path();
        if let (true, Some(name)) = (dir.is_dir(), dir.file_name().and_then(|name| name.to_str())) {
            compile(&dir, &place(workspace, name))?;
        }
    }
    Ok(())
}

/// Where the program `name` is once it was compiled.
#[must_use]
pub fn place(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.root().join("target/programs").join(name)
}

fn compile(sources: &Path, place: &Path) -> Result<()> {
    create_dir(place.parent().unwrap_or(place).to_path_buf())?;
    let partial = place.with_extension("partial");
    let mut compiler = Command::new(COMPILER);
    compiler.args(OPTIONS).arg("-o").arg(&partial);
    for entry in fs::read_dir(sources).context("list", sources)? {
        let path = entry.context("list", sources)?.path();
        if path
            .extension()
            .is_some_and(|kind| kind == "c" || kind == "S")
        {
            compiler.arg(path);
        }
    }
    exec::output(&mut compiler, HINT)?;
    fs::rename(&partial, place).context("rename", &partial)
}
