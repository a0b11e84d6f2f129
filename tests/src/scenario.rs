//! A [`Scenario`]: a name that states behaviour, where it can be shown, how long it may take, and how it is checked.

use std::fmt;
use std::time::Duration;

use xtask::platform::{Platform, kvm};

use crate::context::Context;
use crate::outcome::Outcome;

/// Where a scenario can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// On this host, without a machine of its own.
    Host,
    /// On any machine with VT-x.
    Vmx,
    /// Only on Bochs, whose tick counts repeat exactly.
    Bochs,
    /// Only on QEMU's own emulation, which has USB, PXE and VT-d and lacks VT-x.
    QemuTcg,
    /// Only on QEMU where VT-x nests, which has VT-d beside it.
    Kvm,
}

impl Ground {
    /// Why this machine has no such place, where it has none: what needs it is skipped.
    pub fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::Kvm => kvm::Facts::gather().obstacle(),
            Self::Host | Self::Vmx | Self::Bochs | Self::QemuTcg => None,
        }
    }
}

/// How a scenario is checked.
pub type Check = Box<dyn Fn(&Context<'_>) -> Outcome + Send + Sync>;

/// One thing that Bulkhead does, and how to see it.
pub struct Scenario {
    /// States the behaviour; also names the directory below `target/run`.
    pub name: String,
    /// Where it can be shown.
    pub ground: Ground,
    /// How long it may take.
    pub limit: Duration,
    /// Whether it runs only with `--long`.
    pub long: bool,
    /// Fetched payloads that it boots.
    pub payloads: &'static [&'static str],
    check: Check,
}

impl Scenario {
    /// A scenario that boots no fetched payload and always runs.
    pub fn new(
        name: impl Into<String>,
        ground: Ground,
        seconds: u64,
        check: impl Fn(&Context<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            ground,
            limit: Duration::from_secs(seconds),
            long: false,
            payloads: &[],
            check: Box::new(check),
        }
    }

    /// The same, booting these payloads, which are fetched before the clock runs.
    pub fn with_payloads(mut self, payloads: &'static [&'static str]) -> Self {
        self.payloads = payloads;
        self
    }

    /// The same, only with `--long`.
    pub fn only_when_long(mut self) -> Self {
        self.long = true;
        self
    }

    /// Checks it.
    pub fn check(&self, context: &Context<'_>) -> Outcome {
        (self.check)(context)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.long {
            f.write_str(" (with --long)")?;
        }
        Ok(())
    }
}

/// What the command line asks for.
#[derive(Debug, Clone, Copy)]
pub struct Selection<'a> {
    /// A part of the name.
    pub filter: Option<&'a str>,
    /// The one platform to run on.
    pub platform: Option<Platform>,
    /// Include what takes long.
    pub long: bool,
}

impl Selection<'_> {
    /// Whether `scenario` is asked for.
    pub fn takes(&self, scenario: &Scenario) -> bool {
        let on_platform = match (self.platform, scenario.ground) {
            (None, _) => true,
            (Some(Platform::Bochs), ground) => matches!(ground, Ground::Vmx | Ground::Bochs),
            (Some(Platform::Kvm), ground) => matches!(ground, Ground::Vmx | Ground::Kvm),
            (Some(Platform::QemuTcg), ground) => ground == Ground::QemuTcg,
        };
        on_platform
            && (self.long || !scenario.long)
            && self.filter.is_none_or(|part| scenario.name.contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(ground: Ground) -> Scenario {
        Scenario::new("a_guest_boots", ground, 1, |_| Ok(()))
    }

    #[test]
    fn a_selection_goes_by_name_length_and_platform() {
        let everything = Selection {
            filter: None,
            platform: None,
            long: false,
        };
        assert!(everything.takes(&scenario(Ground::Host)));
        assert!(!everything.takes(&scenario(Ground::Host).only_when_long()));
        let named = Selection {
            filter: Some("guest"),
            long: true,
            ..everything
        };
        assert!(named.takes(&scenario(Ground::Host).only_when_long()));
        let other = Selection {
            filter: Some("image"),
            ..everything
        };
        assert!(!other.takes(&scenario(Ground::Host)));
        let bochs = Selection {
            platform: Some(Platform::Bochs),
            ..everything
        };
        assert!(bochs.takes(&scenario(Ground::Vmx)) && bochs.takes(&scenario(Ground::Bochs)));
        assert!(!bochs.takes(&scenario(Ground::QemuTcg)) && !bochs.takes(&scenario(Ground::Host)));
        assert!(!bochs.takes(&scenario(Ground::Kvm)) && everything.takes(&scenario(Ground::Kvm)));
    }
}
