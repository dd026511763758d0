//! `can-sync put`: stores files. Streams them, several at a time, and prints what each is called from now on.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::spawn_blocking;

use self::content::{FileContent, ReadAgain};
use self::own_dirs::SecretFiles;
use self::tally::PutTally;
use self::turns::PutTurns;
use self::upload::{Count, part, upload};

use super::Context;
use super::assets::Asset;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::output::message;
use super::progress::ProgressLine;
use super::text;
use crate::clock::rfc3339;
use crate::text::escaped_name;

mod collect;
mod content;
mod own_dirs;
mod tally;
mod turns;
mod upload;

/// Uploads at a time: enough for the store to commit several in one go.
const UPLOADS: usize = 8;
/// Bytes read from a file at a time.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(clap::Args, Debug)]
pub(super) struct PutArgs {
    /// Files, and directories with -r; `-` is stdin. What the store has already is not sent again
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Store what is in directories, however deep; symbolic links, pipes, sockets and devices are passed over
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
    #[arg(long, visible_alias = "tag", value_delimiter = ',')]
    tags: Vec<String>,
    /// The media type, where guessing is not good enough
    #[arg(long)]
    mime_type: Option<String>,
    /// Free text
    #[arg(long)]
    description: Option<String>,
    /// The name, instead of the file's own; for a single file
    #[arg(long, visible_alias = "name")]
    filename: Option<String>,
}

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
pub(super) async fn run(context: &Context, args: PutArgs) -> CliResult {
    let PutArgs { files, recursive, meta } = args;
    let mut collected = collect::collect(&files, recursive, &SecretFiles::of(&context.secret_files()))?;
    let sources = std::mem::take(&mut collected.sources);
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
    let count: Count = Arc::new(progress.counter());
    let turns = Arc::new(PutTurns::default());
    let (mut failed, mut tally) = (collected.failed, PutTally::default());
    let mut uploads = futures::stream::iter(sources.into_iter().enumerate())
        .map(|(place, source)| {
            let (store, meta, count) = (store.clone(), meta.clone(), Arc::clone(&count));
            let turns = Arc::clone(&turns);
            async move {
                let stored = put(&store, &source, &meta, count, (place, &turns)).await;
                (source, stored)
            }
        })
        .buffered(UPLOADS);
    while let Some((source, stored)) = uploads.next().await {
        match stored {
            Ok(stored) => {
                tally.add(&stored);
                progress.suspend(|| print(context, &source, &stored, recursive && !tally.explains()))?;
            }
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
    if recursive {
        let parts = [Some(tally.told()), collected.passed_over()];
        message(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "));
    }
    if failed > 0 {
        return Err(CliError::failure(format!("{} could not be stored", text::counted(failed, "file"))));
    }
    Ok(())
}

/// What was stored on stdout; what else there is to know of it on stderr, unless `many` are stored at once.
fn print(context: &Context, source: &PutSource, stored: &Stored, many: bool) -> std::io::Result<()> {
    let asset = &stored.asset;
    let name = match source {
        PutSource::Stdin => asset.filename.clone().unwrap_or_else(|| "-".to_owned()),
        PutSource::File { path, .. } => path.display().to_string(),
    };
    if let Some(remark) = tally::remark(stored, many) {
        message(&text::escape(&format!("can-sync: {name}: {remark}")));
    }
    if context.out.json {
        return context.out.value(stored);
    }
    context.out.line(&format!("{}  {}", text::escape(&asset.hash), text::escape(&name)))
}

/// Why a file or directory belongs to a node: the directory that is its own.
pub(super) fn owner_of(path: &Path) -> Option<PathBuf> {
    own_dirs::owner(path)
}

pub(super) async fn store_file(store: &ApiClient, path: &Path, tag: &str) -> CliResult<Asset> {
    let source = PutSource::File { path: path.to_owned(), size: 0 };
    let meta = Meta { tags: vec![tag.to_owned()], ..Meta::default() };
    Ok(put(store, &source, &meta, Arc::new(|_| ()), (0, &PutTurns::default())).await?.asset)
}

/// An asset after an upload. Fields that a later service adds are passed on in JSON.
#[derive(Debug, Deserialize, Serialize)]
struct Stored {
    #[serde(default)]
    outcome: PutOutcome,
    /// What became of the name that came with it.
    name_outcome: Option<NameTaken>,
    /// What the file hashed to when it was measured.
    #[serde(skip)]
    measured: Option<String>,
    /// The name that came with it.
    #[serde(skip)]
    given: Option<String>,
    #[serde(flatten)]
    asset: Asset,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum PutOutcome {
    #[default]
    New,
    Merged,
    Unchanged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum NameTaken {
    Added,
    Known,
    LeftOut,
}

/// Stores one thing, and sends its content only where the store does not have it.
async fn put(
    store: &ApiClient,
    source: &PutSource,
    meta: &Meta,
    count: Count,
    (place, turns): (usize, &PutTurns),
) -> CliResult<Stored> {
    let PutSource::File { path, .. } = source else {
        turns.pass(place).await;
        let body = part(tokio::io::stdin(), None, count);
        let stored = upload(store, body, meta, (None, None)).await?;
        return Ok(Stored { given: meta.filename.clone(), ..stored });
    };
    let opened = path.clone();
    let read = move || {
        let file = content::open(&opened)?;
        content::read(file).map_err(|e| CliError::failure(e.to_string()))
    };
    let read = spawn_blocking(read).await.map_err(|e| CliError::failure(e.to_string())).flatten();
    let content = match read {
        Ok(content) => content,
        Err(error) => {
            turns.pass(place).await;
            return Err(error);
        }
    };
    let name = path.file_name().map(|name| own_name(path, name));
    let (hash, size, modified_ms) = (content.hash, content.size, content.modified_ms);
    let _turn = turns.take(place, hash).await;
    let stored = if let Some(stored) = known(store, &content, meta, name.as_deref()).await? {
        count(size);
        stored
    } else {
        let body = match content.bytes {
            ReadAgain::Memory(bytes) => part(std::io::Cursor::new(bytes), Some(size), count),
            ReadAgain::File(file) => part(tokio::fs::File::from_std(file), Some(size), count),
        };
        upload(store, body, meta, (name.clone(), modified_ms)).await?
    };
    Ok(Stored { measured: Some(hash.to_string()), given: meta.filename.clone().or(name), ..stored })
}

/// Says about content what is to be said, if the store has it.
async fn known(
    store: &ApiClient,
    content: &FileContent,
    meta: &Meta,
    name: Option<&str>,
) -> CliResult<Option<Stored>> {
    let Meta { application, user, tags, mime_type, description, filename } = meta;
    let mut said = json!({ "size": content.size, "tags": tags });
    if let Some(time) = content.modified_ms.and_then(rfc3339) {
        said["modified_at"] = time.into();
    }
    for (field, value) in [
        ("application", application.as_deref()),
        ("user", user.as_deref()),
        ("mime_type", mime_type.as_deref()),
        ("description", description.as_deref()),
        ("filename", filename.as_deref().or(name)),
    ] {
        if let Some(value) = value {
            said[field] = value.into();
        }
    }
    match store.post(&format!("/asset/{}/ingest", content.hash), &said).await {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if error.exit() == Exit::NotFound => Ok(None),
        Err(error) => Err(error),
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
