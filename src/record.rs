//! The one data type everything shares: what is replicated about an asset, and which of two versions wins.
//!
//! Pure: no clock, no I/O. The rules are those of the protocol's *Record* section.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

pub use self::names::{DROPPED_NAMES_MAX, NAME_BYTES_MAX, NAMES_MAX, NameOutcome, keep_names, with_names};

mod names;

/// Most tags that an asset may carry.
pub const TAGS_MAX: usize = 64;
/// Longest tag, in characters.
pub const TAG_CHARS_MAX: usize = 128;
/// Most metadata of one asset, in bytes: the sum of its strings.
pub const META_BYTES_MAX: usize = 16 * 1024;
/// How far ahead of our clock a version of the user's own may be dated before it has to wait, in milliseconds.
pub const HLC_AHEAD_MAX_MS: u64 = 10 * 60 * 1000;
/// The same for a version of somebody who takes part by ticket.
pub const HLC_AHEAD_BY_TICKET_MAX_MS: u64 = 60 * 1000;

/// Context of the digest that breaks ties between versions of one instant and writer.
const DIGEST_CONTEXT: &str = "can-sync 2026 v2 record digest";

/// A string that is not 64 lower-case hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not 64 lower-case hexadecimal digits")]
pub struct ParseIdError(String);

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// From raw bytes, or `None` unless there are exactly 32.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first ten hexadecimal digits, for logs and tables.
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let shown = || ParseIdError(text.chars().take(80).collect());
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| shown())?;
                Self::from_slice(&bytes).ok_or_else(shown)
            }
        }
    };
}

id_type! {
    /// SHA-256 of an asset's content: the *CAN hash*, the asset's name everywhere.
    ContentHash
}

impl ContentHash {
    /// Whether these bytes are the content.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        Sha256::digest(bytes).as_slice() == self.0
    }
}
id_type! {
    /// Identity of one version of a record inside one library; means nothing without the library's key.
    RecordId
}
id_type! {
    /// Who wrote a version of a record.
    WriterId
}
id_type! {
    /// Names what a version says, whatever date it has ([`AssetRecord::edit`]).
    EditId
}
id_type! {
    /// A library: the public half of its ed25519 key.
    LibraryId
}

impl LibraryId {
    /// No library: of what is the user's own, and was deleted through a library that it was in. No library has it.
    pub const NONE: Self = Self([0; 32]);
}

impl WriterId {
    /// The writer of every asset that was never edited.
    pub const NULL: Self = Self([0; 32]);
}

/// Hybrid logical clock: 48 bits of milliseconds since the Unix epoch, then a 16-bit counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first instant of a millisecond.
    pub fn from_ms(ms: u64) -> Self {
        Self((ms & 0xFFFF_FFFF_FFFF) << 16)
    }

    /// The last instant of a millisecond.
    pub fn end_of_ms(ms: u64) -> Self {
        Self(Self::from_ms(ms).0 | 0xFFFF)
    }

    /// The millisecond it falls into.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The time of an edit made at `now_ms` of a record last written at `self`: later than both.
    #[must_use]
    pub fn next(self, now_ms: u64) -> Self {
        Self::from_ms(now_ms).max(Self(self.0.saturating_add(1)))
    }

    /// How long after `now_ms` it is until this lies no more than `ahead_max_ms` ahead, in milliseconds; `None` if it does
    /// not.
    pub fn is_due_in(self, now_ms: u64, ahead_max_ms: u64) -> Option<u64> {
        self.ms().checked_sub(now_ms.saturating_add(ahead_max_ms)).filter(|wait_ms| *wait_ms > 0)
    }
}

/// What a user may say about an asset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AssetMeta {
    /// Media type; `application/octet-stream` when nothing better is known.
    pub mime_type: String,
    /// Name that the content had where it came from. Never used as a path.
    pub filename: Option<String>,
    /// Program that made the asset.
    pub application: Option<String>,
    /// Person that made the asset.
    pub user: Option<String>,
    /// Sorted, without duplicates; see [`AssetMeta::normalise_tags`].
    pub tags: Vec<String>,
    /// Free text.
    pub description: Option<String>,
    /// When the asset was first stored anywhere, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Further names of the same content: sorted, without duplicates and without `filename`; see
    /// [`AssetMeta::further_names`].
    pub names: Vec<String>,
    /// Digests of names that were taken away, the latest last; see [`AssetMeta::note_dropped`].
    pub dropped_names: Vec<u64>,
    /// When the file that it came from was last written, in milliseconds since the Unix epoch.
    pub modified_at_ms: Option<u64>,
}

/// A rule of [`AssetMeta`] that was broken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetaError {
    /// More than [`TAGS_MAX`].
    #[error("{0} tags are too many: at most {TAGS_MAX}")]
    TooManyTags(usize),
    /// Longer than [`TAG_CHARS_MAX`].
    #[error("a tag of {0} characters is too long: at most {TAG_CHARS_MAX}")]
    TagTooLong(usize),
    /// Empty, unsorted or repeated.
    #[error("tags must be sorted, non-empty and without duplicates")]
    TagsNotCanonical,
    /// More than [`META_BYTES_MAX`].
    #[error("{0} bytes of metadata are too many: at most {META_BYTES_MAX}")]
    TooLarge(usize),
    /// Later than 48 bits of milliseconds can say.
    #[error("created_at_ms {0} is out of range")]
    CreatedAt(u64),
    /// More than [`NAMES_MAX`].
    #[error("{0} further names, more than {NAMES_MAX}")]
    TooManyNames(usize),
    /// A further name of more than [`NAME_BYTES_MAX`].
    #[error("a further name of {0} bytes, more than {NAME_BYTES_MAX}")]
    NameTooLong(usize),
    /// Further names are sorted, distinct, not blank, and other than `filename`.
    #[error("further names are not sorted and distinct, or one is blank or the file name itself")]
    NamesNotCanonical,
    /// More than [`DROPPED_NAMES_MAX`], or one twice.
    #[error("{0} names that were taken away, more than {DROPPED_NAMES_MAX}, or one of them twice")]
    DroppedNames(usize),
    /// Later than 48 bits of milliseconds can say.
    #[error("modified_at_ms {0} is out of range")]
    ModifiedAt(u64),
}

impl AssetMeta {
    /// Trims, sorts and de-duplicates tags, and drops empty ones.
    pub fn normalise_tags<S: AsRef<str>>(tags: impl IntoIterator<Item = S>) -> Vec<String> {
        let mut tags: Vec<String> = tags
            .into_iter()
            .map(|tag| tag.as_ref().trim().to_owned())
            .filter(|tag| !tag.is_empty())
            .collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// Bytes of text: what [`META_BYTES_MAX`] limits.
    pub fn text_bytes(&self) -> usize {
        let optional = [&self.filename, &self.application, &self.user, &self.description];
        self.mime_type.len()
            + optional.iter().filter_map(|s| s.as_ref()).map(String::len).sum::<usize>()
            + self.tags.iter().chain(&self.names).map(String::len).sum::<usize>()
    }

    pub fn validate(&self) -> Result<(), MetaError> {
        if self.tags.len() > TAGS_MAX {
            return Err(MetaError::TooManyTags(self.tags.len()));
        }
        if let Some(long) = self.tags.iter().map(|t| t.chars().count()).find(|n| *n > TAG_CHARS_MAX) {
            return Err(MetaError::TagTooLong(long));
        }
        let canonical = self.tags.iter().all(|t| !t.is_empty()) && self.tags.is_sorted_by(|a, b| a < b);
        if !canonical {
            return Err(MetaError::TagsNotCanonical);
        }
        if self.text_bytes() > META_BYTES_MAX {
            return Err(MetaError::TooLarge(self.text_bytes()));
        }
        if self.created_at_ms >> 48 != 0 {
            return Err(MetaError::CreatedAt(self.created_at_ms));
        }
        if let Some(late) = self.modified_at_ms.filter(|ms| ms >> 48 != 0) {
            return Err(MetaError::ModifiedAt(late));
        }
        self.validate_names()
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssetRecord {
    pub hash: ContentHash,
    /// Length of the content in bytes.
    pub size: u64,
    /// BLAKE3 of the content, where known: a hint, and no part of the record's identity.
    pub blake3: Option<[u8; 32]>,
    pub hlc: Hlc,
    pub writer: WriterId,
    /// A tombstone: the content is gone, the record stays.
    pub deleted: bool,
    /// Inside a library, of a tombstone: the asset left the library by an edit and is not deleted. No store has such a
    /// record.
    pub left: bool,
    /// The library that this version came through; `None` for what a user of this node or of an own device wrote. Known
    /// to own devices alone: part of the record's id in the mirror, and of nothing that a library's members see.
    pub via: Option<LibraryId>,
    /// Of a version that came through a library: whether users of this node or of an own device put the content, which
    /// is theirs whatever a member says about it. Like `via`, known to own devices alone; never set without that.
    pub own_content: bool,
    /// What users said about it.
    pub meta: AssetMeta,
}

impl AssetRecord {
    /// A record as its first ingest makes it: dated by its own creation, with the null writer, so that two stores with
    /// the same history agree without a word.
    pub fn new(hash: ContentHash, size: u64, blake3: Option<[u8; 32]>, meta: AssetMeta) -> Self {
        let hlc = Hlc::from_ms(meta.created_at_ms);
        let (writer, deleted, left, via, own_content) = (WriterId::NULL, false, false, None, false);
        Self { hash, size, blake3, hlc, writer, deleted, left, via, own_content, meta }
    }

    /// Whether this version wins over `other` of the same asset: the greater `(hlc, writer, digest)`. Total, so any two
    /// agents pick the same one. The digest is independent of libraries, unlike the record id. Of one version that came
    /// by several ways, the one of our own is the greatest.
    pub fn supersedes(&self, other: &Self) -> bool {
        debug_assert_eq!(self.hash, other.hash, "versions of different assets have no order");
        (self.hlc, self.writer)
            .cmp(&(other.hlc, other.writer))
            .then_with(|| self.digest().cmp(&other.digest()))
            .then_with(|| (self.via.is_none(), self.via).cmp(&(other.via.is_none(), other.via)))
            .then_with(|| self.own_content.cmp(&other.own_content))
            .is_gt()
    }

    /// Whether it is the very same version, whatever is known of its content.
    pub fn is_version_of(&self, other: &Self) -> bool {
        (self.hlc, self.writer, self.via, self.own_content)
            == (other.hlc, other.writer, other.via, other.own_content)
            && self.digest() == other.digest()
    }

    /// Whether users of this node or of an own device put the content, or wrote the version.
    pub fn is_own(&self) -> bool {
        self.via.is_none() || self.own_content
    }

    /// This version, where `other` is what is known of the same asset besides: content that users put stays theirs, until
    /// they delete it.
    #[must_use]
    pub fn keeping_own(self, other: &Self) -> Self {
        let was_own = if other.deleted { other.own_content } else { other.is_own() };
        let own_content = self.own_content || (was_own && !self.deleted && self.via.is_some());
        Self { own_content, ..self }
    }

    /// This version as the user's own, and no library's.
    #[must_use]
    pub fn outside_libraries(self) -> Self {
        Self { via: Some(LibraryId::NONE), own_content: true, ..self }
    }

    /// What members of a library see of it: nothing of the ways by which it came, and of a tombstone that the asset was
    /// there and when it went.
    #[must_use]
    pub fn for_members(&self) -> Self {
        if !self.deleted {
            return Self { via: None, own_content: false, ..self.clone() };
        }
        let (size, blake3, via, own_content, meta) = (0, None, None, false, AssetMeta::default());
        Self {
            hash: self.hash,
            size,
            blake3,
            hlc: self.hlc,
            writer: self.writer,
            deleted: true,
            left: self.left,
            via,
            own_content,
            meta,
        }
    }

    /// The record's id in the library whose record key is `key`.
    pub fn id(&self, key: &[u8; 32]) -> RecordId {
        let mut hasher = self.canonical(blake3::Hasher::new_keyed(key));
        if let Some(LibraryId(via)) = &self.via {
            hasher.update(via).update(&[u8::from(self.own_content)]);
        }
        RecordId(*hasher.finalize().as_bytes())
    }

    /// Digest of the canonical encoding; the same in every library.
    pub fn digest(&self) -> [u8; 32] {
        *self.canonical(blake3::Hasher::new_derive_key(DIGEST_CONTEXT)).finalize().as_bytes()
    }

    /// Names the edit whatever date it has: the digest of the version without any. A version that is dated anew is the
    /// same edit.
    pub fn edit(&self) -> EditId {
        let undated = Self {
            hlc: Hlc::default(),
            meta: AssetMeta { created_at_ms: 0, ..self.meta.clone() },
            ..self.clone()
        };
        EditId(undated.digest())
    }

    /// This version at an earlier date, for one that was dated by a clock that was ahead: what it would have at `now_ms`,
    /// after the version before it. `None` if that is no earlier.
    pub fn recalled(&self, before: Hlc, now_ms: u64) -> Option<Self> {
        let hlc = before.next(now_ms);
        let mut earlier = Self { hlc, ..self.clone() };
        if earlier.meta.created_at_ms > now_ms.saturating_add(HLC_AHEAD_MAX_MS) {
            earlier.meta.created_at_ms = hlc.ms();
        }
        (hlc < self.hlc).then_some(earlier)
    }

    /// This version once more, later than `other`, which was written before it and is dated after it.
    #[must_use]
    pub fn reasserted(&self, other: Hlc) -> Self {
        Self { hlc: Hlc(other.0.saturating_add(1)), ..self.clone() }
    }

    /// Feeds the canonical encoding to `hasher`: fixed fields in order, strings behind their length, options behind a
    /// flag. Without `blake3`, which is a hint, and `via`, which is no part of a version.
    fn canonical(&self, mut hasher: blake3::Hasher) -> blake3::Hasher {
        fn text(hasher: &mut blake3::Hasher, s: &str) {
            hasher.update(&(s.len() as u64).to_le_bytes()).update(s.as_bytes());
        }
        fn option(hasher: &mut blake3::Hasher, s: Option<&str>) {
            hasher.update(&[u8::from(s.is_some())]);
            text(hasher, s.unwrap_or_default());
        }
        let meta = &self.meta;
        hasher
            .update(&self.hash.0)
            .update(&self.size.to_le_bytes())
            .update(&self.hlc.0.to_le_bytes())
            .update(&self.writer.0)
            .update(&[u8::from(self.deleted) + 2 * u8::from(self.left)])
            .update(&meta.created_at_ms.to_le_bytes());
        text(&mut hasher, &meta.mime_type);
        option(&mut hasher, meta.filename.as_deref());
        option(&mut hasher, meta.application.as_deref());
        option(&mut hasher, meta.user.as_deref());
        option(&mut hasher, meta.description.as_deref());
        hasher.update(&(meta.tags.len() as u64).to_le_bytes());
        for tag in &meta.tags {
            text(&mut hasher, tag);
        }
        // A record that has none of these is encoded as before there were any.
        if !meta.names.is_empty() || !meta.dropped_names.is_empty() || meta.modified_at_ms.is_some() {
            hasher.update(&(meta.names.len() as u64).to_le_bytes());
            for name in &meta.names {
                text(&mut hasher, name);
            }
            hasher.update(&(meta.dropped_names.len() as u64).to_le_bytes());
            for dropped in &meta.dropped_names {
                hasher.update(&dropped.to_le_bytes());
            }
            hasher
                .update(&[u8::from(meta.modified_at_ms.is_some())])
                .update(&meta.modified_at_ms.unwrap_or_default().to_le_bytes());
        }
        hasher
    }
}

#[cfg(test)]
mod tests;
