//! Proofs that groups belong to a content, from the sums that are kept of it.
//!
//! A row of sums is a subtree of BLAKE3's tree, so the hashes of rows and one or two rows themselves make any proof. The hashes of
//! rows are kept in memory for contents that were asked for lately. They fold to the BLAKE3 of the content's record, or something
//! on our disk is wrong: the content is read in full then, before anybody is told anything that cannot be proved.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::rows::{self, ContentPlace};
use super::sums::{self, SUMS_PER_ROW, sums_in};
use super::{EmbeddedStore, sums::rows_of};
use crate::record::ContentHash;
use crate::store::groups::{GroupSum, group_count, proof_nodes, root, subtree};
use crate::store::{StoreError, StoreResult};

/// Contents whose rows are kept in memory: those that are asked for in parts at the same time. One of a TiB takes 512 KiB.
const TREES_MAX: usize = 16;
/// Rows that are read in one go: 2 MiB.
const ROWS_AT_ONCE: u64 = 64;

/// What the rows of sums of a content hash to.
#[derive(Debug)]
struct SumTree {
    size: u64,
    rows: Vec<GroupSum>,
    root: GroupSum,
}

/// The trees of contents that were asked for lately, the latest last.
#[derive(Debug, Default)]
pub(super) struct SumTrees(Mutex<VecDeque<(ContentHash, Arc<SumTree>)>>);

impl SumTrees {
    fn get(&self, hash: &ContentHash) -> Option<Arc<SumTree>> {
        let mut trees = self.0.lock();
        let at = trees.iter().position(|(other, _)| other == hash)?;
        let found = trees.remove(at)?;
        let tree = Arc::clone(&found.1);
        trees.push_back(found);
        Some(tree)
    }

    fn put(&self, hash: ContentHash, tree: &Arc<SumTree>) {
        let mut trees = self.0.lock();
        trees.retain(|(other, _)| *other != hash);
        trees.push_back((hash, Arc::clone(tree)));
        if trees.len() > TREES_MAX {
            trees.pop_front();
        }
    }

    fn forget(&self, hash: &ContentHash) {
        self.0.lock().retain(|(other, _)| other != hash);
    }
}

/// A content in a file, and what its record says.
#[derive(Clone, Copy)]
struct Provable {
    hash: ContentHash,
    size: u64,
    root: Option<GroupSum>,
}

impl EmbeddedStore {
    /// What proves these groups of a content, as [`proof_nodes`] says; empty where there is no such proof.
    pub(super) async fn prove(&self, hash: ContentHash, wanted: Range<u64>) -> StoreResult<Vec<GroupSum>> {
        let found = self.0.shared.readers.run("find content", move |conn| rows::find(conn, hash)).await?;
        let Some(stored) = found else { return Err(StoreError::NotFound(hash)) };
        let record = stored.asset.record;
        if !matches!(stored.place, Some(ContentPlace::File | ContentPlace::Object)) {
            return Ok(Vec::new());
        }
        let content = Provable { hash, size: record.size, root: record.blake3 };
        let nodes = proof_nodes(group_count(content.size), &wanted);
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let tree = match self.0.shared.trees.get(&hash).filter(|tree| tree.size == content.size) {
            Some(tree) => tree,
            None => self.plant(content).await?,
        };
        if let Some(proof) = self.pick(content, &tree, &wanted, &nodes).await? {
            return Ok(proof);
        }
        // The sums are not those any more that the tree was made of.
        self.0.shared.trees.forget(&hash);
        let tree = self.plant(content).await?;
        Ok(self.pick(content, &tree, &wanted, &nodes).await?.unwrap_or_default())
    }

    /// The hashes of these nodes; `None` if the rows that have them are not those of the tree.
    async fn pick(
        &self,
        Provable { hash, size, .. }: Provable,
        tree: &SumTree,
        wanted: &Range<u64>,
        nodes: &[Range<u64>],
    ) -> StoreResult<Option<Vec<GroupSum>>> {
        let per_row = SUMS_PER_ROW as u64;
        let touched = wanted.start / per_row..(wanted.end - 1) / per_row + 1;
        let (first, count) = (touched.start * per_row, group_count(size));
        let Some(here) = self.read_rows(hash, size, touched.clone()).await? else { return Ok(None) };
        let is_kept = touched
            .clone()
            .zip(here.chunks(SUMS_PER_ROW))
            .all(|(row, sums)| tree.rows.get(index(row)).is_some_and(|kept| *kept == subtree(sums)));
        if !is_kept {
            return Ok(None);
        }
        let hash_of = |node: &Range<u64>| {
            let is_of_rows =
                node.start.is_multiple_of(per_row) && (node.end.is_multiple_of(per_row) || node.end == count);
            if is_of_rows {
                tree.rows.get(index(node.start / per_row)..index(node.end.div_ceil(per_row))).map(subtree)
            } else {
                // Smaller than a row, and beside what is wanted: in the same row.
                let start = node.start.checked_sub(first)?;
                here.get(index(start)..index(node.end - first)).map(subtree)
            }
        };
        Ok(nodes.iter().map(hash_of).collect())
    }

    /// Makes the tree of a content, and the sums first if they are not there or wrong.
    async fn plant(&self, content: Provable) -> StoreResult<Arc<SumTree>> {
        let hash = content.hash;
        let mut tree = self.grow(content).await?;
        if tree.as_ref().is_none_or(|tree| content.root.is_some_and(|root| root != tree.root)) {
            if tree.is_some() {
                tracing::warn!(%hash, "the sums of a content are not those of its record: it is read in full");
            }
            self.make_sums(hash).await?;
            tree = self.grow(content).await?;
        }
        let tree = Arc::new(tree.ok_or(StoreError::NotFound(hash))?);
        if content.root.is_some_and(|root| root != tree.root) {
            // The content is right, as its SHA-256 says: what the record says is not.
            self.correct_root(hash, tree.root).await?;
        }
        self.0.shared.trees.put(hash, &tree);
        Ok(tree)
    }

    async fn grow(&self, Provable { hash, size, .. }: Provable) -> StoreResult<Option<SumTree>> {
        let (mut rows, mut at, all) = (Vec::new(), 0, rows_of(size));
        let mut only = Vec::new();
        while at < all {
            let until = all.min(at + ROWS_AT_ONCE);
            let Some(sums) = self.read_rows(hash, size, at..until).await? else { return Ok(None) };
            rows.extend(sums.chunks(SUMS_PER_ROW).map(subtree));
            only = if all == 1 { sums } else { Vec::new() };
            at = until;
        }
        let root = match rows.as_slice() {
            [] => return Ok(None),
            [_] => root(&only),
            rows => root(rows),
        };
        Ok(Some(SumTree { size, rows, root }))
    }

    /// These rows of sums, one after the other; `None` if one is missing or has not so many sums as it must.
    async fn read_rows(
        &self,
        hash: ContentHash,
        size: u64,
        rows: Range<u64>,
    ) -> StoreResult<Option<Vec<GroupSum>>> {
        let read = move |conn: &rusqlite::Connection| {
            let mut all = Vec::new();
            for row in rows {
                let Some(sums) = sums::read(conn, hash, row, sums_in(row, size))? else { return Ok(None) };
                all.extend(sums);
            }
            Ok(Some(all))
        };
        self.0.shared.readers.run("read the sums of a content", read).await
    }

    /// Puts the BLAKE3 of a content into its record, which had another one. It is no part of a version, so that nobody hears of it.
    async fn correct_root(&self, hash: ContentHash, root: GroupSum) -> StoreResult {
        tracing::warn!(%hash, "the record of a content had another BLAKE3 than the content: it is corrected");
        let corrected = self.submit(Vec::new(), 32, move |tx| {
            let update = "UPDATE records SET blake3 = ?2 WHERE hash = ?1 AND deleted = 0";
            tx.conn.prepare_cached(update)?.execute((hash.0, root))?;
            Ok(Ok(()))
        });
        match corrected.await {
            // A store that takes no writes gives what it has.
            Err(StoreError::Full(_) | StoreError::ReadOnly(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
