//! The end of a large VM: its keys first, then every frame, and the books after that.

use serde_json::Value;

use super::victim::{AT_REST, Victim};
use crate::context::{Context, Setup};
use crate::manifest::{Group, Manifest};
use crate::outcome::Outcome;
use crate::scenario::{Ground, Scenario};

const LIMIT: u64 = 600;
const MACHINE_MIB: u64 = 1536;
/// Frames of the VM's gigabyte.
const FRAMES: u64 = 1 << 18;
const LARGE: Victim = Victim {
    name: "large",
    seed: 0x5eed_0021,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "secmem_a_vm_of_a_gigabyte_is_destroyed_keys_first_and_whole",
        Ground::Bochs,
        LIMIT,
        gigabyte,
    )]
}

fn gigabyte(context: &Context<'_>) -> Outcome {
    let vm = Manifest {
        memory: "1024M",
        ..LARGE.manifest(AT_REST)
    };
    let setup = Setup {
        memory_mib: MACHINE_MIB,
        ..Setup::default()
    };
    let mut machine = context.start(context.boot_group(&Group::of([vm]))?, setup)?;
    LARGE.ready(&mut machine)?;
    LARGE.ensure_intact(&mut machine)?;
    machine.obey("stop large hard")?;
    let destroyed = machine.event_of(LARGE.name, "vm-destroyed", 0)?;
    let numbers = ["freed", "scrubbed"].map(|key| destroyed.number(key));
    machine.ensure(numbers == [Some(FRAMES); 2], || {
        format!("not {FRAMES} frames: {}", destroyed.0)
    })?;
    let books = machine.books()?;
    let of_vms = books.0.pointer("/owners/vm").and_then(Value::as_u64);
    let balanced = books.0.get("balanced") == Some(&Value::Bool(true));
    machine.ensure(balanced && of_vms.unwrap_or(0) == 0, || {
        format!("the books are not in order: {}", books.0)
    })?;
    context.note(format!("{}", destroyed.0));
    machine.ensure_events(&[
        "vm-start",
        "vm-stop",
        "secmem-end",
        "vm-destroyed",
        "machine",
    ])
}
