//! Those who do not know the passphrase learn that an endpoint exists, and nothing else.

use can_sync::net::auth::{Binding, EXPORTER_LABEL, Role};
use can_sync::wire;
use can_sync::wire::proto::{Auth, Hello, frame};
use iroh::endpoint::Connection;

use crate::support::hostile::{Arena, Attacker, closed, stranger_keys};

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
            let (own, victim) = (attacker.endpoint.id(), connection.remote_id());
            let mut ekm = [0; 32];
            connection
                .export_keying_material(&mut ekm, EXPORTER_LABEL, &Binding::context(own, victim))
                .expect("keying material");
            let proof = Binding::new(ekm, own, victim).prove(&stranger_keys(), Role::Opener);
            let (mut send, receive) = connection.open_bi().await.unwrap();
            let hello = frame::Kind::Hello(Hello { version: 2, features: Vec::new() });
            wire::write_frame(&mut send, hello).await.unwrap();
            // As many libraries as may be offered, all of them wrong.
            let auth = frame::Kind::Auth(Auth { libraries: vec![proof; 64] });
            wire::write_frame(&mut send, auth).await.unwrap();
            assert_eq!(overheard(&connection, receive).await, b"", "not a single byte");
            assert_eq!(closed(&connection).await, (401, "no shared library".to_owned()));
        }
        // Whoever guesses is refused without being heard, right as the next guess may be.
        attacker.learns();
        let connection = attacker.connect().await;
        assert!(attacker.establish(&connection).await.is_err());
        assert_eq!(closed(&connection).await, (401, "no shared library".to_owned()));
    };
    arena.survives("strangers", attack).await;
    let log = arena.victim.stderr();
    assert!(log.contains("does not know our passphrase"), "{log}");
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
