//! Four faults in how Bochs brings interrupts to guests, mended in the private copy where its code is recognised.
//!
//! * `BX_CPU_C::HandleExtInterrupt` runs when any interrupt is pending and not masked. It then delivers a virtual interrupt that
//!   is pending although the guest has interrupts off, when what brought it there was a host's interrupt. The SDM (vol. 3C,
//!   "Recognition and Delivery of Virtual Interrupts") demands RFLAGS.IF. A guest kernel takes the interrupt between its look for
//!   work and its HLT, for one, and sleeps on.
//! * `BX_CPU_C::VMX_Posted_Interrupt_Processing` takes "none", which is -1, for vector 255 when a notification arrives and
//!   nothing is posted ("Posted-Interrupt Processing"; such notifications are usual: the vCPU left the guest meanwhile, and its
//!   hypervisor took what was posted). The guest gets vector 255, ends it with no EOI as it is its spurious
//!   vector, and never takes another interrupt.
//! * `BX_CPU_C::cpu_run_trace`, which runs each processor where there are several, goes on after an exception without noting where
//!   its handler begins. A VM exit for an interrupt or a timer before the handler's first instruction then saves the address of the
//!   instruction that faulted, and the guest goes on there, with the handler's privilege and stack.
//! * `BX_CPU_C::VMX_Deliver_Virtual_Interrupt` does not note which interrupt it delivers. An EPT violation meanwhile, of the
//!   descriptor table's or the stack's page, tells in its IDT-vectoring information of an older event ("Information for VM Exits
//!   During Event Delivery"): the hypervisor injects that one, and the interrupt is lost.
//!
//! Unlike `idiv`'s function these cannot be run by themselves, so they are recognised by their instructions. The guest cases `masked`
//! and `faults` of the scenarios `smp_` fail where one of the first three is left, and Linux with a sealed window where the fourth is.
//!
//! Neighbours: `bochs` calls this while it provisions the emulator.

use super::code::{displacement, distance, find_once, pattern};
use super::function::{Function, FunctionError, Outcome};

const DELIVERY: &str = "_ZN8BX_CPU_C18HandleExtInterruptEv";
const POSTING: &str = "_ZN8BX_CPU_C31VMX_Posted_Interrupt_ProcessingEh";
const RUNNING: &str = "_ZN8BX_CPU_C13cpu_run_traceEv";
const INJECTION: &str = "_ZN8BX_CPU_C29VMX_Deliver_Virtual_InterruptEv";
const EXIT: &str = "_ZN8BX_CPU_C6VMexitEjm";
const WATCHER: &str = "_Z20bx_instr_hwinterruptjjtm";

/// Mends the functions in the emulator whose file is `file`.
///
/// # Errors
/// When a function is not exported.
pub fn mend(file: &mut [u8]) -> Result<Outcome, FunctionError> {
    let delivery = Function::find(file, DELIVERY)?;
    let posting = Function::find(file, POSTING)?;
    let running = Function::find(file, RUNNING)?;
    let injection = Function::find(file, INJECTION)?;
    let watcher = Function::find(file, WATCHER)?;
    let exit_code = Function::find(file, EXIT)?.body_mut(file)?.to_vec();
    let delivery_code = delivery.body_mut(file)?.to_vec();
    let watches = watcher.body_mut(file)? != NOTHING;
    let mended = [
        (
            running,
            mend_running(running.body_mut(file)?, &delivery_code),
        ),
        (posting, mend_posting(posting.body_mut(file)?.to_vec())),
        (delivery, mend_delivery(delivery_code)),
        (
            injection,
            mend_injection(
                injection.body_mut(file)?.to_vec(),
                injection.address,
                &exit_code,
                (!watches).then_some(watcher.address),
            ),
        ),
    ];
    if mended.iter().any(|(_, code)| code.is_none()) {
        return Ok(Outcome::Unknown);
    }
    for (function, code) in mended {
        if let Some(code) = code {
            function.body_mut(file)?.copy_from_slice(&code);
        }
    }
    Ok(Outcome::Mended)
}

/// The function with a look at the mask before it delivers, in the padding around its tail call.
fn mend_delivery(mut code: Vec<u8>) -> Option<Vec<u8>> {
    // test byte ptr [rbx + pending_event + 1], 2 (BX_EVENT_PENDING_VMX_VIRTUAL_INTR is bit 9); jnz deliver
    let test = find_once(&code, &pattern!(0xf6 0x83 _ _ _ _ 0x02 0x0f 0x85 _ _ _ _))?;
    // Padding; deliver: mov rdi, rbx; mov rbx, [rsp + 8]; add rsp, 0x18; jmp VMX_Deliver_Virtual_Interrupt; padding
    let tail = find_once(
        &code,
        &pattern!(0x0f 0x1f 0x00
            0x48 0x89 0xdf 0x48 0x8b 0x5c 0x24 0x08 0x48 0x83 0xc4 0x18 0xe9 _ _ _ _
            0x0f 0x1f 0x80 0x00 0x00 0x00 0x00),
    )?;
    // Padding of six bytes.
    let spare = find_once(&code, &pattern!(0x66 0x0f 0x1f 0x44 0x00 0x00))?;
    let after = test + 13;
    if displacement(&code, test + 9)? != i32::from_le_bytes(distance(after, tail + 3)?) {
        return None;
    }
    // `event_mask` follows `pending_event`, both of 32 bits.
    let mask = displacement(&code, test + 2)?.checked_add(4)?;
    let callee = i64::from(displacement(&code, tail + 16)?) + i64::try_from(tail).ok()? + 20;

    let mut deliver = vec![0xf6, 0x83]; // test byte ptr [rbx + event_mask + 1], 2
    deliver.extend(mask.to_le_bytes());
    deliver.push(0x02);
    let masked = spare.checked_sub(tail + deliver.len() + 2)?;
    deliver.extend([0x75, u8::try_from(masked).ok().filter(|near| *near < 0x80)?]); // jnz spare
    deliver.extend(code.get(tail + 3..tail + 15)?);
    let end = i64::try_from(tail + deliver.len() + 5).ok()?;
    deliver.push(0xe9); // jmp VMX_Deliver_Virtual_Interrupt
    deliver.extend(i32::try_from(callee - end).ok()?.to_le_bytes());
    deliver.push(0x90);
    code.get_mut(tail..tail + 27)?.copy_from_slice(&deliver);
    code.get_mut(test + 9..after)?
        .copy_from_slice(&distance(after, tail)?);
    let spare_code = code.get_mut(spare..spare + 6)?;
    let [jump, to @ .., filler] = spare_code else {
        return None;
    };
    *jump = 0xe9; // jmp to what follows the test: a host's interrupt
    to.copy_from_slice(&distance(spare + 5, after)?);
    *filler = 0x90;
    Some(code)
}

/// The function with "none" told from 255.
fn mend_posting(mut code: Vec<u8>) -> Option<Vec<u8>> {
    // cmp al, [rbx + rvi]; jb over; mov [rbx + rvi], al; over:
    let place = find_once(
        &code,
        &pattern!(0x3a 0x83 _ _ _ _ 0x72 0x06 0x88 0x83 _ _ _ _),
    )?;
    if displacement(&code, place + 2)? != displacement(&code, place + 10)? {
        return None;
    }
    // test eax, eax; js over; nop. What is pending includes RVI, so the highest of it is no lower.
    code.get_mut(place..place + 8)?
        .copy_from_slice(&[0x85, 0xc0, 0x78, 0x0a, 0x0f, 0x1f, 0x40, 0x00]);
    Some(code)
}

/// `endbr64; ret`.
const NOTHING: [u8; 5] = [0xf3, 0x0f, 0x1e, 0xfa, 0xc3];

/// The function, which is at `address`, with a note of the interrupt before it is delivered. It takes the place of an argument to the
/// function at `watcher`, which watches interrupts and does nothing. `exit` is the code that reads the note at a VM exit.
fn mend_injection(
    mut code: Vec<u8>,
    address: usize,
    exit: &[u8],
    watcher: Option<usize>,
) -> Option<Vec<u8>> {
    // mov rcx, [rbp + RIP]; movzx edx, word ptr [rbp + CS]; mov esi, r12d; mov edi, [rbp + ..]; call watcher;
    // xor r8d, r8d; xor ecx, ecx; xor edx, edx; mov esi, r12d; mov rdi, rbp; call interrupt
    let place = find_once(
        &code,
        &pattern!(0x48 0x8b 0x8d _ _ _ _ 0x0f 0xb7 0x95 _ _ _ _ 0x44 0x89 0xe6 0x8b 0x7d _ 0xe8 _ _ _ _
            0x45 0x31 0xc0 0x31 0xc9 0x31 0xd2 0x44 0x89 0xe6 0x48 0x89 0xef 0xe8 _ _ _ _),
    )?;
    const CALL_END: usize = 25;
    let called = i64::from(displacement(&code, place + CALL_END - 4)?)
        + i64::try_from(address.checked_add(place + CALL_END)?).ok()?;
    if called != i64::try_from(watcher?).ok()? {
        return None;
    }
    // mov edx, [rbx + idt_vector_info]; mov esi, IDT_VECTORING_INFO; mov rdi, rbx; or edx, 1 << 31
    let note = find_once(
        exit,
        &pattern!(0x8b 0x93 _ _ _ _ 0xbe 0x08 0x44 0x00 0x00 0x48 0x89 0xdf 0x81 0xca 0x00 0x00 0x00 0x80),
    )?;
    // mov [rbp + idt_vector_info], r12d: the vector; an external interrupt's type is 0
    let [operation @ .., _, _, _, _] = code.get_mut(place..place + 7)? else {
        return None;
    };
    operation.copy_from_slice(&[0x44, 0x89, 0xa5]);
    code.get_mut(place + 3..place + 7)?
        .copy_from_slice(&displacement(exit, note + 2)?.to_le_bytes());
    Some(code)
}

/// `mov rax, [rdi + RIP]; mov [rdi + prev_rip], rax`, without the displacements.
const LOAD: [u8; 3] = [0x48, 0x8b, 0x87];
const STORE: [u8; 3] = [0x48, 0x89, 0x87];
/// Bytes of those two instructions.
const COMMIT: usize = 14;
/// Bytes of `endbr64`.
const HEAD: usize = 4;

/// The function with `prev_rip = RIP` before anything else, and one way out instead of two to make room for it.
/// `delivery` is the code of another function that does the same.
fn mend_running(code: &[u8], delivery: &[u8]) -> Option<Vec<u8>> {
    // endbr64; sub rsp, 0x18; mov eax, [rdi + async_event]; mov [rsp + 8], rbx; mov rbx, rdi; test eax, eax; je +9;
    // call handleAsyncEvent; test al, al; jne out; mov rdi, rbx; mov [rsp + 0x10], rbp; call getICacheEntry;
    // mov edi, [rbx + ..]; mov rbp, [rax + 0x10]; mov rsi, rbp; call bx_instr_before_execution; movzx eax, [rbp + ..];
    // mov rdi, [rbp + 8]; add [rbx + RIP], rax; mov rax, [rbp]; add rdi, rbx; test al, 1; je +8; mov rdx, [rdi];
    // mov rax, [rdx + rax - 1]; mov rsi, rbp; call rax; mov eax, [rbx + async_event];
    // test eax, eax; je quick; and eax, 0x7fffffff; mov rbp, [rsp + 0x10]; mov [rbx + async_event], eax;
    // out: mov rbx, [rsp + 8]; add rsp, 0x18; ret; padding; quick: the same without `and` and its store.
    let known = pattern!(0xf3 0x0f 0x1e 0xfa 0x48 0x83 0xec 0x18 0x8b 0x87 _ _ _ _ 0x48 0x89 0x5c 0x24 0x08
        0x48 0x89 0xfb 0x85 0xc0 0x74 0x09
        0xe8 _ _ _ _ 0x84 0xc0 0x75 0x5d 0x48 0x89 0xdf 0x48 0x89 0x6c 0x24 0x10
        0xe8 _ _ _ _ 0x8b 0x7b _ 0x48 0x8b 0x68 0x10 0x48 0x89 0xee
        0xe8 _ _ _ _ 0x0f 0xb6 0x45 _ 0x48 0x8b 0x7d 0x08 0x48 0x01 0x83 _ _ _ _
        0x48 0x8b 0x45 0x00 0x48 0x01 0xdf 0xa8 0x01 0x74 0x08 0x48 0x8b 0x17
        0x48 0x8b 0x44 0x02 0xff 0x48 0x89 0xee 0xff 0xd0 0x8b 0x83 _ _ _ _
        0x85 0xc0 0x74 0x20 0x25 0xff 0xff 0xff 0x7f 0x48 0x8b 0x6c 0x24 0x10 0x89 0x83 _ _ _ _
        0x48 0x8b 0x5c 0x24 0x08 0x48 0x83 0xc4 0x18 0xc3);
    const CALLS: [usize; 3] = [0x1a, 0x2b, 0x3a];
    const JUMP_OUT: usize = 0x21;
    const RIP: usize = 0x4a;
    /// `test eax, eax; je quick`, which go: storing what is zero already does no harm.
    const LOOK: core::ops::Range<usize> = 0x6c..0x70;
    const OUT: usize = 0x80;
    if find_once(code, &known) != Some(0) {
        return None;
    }
    // mov rax, [rbx + RIP]; mov [rbx + prev_rip], rax
    let commit = find_once(
        delivery,
        &pattern!(0x48 0x8b 0x83 _ _ _ _ 0x48 0x89 0x83 _ _ _ _),
    )?;
    let rip = displacement(delivery, commit + 3)?;
    let previous = displacement(delivery, commit + 10)?;
    if displacement(code, RIP)? != rip {
        return None;
    }
    let mut mended = code.get(..HEAD)?.to_vec();
    mended.extend(LOAD);
    mended.extend(rip.to_le_bytes());
    mended.extend(STORE);
    mended.extend(previous.to_le_bytes());
    mended.extend(code.get(HEAD..LOOK.start)?);
    mended.extend(code.get(LOOK.end..known.len())?);
    for call in CALLS {
        let to = displacement(code, call + 1)?.checked_sub(COMMIT as i32)?;
        mended
            .get_mut(call + COMMIT + 1..call + COMMIT + 5)?
            .copy_from_slice(&to.to_le_bytes());
    }
    // Of what lies between this jump and its target, the look has gone.
    let out = OUT - LOOK.len() - (JUMP_OUT + 2);
    *mended.get_mut(JUMP_OUT + COMMIT + 1)? = u8::try_from(out).ok()?;
    if mended.len() > code.len() {
        return None;
    }
    mended.resize(code.len(), 0xcc);
    Some(mended)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known tail of `HandleExtInterrupt`, with `between` bytes of other code.
    fn delivery(between: usize) -> Vec<u8> {
        let mut code = vec![0xf6, 0x83, 0xe1, 0x91, 0, 0, 0x02, 0x0f, 0x85];
        code.extend(u32::try_from(between + 3).unwrap().to_le_bytes());
        code.resize(13 + between, 0xcc);
        code.extend([0x0f, 0x1f, 0x00]);
        code.extend([
            0x48, 0x89, 0xdf, 0x48, 0x8b, 0x5c, 0x24, 0x08, 0x48, 0x83, 0xc4, 0x18,
        ]);
        code.extend([0xe9, 0x00, 0x10, 0x00, 0x00]);
        code.extend([0x0f, 0x1f, 0x80, 0, 0, 0, 0]);
        code.extend([0xcc; 10]);
        code.extend([0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00]);
        code
    }

    #[test]
    fn a_delivery_looks_at_the_mask_and_still_reaches_both_ways() {
        let before = delivery(160);
        let after = mend_delivery(before.clone()).unwrap();
        assert_eq!(after.len(), before.len());
        let tail = 173;
        assert_eq!(displacement(&after, 9), Some(160));
        assert_eq!(after[tail..tail + 7], [0xf6, 0x83, 0xe5, 0x91, 0, 0, 0x02]);
        assert_eq!(after[tail + 7], 0x75);
        let spare = tail + 9 + usize::from(after[tail + 8]);
        assert_eq!(after[spare], 0xe9);
        let target = displacement(&after, spare + 1).unwrap() + spare as i32 + 5;
        assert_eq!(target, 13);
        // The tail call moved by six bytes and still leads to the same place.
        assert_eq!(after[tail + 21], 0xe9);
        assert_eq!(displacement(&after, tail + 22), Some(0x1000 - 6));
    }

    #[test]
    fn a_notification_without_a_posted_interrupt_leaves_rvi() {
        let before = [
            0x3a, 0x83, 0x01, 0x90, 0, 0, 0x72, 0x06, 0x88, 0x83, 0x01, 0x90, 0, 0, 0x48,
        ];
        let after = mend_posting(before.to_vec()).unwrap();
        assert_eq!(after[..4], [0x85, 0xc0, 0x78, 0x0a]);
        assert_eq!(after[8..], before[8..]);
    }

    /// The known `cpu_run_trace`, whose calls lead to 0x1000, 0x2000 and 0x3000, with RIP at 0xe8.
    fn running() -> Vec<u8> {
        let mut code = vec![
            0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x18, 0x8b, 0x87, 0xe8, 0x91, 0, 0, 0x48,
            0x89, 0x5c, 0x24, 0x08, 0x48, 0x89, 0xfb, 0x85, 0xc0, 0x74, 0x09, 0xe8, 0, 0, 0, 0,
            0x84, 0xc0, 0x75, 0x5d, 0x48, 0x89, 0xdf, 0x48, 0x89, 0x6c, 0x24, 0x10, 0xe8, 0, 0, 0,
            0, 0x8b, 0x7b, 0x38, 0x48, 0x8b, 0x68, 0x10, 0x48, 0x89, 0xee, 0xe8, 0, 0, 0, 0, 0x0f,
            0xb6, 0x45, 0x22, 0x48, 0x8b, 0x7d, 0x08, 0x48, 0x01, 0x83, 0xe8, 0, 0, 0, 0x48, 0x8b,
            0x45, 0x00, 0x48, 0x01, 0xdf, 0xa8, 0x01, 0x74, 0x08, 0x48, 0x8b, 0x17, 0x48, 0x8b,
            0x44, 0x02, 0xff, 0x48, 0x89, 0xee, 0xff, 0xd0, 0x8b, 0x83, 0xe8, 0x91, 0, 0, 0x85,
            0xc0, 0x74, 0x20, 0x25, 0xff, 0xff, 0xff, 0x7f, 0x48, 0x8b, 0x6c, 0x24, 0x10, 0x89,
            0x83, 0xe8, 0x91, 0, 0, 0x48, 0x8b, 0x5c, 0x24, 0x08, 0x48, 0x83, 0xc4, 0x18, 0xc3,
        ];
        for (call, to) in [(0x1a, 0x1000_u32), (0x2b, 0x2000), (0x3a, 0x3000)] {
            code[call + 1..call + 5].copy_from_slice(&(to - call as u32 - 5).to_le_bytes());
        }
        code.resize(0x9f, 0x90);
        code
    }

    #[test]
    fn a_processor_notes_where_it_is_before_it_looks_for_events() {
        let delivery = [
            0x48, 0x8b, 0x83, 0xe8, 0, 0, 0, 0x48, 0x89, 0x83, 0x20, 0x01, 0, 0,
        ];
        let before = running();
        let after = mend_running(&before, &delivery).unwrap();
        assert_eq!(after.len(), before.len());
        let commit = [
            0x48, 0x8b, 0x87, 0xe8, 0, 0, 0, 0x48, 0x89, 0x87, 0x20, 0x01, 0, 0,
        ];
        assert_eq!(after[4..18], commit);
        for (call, to) in [(0x28, 0x1000), (0x39, 0x2000), (0x48, 0x3000)] {
            assert_eq!(after[call], 0xe8);
            assert_eq!(displacement(&after, call + 1), Some(to - call as i32 - 5));
        }
        let out = 0x31 + usize::from(after[0x30]);
        assert_eq!(after[out..out + 10], before[0x80..0x8a]);
        // Elsewhere RIP is somewhere else.
        let mut other = delivery;
        other[3] = 0xf0;
        assert_eq!(mend_running(&before, &other), None);
    }

    /// The known part of `VMX_Deliver_Virtual_Interrupt`, at 0x1000, which calls 0x9000 and 0x5000.
    fn injection() -> Vec<u8> {
        let mut code = vec![0x90; 3];
        code.extend([0x48, 0x8b, 0x8d, 0xe8, 0, 0, 0]);
        code.extend([
            0x0f, 0xb7, 0x95, 0x80, 1, 0, 0, 0x44, 0x89, 0xe6, 0x8b, 0x7d, 0x38,
        ]);
        code.push(0xe8);
        code.extend((0x9000_u32 - 0x1000 - 3 - 25).to_le_bytes());
        code.extend([0x45, 0x31, 0xc0, 0x31, 0xc9, 0x31, 0xd2, 0x44, 0x89, 0xe6]);
        code.extend([0x48, 0x89, 0xef, 0xe8, 0, 0x40, 0, 0]);
        code
    }

    /// The part of `VMexit` that reads which event was on its way.
    fn exit() -> Vec<u8> {
        let mut code = vec![0x8b, 0x93, 0xb0, 0x90, 0, 0, 0xbe, 0x08, 0x44, 0, 0];
        code.extend([0x48, 0x89, 0xdf, 0x81, 0xca, 0, 0, 0, 0x80]);
        code
    }

    #[test]
    fn a_virtual_interrupt_is_noted_where_an_exit_reads_it() {
        let before = injection();
        let after = mend_injection(before.clone(), 0x1000, &exit(), Some(0x9000)).unwrap();
        assert_eq!(after[3..10], [0x44, 0x89, 0xa5, 0xb0, 0x90, 0, 0]);
        assert_eq!(after[..3], before[..3]);
        assert_eq!(after[10..], before[10..]);
        // What it would take the argument from does something, or is something else.
        assert_eq!(mend_injection(before.clone(), 0x1000, &exit(), None), None);
        let elsewhere = mend_injection(before.clone(), 0x1000, &exit(), Some(0x9004));
        assert_eq!(elsewhere, None);
        assert_eq!(
            mend_injection(before, 0x1000, &[0x90; 40], Some(0x9000)),
            None
        );
    }

    #[test]
    fn code_that_is_not_the_known_one_is_left_alone() {
        assert_eq!(mend_posting(vec![0x90; 64]), None);
        assert_eq!(mend_delivery(vec![0x90; 64]), None);
        assert_eq!(mend_running(&[0x90; 160], &delivery(160)), None);
        let mut elsewhere = delivery(160);
        elsewhere[9] ^= 1;
        assert_eq!(mend_delivery(elsewhere), None);
        let mut twice = delivery(160);
        twice.extend(delivery(160));
        assert_eq!(mend_delivery(twice), None);
    }
}
