//! Debian's busybox, linked statically: the user space of the RAM disks.

use std::fs;
use std::process::Command;

use crate::error::{IoContext, Result};
use crate::exec;
use crate::paths::Workspace;
use crate::provision::apt::{self, PrivateApt};
use crate::provision::once;
use crate::ui::Step;

const SUITE: &str = "bookworm";
const PACKAGE: &str = "busybox-static";
/// Changes when the directory's layout does, so that an old cache is not reused.
const DIRECTORY: &str = "busybox-bookworm-1";

/// The program and what it can be called as.
#[derive(Debug, Clone)]
pub struct Busybox {
    /// The executable.
    pub program: Vec<u8>,
    /// The names it goes by, without its own.
    pub applets: Vec<String>,
}

impl Busybox {
    /// The program, fetched when it is not there yet.
    ///
    /// # Errors
    /// When the package cannot be had, or its program does not run here.
    pub fn provision(workspace: &Workspace) -> Result<Self> {
        let root = once(workspace, &workspace.cache().join(DIRECTORY), |dir| {
            let step = Step::start("Fetching busybox from Debian's packages");
            let apt = PrivateApt::open(&workspace.cache(), "busybox", &[SUITE])?;
            apt::unpack(&[apt.download(PACKAGE, SUITE)?], dir)?;
            apt.discard()?;
            step.done("unpacked");
            Ok(())
        })?;
        let path = root.join("bin/busybox");
        let list = exec::output(
            Command::new(&path).arg("--list"),
            "the package's busybox does not run here",
        )?;
        Ok(Self {
            program: fs::read(&path).context("read", &path)?,
            applets: applets(&String::from_utf8_lossy(&list)),
        })
    }
}

fn applets(list: &str) -> Vec<String> {
    list.lines()
        .filter(|name| !name.is_empty() && *name != "busybox")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_itself_is_no_applet() {
        assert_eq!(applets("ash\nbusybox\nnc\n\n"), ["ash", "nc"]);
    }
}
