//! One kernel after another: where each says that it is entered, and when it is no more.

use crate::addr::{Gpa, Gva};
use crate::fault::GuestFault;
use crate::msr;
use crate::split::{KernelEntry, Side};
use crate::vcpu::Vcpu;
use crate::vcpu::effects::Cpu;
use crate::vcpu::step::Step;
use crate::vmx::controls::Primary;
use crate::vmx::field;

use super::kernel::place_of;
use super::{Divided, TABLE_ADDRESS, enter};

impl Vcpu {
    /// A RDMSR that only a VM with the split exits for: where the kernel wants to be entered.
    #[cold]
    pub(in crate::vcpu) fn read_entry_point(
        &self,
        number: u32,
        refused: GuestFault,
    ) -> Result<u64, GuestFault> {
        match (&self.divided, number) {
            (Some(divided), msr::LSTAR) => Ok(divided.syscall),
            (Some(divided), msr::SYSENTER_EIP) => Ok(divided.sysenter),
            _ => Err(refused),
        }
    }

    /// A WRMSR that only a VM with the split exits for: the kernel says where it is entered. Once system calls enter it, there is a kernel to keep from
    /// user code.
    #[cold]
    pub(in crate::vcpu) fn write_entry_point<C: Cpu>(
        &mut self,
        cpu: &mut C,
        number: u32,
        value: u64,
        refused: GuestFault,
    ) -> Result<Step, GuestFault> {
        let Some(divided) = &mut self.divided else {
            return Err(refused);
        };
        match number {
            msr::LSTAR | msr::SYSENTER_EIP if !is_canonical(value) => return Err(GuestFault::GP0),
            msr::LSTAR => divided.syscall = value,
            msr::SYSENTER_EIP => divided.sysenter = value,
            _ => return Err(refused),
        }
        divided.looked = false;
        divided.named = None;
        if number == msr::LSTAR {
            let table = Gpa(cpu.read(field::GUEST_CR3).0 & TABLE_ADDRESS);
            divided.entered_at = place_of(cpu, Gva(value));
            let kernel = KernelEntry {
                gva: Gva(value),
                gpa: divided.entered_at,
            };
            divided.reference = cpu.begin_split(kernel, table).map_err(GuestFault::Stop)?;
            if !divided.steps() && cpu.side() == Side::Base {
                enter(cpu, &mut self.counters.split, Side::Kernel);
            }
        }
        let way = cpu.way();
        divided.set_entry_points(cpu, way);
        Ok(Step::NEXT)
    }

    /// INIT: no kernel runs on the vCPU.
    pub(in crate::vcpu) fn leave_split<C: Cpu>(&mut self, cpu: &mut C) {
        if let Some(divided) = &mut self.divided {
            divided.stepping = None;
            divided.named = None;
            divided.watch(cpu, false);
            enter(cpu, &mut self.counters.split, Side::Base);
            self.want(cpu, Primary::MONITOR_TRAP, false);
        }
    }
}

impl Divided {
    /// Whether the address space that the vCPU is in has another kernel than the one that said where SYSCALL enters it, or none yet: then that one's tables and
    /// code are memory like any other, and are written to as such.
    pub(super) fn is_gone<C: Cpu>(&self, cpu: &mut C) -> bool {
        self.entered_at.is_some() && place_of(cpu, Gva(self.syscall)) != self.entered_at
    }

    /// The kernel has given way to another, which will say where it is entered. Until then nothing is guarded or shown otherwise than it is; user code, should there be
    /// any, still has no kernel half.
    pub(super) fn hand_over<C: Cpu>(&mut self, cpu: &mut C) {
        cpu.forget_split();
        self.named = None;
        self.looked = false;
        self.set_entry_points(cpu, None);
    }
}

const fn is_canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}
