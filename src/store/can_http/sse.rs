//! Server-sent events as far as a watcher needs them: which kind, under which number. Pure.
//!
//! The data is not kept, so that neither a long event nor an endless line costs memory, and no byte is looked at twice
//! however small the pieces are in which it comes.

/// Longest line that is kept; longer ones are data, which nobody here reads.
const LINE_BYTES_MAX: usize = 256;

/// One event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Event {
    /// `message` when the service did not say.
    pub(super) kind: String,
    /// The last id so far; empty when there was none.
    pub(super) id: String,
}

/// Puts events together from pieces of a body.
#[derive(Default)]
pub(super) struct Parser {
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    kind: String,
    id: String,
    has_data: bool,
}

impl Parser {
    /// Takes a piece; answers with the events that it completes.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LINE_BYTES_MAX - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                events.extend(self.end_line());
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            return std::mem::take(&mut self.has_data).then(|| Event { kind, id: self.id.clone() });
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            b"id" => self.id = String::from_utf8_lossy(value).into_owned(),
            // An event needs some, if only an empty line of it.
            b"data" => self.has_data = true,
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use eventsource_stream::Eventsource;
    use futures::{StreamExt, stream};
    use proptest::prelude::*;

    use super::*;

    fn parsed(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut parser = Parser::default();
        let events = pieces.iter().flat_map(|piece| parser.push(piece));
        events.map(|event| (event.kind, event.id)).collect()
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just(":".to_owned()),
            "(event|id|data|retry|other):? ?[a-z0-9é:]{1,9}",
            "data: [a-z]{300,400}",
        ]
    }

    proptest! {
        /// The same events as a parser of the whole standard finds, wherever the body is cut.
        #[test]
        fn the_same_as_the_standard_says(
            lines in prop::collection::vec(line(), 0..40),
            crlf in any::<bool>(),
            cut in 1..60usize,
        ) {
            let body: String = lines.iter().flat_map(|line| [line.as_str(), if crlf { "\r\n" } else { "\n" }]).collect();
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(cut).collect();
            let whole = stream::iter([Ok::<_, std::io::Error>(body.clone())]).eventsource();
            let expected: Vec<_> = futures::executor::block_on(whole.collect::<Vec<_>>());
            let expected: Vec<_> =
                expected.into_iter().map(|event| event.unwrap()).map(|event| (event.event, event.id)).collect();
            prop_assert_eq!(parsed(&pieces), expected);
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut parser = Parser::default();
        for _ in 0..1_000 {
            assert!(parser.push(&[b'x'; 1_000]).is_empty());
        }
        assert!(parser.line.capacity() <= 2 * LINE_BYTES_MAX);
    }
}
