//! Figures for people, and tables of them that are printed row by row, as they come.
#![allow(clippy::print_stdout, reason = "tables are what a bench is for")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::time::Duration;

/// Says how far a long measurement is.
pub(crate) fn say(progress: &str) {
    println!("{progress}");
}

/// A table under way: the names of its columns are printed.
pub(crate) struct Table(Vec<usize>);

impl Table {
    /// Columns with their widths in characters, below an empty line. The first has words and stands left, the others have figures.
    pub(crate) fn new(columns: &[(&str, usize)]) -> Self {
        let table = Self(columns.iter().map(|(name, width)| (*width).max(name.chars().count())).collect());
        println!();
        let names: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        table.row(&names);
        let rule: Vec<String> = table.0.iter().map(|width| "-".repeat(*width)).collect();
        table.row(&rule);
        table
    }

    /// What was measured, the median, best and worst of several runs, the rate, and what it should be.
    pub(crate) fn of_runs() -> Self {
        Self::new(&[("", 46), ("median", 9), ("best", 9), ("worst", 9), ("MB/s", 8), ("target", 16)])
    }

    pub(crate) fn row(&self, cells: &[String]) {
        let padded = cells.iter().zip(&self.0).enumerate().map(|(n, (cell, width))| {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            if n == 0 { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
        });
        println!("| {} |", padded.collect::<Vec<String>>().join(" | "));
    }

    /// A row of [`Table::of_runs`]; `bytes` is what each run moved.
    pub(crate) fn runs(&self, what: &str, runs: &Runs, bytes: Option<u64>, target: &str) {
        let secs = |time: Duration| format!("{:.3} s", time.as_secs_f64());
        let rate = bytes.map_or_else(String::new, |bytes| format!("{:.1}", mb_per_sec(bytes, runs.median())));
        let (median, best, worst) = (secs(runs.median()), secs(runs.best()), secs(runs.worst()));
        self.row(&[what.to_owned(), median, best, worst, rate, target.to_owned()]);
    }
}

/// How long something took, several times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(Vec<Duration>);

impl FromIterator<Duration> for Runs {
    fn from_iter<T: IntoIterator<Item = Duration>>(took: T) -> Self {
        let mut took: Vec<Duration> = took.into_iter().collect();
        took.sort_unstable();
        Self(took)
    }
}

impl Runs {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
        self.0.sort_unstable();
    }

    pub(crate) fn add_all(&mut self, others: Self) {
        self.0.extend(others.0);
        self.0.sort_unstable();
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Zero while nothing was added, as the others.
    pub(crate) fn median(&self) -> Duration {
        self.at(50)
    }

    pub(crate) fn best(&self) -> Duration {
        self.at(0)
    }

    pub(crate) fn worst(&self) -> Duration {
        self.at(100)
    }

    /// The time that so many of a hundred runs did not exceed.
    pub(crate) fn at(&self, percent: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }
}

pub(crate) fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) fn mb_per_sec(bytes: u64, took: Duration) -> f64 {
    mb(bytes) / took.as_secs_f64()
}

pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

pub(crate) fn per_sec(n: usize, took: Duration) -> f64 {
    n as f64 / took.as_secs_f64()
}

pub(crate) fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
