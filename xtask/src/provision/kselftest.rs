//! Linux' own tests of its x86 entry code (`tools/testing/selftests/x86`), compiled from the sources that Debian packages.
//!
//! The sources are the GPL's and no part of this tree: they are fetched, compiled in a temporary directory and forgotten. What stays is
//! an [overlay](super::initramfs::overlay) with the tests and the two C libraries they are linked to, 64-bit and 32-bit: they are
//! linked dynamically because several of them find the vDSO through the loader. The machine's own compiler is used, against headers and libraries out
//! of Debian's packages, so that nothing of it has to be able to make 32-bit programs.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lzma_rust2::XzReader;
use nix::sys::signal::Signal;

use crate::error::{Error, IoContext, Result};
use crate::paths::{Workspace, create_dir, fresh_dir};
use crate::provision::apt::{self, PrivateApt};
use crate::provision::initramfs::{File as Content, overlay};
use crate::ui::Step;
use crate::{exec, tie};

/// Its file name among the payloads.
pub const PAYLOAD: &str = "kselftest-6.1.img";
/// The directory of the tests in the guest.
pub const HOME: &str = "kselftest";

const SUITE: &str = "bookworm";
const SOURCE: &str = "linux-source-6.1";
/// Of the source, the tests and the headers that they include.
const PARTS: [&str; 3] = [
    "tools/testing/selftests/x86",
    "tools/testing/selftests/kselftest.h",
    "arch/x86/include/asm/desc_defs.h",
];
/// Headers and libraries for programs of both widths.
const LIBRARIES: [&str; 6] = [
    "libc6",
    "libc6-dev",
    "linux-libc-dev",
    "libc6-i386",
    "libc6-dev-i386",
    "lib32gcc-12-dev",
];
/// The loaders, which their package links by absolute paths: the link, and where it leads from there.
const LOADERS: [(&str, &str); 2] = [
    (
        "lib64/ld-linux-x86-64.so.2",
        "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    ),
    ("lib/ld-linux.so.2", "../lib32/ld-linux.so.2"),
];
/// What the programs need at run time, where they look for it.
const RUN_TIME: [&str; 4] = [
    "lib64/ld-linux-x86-64.so.2",
    "lib/x86_64-linux-gnu/libc.so.6",
    "lib/ld-linux.so.2",
    "lib32/libc.so.6",
];
const HEADERS_32: &str = "usr/include/x86_64-linux-gnu";
const LIBRARIES_32: [&str; 2] = ["usr/lib32", "usr/lib/gcc/x86_64-linux-gnu/12/32"];
const LIBRARIES_64: [&str; 1] = ["usr/lib/x86_64-linux-gnu"];

/// The tests that concern how the kernel is entered and left, of both widths.
const BOTH: [&str; 16] = [
    "check_initial_reg_state",
    "fsgsbase_restore",
    "ioperm",
    "iopl",
    "ldt_gdt",
    "mov_ss_trap",
    "ptrace_syscall",
    "sigaltstack",
    "sigreturn",
    "sigtrap_loop",
    "single_step_syscall",
    "syscall_arg_fault",
    "syscall_nt",
    "sysret_ss_attrs",
    "test_mremap_vdso",
    "test_vsyscall",
];
const ONLY_32: [&str; 4] = [
    "entry_from_vm86",
    "test_syscall_vdso",
    "unwind_vdso",
    "vdso_restorer",
];
const ONLY_64: [&str; 4] = [
    "corrupt_xstate_header",
    "fsgsbase",
    "syscall_numbering",
    "sysret_rip",
];

const COMPILER: &str = "gcc";
const HINT: &str = "install the Debian packages gcc and tar";

/// How wide a program's registers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits32,
    Bits64,
}

/// One program: a source of one width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Test {
    source: &'static str,
    width: Width,
}

/// Fetches, compiles, and puts the overlay at `place`.
///
/// # Errors
/// When a package cannot be had, or a test cannot be compiled.
pub fn build(workspace: &Workspace, place: &Path) -> Result<()> {
    let step = Step::start(format!("Fetching {SOURCE} of {SUITE} for its tests"));
    let work = fresh_dir(workspace.cache().join("kselftest.partial"))?;
    let apt = PrivateApt::open(&workspace.cache(), "kselftest", &[SUITE])?;
    let sources = create_dir(work.join("sources"))?;
    apt::unpack(&[apt.download(SOURCE, SUITE)?], &sources)?;
    let root = create_dir(work.join("root"))?;
    for package in LIBRARIES {
        apt::unpack(&[apt.download(package, SUITE)?], &root)?;
    }
    apt.discard()?;
    relink(&root)?;
    step.detail("unpacking the sources");
    let tree = unpack_tests(&sources)?;
    step.detail("compiling");
    let mut files = Vec::new();
    for test in tests() {
        let program = work.join(test.name());
        exec::output(&mut test.compile(&root, &tree, &program), HINT)?;
        files.push(Content::read(format!("{HOME}/{}", test.name()), &program)?);
    }
    let count = files.len();
    for library in RUN_TIME {
        files.push(Content::read(library.to_owned(), &root.join(library))?);
    }
    let image = overlay(&files)?;
    fs::write(place, &image).context("write", place)?;
    fs::remove_dir_all(&work).context("remove", &work)?;
    step.done(&format!("{count} tests, {} KiB", image.len() / 1024));
    Ok(())
}

/// Makes the loaders' links lead somewhere below `root`.
fn relink(root: &Path) -> Result<()> {
    for (link, target) in LOADERS {
        let link = root.join(link);
        fs::remove_file(&link).context("remove", &link)?;
        symlink(target, &link).context("link", &link)?;
    }
    Ok(())
}

/// Takes [`PARTS`] out of the archive below `sources`; returns the directory of the tests.
fn unpack_tests(sources: &Path) -> Result<PathBuf> {
    let archive = sources.join(format!("usr/src/{SOURCE}.tar.xz"));
    let mut plain = XzReader::new(
        BufReader::new(File::open(&archive).context("open", &archive)?),
        true,
    );
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--directory").arg(sources);
    tar.args(PARTS.map(|part| format!("{SOURCE}/{part}")));
    let mut child = tie::to_parent(&mut tar, Signal::SIGTERM)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| exec::not_started(&tar, &error, HINT))?;
    if let Some(mut input) = child.stdin.take() {
        io::copy(&mut plain, &mut input).context("decompress", &archive)?;
    }
    let status = child.wait().context("unpack", &archive)?;
    let [tests, ..] = PARTS;
    let tests = sources.join(SOURCE).join(tests);
    if !status.success() || !tests.is_dir() {
        return Err(Error::Unavailable {
            what: format!("{} has no {} for tar", archive.display(), PARTS.join(", ")),
            hint: "the package has changed its shape; report it".to_owned(),
        });
    }
    Ok(tests)
}

fn tests() -> impl Iterator<Item = Test> {
    let of = |width| move |source| Test { source, width };
    let both = BOTH.into_iter();
    both.clone()
        .map(of(Width::Bits32))
        .chain(ONLY_32.into_iter().map(of(Width::Bits32)))
        .chain(both.map(of(Width::Bits64)))
        .chain(ONLY_64.into_iter().map(of(Width::Bits64)))
}

impl Test {
    /// Named as its kernel's makefile does.
    fn name(self) -> String {
        let bits = match self.width {
            Width::Bits32 => "32",
            Width::Bits64 => "64",
        };
        format!("{}_{bits}", self.source)
    }

    /// What its kernel's makefile links to it besides.
    fn helper(self) -> Option<&'static str> {
        match (self.source, self.width) {
            ("sysret_ss_attrs", Width::Bits64) => Some("thunks.S"),
            ("ptrace_syscall", Width::Bits32) => Some("raw_syscall_helper_32.S"),
            ("test_syscall_vdso", Width::Bits32) => Some("thunks_32.S"),
            _ => None,
        }
    }

    /// Its makefile's call of the compiler, for headers and libraries below `root`.
    fn compile(self, root: &Path, tree: &Path, place: &Path) -> Command {
        let mut sysroot = std::ffi::OsString::from("--sysroot=");
        sysroot.push(root);
        let mut cc = Command::new(COMPILER);
        cc.arg(sysroot)
            .args(["-O2", "-s", "-w", "-std=gnu99", "-pthread"])
            // A helper uses absolute addresses.
            .args(["-no-pie", "-static-libgcc"])
            .args(["-DCAN_BUILD_32", "-DCAN_BUILD_64"]);
        let libraries = match self.width {
            Width::Bits32 => {
                cc.arg("-m32").arg("-isystem").arg(root.join(HEADERS_32));
                LIBRARIES_32.as_slice()
            }
            Width::Bits64 => LIBRARIES_64.as_slice(),
        };
        for library in libraries {
            let library = root.join(library);
            cc.arg("-B").arg(&library).arg("-L").arg(&library);
        }
        if self.source == "check_initial_reg_state" {
            // No loader may run before it.
            cc.args(["-Wl,-ereal_start", "-static"]);
        }
        cc.arg("-o")
            .arg(place)
            .arg(tree.join(self.source).with_extension("c"))
            .args(self.helper().map(|helper| tree.join(helper)));
        cc
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_program_has_a_name_of_its_own() {
        let names: BTreeSet<_> = tests().map(Test::name).collect();
        assert_eq!(names.len(), 2 * BOTH.len() + ONLY_32.len() + ONLY_64.len());
        assert!(names.contains("sysret_rip_64") && names.contains("syscall_nt_32"));
    }

    #[test]
    fn a_helper_is_compiled_where_the_makefile_names_one() {
        let line = |source, width| {
            let test = Test { source, width };
            let cc = test.compile(Path::new("r"), Path::new("t"), Path::new("p"));
            let words = cc.get_args().map(|word| word.to_string_lossy());
            words.collect::<Vec<_>>().join(" ")
        };
        let with = line("sysret_ss_attrs", Width::Bits64);
        assert!(
            with.ends_with("-o p t/sysret_ss_attrs.c t/thunks.S"),
            "{with}"
        );
        assert!(!with.contains("-m32"));
        let without = line("sysret_ss_attrs", Width::Bits32);
        assert!(without.ends_with("-o p t/sysret_ss_attrs.c"), "{without}");
        assert!(without.contains("-m32") && without.contains("-B r/usr/lib32"));
    }
}
