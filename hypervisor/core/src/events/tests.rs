//! Each event is a line of JSON with the keys that its documentation lists, in the documented order of events.

use super::*;
use crate::addr::Gpa;
use crate::tpm::{Digest, What};
use crate::vtd::fault::{Access, FaultRecord, Place};
use crate::vtd::reason::FaultReason;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const DOCUMENTATION: &str = include_str!("../../../../docs/events.md");

fn line(event: &Event<'_>) -> String {
    let mut line = String::new();
    event.write_json(1000, 7, &mut line).unwrap();
    line
}

fn parsed(event: &Event<'_>) -> Value {
    serde_json::from_str(&line(event)).unwrap()
}

static IMAGE: What = What::Image;

/// One of each.
fn samples() -> [Event<'static>; Event::NAMES.len()] {
    [
        Event::Boot { version: "0.1.0" },
        Event::Measurement(Measured {
            what: &IMAGE,
            digest: &Digest([0xab; 32]),
        }),
        Event::Plan {
            vms: 1,
            memory_bytes: 256 << 20,
        },
        Event::RootKey(RootKeyOrigin {
            origin: "made",
            seal: Some(0xc0_ffee),
            fingerprint: Some([0x5e; 8]),
        }),
        Event::TpmPcr(PcrValue {
            pcr: 11,
            value: &Digest([0xcd; 32]),
        }),
        Event::TpmLog(LogPiece {
            at: 512,
            of: 514,
            bytes: &[0, 0xff],
        }),
        Event::Memory(MemoryUse {
            image_bytes: 1,
            ram_bytes: u64::MAX,
            ..MemoryUse::default()
        }),
        Event::CpuOnline { cpu: 1, apic_id: 2 },
        Event::VmStart { vm: "demo" },
        Event::VmStop {
            vm: "demo",
            reason: &"power-off",
        },
        Event::VmDestroyed {
            vm: "demo",
            freed: FrameCount(65536),
            scrubbed: FrameCount(65536),
        },
        Event::VmMemoryKept {
            vm: "demo",
            frames: FrameCount(65536),
        },
        Event::VmRestart {
            vm: "demo",
            reason: &"reboot",
            count: 1,
        },
        Event::VmBackOff {
            vm: "demo",
            reason: &"triple fault",
            in_a_row: 2,
            delay: Duration::from_secs(1),
        },
        Event::VmPause { vm: "demo" },
        Event::VmResume { vm: "demo" },
        Event::VmSealed { vm: "demo" },
        Event::Watchdog {
            vm: "demo",
            timeout: Duration::from_millis(1500),
        },
        Event::GuestFault {
            vm: "demo",
            what: "msr",
            rip: 0xffff_ffff_8100_0000,
            detail: &"WRMSR 0x1a0",
        },
        Event::Integrity {
            vm: "demo",
            gpa: Gpa(0x7000),
        },
        Event::SecmemStart {
            vm: "demo",
            key: KeyId(1),
        },
        Event::SecmemSample {
            vm: "demo",
            sample: SecmemSample {
                touched: 60_000,
                sealed: 56_000,
                readable: 4_000,
                verified: 16,
                failed: 0,
            },
        },
        Event::SplitSample {
            vm: "demo",
            sample: SplitSample {
                vcpu: 1,
                in_user: true,
                frames: 19,
                unnamed: 0,
                pages: 20,
                tables: 7,
                is_cut: false,
            },
        },
        Event::Secmem {
            vm: "demo",
            counters: SecmemCounters {
                key: KeyId(1),
                counts: crate::secmem::Counts::default(),
                touched: 1,
                readable: 2,
                unseal_ticks: 3,
                seal_ticks: 4,
                other_ticks: 5,
            },
        },
        Event::SecmemEnd {
            vm: "demo",
            key: KeyId(1),
        },
        Event::Counters(Counters {
            vm: "demo",
            exits: &[("cpuid", 3), ("hlt", 4)],
            frames: &[("clear", 5)],
            ticks: Ticks {
                guest: 9,
                steal: 6,
                ..Ticks::default()
            },
            ..Counters::default()
        }),
        Event::Vcpu(VcpuCounters::default()),
        Event::Nic(NicCounters {
            drops: &[("spoofed", 2)],
            ..NicCounters::default()
        }),
        Event::Disk(DiskCounters::default()),
        Event::Cpu(CpuCounters::default()),
        Event::Machine(MachineCounters {
            balanced: true,
            ..MachineCounters::default()
        }),
        Event::Command {
            line: &"stop demo",
            outcome: &"ok",
        },
        Event::MachineCheck {
            cpu: 0,
            bank: 4,
            status: 1 << 63,
            address: 0x1000,
            detail: &"stops the machine",
        },
        Event::Nmi {
            cpu: 0,
            detail: &"nobody asked for it",
        },
        Event::DmaFault(DmaFault {
            unit: 1,
            record: FaultRecord {
                source: SourceId(0x0318),
                access: Access::Write,
                reason: FaultReason::NotWritable,
                place: Place::Page(Gpa(0x1234_5000)),
            },
            vm: "demo",
            untold: 3,
        }),
        Event::DeviceCutOff {
            source: SourceId(0x0318),
            faults: 1000,
        },
        Event::VtdCosts(VtdCosts {
            what: "map-1g",
            table_frames: 1,
            submissions: 1,
            requests: 1,
            waits: 2,
        }),
        Event::SelfTest(SelfTestCase {
            case: "edu-inside-its-frames",
            outcome: "ok",
            detail: &"4096 bytes there and back",
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
    let [.., off, _, _] = samples().map(|event| parsed(&event));
    assert_eq!(off["reason"], "every VM stopped");
    for event in samples() {
        let value = parsed(&event);
        match event.name() {
            "measurement" => {
                assert_eq!(
                    (&value["what"], &value["pcr"]),
                    (&json!("image"), &json!(11))
                );
                assert_eq!(value["sha256"], "ab".repeat(32));
            }
            "root-key" => assert_eq!(value["seal"], "00c0ffee"),
            "tpm-log" => assert_eq!(value["bytes"], "00ff"),
            "memory" => assert_eq!(value["ram_bytes"], u64::MAX),
            "vm-back-off" => assert_eq!(value["delay_ms"], 1000),
            "watchdog" => assert_eq!(value["timeout_ms"], 1500),
            "guest-fault" => {
                assert_eq!(value["rip"], "0xffffffff81000000");
                assert_eq!(value["detail"], "WRMSR 0x1a0");
            }
            "counters" => {
                assert_eq!(value["exits"], json!({"cpuid": 3, "hlt": 4}));
                assert_eq!(value["frames"], json!({"clear": 5}));
                assert_eq!(value["guest_ticks"], 9);
                assert_eq!(value["steal_ticks"], 6);
            }
            "nic" => assert_eq!(value["drops"], json!({"spoofed": 2})),
            "dma-fault" => {
                assert_eq!(value["source"], "03:03.0");
                assert_eq!(value["at"], "0x12345000");
                assert_eq!((&value["code"], &value["untold"]), (&json!(5), &json!(3)));
            }
            "machine" => assert_eq!(value["balanced"], true),
            "machine-check" => {
                assert_eq!(value["status"], "0x8000000000000000");
                assert_eq!(value["address"], "0x1000");
            }
            _ => {}
        }
    }
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
