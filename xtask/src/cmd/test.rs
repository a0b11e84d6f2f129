//! `cargo xtask test`: the host's unit tests, then the end-to-end scenarios, and one total.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::ops::AddAssign;
use std::process::{Command, Stdio};

use clap::Args;
use nix::sys::signal::Signal;

use crate::error::{Error, Result};
use crate::paths::Workspace;
use crate::ui::Step;
use crate::{exec, tie};

/// The crates whose tests run on the host.
const HOST_CRATES: [&str; 9] = [
    "bulkhead-core",
    "bulkhead-crypto",
    "bulkhead-host",
    "bulkhead-manifest",
    "bulkhead-selftest",
    "bulkhead-tpm",
    "guest-loader",
    "xtask",
    "bulkhead-tests",
];
/// The end-to-end harness.
const HARNESS: &str = "bulkhead-tests";
/// Lines of a failed test run that are repeated.
const TAIL_LINES: usize = 60;

/// Arguments of `test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Run only tests and scenarios whose name contains FILTER.
    filter: Option<String>,
    /// Run the scenarios on this platform only.
    #[arg(long, value_name = "PLATFORM", value_parser = ["auto", "kvm", "bochs", "qemu-tcg"])]
    platform: Option<String>,
    /// List the scenarios and run nothing.
    #[arg(long)]
    list: bool,
    /// Also run what takes long.
    #[arg(long)]
    long: bool,
}

/// What became of tests. Displayed, it is the last line of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Passed.
    pub passed: u64,
    /// Failed.
    pub failed: u64,
    /// Not run, because this machine has no place to run them.
    pub skipped: u64,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Totals {
    /// Adds up what `line` reports: a result line of `cargo test`, or the harness' totals.
    fn add(&mut self, line: &str) {
        let number_before = |word: &str| {
            let (before, _) = line.split_once(word)?;
            before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
        };
        if let (Some(passed), Some(failed)) = (number_before(" passed"), number_before(" failed")) {
            *self += Self {
                passed,
                failed,
                skipped: number_before(" skipped").unwrap_or(0),
            };
        }
    }

    /// What a run that was narrowed down to `filter` amounts to: one that ran nothing has shown nothing.
    fn verdict(self, filter: Option<&str>) -> Result<()> {
        match (self, filter) {
            (Self { failed: 1.., .. }, _) => Err(Error::TestsFailed),
            (
                Self {
                    passed: 0,
                    skipped: 0,
                    ..
                },
                Some(filter),
            ) => Err(Error::BadCall(format!(
                "nothing is called `{filter}` (without --long, what takes long is not counted); see `cargo xtask test --list`"
            ))),
            _ => Ok(()),
        }
    }
}

/// Runs everything that matches; the last line printed is the [`Totals`].
///
/// # Errors
/// When a test failed or could not be run, or the filter matches none.
pub fn run(workspace: &Workspace, args: &TestArgs) -> Result<()> {
    if args.list {
        return exec::passthrough(&mut harness(workspace, args), "install Rust with rustup");
    }
    let mut totals = Totals::default();
    let mut broken = Vec::new();
    for package in HOST_CRATES {
        let (counted, success) = host_tests(workspace, package, args)?;
        totals += counted;
        if !success && counted.failed == 0 {
            broken.push(package);
        }
    }
    let (counted, success) = scenarios(workspace, args)?;
    totals += counted;
    if !success && counted.failed == 0 {
        broken.push("the end-to-end scenarios");
    }
    // What could not even be built or finished is a failure of its own.
    totals.failed += broken.len() as u64;
    for what in &broken {
        println!("{what}: did not finish");
    }
    println!("{totals}");
    totals.verdict(args.filter.as_deref())
}

fn host_tests(workspace: &Workspace, package: &str, args: &TestArgs) -> Result<(Totals, bool)> {
    let step = Step::start(format!("Testing {package} on the host"));
    let mut cargo = cargo(workspace, "test");
    cargo.args(["--quiet", "--package", package]);
    cargo.args(&args.filter);
    if args.long {
        cargo.args(["--", "--include-ignored"]);
    }
    let done = cargo
        .stdin(Stdio::null())
        .output()
        .map_err(|error| exec::not_started(&cargo, &error, "install Rust with rustup"))?;
    let output = String::from_utf8_lossy(&done.stdout);
    let mut totals = Totals::default();
    output
        .lines()
        .filter(|line| line.starts_with("test result:"))
        .for_each(|line| totals.add(line));
    if !done.status.success() {
        println!("{}", exec::tail(&output, TAIL_LINES));
        println!(
            "{}",
            exec::tail(&String::from_utf8_lossy(&done.stderr), TAIL_LINES)
        );
    }
    step.done(&totals.to_string());
    Ok((totals, done.status.success()))
}

/// Runs the harness with its output passing through, and reads its totals from its last line.
fn scenarios(workspace: &Workspace, args: &TestArgs) -> Result<(Totals, bool)> {
    let mut command = harness(workspace, args);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| exec::not_started(&command, &error, "install Rust with rustup"))?;
    let mut last = String::new();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output)
            .lines()
            .map_while(std::result::Result::ok)
        {
            println!("{line}");
            last = line;
        }
    }
    let status = child
        .wait()
        .map_err(|error| Error::Run(format!("cannot wait for the scenarios: {error}")))?;
    let mut totals = Totals::default();
    totals.add(&last);
    Ok((totals, status.success()))
}

fn harness(workspace: &Workspace, args: &TestArgs) -> Command {
    let mut command = cargo(workspace, "run");
    command
        .args(["--quiet", "--package", HARNESS, "--"])
        .args(&args.filter);
    if let Some(platform) = &args.platform {
        command.args(["--platform", platform]);
    }
    if args.list {
        command.arg("--list");
    }
    if args.long {
        command.arg("--long");
    }
    command
}

fn cargo(workspace: &Workspace, what: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace.root())
        .arg(what)
        .arg("--target-dir")
        .arg(workspace.cargo_target());
    // The harness is exec'ed in cargo's place, and ends its machines when asked to end.
    tie::to_parent(&mut command, Signal::SIGTERM);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_add_up() {
        let mut totals = Totals::default();
        totals
            .add("test result: FAILED. 16 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("12 passed, 1 failed");
        totals.add("nothing here");
        assert_eq!(totals.to_string(), "28 passed, 4 failed");
        totals.add("1 passed, 0 failed, 2 skipped");
        assert_eq!(totals.to_string(), "29 passed, 4 failed, 2 skipped");
    }

    #[test]
    fn a_filter_that_matches_nothing_is_a_bad_call() {
        let ran = |passed, failed| Totals {
            passed,
            failed,
            skipped: 0,
        };
        let nothing = ran(0, 0).verdict(Some("no_such")).unwrap_err();
        assert_eq!(nothing.exit_code(), 2);
        assert!(nothing.to_string().contains("no_such"));
        assert!(ran(1, 0).verdict(Some("some")).is_ok());
        let skipped = Totals {
            skipped: 1,
            ..ran(0, 0)
        };
        assert!(skipped.verdict(Some("some")).is_ok());
        assert!(matches!(
            ran(0, 1).verdict(Some("some")),
            Err(Error::TestsFailed)
        ));
    }
}
