use std::sync::atomic::{AtomicU32, Ordering};

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
    (0..acks).for_each(|_| watched.choose(Instant::now(), round_trip));
    watched
}

#[test]
fn a_long_path_has_bbr_and_a_short_one_cubic() {
    let short = LONG.checked_sub(Duration::from_micros(1)).unwrap();
    for (round_trip, paced) in [(Duration::ZERO, false), (short, false), (LONG, true)] {
        let mut path = watched(round_trip, WATCHED_ACKS - 1);
        assert!(!is_paced(&path) && matches!(path.state, PathState::Watched { .. }), "begins as a short one");
        path.choose(Instant::now(), round_trip);
        assert_eq!(
            (is_paced(&path), matches!(path.state, PathState::Long)),
            (paced, paced),
            "{round_trip:?}"
        );
        assert_eq!(is_paced(path.clone_box().as_ref()), paced);
    }
}

#[test]
fn a_path_that_turns_out_to_be_short_begins_anew_and_stays_short() {
    let mut path = watched(LONG, WATCHED_ACKS);
    assert!(is_paced(&path) && path.window() < WINDOW_WITHIN_MACHINE);
    path.on_mtu_update(1400);
    path.choose(Instant::now(), Duration::from_millis(1));
    assert!(!is_paced(&path), "the first acknowledgements were late");
    assert_eq!(path.window(), WINDOW_WITHIN_MACHINE, "within a machine it has the floor again");
    path.choose(Instant::now(), LONG);
    assert!(!is_paced(&path));
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

#[test]
fn on_a_long_path_a_small_asset_leaves_at_once_however_much_was_lost() {
    let mut path = watched(LONG, WATCHED_ACKS);
    path.round_trip = Duration::from_millis(40);
    path.mtu = u16::MAX;
    let least = LEAST_PACKETS_LONG * u64::from(u16::MAX);
    assert!(path.in_force.window() < least, "BBR by itself begins with less");
    let (window, rate) = (path.metrics().congestion_window, path.metrics().pacing_rate.unwrap());
    assert_eq!((window, path.window()), (least, least));
    assert!(rate >= least * 50, "{rate} bytes a second, not that window in 20 ms");
    assert_eq!(path.clone_box().metrics().pacing_rate, Some(rate));
    assert!(!is_paced(&watched(Duration::ZERO, WATCHED_ACKS)), "Cubic has no rate of its own");
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
    let PathState::Watched { other, .. } = &path.state else { panic!("{path:?}") };
    let (now, before) = (Instant::now(), other.window());
    path.on_congestion_event(now, now, true, false, 50_000, 1);
    path.on_mtu_update(9000);
    path.choose(now, LONG);
    assert_ne!(path.window(), before);
}

/// A controller that counts what it is told.
#[derive(Clone, Debug, Default)]
struct Counting {
    lost: Arc<AtomicU32>,
    spurious: Arc<AtomicU32>,
}

impl Controller for Counting {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: bool, _: u64, _: u64) {}

    fn on_packet_lost(&mut self, _: u16, _: u64, _: Instant) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.spurious.fetch_add(1, Ordering::Relaxed);
    }

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        1
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.pacing_rate = Some(1);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        1
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

const BANDWIDTH: u64 = 50_000_000;

/// A long path on which each tenth packet is lost, with this round trip, and without a queue the shortest one.
fn losing(round_trip: Duration) -> (Watched, Counting) {
    let (mut path, counting) = (watched(LONG, WATCHED_ACKS), Counting::default());
    path.in_force = Box::new(counting.clone());
    path.round_trip = LONG;
    for n in 0..1_000 {
        path.losses.arrived(Instant::now(), round_trip, LONG, BANDWIDTH);
        if n % 10 == 0 {
            path.on_packet_lost(1_200, n, Instant::now());
        }
    }
    (path, counting)
}

#[test]
fn bbr_does_not_hear_of_the_losses_of_a_bad_path() {
    let (mut path, bbr) = losing(LONG);
    assert_eq!(bbr.lost.load(Ordering::Relaxed), 0);
    assert_eq!(path.metrics().pacing_rate, Some(BANDWIDTH), "it is sent at the rate that a probe found");
    assert_eq!(path.clone_box().metrics().pacing_rate, Some(BANDWIDTH));
    assert!(path.window() < BANDWIDTH / 100, "how much may be in flight is BBR's word");
    path.on_spurious_congestion_event();
    assert_eq!(bbr.spurious.load(Ordering::Relaxed), 0, "it has nothing to take back");
    // Acknowledgements get lost as well, and are not counted where they arrive.
    (0..1_000).for_each(|n| path.on_packet_lost(0, n, Instant::now()));
    assert_eq!(path.metrics().pacing_rate, Some(BANDWIDTH));
}

#[test]
fn behind_a_queue_bbr_hears_of_each_loss() {
    let (mut path, bbr) = losing(LONG * 2);
    assert_eq!(bbr.lost.load(Ordering::Relaxed), 100);
    let least = path.window() * 1_000_000 / u64::try_from(LONG.as_micros() / 2).unwrap();
    assert_eq!(path.metrics().pacing_rate, Some(least));
    (0..2).for_each(|_| path.on_spurious_congestion_event());
    assert_eq!(bbr.spurious.load(Ordering::Relaxed), 1, "once for what it heard of");
}

#[test]
fn cubic_hears_of_each_loss() {
    let (mut path, cubic) = (watched(Duration::ZERO, WATCHED_ACKS), Counting::default());
    path.in_force = Box::new(cubic.clone());
    for n in 0..100 {
        path.losses.arrived(Instant::now(), LONG, LONG, BANDWIDTH);
        path.on_packet_lost(1_200, n, Instant::now());
        path.on_spurious_congestion_event();
    }
    assert_eq!(cubic.lost.load(Ordering::Relaxed), 100);
    assert_eq!(cubic.spurious.load(Ordering::Relaxed), 100);
}
