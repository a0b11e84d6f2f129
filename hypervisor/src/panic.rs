//! The last words: registers, where in the image it happened, a backtrace of addresses.
//!
//! Nothing here allocates or waits for a lock, and it cannot recurse: a second report on the same
//! machine stops at once. `cargo xtask` turns the addresses into names.
#![allow(
    unsafe_code,
    reason = "reads the stack it reports on and writes to the ports directly"
)]

use crate::arch::exception::{Context, GPR_NAMES};
use crate::arch::{cpu, lapic};
use crate::console::{CONSOLE, EVENTS};
use crate::events;
use crate::pcpu::{self, checks};
use bulkhead_core::events::Event;
use bulkhead_core::mce::Judgement;
use core::fmt::{self, Write};
use core::hint::spin_loop;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550};

/// Start and end of the loaded image, and start and end of its code.
static IMAGE: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
static REPORTED: AtomicBool = AtomicBool::new(false);
/// CPUs that another one's report stopped.
static STOPPED: AtomicUsize = AtomicUsize::new(0);

/// How long a report waits for the other CPUs to stop, in TSC ticks: a good tenth of a second on the fastest processor.
const PATIENCE: u64 = 1 << 29;

/// Words of stack searched for return addresses.
const STACK_WORDS: u64 = 512;
/// Most backtrace lines.
const FRAMES: usize = 24;

/// Why the hypervisor stops.
pub enum Cause<'a> {
    /// A CPU exception in the hypervisor.
    Exception(&'a Context),
    /// A machine check that this CPU cannot go on after.
    MachineCheck(&'a Context, &'a Judgement),
    /// A broken invariant.
    Panic(&'a PanicInfo<'a>),
}

/// Tells the report where the image and its code lie.
pub fn describe_image(image: (u64, u64), code: (u64, u64)) {
    for (slot, value) in IMAGE.iter().zip([image.0, image.1, code.0, code.1]) {
        slot.store(value, Ordering::Relaxed);
    }
}

/// Writes straight to a port: the console's lock may be held by what just failed.
struct RawPort(Option<Uart16550<PioBackend>>);

impl RawPort {
    fn open(base: u16) -> Self {
        // SAFETY: the machine stops after this report, so nobody else will drive the port again.
        let uart = unsafe { Uart16550::new_port(base) };
        Self(
            uart.ok()
                .and_then(|mut uart| uart.init(Config::default()).is_ok().then_some(uart)),
        )
    }
}

impl Write for RawPort {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(uart) = &mut self.0 else {
            return Ok(());
        };
        for byte in text.bytes() {
            if byte == b'\n' {
                send(uart, b'\r');
            }
            send(uart, byte);
        }
        Ok(())
    }
}

fn send(uart: &mut Uart16550<PioBackend>, byte: u8) {
    for _ in 0..1_000_000 {
        if uart.try_send_byte(byte).is_ok() {
            return;
        }
    }
}

/// To the serial port always, to the log's memory and the screen when their lock is free.
struct Report {
    port: RawPort,
}

impl Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.port.write_str(text)?;
        if let Some(mut console) = CONSOLE.try_lock() {
            console.show(text);
        }
        Ok(())
    }
}

/// Stops this CPU where another one's report ended the machine: what an NMI means then.
pub fn stop_if_reported() {
    if REPORTED.load(Ordering::Acquire) {
        STOPPED.fetch_add(1, Ordering::AcqRel);
        cpu::stop();
    }
}

/// Reports `cause` and stops the machine.
pub fn report_and_stop(cause: Cause<'_>) -> ! {
    if REPORTED.swap(true, Ordering::AcqRel) {
        STOPPED.fetch_add(1, Ordering::AcqRel);
        cpu::stop();
    }
    stop_others();
    let mut report = Report {
        port: RawPort::open(0x3f8),
    };
    let _ = write_report(&mut report, &cause);
    if let Some(mut events) = EVENTS.try_lock() {
        events.flush();
    }
    let mut events = RawPort::open(0x2f8);
    let _ = write_event(&mut events, &cause);
    cpu::stop();
}

/// Stops the other CPUs: they are not to work on with what is broken, nor to write into the report.
fn stop_others() {
    let own = pcpu::known().map_or(0, |cpu| cpu.index);
    let others = pcpu::all().iter().filter(|cpu| cpu.index != own);
    let others = others.filter(|cpu| cpu.is_online()).count();
    if others == 0 {
        return;
    }
    lapic::send_nmi_to_others();
    let begin = cpu::rdtsc();
    while STOPPED.load(Ordering::Acquire) < others && cpu::rdtsc().wrapping_sub(begin) < PATIENCE {
        spin_loop();
    }
}

fn write_report(out: &mut Report, cause: &Cause<'_>) -> fmt::Result {
    let [start, end, ..] = &IMAGE;
    writeln!(
        out,
        "\n*** Bulkhead has failed and stopped this machine ***"
    )?;
    match pcpu::known() {
        Some(cpu) => writeln!(out, "on CPU {}:", cpu.index)?,
        None => writeln!(out, "on the boot CPU, before it had a number:")?,
    }
    let (rip, rsp) = match cause {
        Cause::Exception(context) => write_exception(out, context)?,
        Cause::MachineCheck(context, judgement) => {
            writeln!(out, "{judgement}")?;
            write_exception(out, context)?
        }
        Cause::Panic(info) => {
            writeln!(out, "{info}")?;
            (0, stack_pointer())
        }
    };
    writeln!(out, "image base {:#x}", start.load(Ordering::Relaxed))?;
    let module = if (start.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&rip) {
        "bulkhead.efi"
    } else {
        "outside bulkhead.efi"
    };
    writeln!(out, "backtrace (return addresses found on the stack):")?;
    let mut number = 0;
    if rip != 0 {
        writeln!(out, "#0 {rip:#x} {module}")?;
        number = 1;
    }
    walk_stack(rsp, |address| {
        let line = writeln!(out, "#{number} {address:#x}");
        number += 1;
        line.is_ok() && number < FRAMES
    });
    writeln!(out, "*** stopped; switch the machine off ***")
}

/// Writes the exception and the registers; comes back with the instruction and stack pointers.
fn write_exception(out: &mut Report, context: &Context) -> Result<(u64, u64), fmt::Error> {
    let vector = context.vector;
    writeln!(
        out,
        "exception {vector} ({}), error code {:#x}",
        name(vector),
        context.error
    )?;
    for (register, value) in GPR_NAMES.iter().zip(context.gpr) {
        writeln!(out, "  {register:>6} {value:#018x}")?;
    }
    writeln!(
        out,
        "  {:>6} {:#018x}  flags {:#x}",
        "rsp", context.rsp, context.rflags
    )?;
    writeln!(out, "  {:>6} {:#018x}", "cr2", cpu::cr2())?;
    Ok((context.rip, context.rsp))
}

fn write_event(out: &mut RawPort, cause: &Cause<'_>) -> fmt::Result {
    let message: &dyn fmt::Display = match cause {
        Cause::Exception(context) => &name(context.vector),
        Cause::MachineCheck(_, judgement) => {
            if let (Some(cpu), Some(error)) = (pcpu::known(), &judgement.cause) {
                checks::event(cpu, error, &judgement.verdict).write_json(
                    cpu::rdtsc(),
                    events::take_number(),
                    out,
                )?;
            }
            judgement
        }
        Cause::Panic(info) => info,
    };
    Event::Panic { message }.write_json(cpu::rdtsc(), events::take_number(), out)
}

fn stack_pointer() -> u64 {
    let rsp: u64;
    // SAFETY: copying RSP has no effect.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags))
    };
    rsp
}

/// Calls `found` for each word on the stack that points behind a call instruction in our code.
fn walk_stack(rsp: u64, mut found: impl FnMut(u64) -> bool) {
    let [_, _, code_start, code_end] = &IMAGE;
    let code = code_start.load(Ordering::Relaxed)..code_end.load(Ordering::Relaxed);
    let Some((low, high)) = crate::memory::stack::bounds_of(rsp) else {
        return;
    };
    let mut at = rsp.max(low) & !7;
    let end = high.min(at + STACK_WORDS * 8);
    while at + 8 <= end {
        // SAFETY: `bounds_of` says that this stretch is one of our mapped stacks.
        let word = unsafe { (at as *const u64).read_volatile() };
        at += 8;
        if word >= code.start + 5 && code.contains(&word) && follows_call(word) && !found(word) {
            return;
        }
    }
}

/// Whether a CALL ends at `address`: near relative, or through a register or memory.
fn follows_call(address: u64) -> bool {
    let byte = |back: u64| {
        // SAFETY: the caller checked that `address - 5` is within our readable code.
        unsafe { ((address - back) as *const u8).read_volatile() }
    };
    byte(5) == 0xe8
        || (byte(2) == 0xff && byte(1) & 0x38 == 0x10)
        || (byte(3) == 0xff && byte(2) & 0x38 == 0x10)
}

/// The exception's name (Intel SDM vol. 3A, "Exceptions and Interrupts").
const fn name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD error",
        20 => "virtualisation exception",
        21 => "control protection",
        _ => "unknown exception",
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    report_and_stop(Cause::Panic(info))
}
