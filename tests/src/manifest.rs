//! Manifests of scenarios, written as a person would: one VM ([`Manifest`]), or several ([`Group`]).

use std::fmt::{self, Write as _};

use sha2::{Digest, Sha256};

/// One VM's part of a manifest; [`fmt::Display`] writes the whole manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The VM's name.
    pub name: &'static str,
    /// The kernel's path.
    pub kernel: String,
    /// Further keys of the kernel's table, such as `format = "flat"`.
    pub kernel_keys: String,
    /// The RAM disk's path.
    pub initrd: Option<String>,
    /// The command line.
    pub cmdline: String,
    /// The VM's memory.
    pub memory: &'static str,
    /// What happens when it stops.
    pub restart: &'static str,
    /// Lines of `[hypervisor]`.
    pub hypervisor: &'static str,
    /// Further lines of the VM's table, such as `vcpus = 2`.
    pub keys: String,
    /// Its disks and network cards, with their headers.
    pub devices: String,
    /// The images of its disks.
    pub images: Vec<&'static str>,
}

impl Manifest {
    /// A VM of 32 MiB that boots `kernel` and is not started again.
    pub fn of(kernel: impl Into<String>) -> Self {
        Self {
            name: "guest",
            kernel: kernel.into(),
            kernel_keys: String::new(),
            initrd: None,
            cmdline: String::new(),
            memory: "32M",
            restart: "never",
            hypervisor: "",
            keys: String::new(),
            devices: String::new(),
            images: Vec::new(),
        }
    }

    /// The same, called `name`.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// The same, started again as `restart` says.
    pub fn restarting(mut self, restart: &'static str) -> Self {
        self.restart = restart;
        self
    }

    /// The same with a further `line` in the VM's table.
    pub fn with(mut self, line: &str) -> Self {
        self.keys.push_str(line);
        self.keys.push('\n');
        self
    }

    /// The same with a disk: the image of this name in the scenario's directory, and further `keys` of the disk's table.
    pub fn with_disk(mut self, image: &'static str, keys: &str) -> Self {
        self.devices
            .push_str(&format!("\n[[vm.disk]]\nimage = \"{image}\"\n{keys}\n"));
        self.images.push(image);
        self
    }

    /// The same with a network card on `segment`, and further `keys` of the card's table.
    pub fn with_nic(mut self, segment: &str, keys: &str) -> Self {
        self.devices
            .push_str(&format!("\n[[vm.nic]]\nsegment = \"{segment}\"\n{keys}\n"));
        self
    }

    /// The same with the command line `cmdline`.
    pub fn with_cmdline(mut self, cmdline: impl Into<String>) -> Self {
        self.cmdline = cmdline.into();
        self
    }

    /// The same, telling `keys` about the kernel.
    pub fn with_kernel_keys(mut self, keys: impl Into<String>) -> Self {
        self.kernel_keys = keys.into();
        self
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_head(f, self.hypervisor)?;
        self.write_vm(f)
    }
}

impl Manifest {
    fn write_vm(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            kernel,
            kernel_keys,
            initrd,
            cmdline,
            memory,
            restart,
            keys,
            devices,
            ..
        } = self;
        writeln!(f, "[[vm]]\nname = \"{name}\"")?;
        let separator = if kernel_keys.is_empty() { "" } else { ", " };
        writeln!(
            f,
            "kernel = {{ path = \"{kernel}\"{separator}{kernel_keys} }}"
        )?;
        if let Some(initrd) = initrd {
            writeln!(f, "initrd = \"{initrd}\"")?;
        }
        writeln!(f, "cmdline = \"{cmdline}\"")?;
        writeln!(f, "memory = \"{memory}\"\nrestart = \"{restart}\"")?;
        f.write_str(keys)?;
        f.write_str(devices)
    }
}

/// Several VMs, the first of them in front at the console.
#[derive(Debug, Clone)]
pub struct Group {
    /// The VMs; what they say of the hypervisor does not count.
    pub vms: Vec<Manifest>,
    /// Lines of `[hypervisor]`.
    pub hypervisor: &'static str,
}

impl Group {
    /// These VMs.
    pub fn of(vms: impl Into<Vec<Manifest>>) -> Self {
        Self {
            vms: vms.into(),
            hypervisor: "",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_head(f, self.hypervisor)?;
        for (index, vm) in self.vms.iter().enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            vm.write_vm(f)?;
        }
        Ok(())
    }
}

fn write_head(f: &mut fmt::Formatter<'_>, hypervisor: &str) -> fmt::Result {
    f.write_str("version = 1\n\n")?;
    if !hypervisor.is_empty() {
        writeln!(f, "[hypervisor]\n{hypervisor}\n")?;
    }
    Ok(())
}

/// `content`'s SHA-256 in hexadecimal, as manifests name it.
pub fn sha256(content: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(content) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_a_manifest() {
        let text = Manifest::of("hello.elf")
            .with_kernel_keys("format = \"elf\"")
            .with_cmdline("name=tests")
            .to_string();
        let expected = "version = 1\n\n[[vm]]\nname = \"guest\"\n\
            kernel = { path = \"hello.elf\", format = \"elf\" }\ncmdline = \"name=tests\"\n\
            memory = \"32M\"\nrestart = \"never\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn several_vms_are_written_one_after_the_other() {
        let group = Group::of([
            Manifest::of("a.elf").named("a").with("vcpus = 2"),
            Manifest::of("b.elf")
                .named("b")
                .with_nic("lan", "")
                .with_disk("d.img", "mode = \"read-only\""),
        ]);
        let expected = "version = 1\n\n[[vm]]\nname = \"a\"\nkernel = { path = \"a.elf\" }\ncmdline = \"\"\n\
            memory = \"32M\"\nrestart = \"never\"\nvcpus = 2\n\n\
            [[vm]]\nname = \"b\"\nkernel = { path = \"b.elf\" }\ncmdline = \"\"\n\
            memory = \"32M\"\nrestart = \"never\"\n\n[[vm.nic]]\nsegment = \"lan\"\n\n\
            \n[[vm.disk]]\nimage = \"d.img\"\nmode = \"read-only\"\n";
        assert_eq!(group.to_string(), expected);
    }

    #[test]
    fn digests_are_written_as_sha256sum_does() {
        assert!(sha256(b"").starts_with("e3b0c44298fc1c14"));
    }
}
