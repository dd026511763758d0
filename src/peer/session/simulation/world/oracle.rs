//! Who may know what, whatever the agents make of it: from what users wrote, and where.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::agent::Agent;
use crate::library::Library;
use crate::library::ticket::Access;
use crate::record::{AssetRecord, ContentHash, LibraryId};

/// Those who share what they know: machines of one owner, or members of a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Circle {
    Owner(usize),
    Members(LibraryId),
}

pub(super) struct KnowledgeOracle {
    /// The owner of each agent.
    pub(super) groups: Vec<usize>,
    members: BTreeMap<LibraryId, Vec<(usize, Access)>>,
    /// To tell what belongs.
    libraries: HashMap<LibraryId, std::sync::Arc<Library>>,
    /// Versions, as members of libraries see them.
    known: HashMap<Circle, HashSet<[u8; 32]>>,
    /// Contents that may come to machines of an owner.
    contents: HashMap<usize, HashSet<ContentHash>>,
    were_in: HashMap<LibraryId, HashSet<ContentHash>>,
    /// Deletions, and edits that may have moved an asset out, by those who may write into a library.
    gone: HashMap<LibraryId, HashSet<[u8; 32]>>,
    /// Versions that were written at an agent.
    wrote: HashMap<usize, HashSet<[u8; 32]>>,
    /// Contents that users of an agent put or edited, and that were not deleted since.
    own: HashMap<usize, HashSet<ContentHash>>,
}

fn version(record: &AssetRecord) -> [u8; 32] {
    record.for_members().digest()
}

impl KnowledgeOracle {
    pub(super) fn new(agents: &[Agent], groups: Vec<usize>) -> Self {
        let (mut members, mut libraries) = (BTreeMap::<_, Vec<_>>::new(), HashMap::new());
        for (number, agent) in agents.iter().enumerate() {
            for library in agent.libraries.shared() {
                let (id, access) = (library.id().unwrap(), library.shared().unwrap().access());
                members.entry(id).or_default().push((number, access));
                libraries.insert(id, library);
            }
        }
        Self {
            groups,
            members,
            libraries,
            known: HashMap::new(),
            contents: HashMap::new(),
            were_in: HashMap::new(),
            gone: HashMap::new(),
            wrote: HashMap::new(),
            own: HashMap::new(),
        }
    }

    pub(super) fn wrote(&mut self, agent: usize, record: &AssetRecord) {
        let group = self.groups[agent];
        self.wrote.entry(agent).or_default().insert(version(record));
        self.known.entry(Circle::Owner(group)).or_default().insert(version(record));
        let own = self.own.entry(agent).or_default();
        if record.deleted {
            own.remove(&record.hash);
        } else {
            own.insert(record.hash);
            self.contents.entry(group).or_default().insert(record.hash);
        }
        for (library, members) in self.members.clone() {
            let writes = |(member, access): &(usize, Access)| {
                self.groups[*member] == group && *access == Access::Write
            };
            if !members.iter().any(writes) {
                continue;
            }
            // What moves out or goes is told once, or if, the library has it.
            for left in [false, true] {
                let gone = AssetRecord { deleted: true, left, ..record.clone() };
                self.gone.entry(library).or_default().insert(version(&gone));
            }
            if !record.deleted && self.libraries[&library].takes(record) {
                self.tell(library, record);
                self.were_in.entry(library).or_default().insert(record.hash);
                for (member, _) in &members {
                    self.contents.entry(self.groups[*member]).or_default().insert(record.hash);
                }
            }
        }
    }

    /// A member says this, whether it is true or not.
    pub(super) fn lied(&mut self, library: LibraryId, record: &AssetRecord) {
        self.tell(library, record);
    }

    fn tell(&mut self, library: LibraryId, record: &AssetRecord) {
        self.known.entry(Circle::Members(library)).or_default().insert(version(record));
        for (member, _) in self.members[&library].clone() {
            let owner = Circle::Owner(self.groups[member]);
            self.known.entry(owner).or_default().insert(version(record));
        }
    }

    fn knows(&self, circle: Circle, record: &AssetRecord) -> bool {
        let told = |library: &LibraryId| {
            let was_in = self.were_in.get(library).is_some_and(|were_in| were_in.contains(&record.hash));
            was_in && self.gone.get(library).is_some_and(|gone| gone.contains(&version(record)))
        };
        let hears = |library: &LibraryId| match circle {
            Circle::Members(circle) => *library == circle,
            Circle::Owner(owner) => {
                self.members[library].iter().any(|(member, _)| self.groups[*member] == owner)
            }
        };
        self.known.get(&circle).is_some_and(|known| known.contains(&version(record)))
            || record.deleted && self.members.keys().any(|library| hears(library) && told(library))
    }

    /// A record comes to an agent, in a library or in the mirror.
    pub(super) fn heard(&self, agent: usize, library: Option<LibraryId>, record: &AssetRecord) {
        let circle = library.map_or(Circle::Owner(self.groups[agent]), Circle::Members);
        assert!(self.knows(circle, record), "a leak: {circle:?} hears of {record:?}");
        assert!(library.is_none() || record.via.is_none(), "members learn how a version came");
    }

    pub(super) fn received(&self, agent: usize, hash: ContentHash) {
        let contents = self.contents.get(&self.groups[agent]);
        assert!(
            contents.is_some_and(|contents| contents.contains(&hash)),
            "a leak: agent {agent} gets {hash:?}"
        );
    }

    /// The store of an agent has `after` instead of `before`, because a library said so.
    pub(super) fn stored(
        &self,
        agent: &Agent,
        library: LibraryId,
        before: Option<&AssetRecord>,
        after: Option<&AssetRecord>,
    ) {
        if before == after {
            return;
        }
        let Some(before) = before else {
            let after = after.unwrap();
            assert!(!after.deleted, "a deletion of what was never here: {after:?}");
            return;
        };
        if before.deleted {
            return;
        }
        let is_member =
            self.libraries[&library].takes(before) && self.knows(Circle::Members(library), before);
        let may = agent.access(library) == Some(Access::Write) || before.via == Some(library);
        assert!(is_member && may, "the store is written from outside: {before:?} becomes {after:?}");
    }

    /// What users put stays theirs, whatever members of a library say about it, until somebody deletes it.
    pub(super) fn stays_own(&mut self, agent: &Agent) {
        let own = self.own.entry(usize::from(agent.number)).or_default();
        own.retain(|hash| match agent.record(hash).filter(|record| !record.deleted) {
            Some(record) => {
                assert!(record.is_own(), "a user's content is taken for a library's: {record:?}");
                true
            }
            None => false,
        });
    }

    /// What was written here came through no library.
    pub(super) fn is_own(&self, agent: &Agent) {
        let Some(wrote) = self.wrote.get(&usize::from(agent.number)) else { return };
        for record in agent.versions().values().filter(|record| !record.deleted && record.via.is_some()) {
            assert!(!wrote.contains(&version(record)), "it is taken for a library's: {record:?}");
        }
    }
}
