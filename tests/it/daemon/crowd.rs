//! More clients than there are places, none of which does anything.

use std::time::Duration;

use reqwest::multipart::{Form, Part};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::service::soon;

const CROWD: usize = 1_100;

/// Room for the crowd in this process; the daemon takes its own.
fn allow_a_crowd() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = (8 * CROWD) as u64;
    if current.is_some_and(|current| current < wanted) {
        assert!(maximum.is_none_or(|maximum| maximum >= wanted), "the limit for open files is {maximum:?}");
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).unwrap();
    }
}

/// Opens a crowd of connections to the server of `url`, each of which sends `begin` and then nothing.
async fn crowd(url: &str, begin: &str) -> Vec<TcpStream> {
    let addr = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut all = Vec::with_capacity(CROWD);
    for _ in 0..CROWD {
        let mut stream = soon("a connection", TcpStream::connect(addr)).await.unwrap();
        // It may have had to go already.
        let _ = stream.write_all(begin.replace("HOST", addr).as_bytes()).await;
        all.push(stream);
    }
    all
}

async fn works(daemon: &Daemon, whatever: &str) {
    let http = super::super::support::service::client();
    for url in [daemon.url("/healthz"), daemon.url("/status"), daemon.store_url("/status")] {
        let answer = soon("an answer", http.get(&url).send()).await;
        assert_eq!(answer.unwrap_or_else(|error| panic!("{whatever}: {url}: {error}")).status(), 200);
    }
    let form = || Form::new().part("file", Part::bytes(vec![7; 100_000]).file_name("a"));
    for url in [daemon.store_url("/ingest"), daemon.url("/store/ingest")] {
        let put = soon("a put", http.post(&url).multipart(form()).send()).await;
        let put = put.unwrap_or_else(|error| panic!("{whatever}: {url}: {error}"));
        assert!(put.status().is_success(), "{whatever}: {url}: {}", put.status());
    }
}

#[tokio::test]
async fn a_crowd_that_does_nothing_locks_nobody_out() {
    allow_a_crowd();
    let daemon = Daemon::start(&embedded_yaml(""));
    let events = "GET PATH HTTP/1.1\r\nHost: HOST\r\n\r\n";
    let half = "GET /healthz HTTP/1.1\r\nHost: HOST\r\nX-Un";
    let body = "POST PATH HTTP/1.1\r\nHost: HOST\r\nContent-Type: multipart/form-data; boundary=x\r\n\
                Content-Length: 1000000\r\n\r\n--x\r\n";
    let store = |path: &str| {
        let url = daemon.store_url(path);
        url.split_once("//").unwrap().1.split_once('/').map(|(_, path)| format!("/{path}")).unwrap()
    };
    let crowds = [
        ("half requests to the agent", daemon.url("/"), half.to_owned()),
        ("half requests to the store", daemon.store_url("/"), half.to_owned()),
        ("nothing to the agent", daemon.url("/"), String::new()),
        ("streams of the agent", daemon.url("/"), events.replace("PATH", "/events")),
        ("streams of the store", daemon.store_url("/"), events.replace("PATH", &store("/events"))),
        ("bodies for the agent", daemon.url("/"), body.replace("PATH", "/store/ingest")),
        ("bodies for the store", daemon.store_url("/"), body.replace("PATH", &store("/ingest"))),
    ];
    let mut all = Vec::new();
    for (what, url, begin) in crowds {
        all.push(crowd(&url, &begin).await);
        works(&daemon, what).await;
        // Two crowds at a time, or this process has too many files.
        if all.len() > 1 {
            all.remove(0);
        }
    }
}

/// A body that comes a byte at a time is given up, though each byte comes long before the next one would be missed.
#[tokio::test]
async fn a_trickle_is_answered_and_cut() {
    let daemon = Daemon::start(&embedded_yaml(""));
    let (addr, path) = {
        let url = daemon.store_url("/ingest");
        let (addr, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        (addr.to_owned(), path.to_owned())
    };
    let mut stream = TcpStream::connect(&addr).await.unwrap();
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: multipart/form-data; boundary=x\r\n\
         Content-Length: 1000000\r\n\r\n--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut answer = [0; 12];
    tokio::time::timeout(Duration::from_secs(90), reader.read_exact(&mut answer))
        .await
        .expect("an answer")
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    trickle.abort();
}
