//! The `OpenAPI` description of an API, made complete; and kept to: what a request may hold is what the description says.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::header::CONTENT_ENCODING;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use super::envelope::{ApiError, ApiResult};

/// How much a name has to resemble another one to be taken for a slip of the pen; 1 is the same.
const LIKENESS_MIN: f64 = 0.75;
/// Hashes and ids in paths.
const ID_PATTERN: &str = "^[0-9a-f]{64}$";
/// The code of a refusal because of a parameter that the operation does not have: the service may be an older one.
pub const UNKNOWN_PARAMETER: &str = "unknown_parameter";
const METHODS: [&str; 6] = ["get", "post", "put", "patch", "delete", "head"];

/// What a server says of itself, and the parameters that the queries of its operations may hold.
#[derive(Clone)]
pub struct Description(Arc<Described>);

struct Described {
    json: Bytes,
    parameters: HashMap<(Method, String), BTreeSet<String>>,
}

impl Description {
    /// Completes what the handlers say: each answer has a description, each error the envelope, and what every operation may
    /// answer stands at every one.
    pub fn of(openapi: &OpenApi) -> Self {
        let mut document = serde_json::to_value(openapi).unwrap_or_else(|error| {
            tracing::error!(%error, "the API's description cannot be written as JSON");
            json!({})
        });
        let (mut parameters, mut ids) = (HashMap::new(), BTreeSet::new());
        if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
            for (path, item) in paths {
                for method in METHODS {
                    let Some(operation) = item.get_mut(method).and_then(Value::as_object_mut) else {
                        continue;
                    };
                    complete(method, operation);
                    identify(operation, &mut ids);
                    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
                    parameters.insert((method, path.clone()), query_parameters(operation));
                }
            }
        }
        Self(Arc::new(Described { json: document.to_string().into(), parameters }))
    }

    pub fn json(&self) -> Bytes {
        self.0.json.clone()
    }

    /// Refuses parameters that the operation does not have: nobody should believe that a filter worked whose name was misspelt.
    fn check_query(&self, request: &Request) -> ApiResult<()> {
        // Most requests have none, and cost nothing here.
        if request.uri().query().is_none_or(str::is_empty) {
            return Ok(());
        }
        let Some(path) = request.extensions().get::<MatchedPath>() else { return Ok(()) };
        let of = |method: &Method| self.0.parameters.get(&(method.clone(), path.as_str().to_owned()));
        let described = match *request.method() {
            Method::HEAD => of(&Method::HEAD).or_else(|| of(&Method::GET)),
            ref method => of(method),
        };
        let Some(known) = described else { return Ok(()) };
        // What cannot be read is for the handler to refuse, who says how.
        let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) else {
            return Ok(());
        };
        match pairs.into_iter().find(|(name, _)| !known.contains(name)) {
            Some((name, _)) => Err(unknown_parameter(&name, known)),
            None => Ok(()),
        }
    }
}

/// Refuses what the description does not have, before any handler runs.
pub async fn keep(State(description): State<Description>, request: Request, next: Next) -> Response {
    match check_encoding(&request).and_then(|()| description.check_query(&request)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// A body is taken as it comes: stored compressed, it would be another content under another name.
fn check_encoding(request: &Request) -> ApiResult<()> {
    let encodings = request.headers().get_all(CONTENT_ENCODING).iter();
    let encoded = encodings.filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity")).count();
    if encoded == 0 {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_content_encoding",
        "the body of the request is compressed or encoded in another way",
        "send it as it is, without the header 'Content-Encoding'",
    ))
}

fn unknown_parameter(name: &str, known: &BTreeSet<String>) -> ApiError {
    let likeness = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), known);
    let nearest = known.iter().map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0));
    let hint = match nearest {
        Some((likeness, known)) if likeness >= LIKENESS_MIN => format!("did you mean '{known}'?"),
        Some(_) => {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            format!("what there is: {}", known.join(", "))
        }
        None => "this request takes no parameters".to_owned(),
    };
    let name = crate::text::quoted(name);
    ApiError::bad_request(UNKNOWN_PARAMETER, format!("there is no parameter '{name}'"), hint)
}

fn query_parameters(operation: &Map<String, Value>) -> BTreeSet<String> {
    let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
    let queried = parameters.filter(|parameter| parameter["in"] == "query");
    queried.filter_map(|parameter| parameter["name"].as_str().map(ToOwned::to_owned)).collect()
}

/// Handlers of one name stand in different rooms: the second one is told by what it is about, too.
fn identify(operation: &mut Map<String, Value>, ids: &mut BTreeSet<String>) {
    let about = operation.get("tags").and_then(|tags| tags[0].as_str()).unwrap_or("other").to_owned();
    let Some(Value::String(id)) = operation.get_mut("operationId") else { return };
    if ids.contains(id) {
        *id = format!("{about}_{id}");
    }
    ids.insert(id.clone());
}

fn complete(method: &str, operation: &mut Map<String, Value>) {
    if method == "head"
        && let Some(Value::String(id)) = operation.get_mut("operationId")
    {
        // One handler answers both.
        id.push_str("_head");
    }
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        let is_id = parameter["in"] == "path" && (parameter["name"] == "hash" || parameter["name"] == "id");
        if let Some(schema) = parameter["schema"].as_object_mut().filter(|_| is_id) {
            schema.entry("pattern").or_insert_with(|| ID_PATTERN.into());
        }
    }
    let (has_body, is_secured) = (operation.contains_key("requestBody"), operation.contains_key("security"));
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    let error = |description: &str| json!({ "description": description });
    let missing = [
        ("400", true, "A parameter or a header is malformed or unknown, or the request names no host."),
        ("401", is_secured, "The key is missing or wrong."),
        ("408", has_body, "The body stopped arriving."),
        ("413", has_body, "The body is too long."),
        ("415", has_body, "The body is of another media type, or compressed."),
        (
            "default",
            true,
            "Any other refusal, in the same envelope: of the host, the origin, the token, or of what is too much.",
        ),
    ];
    for (status, is_possible, description) in missing {
        if is_possible {
            responses.entry(status).or_insert_with(|| error(description));
        }
    }
    for (status, response) in responses.iter_mut() {
        let Some(response) = response.as_object_mut() else { continue };
        if response.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
            response.insert("description".into(), success(status).into());
        }
        let is_error = status == "default" || status.starts_with(['4', '5']);
        if is_error && !response.contains_key("content") {
            let schema = json!({ "$ref": "#/components/schemas/ErrorBody" });
            response.insert("content".into(), json!({ "application/json": { "schema": schema } }));
        }
    }
}

fn success(status: &str) -> &'static str {
    match status {
        "201" => "It was made.",
        "202" => "It is under way.",
        "204" => "It is done.",
        _ => "What was asked for.",
    }
}
