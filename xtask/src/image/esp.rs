//! The EFI system partition: which files it holds, as a FAT32 volume in memory.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Entry;
use super::fat32::{self, Directory, Volume};
use super::gpt::FIRST_SECTOR;
use crate::error::{Error, IoContext, Result};

/// Bytes in a sector of disk and volume.
pub const SECTOR: u64 = 512;
const LABEL: [u8; 11] = *b"BULKHEAD   ";

/// Builds the volume with `entries` in it.
///
/// # Errors
/// When a source cannot be read or is too large.
pub fn build(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut root = Directory::default();
    let mut hasher = DefaultHasher::new();
    for entry in entries {
        let content = fs::read(&entry.source).context("read", &entry.source)?;
        (&entry.path, &content).hash(&mut hasher);
        root.insert(&entry.path, content);
    }
    // The serial number follows from the content, so that equal inputs make equal images.
    let volume = Volume {
        label: LABEL,
        serial: hasher.finish() as u32,
        hidden_sectors: FIRST_SECTOR as u32,
    };
    fat32::write(&root, volume).map_err(|error| Error::Image(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_inputs_make_equal_volumes_and_a_missing_source_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("payload");
        fs::write(&source, vec![7; 70_000]).unwrap();
        let entries = [Entry {
            path: "bulkhead/payload".to_owned(),
            source: source.clone(),
        }];
        assert!(build(&entries).unwrap() == build(&entries).unwrap());
        fs::remove_file(&source).unwrap();
        assert!(build(&entries).unwrap_err().to_string().contains("payload"));
    }
}
