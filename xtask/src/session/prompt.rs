//! Recognising a root shell's prompt at the end of a console's output.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;

/// How long the console must be silent for a prompt to count as waiting.
pub const QUIET: Duration = Duration::from_millis(200);

/// A line that ends in `# `, at the end of the output; lines in brackets, as kernels and Bulkhead log them, may follow it.
static PROMPT: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?:^|\n)[^\n#\[]{0,64}# (?:\[[^\n]*\n+)*$").ok());

/// Whether `output`, all that came since the last line was typed, ends in a prompt.
#[must_use]
pub fn is_waiting(output: &str) -> bool {
    PROMPT
        .as_ref()
        .is_some_and(|prompt| prompt.is_match(output))
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
            "\n~ # [    3.1] random: crng done\n",
        ] {
            assert!(is_waiting(output), "{output:?}");
        }
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
        ] {
            assert!(!is_waiting(output), "{output:?}");
        }
    }
}
