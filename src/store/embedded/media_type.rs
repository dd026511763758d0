//! Which media type content has, from its first bytes and its file's name. Pure.
//!
//! Bytes decide where they are sure: a signature that nothing else begins with, or text. The name decides where they leave
//! it open: which kind of text, which of the formats that share a container (a `.docx` is a zip). A two-letter signature at
//! the beginning of a text is a coincidence.

use std::path::Path;

use super::edit::UNKNOWN_MIME_TYPE;

pub(super) const PLAIN_TEXT: &str = "text/plain";
const ZIP: &str = "application/zip";
const TRANSPORT_STREAM: &str = "video/mp2t";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";

const ODT: &str = "application/vnd.oasis.opendocument.text";
const ODS: &str = "application/vnd.oasis.opendocument.spreadsheet";
const ODP: &str = "application/vnd.oasis.opendocument.presentation";

/// Names of text files that the table of names has not, or has for something else.
const TEXT_NAMES: &[(&str, &str)] = &[
    ("bat", PLAIN_TEXT),
    ("cts", "text/typescript"),
    ("ipynb", "application/x-ipynb+json"),
    ("java", "text/x-java"),
    ("jsonl", "application/x-ndjson"),
    ("mts", "text/typescript"),
    ("ndjson", "application/x-ndjson"),
    ("obj", "model/obj"),
    ("org", "text/org"),
    ("pot", PLAIN_TEXT),
    ("stl", "model/stl"),
    ("ts", "text/typescript"),
    ("tsx", "text/typescript"),
];

/// Types of text that do not say so by themselves.
const TEXTUAL: &[&str] = &[
    "application/ecmascript",
    "application/javascript",
    "application/json",
    "application/pgp-encrypted",
    "application/pgp-keys",
    "application/pgp-signature",
    "application/postscript",
    "application/rtf",
    "application/sql",
    "application/toml",
    "application/typescript",
    "application/vnd.apple.mpegurl",
    "application/x-csh",
    "application/x-dxf",
    "application/x-httpd-php",
    "application/x-javascript",
    "application/x-latex",
    "application/x-ndjson",
    "application/x-perl",
    "application/x-pem-file",
    "application/x-sh",
    "application/x-shar",
    "application/x-sql",
    "application/x-subrip",
    "application/x-tcl",
    "application/x-tex",
    "application/x-texinfo",
    "application/x-troff",
    "application/x-x509-ca-cert",
    "application/xml",
    "application/xml-dtd",
    "application/yaml",
    "audio/mpegurl",
    "audio/scpls",
    "audio/x-mpegurl",
    "audio/x-scpls",
    "image/x-portable-anymap",
    "image/x-portable-bitmap",
    "image/x-portable-graymap",
    "image/x-portable-pixmap",
    "image/x-xbitmap",
    "image/x-xpixmap",
    "image/vnd.dxf",
];

/// Formats in Microsoft's compound files, which are no archives.
const OLE: &[&str] = &[
    "application/msword",
    "application/vnd.ms-excel",
    "application/vnd.ms-outlook",
    "application/vnd.ms-powerpoint",
    "application/vnd.ms-project",
    "application/vnd.visio",
    "application/x-msi",
    "application/x-mspublisher",
    "application/x-ole-storage",
];

/// Formats in one container. A name of the same group says more than the container's signature does.
const CONTAINERS: &[&[&str]] = &[
    &[
        "audio/aac",
        "audio/m4a",
        "audio/m4b",
        "audio/mp4",
        "audio/x-m4a",
        "audio/x-m4b",
        "image/avif",
        "image/heic",
        "image/heif",
        "video/3gpp",
        "video/3gpp2",
        "video/mp4",
        "video/quicktime",
        "video/x-m4v",
    ],
    &["application/ogg", "audio/ogg", "audio/opus", "audio/speex", "video/ogg"],
    &["audio/webm", "audio/x-matroska", "video/webm", "video/x-matroska"],
    &["audio/x-ms-wma", "video/x-ms-asf", "video/x-ms-wmv"],
    OLE,
    &["font/collection", "font/otf", "font/sfnt", "font/ttf"],
];

/// Endings of files that are zip archives inside, with the type that a listing of the archive shows, if one does.
const ZIPPED: &[(&str, &str)] = &[
    ("docm", DOCX),
    ("docx", DOCX),
    ("dotm", DOCX),
    ("dotx", DOCX),
    ("ppam", PPTX),
    ("potm", PPTX),
    ("potx", PPTX),
    ("ppsm", PPTX),
    ("ppsx", PPTX),
    ("pptm", PPTX),
    ("pptx", PPTX),
    ("sldm", PPTX),
    ("sldx", PPTX),
    ("thmx", PPTX),
    ("xlam", XLSX),
    ("xlsb", XLSX),
    ("xlsm", XLSX),
    ("xlsx", XLSX),
    ("xltm", XLSX),
    ("xltx", XLSX),
    ("3mf", "model/3mf"),
    ("aab", ZIP),
    ("aar", "application/vnd.android.package-archive"),
    ("apk", "application/java-archive"),
    ("cbz", ZIP),
    ("ear", "application/java-archive"),
    ("epub", "application/epub+zip"),
    ("ipa", ZIP),
    ("jar", "application/java-archive"),
    ("key", ZIP),
    ("kmz", ZIP),
    ("numbers", ZIP),
    ("odb", ZIP),
    ("odf", ZIP),
    ("odg", ZIP),
    ("odm", ODT),
    ("odp", ODP),
    ("ods", ODS),
    ("odt", ODT),
    ("ora", "image/openraster"),
    ("oth", ODT),
    ("otp", ODP),
    ("ots", ODS),
    ("ott", ODT),
    ("pages", ZIP),
    ("usdz", ZIP),
    ("vsdx", ZIP),
    ("war", "application/java-archive"),
    ("whl", ZIP),
    ("xpi", ZIP),
];

/// Types of files that are no text and that the table of names does not have, or has for something else.
const BINARY_NAMES: &[(&str, &str)] = &[
    ("3mf", "model/3mf"),
    ("aar", ZIP),
    ("cbz", "application/vnd.comicbook+zip"),
    ("key", "application/vnd.apple.keynote"),
    ("numbers", "application/vnd.apple.numbers"),
    ("otf", "font/otf"),
    ("pages", "application/vnd.apple.pages"),
    ("stl", "model/stl"),
    ("ttc", "font/collection"),
    ("usdz", "model/vnd.usdz+zip"),
    ("vsdx", "application/vnd.ms-visio.drawing"),
    ("whl", "application/x-wheel+zip"),
    ("woff", "font/woff"),
];

/// What the first bytes and the name say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    pub(super) mime_type: &'static str,
    /// Whether bytes or name settled it.
    is_settled: bool,
}

impl Guess {
    /// What it is after all, where its sender believes it to be `suggested`: that counts where neither bytes nor name told, and
    /// does not make text anything else.
    pub(super) fn or_suggested(self, suggested: Option<String>) -> String {
        let may_be = |suggested: &String| {
            let essence = suggested.split(';').next().unwrap_or_default().trim_end();
            self.mime_type != PLAIN_TEXT || is_textual(essence)
        };
        let suggested = suggested.filter(|suggested| !self.is_settled && may_be(suggested));
        suggested.unwrap_or_else(|| self.mime_type.to_owned())
    }
}

/// Whether a media type says nothing.
pub(super) fn is_unknown(mime_type: &str) -> bool {
    mime_type.eq_ignore_ascii_case(UNKNOWN_MIME_TYPE)
}

/// The media type of content that begins with `head`, the whole of it or as much as decides.
pub(super) fn guess(head: &[u8], filename: Option<&str>) -> Guess {
    let settled = |mime_type| Guess { mime_type, is_settled: true };
    let name = Name::of(filename);
    if is_text(head) {
        return match name.text_type(head).or_else(|| text_signature(head, &name)) {
            Some(mime_type) => settled(mime_type),
            None => Guess { mime_type: PLAIN_TEXT, is_settled: false },
        };
    }
    // A name of a text is no answer for what is none.
    let named =
        name.binary_type().filter(|named| !is_unknown(named) && (!is_textual(named) || is_nearly_text(head)));
    match (signature(head), named) {
        (Some((found, Certainty::Sure)), Some(named)) if !name.refines(found, named) => settled(found),
        (_, Some(named)) => settled(named),
        (Some((found, _)), None) => settled(found),
        (None, None) => Guess { mime_type: UNKNOWN_MIME_TYPE, is_settled: false },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Certainty {
    Sure,
    /// One or two bytes, as other formats may begin.
    Weak,
}

/// A file's ending, and what tables have for it.
struct Name {
    /// In lower case; empty if there is none.
    ending: String,
    listed: Option<&'static str>,
}

impl Name {
    fn of(filename: Option<&str>) -> Self {
        let name = filename.unwrap_or_default();
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        Self { ending: ending.to_ascii_lowercase(), listed: mime_guess::from_path(name).first_raw() }
    }

    fn text_type(&self, head: &[u8]) -> Option<&'static str> {
        // Qt keeps translations in files that are called as those of a programming language.
        if self.ending == "ts" && head.starts_with(b"<?xml") {
            return markup(head);
        }
        looked_up(TEXT_NAMES, &self.ending).or_else(|| self.listed.filter(|listed| is_textual(listed)))
    }

    /// What something of this name is that is no text; its bytes have the say if they have one.
    fn binary_type(&self) -> Option<&'static str> {
        if matches!(self.ending.as_str(), "ts" | "mts" | "m2ts") {
            return Some(TRANSPORT_STREAM);
        }
        looked_up(BINARY_NAMES, &self.ending).or(self.listed)
    }

    /// Whether `named` is a kind of what the bytes are, and so the better answer.
    fn refines(&self, found: &str, named: &str) -> bool {
        let same_but_for_x = found.replacen("/x-", "/", 1) == named.replacen("/x-", "/", 1);
        let zipped = looked_up(ZIPPED, &self.ending).is_some_and(|inside| found == ZIP || found == inside);
        let contained = CONTAINERS.iter().any(|group| group.contains(&found) && group.contains(&named));
        // Cameras' own formats are TIFF inside.
        let is_raw_picture = found == "image/tiff" && named.starts_with("image/");
        // Vendors' formats that nothing in the archive tells.
        let is_vendors = named.starts_with("application/vnd.") && !OLE.contains(&named);
        let archived = found == ZIP && (is_vendors || named.ends_with("+zip"));
        same_but_for_x || zipped || archived || contained || is_raw_picture
    }
}

fn looked_up(table: &[(&str, &'static str)], ending: &str) -> Option<&'static str> {
    table.iter().find(|(known, _)| *known == ending).map(|(_, mime_type)| *mime_type)
}

fn is_textual(mime_type: &str) -> bool {
    let suffixed = ["+xml", "+json", "+yaml"].iter().any(|suffix| mime_type.ends_with(suffix));
    let kind = mime_type.starts_with("text/") || mime_type.starts_with("message/");
    kind || suffixed || TEXTUAL.contains(&mime_type)
}

/// Whether no byte of it is one that texts do not have, and no signature says otherwise where it is no UTF-8.
fn is_text(head: &[u8]) -> bool {
    if head.is_empty() {
        return false;
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return head.len() > 2 && head.len().is_multiple_of(2);
    }
    if head.iter().copied().any(is_binary) {
        return false;
    }
    match std::str::from_utf8(head) {
        Ok(_) => true,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => true,
        Err(_) => !matches!(signature(head), Some((_, Certainty::Sure))),
    }
}

/// Whether something with bytes that texts do not have may be a text all the same: with a few control characters, such as the
/// one that ends texts of DOS, or in UTF-16 without a mark.
fn is_nearly_text(head: &[u8]) -> bool {
    let text = head.strip_suffix(b"\x1a").unwrap_or(head);
    let strange = text.iter().filter(|byte| is_binary(**byte)).count();
    let is_utf8 = std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    is_utf8 || strange * 50 <= text.len()
}

/// Whether texts have no such byte (<https://mimesniff.spec.whatwg.org/#binary-data-byte>).
fn is_binary(byte: u8) -> bool {
    matches!(byte, 0..=8 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f)
}

/// What a text says of itself that no name says.
fn text_signature(head: &[u8], name: &Name) -> Option<&'static str> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |signature: &[u8]| text.starts_with(signature);
    if begins(b"%PDF-") {
        return Some("application/pdf");
    }
    if begins(b"{\\rtf") {
        return Some("application/rtf");
    }
    if begins(b"%!PS-") {
        return Some("application/postscript");
    }
    if begins(b"#!") && name.ending.is_empty() {
        let line = text[2..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let program = words.next().unwrap_or_default();
        // `env` is told the program, after its own options.
        let is_env = program.ends_with(b"/env");
        let program =
            if is_env { words.find(|word| !word.starts_with(b"-")).unwrap_or_default() } else { program };
        return program.ends_with(b"sh").then_some("text/x-shellscript");
    }
    markup(text)
}

/// What a document is by its root element.
fn markup(text: &[u8]) -> Option<&'static str> {
    let mut rest = text;
    let is_xml = rest.starts_with(b"<?xml");
    loop {
        rest = rest.trim_ascii_start();
        // A document type may have declarations of its own inside.
        let first = |wanted: u8| rest.iter().position(|byte| *byte == wanted);
        let nested = first(b'[').is_some_and(|open| first(b'>').is_none_or(|close| open < close));
        let end: &[u8] = if rest.starts_with(b"<!--") {
            b"-->"
        } else if rest.starts_with(b"<!") && nested {
            b"]>"
        } else if rest.starts_with(b"<?") || rest.starts_with(b"<!") {
            b">"
        } else {
            break;
        };
        let Some(at) = rest.windows(end.len()).position(|window| window == end) else { break };
        rest = &rest[at + end.len()..];
    }
    let root = rest.strip_prefix(b"<").unwrap_or_default();
    let length = root.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b':').count();
    let root = root[..length].to_ascii_lowercase();
    let local = root.rsplit(|byte| *byte == b':').next().unwrap_or_default();
    match root.as_slice() {
        _ if local == b"svg" => Some("image/svg+xml"),
        b"html" => Some("text/html"),
        _ if is_xml => Some("text/xml"),
        _ => None,
    }
}

/// What the first bytes of something that is no text say, and how surely.
fn signature(head: &[u8]) -> Option<(&'static str, Certainty)> {
    if is_transport_stream(head) {
        return Some((TRANSPORT_STREAM, Certainty::Sure));
    }
    let kind = infer::get(head)?;
    let found = kind.mime_type();
    let is_whole = match kind.extension() {
        "bmp" => is_bitmap(head),
        "gif" => head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a"),
        "sqlite" => head.starts_with(b"SQLite format 3\0"),
        // A certificate begins with a sequence in a sequence.
        "der" => head.get(4) == Some(&0x30),
        "html" | "xml" | "sh" | "ps" | "rtf" | "pem" => false,
        _ => true,
    };
    if !is_whole {
        return None;
    }
    let weak =
        matches!(kind.extension(), "exe" | "dll" | "der" | "obj" | "ico" | "Z" | "swf" | "aac" | "jxr")
            || (kind.extension() == "mp3" && !head.starts_with(b"ID3"));
    let found = match (found, kind.extension()) {
        (ZIP, _) => zip_signature(head),
        (_, "otf") => "font/otf",
        (_, "ttf") => "font/ttf",
        (_, "woff") => "font/woff",
        (_, "woff2") => "font/woff2",
        _ => found,
    };
    Some((found, if weak { Certainty::Weak } else { Certainty::Sure }))
}

/// Whether a synchronisation byte begins each packet of 188 bytes, or of 192 with a time before it (ISO/IEC 13818-1).
fn is_transport_stream(head: &[u8]) -> bool {
    let every = |first: usize, packet: usize| {
        let mut marks = head.iter().skip(first).step_by(packet);
        head.len() > first + 2 * packet && marks.all(|byte| *byte == 0x47)
    };
    every(0, 188) || every(4, 192)
}

/// Whether the header behind the two letters is one: reserved bytes empty, and an information header of a known size.
fn is_bitmap(head: &[u8]) -> bool {
    let number =
        |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let known = |size: u32| matches!(size, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124);
    number(6) == Some(0) && number(14).is_some_and(known)
}

/// What an archive is by the names of its first entries.
fn zip_signature(head: &[u8]) -> &'static str {
    let entries = head.windows(4).enumerate().filter(|(_, window)| *window == b"PK\x03\x04");
    for (at, _) in entries {
        let length = |offset: usize| {
            let bytes = head.get(at + offset..at + offset + 2)?;
            Some(usize::from(u16::from_le_bytes(bytes.try_into().ok()?)))
        };
        let Some(name) = length(26).and_then(|length| head.get(at + 30..at + 30 + length)) else { break };
        let found = match name {
            _ if name.starts_with(b"word/") => DOCX,
            _ if name.starts_with(b"xl/") => XLSX,
            _ if name.starts_with(b"ppt/") => PPTX,
            b"META-INF/MANIFEST.MF" => "application/java-archive",
            b"AndroidManifest.xml" => "application/vnd.android.package-archive",
            b"3D/3dmodel.model" => "model/3mf",
            _ => continue,
        };
        return found;
    }
    ZIP
}

#[cfg(test)]
mod tests;
