//! kill -9 in the middle of a backup and of a restoration.

use std::path::Path;

use serde_json::json;

use super::{backup, filled, ingest, restore, text};
use crate::support::command::{User, kill_when, starts_no_node};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::store::noise;

fn files(dir: &Path) -> usize {
    walkdir::WalkDir::new(dir).into_iter().flatten().filter(|entry| entry.file_type().is_file()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_leaves_the_one_before_or_the_new_one() {
    let (daemon, _) = filled(6).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    // The very first one leaves nothing that could be taken for one.
    let mut child = daemon.user.spawn(&["backup", text(&dir)]);
    if kill_when(&mut child, || dir.join("states").is_dir()) && !dir.join("manifest.json").exists() {
        let (_, ran) = restore(&dir, &[]);
        assert!(ran.code == 1 && ran.stderr.contains("none was ever completed"), "{}", ran.stderr);
    }
    backup(&daemon, &dir, &[]);
    let mut assets = 6;
    let mut killed = 0;
    for step in 0..8_usize {
        for n in 0..12 {
            ingest(&daemon, noise(300_000, 10_000 + (step * 100 + n) as u64)).await;
        }
        let before = files(&dir.join("content"));
        let mut child = daemon.user.spawn(&["backup", text(&dir)]);
        let states = dir.join("states");
        let running = kill_when(&mut child, || match step {
            0 => std::fs::read_dir(&states).is_ok_and(|entries| entries.count() > 1),
            1 => files(&states) > 8,
            2..=5 => files(&dir.join("content")) >= before + 3 * step,
            // Around the end.
            _ => files(&dir.join("content")) >= before + 12,
        });
        killed += usize::from(running);
        let (_, ran) = restore(&dir, &["--new-id"]);
        assert_eq!(ran.code, 0, "step {step}: {}", ran.stderr);
        let restored = ran.json().remove(0);
        assert_eq!(restored["missing"], json!([]), "step {step}");
        let count = restored["assets"].as_u64().unwrap();
        assert!(count == assets || count == assets + 12, "step {step}: {count}, not {assets} and 12 more");
        if step % 2 == 1 {
            backup(&daemon, &dir, &[]);
        }
        assets = if step % 2 == 1 { 6 + 12 * (step as u64 + 1) } else { count };
        if step % 2 == 0 && count == assets {
            // The next one has all that is missing.
            backup(&daemon, &dir, &[]);
            assets = 6 + 12 * (step as u64 + 1);
        }
    }
    assert!(killed >= 4, "{killed} of 8 were killed before they ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restoration_that_is_killed_starts_no_node_and_can_be_done_again() {
    let (daemon, _) = filled(6).await;
    for n in 0..20 {
        ingest(&daemon, noise(400_000, 10_000 + n)).await;
    }
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    backup(&daemon, &dir, &[]);
    let (assets, id) = (daemon.assets().await, daemon.id().to_owned());
    drop(daemon);
    let user = User::new();
    user.write("config.yaml", embedded_yaml(""));
    let data = user.home().join("data");
    let mut killed = 0;
    for step in 0..5 {
        let mut child = user.spawn(&["restore", text(&dir), "--data-dir", text(&data)]);
        let content = data.join("restoring/store/content");
        let running = kill_when(&mut child, || match step {
            0 => data.join("restoring").is_dir(),
            1 => files(&data) > 3,
            n => files(&content) >= 5 * n,
        });
        if !running {
            if killed >= 2 {
                break;
            }
            // It ended before this thread looked: once more from the beginning.
            std::fs::remove_dir_all(&data).unwrap();
            continue;
        }
        killed += 1;
        if data.join("restoring").is_dir() {
            starts_no_node(&user);
        }
    }
    assert!(killed >= 2, "{killed}");
    if !data.join("secret.key").exists() {
        let ran = user.run(&["restore", text(&dir), "--data-dir", text(&data)]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }
    assert!(!data.join("restoring").exists());
    let restored = Daemon::start_as(user);
    assert_eq!(restored.id(), id);
    assert_eq!(restored.assets().await, assets);
}
