//! What comes from a client, and what goes to it, as long as it is not too slow.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::patience::{Patience, Waiting};
use super::places::ClientPlace;

/// How long a client may take nothing of its answer. Long, since the system tells of room only once a third of its buffer,
/// some megabytes, is free: a reader that takes 20 KiB/s all the time shows nothing of it for more than a minute.
const TAKING_GAP: Duration = Duration::from_mins(10);

/// The body of a request, which fails when it comes too slowly.
pub(super) struct SlowBody {
    pub(super) body: Incoming,
    pub(super) waiting: Waiting,
    /// Fires when it does.
    pub(super) too_slow: CancellationToken,
    pub(super) place: Arc<ClientPlace>,
}

impl Drop for SlowBody {
    fn drop(&mut self) {
        self.place.end_body();
    }
}

impl HttpBody for SlowBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(cx);
        let length = |frame: &Option<Result<Frame<Bytes>, _>>| match frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            Some(Err(_)) | None => 0,
        };
        match self.waiting.watch(cx, poll, length) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(frame)) => Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new))),
            Poll::Ready(Err(error)) => {
                self.too_slow.cancel();
                Poll::Ready(Some(Err(axum::Error::new(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that fails when the other side takes too slowly what is written.
pub(super) struct SlowIo {
    pub(super) stream: TcpStream,
    pub(super) taking: Waiting,
}

impl SlowIo {
    pub(super) fn new(stream: TcpStream, min_bytes_per_sec: u64) -> Self {
        Self { stream, taking: Waiting::new(Arc::new(Patience::new(min_bytes_per_sec)), TAKING_GAP) }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let length = |done: &io::Result<T>| done.as_ref().map_or(0, bytes);
        match self.taking.watch(cx, poll, length) {
            Poll::Ready(done) => Poll::Ready(done.and_then(|done| done)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for SlowIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SlowIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, poll, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, poll, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
