//! A machine with the only copy: what is damaged, moved or lost behind the node is noticed, said, and made worse by nothing that its user
//! does then. By the real program.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::command::{Ran, User};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::embedded::content_path;
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, noise};

const SMALL: usize = 40_000;
const LARGE: usize = 400_000;

async fn ingest(daemon: &Daemon, content: &[u8]) -> reqwest::Response {
    let part = reqwest::multipart::Part::bytes(content.to_vec()).file_name("file.bin");
    let form = reqwest::multipart::Form::new().part("file", part);
    daemon.http.post(daemon.store_url("/ingest")).multipart(form).send().await.expect("an answer")
}

/// A node with these contents.
async fn filled(contents: &[Vec<u8>]) -> Daemon {
    let daemon = Daemon::start(&embedded_yaml(""));
    for content in contents {
        assert!(ingest(&daemon, content).await.status().is_success());
    }
    daemon
}

async fn read(daemon: &Daemon, content: &[u8]) -> Option<Vec<u8>> {
    let url = daemon.store_url(&format!("/asset/{}", hash_of(content)));
    let answer = daemon.http.get(url).send().await.expect("an answer");
    let found = answer.status().is_success();
    let body = answer.bytes().await.ok()?;
    found.then(|| body.to_vec())
}

async fn is_held(daemon: &Daemon, content: &[u8]) -> bool {
    let url = daemon.store_url(&format!("/asset/{}/meta", hash_of(content)));
    let meta: Value = daemon.http.get(url).send().await.unwrap().json().await.unwrap();
    meta["data"]["held"] == true
}

fn store_dir(daemon: &Daemon) -> PathBuf {
    daemon.data_dir().join("store")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Flips a bit of a stored content, wherever it lies.
fn flip(store: &Path, content: &[u8]) {
    if content.len() <= 64 * 1024 {
        let database = rusqlite::Connection::open(store.join("store.db")).unwrap();
        database.busy_timeout(Duration::from_secs(30)).unwrap();
        let mut flipped = content.to_vec();
        flipped[content.len() / 2] ^= 4;
        let changed = database.execute("UPDATE contents SET data = ?1 WHERE data = ?2", (flipped, content));
        assert_eq!(changed, Ok(1));
    } else {
        let file = fs::File::options().write(true).open(content_path(store, hash_of(content))).unwrap();
        file.write_all_at(&[content[70_000] ^ 4], 70_000).unwrap();
    }
}

/// Overwrites the page of a database that this part of a content is on.
fn overwrite_page(database: &Path, part: &[u8]) {
    let bytes = fs::read(database).unwrap();
    let at = bytes.windows(part.len()).position(|window| window == part).expect("it is in the database");
    let file = fs::File::options().write(true).open(database).unwrap();
    file.write_all_at(&[0xa5; 4096], at as u64 / 4096 * 4096).unwrap();
}

fn restore(dir: &Path) -> (User, Ran) {
    let user = User::new();
    user.write("config.yaml", embedded_yaml(""));
    let data = user.home().join("data");
    let ran = user.run(&["--json", "restore", text(dir), "--data-dir", text(&data)]);
    (user, ran)
}

async fn restored_has(dir: &Path, contents: &[Vec<u8>]) {
    let (user, ran) = restore(dir);
    assert_eq!(ran.code, 0, "{} {}", ran.text(), ran.stderr);
    let restored = Daemon::start_as(user);
    for content in contents {
        assert!(read(&restored, content).await.as_ref() == Some(content), "{} bytes", content.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_content_that_is_damaged_since_stays_in_the_backup() {
    let contents: Vec<Vec<u8>> = (0..3).map(|seed| noise(SMALL, seed)).collect();
    let daemon = filled(&contents).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    let backup = || {
        let ran = daemon.run(&["--json", "backup", text(&dir)]);
        assert_eq!(ran.code, 0, "{} {}", ran.text(), ran.stderr);
        ran.json().remove(0)
    };
    backup();
    flip(&store_dir(&daemon), &contents[1]);
    let report = backup();
    assert_eq!(report["kept"][0]["hash"], json!(hash_of(&contents[1]).to_string()), "{report}");
    restored_has(&dir, &contents).await;
    // It is the only copy, and stays for as long as it is.
    eventually("it is set aside", async || {
        assert!(read(&daemon, &contents[1]).await.is_none());
        (!is_held(&daemon, &contents[1]).await).then_some(()).ok_or_else(String::new)
    })
    .await;
    for _ in 0..2 {
        assert_eq!(backup()["kept"].as_array().map(Vec::len), Some(1));
    }
    restored_has(&dir, &contents).await;
    assert!(ingest(&daemon, &contents[1]).await.status().is_success());
    let report = backup();
    assert_eq!((&report["kept"], &report["removed"]), (&json!([]), &json!(1)), "{report}");
    restored_has(&dir, &contents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_again_is_checked_and_healed() {
    let contents = [noise(SMALL, 1), noise(LARGE, 2), noise(2_000_000, 3)];
    let daemon = filled(&contents).await;
    for (n, content) in contents.iter().enumerate() {
        daemon.user.write("again.bin", content);
        daemon.ok(&["put", "again.bin"]);
        flip(&store_dir(&daemon), content);
        if n == 2 {
            fs::write(content_path(&store_dir(&daemon), hash_of(content)), "short").unwrap();
        }
        daemon.ok(&["put", "again.bin"]);
        assert!(read(&daemon, content).await.as_ref() == Some(content), "{} bytes", content.len());
    }
    let status = daemon.get("/status").await;
    assert_eq!(status["store"]["assets_held"], 3, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_of_a_small_content_is_that_contents_damage() {
    let contents: Vec<Vec<u8>> = (0..12).map(|seed| noise(SMALL, 100 + seed)).collect();
    let daemon = filled(&contents).await;
    let home = tempfile::tempdir().unwrap();
    let (before, dir) = (home.path().join("before"), home.path().join("backup"));
    daemon.ok(&["backup", text(&before)]);
    let user = daemon.into_user();
    let database = user.home().join("data/store/store.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    // One of the pages that a row goes on to.
    overwrite_page(&database, &contents[3][20_000..20_500]);
    // And the one that another begins on.
    overwrite_page(&database, &contents[6][..200]);
    let daemon = Daemon::start_as(user);
    let ran = daemon.run(&["--json", "backup", text(&dir)]);
    assert_eq!(ran.code, 4, "{} {}", ran.text(), ran.stderr);
    let named = ran.json()[0]["damaged"].to_string();
    assert!(named.contains(&hash_of(&contents[3]).to_string()), "{named}");
    assert!(named.contains(&hash_of(&contents[6]).to_string()), "{named}");
    // The one of before has them.
    daemon.ok(&["backup", text(&before)]);
    let ran = daemon.run(&["--json", "scrub"]);
    assert_eq!(ran.code, 1, "{} {}", ran.text(), ran.stderr);
    let damaged = ran.json()[0]["damaged"].clone();
    assert!(damaged.as_array().unwrap().iter().all(|found| found["healed"] == false), "{damaged}");
    let status = daemon.get("/status").await;
    assert_eq!(status["store"]["healthy"], true, "{status}");
    let mut whole = 0;
    for content in &contents {
        match read(&daemon, content).await {
            Some(read) => {
                assert!(read == *content);
                whole += 1;
            }
            None => assert!(!is_held(&daemon, content).await),
        }
    }
    assert!((8..=10).contains(&whole), "{whole}");
    // The same again: what was met before is not forgotten.
    let ran = daemon.run(&["--json", "scrub"]);
    assert_eq!(ran.code, 1, "{} {}", ran.text(), ran.stderr);
    let why = daemon.run(&["why", &hash_of(&contents[3]).to_string()]);
    assert!(!why.text().contains("It is here"), "{}", why.text());
    for content in &contents {
        assert!(ingest(&daemon, content).await.status().is_success());
        assert!(read(&daemon, content).await.as_ref() == Some(content));
    }
    daemon.ok(&["scrub"]);
    daemon.ok(&["backup", text(&dir)]);
    restored_has(&dir, &contents).await;
    restored_has(&before, &contents).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_changes_replaces_no_backup() {
    let contents: Vec<Vec<u8>> = (0..4).map(|seed| noise(SMALL, 200 + seed)).collect();
    let daemon = filled(&contents[..1]).await;
    let home = tempfile::tempdir().unwrap();
    let (dir, other) = (home.path().join("backup"), home.path().join("other"));
    let user = daemon.into_user();
    let database = user.home().join("data/store/store.db");
    rusqlite::Connection::open(&database).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let older = fs::read(&database).unwrap();
    let daemon = Daemon::start_as(user);
    for content in &contents[1..] {
        assert!(ingest(&daemon, content).await.status().is_success());
    }
    daemon.ok(&["backup", text(&dir)]);
    let user = daemon.into_user();
    fs::write(&database, older).unwrap();
    for beside in ["store.db-wal", "store.db-shm"] {
        let _ = fs::remove_file(database.with_file_name(beside));
    }
    // Neither before it is noticed nor after.
    let refused = |ran: Ran| {
        assert_eq!(ran.code, 1, "{} {}", ran.text(), ran.stderr);
        assert!(ran.stderr.contains("another directory"), "{}", ran.stderr);
    };
    refused(user.run(&["backup", text(&dir), "--data-dir", "data"]));
    let daemon = Daemon::start_as(user);
    refused(daemon.run(&["backup", text(&dir)]));
    daemon.ok(&["backup", text(&other)]);
    daemon.ok(&["backup", text(&other)]);
    drop(daemon);
    restored_has(&dir, &contents).await;
}

/// Whatever is asked of a store that takes no writes says why.
async fn says_why(daemon: &Daemon, content: &[u8], why: &str) {
    eventually("the node says so", async || {
        let status = daemon.get("/status").await;
        let error = status["store"]["error"].as_str().unwrap_or_default();
        error.contains(why).then_some(()).ok_or_else(|| status["store"].to_string())
    })
    .await;
    let refused = ingest(daemon, content).await;
    let (status, body) = (refused.status(), refused.text().await.unwrap());
    assert!(status == 503 && body.contains(why), "{status} {body}");
    let ready = daemon.http.get(daemon.url("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    for command in [&["scrub"][..], &["doctor"]] {
        let ran = daemon.run(command);
        let said = format!("{}{}", ran.text(), ran.stderr);
        assert!(ran.code != 0 && said.contains(why), "{command:?}: {} {said}", ran.code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_the_one_that_was_opened_ends_all_writing() {
    let small = [noise(SMALL, 300), noise(SMALL, 301)];
    for replaced in [false, true] {
        for name in ["store.db", "store.db-wal"] {
            let daemon = filled(&small[..1]).await;
            let home = tempfile::tempdir().unwrap();
            let dir = home.path().join("backup");
            daemon.ok(&["backup", text(&dir)]);
            let path = store_dir(&daemon).join(name);
            if replaced {
                fs::copy(&path, home.path().join("copy")).unwrap();
                // Onto the same file system.
                fs::copy(home.path().join("copy"), path.with_file_name("copy")).unwrap();
                fs::rename(path.with_file_name("copy"), &path).unwrap();
            } else {
                fs::rename(&path, home.path().join("away")).or_else(|_| fs::remove_file(&path)).unwrap();
            }
            says_why(&daemon, &small[1], "is not the file that the store opened").await;
            if name == "store.db" && !replaced {
                let ran = daemon.run(&["backup", text(&dir)]);
                assert_eq!(ran.code, 1, "{} {}", ran.text(), ran.stderr);
                assert!(ran.stderr.contains("has lost its database"), "{}", ran.stderr);
            }
            restored_has(&dir, &small[..1]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_are_away_are_said_to_be_and_nothing_takes_their_place() {
    let contents = [noise(LARGE, 400), noise(LARGE, 401)];
    let daemon = filled(&contents[..1]).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    daemon.ok(&["backup", text(&dir)]);
    let (place, away) = (store_dir(&daemon).join("content"), store_dir(&daemon).join("away"));
    for is_empty in [false, true] {
        fs::rename(&place, &away).unwrap();
        if is_empty {
            // As a mount that is gone leaves behind.
            fs::create_dir(&place).unwrap();
        }
        says_why(&daemon, &contents[1], "the directory of contents").await;
        let ran = daemon.run(&["backup", text(&dir)]);
        assert_eq!(ran.code, 1, "{} {}", ran.text(), ran.stderr);
        assert!(ran.stderr.contains("directory of contents"), "{}", ran.stderr);
        assert_eq!(place.exists(), is_empty);
        if is_empty {
            assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
            fs::remove_dir(&place).unwrap();
        }
        fs::rename(&away, &place).unwrap();
        assert!(read(&daemon, &contents[0]).await.as_ref() == Some(&contents[0]));
        let status = daemon.get("/status").await;
        assert_eq!(
            (&status["store"]["healthy"], &status["store"]["damaged"]),
            (&json!(true), &json!(0)),
            "{status}"
        );
    }
    assert!(ingest(&daemon, &contents[1]).await.status().is_success());
    daemon.ok(&["scrub"]);
    daemon.ok(&["backup", text(&dir)]);
    restored_has(&dir, &contents).await;
}
