//! What comes through a library.

use can_sync::record::{AssetRecord, LibraryId};
use can_sync::store::Outcome;
use can_sync::store::embedded::IngestFields;

use super::{Fixture, apply_one, ingest_one, is_rejected};
use crate::support::store::{edited, held, incoming, incoming_file, noise, read, record_of};

const LIBRARY: Option<LibraryId> = Some(LibraryId([1; 32]));
const OTHER: Option<LibraryId> = Some(LibraryId([2; 32]));

fn through(via: Option<LibraryId>, record: AssetRecord) -> AssetRecord {
    AssetRecord { via, ..record }
}

async fn deliver(fixture: &dyn Fixture, record: &AssetRecord, content: &[u8]) -> Option<Outcome> {
    let store = fixture.store();
    let small = store.ingest_through(vec![incoming(record.clone(), content)]).await;
    let [outcome] = <[_; 1]>::try_from(small.expect("the store takes assets")).expect("one outcome");
    // By file it is the same once more.
    let large = store.ingest_through(vec![incoming_file(record.clone(), content)]).await;
    let [again] = <[_; 1]>::try_from(large.expect("the store takes assets")).expect("one outcome");
    assert_eq!(again.is_none(), outcome.is_none());
    outcome
}

pub(crate) async fn what_a_library_delivers_takes_the_place_of_its_own_alone(fixture: &dyn Fixture) {
    let store = fixture.store();
    for (n, len) in (0..).zip([100, 100_000]) {
        let content = noise(len, n);
        let base = record_of(&content);
        // What is not here comes, and is the library's from then on.
        let first = through(LIBRARY, edited(&base, 10, Some("first")));
        assert_eq!(deliver(fixture, &first, &content).await, Some(Outcome::Stored));
        assert_eq!(held(&*store, base.hash).await, Some(first));
        let second = through(LIBRARY, edited(&base, 20, Some("second")));
        assert_eq!(deliver(fixture, &second, &content).await, Some(Outcome::Stored));
        // Of another library, or of whoever lives here, it is not.
        let foreign = through(OTHER, edited(&base, 30, Some("foreign")));
        assert_eq!(deliver(fixture, &foreign, &content).await, None);
        assert_eq!(held(&*store, base.hash).await, Some(second));
        let ours = edited(&base, 40, Some("ours"));
        assert_eq!(apply_one(fixture, ours.clone()).await, Outcome::Stored);
        let later = through(LIBRARY, edited(&base, 50, Some("later")));
        assert_eq!(deliver(fixture, &later, &content).await, None);
        assert_eq!(held(&*store, base.hash).await, Some(ours));
        // Whatever is here, other bytes are no delivery.
        for wrong in [noise(len, n + 10), noise(len + 1, n)] {
            let outcome = deliver(fixture, &later, &wrong).await;
            assert!(outcome.as_ref().is_some_and(is_rejected), "{outcome:?}");
        }
        assert_eq!(read(&*store, base.hash, 0, None).await, Ok(content.clone()));
        // A deletion stays where it is newer.
        let gone = edited(&base, 60, None);
        assert_eq!(apply_one(fixture, gone.clone()).await, Outcome::Stored);
        assert_eq!(deliver(fixture, &later, &content).await, None);
        assert_eq!(held(&*store, base.hash).await, Some(gone));
        let latest = through(LIBRARY, edited(&base, 70, Some("latest")));
        assert_eq!(deliver(fixture, &latest, &content).await, Some(Outcome::Stored));
        assert_eq!(held(&*store, base.hash).await, Some(latest));
    }
}

pub(crate) async fn what_a_library_replaces_is_what_was_looked_at(fixture: &dyn Fixture) {
    let store = fixture.store();
    let base = record_of(b"x");
    let replace = async |record: &AssetRecord, over: &AssetRecord| {
        let outcomes = store.replace(vec![(record.clone(), over.clone())]).await;
        outcomes.expect("the store takes records").pop().expect("an outcome for each")
    };
    let seen = through(LIBRARY, edited(&base, 10, Some("seen")));
    let later = through(LIBRARY, edited(&base, 30, Some("later")));
    assert_eq!(replace(&later, &seen).await, None, "there is nothing");
    assert_eq!(held(&*store, base.hash).await, None);
    ingest_one(fixture, seen.clone(), b"x").await;
    let ours = edited(&base, 20, Some("ours"));
    apply_one(fixture, ours.clone()).await;
    assert_eq!(replace(&later, &seen).await, None, "a user was faster");
    assert_eq!(held(&*store, base.hash).await, Some(ours.clone()));
    assert_eq!(replace(&through(OTHER, later.clone()), &through(OTHER, ours.clone())).await, None);
    assert_eq!(replace(&later, &ours).await, Some(Outcome::Stored));
    assert_eq!(held(&*store, base.hash).await, Some(later.clone()));
    let gone = through(LIBRARY, edited(&base, 40, None));
    assert_eq!(replace(&gone, &later).await, Some(Outcome::Stored));
    assert_eq!(held(&*store, base.hash).await, Some(gone));
}

pub(crate) async fn what_users_put_edit_or_delete_is_theirs_or_its_librarys(fixture: &dyn Fixture) {
    let store = fixture.store();
    let came = async |content: &[u8]| {
        let record = through(LIBRARY, edited(&record_of(content), 10, Some("came")));
        assert_eq!(deliver(fixture, &record, content).await, Some(Outcome::Stored));
        record
    };
    let via = async |record: &AssetRecord| {
        let held = held(&*store, record.hash).await.expect("it is there");
        assert!(held.supersedes(record) || held == *record, "{held:?}");
        (held.via, held.deleted)
    };
    // Put once more, it is as it was, and the user's.
    let put = came(b"put").await;
    fixture.put(b"put".to_vec(), IngestFields::default()).await;
    assert_eq!(via(&put).await, (None, false));
    assert_eq!(held(&*store, put.hash).await.map(|held| held.meta), Some(put.meta));
    let described = came(b"described").await;
    fixture.describe(described.hash, "by a user").await;
    assert_eq!(via(&described).await, (None, false));
    // What is deleted stays the library's: no other one is to hear that it was there.
    let deleted = came(b"deleted").await;
    fixture.delete(deleted.hash).await;
    assert_eq!(via(&deleted).await, (LIBRARY, true));
    fixture.put(b"deleted".to_vec(), IngestFields::default()).await;
    assert_eq!(via(&deleted).await, (None, false));
}
