//! Whether other agents can be found and reached.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use futures::future::join_all;
use iroh::{Endpoint, RelayMode, RelayUrl, SecretKey, Watcher as _};
use pkarr::Keypair;
use reqwest::Client;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Finding;
use crate::cli::client::chain;
use crate::cli::peers::relay_mode;
use crate::config::Config;
use crate::discovery::mdns::Mdns;
use crate::discovery::network::NetworkSettings;
use crate::net::{endpoint, sockets};

/// Limit of taking leave of a relay.
const CLOSE_WITHIN: Duration = Duration::from_millis(400);
/// For one answer within a check, so that the check itself can still say what came of it.
const ANSWER_WITHIN: Duration = Duration::from_millis(4_500);
/// For a packet that goes from this machine to itself.
const ECHO_WITHIN: Duration = Duration::from_secs(2);
/// One that did not arrive may have been dropped for want of room: another is sent.
const RESEND_AFTER: Duration = Duration::from_millis(100);

pub(super) fn client() -> Result<Client, String> {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_WITHIN)
        .build()
        .map_err(|e| chain(&e))
}

/// What is known of a daemon that has the sockets open.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DaemonSockets {
    /// It runs here, and has its port.
    pub(super) are_open: bool,
    /// It has a peer that it reaches without a relay.
    pub(super) reach_peers: bool,
}

/// Whether the socket for QUIC can be opened, and carries a packet.
pub(super) async fn udp(config: &Config, daemon: DaemonSockets) -> Finding {
    // The daemon has its own port open.
    let port = if daemon.are_open { 0 } else { config.bind_addr.port() };
    let addr = SocketAddr::new(config.bind_addr.ip(), port);
    // On a thread of its own, which no other check holds up.
    let echoed = spawn_blocking(move || echo(addr)).await.unwrap_or_else(|e| Err(e.to_string()));
    match echoed {
        Ok(bound) => Finding::ok(format!("{bound} takes and sends packets")),
        Err(_) if daemon.reach_peers => Finding::ok("the daemon has peers over UDP"),
        Err(error) => Finding::fail(
            format!("{addr}: {error}"),
            "set bind_addr to a free address of this machine, and look whether a firewall blocks UDP",
        ),
    }
}

/// Sends packets to a socket on `addr` until one arrives. Blocks.
fn echo(addr: SocketAddr) -> Result<SocketAddr, String> {
    let text = |e: std::io::Error| e.to_string();
    sockets::check(addr).map_err(|e| e.to_string())?;
    let receiver = UdpSocket::bind(addr).map_err(text)?;
    receiver.set_read_timeout(Some(RESEND_AFTER)).map_err(text)?;
    let bound = receiver.local_addr().map_err(text)?;
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    let sender = UdpSocket::bind(SocketAddr::new(ip, 0)).map_err(text)?;
    let sent: [u8; 16] = rand::random();
    let until = Instant::now() + ECHO_WITHIN;
    while Instant::now() < until {
        sender.send_to(&sent, SocketAddr::new(ip, bound.port())).map_err(text)?;
        let mut buffer = [0; 64];
        // Of others there may be any number, of ours one is enough.
        while let Ok((len, _)) = receiver.recv_from(&mut buffer) {
            if buffer[..len] == sent {
                return Ok(bound);
            }
            if Instant::now() > until {
                break;
            }
        }
    }
    Err(format!("no packet arrived within {} s", ECHO_WITHIN.as_secs()))
}

pub(super) fn relays(config: &Config) -> Result<Vec<RelayUrl>, String> {
    let mode = relay_mode(&config.relay_url).map_err(|e| e.to_string())?;
    Ok(mode.relay_map().urls())
}

/// Whether an iroh relay takes a connection of ours.
pub(super) async fn relay(config: &Config) -> Finding {
    let mode = match relay_mode(&config.relay_url) {
        Ok(RelayMode::Disabled) => return Finding::off("relay_url is `disabled`: direct connections only"),
        Ok(mode) => mode,
        Err(error) => return Finding::fail(error.to_string(), "correct relay_url"),
    };
    let urls: Vec<RelayUrl> = mode.relay_map().urls();
    let addr = SocketAddr::new(config.bind_addr.ip(), 0);
    let endpoint = match Box::pin(endpoint::bind(SecretKey::generate(), addr, mode)).await {
        Ok(endpoint) => endpoint,
        Err(error) => {
            return Finding::fail(format!("cannot open a UDP socket at {addr}: {error}"), "see udp above");
        }
    };
    let (connected, answers) = tokio::join!(home(&endpoint), join_all(urls.iter().map(ping)));
    // What does not end in time ends with the process.
    let _ = timeout(CLOSE_WITHIN, endpoint.close()).await;
    let answering = answers.iter().filter(|answer| answer.is_ok()).count();
    let all = urls.len();
    match connected {
        Ok(url) if answering == all => Finding::ok(format!("connected to {url}")),
        Ok(url) => Finding::warn(
            format!("connected to {url}; of {all} relays, {} do not answer", all - answering),
            "one is enough; agents whose home relay is another one may be harder to reach",
        ),
        Err(why) if answering > 0 => Finding::fail(
            format!("{answering} of {all} relays answer, and none takes a connection: {why}"),
            "look whether a proxy or firewall lets WebSocket connections (HTTPS with an upgrade) through",
        ),
        Err(why) => {
            let reason = answers.into_iter().find_map(Result::err).unwrap_or(why);
            Finding::fail(
                format!("none of {all} relays answers: {reason}"),
                "look whether this machine may connect to the internet by HTTPS, or set relay_url to a relay of your own",
            )
        }
    }
}

/// Whether a relay answers over HTTP.
async fn ping(url: &RelayUrl) -> Result<(), String> {
    let url = url.join("ping").map_err(|e| e.to_string())?;
    let answer = client()?.get(url.clone()).send().await.map_err(|e| chain(&e))?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("{url} answers {}", answer.status())) }
}

/// The relay that the endpoint has connected to.
async fn home(endpoint: &Endpoint) -> Result<RelayUrl, String> {
    let mut status = endpoint.home_relay_status();
    let mut why = "none was chosen in time".to_owned();
    let connected = async {
        loop {
            for relay in status.get() {
                if relay.is_connected() {
                    return Some(relay.url().clone());
                }
                if let Some(error) = relay.last_error() {
                    why = format!("{error:#}");
                }
            }
            status.updated().await.ok()?;
        }
    };
    let connected = timeout(ANSWER_WITHIN, connected).await.ok().flatten();
    connected.ok_or(why)
}

/// Whether each of the rendezvous relays reads a key.
pub(super) async fn pkarr_relays(config: &Config) -> Finding {
    let relays = &config.discovery.pkarr_relays;
    if relays.is_empty() {
        return Finding::off("discovery.pkarr_relays is empty");
    }
    let ask = |url| async move {
        let settings =
            NetworkSettings { relays: vec![url], dht: false, ..NetworkSettings::of(&config.discovery) };
        timeout(ANSWER_WITHIN, read_any(&settings))
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    };
    let answers = join_all(relays.iter().cloned().map(ask)).await;
    let failures: Vec<String> = relays
        .iter()
        .zip(&answers)
        .filter_map(|(url, answer)| Some(format!("{url}: {}", answer.as_ref().err()?)))
        .collect();
    let (all, failed) = (relays.len(), failures.len());
    let detail = format!("{} of {all} answer", all - failed);
    match failures.first() {
        None => Finding::ok(detail),
        Some(first) if failed < all => Finding::warn(
            format!("{detail}; {first}"),
            "one is enough; remove those that are gone from discovery.pkarr_relays",
        ),
        Some(first) => Finding::fail(
            format!("{detail}; {first}"),
            "look whether this machine may connect to the internet by HTTPS, or set discovery.pkarr_relays to others",
        ),
    }
}

/// Whether nodes of the mainline DHT answer.
pub(super) async fn dht(config: &Config) -> Finding {
    if !config.discovery.dht {
        return Finding::off("discovery.dht is false");
    }
    let settings = NetworkSettings { relays: Vec::new(), ..NetworkSettings::of(&config.discovery) };
    match read_any(&settings).await {
        Ok(()) => Finding::ok("its nodes answer"),
        Err(error) => Finding::fail(
            error,
            "look whether a firewall lets UDP packets to the internet and back, or set discovery.dht_bootstrap to nodes that \
             can be reached",
        ),
    }
}

/// Reads a key that nobody has: any answer will do.
async fn read_any(settings: &NetworkSettings) -> Result<(), String> {
    let transports = settings.connect().map_err(|e| e.to_string())?;
    for (_, transport) in &transports {
        let read = transport.resolve(Keypair::random().public_key()).await;
        read.map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// Whether multicast goes out and comes back.
pub(super) async fn mdns(config: &Config) -> Finding {
    if !config.discovery.mdns {
        return Finding::off("discovery.mdns is false");
    }
    match Mdns::try_out(ANSWER_WITHIN).await {
        Ok(()) => Finding::ok("multicast goes out and comes back"),
        Err(why) => Finding::fail(
            why,
            "look whether a firewall blocks UDP port 5353, and whether this network (a guest Wi-Fi, a container) carries multicast",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::CheckVerdict;

    #[tokio::test]
    async fn a_socket_that_is_taken_is_named_unless_it_is_the_daemons() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let config = Config { bind_addr: addr, ..Config::default() };
        let finding = udp(&config, DaemonSockets::default()).await;
        assert_eq!(finding.verdict, CheckVerdict::Fail);
        assert!(finding.detail.contains(&addr.to_string()), "{}", finding.detail);
        let open = DaemonSockets { are_open: true, ..DaemonSockets::default() };
        assert_eq!(udp(&config, open).await.verdict, CheckVerdict::Ok);
        let reaches = DaemonSockets { reach_peers: true, ..DaemonSockets::default() };
        assert_eq!(udp(&config, reaches).await.verdict, CheckVerdict::Ok, "whatever else fails");
    }

    #[test]
    fn a_packet_comes_back_among_those_of_others() {
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        drop(other);
        let noise = std::thread::spawn(move || {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..200 {
                // Nobody may listen there yet.
                let _ = sender.send_to(b"something else", addr);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        assert_eq!(echo(addr), Ok(addr));
        noise.join().unwrap();
    }
}
