//! What PeersActor keeps between messages.

use std::collections::{HashMap, HashSet};

use iroh::EndpointId;
use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::links::Links;
use super::{REST_PARTS, copied, dates, feeding, letting_go};
use crate::actor::tasks::Tasks;
use crate::actor::watch::BEAT;
use crate::clock::now_ms;
use crate::discovery::address_book::BookChange;
use crate::net::auth::Throttle;
use crate::net::bulk::BulkSessions;
use crate::net::handshakes::SharedHandshakes;
use crate::peer::args::PeersArgs;
use crate::peer::held::SessionMemory;
use crate::peer::messages::PeersMsg;
use crate::peer::places::Places;
use crate::peer::roster::Roster;
use crate::transfer::fetching::Fetching;
use crate::transfer::meter::Meter;

/// Changes of the address book that may wait.
const BOOK_CHANGES_MAX: usize = 4096;

pub struct PeersState {
    pub(super) args: PeersArgs,
    pub(super) roster: Roster,
    pub(super) links: Links,
    pub(super) traffic: HashMap<EndpointId, Meter>,
    /// Changes of the address book, in order.
    pub(super) book: mpsc::Sender<BookChange>,
    pub(super) fetching: Fetching,
    pub(super) letting_go: letting_go::LettingGo,
    pub(super) admission: Admission,
    pub(super) bulk: BulkSessions,
    pub(super) held: SessionMemory,
    /// Changes of the store on their way to the PeerActors.
    pub(super) feeding: feeding::Feeding,
    /// Peers that were dialled for what users asked for by name.
    pub(super) visited: HashSet<EndpointId>,
    /// Whether [`PeersMsg::CompareSources`] will come.
    pub(super) comparing: bool,
    pub(super) tasks: Tasks<PeersMsg>,
    /// Whether the store was read once; sessions begin after that.
    pub(super) accepting: bool,
    pub(super) due: Due,
    pub(super) copied: copied::EndpointCopies,
    /// Rounds of comparing afresh that were asked for.
    pub(super) verify_round: u64,
    pub(super) was_in_sync: bool,
    pub(super) dates: dates::Dates,
}

pub(super) struct Admission {
    pub(super) places: Places,
    pub(super) handshakes: SharedHandshakes,
    /// Who failed to prove something, and is not heard for a while.
    pub(super) throttle: Throttle,
    /// Who last tried to prove something in vain, and when, in milliseconds since the Unix epoch.
    pub(super) knocked: Option<(EndpointId, u64)>,
}

/// When what is done from time to time is done next.
pub(super) struct Due {
    /// Actors that do not come on are looked for.
    pub(super) beat: Instant,
    /// Parts that nobody offers are looked at.
    pub(super) rest_parts: Instant,
    /// More of the hints that wait are taken.
    pub(super) hints: Option<Instant>,
    /// It is looked where own devices are.
    pub(super) nets: Instant,
    /// Everything is compared afresh.
    pub(super) verify: Instant,
    /// The guard on deletions is told how large the libraries are.
    pub(super) sizes: Instant,
}

impl PeersState {
    pub(super) fn new(args: PeersArgs, myself: &ActorRef<PeersMsg>) -> Self {
        let roster = Roster::new(args.endpoint.id(), args.limits.dialling.clone());
        let admission = Admission {
            places: Places::new(args.limits.places),
            handshakes: SharedHandshakes::new(args.limits.places.pending),
            throttle: Throttle::default(),
            knocked: None,
        };
        let fetching = Fetching::new(args.limits.in_flight, Instant::now(), now_ms());
        let now = Instant::now();
        let due = Due {
            beat: now + BEAT,
            rest_parts: now + REST_PARTS,
            hints: None,
            nets: now,
            verify: now + args.limits.verify_interval,
            sizes: now,
        };
        let mut tasks = Tasks::new(myself.clone(), PeersMsg::TaskFailed);
        let (book, changes) = mpsc::channel(BOOK_CHANGES_MAX);
        tasks.spawn(args.first.book.clone().keep(changes));
        Self {
            args,
            roster,
            links: Links::default(),
            traffic: HashMap::new(),
            book,
            fetching,
            letting_go: letting_go::LettingGo::default(),
            admission,
            bulk: BulkSessions::default(),
            held: SessionMemory::default(),
            feeding: feeding::Feeding::default(),
            visited: HashSet::new(),
            comparing: false,
            tasks,
            accepting: false,
            due,
            copied: copied::EndpointCopies::default(),
            verify_round: 0,
            was_in_sync: false,
            dates: dates::Dates::default(),
        }
    }
}
