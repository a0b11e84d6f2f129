//! A kernel's memory: page tables with a kernel half, descriptor tables in it, and a page that is nobody's business.
//!
//! | top-level entry | what is there | for whom |
//! |---|---|---|
//! | 0 | the first GiB as it is, where this program was linked | the kernel |
//! | 2 | code, data and a stack | user code |
//! | 511, last GiB but one | the same memory: descriptor tables, stacks and entry points have their addresses here | the kernel |
//! | 511, last GiB | [`SECRET`], by the kernel's mistake | whoever gets here |
//! | [`NEW_SLOT`], [`UNSEEN_SLOT`], [`FORGED_SLOT`] | nothing, until a case maps the secret there, too | as above |

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::entry::{STUB_SIZE, split_debug, split_nmi, split_stubs, split_syscall};

/// A page of its own.
#[repr(C, align(4096))]
pub(crate) struct Page(pub(crate) [AtomicU64; 512]);

impl Page {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    fn set(&self, index: usize, entry: u64) {
        if let Some(word) = self.0.get(index) {
            word.store(entry, Relaxed);
        }
    }

    fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |word| word.load(Relaxed))
    }

    /// Where it is in physical memory, and where this program sees it.
    fn address(&self) -> u64 {
        core::ptr::from_ref(self) as u64
    }
}

/// Where the kernel has its memory, as far from the end as Linux has its code.
pub(crate) const KERNEL: u64 = 0xffff_ffff_8000_0000;
/// Where the kernel half has nothing.
pub(crate) const NOTHING: u64 = KERNEL - (4 << 30);
/// Where the kernel half has the secret.
pub(crate) const LEAK: u64 = KERNEL + (1 << 30);
/// A slot of the kernel half that is filled after user code ran, and one of a table that the processor has not seen.
pub(crate) const NEW_SLOT: usize = 300;
pub(crate) const UNSEEN_SLOT: usize = 301;
/// One of a table that is taken for another one.
pub(crate) const FORGED_SLOT: usize = 302;
pub(crate) const FORGED: u64 = 3;
/// Where a slot of the kernel half begins.
pub(crate) const fn slot(number: usize) -> u64 {
    0xffff << 48 | (number as u64) << 39
}

/// Where user code runs, has data and a stack; the page after the next is not mapped.
pub(crate) const USER_CODE: u64 = 2 << 39;
pub(crate) const USER_DATA: u64 = USER_CODE + 0x1000;
pub(crate) const USER_STACK_TOP: u64 = USER_CODE + 0x3000;
pub(crate) const USER_NOTHING: u64 = USER_CODE + 0x4000;
/// Where user code is shown a page table of the kernel half.
pub(crate) const USER_TABLE: u64 = USER_CODE + 0x5000;

/// What nobody but the kernel knows.
pub(crate) const SECRET: u64 = 0x5ec2_e75e_c2e7_1234;

const KERNELS: u64 = 0b011;
const ANYBODYS: u64 = 0b111;
const LARGE: u64 = 1 << 7;

const TSS_SELECTOR: u16 = 0x30;
const LDT_SELECTOR: u16 = 0x40;
const TSS: u64 = 0x89;
const LDT: u64 = 0x82;
const TSS_LIMIT: u64 = 0x67;
/// Kernel code and data, a place for 32-bit user code, user data and code. SYSRET wants them in this order.
const SEGMENTS: [u64; 6] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];
/// A user's data segment with this base.
const fn user_data(base: u64) -> u64 {
    0x00cf_f300_0000_ffff | base << 16
}
const INTERRUPT_GATE: u64 = 0x8e00;
const USERS_GATE: u64 = 0xee00;
const DEBUG: usize = 1;
const NMI: usize = 2;
const BREAKPOINT: usize = 3;
/// What the kernel has of its GS's segment, and user code of its own.
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;

/// TF, IF and DF.
pub(crate) const MASKED: u64 = 0x700;

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FMASK: u32 = 0xc000_0084;
/// System calls, and pages without execution: then page faults tell fetches.
const EFER_BITS: u64 = 1 | 1 << 11;

static TOP: Page = Page::new();
static COPY: Page = Page::new();
static LOW_L3: Page = Page::new();
static KERNEL_L3: Page = Page::new();
static DIRECT_L2: Page = Page::new();
static LEAK_L3: [Page; 2 + FORGED as usize] = [const { Page::new() }; 2 + FORGED as usize];
static LEAK_L2: Page = Page::new();
static LEAK_L1: Page = Page::new();
static SECRET_PAGE: Page = Page::new();
static USER_L3: Page = Page::new();
static USER_L2: Page = Page::new();
static USER_L1: Page = Page::new();
static USER_PAGES: [Page; 3] = [const { Page::new() }; 3];
static GDT: Page = Page::new();
static IDTS: [Page; 2] = [const { Page::new() }; 2];
static LDTS: [Page; 2] = [const { Page::new() }; 2];
static TSS_PAGE: Page = Page::new();
static STACK: [Page; 2] = [const { Page::new() }; 2];
/// What debug exceptions and NMIs come to.
static OWN_STACKS: [Page; 2] = [const { Page::new() }; 2];
/// Where GS is the kernel's: the entry stack's address, as far as the instructions know.
static GS_WORDS: Page = Page::new();

/// Makes it all, and has the processor use it. Interrupts stay off.
pub(crate) fn build() {
    for index in 0..512 {
        DIRECT_L2.set(index, (index as u64) << 21 | LARGE | KERNELS);
    }
    LOW_L3.set(0, DIRECT_L2.address() | KERNELS);
    KERNEL_L3.set(510, DIRECT_L2.address() | KERNELS);
    KERNEL_L3.set(511, LEAK_L2.address() | ANYBODYS);
    for table in &LEAK_L3 {
        table.set(0, LEAK_L2.address() | ANYBODYS);
    }
    LEAK_L2.set(0, LEAK_L1.address() | ANYBODYS);
    LEAK_L1.set(0, SECRET_PAGE.address() | ANYBODYS);
    set_secret();
    USER_L3.set(0, USER_L2.address() | ANYBODYS);
    USER_L2.set(0, USER_L1.address() | ANYBODYS);
    for (page, index) in USER_PAGES.iter().zip(0..) {
        USER_L1.set(index, page.address() | ANYBODYS);
    }
    TOP.set(0, LOW_L3.address() | KERNELS);
    TOP.set(2, USER_L3.address() | ANYBODYS);
    TOP.set(511, KERNEL_L3.address() | ANYBODYS);
    load_tables(&TOP);
    describe();
}

/// Descriptor tables and system calls.
fn describe() {
    for (segment, index) in SEGMENTS.into_iter().zip(0..) {
        GDT.set(index, segment);
    }
    let stack = entry_stack_top();
    TSS_PAGE.set(0, stack << 32);
    TSS_PAGE.set(1, stack >> 32);
    let [debug, nmi] = OWN_STACKS
        .each_ref()
        .map(|page| KERNEL + page.address() + 4096);
    TSS_PAGE.set(4, debug << 32);
    TSS_PAGE.set(5, debug >> 32 | nmi << 32);
    TSS_PAGE.set(6, nmi >> 32);
    GS_WORDS.set(0, stack);
    take_gs();
    TSS_PAGE.set(12, (TSS_LIMIT + 1) << 48);
    set_system(TSS_SELECTOR, TSS, KERNEL + TSS_PAGE.address(), TSS_LIMIT);
    let gdt = Pointer::new(KERNEL + GDT.address(), u64::from(LDT_SELECTOR) + 15);
    // SAFETY: the table is complete, and its code and data segments are those in use.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const gdt) };
    // SAFETY: the segment that the TSS describes is this guest's own.
    unsafe { asm!("ltr {:x}", in(reg) TSS_SELECTOR) };
    use_idt(0);
    let efer = rdmsr(EFER);
    wrmsr(EFER, efer | EFER_BITS);
    wrmsr(STAR, 0x08 << 32 | 0x18 << 48);
    mask_flags(MASKED);
    use_entry(&split_syscall);
}

/// Has GS be the kernel's, whoever's it was.
pub(crate) fn take_gs() {
    wrmsr(GS_BASE, KERNEL + GS_WORDS.address());
    wrmsr(KERNEL_GS_BASE, USER_DATA);
}

/// The flags that SYSCALL clears.
pub(crate) fn mask_flags(flags: u64) {
    wrmsr(FMASK, flags);
}

/// Where the stack begins that events come to which user code is interrupted by.
pub(crate) fn entry_stack_top() -> u64 {
    KERNEL + STACK[1].address() + 4096
}

/// Says where system calls enter the kernel.
pub(crate) fn use_entry(entry: &'static u8) {
    wrmsr(LSTAR, KERNEL + core::ptr::from_ref(entry) as u64);
}

/// Loads one of two equal IDTs.
pub(crate) fn use_idt(number: usize) {
    let Some(idt) = IDTS.get(number) else {
        return;
    };
    for vector in 0..256 {
        let stub = &raw const split_stubs as u64 + vector as u64 * STUB_SIZE;
        let (at, gate) = match vector {
            DEBUG => (&raw const split_debug as u64, INTERRUPT_GATE | 1),
            NMI => (&raw const split_nmi as u64, INTERRUPT_GATE | 2),
            BREAKPOINT => (stub, USERS_GATE),
            _ => (stub, INTERRUPT_GATE),
        };
        let at = KERNEL + at;
        let low = at & 0xffff | 0x08 << 16 | gate << 32 | (at >> 16 & 0xffff) << 48;
        idt.set(2 * vector, low);
        idt.set(2 * vector + 1, at >> 32);
    }
    let idt = Pointer::new(KERNEL + idt.address(), 4095);
    // SAFETY: the table is complete.
    unsafe { asm!("lidt [{}]", in(reg) &raw const idt) };
}

/// Loads one of two LDTs, whose second segment is user data that begins at `base`; or none.
pub(crate) fn use_ldt(table: Option<(usize, u64)>) {
    let mut selector = 0;
    if let Some((ldt, base)) = table.and_then(|(number, base)| Some((LDTS.get(number)?, base))) {
        ldt.set(1, user_data(base));
        set_system(LDT_SELECTOR, LDT, KERNEL + ldt.address(), 15);
        selector = LDT_SELECTOR;
    }
    // SAFETY: no segment of the LDT before is in use by the kernel.
    unsafe { asm!("lldt {:x}", in(reg) selector) };
}

/// Maps the secret through a slot of the kernel half that was free, in the tables that system calls were set up with.
pub(crate) fn fill_new_slot() {
    TOP.set(NEW_SLOT, LEAK_L3[0].address() | ANYBODYS);
}

/// Goes on with a copy of the top-level table, in which the secret has another slot, too.
pub(crate) fn use_unseen_tables() {
    for index in 0..512 {
        COPY.set(index, TOP.get(index));
    }
    COPY.set(UNSEEN_SLOT, LEAK_L3[1].address() | ANYBODYS);
    load_tables(&COPY);
}

/// Goes on with a copy of the top-level table that is `blocks` times 2 MiB behind it, up to [`FORGED`], in which the secret has yet another slot. Nobody else has memory there.
pub(crate) fn use_forged_tables(blocks: u64) {
    let at = (TOP.address() + (blocks << 21)) as *const Page;
    // SAFETY: a page of RAM behind this program, which is nobody else's and consists of atomic words.
    let forged = unsafe { &*at };
    for index in 0..512 {
        forged.set(index, TOP.get(index));
    }
    let leak = LEAK_L3.get(1 + blocks as usize).unwrap_or(&LEAK_L3[1]);
    forged.set(FORGED_SLOT, leak.address() | ANYBODYS);
    load_tables(forged);
}

/// What the level-3 table of the kernel's code has for the GiB `number`.
pub(crate) fn kernels_gib(number: usize) -> u64 {
    KERNEL_L3.get(number)
}

/// Gives the GiB `number` of the kernel's code what has the secret, or nothing; user code may use it, as far as the tables go.
pub(crate) fn map_secret_at(number: usize, mapped: bool) {
    let entry = if mapped {
        LEAK_L2.address() | ANYBODYS
    } else {
        0
    };
    KERNEL_L3.set(number, entry);
}

/// Has the secret be what it is.
pub(crate) fn set_secret() {
    SECRET_PAGE.set(0, SECRET);
}

/// Where the top-level table is that system calls were set up with.
pub(crate) fn first_table() -> u64 {
    TOP.address()
}

/// What the kernel itself finds at `at`, in its half.
pub(crate) fn read(at: u64) -> u64 {
    // SAFETY: callers name what the kernel has there.
    unsafe { (at as *const u64).read_volatile() }
}

/// Goes back to the tables that system calls were set up with.
pub(crate) fn use_first_tables() {
    load_tables(&TOP);
}

/// Shows user code the level-3 table of the new slot as a page of its own.
pub(crate) fn show_table_to_user() {
    USER_L1.set(5, LEAK_L3[0].address() | ANYBODYS);
}

/// The page that user code runs in.
pub(crate) fn user_code() -> &'static Page {
    &USER_PAGES[0]
}

/// The physical address of user data.
pub(crate) fn user_data_address() -> u64 {
    USER_PAGES[1].address()
}

/// Word `index` of user data.
pub(crate) fn user_word(index: usize) -> u64 {
    USER_PAGES[1].get(index)
}

pub(crate) fn set_user_word(index: usize, value: u64) {
    USER_PAGES[1].set(index, value);
}

fn load_tables(top: &Page) {
    // SAFETY: the tables have this program where it is.
    unsafe { asm!("mov cr3, {}", in(reg) top.address()) };
}

/// A descriptor of a system segment.
fn set_system(selector: u16, kind: u64, base: u64, limit: u64) {
    let index = usize::from(selector / 8);
    let low = limit | (base & 0xff_ffff) << 16 | kind << 40 | (base >> 24 & 0xff) << 56;
    GDT.set(index, low);
    GDT.set(index + 1, base >> 32);
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

impl Pointer {
    fn new(base: u64, limit: u64) -> Self {
        Self {
            limit: limit as u16,
            base,
        }
    }
}

fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: every processor in long mode has the MSRs of this module.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(low) | u64::from(high) << 32
}

fn wrmsr(msr: u32, value: u64) {
    // SAFETY: as above; the values are right for the descriptor tables of this module.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32) };
}
