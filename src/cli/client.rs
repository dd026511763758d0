//! HTTP towards the daemon and its CAN Service.

use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MATCH};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::advice;
use super::error::{CliError, CliResult, Exit};
use crate::identity::{self, Mend};

/// For a connection, which is local as a rule.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For an answer in JSON, complete.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two pieces of a body: event streams say something every 15 s.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
/// Largest answer in JSON: a page of 1,000 assets with all the metadata that they may have.
const ANSWER_BYTES_MAX: usize = 32 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerKind {
    Agent,
    Store,
}

/// The daemon's API, or a CAN Service.
#[derive(Clone, Debug)]
pub(super) struct ApiClient {
    kind: ServerKind,
    base: String,
    /// What every path begins with, beyond the base.
    prefix: &'static str,
    client: Client,
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum Envelope<T> {
    Success { data: T },
    Error { error: String, hint: Option<String>, code: Option<String> },
}

impl ApiClient {
    /// The daemon's API at a base URL, with the token in a file where there is one.
    pub(super) fn agent(base: &str, token_file: Option<&Path>) -> CliResult<Self> {
        let mut headers = HeaderMap::new();
        if let Some(path) = token_file {
            let token = identity::read_given(path, Mend::Never)
                .map_err(|e| CliError::failure(format!("api_token_file: {e}")))?
                .text;
            let malformed = |_| CliError::failure(format!("'{}' holds no token", path.display()));
            let bytes = format!("Bearer {}", identity::normal(&token).as_str()).into_bytes();
            let mut value = HeaderValue::from_bytes(&bytes).map_err(malformed)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Self::new(ServerKind::Agent, base, headers)
    }

    /// A CAN Service at the base URL of its API.
    pub(super) fn store(base: &str) -> CliResult<Self> {
        Self::new(ServerKind::Store, base, HeaderMap::new())
    }

    fn new(kind: ServerKind, base: &str, headers: HeaderMap) -> CliResult<Self> {
        let client = Client::builder()
            .default_headers(headers)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .map_err(|e| CliError::failure(format!("cannot set up a connection: {}", chain(&e))))?;
        Ok(Self { kind, base: base.trim_end_matches('/').to_owned(), prefix: "", client })
    }

    /// The same, for paths below `prefix`.
    pub(super) fn below(self, prefix: &'static str) -> Self {
        Self { prefix, ..self }
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// A request to be sent with [`Self::send`].
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{}{path}", self.base, self.prefix))
    }

    /// Sends a request; the answer's body has not been read.
    ///
    /// # Errors
    /// Also for any status that is not a success, with what the service said.
    pub(super) async fn send(&self, request: RequestBuilder) -> CliResult<Response> {
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    /// Sends a request and reads the answer's `data`.
    pub(super) async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> CliResult<T> {
        let response = self.send(request).await?;
        self.data(response).await
    }

    async fn data<T: DeserializeOwned>(&self, response: Response) -> CliResult<T> {
        let body = self.read(response).await?;
        match serde_json::from_slice(&body) {
            Ok(Envelope::Success { data }) => Ok(data),
            Ok(Envelope::Error { .. }) | Err(_) => Err(self.foreign()),
        }
    }

    /// `GET`, with the tag of the version that the answer is of, where the service tells one.
    pub(super) async fn get_version<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> CliResult<(T, Option<HeaderValue>)> {
        let response = self.send(self.request(Method::GET, path).timeout(ANSWER_TIMEOUT)).await?;
        let tag = response.headers().get(ETAG).cloned();
        Ok((self.data(response).await?, tag))
    }

    /// As [`Self::call`], for a change that is meant for the version of this tag; `None` if there is another one by now.
    pub(super) async fn change<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        tag: Option<HeaderValue>,
    ) -> CliResult<Option<T>> {
        let request = match tag {
            Some(tag) => request.header(IF_MATCH, tag),
            None => request,
        };
        let response = request.timeout(ANSWER_TIMEOUT).send().await.map_err(|e| self.unreachable(&e))?;
        match response.status() {
            StatusCode::PRECONDITION_FAILED => Ok(None),
            status if status.is_success() => self.data(response).await.map(Some),
            _ => Err(self.refused(response).await),
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> CliResult<T> {
        self.call(self.request(Method::GET, path).query(query).timeout(ANSWER_TIMEOUT)).await
    }

    /// `GET` of all pages of a list; `page` takes one apart: what is on it, and the cursor of the next.
    pub(super) async fn all<P: DeserializeOwned, T>(
        &self,
        path: &str,
        query: &[(&str, String)],
        page: impl Fn(P) -> (Vec<T>, Option<String>),
    ) -> CliResult<Vec<T>> {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let query: Vec<_> =
                query.iter().cloned().chain(cursor.map(|cursor| ("cursor", cursor))).collect();
            let (some, next) = page(self.get(path, &query).await?);
            all.extend(some);
            cursor = next;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> CliResult<T> {
        self.call(self.request(Method::POST, path).json(body).timeout(ANSWER_TIMEOUT)).await
    }

    pub(super) async fn delete(&self, path: &str) -> CliResult {
        self.send(self.request(Method::DELETE, path).timeout(ANSWER_TIMEOUT)).await.map(drop)
    }

    async fn read(&self, mut response: Response) -> CliResult<BytesMut> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(self.foreign());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What a request that got no answer, or half of one, means.
    pub(super) fn unreachable(&self, e: &reqwest::Error) -> CliError {
        let Self { base, .. } = self;
        if e.is_connect() {
            return match self.kind {
                ServerKind::Agent => {
                    CliError::new(Exit::NoDaemon, format!("no can-sync daemon answers at {base}"))
                        .hint("start one with `can-sync serve`, or name another with --api")
                }
                ServerKind::Store => {
                    CliError::new(Exit::Degraded, format!("the CAN Service at {base} does not answer"))
                        .hint("`can-sync status` says what the daemon knows about it")
                }
            };
        }
        let who = self.who();
        if e.is_timeout() {
            return CliError::new(Exit::Timeout, format!("{who} at {base} took too long to answer"));
        }
        tracing::debug!(reason = chain(e), "the connection broke off");
        CliError::failure(format!("the connection to {who} at {base} broke off before it had answered"))
            .hint("it may have been stopped meanwhile: `can-sync status` says whether one runs")
    }

    fn who(&self) -> &'static str {
        match self.kind {
            ServerKind::Agent => "the can-sync daemon",
            ServerKind::Store => "the CAN Service",
        }
    }

    fn foreign(&self) -> CliError {
        CliError::failure(format!("what answers at {} is not {}", self.base, self.who()))
            .hint("is another program at this address?")
    }

    async fn refused(&self, response: Response) -> CliError {
        let status = response.status();
        let exit = match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::MISDIRECTED_REQUEST => {
                Exit::NotAllowed
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => Exit::Degraded,
            StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => Exit::Timeout,
            _ => Exit::Failure,
        };
        let body = match self.read(response).await {
            Ok(body) => body,
            Err(e) => return e,
        };
        match serde_json::from_slice::<Envelope<serde_json::Value>>(&body) {
            Ok(Envelope::Error { error, hint, code }) => {
                // What a query is made of was typed.
                let is_typed = code.as_deref() == Some("invalid_parameter");
                let exit = if is_typed { Exit::Usage } else { exit };
                let error = CliError::new(exit, advice::in_words(&error)).with_code(code);
                match hint.as_deref().and_then(advice::for_people) {
                    Some(advice) => error.hint(advice),
                    None => error,
                }
            }
            // Not in our envelope: something else answers, and its status means nothing to us.
            Ok(Envelope::Success { .. }) | Err(_) => self.foreign(),
        }
    }
}

/// An error with its causes: reqwest's own text names only the outermost.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
