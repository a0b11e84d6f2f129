//! Between the local APIC and the devices: what register writes, lines and ends of interrupts set off.

use super::Vcpu;
use super::devices::Devices;
use crate::apic::{ApicEffect, Delivery, IcrRequest, Trigger};

impl Vcpu {
    /// Carries out what an APIC register write asks for.
    pub(super) fn apply_effect(&mut self, devices: &mut Devices, effect: ApicEffect, now: u64) {
        match effect {
            ApicEffect::None => {}
            ApicEffect::Recheck | ApicEffect::Disabled => self.attention = true,
            ApicEffect::TimerChanged => self.rearm(now),
            ApicEffect::Ipi(request) => self.interprocessor(request),
            ApicEffect::LevelEoi(vector) => self.end_of_level(devices, vector),
        }
    }

    /// Delivers an interprocessor interrupt of a VM with one vCPU: to itself, or to nobody.
    fn interprocessor(&mut self, request: IcrRequest) {
        if !request.destination.selects(self.apic.id(), self.apic.id()) {
            return;
        }
        match request.delivery {
            Delivery::Fixed(vector) | Delivery::LowestPriority(vector) => {
                self.apic.raise(vector, Trigger::Edge);
            }
            Delivery::Nmi => self.nmi_pending = true,
            // A vCPU that is running ignores SIPI; SMI and INIT to oneself have no meaning here.
            _ => {}
        }
        self.attention = true;
    }

    pub(super) fn end_of_level(&mut self, devices: &mut Devices, vector: u8) {
        devices.end_of_interrupt(vector, &mut self.apic);
        self.nmi_pending |= devices.take_nmi();
        self.attention = true;
    }

    /// A device or the console changed an interrupt line.
    pub fn lines_changed(&mut self, devices: &mut Devices) {
        if devices.route_interrupts(&mut self.apic) {
            self.nmi_pending |= devices.take_nmi();
            self.attention = true;
        }
    }
}
