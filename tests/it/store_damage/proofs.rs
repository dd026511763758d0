//! What proves parts of contents, where the sums or the content are damaged.

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::embedded::{EmbeddedStore, IngestFields};
use can_sync::testing::store::groups::{GROUP_BYTES, GroupHasher, check_proof, group_count};
use can_sync::testing::store::{ContentStore, Holding, StoreError};

use super::{becomes_absent, flip, holding};
use crate::support::embedded::{open, upload};
use crate::support::store::{hash_of, noise};

/// Asks for proofs of all sorts of groups, and checks them.
async fn proves(store: &EmbeddedStore, content: &[u8]) {
    let (count, root) = (group_count(content.len() as u64), *blake3::hash(content).as_bytes());
    for groups in [0..1, 0..count, count - 1..count, 2..5] {
        let proof = store.proof(hash_of(content), groups.clone()).await.unwrap();
        let sums =
            check_proof(&root, count, &groups, &proof).unwrap_or_else(|| panic!("{groups:?}: no proof"));
        assert_eq!(sums.len() as u64, groups.end - groups.start);
    }
}

#[tokio::test]
async fn sums_that_are_truncated_flipped_or_gone_are_made_anew_before_anything_is_proved() {
    let damage = [
        "UPDATE content_sums SET sums = substr(sums, 1, length(sums) - 32)",
        "UPDATE content_sums SET sums = substr(sums, 1, length(sums) - 7)",
        "UPDATE content_sums SET sums = x''",
        "UPDATE content_sums SET sums = zeroblob(length(sums))",
        "UPDATE content_sums SET sums = CAST(substr(sums, 33) || substr(sums, 1, 32) AS BLOB)",
        "UPDATE content_sums SET part = part + 1",
        "DELETE FROM content_sums",
        // Another one's.
        "UPDATE content_sums SET hash = zeroblob(32)",
        // The record itself.
        "UPDATE records SET blake3 = zeroblob(32)",
    ];
    for sql in damage {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let content = noise(9 * GROUP_BYTES + 1000, 4);
        let hash = hash_of(&content);
        upload(&store, &content, IngestFields::default()).await;
        proves(&store, &content).await;
        let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        database.execute(sql, []).unwrap();
        drop(database);
        proves(&store, &content).await;
        store.close().await;
        // Nothing is remembered of the time before.
        let store = open(dir.path()).await;
        proves(&store, &content).await;
        assert_eq!(holding(&store, hash).await, Holding::Held, "{sql}");
        let record = store.records(vec![hash]).await.unwrap().remove(0).record;
        assert_eq!(record.blake3, Some(*blake3::hash(&content).as_bytes()), "{sql}");
        store.close().await;
    }
}

#[tokio::test]
async fn nothing_is_proved_of_what_is_damaged_too_small_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (content, small) = (noise(9 * GROUP_BYTES, 5), noise(1000, 6));
    for content in [&content, &small] {
        upload(&store, content, IngestFields::default()).await;
    }
    assert_eq!(store.proof(hash_of(&small), 0..1).await, Ok(Vec::new()));
    assert_eq!(store.proof(hash_of(&content), 8..10).await, Ok(Vec::new()), "past the end");
    assert_eq!(store.proof(hash_of(&content), 0..u64::MAX).await, Ok(Vec::new()));
    let unknown = ContentHash([9; 32]);
    assert_eq!(store.proof(unknown, 0..1).await, Err(StoreError::NotFound(unknown)));
    // A file that rotted, with sums that agree with it: its record says otherwise.
    let mut rotten = content.clone();
    rotten[5] ^= 4;
    flip(dir.path(), &content, 5);
    let mut hasher = GroupHasher::default();
    hasher.update(&rotten);
    let database = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let sums = hasher.finish().1;
    database.execute("UPDATE content_sums SET sums = ?1", [sums.as_flattened()]).unwrap();
    let proof = store.proof(hash_of(&content), 0..1).await;
    assert_eq!(proof, Err(StoreError::Corrupt(hash_of(&content))));
    becomes_absent(&store, hash_of(&content)).await;
}
