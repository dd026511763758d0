//! Members of libraries, and peers that wait for approval or for the mirror.

use super::*;

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
    // A peer that broke the rules stays away all the same.
    roster.hold(&id(1), now + Duration::from_mins(5), "lies".into());
    roster.candidate(addr(id(1)), Channel::Library, now);
    assert!(roster.due(now, 0, anybody).is_empty());
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
