//! Decodes messages that come from outside, after a look at how much memory they would take. Pure.
//!
//! A repeated field costs its sender two bytes per occurrence and us as much as the struct behind it: an empty record is two
//! bytes on the wire and over three hundred here. So the bytes are walked through first, without allocating anything, and a
//! message that has a field more often than any honest sender writes it is refused. Afterwards a message takes a small
//! multiple of its bytes: strings and byte strings are bounded by the frame they are in.
//!
//! A field that may occur once is counted as well: of a message that occurs twice, protobuf adds the second to the first.

use bytes::{Buf as _, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::entry::SEEN_MAX;
use crate::record::{DROPPED_NAMES_MAX, NAMES_MAX, TAGS_MAX};
use crate::wire::proto::{
    Auth, Cancel, ContentHeader, ContentRequest, Deferral, Doubled, EntryResult, Error, Find, ForeignFolder,
    Frame, Have, Hello, IngestHeader, IngestResult, InlineContent, Keep, KeepRequest, Kept, Lacks, Later,
    LibraryProof, LibrarySummary, LibraryTicket, ListPeersReply, ListPeersRequest, ListedPeer, Offer, Ping,
    Pong, PutEntry, ReconClose, ReconMsg, ReconOpen, Records, RedateResult, Revocations, SignedAnnouncement,
    SnapshotItem, Want, Welcome, WireAnnouncement, WireEntry, WireFeedEntry, WireMeta, WireRecord,
    WireRedating, WireSeen, WireStoredRecord,
};

/// Records, contents and confirmations in one frame.
pub const RECORDS_PER_FRAME_MAX: usize = 1000;
/// Record ids in one frame, asked for or gone.
pub const RIDS_PER_FRAME_MAX: usize = 4000;
pub const CONTENTS_PER_WANT_MAX: usize = 1024;
/// Contents asked for by name in one frame.
pub const FINDS_PER_FRAME_MAX: usize = 64;
/// Contents in one frame that a peer is asked to keep.
pub const KEEPS_PER_FRAME_MAX: usize = 64;
/// Versions that are told with one change of a store.
const FORMERS_MAX: usize = 2;
pub const LIBRARIES_PER_FRAME_MAX: usize = 64;
/// Names that users of one store gave a content, in a snapshot.
pub const OWN_NAMES_MAX: usize = 34;
/// Versions that lost, in one item of a snapshot.
pub const HISTORY_PER_ITEM_MAX: usize = 32;
pub const FEATURES_MAX: usize = 16;
pub const ANNOUNCED_ADDRS_MAX: usize = 16;
/// Entries in one page of known agents.
pub const LISTED_PER_PAGE_MAX: usize = 256;

/// Fields of one message that are counted; those of a `oneof` count as one.
const COUNTED_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A field that occurs more often than any honest sender writes it.
    #[error("more than {max} of '{field}' in one message")]
    TooMany {
        /// Message and field, as in the .proto file.
        field: &'static str,
        max: usize,
    },
    /// Not what protobuf looks like, or not this message.
    #[error("{0}")]
    Malformed(String),
}

impl From<prost::DecodeError> for DecodeError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// A message that comes from outside.
pub trait Inbound: Message + Default {
    /// Its fields that cost memory by their number.
    const SHAPE: &'static Shape;
}

/// The fields of a message that are counted.
#[derive(Debug)]
pub struct Shape {
    fields: &'static [Field],
    /// Whether the fields are alternatives: one of them may occur, once.
    one_of: bool,
}

/// A field that is repeated, or a message.
#[derive(Debug)]
struct Field {
    number: u32,
    name: &'static str,
    max: usize,
    /// What is in it, where that is a message.
    inner: Option<&'static Shape>,
    /// Bytes of each, where they are numbers: then any of them may come packed together.
    number_bytes: Option<usize>,
}

/// A repeated string or byte string.
const fn values(number: u32, name: &'static str, max: usize) -> Field {
    Field { number, name, max, inner: None, number_bytes: None }
}

/// Repeated numbers of 64 bits and fixed length.
const fn fixed64s(number: u32, name: &'static str, max: usize) -> Field {
    Field { number_bytes: Some(8), ..values(number, name, max) }
}

const fn messages<M: Inbound>(number: u32, name: &'static str, max: usize) -> Field {
    Field { inner: Some(M::SHAPE), ..values(number, name, max) }
}

/// A message that occurs at most once.
const fn message<M: Inbound>(number: u32, name: &'static str) -> Field {
    messages::<M>(number, name, 1)
}

/// Decodes a message, unless it has more of something than any honest sender writes.
#[expect(clippy::disallowed_methods, reason = "this is the place that counts first")]
pub fn decode<M: Inbound>(bytes: Bytes) -> Result<M, DecodeError> {
    count(M::SHAPE, &bytes)?;
    Ok(M::decode(bytes)?)
}

/// Walks through an encoded message. Recursion goes as deep as shapes do, whatever the bytes say.
fn count(shape: &Shape, mut bytes: &[u8]) -> Result<(), DecodeError> {
    let mut counts = [0; COUNTED_MAX];
    while bytes.has_remaining() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        let Some(index) = shape.fields.iter().position(|field| field.number == number) else {
            skip_field(wire_type, number, &mut bytes, DecodeContext::default())?;
            continue;
        };
        let field = &shape.fields[index];
        let counted = if shape.one_of { 0 } else { index };
        let malformed = || DecodeError::Malformed(format!("'{}' is cut off, or of another type", field.name));
        let length = match (wire_type, field.number_bytes) {
            (WireType::LengthDelimited, _) => {
                usize::try_from(decode_varint(&mut bytes)?).map_err(|_| malformed())?
            }
            (WireType::SixtyFourBit, Some(length)) => length,
            _ => return Err(malformed()),
        };
        let (inside, rest) = bytes.split_at_checked(length).ok_or_else(malformed)?;
        counts[counted] += field.number_bytes.map_or(1, |bytes| length.div_ceil(bytes));
        if counts[counted] > field.max {
            return Err(DecodeError::TooMany { field: field.name, max: field.max });
        }
        if let Some(inner) = field.inner {
            count(inner, inside)?;
        }
        bytes = rest;
    }
    Ok(())
}

/// Shapes by message type: its name in the .proto file, and the fields that are counted.
macro_rules! shapes {
    ($($type:ident, $message:literal: [$($field:expr),*];)*) => {
        $(impl Inbound for $type {
            const SHAPE: &'static Shape = &Shape { fields: &[$($field),*], one_of: false };
        })*

        #[cfg(test)]
        const SHAPES: &[(&str, &Shape)] = &[("Frame", Frame::SHAPE), $(($message, $type::SHAPE)),*];
    };
}

shapes! {
    WireMeta, "AssetMeta": [
        values(5, "AssetMeta.tags", TAGS_MAX),
        values(8, "AssetMeta.names", NAMES_MAX),
        fixed64s(10, "AssetMeta.dropped_names", DROPPED_NAMES_MAX)
    ];
    WireRecord, "AssetRecord": [message::<WireMeta>(7, "AssetRecord.meta")];
    WireFeedEntry, "FeedEntry": [
        message::<WireRecord>(2, "FeedEntry.record"),
        messages::<WireRecord>(4, "FeedEntry.formers", FORMERS_MAX),
        message::<WireEntry>(5, "FeedEntry.entry")
    ];
    SnapshotItem, "SnapshotItem": [
        message::<WireFeedEntry>(1, "SnapshotItem.change"),
        values(3, "SnapshotItem.own_names", OWN_NAMES_MAX),
        messages::<WireEntry>(4, "SnapshotItem.history", HISTORY_PER_ITEM_MAX)
    ];
    WireSeen, "SeenVersion": [];
    WireEntry, "FolderEntry": [messages::<WireSeen>(9, "FolderEntry.seen", SEEN_MAX)];
    PutEntry, "PutEntry": [message::<WireEntry>(1, "PutEntry.entry")];
    ForeignFolder, "ForeignFolder": [];
    EntryResult, "EntryResult": [message::<WireEntry>(4, "EntryResult.found")];
    WireStoredRecord, "StoredRecord": [message::<WireRecord>(1, "StoredRecord.record")];
    IngestHeader, "IngestHeader": [message::<WireRecord>(1, "IngestHeader.record")];
    IngestResult, "IngestResult": [];
    WireRedating, "Redating": [];
    RedateResult, "RedateResult": [message::<WireRecord>(2, "RedateResult.before")];
    Hello, "Hello": [];
    LibraryProof, "LibraryProof": [];
    Auth, "Auth": [messages::<LibraryProof>(1, "Auth.libraries", LIBRARIES_PER_FRAME_MAX)];
    LibraryTicket, "LibraryTicket": [];
    Revocations, "Revocations": [];
    LibrarySummary, "LibrarySummary": [];
    Welcome, "Welcome": [
        messages::<LibrarySummary>(2, "Welcome.libraries", LIBRARIES_PER_FRAME_MAX),
        values(5, "Welcome.features", FEATURES_MAX),
        messages::<LibraryProof>(6, "Welcome.known", LIBRARIES_PER_FRAME_MAX)
    ];
    Records, "Records": [values(2, "Records.rids", RIDS_PER_FRAME_MAX)];
    InlineContent, "InlineContent": [];
    Offer, "Offer": [
        messages::<WireRecord>(2, "Offer.records", RECORDS_PER_FRAME_MAX),
        values(3, "Offer.gone", RIDS_PER_FRAME_MAX),
        messages::<InlineContent>(4, "Offer.contents", RECORDS_PER_FRAME_MAX),
        messages::<WireEntry>(6, "Offer.entries", RECORDS_PER_FRAME_MAX)
    ];
    ContentRequest, "ContentRequest": [];
    Want, "Want": [messages::<ContentRequest>(2, "Want.contents", CONTENTS_PER_WANT_MAX)];
    Find, "Find": [values(1, "Find.hashes", FINDS_PER_FRAME_MAX)];
    Lacks, "Lacks": [values(1, "Lacks.hashes", FINDS_PER_FRAME_MAX)];
    KeepRequest, "KeepRequest": [];
    Keep, "Keep": [messages::<KeepRequest>(2, "Keep.contents", KEEPS_PER_FRAME_MAX)];
    Kept, "Kept": [];
    Cancel, "Cancel": [];
    Have, "Have": [
        values(1, "Have.hashes", RECORDS_PER_FRAME_MAX), values(3, "Have.entries", RECORDS_PER_FRAME_MAX)
    ];
    Deferral, "Deferral": [];
    Doubled, "Doubled": [];
    Later, "Later": [messages::<Deferral>(1, "Later.deferrals", RECORDS_PER_FRAME_MAX)];
    Ping, "Ping": [messages::<LibrarySummary>(2, "Ping.libraries", LIBRARIES_PER_FRAME_MAX)];
    Pong, "Pong": [messages::<LibrarySummary>(2, "Pong.libraries", LIBRARIES_PER_FRAME_MAX)];
    Error, "Error": [];
    ReconOpen, "ReconOpen": [];
    ReconMsg, "ReconMsg": [];
    ReconClose, "ReconClose": [];
    ContentHeader, "ContentHeader": [];
    WireAnnouncement, "Announcement": [values(9, "Announcement.addrs", ANNOUNCED_ADDRS_MAX)];
    SignedAnnouncement, "SignedAnnouncement": [];
    ListPeersRequest, "ListPeersRequest": [];
    ListedPeer, "ListedPeer": [message::<SignedAnnouncement>(1, "ListedPeer.announcement")];
    ListPeersReply, "ListPeersReply": [
        message::<SignedAnnouncement>(1, "ListPeersReply.own"),
        messages::<ListedPeer>(2, "ListPeersReply.peers", LISTED_PER_PAGE_MAX)
    ];
}

impl Inbound for Frame {
    const SHAPE: &'static Shape = &Shape {
        one_of: true,
        fields: &[
            message::<Hello>(1, "Frame.hello"),
            message::<Auth>(2, "Frame.auth"),
            message::<Welcome>(3, "Frame.welcome"),
            message::<Records>(4, "Frame.records"),
            message::<Offer>(5, "Frame.offer"),
            message::<Want>(6, "Frame.want"),
            message::<Cancel>(7, "Frame.cancel"),
            message::<Have>(8, "Frame.have"),
            message::<Ping>(9, "Frame.ping"),
            message::<Pong>(10, "Frame.pong"),
            message::<Error>(11, "Frame.error"),
            message::<ReconOpen>(12, "Frame.recon_open"),
            message::<ReconMsg>(13, "Frame.recon_msg"),
            message::<ReconClose>(14, "Frame.recon_close"),
            message::<Revocations>(16, "Frame.revocations"),
            message::<Find>(17, "Frame.find"),
            message::<Lacks>(18, "Frame.lacks"),
            message::<Later>(19, "Frame.later"),
            message::<Doubled>(20, "Frame.doubled"),
            message::<Keep>(21, "Frame.keep"),
            message::<Kept>(22, "Frame.kept"),
        ],
    };
}

#[cfg(test)]
mod tests;
