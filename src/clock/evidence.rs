//! What the machine's clock is worth, from what the clocks of the user's other machines show. Pure: moments come in.
//!
//! A clock that was heard is kept as a difference to monotonic time, so that it stays right whatever is done to ours
//! meanwhile.
//!
//! - Two or more that agree within a minute outvote ours if it is more than ten minutes off, unless as many agree with
//!   ours.
//! - One that differs decides nothing: either of the two may be wrong, and both machines say so.
//! - With nobody who agrees, ours is believed all the same, unless it shows less than the date of this program or of a
//!   version that another machine of the user's has: that date, and the time since, is the least that it can be.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::span;

/// Clocks that differ by more are held to differ: what is dated so far ahead is not taken by others.
pub const OFF_MAX_MS: u64 = 10 * 60 * 1000;
/// Clocks that are closer than this agree.
const AGREE_WITHIN_MS: u64 = 60 * 1000;
/// What was heard longer ago is worth nothing any more: clocks drift, and machines are set.
const HEARD_WITHIN: Duration = Duration::from_hours(1);
/// Machines that are remembered; the one heard longest ago goes first.
const DEVICES_MAX: usize = 256;

/// Names another machine of the user's: its endpoint id.
pub type DeviceId = [u8; 32];

/// One look at the machine's clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// What the clock on the wall shows, in milliseconds since the Unix epoch. May be set to anything at any time.
    pub own_ms: u64,
    /// Time since some moment of this run; never goes back.
    pub uptime: Duration,
}

/// What there is to say of the machine's clock. Differences are ours less theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// Other machines of the user's agree with each other and not with ours: their time is used.
    Outvoted {
        /// By how much ours is ahead of theirs; negative if it is behind.
        off_ms: i64,
        devices: usize,
    },
    /// Ours and that of another machine differ, and nobody decides which is right: ours is used.
    Undecided {
        /// By how much ours is ahead of the one that differs most; negative if it is behind.
        off_ms: i64,
    },
    /// Ours shows less than what it must at least be by now, which is used.
    Behind { by_ms: u64 },
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outvoted { off_ms, devices } => write!(
                f,
                "this machine's clock is {} {devices} other machines of yours, which agree: their time is used here; \
                 set this machine's clock",
                difference(*off_ms)
            ),
            Self::Undecided { off_ms } => write!(
                f,
                "this machine's clock is {} that of another machine of yours, and one of the two is wrong: set it, or \
                 connect a third machine that decides",
                difference(*off_ms)
            ),
            Self::Behind { by_ms } => write!(
                f,
                "this machine's clock is at least {} behind: it shows less than the date of this program, or of what \
                 other machines of yours have; set it",
                span(*by_ms)
            ),
        }
    }
}

fn difference(off_ms: i64) -> String {
    let direction = if off_ms < 0 { "behind" } else { "ahead of" };
    format!("{} {direction}", span(off_ms.unsigned_abs()))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// What counts, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// What the machine's clock shows.
    pub own_ms: u64,
    pub doubt: Option<Doubt>,
    /// Other machines of the user's whose clocks were heard lately.
    pub devices: usize,
}

impl Reading {
    /// The earlier of what counts and what the machine's clock shows: for what must not happen too early.
    pub fn earlier_ms(&self) -> u64 {
        self.now_ms.min(self.own_ms)
    }
}

#[derive(Clone, Copy, Debug)]
struct DeviceClock {
    shows_ms: u64,
    at: Duration,
}

impl DeviceClock {
    /// What it shows now, less what ours does.
    fn difference(self, at: Moment) -> i64 {
        let shows = self.shows_ms.saturating_add(millis(at.uptime.saturating_sub(self.at)));
        let (shows, own) = (i64::try_from(shows), i64::try_from(at.own_ms));
        shows.unwrap_or(i64::MAX).saturating_sub(own.unwrap_or(i64::MAX))
    }
}

#[derive(Debug)]
pub struct Evidence {
    heard: HashMap<DeviceId, DeviceClock>,
    has_met_devices: bool,
    /// What it was at least at the moment beside it.
    least: (u64, Duration),
    confirmed_ms: u64,
}

impl Evidence {
    /// Knows of nothing but when the program was built.
    pub fn new(built_ms: u64, at: Moment) -> Self {
        Self { heard: HashMap::new(), has_met_devices: false, least: (built_ms, at.uptime), confirmed_ms: 0 }
    }

    pub fn hear(&mut self, device: DeviceId, shows_ms: u64, at: Moment) {
        self.has_met_devices = true;
        self.heard.insert(device, DeviceClock { shows_ms, at: at.uptime });
        if self.heard.len() > DEVICES_MAX
            && let Some(oldest) = self.heard.iter().min_by_key(|(_, heard)| heard.at).map(|(id, _)| *id)
        {
            self.heard.remove(&oldest);
        }
    }

    pub fn note_confirmed(&mut self, ms: u64, at: Moment) {
        if ms > self.confirmed_ms {
            self.confirmed_ms = ms;
            if ms > self.least_ms(at) {
                self.least = (ms, at.uptime);
            }
        }
    }

    pub fn confirmed_ms(&self) -> u64 {
        self.confirmed_ms
    }

    pub fn has_met_devices(&self) -> bool {
        self.has_met_devices
    }

    pub fn restore(&mut self, confirmed_ms: u64, has_met_devices: bool, at: Moment) {
        self.note_confirmed(confirmed_ms, at);
        self.has_met_devices |= has_met_devices;
    }

    pub fn read(&self, at: Moment) -> Reading {
        let mut differences: Vec<i64> = self.recent(at).map(|heard| heard.difference(at)).collect();
        differences.sort_unstable();
        let reading =
            |now_ms, doubt| Reading { now_ms, own_ms: at.own_ms, doubt, devices: differences.len() };
        if let Some((theirs, devices)) = outvote(&differences) {
            let doubt = Doubt::Outvoted { off_ms: theirs.saturating_neg(), devices };
            return reading(at.own_ms.saturating_add_signed(theirs), Some(doubt));
        }
        if differences.iter().any(|difference| !is_off(*difference)) {
            return reading(at.own_ms, None);
        }
        let least_ms = self.least_ms(at);
        if at.own_ms.saturating_add(OFF_MAX_MS) < least_ms {
            return reading(least_ms, Some(Doubt::Behind { by_ms: least_ms - at.own_ms }));
        }
        let most = differences.iter().max_by_key(|difference| difference.unsigned_abs());
        reading(at.own_ms, most.map(|difference| Doubt::Undecided { off_ms: difference.saturating_neg() }))
    }

    pub fn is_vouched_for(&self, at: Moment) -> bool {
        if !self.has_met_devices {
            return true;
        }
        let now = Moment { own_ms: self.read(at).now_ms, ..at };
        self.recent(now).any(|heard| !is_off(heard.difference(now)))
    }

    fn recent(&self, at: Moment) -> impl Iterator<Item = DeviceClock> {
        self.heard.values().copied().filter(move |heard| at.uptime.saturating_sub(heard.at) <= HEARD_WITHIN)
    }

    fn least_ms(&self, at: Moment) -> u64 {
        let (least_ms, since) = self.least;
        least_ms.saturating_add(millis(at.uptime.saturating_sub(since)))
    }
}

/// The difference of those that agree and outvote ours, and how many they are; `differences` ascend.
fn outvote(differences: &[i64]) -> Option<(i64, usize)> {
    let largest = groups(differences).max_by_key(|group| group.len()).filter(|group| group.len() >= 2)?;
    let theirs = largest[(largest.len() - 1) / 2];
    // Ours, and those who are with it, may be as many; so may others that agree on something else.
    let with_ours = 1 + differences.iter().filter(|difference| !is_off(**difference)).count();
    let is_apart = |difference: &&i64| largest.iter().all(|one| one.abs_diff(**difference) > AGREE_WITHIN_MS);
    let others: Vec<i64> = differences.iter().filter(is_apart).copied().collect();
    let rivals = groups(&others).map(<[i64]>::len).max().unwrap_or_default();
    (is_off(theirs) && largest.len() > with_ours.max(rivals)).then_some((theirs, largest.len()))
}

/// Those that agree with the lowest of them, for each of `ascending` as the lowest.
fn groups(ascending: &[i64]) -> impl Iterator<Item = &[i64]> {
    (0..ascending.len()).map(|first| {
        let rest = &ascending[first..];
        let count = rest.iter().take_while(|other| other.abs_diff(rest[0]) <= AGREE_WITHIN_MS).count();
        &rest[..count]
    })
}

fn is_off(difference: i64) -> bool {
    difference.unsigned_abs() > OFF_MAX_MS
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
