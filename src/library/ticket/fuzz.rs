//! Tickets, what members show of them, and lists of revocations: see `testing::fuzz`.
//!
//! What a library has to sign is signed here: whoever has a library of its own can sign anything.

use std::sync::LazyLock;

use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::{
    Access, Claims, LibraryId, REST_CONTEXT, SIGNED, SignedClaims, Subject, TEXT_BYTES_MAX, Ticket,
    VERSION_OF_FOLDER_WITH_KEY,
};
use crate::library::codec::RowWriter;
use crate::library::revocation::{self, SignedRevocations};

static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[7; 32]));

fn library() -> LibraryId {
    LibraryId(KEY.verifying_key().to_bytes())
}

/// A ticket's text.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(ticket) = Ticket::parse(text) else { return };
    let again = ticket.to_text();
    assert_eq!(*again, text.trim().to_ascii_lowercase(), "there is one text of each ticket");
    assert!(again.len() <= TEXT_BYTES_MAX && Ticket::parse(&again).is_ok_and(|again| again == ticket));
}

/// A version, then what of a ticket its claims cover by a digest alone: filter, addresses, secrets.
pub fn rest(bytes: &[u8]) {
    let Some((version, rest)) = bytes.split_first() else { return };
    let version = 1 + version % VERSION_OF_FOLDER_WITH_KEY;
    let Some(secrets) = rest.len().checked_sub(if version.is_multiple_of(2) { 96 } else { 64 }) else {
        return;
    };
    let Some(holder) = rest[secrets..].first_chunk::<32>() else { return };
    let claims = Claims {
        library: library(),
        name: "any".into(),
        access: Access::Read,
        subject: Subject::Bearer,
        not_before_ms: 0,
        expires_ms: None,
        uses: 0,
        serial: 1,
        epoch: 0,
        held: (0, 0),
        fresh_within_ms: 0,
        holder: SigningKey::from_bytes(holder).verifying_key().to_bytes(),
        rest: blake3::derive_key(REST_CONTEXT, rest),
    };
    let signature = KEY.sign(&[SIGNED, &claims.encode()].concat()).to_bytes();
    let mut ticket = RowWriter::default();
    ticket.u8(version).bytes(&SignedClaims { claims, signature }.encode()).raw(rest);
    let Ok(ticket) = Ticket::decode(&ticket.0) else { return };
    let written =
        super::rest(&ticket.holder, (&ticket.secret, ticket.session.as_ref()), &ticket.filter, &ticket.addrs);
    assert_eq!(written, Zeroizing::new(rest.to_vec()), "there is one encoding of each ticket");
    text(ticket.to_text().as_bytes());
}

/// Claims, as the library that they are about signed them.
pub fn claims(bytes: &[u8]) {
    let _ = SignedClaims::decode(bytes);
    let mut bytes = bytes.to_vec();
    if let Some(id) = bytes.get_mut(1..33) {
        id.copy_from_slice(&library().0);
    }
    let signature = KEY.sign(&[SIGNED, &bytes].concat()).to_bytes();
    bytes.extend_from_slice(&signature);
    if let Ok(signed) = SignedClaims::decode(&bytes) {
        assert_eq!(signed.encode(), bytes, "there is one encoding of all claims");
        let _ = signed.claims.check_time(1_790_000_000_000, 0);
    }
}

/// A list of revocations, as its library signed it.
pub fn revocations(bytes: &[u8]) {
    let signature = KEY.sign(&[revocation::SIGNED, bytes].concat()).to_bytes();
    let bytes = [bytes, &signature].concat();
    if let Ok(signed) = SignedRevocations::decode(library(), &bytes) {
        assert_eq!(signed.encode(), bytes, "what is passed on is not what was signed");
    }
}
