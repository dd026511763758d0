//! How a network of very many agents behaves, simulated from the product's own pure parts in virtual time.
//!
//! `cargo bench --bench swarm [-- --agents N] [-- --seed N]`, by default of 10, 100, 1,000 and 10,000 agents, which takes half an
//! hour. All start within a minute and find each other through rendezvous slots alone, by one channel. What is simulated, and
//! what is left out, stands in `tests/support/swarm.rs`. Rates are per agent and minute, of the last four of thirteen minutes.

use std::time::{Duration, Instant};

use support::figures::Table;
use swarm::{Swarm, SwarmFigures};

mod support;
#[path = "../tests/support/swarm.rs"]
mod swarm;

/// Long enough for a network of any size to come to rest, and four minutes more.
const RUNS_FOR: Duration = Duration::from_mins(13);

#[derive(clap::Parser)]
struct Args {
    /// Networks of so many agents; may be repeated
    #[arg(long, default_values_t = [10, 100, 1_000, 10_000])]
    agents: Vec<usize>,
    /// Everything follows from this
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() {
    let Some(args) = support::args::<Args>() else { return };
    let mut all = Vec::new();
    for agents in &args.agents {
        let began = Instant::now();
        all.push((Swarm::run(*agents, args.seed, RUNS_FOR), began.elapsed()));
    }
    let names: Vec<String> = all.iter().map(|(figures, _)| format!("{} agents", figures.agents)).collect();
    let mut columns = vec![("", 58)];
    columns.extend(names.iter().map(|name| (name.as_str(), 14)));
    let table = Table::new(&columns);
    for (what, of) in ROWS {
        let cells = all.iter().map(|(figures, _)| of(figures));
        table.row(&std::iter::once((*what).to_owned()).chain(cells).collect::<Vec<_>>());
    }
    let took = all.iter().map(|(_, took)| secs(Some(*took)));
    table.row(&std::iter::once("the simulation took".to_owned()).chain(took).collect::<Vec<_>>());
}

type Row = (&'static str, fn(&SwarmFigures) -> String);

const ROWS: &[Row] = &[
    ("first session after the start, median", |f| secs(f.first_session.map(|(median, _)| median))),
    ("first session after the start, the last one", |f| secs(f.first_session.map(|(_, last)| last))),
    ("all in one graph of sessions, since the first start", |f| secs(f.one_graph)),
    ("all in one swarm, since the first start", |f| secs(f.one_swarm)),
    ("still one graph, and one swarm, in the end", |f| format!("{}, {}", f.is_one_graph, f.is_one_swarm)),
    ("connections of an agent, mean and most", |f| format!("{:.1}, {}", f.connections.0, f.connections.1)),
    ("sessions that a new asset passes, mean and most", |f| format!("{:.2}, {}", f.hops.0, f.hops.1)),
    ("agents that pass an announcement on, at most", |f| f.announcement_hops.to_string()),
    ("agents that an agent counts as alive", |f| f.alive.to_string()),
    ("announcements made", |f| figure(f.rates.announced)),
    ("announcements heard", |f| figure(f.rates.heard)),
    ("of those, dropped unseen", |f| figure(f.rates.refused)),
    ("gossip's messages sent", |f| figure(f.rates.messages)),
    ("sessions dialled", |f| figure(f.rates.dials)),
    ("of those, without a place there", |f| figure(f.rates.turned_away)),
    ("connections to ask for a sign of life", |f| figure(f.rates.questions)),
    ("slot requests: reads", |f| figure(f.rates.slot_reads)),
    ("slot requests: writes", |f| figure(f.rates.slot_writes)),
    ("slot requests of an agent in its first nine minutes", |f| figure(f.requests_before)),
];

fn secs(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

fn figure(figure: f64) -> String {
    format!("{figure:.2}")
}
