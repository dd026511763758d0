//! The local network: says by multicast DNS that we are here, and hears who else is.
//!
//! The service's name derives from the passphrase, so that networks do not see one another; it is no secret. Everybody on
//! the local network can hear it and use it. So each answer has a tag, which nobody can make for an endpoint id of his own
//! without the passphrase; an answer without the right one is passed over. Where a peer says that it is stays a hint: answers
//! can be heard and sent again.
//!
//! Queries go out on every IPv4 interface, loopback included: on the one of the default route alone, as usual, two machines
//! on one cable, or two agents on a machine without a network, never meet. Without IPv4, IPv6's default interface is used.
//! When the interfaces change, it starts afresh. A network that takes no multicast makes the channel `down`, nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use iroh::{EndpointAddr, EndpointId, SecretKey};
use iroh_tickets::endpoint::EndpointTicket;
use netwatch::interfaces::{Interface, State as Interfaces};
use subtle::ConstantTimeEq as _;
use swarm_discovery::{Discoverer, DropGuard, IpClass, Peer};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::announcement::{ADDRS_MAX, is_dialable};
use super::candidates::Candidates;
use super::channel::{Channel, Channels};
use crate::clock::now_ms;
use crate::identity::Key;

/// Where multicast DNS happens.
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// Somebody asks about this often, however many there are.
const CADENCE: Duration = Duration::from_secs(2);
/// As [`CADENCE`], where somebody waits for it and nobody else takes part.
const TRIAL_CADENCE: Duration = Duration::from_millis(300);
/// An address to announce in a trial; nobody dials it (RFC 5737).
const TRIAL_ADDR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// After a start it asks this often for so long.
const EAGER_CADENCE: Duration = Duration::from_millis(300);
const EAGER_FOR: Duration = Duration::from_secs(5);
/// Answers per second that everybody together gives.
const ANSWERS_PER_SEC: f32 = 1.0;
/// How often the interfaces are looked at, and a network that took no multicast is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const INTERFACES_MAX: usize = 16;
/// Answers that wait for us; what does not fit comes again with the next ones.
const ANSWERS_MAX: usize = 64;
const TAG_ATTRIBUTE: &str = "tag";
const TAG_BYTES: usize = 16;
/// Peers of which we know that we have told of them; beyond that, all are told of once more.
const TOLD_MAX: usize = 1024;
/// How often a peer that is still there is told of again.
const TELL_AGAIN: Duration = Duration::from_mins(1);
/// How often it is told that somebody else answers by our own id.
const TELL_OWN_ID_AGAIN: Duration = Duration::from_secs(15);

/// The service of one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mdns {
    service: String,
    key: Key,
    cadence: Duration,
}

/// A peer's answer: its id, and where it says it is.
type MdnsAnswer = (EndpointId, Vec<SocketAddr>);

impl Mdns {
    /// Of the network whose key for this is `key`.
    pub fn new(key: &Key) -> Self {
        // 2 letters and 64 bits of a hash are the 15 characters that a service's name may have (RFC 6763, section 7.2).
        let hash = blake3::hash(key.expose());
        let label = BASE32_NOPAD.encode(&hash.as_bytes()[..8]).to_ascii_lowercase();
        Self { service: format!("cs{label}"), key: key.clone(), cadence: CADENCE }
    }

    /// What shows that `id` knows the passphrase.
    fn tag(&self, id: EndpointId) -> String {
        let mut hasher = blake3::Hasher::new_keyed(self.key.expose());
        let hash = hasher.update(b"tag").update(id.as_bytes()).finalize();
        BASE32_NOPAD.encode(&hash.as_bytes()[..TAG_BYTES]).to_ascii_lowercase()
    }

    /// Who answers, if it has the right tag.
    fn author(&self, label: &str, tag: Option<&str>) -> Option<EndpointId> {
        id_of(label).filter(|id| tag.is_some_and(|tag| tag.as_bytes().ct_eq(self.tag(*id).as_bytes()).into()))
    }

    /// The service's name, without its underscore.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Says that `id` is where `ticket` says, and hands on all others that are there, as [`Channel::Mdns`]. Never ends.
    pub async fn watch(
        self,
        id: EndpointId,
        mut ticket: watch::Receiver<String>,
        candidates: Candidates,
        channels: Channels,
    ) {
        let (mut told, mut own_id) = (Told::default(), OwnIdTold::default());
        // A node that has just started asks at once, and several times: a question or its answer may be lost.
        let mut eager = Some(Instant::now() + EAGER_FOR);
        loop {
            let networks = Networks::look().await;
            let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
            let at = ticket.borrow_and_update().clone();
            let cadence = if eager.is_some() { EAGER_CADENCE } else { self.cadence };
            let asking = Self { cadence, ..self.clone() };
            let discoverer = match asking.start(id, &networks, sender, &at) {
                Ok(discoverer) => discoverer,
                Err(why) => {
                    tracing::debug!(why, "the local network cannot be asked");
                    channels.down(Channel::Mdns, &why);
                    sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            channels.up(Channel::Mdns);
            let mut look_at = Instant::now() + LOOK_EVERY;
            loop {
                tokio::select! {
                    answer = answers.recv() => {
                        // Ends only if the discoverer did; then it is started afresh.
                        let Some(answer) = answer else { break };
                        if answer.0 == id {
                            let addr = own_id.elsewhere(id, &answer.1, &ticket.borrow(), Instant::now());
                            if let Some(addr) = addr {
                                candidates.own_id_elsewhere(addr, Channel::Mdns);
                            }
                            continue;
                        }
                        if let Some(addr) = told.news(id, &answer, Instant::now()) {
                            channels.succeeded(Channel::Mdns, now_ms());
                            candidates.found(addr, Channel::Mdns);
                        }
                    }
                    changed = ticket.changed() => {
                        if changed.is_err() {
                            // Nobody follows our addresses any more: the node is on its way down.
                            return std::future::pending().await;
                        }
                        discoverer.remove_all();
                        let ports = by_port(&ticket.borrow_and_update());
                        if !ports.is_empty() {
                            // The tag went with the addresses. It is far shorter than an attribute may be.
                            let _ = discoverer.set_txt_attribute(TAG_ATTRIBUTE.to_owned(), Some(self.tag(id)));
                        }
                        for (port, addrs) in ports {
                            discoverer.add(port, addrs);
                        }
                    }
                    () = sleep_until(eager.unwrap_or(look_at)), if eager.is_some() => {
                        eager = None;
                        break;
                    }
                    () = sleep_until(look_at) => {
                        if Networks::look().await != networks {
                            break;
                        }
                        look_at = Instant::now() + LOOK_EVERY;
                    }
                }
            }
        }
    }

    /// Who answers within a time, to somebody called `id` who does not say where it is. An error where no interface takes multicast.
    pub async fn find(&self, id: EndpointId, within: Duration) -> Result<Vec<EndpointAddr>, String> {
        let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
        let _discoverer = self.start(id, &Networks::look().await, sender, "")?;
        let mut told = Told::default();
        let mut found = BTreeMap::new();
        let until = Instant::now() + within;
        while let Ok(Some(answer)) = timeout_at(until, answers.recv()).await {
            if let Some(addr) = told.news(id, &answer, Instant::now()).filter(|_| found.len() < TOLD_MAX) {
                found.insert(addr.id, addr);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Whether multicast works on this machine: somebody who is looked for under a name that nobody else has is found within a
    /// time.
    pub async fn try_out(within: Duration) -> Result<(), String> {
        let trial = Self { cadence: TRIAL_CADENCE, ..Self::new(&Key::random()) };
        let addr = EndpointAddr::new(SecretKey::generate().public()).with_ip_addr((TRIAL_ADDR, 9).into());
        let (ignored, _answers) = mpsc::channel(ANSWERS_MAX);
        let ticket = EndpointTicket::new(addr.clone()).to_string();
        let _there = trial.start(addr.id, &Networks::look().await, ignored, &ticket)?;
        let (sender, mut answers) = mpsc::channel(ANSWERS_MAX);
        let _here = trial.start(SecretKey::generate().public(), &Networks::look().await, sender, "")?;
        let heard = async { while answers.recv().await.is_some_and(|(id, _)| id != addr.id) {} };
        let within_secs = within.as_secs();
        timeout(within, heard)
            .await
            .map_err(|_| format!("multicast was sent, and not heard within {within_secs} s"))
    }

    fn start(
        &self,
        id: EndpointId,
        networks: &Networks,
        answers: mpsc::Sender<MdnsAnswer>,
        ticket: &str,
    ) -> Result<DropGuard, String> {
        let class = match networks {
            Networks { v4, .. } if !v4.is_empty() => IpClass::V4Only,
            Networks { v6: true, .. } => IpClass::V6Only,
            Networks { .. } => return Err("no network interface takes multicast".into()),
        };
        let asking = self.clone();
        let tell = move |label: &str, peer: &Peer| {
            // One that has left has no tag, and is of no interest.
            let Some(author) = asking.author(label, peer.txt_attribute(TAG_ATTRIBUTE).flatten()) else {
                return;
            };
            let addrs = peer.addrs().iter().take(ADDRS_MAX).map(|(ip, port)| SocketAddr::new(*ip, *port));
            // What does not fit comes again.
            let _ = answers.try_send((author, addrs.collect()));
        };
        let mut discoverer = Discoverer::new(self.service.clone(), label_of(id))
            .with_cadence(self.cadence)
            .with_response_rate(ANSWERS_PER_SEC)
            .with_ip_class(class)
            .with_multicast_interfaces_v4(networks.v4.clone())
            .with_callback(tell);
        let ports = by_port(ticket);
        if !ports.is_empty() {
            let tag = [(TAG_ATTRIBUTE.to_owned(), Some(self.tag(id)))];
            discoverer = discoverer.with_txt_attributes(tag).map_err(|error| error.to_string())?;
        }
        for (port, addrs) in ports {
            discoverer = discoverer.with_addrs(port, addrs);
        }
        discoverer.spawn(&Handle::current()).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            format!("multicast DNS does not start: {error}{}", source.unwrap_or_default())
        })
    }
}

/// What of the machine's networks matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Networks {
    /// Addresses of the interfaces that take multicast, loopback last.
    v4: Vec<Ipv4Addr>,
    /// Whether there is an IPv6 network.
    v6: bool,
}

impl Networks {
    async fn look() -> Self {
        let interfaces = Interfaces::new().await;
        let up = interfaces.interfaces.values().filter(|interface| interface.is_up());
        let addrs: BTreeSet<IpAddr> = up.flat_map(Interface::addrs).map(|net| net.addr()).collect();
        let mut v4: Vec<Ipv4Addr> = addrs
            .iter()
            .filter_map(|addr| match addr {
                IpAddr::V4(addr) => Some(*addr).filter(|addr| takes_multicast(*addr)),
                IpAddr::V6(_) => None,
            })
            .collect();
        v4.sort_by_key(|addr| (addr.is_loopback(), *addr));
        v4.truncate(INTERFACES_MAX);
        Self { v4, v6: addrs.iter().any(|addr| addr.is_ipv6() && !addr.is_loopback()) }
    }
}

/// Whether the interface with this address can take part.
fn takes_multicast(addr: Ipv4Addr) -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    socket.and_then(|socket| socket.join_multicast_v4(&GROUP, &addr)).is_ok()
}

/// An endpoint id as a label of a DNS name, which may have 63 characters.
fn label_of(id: EndpointId) -> String {
    BASE32_NOPAD.encode(id.as_bytes()).to_ascii_lowercase()
}

fn id_of(label: &str) -> Option<EndpointId> {
    let bytes = BASE32_NOPAD.decode(label.to_ascii_uppercase().as_bytes()).ok()?;
    EndpointId::from_bytes(bytes.as_slice().try_into().ok()?).ok()
}

/// Where a ticket leads, as services are announced: a port, and the addresses that have it.
fn by_port(ticket: &str) -> BTreeMap<u16, Vec<IpAddr>> {
    let mut ports: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
    if let Ok(ticket) = ticket.parse::<EndpointTicket>() {
        for addr in ticket.endpoint_addr().ip_addrs().take(ADDRS_MAX) {
            ports.entry(addr.port()).or_default().push(addr.ip());
        }
    }
    ports
}

/// When it was last told that somebody answers by our own id.
#[derive(Default)]
struct OwnIdTold(Option<Instant>);

impl OwnIdTold {
    /// Addresses of our own id that are not ours by the ticket, unless they were told a moment ago. The answers to one name come
    /// together, ours among them.
    fn elsewhere(
        &mut self,
        id: EndpointId,
        addrs: &[SocketAddr],
        ticket: &str,
        now: Instant,
    ) -> Option<EndpointAddr> {
        let own = by_port(ticket);
        let is_own = |addr: &SocketAddr| own.get(&addr.port()).is_some_and(|ips| ips.contains(&addr.ip()));
        let others: Vec<SocketAddr> = addrs.iter().filter(|addr| !is_own(addr)).copied().collect();
        let told_lately = self.0.is_some_and(|at| now.saturating_duration_since(at) < TELL_OWN_ID_AGAIN);
        if others.is_empty() || told_lately {
            return None;
        }
        self.0 = Some(now);
        Some(others.into_iter().fold(EndpointAddr::new(id), EndpointAddr::with_ip_addr))
    }
}

/// The peers that we have told of: answers come all the time.
#[derive(Default)]
struct Told(HashMap<EndpointId, (BTreeSet<SocketAddr>, Instant)>);

impl Told {
    /// Where a peer is, if that is news.
    fn news(&mut self, me: EndpointId, (id, addrs): &MdnsAnswer, now: Instant) -> Option<EndpointAddr> {
        let id = Some(*id).filter(|id| *id != me)?;
        let addrs: BTreeSet<SocketAddr> = addrs.iter().copied().filter(is_dialable).collect();
        // No addresses: it has left. Whether that is so is for others to find out.
        if addrs.is_empty() {
            return None;
        }
        let old = self
            .0
            .get(&id)
            .is_some_and(|(told, at)| *told == addrs && now.saturating_duration_since(*at) < TELL_AGAIN);
        if old {
            return None;
        }
        if self.0.len() >= TOLD_MAX {
            self.0.clear();
        }
        self.0.insert(id, (addrs.clone(), now));
        Some(addrs.into_iter().fold(EndpointAddr::new(id), EndpointAddr::with_ip_addr))
    }
}

#[cfg(test)]
mod tests;
