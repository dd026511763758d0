//! can-sync: peer-to-peer replication of content-addressed assets between machines that share a passphrase.
//!
//! The library behind two programs: `can-sync`, the agent, and `can-service`, the store alone. How to run them is in the
//! README; this is about how they are made.
//!
//! # The flow
//!
//! An asset's way from one store into another, by the modules that it passes:
//!
//! ```text
//!  another agent ◄──── discovery: who is there, and where            this agent's store
//!       │                                                                    ▲
//!       ▼                                                                    │
//!     peer ─────────► reconcile ─────────► transfer ─────────────────────► store
//!     who it is,      what one has and     who is asked for what,          SQLite and files,
//!     what it says    the other lacks      bytes in, hash checked          or another CAN Service
//!       ▲                  ▲                                                 │
//!       │                  │                                                 │
//!       └───────────── library ◄──────────────── feed ◄──────────────────────┘
//!                      the index of all records       every change, in sequence
//! ```
//!
//! [`record::AssetRecord`] is the one type that all of them share: what is replicated about an asset, and the rule which of
//! two versions wins. Records are compared, offered and merged; content follows on streams of its own, and where there is much, on a
//! connection of its own for each direction (`net::bulk`).
//!
//! # The tree
//!
//! ```text
//! RootSupervisor        actor       starts, restarts and stops the others
//! ├── CanServiceActor   feed        the store and its feed
//! ├── RendezvousActor   discovery   rendezvous slots on relays and in the DHT
//! ├── GossipActor       discovery   who is there: announcements, the local network
//! ├── LibraryActor      library     libraries, tickets, who is let in
//! ├── StoreServerActor  store       the embedded CAN Service's HTTP server
//! ├── ScrubActor        store       has the embedded store scrubbed
//! ├── FoldersActor      folder      which directories are bound to which folders
//! │   └── FolderActor ×N  folder    one folder and its directory
//! ├── PeersActor        peer        who to connect to, and which peer is asked for what
//! │   └── PeerActor ×N  peer        one connection: session, comparison, transfers
//! ├── HttpActor         api         the agent's API and page
//! └── SignalActor       node        signals of the process
//! ```
//!
//! Actors decide and never carry content: that flows between QUIC streams, tasks and the store, in bounded buffers. What
//! has to outlive a crash is no actor: keys, store, library, endpoint and sockets are made at boot ([`node`]) and handed to the
//! actors. `actors.md` describes every actor with its messages, limits and what a restart loses.
//!
//! # The layers
//!
//! A module imports only what stands on lower lines of this table. Commands go down by message type; news goes up through a
//! port (a closure, a channel, a trait of the lower room) that [`node`] connects, so that a lower room never names an actor of
//! a higher one. A test (`tests/it/layers.rs`) enforces both this and the next section.
//!
//! ```text
//! cli testing                                  what a person types; what tests may see
//! node                                         boot: puts everything together
//! api feed                                     the agent's HTTP API and page; the store's changes
//! peer folder                                  sessions with other agents; directories on this machine
//! transfer                                     who is asked for what, bytes in and out
//! library                                      sets of assets, tickets, who may do what
//! discovery                                    who is there, and where
//! store net                                    where assets live; the endpoint and proofs
//! actor http wire reconcile                    supervision kit; HTTP servers; frames; set difference
//! entry                                        what a folder has at a path
//! record events clock text identity config qr stderr seeded  the ground
//! disk                                         what file systems cannot do
//! ```
//!
//! # The words
//!
//! What the code means by words that other programs use otherwise, or not at all.
//!
//! | word | meaning |
//! |---|---|
//! | agent, node, peer | the program on the network; the same with its store, as its user sees it; the one at the other end of a connection |
//! | asset | a content with what is said about it; named by the SHA-256 of the content |
//! | record, version | what is said about an asset, of any size; one state of it, of which the later one wins |
//! | content, group | the bytes of an asset; 64 KiB of them, which are checked by themselves |
//! | held, wanted | whose content is in the store here; whose record is, and whose content is to come |
//! | library, mirror | a set of assets that its members keep alike; the one of the passphrase, which has all |
//! | lane | one library in the session of a connection |
//! | session | what two agents do on a connection, once each has proved what it knows |
//! | source | a session that can deliver a content |
//! | part, partial | a range of a large content that is asked for at once; a content of which parts are here |
//! | roster, place | the peers that are known, with when to dial them; the right to one of this node's connections |
//! | slot | a place in pkarr that all who know the passphrase can compute |
//! | hint | an address that somebody said, and nobody proved |
//! | directory | in `discovery`, the list of all agents that announced themselves; in `folder`, one of the file system's |
//! | folder, entry | a name for directories on several machines; what a folder has at a path |
//! | brake | what holds many removals back until somebody says that they are meant |
//!
//! # What is pure
//!
//! Rules are functions of their arguments, time included, with neither runtime nor I/O: [`record`], [`discovery::slot`],
//! [`discovery::announcement`], [`discovery::directory`], [`discovery::pace`], [`peer::session`], [`peer::wishes`],
//! [`peer::roster`], [`peer::doubles`], [`peer::letting_go`], [`store::promises`], [`peer::deferrals::notes`], [`clock::evidence`], [`entry`], [`folder::answers`], [`folder::brake`],
//! [`folder::plan`](mod@folder::plan), [`folder::sight`], [`reconcile`], [`store::groups`], [`transfer::fetching`], [`transfer::schedule`], [`actor::policy`], [`actor::restart`], [`wire::decode`]. Actors perform what these decide, so that
//! each rule can be tested without a socket.

mod actor;
mod api;
pub mod cli;
mod clock;
mod config;
mod discovery;
mod disk;
mod entry;
mod events;
mod feed;
mod folder;
mod http;
mod identity;
mod library;
mod net;
mod node;
mod peer;
mod qr;
mod reconcile;
mod record;
#[cfg(test)]
mod seeded;
pub mod stderr;
mod store;
#[doc(hidden)]
pub mod testing;
mod text;
mod transfer;
mod wire;
