//! TOML itself: the text into tables, and the TOML parser's complaints into ours.

use alloc::string::String;

use toml::de::DeTable;

use super::error::{Complaints, ErrorKind, quoted};
use super::source::Span;

/// What can stand to the right of a `=`.
const VALUES: &str = "a value: text in quotes, a whole number, an array or a table";

/// Parses `text`; where it is not TOML, files a complaint for each line that is wrong.
pub(super) fn parse<'i>(text: &'i str, complaints: &mut Complaints) -> Option<DeTable<'i>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(table.into_inner());
    }
    let mut last_line_start = None;
    for error in errors {
        let span = error.span().map_or(Span::at(text.len()), Span::from);
        let line_start = text.get(..span.start).unwrap_or(text).rfind('\n');
        // What follows the first complaint of a line is mostly its echo.
        if last_line_start == Some(line_start) {
            continue;
        }
        last_line_start = Some(line_start);
        let covered = text.get(span.start..span.end).unwrap_or_default();
        complain(error.message(), covered, span, complaints);
    }
    None
}

/// Files one complaint; `covered` is the text that the TOML parser's `message` is about. The
/// mistakes people make most get words of our own.
fn complain(message: &str, covered: &str, span: Span, complaints: &mut Complaints) {
    let (found, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    match found {
        "duplicate key" => {
            complaints
                .add(ErrorKind::DuplicateKey, span)
                .found(format_args!("{} again", quoted(covered)))
                .expected("each key, and each header in single brackets, once");
        }
        "string values must be quoted" | "invalid float" if covered.is_empty() => {
            complaints
                .add(ErrorKind::Syntax, span)
                .found("no value")
                .expected(VALUES);
        }
        "string values must be quoted" | "invalid float" if is_bare_word(covered) => {
            let complaint = complaints.add(ErrorKind::Syntax, span);
            complaint
                .found(format_args!("the bare word `{covered}`"))
                .expected(VALUES);
            complaint.help(format_args!("did you mean \"{covered}\"?"));
        }
        _ => {
            let complaint = complaints.add(ErrorKind::Syntax, span);
            complaint.found(found);
            complaint.expected(match expected {
                "" => String::from("TOML, as https://toml.io describes it"),
                tokens => String::from(tokens),
            });
        }
    }
}

/// Whether `text` reads like a value whose quotes were forgotten.
fn is_bare_word(text: &str) -> bool {
    text.len() <= 64
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
}
