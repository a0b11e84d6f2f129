//! Carrying out resets: everything a VM has at once, step by step, because each step waits.
//!
//! [`ResetRun`] silences the functions, waits for what they have under way, resets them as [`super::reset`] chose, waits
//! until they answer, and writes back what the machine needs of their configuration. They come back with bus mastering
//! off. [`ResetRun::step`] never waits: it is called again until it says that all is done.

use alloc::vec::Vec;

use super::access::{ConfigAccess, Extent, Width};
use super::address::Address;
use super::capability::{ACS_CONTROL, CapabilityKind};
use super::inventory::{Function, Header, Inventory};
use super::quiesce::{IDLE_TIMEOUT_MS, TRANSACTIONS_PENDING};
use super::register::{self, Command};
use super::reset::{AFTER_BUS_RESET_MS, BUS_RESET_MS, FUNCTION_RESET_MS, Reset};
use crate::order;

/// How long after its wait a function may go on saying that it is not ready (PCI Express Base Specification,
/// "Configuration Request Retry Status").
const READY_TIMEOUT_MS: u64 = 1000;
/// What a function that is not there, or not ready, has for an identifier.
const ABSENT: u32 = u32::MAX;
const NOT_READY: u16 = 0x0001;

const DEVICE_CONTROL: u16 = 0x08;
const DEVICE_STATUS: u16 = 0x0a;
const LINK_CONTROL: u16 = 0x10;
const DEVICE_CONTROL_2: u16 = 0x28;
const DEVICE_RESET: u16 = 1 << 15;
/// Device control: reporting of errors, which a VM's device does not do.
const ERROR_REPORTING: u16 = 0xf;

/// How far a reset is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Progress {
    /// Call again.
    Pending,
    /// All functions are as after power-on, at their places, with bus mastering off.
    Done,
    /// This function does not answer; it is not to be used any more.
    Lost(Address),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Waiting until nothing is under way, from then on.
    Idle(u64),
    /// Buses are held in reset until then.
    Held(u64),
    /// Nobody may be asked before then.
    Settling(u64),
    /// Asking, until then.
    Asking(u64),
    Over(Progress),
}

/// Registers of one function, as they were.
#[derive(Clone, Debug)]
struct Saved {
    function: Address,
    device: bool,
    words: Vec<(u16, u16)>,
    /// Its device status register.
    status: Option<u16>,
}

/// A reset under way.
#[derive(Clone, Debug)]
pub struct ResetRun {
    resets: Vec<(Address, Reset)>,
    /// Those that are reset, bridges before what is behind them.
    saved: Vec<Saved>,
    stage: Stage,
}

impl ResetRun {
    /// Begins to reset functions, each as was chosen for it, at `now` in milliseconds: they are silent when this returns.
    #[must_use]
    #[inline(never)]
    pub fn begin(
        inventory: &Inventory,
        resets: &[(Address, Reset)],
        config: &mut dyn ConfigAccess,
        now: u64,
    ) -> Self {
        let hit = |function: &&Function| {
            resets.iter().any(|(address, reset)| match reset {
                Reset::SecondaryBus(bridge) => {
                    *address == function.address
                        || inventory
                            .ancestors(function)
                            .any(|above| above.address == *bridge)
                }
                _ => *address == function.address,
            })
        };
        let mut functions: Vec<&Function> = inventory.functions().iter().filter(hit).collect();
        order::sort_by_key(&mut functions, |function| {
            inventory.ancestors(function).count()
        });
        let saved: Vec<Saved> = functions
            .iter()
            .map(|function| save(function, config))
            .collect();
        // Leaves first: a bridge that forwards nothing would hold back what they have under way.
        for saved in saved.iter().rev().filter(|saved| saved.device) {
            let at = register::COMMAND.into();
            let command = read(config, saved.function, at);
            let silent = command & !Command::MASTER.bits() | Command::NO_INTX.bits();
            write(config, saved.function, at, silent);
        }
        Self {
            resets: resets.to_vec(),
            saved,
            stage: Stage::Idle(now + u64::from(IDLE_TIMEOUT_MS)),
        }
    }

    /// Goes on at `now`.
    #[inline(never)]
    pub fn step(&mut self, config: &mut dyn ConfigAccess, now: u64) -> Progress {
        loop {
            let next = match self.stage {
                Stage::Idle(until) if now < until && self.is_busy(config) => {
                    return Progress::Pending;
                }
                Stage::Idle(_) => self.assert(config, now),
                Stage::Held(until) | Stage::Settling(until) if now < until => {
                    return Progress::Pending;
                }
                Stage::Held(_) => {
                    self.each_bridge(config, false);
                    Stage::Settling(now + u64::from(AFTER_BUS_RESET_MS))
                }
                Stage::Settling(_) => Stage::Asking(now + READY_TIMEOUT_MS),
                Stage::Asking(until) => match self.absent(config) {
                    Some(_) if now < until => return Progress::Pending,
                    Some(function) => Stage::Over(Progress::Lost(function)),
                    None => Stage::Over(Progress::Done),
                },
                Stage::Over(progress) => return progress,
            };
            self.stage = next;
        }
    }

    fn is_busy(&self, config: &mut dyn ConfigAccess) -> bool {
        let pending = |saved: &Saved| {
            let status = saved.status.map(|at| read(config, saved.function, at));
            // A function that is gone has all bits set, and nothing under way.
            status.is_some_and(|status| status != u16::MAX && status & TRANSACTIONS_PENDING != 0)
        };
        self.saved.iter().any(pending)
    }

    /// Resets all that is to be.
    fn assert(&self, config: &mut dyn ConfigAccess, now: u64) -> Stage {
        for (function, reset) in &self.resets {
            match reset {
                Reset::Express { control } => {
                    let value = read(config, *function, *control) | DEVICE_RESET;
                    write(config, *function, *control, value);
                }
                Reset::AdvancedFeatures { control } => {
                    config.write(*function, *control, Width::Byte, 1);
                }
                Reset::SecondaryBus(_) => {}
            }
        }
        if self.each_bridge(config, true) {
            Stage::Held(now + u64::from(BUS_RESET_MS))
        } else {
            Stage::Settling(now + u64::from(FUNCTION_RESET_MS))
        }
    }

    /// Has every bridge concerned hold its bus in reset, or not; whether there is one.
    fn each_bridge(&self, config: &mut dyn ConfigAccess, held: bool) -> bool {
        let mut any = false;
        for (_, reset) in &self.resets {
            if let Reset::SecondaryBus(bridge) = reset {
                let at = register::BRIDGE_CONTROL.into();
                let control = read(config, *bridge, at) & !register::SECONDARY_BUS_RESET;
                let bit = if held {
                    register::SECONDARY_BUS_RESET
                } else {
                    0
                };
                write(config, *bridge, at, control | bit);
                any = true;
            }
        }
        any
    }

    /// Writes back what functions lost, bridges first, until one does not answer.
    fn absent(&self, config: &mut dyn ConfigAccess) -> Option<Address> {
        self.saved.iter().find_map(|saved| {
            let function = saved.function;
            let id = config.read(function, register::ID.into(), Width::Dword);
            if id == ABSENT || id as u16 == NOT_READY {
                return Some(function);
            }
            for (at, value) in &saved.words {
                write(config, function, *at, *value);
            }
            None
        })
    }
}

/// What of a function is written back after its reset; the command register last.
fn save(function: &Function, config: &mut dyn ConfigAccess) -> Saved {
    let address = function.address;
    let device = function.header == Header::Device;
    let mut places: Vec<u16> = Vec::new();
    if device {
        for bar in &function.bars {
            let at = u16::from(register::BAR0 + 4 * bar.index);
            let wide = matches!(bar.kind, super::BarKind::Memory64 { .. });
            places.extend((at..if wide { at + 8 } else { at + 4 }).step_by(2));
        }
    } else {
        // Bus numbers and windows; the control register comes with what is to stay off, off.
        places.extend((register::BAR0.into()..u16::from(register::INTERRUPT_LINE)).step_by(2));
        places.push(register::BRIDGE_CONTROL.into());
    }
    // The size of cache lines, and a latency.
    places.push(0x0c);
    let mut status = None;
    for capability in &function.capabilities {
        if let CapabilityKind::Express(express) = capability.kind {
            let at = u16::from(capability.at);
            status = Some(at + DEVICE_STATUS).filter(|_| device);
            places.push(at + DEVICE_CONTROL);
            if at + LINK_CONTROL + 2 <= register::LEGACY_BYTES && !device {
                places.push(at + LINK_CONTROL);
            }
            if express.version >= 2 && at + DEVICE_CONTROL_2 + 2 <= register::LEGACY_BYTES {
                places.push(at + DEVICE_CONTROL_2);
            }
            break;
        }
    }
    // Without these, what was kept apart would not be any more.
    if let Some((at, _)) = function
        .acs()
        .filter(|_| config.extent(address) == Extent::Extended)
    {
        places.push(at + ACS_CONTROL);
    }
    places.push(register::COMMAND.into());
    let control = status.map(|status| status - DEVICE_STATUS + DEVICE_CONTROL);
    let words = places.into_iter().map(|at| {
        let value = read(config, address, at);
        let value = match at {
            _ if at == u16::from(register::COMMAND) && device => {
                (Command::MEMORY | Command::NO_INTX).bits()
            }
            _ if at == u16::from(register::BRIDGE_CONTROL) && !device => {
                value & !register::SECONDARY_BUS_RESET
            }
            _ if Some(at) == control => value & !(DEVICE_RESET | ERROR_REPORTING),
            _ => value,
        };
        (at, value)
    });
    Saved {
        function: address,
        device,
        words: words.collect(),
        status,
    }
}

fn read(config: &mut dyn ConfigAccess, function: Address, at: u16) -> u16 {
    config.read(function, at, Width::Word) as u16
}

fn write(config: &mut dyn ConfigAccess, function: Address, at: u16, value: u16) {
    config.write(function, at, Width::Word, value.into());
}
