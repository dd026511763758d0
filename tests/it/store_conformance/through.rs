//! What comes through a library.

use std::slice;

use can_sync::testing::record::{AssetRecord, LibraryId};
use can_sync::testing::store::ItemOutcome;
use can_sync::testing::store::embedded::IngestFields;

use super::{Fixture, apply_one, ingest_one, is_rejected};
use crate::support::store::{edited, held, incoming, incoming_file, noise, read, record_of};

const LIBRARY: Option<LibraryId> = Some(LibraryId([1; 32]));
const OTHER: Option<LibraryId> = Some(LibraryId([2; 32]));

fn through(via: Option<LibraryId>, record: AssetRecord) -> AssetRecord {
    AssetRecord { via, ..record }
}

async fn deliver(fixture: &dyn Fixture, record: &AssetRecord, content: &[u8]) -> Option<ItemOutcome> {
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
        assert_eq!(deliver(fixture, &first, &content).await, Some(ItemOutcome::Stored));
        assert_eq!(held(&*store, base.hash).await, Some(first));
        let second = through(LIBRARY, edited(&base, 20, Some("second")));
        assert_eq!(deliver(fixture, &second, &content).await, Some(ItemOutcome::Stored));
        // Of another library, or of whoever lives here, it is not.
        let foreign = through(OTHER, edited(&base, 30, Some("foreign")));
        assert_eq!(deliver(fixture, &foreign, &content).await, None);
        assert_eq!(held(&*store, base.hash).await, Some(second));
        let ours = edited(&base, 40, Some("ours"));
        assert_eq!(apply_one(fixture, ours.clone()).await, ItemOutcome::Stored);
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
        assert_eq!(apply_one(fixture, gone.clone()).await, ItemOutcome::Stored);
        assert_eq!(deliver(fixture, &later, &content).await, None);
        assert_eq!(held(&*store, base.hash).await, Some(gone));
        let latest = through(LIBRARY, edited(&base, 70, Some("latest")));
        assert_eq!(deliver(fixture, &latest, &content).await, Some(ItemOutcome::Stored));
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
    assert_eq!(replace(&later, &ours).await, Some(ItemOutcome::Stored));
    let later = AssetRecord { own_content: true, ..later };
    assert_eq!(held(&*store, base.hash).await, Some(later.clone()), "the content stays the user's");
    let gone = through(LIBRARY, edited(&base, 40, None));
    assert_eq!(replace(&gone, &later).await, Some(ItemOutcome::Stored));
    assert_eq!(held(&*store, base.hash).await, Some(gone));
}

pub(crate) async fn what_users_put_stays_theirs_whatever_a_library_says_of_it(fixture: &dyn Fixture) {
    let store = fixture.store();
    let is_own = async |record: &AssetRecord| {
        let held = held(&*store, record.hash).await.expect("it is there");
        (held.via, held.own_content, held.deleted)
    };
    for (n, len) in (0..).zip([100, 100_000]) {
        // Put, and edited by a member; the library's content comes as well.
        let content = noise(len, 40 + n);
        let base = record_of(&content);
        ingest_one(fixture, base.clone(), &content).await;
        let theirs = through(LIBRARY, edited(&base, 10, Some("by a member")));
        let replaced = store.replace(vec![(theirs.clone(), base.clone())]).await;
        assert_eq!(replaced, Ok(vec![Some(ItemOutcome::Stored)]));
        assert_eq!(is_own(&base).await, (LIBRARY, true, false));
        let more = through(LIBRARY, edited(&base, 20, Some("and again")));
        assert_eq!(deliver(fixture, &more, &content).await, Some(ItemOutcome::Stored));
        assert_eq!(is_own(&base).await, (LIBRARY, true, false));
        // Let go of and brought again, too.
        assert_eq!(store.let_go(vec![base.hash]).await, Ok(vec![ItemOutcome::Absent]));
        let again = through(LIBRARY, edited(&base, 25, Some("once more")));
        assert_eq!(deliver(fixture, &again, &content).await, Some(ItemOutcome::Stored));
        assert_eq!(is_own(&base).await, (LIBRARY, true, false));
        // Deleted by a member and back: it is still what the user put.
        let gone = AssetRecord { own_content: true, ..through(LIBRARY, edited(&base, 30, None)) };
        let now = held(&*store, base.hash).await.expect("it is there");
        assert_eq!(store.replace(vec![(gone, now)]).await, Ok(vec![Some(ItemOutcome::Stored)]));
        let back = through(LIBRARY, edited(&base, 40, Some("back")));
        assert_eq!(deliver(fixture, &back, &content).await, Some(ItemOutcome::Stored));
        assert_eq!(is_own(&base).await, (LIBRARY, true, false));
        // Deleted by the user and back: the library's.
        fixture.delete(base.hash).await;
        assert_eq!(is_own(&base).await, (LIBRARY, false, true));
        let late = held(&*store, base.hash).await.expect("it is there");
        let late = through(LIBRARY, edited(&late, 1, Some("by a member alone")));
        let late = AssetRecord { size: base.size, ..late };
        assert_eq!(deliver(fixture, &late, &content).await, Some(ItemOutcome::Stored));
        assert_eq!(is_own(&base).await, (LIBRARY, false, false));
    }
    // Whichever of two own machines' versions comes later, what one of them put is the user's.
    for own_first in [false, true] {
        let content = noise(90, 50 + u64::from(own_first));
        let own = record_of(&content);
        let theirs = through(LIBRARY, edited(&own, 10, Some("by a member")));
        let both = if own_first { [&own, &theirs] } else { [&theirs, &own] };
        for record in both {
            ingest_one(fixture, record.clone(), &content).await;
        }
        let joined = AssetRecord { own_content: true, ..theirs.clone() };
        assert_eq!(held(&*store, own.hash).await, Some(joined.clone()));
        assert!(joined.supersedes(&theirs));
        assert_eq!(apply_one(fixture, own.clone()).await, ItemOutcome::Unchanged);
        assert_eq!(apply_one(fixture, theirs).await, ItemOutcome::Unchanged);
        assert_eq!(held(&*store, own.hash).await, Some(joined));
    }
}

pub(crate) async fn what_users_change_is_told_with_what_it_was(fixture: &dyn Fixture) {
    let store = fixture.store();
    let formers = async |record: &AssetRecord| {
        let entries = store.feed(0, 10).await.expect("a page").entries.into_iter();
        let entry = entries.into_iter().find(|entry| entry.record.hash == record.hash).expect("an entry");
        entry.formers
    };
    // Whatever came first, the version before the last edit; of a deletion, too, and until it is put again.
    let own = record_of(b"own");
    ingest_one(fixture, own.clone(), b"own").await;
    assert_eq!(formers(&own).await, []);
    for text in ["once", "twice"] {
        let before = held(&*store, own.hash).await.expect("it is there");
        fixture.describe(own.hash, text).await;
        assert_eq!(formers(&own).await, [before]);
    }
    let before = held(&*store, own.hash).await.expect("it is there");
    fixture.delete(own.hash).await;
    assert_eq!(formers(&own).await, slice::from_ref(&before));
    let gone = held(&*store, own.hash).await.expect("a tombstone");
    assert_eq!(apply_one(fixture, edited(&gone, 5, None)).await, ItemOutcome::Stored);
    assert_eq!(formers(&own).await, [before]);
    let again = AssetRecord { deleted: false, ..edited(&gone, 10, Some("again")) };
    ingest_one(fixture, again, b"own").await;
    assert_eq!(formers(&own).await, []);
    // What a library delivered stays known as it was, however often it is edited, here or on an own machine.
    for elsewhere in [false, true] {
        let content = noise(80, 60 + u64::from(elsewhere));
        let came = through(LIBRARY, edited(&record_of(&content), 10, Some("came")));
        assert_eq!(deliver(fixture, &came, &content).await, Some(ItemOutcome::Stored));
        let later = through(LIBRARY, edited(&came, 10, Some("and edited")));
        assert_eq!(deliver(fixture, &later, &content).await, Some(ItemOutcome::Stored));
        assert_eq!(formers(&came).await, []);
        if elsewhere {
            let there = through(None, edited(&later, 10, Some("on an own machine")));
            assert_eq!(apply_one(fixture, there).await, ItemOutcome::Stored);
        } else {
            fixture.describe(came.hash, "by a user").await;
        }
        assert_eq!(formers(&came).await, slice::from_ref(&later));
        let own = held(&*store, came.hash).await.expect("it is there");
        fixture.describe(came.hash, "once more").await;
        let both = [later, own];
        assert_eq!(formers(&came).await, both);
        assert_eq!(store.let_go(vec![came.hash]).await, Ok(vec![ItemOutcome::Absent]));
        assert_eq!(formers(&came).await, both);
        let again = held(&*store, came.hash).await.expect("it is there");
        let again = through(LIBRARY, edited(&again, 10, Some("through the library")));
        let over = held(&*store, came.hash).await.expect("it is there");
        assert_eq!(store.replace(vec![(again, over)]).await, Ok(vec![Some(ItemOutcome::Absent)]));
        assert_eq!(formers(&came).await, []);
    }
}

pub(crate) async fn what_users_put_edit_or_delete_is_theirs_or_its_librarys(fixture: &dyn Fixture) {
    let store = fixture.store();
    let came = async |content: &[u8]| {
        let record = through(LIBRARY, edited(&record_of(content), 10, Some("came")));
        assert_eq!(deliver(fixture, &record, content).await, Some(ItemOutcome::Stored));
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
