#![allow(unused_imports, reason = "benches are compiled for tests as well, and then without what runs these")]

use std::collections::BTreeMap;

use super::link::HELD_BACK;
use super::*;

/// No test waits so long unless it fails.
const LIMIT: Duration = Duration::from_secs(30);
const MS: Duration = Duration::from_millis(1);

fn fates(link: Link, seed: u64, count: u32) -> Vec<Fate> {
    let mut line = Line::new(link, seed);
    (0..count).map(|n| line.pass(MS * n, 1000)).collect()
}

fn arrivals(fates: &[Fate]) -> Vec<Duration> {
    let at = |fate: &Fate| if let Fate::Arrives { at, .. } = fate { Some(*at) } else { None };
    fates.iter().filter_map(at).collect()
}

#[test]
fn a_seed_decides_and_another_one_decides_otherwise() {
    let link = Link { loss: 0.1, duplicate: 0.1, reorder: 0.1, jitter: MS * 9, delay: MS, rate: None };
    assert_eq!(fates(link, 1, 1000), fates(link, 1, 1000));
    assert_ne!(fates(link, 1, 1000), fates(link, 2, 1000));
}

/// What becomes of a datagram does not depend on what became of those before it.
#[test]
fn a_setting_changes_only_what_it_is_about() {
    let link = Link { loss: 0.2, delay: MS, ..Link::default() };
    let lost = |link| fates(link, 7, 1000).iter().map(|fate| *fate == Fate::Lost).collect::<Vec<_>>();
    assert_eq!(lost(link), lost(Link { reorder: 0.5, duplicate: 0.5, jitter: MS * 50, ..link }));
}

#[test]
fn shares_are_what_they_are_said_to_be() {
    let link = Link { loss: 0.05, duplicate: 0.25, reorder: 0.5, ..Link::default() };
    let fates = fates(link, 3, 20_000);
    let near = |is: &dyn Fn(&Fate) -> bool, share: f64| {
        let count = u32::try_from(fates.iter().filter(|fate| is(fate)).count()).unwrap();
        let got = f64::from(count) / 20_000.0;
        assert!((got - share).abs() < 0.02, "{got} instead of {share}");
    };
    near(&|fate| *fate == Fate::Lost, 0.05);
    near(&|fate| matches!(fate, Fate::Arrives { twice: true, .. }), 0.25 * 0.95);
    near(&|fate| matches!(fate, Fate::Arrives { overtaken: true, .. }), 0.5 * 0.95);
}

#[test]
fn jitter_delays_and_does_not_reorder() {
    let link = Link { delay: MS * 10, jitter: MS * 20, ..Link::default() };
    let at = arrivals(&fates(link, 5, 1000));
    assert_eq!(at.len(), 1000);
    assert!(at.is_sorted());
    for (sent, at) in (0..).map(|n| MS * n).zip(&at) {
        assert!(*at >= sent + link.delay, "sent at {sent:?}, there at {at:?}");
    }
    // One that waits for another arrives with it, so none is late by more than the jitter.
    assert!((0..).map(|n| MS * n).zip(&at).all(|(sent, at)| *at <= sent + link.delay + link.jitter));
}

#[test]
fn who_is_overtaken_arrives_after_those_behind_it() {
    let link = Link { reorder: 0.1, ..Link::default() };
    let fates = fates(link, 5, 1000);
    assert!(!arrivals(&fates).is_sorted());
    for (sent, fate) in (0..).map(|n| MS * n).zip(&fates) {
        let Fate::Arrives { at, overtaken, .. } = fate else { panic!("{fate:?}") };
        assert_eq!(*at - sent, if *overtaken { HELD_BACK } else { Duration::ZERO });
    }
}

#[test]
fn a_rate_spaces_what_comes_at_once_and_its_queue_has_an_end() {
    // A datagram of 1,000 bytes takes a millisecond, and ten may wait.
    let rate = Rate::new(1_000_000, MS * 10);
    assert_eq!(rate.queue_bytes, 10_000);
    let mut line = Line::new(Link { rate: Some(rate), delay: MS * 100, ..Link::default() }, 0);
    let at_once: Vec<Fate> = (0..20).map(|_| line.pass(MS, 1000)).collect();
    let at = arrivals(&at_once);
    assert_eq!(at, (0..11).map(|n| MS * (102 + n)).collect::<Vec<_>>());
    assert!(at_once[11..].iter().all(|fate| *fate == Fate::Overflowed));
    // The queue empties as time passes, and an idle line saves nothing up.
    assert_eq!(arrivals(&[line.pass(MS * 500, 1000), line.pass(MS * 500, 1000)]), [MS * 601, MS * 602]);
}

/// A far side that sends back what it gets, and a near one that sends.
struct Ends {
    near: UdpSocket,
    far: UdpSocket,
    forwarder: Forwarder,
}

impl Ends {
    /// `None`, with a message, on a machine without both families of addresses.
    fn new(links: [Link; 2]) -> Option<Self> {
        if !Forwarder::is_possible() {
            println!("skipped: this machine lacks IPv4 or IPv6");
            return None;
        }
        let far = UdpSocket::bind(loopback(false)).unwrap();
        let forwarder = Forwarder::start(far.local_addr().unwrap(), links, 1).unwrap();
        assert!(forwarder.addr().is_ipv4());
        let near = UdpSocket::bind(loopback(true)).unwrap();
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(LIMIT)).unwrap();
        }
        Some(Self { near, far, forwarder })
    }

    /// What was counted one way, once so many datagrams came: they may arrive before they are counted.
    fn counts(&self, way: Way, came: u64) -> Counts {
        let began = Instant::now();
        while self.forwarder.counts(way).came < came && began.elapsed() < LIMIT {
            std::thread::yield_now();
        }
        self.forwarder.counts(way)
    }

    fn send(&self, number: u32) {
        self.near.send_to(&number.to_be_bytes(), self.forwarder.addr()).unwrap();
    }
}

fn recv(socket: &UdpSocket) -> (u32, SocketAddr) {
    let mut buffer = [0; 64];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram");
    assert_eq!(len, 4);
    (u32::from_be_bytes(buffer[..4].try_into().unwrap()), from)
}

#[test]
fn both_ends_hear_each_other_late() {
    let Some(ends) = Ends::new([Link::after(MS * 30), Link::after(MS * 20)]) else { return };
    let began = Instant::now();
    ends.send(7);
    let (number, from) = recv(&ends.far);
    assert_eq!(number, 7);
    assert!(began.elapsed() >= MS * 30 - TICK);
    ends.far.send_to(&8_u32.to_be_bytes(), from).unwrap();
    assert_eq!(recv(&ends.near), (8, ends.forwarder.addr()));
    assert!(began.elapsed() >= MS * 50 - TICK * 2);
    let [there, back] = [Way::There, Way::Back].map(|way| ends.counts(way, 1));
    assert_eq!((there.came, there.came_bytes, back.came), (1, 4, 1));
}

#[test]
fn who_sends_is_told_apart_and_strangers_are_not_passed_on() {
    let Some(ends) = Ends::new([Link::default(); 2]) else { return };
    let other = UdpSocket::bind(loopback(true)).unwrap();
    other.set_read_timeout(Some(LIMIT)).unwrap();
    ends.send(1);
    let (_, first) = recv(&ends.far);
    other.send_to(&2_u32.to_be_bytes(), ends.forwarder.addr()).unwrap();
    let (_, second) = recv(&ends.far);
    assert_ne!(first, second);
    let stranger = UdpSocket::bind(loopback(false)).unwrap();
    stranger.send_to(&66_u32.to_be_bytes(), first).unwrap();
    ends.far.send_to(&11_u32.to_be_bytes(), first).unwrap();
    ends.far.send_to(&12_u32.to_be_bytes(), second).unwrap();
    assert_eq!(recv(&ends.near).0, 11);
    assert_eq!(recv(&other).0, 12);
}

#[test]
fn everything_comes_twice() {
    let Some(ends) = Ends::new([Link { duplicate: 1.0, ..Link::default() }, Link::default()]) else { return };
    (0..50).for_each(|number| ends.send(number));
    let mut times = BTreeMap::<u32, u32>::new();
    for _ in 0..100 {
        *times.entry(recv(&ends.far).0).or_default() += 1;
    }
    assert_eq!(times, (0..50).map(|number| (number, 2)).collect());
}

#[test]
fn what_is_lost_is_what_the_seed_says() {
    let link = Link { loss: 0.3, ..Link::default() };
    let Some(ends) = Ends::new([link, Link::default()]) else { return };
    (0..200).for_each(|number| ends.send(number));
    let mut line = Line::new(link, 1);
    for number in (0..200).filter(|_| line.pass(MS, 4) != Fate::Lost) {
        assert_eq!(recv(&ends.far).0, number);
    }
    assert_eq!(ends.counts(Way::There, 200).came, 200);
}

#[test]
fn nothing_passes_while_it_is_cut_and_what_was_under_way_is_lost() {
    let Some(ends) = Ends::new([Link::after(MS * 3000), Link::default()]) else { return };
    ends.send(1);
    assert_eq!(ends.counts(Way::There, 1).came, 1);
    ends.forwarder.cut();
    ends.send(2);
    assert_eq!(ends.counts(Way::There, 2).came, 2);
    ends.forwarder.heal();
    ends.send(3);
    assert_eq!(recv(&ends.far).0, 3);
    let counts = ends.counts(Way::There, 3);
    assert_eq!((counts.came, counts.cut), (3, 2));
}

#[test]
fn the_far_side_sees_another_address_after_a_rebind() {
    let Some(ends) = Ends::new([Link::default(); 2]) else { return };
    ends.send(1);
    let (_, before) = recv(&ends.far);
    ends.forwarder.rebind();
    ends.far.send_to(&66_u32.to_be_bytes(), before).unwrap();
    ends.send(2);
    let (number, after) = recv(&ends.far);
    assert_eq!(number, 2);
    assert_ne!(before, after);
    ends.far.send_to(&3_u32.to_be_bytes(), after).unwrap();
    assert_eq!(recv(&ends.near).0, 3, "the former address leads nowhere");
}

/// As QUIC sends: many datagrams of one size with one system call, and the last one shorter.
#[test]
fn batches_come_apart_and_keep_their_order() {
    let Some(ends) = Ends::new([Link::after(MS * 5), Link::default()]) else { return };
    let port = Port::bind(loopback(true)).unwrap();
    let per_batch = port.batches.max_gso_segments().get().min(10);
    let mut content = Vec::new();
    for number in 0..u32::try_from(per_batch).unwrap() {
        content.extend_from_slice(&number.to_be_bytes());
        content.extend_from_slice(&[7; 1196]);
    }
    content.truncate(content.len() - 100);
    let transmit = Transmit {
        destination: ends.forwarder.addr(),
        ecn: Some(EcnCodepoint::Ect0),
        contents: &content,
        segment_size: (per_batch > 1).then_some(1200),
        src_ip: None,
    };
    port.batches.try_send((&port.socket).into(), &transmit).unwrap();
    for expected in content.chunks(1200) {
        let mut buffer = [0; 2000];
        let (len, _) = ends.far.recv_from(&mut buffer).unwrap();
        assert!(&buffer[..len] == expected, "{len} bytes");
    }
}

#[test]
fn a_link_that_changes_does_so_for_what_comes_from_then_on() {
    let Some(ends) = Ends::new([Link::after(LIMIT), Link::default()]) else { return };
    ends.send(1);
    let began = Instant::now();
    while ends.forwarder.counts(Way::There).came == 0 && began.elapsed() < LIMIT / 2 {
        std::thread::yield_now();
    }
    ends.forwarder.set([Link { loss: 1.0, ..Link::default() }, Link::default()]);
    ends.send(2);
    while ends.forwarder.counts(Way::There).lost == 0 && began.elapsed() < LIMIT / 2 {
        std::thread::yield_now();
    }
    ends.forwarder.set([Link { reorder: 1.0, ..Link::default() }, Link::default()]);
    ends.send(3);
    // The first one is under way still, and arrives when it was to arrive; what comes now does not wait for it.
    assert_eq!(recv(&ends.far).0, 3);
}
