//! `can-sync peers`: the daemon's list, and what other agents say.

use std::sync::Arc;
use std::time::Duration;

use can_sync::testing::config::Config;
use can_sync::testing::discovery::directory::SharedDirectory;
use can_sync::testing::discovery::list;
use can_sync::testing::discovery::list_peers::{self, ListPeersService};
use can_sync::testing::discovery::network::{NetworkSettings, now_us};
use can_sync::testing::identity::{NetworkKeys, PresenceKeys};
use can_sync::testing::net::handshakes::{RemoteNet, SharedHandshakes};
use can_sync::testing::net::{close, endpoint};
use can_sync::testing::peer::messages::PeersMsg;
use can_sync::testing::peer::report::{ConnectionState, SyncState};
use futures::StreamExt as _;
use iroh::SecretKey;
use iroh_gossip::api::Event;
use iroh_gossip::net::{GOSSIP_ALPN, Gossip};
use iroh_gossip::proto::TopicId;
use iroh_tickets::endpoint::EndpointTicket;
use serde_json::json;

use crate::support::agent::{Agent, peer};
use crate::support::command::{Ran, User};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::infrastructure::Infrastructure;
use crate::support::listing::{Lister, announcement, key, listing};
use crate::support::nodes::eventually;
use crate::support::peers::{addr_of, bind};

/// The topic whose key the tests' agents have.
const TOPIC: &str = "a network of tests";

/// A user whose commands stay on loopback.
fn user() -> User {
    let user = User::new();
    user.write("config.yaml", "bind_addr: 127.0.0.1:0\nrelay_url: disabled\ndiscovery: { mdns: false }\n");
    user
}

fn nobody() -> String {
    format!("http://{}", crate::support::ports::nobody())
}

async fn run(user: &User, api: &str, args: &[&str]) -> Ran {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let (home, api) = (user.home().to_owned(), api.to_owned());
    let addr = api.trim_start_matches("http://").to_owned();
    let command = move || User::at(&home, &args, &[("CAN_SYNC_LISTEN_ADDR", &addr)], b"");
    tokio::task::spawn_blocking(command).await.expect("it ran")
}

fn ticket(lister: &Lister) -> String {
    EndpointTicket::new(lister.addr()).to_string()
}

/// Three agents in a line: the first knows the second, the second the third.
async fn line() -> [Lister; 3] {
    let keys = [SecretKey::generate(), SecretKey::generate(), SecretKey::generate()];
    let third = Lister::start(keys[2].clone(), "third", vec![key()], vec![]).await;
    let age = Duration::from_mins(1);
    let knows = vec![listing(&keys[2], "third", third.addr(), age)];
    let second = Lister::start(keys[1].clone(), "second", vec![key()], knows).await;
    let knows = vec![listing(&keys[1], "sec\u{1b}ond", second.addr(), age)];
    let first = Lister::start(keys[0].clone(), "first", vec![key()], knows).await;
    [first, second, third]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemons_list_is_tab_separated_sorted_and_without_a_heading() {
    let agent = Agent::start().await;
    let ran = run(&user(), &agent.url(""), &["peers"]).await;
    assert_eq!((ran.code, ran.text()), (0, "(no peers discovered)\n"));
    let ran = run(&user(), &agent.url(""), &["peers", "--json"]).await;
    assert_eq!((ran.code, ran.text()), (0, ""));
    let evil = peer(3, "evil\u{1b}]0;x\u{7}\tname", ConnectionState::BackingOff);
    let mut plain = peer(2, "cellar", ConnectionState::InSync);
    plain.assets = None;
    plain.last_seen_ms = None;
    agent.set_peers(SyncState::Alone, vec![evil.clone(), plain.clone()]);
    let ran = run(&user(), &agent.url(""), &["peers"]).await;
    let mut expected = [
        format!("{}\tevil\\u{{1b}}]0;x\\u{{7}}\\tname\t40\t2023-11-14T22:13:20.000Z", evil.endpoint_id),
        format!("{}\tcellar\t\t", plain.endpoint_id),
    ];
    expected.sort();
    assert_eq!(ran.text().lines().collect::<Vec<_>>(), expected);
    let json = run(&user(), &agent.url(""), &["peers", "--json"]).await.json();
    assert_eq!(json.len(), 2);
    let of = |id: &str| json.iter().find(|row| row["endpoint_id"] == json!(id)).expect("it is there");
    assert_eq!(of(&evil.endpoint_id)["rtt_ms"], json!(12.5), "nothing is left out");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_asked_and_those_whom_it_names_as_far_as_the_depth_goes() {
    let agents = line().await;
    let (user, api) = (user(), nobody());
    let ask = async |more: &[&str]| {
        let ticket = ticket(&agents[0]);
        let args = [&["peers", &ticket, "--topic", TOPIC], more].concat();
        run(&user, &api, &args).await
    };
    let names = |ran: &Ran| {
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let mut names: Vec<_> =
            ran.text().lines().map(|line| line.split('\t').nth(1).expect("a name").to_owned()).collect();
        let ids: Vec<_> = ran.text().lines().map(|line| &line[..64]).collect();
        assert!(ids.is_sorted(), "{ids:?}");
        names.sort();
        names
    };
    assert_eq!(names(&ask(&[]).await), ["first", "second"]);
    assert_eq!(names(&ask(&["--depth", "0"]).await), ["first", "second"]);
    for depth in ["1", "2", "-1"] {
        assert_eq!(names(&ask(&["--depth", depth]).await), ["first", "second", "third"]);
    }
    let json = ask(&["--depth=-1", "--json"]).await.json();
    let first = json.iter().find(|row| row["name"] == "first").expect("it is there");
    assert_eq!(first["assets"], json!(7));
    assert_eq!(first["ticket"], json!(ticket(&agents[0])));
    assert!(first["last_seen"].as_str().is_some_and(|time| time.ends_with('Z')));

    let capped = ask(&["--depth=-1", "--max-peers", "2"]).await;
    assert_eq!((capped.code, capped.text().lines().count()), (0, 2));
    assert!(capped.stderr.contains("warning: there are more than 2 agents"), "{}", capped.stderr);
    // By its id alone: whoever is known knows where it is.
    let second = agents[1].endpoint.id().to_string();
    let by_id = ["peers", &format!("@{second}"), "--topic", TOPIC, "--bootstrap", &ticket(&agents[0])];
    assert_eq!(names(&run(&user, &api, &by_id).await), ["second", "third"]);
    // And with --rpc, those who are known are asked.
    let rpc = ["peers", "--rpc", "--topic", TOPIC, "--bootstrap", &ticket(&agents[1])];
    assert_eq!(names(&run(&user, &api, &rpc).await), ["second", "third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_with_one_agent_is_said_and_the_rest_is_listed() {
    let dead = SecretKey::generate();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port that answers nothing");
    let dead_addr =
        iroh::EndpointAddr::new(dead.public()).with_ip_addr(silent.local_addr().expect("an address"));
    let knows = vec![listing(&dead, "dead", dead_addr, Duration::from_secs(100))];
    let agent = Lister::start(SecretKey::generate(), "asked", vec![key()], knows).await;
    let (user, api) = (user(), nobody());
    let ticket = ticket(&agent);
    let ran = run(&user, &api, &["peers", &ticket, "--topic", TOPIC, "--depth", "1"]).await;
    assert_eq!((ran.code, ran.text().lines().count()), (0, 2), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("{}: ", dead.public())), "{}", ran.stderr);
    // Less than a connection may take, and enough for the agent that answers.
    let ran = run(&user, &api, &["peers", &ticket, "--topic", TOPIC, "--depth", "1", "--timeout", "6"]).await;
    assert_eq!((ran.code, ran.text().lines().count()), (7, 2), "{}", ran.stderr);
    assert!(ran.stderr.contains("time was up after 6s"), "{}", ran.stderr);
    // Another topic's key.
    let ran = run(&user, &api, &["peers", &ticket, "--topic", "another"]).await;
    assert_eq!((ran.code, ran.text()), (1, "(no peers discovered)\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("does not know our passphrase or topic secret"), "{}", ran.stderr);
    let ran = run(&user, &api, &["peers", &dead.public().to_string(), "--topic", TOPIC]).await;
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains("nobody here knows where"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topics_secret_comes_from_the_flag_or_the_environment() {
    let secret = secrecy::SecretString::from("some long secret of a topic");
    let keys = PresenceKeys::of_topic("t", Some(&secret));
    let agent = Lister::start(SecretKey::generate(), "asked", vec![keys.rpc().clone()], vec![]).await;
    let (user, api, ticket) = (user(), nobody(), ticket(&agent));
    let args = ["peers", &ticket, "--topic", "t", "--topic-secret", "some long secret of a topic"];
    assert_eq!(run(&user, &api, &args).await.text().lines().count(), 1);
    let home = user.home().to_owned();
    let by_variable = tokio::task::spawn_blocking(move || {
        let env = [
            ("CAN_SYNC_LISTEN_ADDR", api.trim_start_matches("http://")),
            ("CAN_SYNC_TOPIC_SECRET", "some long secret of a topic"),
        ];
        User::at(&home, &["peers".into(), ticket, "--topic".into(), "t".into()], &env, b"")
    });
    let ran = by_variable.await.expect("it ran");
    assert_eq!(ran.text().lines().count(), 1);
    assert_eq!(ran.stderr, "", "no warning of an unknown variable");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_is_handed_to_the_daemon() {
    let agents = line().await;
    let mut daemon = Agent::start().await;
    let ticket = ticket(&agents[0]);
    let args = ["peers", &ticket, "--topic", TOPIC, "--depth", "-1", "--discover"];
    let ran = run(&user(), &daemon.url(""), &args).await;
    assert_eq!((ran.code, ran.text().lines().count()), (0, 3), "{}", ran.stderr);
    assert!(ran.stderr.contains("handed 3 agents to the daemon"), "{}", ran.stderr);
    let dialled = |seen: &[PeersMsg]| {
        let addr = |message: &PeersMsg| match message {
            PeersMsg::DialPeer { addr, .. } => Some(addr.clone()),
            _ => None,
        };
        seen.iter().filter_map(addr).collect::<Vec<_>>()
    };
    // A dial is noted down after it was answered.
    daemon.peers.wait_for("all dials", |seen| dialled(seen).len() == 3).await;
    let mut dialled = daemon.peers.look(dialled);
    let mut expected: Vec<_> = agents.iter().map(Lister::addr).collect();
    dialled.sort();
    expected.sort();
    assert_eq!(dialled, expected);
    // The daemon is found like the others, and need not be told of itself.
    daemon.ticket.send_replace(ticket.clone());
    let ran = run(&user(), &daemon.url(""), &args).await;
    assert!(ran.code == 0 && ran.stderr.contains("handed 2 agents to the daemon"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_daemon_or_anybody_known_it_says_so() {
    let (user, api) = (user(), nobody());
    let ran = run(&user, &api, &["peers"]).await;
    assert_eq!((ran.code, ran.text()), (3, ""), "{}", ran.stderr);
    let ran = run(&user, &api, &["peers", "--rpc"]).await;
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.contains("there is no passphrase"), "{}", ran.stderr);
    assert!(!user.home().join("can_sync_data").exists(), "nothing was made");
    user.write("config.yaml", "bind_addr: 127.0.0.1:0\nrelay_url: disabled\nsync_passphrase: some words that nobody guesses easily\n");
    let ran = run(&user, &api, &["peers"]).await;
    assert_eq!((ran.code, ran.text()), (3, "(no peers discovered)\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--bootstrap TICKET"), "{}", ran.stderr);
    let ran = run(&user, &api, &["peers", "--gossip"]).await;
    assert_eq!(ran.code, 6);
    assert!(ran.stderr.contains("nobody to ask"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_are_heard_by_gossip() {
    let secret = SecretKey::generate();
    let endpoint = bind(secret.clone()).await;
    let gossip = Gossip::builder().max_message_size(4096).spawn(endpoint.clone());
    let accepting = {
        let (endpoint, gossip) = (endpoint.clone(), gossip.clone());
        let key = PresenceKeys::of_topic(TOPIC, None).rpc().clone();
        let lister = ListPeersService::new(endpoint.id(), vec![key], SharedDirectory::default()).handler();
        let handshakes = SharedHandshakes::new(32);
        tokio::spawn(async move {
            let server = endpoint::strangers(&endpoint);
            while let Some(incoming) = endpoint.accept().await {
                let Ok(accepting) = incoming.accept_with(Arc::clone(&server)) else { continue };
                let Ok(connection) = accepting.await else { continue };
                if connection.alpn() == GOSSIP_ALPN {
                    endpoint::open_gossip(&connection);
                    let _ = gossip.handle_connection(connection).await;
                } else if connection.alpn() == list_peers::ALPN {
                    lister(connection, handshakes.begin(RemoteNet::Other, true).expect("a place"));
                }
            }
        })
    };
    // One that cannot prove that it knows the topic is not told of it.
    let stranger = bind(SecretKey::generate()).await;
    let elsewhere = EndpointTicket::new(addr_of(&stranger)).to_string();
    let turning_away = tokio::spawn(async move {
        while let Some(incoming) = stranger.accept().await {
            let Ok(connection) = incoming.await else { continue };
            assert_eq!(connection.alpn(), list_peers::ALPN);
            connection.close(close::BUSY.into(), b"busy");
        }
    });
    let topic = TopicId::from_bytes(*PresenceKeys::of_topic(TOPIC, None).topic().expose());
    let (sender, mut events) = gossip.subscribe(topic, vec![]).await.expect("a topic").split();
    let addr = addr_of(&endpoint);
    let announcing = tokio::spawn(async move {
        while let Some(Ok(event)) = events.next().await {
            if let Event::NeighborUp(_) = event {
                sender.broadcast(b"not an announcement".as_slice().into()).await.expect("it is sent");
                let forged = announcement(&SecretKey::generate(), "forged", 1, &addr);
                let cut = forged.slice(..forged.len() - 1);
                sender.broadcast(cut).await.expect("it is sent");
                let own = announcement(&secret, "announced", 11, &addr);
                sender.broadcast(own).await.expect("it is sent");
            }
        }
    });
    let user = user();
    let ticket = format!("{},{elsewhere}", EndpointTicket::new(addr_of(&endpoint)));
    let args = ["peers", "--gossip", "--topic", TOPIC, "--bootstrap", &ticket, "--timeout", "60"];
    let ran = run(&user, &nobody(), &args).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let rows: Vec<_> = ran.text().lines().collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0].starts_with(&format!("{}\tannounced\t11\t", endpoint.id())), "{rows:?}");
    assert!(!turning_away.is_finished(), "it was dialled for something else than a proof");
    turning_away.abort();
    announcing.abort();
    accepting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_has_published_is_looked_up() {
    const PASSPHRASE: &str = "some words that nobody guesses easily";
    let infrastructure = Infrastructure::start().await;
    let mut found = Config::default();
    infrastructure.dht(&mut found);
    let (owner, seen) = (SecretKey::generate(), SecretKey::generate().public());
    let addr =
        iroh::EndpointAddr::new(owner.public()).with_ip_addr("192.0.2.1:4433".parse().expect("an address"));
    let keys = NetworkKeys::derive(&PASSPHRASE.into());
    let agents = [(seen, Duration::from_mins(1))];
    let packet = list::pack(&keys, &owner, &addr, &agents, now_us(), [7; 24]).expect("it fits");
    found.discovery.pkarr_relays.clear();
    let transports = NetworkSettings::of(&found.discovery).connect().expect("the DHT");
    eventually("it is stored", async || {
        transports[0].1.publish(packet.clone()).await.map_err(|error| error.to_string())
    })
    .await;

    let user = user();
    let discovery =
        json!({ "pkarr_relays": [], "dht_bootstrap": found.discovery.dht_bootstrap, "mdns": false });
    let config = |passphrase: &str| format!("sync_passphrase: {passphrase}\ndiscovery: {discovery}\n");
    user.write("config.yaml", config(PASSPHRASE));
    let owner = owner.public().to_string();
    let ran = eventually("it is read", async || {
        let ran = run(&user, &nobody(), &["peers", "--lookup", &owner, "--json"]).await;
        if ran.code == 0 { Ok(ran) } else { Err(ran.stderr) }
    })
    .await;
    let mut rows = ran.json();
    rows.sort_by_key(|row| row["endpoint_id"] != json!(owner));
    assert_eq!((rows.len(), &rows[0]["endpoint_id"]), (2, &json!(owner)));
    assert_eq!(rows[0]["ticket"], json!(EndpointTicket::new(addr).to_string()));
    assert_eq!(rows[1]["endpoint_id"], json!(seen.to_string()));
    assert!(rows[1]["last_seen"].as_str() < rows[0]["last_seen"].as_str(), "{rows:?}");

    // Nobody answers there, but that it is there was found out.
    let ran = run(&user, &nobody(), &["peers", &format!("@{owner}"), "--timeout", "10"]).await;
    assert!(ran.code != 0 && !ran.stderr.contains("nobody here knows"), "{}", ran.stderr);
    let ran = run(&user, &nobody(), &["peers", &seen.to_string(), "--timeout", "10"]).await;
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains("nobody here knows"), "{}", ran.stderr);

    let ran = run(&user, &nobody(), &["peers", "--lookup", &seen.to_string()]).await;
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    user.write("config.yaml", config("quite another set of words for tests"));
    let ran = run(&user, &nobody(), &["peers", "--lookup", &owner]).await;
    assert_eq!(ran.code, 5, "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_daemon_answers_those_who_know_its_passphrase() {
    let daemon = tokio::task::spawn_blocking(|| Daemon::start(&embedded_yaml(""))).await.expect("it starts");
    let api = daemon.started["api_url"].as_str().expect("a URL").to_owned();
    // With the daemon's own settings, it is found by itself; without, by its ticket.
    let ran = run(&daemon.user, &api, &["peers", "--rpc", "--json"]).await;
    assert_eq!((ran.code, ran.json().len()), (0, 1), "{}", ran.stderr);
    assert_eq!(ran.json()[0]["endpoint_id"], json!(daemon.id()));
    let ticket = daemon.started["ticket"].as_str().expect("a ticket");
    let stranger = user();
    stranger.write("config.yaml", "bind_addr: 127.0.0.1:0\nrelay_url: disabled\nsync_passphrase: quite another set of words for tests\n");
    let ran = run(&stranger, &nobody(), &["peers", ticket]).await;
    assert_eq!((ran.code, ran.text()), (1, "(no peers discovered)\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("does not know our passphrase"), "{}", ran.stderr);
}
