//! `can-sync put`: stores files. Streams them, several at a time, and prints what each is called from now on.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Method};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::Context;
use super::assets::Asset;
use super::client::ApiClient;
use super::error::{CliError, Exit};
use super::output::message;
use super::progress::ProgressLine;
use super::text;
use crate::text::escaped_name;

mod own_dirs;

/// Uploads at a time: enough for the store to commit several in one go.
const UPLOADS: usize = 8;
/// Bytes read from a file at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// Without any progress for this long, an upload is given up.
const STALL_LIMIT: Duration = Duration::from_mins(2);

#[derive(clap::Args, Debug)]
pub(super) struct PutArgs {
    /// Files, and directories with -r; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Store what is in directories, however deep; symbolic links are passed over
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    meta: Meta,
}

/// What is said about every asset stored.
#[derive(clap::Args, Clone, Debug, Default)]
struct Meta {
    /// The program that made it
    #[arg(long)]
    application: Option<String>,
    /// The person who made it
    #[arg(long)]
    user: Option<String>,
    /// Tags, separated by commas
    #[arg(long, value_delimiter = ',')]
    tags: Vec<String>,
    /// The media type, where guessing is not good enough
    #[arg(long)]
    mime_type: Option<String>,
    /// Free text
    #[arg(long)]
    description: Option<String>,
    /// The name, instead of the file's own; for a single file
    #[arg(long)]
    filename: Option<String>,
}

/// Something to store.
#[derive(Debug)]
enum PutSource {
    Stdin,
    File { path: PathBuf, size: u64 },
}

impl PutSource {
    fn shown(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }
}

/// Stores everything; what fails is reported and passed over, unless nothing can go on without it.
pub(super) async fn run(context: &Context, args: PutArgs) -> Result<(), CliError> {
    let PutArgs { files, recursive, meta } = args;
    let (sources, mut failed) = collect(&files, recursive)?;
    if meta.filename.is_some() && sources.len() > 1 {
        return Err(CliError::new(Exit::Usage, "--filename names one asset, and there are several files"));
    }
    let total = sources.iter().try_fold(0_u64, |total, source| match source {
        PutSource::Stdin => None,
        PutSource::File { size, .. } => total.checked_add(*size),
    });
    let store = context.store()?;
    let progress =
        ProgressLine::bytes(&format!("storing {}", text::counted(sources.len() as u64, "file")), total);
    let count = Arc::new(progress.counter());
    let mut uploads = futures::stream::iter(sources)
        .map(|source| {
            let (store, meta, count) = (store.clone(), meta.clone(), Arc::clone(&count));
            async move {
                let stored = upload(&store, &source, &meta, count).await;
                (source, stored)
            }
        })
        .buffered(UPLOADS);
    while let Some((source, stored)) = uploads.next().await {
        match stored {
            Ok(asset) => progress.suspend(|| print(context, &source, &asset))?,
            Err(e)
                if matches!(e.exit(), Exit::NoDaemon | Exit::Degraded | Exit::NotAllowed | Exit::Timeout) =>
            {
                return Err(e);
            }
            Err(e) => {
                failed += 1;
                progress.suspend(|| message(&format!("can-sync: {}: {e}", text::escape(&source.shown()))));
            }
        }
    }
    drop(progress);
    if failed > 0 {
        return Err(CliError::failure(format!("{} could not be stored", text::counted(failed, "file"))));
    }
    Ok(())
}

fn print(context: &Context, source: &PutSource, asset: &Asset) -> std::io::Result<()> {
    if context.out.json {
        return context.out.value(asset);
    }
    let name = match source {
        PutSource::Stdin => asset.filename.clone().unwrap_or_else(|| "-".to_owned()),
        PutSource::File { path, .. } => path.display().to_string(),
    };
    context.out.line(&format!("{}  {}", text::escape(&asset.hash), text::escape(&name)))
}

/// What to store, and how many files could not be looked at. What makes no sense as a whole is an error before anything
/// is stored.
fn collect(files: &[PathBuf], recursive: bool) -> Result<(Vec<PutSource>, u64), CliError> {
    let mut sources = Vec::new();
    let (mut failed, mut passed) = (0, 0);
    let mut complain = |path: &Path, problem: &str| {
        message(&format!("can-sync: {}: {problem}", text::escape(&path.display().to_string())));
        failed += 1;
    };
    for path in files {
        if path.as_os_str() == "-" {
            if sources.iter().any(|source| matches!(source, PutSource::Stdin)) {
                return Err(CliError::new(Exit::Usage, "'-' is given twice, and there is one stdin"));
            }
            sources.push(PutSource::Stdin);
            continue;
        }
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() && !recursive => {
                return Err(CliError::new(Exit::Usage, format!("'{}' is a directory", path.display()))
                    .hint("-r stores what is in it"));
            }
            Ok(meta) if let Some(own) = own_dirs::owner(path) => {
                if meta.is_dir() {
                    message(&passed_over(path));
                    passed += 1;
                } else {
                    complain(path, &belongs(&own));
                }
            }
            Ok(meta) if meta.is_dir() => {
                let mut walk = walkdir::WalkDir::new(path).sort_by_file_name().into_iter();
                while let Some(entry) = walk.next() {
                    if let Some(dir) = entry.as_ref().ok().filter(|e| e.file_type().is_dir())
                        && own_dirs::is_own_dir(dir.path())
                    {
                        message(&passed_over(dir.path()));
                        passed += 1;
                        walk.skip_current_dir();
                        continue;
                    }
                    match entry.and_then(|entry| Ok((entry.metadata()?, entry))) {
                        Ok((meta, entry)) if meta.is_file() => {
                            sources.push(PutSource::File { path: entry.into_path(), size: meta.len() });
                        }
                        Ok(_) => {}
                        Err(e) => complain(e.path().unwrap_or(path), &e.to_string()),
                    }
                }
            }
            Ok(meta) => sources.push(PutSource::File { path: path.clone(), size: meta.len() }),
            Err(e) => complain(path, &e.to_string()),
        }
    }
    if sources.is_empty() && failed == 0 && passed > 0 {
        return Err(CliError::failure("nothing was stored: what a node keeps is not for other machines"));
    }
    Ok((sources, failed))
}

/// Why a file of a node's is not stored.
fn belongs(own: &Path) -> String {
    let own = text::escape(&own.display().to_string()).into_owned();
    format!("it belongs to the node whose data is in '{own}': keys and databases are not for other machines")
}

fn passed_over(dir: &Path) -> String {
    format!(
        "can-sync: passed over '{}': a node keeps its data there",
        text::escape(&dir.display().to_string())
    )
}

/// Stores one file with a tag.
pub(super) async fn store_file(store: &ApiClient, path: &Path, tag: &str) -> Result<Asset, CliError> {
    let source = PutSource::File { path: path.to_owned(), size: 0 };
    let meta = Meta { tags: vec![tag.to_owned()], ..Meta::default() };
    upload(store, &source, &meta, Arc::new(|_| ())).await
}

async fn upload(
    store: &ApiClient,
    source: &PutSource,
    meta: &Meta,
    count: Arc<impl Fn(u64) + Send + Sync + 'static>,
) -> Result<Asset, CliError> {
    let (part, named) = match source {
        PutSource::Stdin => (part(tokio::io::stdin(), None, count), None),
        PutSource::File { path, .. } => {
            let cannot = |e: std::io::Error| CliError::failure(format!("cannot read it: {e}"));
            let file = tokio::fs::File::open(path).await.map_err(cannot)?;
            let meta = file.metadata().await.map_err(cannot)?;
            // Anything but a plain file (a pipe, a device) has no length to announce.
            let size = meta.is_file().then_some(meta.len());
            (part(file, size, count), path.file_name().map(|name| (path, name)))
        }
    };
    let (part, flow) = part;
    let Meta { application, user, tags, mime_type, description, filename } = meta.clone();
    let fields = [
        ("application", application),
        ("user", user),
        ("tags", (!tags.is_empty()).then(|| tags.join(","))),
        ("mime_type", mime_type),
        ("description", description),
        ("filename", filename.or_else(|| named.map(|(path, name)| own_name(path, name)))),
    ];
    let form = fields.into_iter().fold(Form::new(), |form, (name, value)| match value {
        Some(value) => form.text(name, value),
        None => form,
    });
    let request = store.request(Method::POST, "/ingest").multipart(form.part("file", part));
    tokio::select! {
        stored = store.call(request) => stored,
        () = stalled(&flow) => Err(CliError::new(
            Exit::Timeout,
            format!("{} took nothing for {} s", store.base(), STALL_LIMIT.as_secs()),
        )),
    }
}

/// A file's name as it is stored; says so where that is not its name on the disk.
fn own_name(path: &Path, name: &OsStr) -> String {
    let stored = escaped_name(name.as_encoded_bytes());
    if matches!(stored, Cow::Owned(_)) {
        let path = path.display().to_string();
        message(&format!(
            "can-sync: {}: its name is not UTF-8; it is stored as '{}'",
            text::escape(&path),
            text::escape(&stored),
        ));
    }
    stored.into_owned()
}

/// How an upload moves.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes that were handed over.
    moved: AtomicU64,
    /// It waits for its own input, for as long as that takes: a pipe may be silent for hours.
    reading: AtomicBool,
}

/// A part of a form that streams a reader, and how that goes.
fn part(
    reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    size: Option<u64>,
    count: Arc<impl Fn(u64) + Send + Sync + 'static>,
) -> (Part, Arc<Flow>) {
    let flow = Arc::new(Flow::default());
    let shared = Arc::clone(&flow);
    // A file that grows while it is read is stored as it was when it was opened.
    let chunks = ReaderStream::with_capacity(reader.take(size.unwrap_or(u64::MAX)), CHUNK_BYTES);
    let stream = futures::stream::unfold(chunks, move |mut chunks| {
        let (flow, count) = (Arc::clone(&shared), Arc::clone(&count));
        async move {
            flow.reading.store(true, Ordering::Relaxed);
            let chunk = chunks.next().await;
            flow.reading.store(false, Ordering::Relaxed);
            let chunk = chunk?;
            if let Ok(chunk) = &chunk {
                let bytes = chunk.len() as u64;
                flow.moved.fetch_add(bytes, Ordering::Relaxed);
                count(bytes);
            }
            Some((chunk, chunks))
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
}
