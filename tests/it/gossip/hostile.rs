//! What a hostile member of the swarm can do.

use iroh::endpoint::{Connection, QuicTransportConfig, SendStream, VarInt, presets};
use serde_json::Value;

use super::*;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::PASSPHRASE;
use crate::support::scoreboard;

/// By how much memory may grow beside a flood.
const GROWTH_MIB_MAX: u64 = 64;
/// How soon 99 of 100 questions have their answers beside a flood.
const ANSWERED_WITHIN: Duration = Duration::from_millis(200);

/// How many announcements counted for nothing, and the words that say so.
async fn refused(agent: &Agent) -> (u64, String) {
    let detail = agent.detail().await;
    let number = detail.split_whitespace().rev().nth(2).and_then(|number| number.parse().ok());
    (number.unwrap_or_else(|| panic!("no number in {detail}")), detail)
}

/// As many announcements, each from an author of its own, properly signed: the most work that can be asked for.
fn announcements(count: usize) -> Vec<Bytes> {
    let author = |n: usize| SecretKey::from_bytes(blake3::hash(&n.to_le_bytes()).as_bytes());
    (0..count).map(|n| announcement(&author(n), "flood").sign(&author(n))).collect()
}

/// Says all of them, so many in a second, but goes on for at most five times as long as that takes: gossip makes whoever floods it wait,
/// on a busy machine for long. How many were said.
async fn flood(member: &Member, announcements: &[Bytes], per_sec: usize) -> usize {
    let began = Instant::now();
    let mut said = 0;
    let speaking = async {
        while said < announcements.len() {
            let passed = usize::try_from(began.elapsed().as_millis()).expect("a short time");
            let due = (passed * per_sec / 1_000).min(announcements.len());
            for bytes in &announcements[said..due] {
                member.say(bytes.clone()).await;
                said += 1;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let within = Duration::from_secs(announcements.len().div_ceil(per_sec) as u64) * 5;
    let _ = timeout(within, speaking).await;
    said
}

#[tokio::test]
async fn what_a_hostile_member_says_does_not_count() {
    let (one, two) = (Agent::start("one").await, Agent::start("two").await);
    one.hint(&two);
    one.sees_agent(&two).await;
    let mut member = Member::join(&one).await;
    let victim = SecretKey::generate();
    // Signed by another key than the one named; from tomorrow; endless; nothing at all.
    let stolen = Announcement { id: victim.public(), ..announcement(&SecretKey::generate(), "stolen") };
    let key = SecretKey::generate();
    let stolen = {
        // `sign` writes the signer's id; put the victim's there, under the thief's signature.
        let bytes = stolen.sign(&key).to_vec();
        let at = bytes.windows(32).position(|part| part == key.public().as_bytes()).expect("the id is in it");
        [&bytes[..at], victim.public().as_bytes(), &bytes[at + 32..]].concat()
    };
    let tomorrow = Announcement { timestamp_ms: now_ms() + 86_400_000, ..announcement(&key, "tomorrow") };
    let last = Announcement { timestamp_ms: u64::MAX, ..announcement(&key, "last") };
    member.say(stolen).await;
    member.say(tomorrow.sign(&key)).await;
    member.say(last.sign(&key)).await;
    member.say(vec![7; 3_900]).await;
    member.say(Vec::new()).await;
    // What another one said, said again.
    let heard = async {
        loop {
            match futures::StreamExt::next(&mut member.receiver).await {
                Some(Ok(iroh_gossip::api::Event::Received(message))) => return message.content,
                Some(Ok(_)) => {}
                other => panic!("the topic ended: {other:?}"),
            }
        }
    };
    let heard = timeout(Duration::from_mins(1), heard).await.expect("somebody says something");
    for n in 0..100 {
        member.say(wrapped(&heard, n)).await;
    }
    // Behind all of it comes an honest one, so everything before was dealt with.
    let honest = SecretKey::generate();
    member.say(announcement(&honest, "honest").sign(&honest)).await;
    for agent in [&one, &two] {
        agent.sees("the honest one", |listing| listing.id == honest.public()).await;
        let other = if agent.args.name == "one" { "two" } else { "one" };
        assert_eq!(agent.names(), BTreeSet::from(["honest".to_owned(), other.to_owned()]));
        let (refused, detail) = refused(agent).await;
        assert!(refused >= 100, "{detail}");
    }
}

/// A neighbour that reads nothing of what it is sent.
struct MuteNeighbour {
    _endpoint: Endpoint,
    connection: Connection,
    _stream: SendStream,
}

impl MuteNeighbour {
    async fn join(through: &Agent) -> Self {
        // Room for the first few messages alone.
        let transport = QuicTransportConfig::builder().stream_receive_window(VarInt::from_u32(1_000)).build();
        let builder = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .transport_config(transport)
            .clear_ip_transports();
        let endpoint = builder.bind_addr(LOCALHOST).expect("an address").bind().await.expect("a free port");
        let connection = endpoint.connect(through.addr(), GOSSIP_ALPN).await.expect("it is let in");
        let mut stream = connection.open_uni().await.expect("it may send");
        // The topic, and `Join` with nothing about itself.
        for frame in [&through.args.topic.as_bytes()[..], &[0, 0, 0]] {
            let length = u32::try_from(frame.len()).expect("a short frame");
            stream.write_all(&length.to_be_bytes()).await.expect("it is taken");
            stream.write_all(frame).await.expect("it is taken");
        }
        Self { _endpoint: endpoint, connection, _stream: stream }
    }
}

#[tokio::test]
async fn a_neighbour_that_reads_nothing_holds_nobody_up_for_long() {
    let (one, two) = (Agent::start("one").await, Agent::start("two").await);
    one.hint(&two);
    one.sees_agent(&two).await;
    two.sees_agent(&one).await;
    let member = Member::join(&one).await;
    let mute = MuteNeighbour::join(&one).await;
    let met = async {
        while !one.detail().await.starts_with("3 neighbours") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, met).await.expect("all three are its neighbours");
    // More than wait for one neighbour.
    for bytes in announcements(400) {
        member.say(bytes).await;
    }
    two.holds(99, 0);
    let id = two.id();
    one.sees("news of the other one", |listing| listing.id == id && listing.assets == 99).await;
    timeout(PATIENCE, mute.connection.closed()).await.expect("it is hung up on");
}

#[tokio::test]
async fn a_flood_of_announcements_is_bounded_and_hides_nobody() {
    let per_sec = scoreboard::number("CAN_SYNC_TEST_FLOOD_PER_SEC", 1_000);
    let seconds = scoreboard::number("CAN_SYNC_TEST_FLOOD_SECS", 4);
    let (one, two) = (Agent::start("one").await, Agent::start("two").await);
    one.hint(&two);
    one.sees_agent(&two).await;
    two.sees_agent(&one).await;
    let member = Member::join(&one).await;
    let announcements = announcements(per_sec * seconds);
    let (before, began) = (resident_mib(), Instant::now());
    let said = flood(&member, &announcements, per_sec).await;
    assert!(said > per_sec, "only {said} were said");
    let spoke = began.elapsed();
    // News get through, and the actor answers.
    two.holds(99, 0);
    let id = two.id();
    one.sees("news of the other one", |listing| listing.id == id && listing.assets == 99).await;
    let detail = one.detail().await;
    let floods = one.listings().iter().filter(|listing| listing.name == "flood").count();
    let took = usize::try_from(began.elapsed().as_secs()).expect("a short time") + 1;
    let grown = resident_mib().saturating_sub(before);
    let figure = format!(
        "{said} announcements in {:.1} s: {floods} looked at within {took} s; memory grew by {grown} MiB; {detail}",
        spoke.as_secs_f64(),
    );
    scoreboard::figure(grown as u64 <= GROWTH_MIB_MAX, &figure);
    assert!(floods <= 64 * took + 128, "{floods} of {said} were looked at in {took} s");
    assert!(one.listing(two.id()).is_some_and(|listing| !listing.stale));
}

#[tokio::test]
async fn what_was_announced_once_counts_once_however_often_it_is_said_again() {
    let replays = scoreboard::number("CAN_SYNC_TEST_REPLAYS", 2_000);
    let agent = Agent::start("one").await;
    let member = Member::join(&agent).await;
    // Two of each author, of which the later one is what counts.
    let authors: Vec<SecretKey> = (0..8).map(|_| SecretKey::generate()).collect();
    let mut heard: Vec<Bytes> = Vec::new();
    for counter in 1..=2 {
        for author in &authors {
            let said =
                Announcement { counter, assets: counter, ..announcement(author, "author") }.sign(author);
            // Sooner than a second after the one before, it counts for nothing.
            for n in 0.. {
                member.say(wrapped(&said, n)).await;
                if agent.listing(author.public()).is_some_and(|listing| listing.assets == counter) {
                    break;
                }
                assert!(n < 500, "an announcement is not heard");
                sleep(Duration::from_millis(50)).await;
            }
            heard.push(said);
        }
    }
    let counted = || (agent.channel(Channel::Gossip).last_success_ms, agent.runs.lock().len());
    let (before, counted_before) = (refused(&agent).await.0, counted());
    let began = Instant::now();
    let (mut said, mut looked_at) = (0, 0);
    // Gossip passes some of a flood over: what counts is how many were looked at.
    while looked_at < replays && said < 5 * replays {
        for bytes in heard.iter().cycle().take(200) {
            member.say(wrapped(bytes, 1_000 + said)).await;
            said += 1;
        }
        looked_at = refused(&agent).await.0 - before;
    }
    assert_eq!(counted(), counted_before, "a replay counted");
    let figure = format!(
        "{looked_at} replays of {said} said were looked at within {:.0} s, 0 counted",
        began.elapsed().as_secs_f64()
    );
    scoreboard::figure(looked_at >= replays, &figure);
    // Behind all of it comes an honest one, and is the only one that is new.
    let honest = SecretKey::generate();
    member.say(announcement(&honest, "honest").sign(&honest)).await;
    agent.sees("the honest one", |listing| listing.id == honest.public()).await;
    assert_eq!(counted().1, counted_before.1 + 1);
    for author in &authors {
        assert!(
            agent.listing(author.public()).is_none_or(|listing| listing.assets == 2),
            "an earlier one counts"
        );
    }
}

/// How long the API takes for each of some questions, the slowest last.
async fn asked(daemon: &Daemon, enough: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !enough(took.len()) {
        for path in ["/status", "/peers", "/store/list?limit=100"] {
            let began = Instant::now();
            let answer = daemon.http.get(daemon.url(path)).send().await.expect("an answer");
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            let _: Value = answer.json().await.expect("JSON");
            took.push(began.elapsed());
            sleep(Duration::from_millis(5)).await;
        }
    }
    took.sort_unstable();
    took
}

fn p99(took: &[Duration]) -> Duration {
    took[(took.len() * 99).div_ceil(100) - 1]
}

/// The node is a process of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_flooded_goes_on_answering() {
    let per_sec = scoreboard::number("CAN_SYNC_TEST_FLOOD_PER_SEC", 1_000);
    let seconds = scoreboard::number("CAN_SYNC_TEST_FLOOD_SECS", 4);
    let daemon = Daemon::start(&embedded_yaml(""));
    let ticket: EndpointTicket = daemon.started["ticket"].as_str().unwrap().parse().unwrap();
    let keys = NetworkKeys::derive(&PASSPHRASE.into());
    let member = Member::join_at(ticket.endpoint_addr().clone(), topic_of(keys.presence().topic())).await;
    let announcements = announcements(per_sec * seconds);
    let alone = asked(&daemon, |asked| asked >= 300).await;
    let before = daemon.forget_peak();
    let flooded = tokio::spawn(async move {
        let began = Instant::now();
        (flood(&member, &announcements, per_sec).await, began.elapsed(), member)
    });
    let beside = asked(&daemon, |_| flooded.is_finished()).await;
    let grown_mib = daemon.peak_bytes().saturating_sub(before) >> 20;
    let (said, took, member) = flooded.await.expect("no panic");
    assert!(said > per_sec, "only {said} were said");
    let tree = daemon.get("/actors").await;
    let gossip =
        tree["children"].as_array().unwrap().iter().find(|child| child["kind"] == "GossipActor").unwrap();
    let detail = gossip["detail"].as_str().unwrap();
    assert!(!detail.contains(" 0 announcements refused"), "nothing of it came: {detail}");
    drop(member);
    let (p99, p99_alone) = (p99(&beside), p99(&alone));
    let figure = format!(
        "the API answers within {} ms (p99 of {}; alone {} ms) beside {} announcements a second for {:.0} s",
        p99.as_millis(),
        beside.len(),
        p99_alone.as_millis(),
        said as u128 * 1_000 / took.as_millis(),
        took.as_secs_f64(),
    );
    scoreboard::speed(p99 <= ANSWERED_WITHIN, &figure);
    let figure = format!("memory of a node that is flooded grew by {grown_mib} MiB");
    scoreboard::figure(grown_mib <= GROWTH_MIB_MAX, &figure);
}
