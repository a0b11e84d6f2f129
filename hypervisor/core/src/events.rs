//! The event stream: what the hypervisor tells a program, as one JSON object a line on the second serial port.
//!
//! [`Event`] is what there is to tell; [`Event::write_json`] puts it into a line without
//! allocating, so that the panic path can use it too. `docs/events.md` describes the stream to
//! those who read it. Writing the bytes to the port is the shell's.

use core::fmt::{self, Display, Write};

/// One thing worth telling.
///
/// Texts that are composed come as [`Display`], so that composing them needs no memory.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// The hypervisor runs.
    Boot {
        /// Its version.
        version: &'a str,
    },
    /// The manifest was read and checked.
    Plan {
        /// How many VMs it names.
        vms: usize,
        /// What they are given together.
        memory_bytes: u64,
    },
    /// Where the machine's memory went.
    Memory(MemoryUse),
    /// A VM begins to run.
    VmStart {
        /// Its name.
        vm: &'a str,
    },
    /// A VM runs no more.
    VmStop {
        /// Its name.
        vm: &'a str,
        /// Why.
        reason: &'a dyn Display,
    },
    /// A VM that stopped is about to begin anew.
    VmRestart {
        /// Its name.
        vm: &'a str,
        /// Why it stopped.
        reason: &'a dyn Display,
        /// The restarts so far, this one included.
        count: u32,
    },
    /// A guest did what it may not.
    GuestFault {
        /// The VM's name.
        vm: &'a str,
        /// The kind of fault, one word.
        what: &'a str,
        /// The guest's instruction pointer.
        rip: u64,
        /// The particulars.
        detail: &'a dyn Display,
    },
    /// What a VM did so far.
    Counters(Counters<'a>),
    /// The machine is about to be switched off or reset.
    MachineOff {
        /// Why.
        reason: &'a dyn Display,
    },
    /// The hypervisor refuses to start anything.
    Halt {
        /// The error, by name and in words.
        error: &'a dyn Display,
    },
    /// The hypervisor itself is broken and stops all CPUs.
    Panic {
        /// What it found.
        message: &'a dyn Display,
    },
}

/// Where the machine's memory went, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// The hypervisor's code and data.
    pub image_bytes: u64,
    /// Its heap.
    pub heap_bytes: u64,
    /// The ledger of frames.
    pub ledger_bytes: u64,
    /// Page tables of all kinds.
    pub tables_bytes: u64,
    /// Kernels and initial RAM disks, kept for restarts.
    pub payload_bytes: u64,
    /// All that the hypervisor keeps.
    pub total_bytes: u64,
    /// All that the machine has.
    pub ram_bytes: u64,
}

/// What a VM did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters<'a> {
    /// The VM's name.
    pub vm: &'a str,
    /// Exits by reason.
    pub exits: &'a [(&'a str, u64)],
    /// Frames by state.
    pub frames: &'a [(&'a str, u64)],
    /// Switches between its views.
    pub view_switches: u64,
    /// Faults injected into it or that stopped it.
    pub faults: u64,
    /// TSC ticks in the guest.
    pub guest_ticks: u64,
    /// TSC ticks in the hypervisor on its behalf.
    pub root_ticks: u64,
    /// TSC ticks in which it had nothing to do.
    pub idle_ticks: u64,
}

impl Event<'_> {
    /// The names of all events.
    pub const NAMES: [&'static str; 11] = [
        "boot",
        "plan",
        "memory",
        "vm-start",
        "vm-stop",
        "vm-restart",
        "guest-fault",
        "counters",
        "machine-off",
        "halt",
        "panic",
    ];

    /// What the key `event` says.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Boot { .. } => "boot",
            Self::Plan { .. } => "plan",
            Self::Memory(_) => "memory",
            Self::VmStart { .. } => "vm-start",
            Self::VmStop { .. } => "vm-stop",
            Self::VmRestart { .. } => "vm-restart",
            Self::GuestFault { .. } => "guest-fault",
            Self::Counters(_) => "counters",
            Self::MachineOff { .. } => "machine-off",
            Self::Halt { .. } => "halt",
            Self::Panic { .. } => "panic",
        }
    }

    /// Writes the event as one line, its end included; `tsc` is now, `seq` counts the lines.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, tsc: u64, seq: u64, out: &mut impl Write) -> fmt::Result {
        let mut object = Object::open(out, self.name())?;
        object.number("t", tsc)?;
        object.number("n", seq)?;
        match self {
            Self::Boot { version } => object.text("version", version)?,
            Self::Plan { vms, memory_bytes } => {
                object.number("vms", *vms as u64)?;
                object.number("memory_bytes", *memory_bytes)?;
            }
            Self::Memory(memory) => memory.write(&mut object)?,
            Self::VmStart { vm } => object.text("vm", vm)?,
            Self::VmStop { vm, reason } => {
                object.text("vm", vm)?;
                object.text("reason", reason)?;
            }
            Self::VmRestart { vm, reason, count } => {
                object.text("vm", vm)?;
                object.text("reason", reason)?;
                object.number("count", u64::from(*count))?;
            }
            Self::GuestFault {
                vm,
                what,
                rip,
                detail,
            } => {
                object.text("vm", vm)?;
                object.text("what", what)?;
                object.text("rip", &format_args!("{rip:#x}"))?;
                object.text("detail", detail)?;
            }
            Self::Counters(counters) => counters.write(&mut object)?,
            Self::MachineOff { reason } => object.text("reason", reason)?,
            Self::Halt { error } => object.text("error", error)?,
            Self::Panic { message } => object.text("message", message)?,
        }
        object.close()
    }
}

impl MemoryUse {
    fn write(&self, object: &mut Object<'_, impl Write>) -> fmt::Result {
        object.number("image_bytes", self.image_bytes)?;
        object.number("heap_bytes", self.heap_bytes)?;
        object.number("ledger_bytes", self.ledger_bytes)?;
        object.number("tables_bytes", self.tables_bytes)?;
        object.number("payload_bytes", self.payload_bytes)?;
        object.number("total_bytes", self.total_bytes)?;
        object.number("ram_bytes", self.ram_bytes)
    }
}

impl Counters<'_> {
    fn write(&self, object: &mut Object<'_, impl Write>) -> fmt::Result {
        object.text("vm", &self.vm)?;
        object.tally("exits", self.exits)?;
        object.tally("frames", self.frames)?;
        object.number("view_switches", self.view_switches)?;
        object.number("faults", self.faults)?;
        object.number("guest_ticks", self.guest_ticks)?;
        object.number("root_ticks", self.root_ticks)?;
        object.number("idle_ticks", self.idle_ticks)
    }
}

/// A JSON object being written. It opens with the event's name, so that a comma precedes every further member.
struct Object<'w, W: Write> {
    out: &'w mut W,
}

impl<'w, W: Write> Object<'w, W> {
    fn open(out: &'w mut W, event: &str) -> Result<Self, fmt::Error> {
        write!(out, "{{\"event\":\"{event}\"")?;
        Ok(Self { out })
    }

    fn number(&mut self, key: &str, value: u64) -> fmt::Result {
        write!(self.out, ",\"{key}\":{value}")
    }

    fn text(&mut self, key: &str, value: &dyn Display) -> fmt::Result {
        write!(self.out, ",\"{key}\":\"")?;
        write!(Escaped(&mut *self.out), "{value}")?;
        self.out.write_char('"')
    }

    fn tally(&mut self, key: &str, counts: &[(&str, u64)]) -> fmt::Result {
        write!(self.out, ",\"{key}\":{{")?;
        for (index, (name, count)) in counts.iter().enumerate() {
            self.out.write_str(if index == 0 { "\"" } else { ",\"" })?;
            Escaped(&mut *self.out).write_str(name)?;
            write!(self.out, "\":{count}")?;
        }
        self.out.write_char('}')
    }

    fn close(self) -> fmt::Result {
        self.out.write_str("}\n")
    }
}

/// Escapes what passes through for the inside of a JSON string.
struct Escaped<'w, W: Write>(&'w mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        match c {
            '"' => self.0.write_str("\\\""),
            '\\' => self.0.write_str("\\\\"),
            '\n' => self.0.write_str("\\n"),
            '\r' => self.0.write_str("\\r"),
            '\t' => self.0.write_str("\\t"),
            '\0'..='\u{1f}' | '\u{7f}' => write!(self.0, "\\u{:04x}", u32::from(c)),
            _ => self.0.write_char(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    const DOCUMENTATION: &str = include_str!("../../../docs/events.md");

    fn line(event: &Event<'_>) -> String {
        let mut line = String::new();
        event.write_json(1000, 7, &mut line).unwrap();
        line
    }

    fn parsed(event: &Event<'_>) -> Value {
        serde_json::from_str(&line(event)).unwrap()
    }

    /// One of each.
    fn samples() -> [Event<'static>; 11] {
        [
            Event::Boot { version: "0.1.0" },
            Event::Plan {
                vms: 1,
                memory_bytes: 256 << 20,
            },
            Event::Memory(MemoryUse {
                image_bytes: 1,
                ram_bytes: u64::MAX,
                ..MemoryUse::default()
            }),
            Event::VmStart { vm: "demo" },
            Event::VmStop {
                vm: "demo",
                reason: &"power-off",
            },
            Event::VmRestart {
                vm: "demo",
                reason: &"reboot",
                count: 1,
            },
            Event::GuestFault {
                vm: "demo",
                what: "msr",
                rip: 0xffff_ffff_8100_0000,
                detail: &"WRMSR 0x1a0",
            },
            Event::Counters(Counters {
                vm: "demo",
                exits: &[("cpuid", 3), ("hlt", 4)],
                frames: &[("clear", 5)],
                guest_ticks: 9,
                ..Counters::default()
            }),
            Event::MachineOff {
                reason: &"every VM stopped",
            },
            Event::Halt {
                error: &"vtx-missing",
            },
            Event::Panic {
                message: &"at \"here\"",
            },
        ]
    }

    #[test]
    fn every_event_is_one_line_of_json_with_name_time_and_number() {
        for event in samples() {
            let line = line(&event);
            assert_eq!(line.find('\n'), Some(line.len() - 1), "{line}");
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["event"], event.name());
            assert_eq!(value["t"], 1000);
            assert_eq!(value["n"], 7);
        }
    }

    #[test]
    fn the_list_of_names_is_complete() {
        let names: Vec<_> = samples().iter().map(Event::name).collect();
        assert_eq!(names, Event::NAMES);
    }

    #[test]
    fn values_arrive_as_they_were() {
        let fault = parsed(&samples()[6]);
        assert_eq!(fault["rip"], "0xffffffff81000000");
        assert_eq!(fault["detail"], "WRMSR 0x1a0");
        let memory = parsed(&samples()[2]);
        assert_eq!(memory["ram_bytes"], u64::MAX);
        let counters = parsed(&samples()[7]);
        assert_eq!(counters["exits"], json!({"cpuid": 3, "hlt": 4}));
        assert_eq!(counters["frames"], json!({"clear": 5}));
        assert_eq!(counters["guest_ticks"], 9);
    }

    #[test]
    fn empty_tallies_are_empty_objects() {
        let counters = parsed(&Event::Counters(Counters::default()));
        assert_eq!(counters["exits"], json!({}));
    }

    #[test]
    fn any_text_survives_the_escaping() {
        let every: String = (0..0x3000)
            .filter_map(char::from_u32)
            .chain(['\u{1F980}'])
            .collect();
        let event = Event::Panic { message: &every };
        let line = line(&event);
        assert!(
            !line
                .trim_end_matches('\n')
                .contains(|c: char| c.is_ascii_control())
        );
        assert_eq!(parsed(&event)["message"], every.as_str());
    }

    #[test]
    fn a_port_that_fails_is_reported() {
        struct Full;
        impl Write for Full {
            fn write_str(&mut self, _: &str) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        assert!(
            Event::VmStart { vm: "demo" }
                .write_json(0, 0, &mut Full)
                .is_err()
        );
    }

    /// The keys that a section of the documentation lists in the first column of its table.
    fn documented_keys(section: &str) -> BTreeSet<String> {
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        rows.filter_map(|row| row.split_once('`'))
            .map(|(key, _)| key.to_owned())
            .collect()
    }

    #[test]
    fn the_documentation_lists_every_event_with_exactly_its_keys() {
        let sections: Vec<(&str, &str)> = DOCUMENTATION
            .split("\n### `")
            .skip(1)
            .map(|section| section.split_once('`').unwrap())
            .collect();
        let names: Vec<_> = sections.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, Event::NAMES);
        for (event, (name, section)) in samples().iter().zip(sections) {
            let value = parsed(event);
            let keys = value.as_object().unwrap().keys().cloned();
            let own: BTreeSet<_> = keys
                .filter(|key| !["event", "t", "n"].contains(&key.as_str()))
                .collect();
            assert_eq!(documented_keys(section), own, "{name}");
        }
    }

    #[test]
    fn the_examples_of_the_documentation_are_events() {
        let examples: Vec<Value> = DOCUMENTATION
            .lines()
            .filter(|line| line.starts_with("{\"event\""))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let names: Vec<_> = examples
            .iter()
            .map(|example| example["event"].as_str().unwrap())
            .collect();
        assert_eq!(names, Event::NAMES);
        for (event, example) in samples().iter().zip(&examples) {
            let shape = |value: &Value| {
                value
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
            };
            assert_eq!(shape(example), shape(&parsed(event)));
        }
    }
}
