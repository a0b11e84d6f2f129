//! Manifests on file: the good ones give the plans they should, every bad one the text beside it.
//!
//! `manifests/bad` holds what no machine runs, `manifests/misfit` what one machine is too small for,
//! `manifests/unassignable` what asks for devices that one machine cannot give away. After a change of
//! wording, `UPDATE_EXPECT=1 cargo test -p bulkhead-manifest --test snapshots` writes the texts anew; read the diff.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its files fails"
)]

mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_host::pci::{Address, ClassPattern, DeviceId, Groups, Inventory};
use bulkhead_manifest::{
    ApicVirtualization, BitRate, ByteSize, Console, DeviceName, DiskImageFault, DiskMode,
    Encryption, ErrorKind, Feature, HypervisorOptions, IommuPolicy, KernelFormat, LogLevel,
    MAX_BYTES, MachineFacts, ManifestErrors, PayloadProblem, PayloadRole, Plan, RestartPolicy,
    RootKeySource, SealId, SelfTest, Sha256Digest, SmtPolicy, Spoofing, VmConsole,
    check_disk_image, parse, parse_bytes,
};
use machine::inventory;

/// The machine that the misfits do not fit.
const SMALL: MachineFacts = MachineFacts {
    ram_bytes: 1000 << 20,
    cpus: 2,
};

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/manifests")
        .join(name)
}

/// The manifests of a directory by name, sorted.
fn manifests(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory(name)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    paths.sort();
    assert!(!paths.is_empty());
    paths
}

fn read(path: &Path) -> Result<Plan, ManifestErrors> {
    parse_bytes(
        path.file_name().unwrap().to_str().unwrap(),
        &fs::read(path).unwrap(),
    )
}

fn refusal(path: &Path) -> ManifestErrors {
    match read(path) {
        Ok(_) => panic!("{} is taken for a good manifest", path.display()),
        Err(errors) => errors,
    }
}

fn misfit(path: &Path) -> ManifestErrors {
    read(path).unwrap().fit(&SMALL).unwrap_err()
}

fn unassignable_of(path: &Path) -> ManifestErrors {
    let inventory = inventory();
    let groups = Groups::new(&inventory);
    let plan = read(path).unwrap();
    plan.assign(&inventory, &groups).unwrap_err()
}

/// Compares with the text beside the manifest, or writes it.
fn check_text(path: &Path, errors: &ManifestErrors, differing: &mut Vec<String>) {
    let beside = path.with_extension("txt");
    let text = errors.to_string();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&beside, &text).unwrap();
    }
    let expected = fs::read_to_string(&beside).unwrap_or_default();
    if text != expected {
        differing.push(format!(
            "{}:\n--- expected\n{expected}\n--- got\n{text}",
            path.display()
        ));
    }
}

#[test]
fn every_bad_manifest_is_refused_with_the_text_beside_it() {
    let mut differing = Vec::new();
    for path in manifests("bad") {
        check_text(&path, &refusal(&path), &mut differing);
    }
    for path in manifests("misfit") {
        check_text(&path, &misfit(&path), &mut differing);
    }
    for path in manifests("unassignable") {
        check_text(&path, &unassignable_of(&path), &mut differing);
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn every_complaint_says_where_what_and_what_instead() {
    for path in manifests("bad") {
        let errors = refusal(&path);
        assert!(errors.count() > 0);
        for error in errors.errors() {
            let at = path.display();
            assert!(error.line > 0 && error.column > 0, "{at}");
            assert!(!error.found.is_empty(), "{at}: {}", error.kind.name());
            assert!(!error.expected.is_empty(), "{at}: {}", error.kind.name());
        }
        let text = errors.to_string();
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{}",
            path.display()
        );
    }
}

#[test]
fn every_kind_of_complaint_has_a_manifest() {
    let bad = manifests("bad").into_iter().map(|path| refusal(&path));
    let unassignable = manifests("unassignable");
    let unassignable = unassignable.into_iter().map(|path| unassignable_of(&path));
    let misfits = manifests("misfit").into_iter().map(|path| misfit(&path));
    let seen: BTreeSet<ErrorKind> = bad
        .chain(misfits)
        .chain(unassignable)
        .flat_map(|errors| {
            errors
                .errors()
                .iter()
                .map(|error| error.kind)
                .collect::<Vec<_>>()
        })
        .collect();
    // These come of something else than a manifest, and have their own tests below.
    let elsewhere = [
        ErrorKind::TooLarge,
        ErrorKind::PayloadMissing,
        ErrorKind::PayloadUnreadable,
        ErrorKind::PayloadDigest,
        ErrorKind::PayloadRejected,
    ];
    let missing: Vec<_> = ErrorKind::ALL
        .iter()
        .filter(|kind| !seen.contains(kind) && !elsewhere.contains(kind))
        .collect();
    assert!(missing.is_empty(), "no manifest shows {missing:?}");
    assert!(seen.len() >= 30);
}

#[test]
fn the_names_of_kinds_are_unique() {
    let names: BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), ErrorKind::ALL.len());
}

#[test]
fn a_manifest_of_the_largest_size_is_read_and_one_byte_more_is_not() {
    let mut text = fs::read_to_string(directory("good").join("minimal.toml")).unwrap();
    text.push('#');
    text.extend(std::iter::repeat_n('x', MAX_BYTES - text.len()));
    assert!(parse("t", &text).is_ok());
    text.push('x');
    for refused in [parse("t", &text), parse_bytes("t", text.as_bytes())] {
        let errors = refused.unwrap_err();
        assert_eq!(errors.errors()[0].kind, ErrorKind::TooLarge);
        assert_eq!(errors.errors()[0].found, "a file of 65537 bytes");
    }
}

/// UEFI promises an application 128 KiB of stack (UEFI specification, "Calling Conventions", "x64 Platforms").
#[test]
fn the_deepest_nesting_is_read_with_half_of_the_firmwares_stack() {
    let parse_on_small_stack = |open: &str, close: &str, depth: usize| {
        let text = format!(
            "version = 1\nvm = {}1{}\n",
            open.repeat(depth),
            close.repeat(depth)
        );
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let parsing = thread.spawn(move || parse("t", &text).unwrap_err().errors()[0].kind);
        parsing.unwrap().join().unwrap()
    };
    for (open, close) in [("[", "]"), ("{a=", "}"), ("[{a=", "}]")] {
        // Deep, and TOML all the same: what is wrong is only what it says.
        assert_ne!(parse_on_small_stack(open, close, 39), ErrorKind::Syntax);
        assert_eq!(parse_on_small_stack(open, close, 10_000), ErrorKind::Syntax);
    }
    assert_ne!(parse_on_small_stack("[", "]", 79), ErrorKind::Syntax);
    assert_ne!(parse_on_small_stack("{a=", "}", 79), ErrorKind::Syntax);
}

#[test]
fn a_minimal_manifest_gets_the_documented_defaults() {
    let plan = read(&directory("good").join("minimal.toml")).unwrap();
    assert_eq!(
        plan.hypervisor,
        HypervisorOptions {
            console: Console::Both,
            log_level: LogLevel::Info,
            iommu: IommuPolicy::Auto,
            apicv: ApicVirtualization::Auto,
            mbec: Feature::Auto,
            vmfunc: Feature::Auto,
            smt: SmtPolicy::Isolate,
            root_key: RootKeySource::Ephemeral,
            reseal: None,
            selftest: SelfTest::None,
        }
    );
    let [vm] = plan.vms.as_slice() else {
        panic!("{} VMs", plan.vms.len())
    };
    assert_eq!(vm.name.as_str(), "demo");
    assert_eq!(vm.kernel.path.as_str(), "vmlinuz");
    assert_eq!(
        (vm.kernel.sha256, vm.kernel.format),
        (None, KernelFormat::Auto)
    );
    assert_eq!(vm.initrd, None);
    assert_eq!(vm.cmdline, "");
    assert_eq!(vm.memory, ByteSize(256 << 20));
    assert_eq!((vm.vcpus, &vm.cpus), (1, &None));
    assert_eq!((vm.weight, vm.cap), (100, None));
    assert_eq!((vm.console, vm.autostart), (VmConsole::Serial, true));
    assert_eq!(vm.restart, RestartPolicy::OnCrash);
    assert_eq!(vm.stop_timeout, Duration::from_secs(30));
    assert_eq!((vm.disks.len(), vm.nics.len()), (0, 0));
    assert!(vm.devices.is_empty());
    assert_eq!(plan.file_name(), "minimal.toml");
}

#[test]
fn every_key_arrives_in_the_plan() {
    let plan = read(&directory("good").join("everything.toml")).unwrap();
    assert_eq!(
        plan.hypervisor,
        HypervisorOptions {
            console: Console::Serial,
            log_level: LogLevel::Trace,
            iommu: IommuPolicy::Required,
            apicv: ApicVirtualization::Off,
            mbec: Feature::Off,
            vmfunc: Feature::Off,
            smt: SmtPolicy::Share,
            root_key: RootKeySource::Tpm,
            reseal: Some(SealId(0x1f3a_9c02)),
            selftest: SelfTest::WriteCode,
        }
    );
    let digest =
        Sha256Digest::parse("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
            .unwrap();
    let [first, second] = plan.vms.as_slice() else {
        panic!("{} VMs", plan.vms.len())
    };
    assert_eq!(first.kernel.path.as_str(), "boot/vmlinuz-6.1.0");
    assert_eq!(
        (first.kernel.sha256, first.kernel.format),
        (Some(digest), KernelFormat::BzImage)
    );
    let initrd = first.initrd.as_ref().unwrap();
    assert_eq!(
        (initrd.path.as_str(), initrd.sha256),
        ("boot/initrd.img", Some(digest))
    );
    assert_eq!(first.cmdline, "console=ttyS0 panic=1");
    assert_eq!((first.memory, first.vcpus), (ByteSize(1 << 30), 4));
    assert_eq!(first.cpus, Some(vec![0, 1, 2, 3]));
    assert_eq!((first.weight, first.cap), (10_000, Some(25)));
    assert_eq!((first.console, first.autostart), (VmConsole::Virtio, false));
    assert_eq!(first.restart, RestartPolicy::Always);
    assert_eq!(first.stop_timeout, Duration::from_secs(3600));
    assert_eq!(
        first.encryption,
        Encryption::Window {
            size: ByteSize(16 << 20),
            samples: 1000
        }
    );
    assert_eq!(second.encryption, Encryption::Off);
    assert_eq!((first.split, second.split), (false, true));
    assert_eq!((first.split_unaided, second.split_unaided), (false, true));
    assert_eq!((first.split_private, second.split_private), (0, 64));
    assert_eq!((first.split_samples, second.split_samples), (0, 100));
    let [system, site] = first.disks.as_slice() else {
        panic!("{} disks", first.disks.len())
    };
    assert_eq!(
        (system.image.path.as_str(), system.image.sha256),
        ("root.img", None)
    );
    assert_eq!(
        (system.mode, system.overlay),
        (DiskMode::CopyOnWrite, ByteSize(2 << 20))
    );
    assert_eq!(
        (site.image.path.as_str(), site.image.sha256),
        ("data/site.img", Some(digest))
    );
    assert_eq!((site.mode, site.overlay), (DiskMode::ReadOnly, ByteSize(0)));
    let [nic] = first.nics.as_slice() else {
        panic!("{} NICs", first.nics.len())
    };
    assert_eq!(nic.segment.as_str(), "lan");
    assert_eq!(nic.mac.octets(), [0x52, 0x54, 0, 0xab, 0xcd, 0x0f]);
    assert_eq!(
        (nic.spoofing, nic.rate_limit),
        (Spoofing::Allow, Some(BitRate(10_000_000)))
    );
    assert_eq!(
        (second.kernel.path.as_str(), second.kernel.format),
        ("guest.elf", KernelFormat::Elf)
    );
    assert_eq!(second.initrd.as_ref().unwrap().path.as_str(), "initrd.img");
    assert_eq!((second.memory, second.vcpus), (ByteSize(64 << 20), 2));
    assert_eq!(second.restart, RestartPolicy::Never);
    let [lan, lonely] = second.nics.as_slice() else {
        panic!("{} NICs", second.nics.len())
    };
    assert_eq!(lan.segment, nic.segment);
    assert_ne!(lonely.segment, nic.segment);
    assert_ne!(lan.mac, lonely.mac);
    assert_eq!((lan.spoofing, lan.rate_limit), (Spoofing::Deny, None));
    let names: Vec<_> = second.devices.iter().map(|device| device.name).collect();
    let class = ClassPattern::parse("0200");
    let id = DeviceId::parse("8086:10d3").unwrap();
    assert_eq!(
        names,
        [
            DeviceName::Address(Address::new(0, 3, 0, 1).unwrap()),
            DeviceName::Id { id, class }
        ]
    );
    assert_eq!(plan.total_memory(), ByteSize(1090 << 20));
}

#[test]
fn devices_are_found_by_place_and_by_kind() {
    let text = fs::read_to_string(directory("good").join("minimal.toml")).unwrap();
    let device = |line| format!("[[vm.device]]\n{line}\n");
    let lines = [
        "address = \"00:03.0\"",
        "id = \"8086:10d3\"\nclass = \"0200\"",
        "id = \"10ec:8169\"",
        "address = \"0000:01:00.0\"",
    ];
    let text = text + &lines.map(device).concat();
    let inventory = inventory();
    let plan = parse("t", &text).unwrap();
    let assigned = plan.assign(&inventory, &Groups::new(&inventory)).unwrap();
    let expected = ["00:03.0", "00:02.0", "01:00.1", "01:00.0"];
    assert_eq!(
        assigned,
        [expected
            .map(|place| Address::parse(place).unwrap())
            .to_vec()]
    );
    let empty = Inventory::default();
    let errors = plan.assign(&empty, &Groups::new(&empty)).unwrap_err();
    assert_eq!(errors.count(), 4);
}

#[test]
fn a_disk_that_says_nothing_of_it_is_copied_on_write() {
    let minimal = fs::read_to_string(directory("good").join("minimal.toml")).unwrap();
    let plan = parse(
        "t",
        &format!("{minimal}disk = [{{ image = \"root.img\" }}]\n"),
    )
    .unwrap();
    let disk = &plan.vms[0].disks[0];
    assert_eq!(
        (disk.mode, disk.overlay),
        (DiskMode::CopyOnWrite, ByteSize(64 << 20))
    );
    assert_eq!(plan.total_memory(), ByteSize(320 << 20));
}

#[test]
fn the_file_of_a_disk_is_whole_sectors() {
    assert_eq!(check_disk_image(512), Ok(()));
    assert_eq!(check_disk_image(1 << 40), Ok(()));
    assert_eq!(check_disk_image(0), Err(DiskImageFault::Empty));
    assert_eq!(check_disk_image(1025), Err(DiskImageFault::PartOfSector(1)));
}

#[test]
fn tables_may_be_inline_and_lines_may_end_as_on_windows() {
    for name in ["inline.toml", "crlf.toml"] {
        let plan = read(&directory("good").join(name)).unwrap();
        assert_eq!(plan.vms[0].name.as_str(), "demo", "{name}");
    }
}

#[test]
fn a_plan_fits_a_machine_that_has_just_enough() {
    let plan = read(&directory("good").join("everything.toml")).unwrap();
    let enough = MachineFacts {
        ram_bytes: 1090 << 20,
        cpus: 5,
    };
    assert_eq!(plan.fit(&enough), Ok(()));
    let kinds = |machine| -> Vec<_> {
        let errors: ManifestErrors = plan.fit(&machine).unwrap_err();
        errors
            .errors()
            .iter()
            .map(|error| (error.kind, error.line))
            .collect()
    };
    assert_eq!(
        kinds(MachineFacts {
            ram_bytes: enough.ram_bytes - 1,
            ..enough
        }),
        [(ErrorKind::MachineMemory, 51)]
    );
    // The first VM has four CPUs to itself, and the second needs one more.
    assert_eq!(
        kinds(MachineFacts { cpus: 4, ..enough }),
        [(ErrorKind::MachineNoCpuLeft, 50)]
    );
    assert_eq!(
        kinds(MachineFacts { cpus: 3, ..enough }),
        [
            (ErrorKind::MachineCpu, 23),
            (ErrorKind::MachineNoCpuLeft, 50)
        ]
    );
}

#[test]
fn a_problem_with_a_payload_is_told_at_the_line_that_names_it() {
    let plan = read(&directory("good").join("everything.toml")).unwrap();
    let [first, second] = plan.vms.as_slice() else {
        panic!("{} VMs", plan.vms.len())
    };
    let told = |vm, role, problem| {
        let errors = plan.payload_error(vm, role, problem);
        let error = &errors.errors()[0];
        (
            error.kind,
            error.line,
            error.column,
            error.found.clone(),
            error.expected.clone(),
        )
    };
    let missing = told(first, PayloadRole::Kernel, PayloadProblem::Missing);
    assert_eq!(
        (missing.0, missing.1, missing.2),
        (ErrorKind::PayloadMissing, 18, 10)
    );
    assert!(
        missing.3.contains("\"boot/vmlinuz-6.1.0\""),
        "{}",
        missing.3
    );
    let unreadable = told(
        second,
        PayloadRole::Initrd,
        PayloadProblem::Unreadable(&"device error"),
    );
    assert_eq!(
        (unreadable.0, unreadable.1),
        (ErrorKind::PayloadUnreadable, 62)
    );
    assert!(unreadable.3.contains("device error"), "{}", unreadable.3);
    let wrong = told(
        first,
        PayloadRole::Initrd,
        PayloadProblem::WrongDigest(Sha256Digest([0xab; 32])),
    );
    assert_eq!((wrong.0, wrong.1), (ErrorKind::PayloadDigest, 19));
    assert!(wrong.3.contains(&"ab".repeat(32)), "{}", wrong.3);
    assert!(wrong.4.contains("e3b0c442"), "{}", wrong.4);
    let rejected = told(
        second,
        PayloadRole::Kernel,
        PayloadProblem::Rejected(&"no ELF header"),
    );
    assert_eq!((rejected.0, rejected.1), (ErrorKind::PayloadRejected, 59));
    assert!(rejected.3.contains("no ELF header"), "{}", rejected.3);
    let disk = told(
        first,
        PayloadRole::Disk(1),
        PayloadProblem::Rejected(&DiskImageFault::Empty),
    );
    assert_eq!((disk.0, disk.1), (ErrorKind::PayloadRejected, 39));
    assert!(disk.3.contains("\"data/site.img\""), "{}", disk.3);
}
