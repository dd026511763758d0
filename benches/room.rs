//! What room elsewhere costs: a store with its contents in object storage, beside the same store on the local disk and another
//! program that copies the same files to the same service; and a machine that holds a tenth of what there is.
//!
//! `cargo bench --bench room [-- --only small|big|later|laptop] [-- --runs N] [-- --big-mib N] [-- --small N] [-- --medium N]
//! [-- --endpoint URL --bucket NAME --credentials-file FILE --region REGION] [-- --bins DIR]`. The columns: no bucket; a directory
//! for a bucket, on the same disk; a bucket of an S3 service; and `rclone copy`, with its defaults, to and from the bucket, where it is
//! installed. Without a service its columns are left out. `benches/room/garage.sh` starts one on this machine, and adds those arguments:
//!
//! ```sh
//! benches/room/garage.sh cargo bench --bench room -- --runs 3
//! ```
//!
//! A cell is the median of `--runs` runs, in brackets the worst and the best of them. In each run every column has its turn, with
//! contents that nobody has seen: services keep equal blocks once. The store is used through the library, without snapshots of its
//! records. 4 KiB is what goes into the database where contents have a bucket, so that only larger ones show it.
//!
//! - `small`: uploads of 4 KiB and of 64 KiB, 32 at a time, until all are acknowledged: with a bucket, once it has given each back.
//! - `big`: one large upload; then, by a store that was opened anew, 50 ranges of 64 KiB, all of it with an empty cache, and all
//!   of it again. The files of store and directory are taken out of the system's page cache before; a service has what it has.
//! - `later`: the same upload with `write_back`: until it is acknowledged, and until it is in the bucket and nothing waits.
//! - `laptop`: agents as processes of their own. Two servers that mirror each other, and a third one with `hold: nothing` and a quota
//!   of a tenth of what they have: how long it takes to know everything, to list and to search it all; how long the first byte of a
//!   content takes that is not here; and what it holds once it refuses more.
//!
//! What is acknowledged by a store is durable on this disk, or was read back from the bucket; rclone syncs nothing to a disk,
//! and reads nothing back.
//!
//! The disk needs four times the large content, the service three times that for each run, until all objects are deleted at the end:
//! with three copies of everything on this machine, as the script has them, about 30 GB for three runs of 1 GiB.
#![allow(clippy::print_stdout, reason = "what is left out has to be said")]

use std::path::PathBuf;

use support::agent::Bins;
use support::figures::mb_per_sec;
use support::{MIB, Result, limits, temp_dir};

use self::column::Column;
use self::rclone::Rclone;
use self::service::{Service, ServiceArgs};

#[path = "room/column.rs"]
mod column;
#[path = "room/contents.rs"]
mod contents;
#[path = "room/laptop.rs"]
mod laptop;
#[path = "room/rclone.rs"]
mod rclone;
#[path = "room/service.rs"]
mod service;
mod support;

#[derive(clap::Parser)]
struct Args {
    /// Some rows alone
    #[arg(long, value_parser = ["small", "big", "later", "laptop"])]
    only: Option<String>,
    /// Runs of each row
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Size of the large content
    #[arg(long, default_value_t = 1024)]
    big_mib: u64,
    /// Contents of 4 KiB
    #[arg(long, default_value_t = 10_000)]
    small: usize,
    /// Contents of 64 KiB
    #[arg(long, default_value_t = 2_000)]
    medium: usize,
    /// Contents of each size that the servers of the laptop have
    #[arg(long, default_value_t = laptop::ASSETS)]
    assets: usize,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    bins: Bins,
}

/// What every row needs to know.
pub(crate) struct Bench {
    pub(crate) runs: usize,
    pub(crate) columns: Vec<Column>,
    pub(crate) rclone: Option<Rclone>,
    /// Where stores, buckets and files are made.
    pub(crate) dir: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(args) = support::args::<Args>() else { return Ok(()) };
    let wants = |row: &str| args.only.as_deref().is_none_or(|only| only == row);
    if wants("small") || wants("big") || wants("later") {
        let service = args.service.service()?;
        let measured = contents(&args, service.clone()).await;
        let cleaned = match &service {
            Some(service) => service.clean().await,
            None => Ok(()),
        };
        measured?;
        cleaned?;
    }
    if wants("laptop") {
        laptop::laptop(&args.bins, args.assets).await?;
    }
    Ok(())
}

/// Everything about contents in a bucket.
async fn contents(args: &Args, service: Option<Service>) -> Result<()> {
    let dir = temp_dir()?;
    let rclone = match &service {
        None => {
            println!("left out: the S3 service, and rclone with it (no --endpoint and --bucket)");
            None
        }
        Some(service) if rclone::is_installed() => Some(Rclone::new(service.clone())),
        Some(_) => {
            println!("left out: rclone, which is not installed");
            None
        }
    };
    let mut columns = vec![Column::Disk, Column::Dir];
    columns.extend(service.map(Column::Service));
    let bench = Bench { runs: args.runs, columns, rclone, dir: dir.path().to_owned() };
    let wants = |row: &str| args.only.as_deref().is_none_or(|only| only == row);
    let big = args.big_mib * MIB;
    let (hashing, writing) = (limits::hashing(256), limits::writing(dir.path(), args.big_mib)?);
    let (hashing, writing) = (mb_per_sec(256 * MIB, hashing), mb_per_sec(big, writing));
    println!("this machine: SHA-256 {hashing:.0} MB/s on one core; write and fsync {writing:.0} MB/s");
    let table = bench.table();
    if wants("small") {
        contents::many(&bench, &table, args.small, 4096).await?;
        contents::many(&bench, &table, args.medium, 65_536).await?;
    }
    if wants("big") {
        contents::large(&bench, &table, big).await?;
    }
    if wants("later") {
        contents::later(&bench, &table, big).await?;
    }
    Ok(())
}
