//! The text of the status dump: the tree of actors, and how discovery's channels do.

use std::fmt::Write as _;

use crate::actor::status::ActorStatus;
use crate::discovery::channel::{ChannelReport, ChannelState};
use crate::text::escape;

/// Characters shown of one text; names come from strangers.
const TEXT_CHARS_SHOWN: usize = 160;

const HEADINGS: [&str; 9] =
    ["actor", "state", "restarts", "uptime", "mailbox", "oldest", "undelivered", "queued", "notes"];

/// The dump: a heading, then one aligned line per actor, indented by its place in the tree. Control characters and
/// what changes the direction of text are escaped.
pub fn render(tree: &ActorStatus) -> String {
    let mut lines = vec![HEADINGS.map(str::to_owned)];
    collect(tree, 0, &mut lines);
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; HEADINGS.len()] = std::array::from_fn(width);

    let mut text = String::new();
    for line in &lines {
        let mut padded = String::new();
        for ((cell, width), heading) in line.iter().zip(widths).zip(&lines[0]) {
            let _ = match heading.as_str() {
                "restarts" | "uptime" | "mailbox" | "oldest" | "undelivered" | "queued" => {
                    write!(padded, "{cell:>width$}  ")
                }
                _ => write!(padded, "{cell:width$}  "),
            };
        }
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

/// The dump's second part: a heading, then one aligned line per discovery channel.
pub fn render_channels(reports: &[ChannelReport], now_ms: u64) -> String {
    let mut text =
        format!("{:<10} {:<5} {:>6}  {:<14} {}\n", "channel", "state", "found", "last success", "notes");
    for report in reports {
        let state = match report.state {
            ChannelState::Up => "up",
            ChannelState::Down => "down",
            ChannelState::Off => "off",
        };
        let ago = |ms: u64| format!("{} ago", uptime(now_ms.saturating_sub(ms) / 1000));
        let last = report.last_success_ms.map_or_else(|| "-".to_owned(), ago);
        let notes = report.last_error.as_deref().map(escaped).unwrap_or_default();
        let line =
            format!("{:<10} {state:<5} {:>6}  {last:<14} {notes}", report.channel.name(), report.found);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn collect(actor: &ActorStatus, depth: usize, lines: &mut Vec<[String; HEADINGS.len()]>) {
    let mut name = "  ".repeat(depth) + &escaped(&actor.kind);
    if let Some(label) = &actor.label {
        let _ = write!(name, " {}", escaped(label));
    }
    let error = actor.last_error.as_ref().map(|e| format!("last error: {}", escaped(e)));
    let notes: Vec<String> = actor.detail.as_deref().map(escaped).into_iter().chain(error).collect();
    lines.push([
        name,
        actor.state.name().to_owned(),
        actor.restarts.to_string(),
        uptime(actor.uptime_secs),
        actor.mailbox.to_string(),
        waited(actor),
        actor.undelivered.to_string(),
        actor.queued.map_or_else(|| "-".to_owned(), |n| n.to_string()),
        notes.join("; "),
    ]);
    for child in &actor.children {
        collect(child, depth + 1, lines);
    }
}

/// How long the oldest message in its mailbox has waited.
fn waited(actor: &ActorStatus) -> String {
    match (actor.mailbox, actor.mailbox_ms) {
        (0, _) => "-".to_owned(),
        (_, ms @ 0..10_000) => format!("{ms}ms"),
        (_, ms) => uptime(ms / 1000),
    }
}

fn uptime(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", secs % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// The beginning of `text`, escaped.
fn escaped(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(TEXT_CHARS_SHOWN).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    escape(&shown).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::status::ActorState;
    use crate::discovery::channel::Channel;
    use crate::text::is_hazard;

    #[test]
    fn one_aligned_line_per_actor() {
        let peer = ActorStatus {
            label: Some("laptop".to_owned()),
            uptime_secs: 7,
            detail: Some("in sync".to_owned()),
            ..ActorStatus::new("PeerActor", ActorState::Running)
        };
        let peers = ActorStatus {
            mailbox: 3,
            mailbox_ms: 12_345,
            undelivered: 2,
            queued: Some(12),
            uptime_secs: 3_725,
            restarts: 3,
            last_error: Some("boom".to_owned()),
            children: vec![peer],
            ..ActorStatus::new("PeersActor", ActorState::Unresponsive)
        };
        let tree = ActorStatus {
            uptime_secs: 200_000,
            children: vec![peers],
            ..ActorStatus::new("RootSupervisor", ActorState::Running)
        };
        let expected = "\
actor                 state         restarts  uptime  mailbox  oldest  undelivered  queued  notes
RootSupervisor        running              0   2d07h        0       -            0       -
  PeersActor          unresponsive         3   1h02m        3     12s            2      12  last error: boom
    PeerActor laptop  running              0      7s        0       -            0       -  in sync
";
        assert_eq!(render(&tree), expected);
    }

    #[test]
    fn one_line_per_channel() {
        let report = |channel, state, last_success_ms, found, error: Option<&str>| ChannelReport {
            channel,
            state,
            last_success_ms,
            found,
            last_error: error.map(str::to_owned),
        };
        let reports = [
            report(Channel::Mdns, ChannelState::Up, Some(3_000), 2, None),
            report(Channel::Dht, ChannelState::Down, None, 0, Some("no\u{1b}nodes")),
        ];
        let expected = "\
channel    state  found  last success   notes
mdns       up         2  1m05s ago
dht        down       0  -              no\\u{1b}nodes
";
        assert_eq!(render_channels(&reports, 68_000), expected);
    }

    #[test]
    fn strangers_cannot_write_to_the_terminal() {
        let hostile = "a\u{1b}[2Jb\nc\u{202e}d\u{7}\u{9b}e\u{2028}";
        let tree = ActorStatus {
            label: Some(hostile.to_owned()),
            last_error: Some(hostile.to_owned()),
            detail: Some("x".repeat(1_000)),
            ..ActorStatus::new("PeerActor", ActorState::Running)
        };
        let text = render(&tree);
        assert_eq!(text.lines().count(), 2);
        assert!(text.chars().all(|c| c == '\n' || !is_hazard(c)), "{text:?}");
        assert!(text.contains(r"a\u{1b}[2Jb\nc\u{202e}d"), "{text}");
        assert!(!text.contains(&"x".repeat(TEXT_CHARS_SHOWN + 1)));
    }

    #[test]
    fn uptimes_stay_short() {
        let shown = [0, 59, 60, 3_599, 3_600, 86_399, 86_400].map(uptime);
        assert_eq!(shown, ["0s", "59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h"]);
    }
}
