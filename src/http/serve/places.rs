//! The places of one server: who is let in, and who has to go when all are taken.
//!
//! A newcomer is never left to wait. Where there is no place, the client goes that lets the server wait the longest: one
//! that asks nothing, that sends its body or takes its answer slowly. Event streams, which are idle by nature, have a part of the places
//! and no more, so that they are never what has to go. Some places are for this machine's own programs alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::patience::Patience;
use crate::http::envelope::ApiError;

/// How much the clients of one server may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeLimits {
    /// Connections at a time. An eighth of them is for programs on this machine alone; an address of another one has a quarter
    /// at most once half are taken, and event streams and requests with a body have a quarter each, of which one address of
    /// another machine has a quarter again once others want them, and this machine one that nobody else has.
    pub connections: usize,
    /// Slower clients are given up after a while.
    pub min_bytes_per_sec: u64,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self { connections: 1024, min_bytes_per_sec: 1024 }
    }
}

impl ServeLimits {
    /// So many that files can be opened besides: a connection is a file as well.
    #[must_use]
    pub fn within_open_files(self) -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        Self { connections: self.connections.min(files / 4).max(8), ..self }
    }
}

/// What takes longer than this, by the client's fault, may have to go for somebody else.
const SLOW: Duration = Duration::from_millis(250);

/// The table. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ClientPlaces {
    table: Arc<Mutex<HashMap<u64, Occupant>>>,
    given: Arc<AtomicU64>,
    limits: ServeLimits,
}

#[derive(Debug)]
struct Occupant {
    address: Address,
    does: Activity,
    cut: CancellationToken,
}

/// What a connection is used for at the moment.
#[derive(Debug)]
enum Activity {
    /// It waits for a request, or for the rest of its head; `taking` is what its client owes of the answer before, of which the
    /// end may still be on its way.
    Waits { since: Instant, taking: Option<Arc<Patience>> },
    /// A request is under way; what its client owes of its body, if it has one, and of taking the answer.
    Answers { body: Option<Arc<Patience>>, taking: Arc<Patience> },
    /// It is an event stream.
    Follows,
}

/// Clients that count as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Address {
    ThisMachine,
    /// An address, or a network of IPv6 as one household has it.
    Other(IpAddr),
}

impl Address {
    /// Of a client that came to `here`. A connection from an address to itself is of this machine: from elsewhere nobody
    /// completes one.
    fn of(ip: IpAddr, here: Option<IpAddr>) -> Self {
        let ip = ip.to_canonical();
        match ip {
            _ if ip.is_loopback() || here.is_some_and(|here| here.to_canonical() == ip) => Self::ThisMachine,
            IpAddr::V4(_) => Self::Other(ip),
            IpAddr::V6(v6) => Self::Other(Ipv6Addr::from_bits(v6.to_bits() & !0 << 64).into()),
        }
    }
}

impl Activity {
    /// For how long the client has let the server wait; `None` for what does not have to go.
    fn slowness(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Waits { since, taking } => {
                let owed = taking.as_ref().map(|taking| taking.owed_while_waiting());
                let idle = now.saturating_duration_since(*since);
                Some(owed.filter(|owed| !owed.is_zero()).unwrap_or(idle))
            }
            Self::Answers { body, taking } => {
                let owed = body.iter().map(|body| body.owed_while_waiting());
                let owed = owed.fold(taking.owed_while_waiting(), Duration::max);
                Some(owed).filter(|owed| *owed >= SLOW)
            }
            Self::Follows => None,
        }
    }
}

impl ClientPlaces {
    pub(super) fn new(limits: ServeLimits) -> Self {
        Self { table: Arc::default(), given: Arc::default(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Occupant>> {
        self.table.lock()
    }

    /// Lets a client in that came to the address `here`; `None` if there is no place for it, and nobody has to go for it.
    pub(super) fn admit(&self, from: IpAddr, here: Option<IpAddr>) -> Option<ClientPlace> {
        let address = Address::of(from, here);
        let all = self.limits.connections;
        let mut table = self.lock();
        if address != Address::ThisMachine {
            if table.len() >= all / 2 {
                make_room(&mut table, all / 4, |other| other.address == address)?;
            }
            make_room(&mut table, all - all / 8, |other| other.address != Address::ThisMachine)?;
        }
        make_room(&mut table, all, |_| true)?;
        let id = self.given.fetch_add(1, Ordering::Relaxed);
        let cut = CancellationToken::new();
        let does = Activity::Waits { since: Instant::now(), taking: None };
        table.insert(id, Occupant { address, does, cut: cut.clone() });
        Some(ClientPlace { places: self.clone(), id, cut })
    }

    pub(super) fn min_bytes_per_sec(&self) -> u64 {
        self.limits.min_bytes_per_sec
    }
}

/// Of the places for one kind: what one address of another machine has once others want some, and what this machine has alone. A
/// page sends four files at once.
fn share_of(limits: ServeLimits) -> usize {
    (limits.connections / 16).max(4).min(limits.connections / 8).max(1)
}

/// Makes room for one more among `max` of a kind: the slowest of them goes, if one is slow.
fn make_room(
    table: &mut HashMap<u64, Occupant>,
    max: usize,
    is_of_kind: impl Fn(&Occupant) -> bool,
) -> Option<()> {
    let of_kind = table.iter().filter(|(_, occupant)| is_of_kind(occupant));
    if of_kind.clone().count() < max.max(1) {
        return Some(());
    }
    let now = Instant::now();
    let slow = of_kind.filter_map(|(id, occupant)| Some((occupant.does.slowness(now)?, *id)));
    let (_, slowest) = slow.max()?;
    let gone = table.remove(&slowest)?;
    gone.cut.cancel();
    Some(())
}

/// A client's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct ClientPlace {
    places: ClientPlaces,
    id: u64,
    /// Fires when the client has to go.
    pub(super) cut: CancellationToken,
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        self.places.lock().remove(&self.id);
    }
}

impl ClientPlace {
    pub(super) fn places(&self) -> &ClientPlaces {
        &self.places
    }

    /// A request has come. `body` is what its client owes of its body, if it has one.
    ///
    /// # Errors
    /// Too many others send a body, and none of them is slow.
    pub(super) fn begin_request(
        &self,
        body: Option<Arc<Patience>>,
        taking: Arc<Patience>,
    ) -> Result<(), ApiError> {
        let mut table = self.places.lock();
        let Some(address) = table.get(&self.id).map(|own| own.address) else { return Ok(()) };
        if body.is_some() {
            let sends = |other: &Occupant| matches!(&other.does, Activity::Answers { body: Some(_), .. });
            let (all, share) = (self.places.limits.connections / 4, share_of(self.places.limits));
            // Its own go for it, before those of others do.
            let room = if address == Address::ThisMachine {
                Some(())
            } else {
                make_room(&mut table, share, |other| sends(other) && other.address == address).and_then(
                    |()| {
                        make_room(&mut table, all.saturating_sub(share), |other| {
                            sends(other) && other.address != Address::ThisMachine
                        })
                    },
                )
            };
            let room = room.and_then(|()| make_room(&mut table, all, sends));
            if room.is_none() {
                // It asks for something: there are others that do not.
                if let Some(Occupant { does: Activity::Waits { since, .. }, .. }) = table.get_mut(&self.id) {
                    *since = Instant::now();
                }
                let message = "too many requests with a body are under way";
                let hint = "wait until some have ended, and send it again";
                return Err(too_many("too_many_uploads", message, hint));
            }
        }
        if let Some(own) = table.get_mut(&self.id) {
            own.does = Activity::Answers { body, taking };
        }
        Ok(())
    }

    /// The body of the request has come, or is not wanted any more.
    pub(super) fn end_body(&self) {
        if let Some(Occupant { does: Activity::Answers { body, .. }, .. }) =
            self.places.lock().get_mut(&self.id)
        {
            *body = None;
        }
    }

    /// The answer is an event stream.
    ///
    /// # Errors
    /// There are as many as there may be, in all or of this client.
    pub(super) fn begin_events(&self) -> Result<(), ApiError> {
        let mut table = self.places.lock();
        let Some(own) = table.get(&self.id) else { return Ok(()) };
        let (all, share) = (self.places.limits.connections / 4, share_of(self.places.limits));
        let address = own.address;
        let streams = table.values().filter(|other| matches!(other.does, Activity::Follows));
        let of_client = streams.clone().filter(|other| other.address == address).count();
        let of_others = streams.clone().filter(|other| other.address != Address::ThisMachine).count();
        let open = streams.count();
        let is_full = address != Address::ThisMachine
            && (of_others >= all.saturating_sub(share).max(1) || (open >= all / 2 && of_client >= share));
        if is_full || open >= all {
            let hint = "close one of them and try again, or ask for changes from time to time";
            return Err(too_many("too_many_streams", "too many event streams are open", hint));
        }
        if let Some(own) = table.get_mut(&self.id) {
            own.does = Activity::Follows;
        }
        Ok(())
    }

    /// The answer is complete, and for the most part taken; the next request may come.
    pub(super) fn end_request(&self) {
        if let Some(own) = self.places.lock().get_mut(&self.id) {
            let taking = match &own.does {
                Activity::Answers { taking, .. } => Some(Arc::clone(taking)),
                Activity::Waits { .. } | Activity::Follows => None,
            };
            own.does = Activity::Waits { since: Instant::now(), taking };
        }
    }

    /// A proxy on this machine brings the requests of somebody else.
    ///
    /// # Errors
    /// There is no place for one more of others.
    pub(super) fn comes_through_proxy(&self) -> Result<(), ApiError> {
        let mut table = self.places.lock();
        let all = self.places.limits.connections;
        let is_ours = table.get(&self.id).is_some_and(|own| own.address == Address::ThisMachine);
        if !is_ours {
            return Ok(());
        }
        make_room(&mut table, all - all / 8, |other| other.address != Address::ThisMachine).ok_or_else(
            || too_many("too_many_clients", "too many clients are connected", "try again in a moment"),
        )?;
        if let Some(own) = table.get_mut(&self.id) {
            own.address = Address::Other(Ipv4Addr::UNSPECIFIED.into());
        }
        Ok(())
    }
}

fn too_many(code: &'static str, message: &str, hint: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message, hint)
}

#[cfg(test)]
mod tests;
