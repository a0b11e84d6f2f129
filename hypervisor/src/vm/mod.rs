//! VMs: frames and a view from the ledger, a guest from the loader, a VMCS, and then run until it stops.

pub mod host;
pub mod run;

use crate::arch::cpu;
use crate::arch::descriptor::HostDescriptors;
use crate::boot::payload::{self, VmFiles};
use crate::console::CONSOLE;
use crate::events;
use crate::memory::guest::GuestSpace;
use crate::memory::{Memory, MemoryError};
use crate::vmx::enter::{self, RunFrame};
use crate::vmx::instruction::{self, VmxFailed};
use crate::vmx::operation::Features;
use crate::vmx::vmcs::{self, Regions, Setup};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_core::addr::{Frame, FrameCount, Gpa, Hpa};
use bulkhead_core::apic::LocalApic;
use bulkhead_core::cpuid::{CpuidConfig, CpuidResult, CpuidTable, Crystal, VmxInstructions};
use bulkhead_core::ept::{Ept, EptError, EptPerms};
use bulkhead_core::events::{Counters, Event, Ticks};
use bulkhead_core::fault::StopReason;
use bulkhead_core::ledger::{FrameRun, LedgerError, Owner, Rights, VmId};
use bulkhead_core::manifest::{RestartPolicy, VmPlan};
use bulkhead_core::msr::{self, MsrState, X2apicAssist};
use bulkhead_core::mtrr::Mtrrs;
use bulkhead_core::table::TableMemory;
use bulkhead_core::vcpu::devices::Devices;
use bulkhead_core::vcpu::registers::Gprs;
use bulkhead_core::vcpu::{Vcpu, VcpuSetup};
use bulkhead_core::vmx::controls::Secondary;
use core::fmt;
use guest_loader::{EntryState, LayoutError, LoadError, MemoryLayout};
use host::Host;
use run::{Ended, Running};
use spin::Mutex;

/// Looks at the console this many times a second while a guest runs.
const CONSOLE_LOOKS_PER_SECOND: u64 = 500;

/// Why a VM cannot be started.
#[derive(Debug)]
pub enum VmError {
    /// No frames, or frames that are not what they should be.
    Ledger(LedgerError),
    /// Memory cannot be shown to be cleared.
    Memory(MemoryError),
    /// The view cannot be built.
    Ept(EptError),
    /// No frame left for VMX structures.
    OutOfPool,
    /// The memory size cannot be laid out.
    Layout(LayoutError),
    /// The kernel, initial RAM disk or command line.
    Load(LoadError),
    /// A VMX instruction.
    Vmx(VmxFailed),
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ledger(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Ept(error) => error.fmt(f),
            Self::OutOfPool => f.write_str("the hypervisor's pool has no frame left for this VM"),
            Self::Layout(error) => error.fmt(f),
            Self::Load(error) => error.fmt(f),
            Self::Vmx(failed) => failed.fmt(f),
        }
    }
}

impl core::error::Error for VmError {}

/// What starting VMs needs of the machine.
pub struct Machine {
    /// Negotiated features.
    pub features: Features,
    /// This CPU's tables.
    pub descriptors: HostDescriptors,
    /// Top of the exit stack.
    pub exit_stack: u64,
    /// TSC frequency.
    pub tsc_khz: u32,
    /// Memory types.
    pub mtrrs: Mtrrs,
    /// Width of a physical address.
    pub physical_bits: u32,
}

/// A VM with its memory, ready to be started, and started again.
pub struct Vm {
    id: VmId,
    plan: VmPlan,
    files: VmFiles,
    layout: MemoryLayout,
    frames: Vec<FrameRun>,
    ept: Arc<Ept>,
    regions: Regions,
    memory: Arc<Mutex<Memory>>,
    restarts: u32,
}

/// What the machine does after a VM stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum After {
    /// Start it again: it stopped for this reason.
    Restart(StopReason),
    /// Leave it stopped.
    Rest,
}

impl Vm {
    /// Takes the VM's frames, scrubs them and builds its `base` view.
    ///
    /// # Errors
    /// The machine has not what the VM needs.
    pub fn create(
        id: VmId,
        plan: VmPlan,
        files: VmFiles,
        memory: &Arc<Mutex<Memory>>,
        machine: &Machine,
    ) -> Result<Self, VmError> {
        let layout = MemoryLayout::new(plan.memory.bytes()).map_err(VmError::Layout)?;
        let mut guard = memory.lock();
        let Memory { ledger, .. } = &mut *guard;
        let mut frames = Vec::new();
        ledger
            .alloc_frames(
                Owner::Vm(id),
                FrameCount::covering(plan.memory.bytes()),
                |run| frames.push(run),
            )
            .map_err(VmError::Ledger)?;
        for run in &frames {
            guard.scrub(*run).map_err(VmError::Ledger)?;
        }
        let ept = build_view(id, &layout, &frames, &mut guard, machine)?;
        let regions = take_regions(&mut guard)?;
        drop(guard);
        Ok(Self {
            id,
            plan,
            files,
            layout,
            frames,
            ept: Arc::new(ept),
            regions,
            memory: Arc::clone(memory),
            restarts: 0,
        })
    }

    /// Loads the guest and runs it until it stops; says what its restart policy wants then.
    ///
    /// # Errors
    /// The guest cannot be loaded, or VMX failed.
    pub fn run(&mut self, machine: &Machine) -> Result<After, VmError> {
        let entry = self.load()?;
        events::send(&Event::VmStart {
            vm: self.plan.name.as_str(),
        });
        let mut running = self.prepare(machine, &entry)?;
        let ended = self.enter(machine, &entry, &mut running);
        let Running { host, devices, .. } = &mut *running;
        host.drain_console(devices);
        let Ended::Stopped(reason) = ended else {
            panic!(
                "a machine check arrived while VM \"{}\" ran; the machine is not to be trusted",
                self.plan.name
            );
        };
        self.report(&running, reason);
        Ok(self.after(reason))
    }

    /// Empties the VM's memory for another start, which `reason` is the cause of.
    ///
    /// # Errors
    /// The ledger disagrees about who owns the frames.
    pub fn reset(&mut self, reason: StopReason) -> Result<(), VmError> {
        let mut memory = self.memory.lock();
        let ept = Arc::clone(&self.ept);
        let mut space = GuestSpace {
            memory: &mut memory,
            vm: self.id,
            ept: &ept,
            size: self.plan.memory.bytes(),
        };
        space.clear(&self.frames).map_err(VmError::Memory)?;
        self.restarts += 1;
        let vm = self.plan.name.as_str();
        log::info!("VM \"{vm}\" starts again (restart {})", self.restarts);
        events::send(&Event::VmRestart {
            vm,
            reason: &reason,
            count: self.restarts,
        });
        Ok(())
    }

    fn load(&self) -> Result<EntryState, VmError> {
        let request = payload::load_request(&self.plan, &self.files, &self.layout);
        let mut memory = self.memory.lock();
        let mut space = GuestSpace {
            memory: &mut memory,
            vm: self.id,
            ept: &self.ept,
            size: self.plan.memory.bytes(),
        };
        guest_loader::load(&request, &mut space).map_err(VmError::Load)
    }

    /// A vCPU in its first state, with fresh devices.
    fn prepare(&mut self, machine: &Machine, entry: &EntryState) -> Result<Box<Running>, VmError> {
        let controls = machine.features.vmx;
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
            apic_id: 0,
            vcpus: 1,
            tsc_khz: machine.tsc_khz,
            instructions,
        };
        let mut host_cpuid = |leaf, subleaf| {
            let host = cpu::cpuid(leaf, subleaf);
            CpuidResult {
                eax: host.eax,
                ebx: host.ebx,
                ecx: host.ecx,
                edx: host.edx,
            }
        };
        let cpuid = CpuidTable::build(&mut host_cpuid, &config);
        let apic = LocalApic::new(0, Crystal::for_tsc(machine.tsc_khz).shift);
        let tsc_offset = cpu::rdtsc().wrapping_neg();
        let vcpu = Vcpu::new(VcpuSetup {
            apic,
            cpuid,
            msrs: MsrState::new(machine.physical_bits, cpu::microcode_revision()),
            controls,
            poll_every: u64::from(machine.tsc_khz) * 1000 / CONSOLE_LOOKS_PER_SECOND,
            tsc_offset,
        });
        let host = Host {
            memory: Arc::clone(&self.memory),
            ept: Arc::clone(&self.ept),
            vm: self.id,
            size: self.plan.memory.bytes(),
            typed: None,
        };
        let running = Box::new(Running {
            vcpu,
            devices: Devices::new(),
            host,
            ended: None,
        });
        self.regions.apic_page = Hpa(core::ptr::from_ref(running.vcpu.apic.page()) as u64);
        self.fill_bitmaps(controls.apicv());
        let setup = Setup {
            controls: &controls,
            regions: self.regions,
            eptp: self.ept.eptp(),
            vpid: self.id.0 + 1,
            host: &machine.descriptors,
            exit_stack: machine.exit_stack,
            entry,
            allowed_cr4: running.vcpu.cpuid.allowed_cr4(),
            tsc_offset,
        };
        // SAFETY: `take_regions` took these frames for this VM alone.
        #[allow(unsafe_code, reason = "the VMCS is raw memory")]
        unsafe { vmcs::fill(&setup) }.map_err(VmError::Vmx)?;
        instruction::invvpid_all().map_err(VmError::Vmx)?;
        instruction::invept_all().map_err(VmError::Vmx)?;
        Ok(running)
    }

    /// Every port exits; MSRs as the policy says.
    fn fill_bitmaps(&self, apicv: bool) {
        let mut memory = self.memory.lock();
        let assist = if apicv {
            X2apicAssist::Delivery
        } else {
            X2apicAssist::None
        };
        let mut bitmap = Box::new([0; msr::BITMAP_SIZE]);
        msr::build_bitmap(&mut bitmap, assist);
        let (words, _) = bitmap.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            let frame = Frame::containing(self.regions.msr_bitmap);
            memory.pool.write(frame, index, u64::from_le_bytes(*word));
        }
        for page in 0..2 {
            let frame = Frame(Frame::containing(self.regions.io_bitmap).0 + page);
            for index in 0..bulkhead_core::table::ENTRIES {
                memory.pool.write(frame, index, u64::MAX);
            }
        }
    }

    fn enter(&self, machine: &Machine, entry: &EntryState, running: &mut Box<Running>) -> Ended {
        let frame = enter::frame_at(machine.exit_stack);
        let registers = &entry.registers;
        let context: *mut Running = &mut **running;
        let first = RunFrame::new(
            Gprs([
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
            context,
        );
        cpu::reset_guest_visible_state();
        // SAFETY: the exit stack is not in use: no guest runs.
        #[allow(unsafe_code, reason = "the frame lies on a raw stack")]
        unsafe {
            frame.write(first)
        };
        // SAFETY: the frame is the one `vmcs::fill` named, and `running` is not touched until `run` returns.
        #[allow(unsafe_code, reason = "enters the guest")]
        let entered = unsafe { enter::run(frame) };
        match (entered, running.ended) {
            (Ok(()), Some(ended)) => ended,
            _ => Ended::Stopped(StopReason::EntryRefused(instruction::entry_failure().error)),
        }
    }

    fn after(&self, reason: StopReason) -> After {
        match (self.plan.restart, reason) {
            (RestartPolicy::Always, _) => After::Restart(reason),
            (RestartPolicy::Never, _) | (RestartPolicy::OnCrash, StopReason::PowerOff) => {
                After::Rest
            }
            (RestartPolicy::OnCrash, _) => After::Restart(reason),
        }
    }

    fn report(&self, running: &Running, reason: StopReason) {
        let vm = self.plan.name.as_str();
        CONSOLE.lock().fresh_line();
        if !matches!(reason, StopReason::PowerOff | StopReason::Reset) {
            let rip = Vcpu::rip(&running.host);
            log::warn!("VM \"{vm}\" is stopped at {rip}: {reason}");
            events::send(&Event::GuestFault {
                vm,
                what: reason.name(),
                rip: rip.0,
                detail: &reason,
            });
        } else {
            log::info!("VM \"{vm}\": {reason}");
        }
        let counters = &running.vcpu.counters;
        let exits: Vec<_> = counters.exits().collect();
        let books: Vec<_> = self.memory.lock().frames_by_state(self.id, &self.frames);
        events::send(&Event::VmStop {
            vm,
            reason: &reason,
        });
        events::send(&Event::Counters(Counters {
            vm,
            exits: &exits,
            frames: &books,
            view_switches: 0,
            faults: counters.faults,
            ticks: Ticks {
                guest: counters.guest_ticks(),
                root: counters.root_ticks(),
                idle: counters.idle_ticks(),
                ..Ticks::default()
            },
            ..Counters::default()
        }));
    }
}

/// Maps the frames where the layout has RAM, readable, writable and executable.
fn build_view(
    id: VmId,
    layout: &MemoryLayout,
    frames: &[FrameRun],
    memory: &mut Memory,
    machine: &Machine,
) -> Result<Ept, VmError> {
    let Memory { ledger, pool, .. } = memory;
    let mut ept = Ept::new(id, machine.features.ept, pool).map_err(VmError::Ept)?;
    let mut runs = frames.iter().copied();
    let mut left = runs.next();
    for range in layout.ram_ranges() {
        let mut gpa = range.start;
        while gpa < range.end {
            let Some(run) = left else {
                return Err(VmError::Ledger(LedgerError::OutOfFrames {
                    wanted: FrameCount(1),
                    available: FrameCount(0),
                }));
            };
            let room = FrameCount::covering(range.end.0 - gpa.0);
            let count = FrameCount(run.count.0.min(room.0));
            let piece = FrameRun::new(run.first, count);
            let right = ledger
                .grant(id, piece, Rights::READ | Rights::WRITE | Rights::EXECUTE)
                .map_err(VmError::Ledger)?;
            let perms = EptPerms::READ | EptPerms::WRITE | EptPerms::EXECUTE;
            ept.map_memory(pool, gpa, right, perms, &machine.mtrrs)
                .map_err(|rejected| VmError::Ept(rejected.error))?;
            gpa = Gpa(gpa.0 + count.0 * 4096);
            left = if count == run.count {
                runs.next()
            } else {
                Some(FrameRun::new(
                    Frame(run.first.0 + count.0),
                    FrameCount(run.count.0 - count.0),
                ))
            };
        }
    }
    Ok(ept)
}

fn take_regions(memory: &mut Memory) -> Result<Regions, VmError> {
    let run = memory
        .pool
        .take_run(FrameCount(4))
        .ok_or(VmError::OutOfPool)?;
    let at = |index: u64| Frame(run.first.0 + index).start();
    Ok(Regions {
        vmcs: at(0),
        msr_bitmap: at(1),
        io_bitmap: at(2),
        apic_page: Hpa(0),
    })
}
