//! Asking an agent whom it knows, on real endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::discovery::list_peers::{
    ALPN, ListError, ListingConnection, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, list_all, probe,
};
use can_sync::testing::identity::{Key, PresenceKeys};
use can_sync::testing::net::auth::{LIST_PEERS, Role};
use can_sync::testing::net::close::{self, is_close};
use can_sync::testing::wire;
use can_sync::testing::wire::decode::decode;
use can_sync::testing::wire::proto::{
    Auth, ListPeersReply, ListPeersRequest, ListedPeer, SignedAnnouncement, frame,
};
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr, SecretKey};
use prost::Message as _;
use tokio::time::timeout;

use crate::support::listing::{Known, Lister, announcement, key, listing, sign};
use crate::support::nodes::DEADLINE;
use crate::support::peers::{Remote, assert_closed, bind};
use crate::support::proving::Talk;

fn secret(n: u16) -> SecretKey {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    SecretKey::from_bytes(&bytes)
}

fn other_key() -> Key {
    PresenceKeys::of_topic("another network", None).rpc().clone()
}

fn somewhere(key: &SecretKey) -> EndpointAddr {
    EndpointAddr::new(key.public()).with_ip_addr("192.0.2.1:4433".parse().expect("an address"))
}

/// `count` agents that nobody will reach.
fn many(count: u16, name: &str) -> Vec<can_sync::testing::discovery::directory::AgentListing> {
    let entry = |n| listing(&secret(n), name, somewhere(&secret(n)), Duration::from_secs(u64::from(n)));
    (1..=count).map(entry).collect()
}

/// Somebody who may ask. Its endpoint ends with the connection, so both are kept.
struct Client {
    asking: ListingConnection,
    _endpoint: Endpoint,
}

async fn asking(lister: &Lister) -> Client {
    let endpoint = bind(SecretKey::generate()).await;
    let asking =
        ListingConnection::connect(&endpoint, lister.addr(), &[key()]).await.expect("they share a key");
    Client { asking, _endpoint: endpoint }
}

#[tokio::test]
async fn everyone_is_listed_once_with_what_they_signed() {
    let lister = Lister::start(secret(0), "asked", vec![other_key(), key()], many(3, "node")).await;
    let client = bind(SecretKey::generate()).await;
    let listed = list_all(&client, lister.addr(), &[key()], 1000).await.expect("an answer");
    let own = listed.own.expect("its own announcement");
    assert_eq!((own.id, own.name.as_str(), own.assets), (lister.endpoint.id(), "asked", 7));
    assert_eq!(own.addr, lister.addr());
    let mut ids: Vec<_> = (1..=3).map(|n| secret(n).public()).collect();
    ids.sort_unstable_by_key(|id| *id.as_bytes());
    assert_eq!(listed.peers.iter().map(|found| found.id).collect::<Vec<_>>(), ids);
    let second = listed.peers.iter().find(|found| found.id == secret(2).public()).unwrap();
    assert_eq!((second.name.as_str(), second.assets, second.age), ("node", 3, Duration::from_secs(2)));
    assert_eq!(second.addr, somewhere(&secret(2)));
    assert!(!listed.more && listed.trouble.is_none());
    assert!(probe(&client, lister.addr(), &key()).await);
    assert!(!probe(&client, lister.addr(), &PresenceKeys::of_topic("x", None).rpc().clone()).await);
}

#[tokio::test]
async fn pages_are_bounded_in_entries_and_in_bytes_and_nobody_is_left_out() {
    let lister = Lister::start(secret(0), "asked", vec![key()], many(700, "node")).await;
    let client = asking(&lister).await;
    let first = client.asking.list_page(Bytes::new(), 10_000).await.unwrap();
    assert_eq!(first.peers.len(), PAGE_ENTRIES_MAX);
    let five = client.asking.list_page(first.next_cursor.clone(), 5).await.unwrap();
    assert_eq!(five.peers.len(), 5);
    assert!(five.peers[0].id.as_bytes() > first.peers[255].id.as_bytes());
    let all = client.asking.list_all(1000).await.unwrap();
    assert_eq!((all.peers.len(), all.more), (700, false));
    let some = client.asking.list_all(300).await.unwrap();
    assert_eq!((some.peers.len(), some.more), (300, true));

    // Announcements as large as they may be: fewer fit a page.
    let mut large = many(300, "node");
    for (entry, n) in large.iter_mut().zip(1_u16..) {
        let mut signed = signed_announcement(announcement(&secret(n), "node", 1, &somewhere(&secret(n))));
        let padding = [&[0xa2, 0x06, 0xc0, 0x17][..], &[0; 3008]].concat();
        signed.announcement = [&signed.announcement[..], &padding].concat().into();
        entry.signed = Some(sign(&secret(n), signed.announcement));
    }
    let lister = Lister::start(secret(0), "asked", vec![key()], large).await;
    let client = asking(&lister).await;
    let page = client.asking.list_page(Bytes::new(), 256).await.unwrap();
    assert!((70..100).contains(&page.peers.len()), "{}", page.peers.len());
    assert_eq!(client.asking.list_all(1000).await.unwrap().peers.len(), 300);
}

#[tokio::test]
async fn who_knows_no_key_learns_nothing_and_is_soon_not_heard() {
    let lister = Lister::start(secret(0), "secret name", vec![key()], many(3, "node")).await;
    let client = bind(SecretKey::generate()).await;
    for _ in 0..3 {
        let connection = connect(&client, lister.addr()).await;
        let mut talk = Talk::open(&connection, client.id(), &LIST_PEERS).await.unwrap();
        talk.prove(&[other_key()]).await.unwrap();
        assert_closed(&connection, close::NOT_SHARED).await;
        let said = talk.receive.read_chunk(1024).await;
        assert!(said.is_err(), "not a byte: {said:?}");
    }
    // The right key does not help any more, for a minute.
    let refused = ListingConnection::connect(&client, lister.addr(), &[key()]).await.unwrap_err();
    assert!(matches!(refused, ListError::NotShared), "{refused}");
    assert_eq!(asking(&lister).await.asking.list_all(10).await.unwrap().peers.len(), 3, "others are served");
}

#[tokio::test]
async fn a_question_without_a_proof_is_not_answered() {
    let lister = Lister::start(secret(0), "asked", vec![key()], many(3, "node")).await;
    let client = bind(SecretKey::generate()).await;
    let connection = connect(&client, lister.addr()).await;
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    let request = ListPeersRequest { cursor: Bytes::new(), limit: 10 };
    wire::write_message(&mut send, &request).await.unwrap();
    assert_closed(&connection, close::VIOLATION).await;
    // A proof is worth nothing on another stream, nor when it is of the other end.
    for role in [Role::Answerer, Role::Opener] {
        let client = bind(SecretKey::generate()).await;
        let first = connect(&client, lister.addr()).await;
        let heard = Talk::open(&first, client.id(), &LIST_PEERS).await.unwrap().transcript();
        let connection = connect(&client, lister.addr()).await;
        let mut talk = Talk::open(&connection, client.id(), &LIST_PEERS).await.unwrap();
        let transcript = if role == Role::Opener { heard } else { talk.transcript() };
        let libraries = vec![transcript.prove(&key(), role)];
        talk.say(frame::Kind::Auth(Auth { libraries })).await.unwrap();
        assert_closed(&connection, close::NOT_SHARED).await;
    }
}

#[tokio::test]
async fn whoever_sends_our_proof_back_to_us_has_proved_nothing() {
    // It answers with what it was shown: the proof of whoever asks, for the very stream.
    let endpoint = bind(secret(0)).await;
    let id = endpoint.id();
    let mirror = Lister::accept(endpoint, move |connection| {
        tokio::spawn(async move {
            let mut talk = Talk::accept(&connection, id, &LIST_PEERS, vec![]).await.ok()?;
            let shown = talk.hear_auth().await.ok()?;
            talk.say(frame::Kind::Auth(shown)).await.ok()?;
            connection.closed().await;
            Some(())
        });
    });
    let client = bind(SecretKey::generate()).await;
    let error = list_all(&client, mirror.addr(), &[key()], 10).await.unwrap_err();
    assert!(error.to_string().contains("sent our own proof back"), "{error}");
    assert!(!probe(&client, mirror.addr(), &key()).await, "gossip would tell it the topic");
}

#[tokio::test]
async fn whoever_passes_our_proof_on_has_proved_nothing() {
    let lister = Lister::start(secret(1), "asked", vec![key()], many(3, "node")).await;
    let (thief, asked) = (bind(secret(0)).await, lister.addr());
    let (onward, id) = (thief.clone(), thief.id());
    let (verdicts, mut told) = tokio::sync::mpsc::channel(1);
    let between = Lister::accept(thief, move |connection| {
        let (onward, asked, verdicts) = (onward.clone(), asked.clone(), verdicts.clone());
        tokio::spawn(async move {
            let mut heard = Talk::accept(&connection, id, &LIST_PEERS, vec![]).await.ok()?;
            let shown = heard.hear_auth().await.ok()?;
            let connection = connect(&onward, asked).await;
            let mut talk = Talk::open(&connection, id, &LIST_PEERS).await.ok()?;
            talk.say(frame::Kind::Auth(shown)).await.ok()?;
            verdicts.send(connection.closed().await).await.ok()
        });
    });
    let client = bind(SecretKey::generate()).await;
    let asking = tokio::spawn(async move {
        let _ = list_all(&client, between.addr(), &[key()], 10).await;
    });
    let verdict = timeout(DEADLINE, told.recv()).await.expect("a verdict").expect("a verdict");
    assert!(is_close(&verdict, close::NOT_SHARED), "{verdict}");
    asking.abort();
}

#[tokio::test]
async fn whoever_says_nothing_takes_no_place_and_is_let_go() {
    let lister = Lister::start(secret(0), "asked", vec![key()], many(3, "node")).await;
    let mute = Remote::bind().await;
    let mut connections = Vec::new();
    for _ in 0..20 {
        connections.push(connect(&mute.0, lister.addr()).await);
    }
    assert_eq!(asking(&lister).await.asking.list_all(10).await.unwrap().peers.len(), 3);
    // Whatever comes from one place has few of those that are for strangers. Where it took long to connect all of them, the
    // first ones were let go before the last ones came.
    let mut too_late = 0;
    for (n, connection) in connections.iter().enumerate() {
        let reason = timeout(DEADLINE, connection.closed()).await.expect("it is closed");
        assert!(is_close(&reason, close::BUSY) || is_close(&reason, close::TIMEOUT), "{reason}");
        assert!(n >= 4 || is_close(&reason, close::TIMEOUT), "{n} has a place: {reason}");
        too_late += usize::from(is_close(&reason, close::TIMEOUT));
    }
    assert!(too_late < connections.len(), "all had a place");
}

#[tokio::test]
async fn whoever_says_that_it_is_busy_has_proved_nothing() {
    let stranger = Remote::bind().await;
    let (addr, own_id) = (stranger.addr(), stranger.id());
    let answering = tokio::spawn(async move {
        while let Some(incoming) = stranger.0.accept().await {
            let Ok(connection) = incoming.await else { continue };
            // It has read the proof, and turns it away without one of its own.
            let talk = Talk::accept(&connection, own_id, &LIST_PEERS, vec![]).await;
            if let Ok(mut talk) = talk {
                let _ = talk.hear_auth().await;
            }
            connection.close(close::BUSY.into(), b"busy");
        }
    });
    let client = bind(SecretKey::generate()).await;
    assert!(!probe(&client, addr, &key()).await, "gossip would tell it the topic");
    answering.abort();
}

#[tokio::test]
async fn only_so_many_are_served_at_once() {
    let lister = Lister::start(secret(0), "asked", vec![key()], many(3, "node")).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let client = asking(&lister).await;
        client.asking.list_page(Bytes::new(), 10).await.unwrap();
        clients.push(client);
    }
    let another = bind(SecretKey::generate()).await;
    let keys = [key()];
    let ask = || Box::pin(list_all(&another, lister.addr(), &keys, 10));
    let busy = ask().await.unwrap_err();
    assert!(matches!(busy, ListError::Busy), "{busy}");
    assert!(probe(&another, lister.addr(), &key()).await, "alive all the same");
    drop(clients);
    let served = async { while ask().await.is_err() {} };
    timeout(DEADLINE, Box::pin(served)).await.expect("places are given back");
}

#[tokio::test]
async fn questions_that_nobody_asks_end_the_connection() {
    let lister = Lister::start(secret(0), "asked", vec![key()], many(3, "node")).await;
    for cursor in [vec![1; 31], vec![0; 200]] {
        let client = bind(SecretKey::generate()).await;
        let connection = connect(&client, lister.addr()).await;
        let mut talk = Talk::open(&connection, client.id(), &LIST_PEERS).await.unwrap();
        talk.prove(&[key()]).await.unwrap();
        assert_eq!(talk.hear_proofs().await.unwrap().len(), 1);
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        let request = ListPeersRequest { cursor: cursor.into(), limit: 10 };
        wire::write_message(&mut send, &request).await.unwrap();
        assert_closed(&connection, close::VIOLATION).await;
    }
}

// ---- Agents that lie -------------------------------------------------------------------------------------------------

/// What a liar answers to its `n`th question, as raw bytes of the stream.
type Lie = Arc<dyn Fn(usize) -> Vec<u8> + Send + Sync>;

/// Proves itself as it should, and then answers with lies.
async fn liar(secret_key: SecretKey, lie: Lie) -> Lister {
    let endpoint = bind(secret_key).await;
    let id = endpoint.id();
    let asked = Arc::new(AtomicUsize::new(0));
    Lister::accept(endpoint, move |connection| {
        let (lie, asked) = (Arc::clone(&lie), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut talk = Talk::accept(&connection, id, &LIST_PEERS, vec![key()]).await?;
            talk.hear_proofs().await?;
            talk.prove(&[key()]).await?;
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let _: ListPeersRequest = wire::read_message(&mut receive, 4096).await?;
                send.write_all(&lie(asked.fetch_add(1, Ordering::Relaxed))).await?;
                let _ = send.finish();
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
        });
    })
}

fn framed(reply: &ListPeersReply) -> Vec<u8> {
    wire::encode(reply).to_vec()
}

fn signed_announcement(signed: Bytes) -> SignedAnnouncement {
    decode(signed).expect("an announcement")
}

fn entry(signed: Bytes) -> ListedPeer {
    ListedPeer { announcement: Some(signed_announcement(signed)), age_secs: 1 }
}

fn honest(n: u16) -> ListedPeer {
    entry(announcement(&secret(n), "node", 1, &somewhere(&secret(n))))
}

async fn ask_liar(
    lie: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static,
) -> Result<can_sync::testing::discovery::list_peers::Listed, ListError> {
    let liar = liar(secret(9_999), Arc::new(lie)).await;
    let client = bind(SecretKey::generate()).await;
    timeout(DEADLINE, Box::pin(list_all(&client, liar.addr(), &[key()], 1000))).await.expect("an end")
}

#[tokio::test]
async fn answers_that_are_too_large_are_cut_before_they_are_read() {
    let length = u32::try_from(PAGE_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec();
    let error = ask_liar(move |_| length.clone()).await.unwrap_err();
    assert!(matches!(error, ListError::Wire(wire::WireError::TooLong { .. })), "{error}");
    // Two bytes on the wire for each entry, and many more in memory.
    let empty = ListPeersReply { peers: vec![ListedPeer::default(); 100_000], ..ListPeersReply::default() };
    let error = ask_liar(move |_| framed(&empty)).await.unwrap_err();
    assert!(error.to_string().contains("'ListPeersReply.peers'"), "{error}");
    let error = ask_liar(|_| vec![0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]).await.unwrap_err();
    assert!(matches!(error, ListError::Invalid(_) | ListError::Wire(_)), "{error}");
}

#[tokio::test]
async fn what_is_not_signed_by_whom_it_is_about_is_not_believed() {
    let forged = |_| {
        let mut forged = signed_announcement(announcement(&secret(1), "node", 1, &somewhere(&secret(1))));
        let other = signed_announcement(announcement(&secret(2), "node", 1, &somewhere(&secret(2))));
        forged.signature = other.signature;
        framed(&ListPeersReply {
            peers: vec![entry(forged.encode_to_vec().into())],
            ..ListPeersReply::default()
        })
    };
    ask_liar(forged).await.unwrap_err();
    let nothing =
        |_| framed(&ListPeersReply { peers: vec![ListedPeer::default()], ..ListPeersReply::default() });
    assert!(matches!(ask_liar(nothing).await.unwrap_err(), ListError::Invalid(_)));
    let posing = |_| framed(&ListPeersReply { own: honest(1).announcement, ..ListPeersReply::default() });
    assert!(matches!(ask_liar(posing).await.unwrap_err(), ListError::Invalid(_)));
}

#[tokio::test]
async fn pages_without_end_are_cut() {
    // The same page again and again, under another cursor each time.
    let same = |n: usize| {
        let next_cursor = Bytes::from(vec![u8::try_from(n % 250).unwrap() + 1; 32]);
        framed(&ListPeersReply { peers: vec![honest(1)], next_cursor, ..ListPeersReply::default() })
    };
    let listed = ask_liar(same).await.unwrap();
    assert_eq!(listed.peers.len(), 1);
    assert!(matches!(listed.trouble, Some(ListError::Invalid("pages without end"))), "{:?}", listed.trouble);
    // Somebody new on each, for ever.
    let new = |n: usize| {
        let n = u16::try_from(n).unwrap();
        let next_cursor = Bytes::copy_from_slice(secret(n).public().as_bytes());
        framed(&ListPeersReply { peers: vec![honest(n)], next_cursor, ..ListPeersReply::default() })
    };
    let listed = ask_liar(new).await.unwrap();
    assert_eq!(listed.peers.len(), 128);
    assert!(listed.trouble.is_some());
    let cursor = |_| framed(&ListPeersReply { next_cursor: vec![1; 65].into(), ..ListPeersReply::default() });
    assert!(matches!(ask_liar(cursor).await.unwrap_err(), ListError::Invalid(_)));
}

#[tokio::test]
async fn one_that_stops_in_the_middle_of_an_answer_is_given_up() {
    let endpoint = bind(secret(0)).await;
    let id = endpoint.id();
    let mute = Lister::accept(endpoint, move |connection| {
        tokio::spawn(async move {
            let mut talk = Talk::accept(&connection, id, &LIST_PEERS, vec![key()]).await.ok()?;
            talk.hear_proofs().await.ok()?;
            talk.prove(&[key()]).await.ok()?;
            let (mut send, _receive) = connection.accept_bi().await.ok()?;
            send.write_all(&[0, 0, 1]).await.ok()?;
            connection.closed().await;
            Some(())
        });
    });
    let client = bind(SecretKey::generate()).await;
    let asked = timeout(DEADLINE, Box::pin(list_all(&client, mute.addr(), &[key()], 10))).await;
    let error = asked.expect("an end").unwrap_err();
    assert!(matches!(error, ListError::Timeout { what: "answer", .. }), "{error}");
}

#[tokio::test]
async fn one_that_does_not_know_our_key_is_not_asked() {
    // It takes our proof for good, and answers with one of another key.
    let endpoint = bind(secret(0)).await;
    let id = endpoint.id();
    let (asked, mut told) = tokio::sync::mpsc::channel(1);
    let impostor = Lister::accept(endpoint, move |connection| {
        let asked = asked.clone();
        tokio::spawn(async move {
            let mut talk = Talk::accept(&connection, id, &LIST_PEERS, vec![]).await.ok()?;
            talk.hear_proofs().await.ok()?;
            talk.prove(&[other_key()]).await.ok()?;
            let further = connection.accept_bi().await;
            let closed = further.err().is_some_and(|reason| is_close(&reason, close::SHUTDOWN));
            asked.send(closed).await.ok()
        });
    });
    let client = bind(SecretKey::generate()).await;
    let error = list_all(&client, impostor.addr(), &[key()], 10).await.unwrap_err();
    assert!(matches!(error, ListError::NotShared), "{error}");
    let closed = timeout(DEADLINE, told.recv()).await.expect("the connection ends");
    assert_eq!(closed, Some(true), "and nothing was asked on it");
}

#[tokio::test]
async fn an_agent_that_has_not_announced_itself_yet_is_no_trouble() {
    let endpoint = bind(secret(0)).await;
    let lister = Lister::serve(endpoint, vec![key()], Known { own: None, listings: many(2, "node") });
    let listed = asking(&lister).await.asking.list_all(10).await.unwrap();
    assert!(listed.own.is_none());
    assert_eq!(listed.peers.len(), 2);
}

async fn connect(from: &Endpoint, to: EndpointAddr) -> Connection {
    let connected = timeout(DEADLINE, Box::pin(from.connect(to, ALPN))).await;
    connected.expect("an answer in time").expect("a connection")
}
