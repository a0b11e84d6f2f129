//! Which vector of which CPU stands for a device's interrupt, and whose interrupt a vector is.
//!
//! [`HostVectors`] is read by the CPU that an interrupt arrives at, wherever that happens, so it has no lock: each place
//! holds one [`Call`] or nothing. A [`HostVector`] is a place taken; there is one for each, and only it changes what is
//! there. A vector that nobody has is nobody's interrupt.
//!
//! [`Routes`] holds the places of one function. Where the guest moves an interrupt to a vCPU of another CPU, the place
//! left behind is kept until the next move: what was under way to it arrives as the same call.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use super::GuestMessage;
use crate::ledger::VmId;

/// The first vector that stands for a device's interrupt. Those below are exceptions, and the old interrupt controllers'.
pub const FIRST: u8 = 0x30;
/// The last; what comes after is the hypervisor's own.
pub const LAST: u8 = 0xef;
const COUNT: usize = (LAST - FIRST) as usize + 1;

const TAKEN: u64 = 1 << 63;
const VM_SHIFT: u32 = 40;

/// What an arriving interrupt is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// Whose.
    pub vm: VmId,
    /// For which of its vCPUs, as which vector.
    pub message: GuestMessage,
}

impl Call {
    fn encode(self) -> u64 {
        TAKEN | u64::from(self.vm.0) << VM_SHIFT | self.message.bits()
    }

    fn decode(bits: u64) -> Option<Self> {
        (bits & TAKEN != 0).then_some(Self {
            vm: VmId((bits >> VM_SHIFT) as u16),
            message: GuestMessage::from_bits(bits),
        })
    }
}

/// A vector of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// The CPU's index.
    pub cpu: usize,
    /// The vector.
    pub vector: u8,
}

/// A [`Target`] that is taken.
#[must_use = "give it back with `HostVectors::release`; dropped, it is never used again"]
#[derive(PartialEq, Eq, Debug)]
pub struct HostVector(Target);

impl HostVector {
    /// Which it is.
    #[must_use]
    pub const fn target(&self) -> Target {
        self.0
    }
}

/// The calls behind every CPU's vectors.
#[derive(Debug)]
pub struct HostVectors {
    cpus: Vec<[AtomicU64; COUNT]>,
}

impl HostVectors {
    /// The table of `cpus` CPUs, with nothing in it.
    #[must_use]
    pub fn new(cpus: usize) -> Self {
        let mut all = Vec::new();
        all.resize_with(cpus, || [const { AtomicU64::new(0) }; COUNT]);
        Self { cpus: all }
    }

    /// What interrupt `vector` is that arrived at `cpu`; `None` for a stray one.
    #[must_use]
    pub fn arrived(&self, cpu: usize, vector: u8) -> Option<Call> {
        Call::decode(self.place(Target { cpu, vector })?.load(Ordering::SeqCst))
    }

    /// Takes a vector of `cpu` for `call`; `None` where there is none left, or no such CPU.
    #[must_use]
    pub fn claim(&self, cpu: usize, call: Call) -> Option<HostVector> {
        let bits = call.encode();
        let free = |place: &AtomicU64| {
            place
                .compare_exchange(0, bits, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        };
        let places = (FIRST..=LAST).zip(self.cpus.get(cpu)?);
        let (vector, _) = places.into_iter().find(|(_, place)| free(place))?;
        Some(HostVector(Target { cpu, vector }))
    }

    /// Has `vector` be `call` from now on.
    pub fn set(&self, vector: &HostVector, call: Call) {
        if let Some(place) = self.place(vector.0) {
            place.store(call.encode(), Ordering::SeqCst);
        }
    }

    /// Gives a vector back. What still arrives there is stray.
    pub fn release(&self, vector: HostVector) {
        if let Some(place) = self.place(vector.0) {
            place.store(0, Ordering::SeqCst);
        }
    }

    fn place(&self, Target { cpu, vector }: Target) -> Option<&AtomicU64> {
        let index = vector.checked_sub(FIRST)?;
        self.cpus.get(cpu)?.get(usize::from(index))
    }
}

/// No vector is left on a CPU, and the interrupt has none elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoVector {
    /// The CPU.
    pub cpu: usize,
}

impl fmt::Display for NoVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu } = self;
        write!(
            f,
            "CPU {cpu} has no vector left for a device's interrupt; place the VM on more CPUs"
        )
    }
}

impl core::error::Error for NoVector {}

/// Where one interrupt arrives.
#[derive(Debug, Default)]
struct Route {
    now: Option<HostVector>,
    /// Where it arrived before.
    before: Option<HostVector>,
}

/// Where the interrupts of one function arrive.
#[derive(Debug)]
pub struct Routes {
    vm: VmId,
    routes: Vec<Route>,
}

impl Routes {
    /// Of a function of `vm` with so many interrupts; none of them arrives anywhere.
    #[must_use]
    pub fn new(vm: VmId, count: u16) -> Self {
        let mut routes = Vec::new();
        routes.resize_with(count.into(), Route::default);
        Self { vm, routes }
    }

    /// Has interrupt `number` arrive as `message`, at `cpu` where that has room. What the remapping unit is to be told, if
    /// that changed. An interrupt that the function has not goes nowhere.
    ///
    /// # Errors
    /// [`NoVector`]; then the interrupt arrives nowhere.
    pub fn set(
        &mut self,
        table: &HostVectors,
        number: u16,
        message: GuestMessage,
        cpu: usize,
    ) -> Result<Option<Target>, NoVector> {
        let call = Call {
            vm: self.vm,
            message,
        };
        let Some(route) = self.routes.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        if let Some(before) = &route.before {
            table.set(before, call);
        }
        if let Some(now) = &route.now {
            table.set(now, call);
            if now.target().cpu == cpu {
                return Ok(None);
            }
        }
        match (table.claim(cpu, call), &route.now) {
            (Some(new), _) => {
                let target = new.target();
                if let Some(old) = route.before.take() {
                    table.release(old);
                }
                route.before = route.now.replace(new);
                Ok(Some(target))
            }
            // It arrives at the CPU it arrived at, which passes it on.
            (None, Some(_)) => Ok(None),
            (None, None) => Err(NoVector { cpu }),
        }
    }

    /// Gives back what interrupt `number` has.
    pub fn clear(&mut self, table: &HostVectors, number: u16) {
        if let Some(route) = self.routes.get_mut(usize::from(number)) {
            let Route { now, before } = core::mem::take(route);
            for vector in now.into_iter().chain(before) {
                table.release(vector);
            }
        }
    }

    /// Gives back what all interrupts have.
    pub fn clear_all(&mut self, table: &HostVectors) {
        for number in 0..self.routes.len() as u16 {
            self.clear(table, number);
        }
    }
}
