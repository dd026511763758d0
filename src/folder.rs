//! Folders: a directory on every machine.
//!
//! A folder is a name in the network and a directory on each machine that is bound to it; what is at its paths is said by
//! [entries](crate::entry). What decides is pure: no clock, no file system, no runtime. An actor for each folder looks, asks
//! [`plan()`] what to do about a path, does that, and looks again. Its duties stand where the plan asks for them: with each
//! [`FolderAction`], in the order of its steps, and with each [`DiskSight`].
//!
//! ```text
//! disk ─────► DiskSight ──┐                      ┌─► Read            copy first, hash the copy, ingest
//! agent.db ─► AgreedRow ──┼─► PathSight ─► plan ─┼─► Put, PutAgain   into the store, which merges
//! store ────► StoreSight ─┘                      ├─► Write, Remove   journal, rename, look, row
//!                                                └─► Agree, Fetch, Ask …
//! ```
//!
//! One look at a folder:
//!
//! 1. The marker file is there and ours, through a directory descriptor that is held: at the start, before each batch of actions, and at
//!    the end. Else everything is [`DiskSight::Unknown`].
//! 2. After a start, and whenever the journal has something: look at what was on its way out.
//! 3. Files that made way more than ten minutes ago: those that somebody wrote to since are [salvaged](salvage()).
//! 4. Observe each path that the disk, a row or an entry has; [`plan()`] each; sort by [`FolderAction::phase`].
//! 5. What [loses](FolderAction::loses) content goes through the [`FolderBrake`], which is saved first. Held paths keep their rows and
//!    their files.
//! 6. Act, one path after the other; each action is safe if what it was planned by has changed since. Look again at what was acted on.
//!
//! Versions that this machine writes are merged into its own store whatever their date. A temporary file that the journal does not know
//! goes to the trash, for it may be the user's. Nothing leaves the trash that the store lacks.
//!
//! Nothing the core hands out depends on device numbers, which change at every boot: a path lies on a [`MountPoint`]. A directory that
//! rows know as one and that is none now is not empty but unknown, and nothing is written below it. Where a directory becomes a symlink
//! during a look, opening without following symlinks fails, and so does the action.

pub(crate) mod actor;
pub(crate) mod answers;
pub(crate) mod brake;
pub(crate) mod files;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod rows;
pub(crate) mod sight;
#[cfg(test)]
mod simulation;
pub(crate) mod supervisor;
mod watching;
pub(crate) mod work;

pub(crate) use answers::{keep, revert, salvage, trash};
pub(crate) use brake::{FolderBrake, PathLoss};
pub(crate) use plan::{FolderAction, plan};
pub(crate) use sight::{
    AgreedRow, CameOut, DiskSight, FileStat, FolderMode, FolderRules, MountPoint, OnDisk, PathSight,
    ReadFile, SeenFile, StoreSight,
};
