//! Copies between a queue and its VM's memory.

use super::QueueError;
use crate::addr::Gpa;
use crate::bus::GuestRam;

pub(super) fn read_u16(ram: &mut (impl GuestRam + ?Sized), at: Gpa) -> Result<u16, QueueError> {
    let mut bytes = [0; 2];
    read(ram, at, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

pub(super) fn write_u16(
    ram: &mut (impl GuestRam + ?Sized),
    at: Gpa,
    value: u16,
) -> Result<(), QueueError> {
    write(ram, at, &value.to_le_bytes())
}

pub(super) fn read(
    ram: &mut (impl GuestRam + ?Sized),
    at: Gpa,
    bytes: &mut [u8],
) -> Result<(), QueueError> {
    if ram.read(at, bytes) {
        Ok(())
    } else {
        Err(QueueError::OutsideMemory(at))
    }
}

pub(super) fn write(
    ram: &mut (impl GuestRam + ?Sized),
    at: Gpa,
    bytes: &[u8],
) -> Result<(), QueueError> {
    if ram.write(at, bytes) {
        Ok(())
    } else {
        Err(QueueError::OutsideMemory(at))
    }
}
