//! Paths that are tried again by themselves: files that somebody writes to, and what failed. Each has a turn of its own, so that one of
//! them costs no look at all the others.

use std::time::{Duration, Instant};

use super::{FolderWork, LookScope, SHOWN_MAX};
use crate::entry::{EntryHash, EntryPath};
use crate::folder::{FileStat, FolderAction};

/// From one turn to the next; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(10);
/// With shorter pauses, a file that is closed is read at once; one that is written and closed all the time is not.
const PAUSE_CLOSED: Duration = Duration::from_secs(8);
/// A file that was written less than this ago, and is not known to be closed, may be let rest.
const RESTS_MS: u64 = 1_000;
/// Paths with a turn of their own; what is beyond is met when everything is looked at.
const PATHS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub(super) struct LaterTurn {
    until: Instant,
    pause: Duration,
    /// Whether its turn came; what is remembered then is how long the next pause is.
    is_tried: bool,
    /// What failed; nothing, where somebody writes to the file.
    why: Option<String>,
}

impl FolderWork {
    pub(super) fn put_off(&mut self, hash: EntryHash, why: Option<String>) {
        self.undecided.insert(hash);
        if let Some(why) = &why
            && self.later.get(&hash).is_none_or(|later| later.why.as_ref() != Some(why))
        {
            tracing::warn!(folder = %self.binding.path.display(), why, "in a folder");
        }
        if self.later.len() >= PATHS_MAX && !self.later.contains_key(&hash) {
            self.later.retain(|_, later| !later.is_tried);
        }
        if self.later.len() >= PATHS_MAX && !self.later.contains_key(&hash) {
            self.is_restless = true;
            if let Some(why) = why {
                self.problem(why);
            }
            return;
        }
        let now = Instant::now();
        // One that was read meanwhile, and rested for longer than it was waited for, begins anew.
        let is_on = |later: &&LaterTurn| {
            later.why.is_some() || !later.is_tried || later.until + later.pause * 2 > now
        };
        let pause = self.later.get(&hash).filter(is_on).map_or(Duration::ZERO, |later| later.pause * 2);
        let pause = pause.clamp(PAUSE_MIN, PAUSE_MAX);
        let turn = LaterTurn { until: now + pause, pause, is_tried: false, why };
        self.later.insert(hash, turn);
    }

    /// Whether this waits for the turn of its path.
    pub(super) fn comes_later(&mut self, hash: EntryHash, action: &FolderAction) -> bool {
        let is_read = *action == FolderAction::Read;
        let is_on_disk = is_read
            || matches!(
                action,
                FolderAction::Write { .. } | FolderAction::Remove { .. } | FolderAction::StepAside(_)
            );
        // Its turn may have come because somebody asks, or because a file was closed that is open again.
        let is_empty_yet = is_read
            && self
                .file_of(hash)
                .is_some_and(|file| file.stat.size == 0 && self.is_being_written(hash, &file.stat));
        match self.later.get_mut(&hash) {
            Some(later) if later.until > Instant::now() => {
                if later.why.is_some() {
                    is_on_disk
                } else {
                    is_read
                }
            }
            Some(later) if !later.is_tried => {
                later.is_tried = true;
                let rests = is_empty_yet && later.why.is_none();
                if rests {
                    self.put_off(hash, None);
                }
                rests
            }
            Some(_) | None => {
                let waits =
                    is_read && self.file_of(hash).is_some_and(|file| self.is_being_written(hash, &file.stat));
                if waits {
                    self.put_off(hash, None);
                }
                waits
            }
        }
    }

    /// Takes note of whose files are written to, and whose were closed.
    pub(in crate::folder) fn hear_of_files(&mut self, scope: &LookScope) {
        let folder = self.binding.marker.folder;
        for name in &scope.names {
            let Ok(path) = EntryPath::parse(name) else { continue };
            let hash = EntryHash::of(folder, &path.plain(folder).unwrap_or(path));
            if scope.unrested.contains(name) {
                self.unrested.insert(hash);
            } else {
                self.try_again(hash);
                if scope.closed.contains(name) {
                    self.closed.insert(hash);
                }
            }
        }
        // One path may be heard of by two spellings.
        self.closed.retain(|hash| !self.unrested.contains(hash));
    }

    /// Whether somebody is likely to be in the middle of writing the file: it was written just now, nothing says that it was closed
    /// since, and it is known to be open, or changed during the look, or is empty as files are between being opened and being written.
    pub(super) fn is_being_written(&self, hash: EntryHash, stat: &FileStat) -> bool {
        let written_ms = u64::try_from(stat.mtime_ns / 1_000_000).unwrap_or_default();
        // Some file systems have full seconds, or every other one.
        let rests_ms = if stat.mtime_ns % 1_000_000_000 == 0 { RESTS_MS + 2_000 } else { RESTS_MS };
        let is_recent = self.now_ms().abs_diff(written_ms) < rests_ms;
        // Whoever closed it may have opened it again since.
        let changed_since = written_ms > self.look_began_ms;
        if !is_recent || (self.closed.contains(&hash) && !changed_since) {
            return false;
        }
        let agreed = self.agreed.get(&hash).and_then(|row| row.disk.as_ref());
        let is_agreed = agreed.is_some_and(|disk| disk.stat == *stat);
        self.unrested.contains(&hash) || (!is_agreed && (changed_since || stat.size == 0))
    }

    /// Nothing is left to do about a path.
    pub(super) fn forget_failure(&mut self, hash: EntryHash) {
        if self.later.get(&hash).is_some_and(|later| later.why.is_some()) {
            self.later.remove(&hash);
        }
    }

    /// A look is over that began then: no turn of before is left, also of paths that are no more.
    pub(super) fn end_turns(&mut self, began: Instant) {
        for later in self.later.values_mut().filter(|later| later.until <= began) {
            later.is_tried = true;
        }
        let is_known = |hash: &EntryHash| {
            let is_observed = self.observed.contains_key(hash);
            is_observed || self.entries.contains_key(hash) || self.agreed.contains_key(hash)
        };
        self.later
            .retain(|hash, later| is_known(hash) && (later.why.is_some() || later.until + PAUSE_MAX > began));
    }

    /// Somebody did something with the file, and closed it: what failed may go better now, and what did not rest may do so.
    pub(super) fn try_again(&mut self, hash: EntryHash) {
        let may_be = |later: &&mut LaterTurn| later.why.is_some() || later.pause < PAUSE_CLOSED;
        if let Some(later) = self.later.get_mut(&hash).filter(may_be) {
            later.until = Instant::now();
        }
    }

    /// Somebody asks for it.
    pub(super) fn try_all_again(&mut self) {
        let now = Instant::now();
        for later in self.later.values_mut() {
            later.until = now;
        }
    }

    /// Paths whose turn it is.
    pub(super) fn due(&self) -> Vec<EntryHash> {
        let now = Instant::now();
        let due = self.later.iter().filter(|(_, later)| !later.is_tried && later.until <= now);
        due.map(|(hash, _)| *hash).collect()
    }

    pub(crate) fn next_turn(&self) -> Option<Duration> {
        let turns = self.later.values().filter(|later| !later.is_tried).map(|later| later.until);
        turns.min().map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Whether somebody writes to files all the time.
    pub(crate) fn has_unrested(&self) -> bool {
        self.is_restless || self.later.values().any(|later| later.why.is_none() && !later.is_tried)
    }

    /// What failed and is tried again.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.later.values().filter_map(|later| later.why.clone()).take(SHOWN_MAX).collect()
    }
}
