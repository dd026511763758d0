//! A CAN Service whose every connection is cut once a second, its event stream among them: nothing is missed, nothing crosses twice.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::nodes::{TestNode, eventually};
use crate::support::scoreboard;
use crate::support::service::{KEY, ServiceProcess, client};
use crate::support::store::noise;
use can_sync::testing::config::ServiceUrl;
use can_sync::testing::store::service::BASE_PATH;

const CUT_EVERY: Duration = Duration::from_secs(1);
/// New assets between two cuts.
const ASSETS: usize = 5;
const BYTES: usize = 2_000;

/// Leads connections to a service, until they are cut.
struct Cutter {
    addr: SocketAddr,
    cuts: broadcast::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Cutter {
    async fn before(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let cuts = broadcast::Sender::new(1);
        let told = cuts.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = told.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(service).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self { addr, cuts, accepting }
    }

    /// Cuts all that there are; how many.
    fn cut(&self) -> usize {
        self.cuts.send(()).unwrap_or(0)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_that_is_cut_every_second_misses_nothing_and_repeats_nothing() {
    let seconds = scoreboard::number("CAN_SYNC_TEST_CUT_SECS", 5);
    let dir = tempfile::tempdir().expect("a directory");
    let service = ServiceProcess::start(dir.path(), "127.0.0.1:0");
    let cutter = Cutter::before(service.addr).await;
    let url = ServiceUrl::parse(&format!("http://{}", cutter.addr)).expect("a URL");
    let (agent, peer) = tokio::join!(
        TestNode::start("agent", |config| {
            config.can_service_url = Some(url);
            config.sync_api_key = Some(KEY.into());
        }),
        TestNode::start("peer", |_| {})
    );
    peer.dial(&agent).await;
    let (mut count, mut cut) = (0, 0);
    for _ in 0..seconds {
        for _ in 0..ASSETS {
            let form =
                Form::new().part("file", Part::bytes(noise(BYTES, count as u64)).file_name("file.bin"));
            let url = format!("http://{}{BASE_PATH}/ingest", service.addr);
            let answer = client().post(url).multipart(form).send().await.expect("an answer");
            assert_eq!(answer.status(), 201);
            count += 1;
        }
        sleep(CUT_EVERY).await;
        cut += cutter.cut();
    }
    let began = Instant::now();
    eventually("everything is there", async || {
        let held = peer.get("/status").await["data"]["store"]["assets_held"].as_u64();
        (held == Some(count as u64)).then_some(()).ok_or_else(|| format!("{held:?} of {count}"))
    })
    .await;
    let took = began.elapsed();
    tokio::join!(agent.wait_in_sync(), peer.wait_in_sync());
    let crossed = peer.peer(&agent.id()).await["bytes_received"].as_u64();
    assert_eq!(crossed, Some((count * BYTES) as u64), "each once");
    assert!(cut >= seconds, "only {cut} connections were cut");
    let figure = format!(
        "{cut} connections cut in {seconds} s: {count} assets, 0 missed, 0 twice, caught up within {} ms",
        took.as_millis()
    );
    scoreboard::figure(took <= Duration::from_secs(10), &figure);
}
