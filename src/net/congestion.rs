//! Which congestion control a path gets: Cubic where it is short, BBR where it is long.
//!
//! Cubic takes every loss for congestion. On a long path it needs many round trips to come back from one, so that 1 % of losses on
//! 100 ms leave it a sixteenth of what BBR sends there; BBR goes by the rate at which things arrive, and keeps the queue in front of a
//! slow link short, too. On a short path that rate is what two busy processors and their sockets make of it: BBR measures pauses of
//! the scheduler, and takes a third to a half longer than Cubic, which is back within a millisecond. So a path is watched for its
//! first acknowledgements, and has the one that suits its round trip from then on.
//!
//! Within a machine there is no congestion at all, but iroh 1.4 throws away what it is about to send when the task that sends has
//! received much in the same turn: tokio's budget for that turn is used up, the socket claims not to be writable, and iroh goes on
//! as if the packets were lost. There the window does not fall below what keeps both sides going.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Controller, ControllerFactory, ControllerMetrics, RttEstimator};
use noq_proto::congestion::{Bbr3Config, CubicConfig};

/// The shortest round trip of a long path. Cables within a house and a wireless network that is not busy stay below.
const LONG: Duration = Duration::from_millis(8);
/// Acknowledgements that a path is watched for: the first ones are late where a handshake was being worked out.
const WATCHED_ACKS: u32 = 16;

/// What may be in flight in any case within a machine. Measured with 256 MiB each way at once on one connection: 256 KiB does not
/// help, 1 MiB takes a third off the time; with a connection each way it still takes a twelfth.
const WINDOW_WITHIN_MACHINE: u64 = 1024 * 1024;

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
        Box::new(Watched { in_force, other: Some(other), acks: 0, floor: self.floor })
    }
}

/// The controller of a path. While it is watched, both are told everything, so that either can go on.
#[derive(Debug)]
struct Watched {
    in_force: Box<dyn Controller>,
    /// The one for long paths, until the path is known.
    other: Option<Box<dyn Controller>>,
    acks: u32,
    /// The least window of a short path.
    floor: u64,
}

impl Watched {
    fn tell(&mut self, mut event: impl FnMut(&mut dyn Controller)) {
        event(self.in_force.as_mut());
        if let Some(other) = &mut self.other {
            event(other.as_mut());
        }
    }

    /// Decides, once there were enough acknowledgements.
    fn choose(&mut self, round_trip: Duration) {
        self.acks = self.acks.saturating_add(1);
        if self.acks >= WATCHED_ACKS
            && let Some(other) = self.other.take()
            && round_trip >= LONG
        {
            (self.in_force, self.floor) = (other, 0);
        }
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
        if self.other.is_some() {
            self.choose(rtt.min());
        }
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
        self.tell(|controller| controller.on_packet_lost(lost_bytes, pn, now));
    }

    fn on_spurious_congestion_event(&mut self) {
        self.tell(|controller| controller.on_spurious_congestion_event());
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.tell(|controller| controller.on_mtu_update(new_mtu));
    }

    fn on_ack_frequency_update(&mut self, ack_eliciting_threshold: u64, requested_max_ack_delay: Duration) {
        self.tell(|controller| {
            controller.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
        });
    }

    fn window(&self) -> u64 {
        self.in_force.window().max(self.floor)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.in_force.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            in_force: self.in_force.clone_box(),
            other: self.other.as_ref().map(|other| other.clone_box()),
            acks: self.acks,
            floor: self.floor,
        })
    }

    fn initial_window(&self) -> u64 {
        self.in_force.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use iroh::{EndpointAddr, RelayMode, SecretKey, TransportAddr};

    use super::*;
    use crate::net::endpoint;

    /// Whether a controller says how fast to send, as BBR does and Cubic does not.
    fn is_paced(controller: &dyn Controller) -> bool {
        controller.metrics().pacing_rate.is_some()
    }

    fn watched(round_trip: Duration, acks: u32) -> Watched {
        let built = Arc::new(ByRoundTrip::within_machine()).build(Instant::now(), 1200);
        let mut watched = *built.into_any().downcast::<Watched>().unwrap();
        (0..acks).for_each(|_| watched.choose(round_trip));
        watched
    }

    #[test]
    fn a_long_path_has_bbr_and_a_short_one_cubic_and_that_stays() {
        let short = LONG.checked_sub(Duration::from_micros(1)).unwrap();
        for (round_trip, paced) in [(Duration::ZERO, false), (short, false), (LONG, true)] {
            let mut path = watched(round_trip, WATCHED_ACKS - 1);
            assert!(!is_paced(&path) && path.other.is_some(), "a path begins as a short one");
            path.choose(round_trip);
            assert!(is_paced(&path) == paced && path.other.is_none(), "{round_trip:?}");
            assert_eq!(is_paced(path.clone_box().as_ref()), paced);
        }
    }

    #[test]
    fn within_a_machine_nothing_makes_the_window_smaller_than_that() {
        let mut path = watched(Duration::ZERO, WATCHED_ACKS);
        let now = Instant::now();
        for n in 0..10 {
            path.on_congestion_event(now + Duration::from_secs(n), now, true, false, 50_000, n);
            assert_eq!(path.window(), WINDOW_WITHIN_MACHINE);
            assert_eq!(path.clone_box().metrics().congestion_window, WINDOW_WITHIN_MACHINE);
        }
        assert!(path.initial_window() < WINDOW_WITHIN_MACHINE, "a path begins as Cubic does");
        let long = watched(LONG, WATCHED_ACKS);
        assert!(long.window() < WINDOW_WITHIN_MACHINE, "somewhere on the way is something slow");
    }

    #[tokio::test]
    async fn both_ends_of_a_connection_over_loopback_have_it() {
        let bind = || endpoint::bind(SecretKey::generate(), ([127, 0, 0, 1], 0).into(), RelayMode::Disabled);
        let (near, far) = (bind().await.unwrap(), bind().await.unwrap());
        let mut addr = EndpointAddr::new(far.id());
        addr.addrs.extend(far.bound_sockets().into_iter().map(TransportAddr::Ip));
        let accept = async {
            let incoming = far.accept().await.unwrap();
            assert!(endpoint::is_from_machine(&incoming));
            incoming.accept_with(endpoint::strangers_within_machine(&far)).unwrap().await.unwrap()
        };
        let both = tokio::time::timeout(Duration::from_secs(30), async {
            tokio::join!(endpoint::connect(&near, addr), accept)
        });
        let (dialled, accepted) = both.await.unwrap();
        for connection in [dialled.unwrap(), accepted] {
            let windows: Vec<u64> = connection.paths().iter().map(|path| path.stats().cwnd).collect();
            assert!(
                !windows.is_empty() && windows.iter().all(|window| *window >= WINDOW_WITHIN_MACHINE),
                "{windows:?}"
            );
        }
    }

    #[test]
    fn whoever_takes_over_heard_of_all_that_came_before() {
        let mut path = watched(LONG, WATCHED_ACKS - 1);
        let (now, before) = (Instant::now(), path.other.as_ref().unwrap().window());
        path.on_congestion_event(now, now, true, false, 50_000, 1);
        path.on_mtu_update(9000);
        path.choose(LONG);
        assert_ne!(path.window(), before);
    }
}
