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

/// How much a signature says.
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

    /// What a text of this name is.
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
mod tests {
    use super::*;

    fn of(head: &[u8], name: &str) -> &'static str {
        guess(head, Some(name)).mime_type
    }

    /// The local headers of an archive whose entries are streamed, as office programs write them: sizes are not in front.
    fn zip(names: &[&str]) -> Vec<u8> {
        let mut archive = Vec::new();
        for name in names {
            archive.extend(b"PK\x03\x04\x14\0\x08\0\x08\0");
            archive.extend([0; 16]);
            archive.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            archive.extend([0; 2]);
            archive.extend(name.as_bytes());
            archive.extend(b"\xb5\x92\x41\x0e\0\x01\x02\x03");
        }
        archive
    }

    #[test]
    fn signatures_count_for_more_than_names() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        assert_eq!(of(png, "a.txt"), "image/png");
        assert_eq!(of(&zip(&["a.txt"]), "photo.jpg"), ZIP);
        assert_eq!(of(b"SQLite format 3\0\x10\0", "notes.txt"), "application/vnd.sqlite3");
        assert_eq!(
            of(b"\x7fELF\x02\x01\x01\0".repeat(8).as_slice(), "picture.png"),
            "application/x-executable"
        );
    }

    #[test]
    fn text_is_text_under_a_text_name() {
        for begin in [
            "BM25 ranks documents",
            "GIFTS to buy",
            "SQLite in WAL mode",
            "%!TEX root = a.tex",
            "<div align=center>",
            "#!/bin/sh is how it begins",
            "%PDF- is a signature",
            "II*",
            "MZ",
            "PK",
            "<?xml version",
            "{\\rtf",
            "ID3 tags",
            "-----BEGIN reading",
            "CWS",
            "8BPS",
            "!<arch>",
            "FWS",
            "Rar!",
            "070701",
            "OTTO",
            "MThd",
        ] {
            assert_eq!(of(begin.as_bytes(), "notes.txt"), PLAIN_TEXT, "{begin}");
            assert_eq!(of(begin.as_bytes(), "NOTES.MD"), "text/markdown", "{begin}");
            assert_eq!(of(begin.as_bytes(), "page.html"), "text/html", "{begin}");
        }
        assert_eq!(of(b"BM25", "notes"), PLAIN_TEXT);
        assert_eq!(of("naïve".as_bytes(), "picture.jpg"), PLAIN_TEXT);
        assert_eq!(of(b"caf\xe9 in Latin-1", "menu.txt"), PLAIN_TEXT);
        assert_eq!(of(b"\xff\xfeh\0i\0", "utf16.csv"), "text/csv");
        assert_eq!(of("cut in the middle \u{e4}".as_bytes().split_last().unwrap().1, "a.log"), PLAIN_TEXT);
        assert_eq!(of(b"package main", "main.go"), PLAIN_TEXT);
        assert_eq!(of(b"-----BEGIN PRIVATE KEY-----", "id.key"), PLAIN_TEXT);
        assert_eq!(of(b"#EXTM3U", "list.m3u"), "audio/x-mpegurl");
    }

    #[test]
    fn source_code_is_no_video_and_a_transport_stream_no_source_code() {
        assert_eq!(of(b"export const a: number = 1;", "app.ts"), "text/typescript");
        let mut packet = vec![0x47, 0x40, 0x11, 0x10, 0];
        packet.resize(188, 0xff);
        assert_eq!(of(&packet.repeat(4), "film.ts"), TRANSPORT_STREAM);
        assert_eq!(of(&packet.repeat(4), "film"), TRANSPORT_STREAM);
        let mut timed = vec![0, 0, 0, 1];
        timed.extend(&packet);
        assert_eq!(of(&timed.repeat(4), "clip.MTS"), TRANSPORT_STREAM);
        assert_eq!(of(b"\0\x01\x02", "short.ts"), TRANSPORT_STREAM);
    }

    #[test]
    fn documents_in_archives_are_what_their_names_say() {
        let letter = zip(&["[Content_Types].xml", "_rels/.rels", "word/document.xml"]);
        let scrambled = zip(&["docProps/app.xml"]);
        for archive in [&letter, &scrambled] {
            assert_eq!(of(archive, "letter.docx"), DOCX);
        }
        assert_eq!(of(&letter, "letter"), DOCX);
        assert_eq!(of(&letter, "letter.zip"), DOCX);
        assert_eq!(of(&zip(&["xl/workbook.xml"]), "Sheet.XLSX"), XLSX);
        assert!(
            of(&zip(&["xl/workbook.xml"]), "macro.xlsm")
                .eq_ignore_ascii_case("application/vnd.ms-excel.sheet.macroenabled.12")
        );
        assert_eq!(of(&zip(&["META-INF/MANIFEST.MF"]), "a.jar"), "application/java-archive");
        assert_eq!(of(&zip(&["AndroidManifest.xml"]), "a.apk"), "application/vnd.android.package-archive");
        assert_eq!(of(&zip(&["content.xml"]), "drawing.odg"), "application/vnd.oasis.opendocument.graphics");
        assert_eq!(of(&zip(&["Index/Document.iwa"]), "talk.key"), "application/vnd.apple.keynote");
        for (name, named) in [("letter.ott", "text-template"), ("sums.ots", "spreadsheet-template")] {
            let mut archive = zip(&["mimetype"]);
            archive.truncate(archive.len() - 8);
            archive.extend(format!("application/vnd.oasis.opendocument.{named}PK").as_bytes());
            assert_eq!(of(&archive, name), format!("application/vnd.oasis.opendocument.{named}"), "{name}");
        }
        for name in ["plan.sldx", "macro.ppam", "addin.xlam", "page.xps", "old.sxw", "a.oxt"] {
            let named = mime_guess::from_path(name).first_raw().unwrap();
            assert_eq!(of(&zip(&["[Content_Types].xml", "a.txt"]), name), named, "{name}");
        }
        assert_eq!(of(&zip(&["a.txt"]), "old.xls"), ZIP, "that is no archive");
        assert_eq!(of(&zip(&["a.txt"]), "a.zip"), ZIP);
        assert_eq!(of(&zip(&["word/document.xml"]), "table.xlsx"), DOCX, "a wrong name");
    }

    #[test]
    fn a_document_is_what_its_root_says_where_no_name_does() {
        let svg = b"<?xml version=\"1.0\"?>\n<!-- a --><!DOCTYPE svg PUBLIC \"-//W3C//DTD SVG 1.1//EN\">\n<svg xmlns=\"a\"/>";
        assert_eq!(of(svg, "logo.svg"), "image/svg+xml");
        assert_eq!(of(svg, "logo"), "image/svg+xml");
        assert_eq!(of(b"\xef\xbb\xbf<svg/>", "logo.SVG"), "image/svg+xml");
        assert_eq!(of(b"<!DOCTYPE html><html lang=en>", "page"), "text/html");
        assert_eq!(of(b"<?xml version=\"1.0\"?><feed/>", "feed"), "text/xml");
        assert_eq!(of(b"<?xml version=\"1.0\"?><gpx/>", "track.gpx"), "application/gpx+xml");
        let entities = b"<?xml version=\"1.0\"?><!DOCTYPE svg [<!ENTITY a \"b\"><!ENTITY c \"d\">]><svg/>";
        assert_eq!(of(entities, "logo"), "image/svg+xml");
        assert_eq!(of(b"<ns0:svg xmlns:ns0=\"a\"/>", "logo"), "image/svg+xml");
        assert_eq!(of(b"<?xml version=\"1.0\"?><!DOCTYPE TS><TS version=\"2.1\"/>", "de.ts"), "text/xml");
        for begin in ["#!/bin/sh -e", "#! /bin/zsh -f", "#!/usr/bin/env -S bash -x"] {
            assert_eq!(of(begin.as_bytes(), "configure"), "text/x-shellscript", "{begin}");
        }
        assert_eq!(of(b"<div align=center>", "README"), PLAIN_TEXT);
        assert_eq!(of(b"#!/usr/bin/env bash\n", "configure"), "text/x-shellscript");
        assert_eq!(of(b"#!/usr/bin/python3\n", "tool"), PLAIN_TEXT);
        assert_eq!(of(b"%PDF-1.4\n%%EOF", "paper.pdf"), "application/pdf");
    }

    #[test]
    fn a_name_of_the_same_container_says_more() {
        let mp4 = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41";
        assert_eq!(of(mp4, "song.m4a"), mime_guess::from_path("a.m4a").first_raw().unwrap());
        assert_eq!(of(mp4, "film.mp4"), "video/mp4");
        assert_eq!(of(mp4, "film.png"), "video/mp4");
        let mut bitmap = b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
        bitmap.resize(70, 0);
        assert_eq!(of(&bitmap, "a"), "image/bmp");
        assert_eq!(of(b"BM\x01\x02\x03\x04garbage", "a.bin"), UNKNOWN_MIME_TYPE);
        assert_eq!(of(b"MZ\x90\0\x03\0\0\0", "saved.sav"), "application/vnd.microsoft.portable-executable");
        assert_eq!(of(b"\x30\x82\x01\x02", "data.bin"), UNKNOWN_MIME_TYPE);
    }

    #[test]
    fn a_name_that_cannot_be_right_or_says_nothing_is_no_answer() {
        let program = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0\xb8";
        for name in ["setup.exe", "setup.scr", "notes.txt", "setup.bin", "setup"] {
            assert_eq!(of(program, name), "application/vnd.microsoft.portable-executable", "{name}");
        }
        assert_eq!(of(b"\xff\xfb\x90\x64\0\0\0\0\0\0\0\0", "song.bin"), "audio/mpeg");
        let noise: Vec<u8> = (0..=255_u8).map(|n| n.wrapping_mul(167).wrapping_add(13)).collect();
        for name in ["noise.svg", "noise.html", "noise.json", "noise.md", "noise.txt"] {
            assert_eq!(of(&noise, name), UNKNOWN_MIME_TYPE, "{name}");
        }
        assert_eq!(of(b"caf\xe9 of a program for DOS, and much more of it\x1a", "menu.txt"), PLAIN_TEXT);
        assert_eq!(of(b"h\0i\0", "utf16.csv"), "text/csv");
        let solid = [&[0; 80][..], b"\x0c\0\0\0\x9a\x99"].concat();
        assert_eq!(of(&solid, "part.stl"), "model/stl");
        assert_eq!(of(b"wOFF\0\x01\0\0", "a.woff"), "font/woff");
        assert_eq!(of(b"OTTO\0\x0a\0\x80", "a.otf"), "font/otf");
        assert_eq!(of(b"\0\x01\0\0\0\x0a", "a.ttf"), "font/ttf");
    }

    #[test]
    fn what_nothing_is_known_of_says_so() {
        assert_eq!(guess(b"", None), Guess { mime_type: UNKNOWN_MIME_TYPE, is_settled: false });
        assert_eq!(guess(b"\0\x01", Some("../a.nothing-known")).mime_type, UNKNOWN_MIME_TYPE);
        assert_eq!(guess(b"hello", None), Guess { mime_type: PLAIN_TEXT, is_settled: false });
        let with =
            |head: &[u8], name, suggested: &str| guess(head, name).or_suggested(Some(suggested.to_owned()));
        assert_eq!(with(b"hello", None, "text/markdown; charset=utf-8"), "text/markdown; charset=utf-8");
        assert_eq!(with(b"hello", None, "image/png"), PLAIN_TEXT, "text is none");
        assert_eq!(with(b"hello", Some("a.csv"), "text/markdown"), "text/csv");
        assert_eq!(with(b"\0\x01", None, "image/x-own"), "image/x-own");
        assert_eq!(of(b"", "empty.jpg"), "image/jpeg");
        assert_eq!(of(b"\0\x01\x02", "noise.jpg"), "image/jpeg");
    }
}
