//! Recognising a prompt at the end of a console's output: a root shell's, a login's, or the hypervisor's own.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;

/// How long the console must be silent for a prompt to count as waiting.
pub const QUIET: Duration = Duration::from_millis(200);

/// A line that ends in `# ` or `login: `, or is `bulkhead> `, at the end of the output; lines in brackets, as kernels and Bulkhead log them, may follow it.
static PROMPT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?:^|\n)(?:[^\n#\[]{0,64}# |[^\n\[]{0,64}login: |bulkhead> )(?:\[[^\n]*\n+)*$")
        .ok()
});

/// Whether `output`, all that came since the last line was typed, ends in a prompt.
#[must_use]
pub fn is_waiting(output: &str) -> bool {
    PROMPT
        .as_ref()
        .is_some_and(|prompt| prompt.is_match(output))
}

/// How much of `output` is the echo of the typed `line`, up to its new line; `None` while it is not complete.
///
/// A shell that edits lines breaks long ones to the terminal's width, so new lines may stand within the echo.
#[must_use]
pub fn echo_length(output: &str, line: &str) -> Option<usize> {
    let mut expected = line.chars().peekable();
    for (at, found) in output.char_indices() {
        match expected.peek() {
            None if found == '\n' => return Some(at),
            Some(next) if *next == found => {
                expected.next();
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_recognised() {
        for output in [
            "~ # ",
            "/ # ",
            "boot\n\n/tmp # ",
            "root@guest:~# ",
            "\nDebian GNU/Linux 12 bulkhead ttyS0\n\nbulkhead login: ",
            "~ # bulkhead> list\nnone\nbulkhead> ",
            "\n~ # [    3.1] random: crng done\n",
        ] {
            assert!(is_waiting(output), "{output:?}");
        }
    }

    #[test]
    fn an_echo_ends_with_its_line_even_when_it_was_broken() {
        assert_eq!(echo_length("uname -r\n6.1\n", "uname -r"), Some(8));
        assert_eq!(
            echo_length("cat /pro\nc/cpuinfo\nx", "cat /proc/cpuinfo"),
            Some(18)
        );
        assert_eq!(echo_length("uname", "uname -r"), None);
        assert_eq!(echo_length("uname -r", "uname -r"), None);
        assert_eq!(echo_length("\n# ", ""), Some(0));
    }

    #[test]
    fn other_output_is_no_prompt() {
        for output in [
            "",
            "~ #",
            "~ # ls\n",
            "# comment\nmore",
            "[    1.0] a # ",
            "~ # uname -r\n6.1.0\n",
            "x\n~ # \n",
            "Last login: today",
            "bulkhead> list",
        ] {
            assert!(!is_waiting(output), "{output:?}");
        }
    }
}
