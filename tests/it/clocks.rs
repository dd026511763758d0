//! Nodes on machines whose clocks are wrong, and set right again. Clocks are the tests' own; all else is real.

use std::io::Write;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::libraries::Share;
use crate::support::clock::{DAY_MS, SetClock};
use crate::support::command::User;
use crate::support::nodes::{TestNode, eventually};

const YEAR_MS: u64 = 365 * DAY_MS;

async fn start(name: &str, clock: &SetClock) -> TestNode {
    TestNode::start_by(name, clock, |config| config.replicate_deletes = true).await
}

async fn connected(node: &TestNode, count: u64) {
    eventually("connected", async || {
        let status = node.get("/status").await;
        (status["data"]["peers"]["connected"] == count).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
}

/// Waits until a part of `/status` is as it should be, and gives all of it.
async fn status(node: &TestNode, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let status = node.get("/status").await["data"].clone();
        if is(&status) { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

fn says(status: &Value, pointer: &str, text: &str) -> bool {
    status.pointer(pointer).and_then(Value::as_str).is_some_and(|said| said.contains(text))
}

async fn meta(node: &TestNode, hash: &str) -> Value {
    node.store(&format!("/asset/{hash}/meta")).await["data"].clone()
}

async fn describe(node: &TestNode, hash: &str, text: &str) {
    let url = format!("{}/asset/{hash}/meta", node.node().store_url());
    let answer = node.http.patch(url).json(&json!({ "description": text })).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}

async fn delete(node: &TestNode, hash: &str) {
    let url = format!("{}/asset/{hash}", node.node().store_url());
    assert!(node.http.delete(url).send().await.unwrap().status().is_success());
}

async fn described(node: &TestNode, hash: &str, text: &str) {
    eventually(text, async || {
        let meta = meta(node, hash).await;
        (meta["description"] == text).then_some(()).ok_or_else(|| meta.to_string())
    })
    .await;
}

/// Milliseconds since the Unix epoch of a time in RFC 3339.
fn ms(time: &Value) -> u64 {
    let time: jiff::Timestamp = time.as_str().expect("a time").parse().expect("RFC 3339");
    u64::try_from(time.as_millisecond()).expect("after 1970")
}

fn is_now(time: &Value) -> bool {
    ms(time).abs_diff(can_sync::testing::clock::now_ms()) < 5 * 60_000
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_while_a_year_ahead_is_everywhere_once_the_clock_is_right() {
    let clock = SetClock::ahead(YEAR_MS);
    let right = SetClock::right();
    let (a, mut b) = tokio::join!(start("a", &right), start("b", &clock));
    let shared = a.ingest("shared", &[]).await;
    // While it is alone with its clock.
    let new = b.ingest("new", &[]).await;
    let again = b.ingest("again", &[]).await;
    delete(&b, &again).await;
    assert_eq!(b.ingest("again", &[("description", "back")]).await, again);
    b.dial(&a).await;
    eventually("what is dated right", async || b.content(&shared).await.ok_or_else(String::new)).await;
    describe(&b, &shared, "edited by b").await;
    // Three versions wait, and nobody is busy with them.
    for (node, other) in [(&a, "deferred_here"), (&b, "deferred_there")] {
        let peer = node.get("/peers").await;
        eventually("three wait", async || {
            let peers = node.get("/peers").await;
            (peers["data"]["peers"][0][other] == 3).then_some(()).ok_or_else(|| peers.to_string())
        })
        .await;
        let status = status(node, "in sync without them", |s| s["sync"]["state"] == "in_sync").await;
        assert_eq!(status["sync"]["missing"], 0, "{status} {peer}");
    }
    assert_eq!(a.content(&new).await, None);

    // A restart in between forgets nothing of it.
    assert!(!b.stop().await.failed);
    clock.set_ahead(0);
    b.boot().await;
    for hash in [&new, &again] {
        eventually("at a", async || a.content(hash).await.ok_or_else(String::new)).await;
        let (of_a, of_b) = (meta(&a, hash).await, meta(&b, hash).await);
        assert!(is_now(&of_a["created_at"]) && of_a["created_at"] == of_b["created_at"], "{of_a} {of_b}");
    }
    described(&a, &shared, "edited by b").await;
    described(&a, &again, "back").await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(a.assets().await, b.assets().await);
    for node in [&a, &b] {
        let status =
            status(node, "nothing to say", |s| s["sync"]["reason"].is_null() && s["clock"]["state"] == "own");
        assert_eq!(status.await["sync"]["dated_ahead"], 0);
    }
    // And edits go both ways again.
    describe(&a, &new, "edited by a").await;
    described(&b, &new, "edited by a").await;
    delete(&b, &again).await;
    eventually("deleted at a", async || {
        a.content(&again).await.is_none().then_some(()).ok_or_else(|| "still there".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_while_the_node_runs_heals_what_was_put() {
    let clock = SetClock::ahead(YEAR_MS);
    let right = SetClock::right();
    let (a, b) = tokio::join!(start("a", &right), start("b", &clock));
    b.dial(&a).await;
    connected(&b, 1).await;
    let new = b.ingest("new", &[]).await;
    status(&b, "it waits", |s| says(s, "/sync/reason", "dated ahead of another's clock")).await;
    clock.set_ahead(0);
    eventually("at a", async || a.content(&new).await.ok_or_else(String::new)).await;
    assert!(is_now(&meta(&a, &new).await["created_at"]));
    assert_eq!(a.assets().await, b.assets().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_made_a_day_ahead_does_not_overwrite_newer_ones_when_its_day_comes() {
    let (clock_a, clock_b) = (SetClock::right(), SetClock::right());
    let (a, mut b) = tokio::join!(start("a", &clock_a), start("b", &clock_b));
    let hash = a.ingest("x", &[]).await;
    b.dial(&a).await;
    b.holds(1).await;
    b.wait_in_sync().await;
    clock_b.set_ahead(DAY_MS);
    describe(&b, &hash, "a day ahead").await;
    status(&a, "it waits", |s| says(s, "/sync/reason", "dated ahead of this machine's clock")).await;
    for text in ["one", "two", "three"] {
        describe(&a, &hash, text).await;
    }
    a.wait_in_sync().await;
    assert_eq!(meta(&b, &hash).await["description"], "a day ahead", "b has what it takes to be newer");
    // Nobody sets b's clock, and a day passes.
    clock_a.pass(DAY_MS);
    clock_b.pass(DAY_MS);
    assert!(!b.stop().await.failed);
    b.boot().await;
    described(&b, &hash, "three").await;
    assert_eq!(meta(&a, &hash).await["description"], "three");
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(a.assets().await, b.assets().await);
    // Whoever edits next wins, whichever side it is.
    describe(&a, &hash, "four").await;
    described(&b, &hash, "four").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_made_a_day_ahead_does_not_overwrite_newer_ones_when_the_clock_is_set() {
    let (clock_a, clock_b) = (SetClock::right(), SetClock::right());
    let (a, b) = tokio::join!(start("a", &clock_a), start("b", &clock_b));
    let hash = a.ingest("x", &[]).await;
    b.dial(&a).await;
    b.holds(1).await;
    b.wait_in_sync().await;
    clock_b.set_ahead(DAY_MS);
    describe(&b, &hash, "a day ahead").await;
    status(&a, "it waits", |s| says(s, "/sync/reason", "dated ahead of this machine's clock")).await;
    for text in ["one", "two", "three"] {
        describe(&a, &hash, text).await;
    }
    a.wait_in_sync().await;
    // The edit is dated anew, now; it is the same edit all the same.
    clock_b.set_ahead(0);
    described(&b, &hash, "three").await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(meta(&a, &hash).await["description"], "three");
    // Made again on purpose, it counts.
    describe(&b, &hash, "a day ahead").await;
    described(&a, &hash, "a day ahead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_does_not_come_back_after_a_start_200_days_ahead() {
    let (clock, right) = (SetClock::right(), SetClock::right());
    let (mut a, mut b) = tokio::join!(
        start("a", &clock),
        TestNode::start_by("b", &right, |config| config.replicate_deletes = false)
    );
    let hash = a.ingest("deleted", &[]).await;
    b.dial(&a).await;
    b.holds(1).await;
    b.wait_in_sync().await;
    assert!(!b.stop().await.failed);
    delete(&a, &hash).await;
    clock.pass(2 * DAY_MS);
    for ahead in [200 * DAY_MS, 0] {
        assert!(!a.stop().await.failed);
        clock.set_ahead(ahead);
        a.boot().await;
    }
    // Whoever still has it offers it, and the tombstone is still there to answer.
    b.boot().await;
    connected(&a, 1).await;
    a.wait_in_sync().await;
    assert_eq!(a.content(&hash).await, None);
    assert_eq!(a.get(&format!("/why/{hash}")).await["data"]["state"], "deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_that_agree_outvote_the_third() {
    let clock = SetClock::ahead(YEAR_MS);
    let right = SetClock::right();
    let (a, b, c) = tokio::join!(start("a", &right), start("b", &clock), start("c", &right));
    let before = b.ingest("before", &[]).await;
    b.dial(&a).await;
    b.dial(&c).await;
    a.dial(&c).await;
    // The reason comes from an actor's report, which may be a moment older than the state.
    let is_outvoted = |s: &Value| {
        let says_so = says(s, "/clock/reason", "365 days ahead of 2 other machines");
        s["clock"]["state"] == "outvoted" && says_so
    };
    let status_b = status(&b, "outvoted", is_outvoted).await;
    assert!(is_now(&status_b["clock"]["now"]) && !is_now(&status_b["clock"]["own"]), "{status_b}");
    // Nobody sets b's clock: what is put from now on is dated right, and what was put before is dated anew.
    let after = b.ingest("after", &[]).await;
    for hash in [&before, &after] {
        for node in [&a, &c] {
            eventually("everywhere", async || node.content(hash).await.ok_or_else(String::new)).await;
        }
        assert!(is_now(&meta(&b, hash).await["created_at"]));
    }
    for node in [&a, &c] {
        status(node, "one of two others agrees", |s| s["clock"]["state"] == "own").await;
    }
    assert_eq!(a.assets().await, b.assets().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_version_that_is_dated_ahead_stays_and_is_said() {
    let (clock_a, clock_b) = (SetClock::ahead(YEAR_MS), SetClock::ahead(YEAR_MS));
    let (a, b) = tokio::join!(start("a", &clock_a), start("b", &clock_b));
    b.dial(&a).await;
    connected(&b, 1).await;
    let hash = b.ingest("both are wrong", &[]).await;
    a.holds(1).await;
    b.wait_in_sync().await;
    let created = meta(&b, &hash).await["created_at"].clone();
    clock_a.set_ahead(0);
    clock_b.set_ahead(0);
    for node in [&a, &b] {
        let status = status(node, "said", |s| s["sync"]["dated_ahead"] == 1).await;
        assert!(says(&status, "/sync/reason", "1 version here"), "{status}");
        assert_eq!(meta(node, &hash).await["created_at"], created);
    }
    assert_eq!(a.assets().await, b.assets().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_of_a_library_confirmed_keeps_its_date_and_the_rest_is_dated_anew() {
    let (clock, wrong, right) = (SetClock::ahead(YEAR_MS), SetClock::ahead(YEAR_MS), SetClock::right());
    let other = |config: &mut can_sync::testing::config::Config| {
        config.sync_passphrase = Some("a passphrase that only the member knows".into());
    };
    let (a, mut b, member) =
        tokio::join!(start("a", &right), start("b", &clock), TestNode::start_by("member", &wrong, other));
    let share = Share::images(&b).await;
    share.invite(&b, json!({ "access": "read" })).await.join(&member).await;
    let confirmed = b.ingest("confirmed", &[("mime_type", "image/png")]).await;
    let private = b.ingest("private", &[("mime_type", "text/plain")]).await;
    eventually("at the member", async || member.content(&confirmed).await.ok_or_else(String::new)).await;
    share.in_sync(&b).await;
    let created = meta(&b, &confirmed).await["created_at"].clone();
    // A restart forgets nothing of it, nor does it matter whether the member is there.
    assert!(!b.stop().await.failed);
    drop(member);
    clock.set_ahead(0);
    b.boot().await;
    b.dial(&a).await;
    eventually("at a", async || a.content(&private).await.ok_or_else(String::new)).await;
    assert!(is_now(&meta(&b, &private).await["created_at"]));
    let is_said = |s: &Value| s["sync"]["dated_ahead"] == 1 && says(s, "/sync/reason", "wait");
    status(&b, "said", is_said).await;
    assert_eq!(meta(&b, &confirmed).await["created_at"], created);
    assert_eq!(a.content(&confirmed).await, None);
}

/// Everything that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// `can-sync doctor` about a running node.
async fn doctor(node: &TestNode) -> Value {
    let api = format!("http://{}", node.node().api_addr());
    let ran = tokio::task::spawn_blocking(move || {
        let user = User::new();
        user.write("config.yaml", crate::support::daemon::yaml(""));
        user.run(&["--json", "--api", &api, "doctor"])
    });
    let ran = ran.await.unwrap();
    let all = ran.json();
    let checks = all[0]["checks"].as_array().unwrap_or_else(|| panic!("{ran:?}")).clone();
    checks.into_iter().find(|check| check["layer"] == "clock").expect("it looks at the clock")
}

// On one thread, so that it sees what all of it logs.
#[tokio::test]
async fn both_sides_say_what_waits_for_which_clock() {
    let log = Log::default();
    let subscriber = || tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    // With only one subscriber, tracing takes what a thread without any is the first to log for never of interest.
    let _another = tracing::Dispatch::new(subscriber());
    let _guard = tracing::subscriber::set_default(subscriber());
    let clock = SetClock::ahead(DAY_MS);
    let (nas, desk) = (start("nas", &SetClock::right()).await, start("desk", &clock).await);
    let hash = desk.ingest("x", &[]).await;
    desk.dial(&nas).await;
    // That a version waits may be known a moment before the comparison that showed it is over.
    for (node, waits, off) in [
        (&nas, "1 version of others wait", "behind that of another"),
        (&desk, "1 version of this machine", "ahead of that of another"),
    ] {
        let is_said = |s: &Value| {
            s["sync"]["state"] == "in_sync" && says(s, "/sync/reason", waits) && says(s, "/clock/reason", off)
        };
        let status = status(node, waits, is_said).await;
        assert_eq!(status["clock"]["state"], "undecided", "one other machine decides nothing: {status}");
    }
    let on_nas = nas.get(&format!("/why/{hash}")).await["data"].clone();
    assert_eq!(on_nas["state"], "later", "{on_nas}");
    assert!(says(&on_nas, "/explanation", "dated ahead of this machine's clock: it is taken in 24 hours"));
    assert_eq!(on_nas["waiting"][0]["name"], "desk");
    let on_desk = desk.get(&format!("/why/{hash}")).await["data"].clone();
    assert_eq!(on_desk["state"], "here", "{on_desk}");
    assert!(says(&on_desk, "/explanation", "nas"), "{on_desk}");
    assert!(says(&on_desk, "/explanation", "before 24 hours have passed"), "{on_desk}");
    for (node, text) in [(&nas, "of others wait"), (&desk, "of this machine wait")] {
        let check = doctor(node).await;
        assert_eq!(check["state"], "warn", "{check}");
        assert!(says(&check, "/detail", text) && check["advice"].is_string(), "{check}");
        let shown = node.get("/status").await["data"]["sync"]["reason"].clone();
        assert!(says(&json!({ "r": shown }), "/r", text));
    }
    let logged = [
        "versions wait because they are dated ahead",
        "this machine's clock is 24 hours ahead of that of another",
        "this machine's clock is 24 hours behind that of another",
    ];
    for text in logged {
        let found = || log.text().contains(text).then_some(()).ok_or_else(|| log.text());
        eventually(text, async || found()).await;
    }
    for (text, times) in logged.into_iter().zip([2, 1, 1]) {
        assert_eq!(log.text().matches(text).count(), times, "once on either side: {}", log.text());
    }
}
