//! Removals: those that are asked about, those that wait, and those of contents.

use std::fs;

use serde_json::json;

use crate::support::files::files;
use crate::support::machine::{Machine, acquainted, knows, pair};
use crate::support::store::hash_of;

/// Names of what is in the trash, cut from when it was taken out.
fn trash(machine: &Machine) -> Vec<String> {
    let Ok(found) = fs::read_dir(machine.dir().join(".can-sync-trash")) else { return Vec::new() };
    found.map(|one| one.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_removed_before_it_was_found_is_kept_or_goes_to_the_trash() {
    let (a, b) = acquainted().await;
    for name in ["keep.txt", "trash.txt", "stays.txt"] {
        a.put(name, name);
        b.put(name, name);
    }
    a.add().await;
    a.rests(3).await;
    fs::remove_file(a.dir().join("keep.txt")).expect("it was there");
    fs::remove_file(a.dir().join("trash.txt")).expect("it was there");
    a.rests(1).await;
    knows(&b).await;
    b.node.wait_in_sync().await;
    b.add().await;
    b.says("it asks", |report| report["asked"].as_array().is_some_and(|asked| asked.len() == 2)).await;
    b.has(&[("keep.txt", "keep.txt"), ("stays.txt", "stays.txt"), ("trash.txt", "trash.txt")]).await;
    let done = b.act(json!({ "action": "keep", "path": "keep.txt" })).await;
    assert_eq!(done["status"], "success", "{done}");
    let done = b.act(json!({ "action": "trash", "path": "trash.txt" })).await;
    assert_eq!(done["status"], "success", "{done}");
    let left = [("keep.txt", "keep.txt"), ("stays.txt", "stays.txt")];
    a.has(&left).await;
    b.has(&left).await;
    assert!(trash(&b).iter().any(|name| name.ends_with("trash.txt")), "{:?}", trash(&b));
    let done = b.act(json!({ "action": "keep" })).await;
    assert_eq!(done["status"], "error", "nothing is asked any more: {done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_receives_many_removals_may_overrule_them_also_after_a_restart() {
    let (a, mut b) = pair().await;
    let names: Vec<String> = (0..60).map(|n| format!("{n:02}.txt")).collect();
    for name in &names {
        a.put(name, name);
    }
    let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    b.has(&all).await;
    a.rests(60).await;
    b.rests(60).await;
    // So that it hears of all of them at once.
    b.does("pause").await;
    for name in &names[..40] {
        fs::remove_file(a.dir().join(name)).expect("it was there");
    }
    a.says("removals are held", |report| report["held"].as_u64().is_some_and(|held| held >= 20)).await;
    a.does("confirm").await;
    a.has(&all[40..]).await;
    a.rests(20).await;
    b.node.wait_in_sync().await;
    b.does("resume").await;
    b.says("they are held", |report| report["held"] == 40).await;
    b.has(&all).await;
    b.node.stop().await;
    b.node.boot().await;
    b.node.dial(&a.node).await;
    b.says("they are still held", |report| report["held"] == 40 && report["state"] == "held").await;
    b.has(&all).await;
    b.does("revert").await;
    a.has(&all).await;
    b.has(&all).await;
    b.says("nothing is held", |report| report["held"] == 0 && report["entries"] == 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_is_deleted_from_folders_only_if_that_is_said() {
    let (a, b) = pair().await;
    a.put("one.txt", "one");
    a.put("two.txt", "two");
    b.has(&[("one.txt", "one"), ("two.txt", "two")]).await;
    let url = format!("{}/asset/{}", b.node.node().store_url(), hash_of(b"one"));
    let answer = b.node.http.delete(&url).send().await.expect("an answer");
    assert_eq!(answer.status(), 409);
    b.has(&[("one.txt", "one"), ("two.txt", "two")]).await;
    let answer = b.node.http.delete(format!("{url}?from_folders=true")).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    a.has(&[("two.txt", "two")]).await;
    b.has(&[("two.txt", "two")]).await;
    for machine in [&a, &b] {
        assert!(trash(machine).iter().any(|name| name.ends_with("one.txt")), "{:?}", trash(machine));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_emptied_or_saved_by_a_rename_has_its_versions() {
    let (a, b) = pair().await;
    a.put("note.txt", "full");
    a.put("text.txt", "0");
    b.has(&[("note.txt", "full"), ("text.txt", "0")]).await;
    fs::write(a.dir().join("note.txt"), "").expect("it is written");
    b.has(&[("note.txt", ""), ("text.txt", "0")]).await;
    let done = b.act(json!({ "action": "restore", "path": "note.txt" })).await;
    assert_eq!(done["status"], "success", "{done}");
    a.has(&[("note.txt", "full"), ("text.txt", "0")]).await;
    // As editors save: a new file, a backup of the old one, a rename.
    for n in 1..=20 {
        fs::write(a.dir().join("text.txt~new"), n.to_string()).expect("it is written");
        fs::rename(a.dir().join("text.txt~new"), a.dir().join("text.txt")).expect("it is renamed");
    }
    let left = [("note.txt", "full"), ("text.txt", "20")];
    a.has(&left).await;
    b.has(&left).await;
    a.says("there are no copies", |report| report["conflicts"].as_array().is_some_and(Vec::is_empty)).await;
    assert_eq!(files(&b.dir()).len(), 2);
}
