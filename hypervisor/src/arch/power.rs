//! Switching the machine off through the registers that its FADT names.

use bulkhead_core::hostacpi::{HostAcpi, SleepType};
use x86_64::instructions::port::Port;

/// SCI_EN in PM1_CNT (ACPI specification, "PM1 Control Registers"): ACPI mode is on.
const SCI_ENABLE: u16 = 1;
/// Reads of PM1_CNT after which firmware that should enter ACPI mode is not waited for any longer.
const PATIENCE: u32 = 1_000_000;

/// What to write where.
#[derive(Clone, Copy, Debug, Default)]
pub struct PowerOff {
    /// PM1a_CNT and its sleep type, then PM1b_CNT and its.
    writes: [Option<(u16, u8)>; 2],
    /// The port and value that bring the firmware into ACPI mode.
    handover: Option<(u16, u8)>,
}

impl PowerOff {
    /// From the firmware's tables; nothing where they do not say.
    #[must_use]
    pub fn from_acpi(facts: &HostAcpi) -> Self {
        let (Some(fadt), Some(sleep)) = (&facts.fadt, facts.power_off) else {
            return Self::default();
        };
        let port = |register: Option<bulkhead_core::hostacpi::GenericAddress>| {
            register.and_then(|r| r.port())
        };
        Self {
            writes: [
                port(fadt.pm1a_control).map(|port| (port, sleep.a)),
                port(fadt.pm1b_control).map(|port| (port, sleep.b)),
            ],
            handover: fadt.smi_handover.map(|smi| (smi.port, smi.enable)),
        }
    }

    /// Switches the machine off; comes back where that did not work.
    pub fn now(self) {
        let [Some((pm1a, _)), _] = self.writes else {
            return;
        };
        let mut control = Port::<u16>::new(pm1a);
        if let Some((port, enable)) = self.handover {
            // SAFETY: PM1a_CNT can be read at any time.
            let mut enabled = unsafe { control.read() } & SCI_ENABLE != 0;
            if !enabled {
                // SAFETY: this is the FADT's way to have the firmware enter ACPI mode.
                unsafe { Port::<u8>::new(port).write(enable) };
            }
            for _ in 0..PATIENCE {
                if enabled {
                    break;
                }
                // SAFETY: as above.
                enabled = unsafe { control.read() } & SCI_ENABLE != 0;
            }
        }
        for (port, kind) in self.writes.into_iter().flatten() {
            let mut control = Port::<u16>::new(port);
            // SAFETY: the FADT names the register, and it can be read at any time.
            let current = unsafe { control.read() };
            // SAFETY: the DSDT gives the sleep type that switches the machine off; the other bits stay.
            unsafe { control.write(SleepType::pm1_control(current, kind)) };
        }
    }
}
