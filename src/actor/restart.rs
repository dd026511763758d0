//! What to do after a child's exit. Pure: the time and the chance in it come in as arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::policy::{Backoff, Exhausted, Restart, RestartPolicy};

/// Characters kept of an error; a panic's message may hold anything.
const ERROR_CHARS_KEPT: usize = 300;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitKind {
    /// A panic, an error from a handler, or a start that did not succeed.
    Failed {
        /// The panic's message or the error.
        reason: String,
    },
    /// Killed, or its task was cancelled.
    Killed {
        /// What ractor says about it.
        reason: String,
    },
    /// It stopped in order.
    Stopped {
        /// Why, where a reason was given.
        reason: Option<String>,
        /// Whether that is how it should be: the supervisor asked for it.
        asked_for: bool,
    },
}

impl ExitKind {
    /// Why, in words for a person.
    pub fn reason(&self) -> String {
        match self {
            Self::Failed { reason } => reason.clone(),
            Self::Killed { reason } if reason == "killed" => reason.clone(),
            Self::Killed { reason } => format!("killed: {reason}"),
            Self::Stopped { reason: Some(reason), .. } => format!("stopped: {reason}"),
            Self::Stopped { reason: None, .. } => "stopped without a reason".to_owned(),
        }
    }
}

/// What a supervisor remembers of one child, over all its incarnations.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// When each restart of the current window takes place; never more than the budget.
    recent: VecDeque<Instant>,
    running_since: Option<Instant>,
    restarts: u32,
    spent_in_a_row: u32,
    last_error: Option<String>,
}

impl History {
    /// Takes note that an incarnation runs from `now` on.
    pub fn started(&mut self, now: Instant) {
        self.running_since = Some(now);
    }

    /// Restarts decided since the process started.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Since when the current incarnation runs.
    pub fn running_since(&self) -> Option<Instant> {
        self.running_since
    }

    /// Whether the budget was spent and the child has not run for a calm window since.
    pub fn is_spent(&self) -> bool {
        self.spent_in_a_row > 0
    }

    /// Takes note of a failure, and forgets what lies further back than the window.
    fn failed(&mut self, reason: &str, policy: &RestartPolicy, now: Instant) {
        self.last_error = Some(shortened(reason));
        let window = policy.budget.window;
        let ran = self.running_since.take().map_or(Duration::ZERO, |since| now.duration_since(since));
        if ran >= window {
            self.spent_in_a_row = 0;
        }
        while self.recent.front().is_some_and(|at| *at + window <= now) {
            self.recent.pop_front();
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartDecision {
    Respawn {
        after: Duration,
    },
    /// Go on without it, say why, and try again.
    Degrade {
        retry_after: Duration,
        why: String,
    },
    /// Shut the node down in order.
    Escalate {
        why: String,
    },
    /// Leave this peer alone.
    BackOff {
        for_: Duration,
        why: String,
    },
    /// Nothing; it is not missed.
    LetGo,
}

/// Decides what follows an exit at `now`, and takes note of it in `history`. `jitter` is chance, from 0 to 1.
///
/// The first restart is immediate, later ones wait ever longer. No window ever holds more restarts than the budget
/// allows. Once the budget is spent, every further failure counts as such until the child has run for a whole window.
pub fn decide(
    policy: &RestartPolicy,
    exit: &ExitKind,
    history: &mut History,
    now: Instant,
    jitter: f64,
) -> RestartDecision {
    let may_restart = match exit {
        ExitKind::Stopped { asked_for, .. } => !asked_for && policy.restart == Restart::Always,
        ExitKind::Failed { .. } | ExitKind::Killed { .. } => true,
    };
    if !may_restart {
        history.running_since = None;
        return RestartDecision::LetGo;
    }
    let reason = exit.reason();
    history.failed(&reason, policy, now);

    let used = u32::try_from(history.recent.len()).unwrap_or(u32::MAX);
    if history.is_spent() || used >= policy.budget.restarts {
        history.spent_in_a_row = history.spent_in_a_row.saturating_add(1);
        return give_up(policy, history, &reason);
    }
    let after = delay(policy.backoff, used, jitter);
    history.recent.push_back(now + after);
    history.restarts = history.restarts.saturating_add(1);
    RestartDecision::Respawn { after }
}

fn give_up(policy: &RestartPolicy, history: &mut History, reason: &str) -> RestartDecision {
    let RestartPolicy { kind, budget, backoff, exhausted, .. } = policy;
    let why =
        format!("{kind} failed more than {} times in {:?}, last: {reason}", budget.restarts, budget.window);
    match exhausted {
        Exhausted::Escalate => RestartDecision::Escalate { why },
        Exhausted::Degrade => {
            history.restarts = history.restarts.saturating_add(1);
            RestartDecision::Degrade { retry_after: backoff.max, why }
        }
        Exhausted::BackOffPeer => {
            let for_ = doubled(budget.window, history.spent_in_a_row - 1).min(backoff.max);
            RestartDecision::BackOff { for_, why }
        }
    }
}

/// The wait before restart number `used` (from 0) of a window. Chance may at most double a delay, and the next one is
/// twice as long: delays never shrink, whatever chance says.
fn delay(backoff: Backoff, used: u32, jitter: f64) -> Duration {
    let Some(doublings) = used.checked_sub(1) else { return Duration::ZERO };
    let base = doubled(backoff.min, doublings).min(backoff.max);
    let share = (backoff.jitter * jitter).clamp(0.0, 1.0);
    (base + base.mul_f64(share)).min(backoff.max)
}

fn doubled(duration: Duration, times: u32) -> Duration {
    duration.saturating_mul(2_u32.saturating_pow(times))
}

pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(ERROR_CHARS_KEPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
