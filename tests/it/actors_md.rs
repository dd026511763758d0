//! `actors.md` names every actor and every message, and none that does not exist.
//!
//! That the policy table in it is the one in the code is tested next to that one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use can_sync::testing::actor::policy::ChildKind;
use can_sync::testing::actor::supervisor::shutdown_limit;

const ACTORS_MD: &str = include_str!("../../actors.md");

#[test]
fn every_actor_has_its_section_with_its_messages_and_its_test() {
    for name in ChildKind::ALL.map(ChildKind::name).into_iter().chain(["RootSupervisor"]) {
        let section = section(name).unwrap_or_else(|| panic!("actors.md has no section on {name}"));
        let messages = format!("`{}`", enum_of(name));
        assert!(section.contains(&messages), "the section on {name} does not name {messages}");
        for part in ["**Start**", "**Mailbox**", "**Tasks**", "**Restart**", "**Tests**"] {
            assert!(section.contains(part), "the section on {name} says nothing about {part}");
        }
    }
}

#[test]
fn every_message_in_the_code_is_described_and_no_other() {
    let in_code = message_enums();
    assert!(in_code.contains_key("RootMsg") && in_code.contains_key("SignalMsg"), "{in_code:?}");
    for (messages, variants) in in_code {
        let actor = actor_of(&messages);
        let section = section(&actor).unwrap_or_else(|| panic!("actors.md has no section on {actor}"));
        let described: BTreeSet<String> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .map(|row| row.chars().take_while(char::is_ascii_alphanumeric).collect())
            .collect();
        assert_eq!(
            described, variants,
            "the table of {messages} in actors.md (left) is not the enum (right)"
        );
    }
}

#[test]
fn the_longest_shutdown_is_the_one_described() {
    let limit = format!("at most {} s", shutdown_limit().as_secs_f64());
    assert!(section("Shutdown").expect("a section on it").contains(&limit), "actors.md does not say {limit}");
}

#[test]
fn every_file_that_is_named_exists() {
    let names = ACTORS_MD.split('`').filter(|text| Path::new(text).extension().is_some_and(|e| e == "rs"));
    let mut count = 0;
    for name in names {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).is_file(), "actors.md names {name}");
        count += 1;
    }
    assert!(count > 5, "actors.md names {count} files");
}

/// From one heading of the second level to the next.
fn section(name: &str) -> Option<&'static str> {
    let start = ACTORS_MD.find(&format!("\n## {name}\n"))? + 1;
    let rest = &ACTORS_MD[start..];
    Some(rest.find("\n## ").map_or(rest, |end| &rest[..end]))
}

fn enum_of(actor: &str) -> String {
    match actor {
        "RootSupervisor" => "RootMsg".to_owned(),
        other => format!("{}Msg", other.trim_end_matches("Actor")),
    }
}

fn actor_of(messages: &str) -> String {
    match messages {
        "RootMsg" => "RootSupervisor".to_owned(),
        other => format!("{}Actor", other.trim_end_matches("Msg")),
    }
}

/// Every public enum in `src/` that is named `…Msg`, with its variants. Relies on the layout that `cargo fmt` gives.
fn message_enums() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in walkdir::WalkDir::new(sources) {
        let entry = entry.expect("the sources can be read");
        if entry.path().extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = fs::read_to_string(entry.path()).expect("the sources can be read");
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let name = line.strip_prefix("pub enum ").unwrap_or_default().trim_end_matches(" {");
            if !name.ends_with("Msg") {
                continue;
            }
            let variants = lines
                .by_ref()
                .take_while(|line| *line != "}")
                .filter_map(|line| line.strip_prefix("    "))
                .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
                .map(|line| line.chars().take_while(char::is_ascii_alphanumeric).collect());
            found.insert(name.to_owned(), variants.collect());
        }
    }
    found
}
