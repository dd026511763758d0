//! When a session compares afresh: on a user's wish, after each burst, after silence, and after failures.

use tokio::time::Instant;

use super::{
    ASK_APART, INCOMPLETE_RETRY, INCOMPLETE_RETRY_MAX, PROBE_ANSWER_WITHIN, RECONCILE_APART, RECONCILE_RETRY,
    Recon, Session, SessionEffect, Summary, Unmoved,
};

impl Session {
    pub(super) fn on_answer(
        &mut self,
        nonce: u64,
        theirs: Summary,
        ours: Summary,
        certain: bool,
        now: Instant,
        out: &mut Vec<SessionEffect>,
    ) {
        if self.probe.is_none_or(|(asked, _)| asked != nonce) {
            return;
        }
        self.probe = None;
        // Only a question that was asked for this round answers it: an earlier one was about an earlier moment.
        let verifying = self.verify_nonce.take() == Some(nonce);
        if !certain {
            self.ask_after = Some(now + ASK_APART);
        }
        if self.is_busy() || !certain {
            // Something is on its way; once it is done, `pump` asks again if someone waits for the result.
            return;
        }
        let known = self.reconciled_for == Some((ours, theirs));
        if ours.same_records(&theirs) {
            self.deferred.all_there();
        }
        if ours.same_records(&theirs) || known {
            if let Some(round) = self.verifying.take_if(|_| verifying) {
                self.verified = round;
            }
        } else if verifying || self.unasked_at.is_none_or(|at| now.duration_since(at) > RECONCILE_APART) {
            if !verifying {
                self.unasked_at = Some(now);
            }
            self.reconciled_for = Some((ours, theirs));
            self.open_reconciliation(now, out);
        }
    }

    pub(super) fn open_reconciliation(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        self.recon = Recon::Running;
        self.opened_at = now;
        self.refused_there.clear();
        self.failed_here.clear();
        self.queue_overflowed = false;
        self.deferred.compared();
        out.push(SessionEffect::Reconcile);
    }

    pub(super) fn on_recon_ended(&mut self, opened_here: bool, result: Result<(), String>, now: Instant) {
        if !opened_here && self.recon == Recon::Running {
            // Ours is still under way, and says more.
            return;
        }
        if !opened_here {
            self.deferred.compared();
        }
        self.recon = match result {
            Ok(()) => Recon::Ended,
            Err(reason) => {
                self.last_error = Some(format!("reconciliation: {reason}"));
                Recon::Failed { at: now }
            }
        };
    }

    pub(super) fn on_tick(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        if let Some((_, asked)) = self.probe {
            if now.duration_since(asked) > PROBE_ANSWER_WITHIN {
                out.push(SessionEffect::Close { code: 408, reason: "no answer to a ping".into() });
            }
        } else if now.duration_since(self.last_heard) > self.settings.probe_after
            || (self.was_busy && !self.is_busy())
        {
            // Also after each burst: it shows what the peer holds now, and that nothing was missed.
            self.was_busy = false;
            self.ask(now, out);
        }
        self.end_deferrals(now);
        let retry = match self.recon {
            Recon::Failed { at } => now.duration_since(at) > RECONCILE_RETRY,
            Recon::Ended if self.is_busy() => false,
            Recon::Ended => {
                let due = now.duration_since(self.opened_at) > self.retry_after;
                let again = self.is_incomplete() && due;
                if again {
                    self.wait_longer();
                }
                self.queue_overflowed || again
            }
            Recon::Expected | Recon::Running => false,
        };
        if retry {
            self.open_reconciliation(now, out);
        }
    }

    /// What came to nothing once more comes later the next time; as soon as anything else is left, that is worth trying as
    /// soon as before.
    fn wait_longer(&mut self) {
        let left = Unmoved::of(&self.refused_there, &self.failed_here);
        let same = std::mem::replace(&mut self.unmoved, left) == left;
        self.retry_after =
            if same { (2 * self.retry_after).min(INCOMPLETE_RETRY_MAX) } else { INCOMPLETE_RETRY };
    }

    pub(super) fn ask(&mut self, now: Instant, out: &mut Vec<SessionEffect>) {
        let nonce = self.next_nonce;
        self.next_nonce += 1;
        self.probe = Some((nonce, now));
        out.push(SessionEffect::SendSummary { nonce, answer: false });
    }
}
