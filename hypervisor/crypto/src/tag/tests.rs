use super::*;
use crate::PAGE_SIZE;
use crate::testing::{implementations, mac_key, soft};
use aes::Aes256Dec;
use aes::cipher::{BlockDecrypt, KeyInit};
use bulkhead_core::addr::Gpa;
use bulkhead_core::ledger::VmId;
use hex_literal::hex;
use proptest::prelude::*;

const CIPHER_KEY: [u8; 32] =
    hex!("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
/// The hash key that POLYVAL multiplies by as by 1: x^128.
const ONE: Block = hex!("010000000000000000000000000000c2");

/// The tag of the blocks alone, by every implementation.
fn tags(
    hash: Block,
    cipher: [u8; 32],
    groups: &[[Block; TAG_GROUP]],
    last: [Block; 2],
) -> Vec<Block> {
    let mut area = SaveArea::new();
    let mut tag = |implementation| {
        let mac = PageMac::new(implementation, &mac_key(hash, cipher), &mut area);
        mac.apply(groups, &last, &mut area)
    };
    implementations().into_iter().map(&mut tag).collect()
}

#[test]
fn the_hash_is_polyval_of_rfc_8452() {
    let cases = [
        (
            hex!("25629347589242761d31f826ba4b757b"),
            [
                hex!("4f4f95668c83dfb6401762bb2d01a262"),
                hex!("d1a24ddd2721d006bbe45f20d3c9f362"),
            ],
            hex!("f7a3b47b846119fae5b7866cf5e5b77e"),
        ),
        (
            hex!("d9b360279694941ac5dbc6987ada7377"),
            [
                hex!("01000000000000000000000000000000"),
                hex!("00000000000000004000000000000000"),
            ],
            hex!("eb93b7740962c5e49d2a90a7dc5cec74"),
        ),
    ];
    for (key, blocks, hash) in cases {
        for tag in tags(key, CIPHER_KEY, &[], blocks) {
            let mut block = tag.into();
            Aes256Dec::new(&CIPHER_KEY.into()).decrypt_block(&mut block);
            assert_eq!(<Block>::from(block), hash);
        }
    }
}

#[test]
fn the_hash_is_encrypted_by_aes_256_of_sp_800_38a_and_fips_197() {
    let sp_800_38a = [
        (
            hex!("6bc1bee22e409f96e93d7e117393172a"),
            hex!("f3eed1bdb5d2a03c064b5a7e3db181f8"),
        ),
        (
            hex!("ae2d8a571e03ac9c9eb76fac45af8e51"),
            hex!("591ccb10d410ed26dc5ba74a31362870"),
        ),
        (
            hex!("30c81c46a35ce411e5fbc1191a0a52ef"),
            hex!("b6ed21b99ca6f4f9f153e7b1beafed1d"),
        ),
        (
            hex!("f69f2445df4f9b17ad2b417be66c3710"),
            hex!("23304b7a39f9f3ff067d8d8f9e24ecc7"),
        ),
    ];
    for (plain, cipher) in sp_800_38a {
        for tag in tags(ONE, CIPHER_KEY, &[], [[0; 16], plain]) {
            assert_eq!(tag, cipher);
        }
    }
    let key = core::array::from_fn(|at| at as u8);
    let plain = hex!("00112233445566778899aabbccddeeff");
    for tag in tags(ONE, key, &[], [[0; 16], plain]) {
        assert_eq!(tag, hex!("8ea2b7ca516745bfeafc49904b496089"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_implementation_makes_the_same_tag(
        hash: [u8; 16],
        cipher: [u8; 32],
        groups in proptest::collection::vec(any::<[[u8; 16]; TAG_GROUP]>(), 0..40),
        last: [[u8; 16]; 2],
    ) {
        let tags = tags(hash, cipher, &groups, last);
        for tag in &tags {
            prop_assert_eq!(tag, &tags[0]);
        }
    }

    #[test]
    fn a_changed_bit_of_the_page_changes_the_tag(byte in 0..PAGE_SIZE, bit in 0..8, fill: u8) {
        let mut area = SaveArea::new();
        for implementation in implementations() {
            let mac = PageMac::new(implementation, &mac_key([3; 16], [4; 32]), &mut area);
            let mut page = [fill; PAGE_SIZE];
            let tag = mac.tag(PLACE, &page, &mut area);
            prop_assert_eq!(mac.verify(PLACE, &page, tag, &mut area), Ok(()));
            page[byte] ^= 1_u8 << bit;
            let mismatch = Err(TagMismatch { place: PLACE });
            prop_assert_eq!(mac.verify(PLACE, &page, tag, &mut area), mismatch);
            prop_assert!(area.is_empty());
        }
    }
}

const PLACE: Place = Place {
    vm: VmId(5),
    gpa: Gpa(0x1234_5000),
    version: 77,
};

#[test]
fn a_page_is_not_taken_at_another_place_or_time() {
    let mut area = SaveArea::new();
    let others = [
        Place {
            vm: VmId(4),
            ..PLACE
        },
        Place {
            vm: VmId(0x8005),
            ..PLACE
        },
        Place {
            gpa: Gpa(0x1234_6000),
            ..PLACE
        },
        Place {
            gpa: Gpa(1 << 63 | 0x1234_5000),
            ..PLACE
        },
        Place {
            version: 76,
            ..PLACE
        },
        Place {
            version: 78,
            ..PLACE
        },
        Place {
            version: 1 << 63 | 77,
            ..PLACE
        },
        Place {
            gpa: Gpa(PLACE.version),
            version: PLACE.gpa.0,
            ..PLACE
        },
    ];
    for implementation in implementations() {
        let mac = PageMac::new(implementation, &mac_key([3; 16], [4; 32]), &mut area);
        let page = [0xa5; PAGE_SIZE];
        let tag = mac.tag(PLACE, &page, &mut area);
        assert_eq!(mac.verify(PLACE, &page, tag, &mut area), Ok(()));
        for place in others {
            let verdict = mac.verify(place, &page, tag, &mut area);
            assert_eq!(verdict, Err(TagMismatch { place }), "{place:?}");
        }
    }
}

#[test]
fn any_changed_bit_of_a_tag_is_refused() {
    let mut area = SaveArea::new();
    let mac = PageMac::new(soft(), &mac_key([3; 16], [4; 32]), &mut area);
    let page = [0; PAGE_SIZE];
    let tag = mac.tag(PLACE, &page, &mut area);
    for bit in 0..128 {
        let bits = u128::from_le_bytes(tag.to_bytes()) ^ 1 << bit;
        let changed = Tag::from_bytes(bits.to_le_bytes());
        assert!(mac.verify(PLACE, &page, changed, &mut area).is_err());
    }
}

#[test]
fn the_tags_of_two_keys_differ() {
    let page = [0x11; PAGE_SIZE];
    let mut area = SaveArea::new();
    let mut tag = |hash, cipher| {
        let mac = PageMac::new(soft(), &mac_key(hash, cipher), &mut area);
        mac.tag(PLACE, &page, &mut area).to_bytes()
    };
    let first = tag([1; 16], [2; 32]);
    assert_ne!(first, tag([3; 16], [2; 32]));
    assert_ne!(first, tag([1; 16], [4; 32]));
}

#[test]
fn a_mismatch_says_whose_page_where_and_what_to_do() {
    assert_eq!(
        TagMismatch { place: PLACE }.to_string(),
        "VM 5, page 0x12345000, version 77: not what was sealed there; stop the VM"
    );
}
