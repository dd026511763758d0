//! An honest transfer beside hostile peers, each of which comes back with another id as soon as it is shut out.
//!
//! Victim and honest node are processes of their own; the crowd is this one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::net::SESSION_ALPN;
use can_sync::testing::net::endpoint::open_up;
use can_sync::testing::peer::establish::summary_to_wire;
use can_sync::testing::reconcile::Summary;
use can_sync::testing::record::ContentHash;
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{Ping, ReconOpen, Want, frame};
use iroh::EndpointAddr;
use iroh_tickets::endpoint::EndpointTicket;
use parking_lot::Mutex;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::hostile::{Attacker, Session, framed, header, member_keys, record};
use crate::support::nodes::{DEADLINE, eventually};
use crate::support::scoreboard;
use crate::support::store::{hash_of, noise};

/// By how much the victim's memory may grow.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// How long after its offence a peer may be connected.
const SHUT_OUT_WITHIN: Duration = Duration::from_secs(5);
/// Of its speed alone, an honest transfer keeps this.
const SPEED_MIN: f64 = 0.8;
/// Those that are shut out for what they do; the others only annoy.
const OFFENCES: [Attack; 4] = [Attack::WrongBytes, Attack::Endless, Attack::LongFrame, Attack::Garbage];
/// Between two attacks of one attacker. What it does costs it more than its victim, and both are on one machine here.
const AGAIN: Duration = Duration::from_secs(1);
const NEVER: &str = "never shut out";
/// How long is gone on with what costs nobody its place.
const ANNOYS_FOR: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Content that is not what was offered.
    WrongBytes,
    /// More of a content than was offered, without an end.
    Endless,
    /// A frame of 4 GiB, by its length.
    LongFrame,
    /// A comparison that makes no sense.
    Garbage,
    /// Pings, as many as one likes.
    Pings,
    /// Streams, as many as it gets.
    Streams,
    /// A byte of a content now and then.
    Drip,
}

const ATTACKS: [Attack; 7] = [
    Attack::WrongBytes,
    Attack::Endless,
    Attack::LongFrame,
    Attack::Garbage,
    Attack::Pings,
    Attack::Streams,
    Attack::Drip,
];

/// Offers an asset of this size, and begins to send it.
async fn bait(session: &mut Session, size: u64) -> Result<iroh::endpoint::SendStream, String> {
    let hash = ContentHash(rand::random());
    session.offer(vec![record(hash, size)]).await;
    let Want { request, contents } = loop {
        let read = timeout(DEADLINE, wire::read_frame(&mut session.established.receive)).await;
        if let frame::Kind::Want(want) = read.map_err(|e| e.to_string())?.map_err(|e| e.to_string())? {
            break want;
        }
    };
    let asked = contents.first().ok_or("nothing is wanted")?;
    let length = if asked.length == 0 { size } else { asked.length };
    let mut stream = session.connection.open_uni().await.map_err(|e| e.to_string())?;
    let mut header = header(request, hash, size);
    (header.offset, header.length) = (asked.offset, length);
    stream.write_chunk(wire::encode(&header)).await.map_err(|e| e.to_string())?;
    Ok(stream)
}

/// Attacks once. How long after the offence the victim had shut the attacker out, where it is one.
async fn attack(attack: Attack, victim: EndpointAddr, deeds: &Deeds) -> Result<Option<Duration>, String> {
    let attacker = Attacker::with(victim, member_keys()).await;
    let connection = attacker.connect_with(SESSION_ALPN).await?;
    let established = attacker.establish(&connection).await?;
    deeds.attacks.fetch_add(1, Ordering::Relaxed);
    open_up(&connection, 200);
    let mut session = Session { connection, established };
    let library = session.library();
    // That something cannot be written any more is what it is about.
    let mut offence = Instant::now();
    match attack {
        Attack::WrongBytes => {
            let mut stream = bait(&mut session, 100_000).await?;
            let _ = stream.write_all(&vec![7; 100_000]).await;
            let _ = stream.finish();
            offence = Instant::now();
        }
        Attack::Endless => {
            let mut stream = bait(&mut session, 50_000).await?;
            let _ = stream.write_all(&vec![7; 50_001]).await;
            offence = Instant::now();
            let more = vec![7; 1 << 16];
            while stream.write_all(&more).await.is_ok() {}
        }
        Attack::LongFrame => {
            let _ = session.established.send.write_all(&[0xff; 4]).await;
            offence = Instant::now();
        }
        Attack::Garbage => {
            let open = ReconOpen {
                library,
                message: Bytes::from_static(&[0x61, 0xff, 0xff]),
                entries: false,
                more: false,
            };
            let (mut send, _receive) = session.connection.open_bi().await.map_err(|e| e.to_string())?;
            let _ = send.write_chunk(framed(frame::Kind::ReconOpen(open))).await;
            offence = Instant::now();
            session.connection.closed().await;
        }
        Attack::Pings => {
            let libraries = vec![summary_to_wire(&library, &Summary::default())];
            let pings =
                framed(frame::Kind::Ping(Ping { nonce: 1, libraries, ..Ping::default() })).repeat(100);
            while offence.elapsed() < ANNOYS_FOR && session.established.send.write_all(&pings).await.is_ok() {
                sleep(Duration::from_millis(10)).await;
            }
            return Ok(None);
        }
        Attack::Streams => {
            let mut kept = Vec::new();
            let opening = async {
                while let Ok(mut stream) = session.connection.open_uni().await {
                    let _ = stream.write_all(&[0]).await;
                    kept.push(stream);
                }
            };
            let _ = timeout(ANNOYS_FOR, opening).await;
            return Ok(None);
        }
        Attack::Drip => {
            let mut stream = bait(&mut session, 3_000_000).await?;
            while stream.write_all(&[7]).await.is_ok() {
                sleep(Duration::from_millis(500)).await;
            }
            return Ok(None);
        }
    }
    timeout(DEADLINE, session.connection.closed()).await.map_err(|_| NEVER.to_owned())?;
    Ok(Some(offence.elapsed()))
}

/// What the crowd has done.
#[derive(Default)]
struct Deeds {
    /// Those that began, with a session.
    attacks: AtomicUsize,
    /// How long after each offence its peer was shut out.
    shut_out: Mutex<Vec<(Attack, Duration)>>,
    /// Why some attacks came to nothing.
    failed: Mutex<Vec<String>>,
}

/// One attacker of each kind, until this is dropped.
struct Crowd {
    offenders: JoinSet<()>,
    others: JoinSet<()>,
    is_over: Arc<AtomicBool>,
}

impl Crowd {
    /// Comes, and has begun with all of it.
    async fn come(victim: &EndpointAddr, deeds: &Arc<Deeds>) -> Self {
        let before = deeds.attacks.load(Ordering::Relaxed);
        let mut crowd = Self { offenders: JoinSet::new(), others: JoinSet::new(), is_over: Arc::default() };
        for kind in ATTACKS {
            let (victim, deeds, is_over) = (victim.clone(), Arc::clone(deeds), Arc::clone(&crowd.is_over));
            let attackers = if OFFENCES.contains(&kind) { &mut crowd.offenders } else { &mut crowd.others };
            attackers.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    match attack(kind, victim.clone(), &deeds).await {
                        Ok(Some(took)) => deeds.shut_out.lock().push((kind, took)),
                        Ok(None) => {}
                        Err(why) => deeds.failed.lock().push(format!("{kind:?}: {why}")),
                    }
                    sleep(AGAIN).await;
                }
            });
        }
        eventually("all attack", async || {
            let attacks = deeds.attacks.load(Ordering::Relaxed) - before;
            (attacks > 2 * ATTACKS.len()).then_some(()).ok_or_else(|| format!("{attacks} attacks"))
        })
        .await;
        crowd
    }

    /// Nobody begins any more; who has offended is shut out for it.
    async fn go(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.others.shutdown().await;
        let offenders = std::mem::take(&mut self.offenders).join_all();
        timeout(DEADLINE, offenders).await.expect("everybody who offended is shut out");
    }
}

/// How long an asset takes from the word that one node has it until the other one has it, too.
async fn transfer(from: &Daemon, to: &Daemon, bytes: usize, seed: u64) -> Duration {
    let content = noise(bytes, seed);
    let hash = hash_of(&content);
    let form = Form::new().part("file", Part::bytes(content).file_name("honest.bin"));
    let answer = from.http.post(from.store_url("/ingest")).multipart(form).send().await.expect("an answer");
    assert!(answer.status().is_success());
    let began = Instant::now();
    let url = to.store_url(&format!("/asset/{hash}/meta"));
    eventually("it is there", async || {
        let answer = to.http.get(&url).send().await.map_err(|e| e.to_string())?;
        let meta: Value = answer.json().await.map_err(|e| e.to_string())?;
        (meta["data"]["held"] == true).then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;
    began.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_transfer_goes_on_beside_hostile_peers() {
    let mib: usize = scoreboard::number("CAN_SYNC_TEST_SIEGE_MIB", 4);
    let rounds: u64 = scoreboard::number("CAN_SYNC_TEST_SIEGE_ROUNDS", 1);
    let (mut victim, honest) = (Daemon::start(&embedded_yaml("")), Daemon::start(&embedded_yaml("")));
    honest.dial(&victim).await;
    tokio::join!(honest.wait_in_sync(), victim.wait_in_sync());
    let ticket: EndpointTicket =
        victim.started["ticket"].as_str().expect("a ticket").parse().expect("a ticket");
    // What the first one takes is taken for good.
    transfer(&honest, &victim, mib << 20, 0).await;
    let before = victim.forget_peak();
    let deeds = Arc::new(Deeds::default());
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        alone.push(transfer(&honest, &victim, mib << 20, 2 * round + 1).await);
        let crowd = Crowd::come(ticket.endpoint_addr(), &deeds).await;
        beside.push(transfer(&honest, &victim, mib << 20, 2 * round + 2).await);
        crowd.go().await;
    }
    let grown = victim.peak_bytes().saturating_sub(before);
    println!("alone {alone:?}, beside {beside:?}; came to nothing: {:?}", deeds.failed.lock());

    // Nothing came of any of it but what was honest.
    let expected = usize::try_from(2 * rounds + 1).expect("few");
    assert_eq!(victim.assets().await.len(), expected);
    assert!(victim.runs() && !victim.stderr().contains("panicked"));
    let tree = victim.get("/actors").await;
    let children = tree["children"].as_array().expect("children");
    assert!(children.iter().all(|child| child["restarts"] == 0), "{tree}");
    let attacks = deeds.attacks.load(Ordering::Relaxed);
    let shut_out = std::mem::take(&mut *deeds.shut_out.lock());
    for kind in OFFENCES {
        assert!(shut_out.iter().any(|(of, _)| *of == kind), "{kind:?}: {:?}", deeds.failed.lock());
    }
    assert!(deeds.failed.lock().iter().all(|why| !why.contains(NEVER)), "{:?}", deeds.failed.lock());

    let speed = median(alone).as_secs_f64() / median(beside).as_secs_f64();
    let figure = format!(
        "{mib} MiB from an honest peer at {:.0} % of the speed alone, beside {attacks} attacks of {} kinds",
        speed * 100.0,
        ATTACKS.len()
    );
    scoreboard::speed(speed >= SPEED_MIN, &figure);
    scoreboard::figure(grown <= GROWTH_BYTES_MAX, &format!("memory grew by {} MiB", grown >> 20));
    let slowest = shut_out.iter().map(|(_, after)| *after).max().unwrap_or_default();
    let figure = format!("{} offences, each shut out within {} ms", shut_out.len(), slowest.as_millis());
    scoreboard::figure(slowest <= SHUT_OUT_WITHIN, &figure);
}
