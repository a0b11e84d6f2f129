//! Schedules of FIPS 197, and those that `bulkhead-crypto` leaves in this very process.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use bulkhead_core::ledger::VmId;
use bulkhead_crypto::{
    CpuFeatures, Implementation, PageCipher, PageMac, RootKey, SaveArea, VmKeys,
};
use hex_literal::hex;
use hkdf::Hkdf;
use sha2::Sha256;

use super::*;
use crate::forge::random_bytes;

/// FIPS 197, "Expansion of a 256-bit Key".
const KEY: [u8; 32] = hex!("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");

/// What is random in a VM's keys.
const FRESH: [u8; 32] = [0x33; 32];

fn found(memory: &[u8]) -> Vec<Schedule> {
    let mut found = Vec::new();
    look(Hpa(0x1000), memory, &mut found);
    found
}

/// `key` expanded, each round key `copies` times.
fn laid_out(key: &[u8; 32], copies: usize) -> Vec<u8> {
    expand(key)
        .iter()
        .flat_map(|round_key| round_key.repeat(copies))
        .collect()
}

#[test]
fn a_key_expands_as_the_standard_says() {
    let round_keys = expand(&KEY);
    assert_eq!(round_keys[2], hex!("9ba354118e6925afa51a8b5f2067fcde"));
    assert_eq!(round_keys[14], hex!("fe4890d1e6188d0b046df344706c631e"));
}

/// FIPS 197, "Equivalent Inverse Cipher Examples", AES-256: the round keys `ik_sch` of rounds 1 and 13.
#[test]
fn a_key_expands_for_decryption_as_the_standard_says() {
    let mut key = [0; 32];
    (0..).zip(&mut key).for_each(|(index, byte)| *byte = index);
    let schedule = Schedule {
        at: Hpa(0),
        stride: 16,
        key,
    };
    let traces = schedule.traces();
    assert_eq!(traces.len(), ROUND_KEYS + ROUND_KEYS - 2);
    let expected = hex!("1a1f181d1e1b1c191217101516131411");
    assert!(traces.contains(&expected), "{traces:02x?}");
}

#[test]
fn both_layouts_are_found_where_they_are() {
    for (copies, stride) in [(1, 16), (2, 32)] {
        let mut memory = random_bytes(8, 4096);
        let schedule = laid_out(&KEY, copies);
        memory[1028..1028 + schedule.len()].copy_from_slice(&schedule);
        let expected = Schedule {
            at: Hpa(0x1000 + 1028),
            stride,
            key: KEY,
        };
        assert_eq!(found(&memory), [expected]);
    }
}

#[test]
fn a_schedule_with_one_wrong_bit_is_none() {
    let schedule = laid_out(&KEY, 1);
    for byte in 0..schedule.len() {
        let mut damaged = schedule.clone();
        damaged[byte] ^= 1;
        assert_eq!(found(&damaged), [], "byte {byte}");
    }
}

#[test]
fn random_memory_and_zeroes_have_no_keys() {
    assert_eq!(found(&random_bytes(9, 4 << 20)), []);
    assert_eq!(found(&[0; 4096]), []);
    assert_eq!(found(&[0xff; 4096]), []);
}

/// The keys of a VM are found in this process as long as they are expanded there, and not after they are dropped.
#[test]
fn the_schedules_of_the_vector_code_are_found_until_they_are_dropped() {
    let mut features = CpuFeatures::empty();
    features.set(CpuFeatures::AES, is_x86_feature_detected!("aes"));
    features.set(
        CpuFeatures::PCLMULQDQ,
        is_x86_feature_detected!("pclmulqdq"),
    );
    let implementation = Implementation::choose(features);
    let secret = [0x5a; 32];
    let expected = ["xts data", "xts tweak", "tag cipher"].map(|purpose| derived(&secret, purpose));
    let live = {
        let root = RootKey::take(&mut secret.clone());
        let keys = VmKeys::derive(&root, VmId(3), 7, &FRESH).unwrap();
        let mut area = SaveArea::new();
        let _cipher = PageCipher::new(implementation, keys.xts(), &mut area);
        let _mac = PageMac::new(implementation, keys.mac(), &mut area);
        own_schedules()
    };
    // Only the vector code has every round key twice; looking for keys leaves copies of them once.
    let has = |schedules: &[Schedule], key| {
        let twice = |one: &Schedule| one.key == key && one.stride == 32;
        schedules.iter().any(twice)
    };
    let dropped = own_schedules();
    for key in expected {
        // The fallback's layout is another one.
        assert_eq!(
            has(&live, key),
            implementation.path() != bulkhead_crypto::Path::Soft
        );
        assert!(!has(&dropped, key));
    }
}

/// A key of VM 3 in its life number 7, as RFC 5869 has it.
fn derived(root: &[u8; 32], purpose: &str) -> [u8; 32] {
    let info = [
        purpose.as_bytes(),
        &3_u16.to_le_bytes(),
        &7_u64.to_le_bytes(),
        &FRESH,
    ];
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(b"Bulkhead secmem 1"), root)
        .expand_multi_info(&info, &mut key)
        .unwrap();
    key
}

/// The expanded keys in what this process has allocated.
fn own_schedules() -> Vec<Schedule> {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut schedules = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (range, access) = (words.next().unwrap(), words.next().unwrap());
        let name = words.nth(3).unwrap_or_default();
        if !access.starts_with("rw") || !matches!(name, "" | "[heap]") {
            continue;
        }
        let bound = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (bound(start), bound(end));
        let mut bytes = vec![0; (end - start) as usize];
        // What another thread has unmapped meanwhile is nobody's memory any more.
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            look(Hpa(start), &bytes, &mut schedules);
        }
        // Freed, this copy is not to be found the next time.
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
    schedules
}
