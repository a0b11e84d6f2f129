//! Between the local APIC, the other vCPUs and the devices: what register writes and ends of interrupts set off.

use super::{Cpu, CpuBus, DeviceAccess, Vcpu};
use crate::apic::{ApicEffect, Delivery, IcrRequest, Trigger};
use crate::bus::Signal;

impl Vcpu {
    /// Carries out what an APIC register write asks for.
    pub(super) fn apply_effect<C: Cpu, D: DeviceAccess>(
        &mut self,
        cpu: &mut C,
        devices: &mut D,
        effect: ApicEffect,
        now: u64,
    ) {
        match effect {
            ApicEffect::None => {}
            ApicEffect::Recheck | ApicEffect::Disabled => self.attention = true,
            ApicEffect::TimerChanged => self.rearm(now),
            ApicEffect::Ipi(request) => self.interprocessor(cpu, request),
            ApicEffect::LevelEoi(vector) => {
                Self::end_of_level(cpu, devices, vector);
                self.attention = true;
            }
        }
    }

    /// Signals every vCPU that the destination selects: identifiers are compared, and nothing is indexed by them.
    fn interprocessor<C: Cpu>(&self, cpu: &mut C, request: IcrRequest) {
        let sender = self.apic.id();
        let signal = match request.delivery {
            Delivery::Fixed(vector) | Delivery::LowestPriority(vector) => Signal::Interrupt {
                vector,
                trigger: Trigger::Edge,
            },
            Delivery::Nmi => Signal::Nmi,
            Delivery::Init => Signal::Init,
            Delivery::Startup(page) => Signal::Startup(page),
        };
        let one = matches!(request.delivery, Delivery::LowestPriority(_));
        // The manual calls INIT and start-up to oneself invalid; nothing happens.
        let others_only = matches!(request.delivery, Delivery::Init | Delivery::Startup(_));
        for id in 0..cpu.vcpus() {
            if request.destination.selects(id, sender) && !(others_only && id == sender) {
                cpu.signal(id, signal);
                if one {
                    return;
                }
            }
        }
    }

    pub(super) fn end_of_level<C: Cpu, D: DeviceAccess>(cpu: &mut C, devices: &mut D, vector: u8) {
        devices.with(|devices| devices.end_of_interrupt(vector, &mut CpuBus(cpu)));
    }
}
