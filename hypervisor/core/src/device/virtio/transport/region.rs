//! Where the registers of a virtio function are in its memory window.

/// Bytes of the window.
pub const WINDOW_BYTES: u32 = 0x8000;
/// Bytes between two notification ports, and their number: one for each queue.
pub const NOTIFY_STRIDE: u16 = 4;
/// Ports of the notification window.
pub const NOTIFY_PORTS: u16 = NOTIFY_STRIDE * super::MAX_QUEUES as u16;

/// Where each part starts. The vector table and the pending bits have their own pages, as the PCI specification wishes.
pub const COMMON: u32 = 0x0000;
/// Interrupt status.
pub const ISR: u32 = 0x1000;
/// The device type's configuration.
pub const DEVICE: u32 = 0x2000;
/// MSI-X table.
pub const VECTOR_TABLE: u32 = 0x4000;
/// MSI-X pending bits.
pub const PENDING: u32 = 0x6000;

/// Bytes of the common configuration, and what is set aside for the device type's.
pub const COMMON_BYTES: u32 = 0x40;
/// Bytes set aside for the device type's configuration.
pub const DEVICE_BYTES: u32 = 0x100;

/// A part of the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Region {
    /// Common configuration.
    Common,
    /// Interrupt status.
    Isr,
    /// The device type's configuration.
    Device,
    /// MSI-X table.
    VectorTable,
    /// MSI-X pending bits.
    Pending,
}

/// The part that an offset into the window is in, and where in it.
#[must_use]
pub fn of(offset: u64) -> Option<(Region, u32)> {
    let offset = u32::try_from(offset).ok()?;
    let page = 0x1000;
    let (start, bytes, region) = match offset & !(page - 1) {
        COMMON => (COMMON, COMMON_BYTES, Region::Common),
        ISR => (ISR, 4, Region::Isr),
        DEVICE => (DEVICE, DEVICE_BYTES, Region::Device),
        VECTOR_TABLE => (VECTOR_TABLE, page, Region::VectorTable),
        PENDING => (PENDING, page, Region::Pending),
        _ => return None,
    };
    let within = offset - start;
    (within < bytes).then_some((region, within))
}
