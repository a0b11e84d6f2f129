//! One timed instruction ([`sample!`]) or operation, and the statistics over many ([`Samples`]).

use test_guests::{cpu, println};

/// Samples per operation, after one that warms up; the command line's `count=` can make them fewer.
pub(crate) const COUNT: usize = 1000;

/// What the timed instruction finds in its registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Registers {
    pub(crate) rax: u64,
    pub(crate) rcx: u64,
    pub(crate) rdx: u64,
}

/// Ticks from before one instruction to after it. The registers are loaded between the two readings, the same
/// instructions for every operation, so that the empty operation measures exactly what is to be subtracted.
macro_rules! sample {
    ($op:literal, $registers:expr) => {{
        let Registers { rax, rcx, rdx } = $registers;
        let ticks: u64;
        // SAFETY: the instruction changes the registers named here, or a device register that nothing relies on.
        unsafe {
            core::arch::asm!(
                "mov r12, rbx",
                "jmp 2f",
                "2: rdtsc",
                "mov r8d, eax",
                "mov r9d, edx",
                "mov rax, r10",
                "mov rdx, r11",
                $op,
                "jmp 3f",
                "3: rdtsc",
                "shl rdx, 32",
                "or rax, rdx",
                "shl r9, 32",
                "or r8, r9",
                "sub rax, r8",
                "mov rbx, r12",
                in("r10") rax, in("r11") rdx, inlateout("rcx") rcx => _,
                out("r8") _, out("r9") _, out("r12") _, lateout("rax") ticks, lateout("rdx") _,
            );
        }
        ticks
    }};
}
pub(crate) use sample;

/// The samples of one operation, and what timing costs.
pub(crate) struct Samples {
    ticks: [u64; COUNT],
    count: usize,
    overhead: u64,
}

impl Samples {
    /// Measures the cost of timing; `count` samples are to be taken of each operation.
    pub(crate) fn new(count: usize) -> Self {
        let mut samples = Self {
            ticks: [0; COUNT],
            count: count.clamp(1, COUNT),
            overhead: 0,
        };
        samples.collect(|| sample!("", Registers::default()));
        samples.overhead = samples.at(0);
        samples
    }

    /// Ticks subtracted from every sample of an instruction.
    pub(crate) fn overhead(&self) -> u64 {
        self.overhead
    }

    /// Measures an instruction and prints its line.
    pub(crate) fn run(
        &mut self,
        name: &str,
        registers: Registers,
        operation: impl Fn(Registers) -> u64,
    ) {
        self.collect(|| operation(registers));
        self.print(name, self.overhead);
    }

    /// Measures an operation of several instructions and prints its line.
    pub(crate) fn run_operation(&mut self, name: &str, mut operation: impl FnMut()) {
        self.collect(|| timed(|| ()));
        let overhead = self.at(0);
        self.collect(|| timed(&mut operation));
        self.print(name, overhead);
    }

    /// Prints the line of samples that were taken elsewhere; `next` gives each.
    pub(crate) fn run_samples(&mut self, name: &str, next: impl FnMut() -> u64) {
        self.collect(next);
        self.print(name, 0);
    }

    fn print(&self, name: &str, overhead: u64) {
        let at = |index| self.at(index).saturating_sub(overhead);
        println!(
            "bench {name} {} {} {}",
            at(self.count / 2),
            at(0),
            at(self.count - 1)
        );
    }

    fn at(&self, index: usize) -> u64 {
        self.ticks.get(index).copied().unwrap_or(0)
    }

    /// Fills `ticks`, ascending.
    #[inline(always)]
    fn collect(&mut self, mut operation: impl FnMut() -> u64) {
        operation();
        let Some(samples) = self.ticks.get_mut(..self.count) else {
            return;
        };
        for sample in samples.iter_mut() {
            *sample = operation();
        }
        samples.sort_unstable();
    }
}

/// Ticks that `operation` takes.
#[inline(always)]
fn timed(operation: impl FnOnce()) -> u64 {
    let start = cpu::ticks();
    operation();
    cpu::ticks().wrapping_sub(start)
}
