//! The steady state: what runs between an exit and the next entry.

use super::host::Host;
use crate::arch::cpu::rdtsc;
use crate::vmx::enter::RunFrame;
use bulkhead_core::fault::StopReason;
use bulkhead_core::vcpu::devices::Devices;
use bulkhead_core::vcpu::{Action, Plain, Vcpu};

/// Everything the exit handler works on; it belongs to the handler while the guest runs.
pub struct Running {
    /// The vCPU's state.
    pub vcpu: Vcpu,
    /// The VM's devices.
    pub devices: Devices,
    /// Effects.
    pub host: Host,
    /// Why the guest was left.
    pub ended: Option<Ended>,
}

/// Why the guest was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The VM is over.
    Stopped(StopReason),
    /// A machine check arrived.
    HostMachineCheck,
}

/// Handles one exit; true to enter the guest again. Called from `vmx::enter` on the exit stack.
#[allow(unsafe_code, reason = "the context arrives through assembly")]
pub extern "sysv64" fn handle_exit(frame: &mut RunFrame) -> bool {
    let start = rdtsc();
    // SAFETY: `enter::run`'s caller promised that the context is valid and unaliased while the guest runs.
    let Running { vcpu, host, .. } = unsafe { &mut *frame.context };
    let reason = vcpu.note_exit(host);
    match vcpu.handle_plain(host, &mut frame.gpr, reason, start) {
        Plain::Done => true,
        Plain::Due => prepare(frame),
        Plain::Other => handle_other(frame, reason, start),
    }
}

#[inline(never)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
extern "sysv64" fn prepare(frame: &mut RunFrame) -> bool {
    // SAFETY: as in `handle_exit`, which ends with this call.
    let Running {
        vcpu,
        devices,
        host,
        ..
    } = unsafe { &mut *frame.context };
    if !vcpu.prepare_entry(host) {
        poll(vcpu, devices, host);
    }
    true
}

#[inline(never)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
extern "sysv64" fn handle_other(frame: &mut RunFrame, reason: u32, start: u64) -> bool {
    // SAFETY: as in `handle_exit`, which ends with this call.
    let Running {
        vcpu,
        devices,
        host,
        ended,
    } = unsafe { &mut *frame.context };
    match vcpu.handle_exit(host, &mut frame.gpr, devices, reason, start) {
        Action::Resume => true,
        Action::Poll => {
            poll(vcpu, devices, host);
            true
        }
        Action::Stop(reason) => {
            *ended = Some(Ended::Stopped(reason));
            false
        }
        Action::HostMachineCheck => {
            *ended = Some(Ended::HostMachineCheck);
            false
        }
    }
}

/// Moves console bytes both ways, then prepares the entry. Once, whatever is due by then: a slow port must not keep the
/// guest from running.
#[inline(never)]
fn poll(vcpu: &mut Vcpu, devices: &mut Devices, host: &mut Host) {
    host.exchange_console(devices);
    vcpu.lines_changed(devices);
    let _on_time = vcpu.prepare_entry(host);
}
