//! What a library has that is shared by ticket: who owns it, what belongs, what we may do, what was taken back.

use std::collections::HashMap;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use iroh::EndpointId;
use parking_lot::{Mutex, MutexGuard};

use super::asides::Aside;
use super::epoch::SessionKeys;
use super::filter::Filter;
use super::private::Private;
use super::registry::{Kept, Member, Registry, RegistryError};
use super::report::{LibraryAgreement, MemberStanding};
use super::revocation::{Freshness, ListDates, Revocations, SignedRevocations};
use super::sharing::Sharing;
use super::ticket::{Access, LibraryId, Ticket, TicketError};
use crate::clock::{eta_secs, rate_sum};
use crate::identity::LibraryKeys;
use crate::record::{AssetRecord, ContentHash};

/// Members that were seen and are not written down yet.
const NEWS_MAX: usize = 4096;
/// Members of which it is known that they are, as many as are written down.
const MEMBERS_MAX: usize = 4096;

/// A library that is shared by ticket, seen from this node.
#[derive(Debug)]
pub struct SharedLibrary {
    id: LibraryId,
    /// Its key, if it is ours.
    key: Option<SigningKey>,
    created_ms: u64,
    sharing: Sharing,
    ticket: Mutex<Ticket>,
    filter: Filter,
    access: Access,
    state: Mutex<SharedState>,
}

#[derive(Debug, Default)]
struct SharedState {
    /// What it had otherwise than the store, until its index takes that.
    asides: HashMap<ContentHash, Aside>,
    revocations: Option<SignedRevocations>,
    /// What there is to say of its age.
    dates: ListDates,
    /// What was here already when we joined, and is not shared.
    private: Arc<Private>,
    /// Members that were in sync since the last time somebody asked.
    news: HashMap<EndpointId, Member>,
    /// Who took part, with the number of the ticket that it showed last.
    members: HashMap<EndpointId, u64>,
    /// How things stand with the members that are connected.
    standings: HashMap<EndpointId, MemberStanding>,
    /// Why its members do not let us in any more.
    refused: Option<String>,
}

impl SharedState {
    /// Takes in a list; whether it is newer than what we had.
    fn take_revocations(&mut self, list: SignedRevocations) -> bool {
        let newer = self.revocations.as_ref().is_none_or(|known| list.list.version > known.list.version);
        if newer {
            let before = self.revocations.as_ref().map_or(0, |known| known.list.min_epoch);
            if list.list.min_epoch > before {
                // Nobody's ticket holds any more; who has a new one shows it.
                self.members.clear();
            }
            self.revocations = Some(list);
        }
        newer
    }
}

impl SharedLibrary {
    /// As it was kept, with its asides.
    pub fn new(kept: Kept, asides: HashMap<ContentHash, Aside>) -> Self {
        let Kept { key, ticket, created_ms, revocations, sharing } = kept;
        let claims = ticket.claims();
        let (id, access) = (claims.library, claims.access);
        let revocations = revocations.and_then(|list| SignedRevocations::decode(id, &list).ok());
        let state = SharedState { asides, revocations, ..SharedState::default() };
        let filter = ticket.filter.clone();
        Self {
            id,
            key,
            created_ms,
            sharing,
            ticket: Mutex::new(ticket),
            filter,
            access,
            state: Mutex::new(state),
        }
    }

    /// Takes note of what was written down besides. Blocks.
    pub fn restore(&self, registry: &Registry) -> Result<(), RegistryError> {
        let (dates, private) = (registry.list_dates(self.id)?, registry.private(self.id)?);
        self.state().dates = dates;
        self.set_private(private);
        // Of which epoch their tickets are was not: after all were revoked, only who shows a new one counts.
        if self.revocations().min_epoch > 0 {
            return Ok(());
        }
        for member in registry.members(self.id)? {
            if let Ok(id) = member.endpoint_id.parse() {
                self.met(id, member.serial);
            }
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock()
    }

    fn locked_ticket(&self) -> MutexGuard<'_, Ticket> {
        self.ticket.lock()
    }

    /// Takes over what was known of the library before our ticket was replaced.
    pub fn adopt(&self, before: &Self) {
        let (list, private) = (before.dated_revocations(), before.private());
        let mut state = self.state();
        state.private = private;
        if let Some((list, dates)) = list {
            // The dates are those of this list.
            state.take_revocations(list);
            state.dates = dates;
        }
    }

    /// Says what was here already when we joined, and is not shared.
    pub fn set_private(&self, private: Private) {
        self.state().private = Arc::new(private);
    }

    /// What was here already when we joined, and is not shared.
    pub fn private(&self) -> Arc<Private> {
        Arc::clone(&self.state().private)
    }

    /// Its name for machines.
    pub fn id(&self) -> LibraryId {
        self.id
    }

    pub fn key(&self) -> Option<&SigningKey> {
        self.key.as_ref()
    }

    /// When it was created or joined here, in milliseconds since the Unix epoch.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Which versions of our own belong to it, where we may write at all.
    pub fn sharing(&self) -> Option<Sharing> {
        (self.access == Access::Write).then_some(self.sharing)
    }

    /// Whether a version of our own belongs to it, as far as that depends on when it was written: what was here before we joined
    /// does not, unless a user agreed. Dates alone do not tell, for clocks are wrong at times, and a version may be dated anew.
    pub fn shares(&self, record: &AssetRecord) -> bool {
        if self.state().private.has(record) {
            return false;
        }
        let created_ms = record.meta.created_at_ms;
        if record.deleted {
            // What was deleted before the library was there, or was never part of it, is nobody's business.
            self.sharing.since_at(record.hlc.ms()).is_some_and(|since_ms| created_ms >= since_ms)
        } else {
            created_ms.max(record.hlc.ms()) >= self.sharing.since_ms
        }
    }

    /// Whether a live version that belongs to it did so by the terms of a moment, too.
    pub fn shared_at(&self, record: &AssetRecord, at_ms: u64) -> bool {
        let written_ms = record.meta.created_at_ms.max(record.hlc.ms());
        let since_ms = self.sharing.since_at(at_ms);
        since_ms.is_some_and(|since_ms| record.via.is_some() || written_ms >= since_ms)
    }

    pub fn ticket(&self) -> Ticket {
        self.locked_ticket().clone()
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    pub fn access(&self) -> Access {
        self.access
    }

    /// Takes in a list, and our own ticket where it is replaced by one that allows the same, at once: one without the other knows another
    /// key.
    pub fn begin_epoch(&self, ticket: Option<Ticket>, list: SignedRevocations) {
        let mut own = self.locked_ticket();
        if let Some(ticket) = ticket {
            *own = ticket;
        }
        self.revoke(list);
    }

    /// The keys that prove membership in a session, as far as our ticket and the newest list of revocations tell them.
    pub fn session_keys(&self) -> SessionKeys {
        let ticket = self.locked_ticket();
        let state = self.state();
        SessionKeys::of(&ticket, state.revocations.as_ref().map(|signed| &signed.list))
    }

    pub(super) fn keys(&self) -> LibraryKeys {
        LibraryKeys::of_read_secret(&self.ticket().secret)
    }

    pub(super) fn take_asides(&self) -> HashMap<ContentHash, Aside> {
        std::mem::take(&mut self.state().asides)
    }

    /// What its owner took back, as far as we know.
    pub fn revocations(&self) -> Revocations {
        self.state().revocations.as_ref().map(|signed| signed.list.clone()).unwrap_or_default()
    }

    /// The same as it is passed on.
    pub fn signed_revocations(&self) -> Option<SignedRevocations> {
        self.state().revocations.clone()
    }

    /// How old the newest list is that we know, and how old it may be.
    pub fn freshness(&self, now_ms: u64) -> Freshness {
        let by_ticket = self.locked_ticket().claims().fresh_within_ms;
        let state = self.state();
        let list = state.revocations.as_ref().map(|signed| &signed.list);
        Freshness::of(list, state.dates, by_ticket, now_ms)
    }

    /// Takes in a list that came at `now_ms`, if it is news, and takes note that its owner says that it is the newest; whether
    /// there is something to write down.
    pub fn take_list(&self, list: SignedRevocations, now_ms: u64, by_owner: bool) -> bool {
        let mut state = self.state();
        let version = list.list.version;
        let is_news = state.take_revocations(list);
        if is_news {
            state.dates.received_ms = now_ms;
        }
        let is_newest = state.revocations.as_ref().is_some_and(|known| known.list.version == version);
        if by_owner && is_newest {
            state.dates.told_ms = now_ms;
        }
        is_news || by_owner && is_newest
    }

    /// The newest list that we know, and what is known of its age.
    pub fn dated_revocations(&self) -> Option<(SignedRevocations, ListDates)> {
        let state = self.state();
        Some((state.revocations.clone()?, state.dates))
    }

    /// Whether the newest list that we know is older at `now_ms` than the owner allows, or we know none where it wants one, so
    /// that records of other members have to wait. The owner knows what it took back.
    pub fn is_stale(&self, now_ms: u64) -> bool {
        self.key.is_none() && self.freshness(now_ms).is_stale()
    }

    /// Takes in a list; whether it is newer than what we had.
    pub fn revoke(&self, list: SignedRevocations) -> bool {
        self.state().take_revocations(list)
    }

    /// Whether our own ticket still holds at `now_ms`, as far as we can tell.
    pub fn check_own(&self, own_id: EndpointId, now_ms: u64) -> Result<(), TicketError> {
        let ticket = self.ticket();
        ticket.claims().check(self.id, own_id, &self.revocations(), now_ms)
    }

    /// Takes note of a member that is in sync.
    pub fn member_synced(&self, id: EndpointId, member: Member) {
        let mut state = self.state();
        state.refused = None;
        if state.news.len() < NEWS_MAX || state.news.contains_key(&id) {
            state.news.insert(id, member);
        }
    }

    /// Takes note of a member whose ticket held, by the ticket's number.
    pub fn met(&self, id: EndpointId, serial: u64) {
        let mut state = self.state();
        if state.members.len() < MEMBERS_MAX || state.members.contains_key(&id) {
            state.members.insert(id, serial);
        }
    }

    /// The number of the ticket by which this endpoint took part, unless it was revoked.
    pub fn serial_of(&self, id: &EndpointId) -> Option<u64> {
        let state = self.state();
        let revoked =
            |serial: &u64| state.revocations.as_ref().is_some_and(|l| l.list.serials.contains(serial));
        state.members.get(id).copied().filter(|serial| !revoked(serial))
    }

    /// Who took part, with the numbers of their tickets.
    pub fn members(&self) -> HashMap<EndpointId, u64> {
        self.state().members.clone()
    }

    /// Whether this endpoint is known to take part: our ticket names it, or its own ticket held and was not revoked.
    pub fn leads_to(&self, id: &EndpointId) -> bool {
        let is_named = self.locked_ticket().addrs.iter().any(|addr| addr.id == *id);
        is_named || self.serial_of(id).is_some()
    }

    /// Members that were in sync since the last call.
    pub fn take_news(&self) -> Vec<Member> {
        std::mem::take(&mut self.state().news).into_values().collect()
    }

    /// Says how things stand with a connected member; `None` once it is connected no more.
    pub fn set_standing(&self, id: EndpointId, standing: Option<MemberStanding>) {
        let mut state = self.state();
        match standing {
            Some(standing) => drop(state.standings.insert(id, standing)),
            None => drop(state.standings.remove(&id)),
        }
    }

    pub fn connected(&self) -> Vec<EndpointId> {
        self.state().standings.keys().copied().collect()
    }

    pub fn is_connected(&self) -> bool {
        !self.state().standings.is_empty()
    }

    pub(super) fn progress(&self, filling: bool) -> LibraryAgreement {
        let state = self.state();
        let all = || state.standings.values();
        // Members have the same: the one that has most of what is missing here tells most.
        let missing_bytes = all().map(|member| member.missing_bytes).max().unwrap_or_default();
        let rate = rate_sum(all().map(|member| member.rate));
        LibraryAgreement {
            state: match (filling, state.standings.is_empty(), all().all(|member| member.in_sync)) {
                (true, ..) => "reading",
                (_, true, _) => "alone",
                (_, _, true) => "in_sync",
                (_, _, false) if all().any(|member| member.is_busy) => "syncing",
                (_, _, false) => "held",
            },
            connected: state.standings.len(),
            missing: all().map(|member| member.missing).max().unwrap_or_default(),
            missing_bytes,
            missing_there: all().map(|member| member.missing_there).sum(),
            held_here: all().map(|member| member.held_here).max().unwrap_or_default(),
            held_there: all().map(|member| member.held_there).max().unwrap_or_default(),
            rate,
            eta_secs: eta_secs(missing_bytes, rate),
        }
    }

    /// Takes note that a member does not let us in, and why.
    pub fn set_refused(&self, why: String) {
        self.state().refused = Some(why);
    }

    /// Why members do not let us in.
    pub fn refused(&self) -> Option<String> {
        self.state().refused.clone()
    }
}
