//! Which folder is meant, and which of its files: by name, directory or id; by the path of a file, from here, from anywhere, or from the
//! folder's root. Where there is one folder, nobody has to name it.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::cli::advice;
use crate::cli::asking::ask;
use crate::cli::client::ApiClient;
use crate::cli::error::{CliError, CliResult, Exit};
use crate::cli::output::message;
use crate::cli::text;
use crate::entry::composed;
use crate::folder::report::{FolderReport, FolderVersion, KnownFolder, KnownProblem};
use crate::text::naming::meant;
use crate::text::short_id;

/// Folders that an error lists.
const LISTED_MAX: usize = 16;

/// `GET /folders`.
#[derive(Deserialize)]
pub(super) struct FolderLists {
    pub(super) folders: Vec<FolderReport>,
    pub(super) known: Vec<KnownFolder>,
    known_problem: Option<KnownProblem>,
}

impl FolderLists {
    /// Why it is not known which folders the network has, in a sentence and what to do.
    pub(super) fn problem(&self) -> Option<CliError> {
        let KnownProblem { code, error, hint } = self.known_problem.clone()?;
        let error = format!("which folders the network has is not known: {}", advice::in_words(&error));
        let error = CliError::failure(error).with_code(Some(code));
        Some(match advice::for_people(&hint) {
            Some(advice) => error.hint(advice),
            None => error,
        })
    }
}

#[derive(Deserialize)]
pub(super) struct Versions {
    pub(super) versions: Vec<FolderVersion>,
}

/// One folder.
#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Which {
    /// The folder's name, its directory, or the beginning of its id; not needed where there is one
    #[arg(value_name = "FOLDER")]
    folder: Option<String>,
    /// The same
    #[arg(long = "folder", value_name = "FOLDER", id = "named", conflicts_with = "folder")]
    named: Option<String>,
}

/// One of its files.
#[derive(clap::Args, Debug)]
pub(super) struct At {
    /// A file, as it is from here or from the folder's root; before it, if need be, the folder
    #[arg(value_name = "[FOLDER] PATH", num_args = 1..=2, required = true)]
    words: Vec<String>,
    /// The folder's name, its directory, or the beginning of its id; not needed where there is one, or where the path leads into it
    #[arg(long = "folder", value_name = "FOLDER")]
    named: Option<String>,
}

/// A folder, or one of its files.
#[derive(clap::Args, Debug)]
pub(super) struct AskedFiles {
    /// One file alone, or the folder, or both; without a file, all that wait
    #[arg(value_name = "[FOLDER] [PATH]", num_args = 0..=2)]
    words: Vec<String>,
    /// The folder's name, its directory, or the beginning of its id; not needed where there is one
    #[arg(long = "folder", value_name = "FOLDER")]
    named: Option<String>,
}

impl Which {
    pub(in crate::cli) fn of(wanted: &str) -> Self {
        Self { folder: Some(wanted.to_owned()), named: None }
    }

    pub(super) fn is_named(&self) -> bool {
        self.wanted().is_some()
    }

    fn wanted(&self) -> Option<&str> {
        self.folder.as_deref().or(self.named.as_deref())
    }

    pub(in crate::cli) async fn find(&self, agent: &ApiClient) -> CliResult<FolderReport> {
        pick(bound(agent).await?, self.wanted())
    }

    /// The same, of those that have a directory: the configuration may name one that cannot be bound.
    pub(super) async fn find_bound(&self, agent: &ApiClient) -> CliResult<FolderReport> {
        let found = self.find(agent).await?;
        if !found.folder.is_empty() {
            return Ok(found);
        }
        let why = found.reason.as_deref().unwrap_or("nobody knows why");
        Err(CliError::failure(format!("{} is not bound: {}", text::escape(&found.path), text::escape(why))))
    }
}

impl At {
    /// The folder, and the path from its root.
    pub(super) async fn find(&self, agent: &ApiClient) -> CliResult<(FolderReport, String)> {
        let (wanted, path) = split(&self.words, self.named.as_deref())?;
        let folder = pick_for(bound(agent).await?, wanted, path)?;
        for candidate in candidates(&folder, path) {
            if !versions(agent, &folder, &candidate).await?.is_empty() {
                return Ok((folder, candidate));
            }
        }
        let path = file_in(&folder, path, |_| false)?;
        Ok((folder, path))
    }

    /// The same with all that the folder had there, if it had anything.
    pub(super) async fn find_versions(
        &self,
        agent: &ApiClient,
    ) -> CliResult<(FolderReport, String, Vec<FolderVersion>)> {
        let (folder, path) = self.find(agent).await?;
        let versions = versions(agent, &folder, &path).await?;
        if versions.is_empty() {
            let error =
                CliError::new(Exit::NotFound, format!("the folder '{}' never had '{path}'", folder.name));
            return Err(error.hint("a path is as it is from here, whole, or from the folder's root"));
        }
        Ok((folder, path, versions))
    }
}

impl AskedFiles {
    /// The folder, and the file as it was typed.
    pub(super) async fn find(&self, agent: &ApiClient) -> CliResult<(FolderReport, Option<String>)> {
        let folders = bound(agent).await?;
        match (self.words.as_slice(), self.named.as_deref()) {
            ([], named) => Ok((pick(folders, named)?, None)),
            // A folder's name where no file that waits is called so.
            ([word], None) if !named(&folders, word).is_empty() && !is_asked(&folders, word) => {
                Ok((pick(folders, Some(word))?, None))
            }
            (words, named) => {
                let (wanted, path) = split(words, named)?;
                Ok((pick_for(folders, wanted, path)?, Some(path.to_owned())))
            }
        }
    }
}

fn is_asked(folders: &[FolderReport], word: &str) -> bool {
    folders.iter().any(|folder| folder.asked.iter().any(|asked| asked == word))
}

/// The folder, if one is named, and the path.
fn split<'a>(words: &'a [String], named: Option<&'a str>) -> CliResult<(Option<&'a str>, &'a str)> {
    match (words, named) {
        ([path], named) => Ok((named, path)),
        ([folder, path], None) => Ok((Some(folder), path)),
        (_, Some(_)) => Err(CliError::new(Exit::Usage, "the folder is named twice")
            .hint("name it before the path, or with --folder")),
        (_, None) => Err(CliError::new(Exit::Usage, "a path is missing")),
    }
}

/// The id of a folder that the network knows, whether or not it is on this machine.
pub(in crate::cli) async fn known(agent: &ApiClient, wanted: &str) -> CliResult<String> {
    let folders: FolderLists = agent.get("/folders", &[]).await?;
    if let Some(problem) = folders.problem() {
        return Err(problem);
    }
    let FolderLists { known, .. } = folders;
    let found = meant(wanted, known, |one| (&one.folder, &one.name));
    match found.as_slice() {
        [one] => Ok(one.folder.clone()),
        [] => Err(CliError::new(Exit::NotFound, format!("no folder '{wanted}' is known"))
            .hint("`can-sync folder list` shows those that are")),
        several => {
            let ids: Vec<String> = several.iter().map(|one| short_id(&one.folder)).collect();
            Err(CliError::new(Exit::Usage, format!("several folders are called '{wanted}'"))
                .hint(format!("name one by its id: {}", ids.join(", "))))
        }
    }
}

pub(super) async fn bound(agent: &ApiClient) -> CliResult<Vec<FolderReport>> {
    Ok(agent.get::<FolderLists>("/folders", &[]).await?.folders)
}

async fn versions(agent: &ApiClient, folder: &FolderReport, path: &str) -> CliResult<Vec<FolderVersion>> {
    // What cannot be the path of a file is none that the folder ever had.
    if folder.folder.is_empty() || crate::entry::EntryPath::parse(path).is_err() {
        return Ok(Vec::new());
    }
    let query = [("path", path.to_owned())];
    let url = format!("/folders/{}/history", folder.folder);
    Ok(agent.get::<Versions>(&url, &query).await?.versions)
}

/// Those that `wanted` names: by [`meant`], or by their directory.
fn named<'a>(folders: &'a [FolderReport], wanted: &str) -> Vec<&'a FolderReport> {
    let dir = real(Path::new(wanted)).filter(|_| !wanted.is_empty());
    let (mut found, others): (Vec<&FolderReport>, Vec<&FolderReport>) =
        folders.iter().partition(|folder| dir.as_deref() == Some(Path::new(&folder.path)));
    found.extend(meant(wanted, others, |folder| (&folder.folder, &folder.name)));
    found
}

/// The one that is named; the only one, if none is.
fn pick(folders: Vec<FolderReport>, wanted: Option<&str>) -> CliResult<FolderReport> {
    let Some(wanted) = wanted else { return only(folders) };
    match named(&folders, wanted).as_slice() {
        [one] => Ok((*one).clone()),
        [] => {
            let error = CliError::new(Exit::NotFound, format!("no folder '{wanted}' is on this machine"));
            Err(error.hint(if folders.is_empty() {
                "there is none: `can-sync folder add DIR` makes one".to_owned()
            } else {
                format!("these are: {}", listed(&folders))
            }))
        }
        several => Err(CliError::new(Exit::Usage, format!("several folders are called '{wanted}'"))
            .hint(format!("name one by its id or directory: {}", listed(several.iter().copied())))),
    }
}

fn only(mut folders: Vec<FolderReport>) -> CliResult<FolderReport> {
    match folders.len() {
        1 => Ok(folders.remove(0)),
        0 => Err(CliError::new(Exit::NotFound, "no folder is on this machine")
            .hint("`can-sync folder add DIR` makes one")),
        _ => Err(CliError::new(Exit::Usage, "there are several folders: say which")
            .hint(format!("these are here: {}", listed(&folders)))),
    }
}

/// Names, with what tells them apart.
fn listed<'a>(folders: impl IntoIterator<Item = &'a FolderReport>) -> String {
    let one =
        |folder: &FolderReport| format!("{} ({}, {})", folder.name, short_id(&folder.folder), folder.path);
    let shown: Vec<String> = folders.into_iter().take(LISTED_MAX).map(one).collect();
    shown.join("; ")
}

/// The one that is named, or into which the path leads, or the only one.
fn pick_for(folders: Vec<FolderReport>, wanted: Option<&str>, path: &str) -> CliResult<FolderReport> {
    if wanted.is_some() {
        return pick(folders, wanted);
    }
    let is_inside = |folder: &FolderReport| below(folder, path).is_some();
    let mut folders = folders;
    match folders.iter().position(is_inside) {
        Some(at) => Ok(folders.swap_remove(at)),
        None => only(folders),
    }
}

/// Where a path leads from here, without `.` and `..`; links in the directories above it are followed.
fn real(path: &Path) -> Option<PathBuf> {
    let mut whole = PathBuf::new();
    for part in std::path::absolute(path).ok()?.components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => whole.push(part),
        }
    }
    if let Ok(real) = std::fs::canonicalize(&whole).and_then(|real| match std::fs::symlink_metadata(&whole) {
        Ok(meta) if meta.is_symlink() && !real.is_dir() => Err(std::io::Error::other("the link itself")),
        _ => Ok(real),
    }) {
        return Some(real);
    }
    // A file that went: as much of its path as there is.
    let (above, name) = (whole.parent()?, whole.file_name()?);
    Some(std::fs::canonicalize(above).unwrap_or_else(|_| above.to_owned()).join(name))
}

/// The path from the folder's root of a name that leads into it from here.
fn below(folder: &FolderReport, path: &str) -> Option<String> {
    let real = real(Path::new(path))?;
    let below = real.strip_prefix(&folder.path).ok()?.to_str()?;
    (!below.is_empty()).then(|| below.to_owned())
}

/// A path from the root as it is typed, without what means nothing.
fn from_root(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// What a path may mean in a folder, the likelier first.
fn candidates(folder: &FolderReport, path: &str) -> Vec<String> {
    let mut all: Vec<String> = below(folder, path).into_iter().chain(from_root(path)).collect();
    all.dedup();
    all
}

/// The path from the folder's root: the first for which `is_there` holds, else the likeliest. An error where it leads nowhere in it.
pub(super) fn file_in(
    folder: &FolderReport,
    path: &str,
    is_there: impl Fn(&str) -> bool,
) -> CliResult<String> {
    let mut all = candidates(folder, path);
    let place = all.iter().position(|candidate| is_there(candidate)).unwrap_or_default();
    if place < all.len() {
        return Ok(all.swap_remove(place));
    }
    let FolderReport { name, path: dir, .. } = folder;
    Err(CliError::new(Exit::NotFound, format!("'{path}' is not in the folder '{name}', which is {dir}"))
        .hint("a path is as it is from here, whole, or from the folder's root"))
}

pub(super) enum Chosen {
    /// The folder with this id.
    Known(String),
    New,
}

/// Asks a person on the terminal which folder is meant where several have the name; `None` where that is no question.
pub(super) async fn ask_which(agent: &ApiClient, name: &str, path: &str) -> CliResult<Option<Chosen>> {
    let FolderLists { folders, known, .. } = agent.get("/folders", &[]).await?;
    let known: Vec<KnownFolder> =
        known.into_iter().filter(|one| composed(&one.name) == composed(name)).collect();
    let is_bound = real(Path::new(path)).is_some_and(|path| {
        folders.iter().any(|folder| Path::new(&folder.path) == path && !folder.folder.is_empty())
    });
    if known.len() < 2 || is_bound {
        return Ok(None);
    }
    message(&format!("The network knows {} folders called '{}':", known.len(), text::escape(name)));
    for (number, one) in known.iter().enumerate() {
        let here = if one.bound { ", on this machine already" } else { "" };
        let (id, by) = (short_id(&one.folder), text::escape(&one.by));
        message(&format!("  {}  {id}, made by {by}{here}", number + 1));
    }
    let question = format!("Which one? [1-{}, n for a new one, Enter for none]", known.len());
    match ask(&question)?.as_str() {
        "n" | "N" | "new" => Ok(Some(Chosen::New)),
        number => match number.parse::<usize>().ok().and_then(|number| known.get(number.checked_sub(1)?)) {
            Some(one) => Ok(Some(Chosen::Known(one.folder.clone()))),
            None => Err(CliError::failure("no folder was chosen, and nothing was done")),
        },
    }
}

#[cfg(test)]
mod tests;
