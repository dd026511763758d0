//! What stands between a local HTTP server and the web pages in the user's browser.
//!
//! A page from elsewhere can make the browser send requests to our port, and by DNS rebinding even read the answers.
//! Against the second, every request must name a host that we answer for; against the first, a request that says where
//! it comes from (`Origin`, `Sec-Fetch-Site`) must come from ourselves. Programs send neither header and pass. There are
//! no CORS headers at all, and every answer forbids sniffing, framing and running anything. Probes of a cluster name the
//! address of a container as the host, or none: whether the server lives ([`PROBES`]) is told to them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use super::envelope::{ApiError, unknown_path, wrong_method};

/// What is asked by machines that watch this one, and says nothing about it.
pub const PROBES: [&str; 2] = ["/healthz", "/readyz"];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Sent with every answer that does not set its own value.
const DEFAULT_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// The requests that a server answers.
#[derive(Clone, Debug)]
pub struct GuardSettings {
    /// Where it listens. Loopback names always pass, and this address; when it is unspecified (`0.0.0.0`), every
    /// literal address does, since rebinding needs a name.
    pub bound_addr: SocketAddr,
    /// Further names and addresses, without port.
    pub allowed_hosts: Vec<String>,
}

/// Puts the guard, the default headers and the fallbacks in the envelope around everything in `router`.
pub fn protect(router: Router, settings: GuardSettings) -> Router {
    let GuardSettings { bound_addr, allowed_hosts } = settings;
    let allowed_hosts = allowed_hosts.iter().map(|host| normal_host(host)).collect();
    let settings = Arc::new(GuardSettings { bound_addr, allowed_hosts });
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(settings, guard))
}

async fn guard(State(settings): State<Arc<GuardSettings>>, request: Request, next: Next) -> Response {
    let checked = if is_probe(&request) { Ok(()) } else { settings.check(request.uri(), request.headers()) };
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in DEFAULT_HEADERS {
        headers.entry(name).or_insert(value);
    }
    response
}

/// Whether the request asks for health under an address or no host at all: a page that found us by a name of its own (DNS
/// rebinding) sends that name.
fn is_probe(request: &Request) -> bool {
    let names_none = |host: &HeaderValue| {
        let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
        host.is_some_and(|host| normal_host(host.host()).parse::<IpAddr>().is_ok())
    };
    PROBES.contains(&request.uri().path())
        && request.method().is_safe()
        && request.headers().get_all(header::HOST).iter().all(names_none)
}

impl GuardSettings {
    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let host = self.check_host(uri, headers)?;
        // A browser that says that the page is ours knows better than we do behind a proxy with a port of its own.
        if check_site(headers)? { Ok(()) } else { check_origin(headers, &host) }
    }

    /// The one host that the request names, if we answer for it.
    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<Authority, ApiError> {
        let mut named = headers.get_all(header::HOST).iter();
        let host = match (named.next(), named.next()) {
            (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
            (None, _) => uri.authority().cloned(),
            (Some(_), Some(_)) => None,
        };
        let refusal = |host: &str| {
            let host: String = host.chars().take(100).collect();
            ApiError::new(
                StatusCode::MISDIRECTED_REQUEST,
                "host_not_allowed",
                format!("this server does not answer for the host '{host}'"),
                "use the address that it listens on, or add the host to the setting allowed_hosts",
            )
        };
        if headers.get(header::HOST).is_none() && host.is_none() {
            let hint = "HTTP/1.1 asks for the header Host: name the address that it listens on";
            return Err(ApiError::bad_request("host_missing", "the request names no host", hint));
        }
        let host = host.ok_or_else(|| refusal(""))?;
        // A request line may name a host too; two different ones are somebody's trick.
        let consistent = uri.authority().is_none_or(|authority| *authority == host);
        if consistent && self.allows(host.host()) { Ok(host) } else { Err(refusal(host.host())) }
    }

    fn allows(&self, host: &str) -> bool {
        let host = normal_host(host);
        if let Ok(ip) = host.parse::<IpAddr>() {
            let bound = self.bound_addr.ip();
            if ip.is_loopback() || ip == bound || bound.is_unspecified() {
                return true;
            }
        }
        host == "localhost" || self.allowed_hosts.contains(&host)
    }
}

/// Lower case, without the brackets of IPv6 and the dot that ends a full name.
fn normal_host(host: &str) -> String {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

fn cross_origin(from: &str) -> ApiError {
    let from: String = from.chars().take(100).collect();
    ApiError::new(
        StatusCode::FORBIDDEN,
        "cross_origin",
        format!("this request comes from another site ({from})"),
        "open the address directly, or use a program rather than a web page",
    )
}

/// Whether a browser says that the request comes from a page of this very origin. Scripts cannot set the header.
fn check_site(headers: &HeaderMap) -> Result<bool, ApiError> {
    let mut is_same_origin = false;
    for site in headers.get_all(SEC_FETCH_SITE) {
        // `none` is the user's own doing: typed, or from a bookmark.
        if site != "same-origin" && site != "none" {
            return Err(cross_origin(&String::from_utf8_lossy(site.as_bytes())));
        }
        is_same_origin = site == "same-origin";
    }
    Ok(is_same_origin)
}

fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), ApiError> {
    for origin in headers.get_all(header::ORIGIN) {
        let text = String::from_utf8_lossy(origin.as_bytes());
        if !is_origin_of(&text, host) {
            return Err(cross_origin(&text));
        }
    }
    Ok(())
}

/// Whether `origin` is this very server under the name by which it was asked. A TLS proxy in front of it is the one
/// case where the schemes may differ.
fn is_origin_of(origin: &str, host: &Authority) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    normal_host(authority.host()) == normal_host(host.host())
        && authority.port_u16().unwrap_or(default_port) == host.port_u16().unwrap_or(default_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(bound: &str) -> GuardSettings {
        GuardSettings { bound_addr: bound.parse().unwrap(), allowed_hosts: vec!["nas.lan".into()] }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn status(bound: &str, pairs: &[(&'static str, &str)]) -> u16 {
        let uri = Uri::from_static("/api");
        let checked = settings(bound).check(&uri, &headers(pairs));
        checked.map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn hosts() {
        let loopback = "127.0.0.1:3210";
        for good in
            ["localhost", "LOCALHOST:1", "127.0.0.1:3210", "127.3.2.1", "[::1]:3210", "localhost.", "nas.lan"]
        {
            assert_eq!(status(loopback, &[("host", good)]), 200, "{good}");
        }
        for bad in ["evil.example", "10.0.0.7", "localhost.evil.example", "", "a b", "nas.lan.evil"] {
            assert_eq!(status(loopback, &[("host", bad)]), 421, "{bad}");
        }
        assert_eq!(status("10.0.0.7:3210", &[("host", "10.0.0.7:3210")]), 200);
        assert_eq!(status("10.0.0.7:3210", &[("host", "10.0.0.8:3210")]), 421);
        assert_eq!(status("0.0.0.0:3210", &[("host", "10.0.0.8:3210")]), 200);
        assert_eq!(status("0.0.0.0:3210", &[("host", "evil.example:3210")]), 421);
        assert_eq!(status(loopback, &[]), 400);
    }

    #[test]
    fn two_hosts_are_refused() {
        let mut two = headers(&[("host", "localhost")]);
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(settings("127.0.0.1:1").check(&Uri::from_static("/"), &two).is_err());
        let one = headers(&[("host", "localhost")]);
        assert!(settings("127.0.0.1:1").check(&Uri::from_static("http://evil.example/"), &one).is_err());
    }

    #[test]
    fn origins() {
        let with = |origin: &str| status("127.0.0.1:3210", &[("host", "localhost:3210"), ("origin", origin)]);
        assert_eq!(with("http://localhost:3210"), 200);
        for bad in [
            "http://localhost:8080",
            "http://evil.example",
            "null",
            "file://localhost:3210",
            "http://127.0.0.1:3210",
        ] {
            assert_eq!(with(bad), 403, "{bad}");
        }
        let behind_tls = [("host", "nas.lan"), ("origin", "https://nas.lan")];
        assert_eq!(status("127.0.0.1:3210", &behind_tls), 200);
    }

    #[test]
    fn sites() {
        let with =
            |site: &str| status("127.0.0.1:3210", &[("host", "localhost:3210"), ("sec-fetch-site", site)]);
        assert_eq!((with("same-origin"), with("none")), (200, 200));
        assert_eq!((with("same-site"), with("cross-site")), (403, 403));
        let behind_a_proxy = [("host", "nas.lan"), ("origin", "https://nas.lan:8443")];
        assert_eq!(status("127.0.0.1:3210", &behind_a_proxy), 403, "any program can write that");
        let from_our_page = [behind_a_proxy[0], behind_a_proxy[1], ("sec-fetch-site", "same-origin")];
        assert_eq!(status("127.0.0.1:3210", &from_our_page), 200);
    }
}
