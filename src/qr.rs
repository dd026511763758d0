//! QR codes of tickets: a path for the page, half blocks for a terminal. Pure.

use std::fmt::Write as _;

use qrcode::{Color, EcLevel, QrCode};
use serde::Serialize;
use utoipa::ToSchema;

/// Light modules around the code, which readers need.
const QUIET: usize = 4;

/// A QR code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct Code {
    /// Modules on each side, the quiet zone included.
    pub size: usize,
    /// The dark modules as the path of an SVG whose view box is `0 0 size size`.
    pub path: String,
}

/// Rows of modules, `true` for dark ones, with the quiet zone.
fn modules(text: &str) -> Option<Vec<Vec<bool>>> {
    // In upper case a character takes five and a half bits instead of eight; tickets mean the same in either.
    let code = QrCode::with_error_correction_level(text.to_ascii_uppercase(), EcLevel::L).ok()?;
    let (inner, colors) = (code.width(), code.into_colors());
    let size = inner + 2 * QUIET;
    let dark = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < inner);
        inside(x).zip(inside(y)).is_some_and(|(x, y)| colors[y * inner + x] == Color::Dark)
    };
    Some((0..size).map(|y| (0..size).map(|x| dark(x, y)).collect()).collect())
}

impl Code {
    /// Of a library ticket; `None` if it is too long for a code.
    pub fn of_ticket(ticket: &str) -> Option<Self> {
        let rows = modules(ticket)?;
        let mut path = String::new();
        for (y, row) in rows.iter().enumerate() {
            for (x, _) in row.iter().enumerate().filter(|(_, dark)| **dark) {
                // Writing to a string never fails.
                let _ = write!(path, "M{x} {y}h1v1h-1z");
            }
        }
        Some(Self { size: rows.len(), path })
    }
}

/// For a terminal, two rows of modules in one of text; dark on light whatever the terminal's colours, as its light
/// modules are printed. `None` if the text is too long for a code.
pub fn for_terminal(ticket: &str) -> Option<String> {
    let rows = modules(ticket)?;
    let light = vec![false; rows.len()];
    let line = |pair: &[Vec<bool>]| -> String {
        let lower = pair.get(1).unwrap_or(&light);
        let block = |(above, below): (&bool, &bool)| match (above, below) {
            (false, false) => '█',
            (false, true) => '▀',
            (true, false) => '▄',
            (true, true) => ' ',
        };
        pair[0].iter().zip(lower).map(block).collect()
    };
    Some(rows.chunks(2).map(line).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_its_three_corners_and_a_quiet_zone() {
        let rows = modules("canlibabc234").unwrap();
        let size = rows.len();
        assert!(rows[..QUIET].iter().flatten().all(|dark| !dark) && rows.iter().all(|row| row.len() == size));
        for (x, y) in [(QUIET, QUIET), (size - QUIET - 7, QUIET), (QUIET, size - QUIET - 7)] {
            let ring =
                (0..7).all(|i| rows[y][x + i] && rows[y + 6][x + i] && rows[y + i][x] && rows[y + i][x + 6]);
            assert!(ring && !rows[y + 1][x + 1] && rows[y + 3][x + 3], "no finder at {x}, {y}");
        }
        let dark = rows.iter().flatten().filter(|dark| **dark).count();
        let code = Code::of_ticket("canlibabc234").unwrap();
        assert_eq!((code.size, code.path.matches('M').count()), (size, dark));
        let terminal = for_terminal("canlibabc234").unwrap();
        assert_eq!(terminal.lines().count(), size.div_ceil(2));
        assert!(terminal.lines().all(|line| line.chars().count() == size));
    }

    #[test]
    fn what_is_too_long_has_no_code() {
        assert!(Code::of_ticket(&"a".repeat(4296)).is_some(), "the most that a code holds");
        assert!(Code::of_ticket(&"a".repeat(4297)).is_none());
    }
}
