//! Databases of every former schema whose process is killed while it brings them up to date: whatever was in them can be read
//! afterwards.
//!
//! The process is this test binary again, running the ignored test [`a_process_that_migrates`]; strace kills it at a write of our
//! choice, where it is installed and allowed.

#![expect(clippy::print_stdout, reason = "what a test measured belongs into its output")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use futures::TryStreamExt as _;
use rusqlite::params;
use sha2::{Digest as _, Sha256};

use super::tests::database;
use super::*;
use crate::clock::Clock;
use crate::record::ContentHash;
use crate::store::ContentStore as _;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore, ListQuery};

const DIR: &str = "CAN_SYNC_TEST_MIGRATED_DIR";
/// How often the migration from each schema is killed; more with the variable, up to each of its writes.
const KILLS: &str = "CAN_SYNC_TEST_KILLS";
const KILLS_DEFAULT: usize = 2;
/// The highest number of a call that strace takes.
const STRACE_MAX: usize = 65_535;
const ASSETS: i64 = 120;
const CREATED_MS: i64 = 1_750_000_000_000;

/// Contents by name, as the first version would have stored them.
fn contents() -> BTreeMap<String, Vec<u8>> {
    let content = |number: i64| (format!("file {number}.txt"), number.to_le_bytes().repeat(50));
    (0..ASSETS).map(content).collect()
}

/// What the first version would have left.
fn fill(path: &Path) {
    let mut conn = database(path, 1);
    let tx = conn.transaction().unwrap();
    let mut bytes = 0_i64;
    for (number, (name, content)) in (1_i64..).zip(contents()) {
        let hash: [u8; 32] = Sha256::digest(&content).into();
        let len = i64::try_from(content.len()).unwrap();
        bytes += len;
        tx.execute("INSERT INTO contents VALUES (?1, ?2)", params![number, content]).unwrap();
        tx.execute(
            "INSERT INTO records (seq, hash, size, hlc, deleted, content, updated_at_ms, created_at_ms, mime_type, filename,
                 application, tags, description, search)
             VALUES (?1, ?2, ?3, ?4, 0, ?1, ?5, ?5, 'text/plain', ?6, 'Scan', '[\"Sea\"]', 'by hand', ?6)",
            params![number, hash, len, CREATED_MS << 16, CREATED_MS, name],
        )
        .unwrap();
        tx.execute("INSERT INTO record_tags VALUES ('Sea', ?1)", [hash]).unwrap();
    }
    tx.execute(
        "INSERT INTO records (seq, hash, size, hlc, deleted, updated_at_ms, created_at_ms, mime_type)
         VALUES (?1 + 1, zeroblob(32), 9, ?2, 1, ?3, ?3, '')",
        params![ASSETS, CREATED_MS << 16, CREATED_MS],
    )
    .unwrap();
    tx.execute("UPDATE state SET last_seq = ?1 + 1, assets = ?1, bytes = ?2", params![ASSETS, bytes])
        .unwrap();
    tx.commit().unwrap();
}

/// Opens the store, and reads all that [`fill`] put there.
async fn check(dir: &Path) {
    let config = EmbeddedConfig { dir: dir.to_owned(), disk_reserve_bytes: 0, clock: Clock::system() };
    let store = EmbeddedStore::open(config).await.expect("the store opens");
    let query = ListQuery { limit: 1000, ..ListQuery::default() };
    let page = store.list(query).await.expect("a list");
    let mut expected = contents();
    assert_eq!((page.total, page.assets.len()), (ASSETS.cast_unsigned(), expected.len()));
    for asset in page.assets {
        let meta = asset.record.meta;
        assert_eq!((meta.created_at_ms, meta.tags), (CREATED_MS.cast_unsigned(), vec!["Sea".to_owned()]));
        assert_eq!(
            (meta.application.as_deref(), meta.description.as_deref()),
            (Some("Scan"), Some("by hand"))
        );
        let content = expected.remove(&meta.filename.expect("a name")).expect("one of ours, once");
        let reader = store.content(asset.record.hash, 0, None).await.expect("its content");
        let chunks: Vec<bytes::Bytes> = reader.chunks.try_collect().await.expect("its bytes");
        assert_eq!(chunks.concat(), content);
    }
    let gone = store.records(vec![ContentHash([0; 32])]).await.expect("records");
    assert!(gone.len() == 1 && gone[0].record.deleted, "a tombstone stays one");
    store.close().await;
    let conn = Connection::open(dir.join("store.db")).unwrap();
    let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!((sound.as_str(), user_version(&conn).unwrap()), ("ok", KNOWN as u64));
}

/// Not a test of its own: what runs in the other process.
#[test]
#[ignore = "started by the test of this module"]
fn a_process_that_migrates() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let conn = open_for_writing(&Path::new(&dir).join("store.db")).expect("it is migrated");
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    println!("migrated");
}

/// Has the store migrated by another process, which is killed at this write, counted from 1. Answers with how many writes there
/// were, and whether it came to its end.
fn migrate_and_kill(dir: &Path, at: usize) -> (usize, bool) {
    let name = concat!(module_path!(), "::a_process_that_migrates");
    let name = name.split_once("::").expect("a path").1;
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("strace")
        .args([
            "-f",
            "-q",
            "-e",
            "trace=pwrite64",
            "-e",
            &format!("inject=pwrite64:signal=KILL:when={at}"),
            "-o",
        ])
        .arg(log.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let writes = std::fs::read_to_string(log.path()).unwrap().matches("pwrite64(").count();
    (writes, String::from_utf8_lossy(&output.stdout).contains("migrated"))
}

#[tokio::test]
async fn whatever_was_stored_is_there_when_a_migration_was_killed() {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        println!("skipped: strace is not installed or not allowed here");
        return;
    }
    let kills = std::env::var(KILLS).ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS_DEFAULT);
    let (mut killed, mut points) = (0, 0);
    for version in 1..MIGRATIONS.len() {
        let former = tempfile::tempdir().unwrap();
        let path = former.path().join("store.db");
        fill(&path);
        drop(database(&path, version));
        std::fs::remove_file(copy_path(&path, 1)).ok();
        let copied = || {
            let dir = tempfile::tempdir().unwrap();
            std::fs::copy(&path, dir.path().join("store.db")).unwrap();
            dir
        };
        let undisturbed = copied();
        let (writes, ended) = migrate_and_kill(undisturbed.path(), STRACE_MAX);
        assert!(ended && writes > 0, "schema {version}: {writes} writes");
        check(undisturbed.path()).await;
        points += writes;
        let step = (writes / kills).max(1);
        // The middle of each part.
        for at in (step.div_ceil(2)..=writes).step_by(step) {
            let dir = copied();
            let (_, ended) = migrate_and_kill(dir.path(), at);
            assert!(!ended, "schema {version}: not killed at write {at} of {writes}");
            killed += 1;
            let copy = copy_path(&dir.path().join("store.db"), version as u64);
            if copy.exists() {
                assert_eq!(
                    user_version(&Connection::open(copy).unwrap()),
                    Ok(version as u64),
                    "the copy that is kept"
                );
            }
            check(dir.path()).await;
        }
    }
    println!(
        "killed {killed} times in the migrations from {} schemas, which write {points} times",
        MIGRATIONS.len() - 1
    );
}
