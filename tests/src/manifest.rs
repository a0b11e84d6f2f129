//! Manifests of scenarios: one VM each, written as a person would.

use std::fmt::{self, Write as _};

use sha2::{Digest, Sha256};

/// One VM's part of a manifest; [`fmt::Display`] writes the whole manifest.
#[derive(Debug, Clone)]
pub struct Manifest {
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
}

impl Manifest {
    /// A VM of 32 MiB that boots `kernel` and is not started again.
    pub fn of(kernel: impl Into<String>) -> Self {
        Self {
            kernel: kernel.into(),
            kernel_keys: String::new(),
            initrd: None,
            cmdline: String::new(),
            memory: "32M",
            restart: "never",
            hypervisor: "",
        }
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
        let Self {
            kernel,
            kernel_keys,
            initrd,
            cmdline,
            memory,
            restart,
            hypervisor,
        } = self;
        f.write_str("version = 1\n\n")?;
        if !hypervisor.is_empty() {
            writeln!(f, "[hypervisor]\n{hypervisor}\n")?;
        }
        f.write_str("[[vm]]\nname = \"guest\"\n")?;
        let separator = if kernel_keys.is_empty() { "" } else { ", " };
        writeln!(
            f,
            "kernel = {{ path = \"{kernel}\"{separator}{kernel_keys} }}"
        )?;
        if let Some(initrd) = initrd {
            writeln!(f, "initrd = \"{initrd}\"")?;
        }
        writeln!(f, "cmdline = \"{cmdline}\"")?;
        writeln!(f, "memory = \"{memory}\"\nrestart = \"{restart}\"")
    }
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
    fn digests_are_written_as_sha256sum_does() {
        assert!(sha256(b"").starts_with("e3b0c44298fc1c14"));
    }
}
