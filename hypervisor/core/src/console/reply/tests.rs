//! Replies as a person reads them.

use super::*;
use crate::addr::{Gpa, Hpa};
use crate::console::command::Command;
use crate::events::{Counters, CpuCounters, DiskCounters, MachineCounters, NicCounters, Ticks};
use crate::lifecycle::{Lifecycle, State};
use crate::manifest::{ByteSize, RestartPolicy};

#[test]
fn the_list_is_the_documented_one() {
    let memory = ByteSize::parse_memory("256M").unwrap();
    let web = VmRow {
        name: "web",
        front: true,
        state: State::Running,
        vcpus: 2,
        memory,
        used_ticks: 125,
        passed_ticks: 1000,
        restarts: 0,
    };
    let db = VmRow {
        name: "db",
        front: false,
        used_ticks: 31,
        restarts: 1,
        ..web
    };
    let list = Reply::List(&[web, db]).to_string();
    let page = include_str!("../../../../../docs/console.md");
    assert!(page.contains(&list), "docs/console.md lacks:\n{list}");
    let widths: Vec<usize> = list.lines().map(str::len).collect();
    assert!(widths.iter().all(|width| *width == widths[0]), "{list}");
}

#[test]
fn long_names_and_numbers_widen_their_columns() {
    let row = VmRow {
        name: "a-name-of-thirty-two-characters-",
        front: false,
        state: State::BackOff {
            until: Duration::ZERO,
        },
        vcpus: 64,
        memory: ByteSize::parse_memory("1026M").unwrap(),
        used_ticks: 64_000,
        passed_ticks: 1000,
        restarts: u32::MAX,
    };
    let list = Reply::List(&[row]).to_string();
    assert_eq!(
        list,
        "  NAME                              STATE     VCPUS  MEMORY   CPU %    RESTARTS\n\
         \x20 a-name-of-thirty-two-characters-  back-off     64   1026M  6400.0  4294967295\n"
    );
}

const EXITS: [(&str, u64); 12] = [
    ("a", 1),
    ("b", 50),
    ("c", 2),
    ("d", 50),
    ("e", 3),
    ("f", 4),
    ("g", 5),
    ("h", 6),
    ("i", 7),
    ("j", 8),
    ("k", 9),
    ("l", 10),
];

#[test]
fn a_vms_statistics_have_the_most_frequent_exits_and_every_device() {
    let stats = VmStats {
        state: State::Running,
        uptime: Duration::from_millis(12_345),
        restarts: 3,
        counters: Counters {
            vm: "web",
            exits: &EXITS,
            frames: &[("clear", 65_536)],
            faults: 4,
            ticks: Ticks {
                guest: 500,
                root: 20,
                idle: 460,
                steal: 20,
            },
            switches: 17,
            ..Counters::default()
        },
        nics: &[NicCounters {
            vm: "web",
            segment: "lan",
            sent_frames: 2,
            sent_bytes: 120,
            drops: &[("spoofed", 1)],
            ..NicCounters::default()
        }],
        disks: &[DiskCounters {
            vm: "web",
            reads: 9,
            read_bytes: 4608,
            ..DiskCounters::default()
        }],
    };
    let text = Reply::Vm(stats).to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[0],
        "VM \"web\": running, 12.3 s since its start, 3 restarts, 4 faults"
    );
    assert_eq!(lines[1], "exits: 155");
    let reasons: Vec<&str> = lines[2..13]
        .iter()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(
        reasons,
        ["d", "b", "l", "k", "j", "i", "h", "g", "f", "e", "others"]
    );
    assert!(lines[12].ends_with(" 3"), "a and c: {}", lines[12]);
    assert_eq!(
        lines[13],
        "ticks: guest 500 (50.0 %), hypervisor 20 (2.0 %), idle 460 (46.0 %), stolen 20 (2.0 %); 17 switches"
    );
    assert_eq!(lines[14], "frames: clear 65536");
    assert_eq!(
        lines[15],
        "nic 0 on \"lan\": sent 2 frames, 120 bytes; received 0 frames, 0 bytes; dropped: spoofed 1"
    );
    assert_eq!(
        lines[16],
        "disk 0: 9 reads, 4608 bytes; 0 writes, 0 bytes; 0 flushes, 0 errors"
    );
    assert_eq!(lines.len(), 17);
}

#[test]
fn a_vm_that_never_ran_has_statistics_too() {
    let stats = VmStats {
        state: State::Stopped,
        uptime: Duration::ZERO,
        restarts: 0,
        counters: Counters {
            vm: "web",
            ..Counters::default()
        },
        nics: &[],
        disks: &[],
    };
    let text = Reply::Vm(stats).to_string();
    assert!(text.contains("exits: 0\nticks: guest 0 (0.0 %)"), "{text}");
    assert!(text.ends_with("frames: none\n"), "{text}");
}

#[test]
fn the_machines_statistics_say_whether_the_books_balance() {
    let machine = MachineCounters {
        frames: &[("free", 10), ("clear", 5)],
        owners: &[("nobody", 10), ("vm", 5)],
        balanced: true,
        heap_used_bytes: 300,
        heap_free_bytes: 700,
        pool_frames: 80,
        mitigations: &[("ibpb", 2), ("verw", 4)],
    };
    let cpus = [CpuCounters {
        cpu: 1,
        guest_ticks: 25,
        root_ticks: 5,
        idle_ticks: 70,
        switches: 6,
    }];
    let text = |balanced| {
        Reply::Machine(MachineStats {
            machine: MachineCounters {
                balanced,
                ..machine
            },
            cpus: &cpus,
        })
        .to_string()
    };
    assert_eq!(
        text(true),
        "frames by state: free 10, clear 5\n\
         frames by owner: nobody 10, vm 5\n\
         books: balanced\n\
         heap: 300 bytes used, 700 bytes free\n\
         CPU 1: guests 25.0 %, hypervisor 5.0 %, idle 70.0 %; 6 switches\n\
         mitigations: ibpb 2, verw 4\n"
    );
    assert!(text(false).contains("NOT BALANCED"));
}

#[test]
fn orders_are_answered_with_what_is_done() {
    let mut vm = Lifecycle::new(RestartPolicy::Never, Duration::from_secs(30));
    let mut answer = |order| match vm.order(order, Duration::ZERO) {
        Ok(action) => {
            let _ = vm.started(Duration::ZERO);
            Reply::Done {
                vm: "web",
                order,
                action,
                stop_timeout: Duration::from_secs(30),
            }
            .to_string()
        }
        Err(refusal) => Reply::Refused { vm: "web", refusal }.to_string(),
    };
    assert_eq!(answer(Order::Start), "VM \"web\" is being started\n");
    assert_eq!(answer(Order::Pause), "VM \"web\" is paused\n");
    assert_eq!(answer(Order::Resume), "VM \"web\" runs again\n");
    let page = include_str!("../../../../../docs/console.md");
    let refused = answer(Order::Resume);
    assert!(page.contains(&refused), "docs/console.md lacks: {refused}");
    assert_eq!(
        answer(Order::Restart),
        "VM \"web\" is asked to switch itself off; it is stopped in 30 s if it does not, and started again\n"
    );
    assert_eq!(
        answer(Order::Stop { hard: false }),
        "VM \"web\" will stay stopped\n"
    );
    assert_eq!(
        answer(Order::Restart),
        "VM \"web\" will be started once it has ended\n"
    );
    assert_eq!(
        answer(Order::Stop { hard: true }),
        "VM \"web\" is being stopped\n"
    );
}

#[test]
fn memory_is_shown_in_lines_of_sixteen_bytes_with_its_frame() {
    let bytes: Vec<u8> = (0xe8..=0xff).collect();
    let dump = MemoryDump {
        vm: "web",
        gpa: Gpa(0x20_0fe8),
        hpa: Hpa(0x3f5a_1fe8),
        state: crate::ledger::State::Sealed,
        bytes: &bytes,
    };
    assert_eq!(
        Reply::Memory(dump).to_string(),
        "VM \"web\" 0x200fe8 is at 0x3f5a1fe8 of the machine, sealed:\n\
         000000200fe8  e8 e9 ea eb ec ed ee ef f0 f1 f2 f3 f4 f5 f6 f7\n\
         000000200ff8  f8 f9 fa fb fc fd fe ff\n"
    );
}

#[test]
fn memory_that_is_not_shown_is_answered_with_the_reason() {
    let answer = |why| Reply::Unreadable { vm: "web", why }.to_string();
    assert_eq!(
        answer(Unreadable::NotMemory(Gpa(0x1000))),
        "VM \"web\" has no memory at 0x1000\n"
    );
    let private = answer(Unreadable::Private(Gpa(0x1000), Hpa(0x8000)));
    assert!(private.contains("in the clear, at 0x8000"), "{private}");
    let page = include_str!("../../../../../docs/console.md");
    assert!(page.contains(&answer(Unreadable::Private(
        Gpa(0x20_0000),
        Hpa(0x3f5a_1000)
    ))));
    assert!(page.contains(&answer(Unreadable::Lost)));
}

#[test]
fn help_names_every_command() {
    let all = Reply::Help(None).to_string();
    for verb in Verb::ALL {
        assert!(all.contains(verb.usage()) && all.contains(verb.summary()));
        let one = Reply::Help(Some(verb)).to_string();
        assert_eq!(one, format!("{}: {}\n", verb.usage(), verb.summary()));
    }
}

#[test]
fn every_reply_ends_its_last_line() {
    let error = Command::parse("stpo").unwrap_err();
    for reply in [
        Reply::List(&[]),
        Reply::Trace {
            vm: "web",
            on: true,
        },
        Reply::Trace {
            vm: "web",
            on: false,
        },
        Reply::Log {
            lines: 3,
            wanted: 20,
        },
        Reply::Log {
            lines: 20,
            wanted: 20,
        },
        Reply::NoCommand(&error),
        Reply::NoVm(&error.problem),
    ] {
        let text = reply.to_string();
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text:?}");
    }
}
