//! What an agent publishes under its own endpoint key: where it is, and which agents it has seen alive. Sealed for the network.
//!
//! Slots name agents; this record leads to them. It is one signed packet of at most 1,000 bytes in the DHT and on the relays,
//! written at start, when the addresses change, and every hour, since the DHT forgets after about two. Inside (see
//! [`packet`](super::slot::packet) for the record's form), sealed with the network's key and bound to the owner's:
//!
//! ```text
//! version: u8
//! relay:   u8 length, then that many bytes of a URL; 0 for none
//! direct:  u8 count, then each 4 | 6, the address's 4 or 16 bytes, port: u16
//! agents:  u8 count, then each id: [u8; 32], age: u16 in seconds
//! ```
//!
//! Numbers are little-endian; zeros fill it up, so that its length says nothing.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::select_ok;
use iroh::{EndpointAddr, EndpointId, RelayUrl, SecretKey, TransportAddr};
use pkarr::{Keypair, PublicKey, SignedPacket};
use zeroize::Zeroizing;

use super::announcement::is_dialable;
use super::network::{KeyLookup, NetworkError, Transports, now_us};
use super::slot::packet::{PacketError, contents, sign};
use super::slot::seal::{NONCE, OVERHEAD, open, seal};
use crate::identity::NetworkKeys;

/// How long others may keep the packet.
const TTL_SECS: u32 = 300;
/// Bytes for the content: what 1,000 leave after the packet's frame (89) and the strings' lengths (4), rounded down.
const PLAIN_BYTES: usize = 900 - OVERHEAD;
const VERSION: u8 = 1;
const RELAY_URL_MAX: usize = 200;
/// Addresses of one agent: a machine has few, and each costs the dialling side a packet.
const DIRECT_MAX: usize = 12;
/// Older signs of life are not passed on.
const AGENT_AGE_MAX: Duration = Duration::from_hours(2);
const AGENT_BYTES: usize = 32 + 2;

const CONTEXT_LIST_SEAL: &str = "can-sync 2026 v3 published list contents";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub addr: EndpointAddr,
    /// The agents that it had seen alive lately, and how long before it wrote this.
    pub agents: Vec<(EndpointId, Duration)>,
    /// When it wrote this, in microseconds since the Unix epoch by its clock.
    pub written_us: u64,
}

/// Why there is no record of an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error(
        "cannot look {0} up: both discovery.dht and discovery.pkarr_relays are off; switch one of them on"
    )]
    NoChannel(EndpointId),
    #[error("{0} has published nothing lately: it may be off, or not have this version's discovery")]
    NotFound(EndpointId),
    #[error("what {0} has published is not readable with this network's passphrase")]
    NotOurs(EndpointId),
    #[error("cannot look {id} up: {source}; check the network")]
    Failed { id: EndpointId, source: NetworkError },
}

/// Seals an agent's record. As many of `agents` as fit, in their order.
///
/// # Errors
/// Never in practice: the lengths are bounded here.
pub fn pack(
    keys: &NetworkKeys,
    secret_key: &SecretKey,
    addr: &EndpointAddr,
    agents: &[(EndpointId, Duration)],
    at_us: u64,
    nonce: [u8; NONCE],
) -> Result<SignedPacket, PacketError> {
    let keypair = Keypair::from_secret_key(&Zeroizing::new(secret_key.to_bytes()));
    let plain = encode(addr, agents);
    let sealed = seal(&sealing_key(keys), keypair.public_key().as_bytes(), &plain, nonce);
    sign(&keypair, &sealed, TTL_SECS, at_us)
}

/// Opens the record of agent `id`; `None` if it is not one of this network.
pub fn unpack(keys: &NetworkKeys, id: EndpointId, packet: &SignedPacket) -> Option<Published> {
    let key = sealing_key(keys);
    let plain = contents(packet).find_map(|content| open(&key, id.as_bytes(), &content))?;
    let (addr, agents) = decode(&plain, id)?;
    Some(Published { addr, agents, written_us: packet.timestamp().as_u64() })
}

/// The key under which `id` publishes.
pub fn key_of(id: &EndpointId) -> Option<PublicKey> {
    PublicKey::try_from(id.as_bytes()).ok()
}

/// Reads the record of agent `id` from whichever channel has it first.
pub async fn lookup(
    transports: &Transports,
    keys: &NetworkKeys,
    id: EndpointId,
) -> Result<Published, LookupError> {
    let key = key_of(&id).ok_or(LookupError::NotFound(id))?;
    if transports.is_empty() {
        return Err(LookupError::NoChannel(id));
    }
    let through = transports.iter().map(|(_, transport)| {
        let key = key.clone();
        Box::pin(async move {
            match transport.resolve(key).await {
                Ok(KeyLookup::Packet(packet)) => unpack(keys, id, &packet).ok_or(LookupError::NotOurs(id)),
                Ok(KeyLookup::Nothing | KeyLookup::FromTheFuture) => Err(LookupError::NotFound(id)),
                Err(source) => Err(LookupError::Failed { id, source }),
            }
        })
    });
    select_ok(through).await.map(|(published, _)| published)
}

/// How old a record is; zero for one that is dated in the future.
pub fn age(published: &Published) -> Duration {
    Duration::from_micros(now_us().saturating_sub(published.written_us))
}

fn sealing_key(keys: &NetworkKeys) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key(CONTEXT_LIST_SEAL, keys.list().expose()))
}

pub fn encode(addr: &EndpointAddr, agents: &[(EndpointId, Duration)]) -> Vec<u8> {
    let mut plain = vec![VERSION];
    let relay = addr.relay_urls().map(|url| url.as_str()).find(|url| url.len() <= RELAY_URL_MAX);
    let relay = relay.unwrap_or_default();
    plain.push(u8::try_from(relay.len()).unwrap_or(0));
    plain.extend_from_slice(relay.as_bytes());
    let direct: Vec<&SocketAddr> =
        addr.ip_addrs().filter(|addr| is_dialable(addr)).take(DIRECT_MAX).collect();
    plain.push(u8::try_from(direct.len()).unwrap_or(0));
    for addr in direct {
        match addr.ip() {
            IpAddr::V4(ip) => {
                plain.push(4);
                plain.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                plain.push(6);
                plain.extend_from_slice(&ip.octets());
            }
        }
        plain.extend_from_slice(&addr.port().to_le_bytes());
    }
    let room = (PLAIN_BYTES - plain.len() - 1) / AGENT_BYTES;
    let agents: Vec<_> = agents.iter().filter(|(_, age)| *age <= AGENT_AGE_MAX).take(room).collect();
    plain.push(u8::try_from(agents.len()).unwrap_or(0));
    for (id, age) in agents {
        plain.extend_from_slice(id.as_bytes());
        plain.extend_from_slice(&u16::try_from(age.as_secs()).unwrap_or(u16::MAX).to_le_bytes());
    }
    plain.resize(PLAIN_BYTES, 0);
    plain
}

/// Reads what [`encode`] wrote. Members write it, and members may be hostile: everything is bounded, and what is no address
/// that could be dialled is left out.
pub(super) fn decode(plain: &[u8], id: EndpointId) -> Option<(EndpointAddr, Vec<(EndpointId, Duration)>)> {
    let mut rest = plain.strip_prefix(&[VERSION])?;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        rest = left;
        Some(taken)
    };
    let mut addr = EndpointAddr::new(id);
    let length = usize::from(take(1)?[0]);
    let relay = take(length)?;
    if !relay.is_empty() && relay.len() <= RELAY_URL_MAX {
        let relay = std::str::from_utf8(relay).ok().and_then(|url| url.parse::<RelayUrl>().ok());
        addr.addrs.extend(relay.filter(usable).map(TransportAddr::Relay));
    }
    let count = usize::from(take(1)?[0]);
    if count > DIRECT_MAX {
        return None;
    }
    for _ in 0..count {
        let ip = match take(1)?[0] {
            4 => IpAddr::from(<[u8; 4]>::try_from(take(4)?).ok()?),
            6 => IpAddr::from(<[u8; 16]>::try_from(take(16)?).ok()?),
            _ => return None,
        };
        let port = u16::from_le_bytes(take(2)?.try_into().ok()?);
        let direct = SocketAddr::new(ip, port);
        addr.addrs.extend(is_dialable(&direct).then_some(TransportAddr::Ip(direct)));
    }
    let count = usize::from(take(1)?[0]);
    let mut agents = Vec::new();
    for _ in 0..count {
        let bytes = take(32)?.try_into().ok()?;
        let age = Duration::from_secs(u64::from(u16::from_le_bytes(take(2)?.try_into().ok()?)));
        let agent = EndpointId::from_bytes(bytes).ok();
        agents.extend(agent.filter(|agent| *agent != id && age <= AGENT_AGE_MAX).map(|agent| (agent, age)));
    }
    Some((addr, agents))
}

fn usable(url: &RelayUrl) -> bool {
    matches!(url.scheme(), "http" | "https") && url.host().is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(passphrase: &str) -> NetworkKeys {
        NetworkKeys::derive(&passphrase.into())
    }

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32])
    }

    fn addr(n: u8) -> EndpointAddr {
        EndpointAddr::new(key(n).public())
            .with_relay_url("https://relay.example./".parse().unwrap())
            .with_ip_addr("192.0.2.7:4433".parse().unwrap())
            .with_ip_addr("[2001:db8::7]:4433".parse().unwrap())
            .with_ip_addr("0.0.0.0:4433".parse().unwrap())
    }

    #[test]
    fn what_was_published_is_read_by_members_and_nobody_else() {
        let ours = keys("one passphrase");
        let agents: Vec<_> = (10..60).map(|n| (key(n).public(), Duration::from_secs(u64::from(n)))).collect();
        let packet = pack(&ours, &key(1), &addr(1), &agents, 77, [9; NONCE]).unwrap();
        assert!(packet.encoded_packet().len() <= 1000, "{}", packet.encoded_packet().len());
        let read = unpack(&ours, key(1).public(), &packet).unwrap();
        assert_eq!(read.written_us, 77);
        let relays: Vec<_> = read.addr.relay_urls().map(|url| url.as_str()).collect();
        assert_eq!(relays, ["https://relay.example./"]);
        let direct: Vec<_> = read.addr.ip_addrs().map(ToString::to_string).collect();
        assert_eq!(direct, ["192.0.2.7:4433", "[2001:db8::7]:4433"], "an unspecified address leads nowhere");
        assert!(read.agents.len() >= 20, "{}", read.agents.len());
        assert_eq!(read.agents, agents[..read.agents.len()]);

        assert_eq!(unpack(&keys("another"), key(1).public(), &packet), None);
        assert_eq!(unpack(&ours, key(2).public(), &packet), None, "bound to its owner");
        let alone = pack(&ours, &key(1), &EndpointAddr::new(key(1).public()), &[], 77, [9; NONCE]).unwrap();
        assert_eq!(alone.encoded_packet().len(), packet.encoded_packet().len(), "its length says nothing");
    }

    #[test]
    fn a_machine_with_many_addresses_still_fits() {
        let many = (0..200).map(|n| TransportAddr::Ip(SocketAddr::new([n, 0, 0, 0, 0, 0, 0, 1].into(), 9)));
        let addr = EndpointAddr::from_parts(key(1).public(), many);
        let ours = keys("one passphrase");
        let packet = pack(&ours, &key(1), &addr, &[], 1, [9; NONCE]).unwrap();
        let read = unpack(&ours, key(1).public(), &packet).unwrap();
        assert_eq!(read.addr.ip_addrs().count(), DIRECT_MAX);
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_stays_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            if let Some((addr, agents)) = decode(&bytes, key(1).public()) {
                prop_assert!(addr.addrs.len() <= DIRECT_MAX + 1 && agents.len() <= 255);
                prop_assert!(addr.ip_addrs().all(is_dialable));
            }
        }

        #[test]
        fn a_changed_record_is_read_or_refused(at in 0..PLAIN_BYTES, value in any::<u8>()) {
            let mut plain = encode(&addr(1), &[(key(2).public(), Duration::from_secs(3))]);
            plain[at] = value;
            if let Some((addr, agents)) = decode(&plain, key(1).public()) {
                prop_assert!(addr.addrs.len() <= DIRECT_MAX + 1 && agents.len() <= 255);
            }
        }
    }
}
