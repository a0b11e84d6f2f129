//! Events about devices and the units in front of them.

use core::fmt::{self, Display};

use super::json::Object;
use crate::vtd::fault::{FaultRecord, Place};

/// A device was kept from something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFault<'a> {
    /// The unit's number.
    pub unit: usize,
    /// What it recorded.
    pub record: FaultRecord,
    /// The VM that has the device; empty where none has.
    pub vm: &'a str,
    /// Faults of the same device that were not told before this one.
    pub untold: u64,
}

/// What one step with second-level tables cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VtdCosts<'a> {
    /// The step.
    pub what: &'a str,
    /// Frames of tables that it took, or that came back.
    pub table_frames: u64,
    /// Batches handed to units.
    pub submissions: u64,
    /// Requests in them.
    pub requests: u64,
    /// Looks at whether they were done.
    pub waits: u64,
}

/// How a case of a self-test ended.
#[derive(Clone, Copy)]
pub struct SelfTestCase<'a> {
    /// The case.
    pub case: &'a str,
    /// `ok`, `failed` or `skipped`.
    pub outcome: &'a str,
    /// What was seen.
    pub detail: &'a dyn Display,
}

impl DmaFault<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        let Self {
            unit,
            record,
            vm,
            untold,
        } = self;
        object.number("unit", *unit as u64)?;
        object.text("source", &record.source)?;
        object.text("vm", vm)?;
        object.text("access", &record.access)?;
        object.text("reason", &record.reason)?;
        object.number("code", record.reason.raw().into())?;
        let (interrupt, at) = match record.place {
            Place::Page(page) => (false, page.0),
            Place::Interrupt(index) => (true, index.into()),
        };
        object.truth("interrupt", interrupt)?;
        object.hex("at", at)?;
        object.number("untold", *untold)
    }
}

impl VtdCosts<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.text("what", &self.what)?;
        object.number("table_frames", self.table_frames)?;
        object.number("submissions", self.submissions)?;
        object.number("requests", self.requests)?;
        object.number("waits", self.waits)
    }
}

impl SelfTestCase<'_> {
    pub(super) fn write(&self, object: &mut Object<'_>) -> fmt::Result {
        object.text("case", &self.case)?;
        object.text("outcome", &self.outcome)?;
        object.text("detail", self.detail)
    }
}
