//! How much a connection between two agents on one machine may have in flight.
//!
//! iroh 1.4 throws away what it is about to send when the task that sends has received much in the same turn: tokio's
//! budget for that turn is used up, the socket claims not to be writable, and iroh goes on as if the packets were lost.
//! Cubic takes that for congestion. A side that receives fast sends slower and slower, and of two sides that have much for
//! each other one waits until the other is done. On a network nothing can be done about that here, for losses may be
//! what they seem. Within a machine there is no congestion: the window does not fall below what keeps both sides going.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Controller, ControllerFactory, ControllerMetrics, RttEstimator};
use noq_proto::congestion::CubicConfig;

/// What may be in flight in any case. Measured with 256 MiB each way at once: 256 KiB does not help, 1 MiB takes a third
/// off the time.
const WINDOW_MIN: u64 = 1024 * 1024;

/// Makes a controller for each path.
#[derive(Debug, Default)]
pub(super) struct WithinMachine(Arc<CubicConfig>);

impl ControllerFactory for WithinMachine {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::clone(&self.0).build(now, current_mtu);
        Box::new(Floored(cubic))
    }
}

/// Cubic with a floor.
#[derive(Debug)]
struct Floored(Box<dyn Controller>);

impl Controller for Floored {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.0.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.0.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.0.on_cwnd_limited();
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
        self.0.on_ack(now, sent, bytes, pn, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.0.on_end_acks(now, in_flight, app_limited, largest_acked);
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
        self.0.on_congestion_event(now, sent, is_persistent_congestion, is_ecn, lost_bytes, largest_lost_pn);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.0.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.0.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, ack_eliciting_threshold: u64, requested_max_ack_delay: Duration) {
        self.0.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
    }

    fn window(&self) -> u64 {
        self.0.window().max(WINDOW_MIN)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.0.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self(self.0.clone_box()))
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
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

    #[test]
    fn nothing_makes_the_window_smaller_than_that() {
        let now = Instant::now();
        let mut controller = Arc::new(WithinMachine::default()).build(now, 1200);
        for n in 0..10 {
            controller.on_congestion_event(now + Duration::from_secs(n), now, true, false, 50_000, n);
            assert_eq!(controller.window(), WINDOW_MIN);
            assert_eq!(controller.clone_box().metrics().congestion_window, WINDOW_MIN);
        }
        assert!(controller.initial_window() < WINDOW_MIN, "a path begins as Cubic does");
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
            assert!(!windows.is_empty() && windows.iter().all(|window| *window >= WINDOW_MIN), "{windows:?}");
        }
    }
}
