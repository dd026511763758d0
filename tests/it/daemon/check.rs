//! `config check`: everything that a start would refuse, at once, with its setting.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml, listing};
use crate::support::service::{ServiceProcess, command};

fn said(user: &User, env: &[(&str, &str)]) -> Vec<Value> {
    let ran = user.run_with(&["config", "check", "--json"], env, b"");
    assert_eq!(ran.code, 1, "{} {}", ran.text(), ran.stderr);
    let answer = ran.json()[0].clone();
    assert_eq!(answer["ok"], json!(false));
    answer["problems"].as_array().expect("problems").clone()
}

fn settings(problems: &[Value]) -> Vec<&str> {
    let mut settings: Vec<&str> =
        problems.iter().map(|problem| problem["setting"].as_str().expect("a setting")).collect();
    settings.sort_unstable();
    settings
}

#[test]
fn mistakes_of_every_kind_are_found_in_one_look() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let user = User::new();
    user.write("file", "");
    user.write(
        "config.yaml",
        format!(
            "poll_interval_secs: soon\nnam: desk\nlisten_addr: {addr}\ncan_listen_addr: 127.0.0.1:0\nbind_addr: 192.0.2.1:0\n\
             sync_passphrase: hunter2\nticket_file: nowhere/ticket\nallowed_hosts: ['*.lan', 'https://nas', ok.lan]\n\
             relay_url: [a, b]\n\
             discovery: {{ mdns: perhaps, dht: no, bootstrap: [nobody], dht_bootstrap: [router] }}\n\
             limits:\n  max_dialled: 99\n  in_flight_bytes: lots\n  in_flight_per_peer_bytes: 1\n"
        ),
    );
    let before = listing(user.home());
    let env = [("CAN_SYNC_API_TOKEN_FILE", "no-token"), ("CAN_SYNC_LIMITS_MAX_STREAMS_PER_CONNECTION", "-1")];
    let problems = said(&user, &env);
    let expected = [
        "allowed_hosts",
        "allowed_hosts",
        "api_token_file",
        "bind_addr",
        "discovery.bootstrap",
        "discovery.dht",
        "discovery.dht_bootstrap",
        "discovery.mdns",
        "limits.in_flight_bytes",
        "limits.in_flight_per_peer_bytes",
        "limits.max_dialled",
        "limits.max_streams_per_connection",
        "listen_addr",
        "nam",
        "poll_interval_secs",
        "relay_url",
        "sync_passphrase",
        "ticket_file",
    ];
    assert_eq!(settings(&problems), expected, "{problems:#?}");
    // The same in words, each on a line, with its place; and from a start.
    for args in [&["config", "check"][..], &["serve"]] {
        let ran = user.run_with(args, &env, b"");
        assert_eq!((ran.code, ran.text()), (1, ""), "{}", ran.stderr);
        let lines = ran.stderr.lines().filter(|line| line.starts_with("can-sync: ")).count();
        assert_eq!(lines, expected.len(), "{}", ran.stderr);
        for setting in expected {
            assert!(ran.stderr.contains(setting), "{setting}: {}", ran.stderr);
        }
        assert!(ran.stderr.contains("config.yaml:1:21: poll_interval_secs"), "{}", ran.stderr);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
    assert_eq!(listing(user.home()), before);
}

#[test]
fn one_mistake_hides_no_other_and_makes_none_up() {
    for (config, expected) in [
        // A value that is none is not compared with others.
        ("limits: { max_connections: none, max_dialled: 20 }", &["limits.max_connections"][..]),
        ("listen_addr: 0.0.0.0\n", &["listen_addr"]),
        ("data_dir: [a]\nname: ''\n", &["data_dir", "name"]),
        ("name: a\nname: b\nname: c\npoll_interval_secs: 0\n", &["name", "name", "poll_interval_secs"]),
        ("limits: 5\ndiscovery:\n  - a\nname: ''\n", &["discovery", "limits", "name"]),
        (
            "discovery:\n  slots:\n    a: 1\n  mdns: 7\nlimits:\n  idle_probe_secs: [1]\n",
            &["discovery.mdns", "discovery.slots", "limits.idle_probe_secs"],
        ),
        (
            "sync_passphrase: a\nsync_passphrase_file: b\nsync_api_key: c\nsync_api_key_file: d\n",
            &["sync_api_key_file", "sync_passphrase_file"],
        ),
    ] {
        let user = User::new();
        let ports = [
            ("CAN_SYNC_LISTEN_ADDR", "127.0.0.1:0"),
            ("CAN_SYNC_CAN_LISTEN_ADDR", "127.0.0.1:0"),
            ("CAN_SYNC_BIND_ADDR", "127.0.0.1:0"),
        ];
        let own: Vec<_> = ports.into_iter().filter(|(_, _)| !config.contains("listen_addr")).collect();
        user.write("config.yaml", config);
        let problems = said(&user, &own);
        let mut found = settings(&problems);
        // Those are about secrets that the sources name, and true as well.
        found.retain(|setting| !matches!(*setting, "sync_passphrase" | "sync_api_key" | "can_listen_addr"));
        assert_eq!(found, expected, "{config}: {problems:#?}");
    }
}

#[test]
fn what_is_no_yaml_is_one_mistake_with_its_place() {
    for config in ["allowed_hosts: [a\n", "name: \"a\nb: c\n", "name: a\n\tb: c\n", "a: b: c\n"] {
        let user = User::new();
        user.write("config.yaml", config);
        let ran = user.run(&["config", "check"]);
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.starts_with("can-sync: config.yaml:"), "{config:?}: {}", ran.stderr);
    }
}

#[test]
fn a_data_directory_that_cannot_be_is_found_without_making_it() {
    let user = User::new();
    user.write("file", "");
    for dir in ["./file", "./file/data"] {
        user.write("config.yaml", embedded_yaml("").replace("data_dir: ./data", &format!("data_dir: {dir}")));
        let problems = said(&user, &[]);
        assert_eq!(settings(&problems), ["data_dir"], "{problems:#?}");
    }
    user.write("config.yaml", embedded_yaml(""));
    assert_eq!(user.run(&["config", "check"]).code, 0);
    assert!(!user.home().join("data").exists());
}

#[test]
fn what_the_running_node_has_open_is_no_mistake() {
    let mut daemon = Daemon::start(&embedded_yaml(""));
    // Those that it got: one that was free before may be somebody else's by the time that it starts.
    let (api, can) = (daemon.url(""), daemon.store_url(""));
    let addr = |url: &str| url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let config = embedded_yaml("")
        .replace("\nlisten_addr: 127.0.0.1:0", &format!("\nlisten_addr: {}", addr(&api)))
        .replace("can_listen_addr: 127.0.0.1:0", &format!("can_listen_addr: {}", addr(&can)));
    daemon.user.write("config.yaml", config);
    let ran = daemon.user.run(&["config", "check"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    daemon.kill();
    let ran = daemon.user.run(&["config", "check"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let _taken =
        TcpListener::bind(daemon.started["api_url"].as_str().unwrap().trim_start_matches("http://")).unwrap();
    assert_eq!(settings(&said(&daemon.user, &[])), ["listen_addr"]);
}

#[tokio::test]
async fn what_lies_in_the_data_directory_and_cannot_be_opened_is_found_without_a_trace() {
    let mut daemon = Daemon::start(&embedded_yaml(""));
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    let (data, user) = (daemon.data_dir(), daemon.into_user());
    let databases = ["agent.db", "clock.db", "libraries.db", "store/store.db"];
    assert_eq!(user.run(&["config", "check"]).code, 0);
    // A newer version's, each as it was, but for its number.
    let kept: Vec<Vec<u8>> = databases.iter().map(|name| std::fs::read(data.join(name)).unwrap()).collect();
    for name in databases {
        let db = rusqlite::Connection::open(data.join(name)).unwrap();
        db.pragma_update(None, "user_version", 9_999).unwrap();
    }
    let found = |part: &str| {
        let before = listing(user.home());
        let problems = said(&user, &[]);
        assert_eq!(settings(&problems), vec!["data_dir"; databases.len()], "{problems:#?}");
        for name in databases {
            let named = |problem: &&Value| {
                let problem = problem["problem"].as_str().expect("a sentence");
                problem.contains(&format!("data/{name}'")) && problem.contains(part)
            };
            assert!(problems.iter().any(|problem| named(&problem)), "{name}: {problems:#?}");
        }
        let ran = user.run(&["serve"]);
        assert_eq!(
            (ran.code, ran.stderr.matches("can-sync: ").count()),
            (1, databases.len()),
            "{}",
            ran.stderr
        );
        assert_eq!(listing(user.home()), before);
    };
    found("newer version");
    for name in databases {
        std::fs::write(data.join(name), "no database at all, whatever its name says").unwrap();
    }
    found("not a database");
    for (name, bytes) in databases.iter().zip(kept) {
        std::fs::write(data.join(name), bytes).unwrap();
    }
    assert_eq!(user.run(&["config", "check"]).code, 0);
    // A store that a service has open.
    let service = ServiceProcess::spawn(command(&data, "127.0.0.1:0"));
    let problems = said(&user, &[]);
    assert!(
        problems[0]["problem"].as_str().unwrap().contains("another process has it open"),
        "{problems:#?}"
    );
    drop(service);
    std::fs::rename(data.join("store"), data.join("away")).unwrap();
    std::fs::write(data.join("store"), "").unwrap();
    assert_eq!(settings(&said(&user, &[])), ["data_dir"]);
    std::fs::remove_file(data.join("store")).unwrap();
    std::fs::rename(data.join("away"), data.join("store")).unwrap();
    Daemon::start_as(user);
}

/// What a start says of a place for contents, `config check` says as well, and neither makes anything.
#[test]
fn a_place_for_contents_that_cannot_be_used_is_found_without_a_start() {
    let user = User::new();
    user.write("file", "");
    user.write("keys-open", "aws_access_key_id = a\naws_secret_access_key = hunter2\n");
    user.write("keys-garbled", "hunter2\n");
    let set = |name: &str, mode| {
        std::fs::set_permissions(user.home().join(name), std::fs::Permissions::from_mode(mode))
            .expect("chmod");
    };
    set("keys-open", 0o644);
    set("keys-garbled", 0o600);
    for (content, said_of_it) in [
        ("./not/there/deep", "there is no directory"),
        ("./file", "is no directory"),
        ("./data/store", "inside the store's own directory"),
        ("./data/store/bucket", "inside the store's own directory"),
        ("{ url: s3://b/p, credentials_file: ./no-keys }", "'./no-keys' cannot be read"),
        ("{ url: s3://b/p, credentials_file: ./keys-open }", "chmod 600"),
        ("{ url: s3://b/p, credentials_file: ./keys-garbled }", "in line 1"),
        ("{ url: s3://b/p, alone: zz }", "alone is no code"),
        ("{ url: s3://b/p, endpoint: 'https://ann:hunter2@host' }", "keys do not belong into the URL"),
    ] {
        user.write("config.yaml", embedded_yaml(&format!("store: {{ content: {content} }}\n")));
        let before = listing(user.home());
        let problems = said(&user, &[]);
        let setting = if content.contains("endpoint") { "store.content.endpoint" } else { "store.content" };
        assert_eq!(settings(&problems), [setting], "{content}: {problems:#?}");
        assert!(problems[0].to_string().contains(said_of_it), "{content}: {problems:#?}");
        for args in [&["config", "check"][..], &["serve"]] {
            let ran = user.run(args);
            assert_eq!((ran.code, ran.text()), (1, ""), "{content}: {}", ran.stderr);
            assert!(ran.stderr.contains(said_of_it), "{content}: {}", ran.stderr);
            assert!(!ran.stderr.contains("hunter2"), "{content}: {}", ran.stderr);
        }
        assert_eq!(listing(user.home()), before, "{content}");
    }
    for content in ["./bucket", "./data/bucket", "{ url: s3://b/p, alone: 1a2b3c4d }"] {
        user.write("config.yaml", embedded_yaml(&format!("store: {{ content: {content} }}\n")));
        let ran = user.run(&["config", "check"]);
        assert_eq!(ran.code, 0, "{content}: {}", ran.stderr);
    }
    assert!(!user.home().join("bucket").exists());
}
