//! The disk around the EFI system partition: protective MBR, GUID partition table and its backup.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::{GptConfig, partition_types};
use uuid::{Builder, Uuid};

use super::esp::SECTOR;
use crate::error::{Error, IoContext, Result};

/// Partitions start and end on 1 MiB, what every partitioning tool aligns to.
const ALIGNMENT: u64 = 2048;
/// The partition's first sector.
pub const FIRST_SECTOR: u64 = ALIGNMENT;
/// Sectors of the backup table at the end of the disk.
const BACKUP_SECTORS: u64 = 33;
/// Bochs derives a cylinder count from the size and cuts the rest off, so the disk is made of
/// whole cylinders (16 heads of 63 sectors): otherwise the backup table would be out of its reach.
const CYLINDER_SECTORS: u64 = 16 * 63;

/// Writes a disk with the one partition `volume` to `file`; returns its size in bytes.
///
/// # Errors
/// When the file cannot be written.
pub fn write(volume: &[u8], file: &Path) -> Result<u64> {
    let sectors = (volume.len() as u64 / SECTOR).next_multiple_of(ALIGNMENT);
    let size = disk_sectors(sectors) * SECTOR;
    let mut how = File::options();
    let disk = how
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(file)
        .context("create", file)?;
    // Never-written blocks stay holes.
    disk.set_len(size).context("size", file)?;
    let mut disk = partition(disk, sectors, volume)
        .map_err(|e| Error::Image(format!("partition table: {e}")))?;
    disk.seek(SeekFrom::Start(FIRST_SECTOR * SECTOR))
        .context("seek in", file)?;
    disk.write_all(volume).context("write", file)?;
    disk.sync_all().context("write", file)?;
    Ok(size)
}

fn disk_sectors(partition: u64) -> u64 {
    (FIRST_SECTOR + partition + BACKUP_SECTORS).next_multiple_of(CYLINDER_SECTORS)
}

fn partition(
    mut disk: File,
    sectors: u64,
    volume: &[u8],
) -> std::result::Result<File, Box<dyn std::error::Error>> {
    let total = disk_sectors(sectors);
    ProtectiveMBR::with_lb_size(u32::try_from(total - 1).unwrap_or(u32::MAX))
        .overwrite_lba0(&mut disk)?;
    let config = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512);
    let [disk_guid, partition_guid] = guids(volume);
    let mut table = config.create_from_device(disk, Some(disk_guid))?;
    let id = table.add_partition_at(
        "Bulkhead",
        1,
        FIRST_SECTOR,
        sectors,
        partition_types::EFI,
        0,
    )?;
    let mut partitions = table.partitions().clone();
    if let Some(partition) = partitions.get_mut(&id) {
        partition.part_guid = partition_guid;
    }
    table.update_partitions(partitions)?;
    Ok(table.write()?)
}

/// Identifiers of disk and partition: the same for the same content, so that equal inputs make equal images.
fn guids(volume: &[u8]) -> [Uuid; 2] {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, volume).hash(&mut hasher);
        hasher.finish()
    };
    let guid = |high, low| {
        let bytes = (u128::from(half(high)) << 64 | u128::from(half(low))).to_be_bytes();
        Builder::from_random_bytes(bytes).into_uuid()
    };
    [guid(0, 1), guid(2, 3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_back_with_its_backup_at_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let volume = vec![0xa5; 3_000 * SECTOR as usize];
        let size = write(&volume, file.path()).unwrap();
        assert_eq!(size % (CYLINDER_SECTORS * SECTOR), 0);
        assert_eq!(std::fs::metadata(file.path()).unwrap().len(), size);
        let disk = GptConfig::new().open(file.path()).unwrap();
        assert!(disk.backup_header().is_ok());
        let partition = disk.partitions().get(&1).unwrap();
        assert_eq!(partition.part_type_guid, partition_types::EFI);
        assert_eq!(
            (partition.first_lba, partition.last_lba),
            (FIRST_SECTOR, FIRST_SECTOR + 2 * ALIGNMENT - 1)
        );
        let bytes = std::fs::read(file.path()).unwrap();
        let start = (FIRST_SECTOR * SECTOR) as usize;
        assert!(bytes[start..start + volume.len()] == volume[..]);
    }

    #[test]
    fn equal_volumes_make_equal_disks() {
        let (a, b) = (
            tempfile::NamedTempFile::new().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        write(&[1; 4096], a.path()).unwrap();
        write(&[1; 4096], b.path()).unwrap();
        assert!(std::fs::read(a.path()).unwrap() == std::fs::read(b.path()).unwrap());
    }
}
