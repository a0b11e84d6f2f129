//! The effects that handling an exit can have, as `bulkhead_core::vcpu` wants them.
#![allow(unsafe_code, reason = "loads CPU registers on a guest's behalf")]

use super::passthrough;
use super::shared::{VmShared, Wanted};
use crate::arch::{cpu, lapic};
use crate::pcpu;
use crate::vmx::instruction::{self, Current};
use bulkhead_core::addr::Gpa;
use bulkhead_core::bus::{Signal, Signals};
use bulkhead_core::fault::StopReason;
use bulkhead_core::vcpu::{Cpu, Signalled};
use bulkhead_core::vmx::field::VmcsAccess;
use core::arch::asm;
use core::sync::atomic::Ordering;

/// This CPU, running one vCPU.
pub struct Host {
    /// The VM.
    pub vm: &'static VmShared,
    /// The vCPU's number.
    pub me: u32,
    /// Its exits are logged.
    pub traced: bool,
    /// The vCPU signalled itself or another of its CPU, or its devices did.
    signalled: bool,
    /// It was another, or the VM is not to run.
    leave: bool,
}

impl Host {
    /// For vCPU `me` of `vm`.
    #[must_use]
    pub const fn new(vm: &'static VmShared, me: u32) -> Self {
        Self {
            vm,
            me,
            traced: false,
            signalled: false,
            leave: false,
        }
    }
}

impl Host {
    /// Forgets that vCPUs of this CPU were signalled: who calls this looks at all of them.
    pub fn forget_signals(&mut self) {
        self.signalled = false;
        self.leave = false;
    }

    /// Has the guest left where its VM was ended or parked meanwhile: by a page that did not come back for a copy, say.
    fn note_end(&mut self) {
        if self.vm.wanted() != Wanted::Run {
            self.signalled = true;
            self.leave = true;
        }
    }

    #[cold]
    fn look(&mut self) -> Signalled {
        self.signalled = false;
        let port = self.vm.vcpus.get(self.me as usize);
        Signalled {
            mail: port
                .filter(|port| port.mailbox.is_waiting())
                .map(|port| port.mailbox.take()),
            leave: core::mem::take(&mut self.leave),
        }
    }
}

impl VmcsAccess for Host {
    #[inline(always)]
    fn read_raw(&self, encoding: u32) -> u64 {
        Current.read_raw(encoding)
    }

    #[inline(always)]
    fn write_raw(&mut self, encoding: u32, value: u64) {
        Current.write_raw(encoding, value);
    }
}

impl Signals for Host {
    #[inline]
    fn vcpus(&self) -> u32 {
        self.vm.vcpus.len() as u32
    }

    fn signal(&mut self, to: u32, signal: Signal) {
        if self.vm.post(to, signal) {
            self.signalled = true;
            if to != self.me {
                self.leave = true;
                // For what happens after the exit's handler, which looks at nothing else.
                pcpu::this().look.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Cpu for Host {
    #[inline(always)]
    fn tsc(&self) -> u64 {
        cpu::rdtsc()
    }

    fn set_xcr0(&mut self, value: u64) {
        // SAFETY: `Cpu::set_xcr0` is only called with a value that the CPUID policy accepted, which is within
        // what this processor has; CR4.OSXSAVE is on.
        unsafe { cpu::write_xcr0(value) }
    }

    fn set_cr2(&mut self, value: u64) {
        // SAFETY: CR2 is the guest's while its vCPU is on this CPU; the hypervisor does not fault.
        unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
    }

    fn set_dr6(&mut self, value: u64) {
        // SAFETY: the debug registers are the guest's; the hypervisor sets no breakpoint.
        unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) }
    }

    fn forget_translations(&mut self) {
        if instruction::invvpid_all().is_err() {
            panic!("INVVPID of all contexts failed, which this processor has");
        }
    }

    fn take_host_interrupt(&mut self, vector: u8) {
        passthrough::arrived(vector);
        lapic::end_of_interrupt();
    }

    fn bring(&mut self, gpa: Gpa) -> Option<Result<(), StopReason>> {
        self.vm.memory.lock().bring(gpa)
    }

    fn read_guest(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        let done = self.vm.space().read(gpa, bytes).is_ok();
        self.note_end();
        done
    }

    fn write_guest(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        let done = self.vm.space().write_bytes(gpa, bytes).is_ok();
        self.note_end();
        done
    }

    #[inline(always)]
    fn take_signalled(&mut self) -> Option<Signalled> {
        if self.signalled {
            Some(self.look())
        } else {
            None
        }
    }
}
