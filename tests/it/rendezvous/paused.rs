//! In paused time, with a pkarr that obeys the test.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::actor::policy::ChildKind;
use can_sync::testing::actor::status::ActorState;
use can_sync::testing::actor::supervisor::{Child, RootArgs, RootMsg, start};
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::config::SlotFormat;
use can_sync::testing::discovery::channel::{Channel, ChannelState};
use can_sync::testing::discovery::list;
use can_sync::testing::discovery::network::now_us;
use can_sync::testing::discovery::rendezvous::{RendezvousActor, RendezvousMsg};
use can_sync::testing::discovery::slot::{Slot, SlotEntry};
use can_sync::testing::events::EventLog;
use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use tokio::time::Instant;

use super::{entry, slots};
use crate::support::nodes::eventually;
use crate::support::rendezvous::{Agent, FakePkarr, KEYS, secret_key, slot_keys, ticket_of};

const BOTH: [SlotFormat; 2] = [SlotFormat::Sealed, SlotFormat::Compatible];

fn key(format: SlotFormat, slot: Slot) -> [u8; 32] {
    slot_keys(format).keypair(slot).public_key().to_bytes()
}

/// Who is in a slot of the fake.
fn listed(fake: &FakePkarr, format: SlotFormat, slot: Slot) -> Vec<EndpointId> {
    let packet = fake.get().packets.get(&key(format, slot)).cloned();
    let entries = packet.map(|packet| slot_keys(format).unpack(&packet, now_us()));
    entries.unwrap_or_default().iter().map(|entry| entry.id).collect()
}

/// When today's slots were read and written, by whoever used the fake, in seconds since `start`.
fn requests(fake: &FakePkarr, format: SlotFormat, start: Instant) -> (Vec<f64>, Vec<f64>) {
    let keys: HashSet<_> = slots(format).into_iter().map(|slot| key(format, slot)).collect();
    let of = |write| {
        let log = &fake.get().log;
        let ours = log.iter().filter(|(_, key, w)| *w == write && keys.contains(key));
        ours.map(|(at, ..)| (*at - start).as_secs_f64()).collect()
    };
    (of(false), of(true))
}

/// Puts a packet into a slot of the fake.
fn occupy(fake: &FakePkarr, format: SlotFormat, slot: Slot, entries: &[SlotEntry]) {
    let at_us = now_us();
    let packet = slot_keys(format).pack(slot, entries, at_us, [1; 24]).unwrap();
    fake.get().packets.insert(key(format, slot), packet);
}

/// Puts agent `n`'s own record into the fake.
fn published(fake: &FakePkarr, n: u16, port: u16) -> EndpointAddr {
    let addr = ticket_of(n, port).parse::<EndpointTicket>().unwrap().endpoint_addr().clone();
    let packet = list::pack(&KEYS, &secret_key(n), &addr, &[], now_us(), [2; 24]).unwrap();
    fake.get().packets.insert(*addr.id.as_bytes(), packet);
    addr
}

#[tokio::test(start_paused = true)]
async fn whom_a_user_named_by_id_alone_is_looked_up() {
    for contact in [false, true] {
        let fake = FakePkarr::default();
        let agent = Agent::start(1, SlotFormat::Sealed, fake.connect(Channel::Dht)).await;
        agent.connected.send_replace(usize::from(contact));
        // Nothing but the slots' own agents so far.
        tokio::time::sleep(Duration::from_mins(1)).await;
        let addr = published(&fake, 2, 4711);
        assert_eq!(agent.candidates().get(&addr.id), None);
        agent.cast(RendezvousMsg::Locate { endpoint_id: addr.id });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(agent.candidates().get(&addr.id), Some(&addr), "contact: {contact}");
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_new_network_everything_is_read_and_written_afresh() {
    let fake = FakePkarr::default();
    let agent = Agent::start(1, SlotFormat::Sealed, fake.connect(Channel::Dht)).await;
    // In company it would be quiet for a quarter of an hour.
    agent.connected.send_replace(1);
    tokio::time::sleep(Duration::from_hours(2)).await;
    let own = *agent.id.as_bytes();
    fake.get().packets.clear();
    fake.get().log.clear();
    agent.cast(RendezvousMsg::LookNow);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(fake.get().packets.contains_key(&own), "its own record");
    let slot = slots(SlotFormat::Sealed)
        .into_iter()
        .find(|s| listed(&fake, SlotFormat::Sealed, *s).contains(&agent.id));
    assert!(slot.is_some(), "its place in a slot");
    assert!(fake.get().log.iter().filter(|(_, _, write)| !write).count() >= 2, "a look");
}

#[tokio::test(start_paused = true)]
async fn a_lone_agent_looks_every_15_s_and_writes_every_minute() {
    for format in BOTH {
        let fake = FakePkarr::default();
        let start = Instant::now();
        let _agent = Agent::start(1, format, fake.connect(Channel::Dht)).await;
        tokio::time::sleep(Duration::from_hours(1)).await;
        let (reads, writes) = requests(&fake, format, start);
        println!("alone, per hour: {} slot reads, {} slot writes ({format:?})", reads.len(), writes.len());
        // Each look reads all eight; writes and verifications read one each.
        let looks = reads.len().saturating_sub(2 * writes.len()) / 8;
        assert!((200..=300).contains(&looks), "{looks} looks");
        assert!((50..=75).contains(&writes.len()), "{} writes", writes.len());
        assert!(reads[0] < 0.1 && writes[0] < 1.0, "it begins at once");
        let gaps: Vec<f64> = writes.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.iter().all(|gap| (47.9..72.1).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().any(|gap| (gap - 60.0).abs() > 1.0), "jittered: {gaps:?}");
        let written: BTreeSet<_> = slots(format)
            .into_iter()
            .filter(|s| !listed(&fake, format, *s).is_empty())
            .map(|s| s.index)
            .collect();
        assert_eq!(written, [0].into(), "it keeps its place");
    }
}

#[tokio::test(start_paused = true)]
async fn in_company_it_looks_rarely_and_leaves_most_writes_to_others() {
    for (peers, most_writes) in [(3, 380), (99, 40)] {
        let (format, fake) = (SlotFormat::Sealed, FakePkarr::default());
        let agent = Agent::start(1, format, fake.connect(Channel::Dht)).await;
        agent.connected.send_replace(peers);
        tokio::time::sleep(Duration::from_hours(1)).await;
        fake.get().log.clear();
        let start = Instant::now();
        tokio::time::sleep(Duration::from_hours(5)).await;
        let (reads, writes) = requests(&fake, format, start);
        // Writes read their slot before and after.
        let looked = reads.len() - 2 * writes.len().min(reads.len() / 2);
        println!(
            "connected to {peers}, in five hours: {looked} slot reads by looking, {} writes with two more each",
            writes.len()
        );
        assert!((45..=80).contains(&looked), "{looked} reads in five hours; 12 an hour are meant");
        assert!(writes.len() <= most_writes && !writes.is_empty(), "{} writes in five hours", writes.len());
    }
}

#[tokio::test(start_paused = true)]
async fn who_loses_everybody_looks_at_once() {
    let (format, fake) = (SlotFormat::Sealed, FakePkarr::default());
    let agent = Agent::start(1, format, fake.connect(Channel::Dht)).await;
    agent.connected.send_replace(5);
    tokio::time::sleep(Duration::from_hours(2)).await;
    fake.get().log.clear();
    let start = Instant::now();
    agent.connected.send_replace(0);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (reads, _) = requests(&fake, format, start);
    assert!(reads.len() >= 8 && reads[0] < 5.0, "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_claim_is_made_again_and_keeps_the_others() {
    let (format, fake) = (SlotFormat::Sealed, FakePkarr::default());
    let mut agent = Agent::start(1, format, fake.connect(Channel::Dht)).await;
    let slot = slots(format)[0];
    eventually("a claim", async || {
        listed(&fake, format, slot).contains(&agent.id).then_some(()).ok_or_else(|| "no".into())
    })
    .await;
    // Somebody who had read the slot before we wrote it.
    occupy(&fake, format, slot, &[entry(2)]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let both: BTreeSet<_> = listed(&fake, format, slot).into_iter().collect();
    assert_eq!(both, [agent.id, secret_key(2).public()].into());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn live_owners_of_compatible_slots_are_not_overwritten() {
    let (format, fake) = (SlotFormat::Compatible, FakePkarr::default());
    for slot in slots(format) {
        occupy(&fake, format, slot, &[entry(100 + u16::from(slot.index))]);
    }
    let agent = Agent::start(1, format, fake.connect(Channel::Relays)).await;
    tokio::time::sleep(Duration::from_mins(4)).await;
    let (_, writes) = requests(&fake, format, Instant::now());
    assert_eq!(writes.len(), 0, "nobody was overwritten");
    let found: BTreeSet<_> = agent.candidates().into_keys().collect();
    assert_eq!(found, (100..108).map(|n| secret_key(n).public()).collect(), "bare ids are enough to dial");
    assert_eq!(agent.report(Channel::Relays).state, ChannelState::Up);
    // One of them leaves: its last packet is from long ago.
    let (keys, slot) = (slot_keys(format), slots(format)[6]);
    let old = keys.pack(slot, &[entry(106)], now_us() - 301_000_000, [1; 24]).unwrap();
    fake.get().packets.insert(key(format, slot), old);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(listed(&fake, format, slot), [agent.id]);
}

/// Two agents that start at once meet by what they write and then verify. Where requests wait for one another, those go first.
#[tokio::test(start_paused = true)]
async fn where_few_requests_go_out_at_once_the_first_look_follows_the_first_write() {
    for (width, looks_first) in [(2, false), (8, true)] {
        let (format, fake) = (SlotFormat::Sealed, FakePkarr::default());
        fake.get().width = Some(width);
        let agent = Agent::start(1, format, fake.connect(Channel::Relays)).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let keys: HashSet<_> = slots(format).into_iter().map(|slot| key(format, slot)).collect();
        let log: Vec<([u8; 32], bool)> =
            fake.get().log.iter().map(|(_, key, write)| (*key, *write)).collect();
        let wrote = log.iter().position(|(key, write)| *write && keys.contains(key)).expect("a claim");
        let reads = log[..wrote].iter().filter(|(_, write)| !write).count();
        // One read is of the slot that it writes.
        assert_eq!(reads > 1, looks_first, "{width}: {reads} reads before the first write");
        // The look comes all the same, soon; and for its own record it looks last.
        let own = log.iter().position(|(key, write)| !write && key == agent.id.as_bytes()).expect("a look");
        let looked: HashSet<_> = log[..own].iter().filter(|(_, write)| !write).map(|(key, _)| *key).collect();
        assert!(keys.is_subset(&looked), "{width}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_fails_is_left_alone_longer_and_longer_and_comes_back() {
    for width in [2, 8] {
        fails_and_comes_back(width).await;
    }
}

async fn fails_and_comes_back(width: usize) {
    let (format, fake) = (SlotFormat::Sealed, FakePkarr::default());
    fake.get().down = true;
    fake.get().width = Some(width);
    let agent = Agent::start(1, format, fake.connect(Channel::Relays)).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    let report = agent.report(Channel::Relays);
    assert_eq!(report.state, ChannelState::Down);
    assert!(report.last_error.unwrap().contains("the test says so"));
    let requests = fake.get().log.len();
    assert!(requests < 500, "{requests} requests in an hour to a relay that is down");
    fake.get().down = false;
    tokio::time::sleep(Duration::from_mins(7)).await;
    let report = agent.report(Channel::Relays);
    assert_eq!((report.state, report.last_error), (ChannelState::Up, None));
    assert_eq!(listed(&fake, format, slots(format)[0]), [agent.id]);
}

#[tokio::test(start_paused = true)]
async fn its_record_follows_its_addresses_and_is_refreshed() {
    let (format, fake) = (SlotFormat::Sealed, FakePkarr::default());
    let agent = Agent::start(1, format, fake.connect(Channel::Dht)).await;
    let own = list::key_of(&agent.id).unwrap().to_bytes();
    let record = || {
        let packet = fake.get().packets.get(&own).cloned();
        packet.and_then(|packet| list::unpack(&KEYS, agent.id, &packet))
    };
    let ports = || {
        record()
            .map(|r| r.addr.ip_addrs().map(std::net::SocketAddr::port).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ports(), [4001]);
    agent.ticket.send_replace(ticket_of(1, 5000));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(ports(), [5000]);
    let writes = || fake.get().log.iter().filter(|(_, key, write)| *write && *key == own).count();
    // An address that changes every second does not become a write every second.
    let before = writes();
    for port in 6000..6300 {
        agent.ticket.send_replace(ticket_of(1, port));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(writes() - before <= 12, "{} writes in five minutes", writes() - before);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(ports(), [6299]);
    let before = writes();
    tokio::time::sleep(Duration::from_hours(5)).await;
    assert!((4..=6).contains(&(writes() - before)), "{} refreshes in five hours", writes() - before);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_pkarr_is_one_restart() {
    let (format, fake) = (SlotFormat::Sealed, FakePkarr::default());
    let agent = Agent::prepare(1, format, fake.connect(Channel::Dht)).await;
    let cell = Arc::new(ServiceCell::new("RendezvousActor"));
    let args = agent.args.clone();
    let child = Child::new(
        ChildKind::Rendezvous,
        cell,
        move || (RendezvousActor, args.clone()),
        |reply| RendezvousMsg::GetHealth { reply },
    );
    fake.get().panics = true;
    let (root, _) = start(RootArgs {
        cell: Arc::new(ServiceCell::new("RootSupervisor")),
        children: vec![child],
        events: EventLog::default(),
        on_degraded: Arc::new(|_, _| {}),
    })
    .await
    .unwrap();
    let root = ServiceRef::fixed(root);
    for restarts in 1..=2 {
        eventually("running again", async || {
            let tree = root.call(|reply| RootMsg::GetTree { reply }, Duration::from_secs(2)).await;
            let actor = tree.map_err(|e| e.to_string())?.children.remove(0);
            let back = actor.state == ActorState::Running && actor.restarts == restarts;
            let said = actor.last_error.as_deref().is_some_and(|why| why.contains("pkarr panics"));
            if back && said { Ok(()) } else { Err(format!("{actor:?}")) }
        })
        .await;
        eventually("a claim", async || {
            listed(&fake, format, slots(format)[0])
                .contains(&agent.id)
                .then_some(())
                .ok_or_else(|| "none".into())
        })
        .await;
        fake.get().panics = true;
    }
}
