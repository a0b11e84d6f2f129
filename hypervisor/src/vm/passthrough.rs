//! Real PCI functions in VMs: the domain that a VM's devices reach memory by, their resets, and the way of their interrupts.
//!
//! [`give`] makes all of it when a VM is created: a [`Passthrough`] for the VM's owner, and for its bus a function on a
//! [`Chip`] each. A life of the VM begins with [`Passthrough::reset`] and [`Passthrough::attach`] and ends with
//! [`Passthrough::detach`]; its memory is cleared only after the next reset. [`arrived`] is where interrupts come in. What
//! is decided is `bulkhead_core::passthrough`'s. Never run on hardware: no machine at hand has both VT-x and VT-d.
#![allow(unsafe_code, reason = "registers of devices lie at physical addresses")]

use super::memory::Piece;
use super::shared::{self, VmBus};
use super::{machine, uptime};
use crate::arch::cpu::rdtsc;
use crate::iommu::tables::IoTables;
use crate::iommu::{self, Iommu, IommuError};
use crate::memory::{self, Memory, MemoryError, frames_of};
use crate::pcpu;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::addr::{Gpa, Hpa};
use bulkhead_core::device::pci::Passed;
use bulkhead_core::ept::{EptAttr, EptError, EptPerms};
use bulkhead_core::hostpt::HostAttr;
use bulkhead_core::ledger::{FrameRun, LedgerError, Rights, VmId};
use bulkhead_core::manifest::{Assigned, ManifestErrors, Plan};
use bulkhead_core::mtrr::MemoryType;
use bulkhead_core::passthrough::host::Target;
use bulkhead_core::passthrough::reserved::{self, Overlaps};
use bulkhead_core::passthrough::virtual_config::{NotADevice, Reach};
use bulkhead_core::passthrough::{
    GuestMessage, Hardware, HostVectors, PlaceError, Real, Routes, Signalling, VirtualConfig,
    check_apart, place,
};
use bulkhead_core::pci::reset::{self, Reset, ResetRefusal};
use bulkhead_core::pci::reset_run::Progress;
use bulkhead_core::pci::{Address, ResetRun};
use bulkhead_core::views::Views;
use bulkhead_core::vtd::domain::{IoDomain, IoError};
use bulkhead_core::vtd::interrupt::message::Message;
use bulkhead_core::vtd::interrupt::{Destination, Handles, Remapped, Trigger};
use bulkhead_core::vtd::second_level::DmaPerms;
use core::fmt;
use core::ops::Range;
use core::ptr;
use guest_loader::{GpaRange, MemoryLayout};
use spin::Once;

/// Guest physical addresses that a four-level table translates.
const EPT_BITS: u32 = 48;

/// Whose interrupt each vector of each CPU is.
static VECTORS: Once<HostVectors> = Once::new();

/// Why a VM cannot have its devices.
#[derive(Debug)]
pub enum PassthroughError {
    /// Nothing holds devices back on this machine.
    NoIommu,
    /// A unit in front of a device.
    Iommu(IommuError),
    /// A bridge.
    NotADevice(NotADevice),
    /// A base address.
    Place(PlaceError),
    /// A device that cannot be reset.
    Reset(ResetRefusal),
    /// Memory that the firmware reserved for a device.
    Reserved(Overlaps),
    /// The VM's domain.
    Domain(IoError),
    /// Frames of the VM's, or registers of its devices.
    Ledger(LedgerError),
    /// The VM's view.
    Ept(EptError),
    /// Pages that the hypervisor needs itself.
    Trap {
        /// The device.
        function: Address,
        /// Why they cannot be mapped.
        error: MemoryError,
    },
    /// A device that did not come back from a reset, or could not be taken away.
    Lost(Address),
}

impl fmt::Display for PassthroughError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error: &dyn fmt::Display = match self {
            Self::NoIommu => {
                return f.write_str(
                    "no VT-d unit translates on this machine, so a device would reach all memory: turn VT-d on in the \
                     firmware set-up, or remove [[vm.device]]",
                );
            }
            Self::Trap { function, error } => {
                return write!(f, "the registers of {function}: {error}");
            }
            Self::Lost(function) => {
                return write!(
                    f,
                    "{function} does not answer, and stays out of use until the machine is switched off"
                );
            }
            Self::Iommu(error) => error,
            Self::NotADevice(error) => error,
            Self::Place(error) => error,
            Self::Reset(error) => error,
            Self::Reserved(error) => error,
            Self::Domain(error) => error,
            Self::Ledger(error) => error,
            Self::Ept(error) => error,
        };
        error.fmt(f)
    }
}

impl core::error::Error for PassthroughError {}

/// One line for each error that is somebody else's.
macro_rules! from {
    ($($variant:ident: $error:ty),*) => {
        $(impl From<$error> for PassthroughError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}

from!(
    Iommu: IommuError,
    NotADevice: NotADevice,
    Place: PlaceError,
    Reset: ResetRefusal,
    Reserved: Overlaps,
    Domain: IoError,
    Ledger: LedgerError,
    Ept: EptError
);

/// Which functions each VM of the plan gets; none where the plan names no device.
///
/// # Errors
/// A device that is missing, doubled, or not to be had without another.
pub fn assign(plan: &Plan) -> Result<Vec<Assigned>, ManifestErrors> {
    let none = plan.vms.iter().map(|_| Assigned::new()).collect();
    if plan.vms.iter().all(|vm| vm.devices.is_empty()) {
        return Ok(none);
    }
    match iommu::lock() {
        Some(iommu) => plan.assign(iommu.inventory(), iommu.groups()),
        None => Ok(none),
    }
}

/// What of a VM its devices are given to.
pub struct Receiver<'a> {
    /// Its number.
    pub id: VmId,
    /// Where its RAM is.
    pub layout: &'a MemoryLayout,
    /// The CPU of each of its vCPUs.
    pub placement: &'a [usize],
    /// Its frames, as its view has them.
    pub pieces: &'a [Piece],
}

/// A VM's functions, as its owner has them.
pub struct Passthrough {
    functions: Vec<(Real, Reset)>,
    domain: IoDomain,
    /// Where they are beyond the windows that every VM has.
    pub windows: Vec<GpaRange>,
    run: Option<ResetRun>,
    attached: bool,
    /// One that must not be used any more.
    lost: Option<Address>,
}

/// A VM's functions, made ready: for its owner, and for its bus with the place above RAM that they decode.
pub struct Given {
    /// The owner's.
    pub owned: Passthrough,
    /// The bus's.
    pub passed: Vec<Passed>,
    /// Where some of them are above RAM.
    pub high: Option<Range<Gpa>>,
}

/// Gives `functions` to a VM, whose memory `shown` shows. They stay silent and in no domain.
///
/// # Errors
/// A function cannot be had; what was mapped so far is lost with the VM, which is not started.
pub fn give(
    to: &Receiver<'_>,
    functions: &[Address],
    iommu: &mut Iommu,
    memory: &mut Memory,
    shown: &mut Views,
) -> Result<Given, PassthroughError> {
    if !iommu.translates() {
        return Err(PassthroughError::NoIommu);
    }
    let (mut views, mut owned) = (Vec::new(), Vec::new());
    for address in functions {
        let missing = ResetRefusal::Missing(*address);
        let function = iommu.inventory().find(*address).ok_or(missing)?;
        let reset = reset::choose(iommu.inventory(), iommu.groups(), *address)?;
        check_apart(iommu.inventory(), function)?;
        views.push((*address, VirtualConfig::new(function)?));
        owned.push((Real::new(function), reset));
    }
    let bits = machine().physical_bits.min(EPT_BITS);
    let ram_end = to.layout.ram_ranges().map(|range| range.end).max();
    let places = place(&mut views, ram_end.unwrap_or_default(), Gpa(1 << bits))?;
    let domain = build_domain(to, functions, iommu, memory)?;
    for part in &places.direct {
        let right = memory.ledger.grant_passthrough(to.id, part.run)?;
        let attr = EptAttr::new(EptPerms::READ | EptPerms::WRITE, MemoryType::Uncacheable);
        shown
            .map(&mut memory.pool, part.gpa, right, attr)
            .map_err(|rejected| rejected.error)?;
    }
    VECTORS.call_once(|| HostVectors::new(pcpu::all().len()));
    let mut passed = Vec::with_capacity(views.len());
    let mut trapped: Vec<FrameRun> = Vec::new();
    for ((function, view), (real, reset)) in views.into_iter().zip(&owned) {
        let parts = view.memory().into_iter();
        for part in parts.filter(|part| part.reach == Reach::Trapped) {
            let run = frames_of(part.hpa.0, part.bytes);
            // Small base addresses of a VM's functions may share a page.
            if !trapped.contains(&run) {
                memory
                    .map_device(run, HostAttr::DEVICE)
                    .map_err(|error| PassthroughError::Trap { function, error })?;
                trapped.push(run);
            }
        }
        let chip = Chip::new(to, real, *reset);
        passed.push(Passed::new(view, Box::new(chip)));
    }
    let low = GpaRange::new(
        bulkhead_core::platform::DEVICE_MMIO_BASE,
        bulkhead_core::platform::DEVICE_MMIO_SIZE,
    );
    let high = places.high.clone().map(|high| GpaRange {
        start: high.start,
        end: high.end,
    });
    Ok(Given {
        owned: Passthrough {
            functions: owned,
            domain,
            windows: low.into_iter().chain(high).collect(),
            run: None,
            attached: false,
            lost: None,
        },
        passed,
        high: places.high,
    })
}

/// A domain with the VM's RAM where the VM has it, and what the firmware reserved for its functions.
fn build_domain(
    to: &Receiver<'_>,
    functions: &[Address],
    iommu: &mut Iommu,
    memory: &mut Memory,
) -> Result<IoDomain, PassthroughError> {
    const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE);
    let perms = DmaPerms::READ | DmaPerms::WRITE;
    let mut fixed: Vec<FrameRun> = Vec::new();
    for function in functions {
        for region in iommu.regions_of(*function) {
            let ram = to.layout.ram_ranges().map(|ram| ram.start..ram.end);
            let run = reserved::frames(*function, region.base, region.limit, ram)?;
            // Several functions may be named by one region.
            if !fixed.contains(&run) {
                fixed.push(run);
            }
        }
    }
    let shape = iommu.shape_for(functions)?;
    let Memory { ledger, pool, .. } = memory;
    let mut tables = IoTables::new(pool, shape.coherent);
    let mut domain = IoDomain::new(to.id, shape, &mut tables)?;
    for piece in to.pieces {
        let right = ledger.grant(to.id, piece.run, READ_WRITE)?;
        domain
            .map(&mut tables, piece.gpa, right, perms)
            .map_err(|rejected| rejected.error)?;
    }
    for run in fixed {
        let right = ledger.grant_reserved(to.id, run)?;
        domain
            .map(&mut tables, Gpa(run.first.start().0), right, perms)
            .map_err(|rejected| rejected.error)?;
    }
    Ok(domain)
}

impl Passthrough {
    /// Resets the functions, or goes on with that; true when they are as after power-on, silent, at their places.
    ///
    /// # Errors
    /// One of them does not answer.
    pub fn reset(&mut self) -> Result<bool, PassthroughError> {
        if let Some(function) = self.lost {
            return Err(PassthroughError::Lost(function));
        }
        let mut iommu = iommu::lock().ok_or(PassthroughError::NoIommu)?;
        let functions = iommu.functions();
        let now = milliseconds();
        let run = self.run.get_or_insert_with(|| {
            let each = self.functions.iter();
            let resets: Vec<_> = each
                .map(|(real, reset)| (real.function(), *reset))
                .collect();
            ResetRun::begin(&functions.inventory, &resets, &mut functions.buses, now)
        });
        match run.step(&mut functions.buses, now) {
            Progress::Pending => return Ok(false),
            Progress::Done => {}
            Progress::Lost(function) => {
                self.lost = Some(function);
                return Err(PassthroughError::Lost(function));
            }
        }
        self.run = None;
        for (real, _) in &self.functions {
            real.open(&mut functions.buses);
        }
        Ok(true)
    }

    /// Lets the functions, which were reset, into the VM's domain.
    ///
    /// # Errors
    /// A unit does not answer. What was let in is for [`Self::detach`].
    pub fn attach(&mut self) -> Result<(), PassthroughError> {
        let mut iommu = iommu::lock().ok_or(PassthroughError::NoIommu)?;
        let mut memory = memory::lock();
        self.attached = true;
        for (real, _) in &self.functions {
            iommu.attach(&mut memory, &mut self.domain, real.function())?;
        }
        iommu.flush(&mut self.domain)?;
        Ok(())
    }

    /// Takes the functions, which the bus silenced, out of the domain: nothing they have under way reaches the VM's memory
    /// when this returns. Where that cannot be had, the VM's memory is never used again.
    pub fn detach(&mut self) {
        if !core::mem::take(&mut self.attached) {
            return;
        }
        let Some(mut iommu) = iommu::lock() else {
            return;
        };
        let mut memory = memory::lock();
        for (real, _) in &self.functions {
            let function = real.function();
            match iommu.detach(&mut memory, &mut self.domain, function) {
                Ok(()) | Err(IommuError::NotAttached(_)) => {}
                Err(error) => {
                    log::error!("{function} cannot be taken from its VM: {error}");
                    self.lost = Some(function);
                }
            }
        }
    }
}

/// An interrupt came to this CPU: whoever it is for finds it waiting. A stray one is nobody's.
#[inline]
pub fn arrived(vector: u8) {
    if let (Some(vectors), Some(cpu)) = (VECTORS.get(), pcpu::known())
        && let Some(call) = vectors.arrived(cpu.index, vector)
        && let Some(vm) = shared::by_id(call.vm)
    {
        call.message.send(&mut VmBus(vm));
    }
}

fn milliseconds() -> u64 {
    uptime(rdtsc()).as_millis() as u64
}

/// A real function for its VM's bus.
struct Chip {
    real: Real,
    reset: Reset,
    /// Where each vCPU is.
    cpus: Box<[usize]>,
    routes: Routes,
    /// Its places in the remapping table, while it has interrupts.
    handles: Option<Handles>,
    run: Option<ResetRun>,
    /// It gets no more interrupts: the unit in front of it did not answer.
    mute: bool,
    /// It was said that it lacks a vector.
    warned: bool,
}

impl Chip {
    fn new(to: &Receiver<'_>, real: &Real, reset: Reset) -> Self {
        Self {
            real: real.clone(),
            reset,
            cpus: to.placement.into(),
            routes: Routes::new(to.id, real.interrupts()),
            handles: None,
            run: None,
            mute: false,
            warned: false,
        }
    }

    fn try_route(
        &mut self,
        number: u16,
        message: GuestMessage,
    ) -> Result<Option<Message>, PassthroughError> {
        let function = self.real.function();
        let vcpu = message.first(self.cpus.len() as u32);
        let cpu = vcpu.and_then(|vcpu| self.cpus.get(vcpu as usize));
        let (Some(vectors), Some(cpu), false) = (VECTORS.get(), cpu, self.mute) else {
            return Ok(None);
        };
        let mut iommu = iommu::lock().ok_or(PassthroughError::NoIommu)?;
        let handles = match self.handles.take() {
            Some(handles) => handles,
            None => {
                let order = self.real.interrupts().max(1).next_power_of_two().ilog2();
                iommu.interrupts(function, order as u8)?
            }
        };
        let handles = self.handles.insert(handles);
        let moved = match self.routes.set(vectors, number, message, *cpu) {
            Ok(moved) => moved,
            Err(error) => {
                // Once: a guest can try as often as it likes.
                if !core::mem::replace(&mut self.warned, true) {
                    log::warn!("{function}: {error}");
                }
                return Ok(None);
            }
        };
        if let Some(Target { cpu, vector }) = moved {
            let mode = iommu.interrupt_mode(function)?;
            let to = pcpu::all().get(cpu).map(|cpu| cpu.apic_id);
            let Some(destination) = to.and_then(|id| Destination::new(id, mode)) else {
                return Err(IommuError::NoInterrupts(function).into());
            };
            let entry = Remapped {
                destination,
                vector,
                trigger: Trigger::Edge,
            };
            iommu.remap(&mut memory::lock(), function, handles, number, entry)?;
        }
        Ok(Some(Message::new(handles.index() + number, false)))
    }

    /// Has the unit forget the function's interrupts, and only then gives their vectors back.
    fn release(&mut self) -> Result<(), PassthroughError> {
        let Some(handles) = self.handles.take() else {
            return Ok(());
        };
        let mut iommu = iommu::lock().ok_or(PassthroughError::NoIommu)?;
        iommu.release_interrupts(&mut memory::lock(), self.real.function(), handles)?;
        if let Some(vectors) = VECTORS.get() {
            self.routes.clear_all(vectors);
        }
        Ok(())
    }

    /// Notes what went wrong with the unit: no interrupt is set up any more.
    fn fail(&mut self, error: &PassthroughError) {
        log::error!("{}: no more interrupts: {error}", self.real.function());
        self.mute = true;
    }
}

impl Hardware for Chip {
    fn read(&mut self, at: Hpa, size: u8) -> u64 {
        let place = at.0 as usize;
        match size {
            // SAFETY: the bus asks for what traps, which `give` mapped where addresses are equal, aligned to its size.
            1 => unsafe { ptr::with_exposed_provenance::<u8>(place).read_volatile() }.into(),
            // SAFETY: as above.
            2 => unsafe { ptr::with_exposed_provenance::<u16>(place).read_volatile() }.into(),
            // SAFETY: as above.
            4 => unsafe { ptr::with_exposed_provenance::<u32>(place).read_volatile() }.into(),
            // SAFETY: as above.
            _ => unsafe { ptr::with_exposed_provenance::<u64>(place).read_volatile() },
        }
    }

    fn write(&mut self, at: Hpa, size: u8, value: u64) {
        let place = at.0 as usize;
        match size {
            // SAFETY: as for `read`; these are the VM's own device's registers, and none that the hypervisor relies on.
            1 => unsafe {
                ptr::with_exposed_provenance_mut::<u8>(place).write_volatile(value as u8);
            },
            // SAFETY: as above.
            2 => unsafe {
                ptr::with_exposed_provenance_mut::<u16>(place).write_volatile(value as u16);
            },
            // SAFETY: as above.
            4 => unsafe {
                ptr::with_exposed_provenance_mut::<u32>(place).write_volatile(value as u32);
            },
            // SAFETY: as above.
            _ => unsafe { ptr::with_exposed_provenance_mut::<u64>(place).write_volatile(value) },
        }
    }

    fn set_master(&mut self, on: bool) {
        if let Some(mut iommu) = iommu::lock() {
            iommu.set_master(self.real.function(), on);
        }
    }

    fn set_signalling(&mut self, signalling: Signalling) {
        if let Some(mut iommu) = iommu::lock() {
            self.real.set_signalling(iommu.config(), signalling);
        }
    }

    fn route(&mut self, number: u16, message: GuestMessage) -> Option<Message> {
        match self.try_route(number, message) {
            Ok(message) => message,
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn reset(&mut self) -> bool {
        let Some(mut iommu) = iommu::lock() else {
            return true;
        };
        let functions = iommu.functions();
        let now = milliseconds();
        let run = self.run.get_or_insert_with(|| {
            let own = [(self.real.function(), self.reset)];
            ResetRun::begin(&functions.inventory, &own, &mut functions.buses, now)
        });
        match run.step(&mut functions.buses, now) {
            Progress::Pending => return false,
            Progress::Done => self.real.open(&mut functions.buses),
            // The guest finds all ones where it was.
            Progress::Lost(function) => log::error!("{}", PassthroughError::Lost(function)),
        }
        self.run = None;
        true
    }

    fn quiet(&mut self) {
        self.run = None;
        self.set_master(false);
        self.set_signalling(Signalling::Off);
        if let Err(error) = self.release() {
            self.fail(&error);
        }
    }
}
