//! What other agents and stores say, from any bytes: see `testing::fuzz`.

use bytes::Bytes;

use super::decode::{Inbound, decode};
use super::proto::{
    ContentHeader, EntryResult, Frame, IngestHeader, IngestResult, ListPeersReply, ListPeersRequest,
    PutEntry, RedateResult, SignedAnnouncement, WireAnnouncement, WireEntry, WireFeedEntry, WireRecord,
    WireRedating, WireStoredRecord, frame,
};
use super::{FRAME_BYTES_MAX, decode_frame, encode};
use crate::entry::{FolderRecord, merge};
use crate::record::{AssetRecord, META_BYTES_MAX};

const KEY: [u8; 32] = [7; 32];

/// A frame of a control stream, and the records in it.
pub fn frame(bytes: &[u8]) {
    let Ok(kind) = decode_frame(Bytes::copy_from_slice(bytes)) else { return };
    let again = encode(&Frame { kind: Some(kind.clone()) });
    assert!(again.len() <= 4 + bytes.len().max(FRAME_BYTES_MAX), "it grew from {} bytes", bytes.len());
    assert_eq!(decode_frame(again.slice(4..)).ok().as_ref(), Some(&kind));
    if let frame::Kind::Offer(offer) = kind {
        offer.records.into_iter().for_each(check_record);
        offer.entries.into_iter().for_each(check_entry);
    }
}

/// Any other message; the first byte says which.
pub fn message(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let bytes = Bytes::copy_from_slice(bytes);
    match kind {
        0 => check::<ContentHeader>(bytes),
        1 => check::<ListPeersRequest>(bytes),
        2 => check::<ListPeersReply>(bytes),
        3 => check::<SignedAnnouncement>(bytes),
        4 => check::<WireAnnouncement>(bytes),
        5 => check::<WireFeedEntry>(bytes),
        6 => check::<WireStoredRecord>(bytes),
        7 => check::<IngestHeader>(bytes),
        8 => check::<IngestResult>(bytes),
        9 => check::<WireRedating>(bytes),
        10 => check::<RedateResult>(bytes),
        11 => check::<PutEntry>(bytes),
        _ => check::<EntryResult>(bytes),
    }
}

/// The record of an asset.
pub fn record(bytes: &[u8]) {
    if let Ok(wire) = decode::<WireRecord>(Bytes::copy_from_slice(bytes)) {
        check_record(wire);
    }
}

/// What a folder has at a path.
pub fn entry(bytes: &[u8]) {
    if let Ok(wire) = decode::<WireEntry>(Bytes::copy_from_slice(bytes)) {
        check_entry(wire);
    }
}

fn check<M: Inbound + PartialEq + std::fmt::Debug>(bytes: Bytes) {
    let Ok(message) = decode::<M>(bytes) else { return };
    let again = Bytes::from(message.encode_to_vec());
    assert!(
        decode::<M>(again).is_ok_and(|again| again == message),
        "{message:?} is another one after a trip"
    );
}

/// A record that is taken is the same after a trip, names itself alike, and wins over itself no more than any other.
fn check_record(wire: WireRecord) {
    let Ok(record) = AssetRecord::try_from(wire) else { return };
    assert!(record.meta.text_bytes() <= META_BYTES_MAX);
    let again = AssetRecord::try_from(WireRecord::from(&record)).expect("it was taken before");
    assert_eq!(again, record);
    assert_eq!(again.id(&KEY), record.id(&KEY));
    assert!(record.is_version_of(&again) && !record.supersedes(&again));
    let shown = record.for_members();
    let told = AssetRecord::try_from(WireRecord::from(&shown)).expect("what members are told can be taken");
    assert_eq!(told, shown);
    for other in [record.reasserted(record.hlc), record.clone().outside_libraries(), shown] {
        assert!(other == record || other.supersedes(&record) != record.supersedes(&other), "no winner");
    }
}

/// As [`check_record`]; and a version that loses makes nothing that another machine would refuse.
fn check_entry(wire: WireEntry) {
    let Ok(record) = FolderRecord::try_from(wire) else { return };
    let again = FolderRecord::try_from(WireEntry::from(&record)).expect("it was taken before");
    assert_eq!(again, record);
    assert_eq!((again.digest(), again.id(&KEY)), (record.digest(), record.id(&KEY)));
    let FolderRecord::Entry(entry) = &record else { return };
    let mut other = entry.clone();
    other.writer.0[0] ^= 1;
    other.file = None;
    let other = FolderRecord::Entry(other);
    let (one, two) = (merge(Some(&record), other.clone()), merge(Some(&other), record.clone()));
    assert_eq!((&one.winner, &one.copy), (&two.winner, &two.copy), "the order decides");
    if let Some(copy) = one.copy {
        let copy = FolderRecord::Entry(copy);
        assert_eq!(FolderRecord::try_from(WireEntry::from(&copy)), Ok(copy));
    }
}
