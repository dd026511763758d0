//! What is no frame, or none that may come now.

use can_sync::testing::wire;
use can_sync::testing::wire::proto::{Auth, Hello, LibraryProof, Ping, ReconOpen, frame};
use tokio::time::timeout;

use crate::support::hostile::{Arena, Attacker, Session, closed, framed};
use crate::support::nodes::DEADLINE;

fn hello(version: u32) -> frame::Kind {
    frame::Kind::Hello(Hello { version, nonce: vec![7; 32].into() })
}

/// Writes bytes on a fresh control stream, and gives how the victim closes the connection.
async fn opening(arena: &Arena, bytes: &[u8], finish: bool) -> (u32, String) {
    let attacker = Attacker::member(arena).await;
    let connection = attacker.connect().await;
    let (mut send, _receive) = connection.open_bi().await.expect("a stream");
    // The end may come before all of it is written.
    let _ = send.write_all(bytes).await;
    if finish {
        let _ = send.finish();
    }
    closed(&connection).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_begin_with_garbage() {
    let mut arena = Arena::new().await;
    let addr = &arena.addr();
    let attack = async {
        let attacker = Attacker::with(addr.clone(), crate::support::hostile::stranger_keys()).await;
        let refused = attacker.connect_with(b"/some/other/protocol").await;
        assert!(refused.is_err(), "an unknown ALPN");
    };
    Box::pin(arena.survives("unknown ALPN", attack)).await;

    // All at once: some of them are closed by a time-out only.
    let proof =
        LibraryProof { blinded: vec![1; 32].into(), proof: vec![2; 32].into(), ..LibraryProof::default() };
    let auth = |count| frame::Kind::Auth(Auth { libraries: vec![proof.clone(); count] });
    let two = |a: frame::Kind, b: frame::Kind| [framed(a), framed(b)].concat();
    let cases: Vec<(&str, Vec<u8>, bool, u32, &str)> = vec![
        ("garbage", b"\0\0\0\x0cno frame at all".to_vec(), false, 400, "not a frame"),
        ("4 GiB", b"\xff\xff\xff\xff".to_vec(), false, 400, "longer than the limit"),
        ("a truncated length", b"\0\0".to_vec(), true, 408, "no session in time"),
        ("a truncated frame", b"\0\0\0\x64abc".to_vec(), true, 408, "no session in time"),
        ("an unfinished frame", b"\0\0\0\x64abc".to_vec(), false, 408, "no session in time"),
        ("nothing", Vec::new(), false, 408, "no session in time"),
        ("version 1", two(hello(1), auth(1)), false, 400, "version 1"),
        ("version 4", two(hello(4), auth(1)), false, 400, "version 4"),
        (
            "an impatient Ping",
            framed(frame::Kind::Ping(Ping::default())).to_vec(),
            false,
            400,
            "out of place",
        ),
        (
            "an impatient reconciliation",
            framed(frame::Kind::ReconOpen(ReconOpen::default())).to_vec(),
            false,
            408,
            "no session in time",
        ),
        ("Hello twice", two(hello(3), hello(3)), false, 400, "out of order"),
        ("65 libraries", two(hello(3), auth(65)), false, 400, "'Auth.libraries'"),
        ("no library", two(hello(3), auth(0)), false, 401, "no shared library"),
    ];
    let attacked = {
        let arena = &arena;
        let attacks = cases
            .iter()
            .map(|(what, bytes, finish, ..)| async move { (*what, opening(arena, bytes, *finish).await) });
        futures::future::join_all(attacks).await
    };
    for ((what, (code, reason)), (.., expected, said)) in attacked.iter().zip(&cases) {
        assert_eq!(code, expected, "{what}: {reason}");
        assert!(reason.contains(said), "{what}: {reason}");
    }
    arena.survives("garbage", async {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_does_not_go_on_with_garbage() {
    let mut arena = Arena::new().await;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("garbage", b"\0\0\0\x0cno frame at all".to_vec(), "not a frame"),
        ("4 GiB", b"\xff\xff\xff\xff".to_vec(), "longer than the limit"),
        ("one byte too many", (1_u32 << 20 | 1).to_be_bytes().to_vec(), "longer than the limit"),
        ("an unknown kind", vec![0, 0, 0, 3, 0xa0, 0x06, 0x01], "unknown kind"),
        ("a late Hello", framed(hello(3)).to_vec(), "no place"),
        ("a Ping without a summary", framed(frame::Kind::Ping(Ping::default())).to_vec(), "no summary"),
    ];
    for (what, bytes, reason) in cases {
        let attacker = Attacker::member(&arena).await;
        let mut session = attacker.session().await;
        let attack = async {
            let _ = session.established.send.write_all(&bytes).await;
            session.closed_for(reason).await;
            attacker.is_left_alone().await;
        };
        arena.survives(what, attack).await;
    }
    // A stream that ends is no offence, but a session without one is over.
    let attack = async |session: &mut Session| {
        let _ = session.established.send.write_all(b"\0\0\0\x64abc").await;
        session.established.send.finish().unwrap();
        let (code, reason) = session.closed().await;
        assert_eq!((code, reason.as_str()), (408, "no session in time"));
    };
    arena.survives_inside("a truncated frame", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_no_more_than_agreed() {
    let mut arena = Arena::new().await;
    let attack = async |session: &mut Session| {
        let mut kept = Vec::new();
        let connection = &session.connection;
        let opened = timeout(DEADLINE / 60, async {
            for _ in 0..100 {
                let mut uni = connection.open_uni().await.unwrap();
                uni.write_all(&[0]).await.unwrap();
                let (mut send, receive) = connection.open_bi().await.unwrap();
                send.write_all(&[0]).await.unwrap();
                kept.push((uni, send, receive));
            }
        });
        assert!(opened.await.is_err(), "QUIC itself holds them back");
        assert!(kept.len() <= 32, "{}", kept.len());
        // The session itself goes on.
        let summary = can_sync::testing::reconcile::Summary::default();
        let libraries = vec![can_sync::testing::peer::establish::summary_to_wire(
            &session.established.shared[0].blinded,
            &summary,
        )];
        let ping = frame::Kind::Ping(Ping { nonce: 77, libraries, ..Ping::default() });
        wire::write_frame(&mut session.established.send, ping).await.unwrap();
        session
            .wait_for("a Pong", |kind| {
                matches!(kind, frame::Kind::Pong(answer) if answer.nonce == 77).then_some(())
            })
            .await;
    };
    arena.survives_inside("100 streams", attack).await;
}
