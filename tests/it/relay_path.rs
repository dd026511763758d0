//! Two machines that cannot reach each other directly, and an iroh relay that both reach.

use iroh_relay::server::{RelayConfig, Server, ServerConfig};

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::netns::Isolated;
use crate::support::nodes::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn agents_in_separate_networks_sync_through_the_relay() {
    let Some(networks) = Isolated::new() else { return };
    let mut config = ServerConfig::default();
    config.relay = Some(RelayConfig::new((networks.server(), 0)));
    let relay = Server::spawn(config).await.unwrap();
    let relay_url = format!("http://{}", relay.http_addr().unwrap());

    let [here, there] = networks.names();
    let yaml = |name: &str| {
        embedded_yaml(&format!("name: {name}"))
            .replace("relay_url: disabled", &format!("relay_url: {relay_url}"))
            .replace("bind_addr: 127.0.0.1:0", "bind_addr: 0.0.0.0:0")
    };
    let start = |name: &str, network: &str| {
        let user = User::within(network);
        user.write("config.yaml", yaml(name));
        Daemon::start_as(user)
    };
    let (a, b) = (start("attic", here), start("cellar", there));
    a.user.write("note.txt", "a note about otters\n");
    b.user.write("pixels.bin", vec![7; 300_000]);
    let note = a.ok(&["put", "note.txt", "--json"]).json()[0]["hash"].as_str().unwrap().to_owned();
    let pixels = b.ok(&["put", "pixels.bin", "--json"]).json()[0]["hash"].as_str().unwrap().to_owned();

    // A ticket with the relay's URL, once the relay has been reached.
    let ticket = eventually("a ticket that names the relay", async || {
        let ticket = a.ok(&["id", "--ticket"]).text().trim().to_owned();
        let addr = ticket.parse::<iroh_tickets::endpoint::EndpointTicket>().unwrap();
        let named = addr.endpoint_addr().relay_urls().next().is_some();
        named.then_some(ticket).ok_or_else(|| "no relay yet".to_owned())
    })
    .await;
    b.ok(&["peers", "add", &ticket]);
    eventually("connected through the relay", async || {
        let peers = b.ok(&["peers", "list", "--json"]).json();
        let path = peers.iter().find(|peer| peer["endpoint_id"] == a.id()).map(|peer| peer["path"].clone());
        (path == Some("relay".into())).then_some(()).ok_or_else(|| format!("{peers:?}"))
    })
    .await;
    b.ok(&["wait", "--in-sync"]);
    assert_eq!(b.ok(&["get", &note]).stdout, b"a note about otters\n");
    assert_eq!(a.ok(&["get", &pixels]).stdout, vec![7; 300_000]);
}
