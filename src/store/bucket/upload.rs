//! Putting contents into a bucket.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path as Key;
use object_store::{Error, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

use super::fault;
use super::health::TroubleKind;
use super::{Bucket, BucketError, NoteUpload, PART_BYTES, TRIES};
use crate::record::ContentHash;
use crate::store::{StoreError, StoreResult};

/// Parts of an upload that are under way at once.
const PARTS_AHEAD: usize = 2;
/// Parts that an upload has at most; services take 10,000.
const PARTS_MAX: u64 = 9_000;
/// How often a content is put until the bucket gives it back as it was.
const PUTS: u32 = 2;

/// A content in a file, hashed.
#[derive(Clone)]
pub(crate) struct PutContent {
    pub(crate) hash: ContentHash,
    pub(crate) size: u64,
    pub(crate) file: Arc<File>,
}

/// Why a content is not in the bucket.
pub(crate) enum PutError {
    Bucket(BucketError),
    /// The file cannot be read, or no note be taken of the upload.
    Store(StoreError),
}

impl From<BucketError> for PutError {
    fn from(error: BucketError) -> Self {
        Self::Bucket(error)
    }
}

/// Why something was not put.
enum PutFailed {
    /// There is an object already.
    There,
    Bucket(BucketError),
    Store(StoreError),
}

impl From<Error> for PutFailed {
    fn from(error: Error) -> Self {
        if matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. }) {
            Self::There
        } else {
            Self::Bucket(fault::of(&error))
        }
    }
}

impl Bucket {
    /// Puts a content there. Once it is `Ok`, all of it was read back, and is right.
    ///
    /// # Errors
    /// [`BucketError::Wrong`]: what comes back is something else.
    pub(crate) async fn put(&self, content: PutContent, note: NoteUpload) -> Result<(), PutError> {
        self.check_settled()?;
        self.check_doubt(content.hash)?;
        let _turn = self.turn(content.size).await?;
        self.check_directory().await?;
        self.put_and_check(content, note).await?;
        Ok(self.check_directory().await?)
    }

    async fn put_and_check(&self, content: PutContent, note: NoteUpload) -> Result<(), PutError> {
        let (hash, size) = (content.hash, content.size);
        let key = self.key(hash);
        let is_large = size > PART_BYTES;
        // Of a large one the bytes are not sent in vain.
        if is_large && self.length(&key).await? == Some(size) {
            match self.check(hash, size).await {
                Ok(()) => return Ok(()),
                Err(error @ BucketError::Away(_)) => return Err(error.into()),
                Err(BucketError::Missing | BucketError::Wrong(_)) => {}
            }
        }
        let mut mode = PutMode::Create;
        for attempt in 1.. {
            let put = if is_large {
                self.put_parts(&key, &content, &note).await
            } else {
                self.put_whole(&key, &content, mode).await
            };
            match put {
                Ok(()) | Err(PutFailed::There) => {}
                Err(PutFailed::Bucket(error)) => return Ok(self.note(TroubleKind::Writing, Err(error))?),
                Err(PutFailed::Store(error)) => return Err(PutError::Store(error)),
            }
            match self.check(hash, size).await {
                Ok(()) => {
                    self.note_use(TroubleKind::Writing);
                    return Ok(());
                }
                Err(error @ BucketError::Away(_)) => return Err(error.into()),
                Err(error) if attempt == PUTS => {
                    tracing::error!(%hash, ?error, bucket = self.shown, "the object storage does not give back what was put there");
                    return Err(error.into());
                }
                Err(_) => mode = PutMode::Overwrite,
            }
        }
        Err(BucketError::Away("it was not asked".into()).into())
    }

    /// What it means to who brings a content that it is not there.
    pub(crate) fn refusal(&self, error: PutError) -> StoreError {
        match error {
            PutError::Bucket(BucketError::Away(why)) => self.away(why),
            PutError::Bucket(BucketError::Wrong(why)) => {
                self.away(format!("it does not keep what is put there: {why}"))
            }
            PutError::Bucket(BucketError::Missing) => {
                self.away("it does not have what was put there just now")
            }
            PutError::Store(error) => error,
        }
    }

    /// Puts a content in one piece. The client repeats what replaces an object, but not what only makes one; and a service that has
    /// one already may say so before it has read everything, and end the connection, so that its answer is lost.
    async fn put_whole(&self, key: &Key, content: &PutContent, mode: PutMode) -> Result<(), PutFailed> {
        let bytes = read(Arc::clone(&content.file), 0, content.size).await.map_err(PutFailed::Store)?;
        let mut pause = self.patience.pause;
        for _ in 1..TRIES {
            match self.put_object(key, bytes.clone(), mode.clone()).await {
                Err(error) if mode == PutMode::Create && fault::is_unanswered(&error) => {}
                done => return Ok(done?),
            }
            match self.backend.objects.head(key).await {
                Ok(_) => return Err(PutFailed::There),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(self.put_object(key, bytes, mode).await?)
    }

    /// Puts an object. A service that knows no condition replaces whatever is there.
    pub(super) async fn put_object(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<(), Error> {
        let put = |mode: PutMode| {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.backend.objects.put_opts(key, payload, PutOptions { mode, ..PutOptions::default() })
        };
        let flag = match &mode {
            PutMode::Create => &self.only_replaces,
            PutMode::Update(_) => &self.only_overwrites,
            PutMode::Overwrite => return put(mode).await.map(drop),
        };
        if flag.load(Ordering::Relaxed) {
            return put(PutMode::Overwrite).await.map(drop);
        }
        match put(mode).await {
            Err(error) if fault::is_unsupported(&error) => {
                flag.store(true, Ordering::Relaxed);
                put(PutMode::Overwrite).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    async fn put_parts(&self, key: &Key, content: &PutContent, note: &NoteUpload) -> Result<(), PutFailed> {
        let part = PART_BYTES.max(content.size.div_ceil(PARTS_MAX));
        let Some(store) = &self.backend.parts else { return self.put_locally(key, content, part).await };
        let id = store.create_multipart(key).await?;
        note(id.clone()).await.map_err(PutFailed::Store)?;
        let done = send_parts(store.as_ref(), key, &id, content, part).await;
        match done {
            Ok(parts) => {
                store.complete_multipart(key, &id, parts).await?;
                Ok(())
            }
            Err(failed) => {
                if let Err(error) = store.abort_multipart(key, &id).await {
                    tracing::debug!(%error, "an upload is not aborted yet");
                }
                Err(failed)
            }
        }
    }

    /// A directory takes one part after the other.
    async fn put_locally(&self, key: &Key, content: &PutContent, part: u64) -> Result<(), PutFailed> {
        let mut upload = self.backend.objects.put_multipart(key).await?;
        let sent = async {
            let mut at = 0;
            while at < content.size {
                let length = part.min(content.size - at);
                let bytes = read(Arc::clone(&content.file), at, length).await.map_err(PutFailed::Store)?;
                upload.put_part(PutPayload::from_bytes(bytes)).await?;
                at += length;
            }
            upload.complete().await?;
            Ok(())
        };
        let sent = sent.await;
        if sent.is_err() {
            let _ = upload.abort().await;
        }
        sent
    }

    pub(crate) async fn abort(&self, hash: ContentHash, id: String) -> Result<(), BucketError> {
        let Some(parts) = &self.backend.parts else { return Ok(()) };
        match parts.abort_multipart(&self.key(hash), &id).await.map_err(|error| fault::of(&error)) {
            // It is gone already, or was completed.
            Ok(()) | Err(BucketError::Missing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what an interrupted write to a directory leaves beside the file of a content.
    pub(crate) async fn remove_staged(&self, hash: ContentHash) {
        let Some(root) = &self.backend.root else { return };
        let place = root.join(self.key(hash).as_ref());
        let removed = tokio::task::spawn_blocking(move || {
            for n in 1..=3 {
                let mut staged = place.clone().into_os_string();
                staged.push(format!("#{n}"));
                if std::fs::remove_file(&staged).is_err() {
                    break;
                }
            }
        });
        let _ = removed.await;
    }
}

async fn send_parts(
    store: &dyn MultipartStore,
    key: &Key,
    id: &String,
    content: &PutContent,
    part: u64,
) -> Result<Vec<PartId>, PutFailed> {
    let count = content.size.div_ceil(part);
    futures::stream::iter(0..count)
        .map(|index| async move {
            let at = index * part;
            let bytes = read(Arc::clone(&content.file), at, part.min(content.size - at))
                .await
                .map_err(PutFailed::Store)?;
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            Ok(store.put_part(key, id, index, PutPayload::from_bytes(bytes)).await?)
        })
        .buffered(PARTS_AHEAD)
        .try_collect()
        .await
}

async fn read(file: Arc<File>, at: u64, length: u64) -> StoreResult<Bytes> {
    let failed = |reason: String| StoreError::io("read content to upload it", reason);
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, at).map(|()| bytes)
    });
    read.await
        .map_err(|error| failed(error.to_string()))?
        .map(Bytes::from)
        .map_err(|error| failed(error.to_string()))
}
