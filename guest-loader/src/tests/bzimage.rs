//! bzImage: the 64-bit boot protocol's promises, and one refusal a field.

use super::support::{Guest, MIB, bzimage, patch};
use crate::{BzImage, BzImageError, EntryMode};

const ZERO_PAGE: u64 = 0x8000;

#[test]
fn kernel_goes_to_its_preferred_address_and_starts_at_the_64_bit_entry() {
    let (state, mem) = Guest::default().load(&bzimage(0x4000)).unwrap();
    assert_eq!(state.mode, EntryMode::Long64);
    assert_eq!(state.registers.rip, 16 * MIB + 0x200);
    assert_eq!(state.registers.rsi, ZERO_PAGE);
    assert_eq!(&mem.at(16 * MIB)[..4], &[0, 1, 2, 3]);
    assert_eq!(mem.u8(16 * MIB + 0x3fff), 0xff);
}

#[test]
fn boot_parameters_describe_initrd_command_line_tables_and_memory() {
    let initrd = vec![7; 0x2345];
    let guest = Guest {
        initrd: Some(&initrd),
        cmdline: "quiet init=/bin/sh",
        ..Guest::default()
    };
    let (_, mem) = guest.load(&bzimage(0x4000)).unwrap();

    assert_eq!(mem.u32(ZERO_PAGE + 0x202), u32::from_le_bytes(*b"HdrS"));
    assert_eq!(mem.u8(ZERO_PAGE + 0x210), 0xff);
    assert_eq!(u64::from(mem.u32(ZERO_PAGE + 0x214)), 16 * MIB);
    let initrd_at = u64::from(mem.u32(ZERO_PAGE + 0x218));
    assert_eq!(mem.u32(ZERO_PAGE + 0x21c), 0x2345);
    assert_eq!(initrd_at % 4096, 0);
    assert!(initrd_at >= 24 * MIB && initrd_at + 0x2345 <= 64 * MIB);
    assert_eq!(&mem.at(initrd_at)[..0x2345], initrd);
    let cmdline = u64::from(mem.u32(ZERO_PAGE + 0x228));
    assert!(mem.at(cmdline).starts_with(b"quiet init=/bin/sh\0"));
    assert!(mem.at(mem.u64(ZERO_PAGE + 0x70)).starts_with(b"RSD PTR "));

    let entries = u64::from(mem.u8(ZERO_PAGE + 0x1e8));
    let ram: u64 = (0..entries)
        .map(|n| ZERO_PAGE + 0x2d0 + 20 * n)
        .filter(|&entry| mem.u32(entry + 16) == 1)
        .map(|entry| mem.u64(entry + 8))
        .sum();
    assert_eq!(ram, 64 * MIB - 0x6_0000);
}

#[test]
fn boot_parameters_stay_zero_where_the_kernel_expects_nothing() {
    let (_, mem) = Guest::default().load(&bzimage(0x4000)).unwrap();
    let page = &mem.at(ZERO_PAGE)[..4096];
    assert!(page[..0x70].iter().all(|&byte| byte == 0), "screen_info");
    assert!(page[0x1e9..0x1f1].iter().all(|&byte| byte == 0), "sentinel");
    assert!(
        page[0x26c..0x2d0].iter().all(|&byte| byte == 0),
        "behind the header"
    );
}

#[test]
fn relocatable_kernel_moves_down_where_memory_is_short() {
    let guest = Guest {
        memory: 12 * MIB,
        ..Guest::default()
    };
    let (state, _) = guest.load(&bzimage(0x4000)).unwrap();
    assert_eq!(state.registers.rip, 2 * MIB + 0x200);
}

#[test]
fn fixed_kernel_is_refused_where_its_address_is_not_ram() {
    let mut image = bzimage(0x4000);
    patch(&mut image, 0x234, &[0]);
    let guest = Guest {
        memory: 12 * MIB,
        ..Guest::default()
    };
    let text = guest.refusal(&image);
    assert!(
        text.contains("0x1000000, nowhere else") && text.contains("more memory"),
        "{text}"
    );
}

#[test]
fn signature_behind_the_kernel_is_not_loaded() {
    let mut image = bzimage(0x4000);
    image.extend([0xee; 0x1000]);
    let (_, mem) = Guest::default().load(&image).unwrap();
    assert_eq!(mem.u8(16 * MIB + 0x4000), 0);
}

#[test]
fn zero_setup_sectors_mean_four() {
    let mut image = bzimage(0x4000);
    patch(&mut image, 0x1f1, &[0]);
    assert!(BzImage::parse(&image).is_ok());
}

#[test]
fn file_cut_anywhere_is_refused() {
    let image = bzimage(0x1000);
    for len in 0..image.len() {
        assert!(
            BzImage::parse(&image[..len]).is_err(),
            "accepted {len} bytes"
        );
    }
}

#[test]
fn truncated_file_is_refused_with_both_lengths() {
    let image = bzimage(0x1000);
    let cut = &image[..image.len() - 1];
    let needed = image.len() as u64;
    assert_eq!(
        BzImage::parse(cut).unwrap_err(),
        BzImageError::Truncated {
            len: needed - 1,
            needed
        }
    );
}

#[test]
fn each_absurd_field_is_refused_by_name() {
    use BzImageError as E;
    let cases: &[(usize, &[u8], BzImageError)] = &[
        (0x202, b"XdrS", E::NoMagic),
        (0x1fe, &[0, 0], E::BadBootFlag { found: 0 }),
        (0x206, &[0x0b, 2], E::TooOld { version: 0x20b }),
        (0x236, &[2, 0], E::No64BitEntry),
        (0x201, &[0], E::BadHeaderEnd { end: 0x202 }),
        (0x201, &[0xff], E::BadHeaderEnd { end: 0x301 }),
        (
            0x1f4,
            &[0xff; 4],
            E::Truncated {
                len: 2560 + 0x1000,
                needed: 2560 + 0xffff_ffff * 16,
            },
        ),
        (0x1f4, &[1, 0, 0, 0], E::NoPayload { len: 16 }),
        (
            0x248,
            &[0xff; 8],
            E::CompressedOutside {
                offset: 0xffff_ffff,
                len: 0xffff_ffff,
                payload_len: 0x1000,
            },
        ),
        (
            0x260,
            &[0; 4],
            E::InitSizeTooSmall {
                init_size: 0,
                payload_len: 0x1000,
            },
        ),
        (0x230, &[0; 4], E::BadAlignment { alignment: 0 }),
        (0x230, &[3, 0, 0, 0], E::BadAlignment { alignment: 3 }),
    ];
    for (offset, bytes, expected) in cases {
        let mut image = bzimage(0x1000);
        patch(&mut image, *offset, bytes);
        assert_eq!(
            BzImage::parse(&image).unwrap_err(),
            *expected,
            "at {offset:#x}"
        );
    }
}

#[test]
fn absurd_placement_is_refused() {
    for (offset, bytes) in [(0x260, [0xff; 4].as_slice()), (0x230, &[0, 0, 0, 0x80])] {
        let mut image = bzimage(0x1000);
        patch(&mut image, offset, bytes);
        // No preferred address to fall back on.
        patch(&mut image, 0x258, &[0xff; 8]);
        let text = Guest::default().refusal(&image);
        assert!(text.starts_with("kernel: bzImage: needs"), "{text}");
    }
}

#[test]
fn command_line_beyond_the_kernels_limit_is_refused() {
    let long = "x".repeat(2048);
    let text = Guest {
        cmdline: &long,
        ..Guest::default()
    }
    .refusal(&bzimage(0x1000));
    assert_eq!(
        text,
        "command line: 2048 bytes, but this kernel takes 2047: shorten it"
    );
    assert!(
        Guest {
            cmdline: &long[1..],
            ..Guest::default()
        }
        .load(&bzimage(0x1000))
        .is_ok()
    );
}

#[test]
fn command_line_limit_of_an_absurd_header_does_not_exceed_the_room() {
    let mut image = bzimage(0x1000);
    patch(&mut image, 0x238, &[0xff; 4]);
    let long = "x".repeat(0x1_0000);
    let text = Guest {
        cmdline: &long,
        ..Guest::default()
    }
    .refusal(&image);
    assert!(text.contains("takes 65535"), "{text}");
}

#[test]
fn zero_byte_in_the_command_line_is_refused() {
    let text = Guest {
        cmdline: "a\0b",
        ..Guest::default()
    }
    .refusal(&bzimage(0x1000));
    assert_eq!(
        text,
        "command line: there is a zero byte at offset 1: remove it"
    );
}

#[test]
fn initrd_that_does_not_fit_is_refused() {
    let initrd = vec![0; 41 * MIB as usize];
    let text = Guest {
        initrd: Some(&initrd),
        ..Guest::default()
    }
    .refusal(&bzimage(0x1000));
    assert!(
        text.starts_with("initrd: 42991616 bytes do not fit beside the kernel"),
        "{text}"
    );
    assert_eq!(
        Guest {
            initrd: Some(&[]),
            ..Guest::default()
        }
        .refusal(&bzimage(0x1000)),
        "initrd: the file is empty: name another one, or none"
    );
}

#[test]
fn initrd_stays_below_the_kernels_limit() {
    let mut image = bzimage(0x1000);
    patch(&mut image, 0x22c, &(30 * MIB as u32).to_le_bytes());
    let initrd = vec![1; 0x3000];
    let (_, mem) = Guest {
        initrd: Some(&initrd),
        ..Guest::default()
    }
    .load(&image)
    .unwrap();
    assert_eq!(u64::from(mem.u32(ZERO_PAGE + 0x218)) + 0x3000, 30 * MIB);
}
