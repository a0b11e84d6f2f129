//! What handling an exit reaches: the processor, guest memory, the VM's vCPUs and its devices.
//!
//! The shell implements these traits with instructions and locks, tests with maps.

use crate::addr::Gpa;
use crate::bus::{GuestRam, Signal, Signals};
#[cfg(doc)]
use crate::cpuid::CpuidTable;
use crate::device::board::Devices;
use crate::fault::StopReason;
use crate::hypercall::HypercallError;
#[cfg(doc)]
use crate::split::Split;
use crate::split::{Fetch, KernelEntry, KernelHalf, Named, Opening, Place, Side, Way};
use crate::vmx::field::VmcsAccess;

use super::mail::Mail;

/// What a vCPU does to the views of its VM, and to itself, where the VM has the kernel/user split. Of others nothing is called.
pub trait Sides {
    /// The view that the vCPU is in, wherever it switched to without an exit.
    fn side(&self) -> Side;
    /// Has the next entry be into the view of `side`, which is not `user`.
    fn enter_side(&mut self, side: Side);
    /// What `gpa` is to the split, in the view that the vCPU is in.
    fn place(&mut self, gpa: Gpa) -> Place;
    /// `kernel` is entered there, and its top-level table is `table`; which one is guarded: [`Split::begin`].
    ///
    /// # Errors
    /// The VM cannot go on.
    fn begin_split(&mut self, kernel: KernelEntry, table: Gpa) -> Result<Gpa, StopReason>;
    /// The kernel is no more: [`Split::forget`].
    fn forget_split(&mut self);
    /// Has the `user` view be without `half` but for what is `named`: [`Split::admit`].
    ///
    /// # Errors
    /// The VM cannot go on.
    fn admit(&mut self, half: &KernelHalf, named: &Named<'_>) -> Result<(), StopReason>;
    /// Has the `user` view be without `half`: [`Split::cover`].
    ///
    /// # Errors
    /// The VM cannot go on.
    fn cover(&mut self, half: &KernelHalf) -> Result<(), StopReason>;
    /// How often the guest changed something that it was kept from changing unseen: [`Split::changes`].
    fn changes(&mut self) -> u64;
    /// Whether the kernel's code has to be found, because the processor does not tell it from user code's.
    fn finds_code(&self) -> bool;
    /// The kernel executes the page of `gpa`: [`Split::find_code`].
    ///
    /// # Errors
    /// The VM cannot go on.
    fn find_code(&mut self, gpa: Gpa) -> Result<Fetch, StopReason>;
    /// The kernel writes to code of its own: [`Split::lose_code`].
    ///
    /// # Errors
    /// The VM cannot go on.
    fn lose_code(&mut self, gpa: Gpa) -> Result<(), StopReason>;
    /// Has pages of user code's be private, all or none: [`Split::conceal`].
    ///
    /// # Errors
    /// What the caller is told.
    fn conceal(&mut self, pages: &[Gpa]) -> Result<(), HypercallError>;
    /// Gives private pages back to the kernel as they are, all or none: [`Split::reveal`].
    ///
    /// # Errors
    /// What the caller is told.
    fn reveal(&mut self, pages: &[Gpa]) -> Result<(), HypercallError>;
    /// Gives a private page back to the kernel with nothing in it: [`Split::give_up`].
    ///
    /// # Errors
    /// The VM cannot go on.
    fn give_up(&mut self, gpa: Gpa) -> Result<(), StopReason>;
    /// Whether the page of `gpa` is private.
    fn is_private(&mut self, gpa: Gpa) -> bool;
    /// Whether the VM has the split, so that the upper half of the address space is never user code's.
    fn splits(&self) -> bool;
    /// As [`Sides::admit`], of the half of the top-level table `table`: [`Split::let_in`]. Has the next entry be into that view; or says that it is not to be,
    /// because what is named has changed.
    ///
    /// # Errors
    /// The VM cannot go on.
    fn enter_user(
        &mut self,
        table: Gpa,
        half: &KernelHalf,
        named: &Named<'_>,
    ) -> Result<bool, StopReason>;
    /// Whether guests of this processor can switch views without an exit.
    fn switches(&self) -> bool;
    /// Opens a passage, where the kernel allows one: [`Split::open`].
    ///
    /// # Errors
    /// The VM cannot go on.
    fn open(&mut self, opening: &Opening<'_>) -> Result<(), StopReason>;
    /// Whether the passage, where there is one, was made from the page of `gpa`: [`Split::makes_way`].
    fn makes_way(&mut self, gpa: Gpa) -> bool;
    /// Where the vCPU goes through the passage: [`Split::way`].
    fn way(&mut self) -> Option<Way>;
    /// Loads `IA32_LSTAR` with a canonical address.
    fn set_lstar(&mut self, value: u64);
}

/// What handling an exit can do to the processor, to guest memory, and to the vCPUs of the VM.
pub trait Cpu: VmcsAccess + Signals + Sides {
    /// The host's time-stamp counter.
    fn tsc(&self) -> u64;
    /// Loads XCR0 with a value that [`CpuidTable::validate_xcr0`] accepted.
    fn set_xcr0(&mut self, value: u64);
    /// Loads CR2, which VM entries do not.
    fn set_cr2(&mut self, value: u64);
    /// Loads DR6, which VM entries do not.
    fn set_dr6(&mut self, value: u64);
    /// Forgets the guest's linear translations, which carry its VPID through exits.
    fn forget_translations(&mut self);
    /// Takes the host interrupt that the last exit acknowledged: whoever it is for hears of it, and it is ended.
    fn take_host_interrupt(&mut self, vector: u8);
    /// Makes the page at `gpa` readable to the guest, if it is encrypted memory of the VM's; `None` if it is not.
    ///
    /// # Errors
    /// Why the VM cannot go on.
    fn bring(&mut self, gpa: Gpa) -> Option<Result<(), StopReason>>;
    /// Copies guest memory from a physical address on; false where there is none.
    fn read_guest(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool;
    /// Copies to guest memory from a physical address on; false where there is none.
    fn write_guest(&mut self, gpa: Gpa, bytes: &[u8]) -> bool;
    /// What came of the signals that handling this exit sent.
    fn take_signalled(&mut self) -> Option<Signalled>;
}

/// What came of the signals that handling one exit sent, by the vCPU or by its devices on its behalf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Signalled {
    /// What the vCPU itself got.
    pub mail: Option<Mail>,
    /// Another vCPU of the same CPU got something.
    pub leave: bool,
}

/// A [`Cpu`] as device models see it.
pub struct CpuBus<'a, C>(pub &'a mut C);

impl<C: Cpu> GuestRam for CpuBus<'_, C> {
    fn read(&mut self, gpa: Gpa, bytes: &mut [u8]) -> bool {
        self.0.read_guest(gpa, bytes)
    }

    fn write(&mut self, gpa: Gpa, bytes: &[u8]) -> bool {
        self.0.write_guest(gpa, bytes)
    }
}

impl<C: Cpu> Signals for CpuBus<'_, C> {
    fn vcpus(&self) -> u32 {
        self.0.vcpus()
    }

    fn signal(&mut self, to: u32, signal: Signal) {
        self.0.signal(to, signal);
    }
}

/// The devices of the vCPU's VM, which its vCPUs share: the shell has them behind a lock.
pub trait DeviceAccess {
    /// Works on the devices, alone.
    fn with<T>(&mut self, work: impl FnOnce(&mut Devices) -> T) -> T;
}
