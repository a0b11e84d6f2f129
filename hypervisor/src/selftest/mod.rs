//! Failures on purpose: each shows that a protection of the hypervisor's own memory holds, and what the report says.
//!
//! The manifest asks for one (`hypervisor.selftest`); the machine stops afterwards, with or without the failure.
//! [`devices`] has those in which a device attacks.
#![allow(unsafe_code, reason = "does what must not work")]

pub mod devices;

use crate::arch::cpu::rdtsc;
use crate::memory::Memory;
use crate::pcpu::call;
use crate::vm;
use bulkhead_core::addr::Frame;
use bulkhead_core::call::Requests;
use bulkhead_core::ledger::{Owner, Request};
use bulkhead_core::manifest::SelfTest;
use core::arch::asm;
use core::hint::black_box;
use core::mem;

/// Frames for the tables and targets of [`devices`].
pub const POOL_FRAMES: u64 = 64;
/// How long another CPU's failure may take to stop this one.
const PATIENCE_MS: u64 = 1_000;
/// RET.
const RETURN: u8 = 0xc3;
static DATA: [u8; 16] = [RETURN; 16];

/// Provokes the failure. Coming back from it means that a protection did not hold.
pub fn run(test: SelfTest, memory: &mut Memory) {
    log::warn!("self-test {test}: what follows is provoked");
    match test {
        SelfTest::MachineCheck => {
            // SAFETY: enters the handler as the processor would. The registers say that nothing can go on.
            unsafe { asm!("int 18") };
        }
        // The other CPU runs later.
        SelfTest::None | SelfTest::PanicOtherCpu | SelfTest::Vtd | SelfTest::VtdOff => {}
        SelfTest::Panic => panic!("provoked by selftest = \"panic\""),
        SelfTest::WriteCode => {
            let code = run as *const () as *mut u8;
            // SAFETY: unsound on purpose: the page must be read-only.
            unsafe { code.write_volatile(RETURN) };
        }
        SelfTest::ExecuteData => {
            let data = black_box(DATA.as_ptr());
            // SAFETY: unsound on purpose: the page must not be executable.
            let code = unsafe { mem::transmute::<*const u8, extern "sysv64" fn()>(data) };
            code();
        }
        SelfTest::StackOverflow => {
            black_box(overflow(black_box(1)));
        }
        SelfTest::ReadUnmapped => {
            let wish = Request::anywhere(bulkhead_core::addr::FrameCount(1));
            if let Ok(run) = memory.ledger.alloc_run(Owner::Hypervisor, wish) {
                let Frame(number) = run.first;
                // SAFETY: unsound on purpose: the frame must not be mapped.
                black_box(unsafe { ((number << 12) as *const u8).read_volatile() });
            }
        }
    }
}

/// Has the second CPU break an invariant. Coming back means that there is none, or that its report did not stop this one.
pub fn fail_elsewhere() {
    if call::ask_one(1, Requests::FAIL) {
        let begin = rdtsc();
        while rdtsc().wrapping_sub(begin) < vm::ticks(PATIENCE_MS) {
            core::hint::spin_loop();
        }
    }
}

/// Never ends; every call keeps less than a page of stack, so that the stack pointer is in the guard page when that is first touched: of a larger frame
/// a probe may touch its first bytes while the stack pointer is below it, where there is another stack.
#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let page = black_box([depth; 128]);
    if depth == 0 {
        return 0;
    }
    overflow(black_box(depth + 1)) + page.iter().sum::<u64>()
}
