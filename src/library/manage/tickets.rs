//! What people do with tickets: issue, read, use and take back.

use std::collections::BTreeMap;
use std::sync::Arc;

use iroh::{EndpointAddr, EndpointId};
use iroh_tickets::endpoint::EndpointTicket;
use tokio::task::spawn_blocking;

use super::Manager;
use crate::clock::now_ms;
use crate::identity::Key;
use crate::library::Library;
use crate::library::epoch::{Epoch, SURVIVORS_MAX};
use crate::library::error::LibraryError;
use crate::library::registry::SealingKey;
use crate::library::report::{Invited, LibrarySize, Preview};
use crate::library::revocation::{Revocations, SERIALS_MAX, SignedRevocations};
use crate::library::ticket::{Access, CLOCKS_APART_MAX_MS, LibraryId, Subject, Terms, Ticket};

/// Members, besides the issuer, whose addresses a ticket has.
const MEMBERS_IN_TICKET: usize = 3;
/// Longest time for which a ticket may be issued: ten years.
const EXPIRES_SECS_MAX: u64 = 10 * 366 * 24 * 3600;

#[derive(Clone, Debug)]
pub struct Invitation {
    /// Read, or write as well.
    pub access: Access,
    /// Who may use it; anybody who has it if `None`.
    pub subject: Option<EndpointId>,
    /// Seconds from now on after which it is valid.
    pub starts_secs: u64,
    /// Seconds from now on until which it is valid; for ever if `None`.
    pub expires_secs: Option<u64>,
    /// How many endpoints may use it; any number if `None`.
    pub uses: Option<u32>,
}

/// What is taken back.
#[derive(Clone, Copy, Debug)]
pub enum Revoke {
    Serial(u64),
    /// Every ticket that was issued until now.
    All,
}

impl Manager {
    /// Issues a ticket.
    pub async fn invite(&self, id: LibraryId, invitation: Invitation) -> Result<Invited, LibraryError> {
        // It says how much there is.
        let library = self.find(id)?;
        self.until_filled(&library).await?;
        // A ticket of an epoch that ends meanwhile would be good for nothing.
        let _one = self.busy.lock().await;
        let library = self.find(id)?;
        let shared = library.shared().ok_or(LibraryError::Unknown(id))?;
        let key = shared.key().ok_or(LibraryError::NotOwner)?;
        let Invitation { access, subject, starts_secs, expires_secs, uses } = invitation;
        if library.folder().is_some() && access == Access::Write {
            return Err(LibraryError::Terms("a folder is shared to be read: invite with read access"));
        }
        if uses == Some(0) {
            return Err(LibraryError::Terms("uses is 0, so nobody could use it: leave it out for no limit"));
        }
        let longest = starts_secs.max(expires_secs.unwrap_or_default());
        if longest > EXPIRES_SECS_MAX {
            return Err(LibraryError::Terms("a ticket can be issued for at most ten years"));
        }
        if expires_secs.is_some_and(|secs| secs <= starts_secs) {
            return Err(LibraryError::Terms("it would expire before it is valid"));
        }
        let serial = self.registry(move |registry| registry.next_serial(id)).await?;
        let (now, summary, own) = (now_ms(), library.summary(), shared.ticket());
        let keys = shared.session_keys();
        let terms = Terms {
            name: own.claims().name.clone(),
            access,
            subject: subject.map_or(Subject::Bearer, Subject::Endpoint),
            not_before_ms: now + starts_secs * 1000,
            expires_ms: expires_secs.map(|secs| now + secs * 1000),
            uses: uses.unwrap_or_default(),
            serial,
            epoch: keys.epoch,
            held: (summary.assets, summary.bytes),
            fresh_within_ms: shared.freshness(now).limit_ms,
        };
        let addrs = self.addresses(id).await?;
        let session = (keys.current != *library.keys().auth()).then_some(keys.current);
        let secrets = (own.secret.clone(), session);
        let ticket = Ticket::issue_with(key, terms, secrets, own.filter.clone(), addrs)?;
        let noted = ticket.clone();
        self.registry(move |registry| registry.issued(&noted, now)).await?;
        Ok(Invited::new(&ticket))
    }

    /// Where we and a few members that may write can be reached: a newcomer takes records from those alone.
    async fn addresses(&self, id: LibraryId) -> Result<Vec<EndpointAddr>, LibraryError> {
        let members = self.registry(move |registry| registry.members(id)).await?;
        let book = self.book.clone();
        let entries = spawn_blocking(move || book.entries().unwrap_or_default()).await.unwrap_or_default();
        let own = self.ticket.borrow().parse::<EndpointTicket>().ok().map(EndpointAddr::from);
        let writers = members.into_iter().filter(|member| member.access == Access::Write);
        let known = writers.filter_map(|member| {
            let entry = entries.iter().find(|entry| entry.addr.id.to_string() == member.endpoint_id)?;
            Some(entry.addr.clone())
        });
        let own = own.unwrap_or_else(|| EndpointAddr::new(self.own_id));
        Ok([own].into_iter().chain(known.take(MEMBERS_IN_TICKET)).collect())
    }

    /// Reads a ticket without using it. If it allows to write, it says how much of what is here would belong.
    pub async fn inspect(&self, text: &str) -> Result<Preview, LibraryError> {
        let ticket = self.check(text)?;
        let matching = match ticket.claims().access {
            Access::Read => LibrarySize::default(),
            Access::Write => self.count(&ticket.filter).await?,
        };
        Ok(Preview::new(&ticket, matching))
    }

    fn check(&self, text: &str) -> Result<Ticket, LibraryError> {
        let ticket = Ticket::parse(text)?;
        let claims = ticket.claims();
        let known = self.libraries.get(claims.library);
        if let Some(shared) = known.as_ref().and_then(|library| library.shared()) {
            if shared.key().is_some() {
                return Err(LibraryError::Own);
            }
            claims.check_revoked(&shared.revocations())?;
        }
        claims.check_subject(self.own_id)?;
        // Our own clock may be the one that is wrong; the peer that lets us in checks again.
        claims.check_time(now_ms(), CLOCKS_APART_MAX_MS)?;
        Ok(ticket)
    }

    /// Joins a library; whether it is new here. One that was joined before stays, with the newer ticket. What is here already
    /// and matches belongs to it only with `share_existing`, which may be said later, too.
    pub async fn join(&self, text: &str, share_existing: bool) -> Result<(Arc<Library>, bool), LibraryError> {
        let _one = self.busy.lock().await;
        let ticket = self.check(text)?;
        let addrs = ticket.addrs.clone();
        let before = self.libraries.get(ticket.claims().library);
        let (sharing, private) = self.terms(before.as_deref(), &ticket, share_existing).await?;
        self.claim_folder(&ticket).await?;
        if let Some(library) = &before
            && let Some(shared) = library.shared()
            && shared.ticket() == ticket
            && shared.sharing().is_none_or(|before| before == sharing)
        {
            self.dial(addrs);
            return Ok((Arc::clone(library), false));
        }
        let (id, folder) = (ticket.claims().library, ticket.filter.folder());
        let kept = self.keep(None, (ticket, None), (sharing, private), before.as_deref()).await;
        if let (Err(_), None, Some(folder)) = (&kept, &before, folder)
            && let Err(error) = self.drop_folder(id, folder).await
        {
            tracing::warn!(%error, "a folder whose library could not be joined stays claimed for it");
        }
        self.dial(addrs);
        Ok((kept?, before.is_none()))
    }

    /// Takes tickets back.
    pub async fn revoke(&self, id: LibraryId, what: Revoke) -> Result<Revocations, LibraryError> {
        let _one = self.busy.lock().await;
        let library = self.find(id)?;
        let shared = library.shared().ok_or(LibraryError::Unknown(id))?;
        let key = shared.key().ok_or(LibraryError::NotOwner)?;
        let mut list = shared.revocations().dated(self.clock.now_ms());
        let before = shared.session_keys();
        let number = before.epoch.max(list.min_epoch) + 1;
        match what {
            Revoke::Serial(0) => return Err(LibraryError::Terms("serial 0 is the owner's own ticket")),
            // Nothing ends by it, so it begins no epoch either.
            Revoke::Serial(serial) if list.serials.contains(&serial) => return Ok(list),
            // One that is issued later must not be void from the beginning.
            Revoke::Serial(serial)
                if !self.registry(move |registry| registry.has_issued(id, serial)).await? =>
            {
                return Err(LibraryError::NoTicket(serial));
            }
            Revoke::Serial(serial) => {
                list.serials.insert(serial);
                if list.serials.len() > SERIALS_MAX {
                    return Err(LibraryError::Terms("too many tickets were revoked one by one: revoke all"));
                }
                list.epoch.forget(serial);
            }
            Revoke::All => {
                list.min_epoch = number;
                list.serials.clear();
            }
        }
        let next = Key::random();
        let mut ticket = shared.ticket();
        let renewed = list.min_epoch == number;
        if renewed {
            // Our own does not hold either.
            let terms = self.own_terms(ticket.claims().name.clone(), number);
            let secrets = (ticket.secret.clone(), Some(next.clone()));
            ticket = Ticket::issue_with(key, terms, secrets, ticket.filter.clone(), Vec::new())?;
        }
        let survivors = if renewed { Some(BTreeMap::new()) } else { self.survivors(id, &list).await? };
        if let Some(mut survivors) = survivors {
            survivors.insert(0, ticket.sealing_key());
            if survivors.len() > SURVIVORS_MAX {
                return Err(LibraryError::Terms(
                    "more than 1,000 tickets would still hold, and each of them has to be told: revoke all",
                ));
            }
            let random = |bytes: &mut [u8]| rand::fill(bytes);
            list.epoch = Epoch::begin(id, &before, (number, &next), &survivors, random);
        } else {
            tracing::warn!(
                library = %id,
                "the revoked ticket's holder still recognises members: tickets of an earlier version are in use, and cannot be told \
                 a new key; revoke all to end that"
            );
        }
        let signed = SignedRevocations::sign(key, list.clone());
        let ticket = renewed.then_some(ticket);
        let written = (signed.clone(), ticket.clone());
        self.registry(move |registry| registry.begin_epoch(id, &written.0, written.1.as_ref())).await?;
        shared.begin_epoch(ticket, signed);
        Ok(list)
    }

    /// Signs the lists of our own libraries anew of which members may not have too old a one.
    ///
    /// # Errors
    /// A registry that does not work; they are signed later.
    pub async fn renew_lists(&self) -> Result<(), LibraryError> {
        let now = self.clock.now_ms();
        let is_due = |library: &Arc<Library>| {
            library.shared().is_some_and(|s| s.key().is_some() && s.revocations().is_due(now))
        };
        let due: Vec<Arc<Library>> = self.libraries.shared().into_iter().filter(is_due).collect();
        if due.is_empty() {
            return Ok(());
        }
        // A change writes a list itself; the next tick comes soon.
        let Ok(_one) = self.busy.try_lock() else { return Ok(()) };
        for library in due.iter().filter(|library| is_due(library)) {
            let Some((shared, key)) = library.shared().and_then(|shared| Some((shared, shared.key()?)))
            else {
                continue;
            };
            let (id, signed) = (shared.id(), SignedRevocations::sign(key, shared.revocations().dated(now)));
            let written = signed.clone();
            self.registry(move |registry| registry.set_revocations(id, &written)).await?;
            shared.revoke(signed);
        }
        Ok(())
    }

    /// The tickets that hold by this list, with what seals for their holders; `None` if there are some of which that was not
    /// kept.
    async fn survivors(
        &self,
        id: LibraryId,
        list: &Revocations,
    ) -> Result<Option<BTreeMap<u64, Key>>, LibraryError> {
        let now = now_ms();
        let issued = self.registry(move |registry| registry.sealing_keys(id, now)).await?;
        let is_old = |ticket: &SealingKey| ticket.epoch.is_some_and(|epoch| epoch < list.min_epoch);
        let holding =
            issued.into_iter().filter(|ticket| !list.serials.contains(&ticket.serial) && !is_old(ticket));
        Ok(holding.map(|ticket| Some((ticket.serial, ticket.key?))).collect())
    }
}
