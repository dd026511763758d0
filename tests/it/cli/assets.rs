//! Commands that work on assets.

use std::path::Path;
use std::process::Stdio;

use can_sync::testing::api::proxy::StoreProxy;
use can_sync::testing::store::embedded::IngestFields;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::support::agent::Agent;
use crate::support::command::{Ran, User};
use crate::support::fake_daemon::FakeDaemon;

fn run(user: &User, agent: &Agent, args: &[&str]) -> Ran {
    user.run_with(args, &[("CAN_SYNC_API", &agent.url(""))], b"")
}

fn sha256(content: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(content))
}

async fn add(agent: &Agent, content: &[u8], filename: &str) -> String {
    let fields = IngestFields { filename: Some(filename.to_owned()), ..IngestFields::default() };
    agent.ingest(content, fields).await;
    sha256(content)
}

fn files_in(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).expect("a directory");
    let mut names: Vec<_> =
        names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out_the_same() {
    let (user, agent) = (User::new(), Agent::start().await);
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    user.write("a.txt", "first");
    user.write("large.bin", &large);
    user.write("empty", "");
    let ran = run(&user, &agent, &["put", "a.txt", "large.bin", "empty", "--tags", "x,y", "--user", "ann"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let expected = [(sha256(b"first"), "a.txt"), (sha256(&large), "large.bin"), (sha256(b""), "empty")];
    let lines: Vec<String> = expected.iter().map(|(hash, name)| format!("{hash}  {name}")).collect();
    assert_eq!(ran.text().lines().collect::<Vec<_>>(), lines, "in the order given");
    let stored = run(&user, &agent, &["search", "--hash", &sha256(b"first"), "--json"]).json();
    assert_eq!(stored[0]["filename"], json!("a.txt"));
    assert_eq!((&stored[0]["tags"], &stored[0]["user"]), (&json!(["x", "y"]), &json!("ann")));

    let hash = sha256(&large);
    let got = run(&user, &agent, &["get", &hash, "-o", "none/copy.bin"]);
    assert_eq!(got.code, 1, "there is no directory 'none'");
    let got = run(&user, &agent, &["get", &hash.to_uppercase(), "-o", "copy.bin"]);
    assert_eq!((got.code, got.text()), (0, ""), "{}", got.stderr);
    assert!(got.stderr.contains("verified"));
    assert_eq!(std::fs::read(user.home().join("copy.bin")).expect("the copy"), large);
    assert_eq!(run(&user, &agent, &["get", &hash]).stdout, large);
    let json = run(&user, &agent, &["get", &hash, "-o", "copy.bin", "--json"]).json();
    assert_eq!((&json[0]["hash"], &json[0]["verified"]), (&json!(hash), &json!(true)));
    assert_eq!(files_in(user.home()), ["a.txt", "copy.bin", "empty", "large.bin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_go_in_whole_and_links_are_passed_over() {
    let (user, agent) = (User::new(), Agent::start().await);
    user.write("tree/b/two", "2");
    user.write("tree/one", "1");
    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc/passwd", user.home().join("tree/link")).expect("a link");
    let ran = run(&user, &agent, &["put", "-r", "tree"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(ran.text(), format!("{}  tree/b/two\n{}  tree/one\n", sha256(b"2"), sha256(b"1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_goes_in() {
    let (user, agent) = (User::new(), Agent::start().await);
    let ran = user.run_with(&["put", "-"], &[("CAN_SYNC_API", &agent.url(""))], b"piped");
    assert_eq!(ran.text(), format!("{}  -\n", sha256(b"piped")), "{}", ran.stderr);
    let named = ["put", "-", "--filename", "named.txt", "--json"];
    let ran = user.run_with(&named, &[("CAN_SYNC_API", &agent.url(""))], b"piped, too");
    assert_eq!(ran.json()[0]["filename"], json!("named.txt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_named_and_the_rest_goes_in() {
    let (user, agent) = (User::new(), Agent::start().await);
    user.write("good", "good");
    let ran = run(&user, &agent, &["put", "missing", "good"]);
    assert_eq!((ran.code, ran.text()), (1, format!("{}  good\n", sha256(b"good")).as_str()));
    for expected in ["missing: No such file", "1 file could not be stored"] {
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
    let refused = run(&user, &agent, &["put", "good", "--tags", &"x".repeat(129)]);
    assert_eq!((refused.code, refused.text()), (1, ""));
    assert!(
        refused.stderr.contains("can-sync: good: ") && refused.stderr.contains("129"),
        "{}",
        refused.stderr
    );
}

#[test]
fn damaged_content_never_takes_a_files_place() {
    let (user, daemon) = (User::new(), FakeDaemon::start());
    daemon.change(|fake| fake.content = b"evil".to_vec());
    user.write("out", "what was there before");
    let hash = sha256(b"good");
    let ran = user.run(&["get", &hash, "-o", "out", "--api", &daemon.url]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("is damaged"), "{}", ran.stderr);
    assert_eq!(std::fs::read(user.home().join("out")).expect("the file"), b"what was there before");
    assert_eq!(files_in(user.home()), ["out"], "no temporary file stays");
    assert_eq!(user.run(&["get", &hash, "--api", &daemon.url]).code, 1);
    let evil = sha256(b"evil");
    assert_eq!(user.run(&["get", &evil, "--api", &daemon.url]).stdout, b"evil");
    daemon.change(|fake| fake.is_older = true);
    assert_eq!(user.run(&["get", &evil, "--api", &daemon.url]).stdout, b"evil", "an older service");
    assert_eq!(user.run(&["get", "--local", &evil, "--api", &daemon.url]).stdout, b"evil");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_goes_where_the_user_says_and_nowhere_else() {
    let (user, agent) = (User::new(), Agent::start().await);
    let hash = add(&agent, b"content", "../../escaped").await;
    user.write("dir/keep", "");
    let ran = run(&user, &agent, &["get", &hash, "-o", "dir"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains(&format!("dir/{hash}")), "the hash is proposed: {}", ran.stderr);
    assert!(!ran.stderr.contains("escaped"));
    assert_eq!(run(&user, &agent, &["get", &hash, "--json"]).code, 2);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

        assert_eq!(run(&user, &agent, &["get", &hash, "-o", "/dev/null"]).code, 2);
        let null = std::fs::metadata("/dev/null").expect("the null device");
        assert!(null.file_type().is_char_device(), "a device is not replaced by a file");
        user.write("target", "old");
        std::os::unix::fs::symlink("target", user.home().join("link")).expect("a link");
        assert_eq!(run(&user, &agent, &["get", &hash, "-o", "link"]).code, 0);
        assert_eq!(std::fs::read(user.home().join("target")).expect("the target"), b"content");
        assert!(user.home().join("link").is_symlink());
        let mode = |name: &str| {
            let meta = std::fs::metadata(user.home().join(name)).expect("a file");
            meta.permissions().mode() & 0o777
        };
        user.write("usual", "");
        assert_eq!(mode("target"), mode("usual"), "readable as any new file");
    }
    let missing = run(&user, &agent, &["get", &"00".repeat(32), "-o", "x"]);
    assert_eq!(missing.code, 6, "{}", missing.stderr);
    assert!(!user.home().join("x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_tab_separated_and_escaped() {
    let (user, agent) = (User::new(), Agent::start().await);
    let filename = "a\tb\u{1b}[31m\u{202e}c";
    let fields = IngestFields {
        filename: Some(filename.to_owned()),
        mime_type: Some("text/plain".to_owned()),
        tags: vec!["x".to_owned(), "y".to_owned()],
        ..IngestFields::default()
    };
    agent.ingest(b"12345", fields).await;
    let ran = run(&user, &agent, &["list"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let lines: Vec<&str> = ran.text().lines().collect();
    let start = format!("{}\t5\tyes\ttext/plain\ta\\tb\\u{{1b}}[31m\\u{{202e}}c\tx,y\t20", sha256(b"12345"));
    assert_eq!((lines.len(), lines[0]), (2, "HASH\tSIZE\tHELD\tTYPE\tNAME\tTAGS\tCREATED"));
    assert!(lines[1].starts_with(&start), "{}", lines[1]);
    let json = run(&user, &agent, &["list", "--json"]);
    assert_eq!(json.json()[0]["filename"], json!(filename));
    assert_eq!(json.json()[0]["seq"], json!(1), "nothing that the service says is left out");
    assert!(!json.text().contains('\u{202e}'), "not as it is, but as an escape");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_follows_pages_and_a_limit_says_what_is_left() {
    let (user, agent) = (User::new(), Agent::start().await);
    let names: Vec<String> = (0..1_203_u32).map(|n| format!("file-{n}")).collect();
    futures::future::join_all(names.iter().map(|name| add(&agent, name.as_bytes(), name))).await;
    let some = run(&user, &agent, &["list", "--limit", "3"]);
    assert_eq!(some.text().lines().count(), 4);
    assert!(some.stderr.contains("3 of 1203 shown; --all shows the rest"), "{}", some.stderr);
    assert_eq!(run(&user, &agent, &["list"]).text().lines().count(), 51);
    let many = run(&user, &agent, &["list", "--limit", "1100"]);
    assert_eq!(many.text().lines().count(), 1_101, "more than a page holds");
    let all = run(&user, &agent, &["list", "--all", "--oldest-first"]);
    assert_eq!((all.text().lines().count(), all.stderr.as_str()), (1_204, ""));
    let found = run(&user, &agent, &["search", "file-120", "--all", "--json"]);
    let mut found: Vec<String> = found.json().iter().map(|asset| asset["filename"].to_string()).collect();
    found.sort();
    assert_eq!(found, ["\"file-120\"", "\"file-1200\"", "\"file-1201\"", "\"file-1202\""]);
    let none = run(&user, &agent, &["search", "nothing like it"]);
    assert_eq!((none.code, none.text().lines().count()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn search_passes_every_filter_on() {
    let (user, agent) = (User::new(), Agent::start().await);
    let fields = IngestFields {
        mime_type: Some("image/png".to_owned()),
        application: Some("camera".to_owned()),
        user: Some("ann".to_owned()),
        tags: vec!["holiday".to_owned()],
        ..IngestFields::default()
    };
    agent.ingest(b"wanted", fields).await;
    add(&agent, b"other", "other").await;
    for filter in [
        &["--application", "camera"] as &[&str],
        &["--user", "ann"],
        &["--tags", "work,holiday"],
        &["--mime-prefix", "image/"],
        &["--hash", &sha256(b"wanted")],
        &["--user", "ann", "--from", "2026-01-01T00:00:00Z", "--to", "9000-01-01T00:00:00Z"],
    ] {
        let ran = run(&user, &agent, &[&["search", "--json"], filter].concat());
        let hashes: Vec<_> = ran.json().iter().map(|asset| asset["hash"].clone()).collect();
        assert_eq!(hashes, [json!(sha256(b"wanted"))], "{filter:?}: {}", ran.stderr);
    }
    for filter in [&["--user", "bob"] as &[&str], &["--user", "ann", "--to", "2000-01-01T00:00:00Z"]] {
        let ran = run(&user, &agent, &[&["search", "--json"], filter].concat());
        assert_eq!((ran.code, ran.text()), (0, ""), "{filter:?}: {}", ran.stderr);
    }
    let bad = run(&user, &agent, &["search", "--from", "yesterday"]);
    assert_eq!(bad.code, 2);
    assert!(bad.stderr.contains("from"), "{}", bad.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn rm_deletes_and_says_what_was_not_there() {
    let (user, agent) = (User::new(), Agent::start().await);
    let hash = add(&agent, b"x", "x").await;
    let missing = "00".repeat(32);
    let ran = run(&user, &agent, &["rm", &missing, &hash]);
    assert_eq!((ran.code, ran.text()), (6, format!("deleted {hash}\n").as_str()));
    assert!(ran.stderr.contains(&missing), "{}", ran.stderr);
    assert_eq!(run(&user, &agent, &["get", &hash]).code, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_is_told_from_a_daemon_that_is_gone() {
    let gone = StoreProxy::new("http://127.0.0.1:1").expect("a URL");
    let (user, agent) = (User::new(), Agent::start_with(|view| view.store_proxy = gone).await);
    let ran = run(&user, &agent, &["list"]);
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("the CAN Service at http://127.0.0.1:1/api/v1/can/0"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_a_list() {
    let (user, agent) = (User::new(), Agent::start().await);
    let names: Vec<String> = (0..1_500_u32).map(|n| format!("{n}-{}", "x".repeat(200))).collect();
    futures::future::join_all(names.iter().map(|name| add(&agent, name.as_bytes(), name))).await;
    let mut child = user
        .command(&["list", "--all", "--json", "--api", &agent.url("")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}
