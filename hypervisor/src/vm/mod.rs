//! VMs: frames and a view from the ledger, a guest from the loader, vCPUs on their CPUs, and a life from start to end.
//!
//! [`Vm`] is what its owner, [`control`], keeps of a VM: plan, files, devices. [`shared::VmShared`] is what every CPU
//! knows of it, its [`memory`] too. [`run::Running`] is a vCPU, which belongs to the CPU that [`scheduler`] runs it on.

pub mod command;
pub mod control;
pub mod destroy;
pub mod disk;
pub mod host;
pub mod inspect;
pub mod load;
pub mod memory;
pub mod models;
pub mod network;
pub mod passthrough;
pub mod populate;
mod reach;
pub mod report;
pub mod run;
pub mod scheduler;
pub mod shared;
pub mod split;
pub mod switched;

use crate::arch::cpu;
use crate::boot::payload::{self, VmFiles};
use crate::events;
use crate::iommu;
use crate::memory::Memory;
use crate::pcpu;
use crate::secmem::keys::KeyError;
use crate::vmx::operation::Features;
use crate::vmx::vmcs::Bitmaps;
use alloc::boxed::Box;
use alloc::vec::Vec;
use bulkhead_core::addr::{Frame, FrameCount, Hpa};
use bulkhead_core::apic::LocalApic;
use bulkhead_core::bus::Signal;
use bulkhead_core::call::KnownLosses;
use bulkhead_core::cow::CowError;
use bulkhead_core::cpuid::{CpuidConfig, CpuidResult, CpuidTable, Crystal, VmxInstructions};
use bulkhead_core::device::pci::TooManyDevices;
use bulkhead_core::ept::EptError;
use bulkhead_core::events::Event;
use bulkhead_core::insn::Gprs;
use bulkhead_core::ledger::{LedgerError, VmId};
use bulkhead_core::manifest::VmPlan;
use bulkhead_core::msr::{self, MsrState, X2apicAssist};
use bulkhead_core::mtrr::Mtrrs;
use bulkhead_core::pci::Address;
use bulkhead_core::sched::Share;
use bulkhead_core::switch::SwitchError;
use bulkhead_core::symmetry::FeatureWords;
use bulkhead_core::table::TableMemory;
use bulkhead_core::vcpu::split::Divided;
use bulkhead_core::vcpu::{Vcpu, VcpuSetup};
use bulkhead_core::views::ViewError;
use bulkhead_core::vmx::capability::NoSplit;
use bulkhead_core::vmx::controls::Secondary;
use core::fmt;
use core::time::Duration;
use guest_loader::{
    EntryState, LayoutError, LoadError, Loading, MemoryLayout, PlatformDescription,
};
use host::Host;
use memory::VmMemory;
use network::Unsent;
use passthrough::{Given, Passthrough, PassthroughError, Receiver};
use populate::Populate;
use run::{Left, Running};
use shared::VmShared;
use spin::Once;
use spin::mutex::Mutex;
use switched::Switched;

/// Why a VM cannot be started.
#[derive(Debug)]
pub enum VmError {
    /// No frames, or frames that are not what they should be.
    Ledger(LedgerError),
    /// The view cannot be built.
    Ept(EptError),
    /// The split's views cannot be had.
    Views(ViewError),
    /// The kernel/user split on a processor that lacks something for it.
    NoSplit(NoSplit),
    /// No frame left for VMX structures.
    OutOfPool,
    /// The memory size cannot be laid out.
    Layout(LayoutError),
    /// The kernel, initial RAM disk or command line.
    Load(LoadError),
    /// More devices than a bus has places for.
    Devices(TooManyDevices),
    /// A disk's map.
    Disk(CowError),
    /// Network cards that cannot be told apart.
    Network(SwitchError),
    /// Real devices.
    Passthrough(PassthroughError),
    /// The key of an encrypted VM.
    Key(KeyError),
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ledger(error) => error.fmt(f),
            Self::Ept(error) => error.fmt(f),
            Self::Views(error) => error.fmt(f),
            Self::NoSplit(NoSplit::NoHelp) => f.write_str(
                "`split` wants a processor with mode-based execute control for EPT, or with VMFUNC, and this one has neither; \
                 write `split_unaided = true` to have it all the same, slowly, or leave `split` out",
            ),
            Self::NoSplit(NoSplit::NoSteps) => f.write_str(
                "`split` needs a processor with the monitor trap flag, which this one lacks; leave it out",
            ),
            Self::OutOfPool => f.write_str("the hypervisor's pool has no frame left for this VM"),
            Self::Layout(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Devices(error) => error.fmt(f),
            Self::Disk(error) => error.fmt(f),
            Self::Network(error) => error.fmt(f),
            Self::Passthrough(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for VmError {}

impl From<PassthroughError> for VmError {
    fn from(error: PassthroughError) -> Self {
        Self::Passthrough(error)
    }
}

/// What running VMs needs of the machine, the same on every CPU.
pub struct Machine {
    /// Negotiated features.
    pub features: Features,
    /// What CPUID says on all of them.
    pub common: FeatureWords,
    /// Bytes of an XSAVE area that is large enough for each.
    pub xsave_bytes: usize,
    /// TSC frequency.
    pub tsc_khz: u32,
    /// Memory types.
    pub mtrrs: Mtrrs,
    /// Width of a physical address.
    pub physical_bits: u32,
    /// Which MSRs and ports exit.
    pub bitmaps: Bitmaps,
    /// The time by the firmware's clock: seconds since 1970, and the host TSC then.
    pub epoch: (u64, u64),
}

impl Machine {
    /// What CPUID says here, less the features that some CPU lacks.
    #[inline(never)]
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let here = cpu::cpuid_for_core(leaf, subleaf);
        self.common.apply(leaf, subleaf, here)
    }
}

static MACHINE: Once<Machine> = Once::new();

/// Makes `machine` what [`machine`] gives.
pub fn install(machine: Machine) {
    MACHINE.call_once(|| machine);
}

/// The machine.
///
/// # Panics
/// Before [`install`].
#[inline]
#[must_use]
pub fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => panic!("a VM is run before the machine is known"),
    }
}

/// The TSC's frequency in kHz.
#[must_use]
pub fn tsc_khz() -> u32 {
    machine().tsc_khz
}

/// So many milliseconds in the TSC's ticks.
#[must_use]
pub fn ticks(milliseconds: u64) -> u64 {
    u64::from(tsc_khz()).saturating_mul(milliseconds)
}

/// The time that had gone by at host TSC `now` since the TSC was 0.
#[must_use]
pub fn uptime(now: u64) -> Duration {
    Duration::from_millis(now / u64::from(tsc_khz()))
}

/// The TLB tag of a vCPU; 0 is the hypervisor's.
#[must_use]
pub const fn vpid(vm: VmId, vcpu: u32) -> u16 {
    const VCPUS: u16 = bulkhead_core::manifest::MAX_VCPUS as u16;
    1 + vm.0 * VCPUS + vcpu as u16
}

const _: () = assert!(
    bulkhead_core::manifest::MAX_VMS * (bulkhead_core::manifest::MAX_VCPUS as usize)
        < u16::MAX as usize
);

/// The bitmaps that all vCPUs share: every port exits; MSRs as the policy says.
///
/// # Errors
/// [`VmError::OutOfPool`].
pub fn build_bitmaps(memory: &mut Memory, apicv: bool) -> Result<Bitmaps, VmError> {
    let run = memory
        .pool
        .take_run(FrameCount(4))
        .ok_or(VmError::OutOfPool)?;
    let assist = if apicv {
        X2apicAssist::Delivery
    } else {
        X2apicAssist::None
    };
    let split = Frame(run.first.0 + 3);
    let mut bitmap = Box::new([0; msr::BITMAP_SIZE]);
    msr::build_bitmap(&mut bitmap, assist);
    for frame in [run.first, split] {
        let (words, _) = bitmap.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            memory.pool.write(frame, index, u64::from_le_bytes(*word));
        }
        msr::watch_entry_points(&mut bitmap);
    }
    for page in 1..3 {
        for index in 0..bulkhead_core::table::ENTRIES {
            memory
                .pool
                .write(Frame(run.first.0 + page), index, u64::MAX);
        }
    }
    Ok(Bitmaps {
        msr: run.first.start(),
        split_msr: split.start(),
        io: Frame(run.first.0 + 1).start(),
    })
}

/// What a VM is made from, and what it has for good.
pub struct Vm {
    /// What every CPU knows of it.
    pub shared: &'static VmShared,
    /// What the manifest says of it.
    pub plan: VmPlan,
    files: VmFiles,
    layout: MemoryLayout,
    /// Its real devices, where it has any.
    passthrough: Option<Passthrough>,
    /// A VMCS for each vCPU.
    vmcs: Vec<Hpa>,
}

impl Vm {
    /// A VM that can be started, with the real `functions`. It takes its memory when it is started, and gives it back when
    /// its run has ended; one with real devices takes it now and keeps it, because its I/O domain maps it.
    ///
    /// # Errors
    /// The machine has not what the VM needs.
    pub fn create(
        id: VmId,
        plan: VmPlan,
        files: VmFiles,
        placement: &[usize],
        functions: &[Address],
    ) -> Result<Self, VmError> {
        let layout = MemoryLayout::new(plan.memory.bytes()).map_err(VmError::Layout)?;
        let mut own = VmMemory::new(id, layout, &plan)?;
        let given = match functions {
            [] => None,
            _ => Some(give_devices(&mut own, placement, functions)?),
        };
        let own = &*Box::leak(Box::new(Mutex::new(own)));
        let mut vmcs = Vec::with_capacity(placement.len());
        for _ in placement {
            let frame = crate::memory::lock().pool.alloc();
            vmcs.push(frame.ok_or(VmError::OutOfPool)?.start());
        }
        let mut devices = models::build(&plan, &files, id, own)?;
        let mut passthrough = None;
        if let Some(Given {
            owned,
            passed,
            high,
        }) = given
        {
            devices.give(passed, high).map_err(VmError::Devices)?;
            passthrough = Some(owned);
        }
        let share = Share::clamped(plan.weight, plan.cap);
        let shared = VmShared::new(id, &plan, own, devices, placement, share)?;
        Ok(Self {
            // A VM stays when its run has ended: it can be started again.
            shared: Box::leak(Box::new(shared)),
            plan,
            files,
            layout,
            passthrough,
            vmcs,
        })
    }

    /// Whether it has the same memory in all its lives.
    #[must_use]
    pub const fn keeps_memory(&self) -> bool {
        self.passthrough.is_some()
    }

    /// Resets its real devices, or goes on with that; true when that is done, or it has none.
    ///
    /// # Errors
    /// A device does not answer any more.
    pub fn reset_devices(&mut self) -> Result<bool, VmError> {
        match &mut self.passthrough {
            Some(passthrough) => Ok(passthrough.reset()?),
            None => Ok(true),
        }
    }

    /// Lets its real devices, which were reset, into its domain.
    ///
    /// # Errors
    /// A remapping unit does not answer.
    pub fn attach_devices(&mut self) -> Result<(), VmError> {
        if let Some(passthrough) = &mut self.passthrough
            && let Err(error) = passthrough.attach()
        {
            passthrough.detach();
            return Err(error.into());
        }
        Ok(())
    }

    /// Begins to load the guest into memory that is all zero; its images are left to be copied.
    ///
    /// # Errors
    /// The guest cannot be loaded.
    pub fn prepare(&self) -> Result<Loading<'static>, VmError> {
        let ids = payload::apic_ids(&self.plan);
        let platform = PlatformDescription {
            vcpu_apic_ids: &ids,
            device_windows: self
                .passthrough
                .as_ref()
                .map_or(&[], |passthrough| &passthrough.windows),
        };
        let request = payload::load_request(&self.plan, &self.files, &self.layout, &platform);
        guest_loader::prepare(&request, &mut self.shared.space()).map_err(VmError::Load)
    }

    /// Gives the vCPUs of a guest that is loaded to their CPUs; the first of them starts as `entry` says.
    pub fn start(&self, entry: EntryState, watchdog_fired: bool) {
        self.shared.reset(models::start_state(watchdog_fired));
        network::set_links(self.shared, true);
        self.shared.open();
        // One time for all: the vCPUs' time-stamp counters agree.
        let tsc_offset = cpu::rdtsc().wrapping_neg();
        for (port, (id, vmcs)) in self.shared.vcpus.iter().zip((0..).zip(&self.vmcs)) {
            let running = self.build_vcpu(id, *vmcs, entry, tsc_offset);
            if id != 0 {
                let _ = port.mailbox.post(Signal::Init);
            }
            let Some(cpu) = pcpu::all().get(port.pcpu) else {
                unreachable!("a vCPU was placed on a CPU that is not there");
            };
            cpu.inbox.lock().push(running);
            cpu.kick();
        }
    }

    /// Its run ended: its devices reach its memory no more, and nobody reaches its devices. False where somebody, who delivers
    /// a frame, still has them.
    #[must_use]
    pub fn disconnect(&mut self) -> bool {
        network::set_links(self.shared, false);
        let Some(mut devices) = self.shared.visit_devices() else {
            return false;
        };
        devices.disconnect();
        drop(devices);
        if let Some(passthrough) = &mut self.passthrough {
            passthrough.detach();
        }
        true
    }

    /// Says what its disks and network cards did.
    pub fn report_devices(&self) {
        for report in network::reports(self.shared) {
            events::send(&Event::Nic(report.event(self)));
        }
        for counters in models::disk_counters(self) {
            events::send(&Event::Disk(counters));
        }
    }

    /// A vCPU in its first state.
    fn build_vcpu(&self, id: u32, vmcs: Hpa, entry: EntryState, tsc_offset: u64) -> Box<Running> {
        let machine = machine();
        let vmx = machine.features.vmx;
        let divided = self.shared.sides.map(|_| Divided::new());
        let controls = match divided {
            Some(_) => split::controls(&vmx).unwrap_or(vmx),
            None => vmx,
        };
        let mut instructions = VmxInstructions::empty();
        instructions.set(
            VmxInstructions::RDTSCP,
            controls.optional.contains(Secondary::RDTSCP),
        );
        instructions.set(
            VmxInstructions::INVPCID,
            controls.optional.contains(Secondary::INVPCID),
        );
        let config = CpuidConfig {
            apic_id: id,
            vcpus: self.plan.vcpus,
            tsc_khz: machine.tsc_khz,
            instructions,
        };
        let mut host_cpuid = |leaf, subleaf| machine.cpuid(leaf, subleaf);
        let vcpu = Vcpu::new(VcpuSetup {
            apic: LocalApic::new(id, Crystal::for_tsc(machine.tsc_khz).shift),
            cpuid: CpuidTable::build(&mut host_cpuid, &config),
            msrs: MsrState::new(machine.physical_bits, cpu::microcode_revision()),
            controls,
            tsc_offset,
            divided,
        });
        let registers = &entry.registers;
        Box::new(Running {
            vcpu,
            host: Host::new(self.shared, id),
            left: Left::GaveBack,
            unsent: Unsent::default(),
            gprs: Gprs([
                registers.rax,
                registers.rcx,
                registers.rdx,
                registers.rbx,
                0,
                registers.rbp,
                registers.rsi,
                registers.rdi,
                registers.r8,
                registers.r9,
                registers.r10,
                registers.r11,
                registers.r12,
                registers.r13,
                registers.r14,
                registers.r15,
            ]),
            switched: Switched::new(),
            vmcs,
            entry: Some(entry),
            known: KnownLosses::default(),
            launched: false,
        })
    }
}

/// Takes the memory of a VM with real devices and gives it the `functions`.
fn give_devices(
    own: &mut VmMemory,
    placement: &[usize],
    functions: &[Address],
) -> Result<Given, VmError> {
    let mut iommu = iommu::lock().ok_or(PassthroughError::NoIommu)?;
    Populate::all(own)?;
    let pieces: Vec<_> = own.pieces().collect();
    let to = Receiver {
        id: own.vm,
        layout: &own.layout,
        placement,
        pieces: &pieces,
    };
    let mut memory = crate::memory::lock();
    memory.redeem(own.backing.taken());
    let given = passthrough::give(&to, functions, &mut iommu, &mut memory, &mut own.views)?;
    Ok(given)
}
