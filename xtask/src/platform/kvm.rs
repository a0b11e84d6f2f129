//! Whether this machine can host KVM guests that use VT-x themselves.

use std::fs;
use std::path::Path;

/// What decides. The device node alone proves nothing: a software KVM has one and cannot nest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `/proc/cpuinfo` shows `vmx`.
    pub vmx: bool,
    /// What `kvm_intel`'s `nested` parameter says, when the module is loaded.
    pub nested: Option<String>,
    /// `/dev/kvm` can be opened for reading and writing.
    pub node: bool,
}

impl Facts {
    /// Looks at this machine.
    #[must_use]
    pub fn gather() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let nested = fs::read_to_string("/sys/module/kvm_intel/parameters/nested").ok();
        Self {
            vmx: has_vmx(&cpuinfo),
            nested: nested.map(|text| text.trim().to_owned()),
            node: fs::File::options()
                .read(true)
                .write(true)
                .open(Path::new("/dev/kvm"))
                .is_ok(),
        }
    }

    /// Why KVM cannot be used, or `None` when it can.
    #[must_use]
    pub fn obstacle(&self) -> Option<&'static str> {
        match (self.vmx, self.nested.as_deref(), self.node) {
            (false, ..) => Some("/proc/cpuinfo shows no vmx flag"),
            (_, None, _) => Some("the kvm_intel module is not loaded"),
            (_, Some(nested), _) if nested != "Y" && nested != "1" => {
                Some("kvm_intel's nested parameter is off")
            }
            (.., false) => Some("/dev/kvm cannot be opened"),
            _ => None,
        }
    }
}

fn has_vmx(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "vmx"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_flag_decides_not_the_device_node() {
        let software = Facts {
            vmx: false,
            nested: Some("Y".to_owned()),
            node: true,
        };
        assert!(software.obstacle().is_some_and(|why| why.contains("vmx")));
        let good = Facts {
            vmx: true,
            nested: Some("Y".to_owned()),
            node: true,
        };
        assert_eq!(good.obstacle(), None);
        assert!(
            Facts {
                nested: Some("N".to_owned()),
                ..good.clone()
            }
            .obstacle()
            .is_some()
        );
        assert!(
            Facts {
                nested: None,
                ..good.clone()
            }
            .obstacle()
            .is_some()
        );
        assert!(
            Facts {
                node: false,
                ..good
            }
            .obstacle()
            .is_some()
        );
    }

    #[test]
    fn the_flag_is_a_whole_word() {
        assert!(has_vmx("model name : x\nflags\t\t: fpu vmx smx\n"));
        assert!(!has_vmx("flags : fpu vmx_x\nvmx flags : ept\n"));
    }
}
