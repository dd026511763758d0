//! How much a connection may have in flight: Cubic, but for paths so short that losses on them are no congestion.
//!
//! iroh 1.4 throws away what it is about to send when the task that sends has received much in the same turn: tokio's
//! budget for that turn is used up, the socket claims not to be writable, and iroh goes on as if the packets were lost.
//! Whoever receives fast loses most of what it sends itself, Cubic makes it slower and slower for that, and of two
//! sides that have much for each other one waits until the other is done. Packets that are lost that way are known to
//! be lost after one round trip, so where that is next to nothing, they cost next to nothing: there the window does not
//! fall below what keeps both sides going.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Controller, ControllerFactory, ControllerMetrics, RttEstimator};
use noq_proto::congestion::CubicConfig;

/// Round trips within one machine take less than this, those of a network of cables more.
const NEAR: Duration = Duration::from_micros(150);
/// What may be in flight on such a path in any case: measured on loopback, both ways at once, 256 KiB does not help and
/// 1 MiB takes a third off the time.
const NEAR_WINDOW: u64 = 1024 * 1024;

/// Makes a controller for each path.
#[derive(Debug, Default)]
pub(super) struct NearOrCubic(Arc<CubicConfig>);

impl ControllerFactory for NearOrCubic {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::clone(&self.0).build(now, current_mtu);
        Box::new(Near { cubic, is_near: false })
    }
}

/// Cubic with a floor on near paths.
#[derive(Debug)]
struct Near {
    cubic: Box<dyn Controller>,
    is_near: bool,
}

impl Controller for Near {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.cubic.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.cubic.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.cubic.on_cwnd_limited();
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
        self.is_near = rtt.min() < NEAR;
        self.cubic.on_ack(now, sent, bytes, pn, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_acked);
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
        self.cubic.on_congestion_event(
            now,
            sent,
            is_persistent_congestion,
            is_ecn,
            lost_bytes,
            largest_lost_pn,
        );
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.cubic.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.cubic.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, ack_eliciting_threshold: u64, requested_max_ack_delay: Duration) {
        self.cubic.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
    }

    fn window(&self) -> u64 {
        let window = self.cubic.window();
        if self.is_near { window.max(NEAR_WINDOW) } else { window }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { cubic: self.cubic.clone_box(), is_near: self.is_near })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
