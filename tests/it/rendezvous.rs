//! RendezvousActor: in paused time with a pkarr that obeys the test, and on a real DHT with a real pkarr relay.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::actor::policy::ChildKind;
use can_sync::testing::actor::status::ActorState;
use can_sync::testing::actor::supervisor::{Child, RootArgs, RootMsg, start};
use can_sync::testing::actor::{ServiceCell, ServiceRef};
use can_sync::testing::config::SlotFormat;
use can_sync::testing::discovery::channel::{Channel, ChannelState};
use can_sync::testing::discovery::list::{self, LookupError, lookup};
use can_sync::testing::discovery::network::{Connect, KeyLookup, NetworkSettings, Transports, now_us};
use can_sync::testing::discovery::rendezvous::{RendezvousActor, RendezvousMsg};
use can_sync::testing::discovery::slot::pace::Timing;
use can_sync::testing::discovery::slot::packet::sign;
use can_sync::testing::discovery::slot::{SLOTS, Slot, SlotEntry};
use can_sync::testing::events::EventLog;
use can_sync::testing::identity::NetworkKeys;
use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use pkarr::dht::{DhtClient, DhtConfig};
use tokio::time::Instant;

use crate::support::infrastructure::Infrastructure;
use crate::support::nodes::{eventually, eventually_within};
use crate::support::rendezvous::{Agent, FakePkarr, KEYS, PASSPHRASE, secret_key, slot_keys, ticket_of};

const BOTH: [SlotFormat; 2] = [SlotFormat::Sealed, SlotFormat::Compatible];

// ---- In paused time --------------------------------------------------------------------------------------------------

/// Today's slots.
fn slots(format: SlotFormat) -> Vec<Slot> {
    let day = slot_keys(format).day(now_us());
    (0..SLOTS).map(|index| Slot { day, index }).collect()
}

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

fn entry(n: u16) -> SlotEntry {
    SlotEntry { id: secret_key(n).public(), alive_us: now_us() }
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

// ---- On real infrastructure ------------------------------------------------------------------------------------------

fn relays(network: &Infrastructure) -> NetworkSettings {
    NetworkSettings { relays: vec![network.relay_url()], dht: false, dht_bootstrap: None, dht_bind: None }
}

fn dht(network: &Infrastructure) -> NetworkSettings {
    NetworkSettings {
        relays: Vec::new(),
        dht: true,
        dht_bootstrap: Some(network.bootstrap()),
        dht_bind: None,
    }
}

/// Far longer than it takes as a rule: where one slot is left for two, chance decides how often they overtake each other.
const FIND_WITHIN: Duration = Duration::from_mins(4);

/// Waits until `agent` has handed on agent `n`, with its address.
async fn found(agent: &Agent, n: u16) {
    let id = secret_key(n).public();
    eventually_within(FIND_WITHIN, "the other is found", async || {
        let ports: Option<Vec<u16>> =
            agent.candidates().get(&id).map(|addr| addr.ip_addrs().map(std::net::SocketAddr::port).collect());
        if ports.as_deref() == Some(&[4000 + n]) {
            return Ok(());
        }
        Err(format!("{ports:?}; {}", agent.detail().await))
    })
    .await;
}

async fn two_meet(format: SlotFormat, channel: Channel, connect: Connect) {
    let mut first = Agent::start(1, format, connect.clone()).await;
    eventually("a claim", async || {
        let detail = first.detail().await;
        if detail.contains(", slot 0") { Ok(()) } else { Err(detail) }
    })
    .await;
    let start = Instant::now();
    let mut second = Agent::start(2, format, connect.clone()).await;
    found(&second, 1).await;
    println!("{format:?} through {}: found {:?} after the start", channel.name(), start.elapsed());
    found(&first, 2).await;
    println!("{format:?} through {}: found in turn after {:?}", channel.name(), start.elapsed());
    for agent in [&first, &second] {
        let report = agent.report(channel);
        assert_eq!((report.state, report.found), (ChannelState::Up, 1), "{report:?}");
        assert!(report.last_success_ms.is_some());
        let others = agent.args.channels.reports().into_iter().filter(|r| r.channel != channel);
        assert!(others.into_iter().all(|r| r.state == ChannelState::Off));
    }
    println!("first: {}; second: {}", first.detail().await, second.detail().await);
    first.stop().await;
    second.stop().await;

    // Both at once.
    let start = Instant::now();
    let (third, fourth) =
        (Agent::start(3, format, connect.clone()).await, Agent::start(4, format, connect).await);
    tokio::join!(found(&third, 4), found(&fourth, 3));
    println!(
        "{format:?} through {}: both at once found each other after {:?}",
        channel.name(),
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_meet_through_sealed_slots_on_relays() {
    let network = Infrastructure::start().await;
    two_meet(SlotFormat::Sealed, Channel::Relays, relays(&network).connector()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_meet_through_compatible_slots_on_relays() {
    let network = Infrastructure::start().await;
    two_meet(SlotFormat::Compatible, Channel::Relays, relays(&network).connector()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_meet_through_sealed_slots_in_the_dht() {
    let network = Infrastructure::start().await;
    two_meet(SlotFormat::Sealed, Channel::Dht, dht(&network).connector()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_meet_through_compatible_slots_in_the_dht() {
    let network = Infrastructure::start().await;
    two_meet(SlotFormat::Compatible, Channel::Dht, dht(&network).connector()).await;
}

/// Everyone in the network's slots, read from outside.
async fn everyone(transports: &Transports, format: SlotFormat) -> BTreeMap<u8, Vec<EndpointId>> {
    let mut all = BTreeMap::new();
    for slot in slots(format) {
        let key = slot_keys(format).keypair(slot).public_key();
        if let Ok(KeyLookup::Packet(packet)) = transports[0].1.resolve(key).await {
            let entries = slot_keys(format).unpack(&packet, now_us());
            all.insert(slot.index, entries.iter().map(|entry| entry.id).collect());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_simultaneous_writers_are_all_listed_in_the_end() {
    let network = Infrastructure::start().await;
    let format = SlotFormat::Sealed;
    let reader = dht(&network).connect().unwrap();
    let ids: BTreeSet<_> = (0..16).map(|n| secret_key(n).public()).collect();
    let start = Instant::now();
    let agents =
        futures::future::join_all((0..16).map(|n| Agent::start(n, format, dht(&network).connector()))).await;
    eventually_within(Duration::from_mins(2), "all are listed", async || {
        let everyone = everyone(&reader, format).await;
        let listed: BTreeSet<_> = everyone.values().flatten().copied().collect();
        let counts: Vec<_> = everyone.iter().map(|(slot, ids)| (slot, ids.len())).collect();
        if listed == ids { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    println!("sixteen blind writers: all listed after {:?}", start.elapsed());
    eventually_within(Duration::from_mins(2), "all know all", async || {
        let known: Vec<_> = agents.iter().map(|agent| agent.candidates().len()).collect();
        if known.iter().all(|known| *known == 15) { Ok(()) } else { Err(format!("{known:?}")) }
    })
    .await;
    println!("sixteen blind writers: all found by all after {:?}", start.elapsed());
}

/// A hostile member: it has the passphrase, and writes to the DHT whatever it likes.
struct Poisoner {
    client: DhtClient,
    format: SlotFormat,
}

impl Poisoner {
    fn new(network: &Infrastructure, format: SlotFormat) -> Self {
        let mut config = DhtConfig::default();
        let nodes = network.bootstrap();
        config.bootstrap = Some(nodes.iter().map(|node| node.parse().expect("an address")).collect());
        config.bind_address = Some(std::net::Ipv4Addr::LOCALHOST);
        Self { client: DhtClient::build(config).expect("a DHT client"), format }
    }

    async fn write(&self, slot: Slot, content: &[u8], at_us: u64) {
        let packet = sign(&slot_keys(self.format).keypair(slot), content, 300, at_us).expect("it fits");
        eventually("the poison is taken", async || {
            self.client.publish(&packet).await.map(drop).map_err(|e| format!("{at_us}: {e}"))
        })
        .await;
    }

    /// Agents that do not exist, some with our victim among them, as fresh as can be.
    async fn fakes(&self, slot: Slot, first: u16, victim: EndpointId) {
        let keys = slot_keys(self.format);
        let mut entries: Vec<SlotEntry> = (first..first + 23).map(entry).collect();
        entries.push(SlotEntry { id: victim, alive_us: now_us() });
        let packet = keys.pack(slot, &entries, now_us(), rand::random()).expect("it fits");
        // Somebody honest may have written just now.
        let _ = self.client.publish(&packet).await;
    }
}

async fn poisoned(format: SlotFormat, channel: Channel, network: &Infrastructure, connect: Connect) {
    let poisoner = Poisoner::new(network, format);
    let (victim, honest) = (secret_key(1).public(), 2);
    let year_us = 365 * 24 * 3600 * 1_000_000;
    let slots = slots(format);
    poisoner.write(slots[0], b"garbage", i64::MAX as u64).await;
    poisoner.write(slots[1], &[0xff; 800], now_us() + year_us).await;
    poisoner.write(slots[2], b"\x00\x01=garbage=", now_us()).await;
    eventually("the poison is there", async || {
        let held = poisoner.client.resolve(&slot_keys(format).keypair(slots[0]).public_key(), None).await;
        let at_us = held.first().map(|packet| packet.timestamp().as_u64());
        if at_us == Some(i64::MAX as u64) { Ok(()) } else { Err(format!("{at_us:?}")) }
    })
    .await;

    let start = Instant::now();
    let mut agents =
        vec![Agent::start(1, format, connect.clone()).await, Agent::start(honest, format, connect).await];
    // A thousand that do not exist, over half a minute; one slot is left to honest agents where only one fits.
    let last = if format == SlotFormat::Sealed { 8 } else { 7 };
    let poison = async {
        for (round, first) in (1000..2000).step_by(23).enumerate() {
            poisoner.fakes(slots[3 + round % (last - 3)], first, victim).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    };
    let meet = async {
        match format {
            SlotFormat::Sealed => drop(tokio::join!(found(&agents[0], honest), found(&agents[1], 1))),
            // Whoever finds the other dials it. That both find each other takes two slots, which two that know nothing of each
            // other get by chance alone where hardly any is left.
            SlotFormat::Compatible => {
                let (first, second) = (found(&agents[0], honest), found(&agents[1], 1));
                tokio::select! { () = first => {}, () = second => {} }
            }
        }
        start.elapsed()
    };
    let (took, ()) = tokio::join!(meet, poison);
    println!("{format:?} through {}: found after {took:?} among 1,000 fakes", channel.name());
    for agent in &mut agents {
        let candidates = agent.candidates();
        assert!(!candidates.contains_key(&agent.id), "itself");
        let most = if format == SlotFormat::Sealed { 1 } else { 1000 };
        assert!(candidates.len() <= most, "{} candidates", candidates.len());
        println!("{} candidates; {}", candidates.len(), agent.detail().await);
        // A read that took too long on a busy machine is made good by the next one.
        eventually("the channel is up", async || {
            let report = agent.report(channel);
            if report.state == ChannelState::Up { Ok(()) } else { Err(format!("{report:?}")) }
        })
        .await;
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_sealed_slots_does_not_keep_two_apart_in_the_dht() {
    let network = Infrastructure::start().await;
    poisoned(SlotFormat::Sealed, Channel::Dht, &network, dht(&network).connector()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_sealed_slots_does_not_keep_two_apart_on_relays() {
    let network = Infrastructure::start().await;
    poisoned(SlotFormat::Sealed, Channel::Relays, &network, relays(&network).connector()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_in_compatible_slots_does_not_keep_two_apart() {
    let network = Infrastructure::start().await;
    poisoned(SlotFormat::Compatible, Channel::Dht, &network, dht(&network).connector()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_looked_up_by_members_through_either_channel() {
    let network = Infrastructure::start().await;
    let mut agent = Agent::prepare(1, SlotFormat::Sealed, dht(&network).connector()).await;
    agent.args.timing = Timing::default();
    agent.run().await;
    let unknown = secret_key(9).public();
    for transports in [dht(&network).connect().unwrap(), relays(&network).connect().unwrap()] {
        let published = eventually("published", async || {
            lookup(&transports, &KEYS, agent.id).await.map_err(|e| e.to_string())
        })
        .await;
        assert_eq!(published.addr.ip_addrs().map(std::net::SocketAddr::port).collect::<Vec<_>>(), [4001]);
        assert!(list::age(&published) < Duration::from_mins(2));
        assert_eq!(lookup(&transports, &KEYS, unknown).await, Err(LookupError::NotFound(unknown)));
        let other = NetworkKeys::derive(&format!("not {PASSPHRASE}").as_str().into());
        assert_eq!(lookup(&transports, &other, agent.id).await, Err(LookupError::NotOurs(agent.id)));
    }
    let nowhere = NetworkSettings { relays: Vec::new(), dht: false, dht_bootstrap: None, dht_bind: None };
    let error = lookup(&nowhere.connect().unwrap(), &KEYS, unknown).await.unwrap_err();
    assert!(error.to_string().contains("discovery.dht"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_lead_nowhere_say_why() {
    // Nobody listens at these.
    let settings = NetworkSettings {
        relays: vec![can_sync::testing::config::HttpUrl::parse("http://127.0.0.1:9").unwrap()],
        dht: true,
        dht_bootstrap: Some(vec!["no-such-host.invalid:6881".to_owned()]),
        dht_bind: None,
    };
    let agent = Agent::start(1, SlotFormat::Sealed, settings.connector()).await;
    eventually("both are down", async || {
        let [relays, dht] = [Channel::Relays, Channel::Dht].map(|channel| agent.report(channel));
        let down = [&relays, &dht].iter().all(|report| report.state == ChannelState::Down);
        let bootstrap = dht.last_error.as_deref().is_some_and(|why| why.contains("dht_bootstrap"));
        if down && bootstrap { Ok(()) } else { Err(format!("{relays:?}, {dht:?}")) }
    })
    .await;
}
