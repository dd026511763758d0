//! Versions of entries that one side does not take before its clock shows their date.

use bytes::Bytes;
use tokio::time::Instant;

use super::super::deferring::{believed, due};
use super::super::{Session, SessionEffect};
use super::entry_hash;
use crate::entry::{EntryHash, FolderRecord};
use crate::record::RecordId;
use crate::wire::proto::Deferral;

/// Versions that wait for a clock, on either side. Forgetting one costs an offer per comparison; it is counted all the same.
const WAITING_MAX: usize = 4_096;

impl Session {
    /// Answers offers of versions that are not taken for so many milliseconds.
    pub(super) fn defer_entries(
        &mut self,
        later: &[(FolderRecord, u64)],
        now: Instant,
        out: &mut Vec<SessionEffect>,
    ) {
        let mut deferrals = Vec::new();
        for (record, wait_ms) in later {
            let (hash, rid, wait_ms) = (record.hash(), self.entry_id(record), *wait_ms);
            self.entries.echoes.forget(&hash);
            let entries = &mut self.entries;
            entries.waiting_changes += 1;
            if entries.later_here.len() < WAITING_MAX || entries.later_here.contains_key(&rid) {
                entries.later_here.insert(rid, due(now, wait_ms));
            } else {
                entries.beyond.0 += 1;
            }
            if self.entries.taken.remove(&hash) {
                let (hash, rid) = (Bytes::copy_from_slice(&hash.0), Bytes::copy_from_slice(&rid.0));
                deferrals.push(Deferral { hash, rid, wait_ms, held: false, entry: true });
            }
        }
        self.postpone(&deferrals, out);
    }

    /// The peer does not take a version of ours yet.
    pub(in super::super) fn on_entry_later(&mut self, deferral: &Deferral, now: Instant) {
        let (Some(hash), Some(rid)) = (entry_hash(&deferral.hash), RecordId::from_slice(&deferral.rid))
        else {
            return;
        };
        let entries = &mut self.entries;
        if !entries.given.remove(&hash) {
            return;
        }
        entries.waiting_changes += 1;
        if entries.later_there.len() < WAITING_MAX || entries.later_there.contains_key(&hash) {
            entries.later_there.insert(hash, (rid, believed(now, deferral.wait_ms)));
        } else {
            entries.beyond.1 += 1;
        }
    }

    /// Offers what the peer would take now, and lets what we would take be asked for again.
    pub(in super::super) fn end_entry_deferrals(&mut self, now: Instant) {
        let before = self.entries.waiting();
        self.entries.later_here.retain(|_, due| *due > now);
        let there = &mut self.entries.later_there;
        let over: Vec<EntryHash> =
            there.iter().filter(|(_, (_, due))| *due <= now).map(|(hash, _)| *hash).collect();
        for hash in &over {
            there.remove(hash);
        }
        self.entries.waiting_changes += u64::from(self.entries.waiting() != before);
        if !over.is_empty() {
            self.enqueue_entries(over);
        }
    }

    /// Our clock shows another time than before: what waits here may have to wait no longer.
    pub(in super::super) fn reconsider_entries(&mut self) {
        if !self.entries.later_here.is_empty() {
            self.entries.later_here.clear();
            self.entries.waiting_changes += 1;
            self.comparing.missed = true;
        }
    }
}
