//! The page in a real browser, over real nodes: what people see of it, and what it does for them.
//!
//! Where there is no Chromium, these tests say so and do nothing.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::ports::kept;

fn start(name: &str, more: &str) -> Daemon {
    Daemon::start(&embedded_yaml(&format!("name: {name}\n{more}")))
}

/// Deletions that need nobody's decision.
const FREE: usize = 20;

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// Waits until a daemon's store has assets of these names, and no others.
async fn has_names(daemon: &Daemon, names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    eventually("the assets are stored", async || {
        let found: BTreeSet<String> =
            daemon.assets().await.iter().map(|asset| text(asset, "filename").to_owned()).collect();
        (found == wanted).then_some(()).ok_or_else(|| format!("{found:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_dropped_folder_stores_its_files() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "");
    for (name, content) in [
        ("trip/one.txt", "one"),
        ("trip/day 2/two.txt", "two"),
        ("trip/day 2/deep/er/three.txt", "three"),
        ("trip/empty.txt", ""),
        ("alone.txt", "alone"),
    ] {
        desk.user.write(name, content);
    }
    let home = desk.user.home();
    std::fs::create_dir(home.join("nothing")).unwrap();
    browser.open(&desk.url("/")).await;
    // A busy browser may miss it.
    eventually("something is stored", async || {
        browser.drop_files(&[&home.join("trip"), &home.join("alone.txt")]).await;
        if desk.assets().await.is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
    })
    .await;
    has_names(&desk, &["one.txt", "two.txt", "three.txt", "empty.txt", "alone.txt"]).await;
    // A busy browser may miss one.
    eventually("the empty folder is told of", async || {
        browser.drop_files(&[&home.join("nothing")]).await;
        let shown = browser.text().await;
        shown.contains("There is no file in this folder.").then_some(()).ok_or(shown)
    })
    .await;
    eventually("all uploads have ended", async || {
        let shown = browser.text().await;
        if shown.contains(" to go") { Err(shown) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn chosen_files_and_folders_are_stored() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "");
    for name in ["alone.txt", "more/four.txt", "more/deep/five.txt"] {
        desk.user.write(name, name);
    }
    let home = desk.user.home();
    browser.open(&desk.url("/")).await;
    browser.enter("#folder", home.join("more").to_str().unwrap()).await;
    has_names(&desk, &["four.txt", "five.txt"]).await;
    browser.shows("2 files stored").await;
    browser.enter("#files", home.join("alone.txt").to_str().unwrap()).await;
    has_names(&desk, &["four.txt", "five.txt", "alone.txt"]).await;
    browser.shows("1 file stored").await;
    browser.enter("#files", home.join("alone.txt").to_str().unwrap()).await;
    browser.shows("1 file here already").await;
}

#[tokio::test]
async fn many_files_go_on_after_one_that_cannot_be_read() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "");
    let names: Vec<String> = (0..150).map(|n| format!("{n:03}.txt")).collect();
    for name in &names {
        desk.user.write(&format!("many/{name}"), name);
    }
    let many = desk.user.home().join("many");
    std::os::unix::fs::symlink(Path::new("/nowhere/at/all"), many.join("dangling.txt")).unwrap();
    browser.open(&desk.url("/")).await;
    eventually("something is stored", async || {
        browser.drop_files(&[&many]).await;
        if desk.assets().await.is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
    })
    .await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    has_names(&desk, &names).await;
    // A link that leads nowhere is no file: whatever the browser makes of it, the rest is stored.
}

#[tokio::test]
async fn names_show_what_is_in_them() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "");
    let hazards = ["cod\u{202e}gpj.exe", "a\u{200b}b", "new\nline", "bell\u{7}", "\u{2066}isolated\u{2069}"];
    for (n, name) in hazards.iter().enumerate() {
        desk.user.write(&format!("hazards/{name}"), format!("hazard {n}"));
    }
    desk.ok(&["put", "-r", "hazards"]);
    browser.open(&desk.url("/")).await;
    for shown in
        ["cod\\u{202e}gpj.exe", "a\\u{200b}b", "new\\nline", "bell\\u{7}", "\\u{2066}isolated\\u{2069}"]
    {
        browser.shows(shown).await;
    }
    // Uploads show their names before the node has them.
    browser
        .run(
            "window.seen = []; new MutationObserver(() => seen.push(document.getElementById('uploads').textContent))
                .observe(document.getElementById('uploads'), { childList: true, subtree: true });",
            json!([]),
        )
        .await;
    desk.user.write("up\u{202e}load.txt", "an upload");
    browser.enter("#files", desk.user.home().join("up\u{202e}load.txt").to_str().unwrap()).await;
    browser.shows("1 file stored.").await;
    let seen = browser.run("return window.seen.join(' ')", json!([])).await;
    let seen = seen.as_str().unwrap();
    assert!(seen.contains("up\\u{202e}load.txt") && !seen.contains('\u{202e}'), "{seen:?}");
    let titles = browser.run("return document.documentElement.outerHTML", json!([])).await;
    let hidden = |c: char| ['\u{202e}', '\u{200b}', '\u{2066}', '\u{7}'].contains(&c);
    assert!(!titles.as_str().unwrap().contains(hidden));
}

#[tokio::test]
async fn eight_tabs_show_what_happens() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "");
    let mut tabs = Vec::new();
    for _ in 0..8 {
        tabs.push(browser.open_tab(&desk.url("/")).await);
        // A browser has six connections for one server: the next page would wait for ever if each tab kept one.
        browser.shows("No assets yet.").await;
    }
    desk.user.write("fresh.txt", "fresh");
    desk.ok(&["put", "fresh.txt"]);
    for tab in &tabs {
        browser.switch(tab).await;
        browser.shows("fresh.txt").await;
    }
}

#[tokio::test]
async fn a_node_that_does_not_answer_claims_nothing() {
    let Some(browser) = Browser::start().await else { return };
    let (mut desk, cellar) = (start("desk", ""), start("cellar", ""));
    desk.user.write("fresh.txt", "fresh");
    desk.ok(&["put", "fresh.txt"]);
    cellar.dial(&desk).await;
    browser.open(&desk.url("/")).await;
    browser.shows("In sync").await;
    // The same address after it starts again.
    let url = desk.url("/");
    let port = reqwest::Url::parse(&url).unwrap().port().unwrap();
    desk.kill();
    let kept = kept(([127, 0, 0, 1], port).into());
    browser.shows("This node has not answered since").await;
    let shown = browser.text().await;
    for claim in ["In sync", "in sync", "Nothing is missing", "running", "/s", "tickets up"] {
        assert!(!shown.contains(claim), "{claim}: {shown}");
    }
    assert!(shown.contains("not known") && shown.contains("fresh.txt"), "{shown}");
    let user = desk.into_user();
    user.write(
        "config.yaml",
        embedded_yaml("name: desk\n")
            .replace("listen_addr: 127.0.0.1:0\nbind", &format!("listen_addr: 127.0.0.1:{port}\nbind")),
    );
    let desk = Daemon::start_as(user);
    drop(kept);
    assert_eq!(desk.url("/"), url);
    browser.shows("In sync").await;
    assert!(!browser.text().await.contains("has not answered since"));
}

#[tokio::test]
async fn an_invitation_says_to_which_library() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "");
    for name in ["pictures", "letters"] {
        desk.post("/libraries", &json!({ "name": name, "filter": { "tags": [name] } })).await;
    }
    browser.open(&desk.url("/")).await;
    browser.click("button[data-invite='read'][data-name='letters']").await;
    browser.shows("Ticket to read 'letters', for one machine and one day").await;
    browser.click("button[data-invite='write'][data-name='pictures']").await;
    browser.shows("Ticket to read and write into 'pictures', for one machine and one day").await;
    let ticket = browser.run("return document.getElementById('invited-ticket').value", json!([])).await;
    let shown = start("cellar", "").post("/join/preview", &json!({ "ticket": ticket })).await["data"].take();
    assert_eq!((text(&shown, "name"), text(&shown, "access")), ("pictures", "write"), "{shown}");
}

#[tokio::test]
async fn a_machine_that_waits_is_let_in_and_held_deletions_are_decided() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "approve_devices: true\nreplicate_deletes: true\n");
    let laptop = start("laptop", "");
    laptop.dial(&desk).await;
    browser.open(&desk.url("/")).await;
    browser.shows("has the passphrase and waits to be let in").await;
    browser.click("button[data-device='approve']").await;
    let question = browser.accept().await;
    assert!(question.contains(&laptop.id()[..10]), "{question}");
    browser.shows("In sync").await;

    let hashes: Vec<String> = (0..60)
        .map(|n| {
            laptop.user.write("note.txt", format!("note {n}"));
            text(&laptop.ok(&["put", "note.txt", "--json"]).json()[0], "hash").to_owned()
        })
        .collect();
    eventually("all are there", async || {
        let found = desk.assets().await.len();
        (found == hashes.len()).then_some(()).ok_or_else(|| found.to_string())
    })
    .await;
    // What comes together goes or is held together: what is free comes by itself, and all of the rest is there to be decided.
    for (some, left, held) in [
        (&hashes[..FREE], hashes.len() - FREE, 0),
        (&hashes[FREE..], hashes.len() - FREE, hashes.len() - FREE),
    ] {
        let mut delete = vec!["rm", "--yes"];
        delete.extend(some.iter().map(String::as_str));
        laptop.ok(&delete);
        eventually("they went, or are held", async || {
            let (found, status) = (desk.assets().await.len(), desk.get("/status").await);
            let is_so = found == left && status["sync"]["held_deletions"] == held;
            is_so.then_some(()).ok_or_else(|| format!("{found}, {status}"))
        })
        .await;
    }
    browser.shows("waiting for your decision").await;
    browser.click("button[data-decide='restore']").await;
    browser.accept().await;
    // Those that went before the rest was held stay away.
    eventually("what was held is back", async || {
        let found = laptop.assets().await.len();
        (found == hashes.len() - FREE).then_some(()).ok_or_else(|| found.to_string())
    })
    .await;
    // Shut out, and let in again from its row.
    desk.ok(&["deny", "laptop"]);
    browser.shows("denied").await;
    browser.click("td.actions button[data-device='approve']").await;
    browser.accept().await;
    browser.shows("In sync").await;
}

#[tokio::test]
async fn a_folder_is_added_paused_and_forgotten() {
    let Some(browser) = Browser::start().await else { return };
    let desk = start("desk", "");
    desk.user.write("Photos/one.txt", "one");
    let photos = desk.user.home().join("Photos").canonicalize().unwrap();
    browser.open(&desk.url("/")).await;
    browser.shows("No folders").await;
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true", json!([])).await;
    browser.enter("#folder-path", photos.to_str().unwrap()).await;
    browser.click("#add-folder button").await;
    browser.shows("is the folder 'Photos' now").await;
    browser.shows("idle").await;
    browser.click("button[data-act='pause']").await;
    browser.shows("paused").await;
    browser.click("button[data-act='resume']").await;
    browser.shows("idle").await;
    browser.click("button[data-act='remove']").await;
    let question = browser.accept().await;
    assert!(question.contains("Every file stays"), "{question}");
    browser.shows("No folders").await;
    assert!(photos.join("one.txt").exists());
}

#[tokio::test]
async fn nobody_is_kept_out_by_the_page() {
    let Some(browser) = Browser::start().await else { return };
    let (desk, cellar) =
        (start("desk", "approve_devices: true\n"), start("cellar", "approve_devices: true\n"));
    let laptop = start("laptop", "");
    desk.post("/libraries", &json!({ "name": "pictures", "filter": { "tags": ["photo"] } })).await;
    desk.user.write("note.txt", "a note");
    desk.ok(&["put", "note.txt", "--tag", "photo"]);
    cellar.dial(&desk).await;
    laptop.dial(&desk).await;
    for (daemon, other) in [(&desk, &cellar), (&cellar, &desk)] {
        eventually("it waits for approval", async || {
            let peers = daemon.ok(&["peers", "list", "--json"]).json();
            let waits = peers.iter().any(|peer| peer["state"] == "approval_wanted");
            waits.then_some(()).ok_or_else(|| format!("{peers:?}"))
        })
        .await;
        daemon.ok(&["approve", other.id()]);
    }
    browser.open(&desk.url("/")).await;
    browser.shows("waits to be let in").await;
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true", json!([])).await;
    browser.click("button[data-invite='read']").await;
    browser.shows("Ticket to read").await;
    desk.user.write("Photos/one.txt", "one");
    std::os::unix::fs::symlink("/nowhere", desk.user.home().join("Photos/link")).unwrap();
    desk.ok(&["folder", "add", "Photos"]);
    browser.shows("Left alone").await;
    for width in [390, 1280] {
        for scheme in ["light", "dark"] {
            browser.view(width, scheme).await;
            let Some(objections) = browser.objections().await else { return };
            assert!(objections.is_empty(), "{width}, {scheme}: {objections:#?}");
            let wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(browser.run(wide, json!([])).await, 0, "{width}: it scrolls sideways");
        }
    }
}
