//! What is written to a real function's configuration space for the VM that has it.
//!
//! The guest's own writes never get there: they change its [`VirtualConfig`](super::VirtualConfig), and what follows
//! from them for the hardware is one of the few things here.

use super::Signalling;
use crate::pci::access::{ConfigAccess, Width};
use crate::pci::capability::{Capability, CapabilityKind, Msi, MsiX};
use crate::pci::register::{self, Command};
use crate::pci::{Address, Function};

const MSI_ENABLE: u16 = 1;
/// How many messages the function may use: one, whatever it could.
const MSI_COUNT: u16 = 7 << 4;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
const DEVICE_CONTROL: u16 = 8;
/// Device control: what is reported of errors.
const ERROR_REPORTING: u16 = 0xf;
/// Device control: reset yourself, which reads as zero.
const DEVICE_RESET: u16 = 1 << 15;

/// The registers of one real function.
#[derive(Clone, Debug)]
pub struct Real {
    function: Address,
    msi: Option<(u16, Msi)>,
    msix: Option<(u16, MsiX)>,
    express: Option<u16>,
}

impl Real {
    /// Those of `function`.
    #[must_use]
    pub fn new(function: &Function) -> Self {
        let mut real = Self {
            function: function.address,
            msi: None,
            msix: None,
            express: None,
        };
        // Where a function says something twice, the first is right, as for the guest.
        for Capability { at, kind } in &function.capabilities {
            let at = u16::from(*at);
            match kind {
                CapabilityKind::Msi(msi) => _ = real.msi.get_or_insert((at, *msi)),
                CapabilityKind::MsiX(msix) => _ = real.msix.get_or_insert((at, *msix)),
                CapabilityKind::Express(_) => _ = real.express.get_or_insert(at),
                _ => {}
            }
        }
        real
    }

    /// Where it is.
    #[must_use]
    pub const fn function(&self) -> Address {
        self.function
    }

    /// How many interrupts it has.
    #[must_use]
    pub fn interrupts(&self) -> u16 {
        match self.msix {
            Some((_, msix)) => msix.vectors,
            None => self.msi.is_some().into(),
        }
    }

    /// Has it decode its memory, report no errors, and do nothing by itself.
    pub fn open(&self, config: &mut dyn ConfigAccess) {
        // Lines are off: they are shared, and nothing says whose an interrupt is.
        let command = Command::MEMORY | Command::NO_INTX;
        self.set_u16(config, register::COMMAND.into(), command.bits());
        self.set_signalling(config, Signalling::Off);
        if let Some(at) = self.express {
            let at = at + DEVICE_CONTROL;
            let control = self.u16(config, at) & !(ERROR_REPORTING | DEVICE_RESET);
            self.set_u16(config, at, control);
        }
    }

    /// How it interrupts.
    pub fn set_signalling(&self, config: &mut dyn ConfigAccess, signalling: Signalling) {
        // What is to be off is off before anything is on.
        if let Some((at, _)) = self.msix {
            let control = match signalling {
                Signalling::MsiX { masked: false } => MSIX_ENABLE,
                Signalling::MsiX { masked: true } => MSIX_ENABLE | MSIX_MASK_ALL,
                Signalling::Off | Signalling::Msi { .. } => MSIX_MASK_ALL,
            };
            let old = self.u16(config, at + 2) & !(MSIX_ENABLE | MSIX_MASK_ALL);
            self.set_u16(config, at + 2, old | control);
        }
        let Some((at, msi)) = self.msi else {
            return;
        };
        let off = self.u16(config, at + 2) & !(MSI_ENABLE | MSI_COUNT);
        let data = if msi.wide { at + 12 } else { at + 8 };
        match signalling {
            Signalling::Msi { message, masked } => {
                if msi.maskable {
                    self.set_u32(config, data + 4, masked.into());
                }
                self.set_u32(config, at + 4, message.address);
                if msi.wide {
                    self.set_u32(config, at + 8, 0);
                }
                self.set_u16(config, data, message.data as u16);
                let on = msi.maskable || !masked;
                self.set_u16(config, at + 2, off | if on { MSI_ENABLE } else { 0 });
            }
            Signalling::Off | Signalling::MsiX { .. } => self.set_u16(config, at + 2, off),
        }
    }

    fn u16(&self, config: &mut dyn ConfigAccess, at: u16) -> u16 {
        config.read(self.function, at, Width::Word) as u16
    }

    fn set_u16(&self, config: &mut dyn ConfigAccess, at: u16, value: u16) {
        config.write(self.function, at, Width::Word, value.into());
    }

    fn set_u32(&self, config: &mut dyn ConfigAccess, at: u16, value: u32) {
        config.write(self.function, at, Width::Dword, value);
    }
}
