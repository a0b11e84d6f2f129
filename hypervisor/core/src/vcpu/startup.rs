//! INIT and start-up interrupts: how a further processor of a VM comes to run (Intel SDM vol. 3A, "MP Initialization
//! Protocol Algorithm for MP Systems" and the table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT").

use super::control_register::{cr0_mask, cr4_mask, real_cr0, real_cr4};
use super::{Activity, Cpu, Vcpu};
use crate::cpuid::CpuidDynamic;
use crate::insn::{GprIndex, Gprs};
use crate::vmx::controls::{Entry, Primary};
use crate::vmx::field::{self, Field, Natural};

/// CR0 after INIT: caches off, as the guest sees it.
const CR0: u64 = 0x6000_0010;
const RFLAGS: u64 = 2;
const DR6: u64 = 0xffff_0ff0;
const DR7: u64 = 0x400;
/// Present, accessed and writable data of CPL 0 (Intel SDM vol. 3C, "Guest Register State", access rights).
const DATA: u32 = 0x93;
/// Present, accessed and readable code of CPL 0.
const CODE: u32 = 0x9b;
const LDT: u32 = 0x82;
/// A busy 16-bit or 32-bit TSS: VM entry wants one in TR.
const BUSY_TSS: u32 = 0x8b;
const REAL_MODE_LIMIT: u32 = 0xffff;

impl Vcpu {
    /// INIT: the state after it. MSRs, time-stamp counter, XCR0 and vector registers keep their values. The boot vCPU goes to
    /// the reset vector, where a VM has no firmware; every other one waits for a start-up interrupt.
    pub(super) fn init<C: Cpu>(&mut self, cpu: &mut C, gprs: &mut Gprs) {
        *gprs = Gprs::default();
        // The family, model and stepping, as CPUID.1:EAX has them.
        let dynamic = CpuidDynamic { cr4: 0, xcr0: 1 };
        let signature = self.cpuid.lookup(1, 0, &dynamic).eax;
        gprs.set(GprIndex::RDX, u64::from(signature));
        self.apic.init();
        self.nmi_pending = false;
        self.leave_split(cpu);
        self.activity = if self.apic.is_bootstrap() {
            Activity::Active
        } else {
            Activity::WaitForSipi
        };
        self.attention = true;
        let controls = &self.controls;
        cpu.write(field::CR0_GUEST_HOST_MASK, Natural(cr0_mask(controls)));
        cpu.write(field::CR0_READ_SHADOW, Natural(CR0));
        cpu.write(field::GUEST_CR0, Natural(real_cr0(CR0, controls)));
        cpu.write(
            field::CR4_GUEST_HOST_MASK,
            Natural(cr4_mask(controls, self.cpuid.allowed_cr4())),
        );
        cpu.write(field::CR4_READ_SHADOW, Natural(0));
        cpu.write(field::GUEST_CR4, Natural(real_cr4(0, controls)));
        cpu.write(field::GUEST_CR3, Natural(0));
        cpu.set_cr2(0);
        cpu.write(field::GUEST_EFER, 0);
        cpu.write(field::GUEST_RFLAGS, Natural(RFLAGS));
        cpu.write(field::GUEST_RSP, Natural(0));
        cpu.write(field::GUEST_DR7, Natural(DR7));
        cpu.set_dr6(DR6);
        cpu.write(field::GUEST_DEBUGCTL, 0);
        cpu.write(field::GUEST_PENDING_DEBUG, Natural(0));
        cpu.write(field::GUEST_INTERRUPTIBILITY, 0);
        cpu.write(field::GUEST_ACTIVITY, 0);
        cpu.write(field::ENTRY_INTERRUPTION_INFO, 0);
        let entry = Entry::from_bits_retain(cpu.read(field::ENTRY_CONTROLS)) - Entry::IA32E;
        cpu.write(field::ENTRY_CONTROLS, entry.bits());
        self.primary -= Primary::INTERRUPT_WINDOW | Primary::NMI_WINDOW;
        cpu.write(field::PRIMARY_CONTROLS, self.primary.bits());
        cpu.write(field::TPR_THRESHOLD, 0);
        for (selector, limit, access, base) in SEGMENTS {
            cpu.write(selector, 0);
            cpu.write(limit, REAL_MODE_LIMIT);
            cpu.write(access, DATA);
            cpu.write(base, Natural(0));
        }
        cpu.write(field::GUEST_LDTR_ACCESS, LDT);
        cpu.write(field::GUEST_TR_ACCESS, BUSY_TSS);
        for (base, limit) in [
            (field::GUEST_GDTR_BASE, field::GUEST_GDTR_LIMIT),
            (field::GUEST_IDTR_BASE, field::GUEST_IDTR_LIMIT),
        ] {
            cpu.write(base, Natural(0));
            cpu.write(limit, REAL_MODE_LIMIT);
        }
        set_code(cpu, 0xf000, 0xffff_0000, 0xfff0);
        // Linear translations of the time before carry the same VPID.
        cpu.forget_translations();
    }

    /// A start-up interrupt: begins in real mode at the 4 KiB `page`; a vCPU that does not wait for one ignores it.
    pub(super) fn start_up<C: Cpu>(&mut self, cpu: &mut C, page: u8) {
        if self.activity != Activity::WaitForSipi {
            return;
        }
        set_code(cpu, u16::from(page) << 8, u64::from(page) << 12, 0);
        self.activity = Activity::Active;
        self.attention = true;
    }
}

/// The data segments and the system segments, in one shape after INIT but for their access rights.
type SegmentFields = (Field<u16>, Field<u32>, Field<u32>, Field<Natural>);
const SEGMENTS: [SegmentFields; 7] = [
    (
        field::GUEST_SS_SELECTOR,
        field::GUEST_SS_LIMIT,
        field::GUEST_SS_ACCESS,
        field::GUEST_SS_BASE,
    ),
    (
        field::GUEST_DS_SELECTOR,
        field::GUEST_DS_LIMIT,
        field::GUEST_DS_ACCESS,
        field::GUEST_DS_BASE,
    ),
    (
        field::GUEST_ES_SELECTOR,
        field::GUEST_ES_LIMIT,
        field::GUEST_ES_ACCESS,
        field::GUEST_ES_BASE,
    ),
    (
        field::GUEST_FS_SELECTOR,
        field::GUEST_FS_LIMIT,
        field::GUEST_FS_ACCESS,
        field::GUEST_FS_BASE,
    ),
    (
        field::GUEST_GS_SELECTOR,
        field::GUEST_GS_LIMIT,
        field::GUEST_GS_ACCESS,
        field::GUEST_GS_BASE,
    ),
    (
        field::GUEST_LDTR_SELECTOR,
        field::GUEST_LDTR_LIMIT,
        field::GUEST_LDTR_ACCESS,
        field::GUEST_LDTR_BASE,
    ),
    (
        field::GUEST_TR_SELECTOR,
        field::GUEST_TR_LIMIT,
        field::GUEST_TR_ACCESS,
        field::GUEST_TR_BASE,
    ),
];

fn set_code<C: Cpu>(cpu: &mut C, selector: u16, base: u64, rip: u64) {
    cpu.write(field::GUEST_CS_SELECTOR, selector);
    cpu.write(field::GUEST_CS_BASE, Natural(base));
    cpu.write(field::GUEST_CS_LIMIT, REAL_MODE_LIMIT);
    cpu.write(field::GUEST_CS_ACCESS, CODE);
    cpu.write(field::GUEST_RIP, Natural(rip));
}
