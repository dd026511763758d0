//! Addresses that a node listens on: which families, and what is said of those that are taken or open to others.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml};

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A configuration with other addresses.
fn with(addresses: &[(&str, &str)]) -> String {
    addresses.iter().fold(embedded_yaml(""), |yaml, (setting, addr)| {
        let line = format!("\n{setting}: 127.0.0.1:0\n");
        assert!(yaml.contains(&line), "{yaml}");
        yaml.replace(&line, &format!("\n{setting}: \"{addr}\"\n"))
    })
}

/// The UDP ports that a process's family of addresses has open, of those on every interface.
fn udp_ports(family: &str) -> Vec<u16> {
    let table = std::fs::read_to_string(format!("/proc/net/{family}")).expect("the system's table");
    let local = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    let open = local.filter_map(|local| local.rsplit_once(':'));
    open.filter(|(ip, _)| ip.bytes().all(|b| b == b'0'))
        .map(|(_, port)| u16::from_str_radix(port, 16).expect("a port"))
        .collect()
}

/// A port that is free now, in both families.
fn free_udp_port() -> u16 {
    let both = || {
        let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        let port = v4.local_addr().ok()?.port();
        drop(v4);
        (!udp_ports("udp6").contains(&port)).then_some(port)
    };
    std::iter::repeat_with(both).take(50).flatten().next().expect("a free port")
}

#[tokio::test]
async fn no_interface_means_both_families_on_the_port_that_was_asked_for() {
    if !has_ipv6() {
        eprintln!("no IPv6 here");
        return;
    }
    for any in ["0.0.0.0", "[::]"] {
        let port = free_udp_port();
        let daemon = Daemon::start(&with(&[("bind_addr", &format!("{any}:{port}"))]));
        for family in ["udp", "udp6"] {
            assert!(udp_ports(family).contains(&port), "{any}: {family} at {port}");
        }
        drop(daemon);
    }
    // Left open, it is one port, too, and the same after a restart.
    let daemon = Daemon::start(&with(&[("bind_addr", "0.0.0.0:0")]));
    let both = || {
        let six = udp_ports("udp6");
        udp_ports("udp").into_iter().filter(|port| six.contains(port)).collect::<Vec<_>>()
    };
    let first = both();
    assert!(!first.is_empty());
    let _daemon = daemon.restart();
    assert!(both().iter().any(|port| first.contains(port)), "{first:?}, then {:?}", both());
}

#[test]
fn a_port_that_is_taken_in_either_family_is_named_by_check_and_start() {
    let v4 = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut taken = vec![(v4.local_addr().unwrap(), "IPv4")];
    let v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0));
    if let Ok(v6) = &v6 {
        taken.push((v6.local_addr().unwrap(), "IPv6"));
    }
    for (addr, family) in &taken {
        let port = addr.port();
        for any in ["0.0.0.0", "[::]"].into_iter().take(taken.len()) {
            let user = User::new();
            user.write("config.yaml", with(&[("bind_addr", &format!("{any}:{port}"))]));
            for args in [&["config", "check"][..], &["serve"]] {
                let ran = user.run(args);
                assert_eq!(ran.code, 1, "{any}:{port}");
                for part in ["bind_addr", "in use", family, &port.to_string()] {
                    assert!(ran.stderr.contains(part), "'{part}' in {}", ran.stderr);
                }
            }
        }
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for any in ["0.0.0.0", "[::]"].into_iter().take(taken.len()) {
        let user = User::new();
        user.write("config.yaml", with(&[("can_listen_addr", &format!("{any}:{port}"))]));
        let ran = user.run(&["config", "check"]);
        let expected = format!("0.0.0.0:{port} is in use");
        assert!(ran.code == 1 && ran.stderr.contains(&expected), "{any}: {}", ran.stderr);
        assert!(ran.stderr.contains("can_listen_addr"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn every_interface_of_ipv6_is_every_interface_of_ipv4_too() {
    if !has_ipv6() {
        eprintln!("no IPv6 here");
        return;
    }
    let user = User::new();
    user.write("token", "a token");
    std::fs::set_permissions(user.home().join("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = with(&[("listen_addr", "[::]:0"), ("can_listen_addr", "[::]:0")]);
    user.write("config.yaml", format!("api_token_file: token\n{config}"));
    let daemon = Daemon::start_as(user);
    for url in [daemon.url("/healthz"), daemon.store_url("/status")] {
        let url = reqwest::Url::parse(&url).unwrap();
        let (port, path) = (url.port().unwrap(), url.path());
        for ip in ["127.0.0.1", "[::1]"] {
            let answer = daemon.http.get(format!("http://{ip}:{port}{path}")).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{ip}:{port}{path}");
        }
    }
}

#[tokio::test]
async fn a_store_that_others_reach_is_warned_about_and_can_ask_for_a_token() {
    let open = User::new();
    open.write("config.yaml", with(&[("can_listen_addr", "0.0.0.0:0")]));
    let said = open.run(&["config", "check"]);
    let warned = |text: &str| text.contains("can_listen_addr") && text.contains("can_token_file");
    assert!(said.code == 0 && warned(&said.stderr), "{}", said.stderr);
    let daemon = Daemon::start_as(open);
    daemon.hear("can_token_file");
    assert!(warned(&daemon.stderr()), "{}", daemon.stderr());
    assert!(!warned(&Daemon::start(&embedded_yaml("")).stderr()));

    let guarded = User::new();
    guarded.write("token", "\u{feff}a token of the store\r\n");
    std::fs::set_permissions(guarded.home().join("token"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = with(&[("can_listen_addr", "0.0.0.0:0")]);
    guarded.write("config.yaml", format!("can_token_file: token\n{config}"));
    let daemon = Daemon::start_as(guarded);
    assert!(!warned(&daemon.stderr()), "{}", daemon.stderr());
    let port = daemon.store_url("").rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
    let base = format!("http://127.0.0.1:{port}/api/v1/can/0");
    let status = async |path: &str, header: Option<(&str, &str)>| {
        let mut request = daemon.http.get(format!("{base}{path}"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        request.send().await.unwrap().status().as_u16()
    };
    let key = std::fs::read_to_string(daemon.data_dir().join("sync_api_key")).unwrap();
    for path in ["/list", "/status", "/search?q=x", "/events", "/openapi.json"] {
        for wrong in [
            None,
            Some(("authorization", "Bearer ")),
            Some(("authorization", "Bearer another")),
            Some(("x-sync-key", "another")),
        ] {
            assert_eq!(status(path, wrong).await, 401, "{path} with {wrong:?}");
        }
        assert_eq!(status(path, Some(("authorization", "Bearer a token of the store"))).await, 200, "{path}");
        assert_eq!(status(path, Some(("x-sync-key", key.trim()))).await, 200, "{path}");
    }
    assert_eq!(status("/sync/feed", Some(("authorization", "Bearer a token of the store"))).await, 401);
    // The node's own page and commands need nothing more.
    daemon.user.write("note.txt", "a note");
    let put = daemon.user.run(&["put", "note.txt"]);
    assert_eq!(put.code, 0, "{}", put.stderr);
    assert_eq!(daemon.get("/store/list").await["assets"][0]["filename"], json!("note.txt"));
}

#[test]
fn addresses_are_compared_before_anything_is_opened() {
    let user = User::new();
    let same = SocketAddr::from(([127, 0, 0, 1], 39_871)).to_string();
    user.write("config.yaml", with(&[("listen_addr", &same), ("can_listen_addr", &same)]));
    let ran = user.run(&["serve"]);
    assert!(ran.code == 1 && ran.stderr.contains("can_listen_addr"), "{}", ran.stderr);
}
