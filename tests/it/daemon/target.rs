//! Which node a command talks to, and that it touches no other.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use crate::support::command::{Ran, User};
use crate::support::daemon::{Daemon, embedded_yaml, listing};

/// Arguments, environment and standard input of a start, and what names the passphrase's origin in them.
type Given<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [u8], &'a str);

async fn names(node: &Daemon) -> Vec<String> {
    let listed = node.get("/store/list").await;
    let assets = listed["assets"].as_array().expect("assets").iter();
    let mut names: Vec<String> =
        assets.map(|a| a["filename"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

/// A command in the directory of one node.
fn at(node: &Daemon, args: &[&str]) -> Ran {
    node.user.run(args)
}

fn fine(ran: Ran) -> Ran {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    ran
}

#[tokio::test]
async fn commands_beside_a_node_talk_to_it() {
    let here = Daemon::start(&embedded_yaml("name: here"));
    let there = Daemon::start(&embedded_yaml("name: there"));
    for node in [&here, &there] {
        assert_eq!(fine(at(node, &["id"])).text().trim(), node.id());
    }
    here.user.write("note.txt", "a note");
    fine(at(&here, &["put", "note.txt"]));
    assert_eq!((names(&here).await, names(&there).await), (vec!["note.txt".to_owned()], vec![]));
    // Within its data directory, too, and whatever leads there.
    let within = |dir: &str| {
        let args: Vec<String> = vec!["id".into()];
        User::at(&here.user.home().join(dir), &args, &[], b"")
    };
    symlink("data", here.user.home().join("link")).unwrap();
    for dir in ["data", "link"] {
        assert_eq!(fine(within(dir)).text().trim(), here.id());
    }
    // A token that the node asks for is found with it.
    let guarded = User::new();
    guarded.write("conf/token", "a token");
    let token = guarded.home().join("conf/token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(token.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    guarded.write("config.yaml", embedded_yaml("api_token_file: conf/token"));
    let guarded = Daemon::start_as(guarded);
    let args: Vec<String> = vec!["status".into(), "--json".into()];
    fine(User::at(&guarded.data_dir(), &args, &[], b""));
}

#[tokio::test]
async fn a_node_that_does_not_run_is_no_other_one() {
    let other = Daemon::start(&embedded_yaml(""));
    // Somebody else answers at the address of the stopped one.
    let mut stopped = Daemon::start(&embedded_yaml(""));
    stopped.kill();
    let file = stopped.data_dir().join("running.json");
    let mut said: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    said["api_url"] = json!(other.url(""));
    std::fs::write(&file, said.to_string()).unwrap();
    stopped.user.write("note.txt", "a note");
    for args in [&["put", "note.txt"][..], &["status"], &["list"], &["id"]] {
        let ran = at(&stopped, args);
        assert_eq!(ran.code, 3, "{args:?}: {} {}", ran.text(), ran.stderr);
        assert!(ran.stderr.contains("does not run") && ran.stderr.contains("./data"), "{}", ran.stderr);
    }
    assert_eq!(names(&other).await, Vec::<String>::new());
    // Stopped in order, it leaves no address behind.
    let mut again = stopped.restart();
    again.signal(rustix::process::Signal::TERM);
    assert_eq!(again.end().await, Some(0));
    assert!(!again.data_dir().join("running.json").exists());
}

#[tokio::test]
async fn api_means_that_node_for_every_command_and_never_the_store_here() {
    let here = Daemon::start(&embedded_yaml("name: here"));
    let there = Daemon::start(&embedded_yaml("name: there"));
    let api = there.url("");
    let over = |args: &[&str]| at(&here, &[args, &["--api", &api]].concat());
    here.user.write("own.txt", "stored here");
    fine(at(&here, &["put", "own.txt"]));
    let before = fine(at(&here, &["list", "--json"])).text().to_owned();

    here.user.write("note.txt", "a note");
    here.user.write("large.bin", vec![7; 3 << 20]);
    let put = fine(over(&["put", "note.txt", "large.bin", "--tags", "x", "--json"])).json();
    let hash = |at: usize| put[at]["hash"].as_str().unwrap().to_owned();
    assert_eq!(names(&there).await, ["large.bin", "note.txt"]);
    let listed = fine(over(&["list", "--json"])).json();
    assert_eq!(listed.len(), 2);
    assert_eq!(fine(over(&["search", "note", "--json"])).json()[0]["hash"], put[0]["hash"]);
    assert_eq!(fine(over(&["get", &hash(0)])).text(), "a note");
    fine(over(&["get", &hash(1), "-o", "copy.bin"]));
    assert_eq!(std::fs::read(here.user.home().join("copy.bin")).unwrap(), vec![7; 3 << 20]);
    fine(over(&["rm", &hash(0)]));
    assert_eq!(names(&there).await, ["large.bin"]);
    assert_eq!(fine(over(&["trash", "list", "--json"])).json()[0]["hash"], put[0]["hash"]);
    fine(over(&["trash", "restore", &hash(0)]));
    fine(over(&["edit", &hash(0)[..12], "--name", "renamed.txt"]));
    assert_eq!(names(&there).await, ["large.bin", "renamed.txt"]);
    fine(over(&["rm", "renamed.txt"]));
    assert_eq!(names(&there).await, ["large.bin"]);
    let own = fine(at(&here, &["list", "--json"])).json()[0]["hash"].as_str().unwrap().to_owned();
    assert_eq!(over(&["get", &own, "--local"]).code, 6, "what is here alone is not there");
    assert_eq!(over(&["rm", &own]).code, 6);
    assert_eq!(fine(at(&here, &["list", "--json"])).text(), before);

    assert_eq!(fine(over(&["id"])).text().trim(), there.id());
    assert_eq!(fine(over(&["status", "--json"])).json()[0]["name"], json!("there"));
    for args in [&["passphrase"][..], &["passphrase", "rotate"]] {
        let kept = listing(here.user.home());
        let ran = over(args);
        assert_eq!((ran.code, ran.text()), (5, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("on that machine"), "{}", ran.stderr);
        let still: Vec<_> =
            listing(here.user.home()).into_iter().filter(|line| line.contains("passphrase")).collect();
        assert_eq!(still, kept.into_iter().filter(|line| line.contains("passphrase")).collect::<Vec<_>>());
    }
    let doctor = fine(over(&["doctor", "--json"])).json().remove(0);
    let layers: Vec<_> = doctor["checks"].as_array().unwrap().iter().map(|check| &check["layer"]).collect();
    assert_eq!(layers, ["daemon", "store", "clock"]);
    assert_eq!(doctor["daemon"]["endpoint_id"], json!(there.id()));
    assert!(!doctor.to_string().contains(here.user.home().to_str().unwrap()), "{doctor}");
    // Its own address is its own node.
    let own_api = here.url("").replace("127.0.0.1", "localhost");
    fine(at(&here, &["passphrase", "--api", &here.url("")]));
    fine(at(&here, &["passphrase", "--api", &own_api]));
    // A pipe of commands is no exception.
    let repl = here.user.run_with(&["repl", "--api", &api], &[], b"id\nput own.txt\n");
    assert!(repl.text().contains(there.id()), "{} {}", repl.text(), repl.stderr);
    assert_eq!(names(&there).await, ["large.bin", "own.txt"]);
}

#[tokio::test]
async fn nobody_at_the_address_is_no_reason_to_ask_here() {
    let here = Daemon::start(&embedded_yaml(""));
    here.user.write("note.txt", "a note");
    let api = format!("http://{}", crate::support::ports::nobody());
    for args in [
        &["put", "note.txt"][..],
        &["list"],
        &["status"],
        &["peers"],
        &["doctor"],
        &["id"],
        &["events"],
        &["wait", "--in-sync", "--timeout", "1"],
        &["devices"],
        &["library", "list"],
        &["deletions"],
    ] {
        let ran = at(&here, &[args, &["--api", &api]].concat());
        assert_eq!(ran.code, 3, "{args:?}: {} {}", ran.text(), ran.stderr);
    }
    assert_eq!(names(&here).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_passphrase_file_that_a_flag_named_is_shown_by_the_running_node() {
    let user = User::new();
    user.write("words", "quiet otters juggle seven lanterns at dusk\n");
    std::fs::set_permissions(user.home().join("words"), std::fs::Permissions::from_mode(0o600)).unwrap();
    user.write("config.yaml", crate::support::daemon::yaml("can_listen_addr: 127.0.0.1:0"));
    let daemon = Daemon::start_given(user, &["--passphrase-file", "words"], &[], b"");
    let shown = fine(at(&daemon, &["passphrase"]));
    assert_eq!(shown.text(), "quiet otters juggle seven lanterns at dusk\n");
}

#[tokio::test]
async fn a_passphrase_that_no_start_would_use_is_not_made() {
    const WORDS: &str = "quiet otters juggle seven lanterns at dusk";
    const PASSPHRASE: &str = "CAN_SYNC_SYNC_PASSPHRASE";
    let base = crate::support::daemon::yaml("can_listen_addr: 127.0.0.1:0");
    let with_words = || {
        let user = User::new();
        user.write("words", WORDS);
        std::fs::set_permissions(user.home().join("words"), std::fs::Permissions::from_mode(0o600)).unwrap();
        user.write("config.yaml", base.clone());
        user.write("other.yaml", format!("{base}\nsync_passphrase: {WORDS}"));
        user
    };
    let words = format!("{WORDS}\n");
    let nodes: [Given; 4] = [
        (&["--passphrase-file", "words"], &[], b"", "words' (--passphrase-file)"),
        (&["--passphrase-file", "-"], &[], words.as_bytes(), "standard input"),
        (&[], &[(PASSPHRASE, WORDS)], b"", PASSPHRASE),
        (&["--config", "other.yaml"], &[], b"", "other.yaml:"),
    ];
    for (args, env, stdin, origin) in nodes {
        let node = Daemon::start_given(with_words(), args, env, stdin);
        let before = std::fs::read(node.data_dir().join("passphrase")).ok();
        let within: Vec<String> = vec!["passphrase".into(), "rotate".into()];
        for ran in [at(&node, &["passphrase", "rotate"]), User::at(&node.data_dir(), &within, &[], b"")] {
            assert_eq!((ran.code, ran.text()), (1, ""), "{origin}: {}", ran.stderr);
            assert!(ran.stderr.contains(origin) && ran.stderr.contains("start"), "{origin}: {}", ran.stderr);
        }
        assert_eq!(std::fs::read(node.data_dir().join("passphrase")).ok(), before);
        assert_eq!(std::fs::read_to_string(node.user.home().join("words")).unwrap(), WORDS);
        // Nor does it show another one than the node's.
        let shown = at(&node, &["passphrase"]);
        let in_other_config = args.contains(&"--config");
        assert_eq!(shown.code, if in_other_config { 6 } else { 0 }, "{origin}: {}", shown.stderr);
        assert_eq!(shown.text().trim(), if in_other_config { "" } else { WORDS });
    }
    // The file that the node's own configuration names is the right one to change.
    let user = with_words();
    user.write("config.yaml", format!("{base}\nsync_passphrase_file: words"));
    let node = Daemon::start_as(user);
    let made = fine(at(&node, &["passphrase", "rotate"]));
    assert_eq!(std::fs::read_to_string(node.user.home().join("words")).unwrap(), made.text());
}

#[tokio::test]
async fn no_start_puts_an_older_passphrase_back() {
    const WORDS: &str = "quiet otters juggle seven lanterns at dusk";
    const PASSPHRASE: &str = "CAN_SYNC_SYNC_PASSPHRASE";
    let user = User::new();
    user.write("words", WORDS);
    std::fs::set_permissions(user.home().join("words"), std::fs::Permissions::from_mode(0o600)).unwrap();
    user.write("config.yaml", crate::support::daemon::yaml("can_listen_addr: 127.0.0.1:0"));
    // In the node's own directory, while it runs by what is there and while it is stopped.
    let node = Daemon::start_as(user);
    let within = |dir: &std::path::Path, args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        User::at(dir, &args, &[], b"")
    };
    let data = node.data_dir();
    fine(within(&data, &["passphrase", "rotate"]));
    assert!(!data.join("can_sync_data").exists());
    let mut node = node;
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.end().await, Some(0));
    let user = node.into_user();
    let made = fine(within(&data, &["passphrase", "rotate"])).text().trim().to_owned();
    assert_eq!(fine(user.run(&["passphrase"])).text().trim(), made);
    assert_eq!(fine(within(&data, &["passphrase", "show"])).text().trim(), made);
    // A start that is given another one says so, and changes nothing.
    let given: [Given; 3] = [
        (&["serve", "--passphrase-file", "words"], &[], b"", "--passphrase-file"),
        (&["serve", "--passphrase-file", "-"], &[], WORDS.as_bytes(), "standard input"),
        (&["serve"], &[(PASSPHRASE, WORDS)], b"", PASSPHRASE),
    ];
    for (args, env, stdin, origin) in given {
        let ran = user.run_with(args, env, stdin);
        assert_eq!(ran.code, 1, "{origin}: {}", ran.stderr);
        for part in [origin, "passphrase rotate", "data/passphrase'", "passphrase.rotated"] {
            assert!(ran.stderr.contains(part), "{origin}: {}", ran.stderr);
        }
        assert!(!ran.stderr.contains(WORDS) && !ran.stderr.contains(&made));
        assert_eq!(fine(user.run(&["passphrase"])).text().trim(), made);
    }
    // The new one is as good from anywhere, and a person may decide otherwise.
    let node = Daemon::start_given(user, &[], &[(PASSPHRASE, &made)], b"");
    let mut node = node;
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.end().await, Some(0));
    std::fs::remove_file(data.join("passphrase.rotated")).unwrap();
    let node = Daemon::start_given(node.into_user(), &[], &[(PASSPHRASE, WORDS)], b"");
    assert_eq!(fine(at(&node, &["passphrase"])).text().trim(), WORDS);
}

#[tokio::test]
async fn what_others_put_into_the_working_directory_is_no_node() {
    let user = User::new();
    user.write("secret", "a secret of the user's");
    let secret = user.home().join("secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    user.write("config.yaml", "listen_addr: 127.0.0.1:0\n");
    let asked = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    asked.set_nonblocking(true).unwrap();
    let api = format!("http://{}", asked.local_addr().unwrap());
    let said = json!({ "pid": 1, "api_url": api, "store_url": api, "api_token_file": secret });
    for dir in ["", "can_sync_data/"] {
        for name in ["lock", "running.json", "secret.key"] {
            user.write(&format!("{dir}{name}"), said.to_string());
            let path = user.home().join(format!("{dir}{name}"));
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        let lock = std::fs::File::open(user.home().join(format!("{dir}lock"))).unwrap();
        lock.lock().unwrap();
        for args in [&["status"][..], &["put", "secret"], &["list"]] {
            let ran = user.run(args);
            assert_eq!(ran.code, 3, "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains("no node has used"), "{}", ran.stderr);
        }
        assert!(asked.accept().is_err(), "nobody connects to what others name");
        // A pipe holds nothing up.
        drop(lock);
        let path = user.home().join(format!("{dir}lock"));
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(user.run(&["status"]).code, 3);
    }
    let ran = user.run(&["serve"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("can_sync_data/lock") && ran.stderr.contains("no regular file"),
        "{}",
        ran.stderr
    );
}
