//! What tests and benches outside of this crate may see of it: not a public interface. Nothing else of the crate is public but
//! the command line, so that the compiler finds what nobody uses.

pub mod actor {
    pub use crate::actor::{ServiceCell, ServiceRef};
    pub mod mailbox {
        pub use crate::actor::mailbox::{post, take};
    }
    pub mod policy {
        pub use crate::actor::policy::{ChildKind, policy};
    }
    pub mod restart {
        pub use crate::actor::restart::ExitKind;
    }
    pub mod service_ref {
        pub use crate::actor::service_ref::ServiceError;
    }
    pub mod status {
        pub use crate::actor::status::{ASK_CHILD_LIMIT, ActorDetail, ActorState, ActorStatus, ask};
    }
    pub mod supervisor {
        pub use crate::actor::supervisor::{
            Child, RootArgs, RootMsg, ShutdownOutcome, StopReason, shutdown_limit, start,
        };
    }
    pub mod watch {
        pub use crate::actor::watch::BEAT;
    }
}
pub mod api {
    pub use crate::api::{AgentView, HttpActor, HttpArgs, HttpMsg};
    pub mod actor {
        pub use crate::api::actor::DRAIN_LIMIT;
    }
    pub mod events {
        pub use crate::api::events::STREAMS_MAX;
    }
    pub mod metrics {
        pub use crate::api::metrics::endpoint_registry;
    }
    pub mod proxy {
        pub use crate::api::proxy::StoreProxy;
    }
    pub mod view {
        pub use crate::api::view::StoreMode;
    }
}
pub mod clock {
    pub use crate::clock::{Clock, Moment, now_ms};
}
pub mod config {
    pub use crate::config::{
        BucketUrl, Config, ConfiguredFolder, ContentBucket, Copies, HoldFilter, HoldSetting, HttpUrl,
        Origins, RelaySetting, ServiceUrl, SettingSources, SlotFormat,
    };
}
pub mod discovery {
    pub mod address_book {
        pub use crate::discovery::address_book::{AddressBook, RememberedPeer};
    }
    pub mod announcement {
        pub use crate::discovery::announcement::{Announcement, Signed, verify};
    }
    pub mod candidates {
        pub use crate::discovery::candidates::Candidates;
    }
    pub mod channel {
        pub use crate::discovery::channel::{Channel, ChannelReport, ChannelSet, ChannelState, Channels};
    }
    pub mod crawl {
        pub use crate::discovery::crawl::{Crawl, CrawlLimits, Crawled, run};
    }
    pub mod directory {
        pub use crate::discovery::directory::gate::SignatureGate;
        pub use crate::discovery::directory::{
            AgentListing, Directory, DirectoryEffect, FRESH_FOR, SWEEP_EVERY, SharedDirectory,
        };
    }
    pub mod gossip {
        pub use crate::discovery::gossip::{
            GossipActor, GossipArgs, GossipMsg, NodeRun, PresenceProbe, start, topic_of,
        };
    }
    pub mod hints {
        pub use crate::discovery::hints::Hints;
    }
    pub mod list {
        pub use crate::discovery::list::{LookupError, age, key_of, lookup, pack, unpack};
    }
    pub mod list_peers {
        pub use crate::discovery::list_peers::{
            ALPN, ListError, ListPeersService, Listed, ListingConnection, ListingSource, PAGE_BYTES_MAX,
            PAGE_ENTRIES_MAX, list_all, probe,
        };
    }
    pub mod mdns {
        pub use crate::discovery::mdns::Mdns;
    }
    pub mod network {
        pub use crate::discovery::network::{
            Connect, KeyLookup, NetworkError, NetworkSettings, Transport, Transports, now_us,
        };
    }
    pub mod pace {
        pub use crate::discovery::pace::{JoinPace, announce_period, counts_gap, jittered, news_gap};
    }
    pub mod rendezvous {
        pub use crate::discovery::rendezvous::{RendezvousActor, RendezvousArgs, RendezvousMsg};
    }
    pub mod slot {
        pub use crate::discovery::slot::{SLOTS, Slot, SlotEntry, SlotKeys, SlotReading};
        pub mod pace {
            pub use crate::discovery::slot::pace::{Timing, next_read, publishes};
        }
        pub mod packet {
            pub use crate::discovery::slot::packet::sign;
        }
    }
}
pub mod entry {
    pub use crate::entry::{
        EntryAuthor, EntryDigest, EntryFile, EntryHash, EntryPath, EntryRecord, FolderAccess,
        FolderDefinition, FolderId, FolderRecord, SeenVersion, merge,
    };
}
pub mod events {
    pub use crate::events::{EventLog, LoggedEvent, NodeEvent, PeerProgress, SyncProgress};
}
pub mod feed {
    pub use crate::feed::{CanServiceActor, CanServiceArgs, CanServiceMsg};
}
pub mod folder {
    pub use crate::folder::actor::FolderActor;
    pub use crate::folder::supervisor::SpawnFolder;
}
pub mod fuzz;
pub mod http {
    pub use crate::http::SharedListener;
    pub use crate::http::serve;
}
pub mod identity {
    pub use crate::identity::{Key, LibraryKeys, NetworkKeys, PresenceKeys};
}
pub mod library {
    pub use crate::library::{Libraries, Library, SharedLibrary};
    pub mod registry {
        pub use crate::library::registry::{Kept, Registry};
    }
    pub mod revocation {
        pub use crate::library::revocation::SignedRevocations;
    }
    pub mod sharing {
        pub use crate::library::sharing::Sharing;
    }
    pub mod ticket {
        pub use crate::library::ticket::{LibraryId, Ticket, TicketSerial};
    }
}
pub mod net {
    pub use crate::net::{BULK_ALPN, LIST_PEERS_ALPN, SESSION_ALPN};
    pub mod auth {
        pub use crate::net::auth::{
            AUTH_BYTES_MAX, Binding, BulkProof, BulkSecret, Credential, Domain, Handshake, HandshakeStep,
            LIST_PEERS, OwnProofs, ProvedSecret, Role, SESSION, Transcript,
        };
    }
    pub mod bulk {
        pub use crate::net::bulk::{BulkOutgoing, BulkSessions, InboundWindow};
    }
    pub mod close {
        pub use crate::net::close::{
            BUSY, DENIED, DUPLICATE, NOT_SHARED, SHUTDOWN, TIMEOUT, UNAPPROVED, VIOLATION, is_close,
        };
    }
    pub mod endpoint {
        pub use crate::net::endpoint::{
            bind, bind_behind, connect, open_gossip, open_up, open_up_bulk, strangers,
            strangers_within_machine,
        };
    }
    pub mod gate {
        pub use crate::net::gate::Gate;
    }
    pub mod handshakes {
        pub use crate::net::handshakes::{RemoteNet, SharedHandshakes};
    }
}
pub mod node {
    pub use crate::node::{ActorStarts, Node, Shutdown, StartOutput};
    pub mod dump {
        pub use crate::node::dump::{render, render_channels};
    }
    pub mod signals {
        pub use crate::node::signals::{SignalActor, SignalArgs, SignalKind, SignalMsg, Signals};
    }
}
pub mod peer {
    pub mod actor {
        pub use crate::peer::actor::{PeerActor, PeerState};
    }
    pub mod args {
        pub use crate::peer::args::{
            DiscoveryLinks, FirstPeers, PeerArgs, PeerLimits, PeersArgs, PeersLimits, Replica, SpawnPeer,
            spawn_peer,
        };
    }
    pub mod deferrals {
        pub use crate::peer::deferrals::{Deferrals, Note};
    }
    pub mod delete_guard {
        pub use crate::peer::delete_guard::DeleteGuard;
    }
    pub mod establish {
        pub use crate::peer::establish::{
            ConnectionMemory, EstablishError, Established, Introduction, Meeting, summary_to_wire,
        };
    }
    pub mod held {
        pub use crate::peer::held::SessionMemory;
    }
    pub mod messages {
        pub use crate::peer::messages::{PeerMsg, PeersMsg};
    }
    pub mod places {
        pub use crate::peer::places::{Class, PlaceLimits};
    }
    pub mod report {
        pub use crate::peer::report::{
            ConnectionState, DropsProgress, PeerReport, PeersReport, Rates, SourceReport, SourceState,
            SyncReport, SyncState, TransferDirection, TransferReport, WhyReport,
        };
    }
    pub mod roster {
        pub use crate::peer::roster::{ConnectionRuling, DialLimits, LinkState, Roster};
    }
    pub mod session {
        pub use crate::peer::session::{SessionStatus, WaitingCounts};
    }
    pub mod supervisor {
        pub use crate::peer::supervisor::PeersActor;
    }
}
pub mod reconcile {
    pub use crate::reconcile::{EngineLimits, Initiator, Responder, Summary};
    pub mod engine {
        pub use crate::reconcile::engine::{EngineLimits, Initiator};
    }
    pub mod tree {
        pub use crate::reconcile::tree::{Item, ItemTree};
    }
}
pub mod record {
    pub use crate::record::{
        AssetMeta, AssetRecord, ContentHash, Hlc, LibraryId, META_BYTES_MAX, NAMES_MAX, NameOutcome,
        RecordId, WriterId,
    };
}
pub mod store {
    pub use crate::store::{
        ContentReader, ContentStore, FeedEntry, FeedPage, HashingFile, Holding, IncomingAsset,
        IncomingContent, ItemOutcome, ReceivedFile, Redating, StoreError, StoreEvent, StoreId, StoreRef,
        StoreStatus, StoredRecord, WaitingUploads,
    };
    pub mod bucket {
        pub use crate::store::bucket::{BucketConfig, BucketPatience, SnapshotPace};
    }
    pub mod can_http {
        pub use crate::store::can_http::CanHttpStore;
    }
    pub mod embedded {
        pub use crate::store::embedded::{
            DamageEvent, EmbeddedConfig, EmbeddedStore, IngestFields, Ingested, ListFilter, ListPage,
            ListQuery, MetaPatch, Order, Purged,
        };
    }
    pub mod entries {
        pub use crate::store::entries::{
            EntryOutcome, EntryPage, EntryPut, EntryQuery, FolderClaim, StoredEntry,
        };
    }
    pub mod groups {
        pub use crate::store::groups::{
            GROUP_BYTES, GroupHasher, GroupSum, check_proof, group_count, groups_of, proof_nodes, subtree,
        };
    }
    pub mod hashing_file {
        pub use crate::store::hashing_file::HashingFile;
    }
    pub mod promises {
        pub use crate::store::promises::{
            CopyStanding, DROP_WITHIN, DropAnswer, DropTerms, KEPT_FOR, MarkAnswer, PromiseAnswer,
        };
    }
    pub mod scrub {
        pub use crate::store::scrub::{ScrubFinding, ScrubReport, ScrubResult, ScrubSettings};
    }
    pub mod server {
        pub use crate::store::server::{StoreServerActor, StoreServerArgs, StoreServerMsg};
    }
    pub mod service {
        pub use crate::store::service::{BASE_PATH, ServiceSettings, router};
    }
}
pub mod text {
    pub use crate::text::folded;
}
pub mod transfer {
    pub mod active {
        pub use crate::transfer::active::ActiveTransfers;
    }
    pub mod pace {
        pub use crate::transfer::pace::Pace;
    }
    pub mod partial {
        pub use crate::transfer::partial::Partials;
    }
    pub mod receive {
        pub use crate::transfer::receive::Results;
    }
    pub mod schedule {
        pub use crate::transfer::schedule::{FetchFailure, PART_BYTES, ScheduleLimits, SessionId, WantKey};
    }
}
pub mod wire {
    pub use crate::wire::{
        FRAME_BYTES_MAX, WireError, encode, read_frame, read_frame_of, read_header, read_message,
        write_frame, write_message,
    };
    pub mod decode {
        pub use crate::wire::decode::decode;
    }
    pub use crate::wire::proto;
}
