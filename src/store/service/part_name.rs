//! What the part of a form calls its file. Pure.
//!
//! Browsers write `"` and line breaks as `%22`, `%0A` and `%0D` in a name and nothing else so
//! (<https://html.spec.whatwg.org/#multipart-form-data>); other programs quote with backslashes, or send `filename*`
//! (RFC 8187). Names that are no UTF-8 keep their other bytes as `%XX`.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_DISPOSITION;

use crate::text::escaped_name;

/// The file name of a part, without the directories that some programs put before it; `None` if it has none.
pub(in crate::store) fn file_name(headers: &HeaderMap) -> Option<String> {
    let header = headers.get(CONTENT_DISPOSITION)?.as_bytes();
    let parameters = parameters(header);
    let of = |wanted: &str| parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
    let extended = of("filename*").and_then(|(_, value)| extended(value));
    let name =
        extended.or_else(|| of("filename").map(|(_, value)| escaped_name(&unescaped(value)).into_owned()))?;
    let last = last_part(&name);
    (!last.is_empty()).then(|| last.to_owned())
}

/// The last part of a path, where it is one: only Windows' own paths have backslashes between the parts.
fn last_part(name: &str) -> &str {
    let drive = name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) && name[1..].starts_with(":\\");
    let name =
        if drive || name.starts_with("\\\\") { name.rsplit('\\').next().unwrap_or_default() } else { name };
    name.rsplit('/').next().unwrap_or_default()
}

/// Names and values of a header's parameters, values without their quotes.
fn parameters(header: &[u8]) -> Vec<(&[u8], Vec<u8>)> {
    let mut all = Vec::new();
    let mut rest = header;
    while let Some(at) = rest.iter().position(|byte| *byte == b';') {
        rest = rest[at + 1..].trim_ascii_start();
        let Some(equals) = rest.iter().position(|byte| matches!(byte, b'=' | b';')) else { break };
        if rest[equals] == b';' {
            rest = &rest[equals..];
            continue;
        }
        let name = rest[..equals].trim_ascii();
        let value = rest[equals + 1..].trim_ascii_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix(b"\"") {
            unquoted(quoted)
        } else {
            let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
            (value[..end].trim_ascii_end().to_vec(), &value[end..])
        };
        all.push((name, value));
        rest = after;
    }
    all
}

/// What stands before the closing quote, and what follows it. A backslash quotes a quote or a backslash; before anything
/// else it is part of the name.
fn unquoted(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut at = 0;
    while let Some(byte) = quoted.get(at) {
        match (byte, quoted.get(at + 1)) {
            (b'"', _) => return (value, &quoted[at + 1..]),
            (b'\\', Some(next @ (b'"' | b'\\'))) => {
                value.push(*next);
                at += 1;
            }
            _ => value.push(*byte),
        }
        at += 1;
    }
    (value, &[])
}

/// The three escapes of browsers undone.
fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let escape = rest.get(..3).map(<[u8]>::to_ascii_uppercase);
        let meant = match escape.as_deref() {
            Some(b"%22") => Some(b'"'),
            Some(b"%0A") => Some(b'\n'),
            Some(b"%0D") => Some(b'\r'),
            _ => None,
        };
        name.push(meant.unwrap_or(*first));
        rest = if meant.is_some() { &rest[3..] } else { after };
    }
    name
}

/// `charset'language'percent-encoded`, in one of the two character sets of RFC 8187.
fn extended(value: &[u8]) -> Option<String> {
    let mut parts = value.splitn(3, |byte| *byte == b'\'');
    let (charset, _, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    let mut bytes = Vec::new();
    let mut rest = encoded;
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    if charset.eq_ignore_ascii_case(b"utf-8") {
        Some(escaped_name(&bytes).into_owned())
    } else if charset.eq_ignore_ascii_case(b"iso-8859-1") {
        Some(bytes.iter().map(|byte| char::from(*byte)).collect())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn name(disposition: &[u8]) -> Option<String> {
        let value = HeaderValue::from_bytes(disposition).expect("a header");
        file_name(&[(CONTENT_DISPOSITION, value)].into_iter().collect())
    }

    fn quoted(name_in_quotes: &str) -> Option<String> {
        name(format!("form-data; name=\"file\"; filename=\"{name_in_quotes}\"").as_bytes())
    }

    #[test]
    fn what_browsers_escape_is_undone_and_nothing_else() {
        for (sent, meant) in [
            ("a%22b.txt", "a\"b.txt"),
            ("a%0Ab%0D.txt", "a\nb\r.txt"),
            ("a%0a.txt", "a\n.txt"),
            ("100%25.txt", "100%25.txt"),
            ("a%20b%2Fc.txt", "a%20b%2Fc.txt"),
            ("50%", "50%"),
            ("%2", "%2"),
            ("é; filename=b", "é; filename=b"),
        ] {
            assert_eq!(quoted(sent).as_deref(), Some(meant), "{sent}");
        }
    }

    #[test]
    fn quotes_and_directories_are_not_part_of_a_name() {
        for (sent, meant) in [
            (r#"say \"hi\".txt"#, "say \"hi\".txt"),
            (r"a\\b.txt", r"a\b.txt"),
            (r"a\b.txt", r"a\b.txt"),
            (r"C:\fakepath\photo.jpg", "photo.jpg"),
            (r"\\\\server\share\a.txt", "a.txt"),
            ("photos/2026/a.jpg", "a.jpg"),
        ] {
            assert_eq!(quoted(sent).as_deref(), Some(meant), "{sent}");
        }
        assert_eq!(name(b"form-data; name=file; filename=plain.txt ; a=b").as_deref(), Some("plain.txt"));
        assert_eq!(name(b"form-data; FileName=\"a.txt\"").as_deref(), Some("a.txt"));
        assert_eq!(name(b"form-data; name=\"filename=x; y\"; filename=\"a\"").as_deref(), Some("a"));
        for none in [
            "form-data; name=\"file\"",
            "form-data; filename=\"\"",
            "form-data; filename=\"a/\"",
            "form-data",
        ] {
            assert_eq!(name(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn the_extended_form_counts_for_more() {
        let both = b"form-data; filename=\"_.txt\"; filename*=UTF-8''na%C3%AFve%2022%2522.txt";
        assert_eq!(name(both).as_deref(), Some("naïve 22%22.txt"));
        assert_eq!(name(b"form-data; filename*=iso-8859-1'en'%A3%20rates").as_deref(), Some("£ rates"));
        assert_eq!(name(b"form-data; filename*=utf-16''ab; filename=b").as_deref(), Some("b"));
        assert_eq!(name(b"form-data; filename=b; filename*=UTF-8''%zz").as_deref(), Some("b"));
    }

    #[test]
    fn names_that_are_no_text_stay_apart() {
        assert_eq!(name(b"form-data; filename=\"caf\xe9.txt\"").as_deref(), Some("caf%E9.txt"));
        assert_ne!(name(b"form-data; filename=\"\xfe\""), name(b"form-data; filename=\"\xff\""));
    }
}
