//! Typed values out of TOML tables: each getter returns the value or files a complaint about it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::choice::Choice;
use super::error::{Complaint, Complaints, ErrorKind, quoted};
use super::schema::{Key, Presence, TABLES, Table};
use super::source::Span;
use super::suggest::nearest;

/// A TOML table read by a [`Table`] of the schema.
pub(super) struct Fields<'t, 'i> {
    schema: &'static Table,
    table: &'t DeTable<'i>,
    /// Where the table begins: complaints about what is missing go here.
    pub(super) span: Span,
}

/// One value of a table, with the key it was found under.
pub(super) struct Field<'t, 'i> {
    pub(super) key: &'static Key,
    pub(super) value: &'t DeValue<'i>,
    pub(super) span: Span,
}

/// How a key with several tables under it is read.
pub(super) struct Listing {
    /// What each of the tables is read by.
    pub(super) schema: &'static Table,
    /// What one of them looks like.
    pub(super) how: &'static str,
    /// What to do about a header in single brackets.
    pub(super) brackets: &'static str,
    /// How many there can be.
    pub(super) most: usize,
    /// The complaint about one more.
    pub(super) beyond: ErrorKind,
    /// What they are, in the plural.
    pub(super) noun: &'static str,
}

impl<'t, 'i> Fields<'t, 'i> {
    pub(super) fn new(schema: &'static Table, table: &'t DeTable<'i>, span: Span) -> Self {
        Self {
            schema,
            table,
            span,
        }
    }

    /// Complains about every key that the schema does not have, or reserves.
    pub(super) fn refuse_unknown(&self, complaints: &mut Complaints) {
        for (name, _) in self.table.iter() {
            match self.schema.find(name.get_ref()) {
                Some(key) if key.presence == Presence::Reserved => {
                    complaints
                        .add(ErrorKind::ReservedKey, name.span().into())
                        .found(format_args!(
                            "`{key}`, which asks for something this release cannot do"
                        ))
                        .expected(format_args!("no `{}` in {}", key.name, self.schema.title))
                        .help("remove it: it would protect or provide nothing");
                }
                Some(_) => {}
                None => self.complain_unknown(name.get_ref(), name.span().into(), complaints),
            }
        }
    }

    fn complain_unknown(&self, name: &str, span: Span, complaints: &mut Complaints) {
        let names = join(&mut self.schema.usable_names(), '`');
        let complaint = complaints.add(ErrorKind::UnknownKey, span);
        complaint
            .found(quoted(name))
            .expected(format_args!("a key of {}: {names}", self.schema.title));
        let elsewhere = || {
            TABLES
                .iter()
                .find(|table| table.usable_names().any(|known| known == name))
        };
        if let Some(near) = nearest(name, &mut self.schema.usable_names()) {
            complaint.help(format_args!("did you mean `{near}`?"));
        } else if let Some(table) = elsewhere() {
            complaint.help(format_args!("`{name}` is a key of {}", table.title));
        }
    }

    /// The field of `key`, if it is there.
    pub(super) fn optional(&self, key: &'static Key) -> Option<Field<'t, 'i>> {
        let value: &'t Spanned<DeValue<'i>> = self.table.get(key.name)?;
        Some(Field {
            key,
            value: value.get_ref(),
            span: value.span().into(),
        })
    }

    /// The field of `key`; a complaint if it is not there.
    pub(super) fn required(
        &self,
        key: &'static Key,
        complaints: &mut Complaints,
    ) -> Option<Field<'t, 'i>> {
        let field = self.optional(key);
        if field.is_none() {
            self.missing(key, complaints);
        }
        field
    }

    /// The word under `key`, or the default without one; nothing after a complaint.
    pub(super) fn choice_or_default<C: Choice + Default>(
        &self,
        key: &'static Key,
        complaints: &mut Complaints,
    ) -> Option<C> {
        match self.optional(key) {
            Some(field) => field.choice(complaints),
            None => Some(C::default()),
        }
    }

    /// The integer within `range` under `key`, or `default` without one; nothing after a complaint.
    pub(super) fn integer_or(
        &self,
        key: &'static Key,
        range: RangeInclusive<u32>,
        default: u32,
        complaints: &mut Complaints,
    ) -> Option<u32> {
        match self.optional(key) {
            Some(field) => field.integer_in(range, complaints),
            None => Some(default),
        }
    }

    /// The tables under `key`, each as `read` takes it, those left out that it does not; nothing after a complaint about
    /// the list itself. Without the key there are none.
    pub(super) fn list<T>(
        &self,
        key: &'static Key,
        listing: &'static Listing,
        mut read: impl FnMut(&Fields<'_, '_>, &mut Complaints) -> Option<T>,
        complaints: &mut Complaints,
    ) -> Option<Vec<T>> {
        let mut items = Vec::new();
        for fields in self.tables(key, listing, complaints)? {
            if let Some(item) = read(&fields, complaints) {
                items.push(item);
            }
        }
        Some(items)
    }

    /// The tables under `key`, those left out that are none; nothing after a complaint about the list itself.
    fn tables(
        &self,
        key: &'static Key,
        listing: &'static Listing,
        complaints: &mut Complaints,
    ) -> Option<Vec<Fields<'t, 'i>>> {
        let Some(list) = self.optional(key) else {
            return Some(Vec::new());
        };
        if list.value.is_table() {
            list.wrong_type(listing.how, complaints)
                .help(listing.brackets);
            return None;
        }
        let array = list.array(listing.how, complaints)?;
        if let Some(beyond) = array.get(listing.most) {
            complaints
                .add(listing.beyond, beyond.span().into())
                .found(format_args!("{} {}", array.len(), listing.noun))
                .expected(format_args!("at most {}", listing.most));
            return None;
        }
        let mut tables = Vec::new();
        for element in array.iter() {
            let element = Field {
                key,
                value: element.get_ref(),
                span: element.span().into(),
            };
            tables.extend(element.table(listing.schema, listing.how, complaints));
        }
        Some(tables)
    }

    /// Where the value of `key` stands; the start of the table where it does not.
    pub(super) fn span_of(&self, key: &'static Key) -> Span {
        self.optional(key).map_or(self.span, |field| field.span)
    }

    /// Complains that `key` is not there.
    pub(super) fn missing<'c>(
        &self,
        key: &'static Key,
        complaints: &'c mut Complaints,
    ) -> &'c mut Complaint {
        complaints
            .add(ErrorKind::MissingKey, self.span)
            .found(format_args!("no `{}` in {}", key.name, self.schema.title))
            .expected(format_args!("the key `{}`", key.name))
    }
}

impl<'t, 'i> Field<'t, 'i> {
    /// The value as a string.
    pub(super) fn string(&self, complaints: &mut Complaints) -> Option<&'t str> {
        let text = self.value.as_str();
        if text.is_none() {
            self.wrong_type("a string in quotes", complaints);
        }
        text
    }

    /// The value as an integer of any size that can be compared.
    pub(super) fn integer(&self, complaints: &mut Complaints) -> Option<i128> {
        let Some(integer) = self.value.as_integer() else {
            let complaint = self.wrong_type("a whole number", complaints);
            if self
                .value
                .as_str()
                .is_some_and(|text| text.parse::<u64>().is_ok())
            {
                complaint.help("write it without quotes");
            }
            return None;
        };
        match i128::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Some(number),
            Err(_) => {
                complaints
                    .add(ErrorKind::OutOfRange, self.span)
                    .found(format_args!(
                        "a number of {} digits",
                        integer.as_str().len()
                    ))
                    .expected(format_args!("a smaller number for `{}`", self.key));
                None
            }
        }
    }

    /// The value as an integer within `range`.
    pub(super) fn integer_in(
        &self,
        range: RangeInclusive<u32>,
        complaints: &mut Complaints,
    ) -> Option<u32> {
        let number = self.integer(complaints)?;
        let fitting = u32::try_from(number)
            .ok()
            .filter(|number| range.contains(number));
        if fitting.is_none() {
            complaints
                .add(ErrorKind::OutOfRange, self.span)
                .found(format_args!("{number}"))
                .expected(format_args!(
                    "a whole number from {} to {}",
                    range.start(),
                    range.end()
                ));
        }
        fitting
    }

    /// The value as yes or no.
    pub(super) fn boolean(&self, complaints: &mut Complaints) -> Option<bool> {
        let truth = self.value.as_bool();
        if truth.is_none() {
            let complaint = self.wrong_type("true or false", complaints);
            if matches!(self.value.as_str(), Some("true" | "false")) {
                complaint.help("write it without quotes");
            }
        }
        truth
    }

    /// The value as one of the words of `C`.
    pub(super) fn choice<C: Choice>(&self, complaints: &mut Complaints) -> Option<C> {
        let number = self.word(C::WORDS, complaints)?;
        C::VALUES.get(number).copied()
    }

    /// Which of `words` the value is.
    fn word(&self, words: &[&'static str], complaints: &mut Complaints) -> Option<usize> {
        let mut listed = words.iter().copied();
        let Some(text) = self.value.as_str() else {
            self.wrong_type(&format!("one of {}", join(&mut listed, '"')), complaints);
            return None;
        };
        let known = words.iter().position(|word| *word == text);
        if known.is_none() {
            let complaint = complaints.add(ErrorKind::UnknownValue, self.span);
            complaint
                .found(quoted(text))
                .expected(format_args!("one of {}", join(&mut listed, '"')));
            if let Some(near) = nearest(text, &mut words.iter().copied()) {
                complaint.help(format_args!("did you mean \"{near}\"?"));
            }
        }
        known
    }

    /// The value as an array.
    pub(super) fn array(
        &self,
        expected: &str,
        complaints: &mut Complaints,
    ) -> Option<&'t DeArray<'i>> {
        let array = self.value.as_array();
        if array.is_none() {
            self.wrong_type(expected, complaints);
        }
        array
    }

    /// The value as a table read by `schema`, its keys checked.
    pub(super) fn table(
        &self,
        schema: &'static Table,
        expected: &str,
        complaints: &mut Complaints,
    ) -> Option<Fields<'t, 'i>> {
        let Some(table) = self.value.as_table() else {
            self.wrong_type(expected, complaints);
            return None;
        };
        let fields = Fields::new(schema, table, self.span);
        fields.refuse_unknown(complaints);
        Some(fields)
    }

    /// Complains that the value is of another type than `expected`.
    pub(super) fn wrong_type<'c>(
        &self,
        expected: &str,
        complaints: &'c mut Complaints,
    ) -> &'c mut Complaint {
        complaints
            .add(ErrorKind::WrongType, self.span)
            .found(describe(self.value))
            .expected(format_args!("for `{}`, {expected}", self.key))
    }
}

/// A value in words.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(_) => String::from("a whole number"),
        DeValue::Float(_) => String::from("a number with a fraction"),
        DeValue::Boolean(truth) => format!("the boolean {truth}"),
        DeValue::Datetime(_) => String::from("a date or time"),
        DeValue::Array(_) => String::from("an array"),
        DeValue::Table(_) => String::from("a table"),
    }
}

/// The words, each between two of `quote`.
fn join(words: &mut dyn Iterator<Item = &'static str>, quote: char) -> String {
    let mut list = String::new();
    for word in words {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push(quote);
        list.push_str(word);
        list.push(quote);
    }
    list
}
