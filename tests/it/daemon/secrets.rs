//! Secrets as people, editors and service managers hand them over: what counts as the same one, what is taken, what is
//! refused, and what is kept.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::command::{Ran, User};
use crate::support::daemon::{Daemon, listing, yaml};
use crate::support::nodes::eventually;

/// With letters that have two forms.
const WORDS: &str = "f\u{fc}nf gr\u{fc}ne \u{30ac}\u{30e9}\u{30b9} otters juggle lanterns";
const DECOMPOSED: &str = "fu\u{308}nf gru\u{308}ne \u{30ab}\u{3099}\u{30e9}\u{30b9} otters juggle lanterns";
const WIDE: &str = "f\u{fc}nf gr\u{fc}ne \u{ff76}\u{ff9e}\u{ff97}\u{ff7d} \u{ff4f}\u{ff54}\u{ff54}\u{ff45}\u{ff52}\u{ff53} juggle lanterns";
const BASE: &str = "can_listen_addr: 127.0.0.1:0";
const PASSPHRASE: &str = "CAN_SYNC_SYNC_PASSPHRASE";
/// Nobody's number.
const STRANGER: u32 = 47_110;

fn home(config: &str) -> User {
    let user = User::new();
    user.write("config.yaml", yaml(&format!("{BASE}\n{config}")));
    user
}

trait Configured {
    /// With a part of its configuration exchanged.
    fn with(self, part: &str, other: &str) -> Self;
}

impl Configured for User {
    fn with(self, part: &str, other: &str) -> Self {
        let config = std::fs::read_to_string(self.home().join("config.yaml")).expect("a configuration");
        assert!(config.contains(part), "{config}");
        self.write("config.yaml", config.replace(part, other));
        self
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o7777
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A file of the user's, with this mode.
fn file(user: &User, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
    user.write(name, content);
    let path = user.home().join(name);
    set_mode(&path, mode);
    path
}

fn check(user: &User, env: &[(&str, &str)]) -> Ran {
    user.run_with(&["config", "check"], env, b"")
}

/// `config check` and a start both refuse, say all of `expected`, and leave everything as it was.
fn refused(user: &User, env: &[(&str, &str)], expected: &[&str]) {
    // What readers of a killed node's databases write into shared memory is not on the disk.
    let still = || {
        let mut listing = listing(user.home());
        listing.retain(|line| !line.contains("-shm "));
        listing
    };
    let before = still();
    for args in [&["config", "check"][..], &["serve"]] {
        let ran = user.run_with(args, env, b"");
        assert_eq!((ran.code, ran.text()), (1, ""), "{args:?}: {}", ran.stderr);
        for part in expected {
            assert!(ran.stderr.contains(part), "'{part}' in what {args:?} said: {}", ran.stderr);
        }
    }
    assert!(still() == before, "something changed");
}

async fn meets(daemon: &Daemon, other: &Daemon) {
    daemon.dial(other).await;
    eventually("they are of one network", async || {
        let peers = daemon.get("/peers").await;
        let peer =
            peers["peers"].as_array().and_then(|all| all.iter().find(|p| p["endpoint_id"] == other.id()));
        let connected = peer.is_some_and(|peer| peer["state"] == "connected" || peer["state"] == "in_sync");
        connected.then_some(()).ok_or_else(|| peers.to_string())
    })
    .await;
}

#[tokio::test]
async fn one_passphrase_is_the_same_from_every_source_and_editor() {
    let hub = Daemon::start(&yaml(&format!("{BASE}\nsync_passphrase: \"{WORDS}\"")));
    let from_env = |text: &str| Daemon::start_given(home(""), &[], &[(PASSPHRASE, text)], b"");
    let from_file = |content: &str| {
        let user = home("sync_passphrase_file: words");
        file(&user, "words", content, 0o600);
        Daemon::start_as(user)
    };
    let from_yaml = |value: &str| Daemon::start(&yaml(&format!("{BASE}\nsync_passphrase: {value}")));
    let from_stdin = |name: &str, text: &str| {
        Daemon::start_given(home(""), &["--passphrase-file", name], &[], text.as_bytes())
    };
    for daemon in [
        from_env(&format!("{WORDS}\n")),
        from_env(&format!(" \u{feff}{DECOMPOSED}\t\r\n")),
        from_file(&format!("\u{feff}{WORDS}\r\n")),
        from_file(&format!("\n  {WIDE}\u{a0}\n\n")),
        from_yaml(&format!("\"\u{3000}{DECOMPOSED}  \"")),
        from_yaml(&format!("|\n  {WORDS}\n")),
        from_stdin("-", &format!("{WIDE}\r\n")),
        from_stdin("/dev/stdin", WORDS),
    ] {
        meets(&daemon, &hub).await;
    }
}

#[test]
fn what_is_no_secret_is_refused_wherever_it_comes_from_and_named() {
    let nothing = "expected text, not nothing";
    for text in ["", " ", "\n", "\u{feff}", " \u{feff}\r\n\t"] {
        refused(&home(""), &[(PASSPHRASE, text)], &["CAN_SYNC_SYNC_PASSPHRASE: sync_passphrase", nothing]);
        refused(
            &home(""),
            &[("CAN_SYNC_DISCOVERY_TOPIC_SECRET", text)],
            &["CAN_SYNC_DISCOVERY_TOPIC_SECRET", nothing],
        );
        refused(&home(""), &[("CAN_SYNC_SYNC_API_KEY", text)], &["CAN_SYNC_SYNC_API_KEY", "sync API key"]);
        for setting in ["sync_passphrase_file", "api_token_file", "sync_api_key_file"] {
            let user = home(&format!("{setting}: some.txt"));
            file(&user, "some.txt", text, 0o600);
            refused(&user, &[], &["config.yaml:2", setting, "some.txt", nothing]);
        }
        let stdin = home("").run_with(&["serve", "--passphrase-file", "-"], &[], text.as_bytes());
        assert_eq!(stdin.code, 1);
        assert!(
            stdin.stderr.contains("standard input: sync_passphrase") && stdin.stderr.contains(nothing),
            "{}",
            stdin.stderr
        );
    }
    refused(&home("sync_passphrase: ''"), &[], &["config.yaml:2: sync_passphrase", nothing]);
    let topic = home("").with("discovery: {", "discovery: { topic_secret: '  ',");
    refused(&topic, &[], &["discovery.topic_secret", nothing]);
    for (bytes, why) in [
        (&b"two\nlines of a file"[..], "one line"),
        (b"f\xfcnf gr\xfcne otters juggle quiet lanterns", "UTF-8"),
        (b"\xff\xfew\0o\0r\0d\0s\0", "UTF-8"),
    ] {
        let user = home("sync_passphrase_file: words");
        file(&user, "words", bytes, 0o600);
        refused(&user, &[], &["sync_passphrase_file", "words", why]);
    }
    let user = home("sync_passphrase_file: words");
    file(&user, "words", "x".repeat(100_000), 0o600);
    refused(&user, &[], &["sync_passphrase_file", "longer than"]);
    let user = home("sync_passphrase_file: words");
    user.write("words/inside", "");
    refused(&user, &[], &["sync_passphrase_file", "words", "directory"]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let user = home("sync_passphrase: hunter2\napi_token_file: none.txt\nsync_api_key_file: key.txt");
    file(&user, "key.txt", "key", 0o644);
    file(&user, "data/secret.key", "garbage", 0o600);
    set_mode(&user.home().join("data"), 0o700);
    let env = [("CAN_SYNC_DISCOVERY_TOPIC_SECRET", " ")];
    let settings =
        ["sync_passphrase", "api_token_file", "sync_api_key_file", "data_dir", "discovery.topic_secret"];
    refused(&user, &env, &settings);
    let ran = user.run_with(&["config", "check", "--json"], &env, b"");
    assert_eq!(ran.code, 1);
    let said = &ran.json()[0];
    let found: Vec<&str> =
        said["problems"].as_array().unwrap().iter().map(|p| p["setting"].as_str().unwrap()).collect();
    assert_eq!((&said["ok"], found.len()), (&json!(false), settings.len()), "{said}");
    assert!(settings.iter().all(|setting| found.contains(setting)), "{said}");
    assert!(!ran.text().contains("hunter2") && !ran.stderr.contains("hunter2"));
}

/// Whether `config check` takes a passphrase file with these permissions, and what it says.
fn taken(user: &User, env: &[(&str, &str)]) -> String {
    let ran = check(user, env);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran.stderr
}

#[test]
fn a_configuration_that_others_can_read_should_hold_no_secret() {
    let user = home(&format!("sync_passphrase: \"{WORDS}\""));
    let path = user.home().join("config.yaml");
    for (mode, expected) in [(0o644, "can be read by others (mode 644)"), (0o620, "can be written by others")]
    {
        set_mode(&path, mode);
        let said = taken(&user, &[]);
        assert!(said.contains("warning: sync_passphrase: ") && said.contains(expected), "{said}");
    }
    set_mode(&path, 0o600);
    assert_eq!(taken(&user, &[]), "");
    let path = file(&user, "config.yaml", yaml(BASE), 0o644);
    assert_eq!(taken(&user, &[(PASSPHRASE, WORDS)]), "", "there is none in {}", path.display());
}

#[test]
fn permissions_of_a_file_that_a_setting_names() {
    for (setting, content) in
        [("sync_passphrase_file", WORDS), ("api_token_file", "a token"), ("sync_api_key_file", "key")]
    {
        let user = home(&format!("{setting}: sub/some.txt"));
        let path = file(&user, "sub/some.txt", content, 0o600);
        let sub = user.home().join("sub");
        set_mode(&sub, 0o755);
        for private in [0o600, 0o400, 0o700] {
            set_mode(&path, private);
            assert_eq!(taken(&user, &[]), "");
        }
        for group in [0o440, 0o640] {
            set_mode(&path, group);
            let said = taken(&user, &[]);
            assert!(said.contains(setting) && said.contains("group"), "{said}");
        }
        for all in [0o444, 0o644, 0o604] {
            set_mode(&path, all);
            refused(&user, &[], &[setting, "some.txt", "can be read by others", "chmod 600"]);
        }
        for writable in [0o620, 0o660, 0o602, 0o666, 0o777] {
            set_mode(&path, writable);
            refused(&user, &[], &[setting, "some.txt", "can be written by others", "chmod 600"]);
        }
        set_mode(&path, 0o600);
        for dir in [0o777, 0o775, 0o770, 0o2777] {
            set_mode(&sub, dir);
            refused(&user, &[], &[setting, "the directory", "sub'", "chmod go-w"]);
        }
        for dir in [0o1777, 0o3777, 0o500] {
            set_mode(&sub, dir);
            assert_eq!(taken(&user, &[]), "");
        }
        set_mode(&sub, 0o2775);
        assert!(taken(&user, &[]).contains("group"));
        set_mode(&sub, 0o755);
        if is_root() {
            chown(&path, None, Some(STRANGER)).unwrap();
            assert_eq!(taken(&user, &[]), "");
            set_mode(&path, 0o640);
            refused(&user, &[], &[setting, "can be read by others"]);
            set_mode(&path, 0o600);
            chown(&path, Some(STRANGER), None).unwrap();
            refused(&user, &[], &[setting, "some.txt", "belongs to user 47110", "chown"]);
        }
    }
}

#[test]
fn what_a_service_manager_hands_over_may_be_readable_by_all() {
    let user = home("sync_passphrase_file: creds/words");
    let path = file(&user, "creds/words", WORDS, 0o444);
    let creds = user.home().join("creds");
    set_mode(&creds, 0o755);
    let env = [("CREDENTIALS_DIRECTORY", creds.to_str().unwrap())];
    for mode in [0o444, 0o440, 0o400, 0o644] {
        set_mode(&path, mode);
        assert_eq!(taken(&user, &env), "");
    }
    refused(&user, &[], &["can be read by others"]);
    refused(&user, &[("CREDENTIALS_DIRECTORY", "/")], &["can be read by others"]);
    refused(&user, &[("CREDENTIALS_DIRECTORY", "creds")], &["can be read by others"]);
    set_mode(&path, 0o646);
    refused(&user, &env, &["can be written by others"]);
    set_mode(&path, 0o444);
    // A link out of there is no credential.
    let elsewhere = file(&user, "elsewhere", WORDS, 0o444);
    std::fs::remove_file(&path).unwrap();
    symlink(&elsewhere, &path).unwrap();
    refused(&user, &env, &["can be read by others"]);
    // As clusters lay secrets out: links within a directory with the sticky bit.
    std::fs::remove_file(&path).unwrap();
    file(&user, "creds/..v1/words", WORDS, 0o444);
    set_mode(&creds.join("..v1"), 0o755);
    symlink("..v1", creds.join("..data")).unwrap();
    symlink("..data/words", &path).unwrap();
    set_mode(&creds, 0o3777);
    assert_eq!(taken(&user, &env), "");
}

#[test]
fn a_link_is_judged_by_where_it_leads_and_by_where_it_stands() {
    let user = home("sync_passphrase_file: a/words");
    let path = file(&user, "b/words", WORDS, 0o600);
    user.write("a/other", "");
    symlink("../b/words", user.home().join("a/words")).unwrap();
    for dir in ["a", "b"] {
        set_mode(&user.home().join(dir), 0o755);
    }
    assert_eq!(taken(&user, &[]), "");
    for dir in ["a", "b"] {
        let dir = user.home().join(dir);
        set_mode(&dir, 0o777);
        refused(&user, &[], &["sync_passphrase_file", "can be written by others", dir.to_str().unwrap()]);
        set_mode(&dir, 0o755);
    }
    set_mode(&path, 0o644);
    refused(&user, &[], &["can be read by others"]);
    std::fs::remove_file(&path).unwrap();
    refused(&user, &[], &["sync_passphrase_file", "a/words", "does not exist"]);
}

#[test]
fn a_pipe_that_a_shell_made_is_read_once() {
    let user = home("sync_passphrase_file: /dev/fd/0");
    let ran = user.run_with(&["config", "check"], &[], WORDS.as_bytes());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let ran = user.run_with(&["config", "check"], &[], b"hunter2\n");
    assert!(ran.code == 1 && ran.stderr.contains("too weak"), "{}", ran.stderr);
    let daemon = Daemon::start_given(home(""), &["--passphrase-file", "/dev/fd/0"], &[], WORDS.as_bytes());
    assert!(!daemon.data_dir().join("passphrase").exists(), "whoever feeds the pipe keeps it");
}

#[tokio::test]
async fn a_volume_that_a_cluster_opened_to_its_group_still_works() {
    let mut daemon = Daemon::start(&yaml(BASE));
    let (id, data) = (daemon.id().to_owned(), daemon.data_dir());
    daemon.kill();
    // As `fsGroup` leaves it: everything for the group, directories with the group's bit.
    for entry in walkdir::WalkDir::new(&data) {
        let path = entry.unwrap().into_path();
        set_mode(&path, if path.is_dir() { 0o2770 } else { 0o660 });
    }
    let daemon = daemon.restart();
    assert_eq!(daemon.id(), id);
    for name in ["secret.key", "passphrase", "sync_api_key"] {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
        daemon.hear(name);
    }
    let user = daemon.into_user();
    if is_root() {
        // In a group that is not ours, others could have put them there.
        let key = data.join("secret.key");
        set_mode(&key, 0o660);
        chown(&key, None, Some(STRANGER)).unwrap();
        refused(&user, &[], &["data_dir", "secret.key", "can be written by others"]);
        chown(&key, Some(STRANGER), Some(0)).unwrap();
        set_mode(&key, 0o600);
        refused(&user, &[], &["data_dir", "secret.key", "belongs to user"]);
    }
}

#[test]
fn a_data_directory_that_all_can_write_is_refused_and_our_own_is_closed_to_the_group() {
    let daemon = Daemon::start(&yaml(BASE));
    let data = daemon.data_dir();
    let user = daemon.into_user();
    for open in [0o777, 0o2777, 0o757] {
        set_mode(&data, open);
        refused(&user, &[], &["data_dir", "the directory", "chmod go-w"]);
    }
    set_mode(&data, 0o775);
    assert!(check(&user, &[]).stderr.contains("data_dir"), "said before it is done");
    assert_eq!(mode(&data), 0o775);
    let daemon = Daemon::start_as(user);
    assert_eq!(mode(&data), 0o755);
    let user = daemon.into_user();
    // The endpoint's key is for nobody else to read; the rest may be, if somebody wants that.
    for name in ["secret.key", "passphrase"] {
        set_mode(&data.join(name), 0o640);
    }
    let daemon = Daemon::start_as(user);
    assert_eq!((mode(&data.join("secret.key")), mode(&data.join("passphrase"))), (0o600, 0o640));
    let user = daemon.into_user();
    for name in ["secret.key", "passphrase", "sync_api_key"] {
        set_mode(&data.join(name), 0o644);
        refused(&user, &[], &["data_dir", name, "can be read by others", "chmod 600"]);
        set_mode(&data.join(name), 0o600);
    }
}

#[tokio::test]
async fn an_api_token_is_never_an_open_door() {
    let user =
        home("api_token_file: token\n").with("\nlisten_addr: 127.0.0.1:0\n", "\nlisten_addr: 0.0.0.0:0\n");
    let path = file(&user, "token", "", 0o600);
    for empty in ["", "\n", " \t\r\n", "\u{feff}"] {
        std::fs::write(&path, empty).unwrap();
        refused(&user, &[], &["api_token_file", "token", "not nothing"]);
    }
    let user_without = home("").with("\nlisten_addr: 127.0.0.1:0\n", "\nlisten_addr: 0.0.0.0:0\n");
    refused(&user_without, &[], &["listen_addr", "api_token_file"]);
    let empty_name = user_without.run_with(&["config", "check"], &[("CAN_SYNC_API_TOKEN_FILE", "")], b"");
    assert!(
        empty_name.code == 1 && empty_name.stderr.contains("CAN_SYNC_API_TOKEN_FILE"),
        "{}",
        empty_name.stderr
    );

    std::fs::write(&path, "\u{feff}gr\u{fc}n 7\r\n").unwrap();
    let daemon = Daemon::start_as(user);
    let port = daemon.url("").rsplit(':').next().unwrap().to_owned();
    let url = format!("http://127.0.0.1:{port}/status");
    let status = async |token: Option<&str>| {
        let mut asked = daemon.http.get(&url);
        if let Some(token) = token {
            asked = asked.header("Authorization", format!("Bearer {token}").into_bytes());
        }
        asked.send().await.unwrap().status().as_u16()
    };
    for wrong in [None, Some(""), Some(" "), Some("gr\u{fc}n"), Some("\u{feff}")] {
        assert_eq!(status(wrong).await, 401, "{wrong:?}");
    }
    assert_eq!((status(Some("gr\u{fc}n 7")).await, status(Some("gru\u{308}n 7")).await), (200, 200));
    let api = format!("http://127.0.0.1:{port}");
    let ran = daemon.user.run_with(&["status", "--json"], &[("CAN_SYNC_API", &api)], b"");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

fn kept(daemon: &Daemon, name: &str) -> Option<String> {
    std::fs::read_to_string(daemon.data_dir().join(name)).ok()
}

#[tokio::test]
async fn a_second_machine_stays_in_its_network_when_it_is_started_without_the_passphrase() {
    let first = Daemon::start(&yaml(&format!("{BASE}\nsync_passphrase: {WORDS}")));
    for from_stdin in [false, true] {
        let given = format!("{WORDS}\n");
        let second = if from_stdin {
            Daemon::start_given(home(""), &["--passphrase-file", "-"], &[], given.as_bytes())
        } else {
            Daemon::start_given(home(""), &[], &[(PASSPHRASE, &given)], b"")
        };
        assert_eq!(second.get("/status").await["passphrase_origin"], "config");
        assert_eq!(kept(&second, "passphrase").as_deref(), Some(given.as_str()));
        assert_eq!(mode(&second.data_dir().join("passphrase")), 0o600);
        assert_eq!(second.ok(&["passphrase"]).text(), given);
        let second = second.restart();
        assert_eq!(second.get("/status").await["passphrase_origin"], "data_dir");
        meets(&second, &first).await;
    }
}

#[test]
fn another_passphrase_takes_the_place_of_the_kept_one_and_loses_none() {
    let first = Daemon::start(&yaml(BASE));
    let made = kept(&first, "passphrase").unwrap();
    let user = first.into_user();
    let again = Daemon::start_given(user, &[], &[(PASSPHRASE, made.trim())], b"");
    assert_eq!(kept(&again, "passphrase.former"), None);
    let other = Daemon::start_given(again.into_user(), &[], &[(PASSPHRASE, WORDS)], b"");
    assert_eq!(kept(&other, "passphrase").unwrap().trim(), WORDS);
    assert_eq!(kept(&other, "passphrase.former").unwrap(), made);
    assert_eq!(mode(&other.data_dir().join("passphrase.former")), 0o600);
    other.hear("passphrase.former");
    assert!(!other.stderr().contains(made.trim()) && !other.stderr().contains(WORDS), "never in a log");
    // What stands in the configuration is kept there.
    let user = home(&format!("sync_passphrase: {WORDS}"));
    assert_eq!(kept(&Daemon::start_as(user), "passphrase"), None);
}

#[tokio::test]
async fn a_node_that_belongs_to_a_network_founds_none_of_its_own() {
    let first = Daemon::start(&yaml(&format!("{BASE}\nsync_passphrase: {WORDS}")));
    let config = yaml(&format!("{BASE}\nsync_passphrase: {WORDS}"));
    // One that has met somebody, and one that holds something.
    let met = Daemon::start(&config);
    meets(&met, &first).await;
    eventually("the peer is remembered", async || {
        let peers = met.get("/peers").await;
        let seen = peers["peers"][0]["last_seen"].is_string();
        seen.then_some(()).ok_or_else(|| peers.to_string())
    })
    .await;
    let holds = Daemon::start(&config);
    holds.user.write("note.txt", "hello");
    holds.ok(&["put", "note.txt"]);
    for (node, expected) in [(met, "1 peer remembered, 0 assets"), (holds, "0 peers remembered, 1 asset")] {
        let mut node = node;
        node.signal(rustix::process::Signal::TERM);
        assert_eq!(node.end().await, Some(0));
        let user = node.into_user();
        user.write("config.yaml", yaml(BASE));
        refused(&user, &[], &["sync_passphrase", expected, "can-sync passphrase"]);
        let said = user.run(&["passphrase"]);
        assert_eq!(said.code, 6, "{}", said.stderr);
        // Whoever wants a network of its own says so.
        let made = user.run(&["passphrase", "rotate"]);
        assert_eq!(made.code, 0, "{}", made.stderr);
        let daemon = Daemon::start_as(user);
        assert_eq!(daemon.get("/status").await["passphrase_origin"], "data_dir");
        assert_eq!(kept(&daemon, "passphrase").unwrap(), made.text());
    }
}

#[test]
fn passphrase_prints_it_wherever_it_came_from() {
    let shown = |user: &User, env: &[(&str, &str)]| -> Value {
        let ran = user.run_with(&["passphrase", "--json"], env, b"");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let said = ran.json()[0].clone();
        let text = user.run_with(&["passphrase"], env, b"");
        assert_eq!(text.text().trim_end_matches('\n'), said["passphrase"].as_str().unwrap());
        said
    };
    let user = home("");
    let said = shown(&user, &[(PASSPHRASE, &format!("{WORDS}\r\n"))]);
    assert_eq!((&said["passphrase"], &said["origin"]), (&json!(WORDS), &json!(PASSPHRASE)));
    file(&user, "data/passphrase", "\u{feff}kept words\r\n", 0o600);
    set_mode(&user.home().join("data"), 0o700);
    let said = shown(&user, &[]);
    assert_eq!((&said["passphrase"], &said["path"]), (&json!("kept words"), &json!("./data/passphrase")));
    let user = home(&format!("sync_passphrase: {WORDS}"));
    assert_eq!(shown(&user, &[])["origin"], "config.yaml:2");
    let user = home("sync_passphrase_file: words");
    file(&user, "words", WORDS, 0o600);
    assert_eq!(shown(&user, &[])["path"], "words");
    let link = home("sync_passphrase_file: link");
    file(&link, "words", "old words", 0o600);
    symlink("words", link.home().join("link")).unwrap();
    let rotated = link.run(&["passphrase", "rotate"]);
    assert_eq!(rotated.code, 0, "{}", rotated.stderr);
    assert!(link.home().join("link").is_symlink(), "what the link leads to is replaced");
    assert_eq!(shown(&link, &[])["passphrase"].as_str().unwrap(), rotated.text().trim());
}
