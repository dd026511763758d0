//! Those who do not know the passphrase learn that an endpoint exists, and nothing else.

use can_sync::testing::net::auth::SESSION;
use can_sync::testing::wire::proto::{Auth, frame};
use iroh::endpoint::Connection;

use crate::support::hostile::{Arena, Attacker, closed, stranger_keys};
use crate::support::proving::Talk;

/// Everything that the other side says on any stream until the connection ends.
async fn overheard(connection: &Connection, mut control: iroh::endpoint::RecvStream) -> Vec<u8> {
    let mut heard = control.read_to_end(1 << 20).await.unwrap_or_default();
    while let Ok(mut stream) = connection.accept_uni().await {
        heard.extend(stream.read_to_end(1 << 20).await.unwrap_or(vec![0]));
    }
    while let Ok((_, mut stream)) = connection.accept_bi().await {
        heard.extend(stream.read_to_end(1 << 20).await.unwrap_or(vec![0]));
    }
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_nothing_and_is_soon_not_heard_either() {
    let mut arena = Arena::new().await;
    let mut attacker = Attacker::with(arena.addr(), stranger_keys()).await;
    let attack = async {
        for _ in 0..3 {
            let connection = attacker.connect().await;
            // A nonce is all that comes back.
            let mut talk = Talk::open(&connection, attacker.endpoint.id(), &SESSION).await.unwrap();
            // As many libraries as may be offered, all of them wrong.
            let proof = talk.transcript().prove(stranger_keys().auth(), talk.role());
            let auth = frame::Kind::Auth(Auth { libraries: vec![proof; 64] });
            talk.say(auth).await.unwrap();
            assert_eq!(overheard(&connection, talk.receive).await, b"", "not a single byte more");
            assert_eq!(closed(&connection).await, (401, "no shared library".to_owned()));
        }
        // Whoever guesses is refused without being heard, right as the next guess may be.
        attacker.learns();
        let connection = attacker.connect().await;
        assert!(attacker.establish(&connection).await.is_err());
        assert_eq!(closed(&connection).await, (401, "no shared library".to_owned()));
    };
    arena.survives("strangers", attack).await;
    arena.victim.hear("does not know our passphrase");
    let member = Attacker::member(&arena).await;
    member.session().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_proof_nothing_is_served_and_little_is_kept() {
    let mut arena = Arena::new().await;
    let addr = arena.addr();
    // As much of as many frames as the limits of QUIC let through, none of them complete.
    let attack = async {
        let mut connections = Vec::new();
        for _ in 0..8 {
            let attacker = Attacker::with(addr.clone(), stranger_keys()).await;
            let connection = attacker.connect().await;
            let mut streams = Vec::new();
            for _ in 0..32 {
                let Ok((mut send, receive)) = connection.open_bi().await else { break };
                let mut bytes = vec![0; 1 << 20];
                bytes[..4].copy_from_slice(&(1_u32 << 20).to_be_bytes());
                streams.push(tokio::spawn(async move {
                    let _ = send.write_all(&bytes).await;
                    receive
                }));
            }
            connections.push((attacker, connection, streams));
        }
        for (_, connection, streams) in connections {
            let (code, reason) = closed(&connection).await;
            assert!(code == 400 || code == 408, "{code} {reason}");
            for stream in streams {
                drop(stream.await);
            }
        }
    };
    Box::pin(arena.survives("large frames before the proof", attack)).await;
}
