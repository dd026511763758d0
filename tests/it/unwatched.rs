//! A machine on which nothing more can be watched for a while.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;

/// A namespace has limits of its own; this one begins without room for a watcher.
const UNWATCHED: &[&str] = &[
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"",
    "sh",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_watched_is_once_there_is_room() {
    let tried = Command::new("unshare").args(UNWATCHED).arg("true").output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        println!("skipped: this machine makes no user namespaces");
        return;
    }
    let daemon = Daemon::start_by("unshare", UNWATCHED, &embedded_yaml(""));
    let dir = tempfile::tempdir().expect("a directory");
    let added = daemon.post("/folders", &json!({ "path": dir.path(), "name": "photos" })).await;
    assert_eq!(added["status"], "success", "{added}");
    let is_watched = async |watched: bool| {
        eventually("whether it is watched is said", async || {
            let report = daemon.get("/folders/photos").await;
            let is_so = report["state"] == "idle" && report["watched"] == watched;
            if is_so { Ok(report) } else { Err(report.to_string()) }
        })
        .await
    };
    let report = is_watched(false).await;
    assert!(report["problems"][0].as_str().is_some_and(|why| why.contains("from time to time")), "{report}");

    let pid = daemon.pid().as_raw_nonzero().to_string();
    let more = "echo 100 > /proc/sys/user/max_inotify_instances";
    let given = Command::new("nsenter")
        .args(["-t", &pid, "-U", "--preserve-credentials", "sh", "-c", more])
        .output()
        .expect("nsenter");
    assert!(given.status.success(), "{given:?}");
    is_watched(true).await;
    fs::write(dir.path().join("new.txt"), "new").expect("written");
    eventually("the new file is there", async || {
        let assets = daemon.assets().await.len();
        (assets == 1).then_some(()).ok_or_else(|| format!("{assets} assets"))
    })
    .await;
}
