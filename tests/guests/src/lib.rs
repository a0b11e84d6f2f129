//! Shared runtime of the bare-metal test guests.
//!
//! A guest is entered by PVH or as a flat image (`boot`), with its own page tables, GDT and IDT. It talks on COM1
//! ([`print!`], [`println!`]), survives the faults it expects ([`attempt!`], [`trap`]), reads its parameters from the
//! command line ([`params::Params`]) and ends with [`power::off`]. Protocol: `case <name>: ok` or
//! `case <name>: FAIL <count> checks` lines, `detail` lines before a failure, then `all cases done`, then power off.
#![no_std]

pub mod acpi;
mod alloc_none;
pub mod apic;
mod boot;
pub mod case;
pub mod cpu;
pub mod params;
pub mod pci;
pub mod power;
pub mod random;
pub mod serial;
pub mod smp;
pub mod timer;
pub mod trap;
pub mod virtio;
pub mod window;

/// Names the guest's main function, of type `fn(&Params)`; when it returns, the guest powers off.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        #[allow(unsafe_code, reason = "the boot code calls this symbol")]
        // SAFETY: the one definition of this name in the guest's image.
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(start_info: u64) -> ! {
            let main: fn(&$crate::params::Params) = $main;
            $crate::trap::install();
            main(&$crate::params::Params::read(start_info));
            $crate::println!("all cases done");
            $crate::power::off()
        }
    };
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("case runtime: FAIL {info}");
    power::off()
}
