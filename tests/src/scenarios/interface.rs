//! The command line as a person or a CI uses it: exit codes, options, and nothing left running.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::linux::{DEMO_PAYLOADS, PROMPT, QUESTION};
use crate::context::Context;
use crate::lab::HELLO;
use crate::manifest::Manifest;
use crate::outcome::{Failure, Outcome, ensure};
use crate::program;
use crate::scenario::{Ground, Scenario};

/// What a run to the shell may take once everything is there.
const PROVISIONED_LIMIT: Duration = Duration::from_secs(90);

pub fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "run_until_the_prompt_succeeds_within_90_seconds",
            Ground::Vmx,
            300,
            until_prompt,
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new(
            "run_types_lines_logs_and_ends_with_the_guest",
            Ground::Vmx,
            600,
            sends,
        )
        .with_payloads(DEMO_PAYLOADS),
        Scenario::new(
            "run_that_sees_no_match_fails_at_the_timeout",
            Ground::Vmx,
            60,
            no_match,
        ),
        Scenario::new(
            "run_with_a_bad_manifest_boots_nothing",
            Ground::Host,
            30,
            bad_manifest,
        ),
        Scenario::new("bad_calls_exit_with_2", Ground::Host, 30, bad_calls),
        Scenario::new(
            "run_that_is_terminated_leaves_nothing_running",
            Ground::Vmx,
            60,
            terminated,
        ),
        Scenario::new(
            "doctor_names_the_platform_it_would_choose",
            Ground::Host,
            30,
            doctor,
        ),
        Scenario::new("help_describes_every_command", Ground::Host, 30, help),
    ]
}

fn until_prompt(context: &Context<'_>) -> Outcome {
    let arguments = ["run", "--headless", "--until", PROMPT, "--timeout", "280"];
    let done = context.run("run", context.xtask(&arguments))?;
    done.ensure_code(0)?;
    crate::outcome::ensure_in_order(
        "the console",
        &done.output,
        &["Bulkhead ", "plan", "Linux version 6.1", PROMPT],
    )?;
    context.note(format!("{:.1} s", done.took.as_secs_f32()));
    ensure(done.took < PROVISIONED_LIMIT, || {
        format!("it took {:.1} s", done.took.as_secs_f32())
    })
}

fn sends(context: &Context<'_>) -> Outcome {
    let log = context.dir()?.join("text.log");
    let shown = log.display().to_string();
    let arguments = [
        "run",
        "--headless",
        "--send",
        QUESTION,
        "--send",
        "poweroff -f",
        "--timeout",
        "500",
        "--log",
        &shown,
    ];
    let done = context.run("run", context.xtask(&arguments))?;
    done.ensure_code(0)?;
    let answer = regex::Regex::new(r"(?m)^6\.1\.\S+\n0\n1\n")
        .map_err(|error| Failure::Unmet(error.to_string()))?;
    ensure(answer.is_match(&done.output), || {
        format!(
            "the shell did not answer with version, 0 and 1:\n{}",
            xtask::exec::tail(&done.output, 15)
        )
    })?;
    let logged = std::fs::read_to_string(&log).unwrap_or_default();
    ensure(answer.is_match(&logged), || {
        "the log is not what the console was".to_owned()
    })
}

/// A guest that never says what is waited for; its manifest names the run's directory.
fn idle_guest(context: &Context<'_>) -> Outcome<String> {
    let manifest = Manifest::of(HELLO).with_cmdline("then=halt").to_string();
    let path = context.file(&format!("{}.toml", context.name()), manifest)?;
    Ok(path.display().to_string())
}

fn no_match(context: &Context<'_>) -> Outcome {
    let manifest = idle_guest(context)?;
    let arguments = [
        "run",
        "--headless",
        "--manifest",
        &manifest,
        "--until",
        "never said",
        "--timeout",
        "5",
    ];
    let done = context.run("run", context.xtask(&arguments))?;
    done.ensure_code(1)?;
    ensure(done.errors.contains("time is over after 5 s"), || {
        format!("it does not say why: {}", done.errors)
    })?;
    ensure_nothing_left(&context.dir()?)
}

fn terminated(context: &Context<'_>) -> Outcome {
    let manifest = idle_guest(context)?;
    let arguments = ["run", "--headless", "--manifest", &manifest];
    let running = context.spawn("run", context.xtask(&arguments))?;
    let dir = context.dir()?;
    while program::emulators_of(&dir).is_empty() {
        ensure(!context.left().is_zero(), || {
            "no emulator ever started".to_owned()
        })?;
        std::thread::sleep(Duration::from_millis(50));
    }
    running.signal(Signal::SIGTERM)?;
    context.finish("run", running)?.ensure_code(1)?;
    ensure_nothing_left(&dir)
}

/// Fails when an emulator of `dir` still runs; a killed one may take a moment to go.
fn ensure_nothing_left(dir: &Path) -> Outcome {
    let mut left = program::emulators_of(dir);
    for _ in 0..40 {
        if left.is_empty() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
        left = program::emulators_of(dir);
    }
    Err(Failure::Unmet(format!("left running: {}", left.join("; "))))
}

fn bad_manifest(context: &Context<'_>) -> Outcome {
    let path = context.file("bad.toml", "version = 1\n\n[[wm]]\nname = \"demo\"\n")?;
    let shown = path.display().to_string();
    let done = context.run(
        "run",
        context.xtask(&["run", "--headless", "--manifest", &shown]),
    )?;
    done.ensure_code(2)?;
    ensure(
        done.errors.contains("bad.toml:3:3: error[unknown-key]"),
        || format!("the error has no place: {}", done.errors),
    )?;
    ensure(done.output.is_empty(), || {
        format!("something booted: {}", done.output)
    })?;
    ensure_nothing_left(&context.lab.workspace.run_dir("bad")?)
}

fn bad_calls(context: &Context<'_>) -> Outcome {
    let calls: [&[&str]; 6] = [
        &["run", "--no-such-option"],
        &["run", "--until", "("],
        &["run", "--manifest", "no-such.toml"],
        &["run", "--memory", "2048"],
        &["manifest", "check", "no-such.toml"],
        &["no-such-command"],
    ];
    for call in calls {
        let done = context.run("call", context.xtask(call))?;
        done.ensure_code(2)
            .map_err(|failure| Failure::Unmet(format!("{call:?}: {failure}")))?;
    }
    Ok(())
}

fn doctor(context: &Context<'_>) -> Outcome {
    let done = context.run("doctor", context.xtask(&["doctor"]))?;
    done.ensure_code(0)?;
    let (chosen, _) = xtask::platform::Platform::choose(None)?;
    ensure(
        done.output.contains(&format!("would choose {chosen}")),
        || format!("it names no platform:\n{}", done.output),
    )
}

fn help(context: &Context<'_>) -> Outcome {
    for command in [
        "run", "build", "image", "test", "bench", "manifest", "doctor",
    ] {
        let done = context.run("help", context.xtask(&["help", command]))?;
        done.ensure_code(0)?;
        ensure(done.output.contains("Usage: cargo xtask"), || {
            format!("`help {command}` says:\n{}", done.output)
        })?;
    }
    Ok(())
}
