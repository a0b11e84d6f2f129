//! What sealing takes: a Linux booted to its shell under windows of several sizes on Bochs, and the ciphers on this machine's processor.
//!
//! Bochs counts instructions, so ticks are the same in every run, and say nothing about what AES takes in hardware. That is measured apart, by
//! `bulkhead-crypto`'s example `rate`, which compares itself with OpenSSL.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use super::machine::{LIMIT, start};
use super::within_limits;
use crate::error::{Error, IoContext, Result};
use crate::exec;
use crate::manifest;
use crate::paths::{Workspace, create_dir};
use crate::session::events::Event;
use crate::ui::Step;

/// Windows of the demo's VM, which has 256 MiB; the last one is all of it, so that nothing is ever sealed.
const WINDOWS: [&str; 4] = ["4M", "16M", "64M", "256M"];
/// The least that encrypting and decrypting pages may reach, of what OpenSSL does.
const RATIO_LIMIT: f64 = 0.8;

/// What one boot took.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Boot {
    window: &'static str,
    /// Accesses to pages that were not mapped.
    faults: u64,
    /// Pages that were unsealed because their neighbours were wanted.
    prefetched: u64,
    /// Pages that were verified and decrypted.
    unsealed: u64,
    /// Pages that were encrypted and authenticated.
    sealed: u64,
    /// Ticks of an unseal, in the cipher and the tag.
    crypto_ticks: Option<f64>,
    /// Ticks of a seal, in the cipher and the tag.
    seal_ticks: Option<f64>,
    /// Ticks of a page that was brought, unsealed or fresh, in everything else: page tables, the ledger, and choosing the page to
    /// seal in its place.
    other_ticks: Option<f64>,
    /// Ticks in the guest, to the shell and down again.
    guest_ticks: u64,
    /// Ticks that Bulkhead worked on its exits meanwhile. The pages that loading it brought are in the figures above and not in these.
    root_ticks: u64,
}

/// What one implementation gets through on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Rate {
    implementation: String,
    what: String,
    gigabytes_a_second: f64,
    of_openssl: Option<f64>,
}

/// What `target/bench/secmem.json` holds.
#[derive(Debug, Serialize)]
struct Report {
    platform: &'static str,
    boots: Vec<Boot>,
    rates: Vec<Rate>,
}

/// Measures, prints the tables, writes `target/bench/secmem.json`.
///
/// # Errors
/// When a run fails, a figure is missing, or the ciphers are too slow.
pub fn run(workspace: &Workspace, efi: &Path) -> Result<()> {
    let printed = rates(workspace)?;
    print!("{printed}");
    let rates = parse(&printed);
    let mut boots = Vec::new();
    for window in WINDOWS {
        boots.push(boot(workspace, efi, window)?);
    }
    print!("{}", table(&boots));
    let over = too_slow(&rates);
    let report = Report {
        platform: "bochs",
        boots,
        rates,
    };
    let place = create_dir(workspace.root().join("target/bench"))?.join("secmem.json");
    let json =
        serde_json::to_string_pretty(&report).map_err(|error| Error::Run(error.to_string()))?;
    fs::write(&place, json + "\n").context("write", &place)?;
    println!("written to {}", workspace.show(&place));
    within_limits(&over)
}

/// What the example prints.
fn rates(workspace: &Workspace) -> Result<String> {
    let step = Step::start("Measuring the ciphers on this machine's processor");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace.root());
    cargo.args(["run", "--quiet", "--release"]);
    cargo.args(["--package", "bulkhead-crypto", "--example", "rate"]);
    cargo.arg("--target-dir").arg(workspace.cargo_target());
    let printed = exec::output(&mut cargo, "install Rust with rustup")?;
    step.done("done");
    Ok(String::from_utf8_lossy(&printed).into_owned())
}

/// Boots the demo with this window to its shell, and lets it end.
fn boot(workspace: &Workspace, efi: &Path, window: &'static str) -> Result<Boot> {
    let step = Step::start(format!("Booting Linux with a window of {window}"));
    let name = format!("bench-secmem-{window}");
    let file = workspace.run_dir(&name)?.join("bench.toml");
    let demo = workspace.root().join(manifest::DEMO);
    let demo = fs::read_to_string(&demo).context("read", &demo)?;
    fs::write(&file, with_window(&demo, window)).context("write", &file)?;
    let mut session = start(workspace, &name, efi, &file)?;
    session.send_line("poweroff -f", LIMIT)?;
    let run = session.expect_event(LIMIT, |event| event.name() == "counters")?;
    let counted = session.expect_event(LIMIT, |event| event.name() == "secmem")?;
    let boot = read(window, &run, &counted)
        .ok_or_else(|| session.failure(&format!("figures are missing: {}", counted.0)))?;
    step.done(&format!("{} faults", boot.faults));
    Ok(boot)
}

/// The manifest `demo`, whose last table is its VM's, with a window.
fn with_window(demo: &str, window: &str) -> String {
    format!("{demo}\nencryption = \"window\"\nwindow = \"{window}\"\n")
}

fn read(window: &'static str, run: &Event, counted: &Event) -> Option<Boot> {
    let faults = counted.number("faults")?;
    let prefetched = counted.number("prefetched")?;
    let unsealed = counted.number("unsealed")?;
    let sealed = counted.number("sealed")?;
    let each = |key, pages: u64| {
        let all = counted.number(key)?;
        Some((pages > 0).then(|| all as f64 / pages as f64))
    };
    Some(Boot {
        window,
        faults,
        prefetched,
        unsealed,
        sealed,
        crypto_ticks: each("crypto_ticks", unsealed)?,
        seal_ticks: each("seal_ticks", sealed)?,
        other_ticks: each("other_ticks", faults.saturating_add(prefetched))?,
        guest_ticks: run.number("guest_ticks")?,
        root_ticks: run.number("root_ticks")?,
    })
}

/// The boots in columns.
fn table(boots: &[Boot]) -> String {
    let mut text = row(&[
        "window",
        "faults",
        "prefetched",
        "unsealed",
        "sealed",
        "unseal: crypto",
        "seal: crypto",
        "rest, a page",
        "guest",
        "Bulkhead",
    ]);
    let show =
        |each: Option<f64>| each.map_or_else(|| "-".to_owned(), |ticks| format!("{ticks:.0}"));
    for boot in boots {
        text.push_str(&row(&[
            boot.window,
            &boot.faults.to_string(),
            &boot.prefetched.to_string(),
            &boot.unsealed.to_string(),
            &boot.sealed.to_string(),
            &show(boot.crypto_ticks),
            &show(boot.seal_ticks),
            &show(boot.other_ticks),
            &boot.guest_ticks.to_string(),
            &boot.root_ticks.to_string(),
        ]));
    }
    text
}

fn row(cells: &[&str]) -> String {
    let mut line = String::new();
    for cell in cells {
        line.push_str(&format!("{cell:>15}"));
    }
    line + "\n"
}

/// Reads the lines `IMPLEMENTATION WHAT RATE GB/s`, with `RATIO of openssl` where there is one.
fn parse(printed: &str) -> Vec<Rate> {
    let line = |line: &str| {
        let (before, after) = line.split_once(" GB/s")?;
        let (label, rate) = before.trim_end().rsplit_once(' ')?;
        let (implementation, what) = label.split_once(' ')?;
        let of_openssl = after.trim().strip_suffix(" of openssl");
        Some(Rate {
            implementation: implementation.to_owned(),
            what: what.trim().to_owned(),
            gigabytes_a_second: rate.parse().ok()?,
            of_openssl: of_openssl.and_then(|ratio| ratio.parse().ok()),
        })
    };
    printed.lines().filter_map(line).collect()
}

/// What of the fastest implementation, which is the one that is used, does not reach its limit, in words.
fn too_slow(rates: &[Rate]) -> Vec<String> {
    ["encrypt", "decrypt"]
        .into_iter()
        .filter_map(|what| {
            let ratios = rates
                .iter()
                .filter(|rate| rate.what == what)
                .filter_map(|rate| rate.of_openssl);
            // Without OpenSSL on this machine there is nothing to compare with.
            let best = ratios.reduce(f64::max)?;
            (best < RATIO_LIMIT).then(|| format!("{what} {best:.2} of openssl < {RATIO_LIMIT}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "openssl aes-256-xts                 5.20 GB/s\n\
        AES-NI  encrypt                     4.68 GB/s   0.90 of openssl\n\
        AES-NI  seal and unseal, tagged     1.50 GB/s\n";

    #[test]
    fn the_demo_with_a_window_is_a_manifest() {
        let demo = include_str!("../../../../docs/examples/demo.toml");
        for window in WINDOWS {
            let text = with_window(demo, window);
            let plan = bulkhead_manifest::parse("bench.toml", &text);
            assert!(plan.is_ok(), "{text}");
        }
    }

    #[test]
    fn rates_are_read_with_their_ratio() {
        let rates = parse(PRINTED);
        let of = |what| rates.iter().find(|rate| rate.what == what).unwrap();
        assert_eq!(of("encrypt").implementation, "AES-NI");
        assert_eq!(of("encrypt").of_openssl, Some(0.9));
        let both = of("seal and unseal, tagged");
        assert_eq!((both.gigabytes_a_second, both.of_openssl), (1.5, None));
    }

    #[test]
    fn only_the_best_ratio_counts_and_a_low_one_is_named() {
        let slow = PRINTED.replace("0.90", "0.30");
        assert_eq!(too_slow(&parse(&slow)), ["encrypt 0.30 of openssl < 0.8"]);
        let both = format!("{slow}VAES    encrypt   5.00 GB/s   0.96 of openssl\n");
        assert!(too_slow(&parse(&both)).is_empty());
        assert!(too_slow(&[]).is_empty());
    }

    #[test]
    fn ticks_are_those_of_one_page() {
        let event = |value| Event(value);
        let counted = event(serde_json::json!({
            "event": "secmem", "faults": 180, "prefetched": 20, "unsealed": 100, "sealed": 120,
            "crypto_ticks": 500_000, "seal_ticks": 480_000, "other_ticks": 200_000
        }));
        let run = event(serde_json::json!({ "guest_ticks": 3_000_000, "root_ticks": 1_200_000 }));
        let boot = read("4M", &run, &counted).unwrap();
        assert_eq!(
            (boot.crypto_ticks, boot.seal_ticks, boot.other_ticks),
            (Some(5000.0), Some(4000.0), Some(1000.0))
        );
        let text = table(&[boot]);
        assert!(text.lines().all(|line| line.len() == 10 * 15), "{text}");
        assert_eq!(read("4M", &counted, &run), None);
    }
}
