//! Kernel modules out of Debian's packages: those that guests of Bulkhead need, with all they depend on.
//!
//! They are taken from the package of the very build that the kernel payload is, since a kernel loads no other's. The
//! cache keeps them unpacked: [`super::initramfs`] puts some of them into RAM disks, [`super::debian`] all of them into
//! its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use lzma_rust2::XzReader;
use object::{Object, ObjectSection};

use crate::error::{Error, IoContext, Result};
use crate::paths::{Workspace, create_dir, fresh_dir};
use crate::provision::apt::{self, PrivateApt};
use crate::provision::kernel::Kernel;
use crate::provision::{once, payload};
use crate::ui::Step;

/// What a guest needs to use its virtual devices, and a disk with ext4 on it. A kernel may have any of them built in.
pub const DEVICES: [&str; 10] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_rng",
    // Asked for by ext4 by its algorithm's name, so that no dependency leads to it.
    "crc32c_generic",
    "ext4",
    // The power button, and the way user space hears of it.
    "button",
    "evdev",
    "wdat_wdt",
];
/// What a guest needs besides to use a real card that it was given.
const CARDS: [&str; 1] = ["e1000e"];
/// What systemd asks for besides.
const SYSTEMD: [&str; 1] = ["autofs4"];
/// What `depmod` reads of a kernel's package besides the modules.
const LISTS: [&str; 3] = [BUILTIN, "modules.builtin.modinfo", "modules.order"];
const BUILTIN: &str = "modules.builtin";
/// Changes when what the directory holds does, so that an old cache is not reused.
const DIRECTORY_VERSION: u32 = 1;

/// What devices a guest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// Virtual ones.
    Virtual,
    /// A real network card too. Debian's cloud kernels have no driver for it.
    WithCard,
}

impl Guest {
    /// The modules that its devices need.
    fn wanted(self) -> Vec<&'static str> {
        let cards = match self {
            Self::Virtual => &[][..],
            Self::WithCard => &CARDS,
        };
        DEVICES.iter().chain(cards).copied().collect()
    }

    /// Tells their directories in the cache apart.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Virtual => "",
            Self::WithCard => "-card",
        }
    }
}

/// The modules of one kernel, unpacked.
#[derive(Debug, Clone)]
pub struct Modules {
    release: String,
    guest: Guest,
    dir: PathBuf,
}

/// One module, decompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its path below the directory of its kernel's modules, without a compression's suffix.
    pub path: PathBuf,
    /// The object file.
    pub content: Vec<u8>,
}

impl Modules {
    /// The modules of `kernel` for `guest`, fetched when they are not there yet; the kernel itself too.
    ///
    /// # Errors
    /// When the mirror no longer has the package that the kernel is from, or the package lacks a module.
    pub fn provision(workspace: &Workspace, kernel: Kernel, guest: Guest) -> Result<Self> {
        let Some(image) = payload::find(workspace, kernel.payload)? else {
            return Err(Error::Run(format!("{} is no payload", kernel.payload)));
        };
        let release = kernel.release(&image)?;
        let place = workspace.cache().join(format!(
            "modules-{release}{}-{DIRECTORY_VERSION}",
            guest.suffix()
        ));
        let dir = once(workspace, &place, |dir| {
            let step = Step::start(format!("Fetching modules of {}", kernel.payload));
            let apt = PrivateApt::open(&workspace.cache(), "modules", &[kernel.suite])?;
            let package = format!("linux-image-{release}");
            if apt.version(&package, kernel.suite)?.is_none() {
                return Err(Error::Unavailable {
                    what: format!(
                        "the mirror no longer has {package}, which {} is from",
                        kernel.payload
                    ),
                    hint: format!(
                        "delete {} to fetch the current kernel",
                        workspace.show(&image)
                    ),
                });
            }
            let file = apt.download(&package, kernel.suite)?;
            let tree = fresh_dir(workspace.cache().join("modules.partial"))?;
            apt::unpack(&[file], &tree)?;
            let whole = tree.join("lib/modules").join(&release);
            let mut wanted = guest.wanted();
            wanted.extend(SYSTEMD);
            let modules = select(&whole, &wanted)?;
            for module in &modules {
                let place = dir.join(&module.path);
                create_dir(place.parent().unwrap_or(dir).to_path_buf())?;
                fs::write(&place, &module.content).context("write", &place)?;
            }
            for list in LISTS {
                let from = whole.join(list);
                fs::copy(&from, dir.join(list)).context("copy", &from)?;
            }
            fs::remove_dir_all(&tree).context("remove", &tree)?;
            apt.discard()?;
            step.done(&format!("{} of {release}", modules.len()));
            Ok(())
        })?;
        Ok(Self {
            release,
            guest,
            dir,
        })
    }

    /// What `uname -r` says on their kernel.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The directory that stands for the kernel's `/lib/modules/RELEASE`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The modules that the guest's devices need, each after those it depends on.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn devices(&self) -> Result<Vec<Module>> {
        select(&self.dir, &self.guest.wanted())
    }
}

/// Of the modules below `dir`, those called `wanted` and all they depend on, in an order in which they can be loaded.
/// What is built into the kernel is left out.
fn select(dir: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let list = dir.join(BUILTIN);
    let list = fs::read_to_string(&list).context("read", &list)?;
    let mut search = Search {
        dir,
        builtin: list.lines().map(|line| name_of(Path::new(line))).collect(),
        places: BTreeMap::new(),
        visited: BTreeSet::new(),
        order: Vec::new(),
    };
    search.survey(&dir.join("kernel"))?;
    for name in wanted {
        search.visit(name)?;
    }
    Ok(search.order)
}

struct Search<'a> {
    dir: &'a Path,
    builtin: BTreeSet<String>,
    places: BTreeMap<String, PathBuf>,
    visited: BTreeSet<String>,
    order: Vec<Module>,
}

impl Search<'_> {
    /// Notes where each module below `dir` is.
    fn survey(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).context("list", dir)? {
            let path = entry.context("list", dir)?.path();
            if path.is_dir() {
                self.survey(&path)?;
            } else {
                self.places.insert(name_of(&path), path);
            }
        }
        Ok(())
    }

    /// Adds `name` after what it depends on.
    fn visit(&mut self, name: &str) -> Result<()> {
        if self.builtin.contains(name) || !self.visited.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.places.get(name).cloned() else {
            return Err(Error::Unavailable {
                what: format!(
                    "{} has no module {name}, and its kernel has it not built in",
                    self.dir.display()
                ),
                hint: "the package has changed its shape; report it".to_owned(),
            });
        };
        let mut content = fs::read(&path).context("read", &path)?;
        let mut place = path.strip_prefix(self.dir).unwrap_or(&path).to_path_buf();
        if path.extension().is_some_and(|suffix| suffix == "xz") {
            let mut plain = Vec::new();
            XzReader::new(content.as_slice(), false)
                .read_to_end(&mut plain)
                .context("decompress", &path)?;
            content = plain;
            place.set_extension("");
        }
        for needed in dependencies(&content).ok_or_else(|| Error::Unavailable {
            what: format!("{} is no kernel module", path.display()),
            hint: "the package has changed its shape; report it".to_owned(),
        })? {
            self.visit(&needed)?;
        }
        self.order.push(Module {
            path: place,
            content,
        });
        Ok(())
    }
}

/// A module's name, which has underscores where its file's name may have hyphens.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// What the module `content` says it depends on; `None` for what is no module.
fn dependencies(content: &[u8]) -> Option<Vec<String>> {
    let file = object::File::parse(content).ok()?;
    let section = file.section_by_name(".modinfo")?;
    Some(depends(section.data().ok()?))
}

/// Reads the `depends` of a `.modinfo` section: strings `key=value`, each ended by a zero byte.
fn depends(section: &[u8]) -> Vec<String> {
    section
        .split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="))
        .flat_map(|names| names.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::write::{Object, StandardSegment};
    use object::{Architecture, BinaryFormat, Endianness, SectionKind};

    fn module(modinfo: &[u8]) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let segment = object.segment_name(StandardSegment::Data).to_vec();
        let section = object.add_section(segment, b".modinfo".to_vec(), SectionKind::ReadOnlyData);
        object.append_section_data(section, modinfo, 1);
        object.write().unwrap()
    }

    fn tree(builtin: &str, modules: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(BUILTIN), builtin).unwrap();
        for (path, modinfo) in modules {
            let place = dir.path().join("kernel").join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(place, module(modinfo)).unwrap();
        }
        dir
    }

    fn names(modules: &[Module]) -> Vec<String> {
        modules.iter().map(|module| name_of(&module.path)).collect()
    }

    #[test]
    fn a_module_follows_what_it_depends_on_and_none_comes_twice() {
        let tree = tree(
            "kernel/lib/crc16.ko\n",
            &[
                ("fs/ext4.ko", b"license=GPL\0depends=jbd2,mb-cache,crc16\0"),
                ("fs/jbd2.ko", b"depends=mb_cache\0"),
                ("fs/mb-cache.ko", b"depends=\0"),
                ("net/other.ko", b"depends=\0"),
            ],
        );
        let selected = select(tree.path(), &["ext4", "jbd2", "crc16"]).unwrap();
        assert_eq!(names(&selected), ["mb_cache", "jbd2", "ext4"]);
        assert_eq!(selected[2].path, Path::new("kernel/fs/ext4.ko"));
    }

    #[test]
    fn a_module_that_is_neither_there_nor_built_in_is_named() {
        let tree = tree("", &[("fs/ext4.ko", b"depends=jbd2\0")]);
        let error = select(tree.path(), &["ext4"]).unwrap_err();
        assert!(error.to_string().contains("no module jbd2"), "{error}");
    }

    #[test]
    fn what_is_no_object_file_is_no_module() {
        assert_eq!(dependencies(b"not an object"), None);
        assert_eq!(
            dependencies(&module(b"depends=a,b-c\0")),
            Some(vec!["a".to_owned(), "b_c".to_owned()])
        );
    }
}
