//! Bulk connections by hand, from either end.

use can_sync::testing::net::BULK_ALPN;
use can_sync::testing::net::auth::{Binding, BulkProof, BulkSecret, Role};
use iroh::endpoint::Connection;
use iroh::{Endpoint, EndpointAddr};
use tokio::time::timeout;

use super::nodes::DEADLINE;

/// Connects on the ALPN of bulk connections.
pub(crate) async fn dial(endpoint: &Endpoint, to: EndpointAddr) -> Connection {
    let connected = timeout(DEADLINE, Box::pin(endpoint.connect(to, BULK_ALPN))).await;
    connected.expect("in time").expect("a connection")
}

/// The proof that an honest opener shows on a connection.
pub(crate) fn proof(endpoint: &Endpoint, connection: &Connection, secret: &BulkSecret) -> BulkProof {
    proof_of(endpoint, connection, secret, secret.role(), secret.role())
}

/// A proof of any direction and prover.
pub(crate) fn proof_of(
    endpoint: &Endpoint,
    connection: &Connection,
    secret: &BulkSecret,
    sender: Role,
    prover: Role,
) -> BulkProof {
    let binding = Binding::of_bulk(connection, endpoint.id()).expect("keying material");
    secret.prove(&binding, sender, prover)
}

/// Shows a proof; what the other side shows, if it does.
pub(crate) async fn show(connection: &Connection, proof: &[u8]) -> Option<BulkProof> {
    let (mut send, mut receive) = timeout(DEADLINE, connection.open_bi()).await.expect("in time").ok()?;
    send.write_all(proof).await.ok()?;
    let _ = send.finish();
    let mut theirs = BulkProof::default();
    timeout(DEADLINE, receive.read_exact(&mut theirs)).await.expect("in time").ok()?;
    Some(theirs)
}

/// A bulk connection on which both ends proved themselves.
pub(crate) async fn open(endpoint: &Endpoint, to: EndpointAddr, secret: &BulkSecret) -> Connection {
    let connection = dial(endpoint, to).await;
    let theirs = show(&connection, &proof(endpoint, &connection, secret)).await.expect("a proof");
    let binding = Binding::of_bulk(&connection, endpoint.id()).expect("keying material");
    assert!(secret.is_proved(&binding, secret.role(), &theirs), "the other end proves itself");
    connection
}

/// Takes in a bulk connection as an honest receiver does.
pub(crate) async fn answer(endpoint: &Endpoint, connection: &Connection, secret: &BulkSecret) {
    assert_eq!(connection.alpn(), BULK_ALPN);
    let (mut send, mut receive) =
        timeout(DEADLINE, connection.accept_bi()).await.expect("in time").expect("a stream");
    let mut theirs = BulkProof::default();
    timeout(DEADLINE, receive.read_exact(&mut theirs)).await.expect("in time").expect("a proof");
    let binding = Binding::of_bulk(connection, endpoint.id()).expect("keying material");
    let sender = secret.role().other();
    assert!(secret.is_proved(&binding, sender, &theirs), "the opener proves itself");
    send.write_all(&secret.prove(&binding, sender, secret.role())).await.expect("sent");
    send.finish().expect("sent");
    can_sync::testing::net::endpoint::open_up_bulk(connection, 32);
}
