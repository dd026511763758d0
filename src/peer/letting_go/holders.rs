//! Machines that can be asked no more.

use super::{DropStep, Dropping, HolderId, HolderRefusal};
use crate::transfer::schedule::SessionId;

impl Dropping {
    pub(super) fn on_holder_gone(&mut self, session: SessionId) {
        let Some(holder) = self.holders.remove(&session) else { return };
        for hash in &self.active {
            if let Some(DropStep::Asking(asking)) = self.items.get_mut(hash).map(|item| &mut item.step)
                && asking.open.remove(&session).is_some()
            {
                asking.refuse(holder.id, HolderRefusal::Lost);
            }
        }
    }

    /// It may have what it promised, and nobody here gets it from there.
    pub(super) fn on_holder_denied(&mut self, denied: &HolderId) {
        let sessions = self.holders.iter().filter(|(_, holder)| holder.id == *denied);
        for session in sessions.map(|(session, _)| *session).collect::<Vec<_>>() {
            self.on_holder_gone(session);
        }
        for hash in &self.active {
            if let Some(DropStep::Asking(asking)) = self.items.get_mut(hash).map(|item| &mut item.step)
                && asking.has_promised(denied)
            {
                asking.promises.retain(|_, promise| promise.holder != *denied);
                asking.refuse(*denied, HolderRefusal::Denied);
            }
        }
    }
}
