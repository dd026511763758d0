//! What time it is: the one place that is asked.
//!
//! A [`Clock`] reads the machine's clock and weighs it against those of the user's other machines ([`Evidence`], pure).
//! Whatever decides by a date asks it: how edits are dated, which versions of others are taken, what is purged.

pub mod evidence;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use rustix::time::{ClockId, clock_gettime};

pub use self::evidence::{DeviceId, Doubt, Evidence, Moment, OFF_MAX_MS, Reading};

/// When this program was built, in milliseconds since the Unix epoch: no clock is right that shows less.
fn built_ms() -> u64 {
    env!("CAN_SYNC_BUILT_MS").parse().unwrap_or_default()
}

/// The time, as far as this node can tell. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Clock(Arc<ClockInner>);

struct ClockInner {
    read: Box<dyn Fn() -> Moment + Send + Sync>,
    evidence: Mutex<Evidence>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.reading()).finish()
    }
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        let started = since_boot();
        Self::reading_from(move || Moment { own_ms: now_ms(), uptime: since_boot().saturating_sub(started) })
    }

    /// As [`Clock::system`], with another source in place of the machine's clock.
    pub fn reading_from(read: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        let evidence = Mutex::new(Evidence::new(built_ms(), read()));
        Self(Arc::new(ClockInner { read: Box::new(read), evidence }))
    }

    fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.0.evidence.lock()
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.reading().now_ms
    }

    /// What the machine's clock shows, whatever it is worth: what other machines are told.
    pub fn own_ms(&self) -> u64 {
        (self.0.read)().own_ms
    }

    /// How long this clock has run, whatever was done to the machine's.
    pub fn uptime(&self) -> Duration {
        (self.0.read)().uptime
    }

    /// The time, and what there is to say of the machine's clock.
    pub fn reading(&self) -> Reading {
        let at = (self.0.read)();
        self.evidence().read(at)
    }

    /// Takes note of what another machine of the user's says its clock shows.
    pub fn hear(&self, device: DeviceId, shows_ms: u64) {
        let at = (self.0.read)();
        self.evidence().hear(device, shows_ms, at);
    }

    /// Takes note that another machine of the user's has a version of this date.
    pub fn note_confirmed(&self, ms: u64) {
        let at = (self.0.read)();
        self.evidence().note_confirmed(ms, at);
    }

    /// The newest date of a version that another machine of the user's is known to have; 0 for none.
    pub fn confirmed_ms(&self) -> u64 {
        self.evidence().confirmed_ms()
    }

    /// Whether another machine of the user's was ever heard.
    pub fn has_met_devices(&self) -> bool {
        self.evidence().has_met_devices()
    }

    /// Takes over what an earlier run of the node knew.
    pub fn restore(&self, confirmed_ms: u64, has_met_devices: bool) {
        let at = (self.0.read)();
        self.evidence().restore(confirmed_ms, has_met_devices, at);
    }

    /// Whether another machine of the user's, heard lately, agrees with [`Clock::now_ms`]; `true` where there never was
    /// another.
    pub fn is_vouched_for(&self) -> bool {
        let at = (self.0.read)();
        self.evidence().is_vouched_for(at)
    }
}

/// Monotonic time that goes on while the machine sleeps: what another clock showed before that is old afterwards.
fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = ClockId::Boottime;
    // Elsewhere it counts sleep, too.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = ClockId::Monotonic;
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Milliseconds since the Unix epoch by the machine's clock, whatever it is worth: for what is only shown. Decisions ask
/// a [`Clock`].
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with milliseconds, of milliseconds since the Unix epoch; `None` for a time that no calendar has.
pub(crate) fn rfc3339(ms: u64) -> Option<String> {
    let time = Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(format!("{time:.3}"))
}

/// The sum of rates; of none of them 0, where `sum` gives -0, which JSON shows.
pub fn rate_sum(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, |sum, rate| sum + rate)
}

/// Seconds until `missing_bytes` are here at `rate` bytes per second; `None` when nothing is missing or nothing moves.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate in whole seconds, never negative"
)]
pub fn eta_secs(missing_bytes: u64, rate: f64) -> Option<u64> {
    (missing_bytes > 0 && rate > 0.0).then(|| (missing_bytes as f64 / rate).ceil() as u64)
}

/// How long something is, for people: in the largest unit of which it has two or more, rounded.
pub(crate) fn span(ms: u64) -> String {
    let units = [(24 * 3600, "days"), (3600, "hours"), (60, "minutes")];
    let rounded = |unit_secs: u64| ms.saturating_add(unit_secs * 500) / (unit_secs * 1000);
    let unit = units.into_iter().find(|(unit, _)| rounded(*unit) >= 2);
    let (unit, name) = unit.unwrap_or((1, "seconds"));
    format!("{} {name}", rounded(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rates_are_zero_and_not_below() {
        assert!(rate_sum(std::iter::empty()).is_sign_positive());
        assert_eq!(serde_json::json!(rate_sum([1.5, 2.0].into_iter())), 3.5);
    }

    #[test]
    fn spans_are_told_in_the_unit_that_says_most() {
        for (ms, text) in [
            (0, "0 seconds"),
            (89_000, "89 seconds"),
            (90_000, "2 minutes"),
            (5_399_000, "90 minutes"),
            (7_190_000, "2 hours"),
            (86_390_000, "24 hours"),
            (172_800_000, "2 days"),
            (31_535_999_000, "365 days"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn this_machine_is_not_older_than_its_program() {
        let clock = Clock::system();
        assert!(built_ms() > 1_700_000_000_000 && clock.now_ms() >= built_ms(), "{clock:?}");
        assert!(now_ms() > 1_700_000_000_000 && since_boot() > Duration::ZERO);
    }

    #[test]
    fn what_one_clone_hears_all_know() {
        const NOW: u64 = 4_000_000_000_000;
        let hour = 3_600_000;
        let clock = Clock::reading_from(|| Moment { own_ms: NOW, uptime: Duration::from_secs(7) });
        assert!(!clock.has_met_devices() && clock.is_vouched_for(), "there never was another");
        let other = clock.clone();
        for device in [1, 2] {
            other.hear([device; 32], NOW + hour);
        }
        assert_eq!((clock.now_ms(), clock.own_ms(), clock.uptime().as_secs()), (NOW + hour, NOW, 7));
        assert!(clock.has_met_devices() && clock.is_vouched_for());
        other.note_confirmed(NOW + 5);
        assert_eq!(clock.confirmed_ms(), NOW + 5);
        // Another run knows what this one wrote down, and heard nobody yet.
        let next = Clock::reading_from(|| Moment { own_ms: NOW, uptime: Duration::ZERO });
        next.restore(NOW + hour, true);
        assert_eq!((next.now_ms(), next.confirmed_ms()), (NOW + hour, NOW + hour));
        assert!(next.has_met_devices() && !next.is_vouched_for());
    }

    #[test]
    fn times_and_rests_are_told_where_there_are_any() {
        assert_eq!(rfc3339(1_700_000_000_001).as_deref(), Some("2023-11-14T22:13:20.001Z"));
        assert_eq!([u64::MAX, i64::MAX.unsigned_abs()].map(rfc3339), [None, None]);
        let etas =
            [(10, 4.0), (8, 4.0), (0, 4.0), (10, 0.0), (10, -1.0)].map(|(bytes, rate)| eta_secs(bytes, rate));
        assert_eq!(etas, [Some(3), Some(2), None, None, None]);
    }
}
