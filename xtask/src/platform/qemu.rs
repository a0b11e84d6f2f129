//! QEMU, with KVM where VT-x nests and with its own emulation for what needs VT-d, USB or PXE.

use std::process::Command;

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

/// The clock's start in runs that are compared.
const FIXED_TIME: &str = "2025-01-01T00:00:00";

/// The command that starts `machine`.
///
/// # Errors
/// When the firmware's variable store cannot be copied.
pub fn command(qemu: &Qemu, accelerator: Accelerator, machine: &Machine) -> Result<Command> {
    let variables = machine.dir.join("OVMF_VARS.fd");
    std::fs::copy(qemu.firmware_variables(), &variables).context("write", &variables)?;
    let mut command = qemu.command();
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
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host,+vmx"),
        Accelerator::Tcg => ("tcg", "max"),
    };
    add(
        "-machine",
        format!("q35,accel={accel},kernel-irqchip=split"),
    );
    add("-cpu", cpu.to_owned());
    add("-smp", machine.cpus.to_string());
    add("-m", format!("{}M", machine.memory_mib));
    add(
        "-device",
        "intel-iommu,intremap=on,caching-mode=on".to_owned(),
    );
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
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn machine(medium: Medium) -> Machine {
        Machine {
            cpus: 2,
            memory_mib: 1024,
            medium,
            dir: PathBuf::from("run"),
            console_port: 4321,
            fixed_clock: true,
        }
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
