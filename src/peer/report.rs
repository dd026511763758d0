//! What the peers' side of the node tells about itself: the shapes of `/peers` and `/transfers`, and what `/status` shows of them.

mod drops;

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

pub use self::drops::{DropRefused, DropReport, DropsProgress, DropsReport, PromiseReport};
use crate::clock::rfc3339;
use crate::text::short_id;
use crate::transfer::search::SearchReport;

/// How far a peer is from a working session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// Known, not connected; waits for its next attempt, or for a place.
    #[default]
    Waiting,
    /// Being dialled, or proving who it is.
    Connecting,
    /// Comparing what each side has.
    Reconciling,
    Syncing,
    /// Nothing is missing on either side.
    InSync,
    /// Its session crashed too often; it is left alone until the back-off ends.
    BackingOff,
    /// It knows the passphrase and waits for this machine's user to approve it.
    ApprovalWanted,
    /// This machine waits for the user of the other one to approve it.
    NotApproved,
    /// This machine's user denied it.
    Denied,
    /// The user of the other machine denied this one.
    DeniedThere,
    /// It does not know our passphrase.
    OtherPassphrase,
    /// A ticket does not let one of the two into a library of the other (any more).
    TicketRefused,
}

impl ConnectionState {
    /// Whether somebody decided, or has to decide, that there is no session.
    pub fn is_refused(self) -> bool {
        match self {
            Self::ApprovalWanted
            | Self::NotApproved
            | Self::Denied
            | Self::DeniedThere
            | Self::OtherPassphrase
            | Self::TicketRefused => true,
            Self::Waiting
            | Self::Connecting
            | Self::Reconciling
            | Self::Syncing
            | Self::InSync
            | Self::BackingOff => false,
        }
    }

    pub fn is_connected(self) -> bool {
        matches!(self, Self::Reconciling | Self::Syncing | Self::InSync)
    }
}

/// Content bytes per second, lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Rates {
    /// To the peer.
    pub send: f64,
    /// From the peer.
    pub receive: f64,
}

/// One peer, as in `GET /peers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct PeerReport {
    /// Endpoint id, 64 hexadecimal digits.
    pub endpoint_id: String,
    /// What it calls itself; empty until it said so.
    pub name: String,
    /// `waiting`, `connecting`, `reconciling`, `syncing`, `in_sync` or `backing_off`; where somebody decided that there is no
    /// session, or has to: `approval_wanted` (it waits for this node's user), `not_approved` (this node waits for its user),
    /// `denied` (here), `denied_there`, `other_passphrase` or `ticket_refused`. `last_error` says what to do then.
    #[schema(value_type = String)]
    pub state: ConnectionState,
    /// `direct` or `relay`, where connected.
    pub path: Option<&'static str>,
    /// Address of the path in use.
    pub remote_addr: Option<String>,
    /// Round trip of that path.
    pub rtt_ms: Option<f64>,
    /// Whether contents come from it on a connection of their own now.
    pub bulk_in: bool,
    /// Whether contents go to it on a connection of their own now.
    pub bulk_out: bool,
    /// Live assets that it last said to hold, in a session or in an announcement.
    pub assets: Option<u64>,
    /// Assets that it has, and that are wanted and not here yet.
    pub missing_here: u64,
    /// Bytes of those.
    pub missing_here_bytes: u64,
    /// Assets that were offered to it and that it has not confirmed yet.
    pub missing_there: u64,
    /// Versions of its that are not taken here yet, because they are dated ahead of this machine's clock.
    pub deferred_here: u64,
    /// Versions of this machine's that it does not take yet, because they are dated ahead of its clock.
    pub deferred_there: u64,
    /// Versions of its that are not taken here before a newer list of a library's revoked tickets comes.
    pub held_here: u64,
    /// Versions of this machine's that it does not take before it has a newer list of a library's revoked tickets.
    pub held_there: u64,
    /// Content bytes since the process started.
    pub bytes_sent: u64,
    /// Content bytes since the process started.
    pub bytes_received: u64,
    /// Content bytes per second, lately.
    pub rates: Rates,
    /// Seconds until nothing of what it has is missing at this rate; absent when nothing moves or nothing is missing.
    pub eta_secs: Option<u64>,
    /// Last sign of life: milliseconds since the Unix epoch here, RFC 3339 in JSON.
    #[serde(rename = "last_seen", serialize_with = "serialize_rfc3339")]
    #[schema(value_type = Option<String>)]
    pub last_seen_ms: Option<u64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Discovery channels that led to it; `incoming` when it came by itself.
    pub sources: Vec<&'static str>,
}

// Serde passes the field as it is.
#[expect(clippy::ref_option)]
fn serialize_rfc3339<S: Serializer>(ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    ms.and_then(rfc3339).serialize(serializer)
}

impl PeerReport {
    /// What it is called, and what went wrong last.
    pub fn told(&self) -> String {
        let called = if self.name.is_empty() { short_id(&self.endpoint_id) } else { self.name.clone() };
        match &self.last_error {
            Some(error) => format!("{called}: {error}"),
            None => called,
        }
    }
}

/// How the node as a whole stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncState {
    /// No peer is connected.
    Alone,
    /// Comparing with at least one peer.
    Reconciling,
    Syncing,
    /// Connected, and nothing is missing on either side.
    InSync,
    /// As [`SyncState::InSync`], but for deletions of peers that wait for somebody's decision.
    DeletionsHeld,
    /// As [`SyncState::InSync`], but for versions of this machine that members of a library hold until they have a newer list of
    /// revoked tickets: nobody else may have them.
    VersionsHeld,
    /// The store does not work at the moment, so nothing moves; `reason` says why.
    Paused,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncReport {
    pub state: SyncState,
    /// Why, where the state needs a reason; and why versions wait although nothing is missing.
    pub reason: Option<String>,
    /// Different assets that some peer has and we want and do not have yet.
    pub missing: u64,
    pub missing_bytes: u64,
    /// Live assets whose contents are wanted and not here, whoever has them; those that are on their way are among them where their
    /// records are here already.
    pub absent: u64,
    /// Versions that some peer has and that are not looked at yet: more may be missing.
    pub unseen: u64,
    /// Changes that some peer has not confirmed yet.
    pub missing_there: u64,
    /// Content bytes received per second, lately, from all peers.
    pub rate: f64,
    /// Content bytes sent per second, lately, to all peers.
    pub send_rate: f64,
    /// Assets whose deletion by peers waits for somebody's decision, because they are many.
    pub held_deletions: u64,
    /// Versions here that are dated ahead of our clock.
    pub dated_ahead: u64,
    /// That another machine has our endpoint id, and what to do about it.
    pub copied: Option<String>,
    /// The same of peers.
    pub copied_peers: Vec<String>,
    /// Why versions wait for a clock, and what there is to say of ours.
    pub clock: Option<String>,
    /// Seconds until nothing is missing at this rate; absent when nothing moves or nothing is missing.
    pub eta_secs: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PeersReport {
    pub sync: SyncReport,
    pub peers: Vec<PeerReport>,
    /// The command that lets go of contents, while one runs.
    pub drops: Option<DropsProgress>,
}

impl PeersReport {
    /// Who is not let in, or does not let us in, each with what to do.
    pub fn refusals(&self) -> impl Iterator<Item = String> {
        self.peers.iter().filter(|peer| peer.state.is_refused()).map(PeerReport::told)
    }

    pub fn connected(&self) -> usize {
        self.peers.iter().filter(|peer| peer.state.is_connected()).count()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferDirection {
    Receiving,
    Sending,
}

/// One asset on its way, as in `GET /transfers`.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TransferReport {
    /// CAN hash.
    pub hash: String,
    /// Size of the content in bytes.
    pub size: u64,
    /// Bytes that have arrived.
    pub done: u64,
    /// `receiving` or `sending`.
    #[schema(value_type = String)]
    pub direction: TransferDirection,
    /// Endpoint id of the other side.
    pub peer: String,
    /// Whether it moves; otherwise it waits for its turn.
    pub started: bool,
}

/// Why a content is not here, as far as the peers' side knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhyReport {
    /// Whether somebody has it and we want it.
    pub wanted: bool,
    pub size: Option<u64>,
    pub done: u64,
    /// Whether all of it is here, and it is being checked or stored.
    pub complete: bool,
    /// Why nothing is fetched now.
    pub paused: Option<String>,
    /// The only one that is asked, because one of several sent wrong bytes.
    pub only: Option<String>,
    /// Who has it, or was to send it and did not.
    pub sources: Vec<SourceReport>,
    pub connected: u64,
    /// How the search for it stands that a user began, or ended lately.
    pub search: Option<SearchReport>,
    /// Versions of it that wait for a clock, or for a library's list of revocations.
    pub waiting: Vec<WaitingReport>,
    /// Who promised to keep it when it was let go of here.
    pub kept_by: Vec<PromiseReport>,
}

/// A version that one of two machines does not take yet, because it is dated ahead of that machine's clock, or because that
/// machine's list of the library's revoked tickets is too old.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct WaitingReport {
    /// Endpoint id of the other machine.
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    /// Whether it is the other's version and waits here; else it is this machine's and waits there.
    pub here: bool,
    /// Whether it waits for a newer list of revoked tickets; else for the clock.
    pub held: bool,
    /// Seconds until it is taken, or looked at again, if nobody sets a clock and no newer list comes.
    pub wait_secs: u64,
}

/// What a peer does about a content that is not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It was asked, and is to send it now.
    Sending,
    /// It has offered it and can be asked.
    HasIt,
    /// It did not send it.
    #[default]
    Failed,
    /// It sent something else.
    Lied,
}

/// One peer's part in why a content is not here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct SourceReport {
    /// Its endpoint id.
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    /// Whether it is connected.
    pub connected: bool,
    /// What it does about it.
    pub state: SourceState,
    /// Why it did not come from this peer the last time.
    pub last_error: Option<String>,
    /// When that was, in milliseconds since the Unix epoch.
    pub failed_at_ms: Option<u64>,
}
