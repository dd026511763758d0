use std::collections::{HashSet, VecDeque};

use iroh::SecretKey;

use super::*;
use crate::library::ticket::{LibraryId, TicketSerial};

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

/// A day after those of whom a test says that they were last seen at 1.
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
fn a_search_dials_beyond_the_usual_number_and_whoever_waits() {
    let now = Instant::now();
    let ids: Vec<EndpointId> = (1..=6).map(|n| SecretKey::from_bytes(&[n; 32]).public()).collect();
    let mut roster = Roster::new(SecretKey::from_bytes(&[99; 32]).public(), limits(1));
    for id in &ids {
        assert!(roster.candidate(addr(*id), Channel::Saved, now));
    }
    let usual = roster.due(now, 0, anybody);
    assert_eq!(usual.len(), 1);
    assert!(roster.connected(usual[0].0.id, true, now).is_kept());
    roster.hold(&ids[5], now + Duration::from_mins(5), "it broke the rules".into());
    let asked = ids[4];
    let sought = |id: &EndpointId, _: &KnownPeer| *id != asked;
    let first = roster.seek(now, 0, 2, sought);
    assert_eq!((first.len(), roster.seek(now, 0, 2, sought)), (2, vec![]), "two at a time");
    for (addr, _) in &first {
        assert!(addr.id != asked && addr.id != ids[5], "left alone");
        assert!(roster.connected(addr.id, true, now).is_kept());
    }
    assert_eq!(roster.connected_count(), 3);
    let rest = roster.seek(now, 0, 2, sought);
    assert_eq!(rest.len(), 6 - 1 - first.len() - 2);
    assert!(roster.could_seek(now, sought), "they are being dialled");
    assert!(roster.could_seek(now, |id, _| *id == asked));
    assert!(!roster.could_seek(now, |id, _| *id == ids[5]));
}

#[test]
fn wrong_addresses_keep_no_right_one_out() {
    let (small, large) = ids();
    let now = Instant::now();
    let mut roster = Roster::new(small, limits(16));
    for n in 0..100 {
        let wrong = EndpointAddr::new(large).with_ip_addr(([192, 0, 2, n], 9).into());
        assert!(roster.candidate(wrong, Channel::Mdns, now));
    }
    assert!(roster.candidate(addr(large), Channel::Relays, now));
    let (dialled, _) = roster.due(now, 0, anybody).remove(0);
    assert_eq!(dialled.addrs.len(), ADDRS_MAX);
    assert!(dialled.addrs.is_superset(&addr(large).addrs), "{dialled:?}");
}

#[test]
fn whoever_did_not_answer_is_dialled_again_once_it_announces_itself() {
    let (small, large) = ids();
    let now = Instant::now();
    let mut roster = Roster::new(small, limits(16));
    let wrong = EndpointAddr::new(large).with_ip_addr(([192, 0, 2, 1], 9).into());
    assert!(roster.candidate(wrong.clone(), Channel::Mdns, now));
    let mut later = now;
    while roster.get(&large).is_some() {
        later += Duration::from_mins(10);
        assert_eq!(roster.due(later, 0, anybody).len(), 1);
        roster.dial_failed(&large, "no answer".into(), later, 0.0);
    }
    assert!(!roster.candidate(wrong, Channel::Mdns, later), "it is ignored for a while");
    assert!(roster.candidate(addr(large), Channel::Gossip, later), "it is there after all");
    // One of another network is left alone, whatever it announces.
    roster.not_shared(&large, later);
    assert!(!roster.candidate(addr(large), Channel::Gossip, later));
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

#[test]
fn no_more_dials_than_there_is_room_for() {
    let (own, _) = ids();
    let now = Instant::now();
    let mut roster = Roster::new(own, limits(10));
    for n in 10..60 {
        roster.candidate(addr(SecretKey::from_bytes(&[n; 32]).public()), Channel::Gossip, now);
    }
    let first = roster.due(now, 0, anybody);
    assert_eq!(first.len(), 8);
    for (a, _) in &first {
        roster.connected(a.id, true, now);
    }
    assert_eq!(roster.due(now, 0, anybody).len(), 2, "ten in all");
}

fn id(n: u16) -> EndpointId {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_bytes(&seed).public()
}

#[test]
fn a_thousand_hints_do_not_keep_a_named_peer_waiting() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    let taken = (1..=1000).filter(|n| roster.candidate(addr(id(*n)), Channel::Relays, now)).count();
    assert_eq!(taken, 512, "an eighth of all");
    assert!(roster.due(now, 1, anybody).iter().all(|(_, hint)| *hint));
    roster.candidate(addr(id(2000)), Channel::Tickets, now);
    let due = roster.due(now, 2, anybody);
    assert_eq!(due.iter().map(|(a, hint)| (a.id, *hint)).collect::<Vec<_>>(), [(id(2000), false)]);
}

#[test]
fn hints_that_lead_nowhere_are_forgotten_and_ignored_for_a_while() {
    let mut now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    roster.connected(id(9), false, now);
    roster.tick();
    give_up_on_a_hint(&mut roster, &mut now);
    assert!(!roster.candidate(addr(id(1)), Channel::Relays, now));
    assert!(roster.candidate(addr(id(1)), Channel::Tickets, now), "a user knows better");
    roster.forget(&id(1));
    assert!(roster.candidate(addr(id(1)), Channel::Relays, now + SILENT_FOR));
}

/// Hints lead to `id(1)`, which does not answer until it is forgotten.
fn give_up_on_a_hint(roster: &mut Roster, now: &mut Instant) {
    roster.candidate(addr(id(1)), Channel::Gossip, *now);
    for _ in 0..GIVE_UP_AFTER {
        *now += Duration::from_mins(1);
        assert_eq!(roster.due(*now, 0, anybody).len(), 1);
        roster.dial_failed(&id(1), "no answer".into(), *now, 0.0);
    }
    assert!(roster.get(&id(1)).is_none());
}

#[test]
fn a_node_that_is_alone_soon_believes_hints_again() {
    let mut now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    give_up_on_a_hint(&mut roster, &mut now);
    assert!(!roster.candidate(addr(id(1)), Channel::Relays, now), "not at once");
    let later = now + SILENT_ALONE_FOR;
    assert!(
        roster.clone().candidate(addr(id(1)), Channel::Relays, later),
        "our own network may have been down"
    );

    let mut in_company = roster.clone();
    in_company.connected(id(9), false, now);
    in_company.tick();
    assert!(!in_company.candidate(addr(id(1)), Channel::Relays, later), "somebody else answers");

    let mut other_network = Roster::new(id(0), limits(16));
    other_network.candidate(addr(id(1)), Channel::Relays, now);
    other_network.not_shared(&id(1), now);
    assert!(
        !other_network.candidate(addr(id(1)), Channel::Relays, later),
        "it answered: it is not of our network"
    );
}

#[test]
fn a_full_roster_lets_go_of_hints_that_failed_and_of_nobody_else() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), DialLimits { known_max: 16, ..limits(16) });
    roster.candidate(addr(id(1)), Channel::Saved, now);
    roster.candidate(addr(id(2)), Channel::Gossip, now);
    roster.candidate(addr(id(3)), Channel::Gossip, now);
    assert!(!roster.candidate(addr(id(4)), Channel::Gossip, now), "nobody has failed yet");
    roster.due(now, 0, anybody);
    for n in 1..=2 {
        roster.dial_failed(&id(n), "no answer".into(), now, 0.0);
    }
    roster.tick();
    assert!(roster.candidate(addr(id(4)), Channel::Gossip, now));
    assert!(roster.get(&id(1)).is_some() && roster.get(&id(2)).is_none());
}

#[test]
fn a_hint_brings_a_late_dial_forward_but_not_again_and_again() {
    let mut now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    roster.candidate(addr(id(1)), Channel::Saved, now);
    for _ in 0..10 {
        now += Duration::from_mins(10);
        roster.due(now, 0, anybody);
        roster.dial_failed(&id(1), "no answer".into(), now, 0.0);
    }
    now += Duration::from_secs(1);
    assert!(roster.due(now, 0, anybody).is_empty());
    roster.candidate(addr(id(1)), Channel::Mdns, now);
    assert_eq!(roster.due(now, 0, anybody).len(), 1);
    roster.dial_failed(&id(1), "no answer".into(), now, 0.0);
    roster.candidate(addr(id(1)), Channel::Mdns, now);
    assert!(roster.due(now, 0, anybody).is_empty());
    roster.candidate(addr(id(1)), Channel::Mdns, now + HINTED_EVERY);
    assert_eq!(roster.due(now + HINTED_EVERY, 0, anybody).len(), 1);
}

#[test]
fn in_a_large_network_connections_are_exchanged_slowly() {
    let start = Instant::now();
    let mut roster = Roster::new(id(0), limits(4));
    for n in 1..=10 {
        roster.candidate(addr(id(n)), Channel::Gossip, start);
    }
    roster.candidate(addr(id(11)), Channel::Tickets, start);
    for (n, (a, _)) in roster.due(start, 5, anybody).into_iter().enumerate() {
        roster.connected(a.id, true, start + Duration::from_millis(n as u64));
        roster.session_up(&a.id, Class::Own, true, 1);
    }
    assert_eq!(roster.rotate(start, 0.5), None);
    assert!(roster.due(start, 5, anybody).is_empty(), "four are enough");
    let later = start + 2 * ROTATE_EVERY;
    let given_up = roster.rotate(later, 0.5).unwrap();
    assert_ne!(given_up, id(11), "a user wants that one");
    assert_eq!(roster.rotate(later, 0.5), None, "one at a time");
    roster.rotated(&given_up, later);
    roster.candidate(addr(given_up), Channel::Gossip, later);
    let due = roster.due(later, 5, anybody);
    assert_eq!(due.len(), 1);
    assert_ne!(due[0].0.id, given_up);
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

#[test]
fn another_network_is_not_kept_unless_a_user_named_it() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), limits(4));
    roster.candidate(addr(id(1)), Channel::Mdns, now);
    roster.candidate(addr(id(2)), Channel::Tickets, now);
    roster.not_shared(&id(1), now);
    roster.not_shared(&id(2), now);
    assert!(roster.get(&id(1)).is_none());
    assert!(!roster.candidate(addr(id(1)), Channel::Mdns, now));
    assert_eq!(roster.get(&id(2)).unwrap().refusal, Some(PeerRefusal::OtherPassphrase));
}

#[test]
fn whoever_waits_for_approval_is_kept_as_long_as_there_is_room_and_dialled_once_it_is_let_in() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    let knock = |roster: &mut Roster, n: u16, refusal: PeerRefusal| {
        roster.connected(id(n), false, now);
        let kept = roster.refused(&id(n), refusal, addr(id(n)));
        if !kept {
            roster.forget(&id(n));
        }
        roster.disconnected(&id(n), false, None, now, 0.0);
        kept
    };
    for n in 1..=64 {
        assert!(knock(&mut roster, n, PeerRefusal::ApprovalWanted), "{n}");
    }
    assert!(!knock(&mut roster, 65, PeerRefusal::ApprovalWanted), "they are as many as there is room for");
    assert!(knock(&mut roster, 1, PeerRefusal::ApprovalWanted), "who has a place keeps it");
    assert!(
        !knock(&mut roster, 66, PeerRefusal::TicketHere("it expired".into())),
        "who only knocked is nobody"
    );
    assert!(!roster.get(&id(2)).unwrap().is_offered_mirror());
    roster.let_in(&id(2), now);
    let let_in = roster.get(&id(2)).unwrap();
    assert!(let_in.is_offered_mirror() && let_in.refusal.is_none());
    assert!(
        roster.due(now, 0, |_, known| known.is_offered_mirror()).iter().any(|(addr, _)| addr.id == id(2))
    );
    roster.let_in(&id(99), now);
    assert!(roster.get(&id(99)).is_none(), "nobody knows where it is");
}

#[test]
fn the_mirror_is_offered_to_those_alone_who_are_vouched_for() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    let offered = |roster: &Roster, n| roster.get(&id(n)).unwrap().is_offered_mirror();
    for (n, channel) in (1..).zip(Channel::ALL) {
        roster.candidate(addr(id(n)), channel, now);
        let expected = match channel {
            Channel::Tickets | Channel::Bootstrap | Channel::Relays | Channel::Dht | Channel::Gossip => true,
            // Not among the sealed ones here.
            Channel::Saved | Channel::Mdns | Channel::Library => false,
        };
        assert_eq!(offered(&roster, n), expected, "{channel:?}");
    }
    roster.candidate(addr(id(20)), Channel::Library, now);
    roster.session_up(&id(20), member(1), false, 1);
    assert!(!offered(&roster, 20), "a library is not the mirror");
    roster.session_up(&id(20), Class::Own, true, 2);
    assert!(offered(&roster, 20), "it proved that it knows the passphrase");
    roster.candidate(addr(id(21)), Channel::Saved, now);
    roster.remembered(&id(21), "desk".into(), Some(1), true, (now, DAY_MS));
    assert!(offered(&roster, 21), "it did so in an earlier run");
    let due = roster.due(now, 0, |_, known| known.is_offered_mirror());
    assert!(due.iter().all(|(addr, _)| roster.get(&addr.id).unwrap().is_offered_mirror()));
    assert_eq!(due.len(), 7);
}

#[test]
fn a_member_of_a_library_is_dialled_again_at_once_and_takes_no_place_of_those_that_a_user_named() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    assert!(roster.candidate(addr(id(1)), Channel::Library, now));
    assert_eq!(roster.due(now, 0, anybody).len(), 1);
    roster.dial_failed(&id(1), "no answer".into(), now, 0.0);
    assert!(roster.due(now, 0, anybody).is_empty());
    roster.candidate(addr(id(1)), Channel::Library, now);
    assert_eq!(roster.due(now, 0, anybody).len(), 1);
    assert!(!roster.get(&id(1)).unwrap().is_wanted());
    // Whoever broke the rules stays away all the same.
    roster.hold(&id(1), now + Duration::from_mins(5), "lies".into());
    roster.candidate(addr(id(1)), Channel::Library, now);
    assert!(roster.due(now, 0, anybody).is_empty());
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

#[test]
fn fakes_keep_nobody_out_whom_a_user_named_or_who_was_there_before() {
    let now = Instant::now();
    let mut roster = flooded(now);
    assert_eq!(roster.due(now, 7, anybody).len(), 16, "8 hints, and members");
    let others = [
        (40_000, Channel::Tickets),
        (40_001, Channel::Bootstrap),
        (40_002, Channel::Saved),
        (40_003, Channel::Saved),
    ];
    for (n, channel) in others {
        assert!(roster.candidate(addr(id(n)), channel, now), "{channel:?}");
    }
    roster.remembered(&id(40_002), "desk".into(), Some(1), true, (now, DAY_MS));
    let due: Vec<_> = roster.due(now, 7, anybody).into_iter().map(|(addr, _)| addr.id).collect();
    for n in [40_000, 40_001, 40_002] {
        assert!(due.contains(&id(n)), "{n} is dialled at once, among fakes");
    }
    // Own devices have half of the roster: two are there.
    let own = (41_000..44_000).filter(|n| roster.candidate(addr(id(*n)), Channel::Saved, now)).count();
    assert_eq!(own, 2048 - 2);
}

#[test]
fn a_flood_of_hints_looks_through_the_roster_once_per_tick() {
    let now = Instant::now();
    let mut roster = flooded(now);
    let late = id(60_000);
    assert!(!roster.candidate(addr(late), Channel::Mdns, now));
    // Fakes were dialled and did not answer.
    let dialled = roster.due(now, 7, anybody);
    for (addr, _) in &dialled {
        roster.dial_failed(&addr.id, "no answer".into(), now, 0.0);
    }
    assert!(!roster.candidate(addr(late), Channel::Mdns, now), "nobody was looked for again");
    roster.tick();
    assert!(roster.candidate(addr(late), Channel::Mdns, now), "now one of those makes room");
    assert_eq!(roster.iter().count(), 2048);
}

#[test]
fn of_one_ticket_only_so_many_are_kept() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    let meet = |roster: &mut Roster, n: u16, class: Class| {
        assert!(roster.connected(id(n), false, now).is_kept());
        roster.session_up(&id(n), class, class == Class::Own, 1);
        roster.disconnected(&id(n), true, None, now, 0.0);
    };
    for n in 1..=1_000 {
        meet(&mut roster, n, member(1));
    }
    assert_eq!(roster.iter().count(), 64, "an eighth of what members may have");
    for n in 1_001..=1_010 {
        meet(&mut roster, n, member(u64::from(n)));
        meet(&mut roster, n + 1_000, Class::Own);
    }
    assert_eq!(roster.iter().count(), 84);
}

#[test]
fn members_take_no_dials_of_others() {
    let now = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    for n in 1..=100 {
        roster.candidate(addr(id(n)), Channel::Library, now);
        if n > 20 {
            // Known to have the same ticket; some of them connected by themselves.
            roster.connected(id(n), false, now);
            roster.session_up(&id(n), member(1), false, 1);
            if n > 40 {
                roster.disconnected(&id(n), true, None, now, 0.0);
            }
        }
    }
    let due = roster.due(now + REDIAL_MAX, 0, anybody);
    assert_eq!(due.len(), 8, "half as many as others have");
    let with_ticket = due.iter().filter(|(addr, _)| roster.get(&addr.id).unwrap().ticket.is_some()).count();
    assert!(with_ticket <= 2, "{with_ticket} with the same ticket");
    for n in 200..=220 {
        roster.candidate(addr(id(n)), Channel::Saved, now);
        roster.remembered(&id(n), String::new(), Some(1), true, (now, DAY_MS));
        if n < 206 {
            roster.candidate(addr(id(n + 100)), Channel::Tickets, now);
        }
    }
    let due = roster.due(now, 0, anybody);
    let named = due.iter().filter(|(addr, _)| roster.get(&addr.id).unwrap().is_wanted()).count();
    assert_eq!((named, due.len() - named), (6, 10), "members are none of these");
}

#[test]
fn who_is_connected_for_libraries_alone_is_offered_the_mirror_once_it_is_vouched_for() {
    let start = Instant::now();
    let mut roster = Roster::new(id(0), limits(16));
    roster.candidate(addr(id(1)), Channel::Library, start);
    roster.connected(id(1), true, start);
    roster.session_up(&id(1), member(1), false, 1);
    roster.libraries_alone(&id(1), false, start);
    assert_eq!(roster.offer_mirror(start), [], "nothing says that it is of our network");
    roster.candidate(addr(id(1)), Channel::Relays, start);
    assert_eq!(roster.offer_mirror(start).len(), 1);
    let (mut now, mut waits) = (start, Vec::new());
    while waits.len() < 8 {
        let since = now;
        while roster.offer_mirror(now).is_empty() {
            now += Duration::from_secs(30);
        }
        waits.push((now - since).as_secs() / 60);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60], "it does not want it");
    roster.candidate(addr(id(1)), Channel::Tickets, now);
    assert_eq!(roster.offer_mirror(now).len(), 1, "a user knows better");
    roster.session_up(&id(1), Class::Own, true, 2);
    assert_eq!(roster.offer_mirror(now + known::OFFER_MIRROR_EVERY_MAX), [], "it has it");

    // It was offered on the connection that there is.
    roster.candidate(addr(id(2)), Channel::Tickets, now);
    roster.connected(id(2), true, now);
    roster.session_up(&id(2), Class::Named, false, 1);
    roster.libraries_alone(&id(2), true, now);
    assert_eq!(roster.offer_mirror(now), []);
    assert_eq!(roster.offer_mirror(now + known::OFFER_MIRROR_EVERY).len(), 1);
    roster.disconnected(&id(2), true, None, now, 0.0);
    assert_eq!(roster.offer_mirror(now + known::OFFER_MIRROR_EVERY_MAX), [], "it is dialled as anybody is");
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

#[test]
fn a_peer_that_was_connected_lately_is_tried_every_twenty_seconds_or_so() {
    for chance in [0.0, 0.5, 1.0] {
        let (mut roster, now) = after_losing(1..2);
        let dials = in_vain(&mut roster, now, 3600, chance);
        let times: Vec<u64> = dials.iter().map(|(_, at)| *at).collect();
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (16..=23).contains(gap)), "{gaps:?}");
        // A day later, it backs off as all others do.
        let late = in_vain(&mut roster, now + Duration::from_hours(25), 3600, chance);
        assert!(late.len() <= 3600 / 100, "{}", late.len());
    }
}

#[test]
fn however_many_are_gone_the_rate_of_dials_does_not_grow() {
    let (mut few, few_from) = after_losing(0..8);
    let (mut many, many_from) = after_losing(0..300);
    let settled = Duration::from_mins(20);
    for (roster, from) in [(&mut few, few_from), (&mut many, many_from)] {
        in_vain(roster, from, settled.as_secs(), 0.5);
    }
    let retried = |roster: &mut Roster, from: Instant| {
        let (mut retried, mut whom) = (0, HashSet::new());
        for second in 0..600 {
            let now = from + settled + Duration::from_secs(second);
            for (addr, _) in roster.retry(now, 0.5, anybody) {
                retried += 1;
                whom.insert(addr.id);
                roster.dial_failed(&addr.id, "no answer".into(), now, 0.5);
            }
        }
        (retried, whom.len())
    };
    let ((few, _), (more, whom)) = (retried(&mut few, few_from), retried(&mut many, many_from));
    assert!((8 * 600 / 23..=8 * 600 / 18).contains(&few), "{few}");
    assert!(more <= few + 8, "{more} dials of many peers, {few} of a few");
    assert_eq!(whom, more, "all in turn");
    // Other dials find room all the same.
    assert_eq!(many.retry(many_from + 2 * settled, 0.5, anybody).len(), 8);
    let newcomer = id(7000);
    let now = many_from + 2 * settled;
    assert!(many.candidate(addr(newcomer), Channel::Tickets, now));
    assert!(many.due(now, 0, anybody).iter().any(|(addr, _)| addr.id == newcomer));
}

#[test]
fn a_path_that_comes_back_is_dialled_at_once() {
    let (mut roster, from) = after_losing(0..40);
    in_vain(&mut roster, from, 3600, 1.0);
    let now = from + Duration::from_hours(1);
    let waiting = roster.due(now, 0, anybody);
    assert!(waiting.len() < 4, "{}", waiting.len());
    for (addr, _) in waiting {
        roster.dial_failed(&addr.id, "no answer".into(), now, 1.0);
    }
    // Our own addresses are others.
    roster.revisit(now);
    let dialled = roster.due(now, 0, anybody);
    assert_eq!(dialled.len(), 16, "as many as are dialled at once");
    for (addr, _) in &dialled {
        roster.dial_failed(&addr.id, "no answer".into(), now, 1.0);
    }
    // One of them is there again.
    let (back, _) = dialled[0].clone();
    let now = now + Duration::from_mins(5);
    roster.connected(back.id, false, now);
    roster.came_back(&back.id, now);
    roster.session_up(&back.id, Class::Own, true, 2);
    assert!(roster.due(now, 0, anybody).len() >= 15);
}

#[test]
fn a_sign_of_life_brings_the_next_dial_forward_and_many_do_not_bring_more() {
    let (mut roster, from) = after_losing(0..20);
    in_vain(&mut roster, from, 3600, 1.0);
    let (lost, now) = (id(0), from + Duration::from_hours(1));
    assert!(roster.due(now, 0, |id, _| *id == lost).is_empty());
    roster.shows_life(&lost, now);
    assert_eq!(roster.due(now, 0, |id, _| *id == lost).len(), 1);
    for _ in 0..100 {
        roster.dial_failed(&lost, "no answer".into(), now, 1.0);
        roster.shows_life(&lost, now);
        assert!(roster.due(now, 0, |id, _| *id == lost).is_empty());
        assert!(roster.candidate(addr(lost), Channel::Mdns, now));
        assert!(roster.due(now, 0, |id, _| *id == lost).is_empty());
    }
    // A stranger's knock is nothing.
    roster.shows_life(&id(9000), now);
    assert!(roster.get(&id(9000)).is_none());
}

#[test]
fn who_refused_us_or_was_given_up_is_not_tried_more_often() {
    let (mut roster, from) = after_losing(0..4);
    roster.refused(&id(0), PeerRefusal::DeniedThere, addr(id(0)));
    roster.rotated(&id(1), from);
    roster.hold(&id(2), from + Duration::from_hours(1), "it broke the rules".into());
    let now = from + Duration::from_mins(1);
    let retried: Vec<EndpointId> =
        roster.retry(now, 0.0, anybody).into_iter().map(|(addr, _)| addr.id).collect();
    assert_eq!(retried, [id(3)]);
}

#[test]
fn members_of_libraries_are_tried_after_own_devices() {
    let (mut roster, mut now) = after_losing(0..6);
    for n in 100..120 {
        now += Duration::from_millis(10);
        roster.candidate(addr(id(n)), Channel::Library, now);
        roster.connected(id(n), true, now);
        roster.session_up(&id(n), member(u64::from(n)), false, 1);
        roster.disconnected(&id(n), true, None, now, 1.0);
    }
    let retried: Vec<EndpointId> =
        roster.retry(now, 0.0, anybody).into_iter().map(|(addr, _)| addr.id).collect();
    let expected: Vec<EndpointId> = (0..6).rev().chain((118..120).rev()).map(id).collect();
    assert_eq!(retried, expected);
}

#[test]
fn whom_an_earlier_run_met_lately_is_tried_as_well() {
    let now = Instant::now();
    let mut roster = Roster::new(SecretKey::from_bytes(&[99; 32]).public(), limits(16));
    for (n, seen_ms) in [(1, 1), (2, DAY_MS - 1), (3, 2 * DAY_MS)] {
        roster.candidate(addr(id(n)), Channel::Saved, now);
        roster.remembered(&id(n), String::new(), Some(seen_ms), true, (now, DAY_MS));
    }
    let retried: Vec<EndpointId> =
        roster.retry(now, 0.0, anybody).into_iter().map(|(addr, _)| addr.id).collect();
    assert_eq!(retried, [id(3), id(2)]);
}

#[test]
fn whom_our_user_shut_out_and_knows_is_dialled_once_it_is_let_in_again() {
    let now = Instant::now();
    let mut roster = Roster::new(SecretKey::from_bytes(&[99; 32]).public(), limits(16));
    // It came while it was shut out, as many others did.
    for n in 0..u16::try_from(WAITING_KEPT).unwrap() + 10 {
        roster.shut_out(&id(n), addr(id(n)));
    }
    assert_eq!(roster.iter().count(), WAITING_KEPT);
    assert!(roster.due(now, 0, anybody).is_empty());
    // Of the one it is known that it has the passphrase; the other one may be anybody, and is shown no proof.
    roster.remembered(&id(1), String::new(), None, true, (now, DAY_MS));
    roster.let_in(&id(1), now);
    roster.let_in(&id(2), now);
    let offered = |_: &EndpointId, known: &KnownPeer| known.is_offered_mirror();
    let dialled: Vec<EndpointId> = roster.due(now, 0, offered).into_iter().map(|(addr, _)| addr.id).collect();
    assert_eq!(dialled, [id(1)]);
    assert!(roster.get(&id(1)).is_some_and(KnownPeer::is_offered_mirror));
    assert!(!roster.get(&id(2)).is_some_and(KnownPeer::is_offered_mirror));
}
