//! Measures each exit kind's round trip in ticks of the guest's own TSC: prints `bench <name> <median> <min> <max>`.
//!
//! What timing itself costs is measured by an empty operation and subtracted. RDTSC follows a jump, because Bochs counts
//! exactly only at trace boundaries.
//!
//! `rows=` on the command line names what is measured, by commas: `exits` (the default), and of [`between`] `ipi`, `block`,
//! `net`, `switch`. `count=` is the number of samples: exits per operation are what the VM's counters grow by with it.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "measures single instructions")]

mod between;
mod sample;

use bulkhead_core::platform::{COM1_BASE, IOAPIC_BASE};
use test_guests::params::Params;
use test_guests::{apic, cpu, guest, println};

use crate::sample::{COUNT, Registers, Samples, sample};

guest!(main);

const MISC_ENABLE: u64 = 0x1a0;
const TSC: u32 = 0x10;
/// UART scratch register: no effect but to keep a byte.
const UART_SCRATCH: u64 = COM1_BASE as u64 + 7;
const PIT_COUNTER_0: u64 = 0x40;
const PIC_MASK: u64 = 0x21;
const HYPERCALL_VERSION: u64 = 0;
const HYPERCALL_UNKNOWN: u64 = 0x1234_5678;
/// An armed deadline this far ahead never expires during a measurement.
const FAR_AHEAD: u64 = 1 << 40;
/// TSC-deadline mode, unmasked, vector 0x40.
const TIMER_TSC_DEADLINE: u64 = (2 << 17) | 0x40;
const XCR0_X87: u64 = 1;
const CR4_OSXSAVE: u64 = 1 << 18;
const XSAVE_LEAF: u32 = 1;
const XSAVE_BIT: u32 = 1 << 26;

fn main(params: &Params) {
    let mut samples = Samples::new(params.number("count").map_or(COUNT, |count| count as usize));
    for row in params.get("rows").unwrap_or("exits").split(',') {
        let outcome = match row {
            "exits" => {
                exits(&mut samples);
                Ok(())
            }
            "ipi" => between::vcpus(&mut samples, params),
            "block" => between::block(&mut samples, params),
            "net" => between::net(&mut samples, params),
            "switch" => between::switch(&mut samples),
            _ => Err("no such row"),
        };
        if let Err(what) = outcome {
            println!("case bench: FAIL {row}: {what}");
            return;
        }
    }
    println!("case bench: ok");
}

/// Each kind of exit.
fn exits(samples: &mut Samples) {
    let none = Registers::default();
    let overhead = samples.overhead();
    println!("bench overhead {overhead} {overhead} {overhead}");

    samples.run("cpuid", none, |r| sample!("cpuid", r));
    let vmcall = |rax| Registers { rax, ..none };
    samples.run("vmcall", vmcall(HYPERCALL_VERSION), |r| {
        sample!("vmcall", r)
    });
    samples.run("vmcall-unknown", vmcall(HYPERCALL_UNKNOWN), |r| {
        sample!("vmcall", r)
    });
    let msr = |rcx: u64, value: u64| Registers {
        rcx,
        rax: value & 0xffff_ffff,
        rdx: value >> 32,
    };
    samples.run("rdmsr-0x1a0", msr(MISC_ENABLE, 0), |r| sample!("rdmsr", r));

    if let Err(fault) = arm_timer() {
        println!("case bench: FAIL x2APIC or TSC-deadline timer: {fault}");
        return;
    }
    let deadline = cpu::ticks().wrapping_add(FAR_AHEAD);
    samples.run(
        "wrmsr-tsc-deadline",
        msr(u64::from(apic::TSC_DEADLINE), deadline),
        |r| sample!("wrmsr", r),
    );
    samples.run("wrmsr-tpr", msr(u64::from(apic::TPR), 0), |r| {
        sample!("wrmsr", r)
    });

    let port = |rdx| Registers { rdx, ..none };
    samples.run("port-read-uart", port(UART_SCRATCH), |r| {
        sample!("in al, dx", r)
    });
    samples.run("port-write-uart", port(UART_SCRATCH), |r| {
        sample!("out dx, al", r)
    });
    samples.run("port-read-0x40", port(PIT_COUNTER_0), |r| {
        sample!("in al, dx", r)
    });
    samples.run("port-write-0x21", port(PIC_MASK), |r| {
        sample!("out dx, al", r)
    });

    if enable_xsave() {
        samples.run(
            "xsetbv",
            Registers {
                rax: XCR0_X87,
                ..none
            },
            |r| sample!("xsetbv", r),
        );
    }
    let ioapic = Registers {
        rcx: IOAPIC_BASE.0,
        ..none
    };
    samples.run("mmio-read-ioapic", ioapic, |r| {
        sample!("mov eax, dword ptr [rcx]", r)
    });
    samples.run("rdmsr-tsc", msr(u64::from(TSC), 0), |r| sample!("rdmsr", r));
    samples.run("rdtsc", none, |r| sample!("rdtsc", r));
    samples.run("mov-cr8", none, |r| sample!("mov cr8, rax", r));
}

/// x2APIC mode, timer in TSC-deadline mode, armed by nothing yet.
fn arm_timer() -> Result<(), test_guests::trap::Fault> {
    apic::enable()?;
    apic::write(apic::LVT_TIMER, TIMER_TSC_DEADLINE)
}

/// Sets CR4.OSXSAVE where CPUID offers XSAVE.
fn enable_xsave() -> bool {
    let offered = cpu::cpuid(XSAVE_LEAF, 0).ecx & XSAVE_BIT != 0;
    if offered {
        // SAFETY: nothing in this guest uses extended state.
        unsafe {
            core::arch::asm!("mov {0}, cr4", "or {0}, {1}", "mov cr4, {0}", out(reg) _, in(reg) CR4_OSXSAVE, options(nostack));
        }
    }
    offered
}
