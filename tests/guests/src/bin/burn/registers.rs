//! Registers outside the XSAVE area that belong to a VM: debug registers, CR2, CR8, MSRs.

use core::arch::asm;

use test_guests::cpu::{self, try_rdmsr, try_wrmsr};
use test_guests::random::Random;
use test_guests::trap::Fault;

const EXTENDED_FEATURES: u32 = 0x8000_0001;
const RDTSCP: u32 = 1 << 27;
const TSC_AUX: u32 = 0xc000_0103;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
/// Addresses are kept canonical, and low, so that none is mistaken for one in use.
const ADDRESS: u64 = 0x7fff_ffff_ffff;
/// Nothing is mapped from here on, so that no breakpoint is met.
const UNMAPPED: u64 = 0x4000_0000_0000;
/// Bit 10 is always set; two of the breakpoints are on, for execution.
const DR7: u64 = 0x405;
/// Low enough to let every interrupt of this guest through.
const MAX_TPR: u64 = 2;

/// MSRs, and the bits of each that may have any value (Intel SDM vol. 4, "Architectural MSRs").
const MSRS: [(&str, u32, u64); 9] = [
    ("STAR", 0xc000_0081, u64::MAX),
    ("LSTAR", 0xc000_0082, ADDRESS),
    ("SFMASK", 0xc000_0084, u32::MAX as u64),
    ("FS_BASE", 0xc000_0100, ADDRESS),
    ("GS_BASE", 0xc000_0101, ADDRESS),
    ("KERNEL_GS_BASE", 0xc000_0102, ADDRESS),
    ("SYSENTER_CS", 0x174, 0xffff),
    ("SYSENTER_ESP", 0x175, ADDRESS),
    ("SYSENTER_EIP", 0x176, ADDRESS),
];
/// Debug registers 0 to 3, 7, CR2, CR8, EFER, PAT and TSC_AUX.
const OTHERS: usize = 10;

/// What an MSR or register held: a value, or the fault of reading it.
type Held = Result<u64, Fault>;

/// What the registers were loaded with.
pub(crate) struct Registers {
    msrs: [Held; MSRS.len()],
    others: [(&'static str, Held); OTHERS],
}

macro_rules! set {
    ($register:literal, $value:expr) => {{
        // SAFETY: a register that this guest does not rely on.
        unsafe { asm!(concat!("mov ", $register, ", {}"), in(reg) $value, options(nomem, nostack)) };
    }};
}

macro_rules! get {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reads a register.
        unsafe { asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack)) };
        Ok(value)
    }};
}

/// Loads all of them.
pub(crate) fn load(random: &mut Random) -> Registers {
    let msrs = MSRS.map(|(_, msr, mask)| write(msr, random.next() & mask));
    let mut breakpoint = || UNMAPPED | (random.next() & (UNMAPPED - 1));
    set!("dr0", breakpoint());
    set!("dr1", breakpoint());
    set!("dr2", breakpoint());
    set!("dr3", breakpoint());
    set!("dr7", DR7);
    set!("cr2", random.next() & ADDRESS);
    set!("cr8", random.next() % (MAX_TPR + 1));
    // The upper half of PAT, which no mapping of this guest selects: each entry write-back or write-through.
    if let Ok(pat) = try_rdmsr(PAT) {
        let upper = 0x0404_0404 | (random.next() as u32 & 0x0202_0202);
        // A refusal shows in what `others` reads, as long as it is the same every time.
        let _ = write(PAT, (pat & 0xffff_ffff) | (u64::from(upper) << 32));
    }
    if has_tsc_aux() {
        let _ = write(TSC_AUX, random.next() & 0xffff_ffff);
    }
    Registers {
        msrs,
        others: others(),
    }
}

impl Registers {
    /// Calls `differs` with the name of each register that changed, what it was and what it is.
    pub(crate) fn compare(&self, differs: impl Fn(&str, Held, Held)) {
        for (&(name, msr, _), &was) in MSRS.iter().zip(&self.msrs) {
            let is = try_rdmsr(msr);
            if was != is || is.is_err() {
                differs(name, was, is);
            }
        }
        for (&(name, was), (_, is)) in self.others.iter().zip(others()) {
            if was != is {
                differs(name, was, is);
            }
        }
    }
}

fn others() -> [(&'static str, Held); OTHERS] {
    [
        ("DR0", get!("dr0")),
        ("DR1", get!("dr1")),
        ("DR2", get!("dr2")),
        ("DR3", get!("dr3")),
        ("DR7", get!("dr7")),
        ("CR2", get!("cr2")),
        ("CR8", get!("cr8")),
        ("EFER", try_rdmsr(EFER)),
        ("PAT", try_rdmsr(PAT)),
        (
            "TSC_AUX",
            if has_tsc_aux() {
                try_rdmsr(TSC_AUX)
            } else {
                Ok(0)
            },
        ),
    ]
}

fn has_tsc_aux() -> bool {
    cpu::cpuid(EXTENDED_FEATURES, 0).edx & RDTSCP != 0
}

/// Writes `msr`; returns what it should hold from now on.
fn write(msr: u32, value: u64) -> Held {
    // SAFETY: this guest makes no system calls and addresses nothing by FS or GS.
    unsafe { try_wrmsr(msr, value) }?;
    Ok(value)
}
