//! What this machine's clock is worth: to the relays, and to the user's other machines.

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use reqwest::header::DATE;
use serde_json::Value;

use super::{CheckVerdict, Finding, network};
use crate::config::Config;

/// Agents do not take yet what is dated further ahead than this.
const CLOCK_FAIL: Duration = Duration::from_mins(10);
/// More than a network's delay and a clock's second explain.
const CLOCK_WARN: Duration = Duration::from_mins(1);
const ADVICE: &str = "set the clock that is wrong, best by a time service (NTP)";

/// Against the first relay that says what time it is, and with a daemon, what that says of it.
pub(super) async fn check(config: &Config, daemon: Option<&Value>) -> Finding {
    let compared = compare(config).await;
    match daemon.and_then(of_daemon) {
        Some(why) => with_daemon(compared, &why),
        None => compared,
    }
}

/// What a daemon on another machine says of clocks.
pub(super) fn by_its_word(status: &Value) -> Finding {
    let compared = Finding::off("compared with relays only by a doctor on that machine");
    of_daemon(status).map_or(compared, |why| Finding::warn(format!("the daemon says: {why}"), ADVICE))
}

/// Why versions wait for a clock, or what is wrong with this one.
fn of_daemon(status: &Value) -> Option<String> {
    status.pointer("/clock/reason").and_then(Value::as_str).map(str::to_owned)
}

fn with_daemon(compared: Finding, why: &str) -> Finding {
    let detail = format!("{}; the daemon says: {why}", compared.detail);
    match compared.verdict {
        CheckVerdict::Fail => Finding::fail(detail, compared.advice.unwrap_or_default()),
        CheckVerdict::Ok | CheckVerdict::Warn | CheckVerdict::Off => Finding::warn(detail, ADVICE),
    }
}

async fn compare(config: &Config) -> Finding {
    let pkarr = config.discovery.pkarr_relays.iter().map(|url| url.as_str().to_owned());
    let iroh = network::relays(config).unwrap_or_default().into_iter().map(|url| url.to_string());
    let urls: Vec<String> = pkarr.chain(iroh).collect();
    if urls.is_empty() {
        return Finding::off("no relay is configured whose clock it could be compared with");
    }
    let client = match network::client() {
        Ok(client) => client,
        Err(error) => return Finding::warn(format!("cannot set up HTTP: {error}"), "try again"),
    };
    let ask = |url: String| {
        let client = client.clone();
        async move {
            let answer = client.get(&url).send().await.ok()?;
            let date = answer.headers().get(DATE)?.to_str().ok()?.to_owned();
            Some((url, parse_date(&date)?, Timestamp::now()))
        }
    };
    let mut answers: FuturesUnordered<_> = urls.into_iter().map(ask).collect();
    while let Some(answer) = answers.next().await {
        if let Some((url, theirs, ours)) = answer {
            return judge_clock(&url, theirs, ours);
        }
    }
    Finding::warn("no relay answers with the time, so it could not be compared", "see the relays below")
}

/// The time in a `Date` header (RFC 9110, section 5.6.7).
fn parse_date(text: &str) -> Option<Timestamp> {
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
}

fn judge_clock(url: &str, theirs: Timestamp, ours: Timestamp) -> Finding {
    let off = ours.duration_since(theirs);
    let direction = if off.is_negative() { "behind" } else { "ahead of" };
    let off = off.unsigned_abs();
    let detail = format!("{} s {direction} {url}", off.as_secs());
    if off >= CLOCK_FAIL {
        Finding::fail(format!("{detail}: other agents do not take yet what this one dates"), ADVICE)
    } else if off >= CLOCK_WARN {
        Finding::warn(detail, ADVICE)
    } else {
        Finding::ok(detail)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_clock_is_judged_by_what_agents_bear() {
        let theirs = parse_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(theirs.as_second(), 784_111_777);
        assert!(parse_date("yesterday").is_none());
        let verdict = |off: i64| {
            let ours = Timestamp::from_second(theirs.as_second() + off).unwrap();
            let finding = judge_clock("http://relay", theirs, ours);
            (finding.verdict, finding.detail)
        };
        assert_eq!(verdict(2), (CheckVerdict::Ok, "2 s ahead of http://relay".to_owned()));
        assert_eq!(verdict(-90), (CheckVerdict::Warn, "90 s behind http://relay".to_owned()));
        assert_eq!((verdict(601).0, verdict(-86_400).0), (CheckVerdict::Fail, CheckVerdict::Fail));
    }

    #[test]
    fn what_the_daemon_says_of_clocks_is_said() {
        assert_eq!(of_daemon(&json!({ "clock": { "reason": null } })), None);
        let status = json!({ "clock": { "reason": "2 versions wait" } });
        assert_eq!(of_daemon(&status).as_deref(), Some("2 versions wait"));
        let finding = with_daemon(Finding::off("no relay"), "2 versions wait");
        assert_eq!(finding.verdict, CheckVerdict::Warn);
        assert!(finding.detail.contains("2 versions wait") && finding.advice.is_some(), "{finding:?}");
        let finding = with_daemon(Finding::fail("601 s ahead", "set it"), "2 versions wait");
        assert_eq!((finding.verdict, finding.advice.as_deref()), (CheckVerdict::Fail, Some("set it")));
    }
}
