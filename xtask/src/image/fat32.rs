//! A FAT32 volume, written once: no free-space search, every file contiguous, equal inputs make equal bytes.
//!
//! Laid out by Microsoft's "FAT: General Overview of On-Disk Format" (FAT32 File System Specification).
//! Neighbours: `esp` decides what goes in, `name` makes the directory entries' names.

use super::esp::SECTOR;
use super::name::{self, ShortNames};

/// Sectors before the first FAT: boot sector, information sector, their backups.
const RESERVED_SECTORS: usize = 32;
const INFO_SECTOR: usize = 1;
const BACKUP_SECTOR: usize = 6;
const FATS: usize = 2;
/// The first cluster number in use, and the root directory's.
const ROOT_CLUSTER: u32 = 2;
/// A volume with fewer than 65,525 clusters is FAT12 or FAT16, whatever it says of itself; some drivers count differently
/// by a few, so the least is well above that.
const MIN_CLUSTERS: usize = 65_600;
/// FAT entries are 28 bits wide; the values from here on are reserved.
const MAX_CLUSTERS: usize = 0x0fff_fff0;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const MEDIA: u8 = 0xf8;
const ENTRY: usize = 32;
/// 1 January 1980, the calendar's first day: images do not depend on when they are made.
const DATE: u16 = 0x0021;

const ATTRIBUTE_VOLUME: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
const ATTRIBUTE_ARCHIVE: u8 = 0x20;

/// One sector a cluster: the smallest volume that is still FAT32.
const CLUSTER: usize = SECTOR as usize;

/// A directory of the volume.
#[derive(Debug, Default)]
pub struct Directory {
    children: Vec<(String, Node)>,
}

#[derive(Debug)]
enum Node {
    Directory(Directory),
    File(Vec<u8>),
}

/// What the volume says about itself.
#[derive(Debug, Clone, Copy)]
pub struct Volume {
    /// Its label, padded with blanks.
    pub label: [u8; 11],
    /// Its serial number.
    pub serial: u32,
    /// Sectors before it on the disk.
    pub hidden_sectors: u32,
}

/// The content is larger than a FAT32 volume or file may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content exceeds what FAT32 can hold")]
pub struct TooLarge;

impl Directory {
    /// Adds the file `path`, creating the directories above it. Later files of the same path replace earlier ones.
    pub fn insert(&mut self, path: &str, content: Vec<u8>) {
        match path.split_once('/') {
            None => {
                self.children.retain(|(name, _)| name != path);
                self.children.push((path.to_owned(), Node::File(content)));
            }
            Some((first, rest)) => self.subdirectory(first).insert(rest, content),
        }
    }

    fn subdirectory(&mut self, wanted: &str) -> &mut Self {
        let known = self
            .children
            .iter()
            .position(|(name, node)| name == wanted && matches!(node, Node::Directory(_)));
        let index = known.unwrap_or_else(|| {
            self.children
                .push((wanted.to_owned(), Node::Directory(Self::default())));
            self.children.len() - 1
        });
        match &mut self.children[index].1 {
            Node::Directory(directory) => directory,
            Node::File(_) => unreachable!("the index names a directory"),
        }
    }

    /// Bytes of the directory's own table; `fixed` counts the entries that are not children.
    fn table_bytes(&self, fixed: usize) -> usize {
        let slots: usize = self
            .children
            .iter()
            .map(|(child, _)| name::slots(child))
            .sum();
        (fixed + slots) * ENTRY
    }

    /// Clusters of everything below, the directory itself included.
    fn clusters(&self, fixed: usize) -> usize {
        let below: usize = self
            .children
            .iter()
            .map(|(_, node)| match node {
                Node::Directory(directory) => directory.clusters(2),
                Node::File(content) => content.len().div_ceil(CLUSTER),
            })
            .sum();
        below + self.table_bytes(fixed).div_ceil(CLUSTER).max(1)
    }
}

/// Writes a volume that holds the tree `root`, just large enough.
///
/// # Errors
/// When the content does not fit FAT32's limits.
pub fn write(root: &Directory, volume: Volume) -> Result<Vec<u8>, TooLarge> {
    let used = root.clusters(1);
    let clusters = used.max(MIN_CLUSTERS);
    if clusters > MAX_CLUSTERS {
        return Err(TooLarge);
    }
    let fat_sectors = ((clusters + ROOT_CLUSTER as usize) * 4).div_ceil(CLUSTER);
    let sectors = RESERVED_SECTORS + FATS * fat_sectors + clusters;
    let mut image = Image {
        bytes: vec![0; sectors * CLUSTER],
        fat: vec![u32::from(MEDIA) | 0x0fff_ff00, END_OF_CHAIN],
        data: (RESERVED_SECTORS + FATS * fat_sectors) * CLUSTER,
    };
    image.directory(root, None, volume.label)?;
    image.tables(fat_sectors);
    image.boot_sectors(sectors, fat_sectors, clusters - used, volume)?;
    Ok(image.bytes)
}

struct Image {
    bytes: Vec<u8>,
    fat: Vec<u32>,
    /// Where the data area starts in `bytes`.
    data: usize,
}

impl Image {
    /// Lays out `directory` and all below it; `parent` is the cluster that `..` names, `None` for the root.
    fn directory(
        &mut self,
        directory: &Directory,
        parent: Option<u32>,
        label: [u8; 11],
    ) -> Result<u32, TooLarge> {
        let fixed = if parent.is_some() { 2 } else { 1 };
        let (own, place) = self.allocate(directory.table_bytes(fixed).max(1))?;
        let mut table = Vec::with_capacity(directory.table_bytes(fixed));
        match parent {
            Some(above) => {
                // The root is called cluster 0 in `..` entries.
                let above = if above == ROOT_CLUSTER { 0 } else { above };
                table.extend(entry(*b".          ", ATTRIBUTE_DIRECTORY, own, 0));
                table.extend(entry(*b"..         ", ATTRIBUTE_DIRECTORY, above, 0));
            }
            None => table.extend(entry(label, ATTRIBUTE_VOLUME, 0, 0)),
        }
        let mut names = ShortNames::default();
        for (child, node) in &directory.children {
            let short = names.assign(child);
            let (attribute, cluster, size) = match node {
                Node::Directory(below) => (
                    ATTRIBUTE_DIRECTORY,
                    self.directory(below, Some(own), label)?,
                    0,
                ),
                Node::File(content) => {
                    let size = u32::try_from(content.len()).map_err(|_| TooLarge)?;
                    (ATTRIBUTE_ARCHIVE, self.file(content)?, size)
                }
            };
            for slot in name::long_entries(child, short) {
                table.extend(slot);
            }
            table.extend(entry(short, attribute, cluster, size));
        }
        self.bytes[place..place + table.len()].copy_from_slice(&table);
        Ok(own)
    }

    fn file(&mut self, content: &[u8]) -> Result<u32, TooLarge> {
        if content.is_empty() {
            return Ok(0);
        }
        let (first, place) = self.allocate(content.len())?;
        self.bytes[place..place + content.len()].copy_from_slice(content);
        Ok(first)
    }

    /// Chains the next clusters for `length` bytes; returns the first one and its place in the image.
    fn allocate(&mut self, length: usize) -> Result<(u32, usize), TooLarge> {
        let first = u32::try_from(self.fat.len()).map_err(|_| TooLarge)?;
        let last = first + u32::try_from(length.div_ceil(CLUSTER)).map_err(|_| TooLarge)? - 1;
        self.fat.extend(first + 1..=last);
        self.fat.push(END_OF_CHAIN);
        Ok((first, self.data + (first - ROOT_CLUSTER) as usize * CLUSTER))
    }

    fn tables(&mut self, fat_sectors: usize) {
        let table: Vec<u8> = self
            .fat
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect();
        for copy in 0..FATS {
            let place = (RESERVED_SECTORS + copy * fat_sectors) * CLUSTER;
            self.bytes[place..place + table.len()].copy_from_slice(&table);
        }
    }

    fn boot_sectors(
        &mut self,
        sectors: usize,
        fat_sectors: usize,
        free: usize,
        volume: Volume,
    ) -> Result<(), TooLarge> {
        let number = |n: usize| u32::try_from(n).map_err(|_| TooLarge);
        let mut boot = [0; CLUSTER];
        let mut put = |at: usize, bytes: &[u8]| boot[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xeb, 0x58, 0x90]);
        put(3, b"MSWIN4.1");
        put(11, &(CLUSTER as u16).to_le_bytes());
        put(13, &[1]);
        put(14, &(RESERVED_SECTORS as u16).to_le_bytes());
        put(16, &[FATS as u8]);
        put(21, &[MEDIA]);
        put(24, &63_u16.to_le_bytes());
        put(26, &255_u16.to_le_bytes());
        put(28, &volume.hidden_sectors.to_le_bytes());
        put(32, &number(sectors)?.to_le_bytes());
        put(36, &number(fat_sectors)?.to_le_bytes());
        put(44, &ROOT_CLUSTER.to_le_bytes());
        put(48, &(INFO_SECTOR as u16).to_le_bytes());
        put(50, &(BACKUP_SECTOR as u16).to_le_bytes());
        put(64, &[0x80]);
        put(66, &[0x29]);
        put(67, &volume.serial.to_le_bytes());
        put(71, &volume.label);
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xaa]);

        let mut info = [0; CLUSTER];
        let mut put = |at: usize, bytes: &[u8]| info[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"RRaA");
        put(484, b"rrAa");
        put(488, &number(free)?.to_le_bytes());
        put(492, &number(self.fat.len())?.to_le_bytes());
        put(510, &[0x55, 0xaa]);

        for base in [0, BACKUP_SECTOR] {
            let place = base * CLUSTER;
            self.bytes[place..place + CLUSTER].copy_from_slice(&boot);
            let place = (base + INFO_SECTOR) * CLUSTER;
            self.bytes[place..place + CLUSTER].copy_from_slice(&info);
        }
        Ok(())
    }
}

/// A directory entry with its short name.
fn entry(short: [u8; 11], attribute: u8, cluster: u32, size: u32) -> [u8; ENTRY] {
    let [low0, low1, high0, high1] = cluster.to_le_bytes();
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(&short);
    entry[11] = attribute;
    for date in [16, 18, 24] {
        entry[date..date + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    entry[20..22].copy_from_slice(&[high0, high1]);
    entry[26..28].copy_from_slice(&[low0, low1]);
    entry[28..].copy_from_slice(&size.to_le_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use fatfs::{FatType, FileSystem, FsOptions};
    use std::io::{Cursor, Read};

    const VOLUME: Volume = Volume {
        label: *b"BULKHEAD   ",
        serial: 0x1234_5678,
        hidden_sectors: 2048,
    };

    fn read_back(image: Vec<u8>, path: &str) -> Vec<u8> {
        let system = FileSystem::new(Cursor::new(image), FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        assert_eq!(system.volume_label(), "BULKHEAD");
        let mut bytes = Vec::new();
        system
            .root_dir()
            .open_file(path)
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    #[test]
    fn files_read_back_through_an_independent_implementation() {
        let mut root = Directory::default();
        let big: Vec<u8> = (0..1_000_001_u32).map(|n| n as u8).collect();
        root.insert("EFI/BOOT/BOOTX64.EFI", b"loader".to_vec());
        root.insert("bulkhead/bulkhead.toml", b"version = 1".to_vec());
        root.insert("bulkhead/deep/er/a rather long name.with.dots", big.clone());
        root.insert("bulkhead/empty", Vec::new());
        let image = write(&root, VOLUME).unwrap();
        assert_eq!(read_back(image.clone(), "EFI/BOOT/BOOTX64.EFI"), b"loader");
        assert_eq!(
            read_back(image.clone(), "bulkhead/bulkhead.toml"),
            b"version = 1"
        );
        assert_eq!(read_back(image.clone(), "bulkhead/empty"), b"");
        assert!(read_back(image, "bulkhead/deep/er/a rather long name.with.dots") == big);
    }

    #[test]
    fn a_directory_may_span_many_clusters() {
        let mut root = Directory::default();
        for n in 0..200 {
            root.insert(&format!("many/file number {n}"), vec![n as u8; 10]);
        }
        let image = write(&root, VOLUME).unwrap();
        assert_eq!(read_back(image.clone(), "many/file number 0"), vec![0; 10]);
        assert_eq!(read_back(image, "many/file number 199"), vec![199; 10]);
    }

    #[test]
    fn the_free_count_is_right() {
        let mut root = Directory::default();
        root.insert("a/b", vec![1; 5_000]);
        let system =
            FileSystem::new(Cursor::new(write(&root, VOLUME).unwrap()), FsOptions::new()).unwrap();
        let stats = system.stats().unwrap();
        // Root directory, directory `a`, ten clusters of `b`.
        assert_eq!(stats.total_clusters() - stats.free_clusters(), 12);
    }

    #[test]
    fn the_volume_grows_with_its_content_and_never_below_fat32() {
        let size = |bytes: usize| {
            let mut root = Directory::default();
            root.insert("x", vec![0; bytes]);
            write(&root, VOLUME).unwrap().len()
        };
        assert_eq!(size(1), size(1 << 20));
        assert!(size(1) < 35 << 20);
        assert!(size(100 << 20) > 100 << 20);
    }

    #[test]
    fn a_later_file_replaces_an_earlier_one() {
        let mut root = Directory::default();
        root.insert("d/f", b"one".to_vec());
        root.insert("d/f", b"two".to_vec());
        assert_eq!(read_back(write(&root, VOLUME).unwrap(), "d/f"), b"two");
    }
}
