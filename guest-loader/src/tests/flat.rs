//! Flat images and the choice between formats.

use super::support::{Guest, MIB, bzimage, pvh_kernel};
use crate::{EntryMode, KernelFormat};

#[test]
fn flat_image_starts_at_its_first_byte_in_64_bit_mode() {
    let guest = Guest {
        format: KernelFormat::Flat,
        ..Guest::default()
    };
    let (state, mem) = guest.load(&[0xf4, 0xeb, 0xfd]).unwrap();
    assert_eq!(state.mode, EntryMode::Long64);
    assert_eq!(state.registers.rip, MIB);
    assert_eq!(mem.u32(state.registers.rdi), 0x336e_c578);
    assert_eq!(state.registers.rsp, 0x3_0000);
    assert_eq!(&mem.at(MIB)[..4], &[0xf4, 0xeb, 0xfd, 0]);
    // The page tables that the state points to map the entry point to itself.
    let pdpt = mem.u64(state.cr3.0) & !0xfff;
    let directory = mem.u64(pdpt) & !0xfff;
    assert_eq!(mem.u64(directory), 0x83);
}

#[test]
fn flat_image_that_does_not_fit_is_refused() {
    let guest = Guest {
        format: KernelFormat::Flat,
        memory: 2 * MIB,
        ..Guest::default()
    };
    assert!(guest.load(&vec![0; MIB as usize]).is_ok());
    let text = guest.refusal(&vec![0; MIB as usize + 1]);
    assert_eq!(
        text,
        "kernel: flat image: 1048577 bytes do not fit in 0x100000..0x200000: give the VM more memory"
    );
    assert_eq!(guest.refusal(&[]), "kernel: flat image: the file is empty");
}

#[test]
fn automatic_choice_goes_by_the_magic_number() {
    assert_eq!(
        Guest::default().load(&bzimage(0x1000)).unwrap().0.mode,
        EntryMode::Long64
    );
    assert_eq!(
        Guest::default().load(&pvh_kernel()).unwrap().0.mode,
        EntryMode::Protected32
    );
}

#[test]
fn unknown_image_is_not_taken_for_a_flat_one() {
    let text = Guest::default().refusal(b"#!/bin/sh");
    assert!(
        text.starts_with("kernel: 9 bytes that are neither a bzImage nor an ELF file"),
        "{text}"
    );
}

#[test]
fn format_asked_for_is_the_format_checked() {
    let text = Guest {
        format: KernelFormat::BzImage,
        ..Guest::default()
    }
    .refusal(&pvh_kernel());
    assert!(text.contains("no \"HdrS\""), "{text}");
    let text = Guest {
        format: KernelFormat::Elf,
        ..Guest::default()
    }
    .refusal(&bzimage(0x1000));
    assert!(
        text.contains("ELF: the file is truncated or damaged"),
        "{text}"
    );
}
