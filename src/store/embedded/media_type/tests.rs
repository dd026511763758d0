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
    assert_eq!(of(b"\x7fELF\x02\x01\x01\0".repeat(8).as_slice(), "picture.png"), "application/x-executable");
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
