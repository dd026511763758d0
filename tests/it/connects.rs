//! Peers that come and go: what each took is given back.

use std::fs;

use tokio::runtime::Handle;

use crate::support::hostile::Attacker;
use crate::support::nodes::{TestNode, eventually};
use crate::support::scoreboard;

/// By how many open files or tasks the end may differ from the start.
const APART: usize = 5;
/// Connections before anything is counted: what is made once is made by then.
const FIRST: usize = 10;
/// By how many bytes memory may have grown; allocators keep some of what they are given back.
const GROWTH_BYTES_MAX: usize = 16 << 20;

/// What this process has open.
#[derive(Debug, Clone, Copy)]
struct Taken {
    files: usize,
    tasks: usize,
}

impl Taken {
    fn now() -> Self {
        let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self { files, tasks: Handle::current().metrics().num_alive_tasks() }
    }
}

/// Memory of this process, where pages have 4 KiB.
fn resident_bytes() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

/// A peer of the network with a session, which it ends without a word.
async fn come_and_go(member: &Attacker, node: &TestNode) {
    let id = member.endpoint.id().to_string();
    let session = eventually("a session", async || {
        let connection = member.connect().await;
        let established = member.establish(&connection).await?;
        Ok((connection, established))
    })
    .await;
    let (connection, _established) = session;
    eventually("it is connected", async || {
        let peer = node.peer(&id).await;
        let is_up =
            peer["state"] == "in_sync" || peer["state"] == "reconciling" || peer["state"] == "syncing";
        is_up.then_some(()).ok_or_else(|| peer.to_string())
    })
    .await;
    connection.close(0_u32.into(), b"gone");
    eventually("it is gone", async || {
        let status = node.get("/status").await["data"]["peers"]["connected"].clone();
        (status == 0).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_thousand_connections_took_is_given_back() {
    let connects = scoreboard::number("CAN_SYNC_TEST_CONNECTS", 40);
    let node = TestNode::start("a", |_| {}).await;
    let member = Attacker::member_of(&node).await;
    for _ in 0..FIRST {
        come_and_go(&member, &node).await;
    }
    // What a connection leaves behind ends within its own time-outs, not at once.
    let calm = async |most: usize| {
        eventually("tasks end", async || {
            let now = Taken::now();
            (now.tasks <= most).then_some(now).ok_or_else(|| format!("{now:?} instead of {most} tasks"))
        })
        .await
    };
    let (before, memory) = (Taken::now(), resident_bytes());
    for _ in 0..connects {
        come_and_go(&member, &node).await;
    }
    let after = calm(before.tasks + APART).await;
    let grown = resident_bytes().saturating_sub(memory);
    // Files and memory are the process's, in which other tests run beside this one from day to day: told, not asserted.
    let are_back = after.files.abs_diff(before.files) <= APART && grown <= GROWTH_BYTES_MAX;
    let figure = format!(
        "{connects} connects: open files {} to {}, tasks {} to {}, memory grew by {} KiB",
        before.files,
        after.files,
        before.tasks,
        after.tasks,
        grown >> 10
    );
    scoreboard::figure(are_back, &figure);
}
