//! Contents that a user asked for by name: which peers were asked, and what came of it. Pure: time comes in.
//!
//! Every connected peer is asked, and peers that are known and not connected are dialled for it, a few at a time. A
//! search ends when the content is here, when everybody within reach was asked in vain, or when its time is over and
//! nobody sends it. How it ended is remembered for a while, for those who ask why the content is not here.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use iroh::EndpointId;
use tokio::time::Instant;

use crate::record::ContentHash;

/// How long peers are looked for that have a content. What has begun to come by then goes on.
pub const SEARCH_WITHIN: Duration = Duration::from_secs(30);
/// How long a peer has for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a peer has to be reached and prove itself, before that.
const REACHED_WITHIN: Duration = Duration::from_secs(20);
/// Contents that are searched for at once.
const OPEN_MAX: usize = 64;
/// Peers that one search remembers.
const PEERS_MAX: usize = 4096;
/// How long it is remembered how a search ended, and of how many.
const REMEMBERED_FOR: Duration = Duration::from_mins(10);
const REMEMBERED_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchAnswer {
    /// It is being dialled, or its session is being established, since then.
    Dialled(Instant),
    /// It was asked then.
    Asked(Instant),
    /// It has it, and we want it.
    Has,
    /// It does not have it, or nothing that we may have.
    Lacks,
    /// It was not there, went away, or cannot be asked.
    Silent,
}

#[derive(Debug)]
struct Search {
    until: Instant,
    // Ordered, so that equal inputs give equal decisions.
    peers: BTreeMap<EndpointId, SearchAnswer>,
}

/// How a search stands, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchReport {
    pub open: bool,
    pub asked: usize,
    /// Of them, those that said that they do not have it.
    pub lack: usize,
    /// Peers that could not be reached.
    pub unreachable: usize,
}

#[derive(Debug, Default)]
pub struct Searches {
    open: BTreeMap<ContentHash, Search>,
    ended: HashMap<ContentHash, (Instant, SearchReport)>,
}

/// As many contents as may be are searched for already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{OPEN_MAX} contents are searched for already: try again when one of them is here")]
pub struct TooMany;

impl Searches {
    /// Somebody wants this content; one who asks again gives the search its time once more.
    pub fn begin(&mut self, hash: ContentHash, now: Instant) -> Result<(), TooMany> {
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&hash) {
            return Err(TooMany);
        }
        self.ended.remove(&hash);
        let fresh = Search { until: now, peers: BTreeMap::new() };
        let search = self.open.entry(hash).or_insert(fresh);
        search.until = now + SEARCH_WITHIN;
        // A peer that did not have it may have got it since, and one that was away may be back.
        search.peers.retain(|_, answer| {
            matches!(answer, SearchAnswer::Dialled(_) | SearchAnswer::Asked(_) | SearchAnswer::Has)
        });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub fn seeks(&self, hash: &ContentHash) -> bool {
        self.open.contains_key(hash)
    }

    /// What is searched for and `peer`, whose session is up, was not asked for yet, or not to any effect; it counts as
    /// asked.
    pub fn ask(&mut self, peer: EndpointId, now: Instant) -> Vec<ContentHash> {
        let mut wanted = Vec::new();
        for (hash, search) in &mut self.open {
            let known = search.peers.get(&peer);
            if !matches!(known, None | Some(SearchAnswer::Dialled(_) | SearchAnswer::Silent)) {
                continue;
            }
            if known.is_some() || search.peers.len() < PEERS_MAX {
                search.peers.insert(peer, SearchAnswer::Asked(now));
                wanted.push(*hash);
            }
        }
        wanted
    }

    /// Whether some search that nobody could help so far, and whose time is not over, has not tried this peer.
    pub fn would_dial(&self, peer: &EndpointId, now: Instant) -> bool {
        self.open.values().any(|search| {
            let helped = search.peers.values().any(|answer| *answer == SearchAnswer::Has);
            let room = !search.peers.contains_key(peer) && search.peers.len() < PEERS_MAX;
            now < search.until && !helped && room
        })
    }

    /// A peer is being dialled for whatever is searched for.
    pub fn dialled(&mut self, peer: EndpointId, now: Instant) {
        for search in self.open.values_mut() {
            search.peers.entry(peer).or_insert(SearchAnswer::Dialled(now));
        }
    }

    /// A peer has this and we want it.
    pub fn found(&mut self, peer: EndpointId, hash: &ContentHash) {
        self.answer(peer, hash, SearchAnswer::Has);
    }

    /// A peer cannot be asked.
    pub fn cannot_answer(&mut self, peer: EndpointId, hash: &ContentHash) {
        self.answer(peer, hash, SearchAnswer::Silent);
    }

    /// A peer does not have this, or did not give it.
    pub fn lacks(&mut self, peer: EndpointId, hash: &ContentHash) {
        self.answer(peer, hash, SearchAnswer::Lacks);
    }

    fn answer(&mut self, peer: EndpointId, hash: &ContentHash, answer: SearchAnswer) {
        if let Some(known) = self.open.get_mut(hash).and_then(|search| search.peers.get_mut(&peer)) {
            *known = answer;
        }
    }

    /// A peer's session begins anew: what it was asked and did not answer for good is asked again when it is up.
    pub fn again(&mut self, peer: &EndpointId, now: Instant) {
        for search in self.open.values_mut() {
            if let Some(answer) = search.peers.get_mut(peer).filter(|answer| **answer != SearchAnswer::Lacks)
            {
                *answer = SearchAnswer::Dialled(now);
            }
        }
    }

    /// A peer could not be reached, or its session is over.
    pub fn gone(&mut self, peer: &EndpointId) {
        for search in self.open.values_mut() {
            if let Some(answer) = search.peers.get_mut(peer).filter(|answer| **answer != SearchAnswer::Lacks)
            {
                *answer = SearchAnswer::Silent;
            }
        }
    }

    /// Whether some search still hopes for something from this peer.
    pub fn needs(&self, peer: &EndpointId) -> bool {
        let hopes = |answer: &SearchAnswer| {
            matches!(answer, SearchAnswer::Dialled(_) | SearchAnswer::Asked(_) | SearchAnswer::Has)
        };
        self.open.values().any(|search| search.peers.get(peer).is_some_and(hopes))
    }

    pub fn came(&mut self, hash: &ContentHash) {
        self.open.remove(hash);
        self.ended.remove(hash);
    }

    /// Time passed: ends searches that lead nowhere. `is_coming` says whether somebody has a content and it is wanted;
    /// `more`, whether there are peers that could still be dialled.
    pub fn tick(&mut self, now: Instant, is_coming: impl Fn(&ContentHash) -> bool, more: bool) {
        self.ended.retain(|_, (at, _)| now.duration_since(*at) < REMEMBERED_FOR);
        let mut ended = Vec::new();
        for (hash, search) in &mut self.open {
            for answer in search.peers.values_mut() {
                let late = match answer {
                    SearchAnswer::Asked(at) => now.duration_since(*at) >= ANSWER_WITHIN,
                    SearchAnswer::Dialled(at) => now.duration_since(*at) >= REACHED_WITHIN,
                    SearchAnswer::Has | SearchAnswer::Lacks | SearchAnswer::Silent => false,
                };
                if late {
                    *answer = SearchAnswer::Silent;
                }
            }
            let waits =
                search.peers.values().any(|a| matches!(a, SearchAnswer::Asked(_) | SearchAnswer::Dialled(_)));
            // With nobody to ask, somebody may still come.
            let exhausted = !waits && !more && search.report().asked > 0;
            if !is_coming(hash) && (exhausted || now >= search.until) {
                ended.push(*hash);
            }
        }
        for hash in ended {
            let Some(search) = self.open.remove(&hash) else { continue };
            if self.ended.len() < REMEMBERED_MAX {
                self.ended.insert(hash, (now, SearchReport { open: false, ..search.report() }));
            }
        }
    }

    /// How the search for this content stands, or ended lately; nothing if there was none, or it was successful.
    pub fn report(&self, hash: &ContentHash) -> Option<SearchReport> {
        let open = self.open.get(hash).map(Search::report);
        open.or_else(|| self.ended.get(hash).map(|(_, report)| *report))
    }
}

impl Search {
    fn report(&self) -> SearchReport {
        let count = |is: fn(&SearchAnswer) -> bool| self.peers.values().filter(|answer| is(answer)).count();
        SearchReport {
            open: true,
            asked: count(|answer| {
                matches!(answer, SearchAnswer::Asked(_) | SearchAnswer::Has | SearchAnswer::Lacks)
            }),
            lack: count(|answer| *answer == SearchAnswer::Lacks),
            unreachable: count(|answer| *answer == SearchAnswer::Silent),
        }
    }
}

#[cfg(test)]
mod tests {
    use iroh::SecretKey;

    use super::*;

    const HASH: ContentHash = ContentHash([7; 32]);

    fn peer(n: u8) -> EndpointId {
        SecretKey::from_bytes(&[n; 32]).public()
    }

    fn begun(now: Instant) -> Searches {
        let mut searches = Searches::default();
        searches.begin(HASH, now).unwrap();
        searches
    }

    #[test]
    fn it_ends_once_everybody_was_asked_in_vain() {
        let now = Instant::now();
        let mut searches = begun(now);
        assert_eq!(searches.ask(peer(1), now), [HASH]);
        assert_eq!(searches.ask(peer(1), now), [], "once");
        assert!(searches.would_dial(&peer(2), now) && !searches.would_dial(&peer(1), now));
        assert!(!searches.would_dial(&peer(2), now + SEARCH_WITHIN));
        searches.dialled(peer(2), now);
        searches.lacks(peer(1), &HASH);
        searches.tick(now, |_| false, false);
        assert!(searches.seeks(&HASH), "the second one may have it");
        assert_eq!(searches.ask(peer(2), now), [HASH], "its session is up");
        assert!(searches.needs(&peer(2)) && !searches.needs(&peer(1)));
        searches.lacks(peer(2), &HASH);
        searches.tick(now, |_| false, true);
        assert!(searches.seeks(&HASH), "there are others to dial");
        searches.tick(now, |_| false, false);
        assert!(!searches.seeks(&HASH));
        let report = searches.report(&HASH).unwrap();
        assert_eq!(report, SearchReport { open: false, asked: 2, lack: 2, unreachable: 0 });
        searches.tick(now + REMEMBERED_FOR, |_| false, false);
        assert_eq!(searches.report(&HASH), None);
    }

    #[test]
    fn it_waits_for_whoever_may_come_and_for_what_is_coming() {
        let now = Instant::now();
        let mut searches = begun(now);
        searches.tick(now + SEARCH_WITHIN / 2, |_| false, false);
        assert!(searches.seeks(&HASH), "nobody is there yet");
        searches.ask(peer(1), now + SEARCH_WITHIN / 2);
        searches.found(peer(1), &HASH);
        assert!(!searches.would_dial(&peer(2), now), "somebody has it");
        searches.again(&peer(1), now + SEARCH_WITHIN / 2);
        assert_eq!(searches.ask(peer(1), now + SEARCH_WITHIN / 2), [HASH], "its session began anew");
        searches.tick(now + 2 * SEARCH_WITHIN, |_| true, false);
        assert!(searches.seeks(&HASH), "it is on its way");
        searches.came(&HASH);
        assert_eq!(searches.report(&HASH), None);
    }

    #[test]
    fn silence_counts_as_no() {
        let now = Instant::now();
        let mut searches = begun(now);
        searches.ask(peer(1), now);
        searches.dialled(peer(2), now);
        searches.gone(&peer(2));
        assert_eq!(searches.ask(peer(2), now), [HASH], "it is there after all");
        searches.gone(&peer(2));
        searches.tick(now + REACHED_WITHIN, |_| false, false);
        assert!(searches.seeks(&HASH), "nobody answered: the time is not over");
        searches.tick(now + SEARCH_WITHIN, |_| false, false);
        let report = searches.report(&HASH).unwrap();
        assert_eq!(report, SearchReport { open: false, asked: 0, lack: 0, unreachable: 2 });
        // Asked for once more, everybody gets another chance.
        searches.begin(HASH, now + SEARCH_WITHIN).unwrap();
        assert_eq!(searches.ask(peer(1), now + SEARCH_WITHIN), [HASH]);
    }

    #[test]
    fn there_is_an_end_to_what_can_be_searched_for() {
        let now = Instant::now();
        let mut searches = Searches::default();
        let hash = |n: usize| ContentHash([u8::try_from(n).unwrap(); 32]);
        for n in 0..OPEN_MAX {
            searches.begin(hash(n), now).unwrap();
        }
        assert_eq!(searches.begin(hash(OPEN_MAX), now), Err(TooMany));
        searches.begin(hash(0), now).unwrap();
        searches.came(&hash(0));
        searches.begin(hash(OPEN_MAX), now).unwrap();
    }
}
