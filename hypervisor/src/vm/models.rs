//! A VM's virtio devices: made once, with all the memory that they will ever have, and started anew with the VM.

use super::disk::Stored;
use super::memory::SharedMemory;
use super::split;
use super::{Vm, VmError};
use crate::arch::{cpu, random};
use crate::boot::payload::{Loaded, VmFiles};
use crate::console::terminal::TYPED_AHEAD;
use crate::secmem::sealed;
use crate::vm::run::Running;
use crate::vm::shared::VmShared;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use bulkhead_core::cow::{BLOCK_BYTES, BlockMap, CowDisk};
use bulkhead_core::device::board::{Devices, Setup, Start};
use bulkhead_core::device::virtio::Model;
use bulkhead_core::device::virtio::blk::{Block, BlockCounters, Disk};
use bulkhead_core::device::virtio::net::Nic;
use bulkhead_core::device::virtio::rng::Rng;
use bulkhead_core::events::DiskCounters;
use bulkhead_core::ledger::VmId;
use bulkhead_core::manifest::{DiskMode, DiskPlan, VmConsole, VmPlan};
use core::mem::size_of;

/// The devices of a VM.
///
/// # Errors
/// More than a bus has places for, or an image too large for its map.
pub fn build(
    plan: &VmPlan,
    files: &VmFiles,
    id: VmId,
    memory: &'static SharedMemory,
) -> Result<Devices, VmError> {
    let mut models = Vec::with_capacity(2 + plan.disks.len() + plan.nics.len());
    models.push(Model::Entropy(Rng::new(Box::new(random::fill))));
    let disks = plan.disks.iter().zip(&files.disks);
    for (index, (disk, image)) in disks.enumerate() {
        let stored = Stored::new(image, memory, index);
        let disk = build_disk(disk, stored, image.len() as u64)?;
        let serial = format!("bulkhead-{}-{index}", id.0);
        models.push(Model::Block(Box::new(Block::new(disk, &serial))));
    }
    for nic in &plan.nics {
        models.push(Model::Net(Nic::new(nic.mac)));
    }
    if plan.console == VmConsole::Virtio {
        models.push(Model::Console(Box::default()));
    }
    Devices::new(Setup {
        models,
        console: plan.console,
        start: start_state(false),
    })
    .map_err(VmError::Devices)
}

fn build_disk(plan: &DiskPlan, stored: Stored, image_bytes: u64) -> Result<Box<dyn Disk>, VmError> {
    Ok(match plan.mode {
        DiskMode::ReadOnly => {
            Box::new(CowDisk::read_only(image_bytes, stored).map_err(VmError::Disk)?)
        }
        DiskMode::CopyOnWrite => {
            let blocks = plan.overlay.bytes() / BLOCK_BYTES as u64;
            let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
            let map = BlockMap::new(image_bytes, blocks).map_err(VmError::Disk)?;
            Box::new(CowDisk::new(map, stored))
        }
    })
}

/// What a VM's devices find when it starts now.
#[must_use]
pub fn start_state(watchdog_fired: bool) -> Start {
    let machine = super::machine();
    let (seconds, then) = machine.epoch;
    let now = cpu::rdtsc();
    let passed = now.wrapping_sub(then) / (u64::from(machine.tsc_khz) * 1000);
    Start {
        unix_seconds: seconds.saturating_add(passed),
        now,
        tsc_khz: machine.tsc_khz,
        watchdog_fired,
    }
}

/// What a VM's disks did since it started, in their order.
#[must_use]
pub fn disk_counters(vm: &Vm) -> Vec<DiskCounters<'_>> {
    let name = vm.plan.name.as_str();
    let counters = (0..).zip(block_counters(vm.shared));
    counters
        .map(|(disk, did)| DiskCounters {
            vm: name,
            disk,
            reads: did.reads,
            read_bytes: did.bytes_read,
            writes: did.writes,
            written_bytes: did.bytes_written,
            flushes: did.flushes,
            errors: did.failed,
        })
        .collect()
}

fn block_counters(vm: &VmShared) -> Vec<BlockCounters> {
    let devices = vm.devices.lock();
    let models = devices.pci().devices().map(|device| device.model());
    models
        .filter_map(|model| match model {
            Model::Block(block) => Some(block.counters()),
            _ => None,
        })
        .collect()
}

/// Heap that a VM needs beside its vCPUs, disks and network cards: names, devices, consoles.
const VM_BYTES: usize = (32 << 10) + TYPED_AHEAD;
/// Heap that a vCPU needs, its vector registers and its entries in its CPU's lists included.
const VCPU_BYTES: usize = 32 << 10;
/// Heap that a disk needs beside its map: buffers of a block each, a queue.
const DISK_BYTES: usize = 16 << 10;
/// Heap that a network card needs, the addresses that may be learned behind it included.
const NIC_BYTES: usize = 8 << 10;

/// Heap that a real device needs: its vectors, of which there may be 2048, their places on CPUs, and its registers.
const DEVICE_BYTES: usize = 256 << 10;

const _: () = assert!(size_of::<Running>() <= VCPU_BYTES / 2);

/// How much heap the plan's VMs need.
#[must_use]
pub fn heap_needed(loaded: &Loaded) -> usize {
    let each = loaded.plan.vms.iter().zip(&loaded.files);
    each.map(|(vm, files)| {
        let maps: usize = files
            .disks
            .iter()
            .map(|image| image.len().div_ceil(BLOCK_BYTES) * size_of::<u32>())
            .sum();
        VM_BYTES
            + vm.vcpus as usize * VCPU_BYTES
            + vm.disks.len() * DISK_BYTES
            + vm.nics.len() * NIC_BYTES
            + vm.devices.len() * DEVICE_BYTES
            + maps
            + sealed::heap_needed(vm)
            + split::heap_needed(vm)
    })
    .sum()
}
