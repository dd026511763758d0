//! `can-sync export`: assets as plain files, once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::json;

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::files::contents;
use crate::support::mounted::Mounted;
use crate::support::nodes::eventually;

fn start() -> Daemon {
    Daemon::start(&embedded_yaml("name: desk"))
}

/// Every file below a directory, ours too, by its path.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let text = |(name, content)| (name, String::from_utf8(content).unwrap());
    contents(dir, |_| false).into_iter().map(text).collect()
}

fn map(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

#[tokio::test]
async fn files_are_written_once_and_over_nothing() {
    let desk = start();
    for (name, content, tag) in [("a.txt", "one", "x"), ("b.txt", "two", "y"), ("c.txt", "", "y")] {
        desk.user.write(name, content);
        desk.ok(&["put", name, "--tag", tag]);
    }
    // Another content of the same name.
    desk.user.write("a.txt", "another");
    desk.ok(&["put", "a.txt", "--tag", "z"]);
    desk.user.write("out/b.txt", "somebody's own");
    let out = desk.user.home().join("out");
    let ran = desk.ok(&["export", "out", "--json"]);
    assert_eq!(ran.json().len(), 4, "{}", ran.text());
    assert!(ran.json().iter().all(|line| line["state"] == "written"), "{}", ran.text());
    let found = files(&out);
    assert_eq!(found.len(), 5, "{found:?}");
    assert_eq!(found["b.txt"], "somebody's own");
    let mut contents: Vec<&str> = found.values().map(String::as_str).collect();
    contents.sort_unstable();
    assert_eq!(contents, ["", "another", "one", "somebody's own", "two"]);
    assert!(found.keys().all(|name| Path::new(name).extension() == Some("txt".as_ref())), "{found:?}");
    // The same again adds nothing.
    let ran = desk.ok(&["export", "out"]);
    assert!(ran.text().is_empty() && ran.stderr.contains("4 files there already"), "{}", ran.stderr);
    assert_eq!(files(&out), found);
    // By the filters that search has; a directory that is not there is made.
    desk.ok(&["export", "new/deep", "--tags", "y"]);
    assert_eq!(files(&desk.user.home().join("new/deep")), map(&[("b.txt", "two"), ("c.txt", "")]));
    desk.ok(&["export", "words", "c.txt"]);
    assert_eq!(files(&desk.user.home().join("words")), map(&[("c.txt", "")]));
    // Where nothing can go.
    assert_eq!(desk.run(&["export", "a.txt"]).code, 2);
    assert_eq!(desk.run(&["export", "data/out"]).code, 2);
    assert_eq!(desk.run(&["export"]).code, 2);
    assert_eq!(desk.user.run(&["export", "out", "--api", "http://127.0.0.1:9"]).code, 3);
}

#[tokio::test]
async fn names_of_strangers_lead_nowhere_else() {
    let desk = start();
    let names = [
        "../../up.txt",
        "/etc/motd-of-a-test",
        "..",
        "a\u{1b}[2J\u{202e}b.txt",
        ".can-sync-folder",
        "x/../../y",
    ];
    for (n, name) in names.iter().enumerate() {
        let part = reqwest::multipart::Part::bytes(format!("hostile {n}").into_bytes());
        let form = reqwest::multipart::Form::new().part("file", part).text("filename", (*name).to_owned());
        let sent = desk.http.post(desk.store_url("/ingest")).multipart(form).send().await.unwrap();
        assert!(sent.status().is_success() || sent.status() == 400, "{name}: {}", sent.status());
    }
    let kept = desk.assets().await.len();
    assert!(kept > 0);
    let ran = desk.ok(&["export", "out", "--json"]);
    let out = desk.user.home().join("out").canonicalize().unwrap();
    for line in ran.json() {
        let path = Path::new(line["path"].as_str().unwrap());
        assert!(path.parent() == Some(out.as_path()) && path.is_file(), "{line}");
        assert!(!line["path"].as_str().unwrap().contains(['\u{1b}', '\u{202e}']), "{line}");
    }
    assert_eq!(files(&out).len(), kept);
    assert!(!Path::new("/etc/motd-of-a-test").exists());
    assert!(!out.join(".can-sync-folder").exists());
    assert!(!desk.user.home().join("up.txt").exists());
}

#[tokio::test]
async fn what_folders_have_is_at_its_paths() {
    let desk = start();
    let photos = desk.user.home().join("Photos");
    desk.user.write("Photos/2024/a.txt", "one");
    desk.user.write("Photos/2024/copy.txt", "one");
    desk.user.write("Photos/b.txt", "two");
    desk.user.write("alone.txt", "three");
    desk.ok(&["put", "alone.txt"]);
    fs::set_permissions(photos.join("b.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    desk.ok(&["folder", "add", photos.to_str().unwrap(), "--name", "photos"]);
    eventually("all is agreed", async || {
        let report = desk.ok(&["folder", "status", "photos", "--json"]).json().remove(0);
        (report["entries"] == 3 && report["state"] == "idle").then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    desk.ok(&["export", "out"]);
    let out = desk.user.home().join("out");
    let expected =
        [("2024/a.txt", "one"), ("2024/copy.txt", "one"), ("b.txt", "two"), ("alone.txt", "three")];
    assert_eq!(files(&out), map(&expected));
    assert_eq!(fs::metadata(out.join("b.txt")).unwrap().permissions().mode() & 0o100, 0o100);
    desk.ok(&["export", "only", "--folder", "photos"]);
    assert_eq!(files(&desk.user.home().join("only")), map(&expected[..3]));
    assert_eq!(desk.run(&["export", "only", "--folder", "none"]).code, 6);
    let ran = desk.ok(&["export", "out"]);
    assert!(ran.stderr.contains("0 files written"), "{}", ran.stderr);
    // A content that is gone is an error at the end, and the rest is there.
    let hash = desk.ok(&["list", "--json"]).json().iter().find(|one| one["filename"] == "alone.txt").unwrap()
        ["hash"]
        .clone();
    desk.ok(&["rm", "--yes", hash.as_str().unwrap()]);
    desk.ok(&["export", "less"]);
    assert_eq!(files(&desk.user.home().join("less")), map(&expected[..3]));
    assert_eq!(desk.post("/folder-places", &json!({ "hashes": [] })).await["data"]["places"], json!([]));
}

#[tokio::test]
async fn a_full_disk_leaves_no_half_file() {
    let desk = start();
    let out = desk.user.home().join("out");
    fs::create_dir(&out).unwrap();
    let Some(_mounted) = Mounted::new(&out, "size=1m") else { return };
    for n in 0..8 {
        let content = format!("{n}").repeat(300_000);
        desk.user.write(&format!("{n}.txt"), &content);
        desk.ok(&["put", &format!("{n}.txt")]);
    }
    let ran = desk.run(&["export", "out"]);
    assert!(ran.code == 1 && ran.stderr.contains("make room"), "{} {}", ran.code, ran.stderr);
    let is_named = (0..8).any(|n| ran.stderr.contains(&format!("/out/{n}.txt': No space left")));
    assert!(is_named, "{}", ran.stderr);
    for (name, content) in files(&out) {
        assert!(!name.starts_with(".can-sync"), "{name} was left");
        assert_eq!(content.len(), 300_000, "{name}");
    }
}
