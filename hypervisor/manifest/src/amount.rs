//! Amounts with a unit out of their text: sizes of memory and rates of data.

use alloc::format;
use alloc::string::String;

use super::error::{Complaints, ErrorKind, quoted};
use super::fields::Field;
use super::rate::{self, BitRate, RateFault};
use super::size::{self, ByteSize, SizeFault};

/// A size of memory, in whole large pages.
pub(super) fn read_size(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<ByteSize> {
    if let Some(number) = field.value.as_integer() {
        let guess = ByteSize::parse_memory(&format!("{}M", number.as_str())).ok();
        let complaint = field.wrong_type("a size in quotes, such as \"256M\"", complaints);
        if let Some(guess) = guess {
            complaint.help(format_args!("did you mean \"{guess}\"?"));
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
            complaint.help(format_args!("the nearest are \"{below}\" and \"{above}\""));
        }
        SizeFault::NoUnit | SizeFault::UnknownUnit => {
            if let Some(guess) = with_guessed_unit(text, |guess| ByteSize::parse_memory(guess).ok())
            {
                complaint.help(format_args!("did you mean \"{guess}\"?"));
            }
        }
        _ => {}
    }
    None
}

/// A rate of data.
pub(super) fn read_rate(field: &Field<'_, '_>, complaints: &mut Complaints) -> Option<BitRate> {
    if let Some(number) = field.value.as_integer() {
        let guess = BitRate::parse(&format!("{}M", number.as_str())).ok();
        let complaint = field.wrong_type("a rate in quotes, such as \"10M\"", complaints);
        if let Some(guess) = guess {
            complaint.help(format_args!("did you mean \"{guess}\"?"));
        }
        return None;
    }
    let text = field.string(complaints)?;
    let fault = match BitRate::parse(text) {
        Ok(rate) => return Some(rate),
        Err(fault) => fault,
    };
    const HOW: &str = "bits per second as a whole number and one of K, M, G, such as \"10M\"";
    let (kind, expected) = match fault {
        RateFault::NoNumber => (ErrorKind::RateNumber, String::from(HOW)),
        RateFault::NoUnit => (ErrorKind::RateUnitMissing, String::from(HOW)),
        RateFault::UnknownUnit => (ErrorKind::RateUnit, String::from(HOW)),
        RateFault::TooSmall => (
            ErrorKind::RateTooSmall,
            format!("at least {} bits per second", rate::MIN),
        ),
        RateFault::TooLarge => (
            ErrorKind::RateTooLarge,
            format!("at most {} bits per second", rate::MAX),
        ),
    };
    let complaint = complaints.add(kind, field.span);
    complaint.found(quoted(text)).expected(expected);
    if matches!(fault, RateFault::NoUnit | RateFault::UnknownUnit)
        && let Some(guess) = with_guessed_unit(text, |guess| BitRate::parse(guess).ok())
    {
        complaint.help(format_args!("did you mean \"{guess}\"?"));
    }
    None
}

/// What an amount in the units of another tool was most likely meant to be: the first letter of its unit, or M.
fn with_guessed_unit<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit)?;
    let letter = unit.trim().chars().next().unwrap_or('M');
    parse(&format!("{digits}{}", letter.to_ascii_uppercase()))
}
