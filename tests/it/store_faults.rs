//! The embedded store when its process is killed, and when its disk is full or fails.
//!
//! The store runs in a process of its own: this test binary again, running the ignored test
//! [`a_store_that_is_told_what_to_do`]. It says on its standard output what was acknowledged; whatever it said must be
//! there afterwards. System calls are made to fail with strace, where that is installed and allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::embedded::IngestFields;
use can_sync::testing::store::{ContentStore, ItemOutcome, StoreError};

use self::child::{do_everything_once, ingest_for_ever, read_everything, say};
use crate::support::embedded::{content_files, temporary_files, try_open, try_upload};
use crate::support::mounted::Mounted;
use crate::support::nodes::DEADLINE;
use crate::support::scoreboard;
use crate::support::store::{hash_of, incoming, noise, read, read_feed, record_of};

mod child;
mod file_systems;
mod injected;

const DIR: &str = "CAN_SYNC_TEST_STORE_DIR";
const SEED: &str = "CAN_SYNC_TEST_STORE_SEED";
/// How often the process is killed in one run of the test; more with this variable.
const ROUNDS: &str = "CAN_SYNC_TEST_KILLS";
const ROUNDS_DEFAULT: u64 = 12;
/// What a process said.
#[derive(Debug, Default)]
struct Said {
    stored: BTreeSet<ContentHash>,
    described: BTreeMap<ContentHash, String>,
    deleting: BTreeSet<ContentHash>,
    deleted: BTreeSet<ContentHash>,
    letting_go: BTreeSet<ContentHash>,
    let_go: BTreeSet<ContentHash>,
    wanting: BTreeSet<ContentHash>,
    had_back: BTreeSet<ContentHash>,
    read: BTreeSet<ContentHash>,
    /// What failed, and whether the store called itself read-only then.
    failed: Vec<String>,
    /// It came to its end.
    end: bool,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let mut words = line.splitn(3, ' ');
        let (verb, hash) = (words.next(), words.next().and_then(|word| word.parse().ok()));
        match (verb, hash) {
            (Some("stored"), Some(hash)) => drop(self.stored.insert(hash)),
            (Some("described"), Some(hash)) => {
                self.described.insert(hash, words.next().unwrap_or_default().to_owned());
            }
            (Some("deleting"), Some(hash)) => drop(self.deleting.insert(hash)),
            (Some("deleted"), Some(hash)) => drop(self.deleted.insert(hash)),
            (Some("letting-go"), Some(hash)) => drop(self.letting_go.insert(hash)),
            (Some("let-go"), Some(hash)) => drop(self.let_go.insert(hash)),
            (Some("wanting"), Some(hash)) => drop(self.wanting.insert(hash)),
            (Some("had-back"), Some(hash)) => drop(self.had_back.insert(hash)),
            (Some("read"), Some(hash)) => drop(self.read.insert(hash)),
            (Some(verb), None) if verb.starts_with("failed") => self.failed.push(line.to_owned()),
            (Some("end"), None) => self.end = true,
            // Cargo's test harness talks on the same channel.
            (_, _) => {}
        }
    }
}

/// Not a test of its own: what runs in the other process. `CAN_SYNC_TEST_STORE_SEED` is a number, from which it
/// ingests for ever, `once`, or `read`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests of this module"]
async fn a_store_that_is_told_what_to_do() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let seed = std::env::var(SEED).unwrap();
    // The harness has begun a line of its own.
    say("");
    match try_open(Path::new(&dir), 0).await {
        Err(error) => say(&format!("failed to open: {error}")),
        Ok(store) => match seed.parse() {
            Ok(seed) => ingest_for_ever(&store, seed).await,
            Err(_) if seed == "read" => read_everything(&store).await,
            Err(_) => do_everything_once(&store).await,
        },
    }
    say("end");
}

/// Starts the other process, under `wrapper` if that is not empty.
fn start(dir: &Path, seed: &str, wrapper: &[&str]) -> Child {
    let exe = std::env::current_exe().expect("this binary");
    let name = concat!(module_path!(), "::a_store_that_is_told_what_to_do");
    // The harness names tests without the crate.
    let name = name.split_once("::").expect("a path").1;
    let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(Into::into).collect();
    words.push(exe.into());
    words.extend(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"].map(Into::into));
    Command::new(&words[0])
        .args(&words[1..])
        .process_group(0)
        .env(DIR, dir)
        .env(SEED, seed)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the process starts")
}

/// Listens to a process until it ends; kills it after `lines` acknowledgements, and at the deadline.
fn listen(mut child: Child, lines: usize) -> Said {
    let mut said = Said::default();
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let group = child.id();
    let (alive, ended) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout);
        if late {
            kill_group(group);
        }
        late
    });
    for line in output.lines() {
        // What it wrote before it was killed counts, even if it is read only afterwards.
        said.hear(&line.expect("text"));
        if said.stored.len() + said.deleted.len() == lines {
            kill_group(group);
        }
    }
    drop(alive);
    child.wait().expect("the process ends");
    assert!(!watchdog.join().expect("the watchdog ends"), "the process came to no end: {said:?}");
    said
}

/// Kills a process and those that it started: what strace traces would outlive it.
fn kill_group(leader: u32) {
    let group = rustix::process::Pid::from_raw(leader.cast_signed()).expect("a process");
    // It may have ended already.
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
}

/// Opens the store and checks that everything acknowledged is there, and nothing else is left. How long opening took.
async fn check(dir: &Path, said: &Said) -> Duration {
    let began = Instant::now();
    let store = try_open(dir, 0).await.expect("the store opens again");
    let ready = began.elapsed();
    let mut unseen: BTreeSet<_> = said.stored.difference(&said.deleting).copied().collect();
    let mut counts = [0; 4];
    let mut go_again = Vec::new();
    let status = store.status().await.expect("status");
    for entry in read_feed(&store, 0, 500).await {
        let hash = entry.record.hash;
        if entry.record.deleted {
            assert!(said.deleting.contains(&hash), "{hash} was deleted by nobody");
            continue;
        }
        assert!(!said.deleted.contains(&hash), "the deletion of {hash} was lost");
        let (held, size) = (entry.holding.is_held(), entry.record.size);
        for (count, n) in counts.iter_mut().zip([1, size, u64::from(held), if held { size } else { 0 }]) {
            *count += n;
        }
        if held {
            let stays = said.let_go.contains(&hash) && !said.wanting.contains(&hash);
            assert!(!stays, "{hash} was let go, and is here");
        } else {
            assert!(said.letting_go.contains(&hash), "{hash} was let go by nobody");
            assert!(!said.had_back.contains(&hash), "{hash} was had back, and is not here");
            assert_eq!(store.want(vec![hash]).await, Ok(vec![ItemOutcome::Stored]), "{hash} can be had back");
            go_again.push(hash);
        }
        let content = read(&store, hash, 0, None).await.expect("what is listed can be read");
        assert_eq!(hash_of(&content), hash, "what is listed is whole");
        unseen.remove(&hash);
        if let Some(text) = said.described.get(&hash) {
            assert_eq!(entry.record.meta.description.as_ref(), Some(text), "the edit of {hash} was lost");
        }
    }
    assert!(unseen.is_empty(), "acknowledged and lost: {unseen:?}");
    assert_eq!(counts, [status.assets, status.bytes, status.assets_held, status.bytes_held]);
    for hashes in go_again.chunks(1000) {
        store.let_go(hashes.to_vec()).await.expect("let go");
    }
    store.close().await;
    assert_eq!(temporary_files(dir), 0);
    assert_eq!(content_files(dir), files_referred_to(dir), "no content without a record, and none missing");
    ready
}

fn files_referred_to(dir: &Path) -> BTreeSet<ContentHash> {
    let database = rusqlite::Connection::open(dir.join("store.db")).expect("the database");
    let mut select = database
        .prepare("SELECT hash FROM records WHERE content = 0 UNION SELECT hash FROM trash WHERE content = 0")
        .expect("the tables");
    let rows = select.query_map([], |row| row.get(0).map(ContentHash)).expect("the rows");
    rows.map(|row| row.expect("a hash")).collect()
}

/// A number for this run, or the one that is asked for.
fn seed() -> u64 {
    let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| u64::from(std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let (seed, rounds) = (seed(), scoreboard::number(ROUNDS, ROUNDS_DEFAULT));
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let (mut all, mut slowest) = (Said::default(), Duration::ZERO);
    for round in 0..rounds {
        let random = noise(8, seed + round);
        let lines = 1 + usize::from(random[0]) * usize::from(random[1]) % 150;
        // Numbers of different rounds do not meet.
        let child = start(dir.path(), &(seed % 1000 * 1000 + round).to_string(), &[]);
        let said = tokio::task::spawn_blocking(move || listen(child, lines)).await.unwrap();
        assert!(said.stored.len() + said.deleted.len() >= lines, "seed {seed}: {said:?}");
        all.stored.extend(said.stored);
        all.described.extend(said.described);
        all.deleting.extend(said.deleting);
        all.deleted.extend(said.deleted);
        all.letting_go.extend(said.letting_go);
        all.let_go.extend(said.let_go);
        all.wanting.extend(said.wanting);
        all.had_back.extend(said.had_back);
        slowest = slowest.max(check(dir.path(), &all).await);
    }
    let acknowledged = all.stored.len() + all.deleted.len();
    let figure = format!(
        "{rounds} kills of ingest: {acknowledged} acknowledged, 0 lost, opened again within {} ms",
        slowest.as_millis()
    );
    scoreboard::figure(slowest <= Duration::from_secs(2), &figure);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_disk_fills_up_and_is_freed() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::new(dir.path(), "size=24m") else { return };
    let filler = dir.path().join("filler");
    std::fs::write(&filler, vec![0; 8_000_000]).unwrap();
    let home = dir.path().join("store");
    let store = try_open(&home, 0).await.unwrap();
    let mut said = Said::default();
    for (first, len) in [(0, 400_000), (1000, 30_000), (2000, 500)] {
        // Until there is no room for content of this size.
        let mut refused = None;
        for number in first..first + 1000 {
            let content = noise(len, number);
            match try_upload(&store, &content, IngestFields::default()).await {
                Ok(_) => drop(said.stored.insert(hash_of(&content))),
                Err(error) => {
                    assert!(
                        matches!(&error, StoreError::Full(why) if why.contains("free some space")),
                        "{error}"
                    );
                    assert_eq!(store.asset(hash_of(&content)).await, Ok(None), "refused is not there");
                    refused = Some(content);
                    break;
                }
            }
        }
        let refused = refused.expect("the disk is full");
        assert_eq!(store.status().await.unwrap().read_only, None);
        let peer = store.ingest(vec![incoming(record_of(&refused), &refused)]).await;
        assert!(matches!(peer, Err(StoreError::Full(_)) | Ok(_)), "{peer:?}");
        if peer.is_ok() {
            said.stored.insert(hash_of(&refused));
        }
    }
    std::fs::remove_file(&filler).unwrap();
    let freed = Instant::now();
    for (number, len) in [(5000, 400_000), (5001, 500)] {
        let content = noise(len, number);
        try_upload(&store, &content, IngestFields::default()).await.expect("it goes on");
        said.stored.insert(hash_of(&content));
    }
    let took = freed.elapsed();
    let figure = format!("a full disk of 24 MiB: goes on {} ms after space is back", took.as_millis());
    scoreboard::figure(took <= Duration::from_secs(10), &figure);
    store.close().await;
    check(&home, &said).await;
    drop(mounted);
}

#[tokio::test]
async fn a_read_only_disk_is_named_when_the_store_opens() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::new(dir.path(), "size=8m") else { return };
    let store = try_open(&dir.path().join("store"), 0).await.unwrap();
    store.close().await;
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(dir.path()).status().unwrap();
    assert!(remounted.success());
    for home in ["store", "new"] {
        let home = dir.path().join(home);
        let error = try_open(&home, 0).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("ead-only") && error.contains(&home.display().to_string()), "{error}");
    }
    drop(mounted);
}
