//! What the benches share. Each of them takes what it needs.
#![allow(dead_code, reason = "no bench needs all of it")]

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub(crate) mod agent;
pub(crate) mod figures;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod load;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod stores;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

pub(crate) const PASSPHRASE: &str = "seven sleepy otters juggle quiet lanterns tonight";
pub(crate) const MIB: u64 = 1 << 20;
/// How often a condition is looked at that has to be waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The command line; `None` for `cargo bench -- --test`, which only asks whether a bench starts.
pub(crate) fn args<T: clap::Parser>() -> Option<T> {
    // Cargo says by itself that this is a bench, or that it is only tried; a bench that is asked for all the same says it is one.
    let (mut is_bench, mut is_tried) = (false, false);
    let args = std::env::args_os().filter(|arg| {
        is_bench |= arg == "--bench";
        is_tried |= arg == "--test";
        arg != "--bench" && arg != "--test"
    });
    let args: Vec<OsString> = args.collect();
    (is_bench || !is_tried).then(|| T::parse_from(args))
}

/// A directory on the disk that counts: below the one that `CAN_SYNC_BENCH_DIR` names, else the temporary directory.
pub(crate) fn temp_dir() -> io::Result<TempDir> {
    tempfile::tempdir_in(std::env::var_os("CAN_SYNC_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into))
}

/// Looks again and again until `attempt` has an answer.
///
/// # Errors
/// What `attempt` failed with; or after `limit`, what it waited for.
pub(crate) async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = attempt().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            return Err(format!("{what}: not within {} s", limit.as_secs()).into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How long work may take that moves so many bytes: far longer than it does, so that nothing hangs for ever.
pub(crate) fn patience(bytes: u64) -> Duration {
    Duration::from_mins(2) + Duration::from_secs(bytes / 5_000_000)
}

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut content = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    content
}

pub(crate) fn sha256_hex(content: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(content))
}

/// Content of any size that is made while it is sent, so that nobody has to hold it: a block of noise over and over,
/// each time with its number in front. The same seed and length give the same content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noise {
    pub(crate) seed: u64,
    pub(crate) len: u64,
}

impl Noise {
    pub(crate) fn chunks(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let block = Bytes::from(noise(self.seed, usize::try_from(self.len.min(MIB)).expect("a megabyte")));
        let chunks = (0..self.len.div_ceil(MIB)).flat_map(move |n| {
            let number = if n == 0 { Bytes::new() } else { Bytes::copy_from_slice(&n.to_le_bytes()) };
            let rest = usize::try_from((self.len - n * MIB).min(MIB)).expect("a megabyte");
            let number = number.slice(..number.len().min(rest));
            let block = block.slice(number.len()..rest);
            [number, block]
        });
        futures::stream::iter(chunks.filter(|chunk| !chunk.is_empty()).map(Ok))
    }
}
