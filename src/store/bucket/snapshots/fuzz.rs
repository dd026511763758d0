//! Manifests and names of parts of snapshots, from any bytes: see `testing::fuzz`.

#[cfg(test)]
use super::manifest::{ChunkFacts, PartFacts};
use super::manifest::{Generation, PartName, SnapshotManifest};
use crate::store::StoreId;

/// The part that manifests are of here.
const PART: &str = "07070707070707070707070707070707/2026-09-21T14-13-20Z-00000000/000003.json";

fn part() -> PartName {
    PartName::of_manifest(PART).unwrap_or_else(|| PartName {
        store: StoreId([7; 16]),
        generation: Generation::new(0),
        part: 3,
    })
}

/// The manifest of a part of a snapshot.
pub fn snapshot_manifest(bytes: &[u8]) {
    let name = part();
    let Ok(manifest) = SnapshotManifest::read(bytes, &name) else { return };
    assert_eq!(SnapshotManifest::read(&manifest.text(), &name).as_ref(), Ok(&manifest));
    for (index, chunk) in manifest.facts.chunks.iter().enumerate() {
        let path = name.chunk_path(index, chunk);
        assert!(PartName::of_manifest(&path).is_none(), "{path} is the name of a manifest");
    }
}

/// The name of an object among snapshots.
pub fn snapshot_name(bytes: &[u8]) {
    let Some(name) = std::str::from_utf8(bytes).ok().and_then(PartName::of_manifest) else { return };
    assert_eq!(PartName::of_manifest(&name.manifest_path()).as_ref(), Some(&name));
    let next = PartName { generation: Generation::after(Some(&name.generation), 0), ..name };
    assert_eq!(PartName::of_manifest(&next.manifest_path()).as_ref(), Some(&next));
}

/// Manifests as they are written.
#[cfg(test)]
pub(crate) fn manifests() -> Vec<Vec<u8>> {
    let chunks = [b"one".as_slice(), b"another"].map(ChunkFacts::of).to_vec();
    let facts =
        PartFacts { since: 5, end: 9, next: 9, made_ms: 1_790_000_000_000, assets: 3, items: 4, chunks };
    vec![SnapshotManifest::new(&part(), facts).text()]
}

/// Names as they are written.
#[cfg(test)]
pub(crate) fn names() -> Vec<Vec<u8>> {
    let next = PartName { generation: Generation::after(Some(&part().generation), 0), ..part() };
    vec![PART.into(), next.manifest_path().into_bytes()]
}
