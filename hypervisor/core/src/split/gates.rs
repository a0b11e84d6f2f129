//! Gates: the code through which a vCPU goes from one view to the other without an exit.
//!
//! Their pages show in both views, at one address in a part of the kernel half that the guest does not use, and are a kernel's to execute; a GiB below, it may
//! write to the one that is to be written. Each gate saves
//! what VMFUNC needs registers for, switches, and goes on where the kernel's own code or user code was meant to. SYSCALL leaves no register to spare and no
//! stack, so its gate, each vCPU's own, has two words of memory; the others use the stack that the processor or the kernel is on, which is in both views.
//!
//! ```text
//!   page 0   the ways out, SYSENTER, the stubs of vectors with a stack of their own
//!   page 1   SYSCALL: 64 bytes a vCPU
//!   page 2,3 a stub for each vector: 24 bytes
//!   page 4   two words a vCPU (writable)
//!   page 5   top-level tables that were looked at, by their frames' low bits (in `kernel` alone)
//!   page 6   the IDT that `user` shows
//! ```
//!
//! An interrupt anywhere in a gate is harmless: handlers run in `kernel`, and come back there. What follows then either switches again, or reaches
//! for user code in `kernel` and exits. The exceptions that an IRET may raise exit, because handlers have to find the kernel's own IRET
//! ([`Gates::irets`]).

use alloc::vec::Vec;

use super::code::Code;
use super::sites::{Iret, Kind, Site, Sites};
use crate::addr::{FRAME_SIZE, Gva, SIZE_1G};

/// The index of `kernel` in the EPTP lists.
pub const KERNEL_INDEX: u32 = 0;
/// The index of `user`.
pub const USER_INDEX: u32 = 1;

/// The pages, by what is in them.
pub(super) mod page {
    pub(in crate::split) const WAYS: usize = 0;
    pub(in crate::split) const SYSCALL: usize = 1;
    pub(in crate::split) const STUBS: usize = 2;
    pub(in crate::split) const WORDS: usize = 4;
    pub(in crate::split) const SEEN: usize = 5;
    pub(in crate::split) const IDT: usize = 6;
}

const PAGE: usize = FRAME_SIZE as usize;
const VECTORS: usize = 256;
const STUB: usize = 24;
const SYSCALL_GATE: usize = 64;
const WORDS: u64 = 16;
/// Entries of the page of tables that were looked at.
pub(super) const SEEN: u64 = 512;
/// Bytes of a jump that takes the place of a site.
pub const JUMP: usize = 5;

const PUSH_RAX: [u8; 1] = [0x50];
const PUSH_RCX: [u8; 1] = [0x51];
const PUSH_RDX: [u8; 1] = [0x52];
const POP_RAX: [u8; 1] = [0x58];
const POP_RCX: [u8; 1] = [0x59];
const POP_RDX: [u8; 1] = [0x5a];
const POP_RDI: [u8; 1] = [0x5f];
const POP_RSP: [u8; 1] = [0x5c];
const SWAPGS: [u8; 3] = [0x0f, 0x01, 0xf8];
const VMFUNC: [u8; 3] = [0x0f, 0x01, 0xd4];
const SYSRETQ: [u8; 3] = [0x48, 0x0f, 0x07];
const IRETQ: [u8; 2] = [0x48, 0xcf];

/// What the guest's kernel is entered by and left by.
#[derive(Clone, Debug)]
pub struct Kernel<'a> {
    /// Where SYSCALL enters it, the same on every vCPU.
    pub syscall: Gva,
    /// Where SYSENTER does, if it does.
    pub sysenter: Option<Gva>,
    /// Its IDT.
    pub idt: &'a [u8],
    /// Where it is left.
    pub sites: &'a Sites,
}

/// The gates' pages, and what goes through them.
#[derive(Debug)]
pub struct Gates {
    /// The ways out, and what does not fit elsewhere.
    pub ways: Vec<u8>,
    /// SYSCALL's.
    pub syscall: Vec<u8>,
    /// The stubs of vectors.
    pub stubs: Vec<u8>,
    /// The IDT that `user` shows.
    pub idt: Vec<u8>,
    /// Where SYSENTER is to enter.
    pub sysenter: Option<Gva>,
    /// For each site that has a gate, the jump that takes its place.
    pub patches: Vec<(Gva, [u8; JUMP])>,
    /// Each IRET of a gate, and the kernel's own in whose place it is. One that faults is to look as if it were that, because the kernel's exception
    /// handlers know it: GS is user code's already.
    pub irets: Vec<(Gva, Gva)>,
}

/// Where the gates are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base(pub Gva);

impl Base {
    /// The address of a page.
    pub(super) const fn page(self, page: usize) -> Gva {
        Gva(self.0.0 + (page * PAGE) as u64)
    }

    /// The address at which the kernel may write to a page.
    pub(super) const fn writable_page(self, page: usize) -> Gva {
        Gva(self.page(page).0 - SIZE_1G)
    }

    /// Where SYSCALL enters on a vCPU.
    #[must_use]
    pub const fn syscall(self, vcpu: u32) -> Gva {
        Gva(self.page(page::SYSCALL).0 + vcpu as u64 * SYSCALL_GATE as u64)
    }
}

impl Gates {
    /// Whether the pages of code are the same: they are not written while vCPUs may be in them.
    pub(super) fn are_same_code(&self, other: &Self) -> bool {
        self.ways == other.ways && self.syscall == other.syscall && self.stubs == other.stubs
    }

    /// Builds them at `base`; `None` where the kernel is too far away, or something of it is not as expected.
    #[must_use]
    pub fn build(base: Base, vcpus: u32, kernel: &Kernel<'_>) -> Option<Self> {
        let mut ways = Code::at(base.page(page::WAYS));
        let mut patches = Vec::new();
        let mut irets = Vec::new();
        for site in &kernel.sites.all {
            ways.align(16);
            let gate = ways.here();
            let built = match site.kind {
                Kind::Sysret => {
                    way_by_sysret(&mut ways, base, site);
                    true
                }
                Kind::IretOnEntryStack(iret) => {
                    ways.put(&POP_RDI);
                    irets.push((
                        way_by_iret(&mut ways, base, site, iret, None),
                        iret.instruction,
                    ));
                    true
                }
                Kind::IretOnKernelStack(iret) => match kernel.sites.entry_stack {
                    Some(stack) => {
                        let gate = way_by_iret(&mut ways, base, site, iret, Some(stack));
                        irets.push((gate, iret.instruction));
                        true
                    }
                    None => false,
                },
            };
            if built {
                let mut jump = Code::at(site.at);
                jump.jump(gate);
                patches.push((site.at, *jump.finish()?.first_chunk()?));
            }
        }
        let sysenter = kernel.sysenter.map(|target| {
            ways.align(16);
            let gate = ways.here();
            into_kernel_on_stack(&mut ways);
            ways.jump(target);
            gate
        });
        let mut syscall = Code::at(base.page(page::SYSCALL));
        for vcpu in 0..u64::from(vcpus) {
            way_by_syscall(&mut syscall, base, vcpu, kernel.syscall);
            syscall.align(SYSCALL_GATE);
        }
        let mut stubs = Code::at(base.page(page::STUBS));
        let mut idt = Vec::with_capacity(PAGE);
        for vector in 0..VECTORS {
            let mut descriptor = Descriptor::at(kernel.idt, vector);
            let stub = if !descriptor.is_gate() {
                // Of what is no descriptor nothing shows.
                descriptor.clear();
                stubs.put(&[0xcc]).align(STUB);
                None
            } else if descriptor.has_own_stack() {
                ways.align(16);
                let stub = ways.here();
                into_kernel_on_own_stack(&mut ways);
                ways.jump(descriptor.target());
                stubs.put(&[0xcc]).align(STUB);
                Some(stub)
            } else {
                let stub = stubs.here();
                into_kernel_on_stack(&mut stubs);
                stubs.jump(descriptor.target()).align(STUB);
                Some(stub)
            };
            if let Some(stub) = stub {
                descriptor.set_target(stub);
            }
            idt.extend_from_slice(&descriptor.0);
        }
        let ways = ways.finish().filter(|ways| ways.len() <= PAGE)?;
        Some(Self {
            ways,
            syscall: syscall.finish()?,
            stubs: stubs.finish()?,
            idt,
            sysenter,
            patches,
            irets,
        })
    }
}

/// `mov eax, 0; mov ecx, index; vmfunc`, with the flags as they are.
fn switch(code: &mut Code, index: u32) {
    code.put(&[0xb8, 0, 0, 0, 0, 0xb9]);
    code.put(&index.to_le_bytes()).put(&VMFUNC);
}

/// Into `kernel`, on a stack that is in both views.
fn into_kernel_on_stack(code: &mut Code) {
    code.put(&PUSH_RAX).put(&PUSH_RCX);
    switch(code, KERNEL_INDEX);
    code.put(&POP_RCX).put(&POP_RAX);
}

fn way_by_syscall(code: &mut Code, base: Base, vcpu: u64, target: Gva) {
    let rax = Gva(base.writable_page(page::WORDS).0 + vcpu * WORDS);
    let rcx = Gva(rax.0 + 8);
    code.relative(&[0x48, 0x89, 0x05], rax);
    code.relative(&[0x48, 0x89, 0x0d], rcx);
    switch(code, KERNEL_INDEX);
    code.relative(&[0x48, 0x8b, 0x0d], rcx);
    code.relative(&[0x48, 0x8b, 0x05], rax);
    code.jump(target);
}

/// Into `user` if the top-level table was looked at; RAX and RCX are lost. Else the kernel's way goes on in `kernel`, and exits at the first
/// instruction of user code.
fn into_user(code: &mut Code, base: Base, site: &Site) {
    if let Some(selector) = site.verw {
        // Only the form with an operand in memory clears buffers, so there is one: jmp over it; verw [selector].
        code.put(&[0xeb, 2]);
        let operand = code.here();
        code.put(&selector.to_le_bytes());
        code.relative(&[0x0f, 0x00, 0x2d], operand);
    }
    code.put(&PUSH_RDX);
    // mov rax, cr3; and rax, -4096
    code.put(&[0x0f, 0x20, 0xd8, 0x48, 0x25, 0x00, 0xf0, 0xff, 0xff]);
    // mov ecx, eax; shr ecx, 12; and ecx, SEEN - 1
    code.put(&[0x89, 0xc1, 0xc1, 0xe9, 0x0c, 0x81, 0xe1]);
    code.put(&(SEEN as u32 - 1).to_le_bytes());
    // lea rdx, [tables]; cmp [rdx + rcx * 8], rax
    code.relative(&[0x48, 0x8d, 0x15], base.page(page::SEEN));
    code.put(&[0x48, 0x39, 0x04, 0xca]).put(&POP_RDX);
    // jne past the switch
    code.put(&[0x75, 13]);
    switch(code, USER_INDEX);
}

fn way_by_sysret(code: &mut Code, base: Base, site: &Site) {
    code.put(&POP_RDI).put(&PUSH_RAX).put(&PUSH_RCX);
    into_user(code, base, site);
    code.put(&POP_RCX).put(&POP_RAX).put(&POP_RSP);
    code.put(&SWAPGS).put(&SYSRETQ);
}

/// Where the IRET is. With an offset from GS, the frame is moved to the stack whose address is there.
fn way_by_iret(
    code: &mut Code,
    base: Base,
    site: &Site,
    iret: Iret,
    entry_stack: Option<i32>,
) -> Gva {
    // test byte ptr [rsp + 32], 4; jz over the kernel's own way for stack segments of a local descriptor table
    code.put(&[0xf6, 0x44, 0x24, 0x20, 0x04, 0x74, 8]);
    code.put(&SWAPGS).jump(iret.target);
    code.put(&PUSH_RAX).put(&PUSH_RCX);
    if let Some(offset) = entry_stack {
        // mov rax, rsp; mov rsp, gs:[offset]
        code.put(&[0x48, 0x89, 0xe0, 0x65, 0x48, 0x8b, 0x24, 0x25]);
        code.put(&offset.to_le_bytes());
        for word in (0..7_u8).rev() {
            // push [rax + 8 * word]
            code.put(&[0xff, 0x70, 8 * word]);
        }
    }
    into_user(code, base, site);
    code.put(&POP_RCX).put(&POP_RAX).put(&SWAPGS);
    let at = code.here();
    code.put(&IRETQ);
    at
}

/// Into `kernel` on a stack of the vector's own, whose first words below the processor's frame a handler may still need: an NMI's finds there whether
/// it interrupted another.
fn into_kernel_on_own_stack(code: &mut Code) {
    // mov [rsp - 256], rax; mov [rsp - 264], rcx
    let (rax, rcx) = ((-256_i32).to_le_bytes(), (-264_i32).to_le_bytes());
    code.put(&[0x48, 0x89, 0x84, 0x24]).put(&rax);
    code.put(&[0x48, 0x89, 0x8c, 0x24]).put(&rcx);
    switch(code, KERNEL_INDEX);
    code.put(&[0x48, 0x8b, 0x8c, 0x24]).put(&rcx);
    code.put(&[0x48, 0x8b, 0x84, 0x24]).put(&rax);
}

/// A descriptor of the IDT (Intel SDM vol. 3A, "64-Bit Mode IDT").
struct Descriptor([u8; 16]);

impl Descriptor {
    fn at(idt: &[u8], vector: usize) -> Self {
        let bytes = idt.get(16 * vector..).unwrap_or_default();
        Self(bytes.first_chunk().copied().unwrap_or_default())
    }

    const fn low(&self) -> u128 {
        u128::from_le_bytes(self.0)
    }

    /// A present interrupt or trap gate.
    const fn is_gate(&self) -> bool {
        self.low() >> 47 & 1 != 0 && matches!(self.low() >> 40 & 0x1f, 0xe | 0xf)
    }

    /// Leaves what kind of descriptor it is.
    const fn clear(&mut self) {
        self.0 = (self.low() & 0xff << 40).to_le_bytes();
    }

    const fn has_own_stack(&self) -> bool {
        self.low() >> 32 & 7 != 0
    }

    const fn target(&self) -> Gva {
        let raw = self.low();
        let (low, middle, high) = (raw & 0xffff, raw >> 48 & 0xffff, raw >> 64 & 0xffff_ffff);
        Gva((low | middle << 16 | high << 32) as u64)
    }

    const fn set_target(&mut self, to: Gva) {
        const OFFSET: u128 = 0xffff | 0xffff << 48 | 0xffff_ffff << 64;
        let to = to.0 as u128;
        let bits = (to & 0xffff) | (to >> 16 & 0xffff) << 48 | (to >> 32) << 64;
        self.0 = (self.low() & !OFFSET | bits).to_le_bytes();
    }
}
