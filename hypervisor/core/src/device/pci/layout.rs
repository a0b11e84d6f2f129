//! Where a virtio function's base addresses and capabilities are in its configuration space, and what they say
//! (Virtio 1.2, "Virtio Structure PCI Capabilities").
//!
//! The registers are in one memory window; only notifications are in ports, because a port access exits with all that
//! is to know about it, while a memory access has to be decoded first.

use super::config::{ConfigSpace, register};
use crate::device::virtio::transport::region;

/// Number of the base address with the register window, and of that with the notification ports.
pub const MEMORY_BAR: u8 = 0;
/// Number of the base address with the notification ports.
pub const PORT_BAR: u8 = 1;
/// Address bits of the memory base address; the rest is its size.
pub const MEMORY_BAR_MASK: u32 = !(region::WINDOW_BYTES - 1);
/// Address bits of the port base address.
pub const PORT_BAR_MASK: u32 = !(region::NOTIFY_PORTS as u32 - 1);
/// A base address in port space.
const PORT_SPACE: u32 = 1;

const _: () = assert!(region::WINDOW_BYTES.is_power_of_two());
const _: () = assert!(region::NOTIFY_PORTS.is_power_of_two() && region::NOTIFY_PORTS >= 4);

/// Capability identifiers.
const ID_MSIX: u8 = 0x11;
const ID_VENDOR: u8 = 0x09;

/// Where the capabilities are.
const MSIX: u8 = 0x40;
const COMMON: u8 = 0x50;
const NOTIFY: u8 = 0x60;
const ISR: u8 = 0x74;
const DEVICE: u8 = 0x84;
const WINDOW: u8 = 0x94;

/// The MSI-X message control register and its writable bits.
pub const MSIX_CONTROL: u8 = MSIX + 2;
/// Message control: MSI-X is on.
pub const MSIX_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const MSIX_MASK_ALL: u16 = 1 << 14;

/// The window's base address number, offset, length and data (Virtio 1.2, "PCI configuration access capability").
pub const WINDOW_BAR: u8 = WINDOW + 4;
/// The window's offset.
pub const WINDOW_OFFSET: u8 = WINDOW + 8;
/// The window's length.
pub const WINDOW_LENGTH: u8 = WINDOW + 12;
/// The window's data.
pub const WINDOW_DATA: u8 = WINDOW + 16;

/// The types of virtio structure.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Structure {
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    Window = 5,
}

/// Adds the base addresses, at `memory` and `ports`.
pub fn add_bars(config: &mut ConfigSpace, memory: u32, ports: u32) {
    config.put(register::BAR0, &memory.to_le_bytes());
    config.allow(register::BAR0, &MEMORY_BAR_MASK.to_le_bytes());
    config.put(register::BAR1, &(ports | PORT_SPACE).to_le_bytes());
    config.allow(register::BAR1, &PORT_BAR_MASK.to_le_bytes());
}

/// Adds the capabilities of a device with so many queues.
pub fn add_capabilities(config: &mut ConfigSpace, queues: usize) {
    // One vector for each queue and one for the configuration; the field holds one less than that.
    let mut msix = [0; 10];
    let fields = (queues as u16).to_le_bytes();
    let table = (region::VECTOR_TABLE | u32::from(MEMORY_BAR)).to_le_bytes();
    let pending = (region::PENDING | u32::from(MEMORY_BAR)).to_le_bytes();
    let all = fields.iter().chain(&table).chain(&pending);
    msix.iter_mut()
        .zip(all)
        .for_each(|(slot, byte)| *slot = *byte);
    config.add_capability(MSIX, ID_MSIX, &msix);
    let writable = MSIX_ENABLE | MSIX_MASK_ALL;
    config.allow(MSIX_CONTROL, &writable.to_le_bytes());

    let notify_bytes = queues as u32 * u32::from(region::NOTIFY_STRIDE);
    let stride = u32::from(region::NOTIFY_STRIDE).to_le_bytes();
    let common = [region::COMMON, region::COMMON_BYTES];
    let device = [region::DEVICE, region::DEVICE_BYTES];
    let mut add = |at, structure, bar, place, extra: &[u8]| {
        add_structure(config, at, structure, bar, place, extra);
    };
    add(COMMON, Structure::Common, MEMORY_BAR, common, &[]);
    add(
        NOTIFY,
        Structure::Notify,
        PORT_BAR,
        [0, notify_bytes],
        &stride,
    );
    add(ISR, Structure::Isr, MEMORY_BAR, [region::ISR, 1], &[]);
    add(DEVICE, Structure::Device, MEMORY_BAR, device, &[]);
    add(WINDOW, Structure::Window, MEMORY_BAR, [0, 0], &[0; 4]);
    config.allow(WINDOW_BAR, &[0xff]);
    config.allow(WINDOW_OFFSET, &[0xff; 8]);
}

/// Adds one virtio structure capability: where the structure is, and what follows for its type.
fn add_structure(
    config: &mut ConfigSpace,
    at: u8,
    structure: Structure,
    bar: u8,
    [offset, bytes]: [u32; 2],
    extra: &[u8],
) {
    /// Bytes of a capability without what follows for its type.
    const PLAIN: u8 = 16;
    let length = PLAIN + extra.len() as u8;
    config.add_capability(at, ID_VENDOR, &[length, structure as u8, bar]);
    config.put(at + 8, &offset.to_le_bytes());
    config.put(at + 12, &bytes.to_le_bytes());
    config.put(at + PLAIN, extra);
}
