//! Letting go of contents that other machines promise to keep: with enough promises from other places they go, and else they stay,
//! whoever is killed, and however many let go at the same time.

use can_sync::testing::config::{Copies, HoldFilter, HoldSetting};
use can_sync::testing::record::ContentHash;
use can_sync::testing::store::{ContentStore as _, ItemOutcome};
use can_sync::testing::wire::proto::{Keep, KeepRequest, frame, kept};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::libraries::Share;
use crate::support::bound::BoundNode;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::embedded::content_path;
use crate::support::hostile::{Attacker, closed};
use crate::support::library_member::Member;
use crate::support::nodes::{TestNode, eventually};
use crate::support::store::noise;

mod meanwhile;

const IMAGE: &[(&str, &str)] = &[("mime_type", "image/png")];

async fn three(adjust_laptop: impl FnOnce(&mut can_sync::testing::config::Config)) -> [TestNode; 3] {
    let (laptop, desk, cellar) = tokio::join!(
        TestNode::start("laptop", adjust_laptop),
        TestNode::start("desk", |_| {}),
        TestNode::start("cellar", |_| {})
    );
    laptop.dial(&desk).await;
    laptop.dial(&cellar).await;
    desk.dial(&cellar).await;
    for node in [&laptop, &desk, &cellar] {
        connected(node, 2).await;
    }
    [laptop, desk, cellar]
}

fn is_connected(status: &Value, count: u64) -> Result<(), String> {
    let connected = &status["peers"]["connected"];
    (*connected == count).then_some(()).ok_or_else(|| format!("{connected} of {count}"))
}

/// Waits until so many others are connected.
async fn connected(node: &TestNode, count: u64) {
    let look = async || is_connected(&node.get("/status").await["data"], count);
    eventually("all are connected", look).await;
}

async fn daemon_connected(daemon: &Daemon, count: u64) {
    eventually("all are connected", async || is_connected(&daemon.get("/status").await, count)).await;
}

async fn all_hold(nodes: &[&TestNode], hash: &str) {
    for node in nodes {
        eventually("it is held", async || {
            let held = node.held().await;
            held.iter().any(|held| held == hash).then_some(()).ok_or_else(|| format!("{held:?}"))
        })
        .await;
    }
}

async fn begin(node: &TestNode, request: Value) -> Value {
    let answer = node.post("/drops", request).await;
    assert_eq!(answer["status"], "success", "{answer}");
    answer["data"].clone()
}

/// Waits until a command is over; how it ended.
async fn over(node: &TestNode) -> Value {
    eventually("it is over", async || {
        let stands = node.get("/drops").await["data"].clone();
        (stands["running"] == false).then_some(stands.clone()).ok_or_else(|| stands.to_string())
    })
    .await
}

async fn drop_one(node: &TestNode, hash: &str) -> Value {
    let begun = begin(node, json!({ "hashes": [hash] })).await;
    assert!(begun["command"].is_u64(), "{begun}");
    over(node).await
}

fn said(stands: &Value) -> &str {
    stands["contents"][0]["explanation"].as_str().unwrap_or_else(|| panic!("{stands}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_others_promise_to_keep_goes_and_comes_back_when_it_is_read() {
    let [laptop, desk, cellar] = three(|_| {}).await;
    let contents = [noise(0, 0), noise(900, 1), noise(200_000, 2), noise(2_500_000, 3)];
    let mut hashes = Vec::new();
    for content in &contents {
        hashes.push(laptop.ingest(content.clone(), &[("tags", "old")]).await);
    }
    for hash in &hashes {
        all_hold(&[&desk, &cellar], hash).await;
    }
    let file = |hash: &str| {
        content_path(&laptop.config.data_dir.join("store"), hash.parse::<ContentHash>().expect("a hash"))
    };
    assert!(file(&hashes[3]).exists());
    let would = begin(&laptop, json!({ "filter": { "tags": ["old"] }, "dry_run": true })).await;
    assert_eq!((&would["contents"], &would["command"]), (&json!(4), &Value::Null), "{would}");
    assert_eq!(laptop.held().await.len(), 4, "nobody was asked");

    begin(&laptop, json!({ "filter": { "tags": ["old"] } })).await;
    let stands = over(&laptop).await;
    assert_eq!((&stands["dropped"], &stands["kept"]), (&json!(4), &json!(0)), "{stands}");
    assert_eq!(stands["dropped_bytes"], 2_700_900);
    let text = said(&stands);
    assert!(
        text.contains("desk") && text.contains("cellar") && text.contains("promised to keep it"),
        "{text}"
    );
    assert_eq!(laptop.held().await, [""; 0]);
    eventually("the files are gone", async || {
        let left = hashes.iter().filter(|hash| file(hash).exists()).count();
        (left == 0).then_some(()).ok_or_else(|| format!("{left} are there"))
    })
    .await;
    // It does not come back by itself, although everything is to be held.
    laptop.wait_in_sync().await;
    assert_eq!(laptop.held().await, [""; 0]);
    assert_eq!(laptop.assets().await.len(), 4, "all is known");
    let why = laptop.get(&format!("/why/{}", hashes[2])).await["data"].clone();
    assert_eq!(why["state"], "let_go", "{why}");
    assert_eq!(why["kept_by"].as_array().map(Vec::len), Some(2), "{why}");

    // Who promised it does not let go of it, and says so.
    let why = desk.get(&format!("/why/{}", hashes[2])).await["data"].clone();
    assert_eq!(why["promised_to"][0]["name"], "laptop", "{why}");
    assert!(why["explanation"].as_str().is_some_and(|text| text.contains("promised to laptop")), "{why}");
    let stands = drop_one(&desk, &hashes[2]).await;
    assert_eq!((&stands["dropped"], &stands["kept"]), (&json!(0), &json!(1)), "{stands}");
    assert!(said(&stands).contains("it is promised to laptop for"), "{stands}");
    // Nor by other ways, but for a user's deletion.
    let hash: ContentHash = hashes[2].parse().expect("a hash");
    let outcomes = desk.sync_store().let_go(vec![hash]).await;
    assert_eq!(outcomes, Ok(vec![ItemOutcome::Unchanged]));
    all_hold(&[&desk], &hashes[2]).await;

    for (hash, content) in hashes.iter().zip(&contents) {
        assert!(laptop.content(hash).await.as_ref() == Some(content), "{hash} is fetched");
    }
    eventually("all of it stays", async || {
        let held = laptop.held().await.len();
        (held == 4).then_some(()).ok_or_else(|| held.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_where_too_few_promise_and_as_few_as_wished_are_enough() {
    let (mut laptop, desk) = tokio::join!(TestNode::start("laptop", |_| {}), TestNode::start("desk", |_| {}));
    let hash = laptop.ingest(noise(100_000, 1), &[]).await;
    let stands = drop_one(&laptop, &hash).await;
    assert!(said(&stands).contains("no other machine of this network is connected"), "{stands}");
    laptop.dial(&desk).await;
    connected(&laptop, 1).await;
    all_hold(&[&desk], &hash).await;
    let stands = drop_one(&laptop, &hash).await;
    assert_eq!((&stands["dropped"], &stands["kept"]), (&json!(0), &json!(1)), "{stands}");
    assert!(said(&stands).contains("2 promises from other places are needed, there are 1"), "{stands}");
    assert!(said(&stands).contains("desk promised to keep it"), "{stands}");
    all_hold(&[&laptop, &desk], &hash).await;

    laptop.stop().await;
    laptop.config.min_copies = Copies(1);
    laptop.boot().await;
    laptop.dial(&desk).await;
    connected(&laptop, 1).await;
    let stands = drop_one(&laptop, &hash).await;
    assert_eq!(stands["dropped"], 1, "{stands}");
    all_hold(&[&desk], &hash).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_here_is_refused_and_what_is_left_over_goes() {
    let work = HoldFilter { tags: Some(vec!["work".to_owned()]), ..HoldFilter::default() };
    let [laptop, desk, cellar] = three(|config| config.hold = HoldSetting::Matching(work)).await;
    let bound = BoundNode::new(laptop);
    bound.binds("notes").await;
    bound.put("notes", "a.txt", "a file of a folder");
    let in_folder = crate::support::store::hash_of(b"a file of a folder").to_string();
    let laptop = &bound.node;
    let wanted = laptop.ingest(noise(5_000, 1), &[("tags", "work")]).await;
    let pinned = laptop.ingest(noise(6_000, 2), &[]).await;
    let left_over = laptop.ingest(noise(90_000, 3), &[]).await;
    laptop.post("/pins", json!({ "hashes": [pinned] })).await;
    for hash in [&in_folder, &wanted, &pinned, &left_over] {
        all_hold(&[laptop, &desk, &cellar], hash).await;
    }
    let begun = begin(laptop, json!({ "hashes": [pinned, in_folder], "dry_run": true })).await;
    assert_eq!((&begun["contents"], &begun["refused"]), (&json!(0), &json!(2)), "{begun}");
    let text = begun["refusals"].to_string();
    assert!(text.contains("it is pinned") && text.contains("a folder that is bound here"), "{text}");

    let begun = begin(laptop, json!({ "left_over": true })).await;
    assert_eq!(begun["hashes"], json!([left_over]), "{begun}");
    let stands = over(laptop).await;
    assert_eq!(stands["dropped"], 1, "{stands}");
    let held = laptop.held().await;
    assert!(!held.contains(&left_over) && [in_folder, wanted, pinned].iter().all(|hash| held.contains(hash)));

    for body in [
        json!({}),
        json!({ "filter": {} }),
        json!({ "hashes": [left_over], "left_over": true }),
        json!({ "hashes": ["x"] }),
        json!({ "filter": { "folder": "a".repeat(64) } }),
    ] {
        let refused = laptop.post("/drops", body.clone()).await;
        assert_eq!(refused["status"], "error", "{body}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_let_go_at_once_one_keeps_it() {
    let [a, b, c] = three(|_| {}).await;
    let mut hashes = Vec::new();
    for n in 0..5 {
        hashes.push(a.ingest(noise(70_000, n), &[]).await);
    }
    for hash in &hashes {
        all_hold(&[&a, &b, &c], hash).await;
    }
    let request = json!({ "hashes": hashes });
    tokio::join!(begin(&a, request.clone()), begin(&b, request));
    let (at_a, at_b) = tokio::join!(over(&a), over(&b));
    let number = |stands: &Value| stands["dropped"].as_u64().expect("a number");
    assert_eq!(number(&at_a) + number(&at_b), 5, "each goes once: {at_a}, {at_b}");
    let (held_a, held_b, held_c) = tokio::join!(a.held(), b.held(), c.held());
    for hash in &hashes {
        let copies = [&held_a, &held_b, &held_c].iter().filter(|held| held.contains(hash)).count();
        assert_eq!(copies, 2, "{hash}");
    }
}

/// How many copies a node has marked.
fn marked(daemon: &Daemon) -> u64 {
    let database = Connection::open(daemon.data_dir().join("store/store.db")).expect("the database opens");
    let count = database.query_row("SELECT count(*) FROM dropping", [], |row| row.get::<_, i64>(0));
    count.expect("a number").cast_unsigned()
}

/// Stores a file on a machine; waits until all hold it.
async fn put(on: &Daemon, name: &str, all: &[&Daemon]) -> String {
    on.user.write(name, format!("{name} is put").repeat(20_000));
    let hash = on.ok(&["put", name]).text().split_whitespace().next().expect("a hash").to_owned();
    for daemon in all {
        eventually("it is held", async || {
            let listed = daemon.ok(&["list", "--held"]).text().to_owned();
            listed.contains(&hash).then_some(()).ok_or(listed)
        })
        .await;
    }
    hash
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_neither_a_promise_nor_a_copy() {
    let names = ["laptop", "desk", "cellar"];
    let [mut laptop, mut desk, cellar] =
        names.map(|name| Daemon::start(&embedded_yaml(&format!("name: {name}"))));
    for other in [&desk, &cellar] {
        laptop.dial(other).await;
    }
    desk.dial(&cellar).await;
    daemon_connected(&laptop, 2).await;
    let hash = put(&laptop, "a.txt", &[&desk, &cellar]).await;

    // The laptop is killed after it has marked its copy: nobody answers it.
    desk.signal(Signal::STOP);
    cellar.signal(Signal::STOP);
    let answer = laptop.post("/drops", &json!({ "hashes": [hash] })).await;
    assert_eq!(answer["status"], "success", "{answer}");
    eventually("it is marked", async || match marked(&laptop) {
        1 => Ok(()),
        n => Err(format!("{n} are")),
    })
    .await;
    laptop.kill();
    desk.signal(Signal::CONT);
    cellar.signal(Signal::CONT);
    laptop = laptop.restart();
    assert_eq!(marked(&laptop), 0, "the mark is cleared at the start");
    assert!(laptop.ok(&["list", "--held"]).text().contains(&hash));
    for other in [&desk, &cellar] {
        laptop.dial(other).await;
    }
    daemon_connected(&laptop, 2).await;

    let refused = laptop.run(&["drop", &hash[..9], "--timeout", "not"]);
    assert_eq!(refused.code, 2);
    let done = laptop.ok(&["drop", &hash, "--yes"]);
    assert!(done.text().contains("promised to keep it"), "{}", done.text());
    assert!(!laptop.ok(&["list", "--held"]).text().contains(&hash));
    // What is gone already is no failure.
    let again = laptop.ok(&["drop", &hash]);
    assert!(again.text().contains("there is nothing to let go of"), "{} {}", again.text(), again.stderr);
    let why = laptop.ok(&["why", &hash]).text().to_owned();
    assert!(why.contains("desk") && why.contains("promised to keep it, for"), "{why}");

    // Who promised is killed, and knows of its promise when it is back.
    desk.kill();
    desk = desk.restart();
    for other in [&laptop, &cellar] {
        desk.dial(other).await;
    }
    daemon_connected(&desk, 2).await;
    let refused = desk.run(&["drop", &hash]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.text().contains("it is promised to laptop for"), "{}", refused.text());
    assert!(desk.ok(&["list", "--held"]).text().contains(&hash));
    // A user's deletion goes before everything.
    desk.ok(&["rm", &hash]);
    assert!(!desk.ok(&["list"]).text().contains(&hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_share_a_place_are_one_copy() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = format!(
        "store:\n  content:\n    url: file://{}\n    shared: true\n",
        dir.path().canonicalize().expect("a path").display()
    );
    let laptop = Daemon::start(&embedded_yaml("name: laptop"));
    let on_bucket = |name: &str| Daemon::start(&embedded_yaml(&format!("name: {name}\n{shared}")));
    let (desk, cellar) = (on_bucket("desk"), on_bucket("cellar"));
    for other in [&desk, &cellar] {
        laptop.dial(other).await;
    }
    daemon_connected(&laptop, 2).await;
    let hash = put(&laptop, "a.txt", &[&desk, &cellar]).await;
    let kept = laptop.run(&["drop", &hash]);
    assert_eq!(kept.code, 1, "{}", kept.stderr);
    assert!(
        kept.text().contains("there are 1") && kept.text().contains("has its copy where"),
        "{}",
        kept.text()
    );
    assert!(laptop.ok(&["list", "--held"]).text().contains(&hash));
    // Nor does one of the two count for the other.
    desk.dial(&cellar).await;
    daemon_connected(&desk, 2).await;
    let kept = desk.run(&["drop", &hash]);
    assert_eq!(kept.code, 1, "{}", kept.stderr);
    assert!(
        kept.text().contains("promised") || kept.text().contains("where this machine has it"),
        "{}",
        kept.text()
    );

    let attic = Daemon::start(&embedded_yaml("name: attic"));
    laptop.dial(&attic).await;
    daemon_connected(&laptop, 3).await;
    eventually("it is held there, too", async || {
        let listed = attic.ok(&["list", "--held"]).text().to_owned();
        listed.contains(&hash).then_some(()).ok_or(listed)
    })
    .await;
    laptop.ok(&["drop", &hash]);
    assert!(!laptop.ok(&["list", "--held"]).text().contains(&hash));
}

pub(crate) fn keep(hash: ContentHash, place: u8, nonce: [u8; 32], offset: u64) -> frame::Kind {
    let request = KeepRequest { hash: hash.0.to_vec().into(), nonce: nonce.to_vec().into(), offset };
    frame::Kind::Keep(Keep { place: vec![place; 32].into(), contents: vec![request] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promise_is_given_to_own_machines_alone_and_shows_the_bytes() {
    let desk = TestNode::start("desk", |_| {}).await;
    let content = noise(200_000, 1);
    let hash: ContentHash = desk.ingest(content.clone(), IMAGE).await.parse().expect("a hash");
    let machine = Attacker::member_of(&desk).await;
    let mut session = machine.session().await;
    let mut asked = async |kind: frame::Kind| {
        session.send(kind).await;
        session
            .wait_for("an answer", |kind| match kind {
                frame::Kind::Kept(kept) => Some(kept),
                _ => None,
            })
            .await
    };
    let nonce = [9; 32];
    let promised = asked(keep(hash, 1, nonce, 100_000)).await;
    assert_eq!(promised.outcome(), kept::Outcome::Promised);
    let piece = &content[100_000..100_000 + 64 * 1024];
    assert_eq!(promised.proof[..], blake3::keyed_hash(&nonce, piece).as_bytes()[..]);
    assert_eq!(promised.place.len(), 32);
    let at_the_end = asked(keep(hash, 1, nonce, 199_999)).await;
    assert_eq!(at_the_end.proof[..], blake3::keyed_hash(&nonce, &content[199_999..]).as_bytes()[..]);
    assert_eq!(asked(keep(ContentHash([1; 32]), 1, nonce, 0)).await.outcome(), kept::Outcome::Lacks);
    assert_eq!(asked(keep(hash, 1, nonce, 200_001)).await.outcome(), kept::Outcome::Unable);
    let same = KeepRequest { hash: hash.0.to_vec().into(), nonce: nonce.to_vec().into(), offset: 0 };
    let same = asked(frame::Kind::Keep(Keep { place: promised.place.clone(), contents: vec![same] })).await;
    assert_eq!((same.outcome(), same.proof.len()), (kept::Outcome::SamePlace, 0));
    let standing = desk.get(&format!("/why/{hash}")).await["data"]["promised_to"].clone();
    assert_eq!(standing.as_array().map(Vec::len), Some(1), "{standing}");

    let broken = KeepRequest { hash: hash.0.to_vec().into(), nonce: vec![9; 31].into(), offset: 0 };
    session.send(frame::Kind::Keep(Keep { place: vec![1; 32].into(), contents: vec![broken] })).await;
    session.closed_for("makes no sense").await;

    // Whoever has a ticket alone gets no promise, and is asked for none.
    let share = Share::images(&desk).await;
    let invited = share.invite(&desk, json!({ "access": "write" })).await;
    let guest = Member::new(&invited.ticket, &desk).await;
    let mut session = guest.session().await.map_err(|(_, error)| error).expect("it is let in");
    session.send(keep(hash, 1, nonce, 0)).await;
    let (code, reason) = closed(&session.connection).await;
    assert_eq!(code, 400, "{reason}");
    assert!(reason.contains("no device of ours"), "{reason}");
}
