//! Building the space: the header, and the capabilities that a guest may see, where the function has them.

use alloc::vec::Vec;
use core::{fmt, mem};

use super::Effect;
use crate::device::pci::config::ConfigSpace;
use crate::pci::Address;
use crate::pci::bar::BarKind;
use crate::pci::capability::{
    Capability, CapabilityKind, Express, ID_EXPRESS, ID_MSI, ID_MSIX, ID_POWER, Msi, MsiX, PortType,
};
use crate::pci::inventory::{Function, Header};
use crate::pci::register;

/// MSI message control: on.
pub(super) const MSI_ENABLE: u16 = 1;
/// MSI-X message control: on.
pub(super) const MSIX_ENABLE: u16 = 1 << 15;
/// MSI-X message control: all vectors are masked.
pub(super) const MSIX_MASK_ALL: u16 = 1 << 14;

const MSI_WIDE: u16 = 1 << 7;
const MSI_MASKABLE: u16 = 1 << 8;
/// Bytes of an MSI-X table entry.
const VECTOR_BYTES: u64 = 16;

/// Device capabilities that a guest sees: payload size, extended tags, role-based errors, function-level reset.
const SHOWN_DEVICE_CAPABILITIES: u32 = 7 | 1 << 5 | 1 << 15 | 1 << 28;
/// Device control: all but the reset is the guest's to set, and goes no further.
const DEVICE_CONTROL: u16 = 0x7fff;
/// How far into its capability the device control register is, and the reset in it.
const DEVICE_CONTROL_AT: u8 = 8;
const DEVICE_RESET: u32 = 1 << 15;

/// Power management version 3, without events and without D1 and D2.
const POWER_CAPABILITIES: u16 = 3;
/// Power management control: a function that comes back to D0 remembers everything.
const NO_SOFT_RESET: u16 = 1 << 3;
/// Power management control: the power state, which is only the guest's.
const POWER_STATE: u16 = 3;

/// A bridge, or something unknown, which no guest gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotADevice(pub Address);

impl fmt::Display for NotADevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(function) = self;
        write!(
            f,
            "{function} is a bridge and stays with the hypervisor; name a device behind it"
        )
    }
}

impl core::error::Error for NotADevice {}

/// Where a guest finds what has effects.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    pub(super) msi: Option<MsiLayout>,
    pub(super) msix: Option<(u8, MsiX)>,
    /// Where the device control register is, in a function that can be reset.
    reset: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct MsiLayout {
    pub(super) at: u8,
    pub(super) msi: Msi,
}

impl MsiLayout {
    /// Bytes of the capability.
    const fn bytes(msi: Msi) -> u8 {
        match (msi.wide, msi.maskable) {
            (false, false) => 10,
            (true, false) => 14,
            (false, true) => 20,
            (true, true) => 24,
        }
    }
}

impl Layout {
    /// Whether a write is the guest's reset of its function.
    pub(super) fn resets(&self, at: u16, size: u8, value: u32) -> bool {
        let Some(control) = self.reset.map(u16::from) else {
            return false;
        };
        if at & !3 != control {
            return false;
        }
        let shifted = u64::from(value) << (8 * (at - control));
        let written = u64::MAX >> (64 - 8 * u32::from(size)) << (8 * (at - control));
        shifted & written & u64::from(DEVICE_RESET) != 0
    }

    /// What it means that the register at `at` changed.
    pub(super) fn effect(&self, at: u16) -> Effect {
        const COMMAND: u16 = register::COMMAND as u16;
        const BARS: u16 = register::BAR0 as u16;
        const LAST_BAR: u16 = BARS + 5 * 4;
        let in_msi = |layout: MsiLayout| {
            let start = u16::from(layout.at);
            (start..start + u16::from(MsiLayout::bytes(layout.msi))).contains(&at)
        };
        match at {
            COMMAND => Effect::Command,
            BARS..=LAST_BAR => Effect::Bars,
            _ if self.msi.is_some_and(in_msi) => Effect::Msi,
            _ if self.msix.is_some_and(|(start, _)| u16::from(start) == at) => Effect::MsiX,
            _ => Effect::Nothing,
        }
    }
}

/// Bytes of the MSI-X table.
pub(super) const fn table_bytes(msix: &MsiX) -> u64 {
    msix.vectors as u64 * VECTOR_BYTES
}

/// The space of `function` as a VM finds it.
pub(super) fn build(function: &Function) -> Result<(ConfigSpace, Layout), NotADevice> {
    if function.header != Header::Device {
        return Err(NotADevice(function.address));
    }
    let id = function.id;
    let mut config = ConfigSpace::new(
        id.vendor,
        id.device,
        function.class.bits(),
        function.revision,
    );
    if let Some(card) = function.subsystem {
        config.put(register::SUBSYSTEM, &card.vendor.to_le_bytes());
        config.put(register::SUBSYSTEM + 2, &card.device.to_le_bytes());
    }
    for bar in &function.bars {
        put_bar(&mut config, bar.index, bar.kind, 0);
        let at = register::BAR0 + 4 * bar.index;
        let mask = !(bar.size - 1);
        config.allow(at, &(mask as u32).to_le_bytes());
        if matches!(bar.kind, BarKind::Memory64 { .. }) {
            config.allow(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
    }
    let mut layout = Layout::default();
    // One of each, and none over another: where a function says otherwise, the first is right.
    let mut taken = [false; register::LEGACY_BYTES as usize];
    let mut seen = Vec::new();
    for Capability { at, kind } in &function.capabilities {
        let bytes = shown_bytes(*kind);
        let end = u16::from(*at) + u16::from(bytes);
        let Some(range) = taken.get_mut(usize::from(*at)..usize::from(end)) else {
            continue;
        };
        let sort = mem::discriminant(kind);
        if bytes == 0 || range.contains(&true) || seen.contains(&sort) {
            continue;
        }
        if add(&mut config, &mut layout, function, *at, *kind) {
            range.fill(true);
            seen.push(sort);
        }
    }
    Ok((config, layout))
}

/// Puts a base address to `base`.
pub(super) fn put_bar(config: &mut ConfigSpace, index: u8, kind: BarKind, base: u64) {
    let at = register::BAR0 + 4 * index;
    config.put(at, &(base as u32 | kind.bits()).to_le_bytes());
    if matches!(kind, BarKind::Memory64 { .. }) {
        config.put(at + 4, &((base >> 32) as u32).to_le_bytes());
    }
}

/// How much of a capability a guest sees; nothing of most.
const fn shown_bytes(kind: CapabilityKind) -> u8 {
    match kind {
        CapabilityKind::Power => 8,
        CapabilityKind::Msi(msi) => MsiLayout::bytes(msi),
        CapabilityKind::MsiX(_) => 12,
        CapabilityKind::Express(Express { version, .. }) if version < 2 => 0x0c,
        CapabilityKind::Express(_) => 0x3c,
        CapabilityKind::AdvancedFeatures { .. } | CapabilityKind::Unknown(_) => 0,
    }
}

/// Adds a capability, unless it makes no sense, and says whether it did.
fn add(
    config: &mut ConfigSpace,
    layout: &mut Layout,
    function: &Function,
    at: u8,
    kind: CapabilityKind,
) -> bool {
    match kind {
        CapabilityKind::Power => {
            let [a, b] = POWER_CAPABILITIES.to_le_bytes();
            let [c, d] = NO_SOFT_RESET.to_le_bytes();
            config.add_capability(at, ID_POWER, &[a, b, c, d, 0, 0]);
            config.allow(at + 4, &POWER_STATE.to_le_bytes());
        }
        CapabilityKind::Msi(msi) => {
            add_msi(config, at, msi);
            layout.msi = Some(MsiLayout { at, msi });
        }
        CapabilityKind::MsiX(msix) if fits(function, &msix) => {
            config.add_capability(at, ID_MSIX, &(msix.vectors - 1).to_le_bytes());
            let place = |bar: u8, offset: u32| (offset | u32::from(bar)).to_le_bytes();
            config.put(at + 4, &place(msix.table.bar, msix.table.offset));
            config.put(at + 8, &place(msix.pending.bar, msix.pending.offset));
            config.allow(at + 2, &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes());
            layout.msix = Some((at, msix));
        }
        CapabilityKind::Express(express) => {
            add_express(config, at, express);
            layout.reset = express.reset.then_some(at + DEVICE_CONTROL_AT);
        }
        _ => return false,
    }
    true
}

/// One message, whatever the function could: more would need vectors side by side.
fn add_msi(config: &mut ConfigSpace, at: u8, msi: Msi) {
    let mut control = 0;
    if msi.wide {
        control |= MSI_WIDE;
    }
    if msi.maskable {
        control |= MSI_MASKABLE;
    }
    config.add_capability(at, ID_MSI, &control.to_le_bytes());
    config.allow(at + 2, &MSI_ENABLE.to_le_bytes());
    config.allow(at + 4, &(!3_u32).to_le_bytes());
    let data = if msi.wide {
        config.allow(at + 8, &[0xff; 4]);
        at + 12
    } else {
        at + 8
    };
    config.allow(data, &[0xff; 2]);
    if msi.maskable {
        config.allow(data + 4, &[1]);
    }
}

/// An endpoint of the root complex has neither link nor slot: all of that stays zero.
fn add_express(config: &mut ConfigSpace, at: u8, express: Express) {
    /// The device/port type of an endpoint of the root complex.
    const INTEGRATED: u16 = 9;
    const _: () = assert!(matches!(
        PortType::new(INTEGRATED as u8),
        PortType::Integrated
    ));
    let flags = u16::from(express.version.clamp(1, 2)) | INTEGRATED << 4;
    config.add_capability(at, ID_EXPRESS, &flags.to_le_bytes());
    let shown = express.device & SHOWN_DEVICE_CAPABILITIES;
    config.put(at + 4, &shown.to_le_bytes());
    config.allow(at + DEVICE_CONTROL_AT, &DEVICE_CONTROL.to_le_bytes());
}

/// Whether the MSI-X table and the pending bits are within memory of the function.
fn fits(function: &Function, msix: &MsiX) -> bool {
    let within = |bar: u8, offset: u32, bytes: u64| {
        function
            .bar(bar)
            .is_some_and(|bar| bar.kind.is_memory() && u64::from(offset) + bytes <= bar.size)
    };
    let pending_bytes = u64::from(msix.vectors).div_ceil(64) * 8;
    within(msix.table.bar, msix.table.offset, table_bytes(msix))
        && within(msix.pending.bar, msix.pending.offset, pending_bytes)
}
