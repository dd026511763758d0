//! `can-sync get`: reads an asset's content, and checks that it hashes to its name.
//!
//! Content goes where the user says, never where a record's file name points.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Method, Response};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::Context;
use super::client::ApiClient;
use super::error::{CliError, CliResult, Exit};
use super::fetch;
use super::output::message;
use super::progress::ProgressLine;
use super::resolve;
use super::text;
use crate::http::description::UNKNOWN_PARAMETER;
use crate::record::ContentHash;
use crate::store::service::codes;

/// Links that are followed one after the other, as many as Linux does.
const LINKS_MAX: usize = 40;
/// How long the node has to get what is not in its store.
const FETCH_WITHIN: Duration = Duration::from_mins(5);

#[derive(clap::Args, Debug)]
pub(super) struct GetArgs {
    /// The asset: its hash, the beginning of that, or its name
    #[arg(value_name = "ASSET")]
    asset: String,
    /// Only what is in the store already; without it, peers are asked for what is not
    #[arg(long)]
    local: bool,
    /// Where to write the content; stdout without it, and for `-`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: GetArgs) -> CliResult {
    let GetArgs { asset, local, output } = args;
    // As in `put -`.
    let output = output.filter(|path| path.as_os_str() != "-");
    if output.is_none() && context.out.json {
        return Err(CliError::new(Exit::Usage, "--json needs -o FILE: stdout is for the content"));
    }
    let store = context.store()?;
    let hash = resolve::known_asset(&store, &asset).await?;
    // Before anything is fetched: whether there is a place to put it.
    let target = output.as_deref().map(|path| Destination::new(path, hash)).transpose()?;
    let response = match read_local(&store, hash).await {
        Err(missing) if !local && (missing.exit() == Exit::NotFound || missing.has_code(codes::CORRUPT)) => {
            fetch_missing(context, hash, missing).await?;
            read_local(&store, hash).await?
        }
        answer => answer?,
    };
    let total = response.content_length();
    let progress = ProgressLine::bytes(&format!("reading {}", hash.short()), total);
    let mut download =
        Download { store, response, hasher: Sha256::new(), size: 0, count: progress.counter() };
    match target {
        Some(target) => {
            let size = download.save(hash, target).await?;
            drop(progress);
            report(context, hash, size, &output.unwrap_or_default())
        }
        None => download.print(hash, context.out.terminal).await,
    }
}

/// The content, if it is here: what is not is fetched in a way that says how far it is.
pub(super) async fn read_local(store: &ApiClient, hash: ContentHash) -> CliResult<Response> {
    let read = || store.request(Method::GET, &format!("/asset/{hash}"));
    match store.send(read().query(&[("local", "true")])).await {
        // An older service, which fetches nothing.
        Err(refused) if refused.has_code(UNKNOWN_PARAMETER) => store.send(read()).await,
        answer => answer,
    }
}

/// Has the node fetch what its store does not have. A CAN Service alone has nobody to ask: then the store's word is final.
/// So it is about what was deleted: reading brings nothing back.
async fn fetch_missing(context: &Context, hash: ContentHash, missing: CliError) -> CliResult {
    let agent = context.agent()?;
    if fetch::was_deleted(&agent, hash).await? {
        return Err(missing.hint(format!("it was deleted here: `can-sync fetch {hash}` brings it back")));
    }
    match fetch::fetch(&agent, hash, FETCH_WITHIN).await {
        Ok(_) => Ok(()),
        // What is on this disk is damaged, which is worth more to know than that nobody else has it.
        Err(_) if missing.has_code(codes::CORRUPT) => Err(missing),
        // Nobody there to ask, or not able to: what the store says stands.
        Err(error) if matches!(error.exit(), Exit::NoDaemon | Exit::Degraded) => Err(missing),
        Err(error) => Err(error),
    }
}

fn report(context: &Context, hash: ContentHash, size: u64, path: &Path) -> CliResult {
    let path = path.display().to_string();
    if context.out.json {
        context
            .out
            .value(&json!({ "hash": hash.to_string(), "size": size, "path": path, "verified": true }))?;
    } else {
        message(&format!("{}: {}, verified", text::escape(&path), text::bytes(size)));
    }
    Ok(())
}

/// A file in the making, next to the place that it will have.
struct Destination {
    path: PathBuf,
    file: NamedTempFile,
}

impl Destination {
    fn new(path: &Path, hash: ContentHash) -> CliResult<Self> {
        let shown = path.display();
        // What is there counts, not where its links say that it is: a pipe or a deleted file has no path.
        let replaced = std::fs::metadata(path).ok();
        let path = match &replaced {
            Some(meta) if !meta.is_file() => path.to_owned(),
            // Through a link: the file that it leads to is replaced, not the link.
            Some(_) | None => end_of_links(path).ok_or_else(|| {
                CliError::failure(format!("'{shown}' is a link that leads nowhere but to itself"))
            })?,
        };
        match &replaced {
            Some(meta) if meta.is_dir() => {
                return Err(CliError::new(Exit::Usage, format!("'{shown}' is a directory"))
                    .hint(format!("name a file in it: -o {}", path.join(hash.to_string()).display())));
            }
            Some(meta) if !meta.is_file() => {
                return Err(CliError::new(Exit::Usage, format!("'{shown}' is no plain file"))
                    .hint(format!("write to it through stdout: can-sync get {hash} > '{shown}'")));
            }
            Some(_) if std::fs::metadata(&path).is_err() => {
                return Err(CliError::new(
                    Exit::Usage,
                    format!("'{shown}' leads to a file that was deleted"),
                )
                .hint("name a path to write to"));
            }
            Some(_) | None => {}
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".can-sync-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            // As any new file: the umask takes its part.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder
            .tempfile_in(dir)
            .map_err(|e| CliError::failure(format!("cannot write to '{}': {e}", dir.display())))?;
        if let Some(meta) = replaced {
            // Users who could read and run what was there can do so with what takes its place.
            let kept = file.as_file().set_permissions(meta.permissions());
            kept.map_err(|e| CliError::failure(format!("cannot keep the mode of '{shown}': {e}")))?;
        }
        Ok(Self { path, file })
    }
}

/// Where links lead, also where nothing is there yet; `None` if they lead in a circle.
fn end_of_links(path: &Path) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Some(path),
        }
    }
    None
}

/// Content on its way, and what it hashes to so far.
struct Download<F> {
    store: ApiClient,
    response: Response,
    hasher: Sha256,
    size: u64,
    count: F,
}

impl<F: Fn(u64)> Download<F> {
    async fn next(&mut self) -> CliResult<Option<Bytes>> {
        let chunk = self.response.chunk().await.map_err(|e| self.store.unreachable(&e))?;
        if let Some(chunk) = &chunk {
            self.hasher.update(chunk);
            self.size += chunk.len() as u64;
            (self.count)(chunk.len() as u64);
        }
        Ok(chunk)
    }

    fn verify(&mut self, hash: ContentHash) -> CliResult {
        let found = ContentHash(std::mem::take(&mut self.hasher).finalize().into());
        if found == hash {
            return Ok(());
        }
        let store = self.store.base();
        Err(CliError::failure(format!(
            "the content that {store} gave for {hash} is damaged: it hashes to {found}"
        )))
    }

    /// Writes to a temporary name, verifies, makes durable, and only then puts the file in its place.
    async fn save(&mut self, hash: ContentHash, target: Destination) -> CliResult<u64> {
        let Destination { path, mut file } = target;
        let cannot = |e: io::Error| CliError::failure(format!("cannot write '{}': {e}", path.display()));
        while let Some(chunk) = self.next().await? {
            file.write_all(&chunk).map_err(cannot)?;
        }
        self.verify(hash)?;
        file.as_file().sync_all().map_err(cannot)?;
        file.persist(&path).map_err(|e| cannot(e.error))?;
        Ok(self.size)
    }

    /// What was written before a mismatch showed cannot be taken back: the exit code says so.
    async fn print(&mut self, hash: ContentHash, terminal: bool) -> CliResult {
        let mut text = TextCheck::default();
        while let Some(chunk) = self.next().await? {
            if terminal && !text.goes_on(&chunk) {
                return Err(CliError::new(
                    Exit::Usage,
                    "this is no plain text, and could garble the terminal",
                )
                .hint(format!("write it to a file: can-sync get {hash} -o FILE")));
            }
            io::stdout().lock().write_all(&chunk)?;
        }
        io::stdout().lock().flush()?;
        self.verify(hash)
    }
}

/// Whether a stream of bytes is UTF-8 text without control characters other than line ends and tabs.
#[derive(Debug, Default)]
struct TextCheck {
    /// The start of a character whose end has not come yet.
    partial: Vec<u8>,
}

impl TextCheck {
    fn goes_on(&mut self, chunk: &[u8]) -> bool {
        let mut bytes = std::mem::take(&mut self.partial);
        bytes.extend_from_slice(chunk);
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(e) if e.error_len().is_none() => {
                self.partial = bytes[e.valid_up_to()..].to_vec();
                std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return false,
        };
        !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_text(chunks: &[&[u8]]) -> bool {
        let mut check = TextCheck::default();
        chunks.iter().all(|chunk| check.goes_on(chunk))
    }

    #[test]
    fn text_is_told_from_what_a_terminal_would_act_on() {
        assert!(is_text(&[b"plain\n\ttext\r\n"]));
        assert!(is_text(&["gr\u{fc}n".as_bytes()]));
        assert!(is_text(&[b"gr\xc3", b"\xbcn"]), "a character may be cut between two chunks");
        assert!(!is_text(&[b"\x89PNG\r\n"]));
        assert!(!is_text(&[b"a\x1b[2J"]));
        assert!(!is_text(&[b"nul\0"]));
        assert!(!is_text(&[b"gr\xc3", b"n"]));
    }
}
