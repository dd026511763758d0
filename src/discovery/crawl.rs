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
    /// Agents that are asked at once.
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
    #[must_use]
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
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        (self.answered, self.nodes.len())
    }

    /// The end; `timed_out` says whether it comes too early.
    #[must_use]
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
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::time::Duration;

    use iroh::SecretKey;
    use proptest::prelude::*;

    use super::*;
    use crate::discovery::list_peers::ListError;

    fn id(n: u8) -> EndpointId {
        SecretKey::from_bytes(&[n; 32]).public()
    }

    fn found(n: u8, age: u64) -> Found {
        Found {
            id: id(n),
            name: format!("node {n}"),
            assets: u64::from(n),
            total_bytes: 0,
            age: Duration::from_secs(age),
            addr: EndpointAddr::new(id(n)),
        }
    }

    fn listed(own: u8, peers: &[u8]) -> Listed {
        Listed {
            own: Some(found(own, 0)),
            peers: peers.iter().map(|n| found(*n, 5)).collect(),
            ..Listed::default()
        }
    }

    fn names(crawled: &Crawled) -> Vec<String> {
        let mut names: Vec<_> = crawled.found.iter().map(|found| found.name.clone()).collect();
        names.sort();
        names
    }

    type Graph = BTreeMap<u8, Vec<u8>>;

    /// Asks everyone, the one under way that `pick` picks answering first.
    fn crawl(
        limits: CrawlLimits,
        graph: &Graph,
        start: &[u8],
        mut pick: impl FnMut(usize) -> usize,
    ) -> (Crawled, Vec<EndpointId>) {
        let of: HashMap<_, _> = graph.keys().map(|n| (id(*n), *n)).collect();
        let mut crawl = Crawl::new(limits, start.iter().map(|n| EndpointAddr::new(id(*n))));
        let (mut under_way, mut asked) = (Vec::new(), Vec::new());
        loop {
            while let Some(addr) = crawl.next_to_ask() {
                under_way.push(addr.id);
                asked.push(addr.id);
            }
            assert!(under_way.len() <= limits.at_once_max);
            if under_way.is_empty() {
                return (crawl.finish(false), asked);
            }
            let who = under_way.swap_remove(pick(under_way.len()));
            let answer = of.get(&who).map(|n| listed(*n, &graph[n])).ok_or_else(|| "dead".to_owned());
            crawl.heard(who, answer);
        }
    }

    /// Who is within `depth + 1` steps, and who within `depth`.
    fn reachable(graph: &Graph, start: &[u8], depth: Option<u32>) -> (BTreeSet<u8>, BTreeSet<u8>) {
        let mut known: BTreeMap<u8, u32> = start.iter().map(|n| (*n, 0)).collect();
        let mut queue: VecDeque<u8> = start.iter().copied().collect();
        let mut asked = BTreeSet::new();
        while let Some(n) = queue.pop_front() {
            let at = known[&n];
            if depth.is_some_and(|max| at > max) || !asked.insert(n) {
                continue;
            }
            for child in graph.get(&n).into_iter().flatten() {
                if let std::collections::btree_map::Entry::Vacant(entry) = known.entry(*child) {
                    entry.insert(at + 1);
                    queue.push_back(*child);
                }
            }
        }
        (known.into_keys().collect(), asked)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whoever_answers_first_the_same_agents_are_asked_and_found(
            edges in prop::collection::btree_map(0_u8..12, prop::collection::vec(0_u8..12, 0..4), 1..12),
            depth in prop::option::of(0_u32..5),
            at_once_max in 1_usize..5,
            order in prop::collection::vec(0_usize..100, 64),
        ) {
            let start = [*edges.keys().next().unwrap()];
            let limits = CrawlLimits { depth, peers_max: 100, at_once_max };
            let mut turn = 0;
            let (crawled, asked) = crawl(limits, &edges, &start, |len| {
                turn += 1;
                order[turn % order.len()] % len
            });
            let (known, expected) = reachable(&edges, &start, depth);
            prop_assert_eq!(asked.len(), expected.len(), "each once");
            let asked: BTreeSet<_> = asked.iter().map(|id| *id.as_bytes()).collect();
            prop_assert_eq!(asked, expected.iter().map(|n| *id(*n).as_bytes()).collect::<BTreeSet<_>>());
            let found: BTreeSet<_> = crawled.found.iter().map(|found| *found.id.as_bytes()).collect();
            prop_assert_eq!(found, known.iter().map(|n| *id(*n).as_bytes()).collect::<BTreeSet<_>>());
            prop_assert!(!crawled.capped);
        }
    }

    #[test]
    fn an_agent_that_turns_out_to_be_nearer_is_asked_after_all() {
        // 4 is three steps away through 2 and 3, and two through 1; at depth 2 only the second way has it asked.
        let graph = Graph::from([(0, vec![2, 1]), (1, vec![4]), (2, vec![3]), (3, vec![4]), (4, vec![5])]);
        let limits = CrawlLimits { depth: Some(2), ..CrawlLimits::default() };
        let mut crawl = Crawl::new(limits, [EndpointAddr::new(id(0))]);
        let ask = |crawl: &mut Crawl| crawl.next_to_ask().map(|addr| addr.id);
        assert_eq!(ask(&mut crawl), Some(id(0)));
        crawl.heard(id(0), Ok(listed(0, &graph[&0])));
        assert_eq!((ask(&mut crawl), ask(&mut crawl)), (Some(id(2)), Some(id(1))));
        crawl.heard(id(2), Ok(listed(2, &graph[&2])));
        assert_eq!(ask(&mut crawl), Some(id(3)));
        crawl.heard(id(3), Ok(listed(3, &graph[&3])));
        assert_eq!(ask(&mut crawl), None, "three steps away as far as known");
        crawl.heard(id(1), Ok(listed(1, &graph[&1])));
        assert_eq!(ask(&mut crawl), Some(id(4)));
        crawl.heard(id(4), Ok(listed(4, &graph[&4])));
        assert_eq!(ask(&mut crawl), None, "5 is too far");
        assert_eq!(names(&crawl.finish(false)).len(), 6);
    }

    #[test]
    fn the_cap_holds_at_insertion_and_is_told() {
        let everyone: Vec<u8> = (1..200).collect();
        let graph = Graph::from([(0, everyone)]);
        let limits = CrawlLimits { peers_max: 10, depth: None, ..CrawlLimits::default() };
        let (crawled, asked) = crawl(limits, &graph, &[0], |_| 0);
        assert!(crawled.capped);
        assert_eq!((crawled.found.len(), asked.len()), (10, 10));
        assert_eq!(crawled.errors.len(), 9, "nobody else answers");
        assert!(crawled.errors.iter().all(|(_, why)| why == "dead"));
    }

    #[test]
    fn the_freshest_description_wins_and_trouble_keeps_what_came() {
        let mut crawl =
            Crawl::new(CrawlLimits { depth: Some(1), ..CrawlLimits::default() }, [EndpointAddr::new(id(0))]);
        crawl.next_to_ask().unwrap();
        crawl.heard(id(0), Ok(Listed { peers: vec![found(1, 60), found(2, 60)], ..Listed::default() }));
        crawl.next_to_ask().unwrap();
        crawl.next_to_ask().unwrap();
        let trouble = Some(ListError::Invalid("pages without end"));
        let own = Some(found(1, 0));
        crawl.heard(id(1), Ok(Listed { own, peers: vec![found(2, 7)], trouble, more: false }));
        crawl.heard(id(1), Err("heard twice".into()));
        crawl.heard(id(9), Ok(listed(9, &[8])));
        let crawled = crawl.finish(true);
        let ages: Vec<_> = crawled.found.iter().map(|found| (found.id, found.age.as_secs())).collect();
        assert!(ages.contains(&(id(1), 0)) && ages.contains(&(id(2), 7)) && ages.len() == 2, "{ages:?}");
        assert_eq!(crawled.errors.len(), 1);
        assert!(crawled.timed_out && !crawled.capped);
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_up_and_what_was_heard_stays() {
        let crawl =
            Crawl::new(CrawlLimits { depth: None, ..CrawlLimits::default() }, [EndpointAddr::new(id(0))]);
        let ask = |addr: EndpointAddr| async move {
            if addr.id == id(0) { Ok(listed(0, &[1, 2])) } else { std::future::pending().await }
        };
        let crawled = run(crawl, Instant::now() + Duration::from_secs(30), ask, |_, _| ()).await;
        assert!(crawled.timed_out);
        assert_eq!((crawled.found.len(), crawled.answered), (3, 1));
    }
}
