//! Which records are part of a library, and what members see of them.

use super::folder_share::FolderShare;
use super::ticket::Access;
use super::{Library, LibraryKind};
use crate::entry::FolderId;
use crate::record::{AssetMeta, AssetRecord, WriterId};

impl Library {
    /// The folder that it is of; `None` for the mirror and for libraries by other filters.
    pub fn folder(&self) -> Option<FolderId> {
        match &self.kind {
            LibraryKind::Mirror | LibraryKind::Filtered(_) => None,
            LibraryKind::OwnFolder(_, share) => Some(share.folder()),
            LibraryKind::JoinedFolder(_, folder) => Some(*folder),
        }
    }

    /// What belongs to it, if it is a folder and ours.
    pub fn share(&self) -> Option<&FolderShare> {
        if let LibraryKind::OwnFolder(_, share) = &self.kind { Some(share) } else { None }
    }

    /// The folder that it is of, if that came by ticket.
    pub(super) fn joined_folder(&self) -> Option<FolderId> {
        if let LibraryKind::JoinedFolder(_, folder) = &self.kind { Some(*folder) } else { None }
    }

    /// Whether a record may be part of it, by its filter. What belongs to a folder its owner says.
    pub fn takes(&self, record: &AssetRecord) -> bool {
        match &self.kind {
            LibraryKind::Mirror | LibraryKind::JoinedFolder(..) => true,
            LibraryKind::Filtered(shared) => shared.filter().matches(record),
            LibraryKind::OwnFolder(..) => false,
        }
    }

    /// A record of our store as members see it: of a folder's files, what people wrote about the contents elsewhere is not part of
    /// it, nor who wrote it and when the content was first put. The date of the version stays, since the type may change: versions are
    /// in the same order for readers as here, but for two of one instant, which two machines would have to write within one.
    pub(super) fn for_members(&self, record: &AssetRecord) -> AssetRecord {
        let record = record.for_members();
        if self.folder().is_none() || record.deleted {
            return record;
        }
        let (mime_type, created_at_ms) = (record.meta.mime_type, record.hlc.ms());
        let meta = AssetMeta { mime_type, created_at_ms, ..AssetMeta::default() };
        AssetRecord { writer: WriterId::NULL, meta, ..record }
    }

    /// Whether a record of our store is part of it, unless the library has the content otherwise: for members that may write,
    /// what matches, was written late enough ([`SharedLibrary::shares`](super::SharedLibrary::shares)) and did not come through another library; for a reader, what came through this one. That it was
    /// deleted, a reader hears from the library's members.
    pub fn is_member(&self, record: &AssetRecord) -> bool {
        let shared = match &self.kind {
            LibraryKind::Mirror => return true,
            LibraryKind::Filtered(shared) => shared,
            LibraryKind::OwnFolder(_, share) => return !record.deleted && share.belongs(&record.hash),
            LibraryKind::JoinedFolder(shared, _) => {
                return !record.deleted && record.via == Some(shared.id());
            }
        };
        let writes = self.writes();
        let of_ours = match record.via {
            None => writes && shared.shares(record),
            Some(via) => via == shared.id() && (writes || !record.deleted),
        };
        of_ours && shared.filter().matches(record)
    }

    /// Whether our records may be part of it. Into a folder nobody writes but its owner.
    pub fn writes(&self) -> bool {
        match &self.kind {
            LibraryKind::Mirror => true,
            LibraryKind::Filtered(shared) | LibraryKind::OwnFolder(shared, _) => {
                shared.access() == Access::Write
            }
            LibraryKind::JoinedFolder(..) => false,
        }
    }

    /// Whether one of these versions of our own, or of those that came through it, was part of it when `record` took its place.
    pub(super) fn had_any(&self, formers: &[AssetRecord], record: &AssetRecord) -> bool {
        let Some(shared) = self.shared() else { return false };
        let at_ms = record.hlc.ms();
        formers.iter().any(|former| self.is_member(former) && shared.shared_at(former, at_ms))
    }
}
