//! Which congestion control a path gets: Cubic where it is short, BBR where it is long.
//!
//! Cubic takes every loss for congestion. On a long path it needs many round trips to come back from one, so that 1 % of losses on
//! 100 ms leave it a sixteenth of what BBR sends there; BBR goes by the rate at which things arrive, and keeps the queue in front of a
//! slow link short, too. On a short path that rate is what two busy processors and their sockets make of it: BBR measures pauses of
//! the scheduler, and takes a third to a half longer than Cubic, which is back within a millisecond. So a path is watched for its
//! first acknowledgements, and has the one that suits its round trip from then on. A path that turns out to be shorter than it looked
//! while a machine was busy begins anew with Cubic.
//!
//! Within a machine there is no congestion at all, but iroh 1.4 throws away what it is about to send when the task that sends has
//! received much in the same turn: tokio's budget for that turn is used up, the socket claims not to be writable, and iroh goes on
//! as if the packets were lost. There the window does not fall below what keeps both sides going.

mod losses;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Controller, ControllerFactory, ControllerMetrics, RttEstimator};
use noq_proto::congestion::{Bbr3Config, CubicConfig};

use losses::Losses;

/// The shortest round trip of a long path. Cables within a house and a wireless network that is not busy stay below.
const LONG: Duration = Duration::from_millis(8);
/// Acknowledgements that a path is watched for: the first ones are late where a handshake was being worked out.
const WATCHED_ACKS: u32 = 16;

/// What may be in flight in any case within a machine. Measured with 256 MiB each way at once on one connection: 256 KiB does not
/// help, 1 MiB takes a third off the time; with a connection each way it still takes a twelfth.
const WINDOW_WITHIN_MACHINE: u64 = 1024 * 1024;

/// Packets that may be in flight on a long path in any case, and leave within half a round trip: a small asset with its record.
/// BBR takes more than 2 % of losses for congestion, and of few packets each loss is more: with 5 % of losses on 40 ms, what changed
/// now and then was sent as slowly as it had come so far, and took a round trip longer.
const LEAST_PACKETS_LONG: u64 = 8;

/// Makes a controller for each path.
#[derive(Debug, Default)]
pub(super) struct ByRoundTrip {
    floor: u64,
    short: Arc<CubicConfig>,
    long: Arc<Bbr3Config>,
}

impl ByRoundTrip {
    /// For a connection whose both ends are on this machine.
    pub(super) fn within_machine() -> Self {
        Self { floor: WINDOW_WITHIN_MACHINE, ..Self::default() }
    }
}

impl ControllerFactory for ByRoundTrip {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let in_force = Arc::clone(&self.short).build(now, current_mtu);
        let other = Arc::clone(&self.long).build(now, current_mtu);
        Box::new(Watched {
            in_force,
            state: PathState::Watched { other, acks: 0 },
            mtu: current_mtu,
            round_trip: Duration::ZERO,
            losses: Losses::default(),
            told_loss: false,
            within: self,
        })
    }
}

#[derive(Debug)]
enum PathState {
    /// Too little. Both controllers are told everything, so that either can go on: the one for long paths, and acknowledgements so far.
    Watched { other: Box<dyn Controller>, acks: u32 },
    /// Cubic is in force.
    Short,
    /// BBR is in force.
    Long,
}

#[derive(Debug)]
struct Watched {
    in_force: Box<dyn Controller>,
    state: PathState,
    mtu: u16,
    /// The shortest so far.
    round_trip: Duration,
    losses: Losses,
    /// The controller in force was told of a loss that it may have to take back.
    told_loss: bool,
    /// What it was made by.
    within: Arc<ByRoundTrip>,
}

impl Watched {
    fn tell(&mut self, mut event: impl FnMut(&mut dyn Controller)) {
        event(self.in_force.as_mut());
        if let PathState::Watched { other, .. } = &mut self.state {
            event(other.as_mut());
        }
    }

    /// Decides, once there were enough acknowledgements; and again where the least round trip so far shows that a path is short.
    fn choose(&mut self, now: Instant, round_trip: Duration) {
        match &mut self.state {
            PathState::Watched { acks, .. } if *acks + 1 < WATCHED_ACKS => *acks += 1,
            PathState::Watched { .. } => {
                let state = if round_trip >= LONG { PathState::Long } else { PathState::Short };
                if let PathState::Watched { other, .. } = std::mem::replace(&mut self.state, state)
                    && matches!(self.state, PathState::Long)
                {
                    self.in_force = other;
                }
            }
            PathState::Long if round_trip < LONG => {
                self.in_force = Arc::clone(&self.within.short).build(now, self.mtu);
                self.state = PathState::Short;
            }
            PathState::Short | PathState::Long => {}
        }
    }

    fn floor(&self) -> u64 {
        match self.state {
            PathState::Long => LEAST_PACKETS_LONG * u64::from(self.mtu),
            PathState::Watched { .. } | PathState::Short => self.within.floor,
        }
    }

    /// The least rate of a controller that says how fast to send, in bytes a second: that window in half a round trip, or what a
    /// lossy path was found to take.
    fn least_rate(&self) -> u64 {
        let micros = u64::try_from(self.round_trip.as_micros() / 2).unwrap_or(u64::MAX);
        let rate = self.floor().saturating_mul(1_000_000).checked_div(micros).unwrap_or(0);
        rate.max(self.losses.least_rate())
    }
}

impl Controller for Watched {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.tell(|controller| controller.on_sent(now, bytes, largest_pn));
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.tell(|controller| controller.on_packet_sent(now, bytes, pn));
    }

    fn on_cwnd_limited(&mut self) {
        self.tell(|controller| controller.on_cwnd_limited());
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.tell(|controller| controller.on_ack(now, sent, bytes, pn, app_limited, rtt));
        self.round_trip = rtt.min();
        let bits = self.in_force.metrics().bandwidth_estimate.unwrap_or(0);
        self.losses.arrived(now, rtt.get(), rtt.min(), bits / 8);
        self.choose(now, rtt.min());
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.tell(|controller| controller.on_end_acks(now, in_flight, app_limited, largest_acked));
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.tell(|controller| {
            controller.on_congestion_event(
                now,
                sent,
                is_persistent_congestion,
                is_ecn,
                lost_bytes,
                largest_lost_pn,
            );
        });
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        // What has no size is an acknowledgement, and nobody says when one of those arrives.
        if lost_bytes > 0 {
            self.losses.lost();
        }
        // BBR forgets by itself about packets of which it hears no more.
        if matches!(self.state, PathState::Long) && self.losses.is_lossy() {
            return;
        }
        self.told_loss = true;
        self.tell(|controller| controller.on_packet_lost(lost_bytes, pn, now));
    }

    fn on_spurious_congestion_event(&mut self) {
        // BBR goes back to how it was before the last loss that it heard of.
        if matches!(self.state, PathState::Long) && !std::mem::take(&mut self.told_loss) {
            return;
        }
        self.tell(|controller| controller.on_spurious_congestion_event());
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.tell(|controller| controller.on_mtu_update(new_mtu));
    }

    fn on_ack_frequency_update(&mut self, ack_eliciting_threshold: u64, requested_max_ack_delay: Duration) {
        self.tell(|controller| {
            controller.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
        });
    }

    fn window(&self) -> u64 {
        self.in_force.window().max(self.floor())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.in_force.metrics();
        metrics.congestion_window = self.window();
        metrics.pacing_rate = metrics.pacing_rate.map(|rate| rate.max(self.least_rate()));
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            in_force: self.in_force.clone_box(),
            state: match &self.state {
                PathState::Watched { other, acks } => {
                    PathState::Watched { other: other.clone_box(), acks: *acks }
                }
                PathState::Short => PathState::Short,
                PathState::Long => PathState::Long,
            },
            mtu: self.mtu,
            round_trip: self.round_trip,
            losses: self.losses.clone(),
            told_loss: self.told_loss,
            within: Arc::clone(&self.within),
        })
    }

    fn initial_window(&self) -> u64 {
        self.in_force.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
