//! File systems that are mounted inside a folder, and go.

use std::fs;

use serde_json::Value;

use crate::support::files::files;
use crate::support::machine::{Machine, alike, pair};
use crate::support::mounted::Mounted;

fn is_unknown(report: &Value) -> bool {
    report["unknown"].as_array().is_some_and(|all| all.iter().any(|one| one["path"] == "disk"))
}

/// Two machines; on the first one, another disk is mounted in the folder.
async fn pair_with_disk() -> Option<(Machine, Machine, Mounted, Mounted)> {
    let (a, b) = pair().await;
    let (away, disk) = (a.home.path().join("away"), a.dir().join("disk"));
    fs::create_dir(&away).expect("a directory");
    fs::create_dir(&disk).expect("a directory");
    // Its files stay while it is not mounted in the folder.
    let own = Mounted::new(&away, "size=8m")?;
    let mounted = Mounted::bind(&away, &disk)?;
    for name in ["disk/one.txt", "disk/d/two.txt", "disk/three.txt", "plain.txt"] {
        a.put(name, name);
    }
    b.has(&all()).await;
    alike(&[&a, &b]).await;
    Some((a, b, own, mounted))
}

fn all() -> [(&'static str, &'static str); 4] {
    ["disk/d/two.txt", "disk/one.txt", "disk/three.txt", "plain.txt"].map(|name| (name, name))
}

/// What is done elsewhere while the disk is away, and here, beside it.
async fn goes_on(a: &Machine, b: &Machine) {
    a.says("it is unknown", is_unknown).await;
    b.put("disk/one.txt", "edited");
    b.put("disk/new.txt", "new");
    fs::remove_file(b.dir().join("disk/three.txt")).expect("it was there");
    b.put("plain.txt", "plain, edited");
    a.has(&[("plain.txt", "plain, edited")]).await;
    a.node.wait_in_sync().await;
    a.does("look").await;
    a.says("it is unknown", is_unknown).await;
    assert_eq!(
        fs::read_dir(a.dir().join("disk")).expect("a directory").count(),
        0,
        "nothing is written there"
    );
    let found = files(&b.dir());
    assert_eq!(found.get("disk/d/two.txt").map(String::as_str), Some("disk/d/two.txt"), "{found:?}");
}

async fn is_back(a: &Machine, b: &Machine) {
    let now = [
        ("disk/d/two.txt", "disk/d/two.txt"),
        ("disk/new.txt", "new"),
        ("disk/one.txt", "edited"),
        ("plain.txt", "plain, edited"),
    ];
    a.says("it is looked after again", |report| report["state"].is_string()).await;
    a.does("look").await;
    a.has(&now).await;
    b.has(&now).await;
    alike(&[a, b]).await;
    for machine in [a, b] {
        machine.keeps(&["disk/one.txt", "disk/three.txt", "plain.txt"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unmounted_while_a_folder_is_looked_after_is_not_removed() {
    let Some((a, b, _own, mounted)) = pair_with_disk().await else { return };
    drop(mounted);
    a.does("look").await;
    goes_on(&a, &b).await;
    let Some(_mounted) = Mounted::bind(&a.home.path().join("away"), &a.dir().join("disk")) else { return };
    is_back(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unmounted_while_nobody_looks_is_not_removed() {
    let Some((mut a, b, _own, mounted)) = pair_with_disk().await else { return };
    a.node.stop().await;
    drop(mounted);
    a.node.boot().await;
    a.node.dial(&b.node).await;
    goes_on(&a, &b).await;
    a.node.stop().await;
    let Some(_mounted) = Mounted::bind(&a.home.path().join("away"), &a.dir().join("disk")) else { return };
    a.node.boot().await;
    a.node.dial(&b.node).await;
    is_back(&a, &b).await;
}
