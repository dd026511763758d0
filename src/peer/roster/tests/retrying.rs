//! How often peers are tried that were connected lately.

use super::*;

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
