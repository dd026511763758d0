//! What one part of a snapshot consists of: a small object that is written last, and says how long each of its chunks is and what
//! it hashes to.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::store::StoreId;

/// The format that is written, and the newest that is understood.
const FORMAT: u32 = 1;
pub(crate) const CHUNK_BYTES_MAX: usize = 8 << 20;
/// Chunks of one part, at most: 80 GiB.
pub(crate) const CHUNKS_MAX: usize = 10_000;
const GENERATION_CHARS_MAX: usize = 40;
/// Digits of a hash in the name of its chunk.
const NAME_DIGITS: usize = 16;
const PART_DIGITS: usize = 6;
/// A base that is dated so much later than now was made by a clock that was ahead.
const AHEAD_MAX_MS: u64 = 24 * 3600 * 1000;

/// A base and its increments: when it was begun, and something random. Later ones are greater, whatever the clock does.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Generation(String);

impl Generation {
    /// A new one, begun at this time.
    pub(crate) fn new(now_ms: u64) -> Self {
        let random: [u8; 4] = rand::random();
        let began = crate::clock::rfc3339(now_ms).unwrap_or_default();
        let began: String =
            began.chars().filter(|c| *c != '.').map(|c| if c == ':' { '-' } else { c }).collect();
        Self(format!("{began}-{}", HEXLOWER.encode(&random)))
    }

    /// One that is greater than this one, which is the greatest that is there.
    pub(crate) fn after(last: Option<&Self>, now_ms: u64) -> Self {
        let new = Self::new(now_ms);
        match last.filter(|last| **last >= new) {
            // The clock was ahead when that was begun.
            Some(last) => last.next().unwrap_or(new),
            None => new,
        }
    }

    /// One that is greater; `None` where no number in it can be.
    fn next(&self) -> Option<Self> {
        let (date, random) = self.0.rsplit_once('-')?;
        let mut date = date.as_bytes().to_vec();
        for digit in date.iter_mut().rev().filter(|digit| digit.is_ascii_digit()) {
            if *digit < b'9' {
                *digit += 1;
                let fresh: [u8; 4] = rand::random();
                let fresh = HEXLOWER.encode(&fresh);
                // What nobody of ours named keeps to the length.
                let end = if random.len() == fresh.len() { fresh } else { random.to_owned() };
                return Some(Self(format!("{}-{end}", String::from_utf8(date).ok()?)));
            }
            *digit = b'0';
        }
        None
    }

    fn parse(text: &str) -> Option<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let fits = !text.is_empty() && text.len() <= GENERATION_CHARS_MAX;
        (fits && text.chars().all(is_plain)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a part: 0 is the base of its generation, those that follow are increments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PartName {
    pub(crate) store: StoreId,
    pub(crate) generation: Generation,
    pub(crate) part: u32,
}

impl PartName {
    /// The directory of its generation, below that of all snapshots.
    pub(super) fn dir(store: StoreId, generation: &Generation) -> String {
        format!("{store}/{generation}")
    }

    fn stem(&self) -> String {
        format!("{}/{:0PART_DIGITS$}", Self::dir(self.store, &self.generation), self.part)
    }

    /// Its manifest, below the directory of all snapshots.
    pub(super) fn manifest_path(&self) -> String {
        format!("{}.json", self.stem())
    }

    /// One of its chunks. What it hashes to is in its name, so that nobody replaces another's.
    pub(super) fn chunk_path(&self, index: usize, chunk: &ChunkFacts) -> String {
        let digits = chunk.sha256.get(..NAME_DIGITS).unwrap_or_default();
        format!("{}-{index:05}-{digits}", self.stem())
    }

    pub(super) fn of_manifest(path: &str) -> Option<Self> {
        let (store, generation, name) = split(path)?;
        let digits = name.strip_suffix(".json")?;
        let is_number = digits.len() == PART_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        let part = digits.parse().ok().filter(|_| is_number)?;
        Some(Self { store, generation, part })
    }
}

/// Whose an object is, of which generation, and its name there.
pub(super) fn split(path: &str) -> Option<(StoreId, Generation, &str)> {
    let (store, rest) = path.split_once('/')?;
    let (generation, name) = rest.split_once('/')?;
    if name.contains('/') {
        return None;
    }
    Some((StoreId::from_str(store).ok()?, Generation::parse(generation)?, name))
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct ChunkFacts {
    pub(crate) bytes: usize,
    pub(crate) sha256: String,
}

impl ChunkFacts {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len(), sha256: HEXLOWER.encode(&Sha256::digest(bytes)) }
    }

    fn is_plausible(&self) -> bool {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        self.bytes <= CHUNK_BYTES_MAX && self.sha256.len() == 64 && self.sha256.bytes().all(is_digit)
    }
}

/// What a part has, as whoever writes it says.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct PartFacts {
    /// It has the changes after this number…
    pub(crate) since: u64,
    /// …up to this one.
    pub(crate) end: u64,
    /// Behind which number the next part begins: before `end` where that covers what an earlier generation ends with.
    pub(crate) next: u64,
    /// The records are those of this time, or later.
    pub(crate) made_ms: u64,
    pub(crate) assets: u64,
    pub(crate) items: u64,
    pub(crate) chunks: Vec<ChunkFacts>,
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotManifest {
    can_sync_snapshot: u32,
    /// The version of the program that wrote it.
    version: String,
    store: String,
    generation: String,
    part: u32,
    #[serde(flatten)]
    pub(crate) facts: PartFacts,
    /// SHA-256 of all of this with nothing here.
    sum: String,
}

/// Only this, of a manifest of any format.
#[derive(Deserialize)]
struct AnyManifest {
    can_sync_snapshot: u32,
}

impl SnapshotManifest {
    pub(crate) fn new(name: &PartName, facts: PartFacts) -> Self {
        let manifest = Self {
            can_sync_snapshot: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store: name.store.to_string(),
            generation: name.generation.to_string(),
            part: name.part,
            facts,
            sum: String::new(),
        };
        let sum = manifest.own_sum();
        Self { sum, ..manifest }
    }

    fn own_sum(&self) -> String {
        let bare = Self { sum: String::new(), ..self.clone() };
        // A structure of strings and numbers has a JSON.
        HEXLOWER.encode(&Sha256::digest(serde_json::to_vec(&bare).unwrap_or_default()))
    }

    pub(super) fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.facts.chunks.iter().map(|chunk| chunk.bytes as u64).sum()
    }

    /// Reads one that is to be of this part.
    ///
    /// # Errors
    /// A clause: what is wrong with it.
    pub(super) fn read(text: &[u8], name: &PartName) -> Result<Self, String> {
        let garbled = |error: serde_json::Error| format!("its manifest is damaged: {error}");
        let AnyManifest { can_sync_snapshot } = serde_json::from_slice(text).map_err(garbled)?;
        if can_sync_snapshot > FORMAT {
            return Err("it was made by a newer version of can-sync: use that one".into());
        }
        let manifest: Self = serde_json::from_slice(text).map_err(garbled)?;
        let is_of = manifest.store == name.store.to_string()
            && manifest.generation == name.generation.0
            && manifest.part == name.part;
        let is_plausible = manifest.facts.chunks.len() <= CHUNKS_MAX
            && manifest.facts.chunks.iter().all(ChunkFacts::is_plausible);
        if is_of && is_plausible && manifest.own_sum() == manifest.sum {
            Ok(manifest)
        } else {
            Err("its manifest is not what was written".into())
        }
    }
}

/// Whether only a clock that was ahead can have dated something so.
pub(crate) fn is_ahead(made_ms: u64, now_ms: u64) -> bool {
    made_ms > now_ms.saturating_add(AHEAD_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(part: u32) -> PartName {
        PartName { store: StoreId([7; 16]), generation: Generation::new(1_700_000_000_000), part }
    }

    fn facts(chunks: Vec<ChunkFacts>) -> PartFacts {
        PartFacts { since: 0, end: 9, next: 9, made_ms: 1, assets: 3, items: 4, chunks }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for part in [0, 7, 999_999] {
            let name = name(part);
            assert_eq!(PartName::of_manifest(&name.manifest_path()), Some(name.clone()));
            let chunk = ChunkFacts::of(b"chunk");
            let path = name.chunk_path(3, &chunk);
            assert_eq!(PartName::of_manifest(&path), None);
            assert_eq!(split(&path).map(|(store, ..)| store), Some(name.store));
        }
        for other in ["a/b/000000.json", "07/x/000000.json", "/", "", "a/b/c/d"] {
            assert_eq!(PartName::of_manifest(other), None, "{other}");
        }
        assert!(Generation::new(1_700_000_000_000) < Generation::new(1_700_000_000_001));
    }

    #[test]
    fn names_grow_even_where_the_clock_was_ahead() {
        const NOW: u64 = 1_700_000_000_000;
        let usual = Generation::after(Some(&Generation::new(NOW - 1)), NOW);
        assert!(usual > Generation::new(NOW - 1) && usual < Generation::new(NOW + 1));
        let mut last = Generation::new(NOW + 400 * 24 * 3600 * 1000 - 1);
        for _ in 0..2500 {
            let next = Generation::after(Some(&last), NOW);
            assert!(next > last, "{next} {last}");
            assert_eq!(Generation::parse(&next.to_string()), Some(next.clone()));
            last = next;
        }
        for odd in ["9-0", "z-1", "z"] {
            let odd = Generation::parse(odd).unwrap();
            assert!(Generation::after(Some(&odd), NOW) > Generation::new(NOW - 1), "{odd}");
        }
    }

    #[test]
    fn one_that_is_dated_ahead_of_now_is_told_from_others() {
        assert!(is_ahead(AHEAD_MAX_MS + 2, 1) && !is_ahead(AHEAD_MAX_MS + 1, 1) && !is_ahead(1, u64::MAX));
    }

    #[test]
    fn a_manifest_says_itself_whether_it_is_whole() {
        let name = name(0);
        let manifest = SnapshotManifest::new(&name, facts(vec![ChunkFacts::of(b"chunk")]));
        let text = manifest.text();
        assert_eq!(SnapshotManifest::read(&text, &name), Ok(manifest.clone()));
        assert!(SnapshotManifest::read(&text, &PartName { part: 1, ..name.clone() }).is_err());
        for cut in 0..text.len() {
            assert!(SnapshotManifest::read(&text[..cut], &name).is_err(), "{cut}");
        }
        for at in 0..text.len() {
            let mut flipped = text.clone();
            flipped[at] ^= 1;
            let read = SnapshotManifest::read(&flipped, &name);
            assert!(read.is_err(), "{at}: {}", String::from_utf8_lossy(&flipped));
        }
        let newer =
            String::from_utf8(text).unwrap().replace("\"can_sync_snapshot\":1", "\"can_sync_snapshot\":2");
        assert!(SnapshotManifest::read(newer.as_bytes(), &name).unwrap_err().contains("newer version"));
    }

    #[test]
    fn a_manifest_is_written_as_ever() {
        let generation = Generation("2026-01-01T00-00-00Z-00000000".into());
        let name = PartName { store: StoreId([7; 16]), generation, part: 3 };
        let chunk = ChunkFacts { bytes: 5, sha256: "ab".repeat(32) };
        let manifest = SnapshotManifest::new(&name, facts(vec![chunk]));
        let text = String::from_utf8(manifest.text()).unwrap();
        let expected = format!(
            "{{\"can_sync_snapshot\":1,\"version\":\"{}\",\"store\":\"{}\",\"generation\":\"{}\",\"part\":3,\"since\":0,\"end\":9,\"next\":9,\
             \"made_ms\":1,\"assets\":3,\"items\":4,\"chunks\":[{{\"bytes\":5,\"sha256\":\"{}\"}}],\"sum\":\"{}\"}}",
            manifest.version,
            "07".repeat(16),
            name.generation,
            "ab".repeat(32),
            manifest.sum
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn chunks_that_none_can_be_are_refused() {
        let name = name(0);
        let too_long = ChunkFacts { bytes: CHUNK_BYTES_MAX + 1, ..ChunkFacts::of(b"chunk") };
        let no_hash = ChunkFacts { bytes: 1, sha256: "../../x".into() };
        for wrong in [vec![too_long], vec![no_hash], vec![ChunkFacts::of(b"x"); CHUNKS_MAX + 1]] {
            let text = SnapshotManifest::new(&name, facts(wrong)).text();
            assert!(SnapshotManifest::read(&text, &name).is_err());
        }
    }
}
