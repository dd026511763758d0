//! What a CAN Service's stream of events says, and times in questions: see `testing::fuzz`.

use super::extract::{DayEdge, parse_time_ms};
use super::sse::Parser;

const DATA_BYTES_MAX: usize = 64;

/// A stream of events; the first byte says in which pieces it comes.
pub fn events(bytes: &[u8]) {
    let Some((piece, body)) = bytes.split_first() else { return };
    let whole = Parser::with_data(DATA_BYTES_MAX).push(body);
    let mut parser = Parser::with_data(DATA_BYTES_MAX);
    let pieces: Vec<_> = body.chunks(usize::from(*piece) + 1).flat_map(|piece| parser.push(piece)).collect();
    assert_eq!(pieces, whole, "where it is cut makes a difference");
    // A byte that is no text becomes a sign of three.
    assert!(whole.iter().all(|event| event.data.len() <= 3 * DATA_BYTES_MAX));
    let numbers = |events: Vec<super::sse::SseEvent>| -> Vec<_> {
        events.into_iter().map(|event| (event.kind, event.id)).collect()
    };
    assert_eq!(numbers(Parser::default().push(body)).len(), whole.len());
}

/// A point in time.
pub fn time(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (start, end) = (parse_time_ms(text, DayEdge::Start), parse_time_ms(text, DayEdge::End));
    if let (Ok(start), Ok(end)) = (start, end) {
        assert!(start <= end && end - start < 24 * 3600 * 1000, "{start} to {end}");
    }
}
