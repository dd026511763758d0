use clap::Parser;
use iroh::SecretKey;

use super::*;

#[derive(Parser)]
struct PeerLine {
    #[command(flatten)]
    args: PeersCommandArgs,
}

fn parse(line: &str) -> Result<AskArgs, clap::Error> {
    let words = std::iter::once("peers").chain(line.split_whitespace());
    PeerLine::try_parse_from(words).map(|line| line.args.ask)
}

#[test]
fn an_agent_is_an_id_or_a_ticket() {
    let addr = EndpointAddr::new(SecretKey::from_bytes(&[1; 32]).public())
        .with_ip_addr("192.0.2.1:1".parse().unwrap());
    assert_eq!(agent(&EndpointTicket::new(addr.clone()).to_string()), Ok(addr.clone()));
    for text in [addr.id.to_string(), format!("@{}", addr.id), format!(" {} ", addr.id)] {
        assert_eq!(agent(&text), Ok(EndpointAddr::new(addr.id)));
    }
    assert!(agent("elsewhere").is_err() && agent("@").is_err());
}

#[test]
fn what_makes_no_sense_together_is_refused() {
    let id = SecretKey::from_bytes(&[1; 32]).public();
    for line in [
        "--gossip --rpc",
        "--gossip --depth 1",
        &format!("--gossip {id}"),
        "--depth -2",
        "--depth x",
        &format!("--lookup {id} --rpc"),
        "--max-peers 0",
        "--timeout 0",
        "--rpc list",
        "--bootstrap nonsense",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    assert_eq!(parse("--depth -1").unwrap().depth, Some(-1));
    let from = |text: &str| parse(&format!("{text} --depth=3")).unwrap().from;
    assert_eq!(from(&format!("@{id}")), Some(AgentWord::Addr(EndpointAddr::new(id))));
    assert_eq!(from("@laptop"), Some(AgentWord::Name("laptop".into())));
    assert!(parse("@").is_err());
    assert_eq!(parse(&format!("--bootstrap {id},@{id}")).unwrap().bootstrap.len(), 2);
}

#[test]
fn only_limits_leave_the_question_to_the_daemon() {
    assert!(!parse("").unwrap().names_a_way());
    assert!(!parse("--max-peers 5 --timeout 3").unwrap().names_a_way());
    for line in [
        "--gossip",
        "--rpc",
        "--depth 0",
        "--discover",
        "--topic t",
        "--topic-secret s",
        "--no-relay",
        "--no-mdns",
    ] {
        assert!(parse(line).unwrap().names_a_way(), "{line}");
    }
}
