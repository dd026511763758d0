//! A crawl over real agents on loopback.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::discovery::crawl::{Crawl, CrawlLimits, Crawled, run};
use can_sync::testing::discovery::directory::AgentListing;
use can_sync::testing::discovery::list_peers::list_all;
use can_sync::testing::net::auth::LIST_PEERS;
use can_sync::testing::wire;
use can_sync::testing::wire::proto::ListPeersRequest;
use iroh::{Endpoint, EndpointAddr, EndpointId, SecretKey};
use tokio::time::Instant;

use crate::support::listing::{Known, Lister, announcement, key, listing};
use crate::support::nodes::DEADLINE;
use crate::support::peers::{addr_of, bind};
use crate::support::proving::Talk;

/// Agents in the ring.
const AGENTS: usize = 50;

struct Ring {
    agents: Vec<Lister>,
    /// Each as others list it.
    entries: Vec<AgentListing>,
    client: Endpoint,
}

impl Ring {
    /// Each knows the next two, and the last know the first: cycles of every length.
    async fn start() -> Self {
        let keys: Vec<_> = (0..AGENTS).map(|_| SecretKey::generate()).collect();
        let mut endpoints = Vec::new();
        for key in &keys {
            endpoints.push(bind(key.clone()).await);
        }
        let addrs: Vec<_> = endpoints.iter().map(addr_of).collect();
        let entry =
            |n: usize| listing(&keys[n], &format!("node {n}"), addrs[n].clone(), Duration::from_secs(9));
        let entries: Vec<_> = (0..AGENTS).map(entry).collect();
        let agents = endpoints.into_iter().enumerate().map(|(n, endpoint)| {
            let own = announcement(&keys[n], &format!("node {n}"), 7, &addrs[n]);
            let listings = vec![entries[(n + 1) % AGENTS].clone(), entries[(n + 2) % AGENTS].clone()];
            Lister::serve(endpoint, vec![key()], Known { own: Some(own), listings })
        });
        let agents = agents.collect();
        Self { agents, entries, client: bind(SecretKey::generate()).await }
    }

    fn id(&self, n: usize) -> EndpointId {
        self.agents[n].endpoint.id()
    }

    async fn crawl(&self, limits: CrawlLimits, within: Duration) -> Crawled {
        crawl(&self.client, self.agents[0].addr(), limits, within).await
    }
}

async fn crawl(client: &Endpoint, start: EndpointAddr, limits: CrawlLimits, within: Duration) -> Crawled {
    let crawl = Crawl::new(limits, [start]);
    let ask = |addr: EndpointAddr| async move {
        Box::pin(list_all(client, addr, &[key()], limits.peers_max)).await.map_err(|error| error.to_string())
    };
    run(crawl, Instant::now() + within, ask, |_, _| ()).await
}

fn ids(crawled: &Crawled) -> BTreeSet<String> {
    crawled.found.iter().map(|found| found.id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_agents_in_a_ring_are_found_as_far_as_the_depth_goes() {
    let ring = Ring::start().await;
    for (depth, expected, answered) in [(Some(0), 3, 1), (Some(1), 5, 3), (Some(5), 13, 11), (None, 50, 50)] {
        let began = std::time::Instant::now();
        let crawled = ring.crawl(CrawlLimits { depth, ..CrawlLimits::default() }, DEADLINE).await;
        println!("depth {depth:?}: {} found, {answered} asked, {:?}", crawled.found.len(), began.elapsed());
        assert_eq!(crawled.errors, [], "depth {depth:?}");
        assert_eq!((crawled.found.len(), crawled.answered), (expected, answered), "depth {depth:?}");
        let near: BTreeSet<_> = (0..expected).map(|n| ring.id(n).to_string()).collect();
        assert_eq!(ids(&crawled), near, "depth {depth:?}");
        assert!(!crawled.capped && !crawled.timed_out);
        let own = crawled.found.iter().find(|found| found.id == ring.id(0)).unwrap();
        assert_eq!((own.assets, own.age), (7, Duration::ZERO), "from itself, not from hearsay");
    }
    let limits = CrawlLimits { depth: None, peers_max: 20, ..CrawlLimits::default() };
    let crawled = ring.crawl(limits, DEADLINE).await;
    assert_eq!(crawled.found.len(), 20);
    assert!(crawled.capped);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_and_hostile_agents_cost_their_own_place_and_no_other() {
    let ring = Ring::start().await;
    let dead = SecretKey::generate();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port that answers nothing");
    let dead_addr = EndpointAddr::new(dead.public()).with_ip_addr(silent.local_addr().unwrap());
    let (endless, oversized) = (SecretKey::generate(), SecretKey::generate());
    let hostile = [vandal(endless.clone(), false).await, vandal(oversized.clone(), true).await];
    // The first agent knows all three, and the way into the ring.
    let known = vec![
        listing(&dead, "dead", dead_addr, Duration::from_secs(1)),
        listing(&endless, "endless", hostile[0].addr(), Duration::from_secs(1)),
        listing(&oversized, "oversized", hostile[1].addr(), Duration::from_secs(1)),
        ring.entries[0].clone(),
    ];
    let start = Lister::start(SecretKey::generate(), "first", vec![key()], known).await;

    let limits = CrawlLimits { depth: None, ..CrawlLimits::default() };
    let began = std::time::Instant::now();
    let crawled = crawl(&ring.client, start.addr(), limits, DEADLINE).await;
    println!("with three bad agents: {} found in {:?}", crawled.found.len(), began.elapsed());
    assert!(!crawled.timed_out && !crawled.capped);
    // The first, the ring, and the three as the first described them.
    assert_eq!(crawled.found.len(), AGENTS + 4);
    let blamed: BTreeSet<_> = crawled.errors.iter().map(|(id, _)| *id).collect();
    assert_eq!(
        blamed,
        BTreeSet::from([dead.public(), endless.public(), oversized.public()]),
        "{:?}",
        crawled.errors
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn when_time_is_up_what_was_heard_is_the_result() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port that answers nothing");
    let dead = SecretKey::generate();
    let dead_addr = EndpointAddr::new(dead.public()).with_ip_addr(silent.local_addr().unwrap());
    let known = vec![listing(&dead, "dead", dead_addr, Duration::from_secs(1))];
    let start = Lister::start(SecretKey::generate(), "start", vec![key()], known).await;
    let client = bind(SecretKey::generate()).await;
    let limits = CrawlLimits { depth: None, ..CrawlLimits::default() };
    // Less than a connection may take, and enough for the one that answers.
    let crawled = crawl(&client, start.addr(), limits, Duration::from_secs(6)).await;
    assert!(crawled.timed_out);
    assert_eq!((crawled.found.len(), crawled.answered), (2, 1));
}

/// Proves itself, and then answers every question with a stream that does not end, or a page that is too large.
async fn vandal(secret_key: SecretKey, oversized: bool) -> Lister {
    let endpoint = bind(secret_key).await;
    let id = endpoint.id();
    Lister::accept(endpoint, move |connection| {
        tokio::spawn(async move {
            let mut talk = Talk::accept(&connection, id, &LIST_PEERS, vec![key()]).await.ok()?;
            talk.hear_proofs().await.ok()?;
            talk.prove(&[key()]).await.ok()?;
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let _: ListPeersRequest = wire::read_message(&mut receive, 4096).await.ok()?;
                let length: u32 = if oversized { u32::MAX } else { 200_000 };
                send.write_all(&length.to_be_bytes()).await.ok()?;
                let noise = Arc::new([0x12; 1024]);
                while send.write_all(noise.as_slice()).await.is_ok() {}
            }
            Some(())
        });
    })
}
