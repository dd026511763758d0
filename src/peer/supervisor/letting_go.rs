//! PeersActor's part in letting go of contents by promise: it has the command ([`Dropping`], pure), performs what that decides, and says who
//! can be asked.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use iroh::EndpointId;

use super::PeersState;
use crate::peer::effects::{self, KeepQuestion};
use crate::peer::letting_go::{
    DropEffect, DropInput, DropOutcome, DropRules, Dropping, HolderId, HolderRefusal, KeptBecause, PlaceTag,
    TakenPromise,
};
use crate::peer::messages::{DropsMessage, PeerMsg, PeersMsg};
use crate::peer::report::{DropRefused, DropReport, DropsProgress, DropsReport, PromiseReport};
use crate::record::ContentHash;
use crate::text::amounts::counted;
use crate::text::short_id;
use crate::transfer::schedule::SessionId;

/// How long a command goes on. What takes longer is asked for once more, by another one.
const COMMAND_WITHIN: Duration = Duration::from_mins(50);
const REPORTED_MAX: usize = 1_000;
/// Machines that are named although they are not connected.
const AWAY_TOLD: usize = 5;
/// Contents of which it is remembered who promised to keep them.
const REMEMBERED_MAX: usize = 100_000;

/// Commands that let go of contents. A restart loses them: then nothing more goes.
#[derive(Debug, Default)]
pub(super) struct LettingGo {
    command: Option<DropCommand>,
    /// Who promised to keep what was let go of.
    taken: HashMap<ContentHash, Vec<TakenPromise>>,
}

#[derive(Debug)]
struct DropCommand {
    number: u64,
    place: PlaceTag,
    dropping: Dropping,
    sizes: HashMap<ContentHash, u64>,
    /// Sessions that can be asked, as far as it was told.
    holders: BTreeSet<SessionId>,
    /// How many outcomes were looked at.
    seen: usize,
    dropped: u64,
    dropped_bytes: u64,
}

impl PeersState {
    /// Whoever marked copies before this actor was started is no more.
    pub(super) fn clear_marks(&mut self) {
        let store = Arc::clone(&self.args.replica.store);
        self.tasks.spawn(async move {
            if let Err(error) = store.clear_dropping(None).await {
                tracing::warn!(%error, "copies that were about to be let go of are promised to nobody until the next start");
            }
        });
    }

    pub(super) fn on_drops(&mut self, message: DropsMessage) {
        match message {
            DropsMessage::Begin { contents, reply } => drop(reply.send(self.begin_drops(contents))),
            DropsMessage::GetReport { after, reply } => drop(reply.send(self.drops(after))),
            DropsMessage::Cancel { reply } => drop(reply.send(self.cancel_drops())),
            DropsMessage::Told { command, input } => {
                if self.letting_go.command.as_ref().is_some_and(|known| known.number == command) {
                    self.step_drops(input);
                }
            }
            DropsMessage::Answered { session, hash, nonce, answer } => {
                self.step_drops(DropInput::Answered { session, hash, nonce, answer });
            }
        }
    }

    fn uptime(&self) -> Duration {
        self.args.replica.deferrals.clock().uptime()
    }

    fn begin_drops(&mut self, contents: Vec<(ContentHash, u64)>) -> Result<u64, DropRefused> {
        if self.letting_go.command.as_ref().is_some_and(|command| !command.dropping.is_over()) {
            return Err(DropRefused::Busy);
        }
        if !self.accepting {
            return Err(DropRefused::NotReady);
        }
        let mirror = self.args.replica.libraries.mirror();
        let place = self.args.replica.store.copy_place().map(|place| effects::place_tag(mirror, place));
        let place = place.ok_or(DropRefused::NoPlace)?;
        let now = self.uptime();
        self.letting_go.taken.retain(|_, taken| taken.iter().any(|promise| promise.lasts_until > now));
        let min_copies = self.args.limits.min_copies;
        let rules = DropRules { min_copies, own_place: place, until: now + COMMAND_WITHIN };
        let number = u64::from(rand::random::<u32>());
        let sizes: HashMap<ContentHash, u64> = contents.iter().copied().collect();
        self.letting_go.command = Some(DropCommand {
            number,
            place,
            dropping: Dropping::new(rules, contents),
            sizes,
            holders: BTreeSet::new(),
            seen: 0,
            dropped: 0,
            dropped_bytes: 0,
        });
        self.tick_drops();
        Ok(number)
    }

    fn cancel_drops(&mut self) -> bool {
        let is_running = self.letting_go.command.as_ref().is_some_and(|command| !command.dropping.is_over());
        self.step_drops(DropInput::Cancel);
        is_running
    }

    /// Own devices that can be asked, one session of each.
    fn holders(&self) -> Vec<(SessionId, HolderId)> {
        let can = |(session, link): &(SessionId, &super::PeerLink)| {
            link.up
                && !link.foreign
                && self.links.current_session(&link.endpoint_id) == Some(*session)
                && link.shared_view().keeps
        };
        let all = self.links.iter().filter(can);
        all.map(|(session, link)| (session, *link.endpoint_id.as_bytes())).collect()
    }

    /// Says who came and went, and that time has passed.
    pub(super) fn tick_drops(&mut self) {
        let Some(command) = self.letting_go.command.as_ref().filter(|command| !command.dropping.is_over())
        else {
            return;
        };
        let (known, now) = (command.holders.clone(), self.holders());
        for session in known.iter().filter(|session| now.iter().all(|(other, _)| other != *session)) {
            self.drop_holder_gone(*session);
        }
        for (session, holder) in now.into_iter().filter(|(session, _)| !known.contains(session)) {
            if let Some(command) = &mut self.letting_go.command {
                command.holders.insert(session);
            }
            self.step_drops(DropInput::HolderUp { session, holder });
        }
        self.step_drops(DropInput::Tick);
    }

    /// A session began anew, or is over: what its peer was asked, it does not answer.
    pub(super) fn drop_holder_gone(&mut self, session: SessionId) {
        let is_holder =
            self.letting_go.command.as_mut().is_some_and(|command| command.holders.remove(&session));
        if is_holder {
            self.step_drops(DropInput::HolderGone { session });
        }
    }

    /// A user shut a machine out: nobody counts on it any more.
    pub(super) fn drop_holder_denied(&mut self, id: &EndpointId) {
        self.step_drops(DropInput::HolderDenied { holder: *id.as_bytes() });
    }

    fn step_drops(&mut self, input: DropInput) {
        let now = self.uptime();
        let Some(command) = &mut self.letting_go.command else { return };
        let effects = command.dropping.handle(input, now, &mut || rand::random());
        let (number, place) = (command.number, command.place);
        for (hash, outcome) in &command.dropping.ended()[command.seen..] {
            if let DropOutcome::Dropped { promises } = outcome {
                command.dropped += 1;
                command.dropped_bytes += command.sizes.get(hash).copied().unwrap_or(0);
                if self.letting_go.taken.len() < REMEMBERED_MAX {
                    self.letting_go.taken.insert(*hash, promises.clone());
                }
            }
        }
        command.seen = command.dropping.ended().len();
        for effect in effects {
            self.perform_drop(number, &place, effect);
        }
    }

    fn perform_drop(&mut self, number: u64, place: &PlaceTag, effect: DropEffect) {
        let (store, libraries) =
            (Arc::clone(&self.args.replica.store), Arc::clone(&self.args.replica.libraries));
        let actor = self.args.myself.clone();
        let tell = move |input| {
            // An actor that is gone has no command any more.
            let _ = actor.cast(PeersMsg::Drops(DropsMessage::Told { command: number, input }));
        };
        match effect {
            DropEffect::Ask { session, hash, nonce, offset } => {
                if let Some(link) = self.links.get(session) {
                    let question = KeepQuestion { hash, nonce, offset };
                    link.cast(PeerMsg::Keep { place: *place, question });
                }
            }
            DropEffect::Prepare { hash, offset, length } => drop(self.tasks.spawn(async move {
                let answer = effects::prepare_drop(&store, libraries.mirror(), hash, offset, length).await;
                tell(DropInput::Prepared { hash, answer });
            })),
            DropEffect::LetGo { hash, by } => {
                let command = self.letting_go.command.as_ref();
                let keepers = command.map(|command| command.dropping.counted_on(&hash)).unwrap_or_default();
                drop(self.tasks.spawn(async move {
                    let answer = effects::drop_copy(&store, &libraries, hash, by, keepers).await;
                    tell(DropInput::LetGo { hash, answer });
                }));
            }
            DropEffect::Clear { hash } => drop(self.tasks.spawn(async move {
                if let Err(error) = store.clear_dropping(Some(vec![hash])).await {
                    tracing::warn!(%hash, %error, "a copy that stays is promised to nobody until the next start");
                }
                tell(DropInput::Cleared { hash });
            })),
        }
    }

    fn drops(&self, after: usize) -> Option<DropsReport> {
        let command = self.letting_go.command.as_ref()?;
        let (ended, now) = (command.dropping.ended(), self.uptime());
        let from = after.min(ended.len());
        let told = &ended[from..ended.len().min(from + REPORTED_MAX)];
        let away = self.own_away();
        Some(DropsReport {
            command: command.number,
            running: !command.dropping.is_over(),
            total: command.sizes.len() as u64,
            left: command.dropping.left() as u64,
            dropped: command.dropped,
            dropped_bytes: command.dropped_bytes,
            kept: (ended.len() as u64).saturating_sub(command.dropped),
            lacking: self.lacking(command),
            contents: told
                .iter()
                .map(|(hash, outcome)| self.drop_report(*hash, outcome, now, &away))
                .collect(),
            next: (from + told.len()) as u64,
        })
    }

    /// The command that runs, in short.
    pub(super) fn drops_progress(&self) -> Option<DropsProgress> {
        let command = self.letting_go.command.as_ref().filter(|command| !command.dropping.is_over())?;
        let (total, left) = (command.sizes.len() as u64, command.dropping.left() as u64);
        Some(DropsProgress::new(total, left, command.dropped, self.lacking(command)))
    }

    /// Why the latest try was in vain.
    fn lacking(&self, command: &DropCommand) -> Option<String> {
        let why = command.dropping.shortfall()?;
        let name_of = |holder: &HolderId| self.name_of(holder);
        Some(because(why, self.args.limits.min_copies, &self.own_away(), &name_of))
    }

    /// Own devices that are known and cannot be asked, for they are not connected; in order.
    fn own_away(&self) -> Vec<String> {
        let own = self.roster.iter().filter(|(id, known)| known.was_own() && !self.links.is_connected(id));
        let mut names: Vec<String> = own.map(|(id, _)| self.name_of(id.as_bytes())).collect();
        names.sort_unstable();
        names.truncate(AWAY_TOLD);
        names
    }

    fn drop_report(
        &self,
        hash: ContentHash,
        outcome: &DropOutcome,
        now: Duration,
        away: &[String],
    ) -> DropReport {
        let promises = match outcome {
            DropOutcome::Dropped { promises } | DropOutcome::Kept(KeptBecause::TooFew { promises, .. }) => {
                promises.as_slice()
            }
            DropOutcome::Kept(_) => &[],
        };
        let name_of = |holder: &HolderId| self.name_of(holder);
        DropReport {
            hash: hash.to_string(),
            dropped: matches!(outcome, DropOutcome::Dropped { .. }),
            explanation: explain(outcome, self.args.limits.min_copies, away, &name_of),
            promises: promises.iter().map(|promise| self.promise_report(promise, now)).collect(),
        }
    }

    /// Who promised to keep a content when it was let go of here, as far as that is remembered.
    pub(super) fn promises_taken(&self, hash: &ContentHash) -> Vec<PromiseReport> {
        let (taken, now) = (self.letting_go.taken.get(hash), self.uptime());
        taken.into_iter().flatten().map(|promise| self.promise_report(promise, now)).collect()
    }

    fn promise_report(&self, promise: &TakenPromise, now: Duration) -> PromiseReport {
        PromiseReport {
            endpoint_id: id_of(&promise.holder),
            name: self.roster_name(&promise.holder).unwrap_or_default(),
            lasts_secs: promise.lasts_until.saturating_sub(now).as_secs(),
        }
    }

    fn roster_name(&self, holder: &HolderId) -> Option<String> {
        let id = EndpointId::from_bytes(holder).ok()?;
        self.roster.get(&id).map(|known| known.name.clone()).filter(|name| !name.is_empty())
    }

    fn name_of(&self, holder: &HolderId) -> String {
        self.roster_name(holder).unwrap_or_else(|| short_id(&id_of(holder)))
    }
}

fn id_of(holder: &HolderId) -> String {
    EndpointId::from_bytes(holder).map(|id| id.to_string()).unwrap_or_default()
}

/// What became of a content, for people.
fn explain(
    outcome: &DropOutcome,
    min_copies: usize,
    away: &[String],
    name_of: &dyn Fn(&HolderId) -> String,
) -> String {
    match outcome {
        DropOutcome::Dropped { promises } => {
            format!("let go of: {} promised to keep it", names(promises, name_of))
        }
        DropOutcome::Kept(why) => format!("kept: {}", because(why, min_copies, away, name_of)),
    }
}

fn names(promises: &[TakenPromise], name_of: &dyn Fn(&HolderId) -> String) -> String {
    promises.iter().map(|promise| name_of(&promise.holder)).collect::<Vec<_>>().join(", ")
}

/// Why a content is still here, for people; `away` could not be asked.
fn because(
    why: &KeptBecause,
    min_copies: usize,
    away: &[String],
    name_of: &dyn Fn(&HolderId) -> String,
) -> String {
    let not_asked =
        if away.is_empty() { String::new() } else { format!("; not connected: {}", away.join(", ")) };
    match why {
        KeptBecause::TooFew { promises, refusals } if promises.is_empty() && refusals.is_empty() => {
            format!("no other machine of this network is connected that could promise to keep it{not_asked}")
        }
        KeptBecause::TooFew { promises, refusals } => {
            let others = refusals.iter().map(|(holder, why)| format!("{} {}", name_of(holder), said(*why)));
            let mut told: Vec<String> = others.collect();
            if !promises.is_empty() {
                told.insert(0, format!("{} promised to keep it", names(promises, name_of)));
            }
            let needed = counted(min_copies as u64, "promise");
            format!(
                "{needed} from other places are needed, there are {}: {}{not_asked}",
                promises.len(),
                told.join("; ")
            )
        }
        KeptBecause::Promised { to, lasts } => {
            format!(
                "it is promised to {} for {} more",
                name_of(to),
                counted(lasts.as_secs().div_ceil(3600), "hour")
            )
        }
        KeptBecause::NotHeld => "it is not held here".to_owned(),
        KeptBecause::Needed => "it is pinned, or a library or a folder that is bound here has it".to_owned(),
        KeptBecause::Late => "the promises came too late".to_owned(),
        KeptBecause::ShutOut => "a machine that promised to keep it was shut out".to_owned(),
        KeptBecause::TimeIsUp => "there was no time left for it".to_owned(),
        KeptBecause::Cancelled => "the command was ended".to_owned(),
        KeptBecause::Failed(why) => why.clone(),
    }
}

fn said(why: HolderRefusal) -> &'static str {
    match why {
        HolderRefusal::Dropping => "is about to let go of it, too",
        HolderRefusal::Lacks => "does not have it",
        HolderRefusal::SamePlace => "has its copy where this machine has it",
        HolderRefusal::PlaceCounted => "has its copy where one of those has it",
        HolderRefusal::Unable => "cannot say now",
        HolderRefusal::WrongProof => "did not show that it has it",
        HolderRefusal::Silent => "did not answer in time",
        HolderRefusal::Lost => "was disconnected",
        HolderRefusal::Denied => "promised to keep it and was shut out",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_who_keeps_it_or_why_it_stays() {
        let name_of = |holder: &HolderId| format!("m{}", holder[0]);
        let promise = |n: u8| TakenPromise { holder: [n; 32], lasts_until: Duration::ZERO };
        let told = |outcome| explain(&outcome, 2, &[], &name_of);
        assert_eq!(
            told(DropOutcome::Dropped { promises: vec![promise(1), promise(2)] }),
            "let go of: m1, m2 promised to keep it"
        );
        let short = KeptBecause::TooFew {
            promises: vec![promise(1)],
            refusals: vec![([2; 32], HolderRefusal::Lacks), ([3; 32], HolderRefusal::SamePlace)],
        };
        assert_eq!(
            told(DropOutcome::Kept(short)),
            "kept: 2 promises from other places are needed, there are 1: m1 promised to keep it; m2 does not have it; m3 has its copy \
             where this machine has it"
        );
        let nobody = KeptBecause::TooFew { promises: Vec::new(), refusals: Vec::new() };
        let away = ["attic".to_owned(), "server".to_owned()];
        let said = explain(&DropOutcome::Kept(nobody), 2, &away, &name_of);
        assert!(said.ends_with("could promise to keep it; not connected: attic, server"), "{said}");
        let promised = KeptBecause::Promised { to: [4; 32], lasts: Duration::from_hours(3) };
        assert_eq!(told(DropOutcome::Kept(promised)), "kept: it is promised to m4 for 3 hours more");
    }
}
