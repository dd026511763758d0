//! What a store does for copies that somebody lets go of: the one who does, and those that are asked to keep theirs.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use iroh::EndpointId;
use tokio::time::timeout;

use crate::library::registry::DeviceStanding;
use crate::library::{Libraries, Library};
use crate::peer::letting_go::{HolderId, KeepAnswer, Nonce, PlaceTag, PreparedCopy, SAMPLE_BYTES, proof_of};
use crate::record::ContentHash;
use crate::store::promises::{CopyPlace, DROP_WITHIN, DropAnswer, DropTerms, MarkAnswer, PromiseAnswer};
use crate::store::{StoreError, StoreRef, StoreResult};

/// How long a copy is read before it is promised. Whoever asked waits no longer.
const READ_WITHIN: Duration = Duration::from_mins(45);
/// A piece of a copy is read within this time.
const SAMPLE_WITHIN: Duration = Duration::from_mins(2);

/// A machine is asked to keep this.
#[derive(Clone, Copy, Debug)]
pub struct KeepQuestion {
    pub hash: ContentHash,
    pub nonce: Nonce,
    /// Where the piece begins that it is to show.
    pub offset: u64,
}

/// What machines of the network call a place of copies.
pub(in crate::peer) fn place_tag(mirror: &Library, place: CopyPlace) -> PlaceTag {
    *blake3::keyed_hash(mirror.keys().place().expose(), &place.0).as_bytes()
}

/// Promises a machine, by its endpoint id, to keep our copy, if it is right. What does not work is no promise.
pub(in crate::peer) async fn promise(
    store: &StoreRef,
    mirror: &Library,
    asker: [u8; 32],
    place_of_asker: &PlaceTag,
    question: &KeepQuestion,
) -> KeepAnswer {
    let promised = try_promise(store, mirror, asker, place_of_asker, question);
    match timeout(READ_WITHIN, promised).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(hash = %question.hash, %error, "a copy is not promised");
            KeepAnswer::Unable
        }
        Err(_) => KeepAnswer::Unable,
    }
}

async fn try_promise(
    store: &StoreRef,
    mirror: &Library,
    asker: [u8; 32],
    place_of_asker: &PlaceTag,
    question: &KeepQuestion,
) -> StoreResult<KeepAnswer> {
    let KeepQuestion { hash, nonce, offset } = *question;
    let Some(place) = store.copy_place().map(|place| place_tag(mirror, place)) else {
        return Ok(KeepAnswer::Unable);
    };
    if place == *place_of_asker {
        return Ok(KeepAnswer::SamePlace);
    }
    let Some(stored) = store.look(hash).await?.filter(|stored| stored.holding.is_held()) else {
        return Ok(KeepAnswer::Lacks);
    };
    if offset > stored.record.size {
        return Ok(KeepAnswer::Unable);
    }
    // Before it is read for nothing.
    if store.standing(hash).await?.dropping {
        return Ok(KeepAnswer::Dropping);
    }
    if !store.verify(hash).await? {
        return Ok(KeepAnswer::Lacks);
    }
    let sample = read_piece(store, hash, offset, SAMPLE_BYTES.min(stored.record.size - offset)).await?;
    Ok(match store.promise(hash, asker).await? {
        PromiseAnswer::Promised => KeepAnswer::Promised { place, proof: proof_of(&nonce, &sample) },
        PromiseAnswer::Dropping => KeepAnswer::Dropping,
        PromiseAnswer::NotHeld => KeepAnswer::Lacks,
        PromiseAnswer::TooMany => KeepAnswer::Unable,
    })
}

/// Marks our own copy, and reads a piece of it.
pub(in crate::peer) async fn prepare_drop(
    store: &StoreRef,
    mirror: &Library,
    hash: ContentHash,
    offset: u64,
    length: u64,
) -> Result<PreparedCopy, String> {
    let prepared = async {
        if is_needed(store, mirror, hash).await? {
            return Ok(PreparedCopy::Needed);
        }
        let marked = store.mark_dropping(vec![hash]).await?;
        match marked.first().copied() {
            Some(MarkAnswer::Marked) => {
                let sample = read_piece(store, hash, offset, length).await?;
                Ok(PreparedCopy::Marked { sample })
            }
            answer => Ok(PreparedCopy::Not(answer.unwrap_or(MarkAnswer::NotHeld))),
        }
    };
    prepared.await.map_err(|error: StoreError| error.to_string())
}

/// Lets go of our own copy, unless it is needed here meanwhile, or one of its keepers was shut out.
pub(in crate::peer) async fn drop_copy(
    store: &StoreRef,
    libraries: &Arc<Libraries>,
    hash: ContentHash,
    by: Duration,
    keepers: Vec<HolderId>,
) -> Result<DropAnswer, String> {
    let (mirror, known) = (libraries.mirror(), Arc::clone(libraries));
    let counts = move |holder: &HolderId| {
        let id = EndpointId::from_bytes(holder);
        id.is_ok_and(|id| known.standing(&id) == DeviceStanding::Approved)
    };
    let terms = DropTerms { by, holds: Arc::new(move || !keepers.is_empty() && keepers.iter().all(&counts)) };
    let dropped = async {
        if is_needed(store, mirror, hash).await? {
            return Err(StoreError::Invalid(
                "it was pinned, or a library or a bound folder has it, meanwhile".into(),
            ));
        }
        let dropped = store.drop_marked(vec![hash], terms).await?.first().copied();
        let dropped = dropped.unwrap_or(DropAnswer::NotMarked);
        if dropped == DropAnswer::Dropped
            && let Err(error) = want_if_needed(store, mirror, hash).await
        {
            tracing::warn!(%hash, %error, "a content that was let go of may be pinned or in a bound folder, and is not fetched");
        }
        Ok(dropped)
    };
    dropped.await.map_err(|error: StoreError| error.to_string())
}

/// A pin or a folder that came at the same moment counts: it is fetched again.
async fn want_if_needed(store: &StoreRef, mirror: &Library, hash: ContentHash) -> StoreResult {
    if is_needed(store, mirror, hash).await? {
        store.want(vec![hash]).await?;
    }
    Ok(())
}

/// Whether it is pinned, a library of this node has it, or a folder that is bound here.
async fn is_needed(store: &StoreRef, mirror: &Library, hash: ContentHash) -> StoreResult<bool> {
    let (known, rules) = (store.records(vec![hash]).await?.pop(), mirror.hold_rules());
    let is_held = known.is_some_and(|known| rules.is_pinned(&known.record) || rules.is_shared(&known.record));
    Ok(is_held || !rules.in_bound_folders(store, &[hash]).await?.is_empty())
}

/// A piece of a content, which is checked while it is read.
async fn read_piece(store: &StoreRef, hash: ContentHash, offset: u64, length: u64) -> StoreResult<Bytes> {
    if length == 0 {
        return Ok(Bytes::new());
    }
    let read = async {
        let mut reader = store.content(hash, offset, Some(length)).await?;
        let mut piece = BytesMut::new();
        while let Some(chunk) = reader.chunks.next().await {
            piece.extend_from_slice(&chunk?);
            if piece.len() as u64 > length {
                break;
            }
        }
        Ok(piece.freeze())
    };
    let late = || StoreError::Busy(format!("{hash} was not read within {} s", SAMPLE_WITHIN.as_secs()));
    timeout(SAMPLE_WITHIN, read).await.map_err(|_| late())?
}

const _: () = assert!(READ_WITHIN.as_secs() < DROP_WITHIN.as_secs());
