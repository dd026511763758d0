//! A thousand crashes of PeerActors within a minute, and discovery beside them.

use std::time::Duration;

use can_sync::testing::actor::policy::{ChildKind, policy};
use can_sync::testing::config::SlotFormat;
use can_sync::testing::discovery::channel::Channel;
use can_sync::testing::discovery::slot::pace::Timing;
use can_sync::testing::events::NodeEvent;
use can_sync::testing::peer::places::PlaceLimits;
use can_sync::testing::peer::report::ConnectionState;
use futures::StreamExt as _;
use iroh::SecretKey;
use tokio::time::{Instant, timeout};

use crate::support::nodes::DEADLINE;
use crate::support::peers::{PeersRig, Remote};
use crate::support::rendezvous::{Agent, FakePkarr};
use crate::support::scoreboard;

const CRASHES: usize = 1_000;
const SCAN_EVERY: Duration = Duration::from_secs(1);
const PUBLISH_EVERY: Duration = Duration::from_secs(2);
/// By how much chance stretches a period.
const JITTER: f64 = 1.2;
/// How late a look or a write may be.
const LATE_MAX: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn discovery_keeps_its_time_while_peer_actors_crash_a_thousand_times() {
    let pkarr = FakePkarr::default();
    let mut finder = Agent::prepare(1, SlotFormat::Sealed, pkarr.connect(Channel::Dht)).await;
    finder.args.timing = Timing {
        scan: SCAN_EVERY,
        scan_max: SCAN_EVERY,
        publish: PUBLISH_EVERY,
        // Nothing but the two rhythms, and one write each time.
        verify_min: PUBLISH_EVERY * 100,
        verify_max: PUBLISH_EVERY * 100,
        ..Timing::default()
    };
    // Room for the peers that come back while the places of the last ones are being cleared.
    let rig = PeersRig::start_with(SecretKey::generate(), |args| {
        args.limits.places = PlaceLimits { connections: CRASHES, pending: CRASHES };
        args.replica.libraries.set_cursor(0);
    })
    .await;
    finder.run().await;
    let began = Instant::now();

    // Each peer's actor fails at once, is started again as often as its budget allows, and fails again.
    let budget = policy(ChildKind::Peer).budget.restarts as usize;
    let peers = CRASHES.div_ceil(budget + 1);
    let crashed = futures::stream::iter(0..peers).map(async |_| {
        let remote = Remote::bind().await;
        rig.stage.curse(remote.id());
        let connection = remote.dial(rig.endpoint()).await;
        // Whatever it says then: a close that is lost on a busy machine shows as a reset.
        timeout(DEADLINE, connection.closed()).await.expect("given up in time");
        let starts = rig.stage.starts(remote.id());
        remote.0.close().await;
        starts
    });
    let starts: Vec<usize> = crashed.buffer_unordered(16).collect().await;
    let took = began.elapsed();
    assert!(starts.iter().all(|n| *n == budget + 1), "the budget is spent, and no more: {starts:?}");
    assert!(starts.iter().sum::<usize>() >= CRASHES);
    assert!(took < Duration::from_mins(1), "{CRASHES} crashes took {took:?}, so this says nothing");

    let log = pkarr.get().log.clone();
    for (what, write, period) in [("look", false, SCAN_EVERY), ("write", true, PUBLISH_EVERY)] {
        let mut at: Vec<Instant> = vec![began];
        at.extend(
            log.iter().filter(|(_, _, w)| *w == write).map(|(at, ..)| *at).filter(|at| *at < began + took),
        );
        at.push(began + took);
        let longest = at.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max();
        let late = longest.expect("some").saturating_sub(period.mul_f64(JITTER));
        let figure = format!(
            "{CRASHES} crashes in {:.1} s: a {what} at most {} ms late",
            took.as_secs_f64(),
            late.as_millis()
        );
        scoreboard::figure(late <= LATE_MAX, &figure);
        assert!(late <= LATE_MAX, "a {what} was {late:?} late");
    }

    // It says so, and goes on: another peer gets its actor.
    let restarts = rig.events().iter().filter(|e| matches!(e, NodeEvent::ActorRestarted { .. })).count();
    assert!(restarts > 0);
    let report = rig.report().await;
    assert!(report.peers.iter().all(|peer| peer.state != ConnectionState::InSync));
    let honest = Remote::bind().await;
    let _connection = honest.dial(rig.endpoint()).await;
    rig.stage.started(honest.id(), 0).await;
}
