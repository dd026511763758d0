//! A disk with too little room: what is refused, what is not, and what is said.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::embedded::{IngestFields, MetaPatch};
use can_sync::testing::store::{ContentStore as _, ItemOutcome, StoreError};

use crate::support::embedded::{try_open, try_upload, upload};
use crate::support::mounted::Mounted;
use crate::support::service::{TestService, data, refusal};
use crate::support::store::{edited, hash_of, noise, read, record_of};

const MIB: u64 = 1024 * 1024;

fn free(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).unwrap();
    stat.f_bavail * stat.f_frsize
}

/// Fills the disk to its last byte.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let block = vec![1; 64 * 1024];
    let mut bytes = block.len();
    while bytes > 0 {
        if file.write_all(&block[..bytes]).is_err() {
            bytes /= 2;
        }
    }
    assert!(free(path.parent().unwrap()) < 4096);
}

fn description(n: u64) -> MetaPatch {
    let text = format!("{n} {}", "x".repeat(10_000));
    MetaPatch { description: Some(Some(text)), ..MetaPatch::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_leave_the_reserve_alone_and_deleting_always_works() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mounted) = Mounted::new(dir.path(), "size=32m") else { return };
    let home = dir.path().join("store");
    let store = try_open(&home, 8 * MIB).await.unwrap();
    let mut stored: Vec<ContentHash> = Vec::new();
    for number in 0.. {
        let content = noise(if number % 2 == 0 { 400_000 } else { 2000 }, number);
        match try_upload(&store, &content, IngestFields::default()).await {
            Ok(_) => stored.push(hash_of(&content)),
            Err(StoreError::Full(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let mut edits = 0;
    let refused = loop {
        match store.patch(stored[edits % stored.len()], description(edits as u64)).await {
            Ok(_) => edits += 1,
            Err(error) => break error,
        }
        assert!(edits < 10_000, "edits eat the disk");
    };
    assert!(matches!(&refused, StoreError::Full(why) if why.contains("reserve")), "{refused}");
    // An edit asks for more than it takes. Others take what is left beyond the reserve.
    std::fs::write(dir.path().join("others"), noise(1 << 20, 1)).unwrap();
    let left = free(dir.path());
    assert!(left > 6 * MIB, "{left} bytes are left of the reserve");
    let status = store.status().await.unwrap();
    assert!(status.short_of_space.as_ref().is_some_and(|why| why.contains("reserve")), "{status:?}");
    assert!(status.problem().unwrap().contains("nothing but deletions"));
    // From a peer as well: what is new is refused, what is deleted is not.
    let record = store.records(vec![stored[0]]).await.unwrap().pop().unwrap().record;
    let news = vec![edited(&record, 10, None), record_of(b"unknown")];
    assert!(matches!(store.take_absent(news).await, Err(StoreError::Full(_))));
    assert!(store.asset(stored[0]).await.unwrap().unwrap().record.deleted);

    // Others take the rest, to the last byte.
    let filler = dir.path().join("filler");
    fill(&filler);
    for hash in &stored[1..40] {
        store.delete(*hash).await.unwrap_or_else(|error| panic!("a deletion: {error}"));
    }
    for hash in &stored[40..] {
        assert_eq!(store.let_go(vec![*hash]).await, Ok(vec![ItemOutcome::Absent]));
    }
    let other = store.records(vec![stored[40]]).await.unwrap().pop().unwrap().record;
    assert_eq!(store.apply(vec![edited(&other, 10, None)]).await, Ok(vec![ItemOutcome::Stored]));
    assert_eq!(store.status().await.unwrap().read_only, None);

    fs::remove_file(&filler).unwrap();
    store.close().await;
    // A smaller reserve is room.
    let store = try_open(&home, MIB).await.unwrap();
    assert_eq!(store.status().await.unwrap().short_of_space, None);
    let content = noise(3000, 9999);
    upload(&store, &content, IngestFields::default()).await;
    assert_eq!(read(&store, hash_of(&content), 0, None).await, Ok(content));
    assert!(home.join("ballast").exists(), "it is laid by again");
    store.close().await;
    drop(mounted);
}

#[tokio::test]
async fn the_service_says_that_it_has_no_room() {
    let service = TestService::start_with(u64::MAX / 2, |settings| settings).await;
    let status = data(service.get("/status").send().await.unwrap()).await;
    assert_eq!((&status["healthy"], &status["read_only"]), (&false.into(), &serde_json::Value::Null));
    assert!(status["short_of_space"].as_str().unwrap().contains("reserve"), "{status}");
    let form = || {
        let part = reqwest::multipart::Part::bytes(vec![1; 10]);
        reqwest::multipart::Form::new().part("file", part)
    };
    assert_eq!(refusal(service.post("/ingest").multipart(form())).await, (507, "disk_full".into()));
}
