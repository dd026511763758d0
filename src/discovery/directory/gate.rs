//! How many announcements are looked at. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Seconds' worth of announcements that may come at once: everybody speaks when somebody joins.
const BURST_SECS: f64 = 2.0;

/// A token bucket in front of checking signatures, the only work that a flood could provoke. Half of it is kept for authors
/// who were alive here already, so that a flood of invented ones does not silence them.
#[derive(Debug)]
pub struct SignatureGate {
    per_sec: f64,
    tokens: f64,
    filled: Instant,
}

impl SignatureGate {
    /// Lets `per_sec` through, from now on.
    pub fn new(per_sec: u32, now: Instant) -> Self {
        let per_sec = f64::from(per_sec.max(1));
        Self { per_sec, tokens: (per_sec * BURST_SECS).max(2.0), filled: now }
    }

    /// Whether one more is let through.
    pub fn admits(&mut self, known: bool, now: Instant) -> bool {
        let full = (self.per_sec * BURST_SECS).max(2.0);
        let since: Duration = now.saturating_duration_since(self.filled);
        self.tokens = (self.tokens + since.as_secs_f64() * self.per_sec).min(full);
        self.filled = now;
        let kept = if known { 0.0 } else { full / 2.0 };
        let admitted = self.tokens - kept >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}
