//! What real encoders write: what fuzzing starts from.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use iroh::{EndpointAddr, EndpointId, SecretKey};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::discovery::announcement::Announcement;
use crate::discovery::slot::{Slot, SlotEntry, SlotKeys, packet};
use crate::entry::{
    EntryAuthor, EntryFile, EntryPath, EntryRecord, FolderAccess, FolderDefinition, FolderId, FolderRecord,
    SeenVersion,
};
use crate::identity::Key;
use crate::library::filter::{Filter, FilterSpec};
use crate::library::revocation::{Revocations, SignedRevocations};
use crate::library::ticket::{Access, Subject, Terms, Ticket};
use crate::reconcile::tree::{Item, ItemTree};
use crate::reconcile::{EngineLimits, Initiator, Responder};
use crate::record::{AssetMeta, AssetRecord, ContentHash, Hlc, LibraryId, RecordId, WriterId};
use crate::store::{Holding, sync_wire};
use crate::wire::decode::decode;
use crate::wire::proto::{
    Auth, ContentHeader, ContentRequest, Deferral, EntryResult, Error, Find, Frame, Have, Hello,
    IngestHeader, IngestResult, InlineContent, Keep, KeepRequest, Kept, Later, LibraryProof, LibrarySummary,
    ListPeersReply, ListPeersRequest, ListedPeer, Offer, Ping, PutEntry, ReconMsg, ReconOpen, Records,
    RedateResult, Revocations as WireList, SignedAnnouncement, SnapshotItem, Want, Welcome, WireEntry,
    WireFeedEntry, WireRecord, WireRedating, WireStoredRecord, frame, kept,
};

mod texts;

use self::texts::{CONFIGS, DISPOSITIONS, IGNORED, PATHS};

const NOW_MS: u64 = 1_790_000_000_000;

fn bytes32(n: u8) -> Bytes {
    vec![n; 32].into()
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// For the target of this name.
pub(super) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "announcement" => announcements(),
        "batch" => batches(),
        "claims" => tickets().iter().map(|ticket| without_signature(ticket.signed.encode())).collect(),
        "config" => texts(&CONFIGS),
        "disposition" => texts(&DISPOSITIONS),
        "entry" => entries().iter().map(|entry| WireEntry::from(entry).encode_to_vec()).collect(),
        "events" => events(),
        "frame" => frames(),
        "http_range" => ranges(),
        "ignored" => texts(&IGNORED),
        "ledger" => crate::transfer::partial::fuzz::examples(),
        "marker" => markers(),
        "message" => messages(),
        "path" => texts(&PATHS),
        "peer_list" => vec![peers().encode_to_vec()],
        "proof" => proofs(),
        "recon_message" => recon_messages(),
        "recon_session" => vec![recon_session()],
        "record" => records().iter().map(|record| WireRecord::from(record).encode_to_vec()).collect(),
        "revocations" => revocations(),
        "sealed_list" => sealed_lists(),
        "slot_packet" => slot_packets(),
        "snapshot_items" => snapshot_items(),
        "snapshot_manifest" => crate::store::bucket::snapshots::fuzz::manifests(),
        "snapshot_name" => crate::store::bucket::snapshots::fuzz::names(),
        "ticket_rest" => tickets().iter().map(rest_of).collect(),
        "ticket_text" => tickets().iter().map(|ticket| ticket.to_text().as_bytes().to_vec()).collect(),
        "time" => {
            texts(&["2026-11-20", "2026-11-20T12:00:00Z", "2026-11-20T12:00:00 01:00", "1790000000000"])
        }
        other => panic!("what does {other} start from?"),
    }
}

fn meta() -> AssetMeta {
    AssetMeta {
        mime_type: "image/jpeg".into(),
        filename: Some("a.jpg".into()),
        application: Some("camera".into()),
        tags: vec!["holiday".into(), "sea".into()],
        created_at_ms: NOW_MS,
        names: vec!["b.jpg".into()],
        dropped_names: vec![7, 9],
        modified_at_ms: Some(NOW_MS - 5),
        ..AssetMeta::default()
    }
}

fn records() -> Vec<AssetRecord> {
    let first = AssetRecord::new(ContentHash([1; 32]), 5, Some([2; 32]), meta());
    let via = Some(LibraryId([4; 32]));
    let edited = AssetRecord {
        writer: WriterId([3; 32]),
        hlc: Hlc(NOW_MS << 16 | 7),
        via,
        own_content: true,
        ..first.clone()
    };
    let deleted = AssetRecord { deleted: true, left: true, ..edited.for_members() };
    vec![first, edited, deleted]
}

fn entries() -> Vec<FolderRecord> {
    let folder = FolderId([5; 32]);
    let path = EntryPath::parse("Photos/a.jpg").unwrap();
    let author = EntryAuthor { writer: WriterId([3; 32]), by: "laptop".into(), now_ms: NOW_MS };
    let file = EntryFile { target: ContentHash([1; 32]), size: 5, mtime_ms: NOW_MS, executable: true };
    let live = EntryRecord::after(None, (folder, &path), Some(file), &author, Hlc(0));
    let seen = vec![SeenVersion { writer: WriterId([9; 32]), hlc: Hlc(8) }];
    let gone = EntryRecord { seen, file: None, was: Some(ContentHash([1; 32])), ..live.clone() };
    let definition = FolderDefinition {
        folder,
        hlc: Hlc::from_ms(NOW_MS),
        writer: WriterId([3; 32]),
        name: "Photos".into(),
        access: FolderAccess::Senders,
        by: "laptop".into(),
    };
    vec![FolderRecord::Entry(live), FolderRecord::Entry(gone), FolderRecord::Definition(definition)]
}

fn frames() -> Vec<Vec<u8>> {
    let proof = LibraryProof { blinded: bytes32(1), proof: bytes32(2), ticket: bytes32(3) };
    let summary = LibrarySummary {
        blinded: bytes32(1),
        count: 3,
        fingerprint: vec![4; 16].into(),
        ..LibrarySummary::default()
    };
    let contents = vec![InlineContent { hash: bytes32(1), content: Bytes::from_static(b"hello") }];
    let offer = Offer {
        library: bytes32(7),
        records: records().iter().map(WireRecord::from).collect(),
        gone: vec![bytes32(8)],
        contents,
        entries: entries().iter().map(WireEntry::from).collect(),
        ..Offer::default()
    };
    let wanted = ContentRequest { hash: bytes32(1), offset: 0, length: 65_536, proved: true };
    let deferral = Deferral { hash: bytes32(1), rid: bytes32(2), wait_ms: 9, ..Deferral::default() };
    let kept_request = KeepRequest { hash: bytes32(1), nonce: bytes32(2), offset: 65_536 };
    let kept = Kept {
        hash: bytes32(1),
        nonce: bytes32(2),
        outcome: kept::Outcome::Promised.into(),
        place: bytes32(3),
        proof: bytes32(4),
    };
    let kinds = [
        frame::Kind::Hello(Hello { version: 3, nonce: bytes32(1) }),
        frame::Kind::Auth(Auth { libraries: vec![proof.clone()] }),
        frame::Kind::Welcome(Welcome {
            name: "laptop".into(),
            libraries: vec![summary.clone()],
            features: vec!["entries".into()],
            known: vec![proof],
            ..Welcome::default()
        }),
        frame::Kind::Records(Records { library: bytes32(7), rids: vec![bytes32(1), bytes32(2)] }),
        frame::Kind::Offer(offer),
        frame::Kind::Want(Want { request: 1, contents: vec![wanted] }),
        frame::Kind::Have(Have { hashes: vec![bytes32(1)], library: bytes32(7), entries: vec![bytes32(2)] }),
        frame::Kind::Find(Find { hashes: vec![bytes32(1)], library: bytes32(7) }),
        frame::Kind::Later(Later { deferrals: vec![deferral], library: bytes32(7) }),
        frame::Kind::Ping(Ping { nonce: 7, libraries: vec![summary], behind: true, clock_ms: NOW_MS }),
        frame::Kind::Error(Error { code: 3, message: "no".into(), ..Error::default() }),
        frame::Kind::ReconOpen(ReconOpen {
            library: bytes32(7),
            message: recon_messages().remove(0).into(),
            ..ReconOpen::default()
        }),
        frame::Kind::ReconMsg(ReconMsg { message: vec![0x61, 0, 0, 2, 0].into() }),
        frame::Kind::Keep(Keep { place: bytes32(1), contents: vec![kept_request] }),
        frame::Kind::Kept(kept),
        frame::Kind::Revocations(WireList { library: bytes32(7), list: vec![1; 40].into() }),
    ];
    kinds.into_iter().map(|kind| Frame { kind: Some(kind) }.encode_to_vec()).collect()
}

fn messages() -> Vec<Vec<u8>> {
    let record = WireRecord::from(&records()[1]);
    let entry = WireEntry::from(&entries()[0]);
    let header = ContentHeader {
        request: 1,
        hash: bytes32(1),
        length: 9,
        total: 9,
        proof: bytes32(3),
        ..ContentHeader::default()
    };
    let fed = WireFeedEntry {
        seq: 7,
        record: Some(record.clone()),
        entry: Some(entry.clone()),
        formers: vec![record.clone()],
        ..WireFeedEntry::default()
    };
    let signed = decode::<SignedAnnouncement>(announcements().remove(0).into()).unwrap();
    let all = [
        header.encode_to_vec(),
        ListPeersRequest { cursor: bytes32(1), limit: 9 }.encode_to_vec(),
        peers().encode_to_vec(),
        signed.encode_to_vec(),
        signed.announcement.to_vec(),
        fed.encode_to_vec(),
        WireStoredRecord { record: Some(record.clone()), ..WireStoredRecord::default() }.encode_to_vec(),
        IngestHeader { record: Some(record.clone()), length: 5 }.encode_to_vec(),
        IngestResult { hash: bytes32(1), outcome: 4, reason: "no".into() }.encode_to_vec(),
        WireRedating { hash: bytes32(1), now_ms: Some(NOW_MS), hlc: 9 }.encode_to_vec(),
        RedateResult { hash: bytes32(1), before: Some(record) }.encode_to_vec(),
        PutEntry { entry: Some(entry.clone()), ..PutEntry::default() }.encode_to_vec(),
        EntryResult { hash: bytes32(1), outcome: 3, found: Some(entry), ..EntryResult::default() }
            .encode_to_vec(),
    ];
    (0..).zip(all).map(|(kind, message)| [vec![kind], message].concat()).collect()
}

fn secret_key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn id(n: u8) -> EndpointId {
    SecretKey::from_bytes(&[n; 32]).public()
}

/// As one comes, and what its author signed.
fn announcements() -> Vec<Vec<u8>> {
    let announcement = Announcement {
        id: secret_key().public(),
        name: "k\u{fc}che".into(),
        assets: 3,
        total_bytes: 1 << 40,
        fingerprint: [9; 16],
        timestamp_ms: NOW_MS,
        boot_id: 77,
        counter: 5,
        addrs: vec!["192.0.2.7:4711".parse().unwrap(), "[2001:db8::1]:4711".parse().unwrap()],
        relay_url: Some("https://relay.example".parse().unwrap()),
        version: "0.1.0".into(),
    };
    let signed = announcement.sign(&secret_key());
    let inner = decode::<SignedAnnouncement>(signed.clone()).unwrap().announcement;
    vec![signed.to_vec(), inner.to_vec()]
}

fn peers() -> ListPeersReply {
    let own = decode::<SignedAnnouncement>(announcements().remove(0).into()).unwrap();
    let listed = ListedPeer { announcement: Some(own.clone()), age_secs: 5 };
    ListPeersReply { own: Some(own), peers: vec![listed], next_cursor: bytes32(1) }
}

fn sealed_lists() -> Vec<Vec<u8>> {
    let alive = |n: u8| SlotEntry { id: id(n), alive_us: NOW_MS * 1000 - u64::from(n) * 1_000_000 };
    let addr = EndpointAddr::new(secret_key().public())
        .with_ip_addr("192.0.2.7:4433".parse().unwrap())
        .with_ip_addr("[2001:db8::1]:4433".parse().unwrap())
        .with_relay_url("https://relay.example".parse().unwrap());
    let agents = [(id(1), std::time::Duration::from_secs(9)), (id(2), std::time::Duration::from_mins(1))];
    vec![
        packet::encode(&[alive(1), alive(2), alive(3)], NOW_MS * 1000),
        crate::discovery::list::encode(&addr, &agents),
    ]
}

fn slot_packets() -> Vec<Vec<u8>> {
    let entry = SlotEntry { id: id(1), alive_us: NOW_MS * 1000 };
    let compatible = SlotKeys::Compatible { passphrase: "tried with any bytes".into() };
    let sealed = SlotKeys::Sealed { signing: Key::of_bytes([1; 32]), sealing: Key::of_bytes([2; 32]) };
    let packed = [compatible, sealed]
        .map(|keys| keys.pack(Slot { day: 0, index: 3 }, &[entry], NOW_MS * 1000, [5; 24]).unwrap());
    // What follows the signature.
    packed.iter().map(|packet| packet.to_relay_payload()[64..].to_vec()).collect()
}

fn tickets() -> Vec<Ticket> {
    let spec = FilterSpec {
        application: Some("camera".into()),
        tags: Some(vec!["holiday".into(), "sea".into()]),
        mime_prefix: Some("image/".into()),
        hashes: Some(vec!["ab".repeat(32)]),
        ..FilterSpec::default()
    };
    let folder = FilterSpec { folder: Some("cd".repeat(32)), ..FilterSpec::default() };
    let terms = |access, subject, fresh_within_ms| Terms {
        name: "holiday pictures".into(),
        access,
        subject,
        not_before_ms: NOW_MS,
        expires_ms: Some(NOW_MS + 60_000),
        uses: 3,
        serial: 7,
        epoch: 2,
        held: (3, 4096),
        fresh_within_ms,
    };
    let issue = |terms, spec, session| {
        let addr = EndpointAddr::new(id(9)).with_ip_addr("192.0.2.7:4433".parse().unwrap());
        let key = SigningKey::from_bytes(&[7; 32]);
        let secrets = (Zeroizing::new([5; 32]), session);
        Ticket::issue_with(&key, terms, secrets, Filter::try_from(spec).unwrap(), vec![addr]).unwrap()
    };
    vec![
        issue(terms(Access::Read, Subject::Bearer, 0), spec, None),
        issue(
            terms(Access::Write, Subject::Endpoint(id(3)), 86_400_000),
            folder,
            Some(Key::of_bytes([6; 32])),
        ),
        issue(terms(Access::Read, Subject::Bearer, 0), FilterSpec::default(), Some(Key::of_bytes([6; 32]))),
    ]
}

/// The version, as its target takes it, and what the claims cover by a digest alone.
fn rest_of(ticket: &Ticket) -> Vec<u8> {
    let text = ticket.to_text().to_ascii_uppercase();
    let bytes = data_encoding::BASE32_NOPAD.decode(&text.as_bytes()[6..]).unwrap();
    let claims = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
    [&[bytes[0] - 1], &bytes[5 + claims..]].concat()
}

fn without_signature(mut signed: Vec<u8>) -> Vec<u8> {
    signed.truncate(signed.len() - 64);
    signed
}

fn revocations() -> Vec<Vec<u8>> {
    let first = Revocations { version: 3, min_epoch: 2, serials: [4, 9].into(), ..Revocations::default() };
    let mut told = Revocations { signed_ms: NOW_MS, fresh_within_ms: 86_400_000, ..first.clone() };
    told.epoch.number = 2;
    let sign = |list| SignedRevocations::sign(&SigningKey::from_bytes(&[7; 32]), list).encode();
    [first, told].map(sign).map(without_signature).into()
}

fn tree(numbers: std::ops::Range<u64>) -> ItemTree {
    let item = |number: u64| {
        let id = *blake3::hash(&number.to_le_bytes()).as_bytes();
        Item { hlc: Hlc(number << 16), rid: RecordId(id), hash: ContentHash(id) }
    };
    ItemTree::from_unsorted(numbers.map(item).collect())
}

/// What two sides say to each other that differ at both ends.
fn recon_messages() -> Vec<Vec<u8>> {
    let limits = EngineLimits::default();
    let (mut asking, opening) = Initiator::new(tree(0..40).snapshot(), limits);
    let mut answering = Responder::new(tree(5..47).snapshot(), limits);
    let mut said = vec![opening];
    for _ in 0..4 {
        said.push(answering.handle(said.last().unwrap()).unwrap());
        let Some(next) = asking.handle(said.last().unwrap()).unwrap().reply else { break };
        said.push(next);
    }
    said
}

fn recon_session() -> Vec<u8> {
    let behind_length =
        |message: Vec<u8>| [&u16::try_from(message.len()).unwrap().to_be_bytes(), &message[..]].concat();
    recon_messages().into_iter().flat_map(behind_length).collect()
}

fn proofs() -> Vec<Vec<u8>> {
    let of = |size: u64, start: u64, length: u64| {
        [&size.to_le_bytes()[..], &start.to_le_bytes(), &length.to_le_bytes(), &[9; 96]].concat()
    };
    vec![of(1 << 20, 65_536, 131_072), of(10_000_000, 0, 8 << 20), of(1 << 50, 1 << 49, 1), of(65_536, 0, 1)]
}

fn batches() -> Vec<Vec<u8>> {
    let mut body = vec![3];
    for (record, content) in records().iter().zip(["hello", "hello", ""]) {
        let length = content.len() as u64;
        sync_wire::put(&mut body, &IngestHeader { record: Some(record.into()), length });
        body.extend_from_slice(content.as_bytes());
    }
    vec![body]
}

/// A small asset with its content and names, one that is elsewhere, an entry, and a version that lost.
fn snapshot_items() -> Vec<Vec<u8>> {
    let of_record = |record: &AssetRecord, holding: Holding| WireFeedEntry {
        seq: 7,
        record: Some(record.into()),
        holding: sync_wire::wire_holding(holding).into(),
        ..WireFeedEntry::default()
    };
    let (records, entries) = (records(), entries());
    let here = SnapshotItem {
        change: Some(of_record(&records[0], Holding::Held)),
        content: Some(Bytes::from_static(b"hello")),
        own_names: vec!["a name.txt".into()],
        history: Vec::new(),
    };
    let elsewhere =
        SnapshotItem { change: Some(of_record(&records[1], Holding::Wanted)), ..SnapshotItem::default() };
    let lost = SnapshotItem { history: vec![(&entries[0]).into()], ..SnapshotItem::default() };
    let entry = WireFeedEntry { seq: 8, entry: Some((&entries[0]).into()), ..WireFeedEntry::default() };
    let entry = SnapshotItem { change: Some(entry), ..SnapshotItem::default() };
    let mut chunk = Vec::new();
    for item in [here, elsewhere, lost, entry] {
        sync_wire::put(&mut chunk, &item);
    }
    vec![chunk]
}

fn events() -> Vec<Vec<u8>> {
    let body = ": heartbeat\n\nevent: asset\nid: 17\ndata: {\"seq\":17}\n\nevent: reset\ndata\n\nid: 9\r\ndata: a\r\ndata: b\r\n\r\n";
    [0, 6].map(|piece| [&[piece], body.as_bytes()].concat()).into()
}

fn ranges() -> Vec<Vec<u8>> {
    ["bytes=0-9", "bytes=3-", "Bytes = -4", "bytes=0-1,3-4"]
        .map(|header| [&10_u64.to_le_bytes(), header.as_bytes()].concat())
        .into()
}

fn markers() -> Vec<Vec<u8>> {
    let text =
        format!("can-sync folder 1\nfolder {}\nbinding {}\n# ours\n", "ab".repeat(32), "cd".repeat(16));
    vec![text.into_bytes()]
}
