//! What CanServiceActor and PeersActor do: the feed, and the scheduler of what is fetched. The store answers at once.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use iroh::EndpointId;

use super::parts::{At, News, PeersNews, SimChannel, SimEvent};
use super::{MS, Mode, SECOND, SimWorld};
use crate::peer::session::{INLINE_CONTENT_BYTES_MAX, InlineContents};
use crate::record::{AssetRecord, ContentHash, LibraryId, WriterId};
use crate::store::{FeedEntry, IncomingAsset, IncomingContent, ItemOutcome};
use crate::transfer::commit::CommitOutcome;
use crate::transfer::fetching::FetchDecision;
use crate::transfer::ranges::Ranges;
use crate::transfer::schedule::{FetchFailure, ScheduleDecision, SessionId, WantKey};

impl SimWorld {
    pub(super) fn on_feed(&mut self, agent: usize) {
        if self.now < self.agents[agent].store_down_until {
            return self.put(self.now + SECOND, SimEvent::Feed(agent));
        }
        let limit = 1 + self.dice.index(20);
        let (changed, more) = self.agents[agent].follow(limit);
        if !changed.is_empty() {
            self.tell_peers(agent, PeersNews::Changed(changed.into()));
        }
        self.later(SimEvent::Keep(agent));
        if more {
            self.later(SimEvent::Feed(agent));
        }
    }

    pub(super) fn on_keep(&mut self, agent: usize) {
        for (library, entries) in self.agents[agent].keep_asides() {
            self.tell_peers(agent, PeersNews::LibraryChanged(library, entries));
        }
        self.oracle.is_own(&self.agents[agent]);
    }

    /// Takes contents with their records, or records alone, as the tasks do. The store answers at once.
    pub(super) fn take(
        &mut self,
        number: usize,
        library: Option<LibraryId>,
        records: Vec<AssetRecord>,
        with_content: bool,
    ) -> Vec<ItemOutcome> {
        let agent = &self.agents[number];
        let before: Vec<Option<AssetRecord>> = records.iter().map(|r| agent.record(&r.hash)).collect();
        let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
        let content = || IncomingContent::Bytes(Bytes::new());
        let asset = |record| IncomingAsset { record, content: content() };
        let taker = agent.taker();
        let outcomes = if with_content {
            let batch = records.into_iter().map(asset).collect();
            taker.ingest(library, batch).now_or_never()
        } else {
            taker.apply(library, records).now_or_never()
        };
        for (hash, before) in hashes.iter().zip(before) {
            if let Some(library) = library {
                self.oracle.stored(agent, library, before.as_ref(), agent.record(hash).as_ref());
            }
        }
        self.oracle.stays_own(agent);
        self.later(SimEvent::Feed(number));
        outcomes.unwrap().unwrap()
    }

    pub(super) fn tell_peers(&mut self, agent: usize, news: PeersNews) {
        self.in_order(SimChannel::PeersActor(agent), SimEvent::Peers(agent, Box::new(news)));
    }

    pub(super) fn on_peers(&mut self, agent: usize, news: PeersNews) {
        let now = self.instant();
        self.agents[agent].fetching.advance(now);
        let decisions = match news {
            PeersNews::Changed(entries) => {
                let contents = Arc::new(self.inline(agent, &entries));
                let ends: Vec<At> =
                    self.ends().filter(|at| self.links[at.link].agents[at.end] == agent).collect();
                for at in ends {
                    let news = News::Changed(Arc::clone(&entries), Arc::clone(&contents));
                    self.in_order(SimChannel::PeerActor(at), SimEvent::Side(at, news));
                }
                return;
            }
            PeersNews::LibraryChanged(library, entries) => {
                let ends: Vec<At> =
                    self.ends().filter(|at| self.links[at.link].agents[at.end] == agent).collect();
                for at in ends {
                    let news = News::LibraryChanged(library, Arc::clone(&entries));
                    self.in_order(SimChannel::PeerActor(at), SimEvent::Side(at, news));
                }
                return;
            }
            PeersNews::Wanted(id, library, records) => {
                if self.end_of(agent, id).is_none() {
                    return;
                }
                self.agents[agent].fetching.announce(id, library, records)
            }
            PeersNews::Reset(id) => self.agents[agent].fetching.session_ended(id),
            PeersNews::Finished(id, results) => self.agents[agent].fetching.finished(id, results),
            PeersNews::PartFinished(id, request, hash, result) => {
                self.agents[agent].fetching.part_finished(id, request, hash, result)
            }
            PeersNews::Commit(key, record) => self.commit(agent, key, record),
            PeersNews::Apply(key, record) => {
                let result = if self.now < self.agents[agent].store_down_until {
                    Err(FetchFailure::Store("down".into()))
                } else {
                    match self.take(agent, key.library, vec![record], false)[0] {
                        ItemOutcome::NeedsContent => {
                            Err(FetchFailure::Source("its content went away".into()))
                        }
                        _ => Ok(()),
                    }
                };
                self.agents[agent].fetching.applied(key, result)
            }
            PeersNews::Restrict(key) => self.agents[agent].fetching.restricted(key, Ok(())),
        };
        self.carry_out(agent, decisions);
    }

    /// Contents that go along with an offer, now and then those of an asset that came from somebody else.
    pub(super) fn inline(&self, agent: usize, entries: &[FeedEntry]) -> InlineContents {
        let agent = &self.agents[agent];
        let eligible = |record: &&AssetRecord| {
            record.size <= INLINE_CONTENT_BYTES_MAX as u64
                && record.writer == WriterId::NULL
                && agent.has(&record.hash)
                && !agent.fetching.scheduler().wants(&record.hash)
        };
        let records = entries.iter().map(|entry| &entry.record).filter(eligible);
        let content = |size: u64| Bytes::from(vec![0; usize::try_from(size).unwrap()]);
        records.map(|record| (record.hash, content(record.size))).collect()
    }

    /// All parts of a large content are here, or so the scheduler says.
    pub(super) fn commit(&mut self, number: usize, key: WantKey, record: AssetRecord) -> Vec<FetchDecision> {
        let agent = &mut self.agents[number];
        let whole = agent.parts.get(&key).map_or(0, Ranges::len) == key.size;
        assert!(whole, "parts are missing that were said to be here");
        let outcome = if self.now < agent.store_down_until {
            CommitOutcome::NotTaken(FetchFailure::Store("down".into()))
        } else {
            agent.parts.remove(&key);
            let outcomes = self.take(number, key.library, vec![record], true);
            assert_ne!(outcomes, [ItemOutcome::NeedsContent]);
            CommitOutcome::Stored { from: None, liars: Vec::new() }
        };
        self.agents[number].fetching.committed(key, outcome)
    }

    /// A peer sent something else than was asked of it: the connection is closed, and there is another one later.
    pub(super) fn distrust(&mut self, agent: usize, peer: &EndpointId) {
        let liar = self.agents.len() - 1;
        let honest = self.mode != Mode::Libraries || self.agents[liar].endpoint_id() != *peer;
        assert!(!honest, "an honest agent is distrusted");
        let is_between = |link: &&usize| {
            let agents = self.links[**link].agents;
            agents.contains(&agent) && agents.contains(&liar)
        };
        let Some(link) = (0..self.links.len()).collect::<Vec<_>>().iter().find(is_between).copied() else {
            return;
        };
        if self.links[link].sides.is_some() {
            self.cut(link);
            self.put(self.now + SECOND, SimEvent::Mend(link));
        }
    }

    pub(super) fn end_of(&self, agent: usize, id: SessionId) -> Option<At> {
        self.ends().find(|at| {
            let side = self.links[at.link].sides.as_ref().map(|sides| &sides[at.end]);
            side.is_some_and(|side| side.agent == agent && side.id == id)
        })
    }

    pub(super) fn carry_out(&mut self, agent: usize, decisions: Vec<FetchDecision>) {
        for decision in decisions {
            let decision = match decision {
                FetchDecision::Schedule(decision) => decision,
                FetchDecision::Distrust { peer, .. } => {
                    self.distrust(agent, &peer);
                    continue;
                }
            };
            let (id, news) = match decision {
                ScheduleDecision::Fetch { session, request, library, records } => {
                    (session, News::Fetch(request, library, records))
                }
                ScheduleDecision::FetchPart { session, request, key, range, .. } => {
                    (session, News::FetchPart(request, key, range))
                }
                ScheduleDecision::Revoke { session, request } => (session, News::Revoke(request)),
                ScheduleDecision::Commit(key, record) => {
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Commit(key, record))));
                    continue;
                }
                ScheduleDecision::Apply(key, record) => {
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Apply(key, record))));
                    continue;
                }
                ScheduleDecision::Lied { .. } | ScheduleDecision::Misnamed { .. } => continue,
                ScheduleDecision::Restart(key) => {
                    self.agents[agent].parts.remove(&key);
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Restrict(key))));
                    continue;
                }
                ScheduleDecision::Restrict { key, .. } => {
                    self.put(self.now + MS, SimEvent::Peers(agent, Box::new(PeersNews::Restrict(key))));
                    continue;
                }
                ScheduleDecision::Settled { session, keys } => (session, News::Settled(keys)),
                ScheduleDecision::Failed { session, key, reason } => (session, News::Failed(key, reason)),
            };
            if let Some(at) = self.end_of(agent, id) {
                self.in_order(SimChannel::PeerActor(at), SimEvent::Side(at, news));
            }
        }
    }
}
