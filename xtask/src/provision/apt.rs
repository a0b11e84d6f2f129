//! Debian packages without installing them: apt with private lists and an empty package database.
//!
//! The mirror is the one this machine's apt is configured with. Nothing here needs root or touches the
//! machine's own apt state: [`PrivateApt`] keeps its lists below the cache directory, resolves
//! dependencies as if nothing were installed, downloads the packages, and [`unpack`]s them into a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, IoContext, Result};
use crate::exec;
use crate::paths::{create_dir, fresh_dir};

const HINT: &str = "Bulkhead's tool provisions through apt: use a Debian 12 machine or container";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt state for a set of suites of the machine's Debian mirror.
#[derive(Debug)]
pub struct PrivateApt {
    dir: PathBuf,
    config: PathBuf,
}

impl PrivateApt {
    /// Writes the private configuration for `suites` (such as `bookworm`) into `cache/apt-NAME` and fetches the lists.
    ///
    /// # Errors
    /// When this machine has no Debian mirror configured, or the lists cannot be fetched.
    pub fn open(cache: &Path, name: &str, suites: &[&str]) -> Result<Self> {
        let dir = fresh_dir(cache.join(format!("apt-{name}")))?;
        for sub in ["etc", "lists/partial", "archives/partial"] {
            create_dir(dir.join(sub))?;
        }
        let mirror = mirror()?;
        let sources: String = suites.iter().map(|suite| source(&mirror, suite)).collect();
        let write = |file: &str, text: &str| {
            let path = dir.join(file);
            fs::write(&path, text).context("write", &path)
        };
        write("etc/sources.list", &sources)?;
        write("status", "")?;
        write("apt.conf", &(places(&dir) + &settings()?))?;
        let apt = Self {
            config: dir.join("apt.conf"),
            dir,
        };
        exec::output(
            apt.command("apt-get").arg("update").arg("--error-on=any"),
            HINT,
        )?;
        Ok(apt)
    }

    /// Downloads `packages` and everything they depend on; returns the package files.
    ///
    /// # Errors
    /// When a package does not exist or cannot be downloaded.
    pub fn download_with_dependencies(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        exec::output(
            self.command("apt-get")
                .args(["install", "--yes", "--download-only"])
                .args(packages),
            HINT,
        )?;
        let archives = self.dir.join("archives");
        let mut files = Vec::new();
        for entry in fs::read_dir(&archives).context("list", &archives)? {
            let path = entry.context("list", &archives)?.path();
            if path.extension().is_some_and(|e| e == "deb") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Downloads the one package `package`, optionally from a named `suite`.
    ///
    /// # Errors
    /// When the package does not exist or cannot be downloaded.
    pub fn download(&self, package: &str, suite: &str) -> Result<PathBuf> {
        let into = fresh_dir(self.dir.join("single"))?;
        exec::output(
            self.command("apt-get")
                .arg("download")
                .arg(format!("{package}/{suite}"))
                .current_dir(&into),
            HINT,
        )?;
        let entry = fs::read_dir(&into).context("list", &into)?.next();
        match entry {
            Some(entry) => Ok(entry.context("list", &into)?.path()),
            None => Err(Error::Unavailable {
                what: format!("apt downloaded nothing for {package} of {suite}"),
                hint: HINT.to_owned(),
            }),
        }
    }

    /// The first dependency of `package` (in `suite`) whose name starts with `prefix`: what a metapackage stands for.
    ///
    /// # Errors
    /// When the package or such a dependency does not exist.
    pub fn dependency(&self, package: &str, suite: &str, prefix: &str) -> Result<String> {
        let shown = exec::output(
            self.command("apt-cache")
                .arg("show")
                .arg(format!("{package}/{suite}")),
            HINT,
        )?;
        first_dependency(&String::from_utf8_lossy(&shown), prefix).ok_or_else(|| {
            Error::Unavailable {
                what: format!("{package} of {suite} depends on no {prefix}*"),
                hint: "the package has changed its shape; report it".to_owned(),
            }
        })
    }

    /// The version of `package` in `suite`, when it is there.
    ///
    /// # Errors
    /// When apt cannot be asked.
    pub fn version(&self, package: &str, suite: &str) -> Result<Option<String>> {
        let madison = exec::output(self.command("apt-cache").arg("madison").arg(package), HINT)?;
        Ok(version_in(&String::from_utf8_lossy(&madison), suite))
    }

    /// Removes the state with its lists and package files: the next [`open`](Self::open) starts from nothing.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn discard(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).context("remove", &self.dir)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Unpacks package files into `dir`.
///
/// # Errors
/// When `dpkg-deb` is missing or a package is damaged.
pub fn unpack(packages: &[PathBuf], dir: &Path) -> Result<()> {
    for package in packages {
        exec::output(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(package)
                .arg(dir),
            HINT,
        )?;
    }
    Ok(())
}

/// The line of a sources list for `suite` on `mirror`.
#[must_use]
pub fn source(mirror: &str, suite: &str) -> String {
    format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
}

/// apt's settings wherever its state is: the way to the mirror and the passwords for it are the machine's own.
///
/// Releases past their date are accepted: a mirror may be a frozen snapshot. Their signatures are checked as ever.
///
/// # Errors
/// When this machine has no apt.
pub fn settings() -> Result<String> {
    let machine = exec::output(Command::new("apt-config").arg("dump"), HINT)?;
    let transport = transport(&String::from_utf8_lossy(&machine));
    Ok(format!(
        "Dir::Etc::netrc \"/etc/apt/auth.conf\";\n\
         Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n\
         APT::Install-Recommends \"false\";\n\
         Acquire::Check-Valid-Until \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         {transport}"
    ))
}

/// The Debian mirror that this machine's apt uses for its own release.
///
/// # Errors
/// When apt is missing or has no such mirror.
pub fn mirror() -> Result<String> {
    let targets = exec::output(
        Command::new("apt-get")
            .args([
                "indextargets",
                "--format",
                "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            ])
            .arg("Created-By: Packages"),
        HINT,
    )?;
    let release =
        fs::read_to_string("/etc/os-release").context("read", Path::new("/etc/os-release"))?;
    let codename = release
        .lines()
        .find_map(|l| l.strip_prefix("VERSION_CODENAME="))
        .unwrap_or_default();
    pick_mirror(&String::from_utf8_lossy(&targets), codename).ok_or_else(|| Error::Unavailable {
        what: "this machine's apt has no Debian mirror configured".to_owned(),
        hint: HINT.to_owned(),
    })
}

fn pick_mirror(targets: &str, codename: &str) -> Option<String> {
    targets.lines().find_map(
        |line| match line.split(' ').collect::<Vec<_>>().as_slice() {
            [uri, suite, "main"] if *suite == codename || *suite == "stable" => {
                Some((*uri).to_owned())
            }
            _ => None,
        },
    )
}

fn first_dependency(record: &str, prefix: &str) -> Option<String> {
    let depends = record
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))?;
    depends
        .split([',', '|'])
        .filter_map(|one| one.split_whitespace().next())
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

/// Reads a line of `apt-cache madison`: `package | version | mirror suite/component arch Packages`.
fn version_in(madison: &str, suite: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        match line
            .split('|')
            .map(str::trim)
            .collect::<Vec<_>>()
            .as_slice()
        {
            [_, version, origin] if origin.split([' ', '/']).any(|word| word == suite) => {
                Some((*version).to_owned())
            }
            _ => None,
        }
    })
}

/// Of the machine's settings, as `apt-config dump` prints them, those that say how its mirror is reached: proxies and
/// certificates.
fn transport(dump: &str) -> String {
    dump.lines()
        .filter(|line| {
            let key = line.split(' ').next().unwrap_or_default();
            let key = key.to_ascii_lowercase();
            ["acquire::http::", "acquire::https::"]
                .iter()
                .any(|prefix| key.starts_with(prefix))
        })
        .fold(String::new(), |text, line| text + line + "\n")
}

/// apt's settings that keep its state below `dir`.
fn places(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Dir \"/\";\n\
         Dir::Etc \"{dir}/etc\";\n\
         Dir::Etc::SourceList \"{dir}/etc/sources.list\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::Parts \"/dev/null\";\n\
         Dir::State \"{dir}\";\n\
         Dir::State::Lists \"{dir}/lists\";\n\
         Dir::State::Status \"{dir}/status\";\n\
         Dir::Cache \"{dir}\";\n\
         Dir::Cache::Archives \"{dir}/archives\";\n\
         Dir::Log \"{dir}\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures \"amd64\";\n\
         APT::Sandbox::User \"\";\n\
         Debug::NoLocking \"true\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_of_the_machines_own_release() {
        let targets = "http://elsewhere.example/ nodistro main\n\
                       http://mirror.example/debian-security/ bookworm-security main\n\
                       http://mirror.example/debian/ bookworm contrib\n\
                       http://mirror.example/debian/ bookworm main\n";
        assert_eq!(
            pick_mirror(targets, "bookworm").as_deref(),
            Some("http://mirror.example/debian/")
        );
        assert_eq!(
            pick_mirror("http://x.example/ jammy main\n", "bookworm"),
            None
        );
    }

    #[test]
    fn only_the_way_to_the_mirror_is_taken_over() {
        let dump = "Acquire \"\";\n\
                    Acquire::http \"\";\n\
                    Acquire::http::Proxy \"http://proxy.example:3128\";\n\
                    acquire::https::CAInfo \"/etc/ssl/own.pem\";\n\
                    Acquire::Languages \"fr\";\n\
                    Dir::Etc \"etc/apt\";\n";
        let taken = "Acquire::http::Proxy \"http://proxy.example:3128\";\n\
                     acquire::https::CAInfo \"/etc/ssl/own.pem\";\n";
        assert_eq!(transport(dump), taken);
    }

    #[test]
    fn versions_are_told_apart_by_suite() {
        let text = " rust-src | 1.95.0+dfsg1-1 | http://mirror.example/debian trixie-backports/main amd64 Packages\n\
                     rust-src | 1.85.0 | http://mirror.example/debian trixie/main amd64 Packages\n";
        assert_eq!(version_in(text, "trixie").as_deref(), Some("1.85.0"));
        assert_eq!(
            version_in(text, "trixie-backports").as_deref(),
            Some("1.95.0+dfsg1-1")
        );
        assert_eq!(version_in(text, "forky"), None);
    }

    #[test]
    fn a_metapackage_is_resolved_through_its_dependency() {
        let record = "Package: linux-image-cloud-amd64\nDepends: foo (>= 1), linux-image-6.1.0-9-cloud-amd64 (= 6.1)\n";
        assert_eq!(
            first_dependency(record, "linux-image-").as_deref(),
            Some("linux-image-6.1.0-9-cloud-amd64")
        );
        assert_eq!(first_dependency(record, "grub"), None);
    }
}
