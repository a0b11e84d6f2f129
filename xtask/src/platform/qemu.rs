//! QEMU, with KVM where VT-x nests and with its own emulation for what needs VT-d, USB or PXE.

use std::fs::File;
use std::process::Command;

use super::equipment::{Device, TpmState};
use super::{Machine, Medium};
use crate::error::{IoContext, Result};
use crate::provision::qemu::Qemu;

/// What executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's VT-x.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// All that QEMU's can of what Bulkhead uses: interrupts too, to x2APIC ids, and tables of four levels.
const IOMMU: &str = "intel-iommu,intremap=on,eim=on,caching-mode=on,aw-bits=48";
/// The clock's start in runs that are compared.
const FIXED_TIME: &str = "2025-01-01T00:00:00";

/// The command that starts `machine`.
///
/// # Errors
/// When the firmware's variable store cannot be copied, or a disk cannot be made.
pub fn command(qemu: &Qemu, accelerator: Accelerator, machine: &Machine) -> Result<Command> {
    let variables = machine.variables();
    if machine.equipment.tpm != Some(TpmState::Kept) || !variables.exists() {
        std::fs::copy(qemu.firmware_variables(), &variables).context("write", &variables)?;
    }
    for bytes in machine
        .equipment
        .devices
        .iter()
        .filter_map(|device| device.disk_bytes())
    {
        let image = machine.nvme_image();
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .context("write", &image)?;
    }
    let mut command = qemu.command();
    // The TPM's socket is named by a path from here.
    command.current_dir(&machine.dir);
    command.args(arguments(accelerator, machine));
    command.arg("-drive").arg(format!(
        "if=pflash,format=raw,readonly=on,file={}",
        qemu.firmware_code().display()
    ));
    command
        .arg("-drive")
        .arg(format!("if=pflash,format=raw,file={}", variables.display()));
    Ok(command)
}

fn arguments(accelerator: Accelerator, machine: &Machine) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    // The firmware would turn on paging with five levels, which Bulkhead refuses by name.
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host,+vmx,la57=off"),
        Accelerator::Tcg => ("tcg", "max,la57=off"),
    };
    add(
        "-machine",
        format!("q35,accel={accel},kernel-irqchip=split"),
    );
    add("-cpu", cpu.to_owned());
    add("-smp", machine.cpus.to_string());
    add("-m", format!("{}M", machine.memory_mib));
    if machine.equipment.iommu {
        add("-device", IOMMU.to_owned());
        add("-trace", "vtd_dmar_fault".to_owned());
        add("-D", machine.refusals().display().to_string());
    }
    add("-display", "none".to_owned());
    add("-monitor", "none".to_owned());
    add(
        "-rtc",
        if machine.fixed_clock {
            format!("base={FIXED_TIME}")
        } else {
            "base=utc".to_owned()
        },
    );
    add(
        "-chardev",
        format!(
            "socket,id=console,host=127.0.0.1,port={}",
            machine.console_port
        ),
    );
    add("-serial", "chardev:console".to_owned());
    add("-serial", format!("file:{}", machine.events().display()));
    match &machine.medium {
        Medium::Disk(image) => {
            add("-nic", "none".to_owned());
            add("-device", "qemu-xhci".to_owned());
            add(
                "-drive",
                format!("if=none,id=stick,format=raw,file={}", image.display()),
            );
            add("-device", "usb-storage,drive=stick,bootindex=0".to_owned());
        }
        Medium::Tftp(dir) => {
            add(
                "-netdev",
                format!("user,id=net,tftp={},bootfile=bulkhead.efi", dir.display()),
            );
            add(
                "-device",
                "virtio-net-pci,netdev=net,bootindex=0,romfile=".to_owned(),
            );
        }
    }
    if machine.equipment.tpm.is_some() {
        let socket = Machine::TPM_SOCKET;
        add("-chardev", format!("socket,id=tpm,path={socket}"));
        add("-tpmdev", "emulator,id=tpm0,chardev=tpm".to_owned());
        add("-device", "tpm-crb,tpmdev=tpm0".to_owned());
    }
    for device in machine.equipment.devices {
        arguments.extend(device_arguments(*device, machine));
    }
    arguments
}

/// The options that put `device` into `machine`.
fn device_arguments(device: Device, machine: &Machine) -> Vec<String> {
    let slot = device.slot();
    let port = |behind: String| {
        vec![
            "-device".to_owned(),
            format!("pcie-root-port,id=port{slot},bus=pcie.0,addr={slot:#x},chassis={slot}"),
            "-device".to_owned(),
            format!("{behind},bus=port{slot}"),
        ]
    };
    match device {
        Device::Edu => vec![
            "-device".to_owned(),
            format!("edu,bus=pcie.0,addr={slot:#x},dma_mask=0xffffffffffffffff"),
        ],
        Device::Nic => {
            let mut arguments = vec!["-netdev".to_owned(), "user,id=lan,restrict=on".to_owned()];
            arguments.extend(port("e1000e,netdev=lan,romfile=".to_owned()));
            arguments
        }
        Device::Nvme => {
            let image = machine.nvme_image();
            let drive = format!("if=none,id=nvme,format=raw,file={}", image.display());
            let mut arguments = vec!["-drive".to_owned(), drive];
            arguments.extend(port("nvme,drive=nvme,serial=bulkhead".to_owned()));
            arguments
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::equipment::Equipment;
    use std::path::PathBuf;

    fn machine(medium: Medium) -> Machine {
        Machine {
            cpus: 2,
            memory_mib: 1024,
            medium,
            dir: PathBuf::from("run"),
            console_port: 4321,
            fixed_clock: true,
            equipment: Equipment::default(),
        }
    }

    #[test]
    fn devices_stand_where_tests_look_for_them_and_none_stands_without_being_asked_for() {
        let mut machine = machine(Medium::Disk("a.img".into()));
        let plain = arguments(Accelerator::Tcg, &machine).join(" ");
        assert!(
            plain.contains("eim=on") && plain.contains("-D run/iommu.log"),
            "{plain}"
        );
        assert!(
            !plain.contains("edu") && !plain.contains("pcie-root-port"),
            "{plain}"
        );
        machine.equipment.devices = &[Device::Edu, Device::Nic, Device::Nvme];
        let line = arguments(Accelerator::Tcg, &machine).join(" ");
        assert!(
            line.contains("edu,bus=pcie.0,addr=0x10,dma_mask=0xffffffffffffffff"),
            "{line}"
        );
        assert!(
            line.contains("e1000e,netdev=lan,romfile=,bus=port17"),
            "{line}"
        );
        assert!(
            line.contains("file=run/nvme.img") && line.contains("bus=port18"),
            "{line}"
        );
        assert_eq!(line.matches("pcie-root-port").count(), 2, "{line}");
    }

    #[test]
    fn a_tpm_stands_only_where_it_is_asked_for() {
        let mut machine = machine(Medium::Disk("a.img".into()));
        let plain = arguments(Accelerator::Tcg, &machine).join(" ");
        assert!(!plain.contains("tpm"), "{plain}");
        machine.equipment.tpm = Some(TpmState::New);
        let line = arguments(Accelerator::Tcg, &machine).join(" ");
        assert!(
            line.contains("path=tpm.sock") && line.contains("tpm-crb,tpmdev=tpm0"),
            "{line}"
        );
    }

    #[test]
    fn a_machine_may_have_no_iommu() {
        let mut machine = machine(Medium::Disk("a.img".into()));
        machine.equipment.iommu = false;
        let line = arguments(Accelerator::Tcg, &machine).join(" ");
        assert!(!line.contains("iommu"), "{line}");
    }

    #[test]
    fn a_disk_is_a_usb_stick_on_a_machine_without_a_network() {
        let line = arguments(Accelerator::Tcg, &machine(Medium::Disk("a.img".into()))).join(" ");
        assert!(
            line.contains("usb-storage")
                && line.contains("-nic none")
                && line.contains("accel=tcg"),
            "{line}"
        );
        assert!(
            line.contains("port=4321") && line.contains("file:run/events.jsonl"),
            "{line}"
        );
    }

    #[test]
    fn a_directory_is_served_over_tftp() {
        let line = arguments(Accelerator::Kvm, &machine(Medium::Tftp("boot".into()))).join(" ");
        assert!(
            line.contains("tftp=boot,bootfile=bulkhead.efi") && line.contains("+vmx"),
            "{line}"
        );
        assert!(!line.contains("usb-storage"));
    }
}
