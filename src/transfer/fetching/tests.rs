use iroh::SecretKey;

use super::*;
use crate::record::AssetMeta;

const LIMITS: ScheduleLimits = ScheduleLimits {
    node_bytes: 3 << 20,
    peer_bytes: 2 << 20,
    part_bytes: 1 << 20,
    stall: Duration::from_secs(30),
};
const SESSION: SessionId = SessionId(1);
const OTHER: SessionId = SessionId(2);

fn peer(n: u8) -> EndpointId {
    SecretKey::from_bytes(&[n; 32]).public()
}

fn record(n: u8) -> AssetRecord {
    AssetRecord::new(ContentHash([n; 32]), 10, None, AssetMeta::default())
}

fn connected() -> Fetching {
    let mut fetching = Fetching::new(LIMITS, Instant::now(), 1_000);
    fetching.connected(SESSION, peer(1));
    fetching.connected(OTHER, peer(2));
    fetching
}

fn is_asked(decisions: &[FetchDecision], of: SessionId) -> bool {
    decisions.iter().any(|decision| {
        matches!(decision, FetchDecision::Schedule(ScheduleDecision::Fetch { session, .. }) if *session == of)
    })
}

fn distrusted(decisions: &[FetchDecision]) -> Option<(EndpointId, bool)> {
    decisions.iter().find_map(|decision| match decision {
        FetchDecision::Distrust { peer, repeatedly, .. } => Some((*peer, *repeatedly)),
        FetchDecision::Schedule(_) => None,
    })
}

fn wrong(n: u8) -> Results {
    vec![(WantKey::new(None, &record(n)), Err(FetchFailure::WrongBytes("another hash".into())))]
}

#[test]
fn who_sent_wrong_bytes_is_not_asked_for_them_again_even_on_a_new_connection() {
    let mut fetching = connected();
    assert!(is_asked(&fetching.announce(SESSION, None, vec![record(1)]), SESSION));
    assert_eq!(distrusted(&fetching.finished(SESSION, wrong(1))), Some((peer(1), false)));
    fetching.disconnected(SESSION);

    let again = SessionId(3);
    fetching.connected(again, peer(1));
    let decisions = fetching.announce(again, None, vec![record(1), record(2)]);
    let failed = |decision: &FetchDecision| matches!(decision, FetchDecision::Schedule(ScheduleDecision::Failed { key, .. }) if key.hash == record(1).hash);
    assert!(decisions.iter().any(failed) && is_asked(&decisions, again), "{decisions:?}");
    assert!(is_asked(&fetching.announce(OTHER, None, vec![record(1)]), OTHER), "others are asked");
    assert!(fetching.setbacks(&record(1).hash)[0].lied);
}

#[test]
fn one_wrong_content_may_be_a_bad_disk_and_several_are_not() {
    let mut fetching = connected();
    let repeated: Vec<bool> = [1, 2, 2, 3]
        .into_iter()
        .map(|n| {
            fetching.announce(SESSION, None, vec![record(n)]);
            distrusted(&fetching.finished(SESSION, wrong(n))).expect("wrong bytes").1
        })
        .collect();
    assert_eq!(repeated, [false, false, false, true], "the same content counts once");
}

#[test]
fn a_store_that_takes_nothing_pauses_everything_for_a_while() {
    let mut fetching = connected();
    let start = Instant::now();
    fetching.tick(start, 1_000);
    fetching.announce(SESSION, None, vec![record(1)]);
    let full = Err(FetchFailure::Store("the disk is full".into()));
    fetching.finished(SESSION, vec![(WantKey::new(None, &record(1)), full)]);
    assert_eq!(fetching.paused(), Some("the disk is full"));
    assert!(!is_asked(&fetching.announce(OTHER, None, vec![record(2)]), OTHER));
    assert!(fetching.tick(start + STORE_PAUSE / 2, 2_000).is_empty());

    // The store's own word outlasts the pause.
    fetching.store_health(Some("it answers nothing".into()));
    assert!(fetching.tick(start + STORE_PAUSE, 4_000).is_empty());
    assert!(is_asked(&fetching.store_health(None), OTHER));
    assert_eq!(fetching.paused(), None);
}

#[test]
fn a_session_that_is_over_is_asked_for_nothing() {
    let mut fetching = connected();
    fetching.disconnected(SESSION);
    assert!(fetching.announce(SESSION, None, vec![record(1)]).is_empty());
}
