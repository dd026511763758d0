//! How a node ends when it is told to: soon, leaving nothing taken; and at once when it is told again, whatever it is at.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::service::{ServiceProcess, command};

/// What somebody waits for before they press Ctrl-C again.
const SOON: Duration = Duration::from_secs(2);
/// What a loaded machine may add to anything.
const SLACK: Duration = Duration::from_secs(3);

/// Ends something up to three times: a loaded machine may take its time once, a wait of ours would come every time.
async fn ends_within(limit: Duration, mut end: impl AsyncFnMut() -> Duration) {
    let mut took = Vec::new();
    while took.len() < 3 && took.iter().all(|took| *took > limit) {
        took.push(end().await);
    }
    assert!(took.iter().any(|took| *took <= limit), "{took:?}");
}

/// Connections that are open and idle: one that has had an answer, and one on which nothing was said yet.
async fn idle(url: &str) -> Vec<TcpStream> {
    let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut used = TcpStream::connect(addr).await.unwrap();
    used.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    used.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    vec![used, TcpStream::connect(addr).await.unwrap()]
}

#[tokio::test]
async fn an_idle_node_ends_soon_and_its_ports_are_free() {
    for signal in [Signal::TERM, Signal::INT] {
        ends_within(SOON + SLACK, async || {
            let mut node = Daemon::start(&embedded_yaml(""));
            let other = Daemon::start(&embedded_yaml(""));
            node.dial(&other).await;
            node.wait_in_sync().await;
            // As a page that is open, and programs that keep their connections, leave it.
            let mut open = idle(&node.url("/status")).await;
            open.extend(idle(&node.store_url("/status")).await);
            let events = node.http.get(node.url("/events")).send().await.unwrap();
            let feed = node.http.get(node.store_url("/events?since=0")).send().await.unwrap();
            let asked = Instant::now();
            node.signal(signal);
            assert_eq!(node.end().await, Some(0));
            let took = asked.elapsed();
            println!("{signal:?}: ended after {took:?}");
            node.hear("stopped in order");
            for url in [node.url(""), node.store_url("")] {
                let addr = url.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
                TcpListener::bind(&addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
            }
            drop((events, feed, open));
            node.restart();
            took
        })
        .await;
    }
}

#[tokio::test]
async fn a_node_ends_soon_with_every_channel_on() {
    // Nobody answers at any of them.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let (udp, tcp) = (silent.local_addr().unwrap(), dead.local_addr().unwrap());
    let config =
        embedded_yaml("").replace("relay_url: disabled", &format!("relay_url: http://{tcp}")).replace(
            "discovery: { pkarr_relays: [], dht: false, mdns: false }",
            &format!("discovery: {{ pkarr_relays: ['http://{tcp}'], dht_bootstrap: ['{udp}'], mdns: true }}"),
        );
    assert!(config.contains("mdns: true"), "{config}");
    // A loaded machine may take its time once; a wait of ours would come every time.
    let mut took = Vec::new();
    while took.len() < 3 && took.iter().all(|took| *took > SOON) {
        let mut node = Daemon::start(&config);
        // Somebody is being dialled who never answers.
        let id = iroh::SecretKey::generate().public().to_string();
        let dial = serde_json::json!({ "endpoint_id": id, "addrs": [udp.to_string()] });
        assert_eq!(node.post("/peers", &dial).await["status"], "success");
        eventually("it is dialled", async || {
            let peers = node.get("/peers").await;
            // Nodes of other tests may be found by then.
            let all = peers["peers"].as_array().expect("peers");
            let is_dialled =
                all.iter().any(|p| p["endpoint_id"] == id.as_str() && p["state"] == "connecting");
            is_dialled.then_some(()).ok_or_else(|| peers.to_string())
        })
        .await;
        let asked = Instant::now();
        node.signal(Signal::TERM);
        assert_eq!(node.end().await, Some(0));
        took.push(asked.elapsed());
    }
    assert!(took.iter().any(|took| *took <= SOON), "{took:?}");
}

/// A store that takes connections, and never says a word.
fn mute() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test]
async fn a_second_signal_ends_a_node_whatever_it_is_at() {
    ends_within(Duration::from_secs(1) + SLACK, async || {
        // A store of another program that hangs.
        let (_listener, url) = mute();
        let user = User::new();
        let config = embedded_yaml(&format!("can_service_url: {url}\nsync_api_key: key"));
        user.write("config.yaml", config.replace("can_listen_addr: 127.0.0.1:0\n", ""));
        let mut hung = Daemon::start_as(user);
        // An upload that never ends.
        let mut busy = Daemon::start(&embedded_yaml(""));
        let store = busy.store_url("/ingest");
        let (addr, path) = store.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut upload = TcpStream::connect(addr).await.unwrap();
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 1000000\r\n\
             Content-Type: multipart/form-data; boundary=x\r\nExpect: 100-continue\r\n\r\n"
        );
        upload.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        upload.read_exact(&mut answer).await.unwrap();
        let mut longest = Duration::ZERO;
        for node in [&mut hung, &mut busy] {
            let asked = Instant::now();
            for signal in [Signal::TERM, Signal::INT] {
                // It may end at the first one, before the second is sent.
                if node.runs() {
                    node.signal(signal);
                }
                // The system merges what comes at once.
                eventually("the signal is taken up", async || {
                    let ended = !node.runs();
                    let said = node.stderr();
                    (ended || said.contains("the node stops") || said.contains("stopped"))
                        .then_some(())
                        .ok_or(said)
                })
                .await;
            }
            assert_eq!(node.end().await, Some(0));
            let took = asked.elapsed();
            println!("ended after {took:?}");
            longest = longest.max(took);
        }
        longest
    })
    .await;
}

#[tokio::test]
async fn a_signal_ends_a_start_that_is_under_way() {
    for times in [1, 2] {
        ends_within(SOON + SLACK, async || {
            let user = User::new();
            user.write("config.yaml", embedded_yaml(""));
            let mut running = user.follow(&["serve"]);
            // From the lock on, until the passphrase is stretched and the store is open.
            let lock = user.home().join("data/lock");
            eventually("the start is under way", async || {
                lock.exists().then_some(()).ok_or_else(|| "no lock yet".to_owned())
            })
            .await;
            let asked = Instant::now();
            for _ in 0..times {
                running.signal(Signal::TERM);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            running.rest();
            assert_eq!(running.end(), Some(0));
            let took = asked.elapsed();
            // Nothing is in the way of the next one.
            drop(running);
            Daemon::start_as(user);
            took
        })
        .await;
    }
}

#[tokio::test]
async fn a_service_ends_soon_and_at_once_when_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let ended = async |process: &mut ServiceProcess| {
        eventually("the end of the service", async || {
            process.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        })
        .await
    };
    let signal = |process: &ServiceProcess, signal| {
        rustix::process::kill_process(rustix::process::Pid::from_child(&process.child), signal).unwrap();
    };
    ends_within(SOON + SLACK, async || {
        let mut service = ServiceProcess::spawn(command(&dir.path().join("data"), "127.0.0.1:0"));
        let url = format!("http://{}/api/v1/can/0/status", service.addr);
        let open = idle(&url).await;
        let asked = Instant::now();
        signal(&service, Signal::TERM);
        assert!(ended(&mut service).await.success());
        drop(open);
        asked.elapsed()
    })
    .await;

    ends_within(Duration::from_secs(1) + SLACK, async || {
        let mut service = ServiceProcess::spawn(command(&dir.path().join("data"), "127.0.0.1:0"));
        let mut upload = TcpStream::connect(service.addr).await.unwrap();
        let head = format!(
            "POST /api/v1/can/0/ingest HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000\r\n\
         Content-Type: multipart/form-data; boundary=x\r\nExpect: 100-continue\r\n\r\n",
            service.addr
        );
        upload.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        upload.read_exact(&mut answer).await.unwrap();
        let asked = Instant::now();
        signal(&service, Signal::INT);
        // The first has to be taken up before the second: the system merges equal ones, not these.
        signal(&service, Signal::TERM);
        ended(&mut service).await;
        asked.elapsed()
    })
    .await;
}
