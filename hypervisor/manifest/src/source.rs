//! Places in the manifest's text: byte spans, and the line and column a person counts.

use alloc::string::String;

/// A range of bytes of the text. It means nothing without the [`Source`] it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    /// The empty span at byte `offset`.
    pub(super) const fn at(offset: usize) -> Self {
        Self {
            start: offset,
            end: offset,
        }
    }
}

impl From<core::ops::Range<usize>> for Span {
    fn from(range: core::ops::Range<usize>) -> Self {
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// The text of a manifest and the name it goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) file_name: String,
    text: String,
}

/// Where a span begins, as people count it, with the line it begins in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'s> {
    /// Counted from 1.
    pub(super) line: usize,
    /// Counted from 1, in characters.
    pub(super) column: usize,
    /// How many characters of the line the span covers; at least 1.
    pub(super) width: usize,
    /// The line, without its end.
    pub(super) text: &'s str,
}

impl Source {
    pub(super) fn new(file_name: &str, text: String) -> Self {
        Self {
            file_name: String::from(file_name),
            text,
        }
    }

    /// The empty span after the last character.
    pub(super) fn end(&self) -> Span {
        Span::at(self.text.len())
    }

    /// Finds `span` in the text. A span beyond the end, or within a character, moves to the nearest place before it.
    pub(super) fn place(&self, span: Span) -> Place<'_> {
        let start = self.text.floor_char_boundary(span.start);
        let (before, after) = self.text.split_at(start);
        let head = before.rsplit('\n').next().unwrap_or_default();
        let line_start = start.saturating_sub(head.len());
        let rest_of_line = after.split('\n').next().unwrap_or_default();
        let line_end = start.saturating_add(rest_of_line.len());
        let covered_end = self
            .text
            .floor_char_boundary(span.end)
            .clamp(start, line_end);
        let covered = self.text.get(start..covered_end).unwrap_or_default();
        let line = self.text.get(line_start..line_end).unwrap_or_default();
        Place {
            line: before.matches('\n').count().saturating_add(1),
            column: head.chars().count().saturating_add(1),
            width: covered.trim_end_matches('\r').chars().count().max(1),
            text: line.strip_suffix('\r').unwrap_or(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str, start: usize, end: usize) -> (usize, usize, usize, String) {
        let source = Source::new("t", String::from(text));
        let place = source.place(Span { start, end });
        (
            place.line,
            place.column,
            place.width,
            String::from(place.text),
        )
    }

    #[test]
    fn lines_and_columns_count_from_one() {
        assert_eq!(place("a\nbcd\ne", 0, 1), (1, 1, 1, "a".into()));
        assert_eq!(place("a\nbcd\ne", 3, 5), (2, 2, 2, "bcd".into()));
    }

    #[test]
    fn a_span_over_several_lines_ends_with_its_first() {
        assert_eq!(place("ab\ncd\n", 1, 5), (1, 2, 1, "ab".into()));
    }

    #[test]
    fn the_end_of_the_text_is_a_place() {
        assert_eq!(place("", 0, 0), (1, 1, 1, "".into()));
        assert_eq!(place("ab\n", 3, 3), (2, 1, 1, "".into()));
        assert_eq!(place("ab", 99, 200), (1, 3, 1, "ab".into()));
    }

    #[test]
    fn columns_count_characters_and_carriage_returns_are_no_part_of_a_line() {
        assert_eq!(place("öö=1\r\n", 4, 6), (1, 3, 2, "öö=1".into()));
        assert_eq!(place("öö", 1, 2), (1, 1, 1, "öö".into()));
    }
}
