//! What people are told and can do while object storage is away, or has lost something.

use can_sync::testing::record::ContentHash;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::bucket::{BucketFault, TestBucket};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::files::contents;
use crate::support::nodes::eventually;
use crate::support::store::noise;

/// Stores a file.
fn put(daemon: &Daemon, name: &str, content: Vec<u8>) -> ContentHash {
    daemon.user.write(name, content);
    let ran = daemon.ok(&["put", name]);
    ran.text().split_whitespace().next().expect("a hash").parse().expect("a hash")
}

async fn ready(daemon: &Daemon) -> (StatusCode, String) {
    let answer = daemon.http.get(daemon.url("/readyz")).send().await.expect("an answer");
    (answer.status(), answer.text().await.expect("a body"))
}

/// Waits until the node says that its object storage is away, or is not.
async fn away(daemon: &Daemon, is_away: bool) {
    eventually("the status says so", async || {
        let status = daemon.get("/status").await;
        (status["store"]["contents_away"].is_string() == is_away)
            .then_some(())
            .ok_or_else(|| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_ready_while_it_takes_contents() {
    for write_back in [false, true] {
        let bucket = TestBucket::start().await;
        let yaml = if write_back { bucket.write_back_yaml() } else { bucket.yaml() };
        let daemon = Daemon::start(&embedded_yaml(&format!("name: a\n{yaml}")));
        away(&daemon, false).await;
        let storage = daemon.get("/status").await["store"]["object_storage"].clone();
        assert_eq!(storage, json!({ "url": "s3://assets/can", "shared": false, "write_back": write_back }));
        let status = daemon.run(&["status"]);
        assert!(status.text().contains("in s3://assets/can, this store's own"), "{}", status.text());
        let page = daemon.http.get(daemon.url("/")).send().await.unwrap().text().await.unwrap();
        assert!(page.contains("in s3://assets/can, this store"), "{page}");
        assert_eq!(ready(&daemon).await.0, StatusCode::OK);

        bucket.fail(|_| Some(BucketFault::Status(403, "InvalidAccessKeyId")));
        daemon.user.write("large.bin", noise(50_000, 1));
        let taken = daemon.run(&["put", "large.bin"]);
        assert_eq!(taken.code == 0, write_back, "{}", taken.stderr);
        away(&daemon, true).await;
        let (code, said) = ready(&daemon).await;
        let doctor = daemon.run(&["doctor"]);
        let told = doctor.text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains("`store.content` (url, endpoint, region)") && !told.contains("log"), "{told}");
        if write_back {
            assert_eq!(code, StatusCode::OK, "{said}");
            assert!(!doctor.stderr.contains("cannot work like this"), "{}", doctor.stderr);
        } else {
            assert!(code == StatusCode::SERVICE_UNAVAILABLE && said.contains("access key"), "{code} {said}");
            assert!(doctor.stderr.contains("cannot work like this"), "{}", doctor.stderr);
        }
        bucket.fail(|_| None);
        // Whether something can be put is known once it is tried.
        eventually("it is taken", async || {
            let taken = daemon.run(&["put", "large.bin"]);
            (taken.code == 0).then_some(()).ok_or(taken.stderr.clone())
        })
        .await;
        away(&daemon, false).await;
        assert_eq!(ready(&daemon).await.0, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_from_the_bucket_holds_up_nothing_else() {
    let bucket = TestBucket::start().await;
    let daemon = Daemon::start(&embedded_yaml(&format!("name: a\n{}", bucket.yaml())));
    let files: Vec<(String, Vec<u8>)> = (0..12).map(|n| (format!("{n}.bin"), noise(20_000, n))).collect();
    let hashes: Vec<ContentHash> =
        files.iter().map(|(name, content)| put(&daemon, name, content.clone())).collect();
    put(&daemon, "small.txt", b"in the database".to_vec());

    let backup = daemon.user.home().join("backup");
    let made = daemon.ok(&["backup", backup.to_str().unwrap()]);
    assert!(
        made.stderr.contains("not in it: 12 contents (234.4 KiB) in object storage"),
        "{} {}",
        made.text(),
        made.stderr
    );

    for hash in &hashes[..5] {
        std::fs::remove_file(bucket.object(*hash)).expect("its object");
    }
    let ran = daemon.run(&["export", "out"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let written = contents(&daemon.user.home().join("out"), |_| false);
    assert_eq!(written.len(), 8, "{:?}: {}", written.keys(), ran.stderr);
    for (name, content) in &files[5..] {
        assert!(written.iter().any(|(path, found)| path.ends_with(name) && found == content), "{name}");
    }
    let last = ran.stderr.lines().find(|line| line.contains("could not be exported")).expect("a last word");
    assert!(last.contains("5 files could not be exported"), "{last}");
    assert!((0..5).all(|n| last.contains(&format!("{n}.bin"))), "{last}");
}
