//! A panic's backtrace in names: addresses of the console's report looked up in the build's PDB.
//!
//! The report has a line `image base 0x…` and lines `#0 0x…`, `#1 0x…`; the linker leaves
//! `bulkhead.pdb` beside `bulkhead.efi`.

use std::fs::File;
use std::path::Path;
use std::sync::LazyLock;

use pdb_addr2line::ContextPdbData;
use pdb_addr2line::pdb::PDB;
use regex::Regex;

use crate::ui;

static BASE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"image base 0x([0-9a-f]+)").ok());
static FRAME: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?m)^#(\d+) 0x([0-9a-f]+)").ok());

/// A backtrace as the hypervisor printed it: offsets into the image, innermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backtrace {
    frames: Vec<(u32, u32)>,
}

impl Backtrace {
    /// The last backtrace in `console`, or `None`.
    #[must_use]
    pub fn find(console: &str) -> Option<Self> {
        let base = BASE.as_ref()?.captures_iter(console).last()?;
        let from = base.get(0)?.end();
        let base = u64::from_str_radix(base.get(1)?.as_str(), 16).ok()?;
        let frames = FRAME
            .as_ref()?
            .captures_iter(console.get(from..)?)
            .filter_map(|frame| {
                let number = frame.get(1)?.as_str().parse().ok()?;
                let address = u64::from_str_radix(frame.get(2)?.as_str(), 16).ok()?;
                Some((number, u32::try_from(address.checked_sub(base)?).ok()?))
            });
        let frames: Vec<_> = frames.collect();
        (!frames.is_empty()).then_some(Self { frames })
    }

    /// One line for each function, inlined ones included.
    ///
    /// # Errors
    /// When `pdb` cannot be read.
    pub fn resolve(&self, pdb: &Path) -> Result<Vec<String>, pdb_addr2line::Error> {
        let file = File::open(pdb).map_err(pdb_addr2line::pdb::Error::from)?;
        let data = ContextPdbData::try_from_pdb(PDB::open(file)?)?;
        let context = data.make_context()?;
        let mut lines = Vec::new();
        for (number, offset) in &self.frames {
            // All but an exception's own address are return addresses: the call is just before them.
            let call = if *number == 0 {
                *offset
            } else {
                offset.saturating_sub(1)
            };
            let Some(found) = context.find_frames(call)? else {
                lines.push(format!("#{number} image+{offset:#x}"));
                continue;
            };
            for frame in found.frames {
                let function = frame.function.as_deref().unwrap_or("?");
                let place = frame.file.as_deref().unwrap_or("?");
                let line = frame
                    .line
                    .map_or_else(String::new, |line| format!(":{line}"));
                lines.push(format!("#{number} {function} at {place}{line}"));
            }
        }
        Ok(lines)
    }
}

/// Prints the functions behind the backtrace in `console`, when there is one; `efi` is the binary that ran.
pub fn explain(console: &str, efi: &Path) {
    let Some(backtrace) = Backtrace::find(console) else {
        return;
    };
    let pdb = efi.with_extension("pdb");
    match backtrace.resolve(&pdb) {
        Ok(lines) => {
            ui::note("Bulkhead's backtrace:");
            lines.iter().for_each(|line| ui::note(line));
        }
        Err(error) => ui::note(&format!(
            "the backtrace stays without names: {}: {error}",
            pdb.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_is_found_relative_to_the_image() {
        let console = "noise #0 0x1\nimage base 0x7e000000\nbacktrace:\n#0 0x7e001234 bulkhead.efi\n#1 0x7e0000ff\n\
                       #2 0x1000\nend";
        assert_eq!(
            Backtrace::find(console),
            Some(Backtrace {
                frames: vec![(0, 0x1234), (1, 0xff)]
            })
        );
    }

    #[test]
    fn a_quiet_console_has_none() {
        assert_eq!(Backtrace::find("~ # echo '#0 0x1'\n"), None);
        assert_eq!(Backtrace::find("image base 0x1000\n"), None);
    }

    #[test]
    fn a_missing_pdb_is_an_error_not_a_crash() {
        let backtrace = Backtrace {
            frames: vec![(0, 1)],
        };
        assert!(backtrace.resolve(Path::new("no-such.pdb")).is_err());
    }
}
