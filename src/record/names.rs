//! The names of one content: which count as the same, which are taken away, and which of those that users of a store gave it are
//! written into a version that was made without knowing of them.
//!
//! A version replaces the one before it as a whole. So that a name is not lost where another machine's version wins, every store
//! keeps the names that its own users gave, and adds to a winner those that it lacks ([`keep_names`]). Nothing else changes in that
//! version, and it is dated as little later as can be: an edit that somebody made meanwhile still wins. Who takes a name away says
//! so in the version ([`AssetMeta::dropped_names`]), by a digest, since others need not learn what it was.

use std::borrow::Cow;
use std::collections::BTreeSet;

use unicode_normalization::UnicodeNormalization as _;

use super::{AssetMeta, AssetRecord, ContentHash, Hlc, META_BYTES_MAX, MetaError, WriterId};

/// Further names of one content, besides the first.
pub const NAMES_MAX: usize = 16;
pub const NAME_BYTES_MAX: usize = 1024;
/// Names that a version says were taken away: several times as many as one edit can take away.
pub const DROPPED_NAMES_MAX: usize = 64;

/// Context of the digest of a name that was taken away.
const DROPPED_CONTEXT: &str = "can-sync 2026 v3 dropped name";

/// What became of a name that somebody gave content that has others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameOutcome {
    /// The asset has it from now on.
    Added,
    /// The asset had it, or one that is canonically equal.
    Known,
    /// There is no room for one more.
    LeftOut,
}

/// What names are compared by: canonically equal ones are the same, whichever way they are written. Case counts.
fn composed(name: &str) -> Cow<'_, str> {
    if name.is_ascii() { Cow::Borrowed(name) } else { Cow::Owned(name.nfc().collect()) }
}

fn is_blank(name: &str) -> bool {
    name.trim().is_empty()
}

/// Says which name of a content it is, and not what it is.
fn dropped_id(hash: ContentHash, name: &str) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key(DROPPED_CONTEXT);
    hasher.update(&hash.0).update(composed(name).as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl AssetMeta {
    /// All names of the content: the first, and the further ones.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        self.filename.iter().chain(&self.names).map(String::as_str)
    }

    /// Whether the content is called so.
    pub fn is_named(&self, name: &str) -> bool {
        let wanted = composed(name);
        self.all_names().any(|known| composed(known) == wanted)
    }

    /// Further names as they are written where the first is `filename`: sorted, each once, without that one and without blank ones.
    pub fn further_names(filename: Option<&str>, names: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut taken: BTreeSet<String> =
            filename.map(|name| composed(name).into_owned()).into_iter().collect();
        let mut further: Vec<String> = names
            .into_iter()
            .filter(|name| !is_blank(name) && taken.insert(composed(name).into_owned()))
            .collect();
        further.sort_unstable();
        further
    }

    /// Gives the content one more name, if there is room for it: the first, where it has none.
    pub fn add_name(&mut self, name: &str) -> NameOutcome {
        if self.is_named(name) {
            return NameOutcome::Known;
        }
        let is_first = self.filename.as_deref().is_none_or(is_blank);
        let fits = if is_first {
            let replaced = self.filename.as_ref().map_or(0, String::len);
            self.text_bytes() - replaced + name.len() <= META_BYTES_MAX
        } else {
            name.len() <= NAME_BYTES_MAX
                && self.names.len() < NAMES_MAX
                && self.text_bytes() + name.len() <= META_BYTES_MAX
        };
        if !fits {
            return NameOutcome::LeftOut;
        }
        if is_first {
            self.filename = Some(name.to_owned());
        } else {
            let place = self.names.partition_point(|known| known.as_str() < name);
            self.names.insert(place, name.to_owned());
        }
        NameOutcome::Added
    }

    /// Notes which names of `before` are taken away by this, which follows it. The latest stay noted.
    pub fn note_dropped(&mut self, hash: ContentHash, before: &Self) {
        let mut dropped = before.dropped_names.clone();
        let gone = before.all_names().filter(|name| !is_blank(name) && !self.is_named(name));
        for id in gone.map(|name| dropped_id(hash, name)) {
            dropped.retain(|known| *known != id);
            dropped.push(id);
        }
        if !dropped.is_empty() {
            let named: BTreeSet<u64> = self.all_names().map(|name| dropped_id(hash, name)).collect();
            dropped.retain(|id| !named.contains(id));
        }
        dropped.drain(..dropped.len().saturating_sub(DROPPED_NAMES_MAX));
        self.dropped_names = dropped;
    }

    /// The rules about names, for [`AssetMeta::validate`].
    pub(super) fn validate_names(&self) -> Result<(), MetaError> {
        if self.names.len() > NAMES_MAX {
            return Err(MetaError::TooManyNames(self.names.len()));
        }
        if let Some(long) = self.names.iter().map(String::len).find(|len| *len > NAME_BYTES_MAX) {
            return Err(MetaError::NameTooLong(long));
        }
        // Byte by byte: which characters are equal changes with Unicode, and what is a record must not.
        let canonical = self.names.iter().all(|name| !is_blank(name) && self.filename.as_ref() != Some(name))
            && self.names.is_sorted_by(|a, b| a < b);
        if !canonical {
            return Err(MetaError::NamesNotCanonical);
        }
        let distinct: BTreeSet<&u64> = self.dropped_names.iter().collect();
        if distinct.len() > DROPPED_NAMES_MAX || distinct.len() < self.dropped_names.len() {
            return Err(MetaError::DroppedNames(self.dropped_names.len()));
        }
        Ok(())
    }
}

/// What a store does about the names that its users gave a content, after a version of it has won.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeptNames {
    /// The version to write over the winner: the same with the names that it lacked.
    pub again: Option<AssetRecord>,
    /// Names that somebody took away, and that the store forgets.
    pub gone: Vec<String>,
}

/// What the store of `writer` does about `own`, the names that its users gave the content of `winner`. What came through a library
/// is left as it is: nobody outside is to make us write.
pub fn keep_names(winner: &AssetRecord, own: &[String], writer: WriterId) -> KeptNames {
    if winner.deleted {
        return KeptNames { again: None, gone: own.to_vec() };
    }
    let gone = own.iter().filter(|name| has_dropped(winner, name)).cloned().collect();
    let hlc = winner.hlc.0.checked_add(1).filter(|_| winner.via.is_none());
    let again = hlc.and_then(|hlc| {
        let meta = with_names(winner, own)?;
        Some(AssetRecord { hlc: Hlc(hlc), writer, meta, ..winner.clone() })
    });
    KeptNames { again, gone }
}

/// What is said in `record`, with those of these names that it lacks, has room for, and does not say were taken away; `None` if
/// there are none.
pub fn with_names(record: &AssetRecord, names: &[String]) -> Option<AssetMeta> {
    let mut meta = record.meta.clone();
    for name in names.iter().filter(|name| !has_dropped(record, name)) {
        meta.add_name(name);
    }
    (meta != record.meta).then_some(meta)
}

/// Whether it says that this name was taken away.
fn has_dropped(record: &AssetRecord, name: &str) -> bool {
    let AssetMeta { dropped_names, .. } = &record.meta;
    !dropped_names.is_empty()
        && !record.meta.is_named(name)
        && dropped_names.contains(&dropped_id(record.hash, name))
}

#[cfg(test)]
mod tests;
