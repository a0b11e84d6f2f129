use super::*;
use crate::PAGE_SIZE;
use crate::testing::{implementations, soft, xts_key};
use aes::Aes256;
use aes::cipher::KeyInit;
use hex_literal::hex;
use proptest::prelude::*;
use xts_mode::Xts128;

/// A data unit of the standards: any number of whole blocks, encrypted and back, by every implementation.
fn check(key: ([u8; 32], [u8; 32]), tweak: [u8; 16], plain: &[u8], sealed: &[u8]) {
    for implementation in implementations() {
        let mut area = SaveArea::new();
        let cipher = PageCipher::new(implementation, &xts_key(key.0, key.1), &mut area);
        let mut unit = plain.as_chunks().0.to_vec();
        let tweak = u128::from_le_bytes(tweak);
        cipher.apply(Direction::Encrypt, tweak, &mut unit, &mut area);
        assert_eq!(unit.as_flattened(), sealed, "{implementation:?}");
        cipher.apply(Direction::Decrypt, tweak, &mut unit, &mut area);
        assert_eq!(unit.as_flattened(), plain, "{implementation:?}");
    }
}

#[test]
fn ieee_1619_vector_10_is_met() {
    let plain: Vec<u8> = (0..=255).chain(0..=255).collect();
    check(
        (
            hex!("2718281828459045235360287471352662497757247093699959574966967627"),
            hex!("3141592653589793238462643383279502884197169399375105820974944592"),
        ),
        hex!("ff000000000000000000000000000000"),
        &plain,
        &hex!(
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b5d31e276f8fe4a8d66b317f9ac683f44"
            "680a86ac35adfc3345befecb4bb188fd5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0"
            "c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca2a3e7a7d7df7b10355165c8b9a6d0a7d"
            "e8b062c4500dc4cd120c0f7418dae3d0b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f"
            "93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec583e9645e07b8d9670655ba5bbcfecc6"
            "dc3966380ad8fecb17b6ba02469a020a84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1"
            "505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae9be69a2ffeceb1bec9de244fbe15992b"
            "11b77c040f12bd8f6a975a44a0f90c29a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac"
            "6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f645e8b7e9bfdef33943054ff84011493"
            "c27b3429eaedb4ed5376441a77ed43851ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa"
            "773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151"
        ),
    );
}

#[test]
fn nist_xtsgenaes256_count_1_of_two_blocks_is_met() {
    check(
        (
            hex!("1ea661c58d943a0e4801e42f4b0947149e7f9f8e3e68d0c7505210bd311a0e7c"),
            hex!("d6e13ffdf2418d8d1911c004cda58da3d619b7e2b9141e58318eea392cf41b08"),
        ),
        hex!("adf8d92627464ad2f0428e84a9f87564"),
        &hex!("2eedea52cd8215e1acc647e810bbc3642e87287f8d2e57e36c0a24fbc12a202e"),
        &hex!("cbaad0e2f6cea3f50b37f934d46a9b130b9d54f07e34f36af793e86f73c6d7db"),
    );
}

/// A page whose bytes have no pattern, made from `seed`.
fn page_from(seed: u64) -> Page {
    let mut state = seed | 1;
    core::array::from_fn(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_implementation_encrypts_as_xts_mode_does(
        data: [u8; 32],
        tweak_key: [u8; 32],
        tweak: u128,
        seed: u64,
        blocks in 1..=PAGE_SIZE / 16,
    ) {
        let plain = page_from(seed);
        let mut expected = plain[..16 * blocks].to_vec();
        Xts128::new(Aes256::new(&data.into()), Aes256::new(&tweak_key.into()))
            .encrypt_sector(&mut expected, tweak.to_le_bytes());
        check((data, tweak_key), tweak.to_le_bytes(), &plain[..16 * blocks], &expected);
    }

    #[test]
    fn pages_come_back_from_any_implementation_through_any_other(
        data: [u8; 32],
        tweak_key: [u8; 32],
        tweak: u128,
        seed: u64,
    ) {
        let key = xts_key(data, tweak_key);
        let plain = page_from(seed);
        let mut area = SaveArea::new();
        let mut sealed = plain;
        PageCipher::new(soft(), &key, &mut area).encrypt(tweak, &mut sealed, &mut area);
        prop_assert_ne!(plain, sealed);
        for implementation in implementations() {
            let cipher = PageCipher::new(implementation, &key, &mut area);
            let (mut one, mut other) = (plain, [0; PAGE_SIZE]);
            cipher.encrypt(tweak, &mut one, &mut area);
            cipher.encrypt_into(tweak, &plain, &mut other, &mut area);
            prop_assert_eq!(one, sealed);
            prop_assert_eq!(other, sealed);
            cipher.decrypt(tweak, &mut one, &mut area);
            cipher.decrypt_into(tweak, &sealed, &mut other, &mut area);
            prop_assert_eq!(one, plain);
            prop_assert_eq!(other, plain);
            prop_assert!(area.is_empty());
        }
    }
}

#[test]
fn equal_pages_differ_under_other_tweaks_and_keys() {
    let mut area = SaveArea::new();
    for implementation in implementations() {
        let mut sealed = |key: u8, tweak: u128| {
            let key = xts_key([key; 32], [0x77; 32]);
            let mut page = [0; PAGE_SIZE];
            PageCipher::new(implementation, &key, &mut area).encrypt(tweak, &mut page, &mut area);
            page
        };
        let first = sealed(1, 0);
        assert_ne!(first, sealed(1, 1));
        assert_ne!(first, sealed(1, 1 << 127));
        assert_ne!(first, sealed(2, 0));
    }
}
