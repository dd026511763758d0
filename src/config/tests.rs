use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::load::variable_of;
use super::*;

const OWN_FILE: &str = include_str!("../../config.yaml");

/// Loads `yaml` as a file named `test.yaml`, with nothing else.
fn load(yaml: &str) -> Result<Loaded, String> {
    load_with(yaml, &[], &[])
}

fn load_with(
    yaml: &str,
    env: &[(&str, &str)],
    flags: &[(&'static str, &'static str, &str)],
) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.yaml");
    std::fs::write(&path, yaml).unwrap();
    let sources = SettingSources {
        file: Some(path),
        search: Vec::new(),
        is_ours: None,
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        flags: flags
            .iter()
            .map(|(key, flag, text)| FlagValue { key, flag, text: (*text).to_owned() })
            .collect(),
    };
    let prefix = format!("{}/", dir.path().display());
    Config::load(&sources).map_err(|e| e.to_string().replace(&prefix, ""))
}

/// The error that `yaml` gives.
fn error(yaml: &str) -> String {
    load(yaml).expect_err(yaml)
}

fn value(loaded: &Loaded, key: &str) -> serde_json::Value {
    loaded.settings().into_iter().find(|s| s.key == key).expect(key).value
}

/// `config.yaml` with every setting that is commented out put in force.
fn own_file_in_force() -> String {
    let is_setting = |rest: &str| {
        rest.split_once(':').is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let put = |line: &str| match line.split_once('#') {
        Some((indent, rest)) if indent.trim().is_empty() && is_setting(rest) => format!("{indent}{rest}\n"),
        _ => format!("{line}\n"),
    };
    OWN_FILE.lines().map(put).collect()
}

#[test]
fn no_url_may_have_a_password_and_none_is_repeated() {
    for key in ["can_service_url", "relay_url", "discovery.pkarr_relays", "store.content"] {
        for url in [
            "https://ann:secret@host/",
            "https://secret@host",
            "ws://ann:secret@host/",
            "https//ann:secret@host",
            "ann:secret@host",
        ] {
            let yaml = match key.split_once('.') {
                Some((section, key)) => format!("{section}:\n  {key}: '{url}'\n"),
                None => format!("{key}: '{url}'\n"),
            };
            let variable = variable_of(key);
            for refused in [error(&yaml), load_with("", &[(&variable, url)], &[]).expect_err(url)] {
                assert!(refused.contains("belong into the URL"), "{key} {url}: {refused}");
                assert!(!refused.contains("secret"), "{key} {url}: {refused}");
            }
        }
    }
    let loaded = load("relay_url: https://host/a@b\nstore:\n  content: file:///mnt/a@b\n").unwrap();
    assert_eq!(value(&loaded, "store.content")["url"], json!("/mnt/a@b"));
}

#[test]
fn the_repositorys_file_as_it_stands_sets_nothing() {
    let loaded = load(OWN_FILE).unwrap();
    assert!(loaded.origins.is_empty(), "{:?}", loaded.origins);
}

#[test]
fn the_repositorys_file_explains_every_setting_with_its_default() {
    let yaml = own_file_in_force();
    let loaded = load(&yaml).unwrap();
    assert_eq!(loaded.config.list(), Config::default().list());
    let document: serde_json::Value = serde_yaml::from_str(&yaml).unwrap();
    for (key, default) in Config::default().list() {
        let pointer = format!("/{}", key.replace('.', "/"));
        let written =
            document.pointer(&pointer).unwrap_or_else(|| panic!("config.yaml does not mention {key}"));
        let is_null = default.is_null() || key == "name";
        assert_eq!(written.is_null(), is_null, "{key}: {written} stands for {default}");
    }
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    let loaded = Config::load(&SettingSources::default()).unwrap();
    assert_eq!(loaded.path, None);
    assert_eq!(loaded.config.listen_addr.to_string(), "127.0.0.1:3213");
    assert_eq!(loaded.config.poll_interval, Duration::from_secs(3));
    assert_eq!(loaded.config.limits.in_flight_bytes, 67_108_864);
    assert_eq!(loaded.config.limits.disk_reserve_bytes, 1 << 30);
    assert_eq!(loaded.config.discovery.pkarr_relays.len(), pkarr::DEFAULT_RELAYS.len());
    assert_eq!(loaded.config.api_url().as_deref(), Some("http://127.0.0.1:3213"));
    assert!(loaded.settings().iter().all(|s| s.origin == Origin::Default));
}

#[test]
fn flags_win_over_the_environment_over_the_file() {
    let yaml = "name: file\npoll_interval_secs: 7\ndata_dir: /file\n";
    let env = [("CAN_SYNC_NAME", "env"), ("CAN_SYNC_DATA_DIR", "/env"), ("HOME", "/nowhere")];
    let loaded = load_with(yaml, &env, &[("name", "--name", "flag")]).unwrap();
    assert_eq!(loaded.config.name, "flag");
    assert_eq!(loaded.origin("name"), Origin::Flag("--name"));
    assert_eq!(loaded.config.data_dir, Path::new("/env"));
    assert_eq!(loaded.origin("data_dir"), Origin::Env("CAN_SYNC_DATA_DIR".to_owned()));
    assert_eq!(loaded.config.poll_interval, Duration::from_secs(7));
    assert!(loaded.origin("poll_interval_secs").to_string().ends_with("test.yaml:2"));
    assert_eq!(loaded.origin("full_scan_interval_secs"), Origin::Default);
}

#[test]
fn every_setting_can_come_from_the_environment() {
    let loaded = load_with(
        "discovery:\n  dht: false\n",
        &[
            ("CAN_SYNC_DISCOVERY_MDNS", "false"),
            ("CAN_SYNC_DISCOVERY_BOOTSTRAP", "one, two"),
            ("CAN_SYNC_DISCOVERY_PKARR_RELAYS", "http://127.0.0.1:1/,http://127.0.0.1:2/"),
            ("CAN_SYNC_LIMITS_IN_FLIGHT_BYTES", "16 MiB"),
            ("CAN_SYNC_FULL_SCAN_INTERVAL_SECS", "60"),
            ("CAN_SYNC_SYNC_PASSPHRASE", "12345"),
            ("CAN_SYNC_RELAY_URL", ""),
        ],
        &[],
    )
    .unwrap();
    let config = &loaded.config;
    assert!(!config.discovery.mdns && !config.discovery.dht);
    assert_eq!(config.discovery.bootstrap, ["one", "two"]);
    assert_eq!(config.discovery.pkarr_relays[1].as_str(), "http://127.0.0.1:2/");
    assert_eq!(config.limits.in_flight_bytes, 16 << 20);
    assert_eq!(config.full_scan_interval, Duration::from_mins(1));
    assert_eq!(config.sync_passphrase.as_ref().unwrap().expose_secret(), "12345");
    assert_eq!(config.relay_url, RelaySetting::Default);
    assert_eq!(loaded.origin("relay_url"), Origin::Default, "an empty variable is not set");
    let variables: std::collections::BTreeSet<String> =
        Config::default().list().iter().map(|(key, _)| variable_of(key)).collect();
    assert_eq!(variables.len(), Config::default().list().len(), "each key has a variable of its own");
}

#[test]
fn a_variable_that_should_hold_a_secret_and_is_empty_counts() {
    let mut secrets = Vec::new();
    for (key, _) in Config::default().list() {
        let variable = variable_of(&key);
        // Whatever is hidden when it is shown is a secret; what names a file with one is listed beside it.
        let hidden =
            load_with("", &[(&variable, "x")], &[]).is_ok_and(|given| value(&given, &key) == "(hidden)");
        let counts = match load_with("", &[(&variable, "")], &[]) {
            Ok(loaded) => loaded.origin(&key) != Origin::Default,
            Err(error) => error.starts_with(&variable),
        };
        assert!(counts || !hidden, "{key}");
        secrets.extend(counts.then_some(key));
    }
    let mut expected = super::load::SECRETS.map(str::to_owned);
    secrets.sort();
    expected.sort();
    assert_eq!(secrets, expected);
}

#[test]
fn a_misspelt_variable_is_warned_about() {
    let env = [("CAN_SYNC_PASSPHRASE", "x"), ("CAN_SYNC_API", "http://127.0.0.1:1"), ("CAN_SYNCTHING", "y")];
    let loaded = load_with("", &env, &[]).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].contains("CAN_SYNC_PASSPHRASE"));
    assert!(loaded.warnings[0].contains("did you mean CAN_SYNC_SYNC_PASSPHRASE"), "{:?}", loaded.warnings);
}

#[test]
fn bad_variables_and_flags_are_named() {
    let env = load_with("", &[("CAN_SYNC_DISCOVERY_DHT", "maybe")], &[]).unwrap_err();
    assert_eq!(env, "CAN_SYNC_DISCOVERY_DHT: discovery.dht: expected true or false, not 'maybe'");
    let flag = load_with("", &[], &[("listen_addr", "--listen", "here")]).unwrap_err();
    assert!(flag.starts_with("--listen: listen_addr: expected an IP address with a port"), "{flag}");
}

#[test]
fn unknown_keys_are_errors_with_a_place_and_a_suggestion() {
    assert_eq!(
        error("name: a\ndata_dri: /x\n"),
        "test.yaml:2:1: unknown key 'data_dri'; did you mean 'data_dir'?"
    );
    assert_eq!(
        error("discovery:\n  mdns: true\n  dth: false\n"),
        "test.yaml:3:3: unknown key 'discovery.dth'; did you mean 'discovery.dht'?"
    );
    assert_eq!(error("mdns: false\n"), "test.yaml:1:1: unknown key 'mdns'; did you mean 'discovery.mdns'?");
    assert_eq!(
        error("zzzzqqq: 1\n"),
        "test.yaml:1:1: unknown key 'zzzzqqq'; `can-sync config show` lists every key"
    );
    assert_eq!(error("limit: {}\n"), "test.yaml:1:1: unknown key 'limit'; did you mean 'limits'?");
}

#[test]
fn bad_values_are_errors_with_key_line_and_what_is_expected() {
    let cases = [
        ("\nlisten_addr: 3213\n", "test.yaml:2:14: listen_addr: expected an IP address with a port"),
        ("poll_interval_secs: 0\n", "test.yaml:1:21: poll_interval_secs: expected a whole number of seconds"),
        ("full_scan_interval_secs: 86401\n", "(a day), not '86401'"),
        ("can_service_url: ftp://host\n", "test.yaml:1:18: can_service_url: expected the CAN Service's URL"),
        ("relay_url: off\n", "relay_url: expected a relay's URL, 'default' or 'disabled', not 'off'"),
        ("discovery:\n  dht: yes\n", "test.yaml:2:8: discovery.dht: expected true or false, not 'yes'"),
        ("discovery:\n  slots: open\n", "expected 'sealed' or 'compatible'"),
        ("discovery:\n  pkarr_relays:\n  - https://a\n  - b\n", "discovery.pkarr_relays: expected a URL"),
        (
            "limits:\n  in_flight_bytes: lots\n",
            "test.yaml:2:20: limits.in_flight_bytes: expected a number of bytes",
        ),
        ("limits:\n  max_connections: 0\n", "expected a whole number of at least 1, not '0'"),
        ("name: [a]\n", "name: found sequence, where expected is text"),
        ("name: ''\n", "expected text, not nothing"),
        ("discovery: 5\n", "discovery: found integer `5`, where expected is settings"),
        ("- a\n", "where expected is settings, each `key: value`"),
        ("name: a\nname: b\n", "the key 'name' is given twice"),
        ("allowed_hosts: [a\n", "test.yaml:2:1: did not find expected ',' or ']', while"),
        ("name: a\n\tb: c\n", "test.yaml:2:"),
    ];
    for (yaml, expected) in cases {
        let error = error(yaml);
        assert!(error.contains(expected) && error.contains("test.yaml:"), "{yaml:?} gives {error:?}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_errors() {
    let cases = [
        (
            "sync_passphrase: a\nsync_passphrase_file: b\n",
            "test.yaml:2: sync_passphrase_file: sync_passphrase is set",
        ),
        ("sync_api_key: a\nsync_api_key_file: b\n", "test.yaml:2: sync_api_key_file:"),
        ("can_listen_addr: 127.0.0.1:3213\n", "test.yaml:1: can_listen_addr: 127.0.0.1:3213 is taken"),
        ("can_listen_addr: 0.0.0.0:3213\n", "is taken by listen_addr"),
        (
            "listen_addr: 0.0.0.0:3213\n",
            "test.yaml:1: listen_addr: 0.0.0.0:3213 can be reached from other machines",
        ),
        (
            "limits:\n  max_connections: 8\n  max_dialled: 9\n",
            "test.yaml:3: limits.max_dialled: expected at most",
        ),
        (
            "limits:\n  in_flight_bytes: 1 MiB\n  in_flight_per_peer_bytes: 2 MiB\n",
            "test.yaml:3: limits.in_flight_per_peer_bytes: expected at most in_flight_bytes",
        ),
        ("limits:\n  in_flight_bytes: 1\n", "test.yaml:2: limits.in_flight_bytes: expected at least 256 KiB"),
        (
            "listen_addr: 127.0.0.1:3210\n",
            "test.yaml:1: can_listen_addr: 127.0.0.1:3210 is taken by listen_addr",
        ),
        (
            "limits:\n  dial_backoff_max_secs: 1\n  dial_backoff_min_secs: 2\n",
            "test.yaml:3: limits.dial_backoff_min",
        ),
        ("limits:\n  dial_backoff_min_secs: 301\n", "limits.dial_backoff_min_secs"),
        ("limits:\n  upload_bytes_per_sec: 0\n", "limits.upload_bytes_per_sec: expected at least 1 KiB"),
    ];
    for (yaml, expected) in cases {
        let error = error(yaml);
        assert!(error.contains(expected), "{yaml:?} gives {error:?}");
    }
    let long = error(&format!("name: {}\n", "x".repeat(65)));
    assert!(long.contains("at most 64 characters"), "{long}");
    load("listen_addr: 0.0.0.0:1\napi_token_file: /token\n").unwrap();
    load("listen_addr: 127.0.0.1:0\ncan_listen_addr: 127.0.0.1:0\n").expect("port 0 never clashes");
    load("can_service_url: http://h:1\nlisten_addr: 127.0.0.1:3210\n").expect("nothing listens on 3210");
}

#[test]
fn a_default_follows_what_was_said_of_the_whole() {
    let loaded = load("limits:\n  max_connections: 8\n  in_flight_bytes: 1 MiB\n").unwrap();
    let limits = &loaded.config.limits;
    assert_eq!((limits.max_dialled, limits.in_flight_per_peer_bytes), (8, 1 << 20));
    assert_eq!(loaded.origin("limits.max_dialled"), Origin::Default);
    let limits = load("limits:\n  max_connections: 100\n").unwrap().config.limits;
    assert_eq!((limits.max_dialled, limits.in_flight_per_peer_bytes), (16, 8 << 20));
    let env = [("CAN_SYNC_LIMITS_MAX_DIALLED", "9")];
    let error = load_with("limits:\n  max_connections: 8\n", &env, &[]).unwrap_err();
    assert!(
        error.starts_with("CAN_SYNC_LIMITS_MAX_DIALLED: limits.max_dialled: expected at most"),
        "{error}"
    );
    let error = error_lines("limits:\n  in_flight_bytes: 1 KiB\n");
    assert_eq!(error.len(), 1, "{error:?}");
}

/// Each error that `yaml` gives.
fn error_lines(yaml: &str) -> Vec<String> {
    error(yaml).lines().map(str::to_owned).collect()
}

#[test]
fn hosts_are_names_and_addresses() {
    for good in ["nas.lan", "nas.lan:8080", "10.0.0.7", "::1", "[::1]:3210", "xn--bcher-kva.example", "a_b"] {
        assert!(load(&format!("allowed_hosts: ['{good}']\n")).is_ok(), "{good}");
    }
    for bad in
        ["https://nas.lan", "*.nas.lan", "nas.lan/page", "a b", "bücher.example", "nas.lan:port", "a,b"]
    {
        let error = load(&format!("allowed_hosts: [good, '{bad}']\n")).unwrap_err();
        assert!(error.contains("allowed_hosts") && error.contains(&format!("'{bad}'")), "{error}");
    }
}

#[test]
fn what_would_be_taken_for_something_else_is_refused() {
    for (yaml, expected) in [
        (
            "store:\n  quota_bytes: 999999999999 TiB\n",
            "test.yaml:2:16: store.quota_bytes: expected a number of bytes",
        ),
        ("limits:\n  disk_reserve_bytes: 18446744073709551615\n", "below 8 EiB"),
        ("can_service_url: http://h:3210/foo\n", "ends with /api/v1/can/0"),
    ] {
        let error = error(yaml);
        assert!(error.contains(expected), "{yaml}: {error}");
    }
    let behind =
        load("can_service_url: http://h/store/api/v1/can/0\n").unwrap().config.can_service_url.unwrap();
    assert_eq!(behind.as_str(), "http://h/store/api/v1/can/0");
    let nodes = |node: &str| load(&format!("discovery:\n  dht_bootstrap: ['{node}']\n"));
    for good in ["router.example:6881", "1.2.3.4:1", "[::1]:6881"] {
        assert!(nodes(good).is_ok(), "{good}");
    }
    for bad in
        ["u:secret@1.2.3.4:5", "secret@host:5", "a:b:5", "::1:5", "host", "host:0", "[x]:5", "a b:5", ":5"]
    {
        let error = nodes(bad).unwrap_err();
        assert!(error.contains("expected host:port") && !error.contains("secret"), "{bad}: {error}");
    }
}

#[test]
fn what_a_cluster_says_of_its_services_is_no_setting() {
    let env = [
        ("CAN_SYNC_PORT", "tcp://10.0.0.1:3210"),
        ("CAN_SYNC_PORT_3210_TCP_ADDR", "10.0.0.1"),
        ("CAN_SYNC_SERVICE_HOST", "10.0.0.1"),
        ("CAN_SYNC_SERVICE_PORT_HTTP", "3210"),
    ];
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let loaded = Config::load(&SettingSources { env, ..SettingSources::default() }).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
}

#[test]
fn values_are_read_as_they_were_typed() {
    let loaded = load(
        "name: 007\nsync_passphrase: 1e3\ncan_service_url: https://host:1/\nrelay_url: disabled\nticket_file: null\n\
         allowed_hosts: [a.example, 'b.example:8080']\nlimits:\n  upload_bytes_per_sec: 1 MB\n  max_dialled: 3\ndiscovery:\n",
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.name, "007");
    assert_eq!(config.sync_passphrase.as_ref().unwrap().expose_secret(), "1e3");
    assert_eq!(config.can_service_url.as_ref().unwrap().as_str(), "https://host:1/api/v1/can/0");
    assert_eq!(config.relay_url, RelaySetting::Disabled);
    assert_eq!(config.allowed_hosts, ["a.example", "b.example:8080"]);
    assert_eq!(config.limits.upload_bytes_per_sec, Some(1_000_000));
    assert_eq!(config.limits.max_dialled, 3);
    assert_eq!(config.ticket_file, None);
    let full = load("can_service_url: http://h:1/api/v1/can/0/\n").unwrap();
    assert_eq!(full.config.can_service_url.unwrap().as_str(), "http://h:1/api/v1/can/0");
}

#[test]
fn limits_are_numbers_for_metrics() {
    let numbers = load("limits:\n  max_dialled: 3\n").unwrap().config.limits.numbers();
    assert!(numbers.contains(&("max_dialled", 3)) && numbers.contains(&("handshake_timeout_secs", 5)));
    let unset = ["upload_bytes_per_sec", "download_bytes_per_sec"];
    assert!(numbers.iter().all(|(key, _)| !unset.contains(key)), "{numbers:?}");
    let all = Config::default().list().iter().filter(|(key, _)| key.starts_with("limits.")).count();
    assert_eq!(numbers.len(), all - unset.len());
}

#[test]
fn secrets_show_nowhere() {
    let yaml =
        "sync_passphrase: hunter-two\nsync_api_key: key-three\ndiscovery:\n  topic_secret: topic-four\n";
    let loaded = load(yaml).unwrap();
    assert_eq!(value(&loaded, "sync_passphrase"), json!("(hidden)"));
    assert_eq!(value(&loaded, "discovery.topic"), json!(null));
    let everything = format!("{:?} {loaded:?}", loaded.settings());
    let errors = [
        error("sync_passphrase: [hunter-two]\n"),
        error("sync_passphrase:\n  hunter-two: 1\n"),
        error("sync_passphrase: hunter-two\nsync_passphrase_file: x\n"),
    ];
    for text in errors.iter().chain([&everything]) {
        for secret in ["hunter-two", "key-three", "topic-four"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn files_are_searched_in_order_and_a_named_one_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["first.yaml", "second.yaml"].map(|name| dir.path().join(name));
    std::fs::write(&second, "name: second").unwrap();
    let sources = SettingSources { search: vec![first.clone(), second.clone()], ..SettingSources::default() };
    let loaded = Config::load(&sources).unwrap();
    assert_eq!((loaded.config.name.as_str(), loaded.path), ("second", Some(second)));
    std::fs::write(&first, "# nothing but a comment\n").unwrap();
    assert_eq!(Config::load(&sources).unwrap().path, Some(first.clone()));
    // What stands there by chance has to be ours; what is named is taken.
    let foreign = SettingSources { is_ours: Some(|_, _| Ok(false)), ..sources };
    assert!(
        matches!(&Config::load(&foreign).unwrap_err().0[..], [ConfigError::Foreign(path)] if *path == first)
    );
    assert!(Config::load(&SettingSources { file: Some(first), ..foreign }).is_ok());

    let missing = SettingSources { file: Some(dir.path().join("none.yaml")), ..SettingSources::default() };
    assert!(matches!(Config::load(&missing).unwrap_err().0[..], [ConfigError::Missing(_)]));
    let directory = SettingSources { file: Some(dir.path().to_owned()), ..SettingSources::default() };
    assert!(matches!(Config::load(&directory).unwrap_err().0[..], [ConfigError::Unreadable { .. }]));
    let large = dir.path().join("large.yaml");
    std::fs::write(&large, "# ".repeat(1 << 20)).unwrap();
    let large = SettingSources { file: Some(large), ..SettingSources::default() };
    assert!(matches!(Config::load(&large).unwrap_err().0[..], [ConfigError::TooLarge { .. }]));
}

#[test]
fn folders_are_a_list_of_tables() {
    let yaml = "folders:\n  - path: ~/Photos\n    name: 007\n    mode: send_only\n    removals: ignore\n  - /srv/x\n  - { path: /y, \
                read_only: true, scan_only: true }\n";
    let loaded = load(yaml).unwrap();
    let home = std::env::home_dir().unwrap();
    assert_eq!(
        value(&loaded, "folders"),
        json!([
            { "path": home.join("Photos"), "name": "007", "mode": "send-only", "removals": "ignore", "scan_only": false },
            { "path": "/srv/x", "name": null, "mode": "both", "removals": "apply", "scan_only": false },
            { "path": "/y", "name": null, "mode": "read-only", "removals": "apply", "scan_only": true },
        ])
    );
    assert_eq!(load("folders:\n").unwrap().config.folders, ConfiguredFolders::default());
    let paths = load_with("", &[("CAN_SYNC_FOLDERS", "/a, /b")], &[]).unwrap().config.folders.0;
    assert_eq!(
        paths.iter().map(|one| one.path.as_path()).collect::<Vec<_>>(),
        [Path::new("/a"), Path::new("/b")]
    );
}

#[test]
fn a_mistake_in_a_folder_is_told_where_it_stands() {
    for (yaml, expected) in [
        (
            "folders:\n  - name: x\n",
            "test.yaml:2:5: folders[0]: a folder needs its directory: `path: ~/Photos`",
        ),
        (
            "name: a\nfolders:\n  - path: /x\n    modus: both\n",
            "test.yaml:4:5: folders[0]: unknown key 'modus'; did you mean 'mode'?",
        ),
        (
            "folders:\n  - path: /x\n  - path: /y\n    mode: sideways\n",
            "test.yaml:4:11: folders[1].mode: expected 'both', 'send-only' or 'read-only', not 'sideways'",
        ),
        (
            "folders:\n  - path: /x\n    send_only: true\n    read_only: true\n",
            "test.yaml:2:5: folders[0]: send_only and read_only: keep one of the two, or nothing moves",
        ),
        (
            "folders:\n  - /x\n  - path: /y\n  - name: z\n    path: /./x//\n",
            "test.yaml:4:5: folders[2]: '/./x//' is the directory of folders[0] already: keep one of the two",
        ),
        ("folders:\n  - path: /x\n    removals: [a]\n", "removals"),
        ("folders: 5\nname: [a]\n", "name"),
    ] {
        let error = error(yaml);
        assert!(error.contains(expected), "{yaml}: {error}");
    }
}

#[test]
fn a_directory_is_one_folder_however_it_is_written() {
    let home = std::env::home_dir().unwrap();
    let here = std::env::current_dir().unwrap();
    for (one, other) in [
        ("~/Photos", format!("{}/Photos/", home.display())),
        ("./Photos", here.join("Photos").display().to_string()),
        ("Photos", "./Photos/.".to_owned()),
        ("/a", "/a".to_owned()),
    ] {
        let error = error(&format!("name: x\nfolders:\n  - path: {one}\n  - path: '{other}'\n"));
        assert!(error.starts_with("test.yaml:4:5: folders[1]: "), "{error}");
        assert!(error.contains("is the directory of folders[0] already"), "{error}");
        let paths = format!("{one}, /b, {other}");
        let error = load_with("", &[("CAN_SYNC_FOLDERS", &paths)], &[]).unwrap_err();
        assert!(error.starts_with("CAN_SYNC_FOLDERS: folders: "), "{error}");
    }
    assert!(load("folders:\n  - /a\n  - /a/b\n  - /A\n").is_ok());
}

#[test]
fn folders_are_no_more_than_a_node_has_wherever_they_are_given() {
    let paths = |count: usize| (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>().join(",");
    let given = |count: usize| load_with("", &[("CAN_SYNC_FOLDERS", &paths(count))], &[]);
    assert_eq!(given(FOLDERS_MAX).unwrap().config.folders.0.len(), FOLDERS_MAX);
    let error = given(FOLDERS_MAX + 1).unwrap_err();
    assert_eq!(error, format!("CAN_SYNC_FOLDERS: folders: expected at most {FOLDERS_MAX} folders"));
}
