//! A whole number and a unit, as sizes and rates are written.

use core::fmt;

/// Why a text is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuantityFault {
    NoNumber,
    NoUnit,
    UnknownUnit,
    TooLarge,
}

/// Reads `text`, whose unit is one of `units`, each with what it stands for.
pub(super) fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, QuantityFault> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() {
        return Err(QuantityFault::NoNumber);
    }
    let unit = match unit.trim_start() {
        "" => return Err(QuantityFault::NoUnit),
        unit => unit,
    };
    let (_, factor) = units
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or(QuantityFault::UnknownUnit)?;
    // Digits only, so the one thing that can go wrong is that they are too many.
    let number: u64 = digits.parse().map_err(|_| QuantityFault::TooLarge)?;
    number.checked_mul(*factor).ok_or(QuantityFault::TooLarge)
}

/// Shows `value` in the first of `units` that divides it, or as so many of `base`.
pub(super) fn show(
    f: &mut fmt::Formatter<'_>,
    value: u64,
    units: &[(&str, u64)],
    base: &str,
) -> fmt::Result {
    match units
        .iter()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
    {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(f, "{value} {base}"),
    }
}
