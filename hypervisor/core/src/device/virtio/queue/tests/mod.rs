//! Tests of a virtqueue: the rules of [`chain`]s, the rules of the [`ring`]s, and a million hostile chains.

mod chain;
mod fuzz;
mod ring;

use super::*;
use crate::device::virtio::testing::{Machine, Ring};

const RAM: usize = 0x20_0000;

fn plain() -> (Machine, Ring, Queue) {
    with(Features::VERSION_1 | Features::INDIRECT)
}

fn with(features: Features) -> (Machine, Ring, Queue) {
    let ring = Ring::new(0x1000, 16);
    let queue = ring.queue(features);
    (Machine::new(RAM), ring, queue)
}
