//! How agents find each other on one machine, and on one cable.

use super::*;

#[tokio::test]
async fn agents_of_one_network_find_each_other_on_this_machine() {
    let of = |keys: &NetworkKeys| Some(Mdns::new(keys.mdns()));
    let one = Agent::start_with("one", yes(), of(&KEYS)).await;
    let other = Agent::start_with("other", yes(), of(&OTHER_KEYS)).await;
    let two = Agent::start_with("two", yes(), of(&KEYS)).await;
    let state = eventually("the local network is tried", || {
        let state = one.channel(Channel::Mdns).state;
        (state != ChannelState::Off).then_some(state)
    })
    .await;
    if state == ChannelState::Down {
        println!("skipped: {:?}", one.channel(Channel::Mdns).last_error);
        return;
    }
    one.sees_agent(&two).await;
    for (agent, id) in [(&one, two.id()), (&two, one.id())] {
        let found = |listing: &AgentListing| listing.id == id && listing.sources.contains(Channel::Mdns);
        agent.sees("each hears the other one's name", found).await;
        let report = agent.channel(Channel::Mdns);
        assert!(report.found == 1 && report.last_success_ms.is_some(), "{report:?}");
    }
    assert_eq!((other.channel(Channel::Mdns).found, other.listings()), (0, vec![]));
}

/// The other half of the next test: run by it in a network of its own.
#[tokio::test]
#[ignore = "a process that another test starts"]
async fn somebody_on_the_local_network() {
    let addr: std::net::SocketAddr = std::env::var("AT").expect("an address").parse().expect("an address");
    let id = SecretKey::generate().public();
    let ticket = EndpointTicket::new(EndpointAddr::new(id).with_ip_addr(addr)).to_string();
    let (_sender, ticket) = watch::channel(ticket);
    let mut peers = Probe::spawn().await;
    let channels = Channels::default();
    let nobody = ServiceCell::new("GossipActor");
    let candidates = told_at_once(peers.service(), nobody.service_ref(), channels.clone());
    let mdns = Mdns::new(KEYS.mdns());
    let watching = tokio::spawn(mdns.watch(id, ticket, candidates, channels.clone()));
    peers.wait_for("somebody else", |seen| !candidates_of(seen).is_empty()).await;
    println!("found {}", peers.look(candidates_of).join(" "));
    // The other one may need a little longer to hear us.
    sleep(Duration::from_secs(5)).await;
    watching.abort();
}

fn candidates_of(seen: &[PeersMsg]) -> Vec<String> {
    candidates(seen, Channel::Mdns)
        .iter()
        .flat_map(|addr| addr.ip_addrs().map(ToString::to_string).collect::<Vec<_>>())
        .collect()
}

/// Two network namespaces with a cable between them, and nothing else: no route to anywhere.
struct Cable([String; 2]);

impl Cable {
    fn lay() -> Result<Self, String> {
        let pid = std::process::id();
        let names = [format!("cs-a-{pid}"), format!("cs-b-{pid}")];
        let cable = Self(names.clone());
        let [a, b] = &names;
        for name in &names {
            ip(&["netns", "add", name])?;
        }
        ip(&["link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b])?;
        for (name, addr) in [(a, "10.77.0.1/24"), (b, "10.77.0.2/24")] {
            ip(&["-n", name, "addr", "add", addr, "dev", "cable"])?;
            ip(&["-n", name, "link", "set", "cable", "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(cable)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = std::process::Command::new("ip").args(args).output().map_err(|e| format!("ip: {e}"))?;
    let failed = || format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    output.status.success().then_some(()).ok_or_else(failed)
}

#[tokio::test]
async fn two_machines_on_one_cable_find_each_other() {
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => {
            println!("skipped, because network namespaces cannot be made here: {why}");
            return;
        }
    };
    let test = std::env::current_exe().expect("the test's own file");
    // Each ends by itself, found or not.
    let children = cable.0.iter().zip(["10.77.0.1:4711", "10.77.0.2:4712"]).map(|(name, at)| {
        let mut child = std::process::Command::new("ip");
        child.args(["netns", "exec", name]).arg(&test);
        child.args([
            "--ignored",
            "--exact",
            "gossip::local_network::somebody_on_the_local_network",
            "--nocapture",
        ]);
        child.env("AT", at);
        tokio::task::spawn_blocking(move || child.output())
    });
    let outputs = timeout(2 * PATIENCE, futures::future::join_all(children)).await.expect("they end");
    for (output, found) in outputs.into_iter().zip(["10.77.0.2:4712", "10.77.0.1:4711"]) {
        let output = output.expect("no panic").expect("it was started");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains(&format!("found {found}")),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
