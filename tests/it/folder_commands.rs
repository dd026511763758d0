//! Folders as people have them: on the command line, in the configuration, over HTTP and in the figures.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::command::{Ran, User};
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;

fn start(name: &str, more: &str) -> Daemon {
    Daemon::start(&embedded_yaml(&format!("name: {name}\n{more}")))
}

fn dir(daemon: &Daemon, name: &str) -> PathBuf {
    let dir = daemon.user.home().canonicalize().unwrap().join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// As [`Daemon::run`], from another directory.
fn run_in(daemon: &Daemon, dir: &Path, args: &[&str]) -> Ran {
    let mut command = daemon.user.command(args);
    command.current_dir(dir).env("CAN_SYNC_API", daemon.started["api_url"].as_str().unwrap());
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ran { code: output.status.code().unwrap(), stdout: output.stdout, stderr }
}

/// What `folder status` says of one.
fn report(daemon: &Daemon, name: &str) -> Value {
    daemon.ok(&["folder", "status", name, "--json"]).json().remove(0)
}

/// Waits until a folder says this of itself.
async fn says(daemon: &Daemon, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let report = report(daemon, name);
        if is_so(&report) { Ok(report) } else { Err(report.to_string()) }
    })
    .await
}

async fn rests(daemon: &Daemon, name: &str, entries: u64) -> Value {
    says(daemon, name, "all is agreed", |report| report["state"] == "idle" && report["entries"] == entries)
        .await
}

#[tokio::test]
async fn a_folder_is_kept_by_what_people_type() {
    let desk = start("desk", "");
    let photos = dir(&desk, "Photos");
    fs::create_dir(photos.join("2024")).unwrap();
    fs::write(photos.join("2024/a.txt"), "first").unwrap();
    // Nothing is here yet.
    assert_eq!(desk.run(&["folder", "status", "photos"]).code, 6);
    assert_eq!(desk.run(&["folder", "pause"]).code, 6);
    assert!(desk.ok(&["folder", "list"]).stderr.contains("can-sync folder add"));
    // No shell has put the home directory in place of this.
    let added = desk.ok(&["folder", "add", "~/Photos", "--name", "photos"]);
    assert!(added.text().contains("is the folder 'photos' now"), "{}", added.text());
    assert!(
        added.stderr.contains("takes its room twice") || added.stderr.contains("shares"),
        "{}",
        added.stderr
    );
    rests(&desk, "photos", 1).await;
    // Once more is no other one.
    let again = desk.ok(&["folder", "add", text(&photos), "--json"]).json().remove(0);
    let id = again["folder"].as_str().unwrap().to_owned();
    assert_eq!((&again["name"], &again["mode"]), (&json!("photos"), &json!("both")));
    let other = desk.run(&["folder", "add", text(&photos), "--name", "other"]);
    assert!(other.code == 1 && other.stderr.contains("is the folder 'photos' already"), "{}", other.stderr);
    let listed = desk.ok(&["folder", "list", "--json"]).json();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["folder"], &listed[0]["bound"]), (&json!(id), &json!(true)));

    // By name, directory, id, with a flag, or not at all.
    for named in [&["photos"][..], &[text(&photos)], &[&id[..10]], &["--folder", "photos"], &[]] {
        desk.ok(&[&["folder", "pause"], named].concat());
        says(&desk, "photos", "it is paused", |report| report["state"] == "paused").await;
        desk.ok(&[&["folder", "resume"], named].concat());
        says(&desk, "photos", "it goes on", |report| report["state"] == "idle").await;
    }
    fs::write(photos.join("2024/a.txt"), "second").unwrap();
    says(&desk, "photos", "the edit is seen", |_| {
        desk.ok(&["folder", "history", "2024/a.txt", "--json"]).json().len() == 2
    })
    .await;
    // From the root, from here, from anywhere.
    let whole = photos.join("2024/a.txt");
    for (here, path) in [
        (desk.user.home(), "2024/a.txt"),
        (desk.user.home(), "Photos/2024/a.txt"),
        (desk.user.home(), text(&whole)),
        (&photos.join("2024"), "a.txt"),
        (&photos.join("2024"), "../2024/./a.txt"),
        (&photos.join("2024"), "2024/a.txt"),
    ] {
        for more in [&["--folder", "photos"][..], &[]] {
            let ran = run_in(&desk, here, &[&["folder", "history", path, "--json"], more].concat());
            assert_eq!((ran.code, ran.json().len()), (0, 2), "{path}: {}", ran.stderr);
        }
        let ran = run_in(&desk, here, &["folder", "history", "photos", path]);
        assert!(ran.code == 0 && ran.text().contains("now"), "{path}: {} {}", ran.text(), ran.stderr);
    }
    for command in ["history", "restore"] {
        let none = desk.run(&["folder", command, "2024/none.txt"]);
        assert!(none.code == 6 && none.stderr.contains("never had '2024/none.txt'"), "{}", none.stderr);
    }
    let ran = run_in(&desk, &photos.join("2024"), &["folder", "restore", "a.txt"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    eventually("it has what it had", async || {
        let found = fs::read_to_string(&whole).unwrap_or_default();
        (found == "first").then_some(()).ok_or(found)
    })
    .await;
    let ran = desk.run(&["folder", "restore", "2024/a.txt", "--at", "1999-01-01"]);
    assert!(ran.code == 1 && ran.stderr.contains("no such version"), "{}", ran.stderr);
    assert_eq!(desk.run(&["folder", "restore", "2024/a.txt", "--at", "soon"]).code, 2);
    for nothing in ["confirm", "revert", "keep", "trash"] {
        let ran = desk.run(&["folder", nothing, "photos"]);
        assert!(ran.code == 1 && ran.stderr.contains("nothing waits"), "{nothing}: {}", ran.stderr);
    }
    assert!(desk.ok(&["folder", "conflicts", "photos", "--json"]).json().is_empty());
    // Kept in another way from now on.
    let changed = desk.ok(&["folder", "add", text(&photos), "--send-only", "--json"]).json().remove(0);
    assert_eq!(changed["mode"], "send-only");
    says(&desk, "photos", "it is send-only", |report| report["mode"] == "send-only").await;
    desk.ok(&["folder", "add", text(&photos)]);
    assert_eq!(report(&desk, "photos")["mode"], "send-only");

    // Every file stays; another folder may have the directory.
    desk.ok(&["folder", "remove", "photos"]);
    assert!(whole.exists());
    assert!(desk.ok(&["folder", "list"]).text().contains("not on this machine"));
    let added = desk.ok(&["folder", "add", text(&photos), "--name", "other", "--json"]).json().remove(0);
    assert_ne!(added["folder"], json!(id));
    rests(&desk, "other", 1).await;
}

#[tokio::test]
async fn with_several_folders_an_error_names_them_and_odd_names_are_escaped() {
    let desk = start("desk", "");
    let (photos, texts) = (dir(&desk, "Photos"), dir(&desk, "Texts"));
    for dir in [&photos, &texts] {
        desk.ok(&["folder", "add", text(dir)]);
    }
    let ran = desk.run(&["folder", "pause"]);
    assert_eq!(ran.code, 2);
    for said in ["Photos", "Texts", "say which", text(&photos)] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    assert_eq!(desk.ok(&["folder", "status", "--json"]).json().len(), 2);
    // The path of a file says which.
    fs::write(texts.join("note.txt"), "a note").unwrap();
    rests(&desk, "Texts", 1).await;
    assert_eq!(desk.ok(&["folder", "history", "Texts/note.txt", "--json"]).json().len(), 1);
    let ran = desk.run(&["folder", "history", "note.txt"]);
    assert!(ran.code == 2 && ran.stderr.contains("Photos"), "{}", ran.stderr);
    // A name that no machine has to believe.
    std::os::unix::fs::symlink("/nowhere", photos.join("evil\u{1b}[2J\nname")).unwrap();
    fs::write(photos.join("x"), "so that it is looked").unwrap();
    desk.ok(&["folder", "pause", "Photos"]);
    desk.ok(&["folder", "resume", "Photos"]);
    eventually("the link is named", async || {
        let ran = desk.ok(&["folder", "status"]);
        let shown = ran.text();
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        shown.contains("evil").then_some(()).ok_or_else(|| shown.to_owned())
    })
    .await;

    // One that would take everything, or what the node has itself, or what lies in another one.
    fs::create_dir(photos.join("inside")).unwrap();
    for (path, why) in [
        ("/", "cannot be a folder"),
        ("~", "cannot be a folder"),
        ("data", "data directory"),
        ("Photos/inside", "lies inside"),
        ("Missing", "there is no directory"),
        ("config.yaml", "is not a directory"),
    ] {
        let ran = desk.run(&["folder", "add", path, "--name", "more"]);
        assert!(ran.code == 1 && ran.stderr.contains(why), "{path}: {}", ran.stderr);
    }
    assert!(!desk.user.home().join(".can-sync-folder").exists());
    // What would not fit.
    let large = dir(&desk, "Large");
    let file = fs::File::create(large.join("hole")).unwrap();
    if file.set_len(1 << 43).is_ok() {
        let ran = desk.run(&["folder", "add", text(&large)]);
        let is_said = ran.stderr.contains("8796093022208 bytes") && ran.stderr.contains("are free");
        assert!(ran.code == 1 && is_said, "{}", ran.stderr);
        assert!(!large.join(".can-sync-folder").exists());
    }
    // Two folders of one name.
    fs::remove_file(large.join("hole")).unwrap();
    desk.ok(&["folder", "add", text(&large), "--name", "Photos", "--new"]);
    let third = dir(&desk, "Third");
    let ran = desk.run(&["folder", "add", text(&third), "--name", "Photos"]);
    let known = desk.get("/folders").await["known"].clone();
    for one in known.as_array().unwrap().iter().filter(|one| one["name"] == "Photos") {
        assert!(ran.stderr.contains(one["folder"].as_str().unwrap()), "{}", ran.stderr);
    }
    assert!(ran.code == 1 && ran.stderr.contains("--new"), "{}", ran.stderr);
    let ran = desk.run(&["folder", "pause", "Photos"]);
    assert!(ran.code == 2 && ran.stderr.contains(text(&large)), "{}", ran.stderr);
}

#[tokio::test]
async fn folders_of_the_configuration_are_bound_at_the_start() {
    let (user, other) = (User::new(), User::new());
    for (user, name) in [(&user, "Photos"), (&other, "Pictures")] {
        fs::create_dir(user.home().join(name)).unwrap();
        let missing = if name == "Photos" { "  - path: ./Missing\n    mode: read-only\n" } else { "" };
        let yaml = format!("name: {name}\nfolders:\n  - path: ./{name}\n    name: photos\n{missing}");
        user.write("config.yaml", embedded_yaml(&yaml));
    }
    let checked = user.run(&["config", "check"]);
    assert!(checked.code == 0 && checked.stderr.contains("Missing"), "{}", checked.stderr);
    let shown = user.run(&["config", "show", "--json"]).json().remove(0);
    assert_eq!(shown["settings"]["folders"]["value"][1]["mode"], "read-only", "{shown}");
    fs::write(user.home().join("Photos/one.txt"), "one").unwrap();
    // Both start before they met: one folder all the same.
    let (desk, cellar) = (Daemon::start_as(user), Daemon::start_as(other));
    rests(&desk, "photos", 1).await;
    rests(&cellar, "photos", 0).await;
    cellar.dial(&desk).await;
    rests(&cellar, "photos", 1).await;
    assert_eq!(fs::read_to_string(cellar.user.home().join("Pictures/one.txt")).unwrap(), "one");
    let failed = report(&desk, "Missing");
    assert_eq!((&failed["state"], &failed["folder"]), (&json!("failed"), &json!("")), "{failed}");
    assert!(failed["reason"].as_str().unwrap().contains("there is no directory"), "{failed}");
    assert!(desk.ok(&["folder", "status"]).text().contains("there is no directory"));
    let ran = desk.run(&["folder", "pause", "Missing"]);
    assert!(ran.code == 1 && ran.stderr.contains("is not bound"), "{}", ran.stderr);
    // It is there with the next start; what was bound stays as it is.
    let id = report(&desk, "photos")["folder"].clone();
    fs::create_dir(desk.user.home().join("Missing")).unwrap();
    let desk = desk.restart();
    rests(&desk, "Missing", 0).await;
    let photos = rests(&desk, "photos", 1).await;
    assert_eq!((&photos["folder"], &photos["configured"]), (&id, &json!(true)));
    let removed = desk.ok(&["folder", "remove", "photos"]);
    assert!(removed.stderr.contains("the next start binds it again"), "{}", removed.stderr);
}

#[tokio::test]
async fn what_folders_do_is_told_to_programs() {
    let (desk, cellar) = (start("desk", ""), start("cellar", ""));
    let (photos, pictures) = (dir(&desk, "Photos"), dir(&cellar, "Pictures"));
    cellar.dial(&desk).await;
    desk.ok(&["folder", "add", text(&photos), "--name", "photos"]);
    fs::write(photos.join("note.txt"), "base").unwrap();
    eventually("the folder is known", async || {
        let known = cellar.get("/folders").await["known"].clone();
        known.as_array().is_some_and(|known| known.len() == 1).then_some(()).ok_or_else(|| known.to_string())
    })
    .await;
    cellar.ok(&["folder", "add", text(&pictures), "--name", "photos"]);
    rests(&cellar, "photos", 1).await;
    // Where an asset is.
    let hash = desk.ok(&["folder", "history", "note.txt", "--json"]).json()[0]["hash"].clone();
    let hash = hash.as_str().unwrap();
    let why = desk.ok(&["why", hash]);
    assert!(why.text().contains("in the folder 'photos' as note.txt"), "{}", why.text());
    let places = desk.post("/folder-places", &json!({ "hashes": [hash] })).await["data"]["places"].clone();
    assert_eq!((&places[0]["path"], &places[0]["name"]), (&json!("note.txt"), &json!("photos")), "{places}");
    let refused = desk.post("/folder-places", &json!({ "hashes": ["x"] })).await;
    assert_eq!(refused["status"], "error", "{refused}");

    // How it is.
    let status = desk.get("/status").await["folders"][0].clone();
    assert_eq!((&status["name"], &status["entries"]), (&json!("photos"), &json!(1)), "{status}");
    assert!(desk.ok(&["status"]).text().contains("photos at "));
    let metrics = desk.http.get(desk.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let labels = format!("{{folder=\"{}\",name=\"photos\"", status["folder"].as_str().unwrap());
    for line in ["can_sync_folder_entries", "can_sync_folder_state"] {
        assert!(metrics.contains(&format!("{line}{labels}")), "{line}: {metrics}");
    }
    let page = desk.http.get(desk.url("/")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("photos") && page.contains(text(&photos)));

    // Edited on both apart.
    cellar.ok(&["folder", "pause"]);
    desk.ok(&["folder", "pause"]);
    fs::write(photos.join("note.txt"), "of desk").unwrap();
    fs::write(pictures.join("note.txt"), "of cellar").unwrap();
    cellar.ok(&["folder", "resume"]);
    desk.ok(&["folder", "resume"]);
    for daemon in [&desk, &cellar] {
        says(daemon, "photos", "a copy is named", |report| {
            report["conflicts"].as_array().unwrap().len() == 1
        })
        .await;
        let copies = daemon.ok(&["folder", "conflicts", "--json"]).json();
        assert!(copies[0]["path"].as_str().unwrap().starts_with("note ("), "{copies:?}");
        assert!(daemon.ok(&["folder", "conflicts"]).text().contains("note ("));
        let event = ["events", "--since", "0", "--type", "folder_conflict", "--count", "1", "--json"];
        let told = daemon.ok(&event).json().remove(0)["data"].take();
        assert_eq!((&told["path"], &told["folder"]), (&copies[0]["path"], &status["folder"]), "{told}");
    }
    // A directory that is not there.
    rests(&desk, "photos", 2).await;
    fs::rename(&photos, photos.with_file_name("Away")).unwrap();
    desk.post("/folders/photos/actions", &json!({ "action": "look" })).await;
    says(&desk, "photos", "it is missing", |report| report["state"] == "missing").await;
    let event = ["events", "--since", "0", "--type", "folder_missing", "--count", "1", "--json"];
    let told = desk.ok(&event).json().remove(0)["data"].take();
    assert_eq!(told["path"], json!(photos), "{told}");
    let doctor = desk.run(&["doctor"]);
    assert!(doctor.text().contains("folder: photos"), "{}", doctor.text());
    assert!(desk.ok(&["status"]).text().contains("missing"));

    // What programs are told of all this.
    let described = desk.http.get(desk.url("/openapi.json")).send().await.unwrap().text().await.unwrap();
    let described: Value = serde_json::from_str(&described).unwrap();
    for schema in
        ["FolderReport", "FolderState", "FolderVersion", "KnownFolder", "FolderConflict", "FolderPlace"]
    {
        assert!(described["components"]["schemas"][schema].is_object(), "{schema}");
    }
    for path in [
        "/folders",
        "/folders/{id}",
        "/folders/{id}/actions",
        "/folders/{id}/history",
        "/folders/{id}/conflicts",
    ] {
        assert!(described["paths"][path].is_object(), "{path}");
    }
}

#[tokio::test]
async fn a_folder_of_scans_alone_is_not_watched_and_finds_changes_all_the_same() {
    let desk = start("desk", "full_scan_interval_secs: 1\n");
    let photos = dir(&desk, "Photos");
    let added = desk.ok(&["folder", "add", text(&photos), "--scan-only", "--json"]).json().remove(0);
    assert_eq!(added["scan_only"], true, "{added}");
    rests(&desk, "Photos", 0).await;
    fs::write(photos.join("one.txt"), "one").unwrap();
    let report = rests(&desk, "Photos", 1).await;
    assert_eq!((&report["scan_only"], &report["watched"]), (&json!(true), &json!(false)), "{report}");
    assert!(desk.ok(&["folder", "status"]).text().contains("from time to time"));
    // Over HTTP as well, with either spelling of a mode.
    let texts = dir(&desk, "Texts");
    let body = json!({ "path": texts, "name": "Café", "mode": "read_only", "removals": "ignore" });
    let added = desk.post("/folders", &body).await["data"].take();
    // Named as people type it, there and on the command line.
    for name in ["caf%C3%A9", "CAFE%CC%81", &added["folder"].as_str().unwrap()[..4]] {
        assert_eq!(desk.get(&format!("/folders/{name}")).await["folder"], added["folder"], "{name}");
    }
    let shown = desk.ok(&["folder", "status", "CAFE\u{301}", "--json"]).json().remove(0);
    assert_eq!(shown["folder"], added["folder"]);
    assert_eq!((&added["mode"], &added["removals"]), (&json!("read-only"), &json!("ignore")), "{added}");
    assert_eq!(desk.post("/folders", &json!({ "path": "relative" })).await["code"], "invalid_folder");
    assert_eq!(desk.post("/folders", &json!({ "path": texts, "mode": "x" })).await["status"], "error");
    let unknown = desk.http.get(desk.url("/folders/none/conflicts")).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    // What makes no sense is refused in the envelope, with a code, and not repeated at length.
    let long = "x".repeat(3000);
    for (path, status, code) in [
        ("/folders/%FF", 400, "invalid_path_text"),
        ("/peers/%FF", 400, "invalid_path_text"),
        (&format!("/folders/{long}"), 404, "unknown_folder"),
        ("/folders/Photos/history?path=../x", 400, "invalid_path"),
        ("/folders/Photos/history", 400, "invalid_path"),
    ] {
        let refused = desk.http.get(desk.url(path)).send().await.unwrap();
        assert_eq!(refused.status(), status, "{path}");
        let refused: Value = refused.json().await.unwrap();
        assert_eq!(refused["code"], code, "{path}: {refused}");
        assert!(!refused.to_string().contains(&long), "{refused}");
    }
    let refused = desk.post("/folders", &json!({ "path": format!("/{}", "x".repeat(5000)) })).await;
    assert!(refused["code"] == "invalid_folder" && !refused.to_string().contains(&long), "{refused}");
    let ran = desk.run(&["folder", "restore", "Photos", "/etc/passwd"]);
    assert!(ran.code == 6 && ran.stderr.contains("'/etc/passwd' is not in the folder"), "{}", ran.stderr);
}
