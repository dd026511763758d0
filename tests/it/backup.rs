//! `can-sync backup` and `can-sync restore`, by the real program.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::command::{Ran, User};
use crate::support::daemon::{Daemon, embedded_yaml, listing};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, noise};

mod drill;
mod kills;
mod refusals;

/// In the database, and in files of their own.
const SIZES: [usize; 6] = [200, 300, 60_000, 70_000, 400_000, 1_500_000];

fn content(seed: usize) -> Vec<u8> {
    noise(SIZES[seed % SIZES.len()], seed as u64)
}

async fn ingest(daemon: &Daemon, content: Vec<u8>) -> String {
    let part = reqwest::multipart::Part::bytes(content).file_name("file.bin");
    let form = reqwest::multipart::Form::new().part("file", part);
    let answer =
        daemon.http.post(daemon.store_url("/ingest")).multipart(form).send().await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    answer["data"]["hash"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn read(daemon: &Daemon, hash: &str) -> Option<Vec<u8>> {
    let url = daemon.store_url(&format!("/asset/{hash}"));
    let answer = daemon.http.get(url).send().await.expect("an answer");
    let found = answer.status().is_success();
    let body = answer.bytes().await.ok()?;
    found.then(|| body.to_vec())
}

/// A node with some assets, and one that was deleted.
async fn filled(count: usize) -> (Daemon, Vec<Vec<u8>>) {
    let daemon = Daemon::start(&embedded_yaml("replicate_deletes: true"));
    let contents: Vec<_> = (1..=count).map(content).collect();
    for content in &contents {
        ingest(&daemon, content.clone()).await;
    }
    let deleted = ingest(&daemon, noise(100_000, 999_999)).await;
    daemon.ok(&["rm", &deleted]);
    (daemon, contents)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The report of a backup that was made.
fn backup(daemon: &Daemon, dir: &Path, more: &[&str]) -> Value {
    let ran = daemon.ok(&[&["--json", "backup", text(dir)], more].concat());
    ran.json().remove(0)
}

/// Restores into the data directory of a new user's home.
fn restore(dir: &Path, more: &[&str]) -> (User, Ran) {
    let user = User::new();
    user.write("config.yaml", embedded_yaml("replicate_deletes: true"));
    let data = user.home().join("data");
    let ran = user.run(&[&["--json", "restore", text(dir), "--data-dir", text(&data)], more].concat());
    (user, ran)
}

fn content_file(data_dir: &Path, content: &[u8]) -> PathBuf {
    crate::support::embedded::content_path(&data_dir.join("store"), hash_of(content))
}

fn backed_up(dir: &Path, content: &[u8]) -> PathBuf {
    crate::support::embedded::content_path(dir, hash_of(content))
}

fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 50_000).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], 50_000).expect("another byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_backed_up_while_the_node_runs_is_restored() {
    let (daemon, contents) = filled(12).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("to/backup");
    let report = backup(&daemon, &dir, &[]);
    // Those in files, and the one in the trash.
    assert_eq!(
        (&report["assets"], &report["copied"], &report["contents"]),
        (&json!(12), &json!(7), &json!(7)),
        "{report}"
    );
    assert_eq!((&report["damaged"], &report["endpoint_id"]), (&json!([]), &json!(daemon.id())));
    for entry in walkdir::WalkDir::new(&dir) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is for its owner alone: {mode:o}", entry.path().display());
    }
    let before = listing(&daemon.data_dir().join("store/content"));
    let (user, ran) = restore(&dir, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report = ran.json().remove(0);
    assert_eq!((&report["assets"], &report["missing"]), (&json!(12), &json!([])), "{report}");
    assert_eq!(listing(&daemon.data_dir().join("store/content")), before, "nothing is changed here");
    let (id, assets) = (daemon.id().to_owned(), daemon.assets().await);
    drop(daemon);
    let restored = Daemon::start_as(user);
    assert_eq!(restored.id(), id);
    assert_eq!(restored.assets().await, assets);
    for content in &contents {
        assert!(read(&restored, &hash_of(content).to_string()).await.as_ref() == Some(content));
    }
    // The trash is there, too.
    let listed = restored.ok(&["--json", "trash"]).json();
    let hash = listed[0]["hash"].as_str().unwrap_or_else(|| panic!("{listed:?}")).to_owned();
    restored.ok(&["trash", "restore", &hash]);
    assert!(read(&restored, &hash).await == Some(noise(100_000, 999_999)));
    let status = restored.get("/status").await;
    assert_eq!(status["store"]["notice"], Value::Null, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_backup_copies_what_is_new_and_drops_what_is_gone() {
    let (mut daemon, contents) = filled(12).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    backup(&daemon, &dir, &[]);
    let inodes = |contents: &[Vec<u8>]| -> Vec<u64> {
        contents.iter().filter_map(|c| fs::metadata(backed_up(&dir, c)).ok()).map(|meta| meta.ino()).collect()
    };
    let before = inodes(&contents);
    let new = noise(500_000, 4711);
    ingest(&daemon, new.clone()).await;
    let report = backup(&daemon, &dir, &[]);
    assert_eq!(
        (&report["copied"], &report["copied_bytes"], &report["removed"]),
        (&json!(1), &json!(500_000), &json!(0))
    );
    assert_eq!(inodes(&contents), before, "what is there is not written again");
    assert_eq!(fs::read_dir(dir.join("states")).unwrap().count(), 1, "one backup at a time");

    daemon.kill();
    let database = rusqlite::Connection::open(daemon.data_dir().join("store/store.db")).unwrap();
    database.execute("DELETE FROM records WHERE hash = ?1", [hash_of(&new).0]).unwrap();
    drop(database);
    let ran = daemon.user.run(&["--json", "backup", text(&dir), "--data-dir", "data"]);
    assert_eq!(ran.code, 0, "of a node that does not run: {}", ran.stderr);
    assert_eq!(ran.json()[0]["removed"], 1);
    assert!(!backed_up(&dir, &new).exists());
    assert!(
        !daemon.data_dir().join("store/store.db-wal").exists()
            || daemon.data_dir().join("store/store.db").exists()
    );
}

/// Puts and deletions go on: each backup holds all that was acknowledged before it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_holds_all_that_was_there_when_it_began() {
    let (daemon, contents) = filled(12).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    let (http, url) = (daemon.http.clone(), daemon.store_url(""));
    let load = tokio::spawn(async move {
        for seed in 0.. {
            let part = reqwest::multipart::Part::bytes(noise(90_000, 50_000 + seed));
            let form = reqwest::multipart::Form::new().part("file", part);
            let answer: Value = http
                .post(format!("{url}/ingest"))
                .multipart(form)
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            if seed % 2 == 0 {
                let hash = answer["data"]["hash"].as_str().unwrap();
                http.delete(format!("{url}/asset/{hash}")).send().await.unwrap();
            }
        }
    });
    for round in 0..3 {
        let acknowledged = ingest(&daemon, noise(200_000, 7000 + round)).await;
        let (user, args) =
            (daemon.user.home().to_owned(), ["--json", "backup", text(&dir)].map(str::to_owned));
        let ran = tokio::task::spawn_blocking(move || User::at(&user, &args, &[], b"")).await.unwrap();
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let (user, ran) = restore(&dir, &["--new-id"]);
        assert_eq!(ran.code, 0, "{} {}", ran.text(), ran.stderr);
        assert_eq!(ran.json()[0]["missing"], json!([]));
        let restored = Daemon::start_as(user);
        assert!(read(&restored, &acknowledged).await == Some(noise(200_000, 7000 + round)));
        for content in &contents {
            assert!(read(&restored, &hash_of(content).to_string()).await.as_ref() == Some(content));
        }
        let checked = restored.ok(&["--json", "scrub"]).json();
        assert_eq!(checked[0]["damaged"], json!([]), "every record has its content");
    }
    load.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_content_is_named_and_never_backed_up() {
    let (daemon, contents) = filled(12).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    let (flipped, gone) = (&contents[2], &contents[3]);
    flip(&content_file(&daemon.data_dir(), flipped));
    fs::remove_file(content_file(&daemon.data_dir(), gone)).unwrap();
    let ran = daemon.run(&["--json", "backup", text(&dir)]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("2 contents are damaged here"), "{}", ran.stderr);
    let report = ran.json().remove(0);
    let named: Vec<&str> = report["damaged"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["hash"].as_str().unwrap())
        .collect();
    let (flipped_hash, gone_hash) = (hash_of(flipped).to_string(), hash_of(gone).to_string());
    assert!(named.len() == 2 && named.contains(&&*flipped_hash) && named.contains(&&*gone_hash), "{report}");
    assert!(!backed_up(&dir, flipped).exists() && !backed_up(&dir, gone).exists());
    let (user, ran) = restore(&dir, &["--new-id"]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert_eq!(ran.json()[0]["missing"].as_array().unwrap().len(), 2);
    let restored = Daemon::start_as(user);
    let status = restored.get("/status").await;
    assert_eq!(
        (&status["store"]["assets"], &status["store"]["assets_held"]),
        (&json!(12), &json!(10)),
        "{status}"
    );
    // What is missing is wanted, and comes from whoever has it.
    let other = Daemon::start(&embedded_yaml(""));
    for content in [flipped, gone] {
        ingest(&other, content.clone()).await;
    }
    restored.dial(&other).await;
    for content in [flipped, gone] {
        eventually("it is fetched", async || {
            let got = read(&restored, &hash_of(content).to_string()).await;
            (got.as_ref() == Some(content))
                .then_some(())
                .ok_or_else(|| format!("{:?}", got.map(|got| got.len())))
        })
        .await;
    }
}

/// What was whole in the backup before stays in it, whatever becomes of it here.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_is_damaged_since_stays_in_the_backup_and_comes_back_from_it() {
    let (daemon, contents) = filled(12).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    backup(&daemon, &dir, &[]);
    let flipped = &contents[2];
    let hash = hash_of(flipped).to_string();
    flip(&content_file(&daemon.data_dir(), flipped));
    eventually("it is set aside", async || {
        drop(read(&daemon, &hash).await);
        let meta = daemon.http.get(daemon.store_url(&format!("/asset/{hash}/meta"))).send().await.unwrap();
        let meta: Value = meta.json().await.unwrap();
        (meta["data"]["held"] == false).then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;
    let report = backup(&daemon, &dir, &["--verify"]);
    assert_eq!(report["removed"], 0, "{report}");
    let (user, ran) = restore(&dir, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    drop(daemon);
    let restored = Daemon::start_as(user);
    eventually("it is held again", async || {
        let got = read(&restored, &hash).await;
        (got.as_ref() == Some(flipped)).then_some(()).ok_or_else(|| format!("{:?}", got.map(|got| got.len())))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_rots_in_the_backup_is_found_out() {
    let (daemon, contents) = filled(12).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    backup(&daemon, &dir, &[]);
    flip(&backed_up(&dir, &contents[2]));
    let (_, ran) = restore(&dir, &[]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let missing = ran.json()[0]["missing"].clone();
    assert_eq!(missing[0]["hash"], json!(hash_of(&contents[2]).to_string()));
    assert!(missing[0]["problem"].as_str().unwrap().contains("damaged in the backup"), "{missing}");
    let report = backup(&daemon, &dir, &["--verify"]);
    assert_eq!(report["copied"], 1, "it is copied once more: {report}");
    let (_, ran) = restore(&dir, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_node_can_be_one_of_its_own() {
    let (daemon, _) = filled(6).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    backup(&daemon, &dir, &["--hard-link"]);
    let file = fs::read_dir(dir.join("content")).unwrap().next();
    assert!(file.is_some());
    let linked = walkdir::WalkDir::new(dir.join("content")).into_iter().map(Result::unwrap);
    let linked = linked.filter(|entry| entry.file_type().is_file());
    assert!(linked.map(|entry| entry.metadata().unwrap().nlink()).all(|links| links == 2));
    let (user, ran) = restore(&dir, &["--new-id"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let beside = Daemon::start_as(user);
    assert_ne!(beside.id(), daemon.id());
    let ids = [daemon.get("/status").await, beside.get("/status").await]
        .map(|status| status["store"]["id"].clone());
    assert_ne!(ids[0], ids[1], "another store, too");
    beside.dial(&daemon).await;
    tokio::join!(daemon.wait_in_sync(), beside.wait_in_sync());
    let new = ingest(&beside, noise(80_000, 1)).await;
    eventually("they are two", async || {
        read(&daemon, &new).await.map(drop).ok_or_else(|| "not there yet".to_owned())
    })
    .await;
    assert_eq!(daemon.assets().await, beside.assets().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_can_service_is_backed_up_by_its_data_directory() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("service");
    let service = crate::support::service::ServiceProcess::start(&data, "127.0.0.1:0");
    let large = noise(200_000, 1);
    let record = crate::support::store::record_of(&large);
    let asset = crate::support::store::incoming_file(record, &large);
    can_sync::testing::store::ContentStore::ingest(&service.remote(), vec![asset]).await.unwrap();
    let user = User::new();
    let dir = home.path().join("backup");
    let ran = user.run(&["--json", "backup", text(&dir), "--data-dir", text(&data)]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    drop(service);
    let restored = home.path().join("restored");
    let ran = user.run(&["restore", text(&dir), "--data-dir", text(&restored)]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let service = crate::support::service::ServiceProcess::start(&restored, "127.0.0.1:0");
    let found = crate::support::store::read(&service.remote(), hash_of(&large), 0, None).await;
    assert!(found.as_ref() == Ok(&large));
}
