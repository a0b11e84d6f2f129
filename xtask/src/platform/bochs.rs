//! Bochs: its configuration file and how it is started.

use std::fs;
use std::process::Command;

use super::{Machine, Medium};
use crate::error::{Error, IoContext, Result};
use crate::provision::bochs::Bochs;

/// The oldest model with everything Bulkhead uses of VT-x.
const CPU_MODEL: &str = "tigerlake";
/// Instructions that make a second of the emulated machine's time.
const INSTRUCTIONS_PER_SECOND: u32 = 100_000_000;
/// Where the 4 MiB firmware ends just below 4 GiB.
const FIRMWARE_ADDRESS: &str = "0xffc00000";
/// The most memory Bochs' chipset can have, in MiB.
const MAX_MEMORY_MIB: u64 = 8192;
/// What the display takes its terminal for; Debian's essential packages describe it.
const TERMINAL: &str = "linux";
/// The clock's start in runs that are compared: 1 January 2025, 00:00 UTC.
const FIXED_TIME: &str = "1735689600";

/// Writes the configuration of `machine` into its directory and returns the command that starts it.
///
/// # Errors
/// When Bochs cannot have such a machine, or a file cannot be written.
pub fn command(bochs: &Bochs, machine: &Machine) -> Result<Command> {
    let configuration = configuration(bochs, machine)?;
    let file = machine.dir.join("bochsrc");
    fs::write(&file, configuration).context("write", &file)?;
    // Debian's build carries the debugger, which waits for a command before it starts the machine.
    let script = machine.dir.join("bochs.debugger");
    fs::write(&script, "c\n").context("write", &script)?;
    if let Medium::Disk(image) = &machine.medium {
        let mut lock = image.as_os_str().to_os_string();
        lock.push(".lock");
        // A killed emulator leaves its lock behind; there is usually none.
        let _ = fs::remove_file(lock);
    }
    let mut command = bochs.command();
    // The display is a pseudo-terminal, which `session::screen` empties: the other display that needs no screen is a VNC
    // server, open to the whole network.
    command.env("TERM", TERMINAL);
    command.arg("-q").arg("-f").arg(file).arg("-rc").arg(script);
    Ok(command)
}

/// Whether the machine ended by ACPI power-off, for which Bochs has exit status 1.
pub fn powered_off(machine: &Machine) -> bool {
    let log = fs::read(machine.dir.join("bochs.log")).unwrap_or_default();
    String::from_utf8_lossy(&log).contains("soft power off")
}

fn configuration(bochs: &Bochs, machine: &Machine) -> Result<String> {
    let Medium::Disk(image) = &machine.medium else {
        return Err(Error::BadCall(
            "Bochs cannot boot over PXE; use --platform qemu-tcg".to_owned(),
        ));
    };
    if !machine.equipment.devices.is_empty() || machine.equipment.tpm.is_some() {
        return Err(Error::BadCall(
            "Bochs has none of the devices asked for; use --platform qemu-tcg".to_owned(),
        ));
    }
    let memory = machine.memory_mib;
    if memory > MAX_MEMORY_MIB {
        return Err(Error::BadCall(format!(
            "Bochs machines have at most {MAX_MEMORY_MIB} MiB of memory"
        )));
    }
    let cpus = machine.cpus;
    let time = if machine.fixed_clock {
        FIXED_TIME
    } else {
        "utc"
    };
    Ok(format!(
        "config_interface: textconfig\n\
         display_library: term\n\
         cpu: model={CPU_MODEL}, count={cpus}, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0\n\
         memory: guest={memory}, host={memory}\n\
         romimage: file=\"{firmware}\", address={FIRMWARE_ADDRESS}\n\
         vgaromimage: file=\"{vga}\"\n\
         fw_cfg: enabled=1\n\
         pci: enabled=1, chipset=i440fx\n\
         clock: sync=none, time0={time}\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, mode=flat, path=\"{image}\"\n\
         boot: disk\n\
         com1: enabled=1, mode=socket-client, dev=\"127.0.0.1:{port}\"\n\
         com2: enabled=1, mode=file, dev=\"{events}\"\n\
         log: \"{log}\"\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         speaker: enabled=0\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=report\n\
         debug: action=ignore\n",
        firmware = bochs.firmware().display(),
        vga = bochs.vga_bios().display(),
        image = image.display(),
        port = machine.console_port,
        events = machine.events().display(),
        log = machine.dir.join("bochs.log").display(),
    ))
}
