use serde_json::json;

use super::*;

fn status(change: impl FnOnce(&mut Value)) -> StatusBody {
    let mut status = json!({
        "endpoint_id": "ab", "name": "desk", "version": "1", "uptime_secs": 5,
        "store": { "mode": "embedded", "url": "http://s", "healthy": true, "assets": 2, "bytes": 1536, "seq": 9 },
        "sync": { "state": "in_sync", "missing": 0, "missing_bytes": 0, "rate": 0.0 },
        "peers": { "connected": 1, "known": 2 },
        "discovery": {}, "libraries": [], "actors": { "total": 5, "restarts": 0, "degraded": [] },
    });
    change(&mut status);
    serde_json::from_value(status).unwrap()
}

#[test]
fn what_is_degraded_is_said() {
    assert_eq!(status(|_| ()).degraded(), None);
    let store = status(|s| s["store"] = json!({ "url": "http://s", "healthy": false, "error": "disk full" }));
    assert_eq!(store.degraded().unwrap(), "disk full");
    let paused = status(|s| s["sync"] = json!({ "state": "paused", "reason": "store down" }));
    assert_eq!(paused.degraded().unwrap(), "sync is paused: store down");
    let actors = status(|s| s["actors"]["degraded"] = json!(["GossipActor"]));
    assert!(actors.degraded().unwrap().contains("GossipActor"));
}

#[test]
fn the_daemon_says_where_things_stand() {
    let sentence = |sync: Value| status(|s| s["sync"] = sync).sync.sentence();
    let summary = "sending: 3 changes that not every peer has confirmed, with 2 peers";
    assert_eq!(sentence(json!({ "state": "syncing", "summary": summary })), summary);
    assert_eq!(sentence(json!({ "state": "in_sync" })), "in sync");
}

#[test]
fn what_is_off_by_choice_is_no_fault() {
    let fields = status(|s| {
        s["discovery"] = json!({
            "dht": { "state": "off", "found": 0, "last_error": "discovery.dht is false" },
            "mdns": { "state": "down", "found": 0, "last_error": "no multicast" },
        });
    })
    .fields();
    let of = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| *name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!((of("discovery"), of("not used")), (vec!["mdns: down: no multicast"], vec!["dht"]));
}

#[test]
fn while_watched_each_peer_that_something_moves_with_has_a_line() {
    let peer = |more: Value| -> PeerBody {
        let mut peer =
            json!({ "endpoint_id": "cd".repeat(32), "name": "desk", "state": "syncing", "path": "direct" });
        peer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(peer).unwrap()
    };
    let moving = peer(json!({
        "missing_here": 2, "missing_here_bytes": 2048, "missing_there": 1,
        "rates": { "send": 0.0, "receive": 1024.0 }, "eta_secs": 2,
    }));
    let fields = status(|_| ()).watched(&[moving, peer(json!({}))]);
    let lines: Vec<_> = fields.iter().filter(|(name, _)| *name == "peer").map(|(_, line)| line).collect();
    assert_eq!(lines, ["desk: 2 assets (2.0 KiB) missing here, 1.0 KiB/s, 2s left; 1 change missing there"]);
}

#[test]
fn deletions_that_wait_for_somebody_are_shown() {
    let shown = |count: u64| status(|s| s["sync"]["held_deletions"] = json!(count)).fields();
    assert!(shown(0).iter().all(|(name, _)| *name != "held back"));
    let held = shown(21).into_iter().find(|(name, _)| *name == "held back").unwrap().1;
    assert!(held.starts_with("21 deletions") && held.contains("can-sync deletions"), "{held}");
}

#[test]
fn what_members_hold_is_not_in_sync() {
    let held = json!({ "state": "versions_held", "reason": "1 version of this node is held" });
    let sentence = status(|s| s["sync"] = held).sync.sentence();
    assert_eq!(sentence, "versions held: 1 version of this node is held");
}

#[test]
fn what_waits_for_a_clock_is_shown() {
    let reason = "2 versions of others wait: they are dated ahead of this machine's clock";
    let fields = |summary: &str| {
        status(|s| s["sync"] = json!({ "state": "in_sync", "summary": summary, "reason": reason })).fields()
    };
    assert!(fields("in sync").contains(&("note", reason.to_owned())));
    let once = fields(&format!("in sync: with 1 peer, but: {reason}"));
    assert!(once.iter().all(|(name, _)| *name != "note"), "{once:?}");
}

#[test]
fn nothing_that_the_daemon_says_is_lost_in_json() {
    let value = serde_json::to_value(status(|s| s["sync"]["new_field"] = json!(7))).unwrap();
    assert_eq!(value["sync"]["new_field"], json!(7));
    assert_eq!(value["libraries"], json!([]));
    assert_eq!(value["store"]["seq"], json!(9));
    assert_eq!(value["actors"]["total"], json!(5));
}

#[test]
fn a_scrub_says_what_it_did_not_check_and_denies_no_damage() {
    let sentence = |last: Value, damaged: u64| {
        let report: ScrubReport =
            serde_json::from_value(json!({ "running": null, "last": last, "next_ms": null })).unwrap();
        scrub_sentence(&report, damaged)
    };
    let clean = sentence(json!({ "found": 0 }), 0);
    assert!(
        clean.starts_with("everything was checked") && clean.ends_with("nothing damaged found"),
        "{clean}"
    );
    let skipped = sentence(json!({ "not_checked": 12 }), 0);
    assert!(skipped.starts_with("everything but 12 contents in object storage was checked"), "{skipped}");
    let both = sentence(json!({ "not_checked": 1, "unreadable": 2 }), 0);
    let but = "but 1 content in object storage and 2 parts that could not be read was checked";
    assert!(both.contains(but), "{both}");
    // It was found by somebody who read it.
    let since = sentence(json!({ "found": 0 }), 1);
    assert!(!since.contains("nothing damaged") && since.ends_with("no other damage found"), "{since}");
    // Of what is passed over nothing is left to be read.
    let running = json!({
        "pass": 2, "asked": true, "begun_ms": 0, "checked": 1, "contents": 4, "bytes": 25, "bytes_held": 100,
        "not_checked": 2, "not_checked_bytes": 50, "bytes_per_sec": 0, "eta_secs": null, "waits_for": null, "stopped": null,
        "found": 0, "healed": 0,
    });
    let report =
        serde_json::from_value(json!({ "running": running, "last": null, "next_ms": null })).unwrap();
    assert!(scrub_sentence(&report, 0).contains("under way: 75 %"));
}
