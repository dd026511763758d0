//! What the roster makes of hints: how many it keeps, believes and dials.

use super::*;

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
