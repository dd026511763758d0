//! What is in a packet, for members only. Pure.

use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};

/// Bytes of a nonce. At random: 192 bits do not repeat.
pub const NONCE: usize = 24;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = NONCE + 16;

/// Encrypts `plain` for those who know `key`; `bound_to` must be the same when it is opened.
///
/// # Panics
/// Never: the cipher refuses nothing below 256 GiB.
pub fn seal(key: &[u8; 32], bound_to: &[u8], plain: &[u8], nonce: [u8; NONCE]) -> Vec<u8> {
    let cipher = XChaCha20Poly1305::new(key.into());
    let sealed = cipher.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: bound_to });
    let mut bytes = nonce.to_vec();
    bytes.extend(sealed.expect("a message below 256 GiB"));
    bytes
}

/// What [`seal`] was given; `None` for anything else.
pub fn open(key: &[u8; 32], bound_to: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
    let cipher = XChaCha20Poly1305::new(key.into());
    cipher.decrypt(&XNonce::from(*nonce), Payload { msg: rest, aad: bound_to }).ok()
}
