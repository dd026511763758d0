//! Names of one content, as users give them and as records of other stores bring them.

use can_sync::testing::record::{AssetMeta, AssetRecord, Hlc, LibraryId, WriterId};
use can_sync::testing::store::ItemOutcome;
use can_sync::testing::store::embedded::IngestFields;

use super::{Fixture, apply_one, ingest_one};
use crate::support::store::{held, noise, record_of};

fn named(name: &str) -> IngestFields {
    IngestFields {
        filename: Some(name.into()),
        modified_at_ms: Some(1_500_000_000_123),
        ..IngestFields::default()
    }
}

/// The version that somebody elsewhere made of `record`, knowing of it, or not.
fn theirs(record: &AssetRecord, filename: &str, names: &[&str]) -> AssetRecord {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    let meta = AssetMeta { filename: Some(filename.into()), names, ..record.meta.clone() };
    AssetRecord { hlc: Hlc(record.hlc.0 + 1_000), writer: WriterId([5; 32]), meta, ..record.clone() }
}

fn all_names(record: &AssetRecord) -> Vec<&str> {
    record.meta.all_names().collect()
}

pub(crate) async fn content_has_every_name_that_users_put_it_under(fixture: &dyn Fixture) {
    let store = fixture.store();
    for content in [noise(100, 61), noise(100_000, 62)] {
        let hash = fixture.put(content.clone(), named("a.jpg")).await;
        let first = held(&*store, hash).await.expect("it is there");
        assert_eq!(first.meta.modified_at_ms, Some(1_500_000_000_123));
        fixture.put(content.clone(), named("b.jpg")).await;
        let second = held(&*store, hash).await.expect("it is there");
        assert_eq!(all_names(&second), ["a.jpg", "b.jpg"]);
        assert!(second.supersedes(&first));
        fixture.put(content, named("b.jpg")).await;
        assert_eq!(held(&*store, hash).await, Some(second), "said again is no edit");
    }
}

pub(crate) async fn a_name_that_others_did_not_know_is_added_to_their_version(fixture: &dyn Fixture) {
    let store = fixture.store();
    let hash = fixture.put(b"x".to_vec(), named("ours")).await;
    let ours = held(&*store, hash).await.expect("it is there");
    let winner = theirs(&ours, "theirs", &[]);
    assert_eq!(apply_one(fixture, winner.clone()).await, ItemOutcome::Stored);
    let again = held(&*store, hash).await.expect("it is there");
    assert_eq!(all_names(&again), ["theirs", "ours"]);
    assert_eq!(again.hlc, Hlc(winner.hlc.0 + 1));
    assert!(again.writer != winner.writer && again.via.is_none());
    // With its content, and heard once more: nothing is written again.
    assert_eq!(ingest_one(fixture, winner.clone(), b"x").await, ItemOutcome::Unchanged);
    assert_eq!(apply_one(fixture, winner).await, ItemOutcome::Unchanged);
    assert_eq!(held(&*store, hash).await, Some(again));
    // What was let go of keeps its names.
    store.let_go(vec![hash]).await.expect("let go");
    let absent = held(&*store, hash).await.expect("it is known");
    let winner = theirs(&absent, "elsewhere", &[]);
    assert_eq!(apply_one(fixture, winner).await, ItemOutcome::Absent);
    let again = held(&*store, hash).await.expect("it is known");
    assert_eq!(all_names(&again), ["elsewhere", "ours"], "'theirs' is the others' own affair");
}

pub(crate) async fn a_name_that_somebody_took_away_stays_away(fixture: &dyn Fixture) {
    let store = fixture.store();
    let hash = fixture.put(b"x".to_vec(), named("ours")).await;
    let ours = held(&*store, hash).await.expect("it is there");
    let mut winner = theirs(&ours, "theirs", &[]);
    winner.meta.note_dropped(hash, &ours.meta);
    assert_eq!(apply_one(fixture, winner.clone()).await, ItemOutcome::Stored);
    assert_eq!(held(&*store, hash).await, Some(winner.clone()));
    // Nor is it remembered for a version that does not say so.
    let silent = theirs(&AssetRecord { meta: ours.meta.clone(), ..winner }, "silent", &[]);
    assert_eq!(apply_one(fixture, silent.clone()).await, ItemOutcome::Stored);
    assert_eq!(held(&*store, hash).await, Some(silent.clone()));
    // Given once more, it is there.
    fixture.put(b"x".to_vec(), named("ours")).await;
    let given = held(&*store, hash).await.expect("it is there");
    assert_eq!(all_names(&given), ["silent", "ours"]);
    // Deleted: nothing of it comes back with what others make of it.
    let gone = AssetRecord { deleted: true, ..theirs(&given, "silent", &[]) };
    assert_eq!(apply_one(fixture, gone.clone()).await, ItemOutcome::Stored);
    let back = AssetRecord { deleted: false, ..theirs(&gone, "back", &[]) };
    assert_eq!(ingest_one(fixture, back.clone(), b"x").await, ItemOutcome::Stored);
    assert_eq!(held(&*store, hash).await.map(|held| held.meta), Some(back.meta));
}

pub(crate) async fn nobody_makes_a_store_write_through_a_library(fixture: &dyn Fixture) {
    let store = fixture.store();
    let hash = fixture.put(b"x".to_vec(), named("ours")).await;
    let ours = held(&*store, hash).await.expect("it is there");
    let library = Some(LibraryId([1; 32]));
    let through = AssetRecord { via: library, own_content: true, ..theirs(&ours, "theirs", &[]) };
    let replaced = store.replace(vec![(through.clone(), ours)]).await;
    assert_eq!(replaced, Ok(vec![Some(ItemOutcome::Stored)]));
    assert_eq!(held(&*store, hash).await, Some(through.clone()));
    // By an edit here it is the user's, with the name that the user gave.
    fixture.describe(hash, "edited").await;
    let edited = held(&*store, hash).await.expect("it is there");
    assert_eq!((all_names(&edited), edited.via), (vec!["theirs", "ours"], None));
    // What a library brought anew has no name of ours.
    let other = record_of(b"y");
    let came = AssetRecord { via: library, ..theirs(&other, "theirs", &[]) };
    let taken = store.ingest_through(vec![crate::support::store::incoming(came, b"y")]).await;
    assert_eq!(taken, Ok(vec![Some(ItemOutcome::Stored)]));
    fixture.put(b"y".to_vec(), named("ours")).await;
    let both = held(&*store, other.hash).await.expect("it is there");
    assert_eq!((all_names(&both), both.via), (vec!["theirs", "ours"], None), "as an added tag makes it ours");
}
