//! Folders that are shared by ticket: who may read one gets what it has and no other thing, and changes nothing of it.

use std::fs;

use can_sync::testing::entry::{
    EntryAuthor, EntryFile, EntryHash, EntryPath, EntryRecord, FolderId, FolderRecord,
};
use can_sync::testing::record::{ContentHash, Hlc, WriterId};
use can_sync::testing::store::ContentStore as _;
use can_sync::testing::store::entries::{EntryOutcome, EntryQuery};
use can_sync::testing::wire::proto::{Offer, WireEntry, frame};
use serde_json::{Value, json};

use crate::libraries::{Invited, Share, stranger};
use crate::support::bound::BoundNode;
use crate::support::files::files;
use crate::support::library_member::Member;
use crate::support::nodes::{TestNode, eventually};
use crate::support::store::hash_of;

pub(crate) const PHOTOS: &str = "photos";
const DIARY: &str = "diary";

pub(crate) async fn owner() -> BoundNode {
    BoundNode::new(TestNode::start("owner", |_| {}).await)
}

pub(crate) async fn reader(name: &str) -> BoundNode {
    BoundNode::new(stranger(name).await)
}

/// Makes a library of a folder, and a ticket to read it.
pub(crate) async fn share(owner: &BoundNode, folder: &str) -> (Share, Invited) {
    let share = Share::new(&owner.node, json!({ "folder": folder })).await;
    let invited = share.invite(&owner.node, json!({ "access": "read" })).await;
    (share, invited)
}

/// An owner with a folder of some files, and a reader whose directory has them.
async fn shared(all: &[(&str, &str)]) -> (BoundNode, BoundNode, Share, Invited) {
    let (owner, reader) = tokio::join!(owner(), reader("reader"));
    for (name, content) in all {
        owner.put(PHOTOS, name, content);
    }
    owner.binds(PHOTOS).await;
    let (share, invited) = share(&owner, PHOTOS).await;
    invited.join(&reader.node).await;
    reader.knows(PHOTOS).await;
    let answer = reader.add(PHOTOS).await;
    assert_eq!(
        (&answer["status"], &answer["data"]["mode"]),
        (&json!("success"), &json!("read-only")),
        "{answer}"
    );
    reader.has(PHOTOS, all).await;
    (owner, reader, share, invited)
}

pub(crate) async fn folder_id(node: &BoundNode, folder: &str) -> FolderId {
    let report = node.report(folder).await;
    let id = data_encoding::HEXLOWER.decode(report["folder"].as_str().expect("an id").as_bytes());
    FolderId(id.expect("hexadecimal").try_into().expect("32 bytes"))
}

/// A version that somebody writes who knows the folder's id and a content's name.
pub(crate) fn naming(
    folder: FolderId,
    path: &str,
    content: &[u8],
    after: Option<&EntryRecord>,
) -> EntryRecord {
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
    let author = EntryAuthor {
        writer: WriterId([9; 32]),
        by: "somebody".into(),
        now_ms: u64::try_from(now_ms).expect("milliseconds"),
    };
    let (target, size) = (hash_of(content), content.len() as u64);
    let file = EntryFile { target, size, mtime_ms: 1, executable: false };
    let path = EntryPath::parse(path).expect("a path");
    EntryRecord::after(after, (folder, &path), Some(file), &author, Hlc::default())
}

/// Which files a folder's report names as left alone.
fn named(report: &Value) -> Vec<&str> {
    let remarks = report["passed_over"].as_array().into_iter().flatten();
    let mut paths: Vec<&str> = remarks.filter_map(|remark| remark["path"].as_str()).collect();
    paths.sort_unstable();
    paths
}

/// All that a node's store knows of a folder.
pub(crate) async fn entries(node: &TestNode, folder: FolderId) -> Vec<FolderRecord> {
    let query = EntryQuery { folder: Some(folder), prefix: String::new(), cursor: None, limit: 1000 };
    node.sync_store().entries(query).await.expect("a page").records
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_read_by_ticket_with_its_files_and_nothing_else() {
    let (owner, reader) = tokio::join!(owner(), reader("reader"));
    let private = owner.node.ingest("private", &[("tags", "secret")]).await;
    owner.put(DIARY, "today.txt", "dear diary");
    owner.binds(DIARY).await;
    let big = "0123456789".repeat(40_000);
    let all = [("one.txt", "one"), ("d/e/two.txt", "two"), ("empty", ""), ("big.txt", big.as_str())];
    for (name, content) in all {
        owner.put(PHOTOS, name, content);
    }
    // One of them has been an asset before, about which the owner wrote something.
    let noted = owner.node.ingest("one", &[("tags", "mine"), ("description", "about me")]).await;
    owner.binds(PHOTOS).await;
    let preview = owner.node.post("/libraries/preview", json!({ "filter": { "folder": PHOTOS } })).await;
    assert_eq!(preview["data"], json!({ "assets": 4, "bytes": 6 + big.len() }), "{preview}");
    let (share, invited) = share(&owner, PHOTOS).await;
    invited.join(&reader.node).await;
    reader.knows(PHOTOS).await;
    reader.binds(PHOTOS).await;
    reader.has(PHOTOS, &all).await;
    share.in_sync(&reader.node).await;
    share.in_sync(&owner.node).await;
    // Later, as it happens: an edit, a removal, a rename, a new file.
    owner.put(PHOTOS, "one.txt", "one more");
    fs::remove_file(owner.dir(PHOTOS).join("empty")).expect("it was there");
    fs::rename(owner.dir(PHOTOS).join("big.txt"), owner.dir(PHOTOS).join("d/large.txt"))
        .expect("it was there");
    owner.put(PHOTOS, "three.txt", "three");
    let left = [
        ("one.txt", "one more"),
        ("d/e/two.txt", "two"),
        ("d/large.txt", big.as_str()),
        ("three.txt", "three"),
    ];
    reader.has(PHOTOS, &left).await;
    owner.has(PHOTOS, &left).await;
    share.in_sync(&reader.node).await;
    // Nothing but that went to the reader.
    assert_eq!(reader.known().await, [PHOTOS]);
    assert_eq!(reader.node.get("/folders").await["data"]["known"][0]["by_ticket"], true);
    let diary = folder_id(&owner, DIARY).await;
    assert_eq!(entries(&reader.node, diary).await, []);
    assert_eq!(reader.node.content(&private).await, None);
    let assets = reader.node.assets().await;
    let contents =
        ["one", "two", "", &big, "one more", "three"].map(|text| hash_of(text.as_bytes()).to_string());
    for asset in &assets {
        let hash = asset["hash"].as_str().expect("a hash");
        assert!(contents.iter().any(|content| content == hash), "{asset}");
        assert!(asset["description"].is_null() && asset["tags"] == json!([]), "{asset}");
    }
    assert!(reader.node.content(&noted).await.is_some(), "what it has, it keeps");
    // What the folder does not have any more is for nobody who comes now.
    let late = self::reader("late").await;
    invited.join(&late.node).await;
    late.knows(PHOTOS).await;
    late.binds(PHOTOS).await;
    late.has(PHOTOS, &left).await;
    share.in_sync(&late.node).await;
    assert_eq!(late.node.content(&noted).await, None);
    let history = late.node.get("/folders/photos/history?path=one.txt").await["data"]["versions"].clone();
    assert_eq!(history.as_array().map(Vec::len), Some(1), "{history}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_changes_stays_with_the_reader() {
    let (owner, mut reader, share, _) = shared(&[("one.txt", "one"), ("two.txt", "two")]).await;
    reader.put(PHOTOS, "one.txt", "mine");
    reader.put(PHOTOS, "new.txt", "mine, too");
    fs::remove_file(reader.dir(PHOTOS).join("two.txt")).expect("it was there");
    let own = json!(["new.txt", "one.txt", "two.txt"]);
    let says_own = |report: &Value| json!(named(report)) == own;
    reader.act(PHOTOS, json!({ "action": "look" })).await;
    reader.says(PHOTOS, "it names what is its own", says_own).await;
    reader.node.stop().await;
    reader.node.boot().await;
    reader.says(PHOTOS, "it does so after a restart", says_own).await;
    // Nothing that a user may ask for makes it the folder's.
    for action in [
        json!({ "action": "keep" }),
        json!({ "action": "revert" }),
        json!({ "action": "restore", "path": "one.txt" }),
    ] {
        let answer = reader.act(PHOTOS, action).await;
        assert_eq!(answer["code"], "folder_failed", "{answer}");
    }
    owner.put(PHOTOS, "later.txt", "later");
    eventually("a later file is there", async || {
        let found = files(&reader.dir(PHOTOS));
        found.contains_key("later.txt").then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    share.in_sync(&reader.node).await;
    owner.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two"), ("later.txt", "later")]).await;
    for content in ["mine", "mine, too"] {
        assert_eq!(owner.node.content(&hash_of(content.as_bytes()).to_string()).await, None);
    }
    let folder = folder_id(&owner, PHOTOS).await;
    let mut both = (entries(&owner.node, folder).await, entries(&reader.node, folder).await);
    both.0.sort_by_key(FolderRecord::hash);
    both.1.sort_by_key(FolderRecord::hash);
    assert_eq!(both.0, both.1);
    // Something newer comes: the reader's own file makes way, and is kept under another name.
    owner.put(PHOTOS, "one.txt", "one more");
    eventually("both are there", async || {
        let found = files(&reader.dir(PHOTOS));
        let copy = found.iter().any(|(name, content)| name.starts_with("one (") && content == "mine");
        let is_it = copy && found.get("one.txt").is_some_and(|content| content == "one more");
        (is_it && found.len() == 4).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    assert_eq!(files(&owner.dir(PHOTOS)).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_an_entry_names_is_not_published_by_that() {
    let (owner, reader, share, invited) = shared(&[("one.txt", "one")]).await;
    let (private, known) = ("a letter that nobody may read", hash_of(b"one"));
    let secret: ContentHash = owner.node.ingest(private, &[]).await.parse().expect("a hash");
    let folder = folder_id(&owner, PHOTOS).await;
    // A reader by hand: what it offers is refused, and it goes on.
    let member = Member::new(&invited.ticket, &owner.node).await;
    let Ok(mut session) = Box::pin(member.session()).await else { panic!("it is let in") };
    let theirs = naming(folder, "letter.txt", private.as_bytes(), None);
    let diary = naming(FolderId([7; 32]), "letter.txt", private.as_bytes(), None);
    for entry in [theirs, diary].map(FolderRecord::Entry) {
        let (library, wire) = (session.library(), WireEntry::from(&entry));
        session.send(frame::Kind::Offer(Offer { library, entries: vec![wire], ..Offer::default() })).await;
        let EntryHash(hash) = entry.hash();
        let error = session
            .until("refusal", |kind| match kind {
                frame::Kind::Error(error) if error.hash.as_deref() == Some(&hash[..]) => Some(error.clone()),
                _ => None,
            })
            .await;
        assert_eq!((error.code, error.entry), (403, true), "{error:?}");
    }
    assert_eq!(Box::pin(session.find(&[secret])).await, [secret]);
    assert!(Box::pin(session.content(1, secret)).await.0.gone);
    assert!(!Box::pin(session.content(2, known)).await.0.gone, "the session goes on");
    assert!(entries(&owner.node, folder).await.iter().all(|record| record.target() != Some(secret)));

    // An own machine names it: the owner's directory has it then, and readers hear of the name alone.
    let named = FolderRecord::Entry(naming(folder, "letter.txt", private.as_bytes(), None));
    let taken = owner.node.sync_store().take_entries(vec![named.clone()], None).await.expect("taken");
    assert_eq!(taken, [EntryOutcome::Stored]);
    owner.has(PHOTOS, &[("one.txt", "one"), ("letter.txt", private)]).await;
    owner.says(PHOTOS, "all is agreed", |report| report["state"] == "idle").await;
    eventually("the reader hears of the entry", async || {
        let found = entries(&reader.node, folder).await;
        found.contains(&named).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
    owner.put(PHOTOS, "two.txt", "two");
    reader.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two")]).await;
    share.in_sync(&reader.node).await;
    assert_eq!(share.detail(&owner.node).await["not_shared"], 1);
    assert!(reader.node.content(&secret.to_string()).await.is_none());
    // The former session may be over: nobody read of it meanwhile.
    let Ok(mut session) = Box::pin(member.session()).await else { panic!("it is let in") };
    assert_eq!(Box::pin(session.find(&[secret])).await, [secret]);
    assert!(Box::pin(session.content(3, secret)).await.0.gone);
    // Nor after a restart, and not because the directory is looked at again.
    let mut owner = owner;
    owner.node.stop().await;
    owner.node.boot().await;
    owner.act(PHOTOS, json!({ "action": "look" })).await;
    owner.says(PHOTOS, "all is agreed", |report| report["state"] == "idle").await;
    eventually("the library is as it was", async || {
        let detail = share.detail(&owner.node).await;
        let is_it = detail["counts"]["assets"] == 2 && detail["not_shared"] == 1;
        is_it.then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    // Nor because somebody copies what was written there. It becomes readable because the owner says so.
    owner.put(PHOTOS, "copy.txt", private);
    owner.put(PHOTOS, "later.txt", "later");
    reader.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two"), ("later.txt", "later")]).await;
    let release = format!("/libraries/{}/release", share.id);
    let released = owner.node.post(&release, json!({ "hashes": [secret.to_string()] })).await;
    assert_eq!(released["data"], json!({ "released": 1, "absent": 0 }), "{released}");
    let all = [
        ("one.txt", "one"),
        ("two.txt", "two"),
        ("letter.txt", private),
        ("copy.txt", private),
        ("later.txt", "later"),
    ];
    reader.has(PHOTOS, &all).await;
    assert_eq!(share.detail(&owner.node).await["not_shared"], 0);
    let (of_b, other) = ("put on another machine", naming(folder, "b.txt", b"put on another machine", None));
    owner.node.ingest(of_b, &[]).await;
    let taken = owner.node.sync_store().take_entries(vec![FolderRecord::Entry(other)], None).await;
    assert_eq!(taken, Ok(vec![EntryOutcome::Stored]));
    eventually("it is not shared", async || {
        let detail = share.detail(&owner.node).await;
        (detail["not_shared"] == 1).then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    let released = owner.node.post(&release, json!({})).await;
    assert_eq!(released["data"], json!({ "released": 1, "absent": 0 }), "{released}");
    reader.has(PHOTOS, &[all.as_slice(), &[("b.txt", of_b)]].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_ticket_is_revoked_nothing_more_arrives_and_what_is_there_stays() {
    let (owner, reader, share, invited) = shared(&[("one.txt", "one"), ("two.txt", "two")]).await;
    let other = self::reader("other").await;
    let other_ticket = share.invite(&owner.node, json!({ "access": "read" })).await;
    other_ticket.join(&other.node).await;
    other.knows(PHOTOS).await;
    other.binds(PHOTOS).await;
    let revoked = format!("/libraries/{}/revoke", share.id);
    let answer = owner.node.post(&revoked, json!({ "serial": invited.serial })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    eventually("the reader is shut out", async || {
        let detail = share.detail(&reader.node).await;
        (detail["progress"]["connected"] == 0).then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    owner.put(PHOTOS, "three.txt", "three");
    fs::remove_file(owner.dir(PHOTOS).join("one.txt")).expect("it was there");
    other.has(PHOTOS, &[("two.txt", "two"), ("three.txt", "three")]).await;
    reader.act(PHOTOS, json!({ "action": "look" })).await;
    reader.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two")]).await;
    assert_eq!(reader.node.content(&hash_of(b"three").to_string()).await, None);
    // Forgotten, the folder is still not the reader's own: nothing is written into it.
    let folder = folder_id(&reader, PHOTOS).await;
    let url = format!("http://{}/libraries/{}", reader.node.node().api_addr(), share.id);
    assert!(reader.node.http.delete(url).send().await.expect("an answer").status().is_success());
    reader.put(PHOTOS, "mine.txt", "mine");
    reader.act(PHOTOS, json!({ "action": "look" })).await;
    reader.says(PHOTOS, "it is named", |report| named(report) == ["mine.txt"]).await;
    assert_eq!(entries(&reader.node, folder).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_libraries_over_one_folder_and_one_by_filter_keep_apart() {
    let (owner, one, two) = tokio::join!(owner(), reader("one"), reader("two"));
    let pictures = reader("pictures").await;
    owner.put(PHOTOS, "both.png", "in both");
    owner.put(PHOTOS, "text.txt", "in the folder alone");
    let alone = owner.node.ingest("in the filter alone", &[("mime_type", "image/png")]).await;
    let both = owner.node.ingest("in both", &[("mime_type", "image/png"), ("tags", "mine")]).await;
    owner.binds(PHOTOS).await;
    let images = Share::images(&owner.node).await;
    let (first, ticket) = share(&owner, PHOTOS).await;
    let second =
        owner.node.post("/libraries", json!({ "name": "again", "filter": { "folder": PHOTOS } })).await;
    let second = Share { id: second["data"]["id"].as_str().unwrap_or_else(|| panic!("{second}")).to_owned() };
    let other_ticket = second.invite(&owner.node, json!({ "access": "read" })).await;
    let written = images.invite(&owner.node, json!({ "access": "write" })).await;
    ticket.join(&one.node).await;
    other_ticket.join(&two.node).await;
    written.join(&pictures.node).await;
    for reader in [&one, &two] {
        reader.knows(PHOTOS).await;
        reader.binds(PHOTOS).await;
        reader.has(PHOTOS, &[("both.png", "in both"), ("text.txt", "in the folder alone")]).await;
    }
    images.in_sync(&pictures.node).await;
    pictures.node.holds(2).await;
    // Who has the filter's ticket hears of no folder.
    assert!(pictures.known().await.is_empty());
    let folder = folder_id(&owner, PHOTOS).await;
    assert_eq!(entries(&pictures.node, folder).await, []);
    assert!(one.node.content(&alone).await.is_none() && two.node.content(&alone).await.is_none());
    let shown = |assets: Vec<Value>| assets.into_iter().find(|asset| asset["hash"] == json!(both));
    assert_eq!(shown(pictures.node.assets().await).expect("an asset")["tags"], json!(["mine"]));
    assert_eq!(shown(one.node.assets().await).expect("an asset")["tags"], json!([]));
    // Removed from the folder it is still in the other library, and a member's edit of it there does not come here.
    crate::libraries::edit(&pictures.node, &both, json!({ "description": "by a member" })).await;
    fs::remove_file(owner.dir(PHOTOS).join("both.png")).expect("it was there");
    for reader in [&one, &two] {
        reader.has(PHOTOS, &[("text.txt", "in the folder alone")]).await;
    }
    eventually("the edit is there", async || {
        let asset = shown(owner.node.assets().await);
        let is_it = asset.as_ref().is_some_and(|asset| asset["description"] == "by a member");
        is_it.then_some(()).ok_or_else(|| format!("{asset:?}"))
    })
    .await;
    first.in_sync(&one.node).await;
    second.in_sync(&two.node).await;
    assert!(shown(one.node.assets().await).expect("it stays")["description"].is_null());
    // One of the two ends, and the other goes on.
    let url = format!("http://{}/libraries/{}", owner.node.node().api_addr(), first.id);
    assert!(owner.node.http.delete(url).send().await.expect("an answer").status().is_success());
    owner.put(PHOTOS, "later.txt", "later");
    two.has(PHOTOS, &[("text.txt", "in the folder alone"), ("later.txt", "later")]).await;
    one.has(PHOTOS, &[("text.txt", "in the folder alone")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_source_and_does_not_go_on_to_others() {
    let (owner, reader, _, invited) = shared(&[("one.txt", "one")]).await;
    // Another machine of the reader's network gets nothing of the folder.
    let passphrase = reader.node.config.sync_passphrase.clone();
    let beside = TestNode::start("beside", |config| config.sync_passphrase = passphrase).await;
    let beside = BoundNode::new(beside);
    beside.node.dial(&reader.node).await;
    reader.put("own", "own.txt", "own");
    reader.binds("own").await;
    beside.knows("own").await;
    beside.binds("own").await;
    owner.put(PHOTOS, "two.txt", "two");
    reader.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two")]).await;
    beside.has("own", &[("own.txt", "own")]).await;
    beside.node.wait_in_sync().await;
    assert_eq!(beside.known().await, ["own"]);
    let folder = folder_id(&owner, PHOTOS).await;
    assert_eq!(entries(&beside.node, folder).await, []);
    // What it writes into a folder of that id goes to nobody either.
    let named = FolderRecord::Entry(naming(folder, "planted.txt", b"planted", None));
    assert_eq!(
        beside.node.sync_store().take_entries(vec![named.clone()], None).await,
        Ok(vec![EntryOutcome::Stored])
    );
    owner.put(PHOTOS, "three.txt", "three");
    reader.has(PHOTOS, &[("one.txt", "one"), ("two.txt", "two"), ("three.txt", "three")]).await;
    assert!(!entries(&reader.node, folder).await.contains(&named));
    // It has the folder now, by its own word: a ticket is not taken for it.
    let answer = beside.node.post("/join", json!({ "ticket": invited.ticket })).await;
    assert_eq!(answer["code"], "folder_here", "{answer}");
    // Who only reads it cannot share it, or write into it by a ticket; nor is a second library taken for the same folder.
    let answer =
        reader.node.post("/libraries", json!({ "name": "mine", "filter": { "folder": PHOTOS } })).await;
    assert_eq!(answer["code"], "not_owner", "{answer}");
    let second =
        owner.node.post("/libraries", json!({ "name": "again", "filter": { "folder": PHOTOS } })).await;
    let second = Share { id: second["data"]["id"].as_str().unwrap_or_else(|| panic!("{second}")).to_owned() };
    let write =
        owner.node.post(&format!("/libraries/{}/invite", second.id), json!({ "access": "write" })).await;
    assert_eq!(write["code"], "invalid_invitation", "{write}");
    let ticket = second.invite(&owner.node, json!({ "access": "read" })).await;
    let answer = reader.node.post("/join", json!({ "ticket": ticket.ticket })).await;
    assert_eq!(answer["code"], "folder_here", "{answer}");
    // A folder that nobody knows here, and one without a directory of this machine.
    for (folder, code) in [("nothing", "unknown_folder"), ("own", "folder_not_bound")] {
        let body = json!({ "name": "x", "filter": { "folder": folder } });
        let node = if folder == "own" {
            let url = format!("http://{}/folders/own", beside.node.node().api_addr());
            assert!(beside.node.http.delete(url).send().await.expect("an answer").status().is_success());
            &beside.node
        } else {
            &owner.node
        };
        let answer = node.post("/libraries", body).await;
        assert_eq!(answer["code"], code, "{answer}");
    }
}
