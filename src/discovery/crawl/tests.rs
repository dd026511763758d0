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
    let crawl = Crawl::new(CrawlLimits { depth: None, ..CrawlLimits::default() }, [EndpointAddr::new(id(0))]);
    let ask = |addr: EndpointAddr| async move {
        if addr.id == id(0) { Ok(listed(0, &[1, 2])) } else { std::future::pending().await }
    };
    let crawled = run(crawl, Instant::now() + Duration::from_secs(30), ask, |_, _| ()).await;
    assert!(crawled.timed_out);
    assert_eq!((crawled.found.len(), crawled.answered), (3, 1));
}
