//! The I/O APIC: 24 redirection entries between device lines and local APICs, with an EOI register
//! (82093AA I/O APIC data sheet, "Register Description"; version 0x20 adds the EOI register).
//!
//! Destinations are compared, never indexed with; a vector that no local APIC accepts is the local APIC's to refuse.

use crate::apic::{Destination, Trigger};
use crate::platform::{IOAPIC_ID, IOAPIC_PINS};

const PINS: usize = IOAPIC_PINS as usize;
const _: () = assert!(PINS <= u32::BITS as usize);

/// Register select, write data window and EOI, by offset into the window.
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const IOEOI: u64 = 0x40;

/// Indirect registers.
const INDEX_ID: u8 = 0;
const INDEX_VERSION: u8 = 1;
const INDEX_ARBITRATION: u8 = 2;
const INDEX_REDIRECTION: u8 = 0x10;

/// Version 0x20 and the highest redirection entry.
const VERSION: u32 = 0x20 | (IOAPIC_PINS - 1) << 16;

bitflags::bitflags! {
    /// A redirection table entry.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Entry: u64 {
        const VECTOR = 0xff;
        const DELIVERY = 0x700;
        const LOGICAL = 1 << 11;
        const DELIVERY_STATUS = 1 << 12;
        const ACTIVE_LOW = 1 << 13;
        const REMOTE_IRR = 1 << 14;
        const LEVEL = 1 << 15;
        const MASKED = 1 << 16;
        const DESTINATION = 0xff << 56;

        const READ_ONLY = Self::DELIVERY_STATUS.bits() | Self::REMOTE_IRR.bits();
    }
}

/// How an I/O APIC interrupt arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinDelivery {
    /// At every destination.
    Fixed,
    /// At one of the destinations.
    LowestPriority,
    /// As a non-maskable interrupt.
    Nmi,
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interrupt {
    /// Vector; meaningless for an NMI.
    pub vector: u8,
    /// Kind of delivery.
    pub delivery: PinDelivery,
    /// A level-triggered one ends with [`IoApic::eoi`].
    pub trigger: Trigger,
    /// Where to.
    pub destination: Destination,
}

/// One I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u8,
    entries: [Entry; PINS],
    /// Bit set: the device drives this pin to its active level.
    lines: u32,
}

impl IoApic {
    /// The I/O APIC after reset: every pin masked.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            select: 0,
            id: IOAPIC_ID,
            entries: [Entry::MASKED; PINS],
            lines: 0,
        }
    }

    /// Sets `pin` to asserted or not; the interrupt that results, if any. The level is logical: polarity is the guest's
    /// description of a wire that does not exist here.
    #[inline]
    #[must_use]
    pub fn set_line(&mut self, pin: u32, asserted: bool) -> Option<Interrupt> {
        let bit = 1_u32.checked_shl(pin)?;
        let was = self.lines & bit != 0;
        if was == asserted {
            return None;
        }
        self.lines ^= bit;
        if !asserted {
            return None;
        }
        let entry = self.entries.get_mut(pin as usize)?;
        service(entry)
    }

    /// Where `pin`'s interrupt goes as an NMI; `None` where it is masked or no NMI.
    #[must_use]
    pub fn nmi_destination(&self, pin: u32) -> Option<Destination> {
        let entry = *self.entries.get(pin as usize)?;
        (!entry.contains(Entry::MASKED) && delivery(entry) == Some(PinDelivery::Nmi))
            .then(|| destination(entry))
    }

    /// Ends the level-triggered interrupt `vector`: entries whose line is still asserted deliver again.
    pub fn eoi(&mut self, vector: u8, deliver: &mut dyn FnMut(Interrupt)) {
        for (pin, entry) in self.entries.iter_mut().enumerate() {
            let ends =
                entry.contains(Entry::LEVEL | Entry::REMOTE_IRR) && entry.bits() as u8 == vector;
            if !ends {
                continue;
            }
            *entry -= Entry::REMOTE_IRR;
            if self.lines & 1 << pin != 0
                && let Some(interrupt) = service(entry)
            {
                deliver(interrupt);
            }
        }
    }

    /// Reads the 32-bit register at `offset` into the window; what is not a register reads as zero.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            IOREGSEL => u32::from(self.select),
            IOWIN => self.read_selected(),
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `offset` into the window; what is not a register ignores it.
    pub fn write(&mut self, offset: u64, value: u32, deliver: &mut dyn FnMut(Interrupt)) {
        match offset {
            IOREGSEL => self.select = value as u8,
            IOWIN => self.write_selected(value, deliver),
            IOEOI => self.eoi(value as u8, deliver),
            _ => {}
        }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            INDEX_ID | INDEX_ARBITRATION => u32::from(self.id) << 24,
            INDEX_VERSION => VERSION,
            select => {
                let Some((pin, high)) = redirection(select) else {
                    return 0;
                };
                let entry = self.entries.get(pin).map_or(0, |entry| entry.bits());
                if high {
                    (entry >> 32) as u32
                } else {
                    entry as u32
                }
            }
        }
    }

    fn write_selected(&mut self, value: u32, deliver: &mut dyn FnMut(Interrupt)) {
        if self.select == INDEX_ID {
            self.id = (value >> 24) as u8 & 0xf;
            return;
        }
        let Some((pin, high)) = redirection(self.select) else {
            return;
        };
        let asserted = self.lines.checked_shr(pin as u32).unwrap_or(0) & 1 != 0;
        let Some(entry) = self.entries.get_mut(pin) else {
            return;
        };
        let old = entry.bits();
        let new = if high {
            u64::from(value) << 32 | old & 0xffff_ffff
        } else {
            let kept = old & (Entry::READ_ONLY.bits() | 0xffff_ffff << 32);
            u64::from(value) & !Entry::READ_ONLY.bits() | kept
        };
        *entry = Entry::from_bits_truncate(new);
        if !entry.contains(Entry::LEVEL) {
            // An edge has nothing to wait for; guests without the EOI register clear a stuck entry this way.
            *entry -= Entry::REMOTE_IRR;
        }
        if asserted
            && entry.contains(Entry::LEVEL)
            && let Some(interrupt) = service(entry)
        {
            deliver(interrupt);
        }
    }
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

/// The pin and half that a redirection register's index names.
const fn redirection(select: u8) -> Option<(usize, bool)> {
    match select.checked_sub(INDEX_REDIRECTION) {
        Some(index) => Some(((index >> 1) as usize, index & 1 != 0)),
        None => None,
    }
}

/// Delivers an asserted pin's interrupt unless the entry is masked or waits for its end of interrupt.
fn service(entry: &mut Entry) -> Option<Interrupt> {
    if entry.contains(Entry::MASKED) || entry.contains(Entry::LEVEL | Entry::REMOTE_IRR) {
        return None;
    }
    let delivery = delivery(*entry)?;
    let level = entry.contains(Entry::LEVEL) && delivery != PinDelivery::Nmi;
    if level {
        *entry |= Entry::REMOTE_IRR;
    }
    Some(Interrupt {
        vector: entry.bits() as u8,
        delivery,
        trigger: if level { Trigger::Level } else { Trigger::Edge },
        destination: destination(*entry),
    })
}

/// How an entry delivers, unless it is in a mode that does not.
const fn delivery(entry: Entry) -> Option<PinDelivery> {
    match entry.bits() >> 8 & 7 {
        0 => Some(PinDelivery::Fixed),
        1 => Some(PinDelivery::LowestPriority),
        4 => Some(PinDelivery::Nmi),
        // SMI and INIT are not a device's to send in a VM, there is no 8259 behind ExtINT; the rest is reserved.
        _ => None,
    }
}

/// Where an entry delivers to.
const fn destination(entry: Entry) -> Destination {
    let raw = (entry.bits() >> 56) as u8;
    // 0xff is the 8-bit form of the broadcast identifier.
    let id = if raw == u8::MAX { u32::MAX } else { raw as u32 };
    Destination::new(id, entry.contains(Entry::LOGICAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(ioapic: &mut IoApic, pin: u8, entry: u64) -> Vec<Interrupt> {
        let mut sent = Vec::new();
        for (half, value) in [(1, (entry >> 32) as u32), (0, entry as u32)] {
            ioapic.write(IOREGSEL, u32::from(0x10 + 2 * pin + half), &mut |_| {});
            ioapic.write(IOWIN, value, &mut |interrupt| sent.push(interrupt));
        }
        sent
    }

    fn entry(ioapic: &mut IoApic, pin: u8) -> u64 {
        let mut half = |index| {
            ioapic.write(IOREGSEL, index, &mut |_| {});
            u64::from(ioapic.read(IOWIN))
        };
        half(u32::from(0x10 + 2 * pin)) | half(u32::from(0x11 + 2 * pin)) << 32
    }

    fn ended(ioapic: &mut IoApic, vector: u8) -> Vec<Interrupt> {
        let mut sent = Vec::new();
        ioapic.eoi(vector, &mut |interrupt| sent.push(interrupt));
        sent
    }

    #[test]
    fn identifies_itself_with_24_masked_pins() {
        let mut ioapic = IoApic::new();
        ioapic.write(IOREGSEL, 1, &mut |_| {});
        assert_eq!(ioapic.read(IOREGSEL), 1);
        assert_eq!(ioapic.read(IOWIN), 0x17_0020);
        for pin in 0..24 {
            assert_eq!(entry(&mut ioapic, pin), 0x1_0000);
        }
        assert_eq!(entry(&mut ioapic, 24), 0);
    }

    #[test]
    fn edge_delivers_once_for_each_rise() {
        let mut ioapic = IoApic::new();
        assert!(program(&mut ioapic, 4, 3 << 56 | 0x24).is_empty());
        let interrupt = ioapic.set_line(4, true).unwrap();
        assert_eq!(
            interrupt,
            Interrupt {
                vector: 0x24,
                delivery: PinDelivery::Fixed,
                trigger: Trigger::Edge,
                destination: Destination::Physical(3),
            }
        );
        assert_eq!(ioapic.set_line(4, true), None);
        assert_eq!(ioapic.set_line(4, false), None);
        assert!(ioapic.set_line(4, true).is_some());
    }

    #[test]
    fn masked_edge_is_lost_and_masked_level_waits() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 4, 0x1_0024);
        assert_eq!(ioapic.set_line(4, true), None);
        assert!(program(&mut ioapic, 4, 0x24).is_empty());
        program(&mut ioapic, 5, 0x1_8025);
        assert_eq!(ioapic.set_line(5, true), None);
        let sent = program(&mut ioapic, 5, 0x8025);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].trigger, Trigger::Level);
    }

    #[test]
    fn level_waits_for_its_eoi_and_comes_again_while_asserted() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 9, 0x8029);
        assert!(ioapic.set_line(9, true).is_some());
        assert_ne!(entry(&mut ioapic, 9) & 1 << 14, 0);
        assert_eq!(ioapic.set_line(9, false), None);
        assert_eq!(ioapic.set_line(9, true), None);
        assert!(ended(&mut ioapic, 0x28).is_empty());
        assert_eq!(ended(&mut ioapic, 0x29).len(), 1);
        assert_eq!(ioapic.set_line(9, false), None);
        assert!(ended(&mut ioapic, 0x29).is_empty());
        assert_eq!(entry(&mut ioapic, 9) & 1 << 14, 0);
    }

    #[test]
    fn eoi_register_ends_like_the_local_apic() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 9, 0x8029);
        assert!(ioapic.set_line(9, true).is_some());
        let mut again = 0;
        ioapic.write(IOEOI, 0x29, &mut |_| again += 1);
        assert_eq!(again, 1);
    }

    #[test]
    fn remote_irr_is_read_only_but_falls_with_edge_mode() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 9, 0xd029);
        assert_eq!(entry(&mut ioapic, 9), 0x8029);
        assert!(ioapic.set_line(9, true).is_some());
        program(&mut ioapic, 9, 0x1_8029);
        assert_eq!(entry(&mut ioapic, 9), 0x1_c029);
        program(&mut ioapic, 9, 0x1_0029);
        assert_eq!(entry(&mut ioapic, 9), 0x1_0029);
    }

    #[test]
    fn destinations_cover_broadcast_and_logical() {
        let mut ioapic = IoApic::new();
        program(&mut ioapic, 1, 0xff << 56 | 0x31);
        assert_eq!(
            ioapic.set_line(1, true).unwrap().destination,
            Destination::Everyone
        );
        program(&mut ioapic, 2, 5 << 56 | 1 << 11 | 0x100 | 0x32);
        let interrupt = ioapic.set_line(2, true).unwrap();
        assert_eq!(interrupt.destination, Destination::Logical(5));
        assert_eq!(interrupt.delivery, PinDelivery::LowestPriority);
    }

    #[test]
    fn delivery_modes_a_vm_has_not_are_dropped() {
        let mut ioapic = IoApic::new();
        for (pin, mode) in [2_u64, 3, 5, 6, 7].into_iter().enumerate() {
            program(&mut ioapic, pin as u8, mode << 8 | 0x40);
            assert_eq!(ioapic.set_line(pin as u32, true), None, "mode {mode}");
        }
        program(&mut ioapic, 8, 0x8440);
        let nmi = ioapic.set_line(8, true).unwrap();
        assert_eq!(
            (nmi.delivery, nmi.trigger),
            (PinDelivery::Nmi, Trigger::Edge)
        );
    }

    #[test]
    fn absurd_pins_and_offsets_do_nothing() {
        let mut ioapic = IoApic::new();
        for pin in [24, 31, 32, 1000, u32::MAX] {
            assert_eq!(ioapic.set_line(pin, true), None);
        }
        for offset in [1, 4, 0x11, 0x20, 0x3fc, 0xfff, u64::MAX] {
            ioapic.write(offset, u32::MAX, &mut |_| panic!("delivered"));
            assert_eq!(ioapic.read(offset), 0);
        }
    }

    #[test]
    fn a_million_random_accesses_never_panic() {
        let mut seed = 0xdead_beef_cafe_f00d_u64;
        let mut ioapic = IoApic::new();
        let mut delivered = 0_u32;
        for _ in 0..1_000_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let value = (seed >> 32) as u32;
            match seed & 7 {
                0 => delivered += u32::from(ioapic.set_line(value & 31, seed & 8 != 0).is_some()),
                1 => ioapic.eoi(value as u8, &mut |_| delivered += 1),
                2 => {
                    let _ = ioapic.read(seed >> 8 & 0xff);
                }
                3 => ioapic.write(seed >> 8 & 0xfff, value, &mut |_| delivered += 1),
                4 => ioapic.write(IOREGSEL, value & 0x3f, &mut |_| delivered += 1),
                _ => ioapic.write(IOWIN, value & 0x1ffff, &mut |_| delivered += 1),
            }
        }
        assert!(delivered > 1000);
    }
}
