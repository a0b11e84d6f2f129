//! One timed instruction ([`sample!`]) and the statistics over many ([`Samples`]).

use test_guests::println;

/// Samples per operation, after one that warms up.
const COUNT: usize = 1000;

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
    overhead: u64,
}

impl Samples {
    /// Measures the cost of timing.
    pub(crate) fn new() -> Self {
        let mut samples = Self {
            ticks: [0; COUNT],
            overhead: 0,
        };
        samples.collect(Registers::default(), |r| sample!("", r));
        samples.overhead = samples.ticks.first().copied().unwrap_or(0);
        samples
    }

    /// Ticks subtracted from every sample.
    pub(crate) fn overhead(&self) -> u64 {
        self.overhead
    }

    /// Measures an operation and prints its line.
    pub(crate) fn run(
        &mut self,
        name: &str,
        registers: Registers,
        operation: impl Fn(Registers) -> u64,
    ) {
        self.collect(registers, operation);
        let at = |index: usize| {
            self.ticks
                .get(index)
                .copied()
                .unwrap_or(0)
                .saturating_sub(self.overhead)
        };
        println!("bench {name} {} {} {}", at(COUNT / 2), at(0), at(COUNT - 1));
    }

    /// Fills `ticks`, ascending.
    #[inline(always)]
    fn collect(&mut self, registers: Registers, operation: impl Fn(Registers) -> u64) {
        operation(registers);
        for sample in &mut self.ticks {
            *sample = operation(registers);
        }
        self.ticks.sort_unstable();
    }
}
