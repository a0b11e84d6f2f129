//! A VM with real functions: its bus as the guest reaches it, and behind it a machine that checks all that is done to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::super::VirtualConfig;
use super::super::host::{FIRST, LAST, Target};
use super::super::place::{Places, place};
use super::super::vectors::{CONTROL, ENTRY_BYTES};
use super::super::{Call, GuestMessage, Hardware, HostVectors, Real, Routes, Signalling};
use crate::addr::{Frame, Gpa, Hpa};
use crate::device::pci::{Bus, Outcome, Passed};
use crate::device::virtio::testing::Machine;
use crate::ledger::VmId;
use crate::pci::Function;
use crate::pci::testing::fake::Fake;
use crate::pci::testing::{at, inventory_of};
use crate::platform::ECAM_BASE;
use crate::table::TableMemory;
use crate::vtd::SourceId;
use crate::vtd::capability::InterruptMode;
use crate::vtd::interrupt::message::Message;
use crate::vtd::interrupt::{Destination, Handles, InterruptTable, Remapped, Trigger};
use crate::vtd::invalidate::UnitId;

pub(super) const VM: VmId = VmId(3);
/// vCPU n is on CPU n % 2.
pub(super) const VCPUS: u32 = 4;
pub(super) const CPUS: usize = 2;
pub(super) const RAM_END: Gpa = Gpa(0x1_4000_0000);
pub(super) const LIMIT: Gpa = Gpa(1 << 39);

/// The remapping unit's memory.
#[derive(Default)]
pub(super) struct Words(BTreeMap<(u64, usize), u64>);

impl TableMemory for Words {
    fn read(&self, table: Frame, index: usize) -> u64 {
        self.0.get(&(table.0, index)).copied().unwrap_or(0)
    }

    fn write(&mut self, table: Frame, index: usize, entry: u64) {
        self.0.insert((table.0, index), entry);
    }

    fn alloc(&mut self) -> Option<Frame> {
        None
    }

    fn free(&mut self, _table: Frame) {}
}

/// What all functions share.
pub(super) struct Host {
    pub(super) config: Fake,
    pub(super) vectors: HostVectors,
    pub(super) table: InterruptTable,
    pub(super) words: Words,
}

const TABLE: Frame = Frame(0x100);

/// One function's hardware.
pub(super) struct Chip {
    host: Arc<Mutex<Host>>,
    real: Real,
    routes: Routes,
    handles: Handles,
    state: Arc<Mutex<State>>,
}

/// What a test sees of a chip.
#[derive(Default)]
pub(super) struct State {
    /// Pages that trap.
    trapped: Vec<(u64, u64)>,
    pub(super) memory: BTreeMap<u64, u32>,
    pub(super) master: bool,
    pub(super) signalling: Option<Signalling>,
    pub(super) resets: u32,
    /// How many calls a reset takes.
    pub(super) patience: u32,
    left: u32,
    pub(super) index: u16,
    pub(super) handles: u32,
    pub(super) source: u16,
    /// Where the real MSI-X table is.
    pub(super) table: Option<(u64, u64)>,
}

impl State {
    fn check(&self, at: Hpa, size: u8) {
        assert!(matches!(size, 1 | 2 | 4 | 8) && at.0.is_multiple_of(size.into()));
        let inside = |(from, to): &(u64, u64)| *from <= at.0 && at.0 + u64::from(size) <= *to;
        assert!(
            self.trapped.iter().any(inside),
            "{at} was never to be touched"
        );
    }

    /// The real vector `number`: address, data, whether it is open.
    pub(super) fn vector(&self, number: u64) -> (u32, u32, bool) {
        let at = self.table.unwrap().0 + number * ENTRY_BYTES;
        let word = |at: u64| self.memory.get(&at).copied().unwrap_or(0);
        (word(at), word(at + 8), word(at + CONTROL) & 1 == 0)
    }
}

impl Hardware for Chip {
    fn read(&mut self, at: Hpa, size: u8) -> u64 {
        let state = self.state.lock().unwrap();
        state.check(at, size);
        let word = |at: u64| u64::from(state.memory.get(&at).copied().unwrap_or(0));
        let at = at.0;
        (word(at & !3) | word((at & !3) + 4) << 32) >> (8 * (at & 3))
    }

    fn write(&mut self, at: Hpa, size: u8, value: u64) {
        let mut state = self.state.lock().unwrap();
        state.check(at, size);
        if let Some((from, to)) = state.table
            && (from..to).contains(&at.0)
        {
            // Only the hypervisor's words get there.
            assert_eq!(size, 4);
            let handles = u64::from(state.index)..u64::from(state.index) + u64::from(state.handles);
            match (at.0 - from) % ENTRY_BYTES {
                0 => {
                    let message = Message {
                        address: value as u32,
                        data: 0,
                    };
                    let index = message.index().unwrap();
                    assert!(handles.contains(&index.into()));
                }
                CONTROL => assert!(value <= 1),
                _ => assert_eq!(value, 0),
            }
        }
        state.memory.insert(at.0 & !3, value as u32);
    }

    fn set_master(&mut self, on: bool) {
        self.state.lock().unwrap().master = on;
    }

    fn set_signalling(&mut self, signalling: Signalling) {
        self.state.lock().unwrap().signalling = Some(signalling);
        self.real
            .set_signalling(&mut self.host.lock().unwrap().config, signalling);
    }

    fn route(&mut self, number: u16, message: GuestMessage) -> Option<Message> {
        let mut host = self.host.lock().unwrap();
        let Host {
            vectors,
            table,
            words,
            ..
        } = &mut *host;
        let cpu = message.first(VCPUS)? as usize % CPUS;
        let moved = self.routes.set(vectors, number, message, cpu).ok()?;
        if let Some(Target { cpu, vector }) = moved {
            let entry = Remapped {
                destination: Destination::new(cpu as u32, InterruptMode::X2apic)?,
                vector,
                trigger: Trigger::Edge,
            };
            let _ = table.remap(words, &self.handles, number, entry).ok()?;
        }
        Some(Message::new(self.handles.index() + number, false))
    }

    fn reset(&mut self) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.left == 0 {
            state.left = state.patience + 1;
        }
        state.left -= 1;
        if state.left > 0 {
            return false;
        }
        state.resets += 1;
        if let Some((from, to)) = state.table {
            for at in (from..to).step_by(ENTRY_BYTES as usize) {
                state.memory.insert(at, 0);
                state.memory.insert(at + 8, 0);
                state.memory.insert(at + CONTROL, 1);
            }
        }
        true
    }

    fn quiet(&mut self) {
        self.set_master(false);
        self.set_signalling(Signalling::Off);
        let mut host = self.host.lock().unwrap();
        let Host { vectors, words, .. } = &mut *host;
        // As `InterruptTable::clear` does; the handles stay the function's.
        let first = u64::from(self.handles.index());
        for index in first..first + u64::from(self.handles.count()) {
            let (frame, word) = (Frame(TABLE.0 + index / 256), (index % 256) as usize * 2);
            words.write(frame, word, 0);
            words.write(frame, word + 1, 0);
        }
        self.routes.clear_all(vectors);
        self.state.lock().unwrap().left = 0;
    }
}

/// The VM.
pub(super) struct Rig {
    pub(super) host: Arc<Mutex<Host>>,
    pub(super) chips: Vec<Arc<Mutex<State>>>,
    pub(super) functions: Vec<Function>,
    pub(super) places: Places,
    pub(super) bus: Bus,
    pub(super) machine: Machine,
}

impl Rig {
    /// With the functions of `machine` at `names`, as device 1 and on.
    pub(super) fn new(mut config: Fake, names: &[&str]) -> Self {
        let inventory = inventory_of(&mut config);
        let find = |name: &&str| inventory.find(at(name)).unwrap().clone();
        let functions: Vec<Function> = names.iter().map(find).collect();
        let mut views: Vec<_> = functions
            .iter()
            .map(|function| (function.address, VirtualConfig::new(function).unwrap()))
            .collect();
        let places = place(&mut views, RAM_END, LIMIT).unwrap();
        let host = Arc::new(Mutex::new(Host {
            config,
            vectors: HostVectors::new(CPUS),
            table: InterruptTable::new(UnitId::new(0).unwrap(), TABLE, 10, InterruptMode::X2apic)
                .unwrap(),
            words: Words::default(),
        }));
        let (mut passed, mut chips) = (Vec::new(), Vec::new());
        for (function, (_, view)) in functions.iter().zip(views) {
            let real = Real::new(function);
            let order = real.interrupts().max(1).next_power_of_two().ilog2() as u8;
            let source = function.address.source_id();
            let handles = {
                let mut host = host.lock().unwrap();
                real.open(&mut host.config);
                host.table.reserve(SourceId(source), order).unwrap()
            };
            let trapped = view.memory().into_iter().filter_map(|part| {
                let range = (part.hpa.0, part.hpa.0 + part.bytes);
                let direct = places.direct.iter().any(|direct| direct.gpa == part.gpa);
                (!direct).then_some(range)
            });
            let state = Arc::new(Mutex::new(State {
                trapped: trapped.collect(),
                index: handles.index(),
                handles: handles.count(),
                source,
                table: view.msix_table().map(|(bar, range)| {
                    let base = function.bar(bar).unwrap().base;
                    (base + range.start, base + range.end)
                }),
                ..State::default()
            }));
            chips.push(Arc::clone(&state));
            let chip = Chip {
                host: Arc::clone(&host),
                routes: Routes::new(VM, real.interrupts()),
                real,
                handles,
                state,
            };
            passed.push(Passed::new(view, Box::new(chip)));
        }
        let mut bus = Bus::new(Vec::new()).unwrap();
        bus.give(passed, places.high.clone()).unwrap();
        bus.restart();
        Self {
            host,
            chips,
            functions,
            places,
            bus,
            machine: Machine::new(0x1000),
        }
    }

    pub(super) fn config_address(device: u64, at: u16) -> Gpa {
        Gpa(ECAM_BASE.0 + (device << 15) + u64::from(at))
    }

    pub(super) fn config(&mut self, device: u64, at: u16, size: u8) -> u32 {
        self.bus.read(Self::config_address(device, at), size) as u32
    }

    pub(super) fn set_config(&mut self, device: u64, at: u16, size: u8, value: u32) -> Outcome {
        let gpa = Self::config_address(device, at);
        self.bus.write(gpa, size, value.into(), &mut self.machine)
    }

    pub(super) fn write(&mut self, gpa: u64, size: u8, value: u64) {
        assert!(self.bus.reaches(Gpa(gpa)));
        let _ = self.bus.write(Gpa(gpa), size, value, &mut self.machine);
    }

    pub(super) fn read(&mut self, gpa: u64, size: u8) -> u64 {
        self.bus.read(Gpa(gpa), size)
    }

    /// Where the guest finds base address `bar` of a device.
    pub(super) fn bar(&mut self, device: u64, bar: u16) -> u64 {
        let at = 0x10 + 4 * bar;
        let low = self.config(device, at, 4);
        let high = match low & 6 {
            4 => u64::from(self.config(device, at + 4, 4)),
            _ => 0,
        };
        u64::from(low & !0xf) | high << 32
    }

    /// Sends what the entry at `index` of the unit's table says, and who of the VM that is for.
    pub(super) fn deliver(&self, index: u16) -> Option<Call> {
        let host = self.host.lock().unwrap();
        let [low, _] = host.entry(index);
        if low & 1 == 0 {
            return None;
        }
        let (cpu, vector) = ((low >> 32) as usize, (low >> 16) as u8);
        host.vectors.arrived(cpu, vector)
    }

    /// No entry of the unit's table is anything but a device's own, to a CPU there is, with a vector for devices.
    pub(super) fn check_entries(&self) {
        let host = self.host.lock().unwrap();
        for index in 0..1024 {
            let [low, high] = host.entry(index);
            if low & 1 == 0 {
                continue;
            }
            let owner = self.chips.iter().find(|chip| {
                let chip = chip.lock().unwrap();
                let own = u32::from(chip.index)..u32::from(chip.index) + chip.handles;
                own.contains(&u32::from(index))
            });
            // All of the requester's name is compared.
            assert_eq!(
                high,
                1 << 18 | u64::from(owner.unwrap().lock().unwrap().source)
            );
            let (cpu, vector) = ((low >> 32) as usize, (low >> 16) as u8);
            // And it is the VM's: no place is given up while an entry leads there.
            assert_eq!(host.vectors.arrived(cpu, vector).unwrap().vm, VM);
            assert!((low >> 32) < CPUS as u64);
            assert!((FIRST..=LAST).contains(&((low >> 16) as u8)));
            // Fixed, edge, physical, not posted.
            assert_eq!(low & 0xff00_fffe, 0);
        }
    }
}

impl Host {
    fn entry(&self, index: u16) -> [u64; 2] {
        let frame = Frame(TABLE.0 + u64::from(index) / 256);
        let word = usize::from(index % 256) * 2;
        [
            self.words.read(frame, word),
            self.words.read(frame, word + 1),
        ]
    }
}
