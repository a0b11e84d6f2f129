//! What happens between vCPUs, between a VM and its devices, and between VMs.
//!
//! | row | needs | one sample |
//! |---|---|---|
//! | `ipi-self` | - | an interrupt to itself, until it was handled |
//! | `ipi` | a second vCPU | an interrupt to it, which it answers: two interrupts, each to a vCPU that sleeps |
//! | `virtio-block` | a disk | one sector read, from the notification until its interrupt was handled |
//! | `virtio-net` | a VM with the guest `virtio`, `case=net role=pong`, on the same segment | a frame there and back |
//! | `vm-switch` | a VM with the guest `burn`, `mode=idle`, on the same CPU | how long this VM stood still while the other ran: to it, its few instructions, and back |

use core::sync::atomic::{AtomicBool, Ordering};

use test_guests::apic::{self, Command};
use test_guests::params::Params;
use test_guests::virtio::block::{Block, TYPE_IN};
use test_guests::virtio::net::FRAME_BYTES;
use test_guests::virtio::peer::Station;
use test_guests::{acpi, cpu, pci, smp, timer, trap};

use crate::sample::Samples;

const SELF: u8 = 0x50;
const PING: u8 = 0x51;
const PONG: u8 = 0x52;
const BLOCK: u8 = 0x53;
/// Longer than anything measured here takes.
const LIMIT: u64 = 2_000_000_000;
/// A vCPU that stood still for less did so for an exit of its own.
const SHORTEST_SWITCH: u64 = 1000;

type Outcome = Result<(), &'static str>;

/// Interrupts to itself and, where there is one, to a second vCPU and back.
pub(crate) fn vcpus(samples: &mut Samples, params: &Params) -> Outcome {
    smp::prepare().map_err(|_| "x2APIC mode refused")?;
    let mut wrong = false;
    samples.run_operation("ipi-self", || {
        let wanted = trap::count(SELF).wrapping_add(1);
        cpu::enable_interrupts();
        wrong |= apic::write(apic::SELF_IPI, u64::from(SELF)).is_err();
        timer::spin_until(LIMIT, || trap::count(SELF) == wanted);
        cpu::disable_interrupts();
    });
    let own = apic::id();
    let other = acpi::apic_ids(params)
        .find(|&id| id != own)
        .ok_or("there is no second vCPU")?;
    if smp::start(1, other) != Ok(true) {
        return Err("the second vCPU does not start");
    }
    smp::give(1, answer).map_err(|_| "the second vCPU cannot be woken")?;
    samples.run_operation("ipi", || {
        let wanted = trap::count(PONG).wrapping_add(1);
        wrong |= apic::send(Command::interrupt(PING).to(other)).is_err();
        wrong |= !timer::sleep_until(LIMIT, || trap::count(PONG) == wanted);
    });
    DONE.store(true, Ordering::Release);
    let woken = apic::send(Command::interrupt(PING).to(other));
    if wrong || woken.is_err() || !smp::wait_for(1, LIMIT) {
        return Err("an interrupt got lost");
    }
    Ok(())
}

static DONE: AtomicBool = AtomicBool::new(false);

/// The second vCPU: answers each interrupt.
fn answer(_: usize) {
    let first = smp::apic_id(0);
    // None is sent before the first that is measured.
    let mut answered = 0;
    loop {
        timer::sleep_until(u64::MAX, || trap::count(PING) != answered);
        if DONE.load(Ordering::Acquire) || apic::send(Command::interrupt(PONG).to(first)).is_err() {
            return;
        }
        answered = answered.wrapping_add(1);
    }
}

/// Requests to a disk.
pub(crate) fn block(samples: &mut Samples, params: &Params) -> Outcome {
    pci::find(params);
    apic::enable().map_err(|_| "x2APIC mode refused")?;
    let mut block = Block::open(0, 0, Some(BLOCK)).map_err(|_| "there is no disk")?;
    block.prepare(TYPE_IN, 0, 1);
    let mut wrong = false;
    cpu::enable_interrupts();
    samples.run_operation("virtio-block", || {
        let wanted = trap::count(BLOCK).wrapping_add(1);
        block.queue.offer(0);
        block.queue.kick();
        wrong |= !timer::spin_until(LIMIT, || trap::count(BLOCK) == wanted);
        wrong |= block.queue.take().is_none();
    });
    cpu::disable_interrupts();
    if wrong {
        return Err("a request got lost");
    }
    Ok(())
}

/// Frames to another VM and back.
pub(crate) fn net(samples: &mut Samples, params: &Params) -> Outcome {
    pci::find(params);
    apic::enable().map_err(|_| "x2APIC mode refused")?;
    let mut station = Station::open().map_err(|_| "there is no network card")?;
    let peer = station.find_peer().ok_or("nobody answers")?;
    let mut number = 0;
    let mut wrong = false;
    samples.run_operation("virtio-net", || {
        number += 1;
        wrong |= !station.bounce(peer, number, *FRAME_BYTES.start(), LIMIT);
    });
    if wrong {
        return Err("a frame got lost");
    }
    Ok(())
}

/// Standing still while another VM runs.
pub(crate) fn switch(samples: &mut Samples) -> Outcome {
    let mut nothing = false;
    samples.run_samples("vm-switch", || {
        let start = cpu::ticks();
        let mut last = start;
        loop {
            let now = cpu::ticks();
            let gap = now.wrapping_sub(last);
            if gap > SHORTEST_SWITCH {
                return gap;
            }
            if now.wrapping_sub(start) > LIMIT {
                nothing = true;
                return 0;
            }
            last = now;
        }
    });
    if nothing {
        return Err("no other VM runs here");
    }
    Ok(())
}
