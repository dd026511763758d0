//! Progress on stderr, so that no wait is silent: a bar on a terminal, a line per second otherwise (fewer while
//! nothing changes); nothing in the
//! first second, because what is quick needs none.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::output;
use super::text;

/// What takes less than this shows no progress.
const SILENT: Duration = Duration::from_secs(1);
/// A line that would say the same as the one before waits for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How often a bar is drawn.
const FRAME: Duration = Duration::from_millis(100);

/// Progress of one thing. Ends, and leaves no trace on a terminal, when dropped.
#[derive(Debug)]
pub(super) struct ProgressLine {
    shared: Arc<ProgressCount>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct ProgressCount {
    what: Mutex<String>,
    done: AtomicU64,
    total: Option<u64>,
    bar: ProgressBar,
}

impl ProgressLine {
    /// Progress of something that has no measure.
    pub(super) fn spinner(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self::start(what, None, bar, "{spinner} {msg} ({elapsed})")
    }

    /// Progress in bytes, towards a total where it is known.
    pub(super) fn bytes(what: &str, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let template = match total {
            Some(_) => {
                "{msg} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left"
            }
            None => "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}",
        };
        Self::start(what, total, bar, template)
    }

    fn start(what: &str, total: Option<u64>, bar: ProgressBar, template: &str) -> Self {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let what = Mutex::new(text::escape(what).into_owned());
        let shared = Arc::new(ProgressCount { what, done: AtomicU64::new(0), total, bar });
        let task = tokio::spawn(show(Arc::clone(&shared)));
        Self { shared, task }
    }

    pub(super) fn set(&self, what: &str) {
        let mut shown = self.shared.what.lock();
        *shown = text::escape(what).into_owned();
    }

    /// A counter of bytes done, for the stream that moves them.
    pub(super) fn counter(&self) -> impl Fn(u64) + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move |count| {
            shared.done.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Does something that writes to the terminal, out of the bar's way.
    pub(super) fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        self.shared.bar.suspend(write)
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.bar.finish_and_clear();
    }
}

async fn show(shared: Arc<ProgressCount>) {
    let terminal = std::io::stderr().is_terminal();
    tokio::time::sleep(SILENT).await;
    if terminal {
        shared.bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    let (mut said, mut quiet) = (String::new(), Duration::ZERO);
    loop {
        let what = shared.what.lock().clone();
        let done = shared.done.load(Ordering::Relaxed);
        if terminal {
            shared.bar.set_message(what);
            shared.bar.set_position(done);
            shared.bar.tick();
        } else {
            let so_far = match shared.total {
                Some(total) => format!(": {} of {}", text::bytes(done), text::bytes(total)),
                None if done > 0 => format!(": {}", text::bytes(done)),
                None => String::new(),
            };
            let line = format!("{what}{so_far}");
            quiet += SILENT;
            if line != said || quiet >= AGAIN_AFTER {
                output::message(&line);
                (said, quiet) = (line, Duration::ZERO);
            }
        }
        tokio::time::sleep(if terminal { FRAME } else { SILENT }).await;
    }
}
