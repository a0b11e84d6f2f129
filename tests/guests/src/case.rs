//! One test case's verdict: the first few failed checks are printed, the last line says `ok` or `FAIL`.

use core::fmt;

/// Details printed per case; a serial byte is expensive.
const MAX_DETAILS: u32 = 8;

/// A running test case.
#[derive(Debug)]
pub struct Case {
    name: &'static str,
    failures: u32,
}

impl Case {
    /// Starts the case and says so.
    #[must_use]
    pub fn start(name: &'static str) -> Self {
        crate::println!("case {name}: start");
        Self { name, failures: 0 }
    }

    /// Records a failure where `holds` is false.
    pub fn check(&mut self, holds: bool, detail: fmt::Arguments<'_>) {
        if !holds {
            self.failures += 1;
            if self.failures <= MAX_DETAILS {
                crate::println!("detail {}: {detail}", self.name);
            }
        }
    }

    /// Prints the verdict.
    pub fn finish(self) {
        match self.failures {
            0 => crate::println!("case {}: ok", self.name),
            count => crate::println!("case {}: FAIL {count} checks", self.name),
        }
    }
}
