//! Tests of the remapping units: a fake unit that does what the manual says, and trees against a flat model.

mod capability;
mod context;
mod domain;
mod fake;
mod fault;
mod interrupt;
mod model;
mod queue;
mod unit;
