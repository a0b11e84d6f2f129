//! What the tests of several modules need: every implementation that this processor can run.

use crate::cpu::{CpuFeatures, Implementation, Path};
use crate::keys::{MacKey, XtsKey};
use std::is_x86_feature_detected;

/// What the host has of what is asked for here.
pub fn host_features() -> CpuFeatures {
    let detected = [
        (is_x86_feature_detected!("aes"), CpuFeatures::AES),
        (
            is_x86_feature_detected!("pclmulqdq"),
            CpuFeatures::PCLMULQDQ,
        ),
        (is_x86_feature_detected!("avx2"), CpuFeatures::AVX2),
        (is_x86_feature_detected!("vaes"), CpuFeatures::VAES),
        (
            is_x86_feature_detected!("vpclmulqdq"),
            CpuFeatures::VPCLMULQDQ,
        ),
    ];
    detected
        .into_iter()
        .filter_map(|(has, feature)| has.then_some(feature))
        .collect()
}

/// The soft implementation.
pub fn soft() -> Implementation {
    Implementation::choose(CpuFeatures::empty())
}

/// Every implementation that the host can run, the soft one first; the others are named in the test's output.
pub fn implementations() -> Vec<Implementation> {
    let has = host_features();
    let narrow = CpuFeatures::AES | CpuFeatures::PCLMULQDQ;
    let mut all = vec![soft()];
    for (features, path) in [(narrow, Path::AesNi), (CpuFeatures::all(), Path::Vaes)] {
        let implementation = Implementation::choose(has & features);
        if implementation.path() == path {
            all.push(implementation);
        } else {
            eprintln!("skipped: this processor has no {path}");
        }
    }
    all
}

/// An XTS key of known halves.
pub fn xts_key(data: [u8; 32], tweak: [u8; 32]) -> XtsKey {
    XtsKey { data, tweak }
}

/// A tag's key of known parts.
pub fn mac_key(hash: [u8; 16], cipher: [u8; 32]) -> MacKey {
    MacKey { hash, cipher }
}
