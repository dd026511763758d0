//! Frames on a stream: a `u32` big-endian length, then that many bytes of a protobuf message. Nothing is allocated
//! before the length was checked, nor much more than has come; what a frame holds is counted before it is decoded
//! ([`crate::wire::decode`]).

use bytes::{BufMut as _, Bytes, BytesMut};
use iroh::endpoint::{ReadExactError, RecvStream, SendStream, WriteError};
use prost::Message;

use crate::wire::decode::{DecodeError, Inbound, decode};
use crate::wire::proto::{ContentHeader, Frame, frame};

/// Longest control or reconciliation frame. Every connection may have one under way, so it is also what that costs.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;
/// Longest frame before the peer has proved itself, and longest first frame on any stream: 64 proofs have about 5 KiB, the
/// first message of a reconciliation less than 1 KiB.
pub const FIRST_FRAME_BYTES_MAX: usize = 16 * 1024;
/// Longest content header; an honest one has about 70 bytes, and a proof of at most 256 hashes.
pub const HEADER_BYTES_MAX: usize = 256 + 256 * 32;
/// Memory that the announced length of a frame takes before any of it is there.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// Why a frame could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the stream ended")]
    Ended,
    #[error("the stream ended inside a frame")]
    Truncated,
    /// A length that no honest sender announces.
    #[error("a frame of {len} bytes is longer than the limit of {max}")]
    TooLong { len: usize, max: usize },
    /// More of something in one frame than any honest sender puts there.
    #[error("more than {max} of '{field}' in one frame")]
    TooMany {
        /// Message and field, as in the .proto file.
        field: &'static str,
        max: usize,
    },
    #[error("not a frame of this protocol version: {0}")]
    Malformed(String),
    #[error("the stream broke: {0}")]
    Broken(String),
}

impl WireError {
    /// Whether the peer broke the rules, rather than the connection breaking.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::TooLong { .. } | Self::TooMany { .. } | Self::Malformed(_) => true,
            Self::Ended | Self::Truncated | Self::Broken(_) => false,
        }
    }
}

impl From<DecodeError> for WireError {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooMany { field, max } => Self::TooMany { field, max },
            DecodeError::Malformed(what) => Self::Malformed(what),
        }
    }
}

impl From<WriteError> for WireError {
    fn from(error: WriteError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A message behind its length.
pub fn encode<M: Message>(message: &M) -> Bytes {
    let len = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(4 + len);
    buffer.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

/// The content of a frame, which must be of a known kind.
///
/// # Errors
/// [`WireError::Malformed`] for bytes that are no frame, and for a kind that this version does not have;
/// [`WireError::TooMany`].
pub fn decode_frame(bytes: Bytes) -> Result<frame::Kind, WireError> {
    let frame: Frame = decode(bytes)?;
    frame.kind.ok_or_else(|| WireError::Malformed("a frame of unknown kind".into()))
}

/// Reads one length-delimited piece of at most `max` bytes; `None` at a clean end.
async fn read_delimited(stream: &mut RecvStream, max: usize) -> Result<Option<Bytes>, WireError> {
    let mut len = [0; 4];
    match stream.read_exact(&mut len).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(WireError::Truncated),
        Err(ReadExactError::ReadError(e)) => return Err(WireError::Broken(e.to_string())),
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > max {
        return Err(WireError::TooLong { len, max });
    }
    let mut body = BytesMut::with_capacity(len.min(AHEAD_BYTES_MAX));
    while body.len() < len {
        match stream.read_chunk(len - body.len()).await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Err(WireError::Truncated),
            Err(e) => return Err(WireError::Broken(e.to_string())),
        }
    }
    Ok(Some(body.freeze()))
}

/// Reads the next frame. Waits as long as the stream is open; callers set the limit.
pub async fn read_frame(stream: &mut RecvStream) -> Result<frame::Kind, WireError> {
    read_frame_of(stream, FRAME_BYTES_MAX).await
}

/// As [`read_frame`], for frames of at most `max` bytes.
pub async fn read_frame_of(stream: &mut RecvStream, max: usize) -> Result<frame::Kind, WireError> {
    decode_frame(read_bytes(stream, max).await?)
}

/// Writes a frame; waits while the peer's window is full.
pub async fn write_frame(stream: &mut SendStream, kind: frame::Kind) -> Result<(), WireError> {
    Ok(stream.write_chunk(encode(&Frame { kind: Some(kind) })).await?)
}

/// Reads one piece of at most `max` bytes behind its length. Waits as long as the stream is open; callers set the limit.
pub async fn read_bytes(stream: &mut RecvStream, max: usize) -> Result<Bytes, WireError> {
    read_delimited(stream, max).await?.ok_or(WireError::Ended)
}

/// Reads one message of at most `max` bytes behind its length, on streams that carry a single kind. Waits as long as the
/// stream is open; callers set the limit.
pub async fn read_message<M: Inbound>(stream: &mut RecvStream, max: usize) -> Result<M, WireError> {
    Ok(decode(read_bytes(stream, max).await?)?)
}

/// Writes what [`read_message`] reads; waits while the peer's window is full.
pub async fn write_message<M: Message>(stream: &mut SendStream, message: &M) -> Result<(), WireError> {
    Ok(stream.write_chunk(encode(message)).await?)
}

/// Reads the header of the next content on a content stream; `None` after the last one.
pub async fn read_header(stream: &mut RecvStream) -> Result<Option<ContentHeader>, WireError> {
    let Some(bytes) = read_delimited(stream, HEADER_BYTES_MAX).await? else { return Ok(None) };
    let header: ContentHeader = decode(bytes)?;
    Ok(Some(header))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::proto::Ping;

    #[test]
    fn a_frame_round_trips() {
        let kind = frame::Kind::Ping(Ping { nonce: 7, ..Ping::default() });
        let bytes = encode(&Frame { kind: Some(kind.clone()) });
        assert_eq!(u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
        assert_eq!(decode_frame(bytes.slice(4..)).unwrap(), kind);
    }

    #[test]
    fn an_unknown_kind_is_an_error_and_an_unknown_field_is_not() {
        // Field 100, varint 1: no such kind.
        assert!(decode_frame(Bytes::from_static(&[0xa0, 0x06, 0x01])).is_err());
        let mut bytes =
            BytesMut::from(&encode(&Frame { kind: Some(frame::Kind::Ping(Ping::default())) })[4..]);
        bytes.put_slice(&[0xa0, 0x06, 0x01]);
        assert!(decode_frame(bytes.freeze()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode_frame(Bytes::from(bytes));
        }
    }
}
