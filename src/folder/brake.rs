//! The brake: many removals at once wait until somebody says that they are meant.
//!
//! A disk that was not mounted, a wrong `rm -rf`, a program that encrypts or empties everything: on one machine each of these looks like
//! a user who removes files, and it would be one on all machines. So removals are counted, on the machine that sees them and on those
//! that receive them. What lives on under another path was moved and does not count; replacing by nothing does.

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::EntryHash;
use crate::record::ContentHash;

/// So few files may be lost whatever the size of the folder.
pub(crate) const LOSSES_FREE: u64 = 20;
/// What counts as at once: a directory that is removed comes as a row of small looks.
const AT_ONCE_MS: u64 = 10 * 60 * 1000;
/// Of the folder, as `1 / n`: what may be lost at once.
const AT_ONCE_PART: u64 = 10;
/// Losses below that add up for so long.
const SUMMED_MS: u64 = 24 * 3600 * 1000;
/// Of the folder, as `1 / n`: what may be lost within that time.
const SUMMED_PART: u64 = 4;
/// Losses of one minute are one number.
const BUCKET_MS: u64 = 60 * 1000;

/// A path that is about to lose its content; see [`FolderAction::loses`](super::FolderAction::loses).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PathLoss {
    pub(crate) entry: EntryHash,
    pub(crate) content: ContentHash,
}

/// What the brake of one folder remembers; kept in `agent.db`, and written there before the losses that [`FolderBrake::judge`] lets pass
/// are carried out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FolderBrake {
    /// Paths whose loss waits.
    pub(crate) held: BTreeSet<EntryHash>,
    /// Paths whose loss the user confirmed and that is not carried out yet.
    pub(crate) confirmed: BTreeSet<EntryHash>,
    /// How many losses passed, by the minute in which they did.
    pub(crate) passed: BTreeMap<u64, u64>,
}

impl FolderBrake {
    /// Which of these losses may be carried out now; the others are held. While some are held, others that come wait, too; but where some
    /// turn out to have moved, since their removals came here before what was added, what is left is judged anew.
    ///
    /// `files` is how many files the folder has with them, `entries_with` how many live entries have a content, those of `losses` among
    /// them. Additions are in the store by then ([`FolderAction::phase`](super::FolderAction::phase)).
    pub(crate) fn judge(
        &mut self,
        losses: &[PathLoss],
        files: u64,
        now_ms: u64,
        entries_with: impl Fn(ContentHash) -> u64,
    ) -> BTreeSet<EntryHash> {
        let mut lost_of: BTreeMap<ContentHash, u64> = BTreeMap::new();
        for loss in losses {
            *lost_of.entry(loss.content).or_default() += 1;
        }
        let lives_on = |loss: &PathLoss| {
            entries_with(loss.content) > lost_of.get(&loss.content).copied().unwrap_or_default()
        };
        let (free, counted): (Vec<&PathLoss>, Vec<&PathLoss>) =
            losses.iter().partition(|loss| self.confirmed.contains(&loss.entry) || lives_on(loss));
        let mut passing: BTreeSet<EntryHash> = free.iter().map(|loss| loss.entry).collect();
        let were_held = self.held.len();
        self.held.retain(|held| !passing.contains(held));
        let is_anew = self.held.is_empty() || self.held.len() < were_held;
        let counted: BTreeSet<EntryHash> = counted.iter().map(|loss| loss.entry).collect();
        let fresh = counted.union(&self.held).count() as u64;
        if !is_anew || self.is_too_much(fresh, files, now_ms) {
            self.held.extend(counted);
        } else {
            // Those of them that were not looked at now are judged with the next look at them.
            self.held.clear();
            if !counted.is_empty() {
                *self.passed.entry(now_ms / BUCKET_MS).or_default() += counted.len() as u64;
            }
            passing.extend(counted);
        }
        passing
    }

    fn is_too_much(&mut self, fresh: u64, files: u64, now_ms: u64) -> bool {
        let minute = now_ms / BUCKET_MS;
        // A clock that was set back must not make the brake forget, nor one that was ahead make it count for ever.
        let late: u64 = self.passed.split_off(&(minute + 1)).values().sum();
        if late > 0 {
            *self.passed.entry(minute).or_default() += late;
        }
        let since = |age_ms: u64| minute.saturating_sub(age_ms / BUCKET_MS);
        self.passed = self.passed.split_off(&since(SUMMED_MS));
        let within =
            |age_ms: u64| -> u64 { self.passed.range(since(age_ms)..).map(|(_, count)| count).sum() };
        let is_over = |age_ms: u64, part: u64| {
            let before = within(age_ms);
            let lost = before + fresh;
            lost > LOSSES_FREE && lost * part > files + before
        };
        fresh > 0 && (is_over(AT_ONCE_MS, AT_ONCE_PART) || is_over(SUMMED_MS, SUMMED_PART))
    }

    /// After a look at the whole folder: what would not be lost any more is held no more. `losses` are those paths that would lose
    /// something, and those of which that is not known: of a few that were let go of, the brake would let each pass later.
    pub(crate) fn keep_only(&mut self, losses: &BTreeSet<EntryHash>) {
        self.held.retain(|held| losses.contains(held));
        self.confirmed.retain(|confirmed| losses.contains(confirmed));
    }

    /// The user means it: what is held is carried out at the next look.
    pub(crate) fn confirm(&mut self) {
        self.confirmed.append(&mut self.held);
    }

    /// The user does not: the paths to [`revert`](super::revert). They stay held until that is done.
    pub(crate) fn to_revert(&self) -> Vec<EntryHash> {
        self.held.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3600 * 1000;

    fn losses(range: std::ops::Range<u32>) -> Vec<PathLoss> {
        let bytes = |n: u32, tag: u8| {
            let mut bytes = [tag; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            bytes
        };
        range.map(|n| PathLoss { entry: EntryHash(bytes(n, 1)), content: ContentHash(bytes(n, 2)) }).collect()
    }

    fn judged(brake: &mut FolderBrake, losses: &[PathLoss], files: u64, now_ms: u64) -> usize {
        brake.judge(losses, files, now_ms, |_| 1).len()
    }

    #[test]
    fn few_pass_and_so_do_many_of_very_many() {
        for (count, files, passes) in
            [(20, 20, true), (21, 209, false), (21, 210, true), (100, 1_000, true), (101, 1_000, false)]
        {
            let mut brake = FolderBrake::default();
            let passing = judged(&mut brake, &losses(0..count), files, 0);
            assert_eq!(passing, if passes { count as usize } else { 0 }, "{count} of {files}");
            assert_eq!(brake.held.len(), if passes { 0 } else { count as usize });
        }
    }

    #[test]
    fn a_directory_that_goes_bit_by_bit_is_held_and_so_is_one_that_goes_slowly() {
        for (step_ms, most) in [(1_000, 20), (HOUR_MS, 50)] {
            let mut brake = FolderBrake::default();
            let mut passed = 0;
            for n in 0..200 {
                let now_ms = u64::from(n) * step_ms / 10;
                passed += judged(&mut brake, &losses(n..n + 1), 200 - u64::from(n).min(100), now_ms);
            }
            assert!(passed >= 20 && passed <= most, "{passed}");
            assert_eq!(brake.held.len(), 200 - passed);
        }
        // What a user throws away in a week is not counted together.
        let mut brake = FolderBrake::default();
        let passed: usize =
            (0..100).map(|n| judged(&mut brake, &losses(n..n + 1), 200, u64::from(n) * 2 * HOUR_MS)).sum();
        assert_eq!(passed, 100);
    }

    #[test]
    fn what_lives_on_is_a_move_and_copies_that_all_go_are_none() {
        let mut brake = FolderBrake::default();
        let all = losses(0..100);
        assert_eq!(brake.judge(&all, 100, 0, |_| 2).len(), 100);
        assert!(brake.passed.is_empty());
        // A hundred files of one content: it lives on if one of them stays.
        let alike: Vec<PathLoss> =
            all.iter().map(|loss| PathLoss { content: ContentHash([0; 32]), ..*loss }).collect();
        assert_eq!(FolderBrake::default().judge(&alike, 100, 0, |_| 100).len(), 0);
        assert_eq!(FolderBrake::default().judge(&alike, 101, 0, |_| 101).len(), 100);
    }

    #[test]
    fn what_is_left_of_a_move_whose_additions_came_late_is_judged_by_itself() {
        let (all, gone) = (losses(0..100), losses(98..100));
        let gone: BTreeSet<ContentHash> = gone.iter().map(|loss| loss.content).collect();
        let is_moved = |content: ContentHash| if gone.contains(&content) { 1 } else { 2 };
        let mut brake = FolderBrake::default();
        assert_eq!(judged(&mut brake, &all, 200, 0), 0);
        assert_eq!(brake.judge(&all, 200, 0, is_moved).len(), 100);
        assert!(brake.held.is_empty());
        // The same, where too much is left.
        let mut brake = FolderBrake::default();
        assert_eq!(judged(&mut brake, &all, 200, 0), 0);
        let half: BTreeSet<ContentHash> = losses(0..50).iter().map(|loss| loss.content).collect();
        let is_moved = |content: ContentHash| if half.contains(&content) { 1 } else { 2 };
        assert_eq!(brake.judge(&all, 200, 0, is_moved).len(), 50);
        assert_eq!(brake.held.len(), 50);
    }

    #[test]
    fn what_is_held_stays_held_until_somebody_answers() {
        let mut brake = FolderBrake::default();
        assert_eq!(judged(&mut brake, &losses(0..50), 100, 0), 0);
        // Days later, and a single other one waits with them.
        assert_eq!(judged(&mut brake, &losses(0..50), 100, 100 * HOUR_MS), 0);
        assert_eq!(judged(&mut brake, &losses(60..61), 100, 100 * HOUR_MS), 0);
        assert_eq!((brake.held.len(), brake.to_revert().len()), (51, 51));
        let still: BTreeSet<EntryHash> = losses(0..30).iter().map(|loss| loss.entry).collect();
        brake.keep_only(&still);
        assert_eq!(brake.held.len(), 30);
        brake.confirm();
        assert_eq!(judged(&mut brake, &losses(0..30), 100, 100 * HOUR_MS), 30);
        assert!(brake.held.is_empty());
        brake.keep_only(&BTreeSet::new());
        assert!(brake.confirmed.is_empty());
        assert_eq!(judged(&mut brake, &losses(30..31), 100, 100 * HOUR_MS), 1);
    }

    #[test]
    fn a_clock_that_jumps_does_not_make_it_forget() {
        let mut brake = FolderBrake::default();
        assert_eq!(judged(&mut brake, &losses(0..15), 100, 400 * HOUR_MS), 15);
        assert_eq!(judged(&mut brake, &losses(15..30), 85, 0), 0);
        let mut brake = FolderBrake::default();
        assert_eq!(judged(&mut brake, &losses(0..15), 100, 400 * HOUR_MS), 15);
        assert_eq!(judged(&mut brake, &losses(15..20), 85, 0), 5);
        assert_eq!(judged(&mut brake, &losses(20..35), 80, 30 * HOUR_MS), 15);
    }
}
