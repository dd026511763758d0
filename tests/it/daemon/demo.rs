//! `can-sync demo`.

use rustix::process::Signal;

use crate::support::command::User;
use crate::support::service::client;

#[tokio::test]
async fn the_demo_shows_two_nodes_and_leaves_nothing() {
    let user = User::new();
    let tmp = user.home().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let mut demo = user.follow_with(&["demo"], &[("TMPDIR", tmp.to_str().unwrap())]);
    let mut arrived = 0;
    let mut pages = Vec::new();
    while pages.len() < 2 {
        let line = demo.line();
        arrived += usize::from(line.contains("there after") && line.contains("verified"));
        pages.extend(line.trim().starts_with("http://").then(|| line.trim().to_owned()));
    }
    assert!(arrived >= 3, "{arrived} files arrived");
    assert_ne!(pages[0], pages[1]);
    let mut listed = Vec::new();
    for page in &pages {
        let answer = client().get(page).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await.unwrap().contains("<html"));
        let status = client().get(format!("{page}status")).send().await.unwrap();
        let status: serde_json::Value = status.json().await.unwrap();
        listed.push(status["data"]["store"]["assets"].clone());
    }
    assert_eq!(listed[0], arrived);
    assert_eq!(listed[0], listed[1]);
    assert!(std::fs::read_dir(&tmp).unwrap().count() > 0, "it kept its things there");
    demo.signal(Signal::INT);
    assert_eq!(demo.rest(), Vec::<String>::new());
    assert_eq!(demo.end(), Some(0));
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "and took them away");
}

#[tokio::test]
async fn a_demo_that_is_interrupted_early_leaves_nothing() {
    let user = User::new();
    let tmp = user.home().join("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let mut demo = user.follow_with(&["demo", "--json"], &[("TMPDIR", tmp.to_str().unwrap())]);
    // The first asset is there, others are on their way.
    assert!(demo.line().contains("\"verified\":true"));
    demo.signal(Signal::INT);
    demo.rest();
    assert_eq!(demo.end(), Some(0));
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
}
