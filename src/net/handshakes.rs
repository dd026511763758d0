//! Which connections may begin their TLS handshake, by where they come from. Pure.
//!
//! Nothing but the address is known of a connection, and a handshake costs memory and a signature. So there are so many at
//! a time, and so many from one place: an IPv4 address, an IPv6 network of 64 bits (one customer has all of it; in a local
//! network, where many machines share it, one address), an endpoint behind a relay, which has checked its id. Half of them are kept for places where our own devices, and peers that the user
//! named, were last; under load an address has to show that it is one, by QUIC's Retry.
//!
//! A connection that finds no place is not answered, so that it costs nothing: QUIC sends the first packet again, later each time.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use iroh::{EndpointAddr, EndpointId, TransportAddr};
use parking_lot::{Mutex, MutexGuard};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemoteNet {
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6([u8; 8]),
    /// An IPv6 address of a local network: link-local, or unique local.
    LocalV6(Ipv6Addr),
    /// A program on this machine, which shares its address with all others.
    Local(SocketAddr),
    Relayed(EndpointId),
    Other,
}

impl RemoteNet {
    /// Of packets from this address.
    pub fn of(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            ip if ip.is_loopback() => Self::Local(SocketAddr::new(ip, addr.port())),
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) if ip.is_unicast_link_local() || ip.is_unique_local() => Self::LocalV6(ip),
            IpAddr::V6(ip) => {
                let mut network = [0; 8];
                network.copy_from_slice(&ip.octets()[..8]);
                Self::V6(network)
            }
        }
    }

    /// Where packets of a peer may come from.
    pub fn of_peer(addr: &EndpointAddr) -> impl Iterator<Item = Self> {
        addr.addrs.iter().map(|at| match at {
            TransportAddr::Ip(ip) => Self::of(*ip),
            TransportAddr::Relay(_) => Self::Relayed(addr.id),
            TransportAddr::Custom(_) | _ => Self::Other,
        })
    }
}

/// What becomes of a connection that comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeAdmission {
    Begin,
    /// It has to show that it is where it says.
    Retry,
    /// There is no place for it.
    Ignore,
}

/// Handshakes under way, and those that may be.
#[derive(Debug)]
pub struct Handshakes {
    max: usize,
    /// Where own devices and named peers were last.
    known: HashSet<RemoteNet>,
    /// Under way, by net; and of those, from places that are not known.
    under_way: HashMap<RemoteNet, usize>,
    all: usize,
    others: usize,
}

impl Handshakes {
    /// None under way, at most `max` at a time.
    pub fn new(max: usize) -> Self {
        Self { max, known: HashSet::new(), under_way: HashMap::new(), all: 0, others: 0 }
    }

    /// Where own devices and named peers were last, instead of what was known before.
    pub fn set_known(&mut self, known: HashSet<RemoteNet>) {
        self.known = known;
        let others = self.under_way.iter().filter(|(net, _)| !self.known.contains(net));
        self.others = others.map(|(_, count)| count).sum();
    }

    /// Somebody connects; `validated` says that it is where it says. One that begins is counted until [`Handshakes::end`].
    pub fn begin(&mut self, net: RemoteNet, validated: bool) -> HandshakeAdmission {
        let is_known = self.known.contains(&net);
        let same = self.under_way.get(&net).copied().unwrap_or_default();
        // Behind one known address there may be others, and an attacker among them.
        let per_net = if is_known { self.max / 4 } else { self.max / 8 };
        let room = self.all < self.max && (is_known || self.others < self.max.div_ceil(2));
        if !room || same >= per_net.max(1) {
            return HandshakeAdmission::Ignore;
        }
        // Nobody takes a place in the name of an address that is not its own while there are few.
        if !validated && self.all >= self.max / 4 {
            return HandshakeAdmission::Retry;
        }
        *self.under_way.entry(net).or_default() += 1;
        self.all += 1;
        self.others += usize::from(!is_known);
        HandshakeAdmission::Begin
    }

    /// A handshake is over, whatever came of it.
    pub fn end(&mut self, net: RemoteNet) {
        let Some(count) = self.under_way.get_mut(&net) else { return };
        *count -= 1;
        if *count == 0 {
            self.under_way.remove(&net);
        }
        self.all -= 1;
        if !self.known.contains(&net) {
            self.others -= 1;
        }
    }

    pub fn count(&self) -> usize {
        self.all
    }
}

/// [`Handshakes`], shared by those who begin and end them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedHandshakes(Arc<Mutex<Handshakes>>);

impl SharedHandshakes {
    /// See [`Handshakes::new`].
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Mutex::new(Handshakes::new(max))))
    }

    /// Exclusive access, for a moment: never held over an await.
    pub fn lock(&self) -> MutexGuard<'_, Handshakes> {
        self.0.lock()
    }

    /// As [`Handshakes::begin`]; one that begins ends with what is given back.
    ///
    /// # Errors
    /// What becomes of it instead.
    pub fn begin(&self, net: RemoteNet, validated: bool) -> Result<Pending, HandshakeAdmission> {
        match self.lock().begin(net, validated) {
            HandshakeAdmission::Begin => Ok(Pending { handshakes: self.clone(), net }),
            other @ (HandshakeAdmission::Retry | HandshakeAdmission::Ignore) => Err(other),
        }
    }
}

/// The place of a connection that has proved nothing yet; dropped, it is free again.
#[derive(Debug)]
pub struct Pending {
    handshakes: SharedHandshakes,
    net: RemoteNet,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.handshakes.lock().end(self.net);
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;
    use proptest::prelude::*;

    use super::*;

    fn v4(n: u8) -> RemoteNet {
        RemoteNet::of(SocketAddr::from(([192, 0, 2, n], 9)))
    }

    fn begun(handshakes: &mut Handshakes, nets: impl IntoIterator<Item = RemoteNet>) -> usize {
        nets.into_iter().filter(|net| handshakes.begin(*net, true) == HandshakeAdmission::Begin).count()
    }

    #[test]
    fn whoever_has_a_network_has_one_place() {
        let of = |addr: &str| RemoteNet::of(addr.parse().unwrap());
        assert_eq!(of("192.0.2.1:5"), of("192.0.2.1:6"));
        assert_eq!(of("192.0.2.1:5"), of("[::ffff:192.0.2.1]:6"));
        assert_ne!(of("192.0.2.1:5"), of("192.0.2.2:5"));
        assert_eq!(of("[2001:db8::1]:5"), of("[2001:db8::ffff:1]:5"));
        assert_ne!(of("[2001:db8::1]:5"), of("[2001:db8:0:1::1]:5"));
        assert_ne!(of("127.0.0.1:5"), of("127.0.0.1:6"), "programs on this machine");
        assert_eq!(of("[::1]:5"), RemoteNet::Local("[::1]:5".parse().unwrap()));
        let id = SecretKey::from_bytes(&[1; 32]).public();
        let peer = EndpointAddr::new(id).with_relay_url("https://relay.example".parse().unwrap());
        let peer = peer.with_ip_addr("192.0.2.1:5".parse().unwrap());
        let nets: HashSet<RemoteNet> = RemoteNet::of_peer(&peer).collect();
        assert_eq!(nets, HashSet::from([RemoteNet::Relayed(id), v4(1)]));
    }

    #[test]
    fn one_place_has_few_and_strangers_have_half() {
        let mut handshakes = Handshakes::new(32);
        assert_eq!(begun(&mut handshakes, vec![v4(1); 100]), 4);
        assert_eq!(begun(&mut handshakes, (2..100).map(v4)), 12);
        handshakes.set_known(HashSet::from([v4(200), v4(201)]));
        assert_eq!(begun(&mut handshakes, vec![v4(200); 100]), 8);
        assert_eq!(begun(&mut handshakes, vec![v4(201); 100]), 8);
        assert_eq!((handshakes.count(), begun(&mut handshakes, [v4(99), v4(200)])), (32, 0));
        for _ in 0..8 {
            handshakes.end(v4(200));
        }
        assert_eq!(begun(&mut handshakes, [v4(99)]), 0, "these are not for strangers");
        assert_eq!(begun(&mut handshakes, [v4(200)]), 1);
    }

    #[test]
    fn machines_of_a_local_network_have_places_of_their_own() {
        for prefix in ["fe80::", "fd12:3456:789a:1::"] {
            let of = |n: u32| RemoteNet::of(format!("[{prefix}{n:x}]:5").parse().unwrap());
            let mut handshakes = Handshakes::new(256);
            assert_eq!(begun(&mut handshakes, (1..=60).map(of)), 60, "{prefix}");
            assert_eq!(begun(&mut handshakes, vec![of(61); 100]), 32, "one machine has an eighth");
            assert_eq!(begun(&mut handshakes, (100..500).map(of)), 36, "and all of them half");
        }
        let of = |n: u32| RemoteNet::of(format!("[2001:db8::{n:x}]:5").parse().unwrap());
        assert_eq!(begun(&mut Handshakes::new(256), (1..=60).map(of)), 32, "one customer");
    }

    #[test]
    fn under_load_an_address_has_to_be_shown() {
        let mut handshakes = Handshakes::new(16);
        for n in 0..4 {
            assert_eq!(handshakes.begin(v4(n), false), HandshakeAdmission::Begin);
        }
        assert_eq!(handshakes.begin(v4(4), false), HandshakeAdmission::Retry);
        assert_eq!(handshakes.begin(v4(4), true), HandshakeAdmission::Begin);
        handshakes.set_known(HashSet::from([v4(9)]));
        assert_eq!(handshakes.begin(v4(9), false), HandshakeAdmission::Retry, "a known address above all");
    }

    #[test]
    fn a_place_is_free_once_it_is_dropped() {
        let shared = SharedHandshakes::new(1);
        let pending = shared.begin(v4(1), true).unwrap();
        assert_eq!(shared.begin(v4(2), true).unwrap_err(), HandshakeAdmission::Ignore);
        drop(pending);
        assert!(shared.begin(v4(2), true).is_ok());
        assert_eq!(shared.lock().count(), 0);
    }

    proptest! {
        /// Whatever connects, and whatever becomes known meanwhile, the sums are right and half is kept.
        #[test]
        fn sums_are_right(
            max in 1..40_usize,
            steps in prop::collection::vec((0..4_u8, 0..10_u8, any::<bool>()), 1..300),
        ) {
            let mut handshakes = Handshakes::new(max);
            let mut under_way: Vec<RemoteNet> = Vec::new();
            let mut known = HashSet::new();
            for (what, n, validated) in steps {
                match what {
                    0 | 1 => {
                        if handshakes.begin(v4(n), validated) == HandshakeAdmission::Begin {
                            under_way.push(v4(n));
                        }
                    }
                    2 if !under_way.is_empty() => {
                        let net = under_way.swap_remove(usize::from(n) % under_way.len());
                        handshakes.end(net);
                    }
                    _ => {
                        if !known.insert(v4(n)) {
                            known.remove(&v4(n));
                        }
                        handshakes.set_known(known.clone());
                    }
                }
                let others = under_way.iter().filter(|net| !known.contains(*net)).count();
                prop_assert_eq!(handshakes.count(), under_way.len());
                prop_assert_eq!(handshakes.others, others);
                prop_assert!(under_way.len() <= max);
                if handshakes.begin(v4(50), true) == HandshakeAdmission::Begin {
                    prop_assert!(others < max.div_ceil(2));
                    handshakes.end(v4(50));
                }
            }
        }
    }
}
