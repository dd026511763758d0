//! What needs no daemon.

use std::io::Read as _;
use std::process::Stdio;

use serde_json::json;

use crate::support::command::User;

/// An address at which nothing listens.
fn nobody() -> String {
    format!("http://{}", crate::support::ports::nobody())
}

#[test]
fn help_lists_what_works_and_nothing_else() {
    let ran = User::new().run(&["--help"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let commands: Vec<&str> = ran
        .text()
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = [
        "serve",
        "demo",
        "status",
        "put",
        "get",
        "fetch",
        "pin",
        "unpin",
        "drop",
        "export",
        "list",
        "search",
        "edit",
        "rm",
        "trash",
        "scrub",
        "backup",
        "restore",
        "deletions",
        "why",
        "wait",
        "events",
        "peers",
        "doctor",
        "repl",
        "folder",
        "library",
        "join",
        "devices",
        "approve",
        "deny",
        "id",
        "config",
        "passphrase",
        "completions",
    ];
    assert_eq!(commands, expected);
    assert!(ran.text().contains("Exit codes: 0 ok, 1 failure"));
    for command in expected {
        let help = User::new().run(&[command, "--help"]);
        assert_eq!((help.code, help.stderr.as_str()), (0, ""), "{command}");
        assert!(help.text().contains("--json"), "{command}: {}", help.text());
    }
    let version = User::new().run(&["--version"]);
    assert_eq!(version.text(), concat!("can-sync ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn what_makes_no_sense_is_usage() {
    let user = User::new();
    user.write("dir/file", "x");
    for (args, expected) in [
        (&["statsu"] as &[&str], "did you mean `can-sync status`?"),
        (&["--wat"], "unexpected argument '--wat'"),
        (&["search", "--hash", "nothash"], "at least 4 hexadecimal digits"),
        (&["get"], "<ASSET>"),
        (&["put"], "<FILE>"),
        (&["put", "dir"], "-r stores what is in it"),
        (&["put", "-", "-"], "there is one stdin"),
        (&["wait"], "--in-sync"),
        (&["search"], "nothing to search for"),
        (&["list", "--limit", "0"], "0 is not in 1.."),
        (&["status", "--api", "localhost:1"], "expected a URL such as"),
        (&["serve", "a.yaml", "--config", "b.yaml"], "two configuration files"),
        (&["serve", "--listen", "nowhere"], "--listen: listen_addr: expected an IP address with a port"),
        (&["--listen", "0.0.0.0:1"], "--listen: listen_addr: 0.0.0.0:1 can be reached from other machines"),
        (&["completions", "tcl"], "possible values"),
        (&["library", "create", " "], "a library needs a name"),
    ] {
        let ran = user.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_daemon_every_command_says_so() {
    let (user, url) = (User::new(), nobody());
    user.write("file", "x");
    let hash = "ab".repeat(32);
    for args in [
        &["status"] as &[&str],
        &["put", "file"],
        &["get", &hash],
        &["fetch", &hash],
        &["list"],
        &["search", "word"],
        &["rm", &hash],
        &["why", &hash],
        &["wait", "--in-sync"],
        &["events"],
        &["peers"],
        &["peers", "add", "ticket"],
        &["id"],
    ] {
        let ran = user.run_with(args, &[("CAN_SYNC_API", &url)], b"");
        assert_eq!(ran.code, 3, "{args:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(&url) && ran.stderr.contains("can-sync serve"),
            "{args:?}: {}",
            ran.stderr
        );
        assert!(ran.stdout.is_empty(), "{args:?}");
    }
    let port = url.rsplit(':').next().expect("a port");
    user.write("config.yaml", format!("listen_addr: 127.0.0.1:{port}\n"));
    let ran = user.run(&["status"]);
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains(&url), "the configured address is asked: {}", ran.stderr);
}

#[test]
fn a_bad_configuration_names_file_line_and_key() {
    let user = User::new();
    user.write("bad.yaml", "name: a\nlisten_adr: 127.0.0.1:1\n");
    for args in [&["bad.yaml"] as &[&str], &["serve", "bad.yaml"], &["config", "check", "bad.yaml"]] {
        let ran = user.run(args);
        assert_eq!(ran.code, 1, "{args:?}");
        let expected = "can-sync: bad.yaml:2:1: unknown key 'listen_adr'; did you mean 'listen_addr'?\n";
        assert_eq!(ran.stderr, expected, "{args:?}");
    }
    let missing = user.run(&["none.yaml"]);
    assert_eq!(
        (missing.code, missing.stderr.as_str()),
        (1, "can-sync: there is no configuration file 'none.yaml'\n")
    );
    assert_eq!(std::fs::read_dir(user.home()).expect("home").count(), 1, "nothing was made");
    let env = user.run_with(&["config", "check"], &[("CAN_SYNC_DISCOVERY_DHT", "perhaps")], b"");
    assert!(
        env.stderr.contains("CAN_SYNC_DISCOVERY_DHT: discovery.dht: expected true or false"),
        "{}",
        env.stderr
    );
}

#[test]
fn the_repositorys_configuration_is_good() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/config.yaml");
    let ran = User::new().run(&["config", "check", own]);
    assert_eq!((ran.code, ran.text()), (0, format!("{own}: ok, 0 set\n").as_str()), "{}", ran.stderr);
}

#[test]
fn config_show_says_where_each_value_comes_from() {
    let user = User::new();
    user.write("config.yaml", "name: desk\nsync_passphrase: very secret words\n");
    let ran = user.run_with(&["config", "show", "--json"], &[("CAN_SYNC_DISCOVERY_MDNS", "false")], b"");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let shown = &ran.json()[0];
    assert_eq!(shown["path"], json!("config.yaml"));
    let settings = &shown["settings"];
    assert_eq!(settings["name"], json!({ "value": "desk", "origin": "config.yaml:1" }));
    assert_eq!(settings["sync_passphrase"], json!({ "value": "(hidden)", "origin": "config.yaml:2" }));
    assert_eq!(settings["discovery.mdns"], json!({ "value": false, "origin": "CAN_SYNC_DISCOVERY_MDNS" }));
    assert_eq!(settings["listen_addr"], json!({ "value": "127.0.0.1:3213", "origin": "default" }));
    let text = user.run(&["config", "show"]);
    assert!(text.text().contains("\nname\tdesk\tconfig.yaml:1\n"), "{}", text.text());
    assert!(!text.text().contains("very secret") && !ran.text().contains("very secret"));
}

#[test]
fn the_users_own_configuration_is_read_where_the_directory_has_none() {
    let user = User::new();
    user.write("xdg/can-sync/config.yaml", "name: mine\n");
    let xdg = user.home().join("xdg").display().to_string();
    let shown = |env: &[(&str, &str)]| {
        let ran = user.run_with(&["config", "show", "--json"], env, b"");
        ran.json()[0]["settings"]["name"]["value"].clone()
    };
    assert_eq!(shown(&[("XDG_CONFIG_HOME", &xdg)]), json!("mine"));
    user.write("config.yaml", "name: here\n");
    assert_eq!(shown(&[("XDG_CONFIG_HOME", &xdg)]), json!("here"));
    user.write("named.yaml", "name: named\n");
    assert_eq!(shown(&[("CAN_SYNC_CONFIG", "named.yaml")]), json!("named"));
}

#[cfg(unix)]
#[test]
fn a_configuration_that_stands_there_by_chance_is_ours_or_not_read() {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    let user = User::new();
    user.write("config.yaml", "name: planted\n");
    let path = user.home().join("config.yaml");
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    let name = |args: &[&str]| {
        let ran = user.run(args);
        (ran.code, ran.stderr.clone(), ran.stdout)
    };
    let is_refused = || {
        for command in [&["config", "show"][..], &["config", "check"], &["status"], &["list"], &["serve"]] {
            let (code, stderr, _) = name(command);
            assert!(
                code != 0 && stderr.contains("name it with --config if you trust it"),
                "{command:?}: {stderr}"
            );
        }
        let (code, stderr, _) = name(&["config", "show", "--config", "config.yaml"]);
        assert_eq!(code, 0, "{stderr}");
    };
    mode(0o666);
    is_refused();
    mode(0o664);
    assert_eq!(name(&["config", "check"]).0, 0, "a group of ours may write");
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(65_534), None).expect("chown");
        is_refused();
    }
}

#[test]
fn a_misspelt_variable_is_warned_about() {
    let ran = User::new().run_with(&["config", "check"], &[("CAN_SYNC_PASSPHRASE", "words")], b"");
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("did you mean CAN_SYNC_SYNC_PASSPHRASE?"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("words"));
}

#[cfg(unix)]
#[test]
fn passphrase_shows_the_one_that_applies() {
    use std::os::unix::fs::PermissionsExt as _;

    let user = User::new();
    let missing = user.run(&["passphrase"]);
    assert_eq!(missing.code, 6);
    assert!(missing.stderr.contains("can-sync serve"), "{}", missing.stderr);

    user.write("can_sync_data/passphrase", "one-two-three\n");
    let path = user.home().join("can_sync_data/passphrase");
    let restrict =
        |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    restrict(0o644);
    let open = user.run(&["passphrase"]);
    assert_eq!(open.code, 1);
    assert!(open.stderr.contains("chmod 600") && !open.stderr.contains("one-two"), "{}", open.stderr);
    restrict(0o600);
    for args in [&["passphrase"] as &[&str], &["passphrase", "show"]] {
        assert_eq!(user.run(args).text(), "one-two-three\n");
    }
    assert_eq!(user.run(&["passphrase", "--json"]).json()[0]["passphrase"], json!("one-two-three"));

    let set = [("CAN_SYNC_SYNC_PASSPHRASE", "other words")];
    assert_eq!(user.run_with(&["passphrase"], &set, b"").text(), "other words\n");
    let rotated = user.run_with(&["passphrase", "rotate"], &set, b"");
    assert_eq!(rotated.code, 1);
    assert!(
        rotated.stderr.contains("CAN_SYNC_SYNC_PASSPHRASE") && rotated.stdout.is_empty(),
        "{}",
        rotated.stderr
    );
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = User::new().run(&["completions", shell]);
        assert_eq!(ran.code, 0, "{shell}");
        assert!(ran.text().contains("can-sync") && ran.text().contains("passphrase"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let user = User::new();
    let mut child = user
        .command(&["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let status = child.wait().expect("it ends");
    let mut stderr = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut stderr).expect("text");
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}
