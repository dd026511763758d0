//! GossipActor on real endpoints: which agents see each other, what a hostile member of the swarm can do, what a restart keeps.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::actor::ServiceCell;
use can_sync::testing::actor::status::ask;
use can_sync::testing::clock::now_ms;
use can_sync::testing::discovery::address_book::AddressBook;
use can_sync::testing::discovery::announcement::Announcement;
use can_sync::testing::discovery::channel::{Channel, ChannelReport, ChannelState, Channels};
use can_sync::testing::discovery::directory::{AgentListing, FRESH_FOR, SWEEP_EVERY, SharedDirectory};
use can_sync::testing::discovery::gossip::{
    self, GossipActor, GossipArgs, GossipMsg, NodeRun, PresenceProbe as AskAlive, topic_of,
};
use can_sync::testing::discovery::hints::Hints;
use can_sync::testing::discovery::mdns::Mdns;
use can_sync::testing::events::{EventLog, NodeEvent};
use can_sync::testing::identity::NetworkKeys;
use can_sync::testing::net::endpoint::{bind_behind, open_gossip};
use can_sync::testing::net::gate::Gate;
use can_sync::testing::peer::messages::PeersMsg;
use can_sync::testing::reconcile::Summary;
use iroh::address_lookup::memory::MemoryLookup;
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey};
use iroh_gossip::api::{GossipReceiver, GossipSender};
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use iroh_gossip::proto::TopicId;
use iroh_tickets::endpoint::EndpointTicket;
use parking_lot::Mutex;
use ractor::Actor;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::candidates::told_at_once;
use crate::support::peers::{addr_of, bind};
use crate::support::probe::Probe;

mod hostile;
mod local_network;

/// How long a test waits; less than the time between two announcements that nothing has caused, twice.
const PATIENCE: Duration = Duration::from_secs(50);
const LOCALHOST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

static KEYS: LazyLock<NetworkKeys> = LazyLock::new(|| NetworkKeys::derive(&"a network of gossip".into()));
static OTHER_KEYS: LazyLock<NetworkKeys> = LazyLock::new(|| NetworkKeys::derive(&"another network".into()));

fn yes() -> AskAlive {
    Arc::new(|_| Box::pin(async { true }))
}

/// A GossipActor with everything around it.
struct Agent {
    endpoint: Endpoint,
    args: GossipArgs,
    /// What it says that it holds.
    held: Arc<Mutex<Summary>>,
    cell: Arc<ServiceCell<GossipMsg>>,
    exit: Option<ractor::concurrency::JoinHandle<()>>,
    peers: Probe<PeersMsg>,
    ticket: watch::Sender<String>,
    /// Connections that gossip has got from others.
    accepted: Arc<AtomicUsize>,
    /// Other runs of agents that it was told of.
    runs: Arc<Mutex<Vec<(EndpointId, u64)>>>,
    _accepting: JoinSet<()>,
    dir: TempDir,
}

impl Agent {
    async fn start(name: &str) -> Self {
        Self::start_with(name, yes(), None).await
    }

    async fn start_with(name: &str, probe: AskAlive, mdns: Option<Mdns>) -> Self {
        let mut agent = Self::prepare(name, probe, mdns).await;
        agent.run().await;
        agent
    }

    async fn prepare(name: &str, probe: AskAlive, mdns: Option<Mdns>) -> Self {
        let secret_key = SecretKey::generate();
        let gate = Gate::new(Arc::new(|_, _| None));
        let behind = bind_behind(secret_key.clone(), LOCALHOST, RelayMode::Disabled, Some(gate.clone()));
        let endpoint = Box::pin(behind).await.expect("a free port");
        let gossip = gossip::start(&endpoint);
        let lookup = MemoryLookup::new();
        endpoint.address_lookup().expect("it is open").add(lookup.clone());
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(endpoint.clone(), gossip.clone(), Arc::clone(&accepted)));
        let dir = tempfile::tempdir().expect("a directory");
        let cell = Arc::new(ServiceCell::new("GossipActor"));
        let peers = Probe::spawn().await;
        let channels = Channels::default();
        let candidates = told_at_once(peers.service(), cell.service_ref(), channels.clone());
        let held = Arc::<Mutex<Summary>>::default();
        let said = Arc::clone(&held);
        let summary = Arc::new(move || *said.lock());
        let runs = Arc::<Mutex<Vec<(EndpointId, u64)>>>::default();
        let (ticket, at) = watch::channel(EndpointTicket::new(addr_of(&endpoint)).to_string());
        let args = GossipArgs {
            gossip,
            endpoint: endpoint.clone(),
            gate,
            secret_key,
            topic: topic_of(KEYS.presence().topic()),
            name: name.to_owned(),
            run: NodeRun::begin(),
            run_heard: {
                let runs = Arc::clone(&runs);
                Arc::new(move |id, boot_id| runs.lock().push((id, boot_id)))
            },
            ticket: at,
            summary,
            directory: SharedDirectory::default(),
            book: book(dir.path()),
            hints: Hints::default(),
            candidates,
            channels,
            lookup,
            events: EventLog::default(),
            announcements_per_sec: 64,
            probe,
            shut_out: Arc::new(|_| false),
            mdns,
        };
        Self {
            endpoint,
            args,
            held,
            cell,
            exit: None,
            peers,
            ticket,
            accepted,
            runs,
            _accepting: accepting,
            dir,
        }
    }

    /// Starts the actor, again if it was there before.
    async fn run(&mut self) {
        let (actor, exit) = Actor::spawn(None, GossipActor, self.args.clone()).await.expect("it starts");
        self.cell.set(Some(actor));
        self.exit = Some(exit);
    }

    /// Waits until the actor has ended.
    async fn ended(&mut self) {
        let exit = self.exit.take().expect("it runs");
        timeout(PATIENCE, exit).await.expect("it ends in time").expect("it is not cancelled");
        self.cell.set(None);
    }

    fn holds(&self, assets: u64, bytes: u64) {
        *self.held.lock() = Summary { assets, bytes, ..Summary::default() };
    }

    fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    fn addr(&self) -> EndpointAddr {
        addr_of(&self.endpoint)
    }

    fn tell(&self, message: GossipMsg) {
        self.cell.service_ref().cast(message).expect("it runs");
    }

    fn hint(&self, other: &Self) {
        self.tell(GossipMsg::Candidate { addr: other.addr(), channel: Channel::Bootstrap });
    }

    fn listings(&self) -> Vec<AgentListing> {
        self.args.directory.lock().listings(Instant::now())
    }

    fn listing(&self, id: EndpointId) -> Option<AgentListing> {
        self.listings().into_iter().find(|listing| listing.id == id)
    }

    fn names(&self) -> BTreeSet<String> {
        self.listings().into_iter().map(|listing| listing.name).collect()
    }

    async fn sees(&self, what: &str, condition: impl Fn(&AgentListing) -> bool) -> AgentListing {
        eventually(what, || self.listings().into_iter().find(&condition)).await
    }

    async fn sees_agent(&self, other: &Self) -> AgentListing {
        let id = other.id();
        self.sees(&format!("{} in the directory of {}", other.args.name, self.args.name), |listing| {
            listing.id == id && listing.name == other.args.name && listing.signed.is_some()
        })
        .await
    }

    fn channel(&self, channel: Channel) -> ChannelReport {
        let reports = self.args.channels.reports();
        reports.into_iter().find(|report| report.channel == channel).expect("every channel is there")
    }

    async fn detail(&self) -> String {
        let actor = self.cell.service_ref().get().expect("it runs");
        let detail = ask(&actor, |reply| GossipMsg::GetHealth { reply }, Duration::from_secs(5)).await;
        detail.and_then(|detail| detail.detail).expect("it says how it is")
    }
}

fn book(dir: &Path) -> AddressBook {
    AddressBook::open(&dir.join("agent.db")).expect("a new book")
}

async fn accept(endpoint: Endpoint, gossip: Gossip, accepted: Arc<AtomicUsize>) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { continue };
        assert_eq!(connection.alpn(), GOSSIP_ALPN);
        open_gossip(&connection);
        accepted.fetch_add(1, Ordering::SeqCst);
        gossip.handle_connection(connection).await.expect("gossip runs");
    }
}

async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Somebody who knows the topic and says what it likes.
struct Member {
    _endpoint: Endpoint,
    _gossip: Gossip,
    sender: GossipSender,
    receiver: GossipReceiver,
    _accepting: JoinSet<()>,
}

impl Member {
    async fn join(through: &Agent) -> Self {
        Self::join_at(through.addr(), through.args.topic).await
    }

    async fn join_at(through: EndpointAddr, topic: TopicId) -> Self {
        let endpoint = bind(SecretKey::generate()).await;
        let id = through.id;
        let lookup = MemoryLookup::from_endpoint_info([through]);
        endpoint.address_lookup().expect("it is open").add(lookup);
        let gossip = gossip::start(&endpoint);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(endpoint.clone(), gossip.clone(), Arc::default()));
        let topic = gossip.subscribe_and_join(topic, vec![id]);
        let topic = timeout(PATIENCE, topic).await.expect("in time").expect("it joins");
        let (sender, receiver) = topic.split();
        Self { _endpoint: endpoint, _gossip: gossip, sender, receiver, _accepting: accepting }
    }

    async fn say(&self, bytes: impl Into<Bytes>) {
        self.sender.broadcast(bytes.into()).await.expect("gossip takes it");
    }
}

/// Memory of this process.
fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) / 256
}

/// What an agent with this key could say.
fn announcement(key: &SecretKey, name: &str) -> Announcement {
    Announcement {
        id: key.public(),
        name: name.to_owned(),
        assets: 1,
        total_bytes: 1,
        fingerprint: [0; 16],
        timestamp_ms: now_ms(),
        boot_id: 1,
        counter: 1,
        addrs: vec!["127.0.0.1:9".parse().unwrap()],
        relay_url: None,
        version: "0".into(),
    }
}

/// Another message with the same announcement: gossip drops what it has seen.
fn wrapped(signed: &Bytes, n: u64) -> Bytes {
    // A field 15 of eight bytes, which nobody knows.
    [signed.as_ref(), &[0x7a, 8], &n.to_le_bytes()].concat().into()
}

fn candidates(seen: &[PeersMsg], channel: Channel) -> Vec<EndpointAddr> {
    let candidate = |message: &PeersMsg| match message {
        PeersMsg::Candidate { addr, channel: by } if *by == channel => Some(addr.clone()),
        _ => None,
    };
    seen.iter().filter_map(candidate).collect()
}

#[tokio::test]
async fn two_agents_see_each_other_and_hear_of_changes_at_once() {
    let mut one = Agent::start("one").await;
    let two = Agent::start("two").await;
    one.hint(&two);
    let listed = one.sees_agent(&two).await;
    assert_eq!((listed.addr, listed.assets, listed.stale), (two.addr(), 0, false));
    assert_eq!(listed.sources, [Channel::Bootstrap, Channel::Gossip].into());
    two.sees_agent(&one).await;
    assert_eq!(one.args.directory.lock().fresh(Instant::now()), 1);
    // Who dials hears of it, and the endpoint knows where it is.
    let at = two.addr();
    one.peers.wait_for("a candidate", |seen| candidates(seen, Channel::Gossip).contains(&at)).await;
    assert!(one.args.lookup.get_endpoint_info(two.id()).is_some());
    let report = one.channel(Channel::Gossip);
    assert_eq!((report.state, report.found, report.last_success_ms.is_some()), (ChannelState::Up, 1, true));

    two.holds(12, 3_400);
    let id = two.id();
    let listed = one.sees("the new count", |listing| listing.id == id && listing.assets == 12).await;
    assert_eq!(listed.total_bytes, 3_400);
    // It moves: its addresses are not added up but replaced.
    let moved = EndpointAddr::new(two.id()).with_ip_addr("127.0.0.1:1".parse().unwrap());
    two.ticket.send_replace(EndpointTicket::new(moved.clone()).to_string());
    one.sees("the new address", |listing| listing.addr == moved).await;
    eventually("the endpoint's knowledge of it", || {
        let known = one.args.lookup.get_endpoint_info(two.id())?;
        (known.into_endpoint_addr() == moved).then_some(())
    })
    .await;
    assert!(
        one.detail().await.starts_with("1 neighbours, 1 agents alive of 1 known"),
        "{}",
        one.detail().await
    );
}

#[tokio::test]
async fn another_machine_with_our_id_is_heard_and_an_earlier_run_that_is_sent_again_is_not() {
    let agent = Agent::start("one").await;
    let member = Member::join(&agent).await;
    let (key, run) = (agent.args.secret_key.clone(), agent.args.run);
    let other = SecretKey::generate();
    let of = |key: &SecretKey, boot_id, timestamp_ms| {
        Announcement { boot_id, timestamp_ms, ..announcement(key, "somebody") }.sign(key)
    };
    let began_ms = now_ms() - u64::try_from(run.began.elapsed().as_millis()).unwrap();
    // An earlier run of ours, in two copies, and this one.
    member.say(of(&key, 1, began_ms - 1_000)).await;
    member.say(of(&key, 1, began_ms - 2_000)).await;
    member.say(of(&key, run.boot_id, now_ms())).await;
    // Somebody else, then the same one in another run, then what was the first of it once more.
    let first = of(&other, 7, now_ms() - 5_000);
    member.say(first.clone()).await;
    eventually("the first run", || agent.listing(other.public())).await;
    let runs = || agent.runs.lock().clone();
    let second = of(&other, 8, now_ms());
    for n in 0..100 {
        // So soon after the first one, it counts for nothing.
        member.say(wrapped(&second, n)).await;
        if runs().len() == 2 {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    member.say(wrapped(&first, 1)).await;
    // Another machine with our key.
    member.say(of(&key, 9, now_ms())).await;
    eventually("another machine", || (runs().len() == 3).then_some(())).await;
    assert_eq!(runs(), [(other.public(), 7), (other.public(), 8), (agent.id(), 9)]);
}

#[tokio::test]
async fn five_agents_that_each_know_one_other_see_all() {
    let names = ["one", "two", "three", "four", "five"];
    let mut agents: Vec<Agent> = Vec::new();
    for name in names {
        let agent = Agent::start(name).await;
        if let Some(last) = agents.last() {
            agent.hint(last);
        }
        agents.push(agent);
    }
    for agent in &agents {
        let others: BTreeSet<String> =
            names.iter().filter(|name| **name != agent.args.name).map(|name| (*name).to_owned()).collect();
        eventually(&format!("{others:?} at {}", agent.args.name), || (agent.names() == others).then_some(()))
            .await;
    }
}

#[tokio::test]
async fn we_join_through_nobody_who_has_not_proved_itself() {
    let asked = Arc::new(AtomicUsize::new(0));
    let asks = Arc::clone(&asked);
    let no: AskAlive = Arc::new(move |_| {
        asks.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { false })
    });
    let one = Agent::start_with("one", no, None).await;
    let (stranger, friend) = (Agent::start("stranger").await, Agent::start("friend").await);
    one.hint(&stranger);
    eventually("a question", || (asked.load(Ordering::SeqCst) > 0).then_some(())).await;
    // A session proves as much.
    one.tell(GossipMsg::PeerUp { addr: friend.addr(), name: "friend".into(), assets: 1 });
    one.sees_agent(&friend).await;
    assert_eq!(stranger.accepted.load(Ordering::SeqCst), 0, "the topic was told to a stranger");
    assert_eq!(one.listing(stranger.id()), None);
}

#[tokio::test]
async fn what_was_remembered_is_used_at_the_next_start() {
    let mut one = Agent::start("one").await;
    let two = Agent::start("two").await;
    one.hint(&two);
    one.sees_agent(&two).await;
    two.sees_agent(&one).await;
    one.cell.service_ref().get().expect("it runs").stop(None);
    one.ended().await;
    let saved = book(one.dir.path()).directory().expect("a book");
    assert_eq!(saved.len(), 1);
    assert_eq!((saved[0].addr.clone(), saved[0].name.as_str()), (two.addr(), "two"));
    assert!(saved[0].sources.contains(Channel::Gossip) && saved[0].signed.is_some());

    // The next start knows nothing but its book, and nobody gives it a hint.
    one.args.directory = SharedDirectory::default();
    one.run().await;
    let at = two.addr();
    one.peers.wait_for("a candidate", |seen| candidates(seen, Channel::Saved).contains(&at)).await;
    let listed = one.sees_agent(&two).await;
    assert!(listed.sources.contains(Channel::Saved));
}

#[tokio::test]
async fn a_failure_loses_nothing_that_was_known() {
    let panics: AskAlive = Arc::new(|_| Box::pin(async { panic!("a question that fails") }));
    let mut one = Agent::start_with("one", panics, None).await;
    let two = Agent::start("two").await;
    one.tell(GossipMsg::PeerUp { addr: two.addr(), name: "two".into(), assets: 1 });
    one.sees_agent(&two).await;
    let before = one.args.directory.lock().next_own();
    let nobody = Agent::start("nobody").await;
    one.hint(&nobody);
    one.ended().await;
    assert!(one.listing(two.id()).is_some(), "the directory went with the actor");

    one.args.probe = yes();
    one.run().await;
    assert!(one.listing(two.id()).is_some());
    let after = one.args.directory.lock().next_own();
    assert!(after.0 == before.0 && after.1 > before.1, "{before:?}, then {after:?}: still the same run");
    // It is heard again.
    one.holds(7, 0);
    let id = one.id();
    two.sees("what it says after its failure", |listing| listing.id == id && listing.assets == 7).await;
}

/// Time stands still here and jumps to whatever is next, so the endpoint talks to nobody.
#[tokio::test]
async fn whoever_falls_silent_is_asked_goes_stale_and_is_taken_off_the_list() {
    let asked = Arc::new(AtomicUsize::new(0));
    let asks = Arc::clone(&asked);
    // Alive once, and never again.
    let once: AskAlive = Arc::new(move |_| {
        let alive = asks.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move { alive })
    });
    let mut one = Agent::prepare("one", once, None).await;
    tokio::time::pause();
    one.run().await;
    let id = SecretKey::generate().public();
    // Without an address: nothing is dialled.
    one.tell(GossipMsg::PeerUp { addr: EndpointAddr::new(id), name: "two".into(), assets: 5 });
    let start = Instant::now();
    let until = |at: Duration| tokio::time::sleep_until(start + at);
    until(FRESH_FOR - Duration::from_secs(1)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    until(FRESH_FOR + Duration::from_secs(2)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(one.listing(id).is_some_and(|listing| listing.age < Duration::from_secs(5)), "it answered");
    until(2 * FRESH_FOR - Duration::from_secs(1)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one answer is good for two minutes");
    until(2 * FRESH_FOR + 4 * Duration::from_secs(1)).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let stale = NodeEvent::PeerStale { endpoint_id: id.to_string(), name: "two".into() };
    let (events, _) = one.args.events.since(0);
    assert_eq!(events.into_iter().map(|logged| logged.event).collect::<Vec<_>>(), [stale]);
    until(2 * FRESH_FOR + 4 * Duration::from_secs(1) + SWEEP_EVERY).await;
    assert_eq!(one.listing(id), None);
    assert_eq!(one.args.directory.lock().fresh(Instant::now()), 0);
}
