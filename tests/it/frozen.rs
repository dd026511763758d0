//! Data directories as versions of can-sync left them, in `tests/data/frozen/VERSION.tar.gz`: today's programs read all that is in them.
//!
//! `cargo test --test it write_the_data_directory_of_this_version -- --ignored` writes that of this version, once: what is there does not
//! change any more. `expected.json` in it says what its agent said of itself then; today's has to say as much.
//!
//! The passphrase stands below, the keys were made for nothing else, and the agent is alone on loopback: they are nobody's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use can_sync::testing::store::ContentStore as _;
use reqwest::multipart::{Form, Part};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use crate::libraries::{Invited, Share, stranger};
use crate::store_embedded::to_first_schema;
use crate::support::command::User;
use crate::support::daemon::{Daemon, list, yaml};
use crate::support::embedded::open;
use crate::support::files::files;
use crate::support::nodes::{TestNode, eventually};
use crate::support::service::{ServiceProcess, client};
use crate::support::store::hash_of;

const PASSPHRASE: &str = "this passphrase stands in the tests of can-sync and protects nothing at all";
const FOLDER: &str = "photos";
/// What the store keeps in its database, and what in files: those have sums of their parts, too.
const SIZES: [(&str, usize); 5] = [
    ("note.txt", 200),
    ("page.txt", 5_000),
    ("chapter.txt", 60_000),
    ("book.txt", 70_000),
    ("shelf.txt", 200_000),
];

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/frozen")
}

/// Text that is different everywhere, and small where it is packed.
fn text(name: &str, bytes: usize) -> Vec<u8> {
    let mut lines: Vec<u8> = Vec::new();
    for line in 0.. {
        if lines.len() >= bytes {
            break;
        }
        lines.extend(format!("{name}, line {line}\n").into_bytes());
    }
    lines.truncate(bytes);
    lines
}

async fn put(daemon: &Daemon, name: &str, content: Vec<u8>, tags: &str) -> String {
    let form = Form::new()
        .text("tags", tags.to_owned())
        .text("application", "frozen")
        .part("file", Part::bytes(content).file_name(name.to_owned()));
    let answer = daemon.http.post(daemon.store_url("/ingest")).multipart(form).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    answer["data"]["hash"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

async fn content(daemon: &Daemon, hash: &str) -> Option<Vec<u8>> {
    let answer = daemon.http.get(daemon.store_url(&format!("/asset/{hash}"))).send().await.unwrap();
    let found = answer.status().is_success();
    let body = answer.bytes().await.ok()?;
    found.then(|| body.to_vec())
}

fn only(value: &Value, fields: &[&str]) -> Value {
    fields.iter().map(|field| ((*field).to_owned(), value[*field].clone())).collect::<Map<_, _>>().into()
}

fn each(values: &Value, fields: &[&str]) -> Value {
    values.as_array().unwrap_or_else(|| panic!("{values}")).iter().map(|value| only(value, fields)).collect()
}

/// What an agent says of what it keeps; nothing of what changes by itself.
async fn kept(daemon: &Daemon) -> Value {
    let mut libraries = BTreeMap::new();
    for library in daemon.get("/libraries").await["libraries"].as_array().unwrap() {
        let id = library["id"].as_str().unwrap();
        let detail = daemon.get(&format!("/libraries/{id}")).await;
        let fields = ["id", "name", "filter", "access", "owner", "counts", "since", "expires", "problem"];
        let mut said = only(&detail, &fields);
        said["members"] = each(&detail["members"], &["endpoint_id", "name", "access", "serial"]);
        said["tickets"] =
            each(&detail["tickets"], &["serial", "access", "issued", "uses", "used", "revoked"]);
        libraries.insert(id.to_owned(), said);
    }
    let photos = daemon.get(&format!("/folders/{FOLDER}")).await;
    let fields =
        ["folder", "name", "mode", "removals", "files", "entries", "held", "asked", "conflicts", "state"];
    let mut histories = BTreeMap::new();
    for path in ["one.txt", "two.txt", "d/three.txt"] {
        let versions = daemon.get(&format!("/folders/{FOLDER}/history?path={path}")).await;
        histories.insert(path, versions);
    }
    let peers = daemon.get("/peers").await;
    let pins = daemon.get("/pins").await;
    json!({
        "endpoint_id": daemon.id(),
        "assets": daemon.assets().await,
        "trash": daemon.ok(&["--json", "trash"]).json().iter().map(|one| one["hash"].clone()).collect::<Vec<_>>(),
        "libraries": libraries,
        "folder": only(&photos, &fields),
        "histories": histories,
        "peers": each(&peers["peers"], &["endpoint_id", "name"]),
        "pins": only(&pins, &["hashes", "filters"]),
    })
}

/// What of `expected` is not in `found`, each with its place.
fn lacking(found: &Value, expected: &Value, at: &str, lacks: &mut Vec<String>) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (name, expected) in expected {
                lacking(found.get(name).unwrap_or(&Value::Null), expected, &format!("{at}/{name}"), lacks);
            }
        }
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            for (n, (found, expected)) in found.iter().zip(expected).enumerate() {
                lacking(found, expected, &format!("{at}/{n}"), lacks);
            }
        }
        _ if found == expected => {}
        _ => lacks.push(format!("{at}: {found} instead of {expected}")),
    }
}

/// Waits until an agent says all that was said then.
async fn says(daemon: &Daemon, expected: &Value) {
    eventually("all is there", async || {
        let (found, mut lacks) = (kept(daemon).await, Vec::new());
        lacking(&found, expected, "", &mut lacks);
        if lacks.is_empty() { Ok(()) } else { Err(lacks.join("\n")) }
    })
    .await;
}

/// Says so and is `false` where there is no tar.
fn tar_works() -> bool {
    let works = Command::new("tar").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !works {
        println!("skipped: tar is not installed");
    }
    works
}

/// A directory that some version left, in a home of its own.
struct Thawed {
    version: String,
    user: User,
    expected: Value,
}

impl Thawed {
    /// Every version's.
    fn all() -> Vec<Self> {
        let entries = fs::read_dir(frozen()).expect("there are some");
        let mut archives: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        archives.sort();
        assert!(!archives.is_empty());
        archives.iter().map(|archive| Self::of(archive)).collect()
    }

    fn of(archive: &Path) -> Self {
        let user = User::new();
        let mut tar = Command::new("tar");
        tar.arg("-xzf").arg(archive).args(["--no-same-owner", "-C"]).arg(user.home());
        assert!(tar.status().expect("tar runs").success(), "{}", archive.display());
        // The folder's directory is somewhere else on this machine.
        let database = rusqlite::Connection::open(user.home().join("data/agent.db")).unwrap();
        let photos = user.home().canonicalize().unwrap().join("Photos");
        let moved = database.execute("UPDATE folder_bindings SET path = ?1", [photos.to_str().unwrap()]);
        assert_eq!(moved, Ok(1));
        let expected = fs::read(user.home().join("expected.json")).unwrap();
        let version = archive.file_name().unwrap().to_string_lossy().into_owned();
        Self { version, user, expected: serde_json::from_slice(&expected).unwrap() }
    }

    fn store(&self) -> PathBuf {
        self.user.home().join("data/store")
    }

    /// Assets by hash, as they were listed, of those whose contents are here.
    fn held(&self) -> BTreeMap<String, Value> {
        let assets = self.expected["kept"]["assets"].as_array().unwrap().iter();
        let held = assets.filter(|asset| asset["held"] == true);
        held.map(|asset| (asset["hash"].as_str().unwrap().to_owned(), asset.clone())).collect()
    }

    /// The files of its folder's directory.
    fn files(&self) -> BTreeMap<String, String> {
        serde_json::from_value(self.expected["files"].clone()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_goes_on_from_where_every_version_left_it() {
    if !tar_works() {
        return;
    }
    for thawed in Thawed::all() {
        let (held, there) = (thawed.held(), thawed.files());
        let Thawed { version, user, expected } = thawed;
        println!("{version}");
        let daemon = Daemon::start_as(user);
        let photos = daemon.user.home().join("Photos");
        says(&daemon, &expected["kept"]).await;
        assert_eq!(files(&photos), there, "{version}");
        for hash in held.keys() {
            let content = content(&daemon, hash).await.unwrap_or_else(|| panic!("{version}: {hash}"));
            assert_eq!(hash_of(&content).to_string(), *hash, "{version}");
        }
        let scrub = daemon.ok(&["--json", "scrub"]).json().remove(0);
        assert_eq!(
            (&scrub["damaged"], &scrub["checked"]),
            (&json!([]), &json!(held.len())),
            "{version}: {scrub}"
        );
        // What it removed comes back from its trash.
        let removed = expected["removed"].as_str().unwrap();
        daemon.ok(&["trash", "restore", removed]);
        let content = content(&daemon, removed).await.expect("its content");
        assert_eq!(hash_of(&content).to_string(), removed, "{version}");
        gives_all_to_others(&daemon, &expected, held.len() + 1, &there).await;
    }
}

/// A machine that knows the passphrase gets all of it, and somebody with a ticket of then what that is for.
async fn gives_all_to_others(
    daemon: &Daemon,
    expected: &Value,
    held: usize,
    there: &BTreeMap<String, String>,
) {
    let own = TestNode::start("of today", |config| config.sync_passphrase = Some(PASSPHRASE.into())).await;
    let dial = json!({ "ticket": daemon.started["ticket"] });
    assert_eq!(own.post("/peers", dial.clone()).await["status"], "success");
    eventually("all is there, too", async || {
        let held_there = own.held().await.len();
        (held_there == held).then_some(()).ok_or_else(|| format!("{held_there} of {held}"))
    })
    .await;
    let member = stranger("member").await;
    let ticket = expected["ticket"].as_str().unwrap().to_owned();
    Invited { ticket, serial: 0 }.join(&member).await;
    assert_eq!(member.post("/peers", dial).await["status"], "success");
    member.holds(1).await;
    let home = tempfile::tempdir().unwrap();
    eventually("the folder is known", async || {
        let known = own.get("/folders").await["data"]["known"].clone();
        (known.as_array().unwrap().len() == 1).then_some(()).ok_or_else(|| known.to_string())
    })
    .await;
    let bound = own.post("/folders", json!({ "path": home.path(), "name": FOLDER })).await;
    assert_eq!(bound["status"], "success", "{bound}");
    eventually("its files are there", async || {
        let found = files(home.path());
        (found == *there).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
}

/// Reads all of a store that somebody serves: metadata, and every content.
async fn is_served(store_url: &str, thawed: &Thawed) {
    let (http, held) = (client(), thawed.held());
    let listed = list(&http, store_url).await;
    let mut lacks = Vec::new();
    lacking(&json!(listed), &thawed.expected["kept"]["assets"], "", &mut lacks);
    assert_eq!(lacks, Vec::<String>::new(), "{}", thawed.version);
    for hash in held.keys() {
        let answer = http.get(format!("{store_url}/asset/{hash}")).send().await.unwrap();
        assert!(answer.status().is_success(), "{}: {hash}: {}", thawed.version, answer.status());
        let content = answer.bytes().await.unwrap();
        assert_eq!(hash_of(&content).to_string(), *hash, "{}", thawed.version);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_can_service_serves_what_every_version_s_agent_left() {
    if !tar_works() {
        return;
    }
    for thawed in Thawed::all() {
        let service = ServiceProcess::start(&thawed.user.home().join("data"), "127.0.0.1:0");
        let url = format!("http://{}{}", service.addr, can_sync::testing::store::service::BASE_PATH);
        is_served(&url, &thawed).await;
    }
}

/// As if an agent of the first schema had gone on from it, for what that had.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_version_left_is_read_from_the_first_schema_as_well() {
    const KNOWN_THEN: [&str; 8] =
        ["hash", "size", "mime_type", "filename", "application", "tags", "description", "created_at"];
    if !tar_works() {
        return;
    }
    for thawed in Thawed::all() {
        // What there is to take away is what the newest schema has.
        open(&thawed.store()).await.close().await;
        to_first_schema(&thawed.store().join("store.db"));
        let (held, version) = (thawed.held(), thawed.version);
        let daemon = Daemon::start_as(thawed.user);
        let listed = daemon.assets().await;
        let listed: BTreeMap<&str, &Value> =
            listed.iter().map(|asset| (asset["hash"].as_str().unwrap(), asset)).collect();
        for (hash, expected) in &held {
            let found = listed.get(&**hash).unwrap_or_else(|| panic!("{version}: {hash} is not listed"));
            assert_eq!(only(found, &KNOWN_THEN), only(expected, &KNOWN_THEN), "{version}");
            let content = content(&daemon, hash).await.unwrap_or_else(|| panic!("{version}: {hash}"));
            assert_eq!(hash_of(&content).to_string(), *hash, "{version}");
        }
    }
}

/// Has an agent do what is in a frozen directory. What its test needs to know besides.
async fn fill(daemon: &Daemon) -> Value {
    let own =
        TestNode::start("another machine", |config| config.sync_passphrase = Some(PASSPHRASE.into())).await;
    let dial = json!({ "ticket": own.ticket() });
    assert_eq!(daemon.post("/peers", &dial).await["status"], "success");
    let mut hashes = Vec::new();
    for (name, bytes) in SIZES {
        hashes.push(put(daemon, name, text(name, bytes), "frozen").await);
    }
    put(daemon, "the same page.txt", text("page.txt", 5_000), "frozen,twice").await;
    for (path, fields) in [
        (&hashes[0], json!({ "description": "édité", "user": "Ann" })),
        (&hashes[3], json!({ "tags": ["shared"] })),
    ] {
        let url = daemon.store_url(&format!("/asset/{path}/meta"));
        assert!(daemon.http.patch(url).json(&fields).send().await.unwrap().status().is_success());
    }
    let removed = put(daemon, "removed.txt", text("removed.txt", 80_000), "frozen").await;
    daemon.ok(&["rm", &removed]);
    for (name, bytes) in [("theirs.txt", 3_000), ("their book.txt", 90_000)] {
        hashes.push(own.ingest(text(name, bytes), &[("tags", "theirs")]).await);
    }
    own.wait_in_sync().await;
    eventually("what the other one has is here", async || {
        content(daemon, &hashes[6]).await.map(drop).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    daemon.sync_store().let_go(vec![hashes[5].parse().unwrap()]).await.unwrap();
    assert_eq!(daemon.post("/pins", &json!({ "hashes": [hashes[1]] })).await["status"], "success");

    let made =
        daemon.post("/libraries", &json!({ "name": "shared", "filter": { "tags": ["shared"] } })).await;
    let id = made["data"]["id"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let invite =
        async |terms: Value| daemon.post(&format!("/libraries/{id}/invite"), &terms).await["data"].clone();
    let (kept, revoked) =
        (invite(json!({ "access": "write" })).await, invite(json!({ "access": "read" })).await);
    let revoke = json!({ "serial": revoked["serial"] });
    assert_eq!(daemon.post(&format!("/libraries/{id}/revoke"), &revoke).await["status"], "success");
    let owner = stranger("owner").await;
    let theirs = Share::new(&owner, json!({ "tags": ["theirs"] })).await;
    owner.ingest(text("of another network.txt", 4_000), &[("tags", "theirs")]).await;
    let ticket = theirs.invite(&owner, json!({ "access": "read" })).await.ticket;
    assert_eq!(daemon.post("/join", &json!({ "ticket": ticket })).await["status"], "success");
    eventually("what is shared is here", async || {
        let assets = daemon.assets().await.len();
        (assets == 8).then_some(()).ok_or_else(|| format!("{assets} of 8"))
    })
    .await;

    let photos = daemon.user.home().join("Photos");
    fs::create_dir_all(photos.join("d")).unwrap();
    for (path, content) in
        [("one.txt", "one"), ("two.txt", "two"), ("d/three.txt", "three"), ("gone.txt", "gone")]
    {
        fs::write(photos.join(path), content).unwrap();
    }
    assert_eq!(
        daemon.post("/folders", &json!({ "path": photos, "name": FOLDER })).await["status"],
        "success"
    );
    rests(daemon, 4).await;
    fs::write(photos.join("one.txt"), "one, later").unwrap();
    fs::remove_file(photos.join("gone.txt")).unwrap();
    rests(daemon, 3).await;
    json!({ "removed": removed, "ticket": kept["ticket"] })
}

async fn rests(daemon: &Daemon, entries: u64) {
    eventually("all is agreed", async || {
        daemon.post(&format!("/folders/{FOLDER}/actions"), &json!({ "action": "look" })).await;
        let report = daemon.get(&format!("/folders/{FOLDER}")).await;
        let rests = report["state"] == "idle" && report["entries"] == entries && report["files"] == entries;
        rests.then_some(()).ok_or_else(|| report.to_string())
    })
    .await;
}

/// Not a test of its own: `cargo test --test it write_the_data_directory_of_this_version -- --ignored`, once per version.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes into the source tree"]
async fn write_the_data_directory_of_this_version() {
    let to = frozen().join(concat!(env!("CARGO_PKG_VERSION"), ".tar.gz"));
    assert!(!to.exists(), "{}: what a version left does not change any more", to.display());
    let user = User::new();
    user.write("config.yaml", yaml("name: frozen\nreplicate_deletes: true\ncan_listen_addr: 127.0.0.1:0"));
    user.write("data/passphrase", PASSPHRASE);
    let data = user.home().join("data");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(data.join("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut daemon = Daemon::start_as(user);
    let mut expected = fill(&daemon).await;
    expected["kept"] = kept(&daemon).await;
    expected["files"] = json!(files(&daemon.user.home().join("Photos")));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    let home = daemon.user.home();
    fs::write(home.join("expected.json"), serde_json::to_vec_pretty(&expected).unwrap()).unwrap();
    // Room that is laid by, of nothing but chance.
    fs::remove_file(home.join("data/store/ballast")).unwrap();
    fs::create_dir_all(frozen()).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&to).args(["--owner=0", "--group=0", "--numeric-owner", "-C"]).arg(home);
    assert!(tar.args(["config.yaml", "expected.json", "data", "Photos"]).status().unwrap().success());
}
