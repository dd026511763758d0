//! Nobody reads the node's stderr: the node goes on, and says later what it could not say.

use std::io::Read as _;

use reqwest::multipart::{Form, Part};
use rustix::process::Signal;

use crate::support::daemon::{Daemon, embedded_yaml};
use crate::support::nodes::eventually;
use crate::support::service::soon;

/// The value of a metric without labels.
async fn metric(daemon: &Daemon, name: &str) -> u64 {
    let request = daemon.http.get(daemon.url("/metrics")).send();
    let text = soon("the metrics", request).await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.trim().parse().unwrap()
}

/// Has the node log and dump until the pipe and the queue behind it are full.
async fn fill(daemon: &Daemon) -> u64 {
    eventually("something is lost", async || {
        daemon.signal(Signal::USR1);
        for _ in 0..20 {
            let unknown = daemon.store_url(&format!("/asset/{}", "ab".repeat(32)));
            assert_eq!(soon("an answer", daemon.http.get(unknown).send()).await.unwrap().status(), 404);
        }
        let lost = metric(daemon, "can_sync_stderr_lost_messages_total").await;
        (lost > 0).then_some(lost).ok_or_else(|| "nothing is lost yet".to_owned())
    })
    .await
}

#[tokio::test]
async fn a_reader_that_hangs_holds_up_neither_work_nor_the_stop() {
    let (mut daemon, unread) = Daemon::start_unread(&embedded_yaml(""));
    fill(&daemon).await;
    let file = daemon.data_dir().join("status.txt");
    for _ in 0..5 {
        // It may be there from before.
        let _ = std::fs::remove_file(&file);
        eventually("a dump in the file", async || {
            // One that comes while a dump is still being made may go under in that.
            daemon.signal(Signal::USR1);
            file.exists().then_some(()).ok_or_else(String::new)
        })
        .await;
    }
    let healthy = soon("health", daemon.http.get(daemon.url("/healthz")).send()).await.unwrap();
    assert_eq!(healthy.status(), 200);
    let form = Form::new().part("file", Part::bytes(vec![7; 100_000]).file_name("a"));
    let put = daemon.http.post(daemon.store_url("/ingest")).multipart(form).send();
    assert_eq!(soon("a put", put).await.unwrap().status(), 201);
    assert_eq!(daemon.get("/status").await["actors"]["restarts"], 0);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    drop(unread);
}

#[tokio::test]
async fn what_was_lost_is_said_once_somebody_reads_again() {
    let (daemon, mut unread) = Daemon::start_unread(&embedded_yaml(""));
    fill(&daemon).await;
    let reading = tokio::task::spawn_blocking(move || {
        let (mut text, mut buffer) = (String::new(), vec![0; 64 * 1024]);
        while !text.contains("messages (")
            || !text.contains("were not written here, because nobody read fast enough")
        {
            let read = unread.read(&mut buffer).unwrap();
            assert!(read > 0, "the node has ended");
            text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        unread
    });
    let _unread = soon("the sentence", reading).await.unwrap();
    assert_eq!(daemon.get("/status").await["actors"]["restarts"], 0);
}
