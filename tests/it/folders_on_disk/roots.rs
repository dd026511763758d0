//! What becomes of a folder's root: it goes, is something else, cannot be written to, is full.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::files::files;
use crate::support::machine::{Machine, acquainted, alike, knows, pair};
use crate::support::mounted::Mounted;
use crate::support::nodes::eventually;
use crate::support::store::noise;

/// Whether it says of this file what is wrong.
fn complains(report: &Value, name: &str, why: &str) -> bool {
    let mut said = report["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    report["state"] == "failed" && said.any(|said| said.contains(name) && said.contains(why))
}

/// Text of so many bytes that cannot be made smaller.
fn text(bytes: usize) -> String {
    data_encoding::HEXLOWER.encode(&noise(bytes / 2, bytes as u64))
}

/// Two machines with the folder, the first one's directory on a file system of its own.
async fn pair_on(options: &str) -> Option<(Machine, Machine, Mounted)> {
    let (a, b) = acquainted().await;
    let mounted = Mounted::new(&a.dir(), options)?;
    a.add().await;
    knows(&b).await;
    b.add().await;
    Some((a, b, mounted))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_something_else_is_missing_until_it_is_back() {
    let (a, b) = pair().await;
    a.put("one.txt", "one");
    a.put("d/two.txt", "two");
    let all = [("d/two.txt", "two"), ("one.txt", "one")];
    b.has(&all).await;
    alike(&[&a, &b]).await;
    let (root, away) = (a.dir(), a.home.path().join("away"));
    let elsewhere = a.home.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    fs::write(elsewhere.join("one.txt"), "not ours").expect("a file");
    fs::rename(&root, &away).expect("it was there");
    let is_missing = async |why: &str| {
        a.act(json!({ "action": "look" })).await;
        a.says(why, |report| {
            report["state"] == "missing" && report["reason"].as_str().is_some_and(|said| said.contains(why))
        })
        .await;
        b.has(&all).await;
    };
    is_missing("no directory").await;
    fs::write(&root, "a file").expect("a file");
    is_missing("not a directory").await;
    fs::remove_file(&root).expect("it was there");
    std::os::unix::fs::symlink(&elsewhere, &root).expect("a link");
    a.act(json!({ "action": "look" })).await;
    a.says("it is missing", |report| report["state"] == "missing").await;
    assert_eq!(files(&elsewhere).len(), 1);
    fs::remove_file(&root).expect("it was there");
    // Also one that leads to itself.
    std::os::unix::fs::symlink(&root, &root).expect("a link");
    is_missing("cannot look at").await;
    fs::remove_file(&root).expect("it was there");
    b.put("one.txt", "one, later");
    fs::rename(&away, &root).expect("it was there");
    a.has(&[("d/two.txt", "two"), ("one.txt", "one, later")]).await;
    alike(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_moved_into_another_one_is_not_part_of_it() {
    let (a, b) = pair().await;
    let (other, inside) = (a.home.path().join("Other"), a.dir().join("Other"));
    fs::create_dir(&other).expect("a directory");
    fs::write(other.join("private.txt"), "private").expect("a file");
    let answer = a.node.post("/folders", json!({ "path": other, "name": "other" })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    let of_other = async || a.node.get("/folders/other").await["data"].clone();
    eventually("it is taken in", async || {
        let report = of_other().await;
        (report["state"] == "idle" && report["entries"] == 1).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    fs::rename(&other, &inside).expect("it was there");
    a.put("plain.txt", "plain");
    b.has(&[("plain.txt", "plain")]).await;
    a.does("look").await;
    a.says("it is named", |report| {
        let named = report["passed_over"].as_array();
        named.is_some_and(|named| named.iter().any(|one| one["path"] == "Other"))
    })
    .await;
    a.node.post("/folders/other/actions", json!({ "action": "look" })).await;
    eventually("the other one is missing, and keeps its files", async || {
        let report = of_other().await;
        (report["state"] == "missing").then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    b.has(&[("plain.txt", "plain")]).await;
    fs::rename(&inside, &other).expect("it was there");
    eventually("it goes on", async || {
        let report = of_other().await;
        (report["state"] == "idle" && report["entries"] == 1).then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
    b.has(&[("plain.txt", "plain")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_written_to_is_said_and_only_read() {
    let (a, b) = acquainted().await;
    let Some(mounted) = Mounted::new(&a.dir(), "size=8m") else { return };
    a.put("one.txt", "one");
    a.put("gone.txt", "gone");
    mounted.remount("ro");
    let answer = a.node.post("/folders", json!({ "path": a.dir(), "name": "photos" })).await;
    assert!(answer["error"].as_str().is_some_and(|why| why.contains("write")), "{answer}");
    mounted.remount("rw");
    a.add().await;
    knows(&b).await;
    b.add().await;
    b.has(&[("gone.txt", "gone"), ("one.txt", "one")]).await;
    alike(&[&a, &b]).await;
    mounted.remount("ro");
    b.put("one.txt", "one, later");
    b.put("new/two.txt", "two");
    fs::remove_file(b.dir().join("gone.txt")).expect("it was there");
    a.says("each is named", |report| {
        ["one.txt", "two.txt", "gone.txt"].iter().all(|name| complains(report, name, "Read-only file system"))
    })
    .await;
    a.has(&[("gone.txt", "gone"), ("one.txt", "one")]).await;
    b.has(&[("new/two.txt", "two"), ("one.txt", "one, later")]).await;
    mounted.remount("rw");
    a.does("look").await;
    a.has(&[("new/two.txt", "two"), ("one.txt", "one, later")]).await;
    alike(&[&a, &b]).await;
    a.keeps(&["gone", "one"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_what_fits_comes_and_nothing_is_lost() {
    let Some((a, b, mounted)) = pair_on("size=2m").await else { return };
    let (first, second, big) = (text(100_000), text(120_000), text(4_000_000));
    a.put("edited.txt", &first);
    b.has(&[("edited.txt", first.as_str())]).await;
    alike(&[&a, &b]).await;
    b.put("big.txt", &big);
    b.put("small.txt", "small");
    a.has(&[("edited.txt", first.as_str()), ("small.txt", "small")]).await;
    a.says("the large one is named", |report| complains(report, "big.txt", "no room")).await;
    // Full to the last byte, an edit of what is there has none either.
    let room = fs::File::create(a.dir().join("room")).expect("a file");
    let fills = || std::io::Write::write(&mut &room, &[1; 4096]).is_ok_and(|written| written > 0);
    while fills() {}
    b.put("edited.txt", &second);
    a.says("the edit is named", |report| complains(report, "edited.txt", "no room")).await;
    assert_eq!(fs::read_to_string(a.dir().join("edited.txt")).expect("it stays"), first);
    mounted.remount("size=32m");
    a.does("look").await;
    eventually("all fits", async || {
        let found = files(&a.dir());
        let has = |name: &str, content: &str| found.get(name).is_some_and(|there| there == content);
        let is_it = has("big.txt", &big) && has("edited.txt", &second) && has("small.txt", "small");
        is_it.then_some(()).ok_or_else(|| format!("{:?}", found.keys()))
    })
    .await;
    alike(&[&a, &b]).await;
    a.keeps(&[&first]).await;
}

/// Sparse files are as large as they say, wherever they do not fit.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_room_for_it_is_named_and_the_rest_is_taken_in() {
    let data = tempfile::tempdir().expect("a directory");
    let Some(mounted) = Mounted::new(data.path(), "size=48m") else { return };
    let at = data.path().join("data");
    let (a, b) = tokio::join!(Machine::start_with("a", |config| config.data_dir = at), Machine::start("b"));
    b.node.dial(&a.node).await;
    tokio::join!(a.node.wait_in_sync(), b.node.wait_in_sync());
    a.add().await;
    knows(&b).await;
    b.add().await;
    sparse(&a.dir().join("large"), 200 << 20);
    sparse(&a.dir().join("holes"), 8 << 20);
    a.put("small.txt", "small");
    b.says("what fits is there", |report| report["entries"] == 2).await;
    eventually("it is whole, and has its holes", async || {
        use std::os::unix::fs::MetadataExt as _;
        let Ok(found) = fs::metadata(b.dir().join("holes")) else { return Err("nothing is there".into()) };
        assert_eq!(fs::read(b.dir().join("holes")).ok(), fs::read(a.dir().join("holes")).ok());
        (found.len() == 8 << 20 && found.blocks() < 4096).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    a.says("the large one is named", |report| complains(report, "large", "")).await;
    assert!(!b.dir().join("large").exists());
    drop((a, mounted));
}

fn sparse(path: &Path, bytes: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = fs::File::create(path).expect("a file");
    file.set_len(bytes).expect("its length");
    file.write_all_at(b"not only holes", bytes / 2).expect("it is written");
}
