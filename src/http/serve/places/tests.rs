use super::*;

fn places(connections: usize) -> ClientPlaces {
    ClientPlaces::new(ServeLimits { connections, ..ServeLimits::default() })
}

fn local() -> IpAddr {
    "127.0.0.1".parse().unwrap()
}

fn other(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn taking() -> Arc<Patience> {
    Arc::new(Patience::new(1024))
}

#[test]
fn who_waits_the_longest_goes_and_newcomers_are_let_in() {
    let places = places(16);
    let all: Vec<ClientPlace> = (0..16).map(|_| places.admit(local(), None).unwrap()).collect();
    all[0].begin_request(None, taking()).unwrap();
    all[1].begin_events().unwrap();
    let more: Vec<ClientPlace> = (0..3).map(|_| places.admit(local(), None).unwrap()).collect();
    let cut: Vec<usize> = (0..16).filter(|n| all[*n].cut.is_cancelled()).collect();
    assert_eq!(cut, [2, 3, 4], "neither who is answered nor who follows events");
    assert_eq!(places.lock().len(), 16);
    drop((all, more));
    assert_eq!(places.lock().len(), 0);
}

#[test]
fn where_all_are_busy_a_newcomer_is_refused() {
    let places = places(8);
    let all: Vec<ClientPlace> = (0..8).map(|_| places.admit(local(), None).unwrap()).collect();
    for place in &all {
        place.begin_request(None, taking()).unwrap();
    }
    assert!(places.admit(local(), None).is_none());
    all[3].end_request();
    assert!(places.admit(local(), None).is_some());
    assert!(all[3].cut.is_cancelled());
}

#[test]
fn other_machines_leave_places_for_this_one_and_for_each_other() {
    let places = places(16);
    let busy = |place: ClientPlace| {
        place.begin_request(None, taking()).unwrap();
        place
    };
    let mut all: Vec<ClientPlace> = (0..4).map(|_| busy(places.admit(other(1), None).unwrap())).collect();
    all.extend((2..6).map(|n| busy(places.admit(other(n), None).unwrap())));
    assert!(places.admit(other(1), None).is_none(), "a quarter is one address's");
    all.extend((6..12).map(|n| busy(places.admit(other(n), None).unwrap())));
    assert!(places.admit(other(20), None).is_none(), "an eighth is for this machine");
    all.extend((0..2).map(|_| busy(places.admit(local(), None).unwrap())));
    assert!(places.admit(local(), None).is_none());
    // A program here that comes to the address that the node listens on.
    assert_eq!(Address::of(other(1), Some(other(1))), Address::ThisMachine);
    // One household of IPv6, and an address of IPv4 in the form of one of IPv6.
    let same =
        |a: &str, b: &str| Address::of(a.parse().unwrap(), None) == Address::of(b.parse().unwrap(), None);
    assert!(same("2001:db8::1", "2001:db8::ffff:2") && !same("2001:db8::1", "2001:db8:0:1::1"));
    assert!(same("::ffff:10.0.0.1", "10.0.0.1") && same("::1", "127.0.0.2"));
}

#[test]
fn kinds_have_their_part() {
    let places = places(16);
    let all: Vec<ClientPlace> = (0..9).map(|_| places.admit(local(), None).unwrap()).collect();
    for place in &all[..4] {
        place.begin_events().unwrap();
    }
    assert_eq!(all[4].begin_events().unwrap_err().code, "too_many_streams");
    all[0].end_request();
    all[4].begin_events().unwrap();
    for place in &all[5..9] {
        place.begin_request(Some(taking()), taking()).unwrap();
    }
    assert_eq!(all[0].begin_request(Some(taking()), taking()).unwrap_err().code, "too_many_uploads");
    all[5].end_body();
    all[0].begin_request(Some(taking()), taking()).unwrap();
    let theirs: Vec<ClientPlace> = (0..3).map(|_| places.admit(other(1), None).unwrap()).collect();
    all[1].end_request();
    theirs[0].begin_events().unwrap();
    all[2].end_request();
    theirs[1].begin_events().unwrap();
    all[3].end_request();
    assert!(theirs[2].begin_events().is_err(), "one address of another machine has an eighth of so few");
}

#[test]
fn one_address_takes_no_bodies_of_others() {
    let places = places(64);
    let sends = |address: IpAddr| {
        let place = places.admit(address, None).unwrap();
        place.begin_request(Some(taking()), taking()).map(|()| place)
    };
    let honest: Vec<ClientPlace> = (2..5).map(|n| sends(other(n)).unwrap()).collect();
    let theirs: Vec<ClientPlace> = (0..4).map(|_| sends(other(1)).unwrap()).collect();
    assert_eq!(sends(other(1)).unwrap_err().code, "too_many_uploads", "a quarter of a quarter");
    let more: Vec<ClientPlace> = (10..15).map(|n| sends(other(n)).unwrap()).collect();
    assert!(sends(other(20)).is_err(), "the rest is for this machine");
    let local: Vec<ClientPlace> = (0..4).map(|_| sends(local()).unwrap()).collect();
    assert!(honest.iter().chain(&theirs).chain(&more).chain(&local).all(|place| !place.cut.is_cancelled()));
}

#[test]
fn who_comes_through_a_proxy_is_of_another_machine() {
    let places = places(16);
    let mut all: Vec<ClientPlace> = (0..16).map(|_| places.admit(local(), None).unwrap()).collect();
    for place in &all {
        place.begin_request(None, taking()).unwrap();
    }
    let taken = all.iter().filter(|place| place.comes_through_proxy().is_ok()).count();
    assert_eq!(taken, 14, "the rest is for this machine");
    drop(all.pop());
    assert!(places.admit(other(1), None).is_none());
    assert!(places.admit(local(), None).is_some());
}
