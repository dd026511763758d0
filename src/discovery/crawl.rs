//! Lists a network by asking agents for their peers, and those in turn: breadth first, within limits.
//!
//! [`Crawl`] is pure: it says which agent to ask next, and takes in what came of it. [`run`] does the asking.

use std::collections::{BTreeSet, HashMap};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use iroh::{EndpointAddr, EndpointId};
use tokio::time::{Instant, timeout_at};

use crate::discovery::list_peers::{Found, Listed};

/// Addresses of one agent that are kept, whichever agents name them.
const ADDRS_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrawlLimits {
    /// Steps away from the beginning at which agents are still asked; 0 asks only those that it begins with, `None` asks
    /// everyone.
    pub depth: Option<u32>,
    pub peers_max: usize,
    pub at_once_max: usize,
}

impl Default for CrawlLimits {
    /// The agents at the beginning, 1,000 in all, 16 at once.
    fn default() -> Self {
        Self { depth: Some(0), peers_max: 1000, at_once_max: 16 }
    }
}

#[derive(Debug, Default)]
pub struct Crawled {
    /// Every agent that somebody described, by id.
    pub found: Vec<Found>,
    /// Who was asked in vain, and why; who has trouble half-way is among both.
    pub errors: Vec<(EndpointId, String)>,
    pub answered: usize,
    /// There are more agents than were to be taken in.
    pub capped: bool,
    /// Time was up before everyone had been asked.
    pub timed_out: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AgentState {
    /// Too far away to be asked.
    Far,
    Queued,
    Asked,
    /// Has answered, or will not.
    Done,
}

#[derive(Debug)]
struct CrawledAgent {
    addr: EndpointAddr,
    found: Option<Found>,
    /// Steps on the shortest way that is known so far.
    depth: u32,
    state: AgentState,
    /// The agents that it named, as indices.
    named: Vec<u32>,
}

/// The state of a crawl. Each agent is asked once, however many name it; agents that answer out of order change nothing about
/// who is asked within the depth.
#[derive(Debug)]
pub struct Crawl {
    limits: CrawlLimits,
    nodes: Vec<CrawledAgent>,
    index: HashMap<EndpointId, u32>,
    /// By depth, then in the order in which they were named.
    queue: BTreeSet<(u32, u32)>,
    in_flight: usize,
    answered: usize,
    errors: Vec<(EndpointId, String)>,
    capped: bool,
}

impl Crawl {
    pub fn new(limits: CrawlLimits, start: impl IntoIterator<Item = EndpointAddr>) -> Self {
        let mut crawl = Self {
            limits,
            nodes: Vec::new(),
            index: HashMap::new(),
            queue: BTreeSet::new(),
            in_flight: 0,
            answered: 0,
            errors: Vec::new(),
            capped: false,
        };
        for addr in start {
            crawl.insert(addr, 0);
        }
        crawl
    }

    /// The agent to ask next; `None` while enough are being asked, or when nobody is left.
    pub fn next_to_ask(&mut self) -> Option<EndpointAddr> {
        if self.in_flight >= self.limits.at_once_max {
            return None;
        }
        let (_, index) = self.queue.pop_first()?;
        let node = &mut self.nodes[index as usize];
        node.state = AgentState::Asked;
        self.in_flight += 1;
        Some(node.addr.clone())
    }

    /// Takes in what `asked` said, or why it did not. An agent that was not asked is not heard.
    pub fn heard(&mut self, asked: EndpointId, answer: Result<Listed, String>) {
        let Some(&index) = self.index.get(&asked) else { return };
        let node = &mut self.nodes[index as usize];
        if node.state != AgentState::Asked {
            return;
        }
        node.state = AgentState::Done;
        self.in_flight -= 1;
        let Listed { own, peers, more, trouble } = match answer {
            Ok(listed) => listed,
            Err(error) => {
                self.errors.push((asked, error));
                return;
            }
        };
        self.answered += 1;
        if let Some(trouble) = trouble {
            self.errors.push((asked, trouble.to_string()));
        }
        self.capped |= more;
        // What an agent says of itself is the freshest there is.
        node.found = own.or(node.found.take());
        let depth = node.depth.saturating_add(1);
        let mut named = Vec::with_capacity(peers.len());
        for found in peers {
            let Some(child) = self.insert(found.addr.clone(), depth) else { continue };
            named.push(child);
            let node = &mut self.nodes[child as usize];
            if node.found.as_ref().is_none_or(|known| found.age < known.age) {
                node.found = Some(found);
            }
        }
        self.nodes[index as usize].named = named;
        self.relax(index);
    }

    /// Agents that answered, and agents that are known of.
    pub fn progress(&self) -> (usize, usize) {
        (self.answered, self.nodes.len())
    }

    /// The end; `timed_out` says whether it comes too early.
    pub fn finish(self, timed_out: bool) -> Crawled {
        let mut found: Vec<_> = self.nodes.into_iter().filter_map(|node| node.found).collect();
        found.sort_unstable_by_key(|found| *found.id.as_bytes());
        let mut errors = self.errors;
        errors.sort_unstable_by_key(|(id, _)| *id.as_bytes());
        Crawled { found, errors, answered: self.answered, capped: self.capped, timed_out }
    }

    /// Takes an agent in, if there is room or it is there already.
    fn insert(&mut self, addr: EndpointAddr, depth: u32) -> Option<u32> {
        if let Some(&index) = self.index.get(&addr.id) {
            let node = &mut self.nodes[index as usize];
            if node.state != AgentState::Done {
                // More ways to reach it; each source is bounded, and so is what comes of all of them.
                let room = ADDRS_MAX.saturating_sub(node.addr.addrs.len());
                node.addr.addrs.extend(addr.addrs.into_iter().take(room));
            }
            return Some(index);
        }
        if self.nodes.len() >= self.limits.peers_max {
            self.capped = true;
            return None;
        }
        let index = u32::try_from(self.nodes.len()).ok()?;
        self.index.insert(addr.id, index);
        self.nodes.push(CrawledAgent { addr, found: None, depth, state: AgentState::Far, named: Vec::new() });
        self.enqueue(index);
        Some(index)
    }

    fn enqueue(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
        if node.state == AgentState::Far && self.limits.depth.is_none_or(|max| node.depth <= max) {
            node.state = AgentState::Queued;
            self.queue.insert((node.depth, index));
        }
    }

    /// A shorter way to one agent is a shorter way to all that it named.
    fn relax(&mut self, from: u32) {
        let mut changed = vec![from];
        while let Some(index) = changed.pop() {
            let node = &self.nodes[index as usize];
            let depth = node.depth.saturating_add(1);
            for child in node.named.clone() {
                let node = &mut self.nodes[child as usize];
                if node.depth <= depth {
                    continue;
                }
                let before = std::mem::replace(&mut node.depth, depth);
                match node.state {
                    AgentState::Far => self.enqueue(child),
                    AgentState::Queued => {
                        self.queue.remove(&(before, child));
                        self.queue.insert((depth, child));
                    }
                    AgentState::Asked => {}
                    AgentState::Done => changed.push(child),
                }
            }
        }
    }
}

/// Crawls by calling `ask` with the agent to ask, until nobody is left or `deadline` has come; what was heard until then is the
/// result either way. `ask` has a limit of its own. `progress` is told how many have answered, and how many are known of.
pub async fn run<F, Asked>(
    mut crawl: Crawl,
    deadline: Instant,
    ask: F,
    progress: impl Fn(usize, usize),
) -> Crawled
where
    F: Fn(EndpointAddr) -> Asked,
    Asked: Future<Output = Result<Listed, String>>,
{
    let mut asking = FuturesUnordered::new();
    loop {
        while let Some(addr) = crawl.next_to_ask() {
            let id = addr.id;
            let asked = ask(addr);
            asking.push(async move { (id, asked.await) });
        }
        match timeout_at(deadline, asking.next()).await {
            Ok(Some((id, answer))) => crawl.heard(id, answer),
            Ok(None) => return crawl.finish(false),
            Err(_) => return crawl.finish(true),
        }
        let (answered, known) = crawl.progress();
        progress(answered, known);
    }
}

#[cfg(test)]
mod tests;
