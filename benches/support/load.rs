//! Uploads that cost the sender next to nothing, since it shares the cores with whom it measures: requests are made before the clock
//! runs, many small ones come from one thread, and of a large one only a block is ever in memory.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::figures::Runs;
use super::{MIB, Noise, Result, noise};

const BOUNDARY: &str = "----a-line-that-no-noise-has";
/// For one answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Host and path of a URL.
fn parts(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").ok_or("no URL of HTTP")?;
    Ok(rest.split_at(rest.find('/').unwrap_or(rest.len())))
}

/// What stands before and behind so many bytes of a file in a request.
fn around(store: &str, bytes: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    let (host, path) = parts(store)?;
    let part = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"bench.bin\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let end = format!("\r\n--{BOUNDARY}--\r\n");
    let length = part.len() as u64 + bytes + end.len() as u64;
    let head = format!(
        "POST {path}/ingest HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n\
         Content-Length: {length}\r\n\r\n{part}"
    );
    Ok((head.into_bytes(), end.into_bytes()))
}

/// Reads one answer: `data` of what was stored just now.
async fn answer(stream: &mut TcpStream, read: &mut Vec<u8>) -> Result<Value> {
    read.clear();
    loop {
        if stream.read_buf(read).await? == 0 || read.len() > ANSWER_BYTES_MAX {
            return Err("no answer".into());
        }
        let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.ok_or("an answer without its length")?.trim().parse()?;
        if read.len() < end + 4 + length {
            continue;
        }
        if !head.starts_with("http/1.1 201") {
            return Err(String::from_utf8_lossy(read).into());
        }
        let mut answer: Value = serde_json::from_slice(&read[end + 4..])?;
        return Ok(answer["data"].take());
    }
}

/// Stores contents over so many connections; how long all of them took, and each.
pub(crate) async fn put_all(store: &str, contents: &[Noise], connections: usize) -> Result<(Duration, Runs)> {
    let request = |content: &Noise| {
        let (mut request, end) = around(store, content.len)?;
        request.extend(noise(content.seed, usize::try_from(content.len)?));
        request.extend(end);
        Result::Ok(request)
    };
    let requests: Arc<[Vec<u8>]> = contents.iter().map(request).collect::<Result<_>>()?;
    let host = parts(store)?.0.to_owned();
    let send = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(send_all(&host, requests, connections))
    };
    tokio::task::spawn_blocking(send).await?
}

async fn send_all(host: &str, requests: Arc<[Vec<u8>]>, connections: usize) -> Result<(Duration, Runs)> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for mut stream in streams {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        clients.spawn(async move {
            let (mut took, mut read) = (Vec::new(), Vec::new());
            while let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                let began = Instant::now();
                stream.write_all(request).await?;
                answer(&mut stream, &mut read).await?;
                took.push(began.elapsed());
            }
            Result::Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = clients.join_next().await {
        took.extend(done??);
    }
    Ok((began.elapsed(), took.into_iter().collect()))
}

/// Stores a large content; from the first byte until the answer.
pub(crate) async fn put_large(store: &str, content: Noise) -> Result<Duration> {
    let (head, end) = around(store, content.len)?;
    let host = parts(store)?.0.to_owned();
    let mut stream = std::net::TcpStream::connect(host)?;
    stream.set_nodelay(true)?;
    let send = move || {
        let mut block = noise(content.seed, usize::try_from(content.len.min(MIB))?);
        let began = Instant::now();
        stream.write_all(&head)?;
        for n in 0..content.len.div_ceil(MIB) {
            // As `Noise` has it.
            if n > 0 {
                block[..8].copy_from_slice(&n.to_le_bytes());
            }
            stream.write_all(&block[..usize::try_from((content.len - n * MIB).min(MIB))?])?;
        }
        stream.write_all(&end)?;
        stream.set_nonblocking(true)?;
        Result::Ok((began, stream))
    };
    let (began, stream) = tokio::task::spawn_blocking(send).await??;
    let stored = answer(&mut TcpStream::from_std(stream)?, &mut Vec::new()).await?;
    let took = began.elapsed();
    if stored["size"] == content.len { Ok(took) } else { Err(format!("stored {stored}").into()) }
}
