//! Whole nodes with contents in a bucket, as their users run them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::clock::Clock;
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::ContentStore as _;
use hyper::Method;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::bucket::{BucketFault, TestBucket, try_open_on};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::embedded::content_files;
use crate::support::nodes::eventually;
use crate::support::scoreboard;
use crate::support::store::{hash_of, noise};

/// For the moments at which the process is killed.
const SEED: u64 = 0x6275_636b_6574;
const KILLS: u64 = 4;

async fn try_ingest(http: reqwest::Client, url: String, content: Vec<u8>) -> Result<ContentHash, String> {
    let hash = hash_of(&content);
    let form = Form::new().part("file", Part::bytes(content).file_name("a.bin"));
    let answer = http.post(url).multipart(form).send().await.map_err(|error| error.to_string())?;
    if answer.status().is_success() { Ok(hash) } else { Err(answer.status().to_string()) }
}

async fn content(daemon: &Daemon, hash: ContentHash) -> Result<Vec<u8>, String> {
    let got = daemon.http.get(daemon.store_url(&format!("/asset/{hash}"))).send().await;
    let answer = got.map_err(|error| error.to_string())?;
    if !answer.status().is_success() {
        return Err(answer.text().await.unwrap_or_default());
    }
    answer.bytes().await.map(|bytes| bytes.to_vec()).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_go_between_a_node_with_a_bucket_and_one_without() {
    let bucket = TestBucket::start().await;
    let a = Daemon::start(&embedded_yaml(&format!("name: a\n{}", bucket.yaml())));
    let b = Daemon::start(&embedded_yaml("name: b\n"));
    let contents = [noise(2_000, 1), noise(50_000, 2), noise(12 << 20, 3)];
    let back = [noise(2_001, 4), noise(50_001, 5), noise(12 << 20, 6)];
    for (here, there) in contents.iter().zip(&back) {
        try_ingest(a.http.clone(), a.store_url("/ingest"), here.clone()).await.unwrap();
        try_ingest(b.http.clone(), b.store_url("/ingest"), there.clone()).await.unwrap();
    }
    a.dial(&b).await;
    for expected in contents.iter().chain(&back) {
        for daemon in [&a, &b] {
            let got = eventually("a content is there", async || content(daemon, hash_of(expected)).await);
            assert_eq!(&got.await, expected);
        }
    }
    let larger: BTreeSet<ContentHash> = contents
        .iter()
        .chain(&back)
        .filter(|content| content.len() > 4096)
        .map(|content| hash_of(content))
        .collect();
    assert_eq!(bucket.objects(), larger);
    // It is said where it fails, and the keys are not.
    bucket.fail(|_| Some(BucketFault::Status(403, "InvalidAccessKeyId")));
    assert!(content(&a, hash_of(&contents[2])).await.is_err());
    let said = eventually("the status says so", async || {
        let status = a.get("/status").await;
        let error = status["store"]["error"].as_str().unwrap_or_default().to_owned();
        if error.contains("does not know the access key") { Ok(error) } else { Err(status.to_string()) }
    });
    assert!(said.await.contains("s3://assets/can"));
    let doctor = a.run(&["doctor"]);
    assert!(doctor.text().contains("does not know the access key"), "{}", doctor.text());
    let shown = a.ok(&["config", "show"]);
    assert!(
        shown.text().contains("s3://assets/can") && !shown.text().contains("test-secret"),
        "{}",
        shown.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_to_be_uploaded_is_shown_everywhere() {
    let bucket = TestBucket::start().await;
    bucket.fail(|_| Some(BucketFault::Status(403, "InvalidAccessKeyId")));
    let a = Daemon::start(&embedded_yaml(&format!("name: a\n{}", bucket.write_back_yaml())));
    let b = Daemon::start(&embedded_yaml("name: b\n"));
    let (own, theirs) = (noise(200_000, 1), noise(300_000, 2));
    try_ingest(a.http.clone(), a.store_url("/ingest"), own.clone()).await.unwrap();
    try_ingest(b.http.clone(), b.store_url("/ingest"), theirs.clone()).await.unwrap();
    // Peers give and take as ever.
    a.dial(&b).await;
    for (daemon, expected) in [(&a, &theirs), (&b, &own)] {
        let got = eventually("it is there", async || content(daemon, hash_of(expected)).await);
        assert_eq!(&got.await, expected);
    }
    let why = "does not know the access key";
    eventually("the status says so", async || {
        let status = a.get("/status").await;
        let waiting = &status["store"]["waiting_uploads"];
        let is_said = waiting["last_error"].as_str().is_some_and(|said| said.contains(why));
        if is_said && waiting["contents"] == 2 && waiting["bytes"] == 500_000 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await;
    for args in [vec!["status"], vec!["doctor"], vec!["why", &hash_of(&own).to_string()]] {
        let said = a.run(&args).text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("on this disk alone") && said.contains(why), "{args:?}: {said}");
    }
    let shown = a.http.get(a.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(
        shown.contains("To upload") && shown.contains("2 contents (488.3 KiB) on this disk alone"),
        "{shown}"
    );
    let metrics = a.http.get(a.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("\ncan_sync_waiting_uploads 2\n"), "{metrics}");
    assert!(metrics.contains("\ncan_sync_waiting_uploads_failing 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_says_that_the_bucket_was_not_read() {
    let bucket = TestBucket::start().await;
    let a = Daemon::start(&embedded_yaml(&format!("name: a\n{}", bucket.yaml())));
    for content in [noise(500, 1), noise(20_000, 2), noise(30_000, 3)] {
        try_ingest(a.http.clone(), a.store_url("/ingest"), content).await.unwrap();
    }
    let ran = a.ok(&["scrub", "--json"]);
    let counts = ran.json().remove(0);
    assert_eq!((&counts["checked"], &counts["bytes"]), (&1.into(), &500.into()), "{counts}");
    assert_eq!(
        (&counts["not_checked"], &counts["not_checked_bytes"]),
        (&2.into(), &50_000.into()),
        "{counts}"
    );
    let ran = a.ok(&["scrub"]);
    assert!(ran.stderr.contains("1 content read and checked"), "{}", ran.stderr);
    assert!(ran.stderr.contains("2 contents in object storage not checked"), "{}", ran.stderr);
    let status = a.ok(&["status"]);
    let said = status.text();
    assert!(said.contains("everything but 2 contents in object storage was checked"), "{said}");
    let shown = a.http.get(a.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(shown.contains("but for 2 in object storage"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_shared_bucket_does_not_cross_between_machines() {
    let bucket = TestBucket::start().await;
    let a = Daemon::start(&embedded_yaml(&format!("name: a\n{}", bucket.shared_yaml())));
    let contents = [noise(500_000, 1), noise(64 << 20, 2), noise(300_000, 3)];
    for content in &contents {
        try_ingest(a.http.clone(), a.store_url("/ingest"), content.clone()).await.unwrap();
    }
    let b = Daemon::start(&embedded_yaml(&format!("name: b\n{}", bucket.shared_yaml())));
    a.dial(&b).await;
    for expected in &contents {
        let got = eventually("a content is there", async || content(&b, hash_of(expected)).await);
        assert_eq!(&got.await, expected);
    }
    // One that comes while they are connected, the other way.
    let late = noise(400_000, 4);
    try_ingest(b.http.clone(), b.store_url("/ingest"), late.clone()).await.unwrap();
    let got = eventually("the late content is there", async || content(&a, hash_of(&late)).await);
    assert_eq!(got.await, late);
    for daemon in [&a, &b] {
        let peers = daemon.get("/peers").await;
        let crossed = |peer: &Value| (peer["bytes_sent"].as_u64(), peer["bytes_received"].as_u64());
        let crossed: Vec<_> = peers["peers"].as_array().unwrap().iter().map(crossed).collect();
        assert_eq!(crossed, [(Some(0), Some(0))], "{peers}");
    }
    // What is not there comes from whom has it.
    let c = Daemon::start(&embedded_yaml("name: c\n"));
    let elsewhere = noise(600_000, 5);
    try_ingest(c.http.clone(), c.store_url("/ingest"), elsewhere.clone()).await.unwrap();
    c.dial(&b).await;
    for daemon in [&b, &a] {
        let got = eventually("it is fetched", async || content(daemon, hash_of(&elsewhere)).await);
        assert_eq!(got.await, elsewhere);
    }
    assert!(bucket.object(hash_of(&elsewhere)).is_file());
}

/// How often a process is killed.
fn kills() -> u64 {
    scoreboard::number("CAN_SYNC_TEST_KILLS", KILLS)
}

/// What the moments of the kills follow from.
fn random(everyday: u64) -> StdRng {
    let seed = scoreboard::seed(everyday);
    println!("seed {seed:#x}");
    StdRng::seed_from_u64(seed)
}

/// Uploads to a daemon, which is killed at some moment; what it acknowledged.
async fn upload_until_killed(
    daemon: &mut Daemon,
    contents: Vec<Vec<u8>>,
    random: &mut StdRng,
) -> BTreeSet<(ContentHash, usize)> {
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let uploads = begin_uploads(daemon, contents, &acknowledged);
    // The moment itself is what is random, not a condition to wait for.
    std::thread::sleep(Duration::from_millis(random.random_range(20..1500)));
    daemon.kill();
    uploads.join_all().await;
    acknowledged.lock().clone()
}

fn begin_uploads(
    daemon: &Daemon,
    contents: Vec<Vec<u8>>,
    acknowledged: &Arc<Mutex<BTreeSet<(ContentHash, usize)>>>,
) -> JoinSet<()> {
    let mut uploads = JoinSet::new();
    for content in contents {
        let (http, url, acknowledged) =
            (daemon.http.clone(), daemon.store_url("/ingest"), Arc::clone(acknowledged));
        uploads.spawn(async move {
            let size = content.len();
            if let Ok(hash) = try_ingest(http, url, content).await {
                acknowledged.lock().insert((hash, size));
            }
        });
    }
    uploads
}

fn contents_of_round(round: u64) -> Vec<Vec<u8>> {
    let sizes = [20_000, 300_000, 9 << 20, 5_000, 70_000, 2 << 20, 10 << 20, 40_000];
    (0..).zip(sizes).map(|(n, size)| noise(size + n, round * 100 + n as u64)).collect()
}

async fn all_are_read(daemon: &Daemon, acknowledged: &BTreeSet<(ContentHash, usize)>) {
    for (hash, size) in acknowledged {
        let got = eventually("a content is read", async || content(daemon, *hash).await).await;
        assert_eq!((hash_of(&got), got.len()), (*hash, *size));
    }
}

/// The contents that its records have in the bucket.
fn in_bucket(daemon: &Daemon) -> BTreeSet<ContentHash> {
    at(daemon, "records", -1)
}

/// The contents that a table of its has in this place.
fn at(daemon: &Daemon, table: &str, place: i64) -> BTreeSet<ContentHash> {
    let database = rusqlite::Connection::open(daemon.data_dir().join("store/store.db")).unwrap();
    let mut statement = database.prepare(&format!("SELECT hash FROM {table} WHERE content = ?1")).unwrap();
    statement.query_map([place], |row| row.get(0).map(ContentHash)).unwrap().map(Result::unwrap).collect()
}

async fn until_cleaned_up(daemon: &Daemon) {
    let database = rusqlite::Connection::open(daemon.data_dir().join("store/store.db")).unwrap();
    eventually("what nothing refers to is cleaned up", async || {
        let pending: i64 =
            database.query_row("SELECT count(*) FROM pending_objects", [], |row| row.get(0)).unwrap();
        if pending == 0 { Ok(()) } else { Err(format!("{pending} are left")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_uploads_what_was_acknowledged_is_in_the_bucket() {
    let (bucket, kills) = (TestBucket::start().await, kills());
    let mut random = random(SEED);
    let mut daemon = Daemon::start(&embedded_yaml(&format!("name: a\n{}", bucket.yaml())));
    let mut acknowledged = BTreeSet::new();
    // A busy machine may need more rounds until one of them comes to acknowledge anything.
    for round in 0..kills * 10 {
        if round >= kills && !acknowledged.is_empty() {
            break;
        }
        acknowledged.extend(upload_until_killed(&mut daemon, contents_of_round(round), &mut random).await);
        daemon = daemon.restart();
    }
    println!("{} contents were acknowledged in {kills} rounds", acknowledged.len());
    all_are_read(&daemon, &acknowledged).await;
    let left = bucket.objects().difference(&in_bucket(&daemon)).count();
    // Without the patience of a daemon, which leaves others time to notice it before it deletes.
    daemon.kill();
    let dir = daemon.data_dir().join("store");
    let store = try_open_on(&dir, bucket.config(), Clock::system()).await.unwrap();
    until_cleaned_up(&daemon).await;
    assert_eq!(store.status().await.unwrap().notice, None);
    // Nothing is left but what records have, some of which were never answered for.
    let held = in_bucket(&daemon);
    assert_eq!(bucket.objects(), held);
    assert!(acknowledged.iter().all(|(hash, size)| *size <= 4096 || held.contains(hash)));
    assert!(!acknowledged.is_empty());
    println!("all were read; objects without a record: {left}, and 0 once they were cleaned up");
}

/// With the bucket away now and then, and some of what was acknowledged deleted again.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_contents_go_up_later_nothing_acknowledged_is_lost() {
    let (bucket, kills) = (TestBucket::start().await, kills());
    let mut random = random(SEED ^ 2);
    let mut daemon = Daemon::start(&embedded_yaml(&format!("name: a\n{}", bucket.write_back_yaml())));
    let (mut acknowledged, mut in_all) = (BTreeSet::new(), 0);
    // As above.
    for round in 0..kills * 10 {
        if round >= kills && in_all > 0 {
            break;
        }
        let (is_away, every) = (round % 4 == 1, random.random_range(3..20));
        bucket.fail(move |request| {
            let is_hit = is_away || request.number % every == 0;
            is_hit.then_some(BucketFault::Status(503, "SlowDown"))
        });
        let stored = upload_until_killed(&mut daemon, contents_of_round(round), &mut random).await;
        in_all += stored.len();
        acknowledged.extend(stored);
        daemon = daemon.restart();
        if let Some((hash, size)) = acknowledged.iter().nth(random.random_range(0..8)).copied() {
            let deleted = daemon.http.delete(daemon.store_url(&format!("/asset/{hash}"))).send().await;
            assert!(deleted.unwrap().status().is_success());
            acknowledged.remove(&(hash, size));
        }
    }
    println!("{in_all} contents were acknowledged in {kills} rounds");
    bucket.fail(|_| None);
    all_are_read(&daemon, &acknowledged).await;
    daemon.kill();
    let dir = daemon.data_dir().join("store");
    let mut config = bucket.config();
    config.place.write_back = true;
    let store = try_open_on(&dir, config, Clock::system()).await.unwrap();
    eventually("all is up", async || {
        let waiting = store.status().await.unwrap().waiting_uploads.unwrap();
        if waiting.contents == 0 { Ok(()) } else { Err(format!("{waiting:?}")) }
    })
    .await;
    until_cleaned_up(&daemon).await;
    let status = store.status().await.unwrap();
    assert_eq!((status.notice, status.damaged), (None, 0));
    // Nothing is left but what is referred to, here or there.
    let (held, trashed) = (at(&daemon, "records", -1), at(&daemon, "trash", -1));
    assert_eq!(bucket.objects(), held.union(&trashed).copied().collect());
    assert!(acknowledged.iter().all(|(hash, size)| *size <= 4096 || held.contains(hash)));
    assert_eq!(at(&daemon, "records", 0), BTreeSet::new());
    eventually("files that nothing refers to are gone", async || {
        let files = content_files(&dir);
        if files == at(&daemon, "trash", 0) { Ok(()) } else { Err(format!("{files:?}")) }
    })
    .await;
    assert!(in_all > 0);
    println!(
        "{} were not deleted, and all of them read; objects that nothing refers to: 0",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_uploads_to_a_shared_bucket_nothing_is_lost_and_nothing_deleted() {
    let (bucket, kills) = (TestBucket::start().await, kills());
    let mut random = random(SEED ^ 1);
    let yaml = |name: &str| embedded_yaml(&format!("name: {name}\n{}", bucket.shared_yaml()));
    let (mut daemon, other) = (Daemon::start(&yaml("a")), Daemon::start(&yaml("b")));
    let (mut of_daemon, of_other) = (BTreeSet::new(), Arc::new(Mutex::new(BTreeSet::new())));
    bucket.take_seen();
    let mut seen_objects = BTreeSet::new();
    for round in 0..kills {
        // Some of it is what the other one puts there at the same time.
        let both = contents_of_round(round).split_off(3);
        let uploads = begin_uploads(&other, both.clone(), &of_other);
        of_daemon.extend(upload_until_killed(&mut daemon, contents_of_round(round), &mut random).await);
        uploads.join_all().await;
        // One that took too long on a busy machine is sent again, as users do.
        for content in both {
            let (hash, size) = (hash_of(&content), content.len());
            if !of_other.lock().contains(&(hash, size)) {
                eventually("it is taken", async || {
                    try_ingest(other.http.clone(), other.store_url("/ingest"), content.clone()).await
                })
                .await;
                of_other.lock().insert((hash, size));
            }
        }
        seen_objects.extend(bucket.objects());
        daemon = daemon.restart();
    }
    let of_other = of_other.lock().clone();
    println!("{} and {} contents were acknowledged in {kills} rounds", of_daemon.len(), of_other.len());
    assert_eq!(of_other.len() as u64, kills * 5);
    until_cleaned_up(&daemon).await;
    all_are_read(&daemon, &of_daemon).await;
    all_are_read(&other, &of_other).await;
    let objects = bucket.objects();
    assert!(seen_objects.is_subset(&objects));
    let held: BTreeSet<_> = in_bucket(&daemon).union(&in_bucket(&other)).copied().collect();
    assert!(held.is_subset(&objects));
    println!("all were read; objects without a record, which stay: {}", objects.difference(&held).count());
    // Uploads that were given up are aborted, which is all.
    let deletions = bucket.take_seen().into_iter().filter(|request| request.method == Method::DELETE);
    assert!(deletions.into_iter().all(|request| request.query.contains("uploadId=")));
}
