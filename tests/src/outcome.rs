//! What a scenario ends with: nothing, or the one [`Failure`] that says what was found instead of what was expected.

use crate::physical::MemoryError;

/// Shorthand used throughout the harness.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a scenario did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something was not as the scenario says.
    #[error("{0}")]
    Unmet(String),
    /// The machine's memory could not be looked at.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A part of the tool failed.
    #[error(transparent)]
    Tool(#[from] xtask::Error),
}

impl Failure {
    /// Whether a person or a service ended the run, which is no verdict about the scenario.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Tool(xtask::Error::Interrupted))
    }
}

/// Fails with `otherwise` unless `holds`.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(Failure::Unmet(otherwise()))
    }
}

/// Fails unless each of `fragments` is in `text` after the one before it; `what` names the text.
pub fn ensure_in_order(what: &str, text: &str, fragments: &[&str]) -> Outcome {
    let mut rest = text;
    for (index, fragment) in fragments.iter().enumerate() {
        let Some((_, after)) = rest.split_once(fragment) else {
            let place = match index.checked_sub(1).and_then(|i| fragments.get(i)) {
                Some(before) if text.contains(fragment) => format!("only before {before:?}"),
                _ => "nowhere".to_owned(),
            };
            return Err(Failure::Unmet(format!("{what}: {fragment:?} is {place}")));
        };
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_matters() {
        assert!(ensure_in_order("log", "a b c", &["a", "c"]).is_ok());
        let swapped = ensure_in_order("log", "a b c", &["c", "a"]).unwrap_err();
        assert_eq!(swapped.to_string(), "log: \"a\" is only before \"c\"");
        let absent = ensure_in_order("log", "a b c", &["a", "d"]).unwrap_err();
        assert_eq!(absent.to_string(), "log: \"d\" is nowhere");
    }
}
