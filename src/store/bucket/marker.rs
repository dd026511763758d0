//! Whose place it is: the object `can-sync-bucket`, made by the first store that comes there.
//!
//! It names the place, by an id that no other has, and the store that made it. Another store that comes says that it shares the
//! place, or is refused. A store that shares it says so in the object, and waits until the owner must have read that: from then
//! on nothing is deleted there. Of two copies of the owner, see [`claim`](super::claim).

use std::sync::atomic::Ordering;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use object_store::{PutMode, UpdateVersion};
use serde::{Deserialize, Serialize};

use super::claim::{Claim, PlaceUse};
use super::fault;
use super::health::TroubleKind;
use super::{Bucket, BucketError};
use crate::store::StoreId;

/// The object's name, below the prefix.
const NAME: &str = "can-sync-bucket";
const BYTES_MAX: u64 = 4096;
/// How often it is written for an heir until that is given up.
const BEQUESTS: u32 = 5;
/// Of a code that people copy.
const CODE_BYTES: usize = 4;
const VERSION: u32 = 1;

/// Names a place, wherever it is moved to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PlaceId(pub(crate) [u8; 16]);

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(super) struct Marker {
    can_sync_bucket: u32,
    place: String,
    pub(super) owner: String,
    /// Several stores use it.
    #[serde(default)]
    pub(super) shared: bool,
    /// The latest opening of the owner.
    #[serde(default)]
    pub(super) opening: String,
    /// The code by which a user decides, where several stores take the place for their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) halted: Option<String>,
    /// The owner took it over from a store that is gone: there are contents that it did not put there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inherited: bool,
}

/// What a place says of itself to somebody who restores from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PlaceFacts {
    /// The store that it belongs to, as it stands there.
    pub(crate) owner: String,
    pub(crate) is_shared: bool,
}

impl Marker {
    fn new(place: PlaceId, owner: StoreId, shared: bool, opening: String) -> Self {
        let place = HEXLOWER.encode(&place.0);
        let owner = owner.to_string();
        Self { can_sync_bucket: VERSION, place, owner, shared, opening, halted: None, inherited: false }
    }

    pub(super) fn opened(self, opening: String) -> Self {
        Self { opening, halted: None, ..self }
    }

    /// The same, with nothing deleted any more.
    pub(super) fn halted_anew(self) -> Self {
        let code: [u8; CODE_BYTES] = rand::random();
        Self { halted: Some(HEXLOWER.encode(&code)), ..self }
    }

    fn place(&self) -> Option<PlaceId> {
        let bytes = HEXLOWER.decode(self.place.as_bytes()).ok()?;
        bytes.try_into().ok().map(PlaceId)
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Unsettled {
    /// It may be, later.
    Away(String),
    /// Not as things are configured.
    Refused(String),
}

impl From<BucketError> for Unsettled {
    fn from(error: BucketError) -> Self {
        Self::Away(match error {
            BucketError::Away(why) | BucketError::Wrong(why) => why,
            BucketError::Missing => "its objects come and go".into(),
        })
    }
}

impl Bucket {
    /// Finds out whether this store may use the place, and makes it one where it is none.
    pub(crate) async fn settle(&self, claim: &Claim) -> Result<(PlaceId, PlaceUse), Unsettled> {
        let done = self.try_settle(claim).await;
        if let Ok((_, used)) = &done {
            self.note_place_use(used);
        }
        let mut state = self.state();
        match &done {
            Ok((place, _)) => {
                state.place = Some(*place);
                if state.trouble.take().is_some() {
                    tracing::info!(bucket = self.shown, "contents go to the object storage");
                }
            }
            Err(Unsettled::Away(why) | Unsettled::Refused(why)) => {
                drop(state);
                self.note_trouble(why, TroubleKind::Place);
            }
        }
        done
    }

    async fn try_settle(&self, claim: &Claim) -> Result<(PlaceId, PlaceUse), Unsettled> {
        let (owner, known) = (claim.owner, claim.known);
        let (marker, version) = match self.read_marker().await {
            Ok(read) => read,
            Err(BucketError::Missing) => match known {
                None => self.make_marker(owner).await?,
                Some(known) => {
                    let made = Marker::new(known, owner, self.is_shared, String::new()).text();
                    return Err(Unsettled::Refused(format!(
                        "the place where this store has contents was made known by the object {NAME}, and that is not there: correct \
                         store.content.url, or restore the bucket; if its contents are lost for good, put an object {NAME} there \
                         that says {made}, and what other machines have is fetched from them"
                    )));
                }
            },
            Err(error) => return Err(error.into()),
        };
        let Some(place) = marker.place().filter(|_| marker.can_sync_bucket == VERSION) else {
            return Err(Unsettled::Refused(format!(
                "the object {NAME} there says something that this version of can-sync does not understand: use a newer one, or \
                 another prefix"
            )));
        };
        if known.is_some_and(|known| known != place) {
            return Err(Unsettled::Refused(
                "it is another place than the one where this store has contents: correct store.content.url, or move the objects \
                 there, and with them the one that is called can-sync-bucket"
                    .into(),
            ));
        }
        let is_owner = marker.owner == owner.to_string();
        self.state().is_inherited = is_owner && marker.inherited;
        if !is_owner && !self.is_shared && marker.inherited && known.is_some() {
            return Err(Unsettled::Refused(
                "a store that was restored from a snapshot took the place over, because this one was said to be gone for good: stop one \
                 of the two, or set store.content.shared: true on both"
                    .into(),
            ));
        }
        if !is_owner && !self.is_shared {
            return Err(Unsettled::Refused(
                "another store has its contents there: set store.content.shared: true, if both are to use it, and nothing is ever \
                 deleted there; or choose another prefix"
                    .into(),
            ));
        }
        if self.is_shared {
            if !marker.shared {
                self.share(marker, version, claim).await?;
            }
            return Ok((place, PlaceUse::Shared));
        }
        let used = self.claim(claim).await?;
        if is_owner && marker.inherited && known.is_none() && used == PlaceUse::Own {
            return Ok((place, self.wait_for_former_owner(claim).await?));
        }
        Ok((place, used))
    }

    /// For the heir of a place that comes there for the first time: should its former owner run after all, it may have looked a moment
    /// ago whether it may delete. Until that is over nothing there is counted on. Who is ended meanwhile waits anew.
    async fn wait_for_former_owner(&self, claim: &Claim) -> Result<PlaceUse, Unsettled> {
        self.let_others_finish("the place was taken over from a store that is said to be gone").await;
        self.claim(claim).await
    }

    /// Waits until nothing is deleted any more that somebody began to delete before the marker said what it says now. Until then the
    /// place counts as away, for this reason.
    pub(super) async fn let_others_finish(&self, why: &str) {
        let settle = self.patience.settle;
        let until = format!("{why}: it is used once {} s have passed", settle.as_secs());
        self.note_trouble(&until, TroubleKind::Place);
        tokio::time::sleep(settle).await;
    }

    /// Says that others use the place.
    async fn share(&self, marker: Marker, version: UpdateVersion, claim: &Claim) -> Result<(), Unsettled> {
        // Nobody else deletes there.
        let is_alone = claim.is_of(&marker) && marker.halted.is_none();
        let shared = Marker { shared: true, halted: None, ..marker };
        match self.write(&shared, PutMode::Update(version)).await {
            Ok(()) | Err(BucketError::Missing) => {}
            Err(error) => return Err(error.into()),
        }
        if !is_alone {
            self.let_others_finish("the place belongs to several stores from now on").await;
        }
        // Its owner may have written it at the same time.
        if self.read_marker().await?.0.shared {
            Ok(())
        } else {
            Err(Unsettled::Away("it is not said yet that others use it".into()))
        }
    }

    /// Reads the marker of the place that it was so far.
    pub(super) async fn read_known_marker(&self) -> Result<(Marker, UpdateVersion), BucketError> {
        let (marker, version) = match self.read_marker().await {
            Ok(read) => read,
            Err(BucketError::Missing) => {
                let why = format!(
                    "the object {NAME} is not there any more: it may be another bucket, or an emptied one"
                );
                return self.note(TroubleKind::Place, Err(BucketError::Away(why)));
            }
            Err(error) => return Err(error),
        };
        let (found, known) = (marker.place(), self.state().place);
        if found != known {
            let why = "it is another place by now".into();
            return self.note(TroubleKind::Place, Err(BucketError::Away(why)));
        }
        self.note_use(TroubleKind::Place);
        Ok((marker, version))
    }

    pub(super) async fn read_marker(&self) -> Result<(Marker, UpdateVersion), BucketError> {
        let key = self.below(NAME);
        let key = &key;
        let (read, version) =
            self.patiently(2, || Box::pin(self.get_version(key, None, 0..BYTES_MAX))).await?;
        let garbled =
            |_| BucketError::Away(format!("the object {NAME} there is none of ours: choose another prefix"));
        Ok((serde_json::from_slice(&read).map_err(garbled)?, version))
    }

    /// What the place says of itself; `None` where nobody has contents there yet.
    pub(crate) async fn place_facts(&self) -> Result<Option<PlaceFacts>, BucketError> {
        match self.read_marker().await {
            Ok((Marker { owner, shared, .. }, _)) => Ok(Some(PlaceFacts { owner, is_shared: shared })),
            Err(BucketError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the place one of `heir`, which a user said takes the place of its owner. Should that appear after all, it finds another's
    /// opening there, and halts the place ([`claim`](super::claim)); what it was about to delete, the heir waits for when it comes there.
    /// Nothing becomes of a place that several stores use.
    pub(crate) async fn bequeath(&self, heir: StoreId) -> Result<(), BucketError> {
        for _ in 0..BEQUESTS {
            let (marker, version) = match self.read_marker().await {
                Ok(read) => read,
                // There is nothing to take over.
                Err(BucketError::Missing) => return Ok(()),
                Err(error) => return Err(error),
            };
            let owner = heir.to_string();
            if marker.shared || (marker.owner == owner && marker.inherited) {
                return Ok(());
            }
            let next = Marker { owner, opening: String::new(), halted: None, inherited: true, ..marker };
            match self.write(&next, PutMode::Update(version)).await {
                // What came of it is read.
                Ok(()) | Err(BucketError::Missing) => {}
                Err(error) => return Err(error),
            }
        }
        Err(BucketError::Away("several stores take the place for their own at this moment".into()))
    }

    async fn make_marker(&self, owner: StoreId) -> Result<(Marker, UpdateVersion), BucketError> {
        let made = Marker::new(PlaceId(rand::random()), owner, self.is_shared, self.opening_text());
        match self.write(&made, PutMode::Create).await {
            // Another store was quicker; or the client repeated a request that was carried out and not answered.
            Ok(()) | Err(BucketError::Missing) => self.read_marker().await,
            Err(error) => Err(error),
        }
    }

    /// Writes it; [`BucketError::Missing`] where it is not as it is expected to be, or may not be: who writes it reads what came of it.
    pub(super) async fn write(&self, marker: &Marker, mode: PutMode) -> Result<(), BucketError> {
        let _turn = self.marking.lock().await;
        if self.is_closed.load(Ordering::SeqCst) {
            return Err(BucketError::Away("the store is closed".into()));
        }
        let key = self.below(NAME);
        match self.put_object(&key, Bytes::from(marker.text()), mode).await {
            Ok(()) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Err(BucketError::Missing)
            }
            Err(error) if fault::is_unanswered(&error) => {
                tokio::time::sleep(self.patience.pause).await;
                Err(BucketError::Missing)
            }
            Err(error) => self.note(TroubleKind::Writing, Err(fault::of(&error))),
        }
    }
}
