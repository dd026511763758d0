//! How an actor ends, and what its connection does then.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_task_is_the_actors_failure_and_the_next_one_takes_the_connection_over() {
    let scripted = ScriptedStore::new();
    let mut t = Test::start(Setup { store: Some(scripted.as_ref()), ..Setup::default() }).await;
    let mut session = t.open().await;
    t.up(1).await;
    scripted.set_mood(Mood::Panicking);
    let library = session.shared[0].blinded.clone();
    let records = vec![WireRecord::from(&record_of(b"x"))];
    let offer = frame::Kind::Offer(Offer { library, records, ..Offer::default() });
    wire::write_frame(&mut session.send, offer).await.unwrap();
    timeout(DEADLINE, &mut t.ends).await.expect("it fails").unwrap();
    assert!(t.connection.close_reason().is_none(), "the connection outlives it");
    scripted.set_mood(Mood::Well);

    t.again().await;
    let mut session = t.answer().await;
    t.up(2).await;
    t.ping(&mut session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_stop_closes_the_connection_and_the_connections_end_stops_it() {
    let mut t = Test::start(Setup::default()).await;
    t.open().await;
    t.up(1).await;
    t.actor.stop(None);
    assert_closed(&t.connection, close::SHUTDOWN).await;
    t.ends_in_order().await;

    let mut t = Test::start(Setup::default()).await;
    t.open().await;
    t.up(1).await;
    t.connection.close(0_u32.into(), b"bye");
    t.ends_in_order().await;
}
