//! `put` and `get -o` of files that are not what they seem: no size or a wrong one, no content of their own, unreadable, links,
//! modes.
#![cfg(unix)]

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use sha2::{Digest as _, Sha256};

use crate::support::agent::Agent;
use crate::support::command::{Ran, User};

fn run(user: &User, agent: &Agent, args: &[&str]) -> Ran {
    user.run_with(args, &[("CAN_SYNC_API", &agent.url(""))], b"")
}

fn sha256(content: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(content))
}

fn fifo(user: &User, name: &str) {
    let mode = Mode::RUSR.union(Mode::WUSR);
    mknodat(CWD, user.home().join(name), FileType::Fifo, mode, 0).expect("a pipe");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_is_refused_by_name_and_never_waited_for() {
    let (user, agent) = (User::new(), Agent::start().await);
    fifo(&user, "pipe");
    let _socket = UnixListener::bind(user.home().join("socket")).expect("a socket");
    symlink("pipe", user.home().join("to-pipe")).expect("a link");
    user.write("good", "good");
    let ran = run(&user, &agent, &["put", "pipe", "socket", "/dev/zero", "to-pipe", "good"]);
    assert_eq!((ran.code, ran.text()), (1, format!("{}  good\n", sha256(b"good")).as_str()));
    for part in [
        "pipe: it is a named pipe",
        "socket: it is a socket",
        "/dev/zero: it is a device",
        "to-pipe: it is a named pipe",
        "can-sync put - < pipe",
        "4 files could not be stored",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    // In a directory they are passed over, and named.
    user.write("tree/good", "good");
    fifo(&user, "tree/pipe");
    symlink("good", user.home().join("tree/link")).expect("a link");
    let ran = run(&user, &agent, &["put", "-r", "tree"]);
    assert_eq!(
        (ran.code, ran.text()),
        (0, format!("{}  tree/good\n", sha256(b"good")).as_str()),
        "{}",
        ran.stderr
    );
    for part in [
        "tree/pipe: passed over: it is a named pipe",
        "1 symbolic link and 1 pipe, socket or device passed over",
    ] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_is_wrong_is_not_believed() {
    let (user, agent) = (User::new(), Agent::start().await);
    let version = std::fs::read("/proc/version").expect("a version");
    let ran = run(&user, &agent, &["put", "/proc/version"]);
    assert_eq!(
        (ran.code, ran.text()),
        (0, format!("{}  /proc/version\n", sha256(&version)).as_str()),
        "{}",
        ran.stderr
    );
    let sys = "/sys/kernel/mm/transparent_hugepage/enabled";
    if let Ok(content) = std::fs::read(sys) {
        let ran = run(&user, &agent, &["put", sys]);
        assert_eq!(
            (ran.code, ran.text()),
            (0, format!("{}  {sys}\n", sha256(&content)).as_str()),
            "{}",
            ran.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_with_something_unreadable_in_it_goes_in_but_for_that() {
    let (user, agent) = (User::new(), Agent::start().await);
    for name in ["tree/a", "tree/locked/inside", "tree/secret", "tree/z"] {
        user.write(name, name);
    }
    let lock = |name: &str, mode: u32| {
        let path = user.home().join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    lock("tree/locked", 0);
    lock("tree/secret", 0);
    // Root may read everything; there is something else that nobody can read.
    let readable = std::fs::read(user.home().join("tree/secret")).is_ok();
    if readable {
        symlink("/proc/self/mem", user.home().join("mem")).expect("a link");
    }
    let args: &[&str] = if readable { &["put", "-r", "tree", "mem"] } else { &["put", "-r", "tree"] };
    let ran = run(&user, &agent, args);
    lock("tree/locked", 0o755);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    for name in ["tree/a", "tree/z"] {
        assert!(ran.text().contains(&format!("{}  {name}\n", sha256(name.as_bytes()))), "{}", ran.text());
    }
    let expected: &[&str] = if readable {
        &["mem: cannot read it: ", "Input/output error", "1 file could not be stored"]
    } else {
        &[
            "tree/locked: Permission denied",
            "tree/secret: cannot read it: Permission denied",
            "2 files could not be stored",
        ]
    };
    for part in expected {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_is_not_sent_again() {
    let (user, agent) = (User::new(), Agent::start().await);
    let large = vec![5; 3_000_000];
    user.write("tree/first.bin", &large);
    user.write("tree/second.bin", b"other");
    let ran = run(&user, &agent, &["put", "-r", "tree"]);
    assert!(ran.stderr.contains("2 new assets stored"), "{}", ran.stderr);
    let again = run(&user, &agent, &["put", "-r", "tree"]);
    assert!(again.stderr.contains("0 new assets stored; 2 files skipped, here already"), "{}", again.stderr);
    let tagged = run(&user, &agent, &["put", "tree/first.bin", "--tags", "x", "--json"]);
    assert_eq!(tagged.json()[0]["outcome"], "merged", "{}", tagged.stderr);
    assert_eq!(tagged.json()[0]["tags"][0], "x");
    assert!(tagged.stderr.contains("its content is here already"), "{}", tagged.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_keeps_its_mode_and_links_lead_to_their_target() {
    let (user, agent) = (User::new(), Agent::start().await);
    user.write("source", "content");
    let hash = sha256(b"content");
    assert_eq!(run(&user, &agent, &["put", "source"]).code, 0);
    let path = |name: &str| user.home().join(name);
    for mode in [0o600, 0o755, 0o640] {
        user.write("script", "#!/bin/sh\n");
        std::fs::set_permissions(path("script"), std::fs::Permissions::from_mode(mode)).expect("a mode");
        let ran = run(&user, &agent, &["get", &hash, "-o", "script"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(std::fs::read(path("script")).expect("the file"), b"content");
        assert_eq!(std::fs::metadata(path("script")).expect("a file").permissions().mode() & 0o777, mode);
    }
    std::fs::create_dir(path("dir")).expect("a directory");
    // From link to link, to something that is not there yet.
    symlink("second", path("first")).expect("a link");
    symlink("dir/target", path("second")).expect("a link");
    assert_eq!(run(&user, &agent, &["get", &hash, "-o", "first"]).code, 0);
    assert!(path("first").is_symlink() && path("second").is_symlink());
    assert_eq!(std::fs::read(path("dir/target")).expect("the target"), b"content");
    symlink("loop", path("loop")).expect("a link");
    assert_ne!(run(&user, &agent, &["get", &hash, "-o", "loop"]).code, 0);
}
