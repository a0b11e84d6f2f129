//! The set of physical CPUs that a VM has to itself.

use alloc::vec::Vec;

use super::error::{Complaints, ErrorKind};
use super::fields::Field;
use super::source::Span;

/// The highest number a physical CPU can have.
pub const MAX_CPU: u32 = 1023;

/// A set of CPUs.
pub(super) struct CpuSet {
    /// Their numbers, ascending, none twice.
    pub(super) cpus: Vec<u32>,
    /// The place of each.
    pub(super) spans: Vec<Span>,
}

/// The CPUs of a VM that has `vcpus` vCPUs, where that is known: one more would never run anything.
pub(super) fn read(
    field: &Field<'_, '_>,
    vcpus: Option<u32>,
    complaints: &mut Complaints,
) -> Option<CpuSet> {
    let set = read_set(field, complaints)?;
    let count = set.cpus.len();
    if let Some(vcpus) = vcpus.filter(|vcpus| count > *vcpus as usize) {
        complaints
            .add(ErrorKind::SpareCpus, field.span)
            .found(format_args!(
                "{count} CPUs for {vcpus} vCPU{}",
                plural(vcpus)
            ))
            .expected(format_args!("at most {vcpus}: each vCPU runs on one CPU"))
            .help("take CPUs away, or give the VM more `vcpus`");
        return None;
    }
    Some(set)
}

fn plural(count: u32) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn read_set(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<CpuSet> {
    const HOW: &str = "an array of CPU numbers, such as [0, 1]";
    if field.value.is_integer() {
        field
            .wrong_type(HOW, complaints)
            .help("write it in brackets");
        return None;
    }
    let array = field.array(HOW, complaints)?;
    if array.is_empty() {
        complaints
            .add(ErrorKind::NoCpus, field.span)
            .found("no CPU at all")
            .expected("at least one CPU number")
            .help("leave `cpus` out to share the CPUs that no VM has to itself");
        return None;
    }
    let mut set: Vec<(u32, Span)> = Vec::new();
    let mut sound = true;
    for element in array.iter() {
        let span = element.span().into();
        let element = Field {
            key: field.key,
            value: element.get_ref(),
            span,
        };
        match element.integer_in(0..=MAX_CPU, complaints) {
            Some(cpu) => match set.binary_search_by_key(&cpu, |(cpu, _)| *cpu) {
                Ok(_) => {
                    complaints
                        .add(ErrorKind::DuplicateCpu, span)
                        .found(format_args!("CPU {cpu} a second time"))
                        .expected("each CPU once");
                    sound = false;
                }
                Err(index) => set.insert(index, (cpu, span)),
            },
            None => sound = false,
        }
    }
    let (cpus, spans) = set.into_iter().unzip();
    sound.then_some(CpuSet { cpus, spans })
}
