//! What has to hold once the network is calm.

use std::collections::{BTreeMap, BTreeSet};

use super::super::agent::asset;
use super::parts::{At, SimLink};
use super::{ASSETS, Mode, SECOND, SimWorld};
use crate::library::Library;
use crate::library::ticket::Access;
use crate::peer::report::ConnectionState;
use crate::peer::session::{Session, SessionInput};
use crate::record::{AssetRecord, ContentHash, LibraryId};

impl SimWorld {
    /// Everyone is asked to make sure.
    pub(super) fn verify(&mut self) -> Result<(), String> {
        let ends: Vec<At> = self.ends().collect();
        for at in &ends {
            for lane in 0..self.links[at.link].lanes.len() {
                self.step(*at, lane, SessionInput::Verify { round: 1 });
            }
        }
        self.advance_to(self.now + 20 * SECOND);
        for (at, session) in self.sessions() {
            let standing = session.map(Session::standing);
            if standing.as_ref().is_none_or(|s| s.verified != 1 || s.state != ConnectionState::InSync) {
                return Err(format!("{at:?} was asked to make sure, and 20 s later: {standing:?}"));
            }
        }
        self.state()
    }

    /// Whether all agents agree and know it.
    pub(super) fn state(&self) -> Result<(), String> {
        for (number, agent) in self.agents.iter().enumerate() {
            if !agent.has_only_live() {
                return Err(format!("agent {number} has contents without a live record"));
            }
            if agent.library(None).cursor().borrow().unwrap_or_default() < agent.seq() {
                return Err(format!("the indices of agent {number} lag behind its store"));
            }
        }
        self.nothing_is_missing()?;
        match self.mode {
            Mode::Everything | Mode::WrongClock => self.all_are_equal()?,
            Mode::AddOnly => self.live_ones_are_equal()?,
            Mode::Libraries => self.libraries_are_equal()?,
        }
        for (at, session) in self.sessions() {
            match session.map(Session::standing) {
                Some(standing) if standing.state == ConnectionState::InSync => {}
                other => {
                    let link = &self.links[at.link];
                    return Err(format!(
                        "{at:?} of {:?} is not in sync: {other:?} {session:#?}",
                        link.agents
                    ));
                }
            }
        }
        Ok(())
    }

    /// What is wanted at one end of a link is not held at the other, where that may give.
    pub(super) fn nothing_is_missing(&self) -> Result<(), String> {
        for link in &self.links {
            let [one, other] = link.agents.map(|number| &self.agents[number]);
            for (lacks, has) in [(one, other), (other, one)] {
                for library in &link.lanes {
                    let gives = library.is_none_or(|id| has.access(id) == Some(Access::Write));
                    let serves = |hash: &ContentHash| {
                        has.stored(hash).is_some_and(|stored| has.library(*library).serves(&stored))
                    };
                    let wanted = lacks.library(*library).wanted(None, usize::MAX);
                    if let Some(hash) = wanted.iter().find(|hash| gives && serves(hash)) {
                        let ends = (lacks.number, has.number);
                        return Err(format!("{hash:?} is wanted and held at two ends of a link: {ends:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether all members of each library have the same, and all machines of each owner.
    pub(super) fn libraries_are_equal(&self) -> Result<(), String> {
        let ids: BTreeSet<LibraryId> =
            self.agents.iter().flat_map(|agent| agent.libraries.shared()).filter_map(|l| l.id()).collect();
        for id in ids {
            let of = |number: usize| Some((number, self.agents[number].libraries.get(id)?));
            let members: Vec<_> = self.reached(id).into_iter().filter_map(of).collect();
            for (number, library) in &members {
                let has = |library: &Library| (library.summary().count, library.summary().fingerprint);
                if has(library) != has(&members[0].1) {
                    let (first, other) = (members[0].0, *number);
                    let has = |number: usize| self.have(number, id);
                    let both = has(first).into_iter().zip(has(other)).zip((0..ASSETS).map(asset));
                    let (differ, hash) =
                        both.into_iter().find(|((one, other), _)| one != other || !one.1).unwrap();
                    let stored: Vec<_> = self
                        .agents
                        .iter()
                        .map(|agent| Some((agent.record(&hash)?, agent.access(id))))
                        .collect();
                    let all: Vec<_> = members
                        .iter()
                        .map(|(n, _)| {
                            self.have(*n, id)[(0..ASSETS).position(|n| asset(n) == hash).unwrap()]
                                .0
                                .as_ref()
                                .map(|r| (n, r.hlc, r.deleted, r.left))
                        })
                        .collect();
                    return Err(format!(
                        "{id:?}: agents {first} and {other} have {differ:?} STORED {stored:?} ALL {all:?}"
                    ));
                }
            }
        }
        for (number, agent) in self.agents.iter().enumerate() {
            let group = self.oracle.groups[number];
            let first = self.oracle.groups.iter().position(|other| *other == group).unwrap();
            let (ours, theirs) = (agent.versions(), self.agents[first].versions());
            let all_delete = [number, first].iter().all(|n| self.agents[*n].replicate_deletes);
            let live = |versions: &BTreeMap<ContentHash, AssetRecord>| {
                let mut versions = versions.clone();
                versions.retain(|_, record| !record.deleted);
                versions
            };
            if all_delete && ours != theirs {
                return Err(format!("agents {first} and {number} of one owner: {theirs:#?}, {ours:#?}"));
            }
            // What one keeps, the other one deleted.
            let (live, other) = (live(&ours), &theirs);
            if let Some((hash, _)) = live
                .iter()
                .find(|(hash, record)| other.get(hash).is_none_or(|other| other != *record && !other.deleted))
            {
                return Err(format!(
                    "agents {first} and {number} of one owner: {:?}, {:?}",
                    other.get(hash),
                    live.get(hash)
                ));
            }
        }
        Ok(())
    }

    /// Members of a library that get everything that any member has. Machines of one owner share the mirror alone: where only
    /// those may write, one may have what nobody gives to the other.
    pub(super) fn reached(&self, id: LibraryId) -> Vec<usize> {
        let writes = |number: usize| self.agents[number].access(id) == Some(Access::Write);
        let linked = |one: usize, other: usize| {
            let both = |link: &&SimLink| link.agents.contains(&one) && link.agents.contains(&other);
            self.links.iter().find(both).is_some_and(|link| link.lanes.contains(&Some(id)))
        };
        let all = 0..self.agents.len();
        let mut reached: Vec<usize> = all.clone().find(|n| writes(*n)).into_iter().collect();
        while let Some(next) = all
            .clone()
            .find(|n| !reached.contains(n) && writes(*n) && reached.iter().any(|other| linked(*n, *other)))
        {
            reached.push(next);
        }
        if all.clone().any(|n| writes(n) && !reached.contains(&n)) {
            return reached;
        }
        let readers = all.filter(|n| self.agents[*n].access(id) == Some(Access::Read));
        let readers: Vec<usize> = readers.filter(|n| reached.iter().any(|w| linked(*n, *w))).collect();
        reached.extend(readers);
        reached
    }

    /// What an agent's library has of each content, and whether its tree says so.
    pub(super) fn have(&self, number: usize, id: LibraryId) -> Vec<(Option<AssetRecord>, bool)> {
        let (agent, library) = (&self.agents[number], self.agents[number].library(Some(id)));
        let hashes = (0..ASSETS).map(asset);
        let has = |hash| {
            let stored = agent.stored(&hash);
            let version = library.version(&hash, stored.as_ref());
            let shown = version.as_ref().map(|version| version.record.id(library.keys().record().expose()));
            let in_tree = library.snapshot().items().find(|item| item.hash == hash).map(|item| item.rid);
            (version.map(|version| version.record), shown == in_tree)
        };
        hashes.map(has).collect()
    }

    pub(super) fn all_are_equal(&self) -> Result<(), String> {
        let first = self.agents[0].versions();
        for (number, agent) in self.agents.iter().enumerate().skip(1) {
            let other = agent.versions();
            if other != first {
                let all: BTreeSet<_> = first.keys().chain(other.keys()).collect();
                let differ = all.into_iter().find(|hash| first.get(*hash) != other.get(*hash)).unwrap();
                return Err(format!(
                    "agent 0 has {:?}, agent {number} has {:?}",
                    first.get(differ),
                    other.get(differ)
                ));
            }
        }
        Ok(())
    }

    pub(super) fn live_ones_are_equal(&self) -> Result<(), String> {
        for hash in (0..ASSETS).map(asset) {
            let versions: Vec<Option<AssetRecord>> =
                self.agents.iter().map(|agent| agent.record(&hash)).collect();
            let Some(live) = versions.iter().flatten().find(|record| !record.deleted) else { continue };
            let agrees = |version: &Option<AssetRecord>| {
                version.as_ref().is_some_and(|v| v == live || (v.deleted && v.supersedes(live)))
            };
            if !versions.iter().all(agrees) {
                return Err(format!("versions of one asset: {versions:#?}"));
            }
        }
        Ok(())
    }
}
