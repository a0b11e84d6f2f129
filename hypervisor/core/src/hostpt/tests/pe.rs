//! Synthetic PE headers, sound and broken.

use proptest::prelude::*;

use crate::addr::Hpa;

use super::super::pe::{Image, PeError, Section};
use super::super::{Access, HostError};
use super::run;

const BASE: Hpa = Hpa(0x70_0000);
const CODE: u32 = 0x6000_0020;
const RODATA: u32 = 0x4000_0040;
const DATA: u32 = 0xc000_0040;

/// A PE32+ header with the given sections: name, address, size, characteristics.
fn header(sections: &[(&[u8; 8], u32, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    let mut put = |at: usize, data: &[u8]| bytes[at..at + data.len()].copy_from_slice(data);
    put(0, b"MZ");
    put(0x3c, &0x80u32.to_le_bytes());
    put(0x80, b"PE\0\0");
    put(0x86, &(sections.len() as u16).to_le_bytes());
    put(0x94, &240u16.to_le_bytes());
    put(0x98, &0x20bu16.to_le_bytes());
    put(0x98 + 32, &0x1000u32.to_le_bytes());
    put(0x98 + 56, &0x9000u32.to_le_bytes());
    for (i, (name, address, size, flags)) in sections.iter().enumerate() {
        let at = 0x98 + 240 + 40 * i;
        put(at, *name);
        put(at + 8, &size.to_le_bytes());
        put(at + 12, &address.to_le_bytes());
        put(at + 36, &flags.to_le_bytes());
    }
    bytes
}

fn sections(bytes: &[u8]) -> Result<Vec<Section>, PeError> {
    Image::parse(bytes, BASE)?.sections().collect()
}

#[test]
fn each_section_gets_the_access_it_asks_for() {
    let bytes = header(&[
        (b".text\0\0\0", 0x1000, 0x2345, CODE),
        (b".rdata\0\0", 0x4000, 0x1000, RODATA),
        (b".bss\0\0\0\0", 0x5000, 0, DATA),
        (b".data\0\0\0", 0x6000, 0x10, DATA),
    ]);
    let found: Vec<_> = sections(&bytes)
        .unwrap()
        .iter()
        .map(|s| (s.run, s.access))
        .collect();
    assert_eq!(
        found,
        [
            (run(0x700, 1), Access::ReadOnly),
            (run(0x701, 3), Access::ReadExecute),
            (run(0x704, 1), Access::ReadOnly),
            (run(0x706, 1), Access::ReadWrite),
        ]
    );
    assert_eq!(Image::parse(&bytes, BASE).unwrap().run(), run(0x700, 9));
}

#[test]
fn writable_code_is_refused() {
    let bytes = header(&[(b".evil\0\0\0", 0x1000, 0x10, CODE | DATA)]);
    let error = sections(&bytes).unwrap_err();
    assert_eq!(error, PeError::WritableCode(*b".evil\0\0\0"));
    assert!(
        error
            .to_string()
            .contains("section .evil is writable and executable")
    );
}

#[test]
fn sections_stay_in_order_and_inside_the_image() {
    let bad = |sections_of: &[(&[u8; 8], u32, u32, u32)]| sections(&header(sections_of));
    let expected = |name: &[u8; 8]| Err(PeError::BadSection(*name));
    assert_eq!(
        bad(&[(b"headers!", 0, 0x1000, RODATA)]),
        expected(b"headers!")
    );
    assert_eq!(
        bad(&[(b"beyond!!", 0x8000, 0x1001, DATA)]),
        expected(b"beyond!!")
    );
    assert_eq!(
        bad(&[(b"wrapping", 0xffff_f000, u32::MAX, DATA)]),
        expected(b"wrapping")
    );
    assert_eq!(
        bad(&[(b"crooked!", 0x1800, 0x10, DATA)]),
        expected(b"crooked!")
    );
    let overlapping = [
        (b".text\0\0\0", 0x1000, 0x1001, CODE),
        (b"overlap!", 0x2000, 1, DATA),
    ];
    assert_eq!(bad(&overlapping), expected(b"overlap!"));
}

#[test]
fn headers_that_are_no_pe_are_named() {
    let good = header(&[]);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Image::parse(&bytes, BASE).unwrap_err()
    };
    assert_eq!(with(0, b'X'), PeError::NotPe("DOS signature"));
    assert_eq!(with(0x80, b'X'), PeError::NotPe("PE signature"));
    assert!(matches!(with(0x99, 1), PeError::NotPe(_)));
    assert_eq!(with(0x3f, 0xff), PeError::Truncated("PE header"));
    assert_eq!(with(0x95, 0xff), PeError::Truncated("section table"));
    assert_eq!(with(0x98 + 33, 0x02), PeError::Misaligned(0x200));
    assert_eq!(
        Image::parse(&good, Hpa(0x800)).unwrap_err(),
        PeError::Misaligned(0x800)
    );
    assert!(matches!(
        Image::parse(&good[..0x90], BASE),
        Err(PeError::Truncated(_))
    ));
    assert!(matches!(Image::parse(&[], BASE), Err(PeError::NotPe(_))));
}

#[test]
fn errors_say_what_is_wrong() {
    assert!(
        HostError::BadWindow(crate::addr::Hva(0x1000))
            .to_string()
            .contains("2 MiB border")
    );
}

proptest! {
    #[test]
    fn mutated_headers_never_panic_and_never_give_overlapping_frames(
        changes in prop::collection::vec((0usize..0x260, any::<u8>()), 0..12),
        cut in 0usize..4096,
    ) {
        let mut bytes = header(&[
            (b".text\0\0\0", 0x1000, 0x2345, CODE),
            (b".rdata\0\0", 0x4000, 0x1000, RODATA),
            (b".data\0\0\0", 0x6000, 0x10, DATA),
        ]);
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut / 2);
        if let Ok(image) = Image::parse(&bytes, BASE) {
            let mut end = image.run().first;
            for section in image.sections().map_while(Result::ok) {
                prop_assert!(section.run.first >= end);
                end = section.run.end();
            }
            prop_assert!(end <= image.run().end().max(crate::addr::Frame(0x701)));
        }
    }
}
