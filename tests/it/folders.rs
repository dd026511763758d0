//! Records of folders between two real nodes: live, after a restart, and where both sides edited.

use can_sync::testing::entry::FolderRecord;
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::store::entries::EntryOutcome;
use futures::StreamExt as _;
use tokio::time::{Instant, timeout};

use crate::support::folder::{FOLDER, author, definition, entry, history, listed, put};
use crate::support::nodes::{DEADLINE, TestNode, eventually};
use crate::support::store::hash_of;

async fn connected() -> (TestNode, TestNode) {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    a.wait_in_sync().await;
    b.wait_in_sync().await;
    (a, b)
}

/// Waits until the folder has this, in the order of paths.
async fn has(node: &TestNode, expected: &[FolderRecord]) {
    let store = node.sync_store();
    eventually("the folder has it", async || {
        let found = listed(&store, "", 1000).await;
        (found == expected).then_some(()).ok_or_else(|| format!("{found:#?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_on_one_machine_is_on_the_other() {
    let (a, mut b) = connected().await;
    let ann = author(1, 0);
    let folder = definition(FOLDER, "photos", &ann);
    let first = entry("d/a.txt", None, Some(b"one"), &ann);
    for record in [&folder, &first] {
        assert_eq!(put(&a.sync_store(), record, None).await, EntryOutcome::Stored);
    }
    has(&b, &[folder.clone(), first.clone()]).await;
    let with = b.sync_store().entries_with(vec![hash_of(b"none"), hash_of(b"one")]).await.expect("entries");
    assert_eq!(with, std::slice::from_ref(&first));
    // Back the other way, as an edit.
    let second = entry("d/a.txt", Some(&first), Some(b"two"), &author(2, 5));
    assert_eq!(put(&b.sync_store(), &second, Some(first.digest())).await, EntryOutcome::Stored);
    has(&a, &[folder.clone(), second.clone()]).await;
    assert_eq!(history(&a.sync_store(), "d/a.txt").await, std::slice::from_ref(&first));
    // No content is fetched because of one, and none is waited for.
    a.wait_in_sync().await;
    b.wait_in_sync().await;
    assert!(a.assets().await.is_empty() && b.assets().await.is_empty());
    assert_eq!(b.content(&hash_of(b"two").to_string()).await, None);

    // What was put while one was away.
    b.stop().await;
    let third = entry("d/a.txt", Some(&second), None, &author(1, 10));
    assert_eq!(put(&a.sync_store(), &third, Some(second.digest())).await, EntryOutcome::Stored);
    let more: Vec<FolderRecord> =
        (0..50).map(|n| entry(&format!("e/{n:02}"), None, Some(&[n]), &ann)).collect();
    for record in &more {
        assert_eq!(put(&a.sync_store(), record, None).await, EntryOutcome::Stored);
    }
    b.boot().await;
    b.dial(&a).await;
    let expected: Vec<FolderRecord> = [folder, third].into_iter().chain(more).collect();
    has(&b, &expected).await;
    b.wait_in_sync().await;
    a.wait_in_sync().await;
    assert_eq!(history(&b.sync_store(), "d/a.txt").await, [second, first]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_edited_converges_with_its_history_on_both() {
    let (a, mut b) = connected().await;
    let base = entry("d/a.txt", None, Some(b"base"), &author(1, 0));
    assert_eq!(put(&a.sync_store(), &base, None).await, EntryOutcome::Stored);
    has(&b, std::slice::from_ref(&base)).await;
    b.stop().await;
    let mine = entry("d/a.txt", Some(&base), Some(b"mine"), &author(1, 10));
    assert_eq!(put(&a.sync_store(), &mine, Some(base.digest())).await, EntryOutcome::Stored);
    // Nobody hears of this one before both are connected.
    b.boot().await;
    let theirs = entry("d/a.txt", Some(&base), Some(b"theirs"), &author(2, 20));
    let outcome = put(&b.sync_store(), &theirs, Some(base.digest())).await;
    if outcome != EntryOutcome::Stored {
        // It was quicker than we.
        let EntryOutcome::Changed(found) = outcome else { panic!("{outcome:?}") };
        assert_eq!(found.as_deref(), Some(&mine));
        let taken = crate::support::folder::take(&b.sync_store(), &theirs).await;
        assert_eq!(taken, EntryOutcome::Stored);
    }
    b.dial(&a).await;
    eventually("both have the winner, and a copy of the other", async || {
        let (of_a, of_b) = (listed(&a.sync_store(), "", 10).await, listed(&b.sync_store(), "", 10).await);
        let is_merged = of_a.len() == 2 && of_a.contains(&theirs) && of_a == of_b;
        is_merged.then_some(()).ok_or_else(|| format!("{of_a:#?} and {of_b:#?}"))
    })
    .await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    for node in [&a, &b] {
        let copy = listed(&node.sync_store(), "d/a (machine 1 ", 10).await;
        assert_eq!(copy.iter().map(FolderRecord::target).collect::<Vec<_>>(), [Some(hash_of(b"mine"))]);
    }
    // Whoever had the winner before it heard of the other version has that as the copy alone: what lost is not offered any more.
    assert_eq!(history(&a.sync_store(), "d/a.txt").await, [mine.clone(), base.clone()]);
    let of_b = history(&b.sync_store(), "d/a.txt").await;
    assert!(of_b == [mine, base.clone()] || of_b == [base], "{of_b:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_folder_is_not_deleted_under_it() {
    let (a, b) = connected().await;
    let hash = a.ingest(b"hello".to_vec(), &[]).await;
    b.holds(1).await;
    let folder = definition(FOLDER, "photos", &author(1, 0));
    let file = entry("hello.txt", None, Some(b"hello"), &author(1, 0));
    for record in [&folder, &file] {
        assert_eq!(put(&a.sync_store(), record, None).await, EntryOutcome::Stored);
    }
    has(&b, &[folder.clone(), file.clone()]).await;
    for node in [&a, &b] {
        let url = format!("{}/asset/{hash}", node.node().store_url());
        let answer = node.http.delete(url).send().await.expect("an answer");
        assert_eq!(answer.status(), 409);
        let body: serde_json::Value = answer.json().await.expect("JSON");
        assert_eq!(body["code"], "in_folder");
        assert!(body["error"].as_str().expect("a sentence").contains("hello.txt"), "{body}");
        assert!(body["error"].as_str().expect("a sentence").contains("photos"), "{body}");
    }
    let removed = entry("hello.txt", Some(&file), None, &author(2, 9));
    assert_eq!(put(&b.sync_store(), &removed, Some(file.digest())).await, EntryOutcome::Stored);
    has(&a, &[folder.clone(), removed.clone()]).await;
    // Put once more by anybody, it can be deleted all the same: from the folder, on all machines.
    let again = entry("hello.txt", Some(&removed), Some(b"hello"), &author(3, 20));
    assert_eq!(put(&b.sync_store(), &again, Some(removed.digest())).await, EntryOutcome::Stored);
    has(&a, &[folder, again]).await;
    let url = format!("{}/asset/{hash}?from_folders=true", a.node().store_url());
    assert_eq!(a.http.delete(url).send().await.expect("an answer").status(), 200);
    eventually("the file is gone from the folder", async || {
        let found = listed(&b.sync_store(), "hello.txt", 1).await;
        let is_gone = found.first().is_some_and(|record| record.target().is_none());
        is_gone.then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_at_the_other_machine_at_once() {
    let (a, b) = connected().await;
    let (mut last, mut took) = (None, Vec::new());
    for n in 0..50_u8 {
        let next = entry("live", last.as_ref(), Some(&[n]), &author(1, u64::from(n)));
        let store = b.sync_store();
        let seq = store.status().await.expect("status").seq;
        let mut events = store.watch(seq);
        let begun = Instant::now();
        let expects = last.as_ref().map(FolderRecord::digest);
        assert_eq!(put(&a.sync_store(), &next, expects).await, EntryOutcome::Stored);
        loop {
            if listed(&store, "live", 1).await == [next.clone()] {
                break;
            }
            timeout(DEADLINE, events.next()).await.expect("in time").expect("an event").expect("a change");
        }
        took.push(begun.elapsed());
        last = Some(next);
    }
    took.sort_unstable();
    println!("from the one store to the other, HTTP included: p50 {:?}, p95 {:?}", took[25], took[47]);
    assert_eq!(history(&b.sync_store(), "live").await.len(), 49);
}
