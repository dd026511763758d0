//! PeersActor's part in clocks: it says when ours is in doubt, and gives versions that were written here while it was ahead
//! the dates that they should have had.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;
use tokio::time::{Instant, timeout};

use super::PeersState;
use crate::clock::{Doubt, OFF_MAX_MS, Reading};
use crate::library::Libraries;
use crate::library::report::why_held;
use crate::library::ticket::LibraryId;
use crate::peer::deferrals::{Deferrals, Note};
use crate::peer::messages::{PeerMsg, PeersMsg};
use crate::peer::report::WaitingReport;
use crate::record::{ContentHash, HLC_AHEAD_MAX_MS, Hlc};
use crate::store::{Redating, StoreRef};

/// A clock that jumps by more was set.
const JUMP_MS: u64 = 60 * 1000;
/// Versions that are dated ahead and stay so are looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_mins(10);
/// Between two times that what the clock knows is written down.
const SAVE_EVERY: Duration = Duration::from_mins(1);
/// Versions that are dated anew in one transaction.
const BATCH: usize = 500;
const STORE_WITHIN: Duration = Duration::from_secs(30);

/// What PeersActor knows of clocks.
#[derive(Debug, Default)]
pub(super) struct Dates {
    /// What time it was at the start of the clock, as of the last look: changes where a clock is set.
    start_ms: Option<u64>,
    /// What the log says of our clock.
    told: Option<Doubt>,
    /// Versions in the store that are dated ahead, and how many the log says stay so.
    ahead: u64,
    told_ahead: u64,
    recalling: bool,
    /// What was looked at last, and when it is looked at again.
    looked: Option<(RedateLook, Instant)>,
    save_at: Option<Instant>,
}

/// What it depends on whether a version can be dated anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct RedateLook {
    start_ms: u64,
    ahead: u64,
    known: Hlc,
    /// Grows with each date in what members confirmed.
    by_members: u64,
}

impl PeersState {
    pub(super) fn tick_dates(&mut self, myself: &ActorRef<PeersMsg>, now: Instant) {
        let clock = self.args.replica.deferrals.clock();
        let (reading, uptime) = (clock.reading(), clock.uptime());
        self.tell_doubt(&reading);
        let start_ms = reading.now_ms.saturating_sub(u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX));
        let steady = self.dates.start_ms.is_some_and(|before| before.abs_diff(start_ms) <= JUMP_MS);
        let start_ms = if steady { self.dates.start_ms.unwrap_or(start_ms) } else { start_ms };
        if self.dates.start_ms.replace(start_ms).is_some() && !steady {
            tracing::info!(now_ms = reading.now_ms, "the clock was set");
            self.links.values().for_each(|link| link.cast(PeerMsg::ClockChanged));
        }
        self.recall(myself, &reading, start_ms, now);
        if self.dates.save_at.is_none_or(|at| at <= now) {
            self.dates.save_at = Some(now + SAVE_EVERY);
            let deferrals = self.args.replica.deferrals.clone();
            self.tasks.spawn(async move { deferrals.save().await });
        }
    }

    /// Once per doubt, and once when it is over.
    fn tell_doubt(&mut self, reading: &Reading) {
        let kind = |doubt: &Option<Doubt>| doubt.as_ref().map(std::mem::discriminant);
        if kind(&reading.doubt) == kind(&self.dates.told) {
            return;
        }
        if let Some(doubt) = &reading.doubt {
            tracing::warn!("{doubt}");
        } else {
            tracing::info!("this machine's clock is in doubt no longer");
        }
        self.dates.told = reading.doubt;
    }

    /// Has the versions dated anew that were written here by a clock that was ahead, as far as nobody else has them.
    fn recall(&mut self, myself: &ActorRef<PeersMsg>, reading: &Reading, start_ms: u64, now: Instant) {
        let (mirror, now_ms) = (self.args.replica.libraries.mirror(), reading.now_ms);
        let limit = Hlc::from_ms(now_ms.saturating_add(HLC_AHEAD_MAX_MS + 1));
        self.dates.ahead = mirror.snapshot().items_after(limit).count() as u64;
        // Where it is our clock that may be behind, what is ahead of it may be right: another machine has to bear it out.
        let unsure = match reading.doubt {
            None => reading.devices == 0,
            Some(Doubt::Outvoted { .. }) => false,
            Some(Doubt::Undecided { .. } | Doubt::Behind { .. }) => true,
        };
        if self.dates.ahead == 0 || unsure || self.dates.recalling || self.fetching.is_unhealthy() {
            return;
        }
        let offered =
            self.links.values().map(|link| link.shared_view().newest_offered).max().unwrap_or_default();
        let known = Hlc::end_of_ms(self.args.replica.deferrals.clock().confirmed_ms()).max(offered);
        let by_members = self.args.replica.deferrals.confirmed_by_members();
        let look =
            RedateLook { start_ms, ahead: self.dates.ahead, known, by_members: by_members.values().sum() };
        if self.dates.looked.is_some_and(|(last, again)| last == look && now < again) {
            return;
        }
        self.dates.looked = Some((look, now + LOOK_AGAIN));
        self.dates.recalling = true;
        let (myself, store) = (myself.clone(), Arc::clone(&self.args.replica.store));
        let (libraries, deferrals) =
            (Arc::clone(&self.args.replica.libraries), self.args.replica.deferrals.clone());
        let known = Known { everywhere: known, by_members };
        self.tasks.spawn(async move {
            let recalled = recall(store, &libraries, &deferrals, now_ms, known).await;
            let _ = myself.send_message(PeersMsg::Recalled { recalled });
        });
    }

    pub(super) fn on_recalled(&mut self, recalled: u64) {
        self.dates.recalling = false;
        if recalled > 0 {
            tracing::warn!(
                versions = recalled,
                "versions that were written here while this machine's clock was ahead are dated anew"
            );
        } else if std::mem::replace(&mut self.dates.told_ahead, self.dates.ahead) != self.dates.ahead {
            tracing::warn!(
                versions = self.dates.ahead,
                "versions here are dated ahead of this machine's clock, and stay so, for others may have them: other \
                 machines take them once their time has come"
            );
        }
    }

    pub(super) fn dated_ahead(&self) -> u64 {
        self.dates.ahead
    }

    /// Why some versions do not get through, and what there is to say of our clock.
    pub(super) fn reason_of_dates(&self) -> Option<String> {
        let doubt = self.args.replica.deferrals.clock().reading().doubt.map(|doubt| doubt.to_string());
        let of = |count: u64| format!("{count} version{}", if count == 1 { "" } else { "s" });
        let standings = self.links.values().filter_map(|link| link.shared_view().standing.clone());
        let (here, there) = standings.fold((0, 0), |(here, there), standing| {
            (here.max(standing.waiting.dated_here), there.max(standing.waiting.dated_there))
        });
        let mut parts = Vec::new();
        if here > 0 {
            parts.push(format!("{} of others wait: they are dated ahead of this machine's clock", of(here)));
        }
        if there > 0 {
            parts
                .push(format!("{} of this machine wait: they are dated ahead of another's clock", of(there)));
        }
        if self.dates.ahead > 0 && there == 0 {
            parts.push(format!(
                "{} here are dated ahead, and stay so until their time has come",
                of(self.dates.ahead)
            ));
        }
        parts.extend(doubt);
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Which versions wait for a newer list of revocations, on either side.
    pub(super) fn reason_of_held(&self) -> Option<String> {
        let standings = self.links.values().filter_map(|link| link.shared_view().standing.clone());
        let (here, there) = standings.fold((0, 0), |(here, there), standing| {
            (here.max(standing.waiting.held_here), there.max(standing.waiting.held_there))
        });
        let ours = (there > 0).then(|| why_held(there));
        let theirs = (here > 0).then(|| {
            format!(
                "{here} version{} of others wait: this machine's list of a library's revoked tickets is too old",
                if here == 1 { "" } else { "s" }
            )
        });
        let parts: Vec<String> = ours.into_iter().chain(theirs).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// Versions of an asset that wait for a clock, or for a list of revocations.
    pub(super) fn waiting(&self, hash: &ContentHash) -> Vec<WaitingReport> {
        let now = Instant::now();
        let of = |link: &super::PeerLink| {
            let known = self.roster.get(&link.endpoint_id);
            let name = known.map(|known| known.name.clone()).unwrap_or_default();
            let all = link.shared_view().waiting.clone().into_iter();
            let these = all.filter(|waiting| waiting.hash == *hash).map(move |waiting| WaitingReport {
                endpoint_id: link.endpoint_id.to_string(),
                name: name.clone(),
                here: waiting.here,
                held: waiting.held,
                wait_secs: waiting.due.saturating_duration_since(now).as_secs(),
            });
            these.collect::<Vec<_>>()
        };
        self.links.values().filter(|link| link.up).flat_map(of).collect()
    }
}

/// The newest dates of versions that others may have.
struct Known {
    everywhere: Hlc,
    /// Of those that are in a library.
    by_members: HashMap<LibraryId, u64>,
}

impl Known {
    /// Of versions of this asset. What was in a library that is here no more may be any.
    fn of(&self, hash: &ContentHash, libraries: &Libraries) -> Hlc {
        let may_have = |id: LibraryId| libraries.get(id).is_none_or(|library| library.has(hash));
        let by_members = self.by_members.iter().filter(|(id, _)| may_have(**id)).map(|(_, ms)| *ms).max();
        by_members.map_or(self.everywhere, |ms| self.everywhere.max(Hlc::end_of_ms(ms)))
    }
}

/// Dates anew what can be; how many versions that were.
async fn recall(
    store: StoreRef,
    libraries: &Libraries,
    deferrals: &Deferrals,
    now_ms: u64,
    known: Known,
) -> u64 {
    let limit = Hlc::from_ms(now_ms.saturating_add(HLC_AHEAD_MAX_MS + 1)).max(known.everywhere);
    let ahead = libraries.mirror().snapshot();
    let hashes: Vec<ContentHash> = ahead.items_after(limit).map(|item| item.hash).collect();
    let mut recalled = 0;
    for some in hashes.chunks(BATCH) {
        let redating =
            |hash: &ContentHash| Redating::Recall { hash: *hash, now_ms, known: known.of(hash, libraries) };
        let done = timeout(STORE_WITHIN, store.redate(some.iter().map(redating).collect())).await;
        let before = match done {
            Ok(Ok(before)) => before,
            Ok(Err(error)) => {
                tracing::debug!(%error, "versions are not dated anew yet");
                break;
            }
            Err(_) => break,
        };
        for record in before.into_iter().flatten() {
            recalled += 1;
            // It may come back from somebody who has it all the same.
            let due_ms = record.hlc.ms().saturating_sub(OFF_MAX_MS);
            deferrals.add(Note::of(&record, None, now_ms, due_ms));
        }
    }
    deferrals.save_if_changed().await;
    recalled
}
