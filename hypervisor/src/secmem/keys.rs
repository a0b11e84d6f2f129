//! The root key, and from it a key for each life of each encrypted VM.

use crate::arch::random;
use crate::memory::stack;
use crate::vm::{self, switched};
use alloc::boxed::Box;
use bulkhead_core::ledger::VmId;
use bulkhead_core::secmem::{KeyNumbers, Life, NoNumberLeft};
use bulkhead_crypto::{
    CpuFeatures, CpuidLeaves, Implementation, PageCipher, PageMac, RootKey, SaveArea, VmKeys,
};
use core::fmt;
use spin::Once;
use zeroize::Zeroizing;

/// More stack than it takes to derive a VM's keys, or to use them without AES-NI.
pub const STACK_KIB: usize = 16;

static ROOT: Once<Root> = Once::new();
static NUMBERS: KeyNumbers = KeyNumbers::new();

struct Root {
    key: Box<RootKey>,
    implementation: Implementation,
}

/// What a VM's pages are sealed with; wiped when it is dropped.
pub struct Keys {
    /// Encrypts and decrypts.
    pub cipher: PageCipher,
    /// Makes and checks tags.
    pub mac: PageMac,
}

/// Why a VM gets no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// No number is left for it.
    OutOfNumbers,
    /// The processor gives no random bytes.
    WithoutEntropy,
    /// There is no root key.
    WithoutRoot,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfNumbers => NoNumberLeft.fmt(f),
            Self::WithoutEntropy => f.write_str(
                "the processor gives no random bytes for a VM's key: it has neither RDSEED nor RDRAND that works; \
                 write `encryption = \"off\"`",
            ),
            Self::WithoutRoot => f.write_str("there is no root key to derive a VM's key from"),
        }
    }
}

impl core::error::Error for KeyError {}

/// Makes `key` what VMs' keys are derived from, and chooses how they are used: by what all processors have.
pub fn install(key: Box<RootKey>) {
    let machine = vm::machine();
    let (leaf1, leaf7) = (machine.cpuid(1, 0), machine.cpuid(7, 0));
    let features = CpuFeatures::from_cpuid(CpuidLeaves {
        leaf1_ecx: leaf1.ecx,
        leaf7_ebx: leaf7.ebx,
        leaf7_ecx: leaf7.ecx,
        // As it is while a routine runs: see `sealer`.
        xcr0: switched::all_components(),
    });
    let implementation = Implementation::choose(features);
    log::info!("sealing memory by {}", implementation.path());
    ROOT.call_once(|| Root {
        key,
        implementation,
    });
    stack::wipe::<STACK_KIB>();
}

/// How pages are sealed, once a root key is there.
#[must_use]
pub fn implementation() -> Option<Implementation> {
    ROOT.get().map(|root| root.implementation)
}

/// Begins a life of `vm`. Nothing that leads to its key stays on the stack.
///
/// # Errors
/// [`KeyError`].
pub fn begin_life(vm: VmId, area: &mut SaveArea) -> Result<Life<Keys>, KeyError> {
    let life = derive(vm, area);
    stack::wipe::<STACK_KIB>();
    life
}

#[inline(never)]
fn derive(vm: VmId, area: &mut SaveArea) -> Result<Life<Keys>, KeyError> {
    let root = ROOT.get().ok_or(KeyError::WithoutRoot)?;
    loop {
        let number = NUMBERS.next().map_err(|_| KeyError::OutOfNumbers)?;
        let mut fresh = Zeroizing::new([0; 32]);
        if !random::fill(&mut *fresh) {
            return Err(KeyError::WithoutEntropy);
        }
        // Halves that are equal come once in 2^256 times; the next number gives others.
        if let Ok(keys) = VmKeys::derive(&root.key, vm, number.0.into(), &fresh) {
            let key = Keys {
                cipher: PageCipher::new(root.implementation, keys.xts(), area),
                mac: PageMac::new(root.implementation, keys.mac(), area),
            };
            return Ok(Life::new(number, Box::new(key)));
        }
    }
}
