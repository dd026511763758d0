//! One session that contents are fetched from: what waits for it, what it was asked for, and how fast it is.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{OVERDUE, OVERDUE_FACTOR, SMALL_BYTES_MAX, ScheduleLimits, WantKey};

/// Time after which a source is judged by what it sent.
pub(super) const JUDGED_AFTER: Duration = Duration::from_secs(5);
/// What a source that was asked for something must send in [`JUDGED_AFTER`] to count as one: about 400 bytes a second.
/// Below, the path is dead, or the source only pretends.
const LEAST_BYTES: u64 = 2 * 1024;
/// How long nothing is asked of a source that was too slow.
const REST: Duration = Duration::from_secs(10);
/// Requests that one source may have at once.
const REQUESTS_MAX: usize = 16;
/// Of them for large contents and parts.
const LARGE_REQUESTS_MAX: usize = 8;

/// What PeersActor saw of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceProgress {
    /// Content bytes that ever came from the peer.
    pub received: u64,
    /// Whether something that came waits for us: for the disk, the store, or a limit of ours.
    pub held_here: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceJudgement {
    Fine,
    Silent,
    /// So little came, so many bytes, that it is no source.
    Hopeless(u64),
}

#[derive(Debug, Default)]
pub(super) struct SessionSource {
    pub(super) small: VecDeque<WantKey>,
    pub(super) large: VecDeque<WantKey>,
    /// Charged for what is on its way.
    pub(super) bytes: u64,
    pub(super) requests: usize,
    pub(super) large_requests: usize,
    /// Bytes per second while it was asked for something; 0 as long as that is not known.
    pub(super) rate: f64,
    /// Size of the part that came last from it, and how long after it was asked for.
    pub(super) last_part: Option<(u64, Duration)>,
    /// Whether another one sent a part first that it was asked for, and it has sent none since.
    pub(super) is_overtaken: bool,
    /// What had come in all when it was last looked at while it was asked for something.
    last: Option<(Instant, u64)>,
    /// The same, second by second, for as long as nothing waited for us.
    samples: VecDeque<(Instant, u64)>,
    rests_until: Option<Instant>,
}

impl SessionSource {
    pub(super) fn queue(&mut self, size: u64) -> &mut VecDeque<WantKey> {
        if size <= SMALL_BYTES_MAX { &mut self.small } else { &mut self.large }
    }

    /// Room for one more request that is charged `cost`. An idle source gets its first one under any limit, so that
    /// nothing can be stuck; large ones leave a quarter of the room to small ones.
    pub(super) fn has_room(&self, limits: &ScheduleLimits, in_flight: u64, cost: u64, large: bool) -> bool {
        if self.bytes == 0 {
            return true;
        }
        let share = |bytes: u64| if large { bytes / 4 * 3 } else { bytes };
        self.requests < REQUESTS_MAX
            && !(large && self.large_requests >= LARGE_REQUESTS_MAX)
            && in_flight + cost <= share(limits.node_bytes)
            && self.bytes + cost <= share(limits.peer_bytes)
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    pub(super) fn rest(&mut self, now: Instant) {
        self.rests_until = Some(now + REST);
        self.samples.clear();
    }

    /// Takes note of what came until `now`, once a second or so, and judges.
    #[expect(clippy::cast_precision_loss, reason = "rates are for comparing")]
    pub(super) fn note(
        &mut self,
        progress: SourceProgress,
        now: Instant,
        stall: Duration,
    ) -> SourceJudgement {
        if self.requests == 0 {
            self.samples.clear();
            self.last = None;
            return SourceJudgement::Fine;
        }
        if let Some((at, before)) = self.last.replace((now, progress.received)) {
            let secs = now.duration_since(at).as_secs_f64().max(0.01);
            let rate = progress.received.saturating_sub(before) as f64 / secs;
            // What waits for us says nothing about the source.
            self.rate = if progress.held_here && rate < self.rate {
                self.rate
            } else if self.rate > 0.0 {
                f64::midpoint(self.rate, rate)
            } else {
                rate
            };
        }
        if progress.held_here {
            // It sends more than we take.
            self.samples.clear();
        }
        self.samples.push_back((now, progress.received));
        // One that is old enough for either question stays.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= stall.max(JUDGED_AFTER)) {
            self.samples.pop_front();
        }
        let came_in = |span: Duration| {
            let enough = |(at, _): &&(Instant, u64)| now.duration_since(*at) >= span;
            self.samples
                .iter()
                .rev()
                .find(enough)
                .map(|(_, before)| progress.received.saturating_sub(*before))
        };
        let periods = u64::from(u32::try_from(stall.as_secs() / JUDGED_AFTER.as_secs()).unwrap_or(1).max(1));
        match (came_in(JUDGED_AFTER), came_in(stall.max(JUDGED_AFTER))) {
            (_, Some(came)) if came < LEAST_BYTES * periods => SourceJudgement::Hopeless(came),
            (Some(0), _) => SourceJudgement::Silent,
            (Some(came), _) if came < LEAST_BYTES => SourceJudgement::Hopeless(came),
            (_, _) => SourceJudgement::Fine,
        }
    }

    /// How long a part of so many bytes may be on its way from another source before this one is asked for it, too; `None` as long as
    /// it has sent none.
    #[expect(clippy::cast_precision_loss, reason = "times are for comparing")]
    pub(super) fn patience_with_others(&self, bytes: u64) -> Option<Duration> {
        let (last, took) = self.last_part?;
        let larger = (bytes as f64 / last.max(1) as f64).max(1.0);
        Some(took.mul_f64(larger * OVERDUE_FACTOR) + OVERDUE)
    }

    /// Seconds that `bytes` would take if one request more were shared out than there are, or as many.
    #[expect(clippy::cast_precision_loss, reason = "rates are for comparing")]
    pub(super) fn secs_for(&self, bytes: u64, more: usize) -> Option<f64> {
        let requests = (self.large_requests + more).max(1) as f64;
        (self.rate > 0.0).then(|| bytes as f64 * requests / self.rate)
    }
}
