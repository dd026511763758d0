//! What is asked of libraries over HTTP, and answered.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::library::filter::FilterSpec;
use crate::library::report::{Invited, LibraryDetail, UnreleasedReport};
use crate::library::ticket::Access;
use crate::qr::Code;

/// `POST /libraries`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateRequest {
    /// For people; at most 64 characters.
    pub(super) name: String,
    /// What belongs to the library; without one, everything.
    #[serde(default)]
    pub(super) filter: FilterSpec,
    /// How old a member's list of revoked tickets may become, in seconds, from 86400 (1 day) to 31536000 (365 days): after that
    /// it holds what members other than this node send until a newer list comes. This node signs the list anew every 12
    /// hours. Without it, lists may have any age.
    pub(super) fresh_within_secs: Option<u64>,
}

/// `POST /libraries/preview`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewRequest {
    #[serde(default)]
    pub(super) filter: FilterSpec,
}

/// `POST /libraries/{id}/invite`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InviteRequest {
    /// `read` or `write`.
    pub(super) access: Access,
    /// Seconds from now until the ticket expires; never if absent.
    pub(super) expires_secs: Option<u64>,
    /// How many machines may use it; any number if absent.
    pub(super) uses: Option<u32>,
    /// The one endpoint id that may use it; anyone who has the ticket if absent.
    pub(super) subject: Option<String>,
    /// Seconds from now until the ticket is valid.
    #[serde(default)]
    pub(super) starts_secs: u64,
}

/// `POST /libraries/{id}/revoke`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevokeRequest {
    /// The number of one ticket.
    pub(super) serial: Option<u64>,
    /// Or all that were issued until now.
    #[serde(default)]
    pub(super) all: bool,
}

/// `POST /join`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct JoinRequest {
    /// As it was issued, `canlib…`.
    pub(super) ticket: String,
    /// Whether what is here already and matches the library's filter is shared with its members, where the ticket allows to write.
    /// Without it, only what is put or changed here from now on.
    #[serde(default)]
    pub(super) share_existing: bool,
}

/// `POST /join/preview`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InspectRequest {
    /// As it was issued, `canlib…`.
    pub(super) ticket: String,
}

/// Every library of this node.
#[derive(Serialize, ToSchema)]
pub(super) struct LibraryList {
    pub(super) libraries: Vec<LibraryDetail>,
}

/// A new ticket, also as a picture.
#[derive(Serialize, ToSchema)]
pub(super) struct Invitee {
    #[serde(flatten)]
    pub(super) invited: Invited,
    /// A QR code of the ticket; absent when it is too long for one.
    pub(super) qr: Option<Code>,
}

/// What became of a library.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    /// Assets whose contents were let go of with it; the assets stay known, and nobody else is concerned.
    pub(super) let_go: u64,
    /// Those whose contents stay for now, because other machines were promised that: they go once it is over, within a day.
    pub(super) promised: u64,
}

/// `POST /libraries/{id}/release`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseRequest {
    /// Which contents, at most 1,000, each 64 hexadecimal digits; those that do not wait are passed over. Without it, all that wait.
    pub(super) hashes: Option<Vec<String>>,
}

/// Contents of a folder that members do not get yet.
#[derive(Serialize, ToSchema)]
pub(super) struct UnreleasedList {
    pub(super) contents: Vec<UnreleasedReport>,
    /// How many there are altogether.
    pub(super) total: u64,
    /// For the next page; null when this is the last.
    pub(super) next_cursor: Option<String>,
}

/// What is void now.
#[derive(Serialize, ToSchema)]
pub(super) struct Revoked {
    /// Tickets that were revoked one by one.
    pub(super) serials: usize,
    /// Tickets that were issued before this epoch are void.
    pub(super) min_epoch: u64,
}
