//! Reading a content in full, to see whether it is right.

use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use sha2::{Digest as _, Sha256};

use super::content::open_whole;
use super::damage::{kept_sums, set_aside};
use super::incoming::blocking;
use super::rows::{self, ContentPlace};
use super::scrub::{ReadThrottle, StopOnDrop};
use super::{EmbeddedStore, StoredAsset};
use crate::disk::{self, LONG_PATIENCE, NotAFile, patiently};
use crate::record::ContentHash;
use crate::store::bucket::BucketError;
use crate::store::groups::{GroupHasher, GroupSum};
use crate::store::{StoreError, StoreResult};

const BLOCK_BYTES: usize = 256 * 1024;
/// How often a content may be replaced while it is being examined.
const LOOKS_MAX: usize = 3;

struct Inspected {
    asset: StoredAsset,
    seen: Seen,
    fault: Option<String>,
    /// Its sums, where they are not those that are kept.
    sums: Option<Vec<GroupSum>>,
}

/// Which bytes were looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    File(Option<FileIdentity>),
    Inline(i64),
    /// It is locked while it is looked at ([`objects`](super::objects)).
    Object,
}

/// Tells a file from one that took its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl FileIdentity {
    fn of(meta: &Metadata) -> Self {
        let changed = (meta.ctime(), meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), len: meta.len(), changed }
    }

    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|meta| Self::of(&meta))
    }
}

impl EmbeddedStore {
    /// Reads a content in full, if that takes no longer than this; whether it is here, and right. Damaged, it is set aside.
    pub async fn is_whole(&self, hash: ContentHash, within: Duration) -> StoreResult<bool> {
        let throttle = Arc::new(ReadThrottle::unpaced(self.clone()));
        let _stop = StopOnDrop(Arc::clone(&throttle));
        let examined = async {
            let _turn = self.0.shared.sums.turn().await;
            self.examine_at(hash, Some(&throttle)).await
        };
        tokio::time::timeout(within, examined).await.unwrap_or(Ok(false))
    }

    /// Reads a content in full. Damaged, it is set aside; right, its sums are kept. Whether it is held, and right.
    pub(super) async fn examine(&self, hash: ContentHash) -> StoreResult<bool> {
        self.examine_at(hash, None).await
    }

    /// As [`Self::examine`], at a pace.
    pub(super) async fn examine_at(
        &self,
        hash: ContentHash,
        throttle: Option<&Arc<ReadThrottle>>,
    ) -> StoreResult<bool> {
        let _lock = self.lock_object(hash).await;
        for _ in 0..LOOKS_MAX {
            let Some(Inspected { asset, seen, fault, sums }) = self.inspect(hash, throttle.cloned()).await?
            else {
                self.0.shared.damage.clear(&hash);
                return Ok(false);
            };
            let Some(reason) = fault else {
                if let Some(sums) = sums {
                    self.keep_sums(hash, sums).await?;
                }
                self.0.shared.damage.clear(&hash);
                return Ok(true);
            };
            let size = asset.record.size;
            let aside = self.submit_deletion(move |tx| set_aside(tx, hash, size, &seen, &reason).map(Ok));
            // Else somebody replaced it meanwhile.
            if aside.await? {
                self.0.shared.damage.clear(&hash);
                return Ok(false);
            }
        }
        Err(StoreError::io(format!("examine the content of {hash}"), "it is replaced again and again"))
    }

    /// Reads and hashes a content; `None` where there is none.
    async fn inspect(
        &self,
        hash: ContentHash,
        throttle: Option<Arc<ReadThrottle>>,
    ) -> StoreResult<Option<Inspected>> {
        let found = self.0.shared.readers.run("examine content", move |conn| {
            let Some(stored) = rows::find(conn, hash)? else { return Ok(None) };
            let Some(place) = stored.place else { return Ok(None) };
            let fault = match place {
                ContentPlace::Inline(id) => inline_fault(conn, id, hash)?,
                ContentPlace::File | ContentPlace::Object => None,
            };
            let kept = kept_sums(conn, hash, stored.asset.record.size)?;
            Ok(Some((stored.asset, place, fault, kept)))
        });
        let Some((asset, place, fault, kept)) = found.await? else { return Ok(None) };
        if let ContentPlace::Inline(id) = place {
            return Ok(Some(Inspected {
                asset,
                seen: Seen::Inline(id),
                fault: fault.map(str::to_owned),
                sums: None,
            }));
        }
        if place == ContentPlace::Object {
            return self.inspect_object(asset, kept).await.map(Some);
        }
        let (path, size) = (self.0.shared.layout.content(hash), asset.record.size);
        let hashed = blocking("examine content", move || {
            // Before it is opened: what is moved over it afterwards is another one.
            let seen = FileIdentity::at(&path);
            let mut took = |bytes, worked| match &throttle {
                Some(throttle) => throttle.took(bytes, worked),
                None => Ok(()),
            };
            Ok((seen, patiently(&LONG_PATIENCE, || hash_paced(&path, size, &mut took))))
        });
        let (seen, hashed) = hashed.await?;
        let seen = Seen::File(seen);
        match hashed {
            Ok((sha256, _)) if sha256 != hash => {
                let fault = format!("its file hashes to {sha256}");
                Ok(Some(Inspected { asset, seen, fault: Some(fault), sums: None }))
            }
            Ok((_, sums)) => {
                let sums = Some(sums).filter(|sums| !sums.is_empty() && *sums != kept);
                Ok(Some(Inspected { asset, seen, fault: None, sums }))
            }
            Err(error) => match self.fault_of(&error) {
                Some(fault) => Ok(Some(Inspected { asset, seen, fault: Some(fault), sums: None })),
                None => Err(self.unread(hash, &error)),
            },
        }
    }

    /// Reads and hashes a content in the bucket. One that is not found is looked for again first.
    async fn inspect_object(&self, asset: StoredAsset, kept: Vec<GroupSum>) -> StoreResult<Inspected> {
        let (hash, size) = (asset.record.hash, asset.record.size);
        let Some(objects) = &self.0.shared.objects else { return Err(Self::without_bucket()) };
        let (fault, sums) = match objects.bucket.hash_at_length(hash, size).await {
            Ok(hashed) if hashed.sha256 != hash => {
                (Some(format!("its object hashes to {}", hashed.sha256)), None)
            }
            Ok(hashed) => (None, Some(hashed.groups).filter(|sums| !sums.is_empty() && *sums != kept)),
            Err(BucketError::Missing) => (
                Some(format!("the object storage {} does not have it any more", objects.bucket.shown())),
                None,
            ),
            Err(BucketError::Wrong(why)) => (Some(why), None),
            Err(BucketError::Away(why)) => return Err(objects.bucket.away(why)),
        };
        Ok(Inspected { asset, seen: Seen::Object, fault, sums })
    }

    /// As [`fault_of`]; what all files share, as when a mount is gone or the directory is closed to us, is not one content's fault.
    pub(super) fn fault_of(&self, error: &io::Error) -> Option<String> {
        if self.0.shared.anchors.contents_problem().is_some() { None } else { fault_of(error) }
    }
}

/// What of a failure to read, that lasts, is the content's own fault; `None` for what may be otherwise in a moment, and for
/// what concerns every file.
fn fault_of(error: &io::Error) -> Option<String> {
    if let Some(NotAFile(what)) = NotAFile::of(error) {
        return Some(format!("its file is {what}"));
    }
    let kinds = [
        (io::ErrorKind::NotFound, "its file is missing"),
        (io::ErrorKind::NotADirectory, "its file is missing"),
        (io::ErrorKind::UnexpectedEof, "its file has another length"),
    ];
    if let Some((_, fault)) = kinds.iter().find(|(kind, _)| *kind == error.kind()) {
        return Some((*fault).to_owned());
    }
    disk::is_own_fault(error).then(|| format!("its file cannot be read: {error}"))
}

/// SHA-256 of a file, and the sums of its groups.
pub(super) fn hash_file(path: &Path, size: u64) -> io::Result<(ContentHash, Vec<GroupSum>)> {
    hash_paced(path, size, &mut |_, _| Ok(()))
}

/// As [`hash_file`]; `took` is told of each block and how long it took.
pub(super) fn hash_paced(
    path: &Path,
    size: u64,
    took: &mut dyn FnMut(u64, Duration) -> io::Result<()>,
) -> io::Result<(ContentHash, Vec<GroupSum>)> {
    let mut file = open_whole(path, size)?;
    let (mut sha256, mut groups) = (Sha256::new(), GroupHasher::default());
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let began = Instant::now();
        match file.read(&mut block) {
            Ok(0) => return Ok((ContentHash(sha256.finalize().into()), groups.finish().1)),
            Ok(n) => {
                sha256.update(&block[..n]);
                groups.update(&block[..n]);
                took(n as u64, began.elapsed())?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What is wrong with a content in the database.
pub(super) fn inline_fault(
    conn: &Connection,
    id: i64,
    hash: ContentHash,
) -> rusqlite::Result<Option<&'static str>> {
    Ok(match rows::inline_content(conn, id)? {
        None => Some("its bytes cannot be read in the database"),
        Some(data) if hash.is_of(&data) => None,
        Some(_) => Some("its bytes in the database are not those that it is named by"),
    })
}
