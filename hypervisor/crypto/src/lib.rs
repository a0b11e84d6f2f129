//! What seals a frame: encryption, a tag, and the keys for both. No policy, and nothing of the machine but instructions.
//!
//! | module | what it has |
//! |---|---|
//! | [`keys`] | [`RootKey`]; from it, for each life of each VM, [`VmKeys`] |
//! | [`xts`] | [`PageCipher`]: AES-256-XTS of 4 KiB pages |
//! | [`tag`] | [`PageMac`]: the tag over a page's ciphertext, VM, address and version |
//! | [`cpu`] | [`Implementation`]: VAES, AES-NI or soft, chosen once from what CPUID says |
//! | `vector` | the assembly, and all that is `unsafe`; [`SaveArea`] tells what it promises about vector registers |
//! | `soft` | the constant-time fallback, on RustCrypto |
//!
//! A page is sealed so: derive the VM's keys and expand them when it is created; then
//!
//! ```
//! use bulkhead_core::{addr::Gpa, ledger::VmId};
//! use bulkhead_crypto::*;
//!
//! let root = RootKey::take(&mut [7; 32]);
//! let keys = VmKeys::derive(&root, VmId(1), 0, &[9; 32])?;
//! let implementation = Implementation::choose(CpuFeatures::empty());
//! let mut area = SaveArea::new();
//! let cipher = PageCipher::new(implementation, keys.xts(), &mut area);
//! let mac = PageMac::new(implementation, keys.mac(), &mut area);
//!
//! let place = Place { vm: VmId(1), gpa: Gpa(0x5000), version: 1 };
//! let mut page = [0x5a; PAGE_SIZE];
//! cipher.encrypt(place.tweak(), &mut page, &mut area);
//! let tag = mac.tag(place, &page, &mut area);
//!
//! mac.verify(place, &page, tag, &mut area)?;
//! cipher.decrypt(place.tweak(), &mut page, &mut area);
//! assert_eq!(page, [0x5a; PAGE_SIZE]);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;

mod block;
pub mod cpu;
pub mod keys;
mod soft;
pub mod tag;
#[cfg(test)]
mod testing;
mod vector;
pub mod xts;

pub use block::{PAGE_SIZE, Page};
pub use bulkhead_core::secmem::{Place, Tag};
pub use cpu::{CpuFeatures, CpuidLeaves, Implementation, Path};
pub use keys::{EqualHalves, MacKey, RootKey, VmKeys, XtsKey};
pub use tag::{PageMac, TagMismatch};
pub use vector::SaveArea;
pub use xts::PageCipher;
