//! Two faults in how Bochs carries out fast system calls, mended in the private copy where its code is recognised.
//!
//! * `BX_CPU_C::SYSCALL` leaves a single-step trap pending, which is then delivered before the kernel's first instruction although
//!   RFLAGS.TF is masked by then. On processors the trap is gone with the flag ("SYSCALL" in the SDM's vol. 2B; Linux relies on it
//!   and warns, once, in `exc_debug`).
//! * `BX_CPU_C::SYSRET` leaves base, limit and size of SS as they were. The SDM sets all of them ("SYSRET"): a flat segment with 32-bit stack
//!   pointers. After an interrupt has left a null selector there, 32-bit code goes on with the lower half of ESP.
//!
//! Linux' tests of its entry code show both (`single_step_syscall_64`, `sysret_ss_attrs_64`; see the scenario `split_selftests`).
//!
//! Neighbours: `bochs` calls this while it provisions the emulator; `interrupts` does the like.

use super::code::{displacement, find_once, pattern};
use super::function::{Function, FunctionError, Outcome};

const CALL: &str = "_ZN8BX_CPU_C7SYSCALLEP15bxInstruction_c";
const RETURN: &str = "_ZN8BX_CPU_C6SYSRETEP15bxInstruction_c";
const STACK: &str = "_ZN8BX_CPU_C13setup_flat_SSEj";
const EVENTS: &str = "_ZN8BX_CPU_C16handleAsyncEventEv";

/// Mends the functions in the emulator whose file is `file`.
///
/// # Errors
/// When a function is not exported.
pub fn mend(file: &mut [u8]) -> Result<Outcome, FunctionError> {
    let call = Function::find(file, CALL)?;
    let back = Function::find(file, RETURN)?;
    let stack = Function::find(file, STACK)?;
    let events = Function::find(file, EVENTS)?.body_mut(file)?.to_vec();
    let stack_code = stack.body_mut(file)?.to_vec();
    let mended_call = mend_call(call.body_mut(file)?.to_vec(), &events);
    let mended_return = mend_return(
        back.body_mut(file)?.to_vec(),
        back.address,
        &stack_code,
        stack.address,
    );
    let (Some(call_code), Some(return_code)) = (mended_call, mended_return) else {
        return Ok(Outcome::Unknown);
    };
    call.body_mut(file)?.copy_from_slice(&call_code);
    back.body_mut(file)?.copy_from_slice(&return_code);
    Ok(Outcome::Mended)
}

/// `SYSCALL` without the trap. It asks twice for the flags; the second time they are what it has put into R11.
/// `events` is the code of the function that delivers the trap.
fn mend_call(mut code: Vec<u8>, events: &[u8]) -> Option<Vec<u8>> {
    // and dword ptr [rbx + debug_trap], BX_DEBUG_SINGLE_STEP_BIT
    let trap = find_once(events, &pattern!(0x81 0xa3 _ _ _ _ 0x00 0x40 0x00 0x00))?;
    let trap = displacement(events, trap + 2)?;
    // and eax, ~RF; mov rbp, [rbx + LSTAR]; cmp dword ptr [rbx + cpu_mode], 4; mov [rbx + R11], rax
    let kept = find_once(
        &code,
        &pattern!(0x25 0xff 0xff 0xfe 0xff 0x48 0x8b 0xab _ _ _ _ 0x83 0xbb _ _ _ _ 0x04 0x48 0x89 0x83 _ _ _ _),
    )?;
    let r11 = displacement(&code, kept + 22)?;
    // mov rdi, rbx; call force_flags; mov esi, [rbx + FMASK]; mov edx, mask; mov rdi, rbx; not esi; and esi, eax;
    // and esi, ~RF; call writeEFlags
    let place = find_once(
        &code,
        &pattern!(0x48 0x89 0xdf 0xe8 _ _ _ _ 0x8b 0xb3 _ _ _ _ 0xba 0xd5 0x7f 0x3f 0x00 0x48 0x89 0xdf
            0xf7 0xd6 0x21 0xc6 0x81 0xe6 0xff 0xff 0xfe 0xff 0xe8 _ _ _ _),
    )?;
    const LOAD: core::ops::Range<usize> = 8..26;
    const END: usize = 32;
    let mut new = vec![0x8b, 0x83]; // mov eax, [rbx + R11]
    new.extend(r11.to_le_bytes());
    new.extend(code.get(place + LOAD.start..place + LOAD.end)?);
    new.extend([0x0f, 0xba, 0xb3]); // btr dword ptr [rbx + debug_trap], 14
    new.extend(trap.to_le_bytes());
    new.push(14);
    code.get_mut(place..place + END)?.copy_from_slice(&new);
    Some(code)
}

/// `SYSRET`, which is at `address`, with the whole of SS set by the function at `stack_address`, which is there for it and has the code `stack`.
fn mend_return(
    mut code: Vec<u8>,
    address: usize,
    stack: &[u8],
    stack_address: usize,
) -> Option<Vec<u8>> {
    // mov esi, [rbx + R11]; mov edx, mask; mov rdi, rbx; movabs rax, valid present ring 3 segment data; mov [rbx + SS.cache], rax;
    // call writeEFlags
    let place = find_once(
        &code,
        &pattern!(0x8b 0xb3 _ _ _ _ 0xba 0xd5 0x7f 0x3f 0x00 0x48 0x89 0xdf
            0x48 0xb8 0x1f 0x00 0x00 0x00 0x01 0x03 0x01 0x03 0x48 0x89 0x83 _ _ _ _ 0xe8 _ _ _ _),
    )?;
    const ARGUMENTS: usize = 14;
    const END: usize = 31;
    // mov dword ptr [rdi + SS.cache], valid
    let valid = find_once(stack, &pattern!(0xc7 0x87 _ _ _ _ 0x1f 0x00 0x00 0x00))?;
    if displacement(stack, valid + 2)? != displacement(&code, place + END - 4)? {
        return None;
    }
    // mov esi, 3; mov rdi, rbx; call setup_flat_SS
    let mut new = vec![0xbe, 3, 0, 0, 0, 0x48, 0x89, 0xdf, 0xe8];
    let end = i64::try_from(address.checked_add(place + new.len() + 4)?).ok()?;
    let distance = i64::try_from(stack_address).ok()? - end;
    new.extend(i32::try_from(distance).ok()?.to_le_bytes());
    new.extend(code.get(place..place + ARGUMENTS)?);
    new.extend([0x0f, 0x1f, 0x40, 0x00]); // nop
    code.get_mut(place..place + END)?.copy_from_slice(&new);
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS_CODE: [u8; 11] = [0x90, 0x81, 0xa3, 0xa8, 0x02, 0, 0, 0x00, 0x40, 0x00, 0x00];
    const STACK_CODE: [u8; 10] = [0xc7, 0x87, 0xa8, 0x01, 0, 0, 0x1f, 0, 0, 0];

    /// The known parts of `SYSCALL`, with R11 at 0xc0 and FMASK at 0xd48.
    fn call() -> Vec<u8> {
        let mut code = vec![
            0x25, 0xff, 0xff, 0xfe, 0xff, 0x48, 0x8b, 0xab, 0x40, 0x0d, 0, 0,
        ];
        code.extend([0x83, 0xbb, 0xf0, 0x91, 0, 0, 0x04]);
        code.extend([0x48, 0x89, 0x83, 0xc0, 0, 0, 0]);
        code.extend([0x48, 0x89, 0xdf, 0xe8, 1, 2, 3, 4]);
        code.extend([0x8b, 0xb3, 0x48, 0x0d, 0, 0, 0xba, 0xd5, 0x7f, 0x3f, 0]);
        code.extend([0x48, 0x89, 0xdf, 0xf7, 0xd6, 0x21, 0xc6]);
        code.extend([0x81, 0xe6, 0xff, 0xff, 0xfe, 0xff, 0xe8, 5, 6, 7, 8, 0xc3]);
        code
    }

    #[test]
    fn a_call_takes_the_flags_it_has_kept_and_drops_the_trap() {
        let before = call();
        let after = mend_call(before.clone(), &EVENTS_CODE).unwrap();
        assert_eq!(after.len(), before.len());
        assert_eq!(after[..26], before[..26]);
        assert_eq!(after[26..32], [0x8b, 0x83, 0xc0, 0, 0, 0]);
        assert_eq!(after[32..50], before[34..52]);
        assert_eq!(after[50..58], [0x0f, 0xba, 0xb3, 0xa8, 0x02, 0, 0, 14]);
        assert_eq!(after[58..], before[58..]);
    }

    /// The known part of `SYSRET`, whose SS is at 0x1a8.
    fn back() -> Vec<u8> {
        let mut code = vec![0x8b, 0xb3, 0xc0, 0, 0, 0, 0xba, 0xd5, 0x7f, 0x3f, 0];
        code.extend([0x48, 0x89, 0xdf]);
        code.extend([0x48, 0xb8, 0x1f, 0, 0, 0, 1, 3, 1, 3]);
        code.extend([0x48, 0x89, 0x83, 0xa8, 0x01, 0, 0, 0xe8, 5, 6, 7, 8, 0xc3]);
        code
    }

    #[test]
    fn a_return_has_the_whole_of_the_stack_segment_set() {
        let before = back();
        let after = mend_return(before.clone(), 0x1000, &STACK_CODE, 0x3000).unwrap();
        assert_eq!(after.len(), before.len());
        assert_eq!(after[..9], [0xbe, 3, 0, 0, 0, 0x48, 0x89, 0xdf, 0xe8]);
        assert_eq!(displacement(&after, 9), Some(0x3000 - 0x100d));
        assert_eq!(after[13..27], before[..14]);
        assert_eq!(after[31..], before[31..]);
    }

    #[test]
    fn code_that_is_not_the_known_one_is_left_alone() {
        assert_eq!(mend_call(vec![0x90; 80], &EVENTS_CODE), None);
        assert_eq!(mend_call(call(), &[0x90; 20]), None);
        assert_eq!(mend_return(vec![0x90; 80], 0, &STACK_CODE, 0), None);
        // The function sets something else.
        let mut other = STACK_CODE;
        other[2] ^= 8;
        assert_eq!(mend_return(back(), 0x1000, &other, 0x3000), None);
    }
}
