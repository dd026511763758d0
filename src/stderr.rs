//! Standard error of a program that serves: written by a thread of its own, from a queue of bounded size.
//!
//! The reader of stderr may stop reading: a log collector that hangs, a terminal that was stopped, a full disk. A write
//! waits then, for ever. Log lines and dumps are written by threads that have other things to do, so they only put their text
//! into the queue. What finds no room there is dropped and counted; how much that was is said as soon as somebody reads again.
//! The end of the process does not wait for a reader either: see [`flush`].

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// What waits for the reader at most, in bytes: some thousand lines.
const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// A reader that took nothing for so long is not waited for at the end.
const FLUSH_STEP: Duration = Duration::from_millis(100);
/// Longest wait for a reader at the end, however well it reads.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// The queue of this process; empty in programs that write directly.
static STDERR: OnceLock<WriteQueue> = OnceLock::new();

/// From here on, what goes to stderr through this module waits for nobody; panics are told the same way.
///
/// # Errors
/// There is no stderr, or no thread to write it.
pub fn start() -> io::Result<()> {
    if STDERR.get().is_some() {
        return Ok(());
    }
    // Past the lock of `std::io::stderr`: who waits for it would wait for the reader.
    let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let queue = WriteQueue::start(out)?;
    if STDERR.set(queue).is_ok() {
        std::panic::set_hook(Box::new(tell_panic));
    }
    Ok(())
}

/// Writes to stderr: through the queue once [`start`] was called, directly before. Nothing can be done where it fails.
pub fn write(text: &[u8]) {
    match STDERR.get() {
        Some(queue) => queue.push(text),
        None => drop(io::stderr().lock().write_all(text)),
    }
}

/// What was not written since the start, because nobody read.
pub fn lost() -> Lost {
    STDERR.get().map(|queue| queue.lock().lost).unwrap_or_default()
}

/// Waits until all is written, for as long as somebody reads.
pub fn flush() {
    if let Some(queue) = STDERR.get() {
        queue.flush();
    }
}

/// A writer for loggers: each call of `write` is one message.
#[derive(Clone, Copy, Debug)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        write(message);
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Messages that were dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    pub messages: u64,
    pub bytes: u64,
}

impl Lost {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

/// A thread that writes, and what waits for it.
struct WriteQueue(Arc<(Mutex<QueueState>, Condvar)>);

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<QueuedMessage>,
    waiting_bytes: usize,
    /// Written so far, in messages; also those whose writing failed.
    done: u64,
    is_writing: bool,
    lost: Lost,
    /// The part of `lost` of which nothing was said yet.
    unsaid: Lost,
}

struct QueuedMessage {
    text: Vec<u8>,
    /// What was dropped right before it.
    lost_before: Lost,
}

impl WriteQueue {
    fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let queue = Self(Arc::default());
        let own = Self(Arc::clone(&queue.0));
        std::thread::Builder::new().name("stderr".into()).spawn(move || {
            loop {
                let message = own.next();
                let written = said(message.lost_before).map_or(Ok(()), |text| out.write_all(text.as_bytes()));
                let written = written.and_then(|()| out.write_all(&message.text)).and_then(|()| out.flush());
                own.written(message.text.len(), written.is_ok());
            }
        })?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.0.0.lock()
    }

    /// Takes a message, or drops and counts it.
    fn push(&self, text: &[u8]) {
        let mut state = self.lock();
        if state.waiting_bytes + text.len() > QUEUE_BYTES_MAX {
            state.lost.add(text.len());
            state.unsaid.add(text.len());
            return;
        }
        state.waiting_bytes += text.len();
        let lost_before = std::mem::take(&mut state.unsaid);
        state.waiting.push_back(QueuedMessage { text: text.to_vec(), lost_before });
        self.0.1.notify_all();
    }

    /// The message that is to be written next. One of no text comes when all is written and something was lost after it.
    fn next(&self) -> QueuedMessage {
        let mut state = self.lock();
        loop {
            state.is_writing = true;
            if let Some(message) = state.waiting.pop_front() {
                return message;
            }
            if state.unsaid != Lost::default() {
                return QueuedMessage { text: Vec::new(), lost_before: std::mem::take(&mut state.unsaid) };
            }
            state.is_writing = false;
            self.0.1.notify_all();
            self.0.1.wait(&mut state);
        }
    }

    /// The writing of a message has ended. It keeps its room until then, so that the bound holds for all that is in memory.
    fn written(&self, bytes: usize, well: bool) {
        let mut state = self.lock();
        state.waiting_bytes -= bytes;
        state.done += 1;
        if !well && bytes > 0 {
            // Counted, and not said: where a write fails, the sentence would fail as well.
            state.lost.add(bytes);
        }
        self.0.1.notify_all();
    }

    fn flush(&self) {
        let until = Instant::now() + FLUSH_WITHIN;
        let mut state = self.lock();
        while (state.is_writing || !state.waiting.is_empty()) && Instant::now() < until {
            let before = state.done;
            let step = self.0.1.wait_for(&mut state, FLUSH_STEP);
            if step.timed_out() && state.done == before {
                return;
            }
        }
    }
}

/// What is written in place of messages that were dropped.
fn said(lost: Lost) -> Option<String> {
    let Lost { messages, bytes } = lost;
    (messages > 0).then(|| {
        format!(
            "{messages} messages ({bytes} bytes) were not written here, because nobody read fast enough\n"
        )
    })
}

/// As the standard library tells a panic, but through the queue.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
    let backtrace = Backtrace::capture();
    let is_wanted = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = if is_wanted { format!("stack backtrace:\n{backtrace}") } else { String::new() };
    let text = format!("thread '{name}' panicked{place}:\n{}\n{backtrace}", reason(panic.payload()));
    write(text.as_bytes());
}

fn reason(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// More than the pipe holds: its thread writes it until somebody reads, whenever it begins with that, and nothing after it is
    /// taken out of the queue meanwhile.
    static PLUG: [u8; QUEUE_BYTES_MAX / 2] = [b'.'; QUEUE_BYTES_MAX / 2];

    #[test]
    fn nobody_waits_for_a_reader_and_what_was_dropped_is_said() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = WriteQueue::start(writer).unwrap();
        queue.push(&PLUG);
        let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<u8>>();
        // Pipe and queue hold less than this.
        let began = Instant::now();
        for _ in 0..2_000 {
            queue.push(&line);
        }
        queue.flush();
        assert!(began.elapsed() < FLUSH_WITHIN, "nobody reads, so nothing is waited for");
        let lost = queue.lock().lost;
        assert!(lost.messages > 1_000 && lost.bytes == lost.messages * 1024, "{lost:?}");

        let (told, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let read = reader.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..read]);
                let shown = String::from_utf8_lossy(&text).into_owned();
                if shown.ends_with("the end\n") {
                    told.send(shown).unwrap();
                    return;
                }
            }
        });
        // There is room again some time.
        let until = Instant::now() + Duration::from_secs(30);
        while queue.lock().waiting_bytes > QUEUE_BYTES_MAX / 2 {
            assert!(Instant::now() < until, "the reader's room is not seen");
            std::thread::yield_now();
        }
        queue.push(b"the end\n");
        let text = heard.recv_timeout(Duration::from_secs(30)).unwrap();
        let sentence = said(lost).unwrap();
        assert_eq!(text.matches(&sentence).count(), 1);
        assert_eq!(text.matches('x').count() as u64, (2_000 - lost.messages) * 1023);
        assert!(text.ends_with(&(sentence + "the end\n")));
    }

    #[test]
    fn what_was_lost_last_is_said_without_a_further_message() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = WriteQueue::start(writer).unwrap();
        queue.push(&PLUG);
        let line = vec![b'x'; 4096];
        while queue.lock().lost.messages < 10 {
            queue.push(&line);
        }
        let sentence = said(queue.lock().lost).unwrap();
        let mut text = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while !text.ends_with(sentence.as_bytes()) {
            let read = reader.read(&mut buffer).unwrap();
            text.extend_from_slice(&buffer[..read]);
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_counted_and_no_panic() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let queue = WriteQueue::start(writer).unwrap();
        queue.push(b"nobody\n");
        queue.push(b"hears\n");
        // It does not wait long for a thread that does nothing, which may be one that has not begun yet.
        let until = Instant::now() + Duration::from_secs(30);
        while queue.lock().done < 2 && Instant::now() < until {
            queue.flush();
        }
        assert_eq!(queue.lock().lost, Lost { messages: 2, bytes: 13 });
        assert_eq!(queue.lock().unsaid, Lost::default());
    }
}
