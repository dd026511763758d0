//! Many ids in one pair of hands: they take no place from those who know the passphrase.

use std::time::Duration;

use can_sync::testing::wire::WireError;
use can_sync::testing::wire::proto::{Welcome, frame};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::member::HostileMember;
use crate::support::nodes::{TestNode, eventually};

/// Ids that share the ticket, and places for connections.
const IDS: usize = 64;
/// An eighth of what members may have, which is half of those places.
const ONE_TICKET_MAX: u64 = 4;
/// Between two attempts of one id.
const AGAIN: Duration = Duration::from_secs(3);

/// Comes with the ticket as often as it is let, and stays as long as it is let; counts its attempts.
async fn insists(
    member: HostileMember,
    ticket: iroh_tickets::endpoint::EndpointTicket,
    told: watch::Sender<usize>,
) {
    loop {
        let attempt = async {
            let addr = ticket.endpoint_addr().clone();
            let dialled = member.endpoint.connect(addr, can_sync::testing::net::SESSION_ALPN).await;
            let connection = dialled.map_err(|e| WireError::Broken(e.to_string()))?;
            let mut talk = member.try_open(&connection).await?;
            talk.show(vec![member.credential(&talk)]).await?;
            talk.hear_auth().await?;
            if let frame::Kind::Welcome(welcome) = talk.hear().await? {
                talk.say(frame::Kind::Welcome(Welcome { known: Vec::new(), ..welcome })).await?;
            }
            Ok::<_, WireError>((connection, talk))
        };
        let joined = attempt.await;
        told.send_modify(|attempts| *attempts += 1);
        if let Ok((connection, _talk)) = joined {
            connection.closed().await;
        }
        sleep(AGAIN).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_ticket_shown_by_64_ids_keeps_no_own_machine_out() {
    let a = TestNode::start("a", |_| {}).await;
    a.ingest("a picture", &[("mime_type", "image/png")]).await;
    let made = a.post("/libraries", json!({ "name": "images", "filter": { "mime_prefix": "image/" } })).await;
    let library = made["data"]["id"].as_str().expect("an id").to_owned();
    let answer = a.post(&format!("/libraries/{library}/invite"), json!({ "access": "read" })).await;
    let ticket = answer["data"]["ticket"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    // They are started before the attack: what they take for that is not what this is about.
    let dialling = TestNode::start("dials", |_| {}).await;
    let dialled = TestNode::start("is dialled", |_| {}).await;

    let mut crowd = JoinSet::new();
    let mut heard = Vec::new();
    for _ in 0..IDS {
        let member = HostileMember::invited(&ticket).await;
        let (told, attempts) = watch::channel(0);
        heard.push(attempts);
        crowd.spawn(insists(member, a.ticket().parse().expect("a ticket"), told));
    }
    for attempts in &mut heard {
        attempts.wait_for(|attempts| *attempts > 0).await.expect("it goes on");
    }
    let of_ticket = async || {
        let detail = a.get(&format!("/libraries/{library}")).await;
        let connected = detail["data"]["progress"]["connected"].as_u64();
        connected.ok_or_else(|| detail.to_string())
    };
    eventually("the first ones stay", async || {
        let connected = of_ticket().await?;
        (connected >= ONE_TICKET_MAX).then_some(()).ok_or_else(|| connected.to_string())
    })
    .await;

    let begun = Instant::now();
    dialling.dial(&a).await;
    a.dial(&dialled).await;
    for own in [&dialling, &dialled] {
        eventually("an own machine is connected", async || {
            let peer = own.peer(&a.id()).await;
            let up = ["reconciling", "syncing", "in_sync"].iter().any(|state| peer["state"] == *state);
            up.then_some(()).ok_or_else(|| peer.to_string())
        })
        .await;
    }
    println!("{IDS} ids with one ticket: two own machines connected within {:?}", begun.elapsed());
    // And it is no connection in name alone.
    dialling.holds(1).await;
    dialled.holds(1).await;
    // Those that were closed a moment ago may be counted still on a busy machine.
    for _ in 0..20 {
        let connected = of_ticket().await.expect("a number");
        assert!(connected <= 2 * ONE_TICKET_MAX, "{connected} with one ticket");
        sleep(Duration::from_millis(50)).await;
    }
    eventually("no more than one ticket may have", async || {
        let connected = of_ticket().await?;
        (connected <= ONE_TICKET_MAX).then_some(()).ok_or_else(|| connected.to_string())
    })
    .await;
    let own = a.get("/status").await;
    assert!(own["data"]["peers"]["connected"].as_u64() >= Some(2), "{own}");
}
