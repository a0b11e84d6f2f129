//! ELF: PVH's promises, and one refusal for each way an image can be wrong.

use bulkhead_core::addr::Gpa;

use super::support::{Guest, MIB, Segment, elf64, patch, pvh_kernel};
use crate::{EntryMode, KernelFormat, PvhKernel, flatten_elf};

const START_INFO: u64 = 0x9000;

fn kernel_with(segments: &[Segment]) -> Vec<u8> {
    elf64(segments)
}

fn note() -> Segment {
    Segment::pvh_note(&0x0100_0010_u32.to_le_bytes())
}

fn refused(image: &[u8], expected: &str) {
    let text = Guest {
        format: KernelFormat::Elf,
        ..Guest::default()
    }
    .refusal(image);
    assert!(text.contains(expected), "{text}");
}

#[test]
fn kernel_is_entered_in_protected_mode_with_the_start_information_in_ebx() {
    let initrd = [5; 100];
    let guest = Guest {
        initrd: Some(&initrd),
        cmdline: "case=hello",
        ..Guest::default()
    };
    let (state, mem) = guest.load(&pvh_kernel()).unwrap();
    assert_eq!(state.mode, EntryMode::Protected32);
    assert_eq!(state.registers.rip, 0x0100_0010);
    assert_eq!(state.registers.rbx, START_INFO);
    assert_eq!(mem.u32(START_INFO), 0x336e_c578);
    assert!(
        mem.at(mem.u64(START_INFO + 24))
            .starts_with(b"case=hello\0")
    );
    assert!(mem.at(mem.u64(START_INFO + 32)).starts_with(b"RSD PTR "));
    let module = mem.u64(START_INFO + 16);
    assert_eq!(&mem.at(mem.u64(module))[..100], &initrd);
    assert_eq!(mem.u64(module + 8), 100);
}

#[test]
fn segments_go_to_their_physical_addresses() {
    let (_, mem) = Guest::default().load(&pvh_kernel()).unwrap();
    assert_eq!(&mem.at(16 * MIB)[..0x300], &[0x90; 0x300]);
    assert_eq!(mem.u8(16 * MIB + 0x300), 0);
    assert_eq!(&mem.at(17 * MIB)[..0x123], &[0xcc; 0x123]);
}

#[test]
fn note_of_eight_bytes_is_an_entry_too() {
    let image = kernel_with(&[
        Segment::load(16 * MIB, &[0x90; 16], 16),
        Segment::pvh_note(&(16 * MIB).to_le_bytes()),
    ]);
    assert!(Guest::default().load(&image).is_ok());
}

#[test]
fn image_without_the_note_is_refused_with_a_way_out() {
    refused(
        &kernel_with(&[Segment::load(16 * MIB, &[0x90; 16], 16)]),
        "CONFIG_PVH",
    );
}

#[test]
fn other_notes_are_skipped() {
    let mut with_gnu_note = note();
    let mut other = [
        [4_u32, 4, 18].map(u32::to_le_bytes).concat(),
        b"GNU\0".to_vec(),
        vec![0; 4],
    ]
    .concat();
    other.extend(&with_gnu_note.data);
    with_gnu_note.data = other;
    let image = kernel_with(&[Segment::load(16 * MIB, &[0x90; 32], 32), with_gnu_note]);
    assert!(PvhKernel::parse(&image).is_ok());
}

#[test]
fn note_of_another_length_is_refused() {
    let image = kernel_with(&[
        Segment::load(16 * MIB, &[0x90; 16], 16),
        Segment::pvh_note(&[1, 2]),
    ]);
    refused(&image, "holds 2 bytes, not 4 or 8");
}

#[test]
fn entry_outside_the_segments_is_refused() {
    let image = kernel_with(&[Segment::load(32 * MIB, &[0x90; 16], 16), note()]);
    refused(&image, "entry point 0x1000010 lies in no segment");
}

#[test]
fn more_notes_than_a_kernel_has_are_refused_unread() {
    let other = |len| {
        let mut segment = note();
        // The type of a note that is not PVH's.
        patch(&mut segment.data, 8, &[7]);
        segment.data.resize(len, 0);
        segment
    };
    let kernel = Segment::load(16 * MIB, &[0x90; 0x20], 0x20);
    let many: Vec<_> = core::iter::once(kernel.clone())
        .chain((0..17).map(|_| other(20)))
        .collect();
    refused(&kernel_with(&many), "more than 16 note segments");
    refused(
        &kernel_with(&[kernel, other((64 << 10) + 1)]),
        "one above 65536 bytes",
    );
}

#[test]
fn overlapping_segments_are_refused_with_both_places() {
    let image = kernel_with(&[
        Segment::load(16 * MIB, &[0x90; 0x20], 0x1001),
        Segment::load(16 * MIB + 0x1000, &[0x90; 0x20], 0x20),
        note(),
    ]);
    refused(
        &image,
        "segments 0x1000000..0x1001001 and 0x1001000..0x1001020 overlap",
    );
}

#[test]
fn segments_outside_the_image_area_are_refused() {
    for address in [0, 0x9000, 0xf_f000, 64 * MIB - 0x1000, 1 << 40] {
        let image = kernel_with(&[
            Segment::load(16 * MIB, &[0x90; 32], 32),
            Segment::load(address, &[0x90; 16], 0x2000),
            note(),
        ]);
        refused(&image, "where images may be");
    }
}

#[test]
fn segment_that_wraps_is_refused() {
    let image = kernel_with(&[Segment::load(u64::MAX - 8, &[0x90; 16], 16), note()]);
    refused(&image, "passes the end of memory");
}

#[test]
fn segment_larger_in_the_file_than_in_memory_is_refused() {
    let image = kernel_with(&[Segment::load(16 * MIB, &[0x90; 16], 15), note()]);
    refused(&image, "0x10 bytes in the file but 0xf in memory");
}

#[test]
fn segment_past_the_end_of_the_file_is_refused() {
    let mut image = pvh_kernel();
    patch(&mut image, 64 + 8, &u64::MAX.to_le_bytes());
    refused(&image, "past the end of the file");
}

#[test]
fn image_for_another_processor_or_purpose_is_refused() {
    for (offset, value) in [(18, 183_u16), (16, 1), (16, 4)] {
        let mut image = pvh_kernel();
        patch(&mut image, offset, &value.to_le_bytes());
        refused(&image, "is not an x86 executable");
    }
    let mut big_endian = pvh_kernel();
    patch(&mut big_endian, 5, &[2]);
    refused(&big_endian, "truncated or damaged");
}

#[test]
fn image_with_nothing_to_load_or_too_much_is_refused() {
    refused(&kernel_with(&[note()]), "no loadable segment");
    let many: Vec<_> = (0..65)
        .map(|n| Segment::load((16 + n) * MIB, &[0x90], 1))
        .collect();
    refused(&kernel_with(&many), "more than 64 loadable segments");
}

#[test]
fn file_cut_anywhere_is_refused() {
    let image = pvh_kernel();
    for len in 0..image.len() {
        assert!(
            PvhKernel::parse(&image[..len]).is_err(),
            "accepted {len} bytes"
        );
    }
}

#[test]
fn initrd_without_room_beside_the_segments_is_refused() {
    let initrd = vec![0; 48 * MIB as usize];
    let text = Guest {
        initrd: Some(&initrd),
        ..Guest::default()
    }
    .refusal(&pvh_kernel());
    assert!(
        text.starts_with("initrd: 50331648 bytes do not fit"),
        "{text}"
    );
}

#[test]
fn flattening_keeps_the_distances_between_segments() {
    let image = kernel_with(&[
        Segment::load(MIB, &[1, 2], 2),
        Segment::load(MIB + 8, &[3], 4),
    ]);
    let (start, flat) = flatten_elf(&image, MIB).unwrap();
    assert_eq!(start, Gpa(MIB));
    assert_eq!(flat, [1, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
    let text = flatten_elf(&image, 11).unwrap_err().to_string();
    assert!(text.contains("span 0xc bytes, more than 0xb"), "{text}");
}
