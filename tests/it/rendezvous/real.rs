//! On a real DHT with a real pkarr relay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use can_sync::testing::config::SlotFormat;
use can_sync::testing::discovery::channel::{Channel, ChannelState};
use can_sync::testing::discovery::list::{self, LookupError, lookup};
use can_sync::testing::discovery::network::{Connect, KeyLookup, NetworkSettings, Transports, now_us};
use can_sync::testing::discovery::slot::pace::Timing;
use can_sync::testing::discovery::slot::packet::sign;
use can_sync::testing::discovery::slot::{Slot, SlotEntry};
use can_sync::testing::identity::NetworkKeys;
use iroh::EndpointId;
use pkarr::dht::{DhtClient, DhtConfig};
use tokio::time::Instant;

use super::{entry, slots};
use crate::support::infrastructure::Infrastructure;
use crate::support::nodes::{eventually, eventually_within};
use crate::support::rendezvous::{Agent, KEYS, PASSPHRASE, secret_key, slot_keys};
use crate::support::scoreboard;

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

/// Far longer than it takes as a rule: the machine may be busy, and what failed waits for the next look.
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
        // A read that took too long on a busy machine is made good by the next one.
        eventually("the channel is up", async || {
            let report = agent.report(channel);
            assert_eq!(report.found, 1, "{report:?}");
            let is_up = report.state == ChannelState::Up && report.last_success_ms.is_some();
            is_up.then_some(()).ok_or_else(|| format!("{report:?}"))
        })
        .await;
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
    eventually_within(FIND_WITHIN, "all are listed", async || {
        let everyone = everyone(&reader, format).await;
        let listed: BTreeSet<_> = everyone.values().flatten().copied().collect();
        let counts: Vec<_> = everyone.iter().map(|(slot, ids)| (slot, ids.len())).collect();
        if listed == ids { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    println!("sixteen blind writers: all listed after {:?}", start.elapsed());
    eventually_within(FIND_WITHIN, "all know all", async || {
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
    let figure = format!(
        "{format:?} slots through {}: found after {:.1} s among 1,000 fakes",
        channel.name(),
        took.as_secs_f64()
    );
    scoreboard::figure(took <= Duration::from_mins(1), &figure);
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

/// Machines of the user's own, whose clocks are ahead, have been here: nothing that is dated right replaces what they wrote.
async fn ahead(format: SlotFormat, channel: Channel, network: &Infrastructure, connect: Connect) {
    const HOUR_US: u64 = 3_600_000_000;
    let writer = Poisoner::new(network, format);
    let (keys, slots) = (slot_keys(format), slots(format));
    let locked = [(0, HOUR_US), (2, 6 * HOUR_US), (4, 24 * HOUR_US), (7, 48 * HOUR_US)];
    for (n, (index, ahead_us)) in (90..).zip(locked) {
        let at_us = now_us() + ahead_us;
        let itself = SlotEntry { id: secret_key(n).public(), alive_us: at_us };
        let packet = keys.pack(slots[index], &[itself], at_us, rand::random()).expect("it fits");
        eventually("it is taken", async || {
            writer.client.publish(&packet).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    }
    let start = Instant::now();
    let (mut first, mut second) =
        (Agent::start(1, format, connect.clone()).await, Agent::start(2, format, connect).await);
    tokio::join!(found(&first, 2), found(&second, 1));
    let took = start.elapsed();
    let figure = format!(
        "{format:?} slots through {}: found after {:.1} s, {} of {} slots dated 1 to 48 hours ahead",
        channel.name(),
        took.as_secs_f64(),
        locked.len(),
        slots.len(),
    );
    scoreboard::figure(took <= Duration::from_mins(1), &figure);
    for agent in [&mut first, &mut second] {
        // It wrote itself elsewhere, and takes nobody of the future for alive.
        assert_eq!(agent.candidates().len(), 1);
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_a_clock_ahead_has_written_keep_no_two_apart() {
    let network = Infrastructure::start().await;
    let (by_relays, by_dht) = (relays(&network).connector(), dht(&network).connector());
    ahead(SlotFormat::Sealed, Channel::Relays, &network, by_relays).await;
    ahead(SlotFormat::Compatible, Channel::Dht, &network, by_dht).await;
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
        let other = NetworkKeys::derive(&format!("not {PASSPHRASE}").as_str().into());
        // What takes too long on a busy machine fails otherwise.
        for (keys, id, expected) in [
            (&*KEYS, unknown, LookupError::NotFound(unknown)),
            (&other, agent.id, LookupError::NotOurs(agent.id)),
        ] {
            eventually("an answer", async || match lookup(&transports, keys, id).await {
                Err(error) if error == expected => Ok(()),
                Err(error) => Err(error.to_string()),
                Ok(published) => panic!("{published:?} instead of {expected}"),
            })
            .await;
        }
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
