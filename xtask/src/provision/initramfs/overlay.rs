//! Further files for a RAM disk: an archive that is put behind it, which the kernel unpacks after it.
//!
//! See "initramfs buffer format" in the Linux kernel's documentation: archives follow one another, each compressed or not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::compress;
use super::cpio::Archive;
use crate::error::{IoContext, Result};

/// A program or a library; everybody may read and execute it.
#[derive(Debug, Clone)]
pub struct File {
    path: String,
    content: Vec<u8>,
}

impl File {
    /// `content` at `path`, which has no leading slash.
    #[must_use]
    pub fn new(path: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
        }
    }

    /// What is at `source` on this machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: impl Into<String>, source: &Path) -> Result<Self> {
        let content = fs::read(source).context("read", source)?;
        Ok(Self::new(path, content))
    }
}

/// The compressed archive of `files` and the directories they are in.
///
/// # Errors
/// When it cannot be compressed.
pub fn overlay(files: &[File]) -> Result<Vec<u8>> {
    let image = archive(files);
    compress(&image).context("compress", Path::new("the overlay"))
}

fn archive(files: &[File]) -> Vec<u8> {
    let mut archive = Archive::default();
    let mut directories = BTreeSet::new();
    for file in files {
        for (end, _) in file.path.match_indices('/') {
            let (directory, _) = file.path.split_at(end);
            if directories.insert(directory) {
                archive.directory(directory);
            }
        }
        archive.file(&file.path, 0o755, &file.content);
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_once_and_before_what_is_in_it() {
        let image = archive(&[File::new("a/b/c", *b"one"), File::new("a/d", *b"two")]);
        let text = String::from_utf8_lossy(&image);
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0"));
        assert!(at("a/b/c\0") < at("a/d\0"));
        assert_eq!(text.matches("070701").count(), 5, "with the trailer");
    }
}
