//! The `[[vm]]` tables.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::error::{Complaints, ErrorKind, quoted};
use super::fields::{Field, Fields};
use super::name::{self, NameFault};
use super::payload;
use super::plan::{VmPlan, VmSpans};
use super::schema;
use super::size::{self, SizeFault};
use super::source::Span;
use super::{ByteSize, MAX_VMS, VmName};

/// The most virtual CPUs of a VM.
pub const MAX_VCPUS: u32 = 64;
/// The highest number a physical CPU can have.
pub const MAX_CPU: u32 = 1023;
/// The most bytes of a command line: Linux on x86 keeps 2048, the last of them zero.
pub const MAX_CMDLINE: usize = 2047;

/// Every `[[vm]]` of the manifest.
pub(super) fn read_all(root: &Fields<'_, '_>, complaints: &mut Complaints) -> Option<Vec<VmPlan>> {
    const HOW: &str = "a VM under the header [[vm]]";
    let Some(list) = root.optional(&schema::VM_TABLES) else {
        complaints
            .add(ErrorKind::NoVm, root.span)
            .found("no [[vm]]")
            .expected(HOW);
        return None;
    };
    if list.value.is_table() {
        list.wrong_type(HOW, complaints)
            .help("write [[vm]] with two brackets: there can be several");
        return None;
    }
    let array = list.array(HOW, complaints)?;
    if array.is_empty() {
        complaints
            .add(ErrorKind::NoVm, list.span)
            .found("an empty list")
            .expected(HOW);
    }
    if let Some(beyond) = array.get(MAX_VMS) {
        complaints
            .add(ErrorKind::TooManyVms, beyond.span().into())
            .found(format!("{} VMs", array.len()))
            .expected(format!("at most {MAX_VMS}"));
        return None;
    }
    let mut names = Vec::new();
    let mut vms = Vec::new();
    for element in array.iter() {
        let span = element.span().into();
        let field = Field {
            key: &schema::VM_TABLES,
            value: element.get_ref(),
            span,
        };
        if let Some(fields) = field.table(&schema::VM, HOW, complaints) {
            vms.extend(read(&fields, &mut names, complaints));
        }
    }
    Some(vms)
}

/// One `[[vm]]`. Every key is read before any is looked at, so that one fault does not hide the next.
fn read(
    fields: &Fields<'_, '_>,
    names: &mut Vec<VmName>,
    complaints: &mut Complaints,
) -> Option<VmPlan> {
    let name = fields
        .required(&schema::NAME, complaints)
        .and_then(|field| read_name(&field, names, complaints));
    let kernel = fields
        .required(&schema::KERNEL_PAYLOAD, complaints)
        .and_then(|field| payload::read(&field, &payload::KERNEL_KEYS, complaints));
    let initrd = match fields.optional(&schema::INITRD_PAYLOAD) {
        Some(field) => payload::read(&field, &payload::INITRD_KEYS, complaints).map(Some),
        None => Some(None),
    };
    let cmdline = match fields.optional(&schema::CMDLINE) {
        Some(field) => read_cmdline(&field, complaints),
        None => Some(String::new()),
    };
    let memory = fields
        .required(&schema::MEMORY, complaints)
        .and_then(|field| read_memory(&field, complaints));
    let vcpus = match fields.optional(&schema::VCPUS) {
        Some(field) => field.integer_in(1..=MAX_VCPUS, complaints),
        None => Some(1),
    };
    let cpus = match fields.optional(&schema::CPUS) {
        Some(field) => read_cpus(&field, complaints).map(Some),
        None => Some(None),
    };
    let restart = fields.choice_or_default(&schema::RESTART, complaints);

    let span_of = |key| fields.optional(key).map_or(fields.span, |field| field.span);
    let (cpus, cpu_spans) = cpus?.unzip();
    Some(VmPlan {
        name: name?,
        kernel: kernel?,
        initrd: initrd?,
        cmdline: cmdline?,
        memory: memory?,
        vcpus: vcpus?,
        cpus,
        restart: restart?,
        spans: VmSpans {
            name: span_of(&schema::NAME),
            kernel: span_of(&schema::KERNEL_PAYLOAD),
            initrd: span_of(&schema::INITRD_PAYLOAD),
            memory: span_of(&schema::MEMORY),
            vcpus: span_of(&schema::VCPUS),
            cpus: cpu_spans.unwrap_or_default(),
        },
    })
}

fn read_name(
    field: &Field<'_, '_>,
    names: &mut Vec<VmName>,
    complaints: &mut Complaints,
) -> Option<VmName> {
    let text = field.string(complaints)?;
    let fault = match VmName::parse(text) {
        Ok(name) if names.contains(&name) => {
            complaints
                .add(ErrorKind::DuplicateName, field.span)
                .found(quoted(text))
                .expected("a name that no VM before this one has");
            return None;
        }
        Ok(name) => {
            names.push(name.clone());
            return Some(name);
        }
        Err(fault) => fault,
    };
    let kind = match fault {
        NameFault::Empty => ErrorKind::EmptyName,
        NameFault::TooLong => ErrorKind::LongName,
        NameFault::Character(_) => ErrorKind::NameCharacter,
    };
    let complaint = complaints.add(kind, field.span);
    complaint.found(quoted(text)).expected(format!(
        "1 to {} lower-case letters, digits and `-`, a letter first",
        name::MAX_LENGTH
    ));
    if let NameFault::Character(stray) = fault {
        let suggestion: String = text
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_lowercase()
                } else {
                    '-'
                }
            })
            .collect();
        match VmName::parse(&suggestion) {
            Ok(name) => complaint.help(format!("try \"{name}\"")),
            Err(_) => complaint.help(format!(
                "the character {stray:?} cannot stand where it does"
            )),
        };
    }
    None
}

fn read_cmdline(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<String> {
    let text = field.string(complaints)?;
    if let Some(stray) = text.chars().find(|c| !c.is_ascii_graphic() && *c != ' ') {
        complaints
            .add(ErrorKind::CmdlineCharacter, field.span)
            .found(format!("the character {stray:?}"))
            .expected("printable ASCII");
        return None;
    }
    if text.len() > MAX_CMDLINE {
        complaints
            .add(ErrorKind::LongCmdline, field.span)
            .found(format!("{} bytes", text.len()))
            .expected(format!(
                "at most {MAX_CMDLINE} bytes, which is all that Linux keeps"
            ));
        return None;
    }
    Some(String::from(text))
}

fn read_memory(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<ByteSize> {
    if let Some(number) = field.value.as_integer() {
        let number = String::from(number.as_str());
        let complaint = field.wrong_type("a size in quotes, such as \"256M\"", complaints);
        if ByteSize::parse_memory(&format!("{number}M")).is_ok() {
            complaint.help(format!("did you mean \"{number}M\"?"));
        }
        return None;
    }
    let text = field.string(complaints)?;
    let fault = match ByteSize::parse_memory(text) {
        Ok(memory) => return Some(memory),
        Err(fault) => fault,
    };
    const HOW: &str = "a whole number and one of K, KiB, M, MiB, G, GiB, T, TiB, such as \"256M\"";
    let (kind, expected) = match fault {
        SizeFault::NoNumber => (ErrorKind::SizeNumber, String::from(HOW)),
        SizeFault::NoUnit => (ErrorKind::SizeUnitMissing, String::from(HOW)),
        SizeFault::UnknownUnit => (ErrorKind::SizeUnit, String::from(HOW)),
        SizeFault::TooSmall => (
            ErrorKind::SizeTooSmall,
            format!("at least {}", size::GRANULE),
        ),
        SizeFault::TooLarge => (ErrorKind::SizeTooLarge, format!("at most {}", size::MAX)),
        SizeFault::Unaligned { .. } => (
            ErrorKind::SizeUnaligned,
            format!("a multiple of {}", size::GRANULE),
        ),
    };
    let complaint = complaints.add(kind, field.span);
    complaint.found(quoted(text)).expected(expected);
    match fault {
        SizeFault::Unaligned { below, above } => {
            complaint.help(format!("the nearest are \"{below}\" and \"{above}\""));
        }
        SizeFault::NoUnit | SizeFault::UnknownUnit => {
            if let Some(guess) = guess_unit(text) {
                complaint.help(format!("did you mean \"{guess}\"?"));
            }
        }
        _ => {}
    }
    None
}

/// What a size in the units of another tool was most likely meant to be.
fn guess_unit(text: &str) -> Option<ByteSize> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit)?;
    let unit = unit
        .trim()
        .chars()
        .next()
        .unwrap_or('M')
        .to_ascii_uppercase();
    ByteSize::parse_memory(&format!("{digits}{unit}")).ok()
}

/// A set of CPUs, sorted, with the place of each.
fn read_cpus(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<(Vec<u32>, Vec<Span>)> {
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
            .help("leave `cpus` out to allow every CPU");
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
                        .found(format!("CPU {cpu} a second time"))
                        .expected("each CPU once");
                    sound = false;
                }
                Err(index) => set.insert(index, (cpu, span)),
            },
            None => sound = false,
        }
    }
    sound.then(|| set.into_iter().unzip())
}
