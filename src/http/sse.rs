//! Server-sent events, as a reader takes them from the pieces of a body. Pure.
//!
//! What a reader does not need is not kept, so that neither a long event nor an endless line costs memory, and no byte is
//! looked at twice however small the pieces are in which it comes.

/// Longest line that is kept where no data is; longer ones are data.
const LINE_BYTES_MAX: usize = 256;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SseEvent {
    /// `message` when the service did not say.
    pub(crate) kind: String,
    /// The last id so far; empty when there was none.
    pub(crate) id: String,
    /// Its lines of data, joined by line feeds, as far as the parser keeps them.
    pub(crate) data: String,
}

/// Puts events together from pieces of a body.
#[derive(Default)]
pub(crate) struct Parser {
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    kind: String,
    id: String,
    data: Vec<u8>,
    has_data: bool,
    data_bytes_max: usize,
}

impl Parser {
    /// One that keeps the first `data_bytes_max` bytes of each event's data; [`Parser::default`] keeps none.
    pub(crate) fn with_data(data_bytes_max: usize) -> Self {
        Self { data_bytes_max, ..Self::default() }
    }

    /// Takes a piece; answers with the events that it completes.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Vec<SseEvent> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LINE_BYTES_MAX + self.data_bytes_max - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                events.extend(self.end_line());
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() {
            let kind = std::mem::take(&mut self.kind);
            let kind = if kind.is_empty() { "message".to_owned() } else { kind };
            let data = String::from_utf8_lossy(&std::mem::take(&mut self.data)).into_owned();
            return std::mem::take(&mut self.has_data).then(|| SseEvent { kind, id: self.id.clone(), data });
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, value) = line.split_at(colon);
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.kind = String::from_utf8_lossy(value).into_owned(),
            b"id" => self.id = String::from_utf8_lossy(value).into_owned(),
            b"data" => self.add_data(value),
            _ => {}
        }
        None
    }

    /// An event needs a line of data, if only an empty one.
    fn add_data(&mut self, value: &[u8]) {
        if std::mem::replace(&mut self.has_data, true) && self.data.len() < self.data_bytes_max {
            self.data.push(b'\n');
        }
        let room = self.data_bytes_max - self.data.len();
        self.data.extend_from_slice(&value[..value.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use eventsource_stream::Eventsource;
    use futures::{StreamExt, stream};
    use proptest::prelude::*;

    use super::*;

    fn parsed(mut parser: Parser, pieces: &[&[u8]]) -> Vec<(String, String, String)> {
        let events = pieces.iter().flat_map(|piece| parser.push(piece));
        events.map(|event| (event.kind, event.id, event.data)).collect()
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
            let expected = expected.into_iter().map(|event| event.unwrap());
            let expected: Vec<_> = expected.map(|event| (event.event, event.id, event.data)).collect();
            prop_assert_eq!(&parsed(Parser::with_data(64 * 1024), &pieces), &expected);
            let without_data: Vec<_> =
                expected.into_iter().map(|(kind, id, _)| (kind, id, String::new())).collect();
            prop_assert_eq!(parsed(Parser::default(), &pieces), without_data);
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

    #[test]
    fn data_is_kept_as_far_as_there_is_room_for_it() {
        let mut parser = Parser::with_data(8);
        let events = parser.push(b"data: 12345\ndata: 6789\ndata: abc\n\ndata: next\n\n");
        assert_eq!(events.iter().map(|event| event.data.as_str()).collect::<Vec<_>>(), ["12345\n67", "next"]);
        for _ in 0..1_000 {
            assert!(parser.push(&[b'x'; 1_000]).is_empty());
        }
        assert!(parser.line.capacity() <= 2 * (LINE_BYTES_MAX + 8));
    }
}
