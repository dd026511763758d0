//! What a node keeps is never stored, however `put` comes across it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml, yaml};
use crate::support::nodes::PASSPHRASE;
use crate::support::service::{ServiceProcess, command};

async fn names(node: &Daemon) -> Vec<String> {
    let listed = node.get("/store/list?limit=1000").await;
    let assets = listed["assets"].as_array().expect("assets").iter();
    let mut names: Vec<String> =
        assets.map(|a| a["filename"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.unwrap();
        let target = to.join(entry.path().strip_prefix(from).unwrap());
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(target).unwrap();
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn data_directories_are_passed_over_at_any_depth_and_through_links() {
    let node = Daemon::start(&embedded_yaml(""));
    let home = node.user.home().to_owned();
    // Beside its own: a CAN Service's, in use, with its key elsewhere; a backup; one of another node, deep down.
    let service = ServiceProcess::spawn(command(&home.join("services/can"), "127.0.0.1:0"));
    copy(&node.data_dir(), &home.join("backup of data"));
    let other = Daemon::start(&embedded_yaml(""));
    copy(&other.data_dir(), &home.join("a/b/c/node"));
    node.user.write("a/photo.jpg", "a photo");
    node.user.write("a/b/c/notes.txt", "notes");
    node.user.write("services/readme.txt", "what serves what");
    std::fs::create_dir(home.join("links")).unwrap();
    symlink(node.data_dir(), home.join("links/data")).unwrap();
    symlink(node.data_dir().join("secret.key"), home.join("links/key.txt")).unwrap();

    let ran = node.user.run(&["put", "-r", "."]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(names(&node).await, ["notes.txt", "photo.jpg", "readme.txt"]);
    for dir in ["./data", "./services/can", "./backup of data", "./a/b/c/node"] {
        assert!(ran.stderr.contains(&format!("passed over '{dir}'")), "{dir}: {}", ran.stderr);
    }
    // Named directly, whole or in part, or through links: nothing of it is stored.
    let before = names(&node).await;
    for path in [
        "data",
        "data/",
        "links/data",
        "services/can/store",
        "data/store/content",
        "backup of data/partial",
        "data/store/..",
    ] {
        let ran = node.user.run(&["put", "-r", path]);
        assert_eq!((ran.code, ran.text()), (1, ""), "{path}: {}", ran.stderr);
        assert!(ran.stderr.contains("passed over"), "{path}: {}", ran.stderr);
    }
    for path in [
        "data/secret.key",
        "data/passphrase",
        "links/key.txt",
        "links/data/agent.db",
        "services/can/store/store.db",
        "data/status.txt",
    ] {
        if !home.join(path).exists() && path == "data/status.txt" {
            std::fs::write(home.join(path), "").unwrap();
        }
        if !home.join(path).exists() {
            continue;
        }
        let ran = node.user.run(&["put", path]);
        assert_eq!((ran.code, ran.text()), (1, ""), "{path}: {}", ran.stderr);
        assert!(ran.stderr.contains("belongs to the node"), "{path}: {}", ran.stderr);
    }
    assert_eq!(names(&node).await, before);
    drop(service);
}

#[tokio::test]
async fn files_with_secrets_that_settings_name_are_passed_over() {
    let user = User::new();
    user.write("etc/words", PASSPHRASE);
    user.write("etc/token", "a token for the interface of the agent");
    user.write("etc/notes.txt", "notes");
    user.write("config.yaml", yaml("sync_passphrase_file: etc/words\ncan_listen_addr: 127.0.0.1:0\n"));
    for name in ["words", "token"] {
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(user.home().join("etc").join(name), mode).unwrap();
    }
    let node = Daemon::start_given(user, &["--api-token-file", "etc/token"], &[], b"");
    std::fs::hard_link(node.user.home().join("etc/words"), node.user.home().join("etc/other name")).unwrap();
    let ran = node.user.run(&["put", "-r", "."]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let stored = std::str::from_utf8(&ran.stdout).unwrap();
    let stored: Vec<&str> = stored.lines().filter_map(|line| line.split("  ").nth(1)).collect();
    // A configuration without a secret in it is a file as any other.
    assert_eq!(stored, ["./config.yaml", "./etc/notes.txt"], "{}", ran.stderr);
    for name in ["words", "token", "other name"] {
        assert!(
            ran.stderr.contains(&format!("./etc/{name}: passed over: it holds a secret")),
            "{}",
            ran.stderr
        );
    }
    let ran = node.user.run(&["put", "etc/other name"]);
    assert_eq!((ran.code, ran.text()), (1, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("it holds a secret of the node"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_directory_that_is_a_data_directory_and_more_is_taken_by_name() {
    let node = Daemon::start(&embedded_yaml("").replace("data_dir: ./data", "data_dir: ."));
    node.user.write("photo.jpg", "a photo");
    node.user.write("album/other.jpg", "another");
    let ran = node.user.run(&["put", "-r", "album", "photo.jpg"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(names(&node).await, ["other.jpg", "photo.jpg"]);
    let ran = node.user.run(&["put", "-r", "."]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("passed over '.'"), "{}", ran.stderr);
    for name in ["secret.key", "agent.db", "agent.db-wal", "running.json", "store/store.db"] {
        let ran = node.user.run(&["put", name]);
        assert_eq!(ran.code, 1, "{name}: {}", ran.stderr);
    }
    assert_eq!(names(&node).await, ["other.jpg", "photo.jpg"]);
}
