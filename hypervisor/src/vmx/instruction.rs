//! The VMX instructions, one function each.
//!
//! All of them report failure in CF and ZF (Intel SDM vol. 3C, "Conventions").

use bulkhead_core::addr::Hpa;
use bulkhead_core::ept::{EptFeatures, Eptp};
use bulkhead_core::vmx::field::{self, VmcsAccess};
use core::arch::asm;

/// A VMX instruction failed; the error number where a current VMCS could hold one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmxFailed {
    /// Which instruction.
    pub instruction: &'static str,
    /// The VM-instruction error number, 0 where there was no VMCS to hold it.
    pub error: u32,
}

impl core::fmt::Display for VmxFailed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "{} failed, VM-instruction error {}",
            self.instruction, self.error
        )
    }
}

impl core::error::Error for VmxFailed {}

fn check(instruction: &'static str, carry: u8, zero: u8) -> Result<(), VmxFailed> {
    match (carry, zero) {
        (0, 0) => Ok(()),
        (0, _) => Err(VmxFailed {
            instruction,
            error: Current.read(field::INSTRUCTION_ERROR),
        }),
        _ => Err(VmxFailed {
            instruction,
            error: 0,
        }),
    }
}

/// VMXON.
///
/// # Errors
/// The region or the CPU's state is not as VMXON wants it.
///
/// # Safety
/// `region` must be a frame of the hypervisor's that starts with the VMCS revision and is used for nothing else.
pub unsafe fn vmxon(region: Hpa) -> Result<(), VmxFailed> {
    let address = region.0;
    let (carry, zero): (u8, u8);
    // SAFETY: the caller vouches for the region; VMXON changes no memory that Rust knows of.
    unsafe {
        asm!("vmxon [{}]", "setc {}", "setz {}", in(reg) &raw const address, out(reg_byte) carry,
             out(reg_byte) zero, options(nostack));
    }
    // Without a current VMCS there is no error number to read.
    if carry | zero == 0 {
        Ok(())
    } else {
        Err(VmxFailed {
            instruction: "VMXON",
            error: 0,
        })
    }
}

/// VMXOFF. There is no current VMCS afterwards.
///
/// # Panics
/// The CPU is not in VMX operation.
pub fn vmxoff() {
    let (carry, zero): (u8, u8);
    // SAFETY: forgets the current VMCS, which nothing uses without entering a guest or reading a field, and both fail.
    unsafe {
        asm!("vmxoff", "setc {}", "setz {}", out(reg_byte) carry, out(reg_byte) zero, options(nostack));
    }
    assert!(carry | zero == 0, "VMXOFF failed");
}

/// VMCLEAR: writes the VMCS back and forgets that it was launched.
///
/// # Errors
/// The region is not a VMCS's.
///
/// # Safety
/// As for [`vmxon`].
pub unsafe fn vmclear(region: Hpa) -> Result<(), VmxFailed> {
    let address = region.0;
    let (carry, zero): (u8, u8);
    // SAFETY: the caller vouches for the region.
    unsafe {
        asm!("vmclear [{}]", "setc {}", "setz {}", in(reg) &raw const address, out(reg_byte) carry,
             out(reg_byte) zero, options(nostack));
    }
    check("VMCLEAR", carry, zero)
}

/// VMPTRLD: makes the VMCS current.
///
/// # Errors
/// The region is not a VMCS's or has another revision.
///
/// # Safety
/// As for [`vmxon`].
pub unsafe fn vmptrld(region: Hpa) -> Result<(), VmxFailed> {
    let address = region.0;
    let (carry, zero): (u8, u8);
    // SAFETY: the caller vouches for the region.
    unsafe {
        asm!("vmptrld [{}]", "setc {}", "setz {}", in(reg) &raw const address, out(reg_byte) carry,
             out(reg_byte) zero, options(nostack));
    }
    check("VMPTRLD", carry, zero)
}

/// What the current VMCS says of an entry that was refused.
#[must_use]
pub fn entry_failure() -> VmxFailed {
    VmxFailed {
        instruction: "VM entry",
        error: Current.read(field::INSTRUCTION_ERROR),
    }
}

/// The INVEPT type that forgets what one root shows.
const ONE_CONTEXT: u64 = 1;
/// The INVEPT and INVVPID type that forgets everything.
const ALL_CONTEXTS: u64 = 2;

/// INVEPT of all EPT roots.
///
/// # Errors
/// The processor lacks this type of INVEPT, which the feature gate requires.
pub fn invept_all() -> Result<(), VmxFailed> {
    let descriptor = [0_u64; 2];
    let (carry, zero): (u8, u8);
    // SAFETY: forgetting translations is always allowed; the CPU walks the tables again.
    unsafe {
        asm!("invept {}, [{}]", "setc {}", "setz {}", in(reg) ALL_CONTEXTS, in(reg) &raw const descriptor,
             out(reg_byte) carry, out(reg_byte) zero, options(nostack));
    }
    check("INVEPT", carry, zero)
}

/// INVEPT of one EPT root.
///
/// # Errors
/// The processor lacks this type of INVEPT, or the pointer is none.
pub fn invept_one(view: Eptp) -> Result<(), VmxFailed> {
    let descriptor = [view.raw(), 0];
    let (carry, zero): (u8, u8);
    // SAFETY: as in `invept_all`.
    unsafe {
        asm!("invept {}, [{}]", "setc {}", "setz {}", in(reg) ONE_CONTEXT, in(reg) &raw const descriptor,
             out(reg_byte) carry, out(reg_byte) zero, options(nostack));
    }
    check("INVEPT", carry, zero)
}

/// INVVPID of all VPIDs.
///
/// # Errors
/// The processor lacks this type of INVVPID, which the feature gate requires.
pub fn invvpid_all() -> Result<(), VmxFailed> {
    let descriptor = [0_u64; 2];
    let (carry, zero): (u8, u8);
    // SAFETY: forgetting translations is always allowed.
    unsafe {
        asm!("invvpid {}, [{}]", "setc {}", "setz {}", in(reg) ALL_CONTEXTS, in(reg) &raw const descriptor,
             out(reg_byte) carry, out(reg_byte) zero, options(nostack));
    }
    check("INVVPID", carry, zero)
}

/// Has this CPU forget what guests' physical addresses mean, and what it knows of linear ones by that, of all VMs.
///
/// # Panics
/// The processor lacks what the feature gate requires.
pub fn forget_views() {
    if let Err(failed) = invept_all() {
        panic!("{failed}, which this processor has");
    }
}

/// Has this CPU forget the same of one VM, `view` being its root, or of all where the processor cannot tell them apart.
///
/// # Panics
/// As [`forget_views`].
pub fn forget_view(features: EptFeatures, view: Eptp) {
    if !features.contains(EptFeatures::INVEPT_SINGLE) {
        forget_views();
    } else if let Err(failed) = invept_one(view) {
        panic!("{failed}, which this processor has");
    }
}

/// Has this CPU forget whatever it knows of guests' addresses, physical and linear, of all VMs.
///
/// # Panics
/// The processor lacks what the feature gate requires.
pub fn forget_guests() {
    if let Err(failed) = invept_all().and_then(|()| invvpid_all()) {
        panic!("{failed}, which this processor has");
    }
}

/// The current VMCS of this CPU.
#[derive(Clone, Copy, Debug)]
pub struct Current;

impl VmcsAccess for Current {
    #[inline(always)]
    fn read_raw(&self, encoding: u32) -> u64 {
        let value: u64;
        // SAFETY: reads a field of the current VMCS; a field that does not exist jumps to a function that
        // never returns, so the value is only used when it is valid.
        unsafe {
            asm!("vmread {}, {}", "jbe {failed}", out(reg) value, in(reg) u64::from(encoding),
                 failed = sym access_failed, options(nostack));
        }
        value
    }

    #[inline(always)]
    fn write_raw(&mut self, encoding: u32, value: u64) {
        // SAFETY: every value written is checked in `bulkhead_core` or comes from it; the VMCS describes a
        // guest and the host state that `vmcs` set up.
        unsafe {
            asm!("vmwrite {}, {}", "jbe {failed}", in(reg) u64::from(encoding), in(reg) value,
                 failed = sym access_failed, options(nostack));
        }
    }
}

extern "sysv64" fn access_failed() -> ! {
    panic!("VMREAD or VMWRITE of a field that this processor lacks");
}
