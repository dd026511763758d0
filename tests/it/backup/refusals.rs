//! What is refused, and says what to do instead.

use std::fs;
use std::path::Path;

use super::{backup, filled, restore, text};
use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml, listing};
use crate::support::mounted::{Mounted, tell};
use crate::support::store::noise;

#[tokio::test(flavor = "multi_thread")]
async fn places_that_are_no_good_are_refused_and_left_alone() {
    let (daemon, _) = filled(4).await;
    let home = daemon.user.home().to_owned();
    let refused = |dir: &str, expected: &str| {
        let ran = daemon.run(&["backup", dir]);
        assert_eq!(ran.code, 1, "{dir}: {}{}", ran.text(), ran.stderr);
        assert!(ran.stderr.contains(expected), "{dir}: {}", ran.stderr);
    };
    refused("data/backup", "lie in one another");
    refused("data/../data/store", "lie in one another");
    refused(".", "lie in one another");
    daemon.user.write("mine/photo.jpg", "x");
    refused("mine", "is not empty and holds no backup: there is 'photo.jpg'");
    assert_eq!(fs::read_dir(home.join("mine")).unwrap().count(), 1);
    refused("mine/photo.jpg", "mine/photo.jpg");
    let other = Daemon::start(&embedded_yaml(""));
    let theirs = other.user.home().join("backup");
    backup(&other, &theirs, &[]);
    let before = listing(&theirs.join("states"));
    refused(text(&theirs), "is of another node");
    assert_eq!(listing(&theirs.join("states")), before);
    assert!(daemon.run(&["backup", "x", "--data-dir", "mine"]).stderr.contains("is no data directory"));
    assert!(!home.join("x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_into_an_empty_place_alone_and_only_if_it_is_whole() {
    let (daemon, _) = filled(4).await;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("backup");
    let user = User::new();
    let refused = |target: &str, expected: &str| {
        let ran = user.run(&["restore", text(&dir), "--data-dir", target]);
        assert_eq!(ran.code, 1, "{target}: {}{}", ran.text(), ran.stderr);
        assert!(ran.stderr.contains(expected), "{target}: {}", ran.stderr);
    };
    refused("new", "there is no backup");
    assert!(!user.home().join("new").exists());
    backup(&daemon, &dir, &[]);
    user.write("full/secret.key", "x");
    refused("full", "is not empty");
    assert_eq!(fs::read_to_string(user.home().join("full/secret.key")).unwrap(), "x");
    refused(text(&dir.join("content/new")), "lie in one another");
    refused(text(&daemon.data_dir()), "is not empty");

    let manifest = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let with = |changed: &str, expected: &str| {
        fs::write(dir.join("manifest.json"), changed).unwrap();
        refused("new", expected);
        let ran = daemon.run(&["backup", text(&dir)]);
        assert_eq!(ran.code, 1, "nothing is made of what cannot be read: {}", ran.stderr);
    };
    with("", "is damaged");
    with("garbage", "is damaged");
    with(&manifest[..manifest.len() / 2], "is damaged");
    with(&manifest.replace("\"assets\": 4", "\"assets\": 5"), "is damaged");
    with(&manifest.replace("\"format\": 1", "\"format\": 9"), "newer version");
    fs::write(dir.join("manifest.json"), &manifest).unwrap();

    // Files of the state: some can be done without.
    let state = fs::read_dir(dir.join("states")).unwrap().next().unwrap().unwrap().path();
    let damaged = |name: &str| -> (i32, String) {
        let path = state.join(name);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[10] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (_, ran) = restore(&dir, &[]);
        fs::write(&path, whole).unwrap();
        (ran.code, ran.stderr)
    };
    for name in ["store.db", "libraries.db", "secret.key", "contents"] {
        let (code, stderr) = damaged(name);
        assert!(code == 1 && stderr.contains(name) && stderr.contains("damaged"), "{name}: {code} {stderr}");
    }
    let (code, stderr) = damaged("agent.db");
    assert!(code == 0 && stderr.contains("left out: agent.db"), "{code} {stderr}");
    let (_, ran) = restore(&dir, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_directory_that_was_not_completely_restored_does_not_start() {
    let user = User::new();
    user.write("config.yaml", embedded_yaml(""));
    user.write("data/restoring/secret.key", "x");
    let ran = user.run(&["serve"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("not completely restored"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(user.home().join("data")).unwrap().count(), 1);
    let mut command = crate::support::service::command(&user.home().join("data"), "127.0.0.1:0");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not completely restored"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_new_backup_and_not_the_one_before() {
    let (daemon, _) = filled(4).await;
    let home = tempfile::tempdir().unwrap();
    let Some(_small) = Mounted::new(home.path(), "size=40m") else { return };
    let dir = home.path().join("backup");
    backup(&daemon, &dir, &[]);
    for seed in 0..30 {
        super::ingest(&daemon, noise(2_000_000, 80_000 + seed)).await;
    }
    let ran = daemon.run(&["backup", text(&dir)]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("more in") && ran.stderr.contains("are free"), "{}", ran.stderr);
    let (_, ran) = restore(&dir, &[]);
    assert_eq!((ran.code, &ran.json()[0]["assets"]), (0, &4.into()), "{}", ran.stderr);
    // Nor is there room to restore.
    let target = home.path().join("restored");
    fill(&home.path().join("filling"));
    let ran = User::new().run(&["restore", text(&dir), "--data-dir", text(&target)]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("are free"), "{}", ran.stderr);
    tell("the backup of a full disk was refused, and the one before restored");
}

fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
}
