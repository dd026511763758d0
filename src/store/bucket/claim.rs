//! Who may delete in a place of its own: one opening of one store.
//!
//! A data directory that was copied, or restored beside the original, makes two stores of one id, and each takes the place for its
//! own. What one of them does not need any more, the other one may refer to. So the object `can-sync-bucket` also names the latest
//! *opening*: an id that a store draws whenever it is opened, keeps in its database, and writes there, on the condition that the
//! object is as it was read.
//!
//! - A store that finds an opening of its own there goes on, as after a crash. It deletes once the others had time to notice.
//! - One that finds another's, or whose database is another file than the one that it had then, halts the place: it writes a code
//!   there. So does one that is open when another one writes its opening; it looks before each deletion, and twice as often as others
//!   wait before their first.
//! - A store that was restored from a snapshot, and took the place over, counts on nothing there before what the former owner may have
//!   been about to delete is gone.
//! - In a halted place nobody deletes anything, for good, until a user says that one store is the only one left, by that code
//!   (`store.content.alone`), or that several use the place (`store.content.shared`). A code is good for once: if the other one
//!   appears after all, there is a new one.
//!
//! What is not noticed: a whole disk that was cloned, if the original is not running while the clone deletes. Nothing tells the two
//! apart then.
//!
//! A service that knows no condition replaces the object, so that of two that write at once one may be lost: each reads after it
//! wrote, and again before each deletion.

use std::time::Instant;

use data_encoding::HEXLOWER;
use object_store::{PutMode, UpdateVersion};

use super::marker::{Marker, PlaceId, Unsettled};
use super::{Bucket, BucketError};
use crate::store::StoreId;

/// How often the marker is written until that is given up for now.
const WRITES: u32 = 5;

pub(crate) type OpeningId = [u8; 16];

/// What a store knows of itself when it comes to a place.
pub(crate) struct Claim {
    pub(crate) owner: StoreId,
    /// Where it has contents already.
    pub(crate) known: Option<PlaceId>,
    /// Earlier openings of it that may stand there.
    pub(crate) openings: Vec<KnownOpening>,
    /// Codes with which the place was halted, so that others have noticed.
    pub(crate) halts: Vec<String>,
}

/// An opening that this database had.
pub(crate) struct KnownOpening {
    pub(crate) id: OpeningId,
    /// The database is another file by now.
    pub(crate) is_copied: bool,
}

impl Claim {
    /// Whether the store has been the one that opened the place last.
    pub(super) fn is_of(&self, marker: &Marker) -> bool {
        let is_opening =
            |known: &KnownOpening| !known.is_copied && HEXLOWER.encode(&known.id) == marker.opening;
        // Nobody opened it yet.
        marker.owner == self.owner.to_string()
            && (marker.opening.is_empty() || self.openings.iter().any(is_opening))
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum PlaceUse {
    Own,
    Shared,
    /// Several that each take it for their own; the code.
    Halted(String),
}

impl Bucket {
    /// This opening, as it stands in the marker.
    pub(super) fn opening_text(&self) -> String {
        HEXLOWER.encode(&self.opening)
    }

    pub(crate) fn opening(&self) -> OpeningId {
        self.opening
    }

    /// Writes this opening into the marker of the own place, or halts the place.
    pub(super) async fn claim(&self, claim: &Claim) -> Result<PlaceUse, Unsettled> {
        for _ in 0..WRITES {
            let (marker, version) = self.read_marker().await?;
            if marker.shared {
                return Ok(PlaceUse::Shared);
            }
            let is_decided = marker.halted.is_some() && marker.halted == self.alone;
            let next = match &marker.halted {
                None if marker.opening == self.opening_text() => {
                    self.state().claimed = Some(Instant::now());
                    return Ok(PlaceUse::Own);
                }
                Some(code) if !is_decided => {
                    if !claim.halts.contains(code) {
                        self.let_others_finish("another store takes the place for its own").await;
                    }
                    return Ok(PlaceUse::Halted(code.clone()));
                }
                None if !claim.is_of(&marker) => marker.halted_anew(),
                None | Some(_) => marker.opened(self.opening_text()),
            };
            match self.write(&next, PutMode::Update(version)).await {
                // What came of it is read.
                Ok(()) | Err(BucketError::Missing) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Unsettled::Away("several stores take the place for their own at this moment".into()))
    }

    /// Whether it is still the place that it was, and who uses it.
    pub(super) async fn check_marker(&self) -> Result<PlaceUse, BucketError> {
        self.check_settled()?;
        let (marker, version) = self.read_known_marker().await?;
        let found = self.place_use(marker, version).await?;
        self.state().looked = Some(Instant::now());
        self.note_place_use(&found);
        Ok(found)
    }

    pub(super) fn note_place_use(&self, found: &PlaceUse) {
        let former = self.state().used.replace(found.clone());
        if let Some(why) = self.standstill().filter(|_| former.as_ref() != Some(found)) {
            tracing::error!("{why}");
        }
    }

    async fn place_use(&self, marker: Marker, version: UpdateVersion) -> Result<PlaceUse, BucketError> {
        if self.is_shared || marker.shared {
            return Ok(PlaceUse::Shared);
        }
        if let Some(code) = marker.halted {
            return Ok(PlaceUse::Halted(code));
        }
        if marker.opening == self.opening_text() {
            return Ok(PlaceUse::Own);
        }
        let halted = marker.halted_anew();
        match self.write(&halted, PutMode::Update(version)).await {
            // Where another one was quicker, the next look shows its code.
            Ok(()) | Err(BucketError::Missing) => {}
            Err(error) => return Err(error),
        }
        Ok(PlaceUse::Halted(halted.halted.unwrap_or_default()))
    }

    /// Looks now and then whether another store takes the place for its own; and of a directory, whether it is there.
    pub(crate) async fn look_for_others(&self) -> Result<(), BucketError> {
        let every = if self.backend.root.is_some() { self.patience.look } else { self.patience.settle / 2 };
        let is_due = self.state().looked.is_none_or(|looked| looked.elapsed() >= every);
        if is_due { self.is_there().await } else { Ok(()) }
    }

    /// The code with which the place is halted.
    pub(crate) fn halted(&self) -> Option<String> {
        match &self.state().used {
            Some(PlaceUse::Halted(code)) => Some(code.clone()),
            Some(PlaceUse::Own | PlaceUse::Shared) | None => None,
        }
    }

    /// Why nothing is deleted, for people.
    pub(crate) fn standstill(&self) -> Option<String> {
        let code = self.halted()?;
        Some(format!(
            "nothing is deleted in the object storage {}, because this store and a copy of it (of its data directory, or from a \
             backup) take the place for their own; if this is the only one left, set store.content.alone: {code} and start again; \
             if both stay, set store.content.shared: true on both",
            self.shown
        ))
    }
}
