//! Starts that cannot work: one sentence with the next step, exit code 1, nothing changed.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::command::User;
use crate::support::daemon::{Daemon, embedded_yaml, listing, yaml};

/// A start with this configuration fails, says all of `expected`, and leaves everything as it was.
fn refused(user: &User, config: &str, expected: &[&str]) {
    user.write("config.yaml", config);
    refused_as_it_is(user, expected);
}

fn refused_as_it_is(user: &User, expected: &[&str]) {
    // What a running node's readers write into shared memory is not on the disk.
    let still = || {
        let mut listing = listing(user.home());
        listing.retain(|line| !line.contains("-shm "));
        listing
    };
    // A node that runs there may bring home what it wrote a moment ago; one that is refused would change something each time.
    let mut tries = 0;
    let ran = loop {
        let before = still();
        let ran = user.run(&["serve"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert_eq!(ran.text(), "");
        tries += 1;
        let after = still();
        if after == before {
            break ran;
        }
        assert!(tries < 5, "{before:?}\n{after:?}");
    };
    let complaints: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("can-sync: ")).collect();
    assert_eq!(complaints.len(), 1, "{}", ran.stderr);
    assert!(ran.stderr.trim_end().ends_with(complaints[0]), "nothing after it: {}", ran.stderr);
    for part in expected {
        assert!(complaints[0].contains(part), "'{part}' in: {}", complaints[0]);
    }
}

fn secret(user: &User, name: &str, text: &str, mode: u32) {
    let name = format!("data/{name}");
    user.write(&name, text);
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    set(&user.home().join(name), mode).expect("chmod");
    set(&user.home().join("data"), 0o700).expect("chmod");
}

#[test]
fn an_address_in_use_is_named_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let replaced = |setting: &str| {
        embedded_yaml("").replace(&format!("\n{setting}: 127.0.0.1:0"), &format!("\n{setting}: {addr}"))
    };
    for setting in ["listen_addr", "can_listen_addr"] {
        refused(&User::new(), &replaced(setting), &[&addr, "in use", setting]);
    }
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let config = embedded_yaml("").replace("bind_addr: 127.0.0.1:0", &format!("bind_addr: {addr}"));
    refused(&User::new(), &config, &[&addr, "in use", "bind_addr"]);
}

#[test]
fn a_data_directory_of_another_agent_is_named() {
    let daemon = Daemon::start(&embedded_yaml(""));
    refused_as_it_is(&daemon.user, &["./data", "another agent", "data_dir"]);
}

#[test]
fn a_key_file_that_is_none_is_kept_and_named() {
    let user = User::new();
    secret(&user, "secret.key", "garbage\u{1b}[2J", 0o600);
    refused(&user, &yaml("can_listen_addr: 127.0.0.1:0"), &["secret.key", "does not hold", "restore it"]);
}

#[test]
fn secrets_that_others_can_read_are_not_used() {
    let config = yaml("can_listen_addr: 127.0.0.1:0");
    for name in ["secret.key", "passphrase", "sync_api_key"] {
        let user = User::new();
        secret(&user, name, &"ab".repeat(32), 0o644);
        refused(&user, &config, &[name, "chmod 600"]);
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let user = User::new();
    user.write("file", "");
    for dir in ["./file/data", "/proc/data"] {
        let config = embedded_yaml("").replace("data_dir: ./data", &format!("data_dir: {dir}"));
        refused(&user, &config, &[dir, "check that this user"]);
    }
    if !rustix::process::geteuid().is_root() {
        std::fs::create_dir(user.home().join("data")).unwrap();
        let mode = PermissionsExt::from_mode(0o500);
        std::fs::set_permissions(user.home().join("data"), mode).unwrap();
        refused(&user, &embedded_yaml(""), &["./data", "check that this user"]);
    }
}

#[test]
fn a_weak_passphrase_is_refused_before_anything_is_made() {
    let weak = |text: &str| yaml(&format!("can_listen_addr: 127.0.0.1:0\nsync_passphrase: {text}"));
    refused(&User::new(), &weak("hunter2"), &["sync_passphrase", "too weak", "allow_weak_passphrase"]);
    refused(&User::new(), &weak("' '"), &["config.yaml:2", "sync_passphrase", "nothing"]);
    let user = User::new();
    user.write("words", "hunter2\n");
    std::fs::set_permissions(user.home().join("words"), PermissionsExt::from_mode(0o600)).unwrap();
    let config = yaml("can_listen_addr: 127.0.0.1:0\nsync_passphrase_file: words");
    refused(&user, &config, &["sync_passphrase_file", "too weak"]);
    let config = yaml("can_listen_addr: 127.0.0.1:0\nsync_passphrase_file: nothing");
    refused(&user, &config, &["nothing", "check that"]);
}

#[test]
fn an_external_service_without_its_key_is_refused() {
    let external = "can_service_url: http://127.0.0.1:9";
    refused(&User::new(), &yaml(external), &["sync_api_key", "can-service keeps"]);
    let config = yaml(&format!("{external}\nsync_api_key_file: nothing"));
    refused(&User::new(), &config, &["nothing", "No such file"]);
}

#[test]
fn mistakes_in_the_configuration_have_their_key_and_line() {
    // What is found only by reading files must not stumble over a node on the default ports.
    let ports = "listen_addr: 127.0.0.1:0\ncan_listen_addr: 127.0.0.1:0";
    let no_token = format!("api_token_file: nothing\n{ports}");
    let no_peer = format!("discovery: {{ bootstrap: [nobody] }}\n{ports}");
    for (mistake, expected) in [
        ("nonsense: 1", &["config.yaml:1", "nonsense"][..]),
        ("poll_interval_secs: soon", &["config.yaml:1", "poll_interval_secs"]),
        ("limits: { max_connections: -1 }", &["config.yaml:1", "max_connections"]),
        ("name: [", &["config.yaml:1", "name"]),
        ("listen_addr: 0.0.0.0:3213", &["config.yaml:1", "listen_addr", "api_token_file"]),
        (no_token.as_str(), &["api_token_file", "nothing", "exist"]),
        (no_peer.as_str(), &["discovery.bootstrap", "nobody", "ticket"]),
    ] {
        refused(&User::new(), mistake, expected);
    }
}

#[test]
fn a_passphrase_that_nobody_saw_is_not_kept() {
    let user = User::new();
    let config = yaml("can_listen_addr: 127.0.0.1:0\nticket_file: nowhere/ticket");
    user.write("config.yaml", &config);
    let ran = user.run(&["serve"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("nowhere/ticket"), "{}", ran.stderr);
    user.write("config.yaml", config.replace("nowhere/", ""));
    let mut running = user.follow(&["serve"]);
    while !running.line().contains("CAN_SYNC_SYNC_PASSPHRASE=") {}
}
