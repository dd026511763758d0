//! How far this node and its peers agree, in words: one place for the page, `/status` and so the command line. Pure.

use crate::peer::report::{SyncReport, SyncState};
use crate::text::amounts::{bytes, counted, duration, rate};

/// What there is to say, as a word and a clause.
pub(super) struct SyncWords {
    /// `good`, `busy`, `idle` or `bad`: the page's colour.
    pub(super) mood: &'static str,
    title: &'static str,
    clause: String,
}

impl SyncWords {
    pub(super) fn new(sync: &SyncReport, connected: usize) -> Self {
        let peers = counted(connected as u64, "peer");
        let reason = sync.reason.as_deref();
        let (mood, title, clause) = match sync.state {
            SyncState::Alone => {
                let why = reason.map(|reason| format!("; {reason}")).unwrap_or_default();
                ("idle", "alone", format!("no peer is connected{why}"))
            }
            SyncState::Reconciling => {
                ("busy", "comparing", format!("finding out what differs, with {peers}"))
            }
            SyncState::Syncing if sync.missing > 0 => ("busy", "syncing", receiving(sync)),
            SyncState::Syncing if sync.missing_there > 0 => ("busy", "sending", sending(sync, &peers)),
            SyncState::Syncing => ("busy", "comparing", format!("looking at what changed, with {peers}")),
            SyncState::InSync => match reason {
                None => ("good", "in sync", format!("nothing is missing, with {peers}")),
                Some(reason) => ("busy", "in sync", format!("with {peers}, but: {reason}")),
            },
            SyncState::DeletionsHeld => {
                let held = counted(sync.held_deletions, "deletion");
                let clause = format!(
                    "{held} by peers held back until you decide, and nothing is missing, with {peers}"
                );
                ("bad", "decision needed", clause)
            }
            SyncState::VersionsHeld => {
                let reason = reason.unwrap_or("members of a library hold what this node sent");
                ("busy", "not in sync", format!("with {peers}: {reason}"))
            }
            SyncState::Paused => ("bad", "paused", reason.unwrap_or("the store does not work").to_owned()),
        };
        let mut words = Self { mood, title, clause };
        words.add_copied(sync);
        words
    }

    /// That two machines have one endpoint id concerns everybody, whatever else there is.
    fn add_copied(&mut self, sync: &SyncReport) {
        let of_peer = sync.copied_peers.first();
        if sync.copied.is_some() {
            self.mood = "bad";
        } else if of_peer.is_some() && self.mood == "good" {
            self.mood = "busy";
        }
        let copied = sync.copied.as_ref().or(of_peer);
        if let Some(copied) = copied.filter(|copied| !self.clause.contains(copied.as_str())) {
            self.clause = format!("{}; {copied}", self.clause);
        }
    }

    pub(super) fn heading(&self) -> String {
        capitalised(self.title)
    }

    /// The clause, as a sentence of its own.
    pub(super) fn detail(&self) -> String {
        let end = if self.clause.ends_with('.') { "" } else { "." };
        format!("{}{end}", capitalised(&self.clause))
    }

    /// Both, in one line.
    pub(super) fn sentence(&self) -> String {
        format!("{}: {}", self.title, self.clause)
    }
}

/// What comes, how fast, and what may come on top.
fn receiving(sync: &SyncReport) -> String {
    let mut clause = format!("{} ({}) to receive", counted(sync.missing, "asset"), bytes(sync.missing_bytes));
    if sync.unseen > 0 {
        clause = format!("{clause}, {} to look at", counted(sync.unseen, "more version"));
    }
    if sync.rate > 0.0 {
        clause = format!("{clause}, {}", rate(sync.rate));
    }
    if let Some(secs) = sync.eta_secs {
        clause = format!("{clause}, about {} left", duration(secs));
    }
    if sync.missing_there > 0 {
        clause = format!("{clause}; {} to send", counted(sync.missing_there, "change"));
    }
    clause
}

fn sending(sync: &SyncReport, peers: &str) -> String {
    let speed = if sync.send_rate > 0.0 { format!(", {}", rate(sync.send_rate)) } else { String::new() };
    let changes = counted(sync.missing_there, "change");
    format!("{changes} that not every peer has confirmed, with {peers}{speed}")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(state: SyncState, change: impl FnOnce(&mut SyncReport)) -> SyncReport {
        let mut report = SyncReport {
            state,
            reason: None,
            missing: 0,
            missing_bytes: 0,
            absent: 0,
            unseen: 0,
            missing_there: 0,
            rate: 0.0,
            send_rate: 0.0,
            held_deletions: 0,
            dated_ahead: 0,
            copied: None,
            copied_peers: Vec::new(),
            clock: None,
            eta_secs: None,
        };
        change(&mut report);
        report
    }

    fn said(state: SyncState, change: impl FnOnce(&mut SyncReport)) -> String {
        SyncWords::new(&sync(state, change), 2).sentence()
    }

    #[test]
    fn each_state_is_a_sentence_of_its_own() {
        assert_eq!(said(SyncState::Alone, |_| ()), "alone: no peer is connected");
        assert_eq!(said(SyncState::InSync, |_| ()), "in sync: nothing is missing, with 2 peers");
        let held = said(SyncState::DeletionsHeld, |sync| sync.held_deletions = 119);
        assert_eq!(
            held,
            "decision needed: 119 deletions by peers held back until you decide, and nothing is missing, with 2 peers"
        );
        let paused = said(SyncState::Paused, |sync| sync.reason = Some("disk full".into()));
        assert_eq!(paused, "paused: disk full");
    }

    #[test]
    fn nobody_is_told_of_nothing_to_receive() {
        let sending = said(SyncState::Syncing, |sync| (sync.missing_there, sync.send_rate) = (3, 2048.0));
        assert_eq!(sending, "sending: 3 changes that not every peer has confirmed, with 2 peers, 2.0 KiB/s");
        let receiving = said(SyncState::Syncing, |sync| {
            (sync.missing, sync.missing_bytes, sync.rate, sync.eta_secs) = (2, 2048, 1024.0, Some(2));
        });
        assert_eq!(receiving, "syncing: 2 assets (2.0 KiB) to receive, 1.0 KiB/s, about 2s left");
        let looking = said(SyncState::Syncing, |_| ());
        assert!(looking.starts_with("comparing: "), "{looking}");
        let unseen = said(SyncState::Reconciling, |sync| sync.unseen = 119);
        assert_eq!(unseen, "comparing: finding out what differs, with 2 peers");
    }

    #[test]
    fn that_two_machines_have_one_id_is_said_in_every_state() {
        use SyncState::{Alone, DeletionsHeld, InSync, Paused, Reconciling, Syncing, VersionsHeld};
        for state in [Alone, Reconciling, Syncing, InSync, DeletionsHeld, VersionsHeld, Paused] {
            for reason in [None, Some("two have it".to_owned())] {
                let own = said(state, |sync| {
                    (sync.copied, sync.reason) = (Some("two have it".into()), reason.clone());
                });
                assert_eq!(own.matches("two have it").count(), 1, "{own}");
            }
            let of_peer = said(state, |sync| sync.copied_peers = vec!["two are a peer".into()]);
            assert!(of_peer.contains("two are a peer"), "{of_peer}");
        }
        let words = SyncWords::new(&sync(SyncState::InSync, |sync| sync.copied = Some("two".into())), 1);
        assert_eq!(words.mood, "bad");
    }

    #[test]
    fn the_page_has_a_heading_and_a_sentence() {
        let words = SyncWords::new(&sync(SyncState::Alone, |_| ()), 0);
        assert_eq!((words.heading(), words.detail()), ("Alone".into(), "No peer is connected.".into()));
    }
}
