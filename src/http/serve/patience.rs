//! How long a client has let us wait, as a debt that its bytes pay back. A client that keeps to a rate, over any time, owes
//! little.
//!
//! A gap in which nothing moves is no fault by itself: a phone loses its network for half a minute, somebody stops a pager, a
//! browser has buffered enough. It may be long, then, since who waits in it makes room for others at once. One byte now and
//! then is no gap: a client that moves something and stays in debt has to keep to the rate from there on.

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

    /// What it owes, if it lets us wait at this moment.
    pub(super) fn owed_while_waiting(&self) -> Duration {
        if self.waits_since.load(Ordering::Relaxed) == 0 { Duration::ZERO } else { self.owed() }
    }

    /// It lets us wait from now on, unless it did already.
    fn waits(&self) {
        let now = self.now_ms() + 1;
        let _ = self.waits_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn moved(&self, bytes: usize) {
        let owed = self.owed().as_millis();
        self.waits_since.store(0, Ordering::Relaxed);
        let paid = (bytes as u64).saturating_mul(1000) / self.bytes_per_sec;
        let owed = u64::try_from(owed).unwrap_or(u64::MAX).saturating_sub(paid);
        self.owed_ms.store(owed, Ordering::Relaxed);
    }

    pub(super) fn owed(&self) -> Duration {
        let since = self.waits_since.load(Ordering::Relaxed);
        let waiting = if since == 0 { 0 } else { (self.now_ms() + 1).saturating_sub(since) };
        Duration::from_millis(self.owed_ms.load(Ordering::Relaxed).saturating_add(waiting))
    }
}

/// How long a client that is in debt and moves something may keep below the rate.
const TRICKLE: Duration = Duration::from_secs(40);

/// What is worth so much time at the slowest rate, and comes sooner, is no trickle.
const BURST: Duration = Duration::from_secs(10);

/// Waits for one client, no longer than it may let us wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) patience: Arc<Patience>,
    /// The longest gap in which nothing moves.
    gap: Duration,
    trickle: Option<Trickle>,
    ends: Option<Pin<Box<Sleep>>>,
}

/// What a client has moved since it first moved something without paying all it owes.
#[derive(Debug)]
struct Trickle {
    since: Instant,
    bytes: u64,
}

impl Waiting {
    pub(super) fn new(patience: Arc<Patience>, gap: Duration) -> Self {
        Self { patience, gap, trickle: None, ends: None }
    }

    fn moved(&mut self, bytes: usize) {
        self.ends = None;
        self.patience.moved(bytes);
        if self.patience.owed().is_zero() {
            self.trickle = None;
            return;
        }
        let now = Instant::now();
        let trickle = self.trickle.get_or_insert(Trickle { since: now, bytes: 0 });
        trickle.bytes = trickle.bytes.saturating_add(bytes as u64);
        // It keeps to the rate again, and not by a byte: that is no trickle, though it still owes.
        let takes = u128::from(trickle.bytes) * 1000 / u128::from(self.patience.bytes_per_sec);
        if takes >= trickle.since.elapsed().max(BURST).as_millis() {
            self.trickle = None;
        }
    }

    fn left(&self) -> Duration {
        let trickle = self.trickle.as_ref().map(|trickle| TRICKLE.saturating_sub(trickle.since.elapsed()));
        trickle.map_or(self.gap, |left| left.min(self.gap))
    }

    /// Passes on what a read or write says; one that waits fails once the client has let us wait too long.
    pub(super) fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<T>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = poll {
            self.moved(bytes(&done));
            return Poll::Ready(Ok(done));
        }
        self.patience.waits();
        let left = self.left();
        let ends = self.ends.get_or_insert_with(|| Box::pin(sleep(left)));
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
        let mut waiting = Waiting::new(Arc::new(Patience::new(1024)), 100 * SECOND);
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
        assert!((39 * SECOND..50 * SECOND).contains(&trickle), "{trickle:?}");
        // One byte just before the gap would be too long is a trickle, too.
        let trickle = given_up_after(1, 90 * SECOND).await.unwrap();
        assert!((100 * SECOND..140 * SECOND).contains(&trickle), "{trickle:?}");
        assert_eq!(given_up_after(0, 200 * SECOND).await.unwrap(), 100 * SECOND);
        assert_eq!(given_up_after(30 * 1024, 60 * SECOND).await, None, "a weak network, in bursts");
        // A network that was away for a while, again and again.
        assert_eq!(given_up_after(1 << 20, 90 * SECOND).await, None);
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
