//! Commands that change and find things: what may stand for an asset, and what people are asked and told.

use can_sync::testing::store::embedded::IngestFields;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::agent::Agent;
use crate::support::command::{Ran, User};

pub(super) fn run(user: &User, agent: &Agent, args: &[&str]) -> Ran {
    user.run_with(args, &[("CAN_SYNC_API", &agent.url(""))], b"")
}

pub(super) fn ok(user: &User, agent: &Agent, args: &[&str]) -> Ran {
    let ran = run(user, agent, args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
    ran
}

pub(super) fn sha256(content: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(content))
}

async fn add(agent: &Agent, content: &[u8], filename: &str) -> String {
    let fields = IngestFields { filename: Some(filename.to_owned()), ..IngestFields::default() };
    agent.ingest(content, fields).await;
    sha256(content)
}

fn shown(user: &User, agent: &Agent, hash: &str) -> Value {
    ok(user, agent, &["search", "--hash", hash, "--json"]).json().remove(0)
}

/// No command says what only a program that speaks HTTP could act upon.
fn assert_no_http(said: &str) {
    for word in [
        "GET ",
        "POST ",
        "PATCH ",
        "HTTP",
        "{\"",
        "/openapi",
        " 404",
        " 409",
        " 422",
        " 400",
        " 503",
        "status code",
    ] {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_is_named_by_its_hash_the_beginning_of_that_or_its_name() {
    let (user, agent) = (User::new(), Agent::start().await);
    let one = add(&agent, b"one", "Caf\u{e9} menu.txt").await;
    let two = add(&agent, b"two", "two.txt").await;
    add(&agent, b"three", "twin.txt").await;
    add(&agent, b"four", "twin.txt").await;
    for name in [&one[..8], &one[..8].to_uppercase(), "CAFE\u{301} MENU.TXT", &one] {
        assert_eq!(ok(&user, &agent, &["get", name]).stdout, b"one", "{name}");
    }
    assert_eq!(ok(&user, &agent, &["search", "--hash", &two[..6], "--json"]).json()[0]["hash"], json!(two));
    let several = run(&user, &agent, &["get", "twin.txt"]);
    assert_eq!(several.code, 2);
    for part in ["several assets", &sha256(b"three")[..10], &sha256(b"four")[..10], "(twin.txt)"] {
        assert!(several.stderr.contains(part), "{part}: {}", several.stderr);
    }
    for (none, code) in [("no such name", 6), ("ffffffff", 6), ("ab", 2)] {
        let ran = run(&user, &agent, &["rm", none]);
        assert_eq!(ran.code, code, "{none}: {}", ran.stderr);
        assert!(ran.stderr.contains(none) && ran.stderr.contains("can-sync list"), "{}", ran.stderr);
        assert_no_http(&ran.stderr);
    }
    for command in
        [&["get"] as &[&str], &["rm"], &["edit", "--tag", "x"], &["trash", "restore"], &["get", "--local"]]
    {
        let ran = run(&user, &agent, &[command, &[&"00".repeat(32)]].concat());
        assert_eq!(ran.code, 6, "{command:?}: {}", ran.stderr);
        assert_no_http(&ran.stderr);
    }
    assert_eq!(ok(&user, &agent, &["rm", "two.txt"]).text(), format!("deleted {two}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_about_an_asset_is_edited_field_by_field() {
    let (user, agent) = (User::new(), Agent::start().await);
    let hash = add(&agent, b"content", "draft.txt").await;
    ok(&user, &agent, &["edit", "draft.txt", "--tag", "b,a", "--tag", "caf\u{e9}", "--description", "first"]);
    let asset = shown(&user, &agent, &hash);
    assert_eq!((&asset["tags"], &asset["description"]), (&json!(["a", "b", "caf\u{e9}"]), &json!("first")));
    let edited = ok(
        &user,
        &agent,
        &["edit", &hash[..8], "--remove-tag", "CAFE\u{301},b", "--name", "final.txt", "--user", "ann"],
    );
    assert_eq!(edited.text(), format!("edited {hash}  final.txt\n"));
    let asset = shown(&user, &agent, &hash);
    assert_eq!(
        (&asset["tags"], &asset["filename"], &asset["user"]),
        (&json!(["a"]), &json!("final.txt"), &json!("ann"))
    );
    assert_eq!(asset["description"], json!("first"), "what is not named stays");
    let gone = run(&user, &agent, &["edit", "final.txt", "--remove-tag", "b"]);
    assert_eq!(gone.code, 6);
    assert!(gone.stderr.contains("no tag 'b'") && gone.stderr.contains("its tags are: a"), "{}", gone.stderr);
    ok(&user, &agent, &["edit", &hash, "--clear-tags", "--tag", "z", "--description", "", "--user", ""]);
    let asset = shown(&user, &agent, &hash);
    assert_eq!(
        (&asset["tags"], &asset["description"], &asset["user"]),
        (&json!(["z"]), &Value::Null, &Value::Null)
    );
    let nothing = run(&user, &agent, &["edit", &hash]);
    assert_eq!(nothing.code, 2);
    assert!(nothing.stderr.contains("nothing to change"), "{}", nothing.stderr);
    let wrong = run(&user, &agent, &["edit", &hash, "--tag", &"x".repeat(129)]);
    assert_eq!(wrong.code, 1);
    assert_no_http(&wrong.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_comes_back_from_the_trash() {
    let (user, agent) = (User::new(), Agent::start().await);
    let small = add(&agent, b"small", "small.txt").await;
    let large = vec![7; 200_000];
    let large_hash = add(&agent, &large, "large.bin").await;
    ok(&user, &agent, &["edit", &small, "--tag", "kept"]);
    ok(&user, &agent, &["rm", &small, &large_hash]);
    let list = ok(&user, &agent, &["trash", "list", "--json"]).json();
    let names: Vec<_> = list.iter().map(|trashed| trashed["filename"].as_str().unwrap()).collect();
    assert_eq!(names, ["large.bin", "small.txt"], "the latest first");
    assert!(list[0]["kept_until"].as_str().unwrap() > list[0]["trashed_at"].as_str().unwrap());
    let table = ok(&user, &agent, &["trash"]);
    assert!(
        table.text().starts_with("HASH\tSIZE\tWHY\tNAME\t") && table.text().contains("deleted\tlarge.bin"),
        "{}",
        table.text()
    );
    let restored = ok(&user, &agent, &["trash", "restore", "small.txt", &large_hash[..8]]);
    assert_eq!(restored.text(), format!("restored {small}  small.txt\nrestored {large_hash}  large.bin\n"));
    assert_eq!(ok(&user, &agent, &["get", "large.bin"]).stdout, large);
    assert_eq!(shown(&user, &agent, &small)["tags"], json!(["kept"]), "with all that was said of it");
    assert_eq!(ok(&user, &agent, &["trash", "--json"]).text(), "");
    // One that lives is restored already, and one that nobody knows never was.
    assert_eq!(run(&user, &agent, &["trash", "restore", &small]).code, 0);
    let none = run(&user, &agent, &["trash", "restore", "small.txt"]);
    assert_eq!(none.code, 6);
    assert!(none.stderr.contains("no asset in the trash 'small.txt'"), "{}", none.stderr);
    ok(&user, &agent, &["rm", &small, &large_hash]);
    assert_eq!(ok(&user, &agent, &["trash", "restore", "--all"]).text().lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_not_deleted_unasked() {
    let (user, agent) = (User::new(), Agent::start().await);
    let mut hashes = Vec::new();
    for n in 0..4_u8 {
        hashes.push(add(&agent, &[n], &format!("{n}.txt")).await);
    }
    let all: Vec<&str> = hashes.iter().map(String::as_str).collect();
    let refused = run(&user, &agent, &[&["rm"], &all[..]].concat());
    assert_eq!((refused.code, refused.text()), (2, ""));
    assert!(
        refused.stderr.contains("4 assets would be deleted") && refused.stderr.contains("--yes"),
        "{}",
        refused.stderr
    );
    assert_eq!(ok(&user, &agent, &["list", "--json"]).json().len(), 4);
    assert_eq!(ok(&user, &agent, &[&["rm", "--yes"], &all[..]].concat()).text().lines().count(), 4);
    assert_eq!(ok(&user, &agent, &["list", "--json"]).text(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_for_the_repl_fails_when_one_of_its_commands_does() {
    let (user, agent) = (User::new(), Agent::start().await);
    let repl = |lines: &str| user.run_with(&["repl"], &[("CAN_SYNC_API", &agent.url(""))], lines.as_bytes());
    assert_eq!(repl("list\nid\n").code, 0);
    let failed = repl("get no-such-thing\nid\n");
    assert_eq!((failed.code, failed.text().lines().count()), (6, 1), "the rest is done all the same");
    assert_eq!(repl("frobnicate\nid\n").code, 2);
    assert_eq!(
        repl("help\nid --help\nexit\nfrobnicate\n").code,
        0,
        "what comes after the end is not looked at"
    );
}
