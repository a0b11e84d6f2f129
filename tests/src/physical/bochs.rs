//! Where Bochs keeps a machine's memory: in blocks of one large allocation, given out in the order in which they are first touched.
//!
//! The object `bx_mem`, which the program exports, has the table of blocks. Its layout is that of `BX_MEMORY_STUB_C` in Bochs 3.1
//! ("memory/memory-bochs.h"), built with one memory for all processors. Every field that can be checked is: a Bochs with another layout is an error, not
//! a dump of something else.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bulkhead_core::addr::Hpa;
use object::{Object, ObjectSymbol};

use super::MemoryError;

/// The program, as it is mapped.
const PROGRAM: &str = "bochs-bin";
const SYMBOL: &str = "bx_mem";

/// Offsets in `bx_mem`.
const LENGTH: usize = 0x38;
const ALLOCATED: usize = 0x40;
const BLOCK_BYTES: usize = 0x48;
const VECTOR: usize = 0x58;
const BLOCKS: usize = 0x60;
const USED_BLOCKS: usize = 0x78;
/// Bytes of it that are read.
const OBJECT_BYTES: usize = 0x80;

/// Machine addresses from here to 4 GiB are devices'; memory goes on above them.
const HOLE: std::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;
/// The largest block that is believed.
const MAX_BLOCK_BYTES: u64 = 16 << 20;

/// Where each block of a machine's memory is in the emulator's process.
#[derive(Debug)]
pub struct Layout {
    block_bytes: u64,
    /// By block of the machine's memory; `None` for one that was never touched.
    blocks: Vec<Option<u64>>,
}

impl Layout {
    /// Finds the memory of `process`, a Bochs with a machine of `bytes` bytes. `memory` is the process's own.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(process: u32, memory: &File, bytes: u64) -> Result<Self, MemoryError> {
        let unknown = |why: &str| MemoryError::Unknown {
            process,
            why: why.to_owned(),
        };
        let at = object_address(process).ok_or_else(|| unknown("it exports no `bx_mem`"))?;
        let mut object = [0; OBJECT_BYTES];
        memory
            .read_exact_at(&mut object, at)
            .map_err(|error| unknown(&error.to_string()))?;
        let found = Found::of(&object).ok_or_else(|| unknown("`bx_mem` is too short"))?;
        found.check(bytes).map_err(unknown)?;
        let count = usize::try_from(bytes.div_ceil(found.block_bytes)).unwrap_or(0);
        let mut table = vec![0; count * size_of::<u64>()];
        memory
            .read_exact_at(&mut table, found.blocks)
            .map_err(|error| unknown(&error.to_string()))?;
        let blocks = found.blocks_of(&table).map_err(unknown)?;
        Ok(Self {
            block_bytes: found.block_bytes,
            blocks,
        })
    }

    /// Bytes in a block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes as usize
    }

    /// The blocks that were ever touched: where the machine has each, and where the process.
    pub fn blocks(&self) -> impl Iterator<Item = (Hpa, u64)> {
        self.blocks.iter().enumerate().filter_map(|(index, place)| {
            let offset = index as u64 * self.block_bytes;
            let above = if offset < HOLE.start {
                0
            } else {
                HOLE.end - HOLE.start
            };
            Some((Hpa(offset + above), (*place)?))
        })
    }

    /// Where the process has the machine's memory from `at` on, `length` bytes in one block.
    pub fn place(&self, at: Hpa, length: usize) -> Option<u64> {
        let offset = match at.0 {
            low if low < HOLE.start => low,
            high => high.checked_sub(HOLE.end - HOLE.start)?,
        };
        if HOLE.contains(&at.0) {
            return None;
        }
        let block = usize::try_from(offset / self.block_bytes).ok()?;
        let within = offset % self.block_bytes;
        let place = (*self.blocks.get(block)?)?;
        (within + length as u64 <= self.block_bytes).then_some(place + within)
    }
}

/// What `bx_mem` says.
#[derive(Debug, Clone, Copy)]
struct Found {
    length: u64,
    allocated: u64,
    block_bytes: u64,
    vector: u64,
    blocks: u64,
    used: u64,
}

impl Found {
    fn of(object: &[u8]) -> Option<Self> {
        let long = |at: usize| Some(u64::from_le_bytes(*object.get(at..)?.first_chunk()?));
        let short = |at: usize| Some(u32::from_le_bytes(*object.get(at..)?.first_chunk()?).into());
        Some(Self {
            length: long(LENGTH)?,
            allocated: long(ALLOCATED)?,
            block_bytes: short(BLOCK_BYTES)?,
            vector: long(VECTOR)?,
            blocks: long(BLOCKS)?,
            used: short(USED_BLOCKS)?,
        })
    }

    /// Says what is not as it is in a machine of `bytes` bytes.
    fn check(&self, bytes: u64) -> Result<(), &'static str> {
        let holds = [
            (
                self.length == bytes && self.allocated == bytes,
                "`bx_mem` tells of a machine of another size",
            ),
            (
                self.block_bytes.is_power_of_two() && self.block_bytes <= MAX_BLOCK_BYTES,
                "its blocks have no size that a block can have",
            ),
            (
                self.vector.is_multiple_of(4096) && self.vector > 0,
                "its memory is not aligned",
            ),
            (
                self.used > 0 && self.used <= bytes.div_ceil(self.block_bytes.max(1)),
                "more blocks are in use than there are",
            ),
        ];
        holds
            .into_iter()
            .find(|(holds, _)| !holds)
            .map_or(Ok(()), |(_, why)| Err(why))
    }

    /// Reads the table of blocks. Each in use is in it exactly once.
    fn blocks_of(&self, table: &[u8]) -> Result<Vec<Option<u64>>, &'static str> {
        let mut seen = BTreeSet::new();
        let (pointers, _) = table.as_chunks();
        let mut blocks = Vec::with_capacity(pointers.len());
        for pointer in pointers {
            let place = u64::from_le_bytes(*pointer);
            if place == 0 {
                blocks.push(None);
                continue;
            }
            let offset = place
                .checked_sub(self.vector)
                .filter(|offset| offset.is_multiple_of(self.block_bytes))
                .filter(|offset| offset / self.block_bytes < self.used)
                .ok_or("a block lies outside its memory")?;
            if !seen.insert(offset) {
                return Err("two blocks lie in one place");
            }
            blocks.push(Some(place));
        }
        if seen.len() as u64 == self.used {
            Ok(blocks)
        } else {
            Err("its table lacks blocks that are in use")
        }
    }
}

/// Where `process` has `bx_mem`.
fn object_address(process: u32) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    let (base, path) = maps.lines().find_map(program_start)?;
    let file = fs::read(path).ok()?;
    let elf = object::File::parse(&*file).ok()?;
    let symbol = elf
        .dynamic_symbols()
        .find(|symbol| symbol.name() == Ok(SYMBOL))?;
    base.checked_add(symbol.address())
}

/// Where the program is loaded, if `line` of a process's maps is that of its first bytes; and its file.
fn program_start(line: &str) -> Option<(u64, &Path)> {
    let mut words = line.split_ascii_whitespace();
    let (range, offset) = (words.next()?, words.nth(1)?);
    let path = Path::new(&line[line.find('/')?..]);
    let (start, _) = range.split_once('-')?;
    let is_first = u64::from_str_radix(offset, 16) == Ok(0) && path.ends_with(PROGRAM);
    is_first
        .then(|| u64::from_str_radix(start, 16).ok())
        .flatten()
        .map(|start| (start, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: Found = Found {
        length: 4 << 20,
        allocated: 4 << 20,
        block_bytes: 1 << 20,
        vector: 0x7f00_0000_1000,
        blocks: 0x5500_0000_0000,
        used: 2,
    };

    fn table(pointers: [u64; 4]) -> Vec<u8> {
        pointers
            .iter()
            .flat_map(|pointer| pointer.to_le_bytes())
            .collect()
    }

    #[test]
    fn blocks_are_where_the_table_says_in_whatever_order_they_were_touched() {
        let (first, second) = (FOUND.vector, FOUND.vector + (1 << 20));
        let blocks = FOUND.blocks_of(&table([second, 0, 0, first])).unwrap();
        let layout = Layout {
            block_bytes: 1 << 20,
            blocks,
        };
        let all: Vec<_> = layout.blocks().collect();
        assert_eq!(all, [(Hpa(0), second), (Hpa(3 << 20), first)]);
        assert_eq!(layout.place(Hpa(0x1234), 4), Some(second + 0x1234));
        assert_eq!(layout.place(Hpa(1 << 20), 1), None);
        assert_eq!(layout.place(Hpa((4 << 20) - 1), 1), Some(first + 0xf_ffff));
        assert_eq!(layout.place(Hpa((4 << 20) - 1), 2), None);
        assert_eq!(layout.place(Hpa(0xfee0_0000), 4), None);
    }

    #[test]
    fn a_table_that_is_none_is_refused() {
        let (first, second) = (FOUND.vector, FOUND.vector + (1 << 20));
        for pointers in [
            [first, first, 0, 0],
            [first, 0, 0, 0],
            [first, second + 8, 0, 0],
            [first, second + (1 << 20), 0, 0],
            [first, 8, 0, 0],
        ] {
            assert!(FOUND.blocks_of(&table(pointers)).is_err(), "{pointers:x?}");
        }
    }

    #[test]
    fn an_object_of_another_machine_is_refused() {
        assert_eq!(FOUND.check(4 << 20), Ok(()));
        assert!(FOUND.check(8 << 20).is_err());
        for other in [
            Found {
                block_bytes: 0,
                ..FOUND
            },
            Found { vector: 8, ..FOUND },
            Found { used: 5, ..FOUND },
        ] {
            assert!(other.check(4 << 20).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_program_starts_where_its_first_bytes_are_mapped() {
        let line = "7f12a000-7f13b000 r--p 00000000 fe:01 123   /tmp/a b/usr/bin/bochs-bin";
        assert_eq!(
            program_start(line),
            Some((0x7f12_a000, Path::new("/tmp/a b/usr/bin/bochs-bin")))
        );
        assert_eq!(
            program_start(&line.replace(" 00000000 ", " 00122000 ")),
            None
        );
        assert_eq!(program_start(&line.replace("bochs-bin", "libc.so.6")), None);
        assert_eq!(
            program_start("7f12a000-7f13b000 rw-p 00000000 00:00 0"),
            None
        );
    }
}
