//! What `restore --from` does not do, and what it says.

use can_sync::testing::store::ContentStore as _;

use super::{PLACE, new_user, open, put, restore, until_snapshot};
use crate::support::bucket::{BucketFault, TestBucket};
use crate::support::command::{Ran, User};
use crate::support::store::noise;

fn refused(ran: &Ran, code: i32, said: &str) {
    assert!(ran.code == code && ran.stderr.contains(said), "{}: {}", ran.code, ran.stderr);
}

/// A bucket in which a store left snapshots.
async fn left_behind() -> TestBucket {
    let (dir, bucket) = (tempfile::tempdir().unwrap(), TestBucket::start().await);
    let store = open(dir.path(), bucket.config_with_snapshots()).await;
    put(&store, &noise(5_000, 1), "file.bin").await;
    until_snapshot(&store).await;
    store.close().await;
    bucket
}

fn is_untouched(user: &User) {
    let data = user.home().join("data");
    assert!(!data.exists() || std::fs::read_dir(data).unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_without_snapshots_or_keys_is_named_in_one_sentence() {
    let bucket = TestBucket::start().await;
    let user = new_user(&bucket.yaml());
    refused(&restore(&user, &["--alone"]), 1, "there is no snapshot in s3://assets/can");
    is_untouched(&user);
    let elsewhere = |url: &str| user.run(&["restore", "--from", url]);
    refused(&elsewhere("/nowhere/at/all"), 1, "there is no directory");
    refused(&elsewhere("https://example.org/x"), 2, "goes into endpoint");
    assert_eq!(elsewhere("ftp://example.org/x").code, 2);
    let given = bucket.yaml().replace("s3://assets/can", "s3://none/can");
    let other = super::new_user(&given);
    refused(&other.run(&["restore", "--from", "s3://none/can"]), 1, "there is no such bucket");
    bucket.fail(|_| Some(BucketFault::Status(403, "InvalidAccessKeyId")));
    refused(&restore(&user, &["--alone"]), 1, "does not know the access key");
    is_untouched(&user);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restored_over_what_is_there() {
    let bucket = left_behind().await;
    let user = new_user(&bucket.shared_yaml());
    user.write("data/mine", "x");
    refused(&restore(&user, &[]), 1, "is not empty");
    assert_eq!(std::fs::read_dir(user.home().join("data")).unwrap().count(), 1);
    let ran = restore(&user, &["--data-dir", "other"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    refused(&restore(&user, &["--data-dir", "other"]), 1, "is not empty");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_the_place_is_asked_before() {
    let bucket = left_behind().await;
    let own = new_user(&bucket.yaml());
    refused(&restore(&own, &[]), 1, "store.content.shared: true");
    is_untouched(&own);
    let shared = new_user(&bucket.shared_yaml());
    refused(&restore(&shared, &["--alone"]), 2, "contradict");
    let none = new_user("");
    refused(&none.run(&["restore", "--from", PLACE, "--alone"]), 2, "does not name it");
    refused(&none.run(&["restore", "--store", &"0".repeat(32), "x"]), 2, "--from");
    // Who has no contents there only reads: keys and endpoint come from the environment.
    let endpoint = bucket.endpoint();
    let env = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test-key"),
        ("AWS_SECRET_ACCESS_KEY", "test-secret"),
    ];
    let ran = none.run_with(&["--json", "restore", "--from", PLACE], &env, b"");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    // It belongs to a network, and begins no other one by itself.
    none.write("config.yaml", crate::support::daemon::yaml("can_listen_addr: 127.0.0.1:0"));
    refused(&none.run(&["serve"]), 1, "belongs to a network");
    let restored = crate::support::embedded::open(&none.home().join("data/store")).await;
    assert_eq!(restored.status().await.unwrap().assets, 1);
}
