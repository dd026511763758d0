//! What is told of libraries: the shapes of the API.

use serde::Serialize;
use utoipa::ToSchema;

use super::Library;
use super::filter::FilterSpec;
use super::folder_share::FolderShare;
use super::registry::{Device, Issued, Member};
use super::revocation::Freshness;
use super::ticket::{Access, Subject, Ticket};
use crate::clock::{rfc3339, span};

/// How much is in a library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct LibrarySize {
    /// Live assets.
    pub assets: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

/// How far this node and the connected members agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct LibraryAgreement {
    /// `alone` (no member is connected), `reading` (this node's own store), `syncing`, `held` (in sync but for what members hold
    /// until they have a newer list of revoked tickets) or `in_sync`.
    pub state: &'static str,
    /// Members that are connected.
    pub connected: usize,
    /// Assets that some member has and that are not here yet.
    pub missing: u64,
    /// Bytes of those whose size is known.
    pub missing_bytes: u64,
    /// Assets that some member has not confirmed yet.
    pub missing_there: u64,
    /// Versions of members' that wait here until there is a newer list of revoked tickets.
    pub held_here: u64,
    /// Versions of this node's that some member does not take before it has a newer list of revoked tickets.
    pub held_there: u64,
    /// Content bytes per second from the connected members, lately; of the whole connection, where it shares several
    /// libraries.
    pub rate: f64,
    /// Seconds until nothing is missing at this rate; absent when nothing moves or nothing is missing.
    pub eta_secs: Option<u64>,
}

/// How things stand with one connected member: what [`LibraryAgreement`] puts together of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemberStanding {
    /// Nothing is missing on either side.
    pub in_sync: bool,
    /// Something is on its way, or is being compared.
    pub is_busy: bool,
    pub missing: u64,
    pub missing_bytes: u64,
    pub missing_there: u64,
    pub held_here: u64,
    pub held_there: u64,
    pub rate: f64,
}

/// A library.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LibraryReport {
    /// 64 hexadecimal digits.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// What belongs to it.
    pub filter: FilterSpec,
    /// What this node may do: `read` or `write`.
    pub access: Access,
    /// Whether this node created it, and so can invite and revoke.
    pub owner: bool,
    /// How much of it is here.
    pub counts: LibrarySize,
    /// How far this node and the members agree.
    pub progress: LibraryAgreement,
    /// When it was created or joined here, RFC 3339.
    pub since: Option<String>,
    /// When this node's ticket expires, RFC 3339.
    pub expires: Option<String>,
    /// Why the members do not let this node in any more.
    pub problem: Option<String>,
    /// How old the list of revoked tickets may become, in seconds, until what members other than the owner send waits for a
    /// newer one; absent where the owner set no limit.
    pub fresh_within_secs: Option<u64>,
    /// Why what members other than the owner send waits: this node's list of revoked tickets is older than that, or there is none.
    pub stale: Option<String>,
    /// That members hold what this node sent, and until when.
    pub held: Option<String>,
    /// Of a folder that this node shares: how many contents of files are not shared, since this node did not find them in its own
    /// directory first: they came from other machines of the user's, as a rule. Members hear of these files and do not get them, until
    /// `POST /libraries/{id}/release` shares them; `GET /libraries/{id}/unreleased` lists them. Absent while the library is read.
    pub not_shared: Option<u64>,
}

impl LibraryReport {
    /// Of one that is shared by ticket, at `now_ms`.
    pub fn new(library: &Library, now_ms: u64) -> Option<Self> {
        let shared = library.shared()?;
        let freshness = shared.freshness(now_ms);
        let (summary, ticket) = (library.summary(), shared.ticket());
        let claims = ticket.claims();
        let progress = shared.progress(library.is_filling());
        Some(Self {
            id: shared.id().to_string(),
            name: claims.name.clone(),
            filter: shared.filter().into(),
            access: shared.access(),
            owner: shared.key().is_some(),
            counts: LibrarySize { assets: summary.assets, bytes: summary.bytes },
            held: (progress.held_there > 0).then(|| why_held(progress.held_there)),
            progress,
            since: rfc3339(shared.created_ms()),
            expires: claims.expires_ms.and_then(rfc3339),
            problem: shared.refused(),
            fresh_within_secs: (freshness.limit_ms > 0).then_some(freshness.limit_ms / 1000),
            stale: shared.is_stale(now_ms).then(|| why_stale(freshness)),
            not_shared: library.share().filter(|_| !library.is_filling()).map(FolderShare::not_shared),
        })
    }
}

/// Why what this node sent is with no member that holds it.
pub(crate) fn why_held(versions: u64) -> String {
    let (versions, are, they) = match versions {
        1 => ("1 version".to_owned(), "is", "it"),
        some => (format!("{some} versions"), "are", "them"),
    };
    format!(
        "{versions} of this node {are} held by members whose list of revoked tickets is too old: they take {they} once a newer \
         list comes, from the owner or from a member that has met it; keep the original until then"
    )
}

/// Why records of members other than the owner wait.
fn why_stale(freshness: Freshness) -> String {
    let limit = span(freshness.limit_ms);
    let (why, comes) = match freshness.age_ms {
        Some(age_ms) => {
            let age = span(age_ms);
            (
                format!(
                    "this node's list of revoked tickets is {age} old, and the library's owner allows {limit}"
                ),
                "a newer list",
            )
        }
        None => (
            format!(
                "this node has no list of revoked tickets, and the library's owner wants one of the last {limit}"
            ),
            "one",
        ),
    };
    format!(
        "{why}: what members other than the owner send waits until {comes} comes, from the owner or from a member that has met it"
    )
}

/// A content of a shared folder that members do not get before the user says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnreleasedReport {
    /// Where in the folder a file has it.
    pub path: String,
    /// SHA-256 of the content, 64 hexadecimal digits.
    pub hash: String,
    /// Length in bytes, as the folder says.
    pub size: u64,
    /// How many files of the folder have it.
    pub paths: u64,
    /// Whether it is here.
    pub held: bool,
}

/// What members may have now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Released {
    /// Contents that are here, and are shared from now on.
    pub released: u64,
    /// Contents that are not here yet, and are shared once they are.
    pub absent: u64,
}

/// What became of the contents of a library that was forgotten with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LetGo {
    /// They are not here any more.
    pub gone: u64,
    /// They stay for now: other machines were promised that, and they go once it is over.
    pub promised: u64,
}

/// A member of a library.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MemberReport {
    /// 64 hexadecimal digits.
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    /// What it may do.
    pub access: Access,
    /// Number of the ticket that it showed.
    pub serial: u64,
    /// Whether it is connected now.
    pub connected: bool,
    /// When it was last in sync, RFC 3339.
    pub last_synced: Option<String>,
}

/// A ticket that was issued.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IssuedReport {
    /// Its number, by which it can be revoked.
    pub serial: u64,
    /// What it allows.
    pub access: Access,
    /// The one endpoint that may use it; anybody who has it if absent.
    pub subject: Option<String>,
    /// When it was issued, RFC 3339.
    pub issued: Option<String>,
    /// When it expires, RFC 3339.
    pub expires: Option<String>,
    /// How many endpoints may use it; any number if absent.
    pub uses: Option<u32>,
    /// How many have; of those with a limit alone.
    pub used: u32,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// A library with its members and tickets.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LibraryDetail {
    /// The library.
    #[serde(flatten)]
    pub library: LibraryReport,
    /// Who took part, the last seen first.
    pub members: Vec<MemberReport>,
    /// What was issued here, the newest first.
    pub tickets: Vec<IssuedReport>,
}

impl LibraryDetail {
    pub(super) fn new(
        report: LibraryReport,
        library: &Library,
        members: Vec<Member>,
        tickets: Vec<Issued>,
    ) -> Self {
        let connected = library.shared().map(super::SharedLibrary::connected).unwrap_or_default();
        let revoked = library.shared().map(super::SharedLibrary::revocations).unwrap_or_default();
        let member = |member: Member| MemberReport {
            connected: connected.iter().any(|id| id.to_string() == member.endpoint_id),
            endpoint_id: member.endpoint_id,
            name: member.name,
            access: member.access,
            serial: member.serial,
            last_synced: rfc3339(member.last_synced_ms),
        };
        let issued = |issued: Issued| IssuedReport {
            serial: issued.serial,
            access: issued.access,
            subject: issued.subject,
            issued: rfc3339(issued.issued_ms),
            expires: issued.expires_ms.and_then(rfc3339),
            uses: (issued.uses > 0).then_some(issued.uses),
            used: issued.used,
            revoked: revoked.serials.contains(&issued.serial) || issued.epoch < revoked.min_epoch,
        };
        Self {
            library: report,
            members: members.into_iter().map(member).collect(),
            tickets: tickets.into_iter().map(issued).collect(),
        }
    }
}

/// A ticket that was just issued.
#[derive(Clone, Serialize, ToSchema)]
pub struct Invited {
    /// The ticket: anyone who has it can use it as it says.
    pub ticket: String,
    /// Its number, by which it can be revoked.
    pub serial: u64,
    /// What it allows.
    pub access: Access,
    /// When it expires, RFC 3339.
    pub expires: Option<String>,
}

impl std::fmt::Debug for Invited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invited").field("serial", &self.serial).finish_non_exhaustive()
    }
}

impl Invited {
    pub(super) fn new(ticket: &Ticket) -> Self {
        let claims = ticket.claims();
        Self {
            ticket: ticket.to_text().to_string(),
            serial: claims.serial,
            access: claims.access,
            expires: claims.expires_ms.and_then(rfc3339),
        }
    }
}

/// What a ticket would let this node into.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Preview {
    /// The library's id.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// What belongs to it.
    pub filter: FilterSpec,
    /// What it allows.
    pub access: Access,
    /// How much was in the library when the ticket was issued.
    pub counts: LibrarySize,
    /// How much of what is here would belong to it by `share_existing`; nothing where it only allows to read.
    pub matching: LibrarySize,
    /// The one endpoint that may use it.
    pub subject: Option<String>,
    /// When it expires, RFC 3339.
    pub expires: Option<String>,
    /// How old the list of revoked tickets may become, in seconds, until what members other than the owner send waits for a
    /// newer one; absent where the owner set no limit.
    pub fresh_within_secs: Option<u64>,
}

impl Preview {
    pub(super) fn new(ticket: &Ticket, matching: LibrarySize) -> Self {
        let claims = ticket.claims();
        Self {
            id: claims.library.to_string(),
            name: claims.name.clone(),
            filter: (&ticket.filter).into(),
            access: claims.access,
            counts: LibrarySize { assets: claims.held.0, bytes: claims.held.1 },
            matching,
            subject: match claims.subject {
                Subject::Bearer => None,
                Subject::Endpoint(id) => Some(id.to_string()),
            },
            expires: claims.expires_ms.and_then(rfc3339),
            fresh_within_secs: (claims.fresh_within_ms > 0).then_some(claims.fresh_within_ms / 1000),
        }
    }
}

/// An endpoint that somebody decided about, or has to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceReport {
    /// 64 hexadecimal digits.
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    /// `approved`, `waiting` or `denied`.
    pub standing: &'static str,
    /// Since when, RFC 3339.
    pub since: Option<String>,
}

impl From<Device> for DeviceReport {
    fn from(device: Device) -> Self {
        let Device { endpoint_id, name, standing, at_ms } = device;
        Self { endpoint_id, name, standing: standing.as_str(), since: rfc3339(at_ms) }
    }
}
