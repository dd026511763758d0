use super::*;
use crate::identity::NetworkKeys;

fn id(n: u8) -> EndpointId {
    SecretKey::from_bytes(&[n; 32]).public()
}

#[test]
fn each_network_has_a_service_that_dns_allows() {
    let of = |passphrase: &str| Mdns::new(NetworkKeys::derive(&passphrase.into()).mdns());
    let one = of("one passphrase of several words");
    assert_eq!(one.service().len(), 15);
    assert!(one.service().starts_with("cs") && one.service().bytes().all(|b| b.is_ascii_alphanumeric()));
    assert_eq!(one, of("one passphrase of several words"));
    assert_ne!(one, of("another passphrase of several words"));
}

#[test]
fn an_id_fits_into_a_label_and_comes_back() {
    let label = label_of(id(1));
    assert!(label.len() <= 63);
    assert_eq!(id_of(&label), Some(id(1)));
    assert_eq!(id_of(&label.to_ascii_uppercase()), Some(id(1)));
    for garbage in ["", "x", "übermäßig", &label[1..], &format!("{label}aa")] {
        assert_eq!(id_of(garbage), None, "{garbage}");
    }
}

#[test]
fn only_who_knows_the_passphrase_can_answer_for_itself() {
    let mdns = Mdns::new(NetworkKeys::derive(&"one passphrase of several words".into()).mdns());
    let tag = mdns.tag(id(1));
    assert_eq!(mdns.author(&label_of(id(1)), Some(&tag)), Some(id(1)));
    assert_eq!(mdns.author(&label_of(id(2)), Some(&tag)), None, "what was heard of another one");
    assert_eq!(mdns.author(&label_of(id(1)), None), None);
    assert_eq!(mdns.author(&label_of(id(1)), Some(&tag[1..])), None);
    let stranger = Mdns::new(&Key::random());
    assert_eq!(mdns.author(&label_of(id(1)), Some(&stranger.tag(id(1)))), None);
    // The name of the service is all that is heard before.
    assert_ne!(mdns.service(), stranger.service());
}

#[test]
fn only_news_is_told() {
    let mut told = Told::default();
    let now = Instant::now();
    let at = |n: u8, addrs: &[&str]| (id(n), addrs.iter().map(|addr| addr.parse().unwrap()).collect());
    let answer = at(1, &["10.0.0.1:5", "224.0.0.1:5", "0.0.0.0:5", "10.0.0.1:0"]);
    let found = told.news(id(9), &answer, now).unwrap();
    assert_eq!(found, EndpointAddr::new(id(1)).with_ip_addr("10.0.0.1:5".parse().unwrap()));
    assert_eq!(told.news(id(9), &answer, now), None);
    assert!(told.news(id(9), &at(1, &["10.0.0.2:5"]), now).is_some(), "it has moved");
    assert!(told.news(id(9), &at(1, &["10.0.0.2:5"]), now + TELL_AGAIN).is_some(), "it is still there");
    assert_eq!(told.news(id(9), &at(1, &[]), now), None, "it has left");
    assert_eq!(told.news(id(9), &at(9, &["10.0.0.1:5"]), now), None, "ourselves");
    for n in 0..3000_u16 {
        let key = SecretKey::from_bytes(blake3::hash(&n.to_le_bytes()).as_bytes());
        told.news(id(9), &(key.public(), vec!["10.0.0.1:5".parse().unwrap()]), now);
    }
    assert!(told.0.len() <= TOLD_MAX);
}

#[test]
fn a_ticket_is_announced_by_port() {
    let addr = ["10.0.0.1:5", "10.0.0.2:5", "[::1]:6"].map(|addr| addr.parse::<SocketAddr>().unwrap());
    let addr = addr.into_iter().fold(EndpointAddr::new(id(1)), EndpointAddr::with_ip_addr);
    let ports = by_port(&EndpointTicket::new(addr).to_string());
    assert_eq!(ports.into_iter().map(|(port, ips)| (port, ips.len())).collect::<Vec<_>>(), [(5, 2), (6, 1)]);
    assert!(by_port("no ticket").is_empty());
}
