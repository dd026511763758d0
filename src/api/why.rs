//! `GET /why/{hash}`: who has a content, and why it is not here yet. `POST /fetch/{hash}`: get it now.

mod otherwise;
mod promises;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::view::{ASK_TIMEOUT, AgentView, ApiState, ask};
use crate::clock::span;
use crate::folder::report::FolderPlace;
use crate::folder::supervisor::FoldersMsg;
use crate::http::envelope::Success;
use crate::http::extract::HashPath;
use crate::http::{ApiError, ApiResult};
use crate::peer::messages::PeersMsg;
use crate::peer::report::{PromiseReport, SourceReport, SourceState, WaitingReport, WhyReport};
use crate::record::ContentHash;
use crate::store::{Holding, ItemOutcome, StoreError, StoredRecord, UploadWait};
use crate::text::amounts::bytes;
use crate::text::short_id;
use crate::transfer::search::SearchReport;

/// Where a content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Availability {
    /// In the store.
    Here,
    /// It was here, and was deleted.
    Deleted,
    /// The asset is known, its content is not held here and wanted: peers are asked for it.
    Missing,
    /// The asset is known, its content is not held here and not wanted: it was let go of.
    LetGo,
    /// The asset is known, its content is not held here and not wanted: the configuration's `hold` leaves it out.
    LeftOut,
    /// The asset is known, its content is not held here: there is no room for it under the store's quota. It comes when there is some.
    NoRoom,
    /// Nothing is fetched at the moment.
    Paused,
    /// All of it came; it is being checked and stored.
    Checking,
    /// Peers were asked for it.
    OnItsWay,
    /// Somebody has it, and it waits for its turn.
    Waiting,
    /// A user asked for it, and peers are asked whether they have it.
    Searching,
    /// A peer offers a version that has to wait: it is dated ahead of this machine's clock, or the library's list of revoked
    /// tickets is too old here.
    Later,
    /// Nobody who is connected can give it.
    Failed,
}

/// The answer of `GET /why/{hash}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct WhyView {
    /// CAN hash.
    hash: String,
    /// Where it stands.
    pub(super) state: Availability,
    /// The same in a sentence or two, for people.
    pub(super) explanation: String,
    /// Connected peers.
    pub(super) connected: u64,
    /// Size of the content in bytes, where it is known.
    size: Option<u64>,
    /// Bytes of it that are here, of a large one that is not complete.
    done: u64,
    /// Endpoint id of the only peer that is asked, after wrong bytes came from one of several, or a record had a wrong BLAKE3.
    only: Option<String>,
    /// Who has it, or was to send it and did not.
    sources: Vec<SourceReport>,
    /// Versions of it that one machine does not take from another yet, because they are dated ahead of its clock, or its list of a
    /// library's revoked tickets is too old.
    waiting: Vec<WaitingReport>,
    /// That it is on this disk alone, and waits to be uploaded to object storage.
    upload: Option<UploadWait>,
    /// Machines that this one promised to keep it, after they asked for that: it stays for so long, unless a user deletes it.
    promised_to: Vec<PromiseReport>,
    /// Machines that promised to keep it when it was let go of here, as far as that is remembered.
    kept_by: Vec<PromiseReport>,
    /// The paths at which folders have it; at most 10000.
    folders: Vec<FolderPlace>,
}

/// Why a content is not here
#[utoipa::path(
    get,
    path = "/why/{hash}",
    tag = "peers",
    params(("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits.")),
    responses(
        (status = 200, body = Success<WhyView>),
        (status = 400, description = "That is no CAN hash."),
        (status = 404, description = "Nobody knows of it."),
        (status = 503, description = "PeersActor or the store does not answer.")
    )
)]
pub(super) async fn why(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
) -> ApiResult<Success<WhyView>> {
    let (stands, folders) = tokio::join!(stands(&state.view, hash), folders(&state.view, hash));
    Ok(Success::new(WhyView { folders, ..stands? }))
}

/// Get a content now
///
/// It is fetched before everything else. Connected peers are asked whether they have it, then those that are known and not
/// connected, for half a minute; `GET /why/{hash}` says how that stands. What was deleted here comes back. What is known and
/// not held here is wanted from then on: it comes from the trash, or from a peer that has it, also later.
#[utoipa::path(
    post,
    path = "/fetch/{hash}",
    tag = "peers",
    params(("hash" = String, Path, description = "CAN hash, 64 hexadecimal digits.")),
    responses(
        (status = 200, body = Success<WhyView>, description = "It is here already."),
        (status = 202, body = Success<WhyView>, description = "It is searched for, or on its way."),
        (status = 400, description = "That is no CAN hash."),
        (status = 429, description = "Too much is searched for already."),
        (status = 503, description = "PeersActor or the store does not answer.")
    )
)]
pub(super) async fn fetch(
    State(state): State<ApiState>,
    HashPath(hash): HashPath,
) -> ApiResult<(StatusCode, Success<WhyView>)> {
    let view = &state.view;
    let known = stored(view, hash).await?;
    let mut held = known.as_ref().is_some_and(|known| known.holding.is_held());
    if held {
        held = verify(view, hash).await;
    } else if known.is_some_and(|known| known.is_absent()) {
        held = want(view, hash).await;
    }
    if held {
        return Ok((StatusCode::OK, Success::new(stands(view, hash).await?)));
    }
    search(view, hash).await?;
    Ok((StatusCode::ACCEPTED, Success::new(stands(view, hash).await?)))
}

/// Has peers asked for a content before everything else.
pub(super) async fn search(view: &AgentView, hash: ContentHash) -> ApiResult<()> {
    let begun = ask(&view.peers, |reply| PeersMsg::FetchNow { hash, reply }).await?;
    begun.map_err(|error| {
        let hint = "GET /why/{hash} says how a search stands; try again when one of them is over";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_searches", error.to_string(), hint)
    })
}

/// Whether a content that is held is right. A large one takes its time to be read: if it turns out to be damaged later, it
/// is wanted from then on.
async fn verify(view: &AgentView, hash: ContentHash) -> bool {
    let store = Arc::clone(&view.store);
    let verified = tokio::spawn(async move { store.verify(hash).await });
    match timeout(ASK_TIMEOUT, verified).await {
        Ok(Ok(Ok(held))) => held,
        Ok(Ok(Err(error))) => {
            tracing::warn!(%hash, %error, "a content that is held cannot be checked");
            true
        }
        Ok(Err(_)) | Err(_) => true,
    }
}

/// Wants a content that is not here; whether the trash still had it. A large one takes its time to be checked, and may come
/// from a peer before.
pub(super) async fn want(view: &AgentView, hash: ContentHash) -> bool {
    let (store, libraries) = (Arc::clone(&view.store), Arc::clone(&view.libraries));
    let wanted = tokio::spawn(async move {
        let outcomes = store.want(vec![hash]).await?;
        // It is wanted from now on, although it may not be one of those that are to be held.
        let _ = spawn_blocking(move || libraries.wish(hash)).await;
        Ok::<_, StoreError>(outcomes)
    });
    match timeout(ASK_TIMEOUT, wanted).await {
        Ok(Ok(Ok(outcomes))) => outcomes == [ItemOutcome::Stored],
        Ok(Ok(Err(error))) => {
            tracing::warn!(%hash, %error, "that a content is wanted is not written down");
            false
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Where a content stands; not in which folders, which is another question.
pub(super) async fn stands(view: &AgentView, hash: ContentHash) -> ApiResult<WhyView> {
    // In this order: what arrives in between is in the store, and not nowhere.
    let report = ask(&view.peers, |reply| PeersMsg::GetWhy { hash, reply }).await?;
    let known = stored(view, hash).await?;
    let left_out = known.as_ref().and_then(|known| left_out(view, known));
    let promised_to = promises::given(view, hash).await;
    let whereabouts = whereabouts(known.as_ref(), left_out, &report).ok_or_else(|| unknown(&report))?;
    let otherwise = known.as_ref().map(|known| otherwise::explain(view, known)).unwrap_or_default();
    let size = known.map(|known| known.record.size).or(report.size);
    let upload = if whereabouts == Availability::Here { upload_wait(view, hash).await } else { None };
    let waits = upload.as_ref().map(|wait| format!(" {}", wait.sentence())).unwrap_or_default();
    Ok(WhyView {
        hash: hash.to_string(),
        state: whereabouts,
        explanation: explain(whereabouts, size, &report)
            + &waits
            + &otherwise
            + &promises::explain(&promised_to, &report.kept_by),
        connected: report.connected,
        size,
        done: report.done,
        only: report.only,
        sources: report.sources,
        waiting: report.waiting,
        upload,
        promised_to,
        kept_by: report.kept_by,
        folders: Vec::new(),
    })
}

/// Whether a content that is here waits to be uploaded; where nobody can say, it does not.
async fn upload_wait(view: &AgentView, hash: ContentHash) -> Option<UploadWait> {
    timeout(ASK_TIMEOUT, view.store.upload_wait(hash)).await.ok()?.ok()?
}

/// Why the content of an asset is not asked for, although nobody let go of it.
fn left_out(view: &AgentView, known: &StoredRecord) -> Option<Availability> {
    let rules = view.libraries.hold_rules();
    let lacks_room = known.is_absent() && rules.lacks_room(&known.record.hash);
    if lacks_room {
        Some(Availability::NoRoom)
    } else {
        rules.leaves_out(known).then_some(Availability::LeftOut)
    }
}

/// Where folders have it; nowhere, where nobody can say.
async fn folders(view: &AgentView, hash: ContentHash) -> Vec<FolderPlace> {
    let hashes = vec![hash];
    let asked = ask(&view.folders, |reply| FoldersMsg::ListPlaces { hashes, reply }).await;
    asked.ok().and_then(Result::ok).unwrap_or_default()
}

pub(super) async fn stored(view: &AgentView, hash: ContentHash) -> ApiResult<Option<StoredRecord>> {
    let found = timeout(ASK_TIMEOUT, view.store.look(hash)).await;
    let reason = match found {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the store did not answer within {} s", ASK_TIMEOUT.as_secs()),
    };
    let hint = "GET /status shows the store's health";
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", reason, hint))
}

fn unknown(report: &WhyReport) -> ApiError {
    if let Some(search) = &report.search {
        let message = format!("it is not here, and {}", in_vain(search));
        let hint = "check the hash; GET /peers shows who is connected, POST /fetch/{hash} asks once more";
        return ApiError::new(StatusCode::NOT_FOUND, "unknown_asset", message, hint);
    }
    let message = match report.connected {
        0 => "it is not here, and no peer is connected that could have it".to_owned(),
        1 => "it is not here, and the one connected peer has not said that it has it".to_owned(),
        n => format!("it is not here, and none of the {n} connected peers has said that it has it"),
    };
    let hint = "check the hash; GET /peers shows who is connected, POST /verify compares with them afresh";
    ApiError::new(StatusCode::NOT_FOUND, "unknown_asset", message, hint)
}

/// Where it stands; `None` if nobody knows of it.
fn whereabouts(
    known: Option<&StoredRecord>,
    left_out: Option<Availability>,
    report: &WhyReport,
) -> Option<Availability> {
    Some(match known {
        Some(known) if known.holding.is_held() => Availability::Here,
        _ if report.wanted && report.complete && report.paused.is_none() => Availability::Checking,
        _ if report.wanted && report.paused.is_some() => Availability::Paused,
        _ if report.sources.iter().any(|source| source.state == SourceState::Sending) => {
            Availability::OnItsWay
        }
        _ if report.wanted => Availability::Waiting,
        _ if report.search.is_some_and(|search| search.open) => Availability::Searching,
        Some(known) if known.record.deleted => Availability::Deleted,
        Some(known) if known.holding == Holding::Unwanted => Availability::LetGo,
        Some(_) if left_out.is_some() => return left_out,
        Some(_) => Availability::Missing,
        None if report.waiting.iter().any(|waiting| waiting.here) => Availability::Later,
        None if !report.sources.is_empty() => Availability::Failed,
        None => return None,
    })
}

fn explain(whereabouts: Availability, size: Option<u64>, report: &WhyReport) -> String {
    let named = |state: SourceState| {
        let names = report.sources.iter().filter(|source| source.state == state).map(name);
        names.collect::<Vec<String>>().join(", ")
    };
    let size = size.unwrap_or(0);
    let mut text = match whereabouts {
        Availability::Here => "It is here.".to_owned(),
        Availability::Deleted => match &report.search {
            Some(search) => format!("It was here and was deleted, and {}.", in_vain(search)),
            None => "It was here, and was deleted.".to_owned(),
        },
        Availability::Missing => match &report.search {
            Some(search) => format!("The asset is known, its content is not held here, and {}.", in_vain(search)),
            None => "The asset is known, its content is not held here: every peer is asked for it when it connects, \
                     and every few minutes."
                .to_owned(),
        },
        Availability::LetGo => "The asset is known, its content is not held here: it was let go of, and nobody is \
                               asked for it. `can-sync fetch` brings it back."
            .to_owned(),
        Availability::LeftOut => "The asset is known, its content is not held here: `hold` in the configuration leaves it out. It is \
                                 fetched when it is read, or by `can-sync fetch`; `can-sync pin` has it held."
            .to_owned(),
        Availability::NoRoom => "The asset is known, its content is not held here: the store's quota leaves no room for it \
                                (`can-sync status` says how much is used). It comes once there is room: `can-sync drop` makes some by letting go of what other \
                                machines keep, or raise store.quota_bytes."
            .to_owned(),
        Availability::Searching => match report.search.map_or(0, |search| search.asked) {
            0 => "Nobody is connected who could be asked for it; peers are looked for.".to_owned(),
            1 => "One peer is asked whether it has it.".to_owned(),
            n => format!("{n} peers are asked whether they have it."),
        },
        Availability::Paused => {
            format!("Nothing is fetched now: {}.", report.paused.as_deref().unwrap_or("the store is busy"))
        }
        Availability::Checking => "All of it came, and it is being checked and stored.".to_owned(),
        Availability::OnItsWay => format!(
            "It is on its way from {}: {} of {}.",
            named(SourceState::Sending),
            bytes(report.done),
            bytes(size)
        ),
        Availability::Waiting => {
            format!("{} could send it; it waits for its turn.", named(SourceState::HasIt))
        }
        Availability::Later => "It is not here yet.".to_owned(),
        Availability::Failed => {
            "Nobody who is connected can give it now; it is asked for again when it is offered again."
                .to_owned()
        }
    };
    if report.only.is_some() {
        text.push_str(" Somebody sent wrong bytes, or has a record with a wrong BLAKE3, so one peer is asked at a time.");
    }
    if whereabouts != Availability::Here {
        for source in &report.sources {
            if let Some(error) = &source.last_error {
                text.push_str(" From ");
                text.push_str(&name(source));
                text.push_str(" it did not come: ");
                text.push_str(error);
                text.push('.');
            }
        }
    }
    for waiting in &report.waiting {
        text.push_str(&explain_waiting(waiting));
    }
    text
}

fn explain_waiting(waiting: &WaitingReport) -> String {
    let name = called(&waiting.name, &waiting.endpoint_id);
    let wait = span(waiting.wait_secs.saturating_mul(1000));
    if waiting.held && waiting.here {
        format!(
            " {name} has a version of it that waits here: this machine's list of the library's revoked tickets is older than \
             the owner allows. It is taken once a newer list comes, from the owner or from a member that has met it."
        )
    } else if waiting.held {
        format!(
            " {name} holds this machine's version of it until it has a newer list of the library's revoked tickets, from the \
             owner or from a member that has met it."
        )
    } else if waiting.here {
        format!(
            " {name} has a version of it that is dated ahead of this machine's clock: it is taken in {wait}, or once the \
             clock that is wrong is set."
        )
    } else {
        format!(
            " {name} does not take this machine's version of it, which is dated ahead of its clock, before {wait} have \
             passed, or the clock that is wrong is set."
        )
    }
}

/// How a search ended that found nothing.
fn in_vain(search: &SearchReport) -> String {
    let asked = match search.asked {
        0 => "no peer could be asked for it".to_owned(),
        1 => "the one peer that was asked does not have it".to_owned(),
        n => format!("none of the {n} peers that were asked has it"),
    };
    match search.unreachable {
        0 => asked,
        n => format!("{asked}; {n} did not answer"),
    }
}

fn name(source: &SourceReport) -> String {
    called(&source.name, &source.endpoint_id)
}

pub(super) fn called(name: &str, endpoint_id: &str) -> String {
    let short = short_id(endpoint_id);
    if name.is_empty() { short } else { format!("{name} ({short})") }
}

#[cfg(test)]
mod tests;
