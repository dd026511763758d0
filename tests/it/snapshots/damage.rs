//! Snapshots of which something rots, or is gone.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use can_sync::testing::clock::now_ms;
use can_sync::testing::store::ContentStore as _;
use serde_json::json;

use super::{
    all_manifests, known, manifests, new_user, open, put, report, restore, snapshot_files, until_snapshot,
    until_snapshot_behind,
};
use crate::support::bucket::{TestBucket, try_open_on};
use crate::support::clock::{DAY_MS, SetClock};
use crate::support::nodes::eventually;
use crate::support::store::{hash_of, noise};

fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a file");
    let at = file.metadata().expect("a length").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("another byte");
}

/// The chunks of the part of which this is the manifest.
fn chunks_of(bucket: &TestBucket, manifest: &Path) -> Vec<std::path::PathBuf> {
    let stem = manifest.with_extension("");
    let stem = format!("{}-", stem.display());
    snapshot_files(bucket).into_iter().filter(|path| path.display().to_string().starts_with(&stem)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_that_rots_takes_away_what_it_had() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    for numbers in [0..3, 3..5] {
        // Opened again, it gives out numbers behind a gap.
        let store = open(dir.path(), bucket.config_with_snapshots()).await;
        until_snapshot(&store).await;
        for number in numbers {
            put(&store, &noise(5_000 + number, number as u64), "file.bin").await;
            until_snapshot(&store).await;
        }
        store.close().await;
    }
    let ran = restore(&new_user(&bucket.shared_yaml()), &[]);
    assert_eq!((ran.code, &report(&ran)["assets"]), (0, &json!(5)), "{}", ran.stderr);
    let parts = all_manifests(&bucket);
    assert_eq!(parts.len(), 6, "{parts:?}");
    flip(&chunks_of(&bucket, &parts[3])[0]);
    let lost = hash_of(&noise(5_002, 2));
    for step in 0..2 {
        let user = new_user(&bucket.shared_yaml());
        let ran = restore(&user, &[]);
        assert_eq!(ran.code, 4, "{}", ran.stderr);
        let report = report(&ran);
        assert_eq!(report["assets"], json!(4), "{report}");
        assert!(report["problems"].as_array().is_some_and(|problems| !problems.is_empty()), "{report}");
        let restored = crate::support::embedded::open(&user.home().join("data/store")).await;
        assert!(!known(&restored).await.contains_key(&lost));
        restored.close().await;
        match step {
            // The manifest says nothing that can be believed.
            0 => flip(&parts[3]),
            _ => assert!(report["problems"][0].as_str().unwrap().contains("manifest"), "{report}"),
        }
    }
    // One that is gone leaves a gap.
    fs::remove_file(&parts[3]).unwrap();
    let user = new_user(&bucket.shared_yaml());
    let ran = restore(&user, &[]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let report = report(&ran);
    assert_eq!(report["assets"], json!(4), "{report}");
    assert!(report["problems"].to_string().contains("is missing"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_latest_base_rots_the_one_before_has_all_with_what_followed() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    for number in 0..3 {
        put(&store, &noise(5_000 + number, number as u64), "file.bin").await;
        until_snapshot(&store).await;
    }
    let id = store.id().to_string();
    store.close().await;
    // What comes behind the last increment of the first generation is in the base of the second one alone.
    let store = open(dir.path(), bucket.config()).await;
    put(&store, &noise(6_000, 10), "between.bin").await;
    store.close().await;
    let clock = SetClock::right();
    clock.pass(8 * DAY_MS);
    let store = try_open_on(dir.path(), bucket.config_with_snapshots(), clock.start()).await.unwrap();
    until_snapshot_behind(&store, clock.shows_ms()).await;
    put(&store, &noise(6_001, 11), "later.bin").await;
    until_snapshot_behind(&store, clock.shows_ms()).await;
    let before = known(&store).await;
    store.close().await;
    let parts = manifests(&bucket, &id);
    let latest = parts.iter().rposition(|path| path.ends_with("000000.json")).unwrap();
    assert!(latest >= 3, "{parts:?}");
    let generation = |path: &Path| path.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let (earlier, later) = (generation(&parts[0]), generation(&parts[latest]));
    assert_ne!(earlier, later);
    bucket.take_seen();
    let ran = restore(&new_user(&bucket.shared_yaml()), &[]);
    assert_eq!(report(&ran)["assets"], json!(5), "{}", ran.stderr);
    let seen = bucket.take_seen();
    let count = |of: &str| seen.iter().filter(|request| request.path.contains(of)).count();
    assert!(count(&earlier) == 0 && count(&later) > 0, "nothing is read of what is not needed: {seen:?}");
    flip(&chunks_of(&bucket, &parts[latest])[0]);
    let user = new_user(&bucket.shared_yaml());
    let ran = restore(&user, &[]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    let report = report(&ran);
    assert_eq!((&report["assets"], report["problems"].as_array().unwrap().len()), (&json!(5), 1), "{report}");
    assert!(report["problems"][0].as_str().unwrap().starts_with("the base of "), "{report}");
    let restored = crate::support::embedded::open(&user.home().join("data/store")).await;
    assert_eq!(known(&restored).await, before);
    restored.close().await;
    // With no base at all there is nothing to begin with.
    for path in parts.iter().filter(|path| path.ends_with("000000.json")) {
        flip(path);
    }
    let user = new_user(&bucket.shared_yaml());
    let ran = restore(&user, &[]);
    assert!(ran.code == 1 && ran.stderr.contains("no snapshot in"), "{}", ran.stderr);
    assert_eq!(user.run(&["serve"]).code, 1, "half of it is no node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_a_clock_dated_ahead_hides_nothing_that_comes_later() {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let clock = SetClock::ahead(3 * DAY_MS);
    let store = try_open_on(dir.path(), bucket.config_with_snapshots(), clock.start()).await.unwrap();
    put(&store, &noise(5_000, 1), "first.bin").await;
    until_snapshot_behind(&store, clock.shows_ms()).await;
    store.close().await;
    let ran = restore(&new_user(&bucket.shared_yaml()), &[]);
    assert_eq!((ran.code, &report(&ran)["assets"]), (4, &json!(1)), "{}", ran.stderr);
    assert!(report(&ran)["problems"].to_string().contains("ahead"), "{}", ran.stderr);

    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    eventually("a base is dated right", async || {
        let report = store.status().await.unwrap().snapshots;
        let last = report.as_ref().and_then(|report| report.last_ms);
        if last.is_some_and(|last| last < now_ms() + DAY_MS) { Ok(()) } else { Err(format!("{report:?}")) }
    })
    .await;
    put(&store, &noise(5_001, 2), "second.bin").await;
    until_snapshot(&store).await;
    store.close().await;
    let ran = restore(&new_user(&bucket.shared_yaml()), &[]);
    let report = report(&ran);
    assert_eq!(
        (ran.code, &report["assets"], &report["problems"]),
        (0, &json!(2), &json!([])),
        "{}",
        ran.stderr
    );
}
