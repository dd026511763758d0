//! What an agent has to do for its network does not grow with the network, or no faster than this. Counts alone: the simulation
//! has a clock of its own. `cargo bench --bench swarm` prints all of it, up to ten thousand agents.

use std::time::Duration;

use crate::support::swarm::{Swarm, SwarmFigures};

/// The last of them is larger than what an agent dials and is dialled by.
const SIZES: [usize; 3] = [8, 24, 48];

const RUNS_FOR: Duration = Duration::from_mins(7);

#[test]
fn an_agent_does_not_do_more_where_there_are_more() {
    let runs: Vec<_> = SIZES.map(|agents| std::thread::spawn(move || Swarm::run(agents, 7, RUNS_FOR))).into();
    let figures: Vec<SwarmFigures> = runs.into_iter().map(|run| run.join().unwrap()).collect();
    for figures in &figures {
        println!("{figures:#?}");
        is_one_network(figures);
        costs_little(figures);
    }
    // Six times as many agents: slots carry load for those that search, not for those that have found.
    let [few, .., many] = &figures[..] else { panic!("three of them") };
    assert!(many.rates.slot_reads <= few.rates.slot_reads * 1.5);
    assert!(many.rates.slot_writes <= few.rates.slot_writes);
}

fn is_one_network(figures: &SwarmFigures) {
    assert!(figures.is_one_graph && figures.is_one_swarm);
    assert!(figures.one_graph.is_some_and(|at| at.as_secs() <= 75), "all start within a minute");
    assert!(figures.one_swarm.is_some_and(|at| at.as_secs() <= 75));
    assert!(figures.first_session.is_some_and(|(_, last)| last.as_secs() <= 15));
    assert!(figures.hops.1 <= 4, "{:?}", figures.hops);
    assert_eq!(usize::try_from(figures.alive).unwrap(), figures.agents - 1, "everybody knows everybody");
}

fn costs_little(figures: &SwarmFigures) {
    let others = f64::from(u32::try_from(figures.agents).unwrap()) - 1.0;
    let rates = &figures.rates;
    // Sixteen that it dials, and those that dial it.
    assert!(figures.connections.0 <= 32.5 && figures.connections.1 <= 64, "{:?}", figures.connections);
    // Every thirty seconds, and once more for the asset that comes each minute: not for each neighbour that comes or goes.
    assert!(rates.announced <= 3.5, "{rates:?}");
    assert!(rates.heard <= rates.announced * others * 1.05, "{rates:?}");
    assert!(rates.refused <= f64::EPSILON, "{rates:?}");
    // Each announcement once from one neighbour, a word about it from the others, and what keeps the swarm together.
    assert!(rates.messages <= rates.heard * 8.0 + 120.0, "{rates:?}");
    // Who has found the others connects to nobody anew.
    assert!(rates.dials <= 0.5 && rates.questions <= 0.5, "{rates:?}");
    assert!(rates.slot_reads <= 4.0 && rates.slot_writes <= 1.3, "{rates:?}");
}
