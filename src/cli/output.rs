//! Results on stdout, messages on stderr.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::error::CliResult;
use super::text::{self, escape, is_hazard};
use crate::stderr;
use crate::text::short_id;

#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    /// JSON, one value per line.
    pub(super) json: bool,
    /// Someone looks at it, and it is no JSON.
    pub(super) terminal: bool,
}

#[allow(
    clippy::unused_self,
    reason = "how results are written is decided here, even where one way is enough"
)]
impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, terminal: !json && io::stdout().is_terminal() }
    }

    /// Writes one result: JSON for programs, for people a line of text that is safe to show.
    pub(super) fn result(self, value: &impl Serialize, line: impl FnOnce() -> String) -> CliResult {
        Ok(if self.json { self.value(value) } else { self.line(&line()) }?)
    }

    /// Writes what there is of one kind: a line of JSON for each, or a table with a row for each.
    pub(super) fn list<T: Serialize>(
        self,
        all: &[T],
        heading: &[&str],
        row: impl Fn(&T) -> Vec<String>,
    ) -> CliResult {
        if self.json {
            return Ok(all.iter().try_for_each(|one| self.value(one))?);
        }
        let rows: Vec<_> = all.iter().map(row).collect();
        Ok(self.table(Some(heading), &rows)?)
    }

    /// An id or hash for a table: its beginning on a terminal, all of it for programs.
    pub(super) fn id(self, id: &str) -> String {
        if self.terminal { short_id(id) } else { escape(id).into_owned() }
    }

    /// A number of bytes for a table: people read sizes, programs count.
    pub(super) fn size(self, bytes: u64) -> String {
        if self.terminal { text::bytes(bytes) } else { bytes.to_string() }
    }

    /// An RFC 3339 time for a table; on a terminal, how long ago it was.
    pub(super) fn time(self, time: &str) -> String {
        if self.terminal { text::ago(time) } else { time.to_owned() }
    }

    /// Writes one line of text that is safe to show.
    pub(super) fn line(self, line: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// Writes one value as a line of JSON.
    pub(super) fn value(self, value: &impl Serialize) -> io::Result<()> {
        let line = serde_json::to_string(value)?;
        let line = if line.contains(is_hazard) { escape_json(&line) } else { line };
        self.line(&line)
    }

    /// Writes rows: a table on a terminal, tab-separated lines with a heading otherwise. Every cell is escaped.
    pub(super) fn table(self, heading: Option<&[&str]>, rows: &[Vec<String>]) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        if self.terminal {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
            if let Some(heading) = heading {
                table.set_header(heading.to_vec());
            }
            table.add_rows(rows.iter().map(|row| row.iter().map(|cell| escape(cell).into_owned())));
            for line in table.lines() {
                writeln!(out, "{}", line.trim_end())?;
            }
        } else {
            if let Some(heading) = heading {
                writeln!(out, "{}", heading.join("\t"))?;
            }
            for row in rows {
                let cells: Vec<_> = row.iter().map(|cell| escape(cell)).collect();
                writeln!(out, "{}", cells.join("\t"))?;
            }
        }
        out.flush()
    }

    /// Writes named values below one another. Every value is escaped.
    pub(super) fn fields(self, fields: &[(&str, String)]) -> io::Result<()> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let mut out = BufWriter::new(io::stdout().lock());
        for (name, value) in fields {
            writeln!(out, "{name:width$}  {}", escape(value))?;
        }
        out.flush()
    }
}

/// Escapes what acts on a terminal and is valid in a JSON string all the same; all other text stays readable.
fn escape_json(line: &str) -> String {
    let mut out = String::with_capacity(line.len() + 16);
    for c in line.chars() {
        if is_hazard(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Writes a message for people. Nothing can be done if stderr is closed.
pub(super) fn message(text: &str) {
    stderr::write(format!("{text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_text_and_loses_terminal_controls() {
        let text = "gr\u{fc}n \u{9b}2J \u{1b}[0m \u{202e} \u{e0001}";
        let escaped = escape_json(&serde_json::to_string(text).unwrap());
        assert_eq!(escaped, "\"gr\u{fc}n \\u009b2J \\u001b[0m \\u202e \\udb40\\udc01\"");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }
}
