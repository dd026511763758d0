//! The agent's API: its routes and what stands in front of them, and the handlers that answer in JSON.
//!
//! A handler asks actors and the store, each within [`super::view::ASK_TIMEOUT`], and never decides anything itself.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::bodies::{
    Alive, DialAccepted, DialRequest, Forgotten, PeerList, Ready, TicketView, TransferList, Verifying,
    is_running, visit,
};
use super::status::{NodeStatus, node_status};
use super::token::is_authorised;
use super::view::{ASK_TIMEOUT, AgentView, ApiState, ask, unavailable};
use super::{deletions, drops, events, folders, libraries, metrics, page, pins, proxy, token, why};
use crate::actor::status::ActorStatus;
use crate::http::description::{self, Description};
use crate::http::envelope::{ErrorBody, Success};
use crate::http::extract::{JsonBody, PathText, parse_endpoint_id};
use crate::http::guard::{GuardSettings, protect};
use crate::http::{ApiError, ApiResult};
use crate::peer::messages::PeersMsg;
use crate::peer::report::PeerReport;
use crate::text::quoted;

/// Longest ticket that is looked at.
const TICKET_BYTES_MAX: usize = 4096;
/// Most addresses of one dial request.
const ADDRS_MAX: usize = 32;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "can-sync agent",
        description = "State and control of one node. Every JSON answer is `{\"status\":\"success\",\"data\":…}` or \
            `{\"status\":\"error\",\"error\":…,\"code\":…,\"hint\":…}`."
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "node", description = "This node."),
        (name = "peers", description = "Other nodes, and what moves between them and this one."),
        (name = "libraries", description = "What is shared by ticket, its members, and who is let in."),
        (name = "folders", description = "Directories of this machine that are kept alike with those of others."),
        (name = "events", description = "What happens."),
        (name = "store", description = "The store's own API, as far as the page and the command line need it.")
    )
)]
struct AgentApi;

/// Everything that the agent serves on `bound`.
pub(super) fn router(state: ApiState, bound: SocketAddr) -> Router {
    let settings = GuardSettings {
        bound_addr: bound,
        allowed_hosts: state.view.allowed_hosts.iter().map(|host| without_port(host)).collect(),
    };
    let (router, openapi) = OpenApiRouter::with_openapi(AgentApi::openapi())
        .routes(routes!(status))
        .routes(routes!(list_peers, dial_peer))
        .routes(routes!(show_peer, forget_peer))
        .routes(routes!(verify))
        .routes(routes!(transfers))
        .routes(routes!(why::why))
        .routes(routes!(why::fetch))
        .routes(routes!(actors))
        .merge(deletions::routes())
        .merge(folders::routes())
        .merge(libraries::routes())
        .merge(pins::routes())
        .merge(drops::routes())
        .routes(routes!(events::events))
        .routes(routes!(ticket))
        .routes(routes!(metrics::metrics))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(proxy::assets::ingest))
        .routes(routes!(proxy::assets::list))
        .routes(routes!(proxy::assets::search))
        .routes(routes!(proxy::assets::asset, proxy::assets::delete))
        .routes(routes!(proxy::assets::meta, proxy::assets::edit))
        .routes(routes!(proxy::assets::ingest_known))
        .routes(routes!(proxy::trash::list))
        .routes(routes!(proxy::scrub::status, proxy::scrub::begin))
        .routes(routes!(proxy::scrub::findings))
        .routes(routes!(proxy::trash::restore))
        .split_for_parts();
    let description = Description::of(&openapi);
    let json = description.json();
    let openapi = axum::routing::get(async move || ([(CONTENT_TYPE, "application/json")], json.clone()));
    let router = router
        .route("/openapi.json", openapi)
        .merge(page::routes())
        .layer(axum::middleware::from_fn_with_state(description, description::keep))
        .layer(axum::middleware::from_fn_with_state(state.clone(), token::require))
        .layer(DefaultBodyLimit::disable())
        .with_state(state);
    protect(router, settings)
}

/// How the node is
#[utoipa::path(
    get,
    path = "/status",
    tag = "node",
    responses((status = 200, body = Success<NodeStatus>), (status = 503, description = "An actor does not answer."))
)]
async fn status(State(state): State<ApiState>) -> ApiResult<Success<NodeStatus>> {
    let view = &state.view;
    let (store, peers, folders, tree) =
        tokio::join!(view.store_status(), view.peers_report(), view.folder_reports(), view.tree());
    let damaged = super::damaged::gather(view, store.as_ref().ok()).await;
    Ok(Success::new(node_status(view, store, damaged, (peers?, folders.unwrap_or_default()), &tree?)))
}

/// Every known peer
#[utoipa::path(
    get,
    path = "/peers",
    tag = "peers",
    responses((status = 200, body = Success<PeerList>), (status = 503, description = "PeersActor does not answer."))
)]
async fn list_peers(State(state): State<ApiState>) -> ApiResult<Success<PeerList>> {
    let report = state.view.peers_report().await?;
    Ok(Success::new(PeerList { peers: report.peers }))
}

/// One peer
#[utoipa::path(
    get,
    path = "/peers/{id}",
    tag = "peers",
    params(("id" = String, Path, description = "Endpoint id, 64 hexadecimal digits.")),
    responses(
        (status = 200, body = Success<PeerReport>),
        (status = 400, description = "That is no endpoint id."),
        (status = 404, description = "No such peer."),
        (status = 503, description = "PeersActor does not answer.")
    )
)]
async fn show_peer(State(state): State<ApiState>, PathText(id): PathText) -> ApiResult<Success<PeerReport>> {
    let id = parse_endpoint_id(&id)?;
    let report = state.view.peers_report().await?;
    let text = id.to_string();
    let peer = report.peers.into_iter().find(|peer| peer.endpoint_id == text);
    peer.map(Success::new).ok_or_else(|| unknown_peer(id))
}

/// Connect to a peer now, and remember it
#[utoipa::path(
    post,
    path = "/peers",
    tag = "peers",
    request_body(content = DialRequest, example = json!({ "ticket": "endpointa…" })),
    responses(
        (status = 202, body = Success<DialAccepted>, description = "The dial is under way; `GET /peers/{id}` shows its fate."),
        (status = 400, description = "The ticket, id or address makes no sense."),
        (status = 409, description = "It is not dialled, and why."),
        (status = 415, description = "The body is not JSON."),
        (status = 503, description = "PeersActor does not answer.")
    )
)]
async fn dial_peer(
    State(state): State<ApiState>,
    JsonBody(request): JsonBody<DialRequest>,
) -> ApiResult<(StatusCode, Success<DialAccepted>)> {
    let addr = parse_dial(&request)?;
    let (endpoint_id, is_own) = (addr.id.to_string(), addr.id == state.view.endpoint_id);
    let answer = ask(&state.view.peers, |reply| PeersMsg::DialPeer { addr, reply }).await?;
    answer.map_err(|why| {
        if is_own {
            let hint = "take the ticket from another machine: `can-sync id --ticket` prints it there";
            return ApiError::bad_request("own_ticket", why, hint);
        }
        let hint = "GET /peers shows what is connected";
        ApiError::new(StatusCode::CONFLICT, "not_dialled", format!("the peer is not dialled: {why}"), hint)
    })?;
    Ok((StatusCode::ACCEPTED, Success::new(DialAccepted { endpoint_id })))
}

/// Forget a peer and close its session
#[utoipa::path(
    delete,
    path = "/peers/{id}",
    tag = "peers",
    params(("id" = String, Path, description = "Endpoint id, 64 hexadecimal digits.")),
    responses(
        (status = 200, body = Success<Forgotten>),
        (status = 400, description = "That is no endpoint id."),
        (status = 404, description = "No such peer."),
        (status = 503, description = "PeersActor does not answer.")
    )
)]
async fn forget_peer(State(state): State<ApiState>, PathText(id): PathText) -> ApiResult<Success<Forgotten>> {
    let endpoint_id = parse_endpoint_id(&id)?;
    let forget = |reply| PeersMsg::ForgetPeer { endpoint_id, reply };
    if ask(&state.view.peers, forget).await? {
        Ok(Success::new(Forgotten { endpoint_id: endpoint_id.to_string() }))
    } else {
        Err(unknown_peer(endpoint_id))
    }
}

/// Compare with every connected peer afresh
#[utoipa::path(
    post,
    path = "/verify",
    tag = "peers",
    responses(
        (status = 202, body = Success<Verifying>, description = "Under way; `/status` shows `reconciling` until it is done."),
        (status = 503, description = "PeersActor is not running.")
    )
)]
async fn verify(State(state): State<ApiState>) -> ApiResult<(StatusCode, Success<Verifying>)> {
    state.view.peers.cast(PeersMsg::Verify).map_err(|error| unavailable(error, ASK_TIMEOUT))?;
    Ok((StatusCode::ACCEPTED, Success::new(Verifying { state: "reconciling" })))
}

/// What moves now
#[utoipa::path(
    get,
    path = "/transfers",
    tag = "peers",
    responses((status = 200, body = Success<TransferList>), (status = 503, description = "PeersActor does not answer."))
)]
async fn transfers(State(state): State<ApiState>) -> ApiResult<Success<TransferList>> {
    let transfers = state.view.transfers().await?;
    Ok(Success::new(TransferList { transfers }))
}

/// The supervision tree
#[utoipa::path(
    get,
    path = "/actors",
    tag = "node",
    responses(
        (status = 200, body = Success<Object>, description = "Each actor: `id, kind, label, state, restarts, \
            uptime_secs, mailbox, mailbox_ms, undelivered, queued, last_error, detail, children`."),
        (status = 503, description = "RootSupervisor does not answer.")
    )
)]
async fn actors(State(state): State<ApiState>) -> ApiResult<Success<ActorStatus>> {
    state.view.tree().await.map(Success::new)
}

/// Our own ticket
#[utoipa::path(
    get,
    path = "/ticket",
    tag = "node",
    responses((status = 200, body = Success<TicketView>), (status = 503, description = "There is no address yet."))
)]
async fn ticket(State(state): State<ApiState>) -> ApiResult<Success<TicketView>> {
    let ticket = state.view.ticket.borrow().clone();
    if ticket.is_empty() {
        let hint = "try again in a second";
        let message = "this node does not know an address of its own yet";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_address", message, hint));
    }
    Ok(Success::new(TicketView { endpoint_id: state.view.endpoint_id.to_string(), ticket }))
}

/// Whether the process is alive
#[utoipa::path(get, path = "/healthz", tag = "node", responses((status = 200, body = Success<Alive>)))]
async fn healthz() -> Success<Alive> {
    Success::new(Alive { alive: true })
}

/// Whether the node can do its work: the store answers and takes writes, contents for object storage too, and every actor runs
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "node",
    responses((status = 200, body = Success<Ready>), (status = 503, description = "Why not, all reasons in one sentence."))
)]
async fn readyz(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let reasons = not_ready(&state.view).await;
    if reasons.is_empty() {
        return Success::new(Ready { ready: true }).into_response();
    }
    // Anybody may ask whether, and those who may read the status also why.
    let reasons =
        if is_authorised(&state.view, &headers) { reasons.join("; ") } else { "it is not ready".into() };
    let hint = "GET /status and GET /actors say more";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", reasons, hint).into_response()
}

async fn not_ready(view: &AgentView) -> Vec<String> {
    let (store, peers, tree) = tokio::join!(view.store_status(), view.peers_report(), view.tree());
    let mut reasons = Vec::new();
    match store {
        Ok(status) => {
            // With `write_back`, contents are taken whatever the object storage does.
            let takes_all = match &view.object_storage {
                Some(storage) => storage.write_back,
                None => status.waiting_uploads.is_some(),
            };
            reasons.extend(status.read_only.map(|why| format!("the store takes no writes: {why}")));
            reasons.extend(status.contents_away.filter(|_| !takes_all));
        }
        Err(why) => reasons.push(why),
    }
    reasons.extend(peers.err().map(|error| error.message));
    match tree {
        Ok(tree) => visit(&tree, 0, &mut |actor, depth| {
            // A session that restarts is no reason to call the whole node unready.
            if depth <= 1 && !is_running(actor) {
                reasons.push(format!("{} is {}", actor.kind, actor.state.name()));
            }
        }),
        Err(error) => reasons.push(error.message),
    }
    reasons
}

/// The guard compares names alone.
fn without_port(host: &str) -> String {
    host.parse::<Authority>().map_or_else(|_| host.to_owned(), |authority| authority.host().to_owned())
}

fn unknown_peer(id: EndpointId) -> ApiError {
    let message = format!("no peer {id} is known");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_peer", message, "GET /peers lists those that are")
}

fn parse_dial(request: &DialRequest) -> ApiResult<EndpointAddr> {
    const EITHER: &str = r#"send {"ticket":"…"}, or {"endpoint_id":"…","addrs":["1.2.3.4:5678"]}"#;
    match request {
        DialRequest { ticket: Some(ticket), endpoint_id: None, addrs } if addrs.is_empty() => {
            parse_ticket(ticket)
        }
        DialRequest { ticket: None, endpoint_id: Some(id), addrs } => {
            let id = parse_endpoint_id(id)?;
            if addrs.len() > ADDRS_MAX {
                let message = format!("{} addresses are too many", addrs.len());
                let hint = format!("send at most {ADDRS_MAX}");
                return Err(ApiError::bad_request("too_many_addrs", message, hint));
            }
            addrs
                .iter()
                .try_fold(EndpointAddr::new(id), |addr, text| Ok(addr.with_ip_addr(parse_addr(text)?)))
        }
        DialRequest { .. } => {
            Err(ApiError::bad_request("invalid_dial", "it takes either a ticket or an endpoint id", EITHER))
        }
    }
}

fn parse_ticket(text: &str) -> ApiResult<EndpointAddr> {
    let text = text.trim();
    let refuse = |why: String| {
        ApiError::bad_request(
            "invalid_ticket",
            format!("that is no ticket: {why}"),
            "copy the whole text that `can-sync id --ticket` prints on the other machine",
        )
    };
    if text.len() > TICKET_BYTES_MAX {
        return Err(refuse(format!("it is longer than {TICKET_BYTES_MAX} bytes")));
    }
    let ticket: EndpointTicket =
        text.parse().map_err(|error: iroh_tickets::ParseError| refuse(error.to_string()))?;
    Ok(ticket.into())
}

fn parse_addr(text: &str) -> ApiResult<SocketAddr> {
    let addr: Option<SocketAddr> = text.parse().ok().filter(|addr: &SocketAddr| addr.port() != 0);
    addr.ok_or_else(|| {
        let shown = quoted(text);
        ApiError::bad_request(
            "invalid_address",
            format!("'{shown}' is no address"),
            "an address is IP:port, such as 192.0.2.7:4433 or [2001:db8::7]:4433",
        )
    })
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    fn request(ticket: Option<&str>, id: Option<&str>, addrs: &[&str]) -> DialRequest {
        DialRequest {
            ticket: ticket.map(Into::into),
            endpoint_id: id.map(Into::into),
            addrs: addrs.iter().map(|&addr| addr.into()).collect(),
        }
    }

    #[test]
    fn a_dial_request_is_a_ticket_or_an_address() {
        let id = SecretKey::from_bytes(&[7; 32]).public();
        let addr = EndpointAddr::new(id).with_ip_addr("192.0.2.7:4433".parse().unwrap());
        let ticket = EndpointTicket::new(addr.clone()).to_string();
        let id = id.to_string();
        assert_eq!(parse_dial(&request(Some(&format!(" {ticket}\n")), None, &[])).unwrap(), addr);
        assert_eq!(parse_dial(&request(None, Some(&id), &["192.0.2.7:4433"])).unwrap(), addr);
        assert_eq!(parse_dial(&request(None, Some(&id), &[])).unwrap(), EndpointAddr::new(addr.id));

        let code = |request: &DialRequest| parse_dial(request).unwrap_err().code;
        assert_eq!(code(&request(None, None, &[])), "invalid_dial");
        assert_eq!(code(&request(Some(&ticket), Some(&id), &[])), "invalid_dial");
        assert_eq!(code(&request(Some(&ticket[..20]), None, &[])), "invalid_ticket");
        assert_eq!(code(&request(Some(&"x".repeat(5000)), None, &[])), "invalid_ticket");
        assert_eq!(code(&request(None, Some("abc"), &[])), "invalid_endpoint_id");
        assert_eq!(code(&request(None, Some(&id), &["192.0.2.7"])), "invalid_address");
        assert_eq!(code(&request(None, Some(&id), &["192.0.2.7:0"])), "invalid_address");
        assert_eq!(code(&request(None, Some(&id), &["1.1.1.1:1"; 33])), "too_many_addrs");
    }
}
