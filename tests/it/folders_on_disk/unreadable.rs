//! What the user of the daemon may not read.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::files::files;
use crate::support::nodes::eventually;

fn lock(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

async fn says(daemon: &Daemon, what: &str, is_so: impl Fn(&Value) -> bool) {
    eventually(what, async || {
        let report = daemon.get("/folders/photos").await;
        is_so(&report).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
}

async fn has(daemon: &Daemon, dir: &Path, expected: &[(&str, &str)]) {
    eventually("the directory has it", async || {
        let found = files(dir);
        let is_it = found
            .iter()
            .map(|(name, content)| (name.as_str(), content.as_str()))
            .eq(expected.iter().copied());
        if is_it { Ok(()) } else { Err(format!("{found:?} {}", daemon.get("/folders/photos").await)) }
    })
    .await;
}

fn names(report: &Value, list: &str, path: &str) -> bool {
    let says = |one: &Value| one["path"] == path || one.as_str().is_some_and(|why| why.contains(path));
    report[list].as_array().is_some_and(|all| all.iter().any(says))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_for_a_while_is_not_removed_and_the_rest_goes_on() {
    let user = User::unprivileged();
    user.write("config.yaml", embedded_yaml("name: a"));
    let (a, b) = (Daemon::start_as(user), Daemon::start(&embedded_yaml("name: b")));
    let dirs: Vec<PathBuf> = [&a, &b].map(|daemon| daemon.user.home().join("Photos")).to_vec();
    for dir in &dirs {
        fs::create_dir(dir).expect("a directory");
    }
    a.user.write("Photos/locked/one.txt", "one");
    a.user.write("Photos/locked/two.txt", "two");
    a.user.write("Photos/secret.txt", "secret");
    a.user.write("Photos/plain.txt", "plain");
    a.user.give_all();
    b.dial(&a).await;
    let added = a.post("/folders", &json!({ "path": dirs[0], "name": "photos" })).await;
    assert_eq!(added["status"], "success", "{added}");
    eventually("the folder is known", async || {
        let known = b.get("/folders").await["known"].clone();
        known.as_array().is_some_and(|known| known.len() == 1).then_some(()).ok_or_else(|| known.to_string())
    })
    .await;
    b.post("/folders", &json!({ "path": dirs[1], "name": "photos" })).await;
    let all = [
        ("locked/one.txt", "one"),
        ("locked/two.txt", "two"),
        ("plain.txt", "plain"),
        ("secret.txt", "secret"),
    ];
    has(&b, &dirs[1], &all).await;
    says(&a, "all is agreed", |report| report["state"] == "idle" && report["entries"] == 4).await;

    // A directory, and a file that was written to since.
    let secret = dirs[0].join("secret.txt");
    // Locked before it is written to: whoever looks in between could read it else.
    let mut open = fs::OpenOptions::new().write(true).open(&secret).expect("it opens");
    lock(&secret, 0);
    open.write_all(b"secret, later").expect("it is written");
    drop(open);
    lock(&dirs[0].join("locked"), 0);
    fs::write(dirs[1].join("locked/two.txt"), "two, later").expect("it is written");
    fs::write(dirs[1].join("new.txt"), "new").expect("it is written");
    says(&a, "both are named", |report| {
        names(report, "unknown", "locked") && names(report, "problems", "secret.txt")
    })
    .await;
    a.post("/folders/photos/actions", &json!({ "action": "look" })).await;
    let now = [
        ("locked/one.txt", "one"),
        ("locked/two.txt", "two, later"),
        ("new.txt", "new"),
        ("plain.txt", "plain"),
        ("secret.txt", "secret"),
    ];
    has(&b, &dirs[1], &now).await;
    eventually("what can come comes", async || {
        let found = files(&dirs[0]);
        found.contains_key("new.txt").then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;

    lock(&dirs[0].join("locked"), 0o755);
    lock(&dirs[0].join("secret.txt"), 0o644);
    a.post("/folders/photos/actions", &json!({ "action": "look" })).await;
    let mut last = now;
    last[4].1 = "secret, later";
    for (daemon, dir) in [(&a, &dirs[0]), (&b, &dirs[1])] {
        has(daemon, dir, &last).await;
        says(daemon, "nothing is wrong", |report| {
            report["state"] == "idle" && report["unknown"] == json!([])
        })
        .await;
    }
}
