//! What peers send, checked and hashed on a blocking thread before the writer sees it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::merge::{Absence, WholeInTrash};
use super::quota::QuotaClaim;
use super::rows::ContentPlace;
use super::tx::{self, Tx, Verified, VerifiedBytes};
use super::{EmbeddedStore, HASHES_MAX, StoredAsset, failure, keeping, merge, rows, writer};
use crate::disk::open_plain;
use crate::record::{AssetRecord, ContentHash, META_BYTES_MAX};
use crate::store::bucket::BucketError;
use crate::store::groups::GroupHasher;
use crate::store::{
    IncomingAsset, IncomingContent, ItemOutcome, ReceivedFile, StoreError, StoreResult, admits,
};

/// Bytes hashed at once when a file is checked.
const CHECK_BYTES: usize = 256 * 1024;
/// Most content of files in the trash that is checked for one request, beyond the first: some seconds of hashing.
const VERIFIED_BYTES_MAX: u64 = 1 << 30;

/// What is left of an asset from a peer once it was checked.
enum Checked {
    Good(AssetRecord, Verified),
    /// A tombstone: content that came with it is not wanted.
    RecordOnly(AssetRecord),
    Bad(String),
}

impl EmbeddedStore {
    pub(super) async fn ingest_batch(&self, batch: Vec<IncomingAsset>) -> StoreResult<Vec<ItemOutcome>> {
        self.ingest_checked(batch, merge::ingest).await
    }

    /// Takes what libraries delivered; what is held outside of them stays, which is seen in the transaction itself.
    pub(super) async fn ingest_admitted(
        &self,
        batch: Vec<IncomingAsset>,
    ) -> StoreResult<Vec<Option<ItemOutcome>>> {
        self.ingest_checked(batch, |tx, record, content| {
            let held = tx.find(record.hash)?;
            if admits(held.as_ref().map(|held| &held.asset.record), &record) {
                merge::ingest(tx, record, content).map(Some)
            } else {
                Ok(None)
            }
        })
        .await
    }

    async fn ingest_checked<T: From<ItemOutcome> + Send + 'static>(
        &self,
        batch: Vec<IncomingAsset>,
        mut take: impl FnMut(&mut Tx<'_>, AssetRecord, &Verified) -> rusqlite::Result<T> + Send + 'static,
    ) -> StoreResult<Vec<T>> {
        self.0.shared.check_writable()?;
        let texts = batch.iter().map(|asset| asset.record.meta.text_bytes());
        let bytes = batch.iter().map(in_memory).sum::<u64>() + writer::change_bytes(texts);
        self.0.shared.space.claim(bytes)?;
        let _claim = self.claim_new(&batch).await?;
        let store = self.clone();
        let (checked, files) = blocking("check content", move || store.check_batch(batch)).await?;
        let bytes = checked.iter().map(Checked::bytes).sum();
        let outcomes = self.submit_contents(files, bytes, move |tx| {
            let none = WholeInTrash::new();
            let merged = checked.into_iter().map(|checked| match checked {
                Checked::Good(record, content) => take(tx, record, &content),
                Checked::RecordOnly(record) => merge::apply(tx, record, &none, Absence::Refused).map(T::from),
                Checked::Bad(why) => Ok(ItemOutcome::Rejected(why).into()),
            });
            merged.collect::<Result<Vec<_>, _>>().map(Ok)
        });
        outcomes.await
    }

    /// Takes of the quota what contents need that are neither held nor in the trash.
    async fn claim_new(&self, batch: &[IncomingAsset]) -> StoreResult<Option<QuotaClaim>> {
        let live = batch.iter().filter(|asset| !asset.record.deleted);
        self.claim_sizes(live.map(|asset| (asset.record.hash, asset.content.size())).collect()).await
    }

    /// The same of contents of these sizes.
    pub(super) async fn claim_sizes(
        &self,
        sizes: HashMap<ContentHash, u64>,
    ) -> StoreResult<Option<QuotaClaim>> {
        let quota = &self.0.shared.quota;
        if !quota.is_set() {
            return Ok(None);
        }
        let find = move |conn: &rusqlite::Connection| {
            let mut bytes = 0_u64;
            for (hash, size) in sizes {
                let is_held = rows::find(conn, hash)?.is_some_and(|stored| stored.place.is_some());
                if !is_held && tx::trashed(conn, hash)?.is_none() {
                    bytes = bytes.saturating_add(size);
                }
            }
            Ok(bytes)
        };
        let bytes = self.0.shared.readers.run("look what contents are new", find).await?;
        quota.claim(bytes).map(Some)
    }

    /// Replaces versions by others, where they are still the ones that are held.
    pub(super) async fn replace_batch(
        &self,
        records: Vec<(AssetRecord, AssetRecord)>,
    ) -> StoreResult<Vec<Option<ItemOutcome>>> {
        let bytes = writer::change_bytes(records.iter().map(|(record, _)| record.meta.text_bytes()));
        let outcomes = self.submit_growing(bytes, move |tx| {
            let none = WholeInTrash::new();
            let merged = records.into_iter().map(|(record, over)| {
                let held = tx.find(record.hash)?;
                if !held.is_some_and(|held| held.asset.record.is_version_of(&over)) {
                    return Ok(None);
                }
                merge::apply_valid(tx, record, &none, Absence::Refused).map(Some)
            });
            merged.collect::<Result<Vec<_>, _>>().map(Ok)
        });
        outcomes.await
    }

    pub(super) async fn apply_batch(
        &self,
        records: Vec<AssetRecord>,
        absence: Absence,
    ) -> StoreResult<Vec<ItemOutcome>> {
        self.0.shared.check_writable()?;
        if records.iter().all(|record| record.deleted) {
            return self.apply_deletions(records).await;
        }
        let texts = records.iter().map(|record| record.meta.text_bytes());
        let (text, bytes) = (texts.clone().sum(), writer::change_bytes(texts));
        if let Err(full) = self.0.shared.space.claim(bytes) {
            // What makes room is done all the same; the rest is refused, and its sender sends it again.
            self.apply_deletions(records.into_iter().filter(|record| record.deleted).collect()).await?;
            return Err(full);
        }
        let live = records.iter().filter(|record| !record.deleted).map(|record| record.hash).collect();
        let whole = self.verify_trash(live, |stored| stored.record.deleted).await?;
        let outcomes = self.submit(Vec::new(), text, move |tx| {
            let merged = records.into_iter().map(|record| merge::apply_valid(tx, record, &whole, absence));
            merged.collect::<Result<Vec<_>, _>>().map(Ok)
        });
        outcomes.await
    }

    /// Takes tombstones, whether or not there is room.
    async fn apply_deletions(&self, records: Vec<AssetRecord>) -> StoreResult<Vec<ItemOutcome>> {
        let outcomes = self.submit_deletion(move |tx| {
            let none = WholeInTrash::new();
            let merged =
                records.iter().map(|record| merge::apply_valid(tx, record.clone(), &none, Absence::Refused));
            merged.collect::<Result<Vec<_>, _>>().map(Ok)
        });
        outcomes.await
    }

    pub(super) async fn let_go_batch(&self, hashes: Vec<ContentHash>) -> StoreResult<Vec<ItemOutcome>> {
        check_batch_size(hashes.len())?;
        let shared = self.0.shared.clone();
        let let_go = move |tx: &mut Tx<'_>| {
            let each = hashes.iter().map(|hash| {
                if keeping::is_promised(tx, &shared, *hash)? {
                    Ok(ItemOutcome::Unchanged)
                } else {
                    merge::let_go(tx, *hash)
                }
            });
            each.collect::<Result<Vec<_>, _>>().map(Ok)
        };
        self.submit_deletion(let_go).await
    }

    pub(super) async fn want_batch(&self, hashes: Vec<ContentHash>) -> StoreResult<Vec<ItemOutcome>> {
        check_batch_size(hashes.len())?;
        self.0.shared.check_writable()?;
        self.0.shared.space.claim(writer::change_bytes(hashes.iter().map(|_| META_BYTES_MAX / 4)))?;
        let whole = self.verify_trash(hashes.clone(), |stored| !stored.record.deleted).await?;
        let want = move |tx: &mut Tx<'_>| {
            hashes
                .into_iter()
                .map(|hash| merge::want(tx, hash, &whole))
                .collect::<Result<Vec<_>, _>>()
                .map(Ok)
        };
        self.submit(Vec::new(), 0, want).await
    }

    /// Hashes what the trash has of those assets that may come back, and says which is whole. Files beyond
    /// [`VERIFIED_BYTES_MAX`] count as not whole: they are fetched again, or asked for once more.
    pub(super) async fn verify_trash(
        &self,
        hashes: Vec<ContentHash>,
        may_come_back: fn(&StoredAsset) -> bool,
    ) -> StoreResult<WholeInTrash> {
        if hashes.is_empty() {
            return Ok(WholeInTrash::new());
        }
        let found = self.0.shared.readers.run("look into the trash", move |conn| {
            let mut whole = WholeInTrash::new();
            let (mut files, mut objects, mut file_bytes) = (Vec::new(), Vec::new(), 0_u64);
            for hash in hashes {
                let Some(trashed) = tx::trashed(conn, hash)? else { continue };
                // Without a record it comes from a database that lost its own.
                if rows::find(conn, hash)?.is_some_and(|stored| !may_come_back(&stored.asset)) {
                    continue;
                }
                match trashed.place {
                    ContentPlace::File => {
                        file_bytes = file_bytes.saturating_add(trashed.size);
                        if files.is_empty() || file_bytes <= VERIFIED_BYTES_MAX {
                            files.push(hash);
                        }
                    }
                    ContentPlace::Object => objects.push((hash, trashed.size)),
                    ContentPlace::Inline(id) => {
                        let data = rows::inline_content(conn, id)?.map(|data| hash_bytes(&data));
                        if let Some((sha256, _, blake3)) = data.filter(|(sha256, ..)| *sha256 == hash) {
                            whole.insert(sha256, blake3);
                        }
                    }
                }
            }
            Ok((whole, files, objects))
        });
        let (mut whole, files, objects) = found.await?;
        self.verify_objects(objects, &mut whole).await?;
        if !files.is_empty() {
            let layout = self.0.shared.layout.clone();
            let check = move || {
                let good = files.into_iter().filter_map(|hash| {
                    let (sha256, _, blake3) = hash_file(&layout.content(hash)).ok()?;
                    (sha256 == hash).then_some((hash, blake3))
                });
                Ok(good.collect::<Vec<_>>())
            };
            whole.extend(blocking("check content in the trash", check).await?);
        }
        Ok(whole)
    }

    /// The same of those in a bucket; an error where it cannot be used.
    async fn verify_objects(
        &self,
        objects: Vec<(ContentHash, u64)>,
        whole: &mut WholeInTrash,
    ) -> StoreResult {
        let mut bytes = 0_u64;
        for (at, (hash, size)) in objects.into_iter().enumerate() {
            bytes = bytes.saturating_add(size);
            if at > 0 && bytes > VERIFIED_BYTES_MAX {
                return Ok(());
            }
            let Some(objects) = &self.0.shared.objects else { return Err(Self::without_bucket()) };
            match objects.bucket.hash(hash, size).await {
                Ok(hashed) => {
                    if hashed.sha256 == hash {
                        whole.insert(hash, hashed.blake3);
                    }
                }
                Err(BucketError::Away(why)) => return Err(objects.bucket.away(why)),
                Err(BucketError::Missing | BucketError::Wrong(_)) => {}
            }
        }
        Ok(())
    }

    fn check_batch(&self, batch: Vec<IncomingAsset>) -> StoreResult<(Vec<Checked>, Vec<ReceivedFile>)> {
        let mut files = Vec::new();
        let mut checked = Vec::with_capacity(batch.len());
        for IncomingAsset { record, content } in batch {
            if let Err(broken) = record.meta.validate() {
                checked.push(Checked::Bad(broken.to_string()));
            } else if record.deleted {
                checked.push(Checked::RecordOnly(record));
            } else {
                checked.push(self.check(record, content, &mut files)?);
            }
        }
        Ok((checked, files))
    }

    fn check(
        &self,
        record: AssetRecord,
        content: IncomingContent,
        files: &mut Vec<ReceivedFile>,
    ) -> StoreResult<Checked> {
        let (sha256, size, blake3) = match &content {
            IncomingContent::Bytes(bytes) => hash_bytes(bytes),
            IncomingContent::File(file) => (file.sha256, file.size, file.blake3),
        };
        if size != record.size {
            let why = format!("the record of {} says {} bytes, but {size} came", record.hash, record.size);
            return Ok(Checked::Bad(why));
        }
        if sha256 != record.hash {
            return Ok(Checked::Bad(format!("the content of {} hashes to {sha256}", record.hash)));
        }
        let inline_bytes_max = self.inline_bytes_max();
        let bytes = match content {
            IncomingContent::Bytes(bytes) if size <= inline_bytes_max => VerifiedBytes::Inline(bytes),
            IncomingContent::File(file) if size <= inline_bytes_max => {
                let read =
                    fs::read(&file.path).map_err(|error| self.io_failed("read received content", &error))?;
                // Read again, so checked again.
                if hash_bytes(&read).0 != record.hash {
                    return Ok(Checked::Bad(format!(
                        "the file of {} changed after it was received",
                        record.hash
                    )));
                }
                VerifiedBytes::Inline(read.into())
            }
            IncomingContent::Bytes(bytes) => {
                let written = self.write_file(&bytes, sha256);
                files.push(written.map_err(|error| self.io_failed("write content", &error))?);
                self.bytes_of_files()
            }
            IncomingContent::File(file) => {
                let adopted = self.adopt(file);
                files.push(adopted.map_err(|error| self.io_failed("take over received content", &error))?);
                self.bytes_of_files()
            }
        };
        let content = Verified { hash: record.hash, size, blake3, bytes };
        Ok(Checked::Good(record, content))
    }

    /// Where the bytes of files will be when the writer sees them.
    pub(super) fn bytes_of_files(&self) -> VerifiedBytes {
        if self.uploads_first() { VerifiedBytes::Object } else { VerifiedBytes::File }
    }

    /// Writes large content from memory.
    fn write_file(&self, bytes: &[u8], sha256: ContentHash) -> io::Result<ReceivedFile> {
        let mut file = NamedTempFile::new_in(self.0.shared.layout.tmp())?;
        file.write_all(bytes)?;
        if !self.uploads_first() {
            file.as_file().sync_all()?;
        }
        let mut hasher = GroupHasher::default();
        hasher.update(bytes);
        let (blake3, groups) = hasher.finish();
        Ok(ReceivedFile { path: file.into_temp_path(), size: bytes.len() as u64, sha256, blake3, groups })
    }

    /// Brings a received file into our own directory, so that the writer only has to rename it: a rename where it is
    /// on the same file system, else a copy.
    fn adopt(&self, file: ReceivedFile) -> io::Result<ReceivedFile> {
        let tmp = self.0.shared.layout.tmp();
        if file.path.parent() == Some(tmp.as_path()) {
            return Ok(file);
        }
        let (mut place, path) = NamedTempFile::new_in(&tmp)?.into_parts();
        let ReceivedFile { path: from, size, sha256, blake3, groups } = file;
        match fs::rename(&from, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let copied = copy_hashed(&mut File::open(&from)?, &mut place)?;
                if copied != (sha256, size, blake3) {
                    return Err(io::Error::other("the file changed after it was received"));
                }
                place.sync_all()?;
            }
            Err(error) => return Err(error),
        }
        Ok(ReceivedFile { path, size, sha256, blake3, groups })
    }

    /// What a failure of the file system means to the sender of the content.
    pub(super) fn io_failed(&self, action: &str, error: &io::Error) -> StoreError {
        let dir = &self.0.shared.layout.dir;
        let answer = failure::io_error(format!("{action} in {}", dir.display()), dir, error);
        writer::note_io_failure(&self.0.shared, error, &answer);
        answer
    }
}

impl Checked {
    /// Roughly what it adds to the database.
    fn bytes(&self) -> usize {
        match self {
            Self::Good(record, content) => {
                let inline = match &content.bytes {
                    VerifiedBytes::Inline(bytes) => bytes.len(),
                    VerifiedBytes::File | VerifiedBytes::Object => 0,
                };
                inline + record.meta.text_bytes()
            }
            Self::RecordOnly(record) => record.meta.text_bytes(),
            Self::Bad(_) => 0,
        }
    }
}

pub(super) fn check_batch_size(count: usize) -> StoreResult {
    if count > HASHES_MAX {
        return Err(StoreError::Invalid(format!("at most {HASHES_MAX} records can be named at once")));
    }
    Ok(())
}

/// Bytes that are still to be written to our disk.
fn in_memory(asset: &IncomingAsset) -> u64 {
    match &asset.content {
        IncomingContent::Bytes(bytes) => bytes.len() as u64,
        IncomingContent::File(_) => 0,
    }
}

/// SHA-256, length and BLAKE3.
pub(super) fn hash_bytes(bytes: &[u8]) -> (ContentHash, u64, [u8; 32]) {
    (ContentHash(Sha256::digest(bytes).into()), bytes.len() as u64, *blake3::hash(bytes).as_bytes())
}

fn hash_file(path: &std::path::Path) -> io::Result<(ContentHash, u64, [u8; 32])> {
    copy_hashed(&mut open_plain(path)?, &mut io::sink())
}

fn copy_hashed(from: &mut impl io::Read, to: &mut impl Write) -> io::Result<(ContentHash, u64, [u8; 32])> {
    let (mut sha256, mut blake3, mut size) = (Sha256::new(), blake3::Hasher::new(), 0);
    let mut buffer = vec![0; CHECK_BYTES];
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok((ContentHash(sha256.finalize().into()), size, *blake3.finalize().as_bytes())),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sha256.update(&buffer[..n]);
        blake3.update(&buffer[..n]);
        to.write_all(&buffer[..n])?;
        size += n as u64;
    }
}

/// Runs work that hashes or touches the disk on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    action: &str,
    work: impl FnOnce() -> StoreResult<T> + Send + 'static,
) -> StoreResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::io(action, error))?
}
