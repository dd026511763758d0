use std::collections::HashSet;

use iroh::SecretKey;

use super::gate::SignatureGate;
use super::marks::{CLOCKS_APART_MAX_MS, MARKS_MAX};
use super::saved::SAVE_EVERY;
use super::*;
use crate::discovery::announcement::Announcement;

/// When these tests happen, by the wall clock.
const NOW_MS: u64 = 1_763_000_000_000;
const SECOND: Duration = Duration::from_secs(1);

fn key(n: u64) -> SecretKey {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    SecretKey::from_bytes(&bytes)
}

fn id(n: u64) -> EndpointId {
    key(n).public()
}

fn addr(n: u64) -> EndpointAddr {
    let [low, high, ..] = n.to_le_bytes();
    EndpointAddr::new(id(n)).with_ip_addr(([10, 0, high, low], 4711).into())
}

/// The `counter`th announcement of agent `n`.
fn announced(n: u64, counter: u64, timestamp_ms: u64) -> Signed {
    let announcement = Announcement {
        id: id(n),
        name: format!("agent {n}"),
        assets: counter,
        total_bytes: counter * 10,
        fingerprint: [0; 16],
        timestamp_ms,
        boot_id: 1,
        counter,
        addrs: addr(n).ip_addrs().copied().collect(),
        relay_url: None,
        version: "0.1.0".into(),
    };
    let bytes = announcement.sign(&key(n));
    Signed { announcement, bytes }
}

fn directory() -> (Directory, Instant) {
    let mut directory = Directory::default();
    let now = Instant::now();
    directory.begin(id(0), 1, now);
    (directory, now)
}

fn listing(directory: &Directory, n: u64, now: Instant) -> Option<AgentListing> {
    directory.listings(now).into_iter().find(|listing| listing.id == id(n))
}

#[test]
fn who_announces_itself_is_listed_and_found_once() {
    let (mut directory, now) = directory();
    let effects = directory.hear(announced(1, 1, NOW_MS), now, NOW_MS).unwrap();
    assert_eq!(effects, [DirectoryEffect::Located(addr(1)), DirectoryEffect::Found(addr(1))]);
    let listed = listing(&directory, 1, now + SECOND).unwrap();
    assert_eq!(
        (listed.name.as_str(), listed.assets, listed.age, listed.stale),
        ("agent 1", 1, SECOND, false)
    );
    assert_eq!(listed.signed, Some(announced(1, 1, NOW_MS).bytes));
    assert_eq!(listed.sources, ChannelSet::from([Channel::Gossip]));
    // The next one changes what is known, and nobody needs to dial for it.
    let now = now + 30 * SECOND;
    assert_eq!(directory.hear(announced(1, 2, NOW_MS + 30_000), now, NOW_MS + 30_000), Ok(vec![]));
    assert_eq!(listing(&directory, 1, now).unwrap().assets, 2);
    assert_eq!(directory.fresh(now), 1);
    // Another address is worth telling at once.
    let mut moved = announced(1, 3, NOW_MS + 60_000);
    moved.announcement.addrs = vec!["10.9.9.9:1".parse().unwrap()];
    let effects = directory.hear(moved.clone(), now + 30 * SECOND, NOW_MS + 60_000).unwrap();
    assert_eq!(
        effects,
        [moved.announcement.addr()]
            .map(DirectoryEffect::Located)
            .into_iter()
            .chain([DirectoryEffect::Found(moved.announcement.addr())])
            .collect::<Vec<_>>()
    );
}

#[test]
fn ourselves_we_do_not_list() {
    let (mut directory, now) = directory();
    assert_eq!(directory.hear(announced(0, 1, NOW_MS), now, NOW_MS), Err(AnnouncementRefusal::Own));
    assert_eq!(directory.hint(&addr(0), Channel::Dht, now), []);
    assert_eq!(directory.peer_up(&addr(0), "me", 1, now, NOW_MS), []);
    assert_eq!(directory.known(), 0);
}

#[test]
fn a_replay_counts_for_nothing_even_after_its_author_left() {
    let (mut directory, start) = directory();
    directory.hear(announced(1, 5, NOW_MS), start, NOW_MS).unwrap();
    for counter in [5, 4, 1] {
        let replay = directory.hear(announced(1, counter, NOW_MS + counter), start + 2 * SECOND, NOW_MS);
        assert_eq!(replay, Err(AnnouncementRefusal::Replayed));
    }
    // An earlier run of the same author, by its time; then a later one.
    let run = |boot_id, timestamp_ms| {
        let mut signed = announced(1, 9, timestamp_ms);
        signed.announcement.boot_id = boot_id;
        signed
    };
    assert_eq!(
        directory.hear(run(2, NOW_MS - 1), start + 2 * SECOND, NOW_MS),
        Err(AnnouncementRefusal::Replayed)
    );
    assert_eq!(directory.hear(run(2, NOW_MS + 1), start + 2 * SECOND, NOW_MS), Ok(vec![]));
    // It leaves, is asked, goes stale and off the list: what it said last still counts for nothing.
    let later = start + 2 * SECOND + FRESH_FOR;
    directory.tick(later);
    directory.answered(&id(1), false, later, NOW_MS);
    directory.sweep(later, NOW_MS + 122_000);
    assert_eq!(listing(&directory, 1, later), None);
    assert_eq!(
        directory.hear(run(2, NOW_MS + 1), later, NOW_MS + 122_000),
        Err(AnnouncementRefusal::Replayed)
    );
    // Once it could not be taken for new any more, it need not be remembered.
    let end_ms = NOW_MS + 1 + CLOCKS_APART_MAX_MS + 1;
    directory.sweep(later, end_ms);
    assert!(directory.marks.0.is_empty());
    assert_eq!(directory.hear(run(2, NOW_MS + 1), later, end_ms), Err(AnnouncementRefusal::Time));
}

#[test]
fn clocks_may_be_ten_minutes_apart() {
    let (mut directory, now) = directory();
    for (n, timestamp_ms, accepted) in [
        (1, NOW_MS + CLOCKS_APART_MAX_MS, true),
        (2, NOW_MS - CLOCKS_APART_MAX_MS, true),
        (3, NOW_MS + CLOCKS_APART_MAX_MS + 1, false),
        (4, NOW_MS - CLOCKS_APART_MAX_MS - 1, false),
        (5, u64::MAX, false),
        (6, 0, false),
    ] {
        let heard = directory.hear(announced(n, 1, timestamp_ms), now, NOW_MS);
        assert_eq!(heard.is_ok(), accepted, "{n}");
        assert_eq!(listing(&directory, n, now).is_some(), accepted, "{n}");
    }
    // How long ago it was is by our clock alone.
    assert_eq!(listing(&directory, 2, now).unwrap().age, Duration::ZERO);
}

#[test]
fn an_author_that_speaks_too_often_is_not_heard_each_time() {
    let (mut directory, now) = directory();
    directory.hear(announced(1, 1, NOW_MS), now, NOW_MS).unwrap();
    let soon = now + SECOND / 2;
    assert_eq!(directory.hear(announced(1, 2, NOW_MS), soon, NOW_MS), Err(AnnouncementRefusal::TooSoon));
    assert_eq!(directory.hear(announced(2, 1, NOW_MS), soon, NOW_MS).map(|effects| effects.len()), Ok(2));
    assert!(directory.hear(announced(1, 2, NOW_MS), now + SECOND, NOW_MS).is_ok());
}

#[test]
fn who_falls_silent_is_asked_once_then_stale_then_off_the_list() {
    let (mut directory, start) = directory();
    directory.hear(announced(1, 1, NOW_MS), start, NOW_MS).unwrap();
    assert_eq!(directory.tick(start + FRESH_FOR - SECOND), []);
    let silent = start + FRESH_FOR;
    assert_eq!(directory.tick(silent), [DirectoryEffect::Probe(addr(1))]);
    assert_eq!(directory.tick(silent + SECOND), [], "once");
    assert_eq!(directory.fresh(silent), 0);
    assert!(!listing(&directory, 1, silent).unwrap().stale, "not before it failed to answer");
    assert_eq!(directory.sweep(silent, NOW_MS), []);
    assert!(listing(&directory, 1, silent).is_some());
    let stale = DirectoryEffect::WentStale { id: id(1), name: "agent 1".into() };
    assert_eq!(directory.answered(&id(1), false, silent, NOW_MS), [stale]);
    assert_eq!(directory.answered(&id(1), false, silent, NOW_MS), [], "said once");
    let listed = listing(&directory, 1, silent).unwrap();
    assert_eq!((listed.stale, listed.age, listed.signed), (true, FRESH_FOR, None));
    directory.sweep(silent, NOW_MS);
    assert_eq!(listing(&directory, 1, silent), None);
    // It is still somebody to try when nobody else is there.
    assert_eq!(directory.choose_to_join(&HashSet::new(), 8, 1, silent), [(addr(1), false)]);
}

#[test]
fn an_answer_is_a_sign_of_life() {
    let (mut directory, start) = directory();
    directory.hear(announced(1, 1, NOW_MS), start, NOW_MS).unwrap();
    directory.hear(announced(2, 1, NOW_MS), start, NOW_MS).unwrap();
    let silent = start + FRESH_FOR;
    assert_eq!(directory.tick(silent).len(), 2);
    assert_eq!(directory.answered(&id(1), true, silent + SECOND, NOW_MS), []);
    // The other one speaks while it is asked: the question is void.
    directory.hear(announced(2, 2, NOW_MS), silent + SECOND, NOW_MS).unwrap();
    assert_eq!(directory.answered(&id(2), false, silent + 2 * SECOND, NOW_MS), []);
    assert_eq!(directory.fresh(silent + 2 * SECOND), 2);
}

#[test]
fn a_question_that_was_lost_is_asked_again() {
    let (mut directory, start) = directory();
    directory.hear(announced(1, 1, NOW_MS), start, NOW_MS).unwrap();
    let silent = start + FRESH_FOR;
    assert_eq!(directory.tick(silent).len(), 1);
    assert_eq!(directory.tick(silent + PROBE_LOST_AFTER), [DirectoryEffect::Probe(addr(1))]);
}

#[test]
fn few_are_asked_at_once_and_the_longest_silent_first() {
    let (mut directory, start) = directory();
    for n in 1..=40 {
        directory
            .hear(announced(n, 1, NOW_MS), start + SECOND * u32::try_from(40 - n).unwrap(), NOW_MS)
            .unwrap();
    }
    let silent = start + FRESH_FOR + 60 * SECOND;
    let asked = directory.tick(silent);
    assert_eq!(asked, (25..=40).rev().map(|n| DirectoryEffect::Probe(addr(n))).collect::<Vec<_>>());
    assert_eq!(directory.tick(silent), []);
    directory.answered(&id(40), true, silent, NOW_MS);
    assert_eq!(directory.tick(silent), [DirectoryEffect::Probe(addr(24))]);
}

#[test]
fn hints_are_neither_listed_nor_passed_on() {
    let (mut directory, now) = directory();
    directory.hint(&addr(1), Channel::Dht, now);
    directory.hint(&addr(1), Channel::Relays, now);
    assert_eq!((directory.known(), directory.listings(now).len(), directory.fresh(now)), (1, 0, 0));
    directory.peer_up(&addr(1), "one\u{202e}\n", 4, now, NOW_MS);
    let listed = listing(&directory, 1, now).unwrap();
    assert_eq!((listed.name.as_str(), listed.assets), ("one", 4));
    assert_eq!(listed.sources, ChannelSet::from([Channel::Relays, Channel::Dht]));
    assert_eq!(listed.signed, None, "it has signed nothing yet");
}

#[test]
fn a_hint_does_not_lead_away_from_somebody_who_is_alive() {
    let (mut directory, now) = directory();
    directory.hear(announced(1, 1, NOW_MS), now, NOW_MS).unwrap();
    let elsewhere = EndpointAddr::new(id(1)).with_ip_addr("6.6.6.6:6".parse().unwrap());
    directory.hint(&elsewhere, Channel::Dht, now);
    assert_eq!(listing(&directory, 1, now).unwrap().addr, addr(1));
    // Where nothing better is known, hints add up, within bounds.
    for n in 0..100 {
        let addr = EndpointAddr::new(id(2)).with_ip_addr(([6, 6, 6, n], 6).into());
        directory.hint(&addr, Channel::Dht, now);
    }
    let known = directory.addr(&id(2)).unwrap();
    assert_eq!(known.addrs.len(), 16);
    assert!(known.ip_addrs().any(|ip| ip.to_string() == "6.6.6.99:6"), "the latest among them");
}

#[test]
fn dials_that_fail_make_the_silent_stale_and_do_not_touch_the_fresh() {
    let (mut directory, start) = directory();
    directory.hear(announced(1, 1, NOW_MS), start, NOW_MS).unwrap();
    for _ in 0..10 {
        assert_eq!(directory.dial_failed(&id(1), start), []);
    }
    directory.hear(announced(1, 2, NOW_MS), start + 2 * SECOND, NOW_MS).unwrap();
    let silent = start + 2 * SECOND + FRESH_FOR;
    assert_eq!(directory.dial_failed(&id(1), silent), []);
    assert_eq!(directory.dial_failed(&id(1), silent), []);
    let stale = DirectoryEffect::WentStale { id: id(1), name: "agent 1".into() };
    assert_eq!(directory.dial_failed(&id(1), silent), [stale]);
    assert_eq!(directory.dial_failed(&id(1), silent), []);
}

#[test]
fn hints_that_come_to_nothing_are_forgotten_in_the_end() {
    let (mut directory, start) = directory();
    directory.hint(&addr(1), Channel::Dht, start);
    directory.hint(&addr(2), Channel::Dht, start);
    for _ in 0..FAILURES_MAX {
        directory.dial_failed(&id(1), start);
    }
    assert_eq!(directory.sweep(start + HINT_KEPT - SECOND, NOW_MS), []);
    assert_eq!(directory.sweep(start + HINT_KEPT, NOW_MS), [DirectoryEffect::Forgotten(id(1))]);
    assert_eq!(directory.known(), 1, "the other one was never tried");
}

#[test]
fn invented_agents_displace_only_each_other() {
    let (mut directory, start) = directory();
    directory.peer_up(&addr(1), "connected", 1, start, NOW_MS);
    directory.peer_up(&addr(2), "proven", 1, start, NOW_MS);
    directory.peer_gone(&id(2));
    directory.hear(announced(3, 1, NOW_MS), start, NOW_MS).unwrap();
    directory.hint(&addr(4), Channel::Mdns, start);
    let max = ENTRIES_MAX as u64;
    for n in 10..10 + 2 * max {
        directory.hint(&addr(n), Channel::Dht, start + SECOND);
    }
    assert_eq!(directory.known(), ENTRIES_MAX);
    assert!(listing(&directory, 3, start).is_some() && directory.addr(&id(4)).is_none());
    // Announcements displace hints, then one another, the longest silent first.
    for n in 20_000..20_000 + max {
        let now = start + SECOND * 2;
        directory.hear(announced(n, 1, NOW_MS), now, NOW_MS).unwrap();
    }
    assert_eq!(directory.known(), ENTRIES_MAX);
    assert!(listing(&directory, 1, start).is_some() && listing(&directory, 2, start).is_some());
    assert_eq!(listing(&directory, 3, start), None);
    assert_eq!(directory.hint(&addr(5), Channel::Dht, start), [], "there is no room for a hint");
    assert_eq!(directory.addr(&id(5)), None);
    // An agent that proves itself finds room.
    assert_eq!(directory.peer_up(&addr(6), "six", 1, start, NOW_MS).len(), 2);
    assert!(listing(&directory, 6, start).is_some());
    assert!(directory.marks.0.len() <= MARKS_MAX);
}

#[test]
fn a_directory_full_of_connections_refuses_the_next_announcement() {
    let (mut directory, now) = directory();
    for n in 1..=ENTRIES_MAX as u64 {
        directory.peer_up(&addr(n), "", 0, now, NOW_MS);
    }
    let one_more = ENTRIES_MAX as u64 + 1;
    assert_eq!(directory.hear(announced(one_more, 1, NOW_MS), now, NOW_MS), Err(AnnouncementRefusal::Full));
    assert_eq!(directory.known(), ENTRIES_MAX);
}

#[test]
fn joins_go_through_whoever_worked_then_by_chance_and_not_too_often() {
    let (mut directory, now) = directory();
    for n in 1..=6 {
        directory.hint(&addr(n), Channel::Dht, now);
    }
    directory.hint(&EndpointAddr::new(id(7)), Channel::Bootstrap, now);
    directory.peer_up(&addr(8), "", 0, now, NOW_MS);
    directory.dial_failed(&id(1), now);
    let but = HashSet::from([id(2)]);
    let later = now + 60 * SECOND;
    let first = directory.choose_to_join(&but, 3, 42, later);
    assert_eq!((first.len(), &first[0]), (3, &(addr(8), true)));
    let rest = directory.choose_to_join(&but, 9, 42, later);
    assert_eq!(rest.len(), 3, "neither the excluded one, nor the one without an address, nor the same again");
    assert_eq!(rest[2].0, addr(1), "the one that failed last");
    assert_eq!(directory.choose_to_join(&but, 9, 42, later), []);
    // Failures wait longer each time.
    let waits = |directory: &mut Directory| {
        directory.join_ended(&id(3), false, later);
        (1..2000).find(|s| {
            let at = later + SECOND * *s;
            directory.entries[&id(3)].join_at <= at
        })
    };
    let waited: Vec<u32> = (0..8).map_while(|_| waits(&mut directory)).collect();
    assert_eq!(waited, [15, 30, 60, 120, 240, 480, 600, 600]);
    assert_eq!(directory.join_ended(&id(4), true, later), [DirectoryEffect::Located(addr(4))]);
}

#[test]
fn what_is_kept_is_what_was_alive_and_it_comes_back_as_hints() {
    let (mut directory, start) = directory();
    directory.hear(announced(1, 7, NOW_MS), start, NOW_MS).unwrap();
    directory.peer_up(&addr(2), "two", 1, start, NOW_MS + 5);
    directory.hint(&addr(3), Channel::Dht, start);
    let mut saved = directory.unsaved(start);
    saved.sort_by_key(|peer| peer.last_success_ms);
    assert_eq!(saved.len(), 2);
    assert_eq!(
        (saved[0].addr.clone(), saved[0].signed.clone()),
        (addr(1), Some(announced(1, 7, NOW_MS).bytes))
    );
    assert_eq!(directory.unsaved(start), [], "nothing is new");
    directory.hear(announced(1, 8, NOW_MS), start + 60 * SECOND, NOW_MS).unwrap();
    assert_eq!(directory.unsaved(start + 60 * SECOND), [], "a sign of life alone can wait");
    assert_eq!(directory.unsaved(start + SAVE_EVERY).len(), 1);

    let mut next = Directory::default();
    next.begin(id(0), 2, start);
    assert_eq!(next.restore(saved, start, NOW_MS + 60_000), [addr(2), addr(1)], "the last alive first");
    assert_eq!((next.known(), next.listings(start).len()), (2, 0));
    assert_eq!(
        next.hear(announced(1, 7, NOW_MS), start, NOW_MS + 60_000),
        Err(AnnouncementRefusal::Replayed)
    );
    next.hear(announced(1, 9, NOW_MS), start, NOW_MS + 60_000).unwrap();
    assert_eq!(
        listing(&next, 1, start).unwrap().sources,
        ChannelSet::from([Channel::Saved, Channel::Gossip])
    );
    assert_eq!(next.choose_to_join(&HashSet::new(), 9, 1, start).len(), 2);
}

#[test]
fn a_run_goes_on_where_its_actor_failed() {
    let (mut directory, now) = directory();
    assert_eq!(directory.next_own(), (1, 1));
    directory.peer_up(&addr(1), "", 0, now, NOW_MS);
    directory.hint(&addr(2), Channel::Dht, now);
    assert_eq!(directory.choose_to_join(&HashSet::new(), 9, 1, now).len(), 2);
    directory.begin(id(0), 99, now);
    assert_eq!(directory.next_own(), (1, 2));
    assert_eq!(directory.choose_to_join(&HashSet::new(), 9, 1, now), [(addr(1), true)]);
    assert_eq!(directory.choose_to_join(&HashSet::new(), 9, 1, now + 15 * SECOND), [(addr(2), false)]);
}

#[test]
fn the_gate_keeps_half_for_those_who_are_known() {
    let start = Instant::now();
    let mut gate = SignatureGate::new(64, start);
    let through =
        |gate: &mut SignatureGate, known, now| (0..5_000).filter(|_| gate.admits(known, now)).count();
    assert_eq!(through(&mut gate, false, start), 64);
    assert_eq!(through(&mut gate, true, start), 64);
    assert_eq!(through(&mut gate, true, start), 0);
    // A flood of strangers for a minute, in steps of a tenth of a second: known authors are never kept out.
    let mut strangers = 0;
    for tenth in 1..=600 {
        let now = start + tenth * SECOND / 10;
        strangers += (0..500).filter(|_| gate.admits(false, now)).count();
        if tenth > 20 {
            assert!(gate.admits(true, now), "after {tenth} tenths");
        }
    }
    assert!((3_000..=3_840).contains(&strangers), "{strangers}");
}

/// In a network that takes minutes until everybody has spoken, nobody is asked for a sign of life for having had no turn: neither
/// by those who have heard all of them for long, nor by one that has just come.
#[test]
fn a_sign_of_life_counts_for_longer_where_there_are_many() {
    let (mut directory, start) = directory();
    // Each speaks once in a hundred seconds, sixteen a second: so do 1,600 agents.
    let mut elapsed = 0;
    for counter in 1..=3 {
        for sixteen in 0..100 {
            elapsed += 1;
            let now = start + elapsed * SECOND;
            for n in 1..=16 {
                directory.hear(announced(sixteen * 16 + n, counter, NOW_MS), now, NOW_MS).unwrap();
            }
            assert_eq!(directory.tick(now), [], "after {elapsed} s");
        }
        assert_eq!(
            directory.settled(),
            if counter == 1 { 0 } else { 1_600 },
            "who spoke once may be invented"
        );
        assert_eq!(directory.fresh(start + elapsed * SECOND), 1_600);
    }
    // The first sixteen of the last round were heard 99 s ago.
    assert_eq!(directory.tick(start + (elapsed + 150) * SECOND), []);
    assert_eq!(directory.tick(start + (elapsed + 151) * SECOND).len(), PROBES_MAX);
    assert_eq!(directory.fresh(start + (elapsed + 151) * SECOND), 1_584);
}
