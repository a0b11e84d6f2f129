//! The operator, who reads a VM's memory with the console's command `memory`.

use std::thread;
use std::time::Duration;

use bulkhead_core::addr::{FRAME_SIZE, Gpa, Hpa};
use bulkhead_core::console::MemoryRange;
use regex::Regex;

use crate::context::Context;
use crate::machine::Machine;
use crate::outcome::Outcome;

/// Bytes in a line of the answer.
const LINE: u32 = 16;
/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(200);

/// What the operator is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Bytes.
    Shown {
        /// Where the machine has them.
        hpa: Hpa,
        /// The frame's state.
        state: String,
        /// What is there.
        bytes: Vec<u8>,
    },
    /// The frame is in the clear, and the VM's own.
    Private(Hpa),
    /// The VM has no memory there.
    Nothing,
}

impl Answer {
    /// Whether a sealed frame was shown.
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Shown { state, .. } if state == "sealed")
    }

    /// Where the machine has it, if anywhere.
    pub const fn hpa(&self) -> Option<Hpa> {
        match self {
            Self::Shown { hpa, .. } | Self::Private(hpa) => Some(*hpa),
            Self::Nothing => None,
        }
    }
}

/// Asks for `bytes` bytes of `vm` from `gpa` on.
pub fn look(machine: &mut Machine<'_>, vm: &str, gpa: Gpa, bytes: u32) -> Outcome<Answer> {
    machine.obey(&format!("memory {vm} {gpa} {bytes}"))?;
    let lines = bytes.div_ceil(LINE);
    let answer = machine.expect(&format!(
        "VM \"{vm}\" (?:{gpa} is at [^\n]*\n(?:[0-9a-f]{{12}} [^\n]*\n){{{lines}}}|has [^\n]*\n)"
    ))?;
    read(&answer).ok_or_else(|| machine.failure(&format!("`memory` answers {answer:?}")))
}

/// The whole page of `vm` at `gpa`, if all of it is shown.
pub fn page(machine: &mut Machine<'_>, vm: &str, gpa: Gpa) -> Outcome<Vec<u8>> {
    let mut page = Vec::new();
    for offset in (0..FRAME_SIZE).step_by(MemoryRange::MAX_BYTES as usize) {
        match look(machine, vm, Gpa(gpa.0 + offset), MemoryRange::MAX_BYTES)? {
            Answer::Shown { bytes, .. } => page.extend(bytes),
            other => return Err(machine.failure(&format!("`memory` shows {other:?}"))),
        }
    }
    Ok(page)
}

/// Asks until `wanted` is the answer; it takes a VM a while to be sealed, or given back.
pub fn wait_for(
    context: &Context<'_>,
    machine: &mut Machine<'_>,
    (vm, gpa): (&str, Gpa),
    wanted: impl Fn(&Answer) -> bool,
) -> Outcome<Answer> {
    loop {
        let answer = look(machine, vm, gpa, LINE)?;
        if wanted(&answer) {
            return Ok(answer);
        }
        machine.ensure(!context.left().is_zero(), || {
            format!("`memory {vm} {gpa}` still answers {answer:?}")
        })?;
        thread::sleep(PAUSE);
    }
}

fn read(answer: &str) -> Option<Answer> {
    let word = |pattern: &str, text: &str| -> Option<String> {
        let found = Regex::new(pattern).ok()?.captures(text)?;
        Some(found.get(1)?.as_str().to_owned())
    };
    let number = |digits: String| u64::from_str_radix(&digits, 16).ok();
    if answer.contains(" has no memory at ") {
        return Some(Answer::Nothing);
    }
    let hpa = Hpa(word(" at 0x([0-9a-f]+) of the machine", answer).and_then(number)?);
    if answer.contains(" in the clear, ") {
        return Some(Answer::Private(hpa));
    }
    let (head, lines) = answer.split_once('\n')?;
    let bytes = lines.lines().flat_map(|line| {
        let words = line.split_ascii_whitespace().skip(1);
        words.map(|byte| u8::from_str_radix(byte, 16).ok())
    });
    Some(Answer::Shown {
        hpa,
        state: word("of the machine, ([a-z]+):", head)?,
        bytes: bytes.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use bulkhead_core::console::Reply;
    use bulkhead_core::console::reply::{MemoryDump, Unreadable};
    use bulkhead_core::ledger::State;

    use super::*;

    #[test]
    fn answers_are_read_as_they_are_written() {
        let bytes: Vec<u8> = (0..40).collect();
        let shown = Reply::Memory(MemoryDump {
            vm: "web",
            gpa: Gpa(0x1000),
            hpa: Hpa(0x3f5a_1000),
            state: State::Sealed,
            bytes: &bytes,
        });
        let answer = read(&shown.to_string()).unwrap();
        assert!(answer.is_sealed());
        let expected = Answer::Shown {
            hpa: Hpa(0x3f5a_1000),
            state: "sealed".to_owned(),
            bytes,
        };
        assert_eq!(answer, expected);
        let refused = |why| read(&Reply::Unreadable { vm: "web", why }.to_string());
        assert_eq!(
            refused(Unreadable::Private(Gpa(0x1000), Hpa(0x2000))),
            Some(Answer::Private(Hpa(0x2000)))
        );
        assert_eq!(
            refused(Unreadable::NotMemory(Gpa(0x1000))),
            Some(Answer::Nothing)
        );
    }
}
