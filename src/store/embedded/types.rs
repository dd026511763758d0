//! What the embedded store is asked, and what it answers, beyond [`ContentStore`](crate::store::ContentStore).

use std::path::PathBuf;

use crate::clock::Clock;
use crate::record::{AssetRecord, ContentHash, NameOutcome};
use crate::store::Holding;

#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Its directory; made if it is missing.
    pub dir: PathBuf,
    /// Bytes that are kept free on that disk: content that would go into them is refused.
    pub disk_reserve_bytes: u64,
    /// By which edits are dated, and what is old is purged.
    pub clock: Clock,
}

/// What a user says about content that is uploaded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IngestFields {
    /// Media type; guessed from the content, then from the file name, if absent or empty.
    pub mime_type: Option<String>,
    /// Name that the content had where it came from.
    pub filename: Option<String>,
    pub application: Option<String>,
    pub user: Option<String>,
    pub description: Option<String>,
    /// In any order; trimmed, sorted and de-duplicated by the store.
    pub tags: Vec<String>,
    /// When the file was last written, in milliseconds since the Unix epoch.
    pub modified_at_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ingested {
    pub asset: StoredAsset,
    /// `false` if the store held this content, as a live asset, before.
    pub new: bool,
    /// Whether what is known of it is otherwise than before.
    pub changed: bool,
    /// What became of the name that came with it, if one did and the asset was known.
    pub name: Option<NameOutcome>,
}

/// An asset, or its tombstone, as this store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredAsset {
    /// Number of its latest change in this store.
    pub seq: u64,
    /// When that change was made in this store, in milliseconds since the Unix epoch.
    pub updated_at_ms: u64,
    pub record: AssetRecord,
    pub holding: Holding,
}

impl StoredAsset {
    /// Names this version of what is known of the asset: an entity tag, quotes included.
    pub fn version_tag(&self) -> String {
        // A store that was set back counts once more, at another time.
        format!("\"{}-{}\"", self.seq, self.updated_at_ms)
    }
}

/// A change of metadata. The outer `None` leaves a field as it is; `Some(None)` clears it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MetaPatch {
    pub mime_type: Option<String>,
    /// Name that the content had where it came from.
    pub filename: Option<Option<String>>,
    pub application: Option<Option<String>>,
    pub user: Option<Option<String>>,
    pub description: Option<Option<String>>,
    /// All tags, in any order.
    pub tags: Option<Vec<String>>,
    /// All further names, in any order.
    pub names: Option<Vec<String>>,
}

/// The beginning of a content hash, in hexadecimal digits: a range of hashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashPrefix {
    first: [u8; 32],
    last: [u8; 32],
}

impl HashPrefix {
    pub const DIGITS_MIN: usize = crate::text::naming::DIGITS_MIN;

    /// From 4 to 64 lower-case hexadecimal digits; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = Self::DIGITS_MIN..=64;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if !digits.contains(&text.len()) || !text.bytes().all(is_digit) {
            return None;
        }
        let padded = |with: char| {
            let whole: String = text.chars().chain(std::iter::repeat(with)).take(64).collect();
            whole.parse::<ContentHash>().ok().map(|hash| hash.0)
        };
        Some(Self { first: padded('0')?, last: padded('f')? })
    }

    /// The first and the last hash that begin so.
    pub fn range(&self) -> ([u8; 32], [u8; 32]) {
        (self.first, self.last)
    }
}

/// Which live assets to list. All fields that are given must match.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListFilter {
    pub application: Option<String>,
    pub user: Option<String>,
    /// Media types that begin so.
    pub mime_prefix: Option<String>,
    /// Any of these; none given means any asset.
    pub tags: Vec<String>,
    /// Any of these; none given means any asset. At most 1,000.
    pub hashes: Vec<ContentHash>,
    /// Whose hash begins with these hexadecimal digits.
    pub hash_prefix: Option<HashPrefix>,
    /// Text in the names or the description, in upper or lower case.
    pub q: Option<String>,
    /// Created at this millisecond or later.
    pub from_ms: Option<u64>,
    /// Created at this millisecond or earlier.
    pub to_ms: Option<u64>,
    /// Only those whose content is here, or only those whose content is not.
    pub held: Option<bool>,
}

/// By time of creation, assets of one millisecond by hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    #[default]
    NewestFirst,
    OldestFirst,
}

/// A question for [`list`](super::EmbeddedStore::list).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListQuery {
    pub filter: ListFilter,
    pub order: Order,
    /// How many at most; brought into 1..=1000.
    pub limit: usize,
    /// The `next_cursor` of the page before, with the same filter and order.
    pub cursor: Option<String>,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self { filter: ListFilter::default(), order: Order::default(), limit: 50, cursor: None }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListPage {
    pub assets: Vec<StoredAsset>,
    pub next_cursor: Option<String>,
    /// All that match the filter, on whatever page.
    pub total: u64,
    /// Whether there may be more than `total`: counting ends where it takes too long.
    pub total_is_bound: bool,
}
