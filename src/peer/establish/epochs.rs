//! Members that know a library by keys of different epochs: what the one that knows more tells the other.

use bytes::Bytes;

use super::{EstablishError, KeyedLibrary, Meeting};
use crate::clock::now_ms;
use crate::library::revocation::SignedRevocations;
use crate::net::auth::{AuthError, ProvedSecret, Role, Transcript};
use crate::peer::admission::{self, Refusal};
use crate::wire::proto::{Revocations, frame};

impl Meeting<'_> {
    /// What is told to a member that proved a key of a former epoch with a ticket that holds: the list of revocations, and
    /// nothing else. `current` of the keys that could be proved are not of former ones.
    pub(super) fn tells_epoch(
        &self,
        transcript: &Transcript,
        current: usize,
        former: &[KeyedLibrary],
        proved: &[ProvedSecret],
    ) -> Option<frame::Kind> {
        let between = transcript.between(Role::Opener);
        proved.iter().find_map(|ProvedSecret { index, ticket }| {
            let (library, key) = former.get(index.checked_sub(current)?)?;
            let shared = library.shared()?;
            admission::check_ticket(shared, self.peer(), ticket.as_ref()?, &between, now_ms()).ok()?;
            let list = shared.signed_revocations()?.encode().into();
            let library = Bytes::copy_from_slice(&transcript.blinded(key));
            Some(frame::Kind::Revocations(Revocations { library, list }))
        })
    }

    /// Why a ticket does not hold that was shown with a key of a former epoch: as with the newest key, the owner says so, and
    /// members do not make themselves known.
    pub(super) fn refusal_of_former(
        &self,
        transcript: &Transcript,
        current: usize,
        former: &[KeyedLibrary],
        proved: &[ProvedSecret],
    ) -> Option<Refusal> {
        let between = transcript.between(Role::Opener);
        proved.iter().find_map(|ProvedSecret { index, ticket }| {
            let (library, _) = former.get(index.checked_sub(current)?)?;
            let shared = library.shared().filter(|shared| shared.key().is_some())?;
            let checked = admission::check_ticket(shared, self.peer(), ticket.as_ref()?, &between, now_ms());
            checked.err().map(Refusal::Ticket)
        })
    }
}

/// What a member says who answers to a key of a former epoch: only what the library signed, of one that we offered.
pub(super) fn outdated_by(
    transcript: &Transcript,
    offered: &[KeyedLibrary],
    told: &Revocations,
) -> Result<EstablishError, EstablishError> {
    let is_told = |(_, key): &&KeyedLibrary| transcript.blinded(key)[..] == told.library[..];
    let found = offered.iter().find(is_told).and_then(|(library, key)| Some((library.shared()?, key)));
    let (shared, offered) = found.ok_or(AuthError::Malformed("revocations of what was not offered"))?;
    let list = SignedRevocations::decode(shared.id(), &told.list)
        .map_err(|_| AuthError::Malformed("revocations that the library did not sign"))?;
    // Another member may have told us while this one was asked.
    let is_news = list.list.version > shared.revocations().version;
    if !is_news && shared.session_keys().current == *offered {
        return Err(AuthError::Malformed("revocations that are no news").into());
    }
    Ok(EstablishError::Outdated(shared.id(), Box::new(list)))
}
