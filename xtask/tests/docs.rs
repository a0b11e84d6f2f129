//! The documents against what they describe: links, the command line, modules, locks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use regex::Regex;
use xtask::Workspace;

static LINK: LazyLock<Regex> = LazyLock::new(|| regex(r#"\]\(([^)\s]+)\)|(?:src|href)="([^"]+)""#));
static FENCE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?ms)^```.*?^```"));
static OPTION: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^\s+(?:-\w, )?(--[a-z-]+)"));
static DOCUMENTED_OPTION: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^\| `(--[a-z-]+)"));
static SUBCOMMAND: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^  ([a-z]+)(?: |$)"));
static SCENARIO: LazyLock<Regex> = LazyLock::new(|| regex(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+){3,})`"));
static QUOTED_NAME: LazyLock<Regex> =
    LazyLock::new(|| regex(r#""([a-z][a-z0-9]*(?:_[a-z0-9]+)+)""#));
static NAME_PREFIX: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"let name = format!\("([a-z]+_)\{\}","#));
static LOCK: LazyLock<Regex> = LazyLock::new(|| regex(r"(\w+): [^=;\n]*\b(?:Mutex<|LockedHeap\b)"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}

fn root() -> PathBuf {
    Workspace::locate().root().to_path_buf()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `dir` with one of these extensions.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .flat_map(|path| {
            if path.is_dir() {
                files(&path, extension)
            } else {
                vec![path]
            }
        })
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

/// The README and everything below `docs`.
fn documents() -> Vec<PathBuf> {
    let mut all = files(&root().join("docs"), "md");
    all.push(root().join("README.md"));
    all
}

/// The anchors of a page's headings, made as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let prose = FENCE.replace_all(text, "");
    for heading in prose.lines().filter(|line| line.starts_with('#')) {
        let slug: String = heading
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let numbered = (1..).map(|number| format!("{slug}-{number}"));
        let free = std::iter::once(slug.clone())
            .chain(numbered)
            .find(|slug| !all.contains(slug));
        all.extend(free);
    }
    all
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        for link in LINK.captures_iter(&FENCE.replace_all(&text, "")) {
            let target = link
                .get(1)
                .or_else(|| link.get(2))
                .map_or("", |m| m.as_str());
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let place = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap_or(Path::new(".")).join(file)
            };
            let found =
                place.exists() && (anchor.is_empty() || anchors(&read(&place)).contains(anchor));
            if !found {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn every_document_is_linked_from_the_readme_or_the_architecture() {
    let entry = [
        read(&root().join("README.md")),
        read(&root().join("docs/architecture.md")),
    ]
    .concat();
    for document in documents() {
        let name = document
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Decision records are listed on a page of their own.
        let index = if document
            .parent()
            .is_some_and(|dir| dir.ends_with("decisions"))
        {
            read(&root().join("docs/decisions/README.md"))
        } else {
            String::new()
        };
        assert!(
            name == "README.md" || entry.contains(&name) || index.contains(&name),
            "nothing links to {}",
            document.display()
        );
    }
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .arg("--help")
        .output()
        .unwrap_or_else(|error| panic!("xtask does not start: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The commands that a help page lists.
fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Commands:\n") else {
        return Vec::new();
    };
    let list = list.split("\n\n").next().unwrap_or_default();
    SUBCOMMAND
        .captures_iter(list)
        .map(|found| found[1].to_owned())
        .filter(|name| name != "help")
        .collect()
}

/// The part of the command-line page under the heading of `command`.
fn section<'a>(page: &'a str, command: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## `cargo xtask {command}`\n"))?;
    rest.split("\n## ").next()
}

/// Every command that does something, as words.
fn commands() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for name in subcommands(&help(&[])) {
        let inner = subcommands(&help(&[&name]));
        if inner.is_empty() {
            all.push(vec![name]);
        } else {
            all.extend(inner.into_iter().map(|verb| vec![name.clone(), verb]));
        }
    }
    all
}

#[test]
fn the_command_line_page_has_every_command_and_exactly_its_options() {
    let page = read(&root().join("docs/cli.md"));
    let commands = commands();
    assert!(commands.len() >= 7, "{commands:?}");
    for words in commands {
        let name = words.join(" ");
        let text = section(&page, &name)
            .unwrap_or_else(|| panic!("docs/cli.md has no section `cargo xtask {name}`"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let there: BTreeSet<String> = OPTION
            .captures_iter(&help(&words))
            .map(|found| found[1].to_owned())
            .filter(|option| option != "--help")
            .collect();
        let documented: BTreeSet<String> = DOCUMENTED_OPTION
            .captures_iter(text)
            .map(|found| found[1].to_owned())
            .collect();
        assert_eq!(documented, there, "options of `cargo xtask {name}`");
    }
}

/// The modules directly below a source directory.
fn modules(sources: &Path) -> BTreeSet<String> {
    let entries =
        fs::read_dir(sources).unwrap_or_else(|error| panic!("{}: {error}", sources.display()));
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"))
        .filter_map(|path| {
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
        })
        .filter(|name| !matches!(name.as_str(), "lib" | "main" | "bin" | "tests"))
        .collect()
}

#[test]
fn the_architecture_lists_every_module_and_no_other() {
    let page = read(&root().join("docs/architecture.md"));
    for sources in [
        "hypervisor/core/src",
        "hypervisor/host/src",
        "hypervisor/tpm/src",
        "hypervisor/src",
        "guest-loader/src",
        "xtask/src",
        "tests/src",
        "tests/guests/src",
    ] {
        let row = regex(&format!(r"(?m)^\| \[`(\w+)`\]\(\.\./{sources}/(\w+)[/.)]"));
        let listed: BTreeSet<String> = row
            .captures_iter(&page)
            .inspect(|found| assert_eq!(found[1], found[2], "a row of {sources}"))
            .map(|found| found[1].to_owned())
            .collect();
        assert_eq!(
            listed,
            modules(&root().join(sources)),
            "modules of {sources}"
        );
    }
}

/// The names that a source file gives its scenarios: whole, or as the ends of names of which it has the beginning.
fn scenario_names(source: &str) -> Vec<String> {
    let prefix = NAME_PREFIX
        .captures(source)
        .map_or(String::new(), |found| found[1].to_owned());
    QUOTED_NAME
        .captures_iter(source)
        .map(|found| match found[1].starts_with(&prefix) {
            true => found[1].to_owned(),
            false => format!("{prefix}{}", &found[1]),
        })
        .collect()
}

#[test]
fn every_scenario_that_a_document_names_exists() {
    let scenarios: BTreeSet<String> = files(&root().join("tests/src/scenarios"), "rs")
        .iter()
        .flat_map(|file| scenario_names(&read(file)))
        .collect();
    let mut seen = 0;
    for document in documents() {
        for name in SCENARIO.captures_iter(&read(&document)) {
            seen += 1;
            assert!(
                scenarios.contains(&name[1]),
                "{} names {}, which is no scenario",
                document.display(),
                &name[1]
            );
        }
    }
    assert!(seen >= 5, "only {seen} scenarios are named");
}

#[test]
fn the_lock_order_has_every_lock() {
    let page = read(&root().join("docs/lock-order.md"));
    let mut seen = 0;
    for file in files(&root().join("hypervisor/src"), "rs") {
        for lock in LOCK.captures_iter(&read(&file)) {
            seen += 1;
            assert!(
                page.contains(&format!("`{}`", &lock[1])),
                "docs/lock-order.md lacks {} of {}",
                &lock[1],
                file.display()
            );
        }
    }
    assert!(seen >= 5, "only {seen} locks were found");
}

#[test]
fn the_pictures_adapt_to_dark_pages_and_name_themselves() {
    let pictures = files(&root().join("docs/img"), "svg");
    assert!(pictures.len() >= 2);
    for picture in pictures {
        let text = read(&picture);
        for part in ["prefers-color-scheme: dark", "<title", "viewBox="] {
            assert!(text.contains(part), "{} lacks {part}", picture.display());
        }
    }
}
