mod hints;
mod members;
mod retrying;

use std::collections::{HashSet, VecDeque};

use iroh::SecretKey;

use super::*;
use crate::library::ticket::{LibraryId, TicketSerial};
use crate::peer::places::Class;

fn limits(dialled_max: usize) -> DialLimits {
    DialLimits {
        dialled_max,
        hints_at_once_max: 8,
        known_max: 4096,
        sealed: ChannelSet::from([Channel::Relays, Channel::Dht, Channel::Gossip]),
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_mins(5),
    }
}

/// A day after the peers that a test says were last seen at 1.
const DAY_MS: u64 = 24 * 60 * 60 * 1000 + 1;

fn member(serial: u64) -> Class {
    Class::Member(TicketSerial { library: LibraryId([7; 32]), serial })
}

fn anybody(_: &EndpointId, _: &KnownPeer) -> bool {
    true
}

/// Two ids, the smaller first.
fn ids() -> (EndpointId, EndpointId) {
    let mut ids = [1, 2].map(|n| SecretKey::from_bytes(&[n; 32]).public());
    ids.sort_unstable_by_key(|id| *id.as_bytes());
    (ids[0], ids[1])
}

fn addr(id: EndpointId) -> EndpointAddr {
    EndpointAddr::new(id).with_ip_addr(([127, 0, 0, 1], 1).into())
}

#[test]
fn both_ends_keep_the_same_of_two_connections_dialled_at_once() {
    let (small, large) = ids();
    let now = Instant::now();
    for first_is_by_small in [true, false] {
        for (own, other) in [(small, large), (large, small)] {
            let mut roster = Roster::new(own, limits(16));
            let by_small = own == small;
            let first = first_is_by_small == by_small;
            assert!(roster.connected(other, first, now).is_kept());
            let kept_second = roster.connected(other, !first, now).is_kept();
            assert_eq!(kept_second, !first_is_by_small, "own id is the smaller: {by_small}");
        }
    }
}

#[test]
fn a_peer_that_is_left_alone_stays_so_when_the_network_changes() {
    let (small, large) = ids();
    let now = Instant::now();
    let mut roster = Roster::new(small, limits(16));
    assert!(roster.candidate(addr(large), Channel::Tickets, now));
    roster.hold(&large, now + Duration::from_mins(5), "it broke the rules".into());
    roster.dial_now(now);
    assert!(roster.due(now, 0, anybody).is_empty());
    assert_eq!(roster.due(now + Duration::from_mins(5), 0, anybody).len(), 1);
}

#[test]
fn a_peer_that_comes_back_replaces_its_dead_connection() {
    let (small, large) = ids();
    let now = Instant::now();
    let mut roster = Roster::new(small, limits(16));
    assert!(roster.connected(large, true, now).is_kept());
    assert!(
        roster.connected(large, false, now + AT_ONCE).is_kept(),
        "it dials because it no longer has ours"
    );
    assert!(roster.connected(large, false, now + AT_ONCE).is_kept(), "and once more the same way");
}

#[test]
fn a_peer_that_was_started_anew_at_once_is_let_in_when_it_insists() {
    let (small, large) = ids();
    let now = Instant::now();
    let mut roster = Roster::new(small, limits(16));
    assert!(roster.connected(large, true, now).is_kept());
    assert!(!roster.connected(large, false, now).is_kept(), "perhaps both dialled at once");
    assert!(roster.connected(large, false, now + AT_ONCE / 2).is_kept(), "no, it has no connection");
    assert!(
        roster.connected(large, true, now + AT_ONCE / 2).is_kept(),
        "and what is dialled now is judged afresh"
    );
    assert!(!roster.connected(large, false, now + AT_ONCE / 2).is_kept());
}

#[test]
fn what_comes_later_comes_beside_and_what_was_dialled_at_once_does_not() {
    let (small, large) = ids();
    let now = Instant::now();
    let mut roster = Roster::new(small, limits(16));
    assert!(!roster.comes_beside(&large, false, now), "there is none");
    assert!(roster.connected(large, true, now).is_kept());
    assert!(!roster.comes_beside(&large, false, now), "perhaps both dialled at once");
    assert!(roster.comes_beside(&large, true, now));
    assert!(roster.comes_beside(&large, false, now + AT_ONCE));
    assert_eq!(roster.connected(large, false, now), ConnectionRuling::TurnAway);
    assert!(roster.comes_beside(&large, false, now), "it insists");
}

#[test]
fn a_peer_that_prefers_a_double_of_ours_is_tried_again_and_not_more_often() {
    let (mut roster, from) = after_losing(0..1);
    roster.prefers_double(&id(0), from, 1.0);
    assert!(roster.retry(from + DOUBLED_RETRY, 0.0, anybody).is_empty());
    assert!(roster.due(from + DOUBLED_RETRY, 0, anybody).is_empty());
    assert_eq!(roster.due(from + DOUBLED_RETRY.mul_f64(1.2), 0, anybody).len(), 1);
}

#[test]
fn waits_double_up_to_five_minutes_and_end_with_a_session() {
    let (own, other) = ids();
    let mut now = Instant::now();
    let mut roster = Roster::new(own, limits(16));
    assert!(!roster.candidate(addr(own), Channel::Tickets, now), "nobody dials himself");
    assert!(roster.candidate(addr(other), Channel::Tickets, now));
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert_eq!(roster.due(now, 0, anybody).len(), 1);
        assert!(roster.due(now, 0, anybody).is_empty(), "one dial at a time");
        roster.dial_failed(&other, "no answer".into(), now, 0.0);
        let LinkState::Idle { dial_at: Some(at) } = roster.get(&other).unwrap().link else { panic!() };
        waits.push((at - now).as_secs());
        now = at;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    roster.connected(other, true, now);
    roster.session_up(&other, Class::Own, true, 1);
    roster.disconnected(&other, true, None, now, 1.0);
    assert_eq!(roster.due(now + REDIAL_MAX, 0, anybody).len(), 1);
}

fn id(n: u16) -> EndpointId {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_bytes(&seed).public()
}

#[test]
fn nodes_choose_different_peers() {
    let now = Instant::now();
    let mut chosen = HashSet::new();
    for chance in 0..50 {
        let mut roster = Roster::new(id(0), limits(4));
        for n in 1..=100 {
            roster.candidate(addr(id(n)), Channel::Gossip, now);
        }
        chosen.extend(roster.due(now, chance, anybody).into_iter().map(|(a, _)| a.id));
    }
    assert!(chosen.len() > 60, "200 choices hit {} of 100 peers", chosen.len());
}

/// A roster that knows of as many fakes as there may be, some of them dialled in vain.
fn flooded(now: Instant) -> Roster {
    let mut roster = Roster::new(id(0), limits(16));
    let mut taken = [0; 4];
    for n in 1..=5_000 {
        let channels = [Channel::Mdns, Channel::Relays, Channel::Gossip, Channel::Library];
        for (channel, taken) in channels.into_iter().zip(&mut taken) {
            *taken += usize::from(roster.candidate(addr(id(n + 5_000 * channel as u16)), channel, now));
        }
    }
    assert_eq!(taken, [512; 4], "an eighth each");
    assert_eq!(roster.iter().count(), 2048);
    roster
}

/// A roster that had sessions with peers of these numbers, which were lost one after the other, and the end of that.
fn after_losing(numbers: impl Iterator<Item = u16>) -> (Roster, Instant) {
    let mut now = Instant::now();
    let mut roster = Roster::new(SecretKey::from_bytes(&[99; 32]).public(), limits(16));
    for n in numbers {
        now += Duration::from_millis(10);
        lose(&mut roster, id(n), now);
    }
    (roster, now)
}

fn lose(roster: &mut Roster, id: EndpointId, now: Instant) {
    roster.candidate(addr(id), Channel::Gossip, now);
    roster.connected(id, true, now);
    roster.session_up(&id, Class::Own, true, 1);
    roster.disconnected(&id, true, None, now, 1.0);
}

/// Lets seconds pass in which nobody answers for 15 s; who was dialled, and when.
fn in_vain(roster: &mut Roster, from: Instant, seconds: u64, chance: f64) -> Vec<(EndpointId, u64)> {
    let (mut dials, mut under_way) = (Vec::new(), VecDeque::<(EndpointId, u64)>::new());
    for second in 0..seconds {
        let now = from + Duration::from_secs(second);
        while let Some((id, _)) = under_way.pop_front_if(|(_, since)| second - *since >= 15) {
            roster.dial_failed(&id, "no answer".into(), now, chance);
        }
        roster.tick();
        let retried = roster.retry(now, chance, anybody);
        for (addr, _) in retried.into_iter().chain(roster.due(now, 7, anybody)) {
            under_way.push_back((addr.id, second));
            dials.push((addr.id, second));
        }
    }
    for (id, _) in under_way {
        roster.dial_failed(&id, "no answer".into(), from + Duration::from_secs(seconds), chance);
    }
    dials
}
