//! A piece of a VM's memory as it lies in the machine's, or why it is not shown.

use core::fmt;

use crate::addr::{Gpa, Hpa};
use crate::ledger::State;

/// Bytes in a line.
const LINE: usize = 16;

/// Bytes of a VM's memory.
#[derive(Clone, Copy, Debug)]
pub struct MemoryDump<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// Where the VM has the first of them.
    pub gpa: Gpa,
    /// Where the machine has it.
    pub hpa: Hpa,
    /// The frame's state: what is sealed is shown as it is, encrypted.
    pub state: State,
    /// What is there.
    pub bytes: &'a [u8],
}

/// Why bytes of a VM's memory are not shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// The VM has no memory at this address, or none at all while it is stopped.
    NotMemory(Gpa),
    /// The frame is in the clear, and the VM is one whose memory only itself may read.
    Private(Gpa, Hpa),
    /// A machine check hit the VM's memory: whoever reads the wrong byte meets the next one.
    Lost,
}

impl fmt::Display for MemoryDump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vm,
            gpa,
            hpa,
            state,
            bytes,
        } = self;
        let state = state.name();
        writeln!(f, "VM \"{vm}\" {gpa} is at {hpa} of the machine, {state}:")?;
        for (line, bytes) in bytes.chunks(LINE).enumerate() {
            write!(f, "{:012x} ", gpa.0.wrapping_add((line * LINE) as u64))?;
            for byte in bytes {
                write!(f, " {byte:02x}")?;
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotMemory(gpa) => write!(f, "has no memory at {gpa}"),
            Self::Private(gpa, hpa) => write!(
                f,
                "has {gpa} in the clear, at {hpa} of the machine: only itself may read it"
            ),
            Self::Lost => f.write_str(
                "lost memory to a machine check: nobody reads it until the VM is started again",
            ),
        }
    }
}
