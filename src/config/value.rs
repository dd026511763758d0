//! Types of settings that are more than text or a number.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;
use serde_json::{Value, json};

use super::setting::{Setting, unexpected};

/// Where a CAN Service's API starts.
const CAN_BASE_PATH: &str = "/api/v1/can/0";
/// Longest name of a node, in characters; what peers keep of it.
const NAME_CHARS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(pub u32);

/// Longest interval: ten years.
const DAYS_MAX: u32 = 3650;

impl Setting for Days {
    const EXPECTED: &'static str = "a whole number of days from 0 (never) to 3650";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().ok().filter(|days| *days <= DAYS_MAX).map(Self).ok_or_else(|| unexpected::<Self>(text))
    }

    fn shown(&self) -> Value {
        json!(self.0)
    }
}

/// How many copies there are to be at other places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies(pub u8);

const COPIES_MAX: u8 = 16;

impl Setting for Copies {
    const EXPECTED: &'static str = "a whole number from 1 to 16";

    fn from_text(text: &str) -> Result<Self, String> {
        let copies = text.parse().ok().filter(|copies| (1..=COPIES_MAX).contains(copies));
        copies.map(Self).ok_or_else(|| unexpected::<Self>(text))
    }

    fn shown(&self) -> Value {
        json!(self.0)
    }
}

/// Said of a URL with a user or a password in it.
const CREDENTIALS: &str = "a user and a password do not belong into the URL, which everybody is shown who looks at the settings: \
                           leave them out";

/// What is wrong with a URL with a user or a password in it, whatever else it is; nothing of it may be repeated.
pub(super) fn credentials_problem(text: &str) -> Option<&'static str> {
    let is_given = match Url::parse(text) {
        Ok(url) if !url.cannot_be_a_base() => !url.username().is_empty() || url.password().is_some(),
        // Slips, such as a missing `//`: what stands in front of the host is a secret all the same.
        Ok(_) | Err(_) => text.contains('@'),
    };
    is_given.then_some(CREDENTIALS)
}

/// Reads a URL as a setting of this type has it.
fn http_url<T: Setting>(text: &str) -> Result<HttpUrl, String> {
    match credentials_problem(text) {
        Some(problem) => Err(problem.to_owned()),
        None => HttpUrl::parse(text).ok_or_else(|| unexpected::<T>(text)),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(Url);

impl HttpUrl {
    /// Reads one; `None` for anything but `http` and `https` with a host.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let usable = matches!(url.scheme(), "http" | "https") && url.has_host();
        usable.then_some(Self(url))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn as_url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Setting for HttpUrl {
    const EXPECTED: &'static str = "a URL that starts with http:// or https://";

    fn from_text(text: &str) -> Result<Self, String> {
        http_url::<Self>(text)
    }

    fn shown(&self) -> Value {
        json!(self.as_str())
    }
}

/// The base URL of a CAN Service's API, without a slash at the end. Given without a path, it gets `/api/v1/can/0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl(String);

impl ServiceUrl {
    /// From `http://host:port`, with or without the API's path; an error says what was expected instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::from_text(text)
    }

    /// The base URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Setting for ServiceUrl {
    const EXPECTED: &'static str = "the CAN Service's URL, such as http://127.0.0.1:3210";

    fn from_text(text: &str) -> Result<Self, String> {
        let HttpUrl(url) = http_url::<Self>(text)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(unexpected::<Self>(text));
        }
        let base = url.as_str().trim_end_matches('/');
        if url.path() == "/" {
            return Ok(Self(format!("{base}{CAN_BASE_PATH}")));
        }
        if !base.ends_with(CAN_BASE_PATH) {
            let problem = unexpected::<Self>(text);
            return Err(format!(
                "{problem}: behind a path, the API is at a URL that ends with {CAN_BASE_PATH}"
            ));
        }
        Ok(Self(base.to_owned()))
    }

    fn shown(&self) -> Value {
        json!(self.0)
    }
}

/// Which iroh relay carries connections that cannot be direct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelaySetting {
    Default,
    /// None: direct connections only.
    Disabled,
    Url(HttpUrl),
}

impl Setting for RelaySetting {
    const EXPECTED: &'static str = "a relay's URL, 'default' or 'disabled'";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "default" => Ok(Self::Default),
            "disabled" => Ok(Self::Disabled),
            url => http_url::<Self>(url).map(Self::Url),
        }
    }

    fn shown(&self) -> Value {
        match self {
            Self::Default => Value::Null,
            Self::Disabled => json!("disabled"),
            Self::Url(url) => json!(url.as_str()),
        }
    }
}

/// How rendezvous slots are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotFormat {
    /// Encrypted, and under keys that change daily.
    Sealed,
    /// As earlier agents wrote and read them, for networks that still have some.
    Compatible,
}

impl Setting for SlotFormat {
    const EXPECTED: &'static str = "'sealed' or 'compatible'";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "sealed" => Ok(Self::Sealed),
            "compatible" => Ok(Self::Compatible),
            other => Err(unexpected::<Self>(other)),
        }
    }

    fn shown(&self) -> Value {
        match self {
            Self::Sealed => json!("sealed"),
            Self::Compatible => json!("compatible"),
        }
    }
}

/// This machine's name, as far as it makes a name for a node.
pub(super) fn host_name() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let name: String = host.trim().chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "unnamed".to_owned() } else { name }
}

/// What is wrong with the name of a host that is answered for, if anything. A port is allowed, and counts for nothing.
pub(super) fn host_problem(host: &str) -> Option<&'static str> {
    let may_be_named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if host.contains('/') {
        Some("give the host alone, without scheme and path")
    } else if host.contains('*') {
        Some("wildcards are not understood: name each host")
    } else if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        Some("what follows the colon is no port")
    } else if address.parse::<IpAddr>().is_ok() || (!name.is_empty() && name.chars().all(may_be_named)) {
        None
    } else {
        Some("it is no host name or address; names of other alphabets are written in ASCII (xn--…)")
    }
}

/// What is wrong with the place of a DHT node, if anything.
pub(super) fn node_problem(node: &str) -> Option<&'static str> {
    let (host, port) = node.rsplit_once(':').unwrap_or((node, ""));
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.contains(':') && host_problem(host).is_none(),
    };
    (!is_host || !is_port).then_some("expected host:port, such as router.bittorrent.com:6881")
}

/// What is wrong with a node's name, if anything.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let fits = name.chars().count() <= NAME_CHARS_MAX && !name.chars().any(char::is_control);
    (!fits).then(|| format!("expected at most {NAME_CHARS_MAX} characters, none of them a control character"))
}
