//! TOML itself: the text into tables, and the TOML parser's complaints into ours.

use alloc::string::String;

use toml::de::DeTable;

use super::error::{Complaints, ErrorKind};
use super::source::Span;

/// Parses `text`; where it is not TOML, files a complaint for each line that is wrong.
pub(super) fn parse<'i>(text: &'i str, complaints: &mut Complaints) -> Option<DeTable<'i>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(table.into_inner());
    }
    let mut last_line_start = None;
    for error in errors {
        let span = error.span().map_or(Span::at(text.len()), Span::from);
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n');
        // What follows the first complaint of a line is mostly its echo.
        if last_line_start == Some(line_start) {
            continue;
        }
        last_line_start = Some(line_start);
        let (found, expected) = match error.message().split_once(", expected ") {
            Some(parts) => parts,
            None => (error.message(), "TOML, as https://toml.io describes it"),
        };
        complaints
            .add(ErrorKind::Syntax, span)
            .found(found)
            .expected(String::from(expected));
    }
    None
}
