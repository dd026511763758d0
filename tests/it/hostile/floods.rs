//! More of what is allowed than anyone can want.

use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use can_sync::testing::peer::establish::{Established, summary_to_wire};
use can_sync::testing::reconcile::Summary;
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::wire::FRAME_BYTES_MAX;
use can_sync::testing::wire::proto::{
    Cancel, ContentRequest, Error, Have, Offer, Ping, ReconOpen, Records, Want, WireRecord, frame,
};
use iroh::endpoint::{ApplicationClose, Connection, ConnectionError, SendStream};
use tokio::time::timeout;

use crate::support::daemon::Output;
use crate::support::hostile::{Arena, Attacker, Session, closed, framed};
use crate::support::nodes::{DEADLINE, eventually};

/// A session whose answers are read by a task, or by nobody.
struct Flood {
    connection: Connection,
    send: SendStream,
    library: Bytes,
    /// Kept open, and not read.
    _receive: Option<iroh::endpoint::RecvStream>,
    attacker: Attacker,
    log: Output,
}

impl Flood {
    async fn start(arena: &Arena, reads: bool) -> Self {
        let attacker = Attacker::member(arena).await;
        let Session { connection, established } = attacker.session().await;
        let Established { send, mut receive, shared, .. } = established;
        let library = shared[0].blinded.clone();
        let receive = if reads {
            tokio::spawn(async move { while let Ok(Some(_)) = receive.read_chunk(1 << 20).await {} });
            None
        } else {
            Some(receive)
        };
        Self { connection, send, library, _receive: receive, attacker, log: arena.victim.log() }
    }

    /// Writes the same frame again and again, while the other side lets us.
    async fn repeat(&mut self, times: usize, kind: frame::Kind) {
        let one = framed(kind);
        let per_write = (1 << 18) / one.len() + 1;
        let many = one.repeat(per_write);
        for _ in 0..times.div_ceil(per_write) {
            if self.send.write_all(&many).await.is_err() {
                return;
            }
        }
    }

    fn ping(&self) -> frame::Kind {
        frame::Kind::Ping(Ping {
            nonce: 1,
            libraries: vec![summary_to_wire(&self.library, &Summary::default())],
            ..Ping::default()
        })
    }

    /// Closed for leaving too many answers unread; or, where the machine is too busy to make so many, for leaving the first ones
    /// unread until its session ended, and beginning no other.
    async fn closed_for_not_reading(&self) {
        let ended = timeout(DEADLINE, self.connection.closed()).await.expect("closed in time");
        let too_late = |close: &ApplicationClose| u64::from(close.error_code) == 408;
        if !matches!(&ended, ConnectionError::ApplicationClosed(close) if too_late(close)) {
            self.closed_for("does not read").await;
        }
    }

    /// Whether it is closed because nothing answers its pings, before anything else.
    async fn is_late(&self) -> bool {
        let ended = timeout(DEADLINE, self.connection.closed()).await.expect("closed in time");
        matches!(ended, ConnectionError::ApplicationClosed(close) if u64::from(close.error_code) == 408)
    }

    /// Closed for breaking the rules, with a reason that says this. The packet that says so may be lost in the flood; then the
    /// connection is reset, and the victim's log has the reason.
    async fn closed_for(&self, reason: &str) {
        let ended = timeout(DEADLINE, self.connection.closed()).await.expect("closed in time");
        if ended == ConnectionError::Reset {
            let id = self.attacker.endpoint.id().fmt_short().to_string();
            return eventually("the reason in the log", async || {
                let log = self.log.text();
                let says = |line: &str| {
                    ["broke the rules", &id, reason].iter().all(|expected| line.contains(expected))
                };
                log.lines().any(says).then_some(()).ok_or_else(|| format!("nothing of {id} and '{reason}'"))
            })
            .await;
        }
        let (code, said) = closed(&self.connection).await;
        assert_eq!(code, 400, "{said}");
        assert!(said.contains(reason), "'{reason}' in: {said}");
    }
}

fn questions(library: &Bytes, count: usize) -> frame::Kind {
    let rids = (0..count).map(|_| Bytes::copy_from_slice(&rand::random::<[u8; 32]>())).collect();
    frame::Kind::Records(Records { library: library.clone(), rids })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "anything else is passed over")]
fn offered_as_gone(kind: frame::Kind) -> Option<usize> {
    match kind {
        frame::Kind::Offer(offer) => Some(offer.gone.len()),
        _ => None,
    }
}

fn want(request: u64, count: usize) -> frame::Kind {
    let hash = Bytes::from(vec![3; 32]);
    frame::Kind::Want(Want {
        request,
        contents: vec![ContentRequest { hash, offset: 0, length: 0, proved: false }; count],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_without_end_are_answered_within_bounds() {
    let mut arena = Arena::new().await;
    for reads in [true, false] {
        let mut flood = Flood::start(&arena, reads).await;
        let attack = async {
            // Many questions that come together have one answer, however fast they come.
            flood.repeat(200_000, flood.ping()).await;
            assert!(flood.connection.close_reason().is_none(), "{:?}", flood.connection.close_reason());
        };
        arena.survives("Pings", attack).await;
    }

    // As long as somebody takes the answers, there are answers.
    let attack = async |session: &mut Session| {
        for _ in 0..20 {
            session.send(questions(&session.established.shared[0].blinded, 2_000)).await;
        }
        let mut gone = 0;
        while gone < 40_000 {
            gone += session.wait_for("answers", offered_as_gone).await;
        }
        assert_eq!(gone, 40_000);
    };
    arena.survives_inside("questions", attack).await;

    let mut flood = Flood::start(&arena, false).await;
    let attack = async {
        flood.repeat(20_000, questions(&flood.library, 2_000)).await;
        flood.closed_for_not_reading().await;
    };
    arena.survives("questions by one who does not read", attack).await;

    let mut flood = Flood::start(&arena, false).await;
    let attack = async {
        flood.repeat(1, questions(&flood.library, 4_001)).await;
        flood.closed_for("'Records.rids'").await;
    };
    arena.survives("4,001 ids at once", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_end_are_bounded() {
    let mut arena = Arena::new().await;
    // The streams that answer are never read.
    let mut flood = Flood::start(&arena, true).await;
    let attack = async {
        for request in 0..20_000 {
            if flood.send.write_chunk(framed(want(request, 100))).await.is_err() {
                break;
            }
        }
        flood.closed_for("more content asked for").await;
    };
    arena.survives("requests", attack).await;
    let mut flood = Flood::start(&arena, true).await;
    let attack = async {
        flood.repeat(20_000, want(7, 1_000)).await;
        flood.closed_for("asked for").await;
    };
    arena.survives("the same request", attack).await;
    let mut flood = Flood::start(&arena, true).await;
    let attack = async {
        flood.repeat(1, want(7, 1_025)).await;
        flood.closed_for("'Want.contents'").await;
    };
    arena.survives("1,025 contents", attack).await;
}

/// The longest frame there may be, of nothing but empty records, two bytes each: 262,000 of them, which would take 70 MiB.
fn empty_records() -> Bytes {
    let records = [0x12, 0].repeat(FRAME_BYTES_MAX / 2 - 2);
    let mut frame = Vec::with_capacity(4 + FRAME_BYTES_MAX);
    frame.put_u32(4 + u32::try_from(records.len()).expect("less than 1 MiB"));
    // Field 5, an offer, and its length.
    frame.put_u8(0x2a);
    prost::encoding::encode_varint(records.len() as u64, &mut frame);
    frame.extend_from_slice(&records);
    frame.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_empty_records_is_refused_before_it_takes_memory() {
    // With the honest node, as many connections as there may be.
    const AT_ONCE: usize = 63;
    let mut arena = Arena::new().await;
    let frame = empty_records();
    assert_eq!(frame.len(), 4 + FRAME_BYTES_MAX);
    let sent = async |mut flood: Flood| {
        let _ = flood.send.write_chunk(frame.clone()).await;
        flood.closed_for("'Offer.records'").await;
    };
    let flood = Flood::start(&arena, true).await;
    let grown = arena.survives("one frame of empty records", sent(flood)).await;
    assert!(grown < 16 << 20, "{} MiB", grown >> 20);
    let mut floods = Vec::new();
    for _ in 0..AT_ONCE {
        floods.push(Flood::start(&arena, true).await);
    }
    // None of them answers pings: where it took long to begin them all, the first ones are gone already.
    let sent_unless_late = async |mut flood: Flood| {
        let _ = flood.send.write_chunk(frame.clone()).await;
        let late = flood.is_late().await;
        if !late {
            flood.closed_for("'Offer.records'").await;
        }
        usize::from(late)
    };
    let attack = async {
        let late = futures::future::join_all(floods.into_iter().map(sent_unless_late)).await;
        let late: usize = late.into_iter().sum();
        assert!(late < AT_ONCE / 2, "{late} were late");
    };
    arena.survives("as many frames as connections", attack).await;
}

/// As many records as one frame holds, with as much text as each may have.
fn long_records(library: &Bytes) -> frame::Kind {
    let meta = AssetMeta {
        mime_type: "text/plain".into(),
        description: Some("x".repeat(15 << 10)),
        created_at_ms: 1_700_000_000_000,
        ..AssetMeta::default()
    };
    let record = |_| {
        let record = AssetRecord::new(ContentHash(rand::random()), 1_000, None, meta.clone());
        WireRecord::from(&record)
    };
    let records = (0..FRAME_BYTES_MAX / (16 << 10)).map(record).collect();
    frame::Kind::Offer(Offer { library: library.clone(), records, ..Offer::default() })
}

/// Each keeps to the limit of one session, and delivers nothing of what it offers.
#[tokio::test(flavor = "multi_thread")]
async fn offers_that_are_never_delivered_add_up_to_no_more_than_there_is() {
    const AT_ONCE: usize = 24;
    const FRAMES: usize = 28;
    let mut arena = Arena::new().await;
    let mut floods = Vec::new();
    for _ in 0..AT_ONCE {
        floods.push(Flood::start(&arena, true).await);
    }
    let offered = async |mut flood: Flood| {
        for _ in 0..FRAMES {
            let frame = framed(long_records(&flood.library));
            if flood.send.write_all(&frame).await.is_err() {
                break;
            }
        }
        // Some stay, which is as it should be; what all of them hold is what counts.
        let ended = timeout(Duration::from_secs(3), flood.connection.closed()).await;
        if let Ok(ConnectionError::ApplicationClosed(close)) = ended {
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            assert!(reason.contains("too much waits"), "{reason}");
            return 1;
        }
        0
    };
    let attack = async {
        let closed: usize =
            futures::future::join_all(floods.into_iter().map(offered)).await.into_iter().sum();
        println!("{closed} of {AT_ONCE} were closed");
        assert!(closed > 0 && closed < AT_ONCE, "{closed}");
    };
    arena.survives_within("24 times 14 MiB of offers", 128 << 20, attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_nothing_are_passed_over() {
    let mut arena = Arena::new().await;
    let mut flood = Flood::start(&arena, true).await;
    let attack = async {
        let hashes = (0..1_000).map(|_| Bytes::copy_from_slice(&rand::random::<[u8; 32]>())).collect();
        flood.repeat(500, frame::Kind::Have(Have { hashes, ..Have::default() })).await;
        flood.repeat(50_000, frame::Kind::Cancel(Cancel { request: 3 })).await;
        let error = Error {
            code: 422,
            message: "x".repeat(100_000),
            hash: Some(vec![1; 32].into()),
            ..Error::default()
        };
        flood.repeat(500, frame::Kind::Error(error)).await;
        let wrong = can_sync::testing::wire::proto::Pong { nonce: 9, ..Default::default() };
        flood.repeat(1, frame::Kind::Pong(wrong)).await;
        flood.closed_for("no summary").await;
    };
    arena.survives("answers to nothing", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciliations_are_few_and_make_sense() {
    let mut arena = Arena::new().await;
    let open = |library: &Bytes, message: &[u8]| {
        let message = Bytes::copy_from_slice(message);
        framed(frame::Kind::ReconOpen(ReconOpen {
            library: library.clone(),
            message,
            entries: false,
            more: false,
        }))
    };
    // An empty message of the right version is answered and then waited for.
    let flood = Flood::start(&arena, true).await;
    let attack = async {
        let mut streams = Vec::new();
        for _ in 0..5 {
            let (mut send, receive) = flood.connection.open_bi().await.unwrap();
            let _ = send.write_chunk(open(&flood.library, &[0x61])).await;
            streams.push((send, receive));
        }
        flood.closed_for("more reconciliations").await;
    };
    arena.survives("five reconciliations", attack).await;

    let flood = Flood::start(&arena, true).await;
    let attack = async {
        let (mut send, _receive) = flood.connection.open_bi().await.unwrap();
        let _ = send.write_chunk(open(&Bytes::from_static(&[8; 32]), &[0x61])).await;
        flood.closed_for("not shared").await;
    };
    arena.survives("a reconciliation of another library", attack).await;

    for garbage in [&b""[..], &[0x60], &[0x61, 0xff, 0xff], &[0x61, 0, 0, 9], &[0xee; 1000]] {
        let flood = Flood::start(&arena, true).await;
        let attack = async {
            // Over and over, as long as it is let.
            while let Ok((mut send, receive)) = flood.connection.open_bi().await {
                let _ = send.write_chunk(open(&flood.library, garbage)).await;
                let _ = send.finish();
                drop(receive);
            }
            flood.closed_for("reconciliation").await;
        };
        arena.survives("garbage in a reconciliation", attack).await;
    }
}
