//! When a session compares afresh: on a user's wish, after each burst, after silence, and after failures.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Session, SessionEffect, Summary};
use crate::entry::EntryHash;
use crate::net::close::ANEW;
use crate::record::ContentHash;

/// Time that it has for the answer. Its store may take a while to answer it.
const PROBE_ANSWER_WITHIN: Duration = Duration::from_secs(30);
const RECONCILE_RETRY: Duration = Duration::from_secs(5);
/// Wait after an answer that said nothing because a store lagged behind.
pub(super) const ASK_APART: Duration = Duration::from_millis(100);
/// Least time between reconciliations that nobody asked for: some differences are meant to stay, such as deletions that
/// are not applied, and each reconciliation offers them again.
pub(super) const RECONCILE_APART: Duration = Duration::from_mins(1);
/// Time until assets that could not be moved are found and tried again; doubled up to the second for as long as they are
/// the very same ones each time.
const INCOMPLETE_RETRY: Duration = Duration::from_secs(15);
const INCOMPLETE_RETRY_MAX: Duration = Duration::from_mins(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reconciliation {
    /// Not compared yet; the other side is to open it.
    Expected,
    Running,
    Ended,
    Failed {
        at: Instant,
    },
}

/// What could not be moved either way: how many assets and entries, and sums over their hashes, to tell whether they are the same.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unmoved {
    there: (usize, u64),
    here: (usize, u64),
    entries_there: (usize, u64),
    entries_here: (usize, u64),
}

impl Unmoved {
    /// What the peer refused, and what failed here.
    fn of(
        assets: (&HashSet<ContentHash>, &HashSet<ContentHash>),
        entries: (&HashSet<EntryHash>, &HashSet<EntryHash>),
    ) -> Self {
        fn sum<'a>(names: impl Iterator<Item = &'a [u8; 32]>) -> (usize, u64) {
            names.fold((0, 0), |(count, sum), [a, b, c, d, e, f, g, h, ..]| {
                (count + 1, sum.wrapping_add(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h])))
            })
        }
        Self {
            there: sum(assets.0.iter().map(|hash| &hash.0)),
            here: sum(assets.1.iter().map(|hash| &hash.0)),
            entries_there: sum(entries.0.iter().map(|hash| &hash.0)),
            entries_here: sum(entries.1.iter().map(|hash| &hash.0)),
        }
    }
}

/// When the two sides last compared all that they have, and when they do so next.
#[derive(Debug)]
pub(super) struct Comparing {
    pub(super) reconciliation: Reconciliation,
    opened_at: Instant,
    /// Something was dropped or missed; reconciling again finds it.
    pub(super) missed: bool,
    /// Time until what could not be moved is tried again, and what that was when it was last tried.
    retry_after: Duration,
    unmoved: Unmoved,
    /// Fingerprints (ours, theirs) that a reconciliation was last opened for. Some differences are meant to stay, such
    /// as deletions that are not applied here; they are not worth a second one.
    reconciled_for: Option<(Summary, Summary)>,
    /// When a reconciliation was last opened that nobody asked for.
    unasked_at: Option<Instant>,
    pub(super) last_heard: Instant,
    /// A question on its way: its number and when it was asked.
    probe: Option<(u64, Instant)>,
    next_nonce: u64,
    /// Stores that lag behind are not asked in a tight loop.
    ask_after: Option<Instant>,
    /// Something moved since the last comparison.
    pub(super) was_busy: bool,
    /// The round of comparing afresh that is under way, and the last one that ended.
    pub(super) verifying: Option<u64>,
    pub(super) verified: u64,
    /// The question that was asked for it.
    verify_nonce: Option<u64>,
}

impl Comparing {
    /// Of two sides that have the `same`, or else reconcile at once: the one that dialled opens it.
    pub(super) fn begin(same: bool, dialer: bool, now: Instant) -> (Self, Vec<SessionEffect>) {
        let (reconciliation, effects) = match (same, dialer) {
            (true, _) => (Reconciliation::Ended, Vec::new()),
            (false, true) => (Reconciliation::Running, vec![SessionEffect::Reconcile]),
            (false, false) => (Reconciliation::Expected, Vec::new()),
        };
        let comparing = Self {
            reconciliation,
            opened_at: now,
            missed: false,
            retry_after: INCOMPLETE_RETRY,
            unmoved: Unmoved::default(),
            reconciled_for: None,
            unasked_at: None,
            last_heard: now,
            probe: None,
            next_nonce: 1,
            ask_after: None,
            was_busy: !same,
            verifying: None,
            verified: 0,
            verify_nonce: None,
        };
        (comparing, effects)
    }

    /// Compares afresh as soon as nothing is on its way.
    pub(super) fn verify(&mut self, round: u64) {
        self.verifying = Some(round);
        self.verify_nonce = None;
        // A user who asks wants what was given up on to be tried again, too.
        self.reconciled_for = None;
        self.retry_after = INCOMPLETE_RETRY;
    }
}

impl Session {
    /// What the two sides compare of what they have. Where both keep records of folders by now, and did not when the session began, it
    /// begins anew.
    pub(super) fn compared(
        &self,
        ours: Summary,
        theirs: Summary,
        out: &mut Vec<SessionEffect>,
    ) -> (Summary, Summary) {
        let agreed = self.settings.entries;
        if !agreed && ours.entries.is_some() && theirs.entries.is_some() {
            out.push(SessionEffect::Close { code: ANEW, reason: "both sides keep folders by now".into() });
        }
        (ours.with_entries(agreed), theirs.with_entries(agreed))
    }

    pub(super) fn all_there(&mut self) {
        self.deferred.all_there();
        self.entries.all_there();
    }

    /// Whether assets are to be compared, and entries, where we have `ours` by now. What both have alike is left out, unless all is
    /// alike: then something is thought to be amiss.
    pub fn to_compare(&self, ours: Summary) -> (bool, bool) {
        let agreed = self.settings.entries;
        let (assets, entries) = (!ours.same_assets(&self.theirs), agreed && !ours.same_entries(&self.theirs));
        if assets || entries { (assets, entries) } else { (true, agreed) }
    }

    pub(super) fn on_answer(
        &mut self,
        nonce: u64,
        theirs: Summary,
        ours: Summary,
        certain: bool,
        now: Instant,
        out: &mut Vec<SessionEffect>,
    ) {
        if self.comparing.probe.is_none_or(|(asked, _)| asked != nonce) {
            return;
        }
        self.comparing.probe = None;
        // Only a question that was asked for this round answers it: an earlier one was about an earlier moment.
        let verifying = self.comparing.verify_nonce.take() == Some(nonce);
        if !certain {
            self.comparing.ask_after = Some(now + ASK_APART);
        }
        if self.is_busy() || !certain {
            // Something is on its way; once it is done, `pump` asks again if someone waits for the result.
            return;
        }
        let known = self.comparing.reconciled_for == Some((ours, theirs));
        if ours.same_records(&theirs) {
            self.all_there();
        }
        if ours.same_records(&theirs) || known {
            if let Some(round) = self.comparing.verifying.take_if(|_| verifying) {
                self.comparing.verified = round;
            }
        } else if verifying
            || self.comparing.unasked_at.is_none_or(|at| now.duration_since(at) > RECONCILE_APART)
        {
            if !verifying {
                self.comparing.unasked_at = Some(now);
            }
            self.comparing.reconciled_for = Some((ours, theirs));
            self.open_reconciliation(now, out);
        }
    }

    pub(super) fn open_reconciliation(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        self.comparing.reconciliation = Reconciliation::Running;
        self.comparing.opened_at = now;
        self.offering.refused.clear();
        self.taking.failed.clear();
        self.entries.compared();
        self.comparing.missed = false;
        self.deferred.compared();
        out.push(SessionEffect::Reconcile);
    }

    pub(super) fn on_recon_ended(&mut self, opened_here: bool, result: Result<(), String>, now: Instant) {
        if !opened_here && self.comparing.reconciliation == Reconciliation::Running {
            // Ours is still under way, and says more.
            return;
        }
        if !opened_here {
            self.deferred.compared();
            self.entries.recount();
        }
        self.comparing.reconciliation = match result {
            Ok(()) => Reconciliation::Ended,
            Err(reason) => {
                self.last_error = Some(format!("reconciliation: {reason}"));
                Reconciliation::Failed { at: now }
            }
        };
    }

    pub(super) fn on_tick(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        if let Some((_, asked)) = self.comparing.probe {
            if now.duration_since(asked) > PROBE_ANSWER_WITHIN {
                out.push(SessionEffect::Close { code: 408, reason: "no answer to a ping".into() });
            }
        } else if now.duration_since(self.comparing.last_heard) > self.settings.probe_after
            || (self.comparing.was_busy && !self.is_busy())
        {
            // Also after each burst: it shows what the peer holds now, and that nothing was missed.
            self.comparing.was_busy = false;
            self.ask(now, out);
        }
        self.end_deferrals(now);
        self.end_entry_deferrals(now);
        let retry = match self.comparing.reconciliation {
            Reconciliation::Failed { at } => now.duration_since(at) > RECONCILE_RETRY,
            Reconciliation::Ended if self.is_busy() => false,
            Reconciliation::Ended => {
                let due = now.duration_since(self.comparing.opened_at) > self.comparing.retry_after;
                let again = self.is_incomplete() && due;
                if again {
                    self.wait_longer();
                }
                self.comparing.missed || again
            }
            Reconciliation::Expected | Reconciliation::Running => false,
        };
        if retry {
            self.open_reconciliation(now, out);
        }
    }

    /// What came to nothing once more comes later the next time; as soon as anything else is left, that is worth trying as
    /// soon as before.
    fn wait_longer(&mut self) {
        let entries = (&self.entries.refused, &self.entries.failed);
        let left = Unmoved::of((&self.offering.refused, &self.taking.failed), entries);
        let same = std::mem::replace(&mut self.comparing.unmoved, left) == left;
        self.comparing.retry_after =
            if same { (2 * self.comparing.retry_after).min(INCOMPLETE_RETRY_MAX) } else { INCOMPLETE_RETRY };
    }

    /// Asks for the round that is under way, once nothing moves any more.
    pub(super) fn ask_for_round(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        let Comparing { verifying, verify_nonce, ask_after, .. } = &self.comparing;
        let due = ask_after.is_none_or(|at| now >= at);
        if verifying.is_some() && verify_nonce.is_none() && due && !self.is_busy() {
            self.ask(now, out);
            self.comparing.verify_nonce = self.comparing.probe.map(|(nonce, _)| nonce);
        }
    }

    fn ask(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        let nonce = self.comparing.next_nonce;
        self.comparing.next_nonce += 1;
        self.comparing.probe = Some((nonce, now));
        out.push(SessionEffect::SendSummary { nonce, answer: false });
    }
}
