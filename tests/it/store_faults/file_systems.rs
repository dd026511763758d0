//! File systems that lack something, are full by a quota, or fail for a moment.

use std::path::{Path, PathBuf};

use can_sync::testing::record::ContentHash;

use super::injected::{fresh_store, strace_works};
use super::{Said, check, listen, start};
use crate::support::embedded::{content_path, open, upload};
use crate::support::store::{hash_of, noise};

/// Runs the other process with faults that are injected into calls that concern these paths (all, if there are none). What it
/// said, and how many of its calls failed.
async fn run(dir: &Path, what: &str, paths: &[PathBuf], calls: &str, fault: &str) -> (Said, usize) {
    let log = tempfile::NamedTempFile::new().expect("a file");
    let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let mut words: Vec<String> = ["strace", "-f", "-q", "-o"].map(str::to_owned).to_vec();
    words.push(text(log.path()));
    for path in paths {
        words.extend(["-P".to_owned(), text(path)]);
    }
    words.extend(["-e".to_owned(), format!("trace={calls}")]);
    words.extend(["-e".to_owned(), format!("inject={calls}:{fault}")]);
    let child = start(dir, what, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let said = tokio::task::spawn_blocking(move || listen(child, usize::MAX)).await.expect("listened");
    let trace = std::fs::read_to_string(log.path()).expect("strace's log");
    let failed = trace.lines().filter(|line| line.contains("(INJECTED")).count();
    assert!(failed > 0, "nothing failed: {trace}");
    (said, failed)
}

/// The directories that the other process makes names in.
fn directories(dir: &Path) -> Vec<PathBuf> {
    let contents = [(100_000, 1), (3000, 2), (1_500_000, 3), (200_000, 4)];
    let below = contents.map(|(len, seed)| content_path(dir, hash_of(&noise(len, seed))));
    let above = |path: &PathBuf, up: usize| path.ancestors().nth(up).expect("a directory").to_owned();
    let mut all = vec![dir.to_owned(), dir.join("content"), dir.join("tmp"), dir.join("damaged")];
    all.extend(below.iter().flat_map(|path| [above(path, 1), above(path, 2)]));
    all
}

fn went_well(said: &Said) {
    assert!(said.end && said.failed.is_empty(), "{said:?}");
    assert_eq!((said.stored.len(), said.deleted.len()), (5, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_cannot_be_made_durable_are_done_without() {
    if !strace_works() {
        return;
    }
    for error in ["EINVAL", "EOPNOTSUPP", "EBADF", "EACCES"] {
        let dir = tempfile::tempdir().unwrap();
        let (said, failed) =
            run(dir.path(), "once", &directories(dir.path()), "fsync", &format!("error={error}")).await;
        went_well(&said);
        assert!(failed > 5, "{failed}");
        check(dir.path(), &said).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_does_not_say_how_much_is_free_is_not_full() {
    if !strace_works() {
        return;
    }
    let nothing = format!("poke_exit=@arg2={}", "00".repeat(120));
    for fault in [nothing.as_str(), "error=ENOSYS"] {
        let dir = fresh_store().await;
        let (said, _) = run(dir.path(), "once", &[], "statfs,fstatfs", fault).await;
        went_well(&said);
        check(dir.path(), &said).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_is_used_up_passes() {
    if !strace_works() {
        return;
    }
    let mut refused = 0;
    for (calls, from) in [("pwrite64", 1), ("pwrite64", 2), ("pwrite64", 20), ("pwrite64", 45), ("mkdir", 1)]
    {
        let dir = fresh_store().await;
        // Of every thread's calls, from this one on.
        let (said, _) = run(dir.path(), "once", &[], calls, &format!("error=EDQUOT:when={from}+")).await;
        refused += said.failed.len();
        assert!(said.failed.iter().all(|failed| !failed.contains("read-only true")), "{said:?}");
        assert!(said.failed.iter().all(|failed| failed.contains("free some space")), "{said:?}");
        check(dir.path(), &said).await;
        // Once there is room, the next start takes all of it.
        let child = start(dir.path(), "once", &[]);
        let said = tokio::task::spawn_blocking(move || listen(child, usize::MAX)).await.unwrap();
        assert!(said.end && said.failed.is_empty(), "{said:?}");
    }
    assert!(refused > 0);
}

/// A store with two contents in files; which they are.
async fn two_files() -> (tempfile::TempDir, [ContentHash; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let contents = [noise(300_000, 1), noise(700_000, 2)];
    for content in &contents {
        upload(&store, content, can_sync::testing::store::embedded::IngestFields::default()).await;
    }
    store.close().await;
    (dir, contents.map(|content| hash_of(&content)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_no_damage() {
    if !strace_works() {
        return;
    }
    let faults = [
        ("openat", "EMFILE"),
        ("openat", "ENFILE"),
        ("openat", "ENOMEM"),
        ("pread64,read", "EIO"),
        ("pread64,read", "EINTR"),
        ("pread64,read", "EAGAIN"),
        ("openat", "EIO"),
    ];
    for (calls, error) in faults {
        let (dir, hashes) = two_files().await;
        let path = content_path(dir.path(), hashes[0]);
        let fault = format!("error={error}:when=1..2");
        let (said, _) = run(dir.path(), "read", &[path], calls, &fault).await;
        assert!(said.end && said.failed.is_empty(), "{error}: {said:?}");
        assert_eq!(said.read, hashes.into(), "{error}");
        assert_eq!(std::fs::read_dir(dir.path().join("damaged")).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lasts_is_the_trouble_of_one_file() {
    if !strace_works() {
        return;
    }
    // A file that cannot be opened for want of descriptors is whole.
    for (calls, error, is_damage) in [("openat", "EMFILE", false), ("pread64,read", "EIO", true)] {
        let (dir, hashes) = two_files().await;
        let path = content_path(dir.path(), hashes[0]);
        let (said, _) = run(dir.path(), "read", &[path], calls, &format!("error={error}")).await;
        assert!(said.end, "{said:?}");
        assert_eq!(said.read, [hashes[1]].into(), "{error}");
        // The store takes more, whatever one file is like.
        assert_eq!(said.stored.len(), 1, "{said:?}");
        let set_aside = said.failed.iter().any(|failed| failed.contains("set aside 1"));
        assert_eq!(set_aside, is_damage, "{said:?}");
        let aside = std::fs::read_dir(dir.path().join("damaged")).unwrap().count();
        assert_eq!(aside, usize::from(is_damage), "{error}");
        let store = open(dir.path()).await;
        crate::support::nodes::eventually("it is held again", async || {
            let read = crate::support::store::read(&store, hashes[0], 0, None).await;
            read.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
}
