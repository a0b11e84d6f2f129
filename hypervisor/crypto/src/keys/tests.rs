use super::*;
use hex_literal::hex;

fn okm<const N: usize>(ikm: &[u8], salt: &[u8], info: &[u8]) -> [u8; N] {
    let mut okm = [0; N];
    Hkdf::<Sha256>::new(Some(salt), ikm)
        .expand(info, &mut okm)
        .unwrap();
    okm
}

fn root(byte: u8) -> Box<RootKey> {
    RootKey::take(&mut [byte; 32])
}

/// All bytes of a VM's keys.
fn bytes(root: &RootKey, vm: u16, generation: u64, fresh: u8) -> Vec<u8> {
    let keys = VmKeys::derive(root, VmId(vm), generation, &[fresh; 32]).unwrap();
    [
        &keys.xts.data[..],
        &keys.xts.tweak,
        &keys.mac.hash,
        &keys.mac.cipher,
    ]
    .concat()
}

#[test]
fn hkdf_gives_what_rfc_5869_says() {
    assert_eq!(
        okm(
            &[0x0b; 22],
            &hex!("000102030405060708090a0b0c"),
            &hex!("f0f1f2f3f4f5f6f7f8f9")
        ),
        hex!(
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        ),
    );
    let count = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
    assert_eq!(
        okm(&count(0, 0x4f), &count(0x60, 0xaf), &count(0xb0, 0xff)),
        hex!(
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    );
    assert_eq!(
        okm(&[0x0b; 22], &[], &[]),
        hex!(
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
        ),
    );
}

#[test]
fn each_key_is_hkdf_with_its_purpose_vm_generation_and_random_bytes() {
    let keys = VmKeys::derive(&root(7), VmId(0x0302), 0x0b0a_0908_0706_0504, &[5; 32]).unwrap();
    let expected = |purpose: &[u8]| {
        okm::<32>(
            &[7; 32],
            SALT,
            &[purpose, &hex!("0203 0405060708090a0b"), &[5; 32]].concat(),
        )
    };
    assert_eq!(keys.xts.data, expected(b"xts data"));
    assert_eq!(keys.xts.tweak, expected(b"xts tweak"));
    assert_eq!(keys.mac.hash, expected(b"tag hash")[..16]);
    assert_eq!(keys.mac.cipher, expected(b"tag cipher"));
}

#[test]
fn the_same_derivation_gives_the_same_keys() {
    assert_eq!(bytes(&root(1), 2, 3, 4), bytes(&root(1), 2, 3, 4));
}

#[test]
fn no_part_is_shared_by_other_vms_generations_roots_or_random_bytes() {
    let mut parts = Vec::new();
    for all in [
        bytes(&root(1), 1, 0, 0),
        bytes(&root(1), 2, 0, 0),
        bytes(&root(1), 0x100, 0, 0),
        bytes(&root(1), 1, 1, 0),
        bytes(&root(1), 0, 1, 0),
        bytes(&root(2), 1, 0, 0),
        bytes(&root(1), 1, 0, 1),
    ] {
        parts.extend(all.chunks_exact(16).map(<[u8]>::to_vec));
    }
    let count = parts.len();
    parts.sort();
    parts.dedup();
    assert_eq!(parts.len(), count);
}

#[test]
fn a_root_key_is_taken_out_of_where_it_was() {
    let mut bytes = [9; 32];
    let key = RootKey::take(&mut bytes);
    assert_eq!((key.0, bytes), ([9; 32], [0; 32]));
}

#[test]
fn an_xts_key_with_equal_halves_is_refused() {
    let mut key = XtsKey {
        data: [5; 32],
        tweak: [5; 32],
    };
    assert_eq!(key.check(), Err(EqualHalves));
    key.tweak[31] ^= 0x80;
    assert_eq!(key.check(), Ok(()));
}
