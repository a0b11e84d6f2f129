//! Lines of text.

use super::super::command::{Command, DEFAULT_LOG_LINES, Verb};
use super::super::request::Request;
use super::{commands, name, names};
use crate::lifecycle::Order;

fn complaint(line: &str) -> String {
    Request::parse(line, &names()).unwrap_err().to_string()
}

#[test]
fn every_command_is_read_from_the_line_it_displays_as() {
    for command in commands() {
        let line = command.to_string();
        assert_eq!(line.parse().as_ref(), Ok(&command), "{line}");
        let spaced = format!("  {}  ", line.replace(' ', " \t "));
        assert_eq!(Command::parse(&spaced), Ok(command), "{spaced}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    assert_eq!(
        Command::parse("log"),
        Ok(Command::Log {
            lines: DEFAULT_LOG_LINES
        })
    );
    assert_eq!(Command::parse("stats"), Ok(Command::Stats { vm: None }));
    assert_eq!(
        Command::parse("stop web"),
        Ok(Command::Stop {
            vm: name("web"),
            hard: false
        })
    );
    assert_eq!(
        Command::parse("memory web 0x10ff0").unwrap().to_string(),
        "memory web 0x10ff0 16"
    );
}

#[test]
fn orders_are_those_that_change_a_vm() {
    let order = |line| Command::parse(line).unwrap().order();
    assert_eq!(order("start web"), Some(Order::Start));
    assert_eq!(order("stop web hard"), Some(Order::Stop { hard: true }));
    assert_eq!(order("restart web"), Some(Order::Restart));
    assert_eq!(order("switch web"), None);
    assert_eq!(order("list"), None);
}

#[test]
fn a_request_knows_which_vm_it_is_about() {
    let request = Request::parse("stats bare-metal", &names()).unwrap();
    assert_eq!(request.vm, Some(2));
    assert_eq!(Request::parse("stats", &names()).unwrap().vm, None);
}

#[test]
fn complaints_say_where_what_and_what_helps() {
    for (line, expected) in [
        ("", "column 1: there is no command; `help` lists them"),
        (
            "stpo web",
            "column 1: there is no command \"stpo\"; did you mean `stop`?",
        ),
        (
            "frobnicate",
            "column 1: there is no command \"frobnicate\"; `help` lists them",
        ),
        (
            "  stop  wbe",
            "column 9: there is no VM \"wbe\"; did you mean \"web\"?",
        ),
        (
            "start elsewhere",
            "column 7: there is no VM \"elsewhere\"; `list` shows their names",
        ),
        (
            "pause",
            "column 7: the name of a VM is missing: `pause VM`; `list` shows the names",
        ),
        (
            "stop web hrad",
            "column 10: \"hrad\" cannot stand here: `stop VM [hard]`; did you mean `hard`?",
        ),
        (
            "trace web maybe",
            "column 11: \"maybe\" cannot stand here: `trace VM [on|off]`",
        ),
        ("list all", "column 6: \"all\" is one word too many: `list`"),
        (
            "log -5",
            "column 5: \"-5\" is no number of lines from 1 to 1000",
        ),
        (
            "log 1001",
            "column 5: \"1001\" is no number of lines from 1 to 1000",
        ),
        (
            "memory web",
            "column 12: \"\" is no guest-physical address: `memory VM ADDRESS [BYTES]`, with ADDRESS in hexadecimal after 0x",
        ),
        (
            "memory web 0x10ff0 17",
            "column 20: \"17\" is no number of bytes from 1 to 16, which is what can be shown of the page from there",
        ),
        (
            "memory web 0x1000 300",
            "column 19: \"300\" is no number of bytes from 1 to 256, which is what can be shown of the page from there",
        ),
        (
            "start Web",
            "column 7: no VM can be called \"Web\": the character 'W' cannot stand where it does; `list` shows the names",
        ),
    ] {
        assert_eq!(complaint(line), expected, "{line}");
    }
    for number in ["0", "+5", "99999999999"] {
        assert!(complaint(&format!("log {number}")).contains("is no number"));
    }
    for address in ["1000", "0x", "0x+1", "-0x1", "0xg", "0x10000000000000000"] {
        let line = format!("memory web {address}");
        assert!(complaint(&line).contains("is no guest-physical address"));
    }
}

#[test]
fn a_long_wrong_word_is_not_repeated_whole() {
    assert!(complaint(&"x".repeat(250)).len() < 100);
}

#[test]
fn the_documentation_lists_the_commands_as_help_does() {
    let page = include_str!("../../../../../docs/console.md");
    let (_, section) = page.split_once("\n## Commands\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let listed: Vec<String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(usage, _)| usage.replace("\\|", "|"))
        .collect();
    assert_eq!(listed, Verb::ALL.map(Verb::usage));
}

#[test]
fn the_documentations_examples_of_complaints_are_what_is_said() {
    let page = include_str!("../../../../../docs/console.md");
    let mut examples = 0;
    for (typed, answer) in page.lines().zip(page.lines().skip(1)) {
        if let Some(line) = typed.strip_prefix("bulkhead> ")
            && answer.starts_with("column ")
        {
            assert_eq!(complaint(line), answer);
            examples += 1;
        }
    }
    assert_eq!(examples, 2);
}
