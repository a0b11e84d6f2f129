//! How a VM's memory is kept from everybody else: `encryption`, `window` and `window_samples` of a `[[vm]]`.

use super::amount;
use super::error::{Complaints, ErrorKind};
use super::fields::Fields;
use super::plan::{DevicePlan, Encryption, EncryptionMode};
use super::schema;
use super::size::ByteSize;

/// The most samples of one kind that a VM can be asked for.
pub const MAX_SAMPLES: u32 = 100_000;

/// The mode of a VM with `memory` and `devices`, with what belongs to it.
pub(super) fn read(
    vm: &Fields<'_, '_>,
    memory: Option<ByteSize>,
    devices: Option<&[DevicePlan]>,
    complaints: &mut Complaints,
) -> Option<Encryption> {
    let mode = vm.choice_or_default::<EncryptionMode>(&schema::ENCRYPTION, complaints);
    let size = vm
        .optional(&schema::WINDOW)
        .map(|field| (amount::read_size(&field, complaints), field.span));
    let samples = vm.integer_or(&schema::WINDOW_SAMPLES, 0..=MAX_SAMPLES, 0, complaints);
    let mode = mode?;
    if mode != EncryptionMode::Off
        && let Some(device) = devices.unwrap_or_default().first()
    {
        complaints
            .add(ErrorKind::EncryptionBesideDevice, device.span)
            .found(format_args!(
                "a real device, with `encryption = \"{mode}\"`"
            ))
            .expected("no device that reaches all of the VM's memory whenever it likes")
            .help("write `encryption = \"off\"`, or remove the device");
        return None;
    }
    if mode != EncryptionMode::Window {
        let stray = [&schema::WINDOW, &schema::WINDOW_SAMPLES]
            .into_iter()
            .filter_map(|key| vm.optional(key));
        let mut is_fine = true;
        for field in stray {
            is_fine = false;
            complaints
                .add(ErrorKind::WindowWithoutMode, field.span)
                .found(format_args!(
                    "`{}`, with `encryption = \"{mode}\"`",
                    field.key.name
                ))
                .expected("it only beside `encryption = \"window\"`")
                .help("write that, or remove the key");
        }
        return is_fine.then_some(match mode {
            EncryptionMode::AtRest => Encryption::AtRest,
            _ => Encryption::Off,
        });
    }
    let Some((size, span)) = size else {
        vm.required(&schema::WINDOW, complaints);
        return None;
    };
    let (size, memory) = (size?, memory?);
    if size > memory {
        complaints
            .add(ErrorKind::WindowBeyondMemory, span)
            .found(format_args!("{size} of {memory}"))
            .expected("at most the VM's memory");
        return None;
    }
    Some(Encryption::Window {
        size,
        samples: samples?,
    })
}
