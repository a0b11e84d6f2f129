//! A function of a program on disk, found by its dynamic symbol, so that it can be looked at and mended.
//!
//! Neighbours: `idiv`, `interrupts` and `syscalls` mend functions of the emulator.

use object::{Object, ObjectSegment, ObjectSymbol};

/// Why a function cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The file is not an ELF image this code understands.
    #[error("the emulator's file cannot be read as ELF ({0})")]
    Elf(#[from] object::Error),
    /// The function is not exported.
    #[error("the emulator does not export `{0}`")]
    NoSymbol(&'static str),
}

/// What became of an attempt to mend functions that cannot be tried out by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All faults were there; all functions were changed.
    Mended,
    /// At least one function is not the one that is known; nothing was changed.
    Unknown,
}

/// Where a function lies.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    symbol: &'static str,
    /// Its offset in the file.
    pub offset: usize,
    /// Its address once loaded, from the start of the image.
    pub address: usize,
    /// Bytes.
    pub size: usize,
}

impl Function {
    /// The function that `file`, an ELF image, exports as `symbol`.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(file: &[u8], symbol: &'static str) -> Result<Self, FunctionError> {
        let missing = FunctionError::NoSymbol(symbol);
        let elf = object::File::parse(file)?;
        let Some(found) = elf.dynamic_symbols().find(|s| s.name() == Ok(symbol)) else {
            return Err(missing);
        };
        elf.segments()
            .find_map(|segment| {
                let (start, length) = segment.file_range();
                let within = found.address().checked_sub(segment.address())?;
                (within.checked_add(found.size())? <= length).then_some(Self {
                    symbol,
                    offset: usize::try_from(start.checked_add(within)?).ok()?,
                    address: usize::try_from(found.address()).ok()?,
                    size: usize::try_from(found.size()).ok()?,
                })
            })
            .ok_or(missing)
    }

    /// Its machine code in `file`, where it was found.
    ///
    /// # Errors
    /// When `file` is too short.
    pub fn body_mut<'a>(&self, file: &'a mut [u8]) -> Result<&'a mut [u8], FunctionError> {
        let end = self.offset.saturating_add(self.size);
        file.get_mut(self.offset..end)
            .ok_or(FunctionError::NoSymbol(self.symbol))
    }
}
