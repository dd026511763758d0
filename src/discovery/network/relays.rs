//! pkarr relays: a GET and a PUT each, over the HTTP client that everything else here uses, and its one TLS provider.
//!
//! A relay's URL, `/`, and the key in z-base-32 is where a packet lies; its body is signature, date and DNS packet
//! (<https://github.com/pubky/pkarr/blob/main/design/relays.md>).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use pkarr::{PKARR_INVALID_SIGNED_PACKET_SEQ, PublicKey, SignedPacket};
use reqwest::header::CACHE_CONTROL;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::{Instant, sleep_until};

use super::{KeyLookup, NetworkError, Transport, checked, no_packet};
use crate::config::HttpUrl;
use crate::discovery::slot::pace::Spread;

/// Longest wait for one request to a relay, which asks the DHT in turn.
const WITHIN: Duration = Duration::from_secs(8);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// pkarr relays let an address make two requests a second, and as many at once.
const EVERY: Duration = Duration::from_millis(500);
const BURST: u32 = 2;
const WIDTH: usize = 2;
/// Longest body of an answer; a packet has at most 1,104 bytes, key included.
const BODY_BYTES_MAX: usize = 1104;
/// A signature and a date come before the DNS packet.
const DNS_AT: usize = 64 + 8;
const DNS_HEADER_BYTES: usize = 12;
/// A question without a name: its end, its type and its class. Records are longer.
const RECORD_BYTES_MIN: usize = 5;

/// All configured relays, asked side by side.
#[derive(Debug)]
pub(super) struct Relays {
    client: Client,
    urls: Vec<Url>,
    spread: Mutex<Spread>,
}

impl Relays {
    const NAME: &str = "pkarr relays";

    pub(super) fn new(urls: &[HttpUrl]) -> Result<Self, NetworkError> {
        // Somebody else may have chosen already; any provider will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .timeout(WITHIN)
            .build()
            .map_err(|e| Self::failed("make an HTTP client", e.to_string()))?;
        let parse = |url: &HttpUrl| {
            Url::parse(url.as_str()).map_err(|e| Self::failed("use an address", e.to_string()))
        };
        let urls = urls.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { client, urls, spread: Mutex::new(Spread::new(EVERY, BURST)) })
    }

    async fn turn(&self) {
        let at = self.spread.lock().reserve(Instant::now());
        sleep_until(at).await;
    }

    fn failed(action: &'static str, reason: String) -> NetworkError {
        NetworkError::Failed { action, through: Self::NAME, reason }
    }

    fn broken(action: &'static str, error: &reqwest::Error) -> NetworkError {
        if error.is_timeout() {
            NetworkError::Timeout { from: Self::NAME, within: WITHIN }
        } else {
            Self::failed(action, error.to_string())
        }
    }

    async fn read(&self, key: &PublicKey) -> Result<KeyLookup, NetworkError> {
        self.turn().await;
        let mut answers: FuturesUnordered<_> = self.urls.iter().map(|url| self.read_one(url, key)).collect();
        let mut best = Err(Self::failed("read", "none is configured".to_owned()));
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(KeyLookup::Packet(packet)) => return Ok(KeyLookup::Packet(packet)),
                Ok(KeyLookup::FromTheFuture) => best = Ok(KeyLookup::FromTheFuture),
                Ok(KeyLookup::Nothing) => best = best.or(Ok(KeyLookup::Nothing)),
                Err(error) => best = best.or(Err(error)),
            }
        }
        best
    }

    /// What one relay finds in the DHT now, whatever it or a proxy before it remembers.
    async fn read_one(&self, relay: &Url, key: &PublicKey) -> Result<KeyLookup, NetworkError> {
        let broken = |error| Self::broken("read", &error);
        let request = self.client.get(address(relay, key)).query(&[("policy", "NetworkOnly")]);
        let response = request.header(CACHE_CONTROL, "no-cache, no-store").send().await.map_err(broken)?;
        match response.status() {
            StatusCode::NOT_FOUND => {
                // What lies there is no packet, and has a date all the same.
                let seq = response.headers().get(PKARR_INVALID_SIGNED_PACKET_SEQ);
                let seq = seq.and_then(|seq| seq.to_str().ok()?.parse().ok());
                Ok(seq.map_or(KeyLookup::Nothing, no_packet))
            }
            status if status.is_success() => {
                let body = body(response).await?;
                parse(key, &body.freeze()).map(checked).map_err(|reason| Self::failed("read", reason))
            }
            status => Err(Self::failed("read", format!("the relay answers {status}"))),
        }
    }

    async fn write(&self, packet: &SignedPacket) -> Result<(), NetworkError> {
        self.turn().await;
        let mut outcome = Err(Self::failed("write", "none is configured".to_owned()));
        for written in join_all(self.urls.iter().map(|url| self.write_one(url, packet))).await {
            outcome = if outcome.is_ok() { outcome } else { written };
        }
        outcome
    }

    async fn write_one(&self, relay: &Url, packet: &SignedPacket) -> Result<(), NetworkError> {
        let request = self.client.put(address(relay, &packet.public_key())).body(packet.to_relay_payload());
        let response = request.send().await.map_err(|error| Self::broken("write", &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        Err(Self::failed("write", format!("the relay answers {status}")))
    }
}

/// A packet as relays give it, with its signature checked.
pub(in crate::discovery) fn parse(key: &PublicKey, payload: &Bytes) -> Result<SignedPacket, String> {
    // The DNS library reserves room for as many records as the header tells, before it reads any.
    if !payload.get(DNS_AT..).is_some_and(has_room_for_its_records) {
        return Err("a packet without room for the records that it counts".to_owned());
    }
    SignedPacket::from_relay_payload(key, payload).map_err(|e| e.to_string())
}

/// Whether a DNS packet is long enough for the questions and records that its header counts.
fn has_room_for_its_records(dns: &[u8]) -> bool {
    let Some((header, records)) = dns.split_at_checked(DNS_HEADER_BYTES) else { return false };
    let counts = header[4..].chunks_exact(2).map(|count| usize::from(count[0]) << 8 | usize::from(count[1]));
    counts.sum::<usize>() * RECORD_BYTES_MIN <= records.len()
}

/// Where a relay keeps the packet of a key.
fn address(relay: &Url, key: &PublicKey) -> Url {
    let mut url = relay.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push(&key.to_string());
    }
    url
}

/// The body of an answer, which no relay makes longer than a packet.
async fn body(mut response: Response) -> Result<BytesMut, NetworkError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Relays::broken("read", &error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            let reason = format!("the relay's answer is longer than {BODY_BYTES_MAX} bytes");
            return Err(Relays::failed("read", reason));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

impl Transport for Relays {
    fn resolve(&self, key: PublicKey) -> BoxFuture<'_, Result<KeyLookup, NetworkError>> {
        Box::pin(async move { self.read(&key).await })
    }

    fn publish(&self, packet: SignedPacket) -> BoxFuture<'_, Result<(), NetworkError>> {
        Box::pin(async move { self.write(&packet).await })
    }

    fn width(&self) -> usize {
        WIDTH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lies_below_the_relays_own_path() {
        let key = pkarr::Keypair::from_secret_key(&[7; 32]).public_key();
        for (relay, expected) in [
            ("https://a.example", "https://a.example/"),
            ("https://a.example/pkarr/", "https://a.example/pkarr/"),
        ] {
            let url = address(&Url::parse(relay).unwrap(), &key);
            assert_eq!(url.as_str(), format!("{expected}{key}"));
        }
    }

    #[test]
    fn records_that_a_packet_has_no_room_for_are_counted_in_vain() {
        let keypair = pkarr::Keypair::from_secret_key(&[7; 32]);
        let packet = SignedPacket::builder().sign(&keypair).unwrap();
        let mut payload = packet.to_relay_payload().to_vec();
        assert!(parse(&keypair.public_key(), &payload.clone().into()).is_ok());
        for section in 0..4 {
            let at = DNS_AT + 4 + 2 * section;
            payload[at..at + 2].copy_from_slice(&u16::MAX.to_be_bytes());
            let refused = parse(&keypair.public_key(), &payload.clone().into()).unwrap_err();
            assert!(refused.contains("without room"), "{refused}");
            payload[at..at + 2].copy_from_slice(&[0, 0]);
        }
        for length in 0..payload.len() {
            assert!(parse(&keypair.public_key(), &payload[..length].to_vec().into()).is_err(), "{length}");
        }
    }
}
