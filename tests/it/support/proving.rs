//! The first frames of a stream by hand, from either end, for those who break off or go on otherwise than an honest endpoint.

use can_sync::testing::identity::Key;
use can_sync::testing::net::auth::{
    AUTH_BYTES_MAX, Binding, Credential, Domain, Handshake, HandshakeStep, OwnProofs, ProvedSecret, Role,
    Transcript,
};
use can_sync::testing::wire::proto::{Auth, frame};
use can_sync::testing::wire::{self, WireError};
use iroh::EndpointId;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::time::timeout;

use super::nodes::DEADLINE;

/// One end of a stream on which both have said `Hello`.
pub(crate) struct Talk {
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    handshake: Handshake,
}

impl Talk {
    /// Opens a stream.
    pub(crate) async fn open(
        connection: &Connection,
        own_id: EndpointId,
        domain: &'static Domain,
    ) -> Result<Self, WireError> {
        let binding = Binding::of(connection, own_id, domain).expect("keying material");
        let (mut handshake, hello) = Handshake::open(domain, binding, rand::random());
        let streams = timeout(DEADLINE, connection.open_bi()).await.expect("in time");
        let (mut send, mut receive) = streams.map_err(|e| WireError::Broken(e.to_string()))?;
        wire::write_frame(&mut send, hello).await?;
        let hello = read(&mut receive).await?;
        handshake.handle(hello, &OwnProofs::default()).expect("a Hello");
        Ok(Self { send, receive, handshake })
    }

    /// Waits for a stream; `keys` are what the other side may prove.
    pub(crate) async fn accept(
        connection: &Connection,
        own_id: EndpointId,
        domain: &'static Domain,
        keys: Vec<Key>,
    ) -> Result<Self, WireError> {
        let binding = Binding::of(connection, own_id, domain).expect("keying material");
        let mut handshake = Handshake::answer(domain, binding, rand::random(), keys);
        let streams = timeout(DEADLINE, connection.accept_bi()).await.expect("in time");
        let (mut send, mut receive) = streams.map_err(|e| WireError::Broken(e.to_string()))?;
        let hello = read(&mut receive).await?;
        let step = handshake.handle(hello, &OwnProofs::default()).expect("a Hello");
        let HandshakeStep::Send(hello) = step else { panic!("{step:?}") };
        wire::write_frame(&mut send, hello).await?;
        Ok(Self { send, receive, handshake })
    }

    pub(crate) fn transcript(&self) -> Transcript {
        self.handshake.transcript().expect("both have said Hello").clone()
    }

    pub(crate) fn role(&self) -> Role {
        self.handshake.role()
    }

    /// Proves to know these.
    pub(crate) async fn prove(&mut self, keys: &[Key]) -> Result<(), WireError> {
        self.show(keys.iter().map(|key| Credential { key: key.clone(), ticket: None }).collect()).await
    }

    /// As an honest endpoint does.
    pub(crate) async fn show(&mut self, credentials: Vec<Credential>) -> Result<(), WireError> {
        let noise = |bytes: &mut [u8]| rand::fill(bytes);
        let auth = self.handshake.show(credentials, noise, &mut OwnProofs::default()).expect("our turn");
        wire::write_frame(&mut self.send, auth).await
    }

    /// Sends any frame.
    pub(crate) async fn say(&mut self, kind: frame::Kind) -> Result<(), WireError> {
        wire::write_frame(&mut self.send, kind).await
    }

    /// The next frame.
    pub(crate) async fn hear(&mut self) -> Result<frame::Kind, WireError> {
        read(&mut self.receive).await
    }

    /// What the other side shows, as it came.
    pub(crate) async fn hear_auth(&mut self) -> Result<Auth, WireError> {
        match self.hear().await? {
            frame::Kind::Auth(auth) => {
                let taken = self.handshake.handle(frame::Kind::Auth(auth.clone()), &OwnProofs::default());
                assert!(matches!(taken, Ok(HandshakeStep::Judge(_))), "{taken:?}");
                Ok(auth)
            }
            other => panic!("not an Auth: {other:?}"),
        }
    }

    /// What the other side proved.
    pub(crate) async fn hear_proofs(&mut self) -> Result<Vec<ProvedSecret>, WireError> {
        let auth = self.hear().await?;
        match self.handshake.handle(auth, &OwnProofs::default()) {
            Ok(HandshakeStep::Judge(proved)) => Ok(proved),
            other => panic!("{other:?}"),
        }
    }
}

async fn read(receive: &mut RecvStream) -> Result<frame::Kind, WireError> {
    timeout(DEADLINE, wire::read_frame_of(receive, AUTH_BYTES_MAX)).await.expect("a frame in time")
}
