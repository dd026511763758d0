//! What a hostile member of the swarm can do.

use super::*;
use crate::support::scoreboard;

#[tokio::test]
async fn what_a_hostile_member_says_does_not_count() {
    let (one, two) = (Agent::start("one").await, Agent::start("two").await);
    one.hint(&two);
    one.sees_agent(&two).await;
    let mut member = Member::join(&one).await;
    let victim = SecretKey::generate();
    // Signed by another key than the one named; from tomorrow; endless; nothing at all.
    let stolen = Announcement { id: victim.public(), ..announcement(&SecretKey::generate(), "stolen") };
    let key = SecretKey::generate();
    let stolen = {
        // `sign` writes the signer's id; put the victim's there, under the thief's signature.
        let bytes = stolen.sign(&key).to_vec();
        let at = bytes.windows(32).position(|part| part == key.public().as_bytes()).expect("the id is in it");
        [&bytes[..at], victim.public().as_bytes(), &bytes[at + 32..]].concat()
    };
    let tomorrow = Announcement { timestamp_ms: now_ms() + 86_400_000, ..announcement(&key, "tomorrow") };
    let last = Announcement { timestamp_ms: u64::MAX, ..announcement(&key, "last") };
    member.say(stolen).await;
    member.say(tomorrow.sign(&key)).await;
    member.say(last.sign(&key)).await;
    member.say(vec![7; 3_900]).await;
    member.say(Vec::new()).await;
    // What another one said, said again.
    let heard = async {
        loop {
            match futures::StreamExt::next(&mut member.receiver).await {
                Some(Ok(iroh_gossip::api::Event::Received(message))) => return message.content,
                Some(Ok(_)) => {}
                other => panic!("the topic ended: {other:?}"),
            }
        }
    };
    let heard = timeout(Duration::from_mins(1), heard).await.expect("somebody says something");
    for n in 0..100 {
        member.say(wrapped(&heard, n)).await;
    }
    // Behind all of it comes an honest one, so everything before was dealt with.
    let honest = SecretKey::generate();
    member.say(announcement(&honest, "honest").sign(&honest)).await;
    for agent in [&one, &two] {
        agent.sees("the honest one", |listing| listing.id == honest.public()).await;
        let other = if agent.args.name == "one" { "two" } else { "one" };
        assert_eq!(agent.names(), BTreeSet::from(["honest".to_owned(), other.to_owned()]));
        let detail = agent.detail().await;
        let refused: usize = detail
            .split_whitespace()
            .rev()
            .nth(2)
            .and_then(|number| number.parse().ok())
            .unwrap_or_else(|| panic!("no number in {detail}"));
        assert!(refused >= 100, "{detail}");
    }
}

#[tokio::test]
async fn a_flood_of_announcements_is_bounded_and_hides_nobody() {
    let per_sec = scoreboard::number("CAN_SYNC_TEST_FLOOD_PER_SEC", 1_000);
    let seconds = scoreboard::number("CAN_SYNC_TEST_FLOOD_SECS", 4);
    let flood_within = Duration::from_secs(seconds as u64) * 5;
    let (one, two) = (Agent::start("one").await, Agent::start("two").await);
    one.hint(&two);
    one.sees_agent(&two).await;
    two.sees_agent(&one).await;
    let member = Member::join(&one).await;
    // Each from an author of its own, properly signed: the most work that can be asked for.
    let author = |n: usize| SecretKey::from_bytes(blake3::hash(&n.to_le_bytes()).as_bytes());
    let sign = |n: usize| announcement(&author(n), "flood").sign(&author(n));
    let flood: Vec<Bytes> = (0..per_sec * seconds).map(sign).collect();
    let (before, began) = (resident_mib(), Instant::now());
    let mut said = 0;
    let speaking = async {
        while said < flood.len() {
            let due = (began.elapsed().as_millis() as usize * per_sec / 1_000).min(flood.len());
            for bytes in &flood[said..due] {
                member.say(bytes.clone()).await;
                said += 1;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    // Gossip makes whoever floods it wait, on a busy machine for long: what was said until then will do.
    let _ = timeout(flood_within, speaking).await;
    assert!(said > per_sec, "only {said} were said");
    let spoke = began.elapsed();
    // News get through, and the actor answers.
    two.holds(99, 0);
    let id = two.id();
    one.sees("news of the other one", |listing| listing.id == id && listing.assets == 99).await;
    let detail = one.detail().await;
    let floods = one.listings().iter().filter(|listing| listing.name == "flood").count();
    let took = usize::try_from(began.elapsed().as_secs()).expect("a short time") + 1;
    let grown = resident_mib().saturating_sub(before);
    let figure = format!(
        "{said} announcements in {:.1} s: {floods} looked at within {took} s; memory grew by {grown} MiB; {detail}",
        spoke.as_secs_f64(),
    );
    scoreboard::figure(grown <= 64, &figure);
    assert!(floods <= 64 * took + 128, "{floods} of {said} were looked at in {took} s");
    assert!(one.listing(two.id()).is_some_and(|listing| !listing.stale));
}
