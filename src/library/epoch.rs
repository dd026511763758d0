//! The keys by which members of a library know each other: each revocation begins an epoch with another one. Pure.
//!
//! The key of the epoch in which a ticket was issued is in the ticket. Later ones come with the list of revocations, sealed for
//! each ticket that still holds: by a secret that only the ticket's holder shares with the library's owner. With the
//! newest key goes what opens those before it, for one purpose: a member that was away proves an old one, and is told the list.
//! What names records belongs to the library and stays, so that nothing has to be compared anew.

use std::collections::BTreeMap;

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::codec::{CodecError, RowReader, RowWriter};
use super::revocation::Revocations;
use super::ticket::{LibraryId, Ticket};
use crate::identity::Key;

/// Tickets that may hold when one is revoked; an owner with more revokes all, and issues new ones.
pub const SURVIVORS_MAX: usize = 1024;
/// Keys of earlier epochs that are kept, to answer members that were away for so many revocations.
pub const FORMER_MAX: usize = 64;
/// What opens the keys before this one.
const FORMER_CONTEXT: &str = "can-sync 2026 v3 library keys of former epochs";
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// A key with its nonce.
const SEALED_BYTES: usize = NONCE_BYTES + 32 + TAG_BYTES;
const FORMER_BYTES_MAX: usize = NONCE_BYTES + FORMER_MAX * 32 + TAG_BYTES;
pub(super) const EPOCH_BYTES_MAX: usize = 16 + SURVIVORS_MAX * (8 + SEALED_BYTES) + 4 + FORMER_BYTES_MAX;
/// In place of a ticket's number where the keys before are sealed.
const FORMER: u64 = u64::MAX;

/// The keys of a library, as one of its members knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKeys {
    /// The epoch of the newest.
    pub epoch: u64,
    /// The newest, which is shown.
    pub current: Key,
    /// Those before it, the newest first: a peer that proves one of them is told the list of revocations, and nothing else.
    pub former: Vec<Key>,
}

impl SessionKeys {
    /// One that never changes.
    pub fn lasting(key: Key) -> Self {
        Self { epoch: 0, current: key, former: Vec::new() }
    }

    /// What the holder of a ticket knows, with the newest list of revocations that it has.
    pub fn of(ticket: &Ticket, list: Option<&Revocations>) -> Self {
        let claims = ticket.claims();
        let own = Self { epoch: claims.epoch, current: ticket.session_key(), former: Vec::new() };
        let newer = list.map(|list| &list.epoch).filter(|epoch| epoch.number >= own.epoch);
        let Some(epoch) = newer else { return own };
        if let Some(keys) = epoch.open(claims.library, claims.serial, &ticket.sealing_key()) {
            return keys;
        }
        // A ticket of this very epoch has its key already.
        let same = epoch.number == own.epoch;
        let former = same.then(|| epoch.open_former(claims.library, &own.current)).flatten();
        Self { former: former.unwrap_or_default(), ..own }
    }

    /// All of them, the newest first.
    pub fn all(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.current).chain(&self.former)
    }
}

/// An epoch as the list of revocations tells it; the first one, 0, is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Its number: each revocation adds one.
    pub number: u64,
    /// Its key sealed for each ticket's holder, by the ticket's number.
    sealed: BTreeMap<u64, [u8; SEALED_BYTES]>,
    /// The keys before it, sealed with its key.
    former: Vec<u8>,
}

impl Epoch {
    /// Begins the epoch `number` with the key `next` after `before`; `survivors` are the tickets that still hold, by number, with
    /// what seals for their holders. `random` fills bytes by chance.
    pub fn begin(
        library: LibraryId,
        before: &SessionKeys,
        (number, next): (u64, &Key),
        survivors: &BTreeMap<u64, Key>,
        mut random: impl FnMut(&mut [u8]),
    ) -> Self {
        let mut seal = |key: &Key, ticket: u64, plain: &[u8]| {
            let mut nonce = [0; NONCE_BYTES];
            random(&mut nonce);
            let bound = bound(library, number, ticket);
            let payload = Payload { msg: plain, aad: &bound };
            // It fails for what is longer than any memory alone.
            let sealed = cipher(key).encrypt(&XNonce::from(nonce), payload).unwrap_or_default();
            [nonce.as_slice(), &sealed].concat()
        };
        let sealed = survivors
            .iter()
            .filter_map(|(serial, key)| Some((*serial, seal(key, *serial, next.expose()).try_into().ok()?)));
        let sealed = sealed.collect();
        let mut former = Zeroizing::new(Vec::with_capacity(FORMER_MAX * 32));
        before.all().take(FORMER_MAX).for_each(|key| former.extend_from_slice(key.expose()));
        let former = seal(&former_key(next), FORMER, &former);
        Self { number, sealed, former }
    }

    /// What the holder of the ticket of this number opens with `sealing`; nothing if the ticket did not hold when this was
    /// written.
    fn open(&self, library: LibraryId, serial: u64, sealing: &Key) -> Option<SessionKeys> {
        let current = self.unseal(library, sealing, serial, self.sealed.get(&serial)?)?;
        let current = Key::of_bytes(current.as_slice().try_into().ok()?);
        let former = self.open_former(library, &current)?;
        Some(SessionKeys { epoch: self.number, current, former })
    }

    /// The keys before this epoch's, the newest first, for those that have that.
    fn open_former(&self, library: LibraryId, current: &Key) -> Option<Vec<Key>> {
        let former = self.unseal(library, &former_key(current), FORMER, &self.former)?;
        Some(former.as_chunks::<32>().0.iter().map(|key| Key::of_bytes(*key)).collect())
    }

    fn unseal(
        &self,
        library: LibraryId,
        key: &Key,
        ticket: u64,
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let bound = bound(library, self.number, ticket);
        let payload = Payload { msg: sealed, aad: &bound };
        cipher(key).decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }

    /// Nothing is sealed for these any more.
    pub(super) fn forget(&mut self, serial: u64) {
        self.sealed.remove(&serial);
    }

    pub(super) fn encode(&self, out: &mut RowWriter) {
        out.u64(self.number).count(self.sealed.len());
        for (serial, sealed) in &self.sealed {
            out.u64(*serial).raw(sealed);
        }
        out.bytes(&self.former);
    }

    pub(super) fn decode(from: &mut RowReader<'_>) -> Result<Self, CodecError> {
        let number = from.u64()?;
        let count = from.count(SURVIVORS_MAX, "number of tickets")?;
        let sealed =
            (0..count).map(|_| Ok((from.u64()?, from.array()?))).collect::<Result<_, CodecError>>()?;
        let former = from.bytes(FORMER_BYTES_MAX, "former keys")?.to_vec();
        Ok(Self { number, sealed, former })
    }
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(key.expose().into())
}

fn former_key(current: &Key) -> Key {
    Key::of_bytes(blake3::derive_key(FORMER_CONTEXT, current.expose()))
}

/// What is sealed is sealed for one place.
fn bound(library: LibraryId, number: u64, ticket: u64) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..32].copy_from_slice(&library.0);
    bytes[32..40].copy_from_slice(&number.to_be_bytes());
    bytes[40..].copy_from_slice(&ticket.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests;
