//! PeerActor's part in letting go of contents by promise: asking the peer to keep its copies, and promising it ours. Between own
//! devices alone.

use std::sync::Arc;

use ractor::ActorRef;
use tokio::sync::Semaphore;

use super::PeerState;
use crate::net::close;
use crate::peer::effects::{self, KeepQuestion};
use crate::peer::letting_go::{ASKED_OF_ONE_MAX, KeepAnswer, Nonce, PlaceTag};
use crate::peer::messages::{DropsMessage, PeerMsg, PeersMsg};
use crate::record::ContentHash;
use crate::wire::proto::{Keep, KeepRequest, Kept, frame, kept};

/// Copies that are read at once in order to promise them to a peer.
const READ_AT_ONCE: usize = 2;

/// What a peer was asked to keep, and asks us to keep.
#[derive(Debug)]
pub(super) struct Keeping {
    /// Whether the peer can be asked: one of our own devices.
    pub(super) is_able: bool,
    /// How many of its questions are not answered.
    answering: usize,
    turns: Arc<Semaphore>,
}

impl Keeping {
    pub(super) fn new(is_able: bool) -> Self {
        Self { is_able, answering: 0, turns: Arc::new(Semaphore::new(READ_AT_ONCE)) }
    }
}

impl PeerState {
    /// Asks the peer. Without a session nobody is asked: PeersActor hears of its end.
    pub(super) fn on_keep(&mut self, place: &PlaceTag, question: &KeepQuestion) {
        if !self.running.as_ref().is_some_and(|running| running.keeping.is_able) {
            return;
        }
        let KeepQuestion { hash, nonce, offset } = *question;
        let request = KeepRequest { hash: hash.0.to_vec().into(), nonce: nonce.to_vec().into(), offset };
        self.send(frame::Kind::Keep(Keep { place: place.to_vec().into(), contents: vec![request] }));
    }

    /// The peer wants to let go of its copies.
    pub(super) fn on_asked_to_keep(&mut self, myself: &ActorRef<PeerMsg>, lane: usize, keep: &Keep) {
        let Some(running) = &mut self.running else { return };
        let library = running.lanes.get(lane).map(|lane| Arc::clone(&lane.library));
        let Some(library) = library.filter(|library| library.is_mirror()) else {
            return self.close(close::VIOLATION, "who is no device of ours asks to keep contents");
        };
        let questions: Option<Vec<KeepQuestion>> = keep.contents.iter().map(question).collect();
        let (Some(questions), Ok(place)) = (questions, PlaceTag::try_from(keep.place.as_ref())) else {
            return self.close(close::VIOLATION, "a question to keep a content that makes no sense");
        };
        let room = ASKED_OF_ONE_MAX.saturating_sub(running.keeping.answering);
        let (taken, others) = questions.split_at(room.min(questions.len()));
        running.keeping.answering += taken.len();
        let peer = *self.args.connection.remote_id().as_bytes();
        for &question in taken {
            let (store, library) = (Arc::clone(&self.args.replica.store), Arc::clone(&library));
            let (actor, epoch, turns) = (myself.clone(), running.epoch, Arc::clone(&running.keeping.turns));
            running.tasks.spawn(async move {
                // The semaphore is never closed.
                let _turn = turns.acquire().await;
                let answer = effects::promise(&store, &library, peer, &place, &question).await;
                let kept = Box::new(to_wire(&question, answer));
                // An actor that is gone has no session any more.
                let _ = actor.send_message(PeerMsg::KeepDecided { epoch, kept });
            });
        }
        // Whoever does not wait for answers asks more than are read.
        for question in others {
            self.send(frame::Kind::Kept(to_wire(question, KeepAnswer::Unable)));
        }
    }

    pub(super) fn on_keep_decided(&mut self, kept: Kept) {
        let Some(running) = &mut self.running else { return };
        running.keeping.answering = running.keeping.answering.saturating_sub(1);
        self.send(frame::Kind::Kept(kept));
    }

    /// The peer answers. Whether it was asked, PeersActor knows, by the nonce.
    pub(super) fn on_kept(&mut self, kept: &Kept) {
        let is_able = self.running.as_ref().is_some_and(|running| running.keeping.is_able);
        let Some((question, answer)) = from_wire(kept).filter(|_| is_able) else {
            return self.close(close::VIOLATION, "an answer about keeping a content that makes no sense");
        };
        let KeepQuestion { hash, nonce, .. } = question;
        let session = self.args.session;
        self.tell(PeersMsg::Drops(DropsMessage::Answered { session, hash, nonce, answer }));
    }
}

fn question(request: &KeepRequest) -> Option<KeepQuestion> {
    let hash = ContentHash::from_slice(&request.hash)?;
    let nonce = Nonce::try_from(request.nonce.as_ref()).ok()?;
    Some(KeepQuestion { hash, nonce, offset: request.offset })
}

fn to_wire(question: &KeepQuestion, answer: KeepAnswer) -> Kept {
    let (outcome, promised) = match answer {
        KeepAnswer::Promised { place, proof } => (kept::Outcome::Promised, Some((place, proof))),
        KeepAnswer::Dropping => (kept::Outcome::Dropping, None),
        KeepAnswer::Lacks => (kept::Outcome::Lacks, None),
        KeepAnswer::SamePlace => (kept::Outcome::SamePlace, None),
        KeepAnswer::Unable => (kept::Outcome::Unable, None),
    };
    let (place, proof) =
        promised.map(|(place, proof)| (place.to_vec().into(), proof.to_vec().into())).unwrap_or_default();
    Kept {
        hash: question.hash.0.to_vec().into(),
        nonce: question.nonce.to_vec().into(),
        outcome: outcome.into(),
        place,
        proof,
    }
}

/// `None` for what no honest peer says. An outcome that is not known says nothing.
fn from_wire(kept: &Kept) -> Option<(KeepQuestion, KeepAnswer)> {
    let hash = ContentHash::from_slice(&kept.hash)?;
    let nonce = Nonce::try_from(kept.nonce.as_ref()).ok()?;
    let answer = match kept.outcome() {
        kept::Outcome::Promised => KeepAnswer::Promised {
            place: kept.place.as_ref().try_into().ok()?,
            proof: kept.proof.as_ref().try_into().ok()?,
        },
        kept::Outcome::Dropping => KeepAnswer::Dropping,
        kept::Outcome::Lacks => KeepAnswer::Lacks,
        kept::Outcome::SamePlace => KeepAnswer::SamePlace,
        kept::Outcome::Unable | kept::Outcome::Unspecified => KeepAnswer::Unable,
    };
    Some((KeepQuestion { hash, nonce, offset: 0 }, answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_is_written_and_nothing_else_is_a_promise() {
        let asked = KeepQuestion { hash: ContentHash([1; 32]), nonce: [2; 32], offset: 7 };
        for answer in [
            KeepAnswer::Promised { place: [3; 32], proof: [4; 32] },
            KeepAnswer::Dropping,
            KeepAnswer::Lacks,
            KeepAnswer::SamePlace,
            KeepAnswer::Unable,
        ] {
            let wire = to_wire(&asked, answer);
            let (question, read) = from_wire(&wire).unwrap();
            assert_eq!((question.hash, question.nonce, read), (asked.hash, asked.nonce, answer));
        }
        let promise = to_wire(&asked, KeepAnswer::Promised { place: [3; 32], proof: [4; 32] });
        for broken in [
            Kept { place: vec![3; 31].into(), ..promise.clone() },
            Kept { proof: Vec::new().into(), ..promise.clone() },
            Kept { nonce: vec![0; 33].into(), ..promise.clone() },
            Kept { hash: Vec::new().into(), ..promise.clone() },
        ] {
            assert!(from_wire(&broken).is_none(), "{broken:?}");
        }
        let unknown = Kept { outcome: 99, ..promise };
        assert!(matches!(from_wire(&unknown), Some((_, KeepAnswer::Unable))));
    }
}
