//! What signals do to a running node.

use futures::StreamExt as _;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::service::soon;

async fn connected(a: &Daemon, b: &Daemon) {
    a.dial(b).await;
    for daemon in [a, b] {
        eventually("connected", async || {
            let status = daemon.get("/status").await;
            (status["peers"]["connected"] == 1).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
}

async fn logged(daemon: &Daemon, what: &str) {
    eventually(what, async || daemon.stderr().contains(what).then_some(()).ok_or_else(|| daemon.stderr()))
        .await;
}

#[tokio::test]
async fn a_signal_stops_the_node_in_order_whoever_is_connected() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut stopped = Daemon::start(&embedded_yaml("name: stopped"));
        let other = Daemon::start(&embedded_yaml("name: other"));
        connected(&other, &stopped).await;
        let mut streams = Vec::new();
        for url in [stopped.url("/events"), stopped.store_url("/events?since=0")] {
            let answer = stopped.http.get(url).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            streams.push(answer.bytes_stream());
        }
        let asked = std::time::Instant::now();
        stopped.signal(signal);
        assert_eq!(stopped.end().await, Some(0), "{name}");
        println!("{name}: stopped after {} ms", asked.elapsed().as_millis());
        stopped.hear("stopped in order");
        let said = stopped.stderr();
        assert!(said.contains(name), "{said}");
        // The tree's own limits are a few seconds; whoever overstays them is killed and named.
        assert!(!said.contains("took too long") && !said.contains("left unread"), "{said}");
        for mut stream in streams {
            soon("the end of an event stream", async { while let Some(Ok(_)) = stream.next().await {} })
                .await;
        }
        eventually("the other one notices", async || {
            let status = other.get("/status").await;
            (status["peers"]["connected"] == 0).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
}

#[tokio::test]
async fn a_second_signal_stops_the_node_at_once() {
    let mut daemon = Daemon::start(&embedded_yaml(""));
    // A request that never ends is given some time by an ordered stop.
    let store = daemon.store_url("/ingest");
    let (addr, path) = store.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut upload = tokio::net::TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: multipart/form-data; boundary=x\r\n\
         Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    // It is being read: the service asks for the body.
    let mut answer = [0; 12];
    soon("100 Continue", upload.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    upload.write_all(b"--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nab").await.unwrap();
    daemon.signal(Signal::TERM);
    logged(&daemon, "the node stops").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    daemon.hear("stopped at once");
    let said = daemon.stderr();
    assert!(!said.contains("stopped in order"), "{said}");
}

#[tokio::test]
async fn sigusr1_shows_the_tree_and_changes_nothing() {
    let daemon = Daemon::start(&embedded_yaml(""));
    let other = Daemon::start(&embedded_yaml(""));
    connected(&other, &daemon).await;
    daemon.wait_in_sync().await;
    let actors = |tree: serde_json::Value| {
        let of =
            |tree: &serde_json::Value| (tree["id"].clone(), tree["kind"].clone(), tree["restarts"].clone());
        let mut all = vec![of(&tree)];
        for child in tree["children"].as_array().into_iter().flatten() {
            all.push(of(child));
            all.extend(child["children"].as_array().into_iter().flatten().map(of));
        }
        all
    };
    let before = actors(daemon.get("/actors").await);
    let file = daemon.data_dir().join("status.txt");
    assert!(!file.exists());
    daemon.signal(Signal::USR1);
    let dump =
        eventually("the dump", async || std::fs::read_to_string(&file).map_err(|e| e.to_string())).await;
    let kinds = ["RootSupervisor", "CanServiceActor", "PeersActor", "PeerActor", "HttpActor", "SignalActor"];
    for kind in kinds {
        let lines: Vec<&str> = dump.lines().filter(|line| line.trim().starts_with(kind)).collect();
        assert_eq!(lines.len(), 1, "one line for {kind}: {dump}");
        assert!(lines[0].contains("running"), "{dump}");
    }
    assert!(dump.contains(&other.id()[..10]), "which peer: {dump}");
    logged(&daemon, dump.trim_end()).await;
    assert_eq!(actors(daemon.get("/actors").await), before);
    assert_eq!(daemon.get("/status").await["sync"]["state"], "in_sync");
}

#[tokio::test]
async fn sighup_dials_afresh_and_ends_nothing() {
    let mut daemon = Daemon::start(&embedded_yaml(""));
    let other = Daemon::start(&embedded_yaml(""));
    connected(&daemon, &other).await;
    daemon.signal(Signal::HUP);
    logged(&daemon, "peers are dialled afresh").await;
    assert!(daemon.runs());
    assert_eq!(daemon.get("/status").await["peers"]["connected"], 1);
}

#[tokio::test]
async fn a_node_outlives_whoever_read_its_log() {
    let mut daemon = Daemon::start_unheard(&embedded_yaml(""));
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::USR1);
    let file = daemon.data_dir().join("status.txt");
    let dump =
        eventually("the dump", async || std::fs::read_to_string(&file).map_err(|e| e.to_string())).await;
    assert!(dump.contains("SignalActor"), "{dump}");
    assert_eq!(daemon.get("/status").await["actors"]["restarts"], 0);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
}
