//! Sites in kernels' code, and what each gate does to registers, stack and view.

use super::interpreter::{End, Processor, RAX, RCX, RDI, RSP};
use crate::addr::Gva;
use crate::split::gates::{Base, Gates, KERNEL_INDEX, Kernel, USER_INDEX, page};
use crate::split::sites::{Kind, Sites};

pub(super) const TEXT: Gva = Gva(0xffff_ffff_81c0_0000);
const BASE: Base = Base(Gva(0xffff_ffff_4000_0000));
pub(super) const SYSCALL: Gva = Gva(TEXT.0 + 0x80);
const SYSENTER: Gva = Gva(TEXT.0 + 0x1a00);
const HANDLERS: u64 = TEXT.0 + 0x10_0000;
const SELECTOR: u16 = 0x18;
const TABLE: u64 = 0x0123_4000;
const STACK: u64 = 0xffff_fe00_0000_3000;
/// From GS, where the entry stack's address is.
const TSS: i32 = 0x6004;
/// Vectors with a stack of their own.
const OWN_STACK: [usize; 4] = [1, 2, 8, 18];

/// Where the pieces of [`text`] are.
pub(super) const SYSRET_AT: usize = 0x200;
const IRET_6_1_AT: usize = 0x300;
const IRET_6_12_AT: usize = 0x400;
const NATIVE_IRET: usize = 0x500;

/// What run-time patching can leave in the gap of a site, and whether VERW is executed in it. The operand is 0x40 bytes into the text.
fn gaps(at: usize) -> Vec<(Vec<u8>, bool)> {
    let verw = |at: usize| {
        let mut bytes = vec![0x0f, 0x00, 0x2d];
        bytes.extend_from_slice(&(0x40 - (at as i32 + 7)).to_le_bytes());
        bytes
    };
    vec![
        (vec![0x90; 7], false),
        (vec![0x0f, 0x1f, 0x80, 0, 0, 0, 0], false),
        (verw(at), true),
        ([vec![0xeb, 7], verw(at + 2)].concat(), false),
        ([vec![0x66, 0x90], verw(at + 2)].concat(), true),
    ]
}

/// A kernel's code with the three ways out, as Linux 6.1 and 6.12 have them.
pub(super) fn text(gap: usize) -> Vec<u8> {
    let mut text = vec![0xcc; 0x3000];
    let mut put = |at: usize, bytes: &[u8]| {
        text[at..at + bytes.len()].copy_from_slice(bytes);
        at + bytes.len()
    };
    put(0x40, &SELECTOR.to_le_bytes());
    // mov rsp, gs:[TSS]; push [rdi + 40]; push [rdi]
    let next = put(SYSRET_AT - 14, &[0x65, 0x48, 0x8b, 0x24, 0x25]);
    let next = put(next, &TSS.to_le_bytes());
    let next = put(next, &[0xff, 0x77, 0x28, 0xff, 0x37]);
    let next = put(next, &[0x5f, 0x5c, 0x0f, 0x01, 0xf8]);
    let next = put(next, &gaps(next)[gap].0);
    put(next, &[0x48, 0x0f, 0x07]);
    let next = put(IRET_6_1_AT, &[0x5f, 0x0f, 0x01, 0xf8]);
    let next = put(next, &gaps(next)[gap].0);
    let next = put(next, &[0xe9]);
    put(next, &((NATIVE_IRET - next - 4) as i32).to_le_bytes());
    let next = put(IRET_6_12_AT, &[0x0f, 0x01, 0xf8]);
    let next = put(next, &gaps(next)[gap].0);
    let next = put(next, &[0xf6, 0x44, 0x24, 0x08, 0x03, 0x0f, 0x85]);
    put(next, &((NATIVE_IRET - next - 4) as i32).to_le_bytes());
    put(
        NATIVE_IRET,
        &[0xf6, 0x44, 0x24, 0x20, 0x04, 0x75, 0x02, 0x48, 0xcf],
    );
    text
}

/// An IDT with a handler for each vector but the last 16.
pub(super) fn idt() -> Vec<u8> {
    let descriptor = |vector: usize| {
        if vector >= 240 {
            return [0; 16];
        }
        let handler = u128::from(handler(vector).0);
        let stack = u128::from(OWN_STACK.contains(&vector));
        let low = handler & 0xffff | 0x10 << 16 | stack << 32 | 0x8e << 40;
        (low | (handler >> 16 & 0xffff) << 48 | (handler >> 32) << 64).to_le_bytes()
    };
    (0..256).flat_map(descriptor).collect()
}

const fn handler(vector: usize) -> Gva {
    Gva(HANDLERS + 0x40 * vector as u64)
}

fn built(gap: usize) -> (Sites, Gates) {
    let sites = Sites::find(&text(gap), TEXT);
    let idt = idt();
    let kernel = Kernel {
        syscall: SYSCALL,
        sysenter: Some(SYSENTER),
        idt: &idt,
        sites: &sites,
    };
    let gates = Gates::build(BASE, 3, &kernel).unwrap();
    (sites, gates)
}

/// Where the jump at a site goes to.
fn gate_of(gates: &Gates, at: usize) -> Gva {
    let at = Gva(TEXT.0 + at as u64);
    let (_, jump) = gates.patches.iter().find(|(site, _)| *site == at).unwrap();
    assert_eq!(jump[0], 0xe9);
    let near = i32::from_le_bytes(jump[1..].try_into().unwrap());
    Gva((at.0 + 5).wrapping_add_signed(near.into()))
}

/// A processor about to go back to user code with the top-level table at [`TABLE`], which was looked at or not.
fn leaving(seen: bool) -> Processor {
    let mut processor = Processor::new(KERNEL_INDEX);
    processor.cr3 = TABLE | 3;
    let index = (TABLE >> 12) % 512;
    let entry = if seen { TABLE } else { u64::MAX };
    processor
        .memory
        .insert(BASE.page(page::SEEN).0 + 8 * index, entry);
    processor
}

fn frame(processor: &mut Processor, at: u64, ss: u64) -> [u64; 5] {
    let frame = [0x40_1000, 0x33, 0x202, 0x7fff_0000, ss];
    for (index, word) in frame.iter().enumerate() {
        processor.memory.insert(at + 8 * index as u64, *word);
    }
    frame
}

#[test]
fn every_way_out_is_found_whatever_patching_left_in_it() {
    for (gap, (_, clears)) in gaps(0).into_iter().enumerate() {
        let sites = Sites::find(&text(gap), TEXT);
        let verw = clears.then_some(SELECTOR);
        let found: Vec<_> = sites
            .all
            .iter()
            .map(|site| (site.at.0 - TEXT.0, site.verw))
            .collect();
        let expected = [SYSRET_AT, IRET_6_1_AT, IRET_6_12_AT].map(|at| (at as u64, verw));
        assert_eq!(found, expected, "gap {gap}");
        assert_eq!(sites.all[0].kind, Kind::Sysret);
        for (site, is_entry_stack) in [(&sites.all[1], true), (&sites.all[2], false)] {
            let iret = match site.kind {
                Kind::IretOnEntryStack(iret) if is_entry_stack => iret,
                Kind::IretOnKernelStack(iret) if !is_entry_stack => iret,
                other => panic!("{other:?}"),
            };
            assert_eq!(iret.target.0, TEXT.0 + NATIVE_IRET as u64);
            assert_eq!(iret.instruction.0, TEXT.0 + NATIVE_IRET as u64 + 7);
        }
        assert_eq!(sites.entry_stack, Some(TSS));
    }
}

#[test]
fn code_that_only_begins_like_a_way_out_is_none() {
    let whole = text(0);
    for (at, length) in [(SYSRET_AT, 15), (IRET_6_1_AT, 11), (IRET_6_12_AT, 10)] {
        for byte in at..at + length {
            let mut changed = whole.clone();
            changed[byte] ^= 0xff;
            let sites = Sites::find(&changed, TEXT);
            assert_eq!(sites.all.len(), 2, "byte {byte:#x}");
        }
    }
    // However much of it there is, little is looked at.
    let flood = [0x5f, 0x5c, 0x0f, 0x01, 0xf8, 0x48, 0x0f, 0x07].repeat(1500);
    assert!(Sites::find(&flood, TEXT).all.len() <= 4);
}

#[test]
fn a_system_call_enters_the_kernel_with_all_registers_and_back_within_40_instructions() {
    let (_, gates) = built(0);
    let mut total = 0;
    for vcpu in 0..3 {
        let mut processor = Processor::new(USER_INDEX);
        let before = processor.regs;
        let at = BASE.syscall(vcpu);
        let end = processor.run(&gates.syscall, BASE.page(page::SYSCALL), at);
        assert_eq!(end, End::Jump(SYSCALL));
        assert_eq!((processor.regs, processor.view), (before, KERNEL_INDEX));
        // Words of its own, where it may write.
        let words = BASE.writable_page(page::WORDS).0 + 16 * u64::from(vcpu);
        assert!(processor.memory.keys().eq(&[words, words + 8]));
        total = processor.executed;
    }
    let processor = return_by_sysret(&gates, true);
    assert_eq!(processor.view, USER_INDEX);
    assert!(processor.verw.is_empty());
    // The jump there is one more, and four of the kernel's own are in the gate.
    let added = total + processor.executed + 1 - 4;
    assert!(added <= 40, "{added} instructions");
}

/// Goes the way that ends with SYSRET, with all of user code's registers.
fn return_by_sysret(gates: &Gates, seen: bool) -> Processor {
    let mut processor = leaving(seen);
    processor.regs[RSP] = STACK;
    let on_stack = [(STACK, 7), (STACK + 8, 0x7ffe_0000)];
    processor.memory.extend(on_stack);
    let mut expected = processor.regs;
    (expected[RDI], expected[RSP]) = (7, 0x7ffe_0000);
    let gate = gate_of(gates, SYSRET_AT);
    let end = processor.run(&gates.ways, BASE.page(page::WAYS), gate);
    assert_eq!(end, End::Sysret);
    assert_eq!((processor.regs, processor.user_gs), (expected, true));
    processor
}

#[test]
fn a_table_that_was_not_looked_at_is_left_by_the_kernel_view() {
    let (_, gates) = built(0);
    assert_eq!(return_by_sysret(&gates, false).view, KERNEL_INDEX);
}

#[test]
fn an_iret_finds_its_frame_on_a_stack_that_both_views_have() {
    for gap in 0..5 {
        let (_, gates) = built(gap);
        for (seen, view) in [(true, USER_INDEX), (false, KERNEL_INDEX)] {
            let on_entry_stack = (IRET_6_1_AT, STACK + 8);
            let on_kernel_stack = (IRET_6_12_AT, 0xffff_8880_0000_7000);
            for (site, at) in [on_entry_stack, on_kernel_stack] {
                let mut processor = leaving(seen);
                let expected_frame = frame(&mut processor, at, 0x2b);
                processor.gs.insert(TSS, STACK);
                let mut expected = processor.regs;
                if site == IRET_6_1_AT {
                    processor.regs[RSP] = at - 8;
                    processor.memory.insert(at - 8, 0x77);
                    expected[RDI] = 0x77;
                } else {
                    processor.regs[RSP] = at;
                }
                let end = processor.run(&gates.ways, BASE.page(page::WAYS), gate_of(&gates, site));
                let End::Iret(iret) = end else {
                    panic!("{end:?}")
                };
                let own = gates
                    .irets
                    .iter()
                    .find(|(gate, _)| *gate == iret)
                    .unwrap()
                    .1;
                assert_eq!(own.0, TEXT.0 + NATIVE_IRET as u64 + 7);
                let stack = processor.regs[RSP];
                assert!((STACK - 0x100..STACK + 0x100).contains(&stack));
                let found: Vec<_> = (0..5)
                    .map(|word| processor.word(stack + 8 * word))
                    .collect();
                assert_eq!(found, expected_frame);
                expected[RSP] = stack;
                assert_eq!((processor.regs, processor.view), (expected, view));
                assert!(processor.user_gs);
                let verw = if gaps(0)[gap].1 {
                    vec![SELECTOR]
                } else {
                    vec![]
                };
                assert_eq!(processor.verw, verw);
            }
        }
    }
}

#[test]
fn a_stack_segment_of_a_local_descriptor_table_is_left_to_the_kernel() {
    let (_, gates) = built(0);
    let mut processor = leaving(true);
    let at = STACK + 8;
    let expected_frame = frame(&mut processor, at, 0x7 | 4);
    processor.memory.insert(STACK, 0x77);
    processor.regs[RSP] = STACK;
    let end = processor.run(
        &gates.ways,
        BASE.page(page::WAYS),
        gate_of(&gates, IRET_6_1_AT),
    );
    assert_eq!(end, End::Jump(Gva(TEXT.0 + NATIVE_IRET as u64)));
    assert_eq!((processor.view, processor.regs[RSP]), (KERNEL_INDEX, at));
    assert!(processor.user_gs, "the kernel exchanged it before");
    assert_eq!(processor.word(at), expected_frame[0]);
}

#[test]
fn each_vector_comes_to_its_handler_with_all_registers() {
    let (_, gates) = built(0);
    assert_eq!(gates.idt.len(), 4096);
    for vector in 0..256 {
        let raw = u128::from_le_bytes(*gates.idt[16 * vector..].first_chunk().unwrap());
        if vector >= 240 {
            assert_eq!(raw, 0, "no descriptor");
            continue;
        }
        let own = u128::from_le_bytes(*idt()[16 * vector..].first_chunk().unwrap());
        const REST: u128 = 0xffff_ffff << 16;
        assert_eq!(raw & REST, own & REST, "selector, stack and kind");
        let stub = Gva(
            (raw & 0xffff | (raw >> 48 & 0xffff) << 16 | (raw >> 64 & 0xffff_ffff) << 32) as u64,
        );
        let (code, base) = if stub.0 >= BASE.page(page::STUBS).0 {
            (&gates.stubs, BASE.page(page::STUBS))
        } else {
            (&gates.ways, BASE.page(page::WAYS))
        };
        let mut processor = Processor::new(USER_INDEX);
        let before = processor.regs;
        let end = processor.run(code, base, stub);
        assert_eq!(end, End::Jump(handler(vector)), "vector {vector}");
        assert_eq!((processor.regs, processor.view), (before, KERNEL_INDEX));
        let lowest = before[RSP] - if OWN_STACK.contains(&vector) { 264 } else { 16 };
        let highest = before[RSP] - if OWN_STACK.contains(&vector) { 256 } else { 8 };
        let touched: Vec<_> = processor.memory.keys().copied().collect();
        assert_eq!(touched, [lowest, highest], "vector {vector}");
        assert_eq!(processor.word(highest), before[RAX]);
        assert_eq!(processor.word(lowest), before[RCX]);
    }
    let mut processor = Processor::new(USER_INDEX);
    let before = processor.regs;
    let end = processor.run(&gates.ways, BASE.page(page::WAYS), gates.sysenter.unwrap());
    assert_eq!((end, processor.view), (End::Jump(SYSENTER), KERNEL_INDEX));
    assert_eq!(processor.regs, before);
}

#[test]
fn gates_that_do_not_reach_the_kernel_are_none() {
    let sites = Sites::find(&text(0), TEXT);
    let idt = idt();
    let kernel = Kernel {
        syscall: SYSCALL,
        sysenter: None,
        idt: &idt,
        sites: &sites,
    };
    assert!(Gates::build(Base(Gva(TEXT.0 - (3 << 30))), 1, &kernel).is_none());
    let most = Gates::build(BASE, crate::manifest::MAX_VCPUS, &kernel).unwrap();
    assert_eq!(most.syscall.len(), 4096);
    assert!(most.stubs.len() <= 8192 && most.ways.len() <= 4096);
}
