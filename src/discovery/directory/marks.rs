//! The last announcement of each author, against its replay.

use std::collections::HashMap;

use iroh::EndpointId;

use super::{AnnouncementRefusal, ENTRIES_MAX};
use crate::discovery::announcement::Mark;

/// How far an author's clock may be from ours.
pub(in crate::discovery) const CLOCKS_APART_MAX_MS: u64 = 10 * 60 * 1000;
/// Announcements that are remembered against their replay. One that is older than clocks may be apart needs no remembering,
/// so this many authors in twenty minutes are protected, whether they are still listed or not.
pub(super) const MARKS_MAX: usize = 2 * ENTRIES_MAX;

/// The place of the last announcement of each author.
#[derive(Debug, Default)]
pub(super) struct Marks(pub(super) HashMap<EndpointId, Mark>);

impl Marks {
    /// Whether an announcement is of our time, and later than what was heard of its author.
    pub(super) fn admit(&self, id: &EndpointId, mark: Mark, now_ms: u64) -> Result<(), AnnouncementRefusal> {
        if mark.timestamp_ms.abs_diff(now_ms) > CLOCKS_APART_MAX_MS {
            return Err(AnnouncementRefusal::Time);
        }
        if self.0.get(id).is_some_and(|last| !mark.is_after(last)) {
            return Err(AnnouncementRefusal::Replayed);
        }
        Ok(())
    }

    /// Takes note of one that was heard; without room, in place of the oldest.
    pub(super) fn remember(&mut self, id: EndpointId, mark: Mark) {
        if self.0.len() >= MARKS_MAX && !self.0.contains_key(&id) {
            let oldest = self.0.iter().min_by_key(|(_, mark)| mark.timestamp_ms).map(|(id, _)| *id);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(id, mark);
    }

    /// Takes note of one that was heard in an earlier run.
    pub(super) fn restore(&mut self, id: EndpointId, mark: Mark, now_ms: u64) {
        if is_recent(&mark, now_ms) {
            self.remember(id, mark);
        }
    }

    /// Forgets those that are too old to be heard again.
    pub(super) fn sweep(&mut self, now_ms: u64) {
        self.0.retain(|_, mark| is_recent(mark, now_ms));
    }
}

/// Whether an announcement could still be replayed.
fn is_recent(mark: &Mark, now_ms: u64) -> bool {
    mark.timestamp_ms.saturating_add(CLOCKS_APART_MAX_MS) >= now_ms
}
