use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::entry::path::PATH_BYTES_MAX;
use crate::entry::record::BY_CHARS_MAX;
use crate::entry::{EntryFile, EntryPath, EntryRecord, FolderId, FolderRecord, SeenVersion};
use crate::record::{
    AssetMeta, AssetRecord, ContentHash, DROPPED_NAMES_MAX, Hlc, META_BYTES_MAX, NAME_BYTES_MAX, NAMES_MAX,
    TAG_CHARS_MAX, WriterId,
};
use crate::wire::proto::{frame, kept};

/// Everything that the .proto file repeats, and every message in a message, is counted: by message, the number and name of
/// each such field.
#[test]
fn the_shapes_are_those_of_the_proto_file() {
    let proto = include_str!("../../../proto/can_sync.proto");
    let names: Vec<&str> = proto.lines().filter_map(|line| line.trim().strip_prefix("message ")).collect();
    let names: Vec<&str> = names.iter().map(|rest| rest.trim_end_matches([' ', '{'])).collect();
    let mut expected: BTreeMap<&str, Vec<(u32, String)>> = BTreeMap::new();
    let mut current = "";
    for line in proto.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("message ") {
            current = rest.trim_end_matches([' ', '{']);
            expected.insert(current, Vec::new());
        }
        let Some((declared, number)) = line.strip_suffix(';').and_then(|field| field.split_once(" = "))
        else {
            continue;
        };
        let words: Vec<&str> = declared.split(' ').collect();
        let (label, kind, name) = match words.as_slice() {
            [label @ ("repeated" | "optional"), kind, name] => (*label, *kind, *name),
            [kind, name] => ("", *kind, *name),
            // `syntax = "proto3"`, values of enums.
            _ => continue,
        };
        if label == "repeated" {
            let counted = names.contains(&kind) || ["bytes", "string", "fixed64"].contains(&kind);
            assert!(counted, "{current}.{name}: packed numbers of other kinds are not counted yet");
        }
        if label == "repeated" || names.contains(&kind) {
            let fields = expected.get_mut(current).expect("a field is inside of a message");
            fields.push((number.parse().expect("a number"), format!("{current}.{name}")));
        }
    }
    let mut shapes: BTreeMap<&str, Vec<(u32, String)>> = BTreeMap::new();
    for (message, shape) in SHAPES {
        assert!(shape.one_of || shape.fields.len() <= COUNTED_MAX, "{message}");
        let fields = shape.fields.iter().map(|field| (field.number, field.name.to_owned()));
        let mut fields: Vec<_> = fields.collect();
        fields.sort_unstable();
        shapes.insert(message, fields);
    }
    for fields in expected.values_mut() {
        fields.sort_unstable();
    }
    assert_eq!(shapes, expected);
}

/// Bytes of a message without its length.
fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn frame_of(kind: frame::Kind) -> Bytes {
    encoded(&Frame { kind: Some(kind) })
}

fn refused<M: Inbound + std::fmt::Debug>(bytes: Bytes, field: &str) {
    match decode::<M>(bytes) {
        Err(DecodeError::TooMany { field: named, .. }) => assert_eq!(named, field),
        other => panic!("'{field}' is counted: {other:?}"),
    }
}

/// A record as large as any may be.
fn largest_record(n: u64) -> WireRecord {
    let mut hash = [0xab; 32];
    hash[..8].copy_from_slice(&n.to_be_bytes());
    let tags: Vec<String> =
        (0..TAGS_MAX).map(|n| format!("{n:03}") + &"x".repeat(TAG_CHARS_MAX - 3)).collect();
    let names: Vec<String> =
        (0..NAMES_MAX).map(|n| format!("{n:02}") + &"x".repeat(NAME_BYTES_MAX / 2 - 2)).collect();
    let rest = META_BYTES_MAX - tags.iter().chain(&names).map(String::len).sum::<usize>();
    let meta = AssetMeta {
        description: (rest > 0).then(|| "d".repeat(rest)),
        tags,
        names,
        dropped_names: (0..DROPPED_NAMES_MAX as u64).map(|n| u64::MAX - n).collect(),
        modified_at_ms: Some(u64::MAX >> 16),
        created_at_ms: u64::MAX >> 16,
        ..AssetMeta::default()
    };
    meta.validate().expect("at its limits, not beyond");
    WireRecord::from(&AssetRecord::new(ContentHash(hash), u64::MAX >> 1, Some([7; 32]), meta))
}

/// An entry as large as any may be.
fn largest_entry(n: u8) -> WireEntry {
    let path = format!("{}{n:03}", "x/".repeat(PATH_BYTES_MAX / 2 - 2) + "y");
    let seen = (0..=u8::MAX).map(|n| SeenVersion { writer: WriterId([n; 32]), hlc: Hlc(u64::MAX - 2) });
    let record = FolderRecord::Entry(EntryRecord {
        folder: FolderId([n; 32]),
        path: EntryPath::parse(&path).expect("a path"),
        hlc: Hlc(u64::MAX - 1),
        writer: WriterId([n; 32]),
        file: Some(EntryFile {
            target: ContentHash([n; 32]),
            size: crate::entry::record::ENTRY_SIZE_MAX,
            mtime_ms: u64::MAX >> 16,
            executable: true,
        }),
        was: Some(ContentHash([n; 32])),
        by: "\u{1F40C}".repeat(BY_CHARS_MAX),
        seen: seen.take(SEEN_MAX).collect(),
    });
    record.validate().expect("at its limits, not beyond");
    WireEntry::from(&record)
}

#[test]
fn entries_come_back_as_they_were_and_garbled_ones_do_not() {
    let largest = largest_entry(3);
    let back =
        |wire: WireEntry| FolderRecord::try_from(decode::<WireEntry>(encoded(&wire)).expect("a message"));
    let record = back(largest.clone()).expect("an entry");
    assert_eq!(WireEntry::from(&record), largest);
    let removed = WireEntry { target: None, size: 0, mtime_ms: 0, executable: false, ..largest.clone() };
    assert!(back(removed).is_ok_and(|removed| removed.target().is_none()));
    let definition = WireEntry {
        folder: bytes32(),
        writer: bytes32(),
        hlc: 5,
        name: Some("photos".into()),
        senders_only: true,
        ..WireEntry::default()
    };
    assert_eq!(WireEntry::from(&back(definition.clone()).expect("a folder")), definition);
    let entry = |change: fn(&mut WireEntry)| {
        let mut wire = largest.clone();
        change(&mut wire);
        back(wire).expect_err("it breaks a rule")
    };
    let errors = [
        entry(|e| e.folder = Bytes::new()),
        entry(|e| e.writer = vec![0; 33].into()),
        entry(|e| e.target = Some(vec![0; 31].into())),
        entry(|e| e.was = Some(vec![0; 31].into())),
        entry(|e| e.target = None),
        entry(|e| e.path = String::new()),
        entry(|e| e.path = "a/../b".into()),
        entry(|e| e.name = Some("photos".into())),
        entry(|e| e.senders_only = true),
        entry(|e| e.size = u64::MAX),
        entry(|e| e.mtime_ms = u64::MAX),
        entry(|e| e.by = "x".repeat(33)),
        entry(|e| e.seen[0].writer = vec![9; 31].into()),
        entry(|e| e.seen.reverse()),
        entry(|e| e.seen[0].hlc = u64::MAX),
    ];
    assert!(errors.iter().all(|error| !error.to_string().is_empty()));
    let back_of_definition = |change: fn(&mut WireEntry)| {
        let mut wire = definition.clone();
        change(&mut wire);
        back(wire)
    };
    assert!(back_of_definition(|d| d.path = "a".into()).is_err());
    assert!(back_of_definition(|d| d.executable = true).is_err());
    assert!(back_of_definition(|d| d.name = Some("  ".into())).is_err());
    let many = WireEntry { seen: vec![WireSeen::default(); SEEN_MAX + 1], ..largest };
    refused::<WireEntry>(encoded(&many), "FolderEntry.seen");
}

fn bytes32() -> Bytes {
    Bytes::from_static(&[0x5a; 32])
}

/// One frame of each kind that has something to count, as large as an honest sender makes it.
fn largest_frames() -> Vec<frame::Kind> {
    let summary = LibrarySummary {
        blinded: bytes32(),
        count: u64::MAX,
        fingerprint: Bytes::from_static(&[9; 16]),
        assets: u64::MAX,
        total_bytes: u64::MAX,
        entries: u64::MAX,
        entries_fingerprint: Bytes::from_static(&[9; 16]),
    };
    let summaries = vec![summary; LIBRARIES_PER_FRAME_MAX];
    let proof = LibraryProof { blinded: bytes32(), proof: bytes32(), ticket: vec![1; 656].into() };
    let content = |n: u32| InlineContent { hash: bytes32(), content: n.to_be_bytes().to_vec().into() };
    let small = largest_record(0);
    let small =
        WireRecord { meta: Some(WireMeta { mime_type: "a/b".into(), ..WireMeta::default() }), ..small };
    let deferral = Deferral { hash: bytes32(), rid: bytes32(), wait_ms: u64::MAX, held: true, entry: true };
    let keep = KeepRequest { hash: bytes32(), nonce: bytes32(), offset: u64::MAX };
    let request = ContentRequest { hash: bytes32(), offset: u64::MAX, length: u64::MAX, proved: true };
    vec![
        frame::Kind::Hello(Hello { version: u32::MAX, nonce: bytes32() }),
        frame::Kind::Auth(Auth { libraries: vec![proof.clone(); LIBRARIES_PER_FRAME_MAX] }),
        frame::Kind::Welcome(Welcome {
            libraries: summaries.clone(),
            features: vec!["feature".into(); FEATURES_MAX],
            known: vec![proof; LIBRARIES_PER_FRAME_MAX],
            ..Welcome::default()
        }),
        frame::Kind::Records(Records { library: bytes32(), rids: vec![bytes32(); RIDS_PER_FRAME_MAX] }),
        frame::Kind::Offer(Offer { library: bytes32(), records: vec![small; 1000], ..Offer::default() }),
        frame::Kind::Offer(Offer {
            library: bytes32(),
            records: (0..15).map(largest_record).collect(),
            gone: vec![bytes32(); RIDS_PER_FRAME_MAX],
            contents: (0..1000).map(content).collect(),
            absent: vec![0xff; 4].into(),
            entries: Vec::new(),
        }),
        frame::Kind::Offer(Offer {
            library: bytes32(),
            gone: vec![bytes32(); RIDS_PER_FRAME_MAX],
            entries: (0..100).map(largest_entry).collect(),
            ..Offer::default()
        }),
        frame::Kind::Want(Want { request: u64::MAX, contents: vec![request; CONTENTS_PER_WANT_MAX] }),
        frame::Kind::Have(Have {
            hashes: vec![bytes32(); RECORDS_PER_FRAME_MAX],
            library: bytes32(),
            entries: vec![bytes32(); RECORDS_PER_FRAME_MAX],
        }),
        frame::Kind::Find(Find { hashes: vec![bytes32(); FINDS_PER_FRAME_MAX], library: bytes32() }),
        frame::Kind::Lacks(Lacks { hashes: vec![bytes32(); FINDS_PER_FRAME_MAX], library: bytes32() }),
        frame::Kind::Later(Later { deferrals: vec![deferral; RECORDS_PER_FRAME_MAX], library: bytes32() }),
        frame::Kind::Doubled(Doubled {}),
        frame::Kind::Keep(Keep { place: bytes32(), contents: vec![keep; KEEPS_PER_FRAME_MAX] }),
        frame::Kind::Kept(Kept {
            hash: bytes32(),
            nonce: bytes32(),
            outcome: kept::Outcome::Promised.into(),
            place: bytes32(),
            proof: bytes32(),
        }),
        frame::Kind::Ping(Ping { nonce: 1, libraries: summaries.clone(), behind: true, clock_ms: u64::MAX }),
        frame::Kind::Pong(Pong { nonce: 1, libraries: summaries, behind: true, clock_ms: u64::MAX }),
    ]
}

#[test]
fn no_honest_frame_is_refused() {
    for kind in largest_frames() {
        let bytes = frame_of(kind.clone());
        assert!(bytes.len() <= crate::wire::FRAME_BYTES_MAX, "{} bytes", bytes.len());
        assert_eq!(decode::<Frame>(bytes), Ok(Frame { kind: Some(kind) }));
    }
}

/// The same frames with one more of each.
#[test]
fn one_more_than_any_honest_frame_has_is_refused() {
    let over = [
        (2, 1, "Auth.libraries", LIBRARIES_PER_FRAME_MAX),
        (3, 2, "Welcome.libraries", LIBRARIES_PER_FRAME_MAX),
        (3, 5, "Welcome.features", FEATURES_MAX),
        (3, 6, "Welcome.known", LIBRARIES_PER_FRAME_MAX),
        (4, 2, "Records.rids", RIDS_PER_FRAME_MAX),
        (5, 2, "Offer.records", RECORDS_PER_FRAME_MAX),
        (5, 3, "Offer.gone", RIDS_PER_FRAME_MAX),
        (5, 4, "Offer.contents", RECORDS_PER_FRAME_MAX),
        (6, 2, "Want.contents", CONTENTS_PER_WANT_MAX),
        (8, 1, "Have.hashes", RECORDS_PER_FRAME_MAX),
        (9, 2, "Ping.libraries", LIBRARIES_PER_FRAME_MAX),
        (10, 2, "Pong.libraries", LIBRARIES_PER_FRAME_MAX),
        (17, 1, "Find.hashes", FINDS_PER_FRAME_MAX),
        (18, 1, "Lacks.hashes", FINDS_PER_FRAME_MAX),
        (19, 1, "Later.deferrals", RECORDS_PER_FRAME_MAX),
        (21, 2, "Keep.contents", KEEPS_PER_FRAME_MAX),
    ];
    for (kind, field, name, max) in over {
        assert!(decode::<Frame>(empties(&[kind], field, max)).is_ok(), "{name}");
        refused::<Frame>(empties(&[kind], field, max + 1), name);
    }
    refused::<WireRecord>(empties(&[7], 5, TAGS_MAX + 1), "AssetMeta.tags");
    refused::<Frame>(empties(&[5, 2, 7], 5, TAGS_MAX + 1), "AssetMeta.tags");
    refused::<WireRecord>(empties(&[7], 8, NAMES_MAX + 1), "AssetMeta.names");
    refused::<Frame>(empties(&[5, 2, 7], 8, NAMES_MAX + 1), "AssetMeta.names");
    refused::<WireAnnouncement>(empties(&[], 9, ANNOUNCED_ADDRS_MAX + 1), "Announcement.addrs");
    refused::<ListPeersReply>(empties(&[], 2, LISTED_PER_PAGE_MAX + 1), "ListPeersReply.peers");
}

/// `count` empty occurrences of `field` within the messages of `path`.
fn empties(path: &[u32], field: u32, count: usize) -> Bytes {
    let mut bytes = BytesMut::new();
    for _ in 0..count {
        prost::encoding::encode_key(field, WireType::LengthDelimited, &mut bytes);
        bytes.put_u8(0);
    }
    for number in path.iter().rev() {
        bytes = delimited(*number, &bytes);
    }
    bytes.freeze()
}

fn delimited(number: u32, inside: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    prost::encoding::encode_key(number, WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(inside.len() as u64, &mut bytes);
    bytes.put_slice(inside);
    bytes
}

/// Numbers come packed, one by one, or both: what counts is how many they are.
#[test]
fn numbers_are_counted_however_they_come() {
    const MAX: usize = DROPPED_NAMES_MAX;
    let packed = |count: usize| delimited(10, &vec![7; 8 * count]).freeze();
    let single = |count: usize| {
        let mut bytes = BytesMut::new();
        for n in 0..count {
            prost::encoding::encode_key(10, WireType::SixtyFourBit, &mut bytes);
            bytes.put_u64_le(n as u64);
        }
        bytes.freeze()
    };
    let joined = |parts: &[Bytes]| Bytes::from(parts.concat());
    let parts = |one: usize, other: usize| {
        [joined(&[packed(one), single(other)]), joined(&[packed(one), packed(other)])]
    };
    for within in [packed(MAX), single(MAX)].into_iter().chain(parts(10, MAX - 10)) {
        assert_eq!(decode::<WireMeta>(within).map(|meta| meta.dropped_names.len()), Ok(MAX));
    }
    for over in [packed(MAX + 1), single(MAX + 1)].into_iter().chain(parts(10, MAX - 9)) {
        refused::<WireMeta>(over, "AssetMeta.dropped_names");
    }
    for broken in [&[0x52, 7, 0, 0, 0, 0, 0, 0, 0][..], &[0x51, 0, 0], &[0x55, 0, 0, 0, 0], &[0x50, 1]] {
        let refused = decode::<WireMeta>(Bytes::copy_from_slice(broken));
        assert!(matches!(refused, Err(DecodeError::Malformed(_))), "{broken:x?}: {refused:?}");
    }
}

/// Protobuf adds the second occurrence of a message to the first: two offers of 1,000 records would be one of 2,000.
#[test]
fn a_message_does_not_come_in_pieces() {
    let offer = empties(&[5], 2, RECORDS_PER_FRAME_MAX);
    refused::<Frame>([&offer[..], &offer[..]].concat().into(), "Frame.offer");
    // Another kind in between does not help.
    let mixed = [&frame_of(frame::Kind::Ping(Ping::default()))[..], &offer[..]].concat();
    refused::<Frame>(mixed.into(), "Frame.offer");
    let meta = empties(&[7], 5, TAGS_MAX);
    refused::<WireRecord>([&meta[..], &meta[..]].concat().into(), "AssetRecord.meta");
}

#[test]
fn what_is_no_message_is_refused_as_such() {
    let malformed = |bytes: &[u8]| {
        let refused = decode::<Frame>(Bytes::copy_from_slice(bytes));
        assert!(matches!(refused, Err(DecodeError::Malformed(_))), "{bytes:x?}: {refused:?}");
    };
    // A number where a message belongs; a length beyond the end; one that is no number; a group without end.
    for bytes in [&[0x28, 1][..], &[0x2a, 5, 0], &[0x2a, 0xff, 0xff], &[0xa3, 6], &[0x2a, 2, 0x12, 9]] {
        malformed(bytes);
    }
    // A group that holds what would be counted elsewhere is unknown, and skipped whole.
    let group = [&[0xa3, 6][..], &empties(&[], 2, 5_000)[..], &[0xa4, 6]].concat();
    assert_eq!(decode::<Frame>(group.into()), Ok(Frame { kind: None }));
}

/// How much of each repeated thing a decoded frame holds, beside its limit.
fn amounts(frame: &Frame) -> Vec<(usize, usize)> {
    let tags = |record: &WireRecord| (record.meta.as_ref().map_or(0, |meta| meta.tags.len()), TAGS_MAX);
    match &frame.kind {
        Some(frame::Kind::Auth(auth)) => vec![(auth.libraries.len(), LIBRARIES_PER_FRAME_MAX)],
        Some(frame::Kind::Welcome(welcome)) => vec![
            (welcome.libraries.len(), LIBRARIES_PER_FRAME_MAX),
            (welcome.features.len(), FEATURES_MAX),
            (welcome.known.len(), LIBRARIES_PER_FRAME_MAX),
        ],
        Some(frame::Kind::Records(records)) => vec![(records.rids.len(), RIDS_PER_FRAME_MAX)],
        Some(frame::Kind::Offer(offer)) => [
            (offer.records.len(), RECORDS_PER_FRAME_MAX),
            (offer.gone.len(), RIDS_PER_FRAME_MAX),
            (offer.contents.len(), RECORDS_PER_FRAME_MAX),
        ]
        .into_iter()
        .chain(offer.records.iter().map(tags))
        .collect(),
        Some(frame::Kind::Want(want)) => vec![(want.contents.len(), CONTENTS_PER_WANT_MAX)],
        Some(frame::Kind::Have(have)) => vec![(have.hashes.len(), RECORDS_PER_FRAME_MAX)],
        Some(frame::Kind::Ping(ping)) => vec![(ping.libraries.len(), LIBRARIES_PER_FRAME_MAX)],
        Some(frame::Kind::Pong(pong)) => vec![(pong.libraries.len(), LIBRARIES_PER_FRAME_MAX)],
        Some(frame::Kind::Find(find)) => vec![(find.hashes.len(), FINDS_PER_FRAME_MAX)],
        Some(frame::Kind::Lacks(lacks)) => vec![(lacks.hashes.len(), FINDS_PER_FRAME_MAX)],
        Some(frame::Kind::Keep(keep)) => vec![(keep.contents.len(), KEEPS_PER_FRAME_MAX)],
        Some(frame::Kind::Later(later)) => vec![(later.deferrals.len(), RECORDS_PER_FRAME_MAX)],
        Some(
            frame::Kind::Hello(_)
            | frame::Kind::Cancel(_)
            | frame::Kind::Error(_)
            | frame::Kind::ReconOpen(_)
            | frame::Kind::ReconMsg(_)
            | frame::Kind::ReconClose(_)
            | frame::Kind::Revocations(_)
            | frame::Kind::Doubled(_)
            | frame::Kind::Kept(_),
        )
        | None => Vec::new(),
    }
}

/// Pieces of frames, put together as nobody puts them: merged, nested, cut, with bytes of others between.
fn odd_frame() -> impl Strategy<Value = Bytes> {
    let piece = (1..=22_u32, 1..8_u32, prop_oneof![0..70_usize, 990..1030_usize, 3990..4010_usize])
        .prop_map(|(kind, field, count)| empties(&[kind], field, count));
    let nested = (0..70_usize, 0..4_usize).prop_map(|(tags, records)| {
        let record = empties(&[2, 7], 5, tags);
        delimited(5, &record.repeat(records)).freeze()
    });
    let honest = any::<Index>().prop_map(|index| {
        let kinds = largest_frames();
        frame_of(kinds[index.index(kinds.len())].clone())
    });
    let noise = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let parts = prop_oneof![4 => piece, 2 => nested, 1 => honest, 1 => noise];
    (prop::collection::vec(parts, 1..4), any::<Index>(), any::<bool>()).prop_map(|(parts, cut, whole)| {
        let bytes = Bytes::from(parts.concat());
        if whole { bytes } else { bytes.slice(..cut.index(bytes.len() + 1)) }
    })
}

proptest! {
    /// Whatever the bytes are, what is decoded has no more of anything than its limit.
    #[test]
    fn what_passes_has_at_most_the_counts(bytes in odd_frame()) {
        if let Ok(frame) = decode::<Frame>(bytes.clone()) {
            for (amount, max) in amounts(&frame) {
                prop_assert!(amount <= max);
            }
        }
        if let Ok(reply) = decode::<ListPeersReply>(bytes.clone()) {
            prop_assert!(reply.peers.len() <= LISTED_PER_PAGE_MAX);
        }
        if let Ok(record) = decode::<WireRecord>(bytes) {
            prop_assert!(record.meta.is_none_or(|meta| meta.tags.len() <= TAGS_MAX));
        }
    }

    /// Up to its limits a frame comes through as it was written, and beyond them it never does.
    #[test]
    fn a_frame_passes_exactly_within_its_limits(
        records in 0..=RECORDS_PER_FRAME_MAX + 2,
        gone in prop_oneof![0..20_usize, 3_995..4_005_usize],
        contents in prop_oneof![0..20_usize, 995..1_005_usize],
        tags in 0..=TAGS_MAX + 1,
    ) {
        let mut offered = vec![WireRecord::default(); records];
        if let Some(record) = offered.last_mut() {
            record.meta = Some(WireMeta { tags: vec!["t".into(); tags], ..WireMeta::default() });
        }
        let kind = frame::Kind::Offer(Offer {
            library: bytes32(),
            records: offered,
            gone: vec![Bytes::new(); gone],
            contents: vec![InlineContent::default(); contents],
            absent: Bytes::new(),
            entries: Vec::new(),
        });
        let within = records <= RECORDS_PER_FRAME_MAX
            && gone <= RIDS_PER_FRAME_MAX
            && contents <= RECORDS_PER_FRAME_MAX
            && (records == 0 || tags <= TAGS_MAX);
        let decoded = decode::<Frame>(frame_of(kind.clone()));
        if within {
            prop_assert_eq!(decoded, Ok(Frame { kind: Some(kind) }));
        } else {
            let refused = matches!(decoded, Err(DecodeError::TooMany { .. }));
            prop_assert!(refused);
        }
    }
}
