//! What strangers and members publish, announce and answer: see `testing::fuzz`.
//!
//! What has to be signed or sealed is so here, with keys of ours: a fuzzer would not get past either, and members can do both.

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey};
use iroh::SecretKey;
use pkarr::SignedPacket;
use prost::Message as _;

use super::announcement::{ADDRS_MAX, ANNOUNCEMENT_BYTES_MAX, Unverified, verify};
use super::list;
use super::list_peers::client::read_page;
use super::network::relays;
use super::slot::{SLOTS, Slot, SlotKeys, packet};
use crate::wire::proto::SignedAnnouncement;

/// The domain that an announcement's signature is for.
const ANNOUNCEMENT_DOMAIN: &[u8] = b"can-sync announcement v1";
const NOW_US: u64 = 1_790_000_000_000_000;

fn secret_key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

/// An announcement as it comes, and the same bytes as what an author signed.
pub fn announcement(bytes: &[u8]) {
    check_announcement(&Bytes::copy_from_slice(bytes));
    let signature = secret_key().sign(&[ANNOUNCEMENT_DOMAIN, bytes].concat()).to_bytes().to_vec().into();
    let signed = SignedAnnouncement { announcement: Bytes::copy_from_slice(bytes), signature };
    check_announcement(&signed.encode_to_vec().into());
}

fn check_announcement(bytes: &Bytes) {
    let Ok(unverified) = Unverified::read(bytes) else { return };
    let (author, mark) = (unverified.author(), unverified.mark());
    let Ok(signed) = unverified.verify() else { return };
    assert_eq!((signed.announcement.id, signed.announcement.mark()), (author, mark));
    assert!(signed.announcement.addrs.len() <= ADDRS_MAX);
    assert!(signed.bytes.len() <= ANNOUNCEMENT_BYTES_MAX, "{} bytes to pass on", signed.bytes.len());
    assert_eq!(verify(&signed.bytes).as_ref(), Ok(&signed), "nobody would take what is passed on");
    let _ = signed.announcement.addr();
}

/// A page of another agent's peers.
pub fn peer_list(bytes: &[u8]) {
    let _ = read_page(Bytes::copy_from_slice(bytes), secret_key().public());
}

/// A packet from a relay or the DHT: eight bytes of date, then the DNS packet, signed with the key that it lies under.
pub fn slot_packet(bytes: &[u8]) {
    let Some((date, dns)) = bytes.split_first_chunk::<8>() else { return };
    let keys = SlotKeys::Compatible { passphrase: "tried with any bytes".into() };
    let slot = Slot { day: 0, index: 3 % SLOTS };
    let Some(packet) = signed(&keys.keypair(slot).secret_key(), *date, dns) else { return };
    assert!(keys.unpack(&packet, NOW_US).iter().all(|entry| entry.alive_us <= NOW_US));
}

fn signed(secret: &[u8; 32], date: [u8; 8], dns: &[u8]) -> Option<SignedPacket> {
    let keypair = pkarr::Keypair::from_secret_key(secret);
    let mut signable = format!("3:seqi{}e1:v{}:", u64::from_be_bytes(date), dns.len()).into_bytes();
    signable.extend_from_slice(dns);
    let signature = SigningKey::from_bytes(secret).sign(&signable).to_bytes();
    let payload = [&signature[..], &date, dns].concat();
    relays::parse(&keypair.public_key(), &payload.into()).ok()
}

/// What a member sealed into a slot, or into the record under its own key.
pub fn sealed_list(bytes: &[u8]) {
    let entries = packet::decode(bytes, NOW_US);
    assert_eq!(packet::decode(&packet::encode(&entries, NOW_US), NOW_US), entries);
    if let Some((addr, agents)) = list::decode(bytes, secret_key().public()) {
        let again = list::decode(&list::encode(&addr, &agents), secret_key().public());
        let (again, told) = again.expect("we wrote it");
        assert!(again.addrs.is_subset(&addr.addrs) && agents.starts_with(&told), "more than there was");
    }
}
