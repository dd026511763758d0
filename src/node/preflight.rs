//! What a start would refuse, found without starting: by the start itself, so that one which cannot work changes nothing, and
//! by `config check`. Everything that is wrong is found at once, with the setting to blame.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use iroh::{EndpointAddr, EndpointId, RelayMode};
use iroh_tickets::endpoint::EndpointTicket;
use rustix::fs::Access;

use super::running::NodePresence;
use super::secrets::GivenSecrets;
use super::{DataDir, at_rest};
use crate::config::{Config, HoldFilter, HoldSetting, Origin, Origins, RelaySetting};
use crate::http::SharedListener;
use crate::library::filter::{Filter, FilterError, FilterSpec};
use crate::library::hold::HoldRule;
use crate::net::sockets;
use crate::store::bucket::preflight::place_problem;
use crate::text::quoted;

/// A setting with which no node starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SettingProblem {
    /// Its full key.
    pub(crate) setting: &'static str,
    pub(crate) origin: Origin,
    /// What is wrong, and what to do.
    pub(crate) problem: String,
}

impl SettingProblem {
    pub(super) fn new(origins: &Origins, setting: &'static str, problem: impl Into<String>) -> Self {
        let origin = origins.get(setting).cloned().unwrap_or(Origin::Default);
        Self { setting, origin, problem: problem.into() }
    }
}

impl fmt::Display for SettingProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, origin, problem } = self;
        match origin {
            Origin::Default => write!(f, "{setting}: {problem}"),
            Origin::File { .. } | Origin::Env(_) | Origin::Flag(_) | Origin::Stdin => {
                write!(f, "{origin}: {setting}: {problem}")
            }
        }
    }
}

/// What the settings name and a start reads before it makes anything.
pub(super) struct Preflight {
    pub(super) secrets: GivenSecrets,
    pub(super) bootstrap: Vec<EndpointAddr>,
    pub(super) relay: RelayMode,
    pub(super) hold: HoldRule,
    /// What somebody should know, although a start works.
    pub(super) remarks: Vec<String>,
}

impl Preflight {
    /// Reads everything, and makes and changes nothing.
    pub(super) fn look(config: &Config, origins: &Origins) -> Result<Self, Vec<SettingProblem>> {
        let mut problems = Vec::new();
        let mut refuse =
            |setting, problem: String| problems.push(SettingProblem::new(origins, setting, problem));
        let bootstrap = parse_bootstrap(&config.discovery.bootstrap, &mut |problem| {
            refuse("discovery.bootstrap", problem);
        });
        let relay = relay_mode(&config.relay_url).map_err(|problem| refuse("relay_url", problem)).ok();
        let hold = hold_rule(&config.hold).map_err(|error| refuse("hold", error.to_string())).ok();
        if let Some(problem) = config.ticket_file.as_deref().and_then(unwritable_file) {
            refuse("ticket_file", problem);
        }
        let mut remarks: Vec<String> = unguarded_store(config).into_iter().collect();
        remarks.extend(quota_of_nothing(config));
        remarks.extend(unbound_folders(config));
        let secrets = match GivenSecrets::look(config, origins) {
            Ok(secrets) => Some(secrets),
            Err(found) => {
                problems.extend(found);
                None
            }
        };
        // What cannot be looked into has been named already.
        let named = problems.iter().any(|problem| problem.setting == "data_dir");
        if let Some(problem) = unwritable_dir(&config.data_dir).filter(|_| !named) {
            let problem = format!("{problem}; check that this user may write there");
            problems.push(SettingProblem::new(origins, "data_dir", problem));
        }
        if let Some(place) = config.store.content.0.as_ref().filter(|_| config.can_service_url.is_none())
            && let Some(problem) = place_problem(place, &DataDir::new(&config.data_dir).store())
        {
            problems.push(SettingProblem::new(origins, "store.content", problem));
        }
        for problem in at_rest::problems(config) {
            problems.push(SettingProblem::new(origins, "data_dir", problem));
        }
        match (secrets, relay, hold) {
            (Some(secrets), Some(relay), Some(hold)) if problems.is_empty() => {
                remarks.extend(secrets.remarks.iter().cloned());
                Ok(Self { secrets, bootstrap, relay, hold, remarks })
            }
            (Some(_) | None, Some(_) | None, Some(_) | None) => Err(problems),
        }
    }
}

pub(super) struct Listeners {
    pub(super) api: SharedListener,
    /// The embedded CAN Service's.
    pub(super) can: Option<SharedListener>,
}

impl Listeners {
    /// Opens them, and looks whether the UDP socket could be opened as well.
    pub(super) fn open(config: &Config, origins: &Origins) -> Result<Self, Vec<SettingProblem>> {
        let mut problems = Vec::new();
        let mut listen = |addr: SocketAddr, setting| {
            let limits = super::serve_limits(&config.limits);
            let listener = SharedListener::bind(addr).map(|listener| listener.within(limits));
            listener
                .map_err(|e| {
                    let problem = if e.source.kind() == io::ErrorKind::AddrInUse {
                        format!("{e}, perhaps by another agent: stop that one, or take another address")
                    } else {
                        format!("{e}; take an address of this machine, and a port that this user may use")
                    };
                    problems.push(SettingProblem::new(origins, setting, problem));
                })
                .ok()
        };
        let api = listen(config.listen_addr, "listen_addr");
        let is_embedded = config.can_service_url.is_none();
        let can = is_embedded.then(|| listen(config.can_listen_addr, "can_listen_addr")).flatten();
        if let Err(e) = sockets::check(config.bind_addr) {
            problems.push(SettingProblem::new(origins, "bind_addr", udp_problem(config.bind_addr, &e)));
        }
        match api {
            Some(api) if problems.is_empty() => Ok(Self { api, can }),
            Some(_) | None => Err(problems),
        }
    }
}

/// What is wrong with the UDP socket, and what to do.
pub(super) fn udp_problem(asked: SocketAddr, cause: &dyn fmt::Display) -> String {
    let both = match sockets::counterpart(asked) {
        Some(_) => format!(" ({asked} stands for IPv4 and IPv6)"),
        None => String::new(),
    };
    format!("{cause}{both}; take a free address of this machine")
}

/// Everything that a start with this configuration would refuse; what it would take, with remarks. What its own node has
/// open while it runs is nobody else's.
pub(crate) fn examine(config: &Config, origins: &Origins) -> Result<Vec<String>, Vec<SettingProblem>> {
    let looked = Preflight::look(config, origins);
    let listeners = match NodePresence::of(&DataDir::new(&config.data_dir)) {
        NodePresence::Running(_) | NodePresence::Starting => Vec::new(),
        NodePresence::Unknown | NodePresence::Stopped => {
            Listeners::open(config, origins).err().unwrap_or_default()
        }
    };
    match looked {
        Ok(looked) if listeners.is_empty() => Ok(looked.remarks),
        Ok(_) => Err(listeners),
        Err(mut problems) => {
            problems.extend(listeners);
            Err(problems)
        }
    }
}

/// A warning where other machines reach the embedded store, and it asks nobody who they are.
fn unguarded_store(config: &Config) -> Option<String> {
    let addr = config.can_listen_addr;
    let is_open =
        config.can_service_url.is_none() && config.can_token_file.is_none() && !addr.ip().is_loopback();
    is_open.then(|| {
        format!(
            "can_listen_addr: {addr} can be reached from other machines, and anyone who reaches it can read, add and delete \
             assets: set can_token_file, or listen on 127.0.0.1"
        )
    })
}

/// A warning where the quota leaves room for no content at all.
fn quota_of_nothing(config: &Config) -> Option<String> {
    let is_nothing = config.can_service_url.is_none() && config.store.quota_bytes == Some(0);
    is_nothing.then(|| {
        "store.quota_bytes: 0 leaves no room for any content, a file that is put here either: leave it out for as much as the disk has"
            .to_owned()
    })
}

/// Folders whose directories are not there now: a start goes on without them, and tries again.
fn unbound_folders(config: &Config) -> impl Iterator<Item = String> {
    config.folders.0.iter().enumerate().filter_map(|(place, folder)| {
        let path = folder.path.display();
        let problem = match std::fs::metadata(&folder.path) {
            Ok(found) if found.is_dir() => return None,
            Ok(_) => "it is no directory".to_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => "there is no such directory".to_owned(),
            Err(e) => e.to_string(),
        };
        Some(format!(
            "folders[{place}]: {path}: {problem}; it is bound once it is there, and `can-sync folder status` says so"
        ))
    })
}

/// Peers to try first: endpoint ids or tickets.
fn parse_bootstrap(entries: &[String], refuse: &mut dyn FnMut(String)) -> Vec<EndpointAddr> {
    let mut parse = |entry: &String| {
        let ticket = entry.parse::<EndpointTicket>().map(|ticket| ticket.endpoint_addr().clone());
        let addr = ticket.or_else(|_| entry.parse::<EndpointId>().map(EndpointAddr::new));
        addr.map_err(|_| refuse(format!("'{}' is neither an endpoint id nor a ticket", quoted(entry)))).ok()
    };
    entries.iter().filter_map(&mut parse).collect()
}

/// Of which assets contents are held here.
pub(super) fn hold_rule(setting: &HoldSetting) -> Result<HoldRule, FilterError> {
    let HoldFilter { application, tags, user, mime_prefix, hashes } = match setting {
        HoldSetting::Everything => return Ok(HoldRule::Everything),
        HoldSetting::Nothing => return Ok(HoldRule::Nothing),
        HoldSetting::Matching(filter) => filter.clone(),
    };
    let spec = FilterSpec { application, tags, user, mime_prefix, hashes, folder: None };
    Filter::try_from(spec).map(HoldRule::Matching)
}

fn relay_mode(setting: &RelaySetting) -> Result<RelayMode, String> {
    Ok(match setting {
        RelaySetting::Default => RelayMode::Default,
        RelaySetting::Disabled => RelayMode::Disabled,
        RelaySetting::Url(url) => {
            let parsed = url.as_str().parse();
            RelayMode::custom([parsed.map_err(|e| format!("'{}': {e}", url.as_str()))?])
        }
    })
}

/// Why nothing can be kept in a directory, or in what has to be made for it.
fn unwritable_dir(dir: &Path) -> Option<String> {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let exists = |path: &&Path| path.symlink_metadata().is_ok();
    let there = absolute.ancestors().find(exists).unwrap_or(Path::new("/")).to_owned();
    let shown = if there == absolute { dir.display() } else { there.display() };
    let whole = if there == absolute { String::new() } else { format!("cannot make '{}': ", dir.display()) };
    match std::fs::metadata(&there) {
        Ok(metadata) if !metadata.is_dir() => Some(format!("{whole}'{shown}' is no directory")),
        Ok(_) if is_of_kernel(&there) => {
            Some(format!("{whole}'{shown}' is the system's own, and no place for files"))
        }
        Ok(_) => {
            let may = rustix::fs::access(&there, Access::WRITE_OK | Access::EXEC_OK);
            may.err().map(|e| format!("{whole}cannot write in '{shown}': {}", io::Error::from(e)))
        }
        Err(e) => Some(format!("{whole}cannot look at '{shown}': {e}")),
    }
}

/// Whether a directory is in a file system in which the kernel shows what it knows: root may write there by its permissions, and
/// nobody can make anything.
#[cfg(target_os = "linux")]
fn is_of_kernel(dir: &Path) -> bool {
    /// procfs, sysfs, debugfs, tracefs, cgroup, cgroup2, bpf, by the numbers that `statfs` gives them.
    const KINDS: [u32; 7] =
        [0x9fa0, 0x6265_6572, 0x6462_6720, 0x7472_6163, 0x0027_e0eb, 0x6367_7270, 0xcafe_4a11];
    let kind = rustix::fs::statfs(dir).ok().and_then(|stat| u32::try_from(stat.f_type & 0xffff_ffff).ok());
    kind.is_some_and(|kind| KINDS.contains(&kind))
}

#[cfg(not(target_os = "linux"))]
fn is_of_kernel(_dir: &Path) -> bool {
    false
}

/// Why a file cannot be written and exchanged.
fn unwritable_file(path: &Path) -> Option<String> {
    if path.is_dir() {
        return Some(format!("'{}' is a directory: name a file", path.display()));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent: PathBuf = parent.unwrap_or(Path::new(".")).to_owned();
    if !parent.exists() {
        let (path, parent) = (path.display(), parent.display());
        return Some(format!("cannot write '{path}': there is no directory '{parent}'"));
    }
    unwritable_dir(&parent).map(|problem| format!("cannot write '{}': {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_directory_would_have_to_be_made_in_decides() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(unwritable_dir(&home.path().join("a/b")), None);
        std::fs::write(home.path().join("file"), "").unwrap();
        let problem = unwritable_dir(&home.path().join("file/data")).unwrap();
        assert!(problem.contains("file/data'") && problem.contains("is no directory"), "{problem}");
        let dangling = home.path().join("link");
        std::os::unix::fs::symlink(home.path().join("nowhere"), &dangling).unwrap();
        assert!(unwritable_dir(&dangling).unwrap().contains("link'"));
        assert!(!home.path().join("a").exists());
        #[cfg(target_os = "linux")]
        for dir in ["/proc/data", "/proc/self/data", "/sys/data/deeper"] {
            let problem = unwritable_dir(Path::new(dir)).unwrap();
            assert!(problem.contains("no place for files"), "{problem}");
        }
        assert!(unwritable_file(home.path()).unwrap().contains("is a directory"));
        assert!(unwritable_file(&home.path().join("no/ticket")).unwrap().contains("no directory"));
        assert_eq!(unwritable_file(&home.path().join("ticket")), None);
    }

    #[test]
    fn a_quota_of_nothing_is_remarked_upon() {
        let of = |quota_bytes| {
            let mut config = Config::default();
            config.store.quota_bytes = quota_bytes;
            quota_of_nothing(&config)
        };
        assert!(of(Some(0)).unwrap().contains("store.quota_bytes: 0"));
        assert_eq!((of(Some(1)), of(None)), (None, None));
    }

    #[test]
    fn every_address_that_cannot_be_had_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let also = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let config = Config {
            listen_addr: taken.local_addr().unwrap(),
            // Of a net that is kept for examples.
            can_listen_addr: "192.0.2.1:0".parse().unwrap(),
            bind_addr: also.local_addr().unwrap(),
            ..Config::default()
        };
        let problems = Listeners::open(&config, &Origins::new()).err().unwrap();
        let named: Vec<_> = problems.iter().map(|problem| problem.setting).collect();
        assert_eq!(named, ["listen_addr", "can_listen_addr", "bind_addr"]);
        assert!(problems[0].problem.contains("is in use") && problems[2].problem.contains("is in use"));
        assert!(problems[1].problem.contains("192.0.2.1:0"), "{:?}", problems[1]);
    }
}
