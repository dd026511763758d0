//! Parts of large contents with proofs that are none, and groups that are not what was proved.

use std::ops::Range;

use can_sync::testing::record::ContentHash;
use can_sync::testing::store::groups::{GROUP_BYTES, group_count, groups_of};
use can_sync::testing::wire;
use can_sync::testing::wire::proto::{ContentHeader, ContentRequest, WireRecord};

use crate::support::hostile::{Arena, Attacker, Session, hash_of, header, record};
use crate::support::outboard::Outboard;

/// Makes something else of what an honest sender would send.
type Twist<T> = fn(&mut T);

/// A content of several groups, the last one short, and what proves it.
struct Bait {
    content: Vec<u8>,
    outboard: Outboard,
    record: WireRecord,
}

impl Bait {
    fn new(len: usize) -> Self {
        let mut content = vec![0; len];
        blake3::Hasher::new().update(&rand::random::<[u8; 16]>()).finalize_xof().fill(&mut content);
        let outboard = Outboard::of(&content);
        let root = Some(outboard.root.to_vec().into());
        let record = WireRecord { blake3: root, ..record(hash_of(&content), len as u64) };
        Self { content, outboard, record }
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    /// As an honest sender writes it.
    fn header(&self, request: u64, wanted: &ContentRequest) -> ContentHeader {
        let range = wanted.offset..wanted.offset + wanted.length;
        let proof = self.outboard.prove(&groups_of(&range)).into_flattened().into();
        let (offset, length, total) = (wanted.offset, wanted.length, self.size());
        ContentHeader { offset, length, total, proof, ..header(request, hash_of(&self.content), total) }
    }

    fn bytes(&self, range: Range<u64>) -> &[u8] {
        &self.content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }
}

/// Offers it, and gives what it is asked for first.
async fn offered(session: &mut Session, bait: &Bait) -> (u64, ContentRequest) {
    session.offer(vec![bait.record.clone()]).await;
    let want = session.wanted().await;
    assert!(want.contents[0].proved, "it is asked to prove it");
    (want.request, want.contents[0].clone())
}

/// Sends for as long as anybody listens.
async fn serve(session: &Session, header: &ContentHeader, content: &[u8]) {
    let mut stream = session.content_stream().await;
    let _ = stream.write_chunk(wire::encode(header)).await;
    let _ = stream.write_all(content).await;
    let _ = stream.finish();
    let _ = stream.stopped().await;
}

/// Bytes of content that the victim took from whoever has this endpoint id.
async fn taken(arena: &Arena, attacker: &Attacker) -> u64 {
    let peer = arena.victim.get(&format!("/peers/{}", attacker.endpoint.id())).await;
    peer["bytes_received"].as_u64().unwrap_or_else(|| panic!("{peer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_known_at_its_first_wrong_group() {
    let mut arena = Arena::new().await;
    arena.keeps_parts = true;
    for first_wrong in [0, 1, 5, 20] {
        let attacker = Attacker::member(&arena).await;
        let attack = async {
            let mut session = attacker.session().await;
            let bait = Bait::new(4_000_000);
            let (request, wanted) = offered(&mut session, &bait).await;
            let mut content = bait.content.clone();
            // From here on, nothing is right.
            content[first_wrong * GROUP_BYTES..].iter_mut().for_each(|byte| *byte ^= 1);
            serve(&session, &bait.header(request, &wanted), &content).await;
            session.closed_for("wrong bytes").await;
        };
        arena.survives("groups that are not what was proved", attack).await;
        let (taken, right) = (taken(&arena, &attacker).await, (first_wrong * GROUP_BYTES) as u64);
        assert!(
            (right..=right + GROUP_BYTES as u64).contains(&taken),
            "{taken} bytes, {right} of them right"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_is_none_is_followed_by_the_whole_and_by_no_third_attempt() {
    let mut arena = Arena::new().await;
    let other = Bait::new(3_000_000);
    let twists: [(&str, Twist<Vec<u8>>); 7] = [
        ("a flipped bit", |proof| proof[40] ^= 1),
        ("one hash less", |proof| proof.truncate(proof.len() - 32)),
        ("one hash more", |proof| proof.extend([5; 32])),
        ("part of a hash", |proof| proof.truncate(proof.len() - 1)),
        ("groups in another order", |proof| proof.rotate_left(32)),
        ("a group twice", |proof| proof.copy_within(0..32, 32)),
        ("one hash", |proof| proof.truncate(32)),
    ];
    for (what, twist) in twists {
        let attack = async |session: &mut Session| {
            let bait = Bait::new(3_000_000);
            let (request, wanted) = offered(session, &bait).await;
            let mut header = bait.header(request, &wanted);
            let mut proof = header.proof.to_vec();
            twist(&mut proof);
            header.proof = proof.into();
            serve(session, &header, &bait.content).await;
            falls_back(session, &bait).await;
        };
        arena.survives_inside(what, attack).await;
    }
    let attack = async |session: &mut Session| {
        // Its record has the root of another content, whose groups it can prove.
        let mut bait = Bait::new(3_000_000);
        bait.record.blake3 = Some(other.outboard.root.to_vec().into());
        let (request, wanted) = offered(session, &bait).await;
        serve(session, &bait.header(request, &wanted), &bait.content).await;
        falls_back(session, &bait).await;
    };
    arena.survives_inside("proofs for another root", attack).await;
    let attack = async |session: &mut Session| {
        let bait = Bait::new(3_000_000);
        let (request, wanted) = offered(session, &bait).await;
        let header = ContentHeader { proof: bytes::Bytes::new(), ..bait.header(request, &wanted) };
        serve(session, &header, &bait.content).await;
        falls_back(session, &bait).await;
    };
    arena.survives_inside("no proof", attack).await;
}

/// What could not be proved is asked for without proofs, once; and then SHA-256 decides.
async fn falls_back(session: &mut Session, bait: &Bait) {
    let want = session.wanted().await;
    let wanted = want.contents[0].clone();
    assert!(!wanted.proved && wanted.offset == 0, "{wanted:?}");
    let header = ContentHeader { proof: bytes::Bytes::new(), ..bait.header(want.request, &wanted) };
    let mut content = bait.content.clone();
    content[1_000] ^= 1;
    serve(session, &header, &content).await;
    session.closed_for("wrong bytes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_were_not_asked_for_are_not_taken() {
    let mut arena = Arena::new().await;
    let lies: [(&str, Twist<ContentHeader>); 5] = [
        ("a later group", |header| header.offset += GROUP_BYTES as u64),
        ("a group beyond the size", |header| header.offset = group_count(header.total) * GROUP_BYTES as u64),
        ("a byte less", |header| header.length -= 1),
        ("a group more", |header| header.length += GROUP_BYTES as u64),
        ("another size", |header| header.total += 1),
    ];
    for (what, lie) in lies {
        let attack = async |session: &mut Session| {
            let bait = Bait::new(3_000_000);
            let (request, wanted) = offered(session, &bait).await;
            let mut header = bait.header(request, &wanted);
            lie(&mut header);
            serve(session, &header, &bait.content).await;
            session.closed_for("wrong bytes").await;
        };
        arena.survives_inside(what, attack).await;
    }
    arena.keeps_parts = true;
    let attack = async |session: &mut Session| {
        // The same groups once more: nobody waits for them.
        let bait = Bait::new(3_000_000);
        let (request, wanted) = offered(session, &bait).await;
        let half = ContentRequest { length: 20 * GROUP_BYTES as u64, ..wanted.clone() };
        let header = bait.header(request, &wanted);
        let mut stream = session.content_stream().await;
        stream.write_chunk(wire::encode(&header)).await.unwrap();
        stream.write_all(bait.bytes(0..half.length)).await.unwrap();
        stream.write_all(bait.bytes(0..half.length)).await.ok();
        session.closed_for("wrong bytes").await;
    };
    arena.survives_inside("groups that are repeated", attack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_of_a_tebibyte_that_is_only_claimed_costs_nothing() {
    let mut arena = Arena::new().await;
    let attack = async |session: &mut Session| {
        let claims: Vec<WireRecord> = (0..1000)
            .map(|_| {
                let root = Some(rand::random::<[u8; 32]>().to_vec().into());
                WireRecord { blake3: root, ..record(ContentHash(rand::random()), 1 << 40) }
            })
            .collect();
        let first = ContentHash(claims[0].hash[..].try_into().unwrap());
        session.offer(claims).await;
        let reason = session.refused(first).await;
        println!("{reason}");
    };
    arena.survives_inside("a tebibyte, a thousand times", attack).await;
}
