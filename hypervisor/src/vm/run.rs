//! The steady state: what runs between an exit and the next entry.

use super::host::Host;
use super::network::Unsent;
use super::reach;
use super::shared::{Ending, Locked, VcpuPort, Wanted};
use super::switched::Switched;
use crate::arch::cpu::rdtsc;
use crate::console::terminal;
use crate::pcpu::{self, Pcpu};
use crate::secmem::hooks;
use crate::vmx::enter::RunFrame;
use bulkhead_core::addr::{Gva, Hpa};
use bulkhead_core::call::KnownLosses;
use bulkhead_core::fault::StopReason;
use bulkhead_core::insn::Gprs;
use bulkhead_core::lifecycle::End;
use bulkhead_core::vcpu::{Action, Plain, Readiness, Vcpu};
use bulkhead_core::vmx::exit::{self, REASON_NAMES};
use bulkhead_core::vmx::field::{self, VmcsAccess};
use core::sync::atomic::Ordering;
use guest_loader::EntryState;
use zeroize::Zeroize;

/// One vCPU, all of it; it belongs to one CPU, and to the exit handler while the guest runs. Its registers are wiped when it is dropped.
pub struct Running {
    /// The vCPU's state.
    pub vcpu: Vcpu,
    /// Effects.
    pub host: Host,
    /// Why the guest was left.
    pub left: Left,
    /// Frames that it had sent and that wait for its next turn.
    pub unsent: Unsent,
    /// Its general registers while it is not entered.
    pub gprs: Gprs,
    /// Its other registers while another vCPU has the CPU.
    pub switched: Switched,
    /// Its VMCS.
    pub vmcs: Hpa,
    /// How it starts; taken when its CPU fills the VMCS.
    pub entry: Option<EntryState>,
    /// What its view lost that this CPU knows of.
    pub known: KnownLosses,
    /// The VMCS was entered since it was loaded on this CPU.
    pub launched: bool,
}

impl Drop for Running {
    #[inline(never)]
    fn drop(&mut self) {
        self.gprs.0.zeroize();
    }
}

/// Why the guest was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It gave the CPU back.
    GaveBack,
    /// An NMI of the host's came.
    HostNmi,
    /// The VM is over.
    Stopped(StopReason),
    /// A machine check arrived.
    MachineCheck,
}

/// Handles one exit; true to enter the guest again. Called from `vmx::enter` on the exit stack.
#[allow(unsafe_code, reason = "the context arrives through assembly")]
pub extern "sysv64" fn handle_exit(frame: &mut RunFrame) -> bool {
    let start = rdtsc();
    // SAFETY: `enter::run`'s caller promised that the context is valid and unaliased while the guest runs.
    let Running { vcpu, host, .. } = unsafe { &mut *frame.context };
    let reason = vcpu.note_exit(host);
    if host.traced {
        return handle_traced(frame, reason, start);
    }
    handle(frame, reason, start)
}

/// What [`handle_exit`] ends with; none of its calls comes back, so that it saves no register.
#[inline(always)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
fn handle(frame: &mut RunFrame, reason: u32, start: u64) -> bool {
    // SAFETY: as in `handle_exit`, which ends with this call.
    let Running { vcpu, host, .. } = unsafe { &mut *frame.context };
    match vcpu.handle_plain(host, &mut frame.gpr, reason, start) {
        Plain::Done => true,
        Plain::Due => prepare(frame),
        Plain::Other if reason == exit::IO => handle_port(frame, start),
        Plain::Other => handle_other(frame, reason, start),
    }
}

/// As [`handle`], of a VM whose exits are logged.
#[cold]
#[inline(never)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
extern "sysv64" fn handle_traced(frame: &mut RunFrame, reason: u32, start: u64) -> bool {
    // SAFETY: as in `handle_exit`, which ends with this call.
    trace(unsafe { &(*frame.context).host }, reason);
    handle(frame, reason, start)
}

/// Logs the exit that just happened, unless there were too many lately.
fn trace(host: &Host, reason: u32) {
    let Some(left_out) = host.vm.admit_trace(super::uptime(rdtsc())) else {
        return;
    };
    if left_out > 0 {
        log::info!(
            "VM \"{}\": {left_out} exits are left out here",
            host.vm.name
        );
    }
    let name = REASON_NAMES.get((reason & 0xffff) as usize).copied();
    log::info!(
        "VM \"{}\" vCPU {}: {} at {}, qualification {:#x}",
        host.vm.name,
        host.me,
        name.filter(|name| !name.is_empty()).unwrap_or("unknown"),
        Vcpu::rip(host),
        host.read(field::EXIT_QUALIFICATION).0
    );
}

#[inline(never)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
extern "sysv64" fn prepare(frame: &mut RunFrame) -> bool {
    // SAFETY: as in `handle_exit`, which ends with this call.
    let Running {
        vcpu, host, left, ..
    } = unsafe { &mut *frame.context };
    *left = Left::GaveBack;
    vcpu.finish_plain(host) == Readiness::Enter
}

#[inline(never)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
extern "sysv64" fn handle_port(frame: &mut RunFrame, start: u64) -> bool {
    // SAFETY: as in `handle_exit`, which ends with this call.
    let running = unsafe { &mut *frame.context };
    let Running { vcpu, host, .. } = running;
    let mut devices = Locked(&host.vm.devices);
    match vcpu.handle_port(host, &mut frame.gpr, &mut devices, start) {
        Some(Action::Resume) => true,
        Some(action) => carry_out(frame, action),
        None => handle_other(frame, exit::IO, start),
    }
}

#[inline(never)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
extern "sysv64" fn handle_other(frame: &mut RunFrame, reason: u32, start: u64) -> bool {
    // SAFETY: as in `handle_exit`, which ends with this call.
    let running = unsafe { &mut *frame.context };
    let Running { vcpu, host, .. } = running;
    let mut devices = Locked(&host.vm.devices);
    let action = vcpu.handle_exit(host, &mut frame.gpr, &mut devices, reason, start);
    if host.vm.sampled.load(Ordering::Relaxed) {
        sample(host);
    }
    match action {
        Action::Resume => true,
        action => carry_out(frame, action),
    }
}

/// Takes samples at an exit, where the VM's manifest asks for some.
#[cold]
fn sample(host: &Host) {
    let sealed = hooks::vm_exited(host.vm);
    let split = reach::vm_exited(host);
    host.vm.sampled.store(sealed || split, Ordering::Relaxed);
}

/// Does what the core left to the shell; true to enter the guest again.
#[inline(never)]
#[allow(unsafe_code, reason = "the context arrives through assembly")]
fn carry_out(frame: &mut RunFrame, action: Action) -> bool {
    // SAFETY: as in `handle_exit`.
    let running = unsafe { &mut *frame.context };
    let Running {
        vcpu,
        host,
        left,
        unsent,
        ..
    } = running;
    *left = Left::GaveBack;
    match action {
        Action::Resume => true,
        Action::Leave => false,
        Action::Poll => {
            terminal::exchange(host.vm);
            finish(vcpu, host, &mut frame.gpr)
        }
        Action::Transmit(nic) => {
            unsent.kick(host.vm, nic);
            finish(vcpu, host, &mut frame.gpr) && !unsent.is_waiting()
        }
        Action::Stop(reason) => {
            *left = Left::Stopped(reason);
            false
        }
        Action::HostNmi => {
            *left = Left::HostNmi;
            false
        }
        Action::HostMachineCheck => {
            *left = Left::MachineCheck;
            false
        }
    }
}

/// Prepares the entry after a device did something on the vCPU's behalf.
fn finish(vcpu: &mut Vcpu, host: &mut Host, gprs: &mut Gprs) -> bool {
    let leave = pcpu::this().look.load(Ordering::Relaxed);
    host.forget_signals();
    if let Some(port) = host.vm.vcpus.get(host.me as usize)
        && port.mailbox.is_waiting()
    {
        let mail = port.mailbox.take();
        vcpu.receive(host, gprs, mail);
    }
    vcpu.prepare_entry(host) == Readiness::Enter && !leave && host.vm.wanted() == Wanted::Run
}

impl Running {
    /// Ends the VM because of what this vCPU did.
    pub fn end_vm(&self, reason: StopReason) {
        self.host.vm.end(Ending {
            end: End::Guest(reason),
            rip: Some(self.rip()),
        });
    }

    /// Where the guest is; its VMCS is current.
    fn rip(&self) -> Gva {
        Vcpu::rip(&self.host)
    }

    /// Whether the vCPU cannot be woken by anything but another one, and all others neither. Its VMCS is current.
    pub fn halted_for_good(&self) -> bool {
        let vm = self.host.vm;
        let is_deaf = self.vcpu.is_deaf(&self.host);
        let vcpus = vm.vcpus.len() as u32;
        vm.set_deaf(self.host.me, is_deaf) && !vm.devices.lock().can_send_nmi(vcpus)
    }

    /// Takes what waits for the vCPU. Its VMCS is current.
    pub fn take_mail(&mut self) {
        let Self {
            vcpu, host, gprs, ..
        } = self;
        let Some(port) = host.vm.vcpus.get(host.me as usize) else {
            return;
        };
        if port.mailbox.is_waiting() {
            let mail = port.mailbox.take();
            vcpu.receive(host, gprs, mail);
        }
        // What came from the vCPU itself was in the same box.
        host.forget_signals();
    }

    /// Whether something waits for it.
    #[must_use]
    pub fn mail_waits(&self) -> bool {
        let port = self.host.vm.vcpus.get(self.host.me as usize);
        port.is_some_and(|port| port.mailbox.is_waiting())
    }

    /// Whether somebody wants to know what it did.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        let port = self.host.vm.vcpus.get(self.host.me as usize);
        port.is_some_and(VcpuPort::is_asked)
    }

    /// Tells everybody what it did.
    pub fn say(&self) {
        if let Some(port) = self.host.vm.vcpus.get(self.host.me as usize) {
            port.say(&self.vcpu.counters);
        }
    }

    /// Tells other CPUs that it is about to be in the guest, and has this one forget first what they did not tell it.
    pub fn begin(&mut self, own: &Pcpu) {
        let vm = self.host.vm;
        own.set_guest(vm.id);
        self.set_running(true);
        if vm.losses.are_new(&mut self.known) {
            vm.forget_view();
        }
    }

    /// Tells other CPUs whether it is in the guest, or about to be.
    pub fn set_running(&self, running: bool) {
        if let Some(port) = self.host.vm.vcpus.get(self.host.me as usize) {
            port.running.store(running, Ordering::SeqCst);
        }
    }
}
