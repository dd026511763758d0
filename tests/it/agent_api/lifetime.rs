//! HttpActor: failing, starting again on the same port, stopping in time.

use std::time::Duration;

use bytes::Bytes;
use can_sync::testing::api::actor::DRAIN_LIMIT;
use can_sync::testing::api::{HttpActor, HttpMsg};
use futures::StreamExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;

use crate::support::agent::Agent;
use crate::support::nodes::DEADLINE;

/// Starts an API and tells how it ends.
struct Parent;

impl Actor for Parent {
    type Msg = ();
    type State = mpsc::Sender<String>;
    type Arguments = mpsc::Sender<String>;

    async fn pre_start(&self, _: ActorRef<()>, told: Self::State) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, why) = event {
            told.send(why.to_string()).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn the_end_of_the_server_is_a_failure_and_a_restart_keeps_the_port() {
    let agent = Agent::start().await;
    agent.actor.stop_and_wait(None, Some(DEADLINE)).await.unwrap();
    let (told, mut failures) = mpsc::channel(4);
    let (parent, _) = Actor::spawn(None, Parent, told).await.unwrap();
    for _ in 0..3 {
        let (actor, join) =
            Actor::spawn_linked(None, HttpActor, agent.args.clone(), parent.get_cell()).await.unwrap();
        assert_eq!(agent.get("/healthz").send().await.unwrap().status(), 200);
        actor.cast(HttpMsg::ServerEnded("out of luck".into())).unwrap();
        let why = tokio::time::timeout(DEADLINE, failures.recv()).await.unwrap().unwrap();
        assert_eq!(why, "out of luck");
        join.await.unwrap();
    }
}

#[tokio::test]
async fn requests_made_between_two_incarnations_wait_for_the_next() {
    let agent = Agent::start().await;
    agent.actor.kill();
    agent.join.await.unwrap();
    let client = agent.client.clone();
    let url = format!("http://{}/healthz", agent.addr);
    let early = tokio::spawn(async move { client.get(url).send().await.map(|answer| answer.status()) });
    let (_actor, _join) = Actor::spawn(None, HttpActor, agent.args.clone()).await.unwrap();
    assert_eq!(tokio::time::timeout(DEADLINE, early).await.unwrap().unwrap().unwrap(), 200);
}

#[tokio::test]
async fn a_killed_actor_takes_its_connections_along() {
    let agent = Agent::start().await;
    let mut stream = agent.get("/events").send().await.unwrap().bytes_stream();
    stream.next().await.unwrap().unwrap();
    agent.actor.kill();
    let ended = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("the stream ends with the actor");
}

#[tokio::test]
async fn stopping_ends_event_streams_at_once() {
    let agent = Agent::start().await;
    let mut stream = agent.get("/events").send().await.unwrap().bytes_stream();
    stream.next().await.unwrap().unwrap();
    agent.actor.stop_and_wait(None, Some(DEADLINE)).await.expect("it stops with a stream open");
    let ended = async {
        while let Some(chunk) = stream.next().await {
            chunk.expect("a clean end");
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("the stream ends");
    let error = agent.get("/healthz").timeout(Duration::from_millis(200)).send().await.unwrap_err();
    assert!(error.is_timeout() || error.is_connect(), "{error:?}");
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_client_that_never_finishes() {
    let agent = Agent::start().await;
    let (chunks, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(body));
    let upload = agent
        .client
        .post(agent.url("/store/ingest"))
        .header("Content-Type", "multipart/form-data; boundary=x")
        .body(body);
    let upload = tokio::spawn(upload.send());
    let part = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n\r\nbegun";
    chunks.send(Ok(Bytes::from_static(part.as_bytes()))).await.unwrap();
    // Taken by the agent's side once there is room for another.
    chunks.send(Ok(Bytes::from_static(b"and"))).await.unwrap();
    chunks.send(Ok(Bytes::from_static(b"so on"))).await.unwrap();
    let within = DRAIN_LIMIT + DEADLINE;
    agent.actor.stop_and_wait(None, Some(within)).await.expect("it stops within its limit");
    let answer = tokio::time::timeout(DEADLINE, upload).await.unwrap().unwrap();
    assert!(answer.is_err() || !answer.unwrap().status().is_success());
}

#[tokio::test]
async fn it_says_where_it_serves() {
    let agent = Agent::start().await;
    let mut stream = agent.get("/events").send().await.unwrap().bytes_stream();
    stream.next().await.unwrap().unwrap();
    let status = ractor::call_t!(agent.actor, |reply| HttpMsg::GetHealth { reply }, 5_000).unwrap();
    assert_eq!(status.detail, Some(format!("http://{}, event streams: 1", agent.addr)));
}
