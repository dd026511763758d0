//! The embedded store's HTTP server as a child of its own: its end is a failure, and its port outlives it.

use crate::support::nodes::DEADLINE;
use can_sync::testing::actor::status::ask;
use can_sync::testing::clock::Clock;
use can_sync::testing::http::SharedListener;
use can_sync::testing::store::embedded::{EmbeddedConfig, EmbeddedStore};
use can_sync::testing::store::server::{StoreServerActor, StoreServerArgs, StoreServerMsg};
use can_sync::testing::store::service::{BASE_PATH, ServiceSettings, router};
use ractor::Actor;
use tokio::time::timeout;

#[tokio::test]
async fn its_end_is_a_failure_and_the_next_incarnation_has_its_port() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        EmbeddedConfig { dir: dir.path().join("store"), disk_reserve_bytes: 0, clock: Clock::system() };
    let store = EmbeddedStore::open(config).await.unwrap();
    let listener = SharedListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = listener.local_addr().unwrap();
    let args = StoreServerArgs { listener, router: router(store, ServiceSettings::new("key".into(), addr)) };
    let url = format!("http://{addr}{BASE_PATH}/status");
    // No connection to an incarnation that has ended is used again.
    let client =
        reqwest::Client::builder().no_proxy().timeout(DEADLINE).pool_max_idle_per_host(0).build().unwrap();

    for _ in 0..2 {
        let (actor, ended) = Actor::spawn(None, StoreServerActor, args.clone()).await.unwrap();
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
        let health = ask(&actor, |reply| StoreServerMsg::GetHealth { reply }, DEADLINE).await.unwrap();
        assert_eq!(health.detail, Some(format!("http://{addr}")));
        actor.cast(StoreServerMsg::ServerEnded("out of luck".into())).unwrap();
        timeout(DEADLINE, ended).await.expect("it ends").unwrap();
    }

    // Asked between two incarnations: the next one answers.
    let early = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move { client.get(url).send().await.map(|answer| answer.status().as_u16()) }
    });
    let (actor, ended) = Actor::spawn(None, StoreServerActor, args).await.unwrap();
    assert_eq!(early.await.unwrap().unwrap(), 200);
    actor.stop(None);
    timeout(DEADLINE, ended).await.expect("it stops in order").unwrap();
}
