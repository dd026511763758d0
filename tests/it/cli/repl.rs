//! `can-sync repl`, its commands from a pipe.

use can_sync::testing::peer::report::{ConnectionState, SyncState};
use iroh::SecretKey;

use crate::support::agent::{Agent, peer};
use crate::support::command::{Ran, User};

fn nobody() -> String {
    format!("http://{}", crate::support::ports::nobody())
}

fn repl(user: &User, api: &str, lines: &str) -> Ran {
    user.run_with(&["repl"], &[("CAN_SYNC_API", api)], lines.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_come_line_by_line_without_the_programs_name() {
    let agent = Agent::start().await;
    agent.set_peers(SyncState::InSync, vec![peer(2, "cellar", ConnectionState::InSync)]);
    let user = User::new();
    user.write("my file.txt", "hello");
    let lines = "# a remark\n\nid\npeers\nput 'my file.txt' --tags \"a b\"\nlist --json\nid --ticket --json\nexit\nid\n";
    let ran = repl(&user, &agent.url(""), lines);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let rows: Vec<_> = ran.text().lines().collect();
    assert_eq!(rows.len(), 5, "no prompt, and nothing after exit: {rows:?}");
    assert_eq!(rows[0], SecretKey::from_bytes(&[1; 32]).public().to_string());
    assert!(rows[1].contains("\tcellar\t40\t"), "{rows:?}");
    assert!(rows[3].contains("my file.txt") && rows[3].contains("a b"), "{rows:?}");
    assert!(rows[4].starts_with('{'), "{rows:?}");
}

#[test]
fn a_command_that_fails_does_not_end_it() {
    let user = User::new();
    let (api, id) = (nobody(), SecretKey::from_bytes(&[9; 32]).public());
    let lines = format!(
        "status\nfrobnicate\npeers --depth\nput 'open\nrepl\npeers @{id} --no-relay --topic t\nconfig check\nhelp peers\nhelp"
    );
    let ran = repl(&user, &api, &lines);
    assert_eq!(ran.code, 3, "a script learns that something failed: {}", ran.stderr);
    for expected in [
        "no daemon running: commands that need one",
        &format!("no daemon running: no can-sync daemon answers at {api}"),
        "unrecognized subcommand 'frobnicate'",
        "a value is required for '--depth <N>'",
        "single quote (') is not closed",
        "this is the repl already",
        &format!("nobody here knows where {id} is"),
    ] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    let text = ran.text();
    assert!(text.contains("ok, 0 set") || text.contains("ok"), "what needs no daemon works: {text}");
    assert!(text.contains("--max-peers"), "{text}");
    assert!(text.contains("exit or quit ends"), "{text}");
    assert!(!text.contains("can-sync peers"), "commands are shown as they are typed: {text}");
}

#[test]
fn a_stdin_that_is_no_text_is_the_one_failure() {
    let ran = User::new().run_with(&["repl"], &[("CAN_SYNC_API", &nobody())], b"id\n\xff\xfe\n");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot read stdin"), "{}", ran.stderr);
    let long = vec![b'x'; 70_000];
    let ran = User::new().run_with(&["repl"], &[("CAN_SYNC_API", &nobody())], &long);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("a line has more than 64.0 KiB"), "{}", ran.stderr);
    assert_eq!(User::new().run(&["repl"]).code, 0, "nothing at all is the end");
}
