//! thin slice
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use can_sync::actor::ServiceCell;
use can_sync::identity::NetworkKeys;
use can_sync::library::Library;
use can_sync::node::{endpoint, events::EventLog};
use can_sync::peer::address_book::AddressBook;
use can_sync::peer::effects::DeleteGuard;
use can_sync::peer::establish::Introduction;
use can_sync::peer::messages::PeersMsg;
use can_sync::peer::report::SyncState;
use can_sync::peer::supervisor::{PeersActor, PeersArgs, spawn_peer};
use can_sync::store::embedded::{EmbeddedConfig, EmbeddedStore, IngestFields, ListQuery};
use can_sync::store::feed::{CanServiceActor, CanServiceArgs};
use can_sync::transfer::schedule::Limits;
use iroh::{RelayMode, SecretKey};
use ractor::Actor;

struct Mini {
    _dir: tempfile::TempDir,
    store: EmbeddedStore,
    peers: can_sync::actor::ServiceRef<PeersMsg>,
    ticket: tokio::sync::watch::Receiver<String>,
    _cell: Arc<ServiceCell<PeersMsg>>,
}

async fn mini(passphrase: &str) -> Mini {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(EmbeddedConfig { dir: dir.path().join("store"), disk_reserve_bytes: 0 })
        .await
        .unwrap();
    let endpoint =
        endpoint::bind(SecretKey::generate(), "127.0.0.1:0".parse().unwrap(), RelayMode::Disabled, 32)
            .await
            .unwrap();
    let (ticket, task) = endpoint::follow_ticket(&endpoint);
    tokio::spawn(task);
    let library = Arc::new(Library::new(NetworkKeys::derive(&passphrase.into()).mirror().clone()));
    let cell = Arc::new(ServiceCell::new("PeersActor"));
    let partial_dir = dir.path().join("partial");
    std::fs::create_dir_all(&partial_dir).unwrap();
    let args = PeersArgs {
        endpoint,
        introduction: Introduction { name: "mini".into(), ticket: ticket.clone() },
        library: library.clone(),
        store: Arc::new(store.clone()),
        partial_dir,
        book: AddressBook::open(&dir.path().join("agent.db")).unwrap(),
        connect_ticket_file: None,
        deletes: Arc::new(DeleteGuard::new(false)),
        max_connections: 64,
        max_dialled: 16,
        in_flight: Limits { node_bytes: 64 << 20, peer_bytes: 8 << 20 },
        verify_interval: Duration::from_secs(300),
        events: EventLog::default(),
        spawn_peer: spawn_peer(),
        myself: cell.service_ref(),
    };
    let (actor, _) = Actor::spawn(None, PeersActor, args).await.unwrap();
    cell.set(Some(actor));
    let (_can, _) = Actor::spawn(
        None,
        CanServiceActor,
        CanServiceArgs {
            store: Arc::new(store.clone()),
            library,
            peers: cell.service_ref(),
            poll_interval: Duration::from_secs(3),
            full_scan_interval: Duration::from_secs(300),
        },
    )
    .await
    .unwrap();
    Mini { _dir: dir, store, peers: cell.service_ref(), ticket, _cell: cell }
}

async fn put(store: &EmbeddedStore, content: Vec<u8>) {
    let mut up = store.begin_upload();
    for c in content.chunks(100_000) {
        up.write(Bytes::copy_from_slice(c)).await.unwrap();
    }
    up.finish(IngestFields { tags: vec!["x".into()], ..IngestFields::default() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_mirror() {
    let _ =
        tracing_subscriber::fmt().with_env_filter("can_sync=debug").with_writer(std::io::stderr).try_init();
    let a = mini("a passphrase of many words").await;
    let b = mini("a passphrase of many words").await;
    for i in 0..2000u32 {
        put(&a.store, i.to_le_bytes().repeat(50)).await;
        if i % 2 == 0 {
            put(&b.store, (i + 1_000_000).to_le_bytes().repeat(500)).await;
        }
    }
    put(&a.store, vec![7; 30_000_000]).await;
    let t = std::time::Instant::now();
    let ticket: iroh_tickets::endpoint::EndpointTicket = a.ticket.borrow().parse().unwrap();
    b.peers
        .call(
            |reply| PeersMsg::DialPeer { addr: ticket.endpoint_addr().clone(), reply },
            Duration::from_secs(1),
        )
        .await
        .unwrap()
        .unwrap();
    loop {
        let report =
            b.peers.call(|reply| PeersMsg::GetReport { reply }, Duration::from_secs(1)).await.unwrap();
        let n = b.store.list(ListQuery::default()).await.unwrap().total;
        let m = a.store.list(ListQuery::default()).await.unwrap().total;
        if report.sync.state == SyncState::InSync && n == 3001 && m == 3001 {
            println!("{:?}", report);
            break;
        }
        assert!(t.elapsed() < Duration::from_secs(30), "{report:?} {n} {m}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("took {:?}", t.elapsed());
    // live
    let t = std::time::Instant::now();
    put(&a.store, vec![9; 64_000]).await;
    let acked = t.elapsed();
    while b.store.list(ListQuery::default()).await.unwrap().total < 3002 {
        assert!(t.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("live {:?} of {:?}", t.elapsed() - acked, t.elapsed());
}
