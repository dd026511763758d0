//! Reading what is known and not held: it is fetched from a peer before the answer begins, unless nobody is to be asked, and the
//! waiting has an end.

use std::time::Duration;

use can_sync::testing::record::{AssetRecord, ContentHash};
use can_sync::testing::store::groups::groups_of;
use can_sync::testing::store::{ContentStore as _, Holding, ItemOutcome};
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{ContentHeader, Find, Lacks, WireRecord, frame};
use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::embedded::content_path;
use crate::support::hostile::{Attacker, Session, header, record};
use crate::support::nodes::{DEADLINE, TestNode, eventually};
use crate::support::outboard::Outboard;
use crate::support::store::{hash_of, noise, record_of};

/// A request for content, at the agent or at its CAN Service.
fn content_at(
    node: &TestNode,
    at_agent: bool,
    method: Method,
    hash: ContentHash,
    query: &str,
) -> reqwest::RequestBuilder {
    let base =
        if at_agent { format!("http://{}/store", node.node().api_addr()) } else { node.node().store_url() };
    node.http.request(method, format!("{base}/asset/{hash}{query}")).timeout(DEADLINE)
}

async fn read(node: &TestNode, at_agent: bool, hash: ContentHash, query: &str) -> Response {
    content_at(node, at_agent, Method::GET, hash, query).send().await.expect("an answer")
}

async fn refusal(answer: Response) -> (u16, String, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.expect("JSON");
    let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("error"))
}

async fn holding(node: &TestNode, hash: ContentHash) -> Option<Holding> {
    let stored = node.sync_store().records(vec![hash]).await.expect("records").pop();
    stored.map(|stored| stored.holding)
}

/// Two nodes with these contents, all of which the second one has let go of.
async fn pair(contents: &[Vec<u8>]) -> (TestNode, TestNode, Vec<ContentHash>) {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    b.dial(&a).await;
    let mut hashes = Vec::new();
    for content in contents {
        hashes.push(a.ingest(content.clone(), &[]).await.parse().expect("a hash"));
    }
    eventually("both have them", async || {
        let held = b.held().await.len();
        (held == contents.len()).then_some(()).ok_or_else(|| held.to_string())
    })
    .await;
    b.sync_store().let_go(hashes.clone()).await.expect("let go");
    (a, b, hashes)
}

/// Removes the file of a content behind a node's back.
fn lose(node: &TestNode, hash: &str) {
    let path = content_path(&node.config.data_dir.join("store"), hash.parse().expect("a hash"));
    std::fs::remove_file(path).expect("its file");
}

/// Has a node know assets that it never held.
async fn know(node: &TestNode, records: Vec<AssetRecord>) {
    let count = records.len();
    let taken = node.sync_store().take_absent(records).await;
    assert_eq!(taken, Ok(vec![ItemOutcome::Absent; count]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_fetched_first_whole_or_in_part() {
    let contents: Vec<Vec<u8>> =
        [300, 70_000, 2_500_000, 3_000_000].into_iter().map(|len| noise(len, len as u64)).collect();
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let mut hashes = Vec::new();
    for content in &contents {
        hashes.push(a.ingest(content.clone(), &[]).await.parse::<ContentHash>().expect("a hash"));
    }
    let records = a.sync_store().records(hashes.clone()).await.expect("records");
    let records: Vec<AssetRecord> = records.into_iter().map(|stored| stored.record).collect();
    // b knows of them, holds none, and does not want any: nothing comes by itself.
    know(&b, records).await;
    b.sync_store().let_go(hashes.clone()).await.expect("let go");
    b.dial(&a).await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    assert_eq!(b.held().await, [""; 0]);

    for (n, (hash, content)) in hashes.iter().zip(&contents).enumerate() {
        let at_agent = n % 2 == 0;
        for query in ["?local=true", "?local=true&local="] {
            let (status, code, _) = refusal(read(&b, at_agent, *hash, query).await).await;
            assert_eq!((status, code.as_str()), (404, "not_held"));
        }
        let beyond = content_at(&b, at_agent, Method::GET, *hash, "");
        let beyond = beyond.header("Range", "bytes=9999999-").send().await.expect("an answer");
        assert_eq!(beyond.status(), 416);
        let head = content_at(&b, at_agent, Method::HEAD, *hash, "").send().await.expect("an answer");
        assert_eq!(head.status(), 404, "HEAD says what is here");
        assert_eq!(holding(&b, *hash).await, Some(Holding::Unwanted), "and nothing was fetched for that");

        let (from, to) = (content.len() / 3, content.len() / 2);
        let request = content_at(&b, at_agent, Method::GET, *hash, if n > 1 { "?local=false" } else { "" });
        let ranged =
            request.header("Range", format!("bytes={from}-{}", to - 1)).send().await.expect("an answer");
        assert_eq!(ranged.status(), 206);
        let shown = format!("bytes {from}-{}/{}", to - 1, content.len());
        assert_eq!(ranged.headers()["content-range"].to_str().expect("text"), shown);
        assert!(ranged.bytes().await.expect("a body") == content[from..to]);
        assert_eq!(holding(&b, *hash).await, Some(Holding::Held), "it stays");
        let local = read(&b, at_agent, *hash, "?local=true").await;
        assert!(local.bytes().await.expect("a body") == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_trash_needs_nobody() {
    let contents = [noise(100, 1), noise(100_000, 2)];
    let (mut a, b, hashes) = pair(&contents).await;
    a.stop().await;
    for (hash, content) in hashes.iter().zip(&contents) {
        assert_eq!(holding(&b, *hash).await, Some(Holding::Unwanted));
        assert!(read(&b, false, *hash, "").await.bytes().await.expect("a body") == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_content_are_all_answered() {
    let content = noise(1_500_000, 5);
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    know(&b, vec![record_of(&content)]).await;
    b.sync_store().let_go(vec![hash_of(&content)]).await.expect("let go");
    a.ingest(content.clone(), &[]).await;
    b.dial(&a).await;
    b.wait_in_sync().await;
    let readers = (0..20).map(|n| {
        let (b, content) = (&b, &content);
        async move {
            let answer = read(b, n % 2 == 0, hash_of(content), "").await;
            assert!(answer.bytes().await.expect("a body") == content);
        }
    });
    futures::future::join_all(readers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_is_refused_with_a_reason() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let record = record_of(&noise(1_000, 6));
    know(&b, vec![record.clone()]).await;
    // With nobody there.
    for at_agent in [true, false] {
        let (status, code, error) = refusal(read(&b, at_agent, record.hash, "").await).await;
        assert_eq!((status, code.as_str()), (404, "not_held"));
        assert!(error.contains("Nobody is connected"), "{error}");
    }
    // With somebody who lacks it.
    b.dial(&a).await;
    eventually("connected", async || {
        let connected = b.get("/status").await["data"]["peers"]["connected"].clone();
        (connected == 1).then_some(()).ok_or_else(|| connected.to_string())
    })
    .await;
    let (status, code, error) = refusal(read(&b, false, record.hash, "").await).await;
    assert_eq!((status, code.as_str()), (404, "not_held"));
    assert!(error.contains("the one peer that was asked does not have it"), "{error}");
    // What nobody knows of, and what was deleted, is not asked for.
    let unknown = ContentHash([7; 32]);
    assert_eq!(refusal(read(&b, false, unknown, "").await).await.1, "not_found");
    let gone: ContentHash = b.ingest(noise(100, 7), &[]).await.parse().expect("a hash");
    let url = format!("{}/asset/{gone}", b.node().store_url());
    b.http.delete(url).send().await.expect("an answer");
    assert_eq!(refusal(read(&b, false, gone, "").await).await.1, "deleted");
    let nonsense = read(&b, true, unknown, "?local=perhaps").await;
    assert_eq!(nonsense.status(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_on_disk_is_asked_for_when_its_holder_is_back() {
    let (mut a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let contents: Vec<Vec<u8>> = (0..30).map(|n| noise(80_000 + n, n as u64)).collect();
    b.dial(&a).await;
    let mut hashes = Vec::new();
    for content in &contents {
        hashes.push(a.ingest(content.clone(), &[]).await);
    }
    eventually("b has them", async || {
        let held = b.held().await.len();
        (held == contents.len()).then_some(()).ok_or_else(|| held.to_string())
    })
    .await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    a.stop().await;
    for hash in &hashes {
        lose(&b, hash);
    }
    // The first reader finds out, and is told why.
    for hash in &hashes {
        let answer = read(&b, false, hash.parse().expect("a hash"), "?local=true").await;
        assert!([404, 500].contains(&answer.status().as_u16()));
    }
    eventually("all are known to be lost", async || {
        let store = b.get("/status").await["data"]["store"].clone();
        (store["assets_held"] == 0 && store["assets"] == 30).then_some(()).ok_or_else(|| store.to_string())
    })
    .await;
    a.boot().await;
    a.dial(&b).await;
    tokio::join!(a.wait_in_sync(), b.wait_in_sync());
    for (hash, content) in hashes.iter().zip(&contents) {
        assert_eq!(b.content(hash).await.as_ref(), Some(content));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_damaged_when_it_is_read_comes_from_a_peer() {
    let (a, b) = tokio::join!(TestNode::start("a", |_| {}), TestNode::start("b", |_| {}));
    let content = noise(400_000, 11);
    b.dial(&a).await;
    let hash = a.ingest(content.clone(), &[]).await;
    eventually("b has it", async || (b.held().await.len() == 1).then_some(()).ok_or_else(String::new)).await;
    lose(&b, &hash);
    for at_agent in [true, false] {
        let answer = read(&b, at_agent, hash.parse().expect("a hash"), "").await;
        assert_eq!(answer.status(), 200);
        assert!(answer.bytes().await.expect("a body") == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_gets_what_is_damaged_here_from_a_peer() {
    let [a, b] = ["a", "b"].map(|name| Daemon::start(&embedded_yaml(&format!("name: {name}\n"))));
    let content = noise(400_000, 12);
    let hash = hash_of(&content);
    a.user.write("a.bin", &content);
    a.ok(&["put", "a.bin"]);
    a.dial(&b).await;
    b.wait_in_sync().await;
    let path = content_path(&b.data_dir().join("store"), hash);
    let mut flipped = content.clone();
    flipped[7] ^= 1;
    std::fs::write(path, flipped).expect("its file");
    b.ok(&["get", &hash.to_string(), "-o", "b.bin"]);
    assert!(std::fs::read(b.user.home().join("b.bin")).expect("a file") == content);
}

/// Says to have whatever it is asked for by name, and never gives anything. Ends with the session.
async fn promises_everything(session: &mut Session, size: u64) {
    loop {
        match session.read().await {
            Ok(frame::Kind::Find(find)) => {
                let records = find
                    .hashes
                    .iter()
                    .filter_map(|hash| ContentHash::from_slice(hash))
                    .map(|hash| record(hash, size));
                session.offer(records.collect()).await;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_not_kept_waiting_by_who_only_says_to_have_it() {
    let b = TestNode::start("b", |config| config.limits.stall_timeout = Duration::from_secs(3)).await;
    let content = noise(200_000, 9);
    know(&b, vec![record_of(&content)]).await;
    let attacker = Attacker::member_of(&b).await;
    let mut session = attacker.session().await;
    let reading = async {
        let (status, code, error) = refusal(read(&b, false, hash_of(&content), "").await).await;
        assert!(
            [(404, "not_held"), (504, "not_here_yet")].contains(&(status, code.as_str())),
            "{status} {code} {error}"
        );
        // An honest peer is heard all the same, for the same reader.
        let a = TestNode::start("a", |_| {}).await;
        a.ingest(content.clone(), &[]).await;
        b.dial(&a).await;
        eventually("it is here", async || {
            let answer = read(&b, false, hash_of(&content), "").await;
            let status = answer.status();
            if status == 200 && answer.bytes().await.expect("a body") == content {
                Ok(())
            } else {
                Err(status.to_string())
            }
        })
        .await;
    };
    tokio::select! {
        () = reading => {}
        () = async { promises_everything(&mut session, 200_000).await; std::future::pending().await } => {}
    }
    assert_eq!(holding(&b, hash_of(&content)).await, Some(Holding::Held));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_by_name_about_what_is_absent_are_answered_and_bounded() {
    let b = TestNode::start("b", |_| {}).await;
    let records: Vec<AssetRecord> = (0..200).map(|n| record_of(&noise(100, 1_000 + n))).collect();
    know(&b, records.clone()).await;
    let named = |records: &[AssetRecord], library: &bytes::Bytes| {
        let hashes = records.iter().map(|record| bytes::Bytes::copy_from_slice(&record.hash.0)).collect();
        frame::Kind::Find(Find { hashes, library: library.clone() })
    };
    let attacker = Attacker::member_of(&b).await;
    let mut session = attacker.session().await;
    let library = session.library();
    for some in records.chunks(16) {
        session.send(named(some, &library)).await;
        let mut lacking = 0;
        while lacking < some.len() {
            lacking += session
                .wait_for("Lacks", |kind| match kind {
                    frame::Kind::Lacks(Lacks { hashes, .. }) => Some(hashes.len()),
                    frame::Kind::Offer(offer) => {
                        // The comparison offers them, as what is not held.
                        assert!(!offer.absent.is_empty(), "{offer:?}");
                        None
                    }
                    _ => None,
                })
                .await;
        }
    }
    // What is not read is not answered without end.
    for _ in 0..20_000 {
        if !session.send(named(&records[..64], &library)).await {
            break;
        }
    }
    let (code, said) = session.closed().await;
    // Where the machine is too busy to make so many answers, it is the first ones that were left unread for too long.
    assert!(code == 400 || code == 408, "{code}: {said}");
    // Nobody else suffers by it.
    let a = TestNode::start("a", |_| {}).await;
    let hash = a.ingest(noise(100, 1_000), &[]).await;
    b.dial(&a).await;
    eventually("it came", async || b.content(&hash).await.map(drop).ok_or_else(String::new)).await;
}

/// A node that knows of a content and lets go of it, beside one that has it and sends it slowly.
async fn known_beside_a_slow_holder(content: &[u8]) -> (TestNode, TestNode, ContentHash) {
    let (a, b) = tokio::join!(
        TestNode::start("a", |config| config.limits.upload_bytes_per_sec = Some(2_000_000)),
        TestNode::start("b", |_| {})
    );
    let hash: ContentHash = a.ingest(content.to_vec(), &[]).await.parse().expect("a hash");
    know(&b, vec![record_of(content)]).await;
    b.sync_store().let_go(vec![hash]).await.expect("let go");
    b.dial(&a).await;
    b.wait_in_sync().await;
    (a, b, hash)
}

/// What is left of an answer's body.
async fn rest_of(answer: &mut Response) -> reqwest::Result<Vec<u8>> {
    let mut rest = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        rest.extend_from_slice(&chunk);
    }
    Ok(rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_large_content_is_read_while_it_comes() {
    for (seed, at_agent, range) in [(21, false, None), (22, true, Some("bytes=0-"))] {
        let content = noise(12 << 20, seed);
        let (_a, b, hash) = known_beside_a_slow_holder(&content).await;
        let mut request = content_at(&b, at_agent, Method::GET, hash, "");
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        let mut answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), if range.is_some() { 206 } else { 200 });
        assert_eq!(answer.content_length(), Some(content.len() as u64));
        let mut read = answer.chunk().await.expect("a chunk").expect("a chunk").to_vec();
        // At two megabytes a second most of it is still with the other one.
        assert_eq!(holding(&b, hash).await, Some(Holding::Wanted), "at its first byte it is not here yet");
        // What is broken off in the middle is not to be gone on with.
        assert_eq!(answer.headers()["cache-control"].to_str().expect("text"), "no-store");
        assert!(!answer.headers().contains_key("etag") && !answer.headers().contains_key("accept-ranges"));
        read.extend(rest_of(&mut answer).await.expect("the rest"));
        assert!(read == content);
        eventually("then it is here, and stays", async || {
            let found = holding(&b, hash).await;
            (found == Some(Holding::Held)).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_goes_on_where_its_holder_was_away_meanwhile() {
    let content = noise(12 << 20, 23);
    let (mut a, b, hash) = known_beside_a_slow_holder(&content).await;
    let mut answer = read(&b, false, hash, "").await;
    let mut read = answer.chunk().await.expect("a chunk").expect("a chunk").to_vec();
    a.stop().await;
    a.boot().await;
    a.dial(&b).await;
    read.extend(rest_of(&mut answer).await.expect("the rest"));
    assert!(read == content);
}

/// Says of a content that it has the BLAKE3 of another one, and gives that, with its proofs. Ends with the session.
async fn gives_another_one(session: &mut Session, hash: ContentHash, other: &[u8]) {
    let (outboard, size) = (Outboard::of(other), other.len() as u64);
    while let Ok(kind) = session.read().await {
        match kind {
            frame::Kind::Find(_) => {
                let blake3 = Some(outboard.root.to_vec().into());
                session.offer(vec![WireRecord { blake3, ..record(hash, size) }]).await;
            }
            frame::Kind::Want(want) => {
                for wanted in want.contents {
                    let range = wanted.offset..wanted.offset + wanted.length;
                    let proof = outboard.prove(&groups_of(&range)).into_flattened().into();
                    let (offset, length, total) = (wanted.offset, wanted.length, size);
                    let header =
                        ContentHeader { offset, length, total, proof, ..header(want.request, hash, total) };
                    let index = |at: u64| usize::try_from(at).expect("it fits");
                    let mut stream = session.content_stream().await;
                    let _ = stream.write_chunk(wire::encode(&header)).await;
                    let _ = stream.write_all(&other[index(range.start)..index(range.end)]).await;
                    let _ = stream.finish();
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_turns_out_to_be_another_content_no_reader_gets_the_end() {
    let (content, other) = (noise(3_000_000, 24), noise(3_000_000, 25));
    let b = TestNode::start("b", |_| {}).await;
    know(&b, vec![record_of(&content)]).await;
    b.sync_store().let_go(vec![hash_of(&content)]).await.expect("let go");
    let attacker = Attacker::member_of(&b).await;
    let mut session = attacker.session().await;
    let reading = async {
        let mut answer = read(&b, false, hash_of(&content), "").await;
        assert_eq!(answer.status(), 200);
        let first = answer.chunk().await.expect("a chunk").expect("a chunk");
        assert!(other.starts_with(&first), "that is what the liar says it is");
        // Once the right one is here, the answer is not continued with it.
        let a = TestNode::start("a", |_| {}).await;
        a.ingest(content.clone(), &[]).await;
        b.dial(&a).await;
        let broken = rest_of(&mut answer).await;
        assert!(broken.is_err(), "{} bytes more, to the end", broken.map_or(0, |rest| rest.len()));
        eventually("it is here", async || {
            let found = holding(&b, hash_of(&content)).await;
            (found == Some(Holding::Held)).then_some(()).ok_or_else(|| format!("{found:?}"))
        })
        .await;
        assert!(read(&b, false, hash_of(&content), "").await.bytes().await.expect("a body") == content);
    };
    let lying = async {
        gives_another_one(&mut session, hash_of(&content), &other).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = lying => {}
    }
}
