//! What proves parts of a content, bodies of the sync API, and snapshots: see `testing::fuzz`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;

pub use super::bucket::snapshots::fuzz::{snapshot_manifest, snapshot_name};
pub use super::embedded::snapshots::fuzz::snapshot_items;
use super::groups::{
    GROUP_BYTES, GroupSum, PROOF_GROUPS_MAX, PROOF_NODES_MAX, check_proof, group_count, group_range,
    groups_of, proof_nodes, root, subtree,
};
use super::service::{part_name, range};
use super::sync_wire::BodyReader;
use crate::wire::proto::IngestHeader;

/// Most groups of a tree that is made whole.
const TREE_GROUPS: u64 = 1024;
/// A body never waits here: all of it is there.
const STALL: Duration = Duration::from_secs(1);

/// A size, a range, the number of a hash, and a root, then hashes: a proof from anybody, which proves nothing; and with one
/// hash changed, what an honest one proves, which is all the others alone.
pub fn proof(bytes: &[u8]) {
    let number =
        |at: usize| bytes.get(at..at + 8).and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    let (Some(size), Some(start), Some(length)) = (number(0), number(8), number(16)) else { return };
    let (count, wanted) = (group_count(size), groups_of(&(start..start.saturating_add(length))));
    let nodes = proof_nodes(count, &wanted);
    assert!(nodes.len() <= PROOF_NODES_MAX);
    let proved = u64::try_from(nodes.iter().filter(|node| wanted.contains(&node.start)).count());
    assert!(nodes.is_empty() || proved == Ok(wanted.end - wanted.start));
    assert!(nodes.is_sorted_by(|one, two| one.end == two.start), "not side by side: {nodes:?}");
    let hashes: &[GroupSum] = bytes[24..].as_chunks::<32>().0;
    if let Some((root, proof)) = hashes.split_first() {
        assert_eq!(check_proof(root, count, &wanted, proof), None, "a proof of nothing");
    }
    if count > TREE_GROUPS || nodes.is_empty() {
        return;
    }
    let sums: Vec<GroupSum> =
        (0..count).map(|group| *blake3::hash(&group.to_le_bytes()).as_bytes()).collect();
    let index = |group: u64| usize::try_from(group).unwrap_or(usize::MAX);
    let mut proof: Vec<GroupSum> =
        nodes.iter().map(|node| subtree(&sums[index(node.start)..index(node.end)])).collect();
    let expected = sums[index(wanted.start)..index(wanted.end)].to_vec();
    assert_eq!(check_proof(&root(&sums), count, &wanted, &proof), Some(expected));
    let changed = usize::from(bytes.last().copied().unwrap_or(0)) % proof.len();
    proof[changed][0] ^= 1;
    assert_eq!(check_proof(&root(&sums), count, &wanted, &proof), None, "hash {changed} does not count");
    let part = group_range(wanted.start, size);
    assert!(wanted.end - wanted.start <= PROOF_GROUPS_MAX && part.end - part.start <= GROUP_BYTES as u64);
}

/// A batch of assets: headers, with content behind them. The first byte says in which pieces it comes.
pub fn batch(bytes: &[u8]) {
    let Some((piece, body)) = bytes.split_first() else { return };
    let whole = read_batch(body, body.len().max(1));
    assert_eq!(read_batch(body, usize::from(*piece) + 1), whole, "where it is cut makes a difference");
}

/// The headers' lengths, and how it ended.
fn read_batch(body: &[u8], piece: usize) -> (Vec<u64>, Option<String>) {
    let pieces = body.chunks(piece).map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)));
    let pieces: Vec<_> = pieces.collect();
    let reading = async {
        let mut reader = BodyReader::new(futures::stream::iter(pieces), STALL);
        let mut lengths = Vec::new();
        loop {
            let mut left = match reader.message::<IngestHeader>().await {
                Ok(Some(header)) => header.length,
                Ok(None) => return (lengths, None),
                Err(error) => return (lengths, Some(error.to_string())),
            };
            lengths.push(left);
            while left > 0 {
                match reader.content(left).await {
                    Ok(content) => left -= content.len() as u64,
                    Err(error) => return (lengths, Some(error.to_string())),
                }
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without I/O").block_on(reading)
}

/// The `Content-Disposition` of a part of a form.
pub fn disposition(bytes: &[u8]) {
    use axum::http::{HeaderMap, HeaderValue, header::CONTENT_DISPOSITION};
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let headers: HeaderMap = [(CONTENT_DISPOSITION, value)].into_iter().collect();
    if let Some(name) = part_name::file_name(&headers) {
        assert!(!name.is_empty() && !name.contains('/'), "{name:?} is no name of a file");
        assert!(name.len() <= 3 * bytes.len(), "{name:?} grew");
    }
}

/// A size, then a `Range` header.
pub fn http_range(bytes: &[u8]) {
    let Some((size, header)) = bytes.split_first_chunk::<8>() else { return };
    let (size, Ok(header)) = (u64::from_le_bytes(*size), std::str::from_utf8(header)) else { return };
    if let range::RequestedRange::Part(part) = range::wanted(header, size) {
        assert!(part.start < part.end && part.end <= size, "{part:?} of {size} bytes");
    }
}
