//! Has the firmware clear memory at the next reset, whoever causes it: what boots then finds no key there that this boot left ("TCG PC
//! Client Platform Reset Attack Mitigation Specification").

use uefi::runtime::{self, VariableVendor};
use uefi::{CStr16, Status, cstr16, guid};

const VARIABLE: &CStr16 = cstr16!("MemoryOverwriteRequestControl");
const VENDOR: VariableVendor = VariableVendor(guid!("e20939be-32d4-41be-a150-897f85d49829"));
/// `ClearMemory`: the firmware clears memory before it starts anything, and takes the bit back.
const CLEAR_MEMORY: u8 = 1 << 0;

/// Asks the firmware for it. It is asked anew at each boot: nothing here takes it back, for nothing here ends in a way that leaves no
/// keys behind.
pub fn request() {
    match set() {
        Ok(()) => log::info!("memory: cleared by the firmware at the next reset"),
        Err(status) => {
            log::warn!("memory: not cleared by the firmware at the next reset: {status}")
        }
    }
}

/// The variable is there before anybody asks, where the firmware has it; its attributes are the firmware's.
#[inline(never)]
fn set() -> Result<(), Status> {
    let mut value = [0];
    let read = runtime::get_variable(VARIABLE, &VENDOR, &mut value);
    let (_, attributes) = read.map_err(|error| error.status())?;
    let [value] = value;
    // A locked one cannot be written, and asks for it perhaps.
    if value & CLEAR_MEMORY != 0 {
        return Ok(());
    }
    let written = runtime::set_variable(VARIABLE, &VENDOR, attributes, &[value | CLEAR_MEMORY]);
    written.map_err(|error| error.status())
}
