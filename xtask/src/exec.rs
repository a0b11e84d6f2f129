//! Calling other programs, with errors that show what they printed.

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::error::{Error, Result};
use crate::tie;

/// Lines of a failed program's output that an error repeats.
const TAIL_LINES: usize = 25;

/// Runs `command` to its end without input and returns its standard output; `hint` says how to get the program.
///
/// # Errors
/// When the program is missing, or ends with a failure.
pub fn output(command: &mut Command, hint: &'static str) -> Result<Vec<u8>> {
    let done = tie::to_parent(command, Signal::SIGTERM)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| not_started(command, &e, hint))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&done.stderr));
    Err(Error::Tool {
        command: line_of(command),
        status: done.status,
        output: tail(&text, TAIL_LINES),
    })
}

/// Runs `command` to its end, letting it print for itself.
///
/// # Errors
/// When the program is missing, or ends with a failure.
pub fn passthrough(command: &mut Command, hint: &'static str) -> Result<()> {
    let status = tie::to_parent(command, Signal::SIGTERM)
        .stdin(Stdio::null())
        .status()
        .map_err(|e| not_started(command, &e, hint))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Tool {
        command: line_of(command),
        status,
        output: String::new(),
    })
}

/// The last `lines` lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all.get(all.len().saturating_sub(lines)..)
        .unwrap_or_default()
        .join("\n")
}

/// Turns a failure to start `command` into the error that names it.
pub(crate) fn not_started(command: &Command, error: &std::io::Error, hint: &'static str) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == ErrorKind::NotFound {
        return Error::MissingTool { program, hint };
    }
    Error::Unavailable {
        what: format!("cannot start `{program}`: {error}"),
        hint: hint.to_owned(),
    }
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
        assert_eq!(tail("", 5), "");
    }

    #[test]
    fn a_failing_program_shows_what_it_printed() {
        let error = output(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            "",
        )
        .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("out") && text.contains("err") && text.contains('3'),
            "{text}"
        );
    }

    #[test]
    fn a_missing_program_comes_with_a_hint() {
        let error = output(
            &mut Command::new("no-such-program-here"),
            "look behind the sofa",
        )
        .unwrap_err();
        assert!(matches!(error, Error::MissingTool { .. }));
        assert!(error.to_string().contains("sofa"));
    }
}
