//! The bearer token that a server asks for, where one is set. Tokens are compared in constant time, in the one form in which
//! secrets count.

use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::ApiError;
use crate::identity::normal;

pub(crate) fn carries(headers: &HeaderMap, token: &SecretString) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
    bearer.is_some_and(|sent| is_token(sent, token))
}

/// Whether what was sent is the token, in whichever spelling: in files it counts in one form, too.
pub(crate) fn is_token(sent: &[u8], token: &SecretString) -> bool {
    let token = normal(token.expose_secret());
    // An empty token would let everybody in; a start refuses one, and so does this.
    let sent = std::str::from_utf8(sent).ok().map(normal).filter(|_| !token.is_empty());
    sent.is_some_and(|sent| same(sent.as_bytes(), token.as_bytes()))
}

/// Constant in the content; that lengths differ may show.
pub(crate) fn same(sent: &[u8], expected: &[u8]) -> bool {
    sent.ct_eq(expected).into()
}

/// 401 for a request without the token that `setting` names.
pub(crate) fn missing(setting: &str) -> ApiError {
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "token_required",
        "this API needs a token",
        format!("send the header 'Authorization: Bearer <the content of {setting}>'"),
    )
    .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// The token in `Bearer <token>`; the scheme's case does not matter.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for bad in [&b"Basic abc"[..], b"Bearer", b"", b"Bearerabc"] {
            assert_eq!(bearer(bad), None);
        }
    }

    #[test]
    fn a_token_is_one_in_any_spelling() {
        let token = "gr\u{fc}n 7".into();
        for sent in ["gr\u{fc}n 7", "gru\u{308}n 7", " gr\u{fc}n \u{ff17}\r\n"] {
            assert!(is_token(sent.as_bytes(), &token), "{sent:?}");
        }
        for sent in [&b"gr\xfcn 7"[..], b"", b"grun 7"] {
            assert!(!is_token(sent, &token));
        }
        assert!(!is_token(b"", &"".into()) && !is_token(b" ", &"".into()));
    }
}
