//! The effects that handling an exit can have, as `bulkhead_core::vcpu` wants them.
#![allow(unsafe_code, reason = "loads CPU registers on a guest's behalf")]

use crate::arch::{cpu, lapic};
use crate::console::{CONSOLE, EVENTS};
use crate::memory::Memory;
use crate::memory::guest::GuestSpace;
use crate::vmx::instruction::{self, Current};
use alloc::sync::Arc;
use bulkhead_core::addr::Gpa;
use bulkhead_core::ept::Ept;
use bulkhead_core::ledger::VmId;
use bulkhead_core::vcpu::Cpu;
use bulkhead_core::vcpu::devices::Devices;
use bulkhead_core::vmx::field::VmcsAccess;
use core::arch::asm;
use spin::Mutex;

/// Bytes that may wait for the serial port before the guest's UART is told to hold its own.
const CONSOLE_BACKLOG: usize = 16 << 10;

/// This CPU, running one VM.
pub struct Host {
    /// The hypervisor's memory.
    pub memory: Arc<Mutex<Memory>>,
    /// The VM's `base` view.
    pub ept: Arc<Ept>,
    /// The VM.
    pub vm: VmId,
    /// Its RAM in bytes.
    pub size: u64,
    /// A typed byte that the guest has no room for yet.
    pub typed: Option<u8>,
}

impl Host {
    /// Takes what the guest wrote to the serial port, and gives the guest what was typed.
    pub fn exchange_console(&mut self, devices: &mut Devices) {
        // An event must not wait for the next one to push it out.
        EVENTS.lock().pump();
        let mut console = CONSOLE.lock();
        let serial = &mut console.serial;
        let mut bytes = [0; 16];
        while serial.waiting() < CONSOLE_BACKLOG {
            let count = devices.take_output(&mut bytes);
            if count == 0 {
                break;
            }
            for byte in bytes.iter().take(count) {
                serial.enqueue(*byte);
            }
        }
        serial.pump();
        if let Some(byte) = self.typed.or_else(|| serial.receive()) {
            self.typed = (!devices.push_input(byte)).then_some(byte);
        }
    }

    /// Sends all that a stopped guest wrote.
    pub fn drain_console(&mut self, devices: &mut Devices) {
        let mut bytes = [0; 64];
        let mut console = CONSOLE.lock();
        loop {
            let count = devices.take_output(&mut bytes);
            if count == 0 {
                return;
            }
            console.serial.write(bytes.get(..count).unwrap_or_default());
        }
    }

    fn with_memory<T>(&mut self, work: impl FnOnce(&mut GuestSpace<'_>) -> T) -> T {
        let mut memory = self.memory.lock();
        work(&mut GuestSpace {
            memory: &mut memory,
            vm: self.vm,
            ept: &self.ept,
            size: self.size,
        })
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

    fn end_host_interrupt(&mut self) {
        lapic::end_of_interrupt();
    }

    fn read_guest(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        self.with_memory(|space| space.read(gpa, bytes).is_ok())
    }

    fn write_guest(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        self.with_memory(|space| space.write_bytes(gpa, bytes).is_ok())
    }
}
