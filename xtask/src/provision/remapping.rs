//! Two faults in how QEMU 10 remaps interrupts, mended in the private copy where its code is recognised.
//!
//! * With remapping on, an interrupt in compatibility format is blocked and reported as fault 25h unless software has switched such
//!   interrupts on, which extended interrupt mode rules out anyway ("Intel Virtualization Technology for Directed I/O",
//!   "Interrupt Remapping Hardware Operation"). `vtd_interrupt_remap_msi` knows no such switch and delivers every one of them: a device
//!   that writes to 0xFEExxxxx would reach any vector of any CPU. Its check for the format jumps to a copy of the message. It is made
//!   to jump to a report of the fault instead, which is put where the function complains, on the emulator's own output, of an address
//!   outside 0xFEExxxxx; that is still refused and recorded, without the words.
//! * A write by a device's DMA carries the device's identity like any other. QEMU's carries none, so that at 0xFEExxxxx the source is
//!   not verified, and a fault names ff:1f.7. `edu`, which tests forge interrupts with, is made to write under its own:
//!   the slot that [`Device::Edu`] is always in.
//!
//! Without this no test could tell a hypervisor that leaves remapping open from one that does not. Neither function is exported, so
//! their instructions are looked for in the whole file. The scenario `vtd_devices_reach_only_their_domains` fails where a
//! fault is left.
//!
//! Neighbours: `qemu` calls this while it provisions the emulator.

use crate::platform::equipment::Device;

use super::code::{displacement, distance, find_once, pattern};

/// What [`mend`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Both faults were there; both were mended.
    Mended,
    /// The code is not all known; nothing was changed.
    Unknown,
}

/// Mends the emulator whose file is `file`.
pub fn mend(file: &mut [u8]) -> Outcome {
    match mend_format(file).zip(mend_source(file)) {
        Some((changes, change)) => {
            for (place, bytes) in changes.into_iter().chain([change]) {
                if let Some(code) = file.get_mut(place..place + bytes.len()) {
                    code.copy_from_slice(&bytes);
                }
            }
            Outcome::Mended
        }
        None => Outcome::Unknown,
    }
}

/// Bytes, and where they go.
type Change = (usize, Vec<u8>);

/// What has interrupts in compatibility format blocked.
fn mend_format(file: &[u8]) -> Option<[Change; 3]> {
    // and eax, 0xfffffff0; cmp ax, 0xfee0; jne complaint; test bl, 0x10; je copy
    let checks = find_once(
        file,
        &pattern!(0x83 0xe0 0xf0 0x66 0x3d 0xe0 0xfe 0x0f 0x85 _ _ _ _ 0xf6 0xc3 0x10 0x0f 0x84 _ _ _ _),
    )?;
    /// Where the displacements of the two jumps begin, from the start of the checks.
    const ADDRESS_JUMP: usize = 9;
    const FORMAT_JUMP: usize = 18;

    // complaint: lea rdx, [function]; lea rsi, [text]; xor eax, eax; mov [rsp + 8], r10d; lea rdi, [once];
    // call error_report_once_cond; mov r10d, [rsp + 8]; report: test r10b, r10b; je refuse; movzx esi, word [rsp]; xor ecx, ecx;
    // mov rdi, rbp; mov rdx, rsi; bts rdx, 37; record: call vtd_report_frcd_fault; jmp refuse
    let known = pattern!(0x48 0x8d 0x15 _ _ _ _ 0x48 0x8d 0x35 _ _ _ _ 0x31 0xc0 0x44 0x89 0x54 0x24 0x08
        0x48 0x8d 0x3d _ _ _ _ 0xe8 _ _ _ _ 0x44 0x8b 0x54 0x24 0x08
        0x45 0x84 0xd2 0x0f 0x84 _ _ _ _ 0x0f 0xb7 0x34 0x24 0x31 0xc9
        0x48 0x89 0xef 0x48 0x89 0xf2 0x48 0x0f 0xba 0xea 0x25 0xe8 _ _ _ _ 0xe9);
    const REPORT: usize = 38;
    const REFUSAL_JUMP: usize = 43;
    const RECORD: usize = 64;
    let complaint = target(file, checks + ADDRESS_JUMP)?;
    let body = file.get(complaint..complaint.checked_add(known.len())?)?;
    if find_once(body, &known) != Some(0) {
        return None;
    }
    let refusal = target(file, complaint + REFUSAL_JUMP)?;

    let mut blocking = vec![0x45, 0x84, 0xd2, 0x0f, 0x84]; // test r10b, r10b; je refuse
    blocking.extend(distance(complaint + blocking.len() + 4, refusal)?);
    blocking.extend([0x0f, 0xb7, 0x34, 0x24, 0x31, 0xc9, 0x48, 0x89, 0xef]); // movzx esi, word [rsp]; xor ecx, ecx; mov rdi, rbp
    blocking.extend([0x48, 0xba, 0, 0, 0, 0, 0x25, 0, 0, 0]); // mov rdx, 0x25 << 32
    blocking.extend([0x48, 0x09, 0xf2, 0xeb]); // or rdx, rsi; jmp record
    let after = blocking.len() + 1;
    blocking.push(u8::try_from(RECORD.checked_sub(after)?).ok()?);
    blocking.resize(REPORT, 0x90);

    let jump = |at: usize, to: usize| Some((at, distance(at + 4, to)?.to_vec()));
    Some([
        jump(checks + ADDRESS_JUMP, complaint + REPORT)?,
        jump(checks + FORMAT_JUMP, complaint)?,
        (complaint, blocking),
    ])
}

/// What has `edu` write under its own name.
fn mend_source(file: &[u8]) -> Option<Change> {
    // In `vtd_mem_ir_write`, of attributes in r8: shr r8, 6; mov rdx, rbx; shr rax, 0x20; movzx ecx, r8w. The identity begins
    // at bit 6; bit 32 says that there is none.
    const IDENTITY: u32 = 6;
    find_once(
        file,
        &pattern!(0x49 0xc1 0xe8 0x06 0x48 0x89 0xda 0x48 0xc1 0xe8 0x20 0x41 0x0f 0xb7 0xc8),
    )?;
    // In `edu_dma_timer`: lea rcx, [rbx + rbp + dma_buf - 0x40000]; mov rbp, [rbx + dma_mask]; mov r8, [rbx + cnt]; and rbp, rsi;
    // cmp rsi, rbp; je +9; test byte [qemu_loglevel + 1], 8; jne complaint; lock or qword [rsp], 0; mov r9d, 1; mov rsi, rbp;
    // lea rdi, [rbx + bus_master_as]; mov rdx, 1 << 32; call address_space_rw
    let known = pattern!(0x48 0x8d 0x8c 0x2b _ _ 0xfc 0xff 0x48 0x8b 0xab _ _ _ _ 0x4c 0x8b 0x83 _ _ _ _
        0x48 0x21 0xf5 0x48 0x39 0xee 0x74 0x09 0xf6 0x05 _ _ _ _ 0x08 0x75 _
        0xf0 0x48 0x83 0x0c 0x24 0x00 0x41 0xb9 0x01 0x00 0x00 0x00 0x48 0x89 0xee 0x48 0x8d 0xbb _ _ _ _
        0x48 0xba 0x00 0x00 0x00 0x00 0x01 0x00 0x00 0x00 0xe8);
    let attributes = find_once(file, &known)? + known.len() - 11;
    let mut identity = vec![0xba]; // mov edx, attributes
    identity.extend((u32::from(Device::Edu.source()) << IDENTITY).to_le_bytes());
    identity.extend([0x0f, 0x1f, 0x44, 0x00, 0x00]); // Padding.
    Some((attributes, identity))
}

/// Where the jump whose displacement is at `at` leads.
fn target(code: &[u8], at: usize) -> Option<usize> {
    let displacement = isize::try_from(displacement(code, at)?).ok()?;
    at.checked_add(4)?.checked_add_signed(displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKS: usize = 0x20;
    const COPY: usize = 0x60;
    const REFUSE: usize = 0x80;
    const COMPLAINT: usize = 0xc0;
    const IDENTITY: usize = 0x120;
    const WRITE: usize = 0x140;
    /// `mov rdx, attributes` in it.
    const ATTRIBUTES: usize = WRITE + 61;

    fn put(code: &mut [u8], at: usize, bytes: &[u8]) {
        code[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The known code, its parts at the places above.
    fn known() -> Vec<u8> {
        let mut code = vec![0xcc; 0x1a0];
        let jump = |at: usize, to: usize| distance(at + 4, to).unwrap();
        put(
            &mut code,
            CHECKS,
            &[0x83, 0xe0, 0xf0, 0x66, 0x3d, 0xe0, 0xfe, 0x0f, 0x85],
        );
        put(&mut code, CHECKS + 9, &jump(CHECKS + 9, COMPLAINT));
        put(&mut code, CHECKS + 13, &[0xf6, 0xc3, 0x10, 0x0f, 0x84]);
        put(&mut code, CHECKS + 18, &jump(CHECKS + 18, COPY));
        let complaint = [
            0x48, 0x8d, 0x15, 1, 2, 3, 4, 0x48, 0x8d, 0x35, 1, 2, 3, 4, 0x31, 0xc0, 0x44, 0x89,
            0x54, 0x24, 0x08, 0x48, 0x8d, 0x3d, 1, 2, 3, 4, 0xe8, 1, 2, 3, 4, 0x44, 0x8b, 0x54,
            0x24, 0x08, 0x45, 0x84, 0xd2, 0x0f, 0x84, 0, 0, 0, 0, 0x0f, 0xb7, 0x34, 0x24, 0x31,
            0xc9, 0x48, 0x89, 0xef, 0x48, 0x89, 0xf2, 0x48, 0x0f, 0xba, 0xea, 0x25, 0xe8, 1, 2, 3,
            4, 0xe9,
        ];
        put(&mut code, COMPLAINT, &complaint);
        put(&mut code, COMPLAINT + 43, &jump(COMPLAINT + 43, REFUSE));
        let identity = [
            0x49, 0xc1, 0xe8, 0x06, 0x48, 0x89, 0xda, 0x48, 0xc1, 0xe8, 0x20, 0x41, 0x0f, 0xb7,
            0xc8,
        ];
        put(&mut code, IDENTITY, &identity);
        let write = [
            0x48, 0x8d, 0x8c, 0x2b, 0x98, 0x0c, 0xfc, 0xff, 0x48, 0x8b, 0xab, 1, 2, 3, 4, 0x4c,
            0x8b, 0x83, 1, 2, 3, 4, 0x48, 0x21, 0xf5, 0x48, 0x39, 0xee, 0x74, 0x09, 0xf6, 0x05, 1,
            2, 3, 4, 0x08, 0x75, 0x52, 0xf0, 0x48, 0x83, 0x0c, 0x24, 0x00, 0x41, 0xb9, 1, 0, 0, 0,
            0x48, 0x89, 0xee, 0x48, 0x8d, 0xbb, 1, 2, 3, 4, 0x48, 0xba, 0, 0, 0, 0, 1, 0, 0, 0,
            0xe8,
        ];
        put(&mut code, WRITE, &write);
        code
    }

    #[test]
    fn compatibility_format_is_reported_and_other_addresses_still_are() {
        let before = known();
        let mut after = before.clone();
        assert_eq!(mend(&mut after), Outcome::Mended);
        // The format's check leads to the new code, the address's to the report behind it.
        assert_eq!(target(&after, CHECKS + 18), Some(COMPLAINT));
        assert_eq!(target(&after, CHECKS + 9), Some(COMPLAINT + 38));
        assert_eq!(target(&after, COMPLAINT + 5), Some(REFUSE));
        // mov rdx, 25h << 32, as the fault's reason stands in its record.
        assert_eq!(
            after[COMPLAINT + 18..COMPLAINT + 28],
            [0x48, 0xba, 0, 0, 0, 0, 0x25, 0, 0, 0]
        );
        let jump = COMPLAINT + 31;
        assert_eq!(after[jump], 0xeb);
        assert_eq!(jump + 2 + usize::from(after[jump + 1]), COMPLAINT + 64);
        // From the report on, nothing changed.
        assert_eq!(after[COMPLAINT + 38..WRITE], before[COMPLAINT + 38..WRITE]);
    }

    #[test]
    fn edu_writes_under_its_own_name() {
        let before = known();
        let mut after = before.clone();
        assert_eq!(mend(&mut after), Outcome::Mended);
        // mov edx, 00:10.0 at bit 6.
        assert_eq!(after[ATTRIBUTES..ATTRIBUTES + 5], [0xba, 0x00, 0x20, 0, 0]);
        assert_eq!(after[WRITE..ATTRIBUTES], before[WRITE..ATTRIBUTES]);
        assert_eq!(after[ATTRIBUTES + 10..], before[ATTRIBUTES + 10..]);
        let mut elsewhere = before;
        elsewhere[IDENTITY + 3] = 0x05;
        assert_eq!(mend(&mut elsewhere), Outcome::Unknown);
    }

    #[test]
    fn code_that_is_not_the_known_one_is_left_alone() {
        let mut other = known();
        other[COMPLAINT + 64] = 0x90;
        let before = other.clone();
        assert_eq!(mend(&mut other), Outcome::Unknown);
        assert_eq!(other, before);
        let mut twice = [known(), known()].concat();
        assert_eq!(mend(&mut twice), Outcome::Unknown);
        let mut far = known();
        put(&mut far, CHECKS + 9, &i32::MAX.to_le_bytes());
        assert_eq!(mend(&mut far), Outcome::Unknown);
    }
}
