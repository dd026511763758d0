//! Content from a user, of any length, in bounded memory.

use bytes::{Bytes, BytesMut};

use super::edit;
use super::incoming::{blocking, hash_bytes};
use super::media_type;
use super::quota::QuotaClaim;
use super::tx::{Tx, Verified, VerifiedBytes};
use super::types::{IngestFields, Ingested};
use super::{EmbeddedStore, writer};
use crate::record::{AssetMeta, ContentHash, META_BYTES_MAX};
use crate::store::hashing_file::HashingFile;
use crate::store::{ReceivedFile, StoreError, StoreResult};

/// How much of the beginning is looked at to guess the media type, in bytes.
const SNIFFED_BYTES: usize = 8 * 1024;
/// Content up to this length is hashed where it is: handing it over would take as long (about 10 µs).
const HASHED_IN_PLACE_BYTES: usize = 8 * 1024;

/// Content that is being uploaded. Dropping it leaves nothing behind.
pub struct Upload {
    store: EmbeddedStore,
    /// The first bytes: all of them for as long as there is no file.
    head: BytesMut,
    file: Option<HashingFile>,
    written: u64,
    /// What it takes of the quota; nothing while there is none.
    claim: Option<QuotaClaim>,
    suggested: Option<String>,
}

impl Upload {
    pub(super) fn new(store: EmbeddedStore) -> Self {
        Self { store, head: BytesMut::new(), file: None, written: 0, claim: None, suggested: None }
    }

    /// Bytes taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The media type that the sender believes it has: counts where neither content nor file name tell.
    pub fn suggest_mime_type(&mut self, mime_type: Option<String>) {
        self.suggested = mime_type;
    }

    /// Takes more bytes; waits while the disk or the processor is behind.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::ReadOnly`], [`StoreError::Io`]. The upload has failed then.
    pub async fn write(&mut self, chunk: Bytes) -> StoreResult {
        if chunk.is_empty() {
            return Ok(());
        }
        let shared = &self.store.0.shared;
        shared.scrub.note_use();
        shared.check_writable()?;
        shared.space.claim(chunk.len() as u64)?;
        match &mut self.claim {
            Some(claim) => claim.grow(chunk.len() as u64)?,
            None if shared.quota.is_set() => self.claim = Some(shared.quota.claim(chunk.len() as u64)?),
            None => {}
        }
        self.written += chunk.len() as u64;
        if self.file.is_none() && self.written <= self.store.inline_bytes_max() {
            self.head.extend_from_slice(&chunk);
            return Ok(());
        }
        if self.file.is_none() {
            self.spill().await?;
        }
        self.push(chunk).await
    }

    /// Makes the content an asset, or adds the fields to the one that is there: then tags are united and absent fields
    /// filled in. Answers once it is durable.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] for fields over their limits; the errors of [`write`](Self::write).
    pub async fn finish(mut self, fields: IngestFields) -> StoreResult<Ingested> {
        self.store.0.shared.check_writable()?;
        self.store.0.shared.space.claim(writer::change_bytes(std::iter::once(META_BYTES_MAX)))?;
        let guess = media_type::guess(&self.head, fields.filename.as_deref());
        let guessed = guess.or_suggested(edit::given(self.suggested.take()));
        check(&fields)?;
        let (content, files) = match self.file.take() {
            Some(file) => {
                let received = complete(&self.store, file).await?;
                let content = Verified {
                    hash: received.sha256,
                    size: received.size,
                    blake3: received.blake3,
                    bytes: self.store.bytes_of_files(),
                };
                (content, vec![received])
            }
            None => (inline(self.head.freeze()).await?, Vec::new()),
        };
        let bytes = if files.is_empty() { usize::try_from(content.size).unwrap_or(usize::MAX) } else { 0 };
        let ingest = move |tx: &mut Tx<'_>| edit::ingest(tx, &content, fields, &guessed);
        let ingested = self.store.submit_contents(files, bytes, ingest).await;
        drop(self.claim);
        ingested
    }

    /// Goes on in a file.
    async fn spill(&mut self) -> StoreResult {
        self.file = Some(temporary_file(&self.store).await?);
        let head = self.head.split().freeze();
        self.head.extend_from_slice(&head[..head.len().min(SNIFFED_BYTES)]);
        self.push(head).await
    }

    async fn push(&mut self, chunk: Bytes) -> StoreResult {
        if self.head.len() < SNIFFED_BYTES {
            let missing = SNIFFED_BYTES - self.head.len();
            self.head.extend_from_slice(&chunk[..chunk.len().min(missing)]);
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let pushed = file.push(chunk).await;
        pushed.map_err(|error| note(&self.store, file.explain(&error), &error))
    }
}

impl EmbeddedStore {
    /// As an upload of content that is here, without its bytes: adds the fields to the asset.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NotHeld`]: the content has to be uploaded. [`StoreError::Invalid`] for fields over
    /// their limits; the errors of writing.
    pub async fn ingest_known(&self, hash: ContentHash, fields: IngestFields) -> StoreResult<Ingested> {
        check(&fields)?;
        let guessed = media_type::guess(&[], fields.filename.as_deref()).or_suggested(None);
        self.submit(Vec::new(), 0, move |tx| edit::ingest_known(tx, hash, fields, &guessed)).await
    }
}

/// Content from a peer on its way into a file of the store's own directory, for
/// [`ingest`](crate::store::ContentStore::ingest) to move. Dropping it leaves nothing behind.
pub struct Receive {
    store: EmbeddedStore,
    file: HashingFile,
    received: u64,
}

impl Receive {
    pub(super) async fn begin(store: EmbeddedStore) -> StoreResult<Self> {
        store.0.shared.check_writable()?;
        let file = temporary_file(&store).await?;
        Ok(Self { store, file, received: 0 })
    }

    /// Takes more bytes; waits while the disk or the processor is behind.
    pub async fn write(&mut self, chunk: Bytes) -> StoreResult {
        let shared = &self.store.0.shared;
        shared.scrub.note_use();
        shared.check_writable()?;
        shared.space.claim(chunk.len() as u64)?;
        self.received += chunk.len() as u64;
        shared.quota.check(self.received)?;
        let pushed = self.file.push(chunk).await;
        pushed.map_err(|error| note(&self.store, self.file.explain(&error), &error))
    }

    /// Writes what is left and makes the file durable.
    pub async fn finish(self) -> StoreResult<ReceivedFile> {
        complete(&self.store, self.file).await
    }
}

async fn temporary_file(store: &EmbeddedStore) -> StoreResult<HashingFile> {
    let store = store.clone();
    let create = move || {
        let tmp = store.0.shared.layout.tmp();
        HashingFile::create(&tmp).map_err(|error| store.io_failed("make a temporary file", &error))
    };
    blocking("make a temporary file", create).await
}

async fn complete(store: &EmbeddedStore, mut file: HashingFile) -> StoreResult<ReceivedFile> {
    match file.complete().await {
        Ok(hashes) => Ok(file.into_received(hashes)),
        Err(error) => Err(note(store, file.explain(&error), &error)),
    }
}

/// Ends the store's writing if the disk can no longer be trusted.
fn note(store: &EmbeddedStore, answer: StoreError, error: &std::io::Error) -> StoreError {
    writer::note_io_failure(&store.0.shared, error, &answer);
    answer
}

/// Refuses fields that no record could have, before anything is made durable.
fn check(fields: &IngestFields) -> StoreResult {
    let meta = AssetMeta {
        mime_type: edit::given(fields.mime_type.clone()).unwrap_or_default(),
        filename: fields.filename.clone(),
        application: fields.application.clone(),
        user: fields.user.clone(),
        tags: AssetMeta::normalise_tags(&fields.tags),
        description: fields.description.clone(),
        modified_at_ms: fields.modified_at_ms,
        ..AssetMeta::default()
    };
    meta.validate().map_err(|broken| StoreError::Invalid(broken.to_string()))
}

/// Hashes content that stays in memory.
async fn inline(bytes: Bytes) -> StoreResult<Verified> {
    let same = bytes.clone();
    let (hash, size, blake3): (ContentHash, u64, [u8; 32]) = if bytes.len() <= HASHED_IN_PLACE_BYTES {
        hash_bytes(&bytes)
    } else {
        blocking("hash content", move || Ok(hash_bytes(&same))).await?
    };
    Ok(Verified { hash, size, blake3, bytes: VerifiedBytes::Inline(bytes) })
}
