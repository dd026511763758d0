//! How long a client has let us wait, as a debt that its bytes pay back. Whoever keeps to a rate, over any time, owes little;
//! one byte now and then pays for next to nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// What a client owes, and since when it has let us wait. Shared between who waits and who looks for the slowest.
#[derive(Debug)]
pub(super) struct Patience {
    began: Instant,
    bytes_per_sec: u64,
    owed_ms: AtomicU64,
    /// Milliseconds after `began`, plus one; 0 while it does not let us wait.
    waits_since: AtomicU64,
}

impl Patience {
    pub(super) fn new(bytes_per_sec: u64) -> Self {
        Self {
            began: Instant::now(),
            bytes_per_sec: bytes_per_sec.max(1),
            owed_ms: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// It lets us wait from now on, unless it did already.
    fn waits(&self) {
        let now = self.now_ms() + 1;
        let _ = self.waits_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// So many bytes moved.
    fn moved(&self, bytes: usize) {
        let owed = self.owed().as_millis();
        self.waits_since.store(0, Ordering::Relaxed);
        let paid = (bytes as u64).saturating_mul(1000) / self.bytes_per_sec;
        let owed = u64::try_from(owed).unwrap_or(u64::MAX).saturating_sub(paid);
        self.owed_ms.store(owed, Ordering::Relaxed);
    }

    /// What it owes by now.
    pub(super) fn owed(&self) -> Duration {
        let since = self.waits_since.load(Ordering::Relaxed);
        let waiting = if since == 0 { 0 } else { (self.now_ms() + 1).saturating_sub(since) };
        Duration::from_millis(self.owed_ms.load(Ordering::Relaxed).saturating_add(waiting))
    }
}

/// Waits for one client, no longer than it may owe.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) patience: Arc<Patience>,
    limit: Duration,
    ends: Option<Pin<Box<Sleep>>>,
}

impl Waiting {
    pub(super) fn new(patience: Arc<Patience>, limit: Duration) -> Self {
        Self { patience, limit, ends: None }
    }

    /// Passes on what a read or write says; one that waits fails once the client owes too much.
    pub(super) fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = poll {
            self.patience.moved(bytes(&done));
            self.ends = None;
            return Poll::Ready(Ok(done));
        }
        self.patience.waits();
        let (limit, owed) = (self.limit, self.patience.owed());
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(limit.saturating_sub(owed))));
        ready!(ends.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client is too slow")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Lets the client send `bytes` every `pause`; how long it was waited for until it was given up, within an hour.
    async fn given_up_after(bytes: usize, pause: Duration) -> Option<Duration> {
        let began = Instant::now();
        let mut waiting = Waiting::new(Arc::new(Patience::new(1024)), 40 * SECOND);
        while began.elapsed() < 3600 * SECOND {
            let next = tokio::time::timeout(
                pause,
                std::future::poll_fn(|cx| waiting.watch(cx, Poll::<()>::Pending, |()| 0)),
            );
            if next.await.is_ok() {
                return Some(began.elapsed());
            }
            let moved = std::future::poll_fn(|cx| waiting.watch(cx, Poll::Ready(()), |()| bytes)).await;
            assert!(moved.is_ok());
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up_and_an_honest_slow_client_is_not() {
        let trickle = given_up_after(1, 5 * SECOND).await.unwrap();
        assert!((39 * SECOND..45 * SECOND).contains(&trickle), "{trickle:?}");
        assert_eq!(given_up_after(0, 100 * SECOND).await.unwrap(), 40 * SECOND);
        // 2 KiB/s, in small pieces and in large ones.
        assert_eq!(given_up_after(2048, SECOND).await, None);
        assert_eq!(given_up_after(40 * 1024, 20 * SECOND).await, None);
        // A fast beginning buys nothing for later.
        let waiting = Waiting::new(Arc::new(Patience::new(1024)), 40 * SECOND);
        waiting.patience.moved(1 << 30);
        waiting.patience.waits();
        tokio::time::advance(30 * SECOND).await;
        assert_eq!(waiting.patience.owed(), 30 * SECOND);
    }
}
