//! The secure memory manager: what belongs to a VM is readable to that VM only.
//!
//! Where the manifest asks for it, a VM's pages are *sealed* while they are not used: encrypted where they lie, under a key of this one
//! life of the VM, with a tag that is kept here. Whoever reads the frame (the operator, a dump, a VM that gets it by mistake) finds
//! ciphertext; whoever writes to it is found out when the VM needs the page. The [`crate::ledger`] knows of each frame whether it is
//! sealed, under which key and for the how manieth time, and gives nobody a right to a sealed one but for sealing and unsealing.
//!
//! | module | what it decides |
//! |---|---|
//! | [`space`] | a VM's pages: fresh, readable or sealed, and each step between |
//! | [`clock`] | which page to seal next |
//! | [`pages`] | which frame is which page |
//! | [`keys`] | which key belongs to which life |
//! | [`place`] | what a sealed page is bound to |
//! | [`refusal`] | why a VM cannot go on |
//! | [`tmemk`] | the processor's own memory encryption, which is used in addition where the machine has it |
//!
//! The cipher is [`bulkhead-crypto`](../../../crypto/src/lib.rs)'s, called by the shell.

pub mod clock;
pub mod keys;
pub mod pages;
pub mod place;
pub mod refusal;
pub mod space;
#[cfg(test)]
mod tests;
pub mod tmemk;

pub use keys::{KeyNumbers, Life, NoNumberLeft};
pub use pages::{PageMap, RamRange};
pub use place::{Place, Tag};
pub use refusal::Refusal;
pub use space::{Counts, Mapper, Records, Sealer, Space, Survey};
