//! Endpoints that do not keep to the rules, a real node that they are let loose on, and an honest one beside it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use can_sync::testing::clock::Clock;
use can_sync::testing::identity::{LibraryKeys, NetworkKeys};
use can_sync::testing::library::{Libraries, Library};
use can_sync::testing::net::SESSION_ALPN as ALPN;
use can_sync::testing::peer::establish::{ConnectionMemory, Established, Introduction, Meeting};
use can_sync::testing::record::{AssetMeta, AssetRecord, ContentHash};
use can_sync::testing::store::StoreStatus;
use can_sync::testing::wire::proto::{ContentHeader, Frame, Offer, Want, WireRecord, frame};
use can_sync::testing::wire::{self, WireError};
use iroh::endpoint::{Connection, ConnectionError, SendStream};
use iroh::{Endpoint, EndpointAddr, RelayMode, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::timeout;

use super::daemon::{Daemon, embedded_yaml};
use super::nodes::{DEADLINE, PASSPHRASE, TestNode, eventually};

/// By how much the memory of a node may grow under attack.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// The victim's name, which no stranger may learn.
pub(crate) const NAME: &str = "a-name-nobody-guesses";

/// The victim in a process of its own, and an honest node that goes on using it.
pub(crate) struct Arena {
    pub(crate) victim: Daemon,
    honest: TestNode,
    /// Hashes that the victim is to have: its own, and what the honest node gave it.
    expected: Vec<String>,
    /// Whether what was proved of a content that never came may be left for whoever has the rest.
    pub(crate) keeps_parts: bool,
}

impl Arena {
    pub(crate) async fn new() -> Self {
        let victim = Daemon::start(&embedded_yaml(&format!("name: {NAME}")));
        let honest = TestNode::start("honest", |_| {}).await;
        let answer = honest.post("/peers", serde_json::json!({ "ticket": victim.started["ticket"] })).await;
        assert_eq!(answer["status"], "success", "{answer}");
        let mut arena = Self { victim, honest, expected: Vec::new(), keeps_parts: false };
        for n in 0..20 {
            arena.honest_asset(n * 7_000).await;
        }
        arena
    }

    pub(crate) fn addr(&self) -> EndpointAddr {
        let ticket: EndpointTicket =
            self.victim.started["ticket"].as_str().expect("a ticket").parse().expect("a ticket");
        ticket.endpoint_addr().clone()
    }

    /// What the victim holds, for those who want to offer it something else under the same name.
    pub(crate) fn held(&self) -> ContentHash {
        self.expected[0].parse().expect("a hash")
    }

    /// An asset of 200,000 bytes that the victim holds.
    pub(crate) async fn large(&mut self) -> ContentHash {
        self.honest_asset(200_000).await;
        self.expected.last().expect("one").parse().expect("a hash")
    }

    /// Something new at the honest node arrives at the victim.
    async fn honest_asset(&mut self, len: usize) {
        let mut content = vec![0; len];
        blake3::Hasher::new().update(&rand::random::<[u8; 16]>()).finalize_xof().fill(&mut content);
        let hash = self.honest.ingest(content, &[("tags", "honest")]).await;
        eventually("an honest asset arrives", async || {
            let url = self.victim.store_url(&format!("/asset/{hash}/meta"));
            let status = self.victim.http.get(url).send().await.expect("an answer").status();
            status.is_success().then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
        if !self.expected.contains(&hash) {
            self.expected.push(hash);
        }
    }

    /// Lets an attack loose and sees that nothing comes of it: an honest asset arrives meanwhile and another one
    /// afterwards, the store has those and nothing else, memory stays, and no actor that everyone shares crashed. By how much
    /// memory grew, in bytes.
    pub(crate) async fn survives(&mut self, what: &str, attack: impl Future<Output = ()>) -> u64 {
        self.survives_within(what, GROWTH_BYTES_MAX, attack).await
    }

    /// As [`Arena::survives`], where memory may grow by so many bytes.
    pub(crate) async fn survives_within(
        &mut self,
        what: &str,
        growth_max: u64,
        attack: impl Future<Output = ()>,
    ) -> u64 {
        let limit = DEADLINE * 2;
        let before = self.victim.forget_peak();
        let (attacked, ()) = tokio::join!(timeout(limit, attack), self.honest_asset(100_000));
        assert!(attacked.is_ok(), "{what}: still under way after {limit:?}");
        self.honest_asset(1_000).await;
        let grown = self.victim.peak_bytes().saturating_sub(before);
        println!("{what}: memory grew by {} KiB", grown >> 10);
        assert!(grown < growth_max, "{what}: memory grew by {} MiB", grown >> 20);
        self.untouched(what).await;
        grown
    }

    /// As [`Arena::survives`], for an attack from inside a valid session of a member of its own.
    pub(crate) async fn survives_inside(&mut self, what: &str, attack: impl AsyncFnOnce(&mut Session)) {
        let attacker = Attacker::member(self).await;
        let mut session = attacker.session().await;
        self.survives(what, attack(&mut session)).await;
    }

    async fn untouched(&mut self, what: &str) {
        self.expected.sort();
        let held: Vec<String> = self
            .victim
            .assets()
            .await
            .iter()
            .map(|asset| asset["hash"].as_str().expect("a hash").to_owned())
            .collect();
        assert_eq!(held, self.expected, "{what}");
        let places = if self.keeps_parts { &["store/tmp"][..] } else { &["partial", "store/tmp"] };
        for place in places {
            eventually("nothing is left lying about", async || {
                let left =
                    std::fs::read_dir(self.victim.data_dir().join(place)).expect("it is there").count();
                (left == 0).then_some(()).ok_or_else(|| format!("{what}: {left} in {place}"))
            })
            .await;
        }
        assert!(self.victim.runs(), "{what}");
        let tree = self.victim.get("/actors").await;
        for child in tree["children"].as_array().expect("children") {
            assert_eq!(child["restarts"], 0, "{what}: {tree}");
            for peer in child["children"].as_array().into_iter().flatten() {
                assert_eq!(peer["restarts"], 0, "{what}: {tree}");
            }
        }
        assert!(!self.victim.stderr().contains("panicked"), "{what}");
    }
}

/// What everyone with the passphrase of the tests knows. Derived once: that takes its time on purpose.
pub(crate) fn member_keys() -> LibraryKeys {
    static KEYS: OnceLock<LibraryKeys> = OnceLock::new();
    KEYS.get_or_init(|| NetworkKeys::derive(&PASSPHRASE.into()).mirror().clone()).clone()
}

/// Keys of another network.
pub(crate) fn stranger_keys() -> LibraryKeys {
    static KEYS: OnceLock<LibraryKeys> = OnceLock::new();
    KEYS.get_or_init(|| NetworkKeys::derive(&"another network altogether".into()).mirror().clone()).clone()
}

/// An endpoint with keys, and what it says of itself.
pub(crate) struct Attacker {
    pub(crate) endpoint: Endpoint,
    library: Arc<Library>,
    victim: EndpointAddr,
}

impl Attacker {
    /// One that knows the passphrase.
    pub(crate) async fn member(arena: &Arena) -> Self {
        Self::with(arena.addr(), member_keys()).await
    }

    /// One that knows the passphrase of the tests, for any node.
    pub(crate) async fn member_of(node: &TestNode) -> Self {
        let ticket: EndpointTicket = node.ticket().parse().expect("a ticket");
        Self::with(ticket.endpoint_addr().clone(), member_keys()).await
    }

    pub(crate) async fn with(victim: EndpointAddr, keys: LibraryKeys) -> Self {
        let bind = "127.0.0.1:0".parse().expect("an address");
        let endpoint =
            can_sync::testing::net::endpoint::bind(SecretKey::generate(), bind, RelayMode::Disabled).await;
        Self { endpoint: endpoint.expect("an endpoint"), library: Arc::new(Library::new(keys)), victim }
    }

    /// One that says that it keeps records of folders.
    pub(crate) fn keeping_entries(self) -> Self {
        self.library.set_store_status(StoreStatus { keeps_entries: true, ..StoreStatus::default() });
        self
    }

    /// The same endpoint with other keys.
    pub(crate) fn learns(&mut self) {
        self.library = Arc::new(Library::new(member_keys()));
    }

    pub(crate) async fn connect(&self) -> Connection {
        let connected = timeout(DEADLINE, self.endpoint.connect(self.victim.clone(), ALPN)).await;
        connected.expect("in time").expect("a connection")
    }

    pub(crate) async fn connect_with(&self, alpn: &[u8]) -> Result<Connection, String> {
        let connected = timeout(DEADLINE, self.endpoint.connect(self.victim.clone(), alpn)).await;
        connected.expect("in time").map_err(|error| format!("{error:#}"))
    }

    /// Proves itself on a connection.
    pub(crate) async fn establish(&self, connection: &Connection) -> Result<Established, String> {
        let introduction = Introduction {
            name: "hostile".into(),
            ticket: watch::Sender::new(String::new()).subscribe(),
            clock: Clock::system(),
            boot_id: 1,
        };
        let meeting = Meeting {
            connection,
            own_id: self.endpoint.id(),
            libraries: &Libraries::of(Arc::clone(&self.library)),
            introduction: &introduction,
            memory: &ConnectionMemory::default(),
            offers_mirror: true,
            within: DEADLINE,
        };
        meeting.open().await.map_err(|error| error.to_string())
    }

    /// Comes back after it was shut out, and is not heard.
    pub(crate) async fn is_left_alone(&self) {
        let connection = self.connect().await;
        assert!(self.establish(&connection).await.is_err(), "it is back at once");
        assert_eq!(closed(&connection).await.0, 503);
    }

    /// A valid session.
    pub(crate) async fn session(&self) -> Session {
        let connection = self.connect().await;
        let established = self.establish(&connection).await.expect("a session");
        can_sync::testing::net::endpoint::open_up(&connection, 200);
        Session { connection, established }
    }
}

/// A valid session, from whose inside one can break the rules.
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) established: Established,
}

impl Session {
    /// Sends a frame. That it cannot be sent any more is for [`Session::closed`] to explain.
    pub(crate) async fn send(&mut self, kind: frame::Kind) -> bool {
        let sent = timeout(DEADLINE, wire::write_frame(&mut self.established.send, kind)).await;
        sent.expect("in time").is_ok()
    }

    /// The mirror's id on this connection.
    pub(crate) fn library(&self) -> bytes::Bytes {
        self.established.shared[0].blinded.clone()
    }

    pub(crate) async fn offer(&mut self, records: Vec<WireRecord>) -> bool {
        let library = self.library();
        self.send(frame::Kind::Offer(Offer { library, records, ..Offer::default() })).await
    }

    /// The next frame.
    pub(crate) async fn read(&mut self) -> Result<frame::Kind, WireError> {
        timeout(DEADLINE, wire::read_frame(&mut self.established.receive)).await.expect("a frame in time")
    }

    /// Reads until there is a frame of the wanted kind.
    pub(crate) async fn wait_for<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(frame::Kind) -> Option<T>,
    ) -> T {
        loop {
            match self.read().await {
                Ok(kind) => {
                    if let Some(found) = pick(kind) {
                        return found;
                    }
                }
                Err(error) => panic!("{what}: {error}; {:?}", self.connection.close_reason()),
            }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "anything else is passed over")]
    pub(crate) async fn wanted(&mut self) -> Want {
        self.wait_for("a Want", |kind| match kind {
            frame::Kind::Want(want) => Some(want),
            _ => None,
        })
        .await
    }

    /// The victim's refusal of one asset; the session goes on.
    #[expect(clippy::wildcard_enum_match_arm, reason = "anything else is passed over")]
    pub(crate) async fn refused(&mut self, hash: ContentHash) -> String {
        self.wait_for("a refusal", |kind| match kind {
            frame::Kind::Error(error) if error.hash.as_deref() == Some(&hash.0[..]) => Some(error.message),
            _ => None,
        })
        .await
    }

    /// How long the victim has one asset wait, in milliseconds; the session goes on.
    #[expect(clippy::wildcard_enum_match_arm, reason = "anything else is passed over")]
    pub(crate) async fn deferred(&mut self, hash: ContentHash) -> u64 {
        self.wait_for("a deferral", |kind| match kind {
            frame::Kind::Later(later) => later
                .deferrals
                .into_iter()
                .find(|deferral| deferral.hash == hash.0[..])
                .map(|deferral| deferral.wait_ms),
            _ => None,
        })
        .await
    }

    pub(crate) async fn content_stream(&self) -> SendStream {
        timeout(DEADLINE, self.connection.open_uni()).await.expect("in time").expect("a stream")
    }

    pub(crate) async fn closed(&self) -> (u32, String) {
        closed(&self.connection).await
    }

    /// Closed for breaking the rules, with a reason that says this.
    pub(crate) async fn closed_for(&self, reason: &str) {
        let (code, said) = self.closed().await;
        assert_eq!(code, 400, "{said}");
        assert!(said.contains(reason), "'{reason}' in: {said}");
    }
}

/// Waits until the victim closes a connection: its code and reason.
pub(crate) async fn closed(connection: &Connection) -> (u32, String) {
    let reason = timeout(DEADLINE, connection.closed()).await.expect("closed in time");
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other end is wrong")]
    match reason {
        ConnectionError::ApplicationClosed(close) => (
            u32::try_from(close.error_code.into_inner()).expect("a code"),
            String::from_utf8_lossy(&close.reason).into_owned(),
        ),
        other => panic!("not closed by the victim: {other}"),
    }
}

/// A frame with its length.
pub(crate) fn framed(kind: frame::Kind) -> Bytes {
    wire::encode(&Frame { kind: Some(kind) })
}

/// The header before a content, as an honest sender writes it.
pub(crate) fn header(request: u64, hash: ContentHash, length: u64) -> ContentHeader {
    ContentHeader {
        request,
        hash: hash.0.to_vec().into(),
        offset: 0,
        length,
        total: length,
        ..ContentHeader::default()
    }
}

pub(crate) fn hash_of(content: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(content).into())
}

/// A record that is in order.
pub(crate) fn record(hash: ContentHash, size: u64) -> WireRecord {
    let meta = AssetMeta {
        mime_type: "text/plain".into(),
        created_at_ms: 1_700_000_000_000,
        ..AssetMeta::default()
    };
    WireRecord::from(&AssetRecord::new(hash, size, None, meta))
}

/// Records that are in order, of assets that nobody has.
pub(crate) fn records(count: usize, size: u64) -> Vec<WireRecord> {
    (0..count).map(|_| record(ContentHash(rand::random()), size)).collect()
}
