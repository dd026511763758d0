//! How much is sent twice when both ends of a transfer are killed again and again.
//!
//! `cargo bench --bench resume [-- --mib N] [-- --kills N] [-- --seed N] [-- --bins DIR]`. One asset goes from A to B.
//! At random points of the way, by turns, B or A is killed (SIGKILL) and started again on the same directory; A keeps
//! its UDP port, and the two find each other again by themselves: B was told A's ticket once. How long that takes is
//! counted from when the one that was killed runs again. At the end the content is read back from B and hashed.
//!
//! Two counts of what crossed, each of content bytes that agents themselves counted, summed over all lives of the
//! process: what B received, and what A sent. An agent's count is asked for without a pause and the last answer is
//! taken before it is killed, so what moved in the millisecond or two between that answer and the kill is missing, at
//! each kill of the agent that counts. The other count has it: nothing is missing in it when the other end dies. What A
//! sent also contains what was on its way to a B that died, which nobody has received.
#![expect(clippy::print_stdout, reason = "tables are what a bench is for")]

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use support::agent::{Agent, Bins, Home, free_udp_port};
use support::figures::{Table, mb, ratio};
use support::{MIB, Noise, Result, eventually, patience};

mod support;

/// Most that may cross, as a multiple of the size.
const TARGET: &str = "<= 1.05";

#[derive(clap::Parser)]
struct Args {
    /// Size of the asset
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How often one of the two is killed
    #[arg(long, default_value_t = 10)]
    kills: usize,
    /// Where the kills fall follows from this; random by default
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    bins: Bins,
}

/// Both ends, and what their earlier lives counted.
struct Pair {
    from: Agent,
    to: Agent,
    sent: u64,
    received: u64,
    hash: String,
    bytes: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let seed = args.seed.unwrap_or_else(rand::random);
    let bytes = args.mib * MIB;
    let port = free_udp_port()?;
    let from = Home::new(&args.bins, "from")?.set("bind_addr", &format!("127.0.0.1:{port}")).start().await?;
    let hash = from.put_noise(Noise { seed, len: bytes }).await?;
    let to = Agent::start(&args.bins, "to").await?;
    to.dial(&from).await?;
    let mut pair = Pair { from, to, sent: 0, received: 0, hash, bytes };

    let table = Table::new(&[("killed", 24), ("at, MB", 10), ("after, s", 10), ("moves again, s", 14)]);
    let began = Instant::now();
    let mut done = 0;
    for (n, goal) in goals(seed, args.kills, bytes).into_iter().enumerate() {
        // What was there before the last kill is there again, and a little more.
        done = pair.reached(goal.max(done + 1)).await?;
        let (at, receiver) = (began.elapsed(), n % 2 == 0);
        pair = pair.kill(receiver).await?;
        let back = Instant::now();
        pair.moves(receiver).await?;
        table.row(&[
            if receiver { "B, the receiver" } else { "A, the sender" }.to_owned(),
            format!("{:.1}", mb(done)),
            format!("{:.1}", at.as_secs_f64()),
            format!("{:.1}", back.elapsed().as_secs_f64()),
        ]);
    }
    pair.to.wait_for_assets(1, patience(bytes)).await?;
    let took = began.elapsed();
    let sent = pair.sent + pair.sent_now().await?;
    let received = pair.received + pair.received_now().await?;
    if pair.to.read_and_hash(&pair.hash, bytes).await? != pair.hash {
        return Err("the content is wrong".into());
    }

    let what = format!("{} MiB, {} kills, seed {seed}, {:.1} s", args.mib, args.kills, took.as_secs_f64());
    let table = Table::new(&[(&what, 44), ("MB", 10), ("of the size", 11), ("target", 8)]);
    for (what, count, target) in
        [("received by B, all its lives", received, TARGET), ("sent by A, all its lives", sent, "")]
    {
        let share = format!("{:.4}", ratio(count, bytes));
        table.row(&[what.to_owned(), format!("{:.1}", mb(count)), share, target.to_owned()]);
    }
    println!("\nThe content read back from B hashes to its name.");
    Ok(())
}

/// How much of the asset shall be there at each kill, ascending.
fn goals(seed: u64, kills: usize, bytes: u64) -> Vec<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    // Not so near the end that it may be over before the kill.
    let mut goals: Vec<u64> = (0..kills).map(|_| random.random_range(0..bytes / 100 * 95)).collect();
    goals.sort_unstable();
    goals
}

impl Pair {
    /// What A sent in this life.
    async fn sent_now(&self) -> Result<u64> {
        Ok(self.from.peer(&self.to).await?["bytes_sent"].as_u64().unwrap_or(0))
    }

    /// What B received in this life.
    async fn received_now(&self) -> Result<u64> {
        Ok(self.to.peer(&self.from).await?["bytes_received"].as_u64().unwrap_or(0))
    }

    /// How much of the asset B has.
    async fn done(&self) -> Result<u64> {
        let transfers = self.to.get("/transfers").await?;
        let mut transfers = transfers["transfers"].as_array().into_iter().flatten();
        let ours = transfers.find(|transfer| transfer["hash"] == self.hash.as_str());
        Ok(ours.and_then(|transfer| transfer["done"].as_u64()).unwrap_or(0))
    }

    /// Waits until B has so much; how much that was then.
    async fn reached(&self, goal: u64) -> Result<u64> {
        let deadline = Instant::now() + patience(self.bytes);
        loop {
            let done = self.done().await?;
            if done >= goal {
                return Ok(done);
            }
            if Instant::now() > deadline {
                let [why, peers] =
                    [self.to.get(&format!("/why/{}", self.hash)).await?, self.to.get("/peers").await?];
                return Err(format!("{done} of {goal} bytes are there, no more come: {why}, {peers}").into());
            }
            if done == 0 && self.is_over().await? {
                return Err("it was over before the last kill: take a larger asset".into());
            }
        }
    }

    /// Kills one of the two with its last count in hand, and starts it again.
    async fn kill(mut self, receiver: bool) -> Result<Self> {
        if receiver {
            self.received += self.received_now().await?;
            self.to = self.to.kill().start().await?;
        } else {
            self.sent += self.sent_now().await?;
            self.from = self.from.kill().start().await?;
        }
        Ok(self)
    }

    /// Waits until something crosses again, as the one says that was killed, or nothing has to.
    async fn moves(&self, receiver: bool) -> Result<()> {
        eventually("going on after a kill", patience(0), async || {
            let count = if receiver { self.received_now().await? } else { self.sent_now().await? };
            Ok((count > 0 || self.is_over().await?).then_some(()))
        })
        .await
    }

    /// Whether B has stored the asset.
    async fn is_over(&self) -> Result<bool> {
        Ok(self.to.get("/status").await?["store"]["assets"] == 1)
    }
}
