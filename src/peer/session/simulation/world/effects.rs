//! What a PeerActor and its tasks do of what the sessions decide.

use futures::FutureExt as _;

use super::parts::{At, News, PeersNews, SimEvent};
use super::{MS, Mode, SECOND, SimWorld, blinded};
use crate::peer::deferrals::Note;
use crate::peer::establish::summary_to_wire;
use crate::peer::session::{OfferVerdict, Session, SessionEffect, SessionInput, judge_for, judge_holding};
use crate::reconcile::engine::{EngineLimits, Initiator};
use crate::record::{AssetRecord, ContentHash, HLC_AHEAD_MAX_MS};
use crate::store::ItemOutcome;
use crate::wire::proto::{Offer, Ping, Pong, frame};

impl SimWorld {
    /// Has versions dated anew that were written while the clock was ahead, once it is right.
    pub(super) fn recall(&mut self, number: usize) {
        if self.mode != Mode::WrongClock || self.agents[number].wrong_ms != 0 {
            return;
        }
        let sides = self.links.iter().filter_map(|link| link.sides.as_ref()).flatten();
        let lanes = sides.filter(|side| side.agent == number).flat_map(|side| &side.lanes);
        let sessions = lanes.filter_map(|lane| lane.session.as_ref());
        let offered = sessions.map(Session::newest_offered).max().unwrap_or_default();
        let now = self.now;
        if now >= self.agents[number].store_down_until && self.agents[number].recall(now, offered) {
            self.later(SimEvent::Feed(number));
        }
    }

    pub(super) fn perform(&mut self, at: At, lane: usize, effects: Vec<SessionEffect>) {
        for effect in effects {
            match effect {
                SessionEffect::Send(kind) => {
                    self.said += 1;
                    if let frame::Kind::Offer(offer) = &kind {
                        self.count_echoes(at, lane, offer);
                    }
                    self.send_frame(at, kind);
                }
                SessionEffect::Judge(_)
                | SessionEffect::JudgeAbsent(_)
                | SessionEffect::TakeAbsent(_)
                | SessionEffect::Apply(_)
                | SessionEffect::Reassert(_)
                | SessionEffect::Store(_)
                | SessionEffect::Load(_)
                | SessionEffect::Serve(_) => {
                    self.later(SimEvent::Side(at, News::Perform(lane, effect)));
                }
                SessionEffect::TakeEntries(_) | SessionEffect::LoadEntries(_) => {
                    panic!("there are no folders here");
                }
                SessionEffect::Resolve(rids) => {
                    let (found, gone) = self.library_of(at, lane).resolve(&rids);
                    self.step(at, lane, SessionInput::Resolved { found, gone });
                }
                SessionEffect::Announce(records) => {
                    let Some((agent, id)) = self.side(at).map(|side| (side.agent, side.id)) else { return };
                    let library = self.links[at.link].lanes[lane];
                    self.tell_peers(agent, PeersNews::Wanted(id, library, records));
                }
                SessionEffect::SendSummary { nonce, answer } => {
                    let agent = self.agent_of(at);
                    let (seq, until) = (self.agents[agent].seq(), self.now + 2 * SECOND);
                    self.later(SimEvent::Side(at, News::Summary { lane, nonce, answer, seq, until }));
                }
                SessionEffect::Reconcile => {
                    self.said += 1;
                    let id = self.number();
                    let snapshot = self.library_of(at, lane).snapshot();
                    let (initiator, first) = Initiator::new(snapshot, EngineLimits::default());
                    let Some(side) = self.side(at) else { return };
                    side.initiators.insert(id, initiator);
                    self.later(SimEvent::Side(at.other(), News::ToResponder(lane, id, first)));
                }
                // What is on its way comes all the same.
                SessionEffect::CancelServe(_) => {}
                SessionEffect::Close { code, reason } => {
                    panic!("{at:?} closes the connection: {code} {reason}")
                }
            }
        }
    }

    pub(super) fn count_echoes(&mut self, at: At, lane: usize, offer: &Offer) {
        for digest in digests(offer) {
            self.offers += 1;
            let heard = self.side(at).is_some_and(|side| side.lanes[lane].heard.contains(&digest));
            self.echoes += u64::from(heard);
        }
    }

    pub(super) fn withholds(&mut self, at: At) -> bool {
        self.agent_of(at.other()) + 1 == self.agents.len() && self.chaos() && self.dice.one_in(3)
    }

    pub(super) fn on_heard(&mut self, at: At, lane: usize, offer: &Offer) {
        if let Some(side) = self.side(at) {
            side.lanes[lane].heard.extend(digests(offer));
        }
        if self.mode != Mode::Libraries {
            return;
        }
        let (agent, library) = (self.agent_of(at), self.links[at.link].lanes[lane]);
        for wire in &offer.records {
            let record = AssetRecord::try_from(wire.clone()).expect("a record");
            self.oracle.heard(agent, library, &record);
        }
        for inline in &offer.contents {
            self.oracle.received(agent, ContentHash::from_slice(&inline.hash).expect("a hash"));
        }
    }

    pub(super) fn on_summary(&mut self, at: At, lane: usize, nonce: u64, answer: bool, seq: u64, until: u64) {
        let library = self.library_of(at, lane);
        let behind = library.cursor().borrow().unwrap_or_default() < seq;
        if behind && self.now < until {
            let again = SimEvent::Side(at, News::Summary { lane, nonce, answer, seq, until });
            return self.put(self.now + 20 * MS, again);
        }
        let shared = self.links[at.link].lanes[lane];
        let libraries = vec![summary_to_wire(&blinded(shared), &library.summary())];
        if answer {
            return self.send_frame(at, frame::Kind::Pong(Pong { nonce, libraries, behind, clock_ms: 0 }));
        }
        if let Some(side) = self.side(at) {
            side.lanes[lane].asked_behind = behind;
        }
        self.send_frame(at, frame::Kind::Ping(Ping { nonce, libraries, behind, clock_ms: 0 }));
    }

    /// Tasks that ask the store; they insist until it answers.
    pub(super) fn on_perform(&mut self, at: At, lane: usize, effect: SessionEffect) {
        let (number, now) = (self.agent_of(at), self.now);
        let shared = self.links[at.link].lanes[lane];
        let agent = &self.agents[number];
        if now < agent.store_down_until {
            return match effect {
                SessionEffect::Store(items) => {
                    let records = items.into_iter().map(|(record, _)| record).collect();
                    self.step(at, lane, SessionInput::NotStored(records));
                }
                effect => self.put(now + SECOND, SimEvent::Side(at, News::Perform(lane, effect))),
            };
        }
        let input = match effect {
            SessionEffect::Store(items) => {
                let records: Vec<AssetRecord> = items.iter().map(|(record, _)| record.clone()).collect();
                assert!(items.iter().all(|(record, content)| content.len() as u64 == record.size));
                let outcomes = self.take(number, shared, records.clone(), true);
                assert!(!outcomes.contains(&ItemOutcome::NeedsContent));
                let decisions = self.agents[number].fetching.arrived(shared, &records);
                self.carry_out(number, decisions);
                SessionInput::Settled(records.iter().map(|record| record.hash).collect())
            }
            SessionEffect::Judge(records) => self.judge(at, lane, records, true),
            SessionEffect::JudgeAbsent(records) => self.judge(at, lane, records, false),
            SessionEffect::Reassert(others) => {
                for other in &others {
                    self.agents[number].reassert(other.hash, other.hlc);
                    self.agents[number].notes.spend(other, None);
                }
                self.later(SimEvent::Feed(number));
                SessionInput::Settled(others.into_iter().map(|other| other.hash).collect())
            }
            SessionEffect::TakeAbsent(records) => {
                let hashes = records.iter().map(|record| record.hash).collect();
                let taken = agent.taker().take_absent(records).now_or_never();
                assert!(taken.is_some_and(|taken| taken.is_ok()));
                self.oracle.stays_own(agent);
                self.later(SimEvent::Feed(number));
                SessionInput::Settled(hashes)
            }
            SessionEffect::Apply(records) => {
                let hashes: Vec<ContentHash> = records.iter().map(|record| record.hash).collect();
                let (mut settled, mut failed) = (Vec::new(), Vec::new());
                for (hash, outcome) in hashes.into_iter().zip(self.take(number, shared, records, false)) {
                    match outcome {
                        ItemOutcome::Stored | ItemOutcome::Unchanged | ItemOutcome::Absent => {
                            settled.push(hash);
                        }
                        ItemOutcome::NeedsContent => failed.push((hash, "its content went away".to_owned())),
                        ItemOutcome::Rejected(why) if self.mode == Mode::Libraries => {
                            failed.push((hash, why));
                        }
                        ItemOutcome::Rejected(why) => panic!("{why}"),
                    }
                }
                self.step(at, lane, SessionInput::Failed(failed));
                SessionInput::Settled(settled)
            }
            SessionEffect::Load(hashes) => {
                let held = hashes.iter().filter_map(|hash| agent.stored(hash)).collect();
                SessionInput::Loaded { records: agent.library(shared).versions(&hashes, held) }
            }
            SessionEffect::Serve(want) => return self.serve(at, want),
            other => panic!("{other:?} is done at once"),
        };
        self.step(at, lane, input);
    }

    pub(super) fn judge(
        &mut self,
        at: At,
        lane: usize,
        records: Vec<AssetRecord>,
        held_there: bool,
    ) -> SessionInput {
        if let Some(side) = self.side(at) {
            for record in &records {
                side.lanes[lane].wishes.answered(&record.hash, held_there);
            }
        }
        let (number, shared) = (self.agent_of(at), self.links[at.link].lanes[lane]);
        let from = self.agent_of(at.other()) as u64;
        let agent = &mut self.agents[number];
        let (clock, deletes) = (agent.clock_ms(self.now), agent.replicate_deletes);
        let library = agent.library(shared);
        let mut verdicts = Vec::new();
        for record in records {
            let ours = agent.stored(&record.hash);
            let mut verdict = match shared {
                None => judge_holding(&record, held_there, ours.as_ref(), clock, (HLC_AHEAD_MAX_MS, deletes)),
                Some(_) => judge_for(
                    &library,
                    &record,
                    held_there,
                    ours.as_ref(),
                    clock,
                    (deletes, false),
                    Some(from),
                ),
            };
            let ours = ours.filter(|ours| shared.is_none() || library.is_here(ours)).map(|ours| ours.record);
            match &verdict {
                OfferVerdict::Later(wait_ms) => {
                    assert_eq!(self.mode, Mode::WrongClock);
                    agent.notes.add(Note::of(&record, None, clock, clock + wait_ms));
                }
                OfferVerdict::Apply | OfferVerdict::Fetch | OfferVerdict::TakeAbsent
                    if ours.as_ref().is_none_or(|ours| record.supersedes(ours)) =>
                {
                    if agent.notes.settle(&record, ours.as_ref(), None, true).0 {
                        verdict = OfferVerdict::Reassert;
                    }
                    agent.confirmed = agent.confirmed.max(record.hlc);
                }
                // Of two sizes that are told of one content, one is a lie.
                OfferVerdict::Refuse(why) => assert_eq!(self.mode, Mode::Libraries, "{why}"),
                _ => {}
            }
            verdicts.push((record, verdict));
        }
        self.later(SimEvent::Keep(number));
        SessionInput::Judged(verdicts)
    }
}

fn digests(offer: &Offer) -> impl Iterator<Item = [u8; 32]> {
    offer.records.iter().map(|wire| AssetRecord::try_from(wire.clone()).expect("an honest record").digest())
}
