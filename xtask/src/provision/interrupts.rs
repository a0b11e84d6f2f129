//! Two faults in how Bochs delivers virtual interrupts, mended in the private copy where its code is recognised.
//!
//! * `BX_CPU_C::HandleExtInterrupt` runs when any interrupt is pending and not masked. It then delivers a virtual interrupt that
//!   is pending although the guest has interrupts off, when what brought it there was a host's interrupt. The SDM (vol. 3C,
//!   "Recognition and Delivery of Virtual Interrupts") demands RFLAGS.IF. A guest kernel takes the interrupt between its look for
//!   work and its HLT, for one, and sleeps on.
//! * `BX_CPU_C::VMX_Posted_Interrupt_Processing` takes "none", which is -1, for vector 255 when a notification arrives and
//!   nothing is posted ("Posted-Interrupt Processing"; such notifications are usual: the vCPU left the guest meanwhile, and its
//!   hypervisor took what was posted). The guest gets vector 255, ends it with no EOI as it is its spurious
//!   vector, and never takes another interrupt.
//!
//! Unlike `idiv`'s function these two cannot be run by themselves, so they are recognised by their instructions. The guest case
//! `masked` of the scenarios `smp_` fails where either is left.
//!
//! Neighbours: `bochs` calls this while it provisions the emulator.

use super::function::{Function, FunctionError};

const DELIVERY: &str = "_ZN8BX_CPU_C18HandleExtInterruptEv";
const POSTING: &str = "_ZN8BX_CPU_C31VMX_Posted_Interrupt_ProcessingEh";

/// What [`mend`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both faults were there; both functions were changed.
    Mended,
    /// At least one function is not the one that is known; nothing was changed.
    Unknown,
}

/// Mends both functions in the emulator whose file is `file`.
///
/// # Errors
/// When a function is not exported.
pub fn mend(file: &mut [u8]) -> Result<Outcome, FunctionError> {
    let delivery = Function::find(file, DELIVERY)?;
    let posting = Function::find(file, POSTING)?;
    let both = (
        mend_delivery(delivery.body_mut(file)?.to_vec()),
        mend_posting(posting.body_mut(file)?.to_vec()),
    );
    let (Some(delivers), Some(posts)) = both else {
        return Ok(Outcome::Unknown);
    };
    delivery.body_mut(file)?.copy_from_slice(&delivers);
    posting.body_mut(file)?.copy_from_slice(&posts);
    Ok(Outcome::Mended)
}

/// An instruction sequence; `None` stands for any byte: displacements, which follow the layout of the emulator's structures.
type Pattern = [Option<u8>];

/// Where `pattern` begins in `code`, if it is there once.
fn find_once(code: &[u8], pattern: &Pattern) -> Option<usize> {
    let mut places = code
        .windows(pattern.len())
        .enumerate()
        .filter(|(_, window)| {
            window
                .iter()
                .zip(pattern)
                .all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte))
        });
    let (place, _) = places.next()?;
    places.next().is_none().then_some(place)
}

macro_rules! pattern {
    (@ _) => { None };
    (@ $byte:literal) => { Some($byte) };
    ($($byte:tt)*) => { [$(pattern!(@ $byte)),*] };
}

/// The displacement of 32 bits at `at`.
fn displacement(code: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_le_bytes(
        code.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

/// The displacement that leads from the end `from` of an instruction to `to`.
fn distance(from: usize, to: usize) -> Option<[u8; 4]> {
    let distance = i64::try_from(to).ok()? - i64::try_from(from).ok()?;
    Some(i32::try_from(distance).ok()?.to_le_bytes())
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

    #[test]
    fn code_that_is_not_the_known_one_is_left_alone() {
        assert_eq!(mend_posting(vec![0x90; 64]), None);
        assert_eq!(mend_delivery(vec![0x90; 64]), None);
        let mut elsewhere = delivery(160);
        elsewhere[9] ^= 1;
        assert_eq!(mend_delivery(elsewhere), None);
        let mut twice = delivery(160);
        twice.extend(delivery(160));
        assert_eq!(mend_delivery(twice), None);
    }
}
