//! What reaches a VM's devices from outside its vCPUs: frames, typed bytes, and the taking of what they send.

use super::{Bus, Transmission};
use crate::bus;
use crate::device::virtio::Model;
use crate::device::virtio::console::Console;
use crate::device::virtio::transport::Transport;

impl Bus {
    /// Types at the VM's console and says how many bytes it took; none where there is no console.
    #[must_use]
    pub fn push_input(&mut self, bytes: &[u8], bus: &mut dyn bus::Bus) -> usize {
        self.with_console(bus, |console| console.push_input(bytes))
    }

    /// Takes console output and says how many bytes it was. Output that waited for room moves up.
    #[must_use]
    pub fn take_output(&mut self, into: &mut [u8], bus: &mut dyn bus::Bus) -> usize {
        self.with_console(bus, |console| console.take_output(into))
    }

    /// Whether the console has output to take.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.devices()
            .any(|device| matches!(device.model(), Model::Console(console) if console.has_output()))
    }

    fn with_console(
        &mut self,
        bus: &mut dyn bus::Bus,
        touch: impl FnOnce(&mut Console) -> usize,
    ) -> usize {
        for transport in self.devices_mut() {
            if let Model::Console(console) = transport.model_mut() {
                let moved = touch(console);
                transport.serve(bus, |model, queues, bus| match model {
                    Model::Console(console) => console.exchange(queues, bus),
                    _ => Ok(()),
                });
                return moved;
            }
        }
        0
    }

    /// Takes the next frame that network card `nic` sends into `frame`.
    pub fn transmit(&mut self, nic: u8, frame: &mut [u8], bus: &mut dyn bus::Bus) -> Transmission {
        let Some(transport) = self.nic(nic) else {
            return Transmission::Nothing;
        };
        match transport.work(bus, |model, queues, bus| model.transmit(queues, bus, frame)) {
            Some(Some(length)) => Transmission::Frame(length),
            // Now is the time to ask: whoever serves another of the card's queues begins a pass of all.
            Some(None) if transport.has_more() => Transmission::Enough,
            _ => Transmission::Nothing,
        }
    }

    /// The frames that card `nic` had were taken: its guest hears of that once.
    pub fn transmit_done(&mut self, nic: u8, bus: &mut dyn bus::Bus) {
        if let Some(transport) = self.nic(nic) {
            transport.interrupt(bus);
            transport.begin_pass();
        }
    }

    /// A frame arrives at network card `nic`; false where its guest has no buffer for it, and the frame is lost.
    #[must_use]
    pub fn receive(&mut self, nic: u8, frame: &[u8], bus: &mut dyn bus::Bus) -> bool {
        let Some(transport) = self.nic(nic) else {
            return false;
        };
        let received = transport.serve(bus, |model, queues, bus| model.receive(queues, bus, frame));
        received.unwrap_or(false)
    }

    fn nic(&mut self, nic: u8) -> Option<&mut Transport> {
        self.devices_mut()
            .filter(|transport| transport.model().is_nic())
            .nth(nic.into())
    }
}
