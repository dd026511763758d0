//! What PeersActor tells: the reports, computed from the state whenever somebody asks.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use iroh::EndpointId;

use crate::actor::policy::ChildKind;
use crate::actor::status::AskedChild;
use crate::actor::watch::WatchedActor;
use crate::clock::{eta_secs, now_ms, rate_sum};
use crate::discovery::channel::{Channel, ChannelSet};
use crate::discovery::directory::AgentListing;
use crate::events::{PeerProgress, SyncProgress};
use crate::library::registry::DeviceStanding;
use crate::net::endpoint::path_in_use;
use crate::peer::messages::PeerMsg;
use crate::peer::refusal::PeerRefusal;
use crate::peer::report::{ConnectionState, PeerReport, PeersReport, Rates, SyncReport, SyncState};
use crate::peer::roster::{KnownPeer, LinkState};
use crate::peer::session::SessionStatus;
use crate::peer::supervisor::{PeerLink, PeersState};
use crate::text::amounts::{ago, counted};
use crate::text::short_id;
use crate::transfer::meter::Meter;

pub(super) fn report(state: &PeersState) -> PeersReport {
    // A peer that only knocked, or was only hinted at, is not shown before it has proved itself.
    let known = state.roster.iter().filter(|(_, known)| !known.is_hint() || known.refusal.is_some());
    let mut peers: Vec<PeerReport> = known.map(|(id, known)| peer(state, id, known)).collect();
    add_announced(&mut peers, &state.args.discovery.directory.lock().listings(tokio::time::Instant::now()));
    peers.sort_by(|a, b| {
        let connected = |p: &PeerReport| p.path.is_some();
        connected(b).cmp(&connected(a)).then_with(|| a.endpoint_id.cmp(&b.endpoint_id))
    });
    let mut sync = sync(state);
    if sync.state == SyncState::Alone && sync.reason.is_none() {
        let knocked =
            state.admission.knocked.filter(|(_, at_ms)| now_ms().saturating_sub(*at_ms) < KNOCK_TOLD_MS);
        sync.reason = Some(why_alone(&peers, knocked));
    }
    PeersReport { sync, peers, drops: state.drops_progress() }
}

/// Why nobody is connected, and what to do.
fn why_alone(peers: &[PeerReport], knocked: Option<(EndpointId, u64)>) -> String {
    let refused: Vec<String> =
        peers.iter().filter(|peer| peer.state.is_refused()).take(ALONE_TOLD).map(PeerReport::told).collect();
    if !refused.is_empty() {
        return refused.join("; ");
    }
    if let Some(peer) = peers.iter().find(|peer| peer.state == ConnectionState::Connecting) {
        return format!("connecting to {}", PeerReport { last_error: None, ..peer.clone() }.told());
    }
    if let Some((id, at_ms)) = knocked {
        return format!(
            "a machine that does not know our passphrase ({}) tried to connect {}: compare what `can-sync passphrase` prints \
             on both machines",
            short_id(&id.to_string()),
            ago(now_ms(), at_ms)
        );
    }
    let failed = peers.iter().filter(|peer| peer.last_error.is_some()).max_by_key(|peer| peer.last_seen_ms);
    match (peers.len() as u64, failed) {
        (0, _) => "no other machine is known yet: start one with this passphrase, which `can-sync passphrase` prints, or \
                   connect to one with `can-sync peers add TICKET`"
            .to_owned(),
        (known, None) => format!("{} known: off, or out of reach", counted(known, "machine")),
        (known, Some(peer)) => format!("{} known; {}", counted(known, "machine"), peer.told()),
    }
}

/// What is said of a peer whose id two machines have.
const DOUBLED: &str = "two machines have its endpoint id: a copied data directory";
/// Peers that are named where nobody is connected.
const ALONE_TOLD: usize = 3;
/// How long it is told that somebody tried to prove something in vain.
const KNOCK_TOLD_MS: u64 = 10 * 60 * 1000;

/// Adds what agents say of themselves: to peers without a session, and agents that are not known otherwise.
fn add_announced(peers: &mut Vec<PeerReport>, listings: &[AgentListing]) {
    let now_ms = now_ms();
    let mut listings: HashMap<String, &AgentListing> =
        listings.iter().map(|l| (l.id.to_string(), l)).collect();
    let seen = |listing: &AgentListing| {
        now_ms.saturating_sub(u64::try_from(listing.age.as_millis()).unwrap_or(u64::MAX))
    };
    for peer in peers.iter_mut() {
        let Some(listing) = listings.remove(&peer.endpoint_id) else { continue };
        if peer.name.is_empty() {
            peer.name.clone_from(&listing.name);
        }
        peer.assets = peer.assets.or(Some(listing.assets));
        peer.last_seen_ms = peer.last_seen_ms.max(Some(seen(listing)));
        peer.sources = sources(listing.sources.union(channels_of(&peer.sources)));
    }
    peers.extend(listings.into_values().map(|listing| PeerReport {
        endpoint_id: listing.id.to_string(),
        name: listing.name.clone(),
        assets: Some(listing.assets),
        last_seen_ms: Some(seen(listing)),
        sources: sources(listing.sources),
        ..PeerReport::default()
    }));
}

/// Names of the channels that led to a peer.
fn sources(sources: ChannelSet) -> Vec<&'static str> {
    if sources.is_empty() {
        return vec!["incoming"];
    }
    sources.iter().map(Channel::name).collect()
}

fn channels_of(names: &[&'static str]) -> ChannelSet {
    Channel::ALL.into_iter().filter(|channel| names.contains(&channel.name())).collect()
}

fn standing(state: &PeersState, link: &PeerLink) -> Option<SessionStatus> {
    let mut standing = link.shared_view().standing.clone()?;
    // A comparison that a user asked for counts as under way before it has begun.
    if standing.verified < state.verify_round && standing.state == ConnectionState::InSync {
        standing.state = ConnectionState::Reconciling;
    }
    // The session counts whole contents until they are durable.
    let partials = &state.args.replica.partials;
    let under_way = link.receiving.list().into_iter();
    let here: u64 = under_way.map(|(hash, moving)| partials.held_for_any(&hash).unwrap_or(moving.done)).sum();
    standing.missing_here_bytes = standing.missing_here_bytes.saturating_sub(here);
    Some(standing)
}

fn peer(state: &PeersState, id: &EndpointId, known: &KnownPeer) -> PeerReport {
    let link = state.links.current(id);
    let standing = link.and_then(|link| standing(state, link));
    let path = link.and_then(|link| {
        let paths = link.connection.paths();
        let path = path_in_use(&paths)?;
        let kind = if path.is_relay() { "relay" } else { "direct" };
        Some((kind, shown(path.remote_addr()), path.rtt()))
    });
    let waiting_counts = standing.as_ref().map(|standing| standing.waiting).unwrap_or_default();
    let meter = state.traffic.get(id);
    let receive_rate = meter.map_or(0.0, |meter| meter.receive_rate);
    let held = state.roster.holds(id, tokio::time::Instant::now());
    let refusal = refusal(state, id, known);
    let waiting = match known.link {
        _ if let Some(refusal) = &refusal => refusal.state(),
        LinkState::Idle { .. } if held => ConnectionState::BackingOff,
        LinkState::Idle { .. } => ConnectionState::Waiting,
        LinkState::Dialing | LinkState::Connected { .. } => ConnectionState::Connecting,
    };
    PeerReport {
        endpoint_id: id.to_string(),
        name: known.name.clone(),
        state: standing.as_ref().map_or(waiting, |standing| standing.state),
        path: path.as_ref().map(|(kind, ..)| *kind),
        remote_addr: path.as_ref().map(|(_, addr, _)| addr.clone()),
        rtt_ms: path.as_ref().map(|(.., rtt)| rtt.as_secs_f64() * 1000.0),
        bulk_in: link.is_some_and(|link| link.window.has_bulk()),
        bulk_out: link.is_some_and(|link| link.shared_view().bulk_out),
        assets: standing.as_ref().map(|standing| standing.assets),
        missing_here: standing.as_ref().map_or(0, |standing| standing.missing_here),
        missing_here_bytes: standing.as_ref().map_or(0, |standing| standing.missing_here_bytes),
        missing_there: standing.as_ref().map_or(0, |standing| standing.missing_there),
        deferred_here: waiting_counts.dated_here,
        deferred_there: waiting_counts.dated_there,
        held_here: waiting_counts.held_here,
        held_there: waiting_counts.held_there,
        bytes_sent: meter.map_or(0, Meter::sent),
        bytes_received: meter.map_or(0, Meter::received),
        rates: Rates { send: meter.map_or(0.0, |meter| meter.send_rate), receive: receive_rate },
        eta_secs: standing.as_ref().and_then(|s| eta_secs(s.missing_here_bytes, receive_rate)),
        last_seen_ms: known.last_seen_ms,
        last_error: standing
            .and_then(|standing| standing.last_error)
            .or_else(|| Some(refusal?.sentence(id, &state.args.endpoint.id())))
            .or_else(|| state.is_doubled(id).then(|| DOUBLED.to_owned()))
            .or_else(|| known.last_error.clone()),
        sources: sources(known.sources),
    }
}

/// Why one side does not let the other in. What users of this machine decided meanwhile counts at once.
fn refusal(state: &PeersState, id: &EndpointId, known: &KnownPeer) -> Option<PeerRefusal> {
    match (state.args.replica.libraries.standing(id), &known.refusal) {
        (DeviceStanding::Denied, _) => Some(PeerRefusal::DeniedHere),
        (DeviceStanding::Approved, Some(PeerRefusal::ApprovalWanted | PeerRefusal::DeniedHere)) => None,
        (DeviceStanding::Approved | DeviceStanding::Waiting, refusal) => refusal.clone(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "iroh's kinds of addresses may grow")]
fn shown(addr: &iroh::TransportAddr) -> String {
    match addr {
        iroh::TransportAddr::Ip(addr) => addr.to_string(),
        iroh::TransportAddr::Relay(url) => url.to_string(),
        other => format!("{other:?}"),
    }
}

fn sync(state: &PeersState) -> SyncReport {
    let standings: Vec<SessionStatus> =
        state.links.values().filter_map(|link| standing(state, link)).collect();
    let (wanted, missing_bytes) = state.fetching.scheduler().missing();
    // Assets that several peers have count once in the scheduler; what is not there yet is counted per peer.
    let missing = standings.iter().map(|standing| standing.missing_here).max().unwrap_or(0).max(wanted);
    let missing_there = standings.iter().map(|standing| standing.missing_there).max().unwrap_or(0);
    let unseen = standings.iter().map(|standing| standing.unseen).max().unwrap_or(0);
    let (_, absent) = state.args.replica.libraries.mirror().absent();
    let any = |wanted: ConnectionState| standings.iter().any(|standing| standing.state == wanted);
    let sync_state = if state.paused().is_some() {
        SyncState::Paused
    } else if standings.is_empty() {
        SyncState::Alone
    } else if any(ConnectionState::Syncing) || wanted > 0 {
        SyncState::Syncing
    } else if any(ConnectionState::Reconciling) {
        SyncState::Reconciling
    } else if state.args.replica.deletes.held() > 0 {
        SyncState::DeletionsHeld
    } else if !standings.iter().all(SessionStatus::is_in_sync) {
        SyncState::VersionsHeld
    } else {
        SyncState::InSync
    };
    let rate = rate_sum(state.traffic.values().map(|meter| meter.receive_rate));
    let send_rate = rate_sum(state.traffic.values().map(|meter| meter.send_rate));
    let (clock, copied, held) = (state.reason_of_dates(), state.copied(), state.reason_of_held());
    let copied_peers = state.copied_peers();
    let of_peers = copied_peers.first().cloned();
    let reasons = [state.paused().map(str::to_owned), copied.clone(), of_peers, held, clock.clone()];
    SyncReport {
        state: sync_state,
        reason: reasons.into_iter().flatten().next(),
        missing,
        missing_bytes,
        absent,
        unseen,
        missing_there,
        rate,
        send_rate,
        held_deletions: state.args.replica.deletes.held(),
        dated_ahead: state.dated_ahead(),
        copied,
        copied_peers,
        clock,
        // Nobody knows how much is in what was not looked at.
        eta_secs: eta_secs(missing_bytes, rate).filter(|_| unseen == 0),
    }
}

/// A PeerActor that is to be asked how it is.
pub(super) fn asked(link: &PeerLink) -> AskedChild<PeerMsg> {
    AskedChild {
        kind: ChildKind::Peer,
        label: link.endpoint_id.fmt_short().to_string(),
        actor: link.actor.clone(),
        history: link.history.clone(),
        degraded: false,
        mailbox: link.watched.as_ref().map(WatchedActor::reading).unwrap_or_default(),
        undelivered: link.undelivered.load(Ordering::Relaxed),
    }
}

/// How far everything is, with the peers that something moves or is missing with; `None` when that is nobody.
pub(super) fn progress(state: &PeersState) -> Option<SyncProgress> {
    let peers: Vec<PeerProgress> = state
        .links
        .values()
        .filter_map(|link| {
            let standing = standing(state, link)?;
            let meter = state.traffic.get(&link.endpoint_id)?;
            let moves = meter.send_rate + meter.receive_rate > 0.0;
            (moves || standing.missing_here + standing.missing_there > 0).then(|| PeerProgress {
                endpoint_id: link.endpoint_id.to_string(),
                missing_here: standing.missing_here,
                missing_here_bytes: standing.missing_here_bytes,
                missing_there: standing.missing_there,
                send_rate: meter.send_rate,
                receive_rate: meter.receive_rate,
                eta_secs: eta_secs(standing.missing_here_bytes, meter.receive_rate),
            })
        })
        .collect();
    let SyncReport { missing, missing_bytes, rate, eta_secs, .. } = sync(state);
    let progress = SyncProgress { at_ms: now_ms(), missing, missing_bytes, rate, eta_secs, peers };
    (!progress.peers.is_empty() || missing > 0).then_some(progress)
}

pub(super) fn is_in_sync(state: &PeersState) -> bool {
    sync(state).state == SyncState::InSync
}
