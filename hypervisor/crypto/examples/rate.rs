//! How fast pages are encrypted, decrypted and tagged on this machine, by every implementation it can run, and how that compares
//! with OpenSSL in the same run:
//!
//! ```console
//! cargo run --release --package bulkhead-crypto --example rate
//! ```

use bulkhead_core::{addr::Gpa, ledger::VmId};
use bulkhead_crypto::{
    CpuFeatures, Implementation, PAGE_SIZE, Page, PageCipher, PageMac, Path, Place, RootKey,
    SaveArea, VmKeys,
};
use std::error::Error;
use std::is_x86_feature_detected;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long one figure is measured: as long as OpenSSL measures, right before.
const MEASURED: Duration = Duration::from_secs(1);

/// A page where a frame would be.
#[repr(align(4096))]
struct Frame(Page);

fn main() -> Result<(), Box<dyn Error>> {
    let root = RootKey::take(&mut [1; 32]);
    let keys = VmKeys::derive(&root, VmId(1), 0, &[9; 32])?;
    let place = Place {
        vm: VmId(1),
        gpa: Gpa(0x1000),
        version: 1,
    };
    for implementation in implementations() {
        let reference = openssl();
        match reference {
            Some(rate) => println!("openssl aes-256-xts               {rate:6.2} GB/s"),
            None => println!("openssl is not installed: no ratios"),
        }
        let mut area = SaveArea::new();
        let cipher = PageCipher::new(implementation, keys.xts(), &mut area);
        let mac = PageMac::new(implementation, keys.mac(), &mut area);
        let tweak = place.tweak();
        let name = implementation.path();
        let encrypt = rate(|page| cipher.encrypt(tweak, page, &mut area));
        let decrypt = rate(|page| cipher.decrypt(tweak, page, &mut area));
        let tag = rate(|page| page[0] ^= mac.tag(place, page, &mut area).to_bytes()[0]);
        let both = rate(|page| {
            cipher.encrypt(tweak, page, &mut area);
            let tag = mac.tag(place, page, &mut area);
            assert!(mac.verify(place, page, tag, &mut area).is_ok());
            cipher.decrypt(tweak, page, &mut area);
        });
        for (what, rate) in [("encrypt", encrypt), ("decrypt", decrypt)] {
            let ratio = reference.map(|reference| format!("   {:.2} of openssl", rate / reference));
            println!(
                "{name:7} {what:24}  {rate:6.2} GB/s{}",
                ratio.unwrap_or_default()
            );
        }
        println!("{name:7} {:24}  {tag:6.2} GB/s", "tag");
        println!("{name:7} {:24}  {both:6.2} GB/s", "seal and unseal, tagged");
    }
    Ok(())
}

/// Every implementation that this processor can run, VAES last: it leaves the upper halves of the registers in use, which slows AES-NI.
fn implementations() -> Vec<Implementation> {
    let mut features = CpuFeatures::empty();
    features.set(CpuFeatures::AES, is_x86_feature_detected!("aes"));
    features.set(
        CpuFeatures::PCLMULQDQ,
        is_x86_feature_detected!("pclmulqdq"),
    );
    features.set(CpuFeatures::AVX2, is_x86_feature_detected!("avx2"));
    features.set(CpuFeatures::VAES, is_x86_feature_detected!("vaes"));
    features.set(
        CpuFeatures::VPCLMULQDQ,
        is_x86_feature_detected!("vpclmulqdq"),
    );
    let narrow = features - CpuFeatures::VAES;
    let mut all: Vec<_> = [CpuFeatures::empty(), narrow, features]
        .map(Implementation::choose)
        .into();
    all.dedup();
    for path in [Path::Vaes, Path::AesNi] {
        if all.iter().all(|one| one.path() != path) {
            println!("{path}: not on this processor");
        }
    }
    all
}

/// Gigabytes a second that `work` gets through, page by page.
fn rate(mut work: impl FnMut(&mut Page)) -> f64 {
    let mut frame = Frame([0x5a; PAGE_SIZE]);
    let start = Instant::now();
    let mut pages = 0_u32;
    while start.elapsed() < MEASURED {
        for _ in 0..64 {
            work(&mut frame.0);
        }
        pages += 64;
    }
    let rate = f64::from(pages) * PAGE_SIZE as f64 / start.elapsed().as_secs_f64() / 1e9;
    std::hint::black_box(&frame.0);
    rate
}

/// What OpenSSL gets through with pages, in gigabytes a second, where it is installed.
fn openssl() -> Option<f64> {
    let output = Command::new("openssl")
        .args([
            "speed",
            "-mr",
            "-seconds",
            "1",
            "-bytes",
            "4096",
            "-evp",
            "aes-256-xts",
        ])
        .output()
        .ok()?;
    // The machine-readable result: `+F:number:name:bytes a second`.
    let text = String::from_utf8(output.stdout).ok()?;
    let result = text.lines().find(|line| line.starts_with("+F:"))?;
    let bytes_a_second: f64 = result.rsplit(':').next()?.parse().ok()?;
    Some(bytes_a_second / 1e9)
}
