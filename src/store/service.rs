//! The CAN Service's HTTP API: an embedded store as other programs see it.
//!
//! Reading, ingest and edits need no key, unless a token is set for everything; what stands between them and web pages is [`crate::http::guard`]. Replication
//! (`/sync/…`) needs the sync API key. Content streams both ways in bounded memory, whatever its size.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use secrecy::SecretString;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::http::bearer;
use crate::http::description::{self, Description};
use crate::http::guard::{GuardSettings, protect};
use crate::store::embedded::EmbeddedStore;

mod assets;
mod content;
mod entries;
mod error;
mod events;
mod foreign;
mod ingest;
pub mod key;
mod model;
pub mod on_demand;
pub(super) mod part_name;
pub(super) mod range;
mod scrub;
mod sync;
mod trash;

use on_demand::FetchPort;

pub(crate) use error::codes;
pub use model::StatusJson;

pub const BASE_PATH: &str = "/api/v1/can/0";
/// How often an event stream without events says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What the API needs to know besides its store.
#[derive(Clone, Debug)]
pub struct ServiceSettings {
    /// Opens the sync API, and everything else where `token` is asked for.
    pub sync_api_key: SecretString,
    /// Asked for by every path, if there is one.
    pub token: Option<SecretString>,
    /// Where the server listens; requests may name this address as their host.
    pub bound_addr: SocketAddr,
    /// Further hosts that requests may name, without port.
    pub allowed_hosts: Vec<String>,
    /// How often an event stream without events says that it is alive.
    pub heartbeat: Duration,
    /// Who gets contents that are read and are not here.
    pub on_demand: FetchPort,
}

impl ServiceSettings {
    /// The defaults for a server on `bound_addr`.
    pub fn new(sync_api_key: SecretString, bound_addr: SocketAddr) -> Self {
        Self {
            sync_api_key,
            token: None,
            bound_addr,
            allowed_hosts: Vec::new(),
            heartbeat: HEARTBEAT,
            on_demand: FetchPort::default(),
        }
    }
}

struct ServiceInner {
    store: EmbeddedStore,
    key: key::KeyCheck,
    token: Option<SecretString>,
    heartbeat: Duration,
    on_demand: FetchPort,
    /// `/openapi.json`, set once the routes are known.
    description: OnceLock<Bytes>,
}

type ServiceState = State<Arc<ServiceInner>>;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "CAN Service",
        description = "Content-addressed assets: the SHA-256 of the content is the asset's name. Every JSON answer is \
            an envelope: `{\"status\":\"success\",\"data\":…}`, or `{\"status\":\"error\",\"error\":…,\"code\":…,\
            \"hint\":…}` under the HTTP status that fits.",
    ),
    tags(
        (name = "assets", description = "Store, find, read and edit assets"),
        (name = "service", description = "The service itself"),
        (name = "sync", description = "Replication between a service and an agent. Bodies are length-delimited \
            protobuf messages of `proto/can_sync.proto`"),
    ),
    modifiers(&SyncKeyScheme),
)]
struct ServiceApi;

struct SyncKeyScheme;

impl Modify for SyncKeyScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let key = ApiKeyValue::with_description(key::HEADER, "The service's sync API key");
        let scheme = SecurityScheme::ApiKey(ApiKey::Header(key));
        openapi.components.get_or_insert_default().add_security_scheme("sync_key", scheme);
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The content of `can_token_file`; asked for by every path where that is set"));
        let scheme = SecurityScheme::Http(token.build());
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The whole API over `store`, guarded, with fallbacks in the envelope. For [`serve`](fn@crate::http::serve).
pub fn router(store: EmbeddedStore, settings: ServiceSettings) -> Router {
    let service = Arc::new(ServiceInner {
        store,
        key: key::KeyCheck::new(&settings.sync_api_key),
        token: settings.token,
        heartbeat: settings.heartbeat,
        on_demand: settings.on_demand,
        description: OnceLock::new(),
    });
    let sync = OpenApiRouter::new()
        .routes(routes!(sync::feed))
        .routes(routes!(sync::records, sync::apply))
        .routes(routes!(sync::query_records))
        .routes(routes!(sync::take_absent))
        .routes(routes!(sync::let_go))
        .routes(routes!(sync::want))
        .routes(routes!(sync::content))
        .routes(routes!(sync::ingest))
        .routes(routes!(sync::redate))
        .routes(routes!(entries::list, entries::put))
        .routes(routes!(entries::history))
        .routes(routes!(entries::query))
        .routes(routes!(entries::with))
        .routes(routes!(entries::take))
        .routes(routes!(foreign::list, foreign::claim, foreign::forget));
    let api = OpenApiRouter::new()
        // Its parts are bounded one by one: the file by the disk, everything else by BODY_BYTES_MAX.
        .routes(routes!(ingest::ingest).layer(DefaultBodyLimit::disable()))
        .routes(routes!(assets::list))
        .routes(routes!(assets::search))
        .routes(routes!(content::read, assets::delete))
        .routes(routes!(assets::meta, assets::edit))
        .routes(routes!(ingest::ingest_known))
        .routes(routes!(trash::list_trash))
        .routes(routes!(trash::restore))
        .routes(routes!(scrub::status, scrub::begin))
        .routes(routes!(scrub::findings))
        .routes(routes!(scrub::damaged))
        .routes(routes!(events::events))
        .routes(routes!(assets::status))
        .routes(routes!(own_description))
        .nest("/sync", sync);
    let (router, openapi) =
        OpenApiRouter::with_openapi(ServiceApi::openapi()).nest(BASE_PATH, api).split_for_parts();
    let described = Description::of(&openapi);
    // Set once, here.
    let _ = service.description.set(described.json());
    let router = router
        .route("/openapi.json", get(own_description))
        .layer(middleware::from_fn_with_state(described, description::keep))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), sync::require_key))
        .layer(middleware::from_fn_with_state(Arc::clone(&service), require_token))
        .with_state(service);
    let guard = GuardSettings { bound_addr: settings.bound_addr, allowed_hosts: settings.allowed_hosts };
    protect(router, guard)
}

/// Where a token is asked for, lets in requests with it, and those with the sync API key: an agent needs nothing else.
async fn require_token(State(service): ServiceState, request: Request, next: Next) -> Response {
    let Some(token) = &service.token else { return next.run(request).await };
    if bearer::carries(request.headers(), token) || sync::has_key(&service, request.headers()) {
        return next.run(request).await;
    }
    bearer::missing("can_token_file").into_response()
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", operation_id = "description", tag = "service", responses(
    (status = 200, description = "An OpenAPI 3.1 document", content_type = "application/json", body = Object),
))]
async fn own_description(State(service): ServiceState) -> impl IntoResponse {
    let json = service.description.get().cloned().unwrap_or_default();
    ([(CONTENT_TYPE, "application/json")], json)
}
