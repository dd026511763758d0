//! Sends content to the store as it is read, and tells a file that fails from a store that does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::content::ReadError;
use super::{CHUNK_BYTES, Meta, Stored};
use crate::cli::client::ApiClient;
use crate::cli::error::{CliError, CliResult, Exit};
use crate::clock::rfc3339;

/// Without any progress for this long, an upload is given up.
const STALL_LIMIT: Duration = Duration::from_mins(2);

/// Hears how many bytes were dealt with.
pub(super) type Count = Arc<dyn Fn(u64) + Send + Sync>;

/// Sends one part with what is said about it, under `name` if the user gave none, and when its file was last written.
pub(super) async fn upload(
    store: &ApiClient,
    (part, flow): (Part, Arc<Flow>),
    meta: &Meta,
    (name, modified_ms): (Option<String>, Option<u64>),
) -> CliResult<Stored> {
    let Meta { application, user, tags, mime_type, description, filename } = meta.clone();
    let fields = [
        ("application", application),
        ("user", user),
        ("tags", (!tags.is_empty()).then(|| tags.join(","))),
        ("mime_type", mime_type),
        ("description", description),
        ("filename", filename.or(name)),
        ("modified_at", modified_ms.and_then(rfc3339)),
    ];
    let form = fields.into_iter().fold(Form::new(), |form, (name, value)| match value {
        Some(value) => form.text(name, value),
        None => form,
    });
    let request = store.request(Method::POST, "/ingest").multipart(form.part("file", part));
    let stored = tokio::select! {
        stored = store.call(request) => stored,
        () = stalled(&flow) => Err(CliError::new(
            Exit::Timeout,
            format!("{} took nothing for {} s", store.base(), STALL_LIMIT.as_secs()),
        )),
    };
    // A body that ends early breaks the connection: why it ended is what there is to say.
    let fault = flow.fault.lock().take();
    stored.map_err(|error| fault.map_or(error, CliError::failure))
}

/// How an upload moves.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Bytes that were handed over.
    moved: AtomicU64,
    /// It waits for its own input, for as long as that takes: a pipe may be silent for hours.
    reading: AtomicBool,
    /// Why there is no more to read.
    fault: Mutex<Option<String>>,
}

impl Flow {
    fn fail(&self, why: &ReadError) -> std::io::Error {
        let text = why.to_string();
        *self.fault.lock() = Some(text.clone());
        std::io::Error::other(text)
    }
}

/// A part of a form that streams a reader, of exactly `size` bytes where that is known, and how that goes.
pub(super) fn part(
    reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    size: Option<u64>,
    count: Count,
) -> (Part, Arc<Flow>) {
    let flow = Arc::new(Flow::default());
    let shared = Arc::clone(&flow);
    let chunks = ReaderStream::with_capacity(reader.take(size.unwrap_or(u64::MAX)), CHUNK_BYTES);
    let stream = futures::stream::unfold(Some(chunks), move |chunks| {
        let (flow, count) = (Arc::clone(&shared), Arc::clone(&count));
        async move {
            let mut chunks = chunks?;
            flow.reading.store(true, Ordering::Relaxed);
            let chunk = chunks.next().await;
            flow.reading.store(false, Ordering::Relaxed);
            let read = flow.moved.load(Ordering::Relaxed);
            match (chunk, size) {
                (Some(Ok(chunk)), _) => {
                    flow.moved.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                    count(chunk.len() as u64);
                    Some((Ok(chunk), Some(chunks)))
                }
                (Some(Err(error)), _) => Some((Err(flow.fail(&ReadError::Io(error))), None)),
                (None, Some(size)) if read < size => {
                    Some((Err(flow.fail(&ReadError::Shorter { read, size })), None))
                }
                (None, _) => None,
            }
        }
    });
    let body = Body::wrap_stream(stream);
    let part = match size {
        Some(size) => Part::stream_with_length(body, size),
        None => Part::stream(body),
    };
    (part, flow)
}

/// Returns once the other side has taken nothing for [`STALL_LIMIT`].
async fn stalled(flow: &Flow) {
    let mut last = 0;
    loop {
        tokio::time::sleep(STALL_LIMIT).await;
        let now = flow.moved.load(Ordering::Relaxed);
        if now == last && !flow.reading.load(Ordering::Relaxed) {
            return;
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_other_side_can_stall() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let (part, flow) = part(reader, None, Arc::new(|_| ()));
        let body = Form::new().part("file", part).into_stream();
        tokio::pin!(body);
        let long = STALL_LIMIT * 10;
        let silent_input = tokio::time::timeout(long, async {
            tokio::select! {
                () = stalled(&flow) => panic!("waiting for input is no stall"),
                () = async { while body.next().await.is_some() {} } => panic!("the input goes on"),
            }
        });
        assert!(silent_input.await.is_err());
        writer.write_all(b"the end").await.unwrap();
        drop(writer);
        while body.next().await.is_some() {}
        assert_eq!(flow.moved.load(Ordering::Relaxed), 7);
        let silent_server = tokio::time::timeout(long, stalled(&flow));
        assert!(silent_server.await.is_ok(), "no answer after everything was sent is a stall");
    }

    #[tokio::test]
    async fn content_that_ends_early_says_why() {
        let (part, flow) = part(std::io::Cursor::new(b"short"), Some(6), Arc::new(|_| ()));
        let body = Form::new().part("file", part).into_stream();
        let failed = body.filter_map(async |chunk| chunk.err()).collect::<Vec<_>>().await;
        assert_eq!(failed.len(), 1, "and nothing follows");
        let fault = flow.fault.lock().take().unwrap();
        assert!(fault.contains("became shorter while it was read: 5 of 6 bytes"), "{fault}");
    }
}
