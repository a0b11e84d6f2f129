//! What a Linux that has something to complain about writes to its console.

use std::sync::LazyLock;

use regex::Regex;

/// A line of the kernel's own with one of the words that it uses of itself. What it says of a program that ended badly
/// (`traps: NAME[PID] general protection fault ip:...`) is none of them.
static SPLAT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?m)\[ *\d+\.\d{6}\](?:\[[^\]\n]*\])? .*(?:BUG:|WARNING:|Oops|general protection fault[:,]|unable to handle|stuck for|self-detected stall|detected stalls|blocked for more than|Call Trace:|Kernel panic|bad: scheduling).*$",
    )
    .ok()
});

/// Of such a line, what is another each time: when it was, and of whom.
static PASSING: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\[[ T\d.]*\] ?|CPU: \d+ |PID: \d+ ").ok());

/// The lines of `console` in which a kernel complains, without what is another each time.
pub fn splats(console: &str) -> Vec<String> {
    let (Some(splat), Some(passing)) = (&*SPLAT, &*PASSING) else {
        return Vec::new();
    };
    splat
        .find_iter(console)
        .map(|found| passing.replace_all(found.as_str(), "").into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found_wherever_they_begin() {
        for line in [
            "[    3.100000] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "~ # [   12.345678] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 x+0x1/0x2",
            "[    3.100000][    T1] Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "[    3.100000] general protection fault, probably for non-canonical address 0x1: 0000 [#1]",
            "[    3.100000] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [stress:99]",
            "[    3.100000] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[    3.100000] Call Trace:",
        ] {
            let console = format!("before\n{line}\nafter\n");
            let found = splats(&console);
            assert!(matches!(found.as_slice(), [_]), "{line}: {found:?}");
        }
        let warning = "[   12.345678] WARNING: CPU: 0 PID: 17 at kernel/x.c:1 x+0x1/0x2\n";
        assert_eq!(splats(warning), ["WARNING: at kernel/x.c:1 x+0x1/0x2"]);
    }

    #[test]
    fn what_is_said_of_programs_or_by_programs_is_no_complaint() {
        let console = "[    3.100000] traps: stress[99] general protection fault ip:401000 sp:7ffe00000000 error:0\n\
            [    3.100000] stress[99]: segfault at 0 ip 0000000000401000 sp 00007ffe00000000 error 4 in stress\n\
            [WARN] BUG: of a test\nWARNING: of a shell\n";
        assert_eq!(splats(console), Vec::<String>::new());
    }
}
