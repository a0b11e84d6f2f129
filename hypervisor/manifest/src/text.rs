//! Texts with rules of their own: names and the command line.

use alloc::string::String;

use super::error::{Complaints, ErrorKind, quoted};
use super::fields::Field;
use super::name::{self, NameFault};

/// The most bytes of a command line: Linux on x86 keeps 2048, the last of them zero.
pub const MAX_CMDLINE: usize = 2047;

/// A name, by the `parse` of its type.
pub(super) fn read_name<N>(
    field: &Field<'_, '_>,
    parse: impl Fn(&str) -> Result<N, NameFault>,
    complaints: &mut Complaints,
) -> Option<N> {
    let text = field.string(complaints)?;
    let fault = match parse(text) {
        Ok(name) => return Some(name),
        Err(fault) => fault,
    };
    let kind = match fault {
        NameFault::Empty => ErrorKind::EmptyName,
        NameFault::TooLong => ErrorKind::LongName,
        NameFault::Character(_) => ErrorKind::NameCharacter,
    };
    let complaint = complaints.add(kind, field.span);
    complaint.found(quoted(text)).expected(format_args!(
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
        match parse(&suggestion) {
            Ok(_) => complaint.help(format_args!("try \"{suggestion}\"")),
            Err(_) => complaint.help(format_args!(
                "the character {stray:?} cannot stand where it does"
            )),
        };
    }
    None
}

/// A kernel's command line.
pub(super) fn read_cmdline(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<String> {
    let text = field.string(complaints)?;
    if let Some(stray) = text.chars().find(|c| !c.is_ascii_graphic() && *c != ' ') {
        complaints
            .add(ErrorKind::CmdlineCharacter, field.span)
            .found(format_args!("the character {stray:?}"))
            .expected("printable ASCII");
        return None;
    }
    if text.len() > MAX_CMDLINE {
        complaints
            .add(ErrorKind::LongCmdline, field.span)
            .found(format_args!("{} bytes", text.len()))
            .expected(format_args!(
                "at most {MAX_CMDLINE} bytes, which is all that Linux keeps"
            ));
        return None;
    }
    Some(String::from(text))
}
