//! A configuration file: YAML, with the place of everything that is wrong in it.

use std::path::Path;

use serde::de::IgnoredAny;

use super::load::{Loaded, Origin, nearest};
use super::setting::KeyFault;
use super::{Config, ConfigError, ConfigLayer};

/// Most that is reported of one file.
const ERRORS_MAX: usize = 50;

/// Lays a file over what there is, and gives everything that is wrong in it, from the top down.
pub(super) fn lay_file(loaded: &mut Loaded, path: &Path, text: &str) -> Vec<ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (layer, mut errors) = parse(path, text);
    let malformed = |place: TextPosition, column: usize, key: &str, problem: String| ConfigError::Malformed {
        path: path.to_owned(),
        line: place.line,
        column,
        key: Some(key.to_owned()),
        problem,
    };
    let mut faults = Vec::new();
    layer.key_faults("", &mut faults);
    for (key, fault) in faults {
        let (nth, problem) = match fault {
            KeyFault::Unknown => (0, format!("unknown key '{key}'{}", suggestion(&key))),
            KeyFault::Twice => (1, format!("the key '{key}' is given twice")),
        };
        let place = place_of(text, &key, nth).unwrap_or_default();
        errors.push(malformed(place, place.column, &key, problem));
    }
    let origin = |key: &str| Origin::File {
        path: path.to_owned(),
        line: place_of(text, key, 0).map(|place| place.line),
    };
    errors.extend(loaded.lay(layer, origin, |key, problem| {
        let place = place_of(text, key, 0).unwrap_or_default();
        malformed(place, place.value_column, key, format!("{key}: {problem}"))
    }));
    errors.sort_by_key(|error| match error {
        ConfigError::Malformed { line, column, .. } => (*line, *column),
        ConfigError::Missing(_)
        | ConfigError::Foreign(_)
        | ConfigError::Unreadable { .. }
        | ConfigError::TooLarge { .. }
        | ConfigError::Invalid { .. } => (0, 0),
    });
    errors.truncate(ERRORS_MAX);
    errors
}

/// What can be read of a file, and what cannot. A setting that the YAML reader stumbles over is left out, and the rest read
/// again.
fn parse(path: &Path, text: &str) -> (ConfigLayer, Vec<ConfigError>) {
    let mut errors = Vec::new();
    let mut left = text.to_owned();
    loop {
        if is_empty(&left) {
            return (ConfigLayer::default(), errors);
        }
        let error = match serde_yaml::from_str::<ConfigLayer>(&left) {
            Ok(layer) => return (layer, errors),
            Err(error) => error,
        };
        let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        let problem = explain(&error, line, column);
        let (line, column) = unknown_key(&left, line, &problem).unwrap_or((line, column));
        let key = problem.split_once(": ").map(|(key, _)| setting_of(key)).filter(|key| is_key(key));
        let key = key.map(str::to_owned);
        errors.push(ConfigError::Malformed { path: path.to_owned(), line, column, key, problem });
        // Of what is no YAML, nobody knows what the rest was meant to be.
        let is_yaml = serde_yaml::from_str::<IgnoredAny>(&left).is_ok();
        match without_setting(&left, line).filter(|_| is_yaml && errors.len() < ERRORS_MAX) {
            Some(rest) => left = rest,
            None => return (ConfigLayer::default(), errors),
        }
    }
}

fn is_empty(text: &str) -> bool {
    text.lines().all(|line| matches!(line.trim_start().chars().next(), None | Some('#')))
}

/// Where a key stands that an item of a list must not have: the YAML reader tells where the item begins.
fn unknown_key(text: &str, line: usize, problem: &str) -> Option<(usize, usize)> {
    let name = problem.split_once("unknown key '")?.1.split_once('\'')?.0;
    let is_it = |line: &str| {
        let key = line.trim_start().trim_start_matches("- ").trim_start().split_once(':')?.0;
        (key.trim().trim_matches(['"', '\'']) == name).then(|| line.find(key).unwrap_or_default() + 1)
    };
    let mut lines = text.lines().enumerate().skip(line.saturating_sub(1));
    lines.find_map(|(at, line)| Some((at + 1, is_it(line)?)))
}

/// The setting that the place of an item is in: `folders` of `folders[0].mode`.
fn setting_of(place: &str) -> &str {
    place.split_once('[').map_or(place, |(setting, _)| setting)
}

fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.'))
}

/// The text with the setting that line `at` belongs to left blank, so that all other lines keep their numbers. `None` if
/// nothing is left to leave out.
fn without_setting(text: &str, at: usize) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_said = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#'));
    let mut first = at.checked_sub(1)?.min(lines.len().checked_sub(1)?);
    while first > 0 && !is_said(lines[first]) {
        first -= 1;
    }
    // Items of a list belong to the key above them.
    let belongs = |line: &str| line.trim_start().starts_with("- ") || !line.contains(':');
    while first > 0 && belongs(lines[first]) {
        first -= 1;
    }
    let depth = indent(lines[first]);
    let goes_on = |line: &&str| !is_said(line) || indent(line) > depth || line.trim_start().starts_with("- ");
    let end = first + 1 + lines[first + 1..].iter().take_while(|line| goes_on(line)).count();
    let kept = |(index, line): (usize, &&str)| {
        if (first..end).contains(&index) { String::new() } else { (*line).to_owned() }
    };
    let rest: Vec<String> = lines.iter().enumerate().map(kept).collect();
    lines[first..end].iter().any(|line| is_said(line)).then(|| format!("{}\n", rest.join("\n")))
}

/// Puts the YAML reader's complaint in the user's terms.
fn explain(error: &serde_yaml::Error, line: usize, column: usize) -> String {
    let message = error.to_string().replacen(&format!(" at line {line} column {column}"), "", 1);
    message.replace("invalid type: ", "found ").replace(", expected ", ", where expected is ")
}

/// "; did you mean …?", where a known key is near, otherwise where all keys are listed.
fn suggestion(key: &str) -> String {
    let known: Vec<String> = Config::default().list().into_iter().map(|(key, _)| key).collect();
    let sections = ["discovery", "store", "limits"].map(str::to_owned);
    match nearest(key, known.iter().chain(&sections)) {
        Some(near) => format!("; did you mean '{near}'?"),
        None => "; `can-sync config show` lists every key".to_owned(),
    }
}

/// Where a setting stands in a file; lines and columns are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TextPosition {
    line: usize,
    column: usize,
    value_column: usize,
}

impl Default for TextPosition {
    fn default() -> Self {
        Self { line: 1, column: 1, value_column: 1 }
    }
}

/// Where a key stands for the `nth` time (from 0).
fn place_of(text: &str, key: &str, nth: usize) -> Option<TextPosition> {
    let (section, name) = key.rsplit_once('.').map_or((None, key), |(section, name)| (Some(section), name));
    let mut inside: Option<&str> = None;
    let mut places = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some((found, value)) = line.split_once(':') else { continue };
        let is_nested = found.starts_with(' ');
        let found = found.trim().trim_matches(['"', '\'']);
        if found.starts_with('#') {
            continue;
        }
        if !is_nested {
            inside = Some(found);
        }
        if found == name && (if is_nested { inside } else { None }) == section {
            places.push(place(index, line, line.len() - line.trim_start().len(), value));
        } else if inside == section && section.is_some() {
            // A section on one line, in braces.
            places.extend(in_braces(line, name).map(|(at, value)| place(index, line, at, value)));
        }
    }
    places.get(nth).or(places.last()).copied()
}

/// The place of a key that begins at the byte `at` of a line, before `value`.
fn place(index: usize, line: &str, at: usize, value: &str) -> TextPosition {
    let chars = |bytes: usize| line.get(..bytes).map_or(0, |before| before.chars().count()) + 1;
    let blank = value.len() - value.trim_start().len();
    let value_at = line.len() - value.len() + blank;
    TextPosition { line: index + 1, column: chars(at), value_column: chars(value_at) }
}

/// The keys `name` within braces on a line: where each begins, and what follows its colon.
fn in_braces<'a>(line: &'a str, name: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let brace = line.find('{').unwrap_or(line.len());
    line.match_indices(name).filter_map(move |(at, _)| {
        let before = line[..at].trim_end_matches(['"', '\'', ' ']);
        let after = line[at + name.len()..].trim_start_matches(['"', '\'', ' ']);
        let is_key = at > brace && before.ends_with(['{', ',']);
        is_key.then(|| after.strip_prefix(':').map(|value| (at, value))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_every_layout() {
        let text = "# name: no\nname: a\ndiscovery:\n  # dht: no\n  dht: b\nlimits: { max_dialled: 1, \"max_streams\": 2 }\n\
                    name: again\n";
        let at = |key, nth| place_of(text, key, nth).map(|p| (p.line, p.column, p.value_column));
        assert_eq!(at("name", 0), Some((2, 1, 7)));
        assert_eq!(at("name", 1), Some((7, 1, 7)));
        assert_eq!(at("discovery.dht", 0), Some((5, 3, 8)));
        assert_eq!(at("limits.max_dialled", 0), Some((6, 11, 24)));
        assert_eq!(at("limits.max_streams", 0).map(|(line, ..)| line), Some(6));
        assert_eq!(at("dht", 0), None);
        assert_eq!(at("limits.dht", 0), None);
    }

    #[test]
    fn a_setting_is_left_out_with_everything_that_belongs_to_it() {
        let text = "a: 1\nb:\n  - x\n  - y\nc:\n  d: 1\n  e:\n    f: 2\n  g: 3\n";
        assert_eq!(
            without_setting(text, 1).unwrap(),
            "\nb:\n  - x\n  - y\nc:\n  d: 1\n  e:\n    f: 2\n  g: 3\n"
        );
        for line in 2..=4 {
            assert_eq!(
                without_setting(text, line).unwrap(),
                "a: 1\n\n\n\nc:\n  d: 1\n  e:\n    f: 2\n  g: 3\n"
            );
        }
        assert_eq!(without_setting(text, 7).unwrap(), "a: 1\nb:\n  - x\n  - y\nc:\n  d: 1\n\n\n  g: 3\n");
        assert_eq!(without_setting("\n\n", 1), None);
        assert_eq!(without_setting("", 1), None);
    }
}
