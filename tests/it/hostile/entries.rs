//! Records of folders that no honest machine writes, and machines that know none.

use can_sync::testing::entry::{EntryHash, FolderRecord};
use can_sync::testing::record::{ContentHash, Hlc};
use can_sync::testing::store::entries::EntryOutcome;
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{Frame, Offer, ReconOpen, Records, WireEntry, WireSeen, frame};

use crate::support::folder::{author, entry, listed, put};
use crate::support::hostile::{Arena, Attacker, Session, member_keys, record};
use crate::support::nodes::{TestNode, eventually};

/// An entry that is in order.
fn wire_entry(path: &str) -> WireEntry {
    WireEntry { path: path.to_owned(), ..WireEntry::from(&entry("a", None, Some(b"x"), &author(9, 0))) }
}

fn with(change: impl FnOnce(&mut WireEntry)) -> WireEntry {
    let mut entry = wire_entry("a");
    change(&mut entry);
    entry
}

async fn offer(session: &mut Session, entries: Vec<WireEntry>) {
    let library = session.library();
    session.send(frame::Kind::Offer(Offer { library, entries, ..Offer::default() })).await;
}

fn name_of(entry: &WireEntry) -> EntryHash {
    FolderRecord::try_from(entry.clone()).expect("an entry").hash()
}

/// What the victim says of an entry: that it is there, or why not.
#[expect(clippy::wildcard_enum_match_arm, reason = "anything else is passed over")]
async fn answer(session: &mut Session, EntryHash(hash): EntryHash) -> Result<(), String> {
    session
        .wait_for("an answer about an entry", |kind| match kind {
            frame::Kind::Have(have) if have.entries.iter().any(|name| name[..] == hash) => Some(Ok(())),
            frame::Kind::Error(error) if error.entry && error.hash.as_deref() == Some(&hash[..]) => {
                Some(Err(error.message))
            }
            frame::Kind::Later(later) => later
                .deferrals
                .iter()
                .find(|deferral| deferral.entry && deferral.hash[..] == hash)
                .map(|deferral| Err(format!("in {} ms", deferral.wait_ms))),
            _ => None,
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_break_the_rules_end_the_session() {
    let mut arena = Arena::new().await;
    let one = |entry| vec![entry];
    let cases: Vec<(&str, Vec<WireEntry>, &str)> = vec![
        ("a way up", one(wire_entry("a/../../b")), "'..'"),
        ("nothing but a way up", one(wire_entry("..")), "'..'"),
        ("an absolute path", one(wire_entry("/etc/passwd")), "empty component"),
        ("our own trash", one(wire_entry(".can-sync-trash/x")), "own"),
        ("our own marker in capitals", one(wire_entry("d/.CAN-SYNC-folder")), "own"),
        ("a path of 64 KiB", one(wire_entry(&"x/".repeat(32 * 1024))), "bytes"),
        ("ANSI", one(wire_entry("a\u{1b}[2Jb")), "control"),
        ("NUL", one(wire_entry("a\0b")), "control"),
        ("a file without a path", one(wire_entry("")), "empty"),
        ("a name of ANSI", one(with(|e| e.by = "\u{1b}[2J".into())), "show"),
        ("a short folder", one(with(|e| e.folder = vec![5; 31].into())), "'folder'"),
        ("a long target", one(with(|e| e.target = Some(vec![5; 33].into()))), "'target'"),
        ("a file and a folder", one(with(|e| e.name = Some("photos".into()))), "at once"),
        ("a size beyond counting", one(with(|e| e.size = u64::MAX)), "bytes of content"),
        ("a size that nothing has", one(with(|e| e.size = 1 << 45)), "nothing has"),
        ("a far date", one(with(|e| e.mtime_ms = u64::MAX)), "out of range"),
        ("33 versions seen", one(with(|e| e.seen = vec![WireSeen::default(); 33])), "'FolderEntry.seen'"),
        (
            "a million versions seen",
            one(with(|e| e.seen = vec![WireSeen::default(); 100_000])),
            "'FolderEntry.seen'",
        ),
        (
            "versions seen twice",
            one(with(|e| e.seen = vec![WireSeen { writer: vec![0; 32].into(), hlc: 1 }; 2])),
            "sorted",
        ),
        (
            "a version seen that is later",
            one(with(|e| e.seen = vec![WireSeen { writer: vec![0; 32].into(), hlc: u64::MAX }])),
            "earlier",
        ),
        ("1,001 entries", vec![wire_entry("a"); 1001], "'Offer.entries'"),
    ];
    let mut attackers = Vec::new();
    for case in cases {
        attackers.push((Attacker::member(&arena).await.keeping_entries(), case));
    }
    let garbled = Attacker::member(&arena).await.keeping_entries();
    let unagreed = [Attacker::member(&arena).await, Attacker::member(&arena).await];
    let attack = async {
        for (attacker, (what, entries, reason)) in attackers {
            println!("{what}");
            let mut session = attacker.session().await;
            offer(&mut session, entries).await;
            session.closed_for(reason).await;
        }
        // Not UTF-8.
        let mut session = garbled.session().await;
        let library = session.library();
        let entries = vec![wire_entry("zzzz")];
        let kind = Some(frame::Kind::Offer(Offer { library, entries, ..Offer::default() }));
        let mut bytes = wire::encode(&Frame { kind }).to_vec();
        let at = bytes.windows(4).position(|window| window == b"zzzz").expect("the path");
        bytes[at..at + 4].copy_from_slice(&[0xff, 0xfe, 0xc0, 0x80]);
        session.established.send.write_all(&bytes).await.expect("sent");
        session.closed_for("not a frame").await;
        // What was not agreed on.
        let [offers, compares] = unagreed;
        let mut session = offers.session().await;
        offer(&mut session, vec![wire_entry("a")]).await;
        session.closed_for("not agreed on").await;
        let session = compares.session().await;
        let (mut send, _receive) = session.connection.open_bi().await.expect("a stream");
        let open =
            ReconOpen { library: session.library(), message: vec![0x61].into(), entries: true, more: false };
        wire::write_frame(&mut send, frame::Kind::ReconOpen(open)).await.expect("sent");
        session.closed_for("not agreed on").await;
    };
    arena.survives("entries that break the rules", attack).await;
    let store = arena.victim.sync_store();
    assert_eq!(listed(&store, "", 10).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_believed_is_refused_alone() {
    let mut arena = Arena::new().await;
    let held = arena.held();
    let attacker = Attacker::member(&arena).await.keeping_entries();
    let mut session = attacker.session().await;
    let attack = async {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let tomorrow = Hlc::from_ms(u64::try_from(now.as_millis()).unwrap() + 86_400_000);
        let far = WireEntry { hlc: tomorrow.0, ..wire_entry("far") };
        let lying = WireEntry { target: Some(held.0.to_vec().into()), size: 12_345, ..wire_entry("lying") };
        // Paths that are odd and do no harm: the disks that they come to decide how they are written there.
        let odd = ["C:", "e\u{301}", "a\\b", "con", "\u{202e}txt.exe"].map(wire_entry);
        // What an asset is called, too: both are there.
        let double = wire_entry("double");
        let asset = record(ContentHash(name_of(&double).0), 5);
        let all = [far.clone(), lying.clone(), double.clone()];
        offer(&mut session, all.into_iter().chain(odd.clone()).collect()).await;
        session.offer(vec![asset]).await;
        let wait = answer(&mut session, name_of(&far)).await.expect_err("it waits");
        assert!(wait.starts_with("in 8"), "a day less ten minutes: {wait}");
        // Asked for once more, each gives its answer again.
        for entry in odd.iter().chain([&double, &lying]) {
            offer(&mut session, vec![entry.clone()]).await;
            assert_eq!(answer(&mut session, name_of(entry)).await, Ok(()));
        }
        assert!(session.connection.close_reason().is_none(), "the session goes on");
    };
    arena.survives("entries that cannot be believed", attack).await;
    let found = listed(&arena.victim.sync_store(), "", 100).await;
    let paths: Vec<&str> = found.iter().map(FolderRecord::path).collect();
    assert_eq!(paths, ["C:", "a\\b", "con", "double", "lying", "e\u{301}", "\u{202e}txt.exe"]);
}

/// A machine of a former version, which does not name the ability.
#[tokio::test(flavor = "multi_thread")]
async fn who_knows_no_entries_is_never_sent_any_and_goes_on() {
    let node = TestNode::start("a", |_| {}).await;
    let store = node.sync_store();
    let first = entry("a", None, Some(b"x"), &author(1, 0));
    assert_eq!(put(&store, &first, None).await, EntryOutcome::Stored);
    let former = Attacker::member_of(&node).await;
    let mut session = former.session().await;
    assert_eq!(session.established.shared[0].theirs.count, 0, "assets are counted as ever");
    let second = entry("b", None, Some(b"y"), &author(1, 0));
    assert_eq!(put(&store, &second, None).await, EntryOutcome::Stored);
    let rid = |record: &FolderRecord| record.id(member_keys().record().expose());
    let rids = [&first, &second].map(|record| rid(record).0.to_vec().into()).to_vec();
    let library = session.library();
    session.send(frame::Kind::Records(Records { library, rids: rids.clone() })).await;
    let hash = node.ingest(b"hello".to_vec(), &[]).await;
    let (mut gone, mut offered) = (Vec::new(), Vec::new());
    while gone.len() < 2 || offered.is_empty() {
        #[expect(clippy::wildcard_enum_match_arm, reason = "anything else is passed over")]
        let offer = session
            .wait_for("an offer", |kind| match kind {
                frame::Kind::Offer(offer) => Some(offer),
                _ => None,
            })
            .await;
        assert!(offer.entries.is_empty(), "{offer:?}");
        gone.extend(offer.gone);
        offered.extend(offer.records);
    }
    assert_eq!(gone, rids);
    assert_eq!(data_encoding::HEXLOWER.encode(&offered[0].hash), hash);
    // Its own things go to the node as ever, and comparing finds nothing to tell apart but those.
    session.offer(vec![record(ContentHash(rand::random()), 5)]).await;
    session.wanted().await;
    assert!(session.connection.close_reason().is_none());
    eventually("the entries stay", async || {
        let found = listed(&store, "", 10).await;
        (found == [first.clone(), second.clone()]).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
}
