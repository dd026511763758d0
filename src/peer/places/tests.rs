use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::library::ticket::LibraryId;

const LIMITS: PlaceLimits = PlaceLimits { connections: 64, pending: 32 };

fn ticket(serial: u64) -> TicketSerial {
    TicketSerial { library: LibraryId([7; 32]), serial }
}

/// Places that connect one after the other.
struct Door {
    places: Places,
    next: u64,
}

impl Door {
    fn new(limits: PlaceLimits) -> Self {
        Self { places: Places::new(limits), next: 0 }
    }

    fn knock(&mut self, class: Class) -> Result<SessionId, NoPlace> {
        self.places.may_enter(class)?;
        self.next += 1;
        self.places.enter(SessionId(self.next), class, None);
        Ok(SessionId(self.next))
    }

    /// Connects as a stranger and proves what it is at once.
    fn connect(&mut self, tickets: Option<&[TicketSerial]>) -> Result<SessionId, NoPlace> {
        let session = self.knock(Class::Stranger)?;
        let proved = self.places.prove(session, false, tickets);
        if proved.is_err() {
            self.places.leave(session);
        }
        proved.map(|_| session)
    }
}

#[test]
fn one_ticket_has_an_eighth_of_the_members_places_however_many_ids_show_it() {
    let mut door = Door::new(LIMITS);
    let outcomes: Vec<_> = (0..64).map(|_| door.connect(Some(&[ticket(1)]))).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 4);
    assert!(outcomes[4..].iter().all(|outcome| *outcome == Err(NoPlace::Ticket)));
    // Another ticket in the same hands counts by itself; a machine with both is counted once.
    door.connect(Some(&[ticket(1), ticket(2)])).unwrap();
    assert_eq!(door.places.counts(), [0, 5, 0]);
    for serial in 2..64 {
        let _ = door.connect(Some(&[ticket(serial)]));
    }
    assert_eq!(door.connect(Some(&[ticket(99)])), Err(NoPlace::Connections), "half of all places");
    assert_eq!(door.places.counts(), [0, 32, 0]);
    for _ in 0..32 {
        door.connect(None).unwrap();
    }
    assert_eq!(door.connect(None), Err(NoPlace::Connections));
    assert!(!door.places.has_room_for(Class::Own));
    assert!(door.places.has_room_for(Class::Named));
}

#[test]
fn whom_the_user_named_has_a_place_always() {
    let mut door = Door::new(PlaceLimits { connections: 2, pending: 1 });
    let (first, _) = (door.connect(None).unwrap(), door.connect(None).unwrap());
    let waits = door.knock(Class::Stranger).unwrap();
    assert_eq!(door.knock(Class::Own), Err(NoPlace::Pending));
    let named = door.knock(Class::Named).unwrap();
    assert_eq!(door.places.prove(named, true, Some(&[ticket(1)])), Ok(Class::Named));
    assert_eq!(door.places.prove(waits, false, None), Err(NoPlace::Connections));
    // It takes nobody's place, either.
    door.places.leave(first);
    assert_eq!(door.places.prove(waits, false, None), Ok(Class::Own));
}

#[test]
fn strangers_and_members_do_not_keep_own_devices_from_their_proof() {
    let mut door = Door::new(LIMITS);
    let strangers = (0..100).filter(|_| door.knock(Class::Stranger).is_ok()).count();
    assert_eq!(strangers, 12);
    let members = (0..100).filter(|n| door.knock(Class::Member(ticket(n % 50))).is_ok()).count();
    assert_eq!(members, 4, "kept for those who proved themselves before");
    let own = (0..100).filter(|_| door.knock(Class::Own).is_ok()).count();
    assert_eq!(own, 16);
    // One ticket has an eighth of what members may.
    let mut door = Door::new(LIMITS);
    assert_eq!((0..100).filter(|_| door.knock(Class::Member(ticket(1))).is_ok()).count(), 2);
    assert!(door.knock(Class::Member(ticket(2))).is_ok());
}

#[test]
fn a_peer_that_comes_back_takes_over_the_place_that_it_had() {
    let mut door = Door::new(PlaceLimits { connections: 2, pending: 2 });
    let (first, _) = (door.connect(None).unwrap(), door.connect(None).unwrap());
    door.places.enter(SessionId(100), Class::Own, Some(first));
    assert_eq!(door.places.counts(), [2, 0, 0]);
    // The end of the connection before it is heard of later.
    door.places.leave(first);
    assert_eq!(door.places.prove(SessionId(100), false, None), Ok(Class::Own));
    assert_eq!(door.places.counts(), [2, 0, 0]);
}

#[derive(Clone, Debug)]
enum Step {
    Knock(u8, u64),
    Prove(usize, u8, u64),
    Leave(usize),
}

fn class_of(kind: u8, serial: u64) -> Class {
    match kind {
        0 => Class::Named,
        1 => Class::Own,
        2 => Class::Member(ticket(serial)),
        _ => Class::Stranger,
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, 0..6_u64).prop_map(|(kind, serial)| Step::Knock(kind, serial)),
        3 => (any::<usize>(), 0..3_u8, 0..6_u64).prop_map(|(n, kind, serial)| Step::Prove(n, kind, serial)),
        1 => any::<usize>().prop_map(Step::Leave),
    ]
}

proptest! {
    /// Whatever comes in whatever order: limits hold, peers that have proved themselves stay, and own devices have their half.
    #[test]
    fn limits_hold_and_the_proven_stay(
        connections in 1..40_usize,
        pending in 1..20_usize,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut door = Door::new(PlaceLimits { connections, pending });
        let mut open: Vec<SessionId> = Vec::new();
        let mut proved: BTreeMap<u64, u8> = BTreeMap::new();
        let members = PlaceLimits::members(connections);
        for step in steps {
            match step {
                Step::Knock(kind, serial) => match door.knock(class_of(kind, serial)) {
                    Ok(session) => open.push(session),
                    Err(error) => prop_assert!(kind != 0 && error == NoPlace::Pending),
                },
                Step::Prove(n, kind, serial) if !open.is_empty() => {
                    let session = open[n % open.len()];
                    let tickets = (kind == 2).then(|| vec![ticket(serial)]);
                    let was = proved.get(&session.0).copied();
                    let own = proved.values().filter(|kind| **kind == 1).count();
                    match door.places.prove(session, kind == 0, tickets.as_deref()) {
                        Ok(_) => drop(proved.insert(session.0, kind)),
                        Err(error) => {
                            prop_assert!(kind != 0, "{error}");
                            // Half of the places are theirs, and a member that turns out to be one makes room for itself.
                            prop_assert!(kind != 1 || own >= connections - members && was != Some(1), "{own}");
                            prop_assert!(was != Some(kind) || kind == 2, "{error}");
                        }
                    }
                }
                Step::Leave(n) if !open.is_empty() => {
                    let session = open.swap_remove(n % open.len());
                    door.places.leave(session);
                    proved.remove(&session.0);
                }
                Step::Prove(..) | Step::Leave(_) => {}
            }
            let held = |kind: u8| proved.values().filter(|other| **other == kind).count();
            prop_assert_eq!(door.places.counts()[0], held(0) + held(1), "the proven stay");
            prop_assert_eq!(door.places.counts()[1], held(2), "the proven stay");
            prop_assert!(held(1) + held(2) <= connections && held(2) <= members);
            for serial in 0..6 {
                let same = door.places.count(true, |class| *class == Class::Member(ticket(serial)));
                prop_assert!(same <= PlaceLimits::per_ticket(members));
            }
            let waiting = door.places.count(false, |class| *class != Class::Named);
            prop_assert!(waiting <= pending, "{waiting} of {pending}");
        }
    }
}
